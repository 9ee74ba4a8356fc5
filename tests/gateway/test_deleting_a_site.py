"""A deleted site is gone with its key; what it has cost stays in the books."""

from typing import Any

import pytest

from billing import checks
from billing.models import Transfer, UsageRecord
from billing.pricing import Usage
from deployments import storage
from deployments.models import EnvironmentVariable, LogEntry, Upload
from gateway import snapshot
from orgs.models import Workspace
from tests import factories
from tests.deployments.releasing import deploy
from tests.deployments.zips import static_site


def test_deleting_a_site_removes_its_data_and_key_and_keeps_the_books(
    agent: Any, workspace: Workspace, django_capture_on_commit_callbacks: Any
) -> None:
    deployment = factories.make_deployment(workspace=workspace, deployed=False)
    release = deploy(deployment, static_site())
    key = agent("aigateway/provision", {}).json()["apiKey"]
    agent("deployments/update-env", {"environment": {"SECRET": "s"}})
    factories.make_credit(organization=workspace.organization)
    record = factories.make_call(
        organization=workspace.organization,
        price=factories.make_price(),
        usage=Usage(input=1_000, output=1_000),
        deployment_id=deployment.pk,
        deploy_id=deployment.deploy_id,
    )
    assert record.cost_nanos > 0
    transfers = Transfer.objects.count()
    assert snapshot.load_caller(deployment.deploy_id) is not None
    with django_capture_on_commit_callbacks(execute=True):
        assert agent("deployments/delete-site", {}).status_code == 200
    assert snapshot.load_caller(deployment.deploy_id) is None
    assert key not in agent("aigateway/info", {}).content.decode()
    assert not storage.is_placed(release)
    assert list(storage.stored_bundles()) == []
    for model in (EnvironmentVariable, LogEntry, Upload):
        assert not model._default_manager.exists()
    kept = UsageRecord.objects.get()
    assert (kept.deploy_id, kept.cost_nanos) == (deployment.deploy_id, record.cost_nanos)
    assert Transfer.objects.count() == transfers
    assert checks.verify().differences == []


@pytest.mark.django_db
def test_an_outsider_deletes_nobody_elses_site(outsider_agent: Any, workspace: Workspace) -> None:
    deployment = factories.make_deployment(workspace=workspace)
    answer = outsider_agent("deployments/delete-site", {"id": deployment.deploy_id})
    assert answer.status_code == 404
    deployment.refresh_from_db()
    assert deployment.deleted_at is None
