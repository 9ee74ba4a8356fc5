"""Deployments in the console."""

from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from deployments import environment, logs
from deployments.models import Deployment, Release
from orgs.models import Organization, Workspace
from tests import factories


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace, prefix="chat")


def _page(organization: Organization, deployment: Deployment, action: str = "") -> str:
    return f"/console/{organization.slug}/deployments/{deployment.deploy_id}/{action}"


def test_the_list_shows_living_deployments_with_their_address(
    organization: Organization,
    workspace: Workspace,
    deployment: Deployment,
    owner_client: Client,
    settings: Any,
) -> None:
    gone = factories.make_deployment(workspace=workspace, prefix="gone", is_default=False)
    gone.deleted_at = timezone.now()
    gone.save()
    text = owner_client.get(f"/console/{organization.slug}/deployments/").content.decode()
    assert f"{deployment.deploy_id}.{settings.APPS_DOMAIN}" in text
    assert gone.deploy_id not in text


def test_without_deployments_the_page_says_how_to_deploy(
    organization: Organization, owner_client: Client
) -> None:
    text = owner_client.get(f"/console/{organization.slug}/deployments/").content.decode()
    assert "No deployments yet" in text
    assert "export API_URL=" in text


def test_names_of_variables_are_shown_with_the_source_that_wins(
    organization: Organization, deployment: Deployment, owner_client: Client
) -> None:
    environment.inject(deployment, {"OPENAI_API_KEY": "aig_injected-value"})
    environment.update(deployment, {"LOG_LEVEL": "debug-value", "OPENAI_API_KEY": "sk-own-value"})
    release = deployment.active_release
    assert release is not None
    release.manifest = {"bundle_environment": ["FROM_BUNDLE", "LOG_LEVEL"]}
    release.save()
    response = owner_client.get(_page(organization, deployment))
    shown = [(row.name, row.source) for row in response.context["variables"]]
    assert shown == [
        ("FROM_BUNDLE", ".env.production"),
        ("LOG_LEVEL", "update-env"),
        ("OPENAI_API_KEY", "update-env"),
    ]
    text = response.content.decode()
    assert "This app sets OPENAI_API_KEY itself" in text
    for value in ("debug-value", "sk-own-value", "aig_injected-value"):
        assert value not in text


def test_recent_log_lines_are_shown_as_text(
    organization: Organization, deployment: Deployment, owner_client: Client
) -> None:
    logs.append(
        deployment.pk,
        function_name="chat",
        request_id="",
        message="<script>alert(1)</script>",
        at=timezone.now(),
    )
    text = owner_client.get(_page(organization, deployment)).content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_why_the_latest_deploy_failed_is_shown(
    organization: Organization, deployment: Deployment, owner_client: Client
) -> None:
    Release.objects.create(
        deployment=deployment,
        bundle_sha256="2" * 64,
        status=Release.Status.FAILED,
        failure="There is no index.html.",
    )
    text = owner_client.get(_page(organization, deployment)).content.decode()
    assert "The latest deploy failed." in text
    assert "There is no index.html." in text


def test_a_release_that_was_never_live_cannot_be_rolled_back_to(
    organization: Organization, deployment: Deployment, owner_client: Client
) -> None:
    failed = Release.objects.create(
        deployment=deployment, bundle_sha256="2" * 64, status=Release.Status.FAILED
    )
    url = _page(organization, deployment, f"rollback/{failed.public_id}/")
    assert "was never live" in owner_client.post(url, follow=True).content.decode()
    deployment.refresh_from_db()
    assert deployment.active_release_id != failed.pk


def test_a_release_of_another_deployment_is_not_found(
    organization: Organization, workspace: Workspace, deployment: Deployment, owner_client: Client
) -> None:
    other = factories.make_deployment(workspace=workspace, prefix="other", is_default=False)
    assert other.active_release is not None
    url = _page(organization, deployment, f"rollback/{other.active_release.public_id}/")
    assert owner_client.post(url).status_code == 404


def test_redeploying_asks_for_a_new_release_of_the_same_bundle(
    organization: Organization, deployment: Deployment, owner_client: Client
) -> None:
    assert deployment.active_release is not None
    text = owner_client.post(_page(organization, deployment, "redeploy/"), follow=True)
    assert "Redeploying as rel_" in text.content.decode()
    newest = Release.objects.filter(deployment=deployment).first()
    assert newest is not None
    assert newest.pk != deployment.active_release.pk
    assert newest.bundle_sha256 == deployment.active_release.bundle_sha256


def test_redeploying_before_the_first_deploy_says_what_to_do(
    organization: Organization, workspace: Workspace, owner_client: Client
) -> None:
    empty = factories.make_deployment(workspace=workspace, deployed=False)
    text = owner_client.post(_page(organization, empty, "redeploy/"), follow=True).content.decode()
    assert "Deploy your app first" in text


def test_a_deleted_deployment_stays_readable_and_can_be_changed_no_more(
    organization: Organization, deployment: Deployment, owner_client: Client
) -> None:
    owner_client.post(_page(organization, deployment, "delete/"))
    deployment.refresh_from_db()
    assert deployment.deleted_at is not None
    text = owner_client.get(_page(organization, deployment)).content.decode()
    assert "Deleted" in text
    assert 'data-dialog="delete"' not in text
    for action in ("delete/", "redeploy/"):
        assert owner_client.post(_page(organization, deployment, action)).status_code == 404


def test_releases_are_asked_for_again_only_while_one_is_on_its_way(
    organization: Organization, deployment: Deployment, owner_client: Client
) -> None:
    assert "data-live" not in owner_client.get(_page(organization, deployment)).content.decode()
    release = Release.objects.create(deployment=deployment, bundle_sha256="1" * 64)
    assert "data-live" in owner_client.get(_page(organization, deployment)).content.decode()
    release.status = Release.Status.FAILED
    release.failure = "config.json is missing."
    release.save()
    text = owner_client.get(_page(organization, deployment)).content.decode()
    assert "data-live" not in text
    assert "config.json is missing." in text
