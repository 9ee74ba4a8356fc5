"""Which deployment a name means, and how new ones are named."""

import re
from typing import Any

import pytest
from django.utils import timezone

from deployments import directory
from orgs.models import Workspace
from tests import factories


def test_no_name_means_the_default_deployment(workspace: Workspace) -> None:
    factories.make_deployment(workspace=workspace, prefix="other", is_default=False)
    default = factories.make_deployment(workspace=workspace)
    assert directory.find(workspace) == default


def test_a_deployment_is_found_by_prefix_and_by_deploy_id(workspace: Workspace) -> None:
    deployment = factories.make_deployment(workspace=workspace, prefix="shop")
    assert directory.find(workspace, "shop") == deployment
    assert directory.find(workspace, deployment.deploy_id) == deployment


def test_foreign_and_deleted_deployments_are_not_found(
    workspace: Workspace, other_workspace: Workspace
) -> None:
    deployment = factories.make_deployment(workspace=workspace, prefix="shop")
    for name in ("shop", deployment.deploy_id, None):
        with pytest.raises(directory.DeploymentNotFound):
            directory.find(other_workspace, name)
    deployment.deleted_at = deployment.created_at
    deployment.save()
    with pytest.raises(directory.DeploymentNotFound) as missing:
        directory.find(workspace, "shop")
    assert str(missing.value) == (
        "No deployment found. Deploy your app first, then provision a key."
    )


def test_require_deployed_wants_a_deploy(workspace: Workspace) -> None:
    deployment = factories.make_deployment(workspace=workspace, deployed=False)
    with pytest.raises(directory.DeploymentNotFound):
        directory.require_deployed(workspace, deployment.deploy_id)


def test_the_first_deployment_is_the_default(workspace: Workspace) -> None:
    first = directory.find_or_create(workspace, "shop")
    second = directory.find_or_create(workspace, "blog")
    assert (first.is_default, second.is_default) == (True, False)
    assert directory.find_or_create(workspace, "shop") == first
    assert directory.find_or_create(workspace) == first


def test_deploy_ids_are_the_prefix_and_ten_hex_digits(workspace: Workspace) -> None:
    deployment = directory.find_or_create(workspace, "a" * 52)
    assert re.fullmatch(r"a{52}-[0-9a-f]{10}", deployment.deploy_id)
    assert len(deployment.deploy_id) == 63


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("My Shop", "my-shop"), ("日本", "app"), ("_x_", "x"), ("a" * 100, "a" * 40)],
)
def test_the_default_prefix_reminds_of_the_workspace(name: str, prefix: str, db: None) -> None:
    workspace = factories.make_workspace(name=name)
    assert directory.find_or_create(workspace).prefix == prefix


def test_the_default_prefix_avoids_taken_ones(workspace: Workspace) -> None:
    for prefix in ("main", "main-2"):
        factories.make_deployment(workspace=workspace, prefix=prefix, is_default=False)
    assert directory.find_or_create(workspace).prefix == "main-3"


@pytest.mark.parametrize("prefix", ["", "A", "-a", "a-", "a.b", "a" * 53, "é", "a b", "a\n"])
def test_prefixes_that_fit_no_address_are_refused(prefix: str, workspace: Workspace) -> None:
    with pytest.raises(directory.UnableToNameDeployment):
        directory.find_or_create(workspace, prefix)


def test_an_unknown_deploy_id_is_not_taken_for_a_new_prefix(workspace: Workspace) -> None:
    with pytest.raises(directory.DeploymentNotFound):
        directory.find_or_create(workspace, "shop-0123456789")


def test_addresses_follow_the_public_url(workspace: Workspace, settings: Any) -> None:
    deployment = factories.make_deployment(workspace=workspace)
    settings.PUBLIC_URL, settings.APPS_DOMAIN = "http://localhost:8123", "localhost"
    assert directory.url_of(deployment) == f"http://{deployment.deploy_id}.localhost:8123"
    settings.PUBLIC_URL, settings.APPS_DOMAIN = "https://console.example", "apps.example"
    assert directory.url_of(deployment) == f"https://{deployment.deploy_id}.apps.example"


def test_ids_of_deleted_and_unknown_deployments_are_told_apart_from_living_ones(
    workspace: Workspace,
) -> None:
    alive, deleted = (
        factories.make_deployment(workspace=workspace, prefix=prefix, is_default=False)
        for prefix in ("alive", "deleted")
    )
    deleted.deleted_at = timezone.now()
    deleted.save()
    ids = [alive.deploy_id, deleted.deploy_id, "nobody-0123456789"]
    assert directory.deleted_among(ids) == {deleted.deploy_id, "nobody-0123456789"}
