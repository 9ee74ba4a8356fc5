"""Overview and keys in the console."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from billing.pricing import Usage
from deployments import environment
from deployments.models import Deployment
from deployments.runtime import host_status
from deployments.runtime.wire import Health
from gateway import keys, provisioning
from orgs.models import Organization, Workspace
from tests import factories


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace)


def _keys(organization: Organization, path: str = "") -> str:
    return f"/console/{organization.slug}/keys/{path}"


def test_home_leads_to_the_first_organization(
    organization: Organization, owner_client: Client
) -> None:
    assert owner_client.get("/")["Location"] == f"/console/{organization.slug}/"


def test_home_explains_to_people_without_an_organization(db: None, client: Client) -> None:
    client.force_login(factories.make_user(), backend="django.contrib.auth.backends.ModelBackend")
    assert "No organization yet" in client.get("/").content.decode()


def test_the_overview_shows_balance_spend_and_calls(
    organization: Organization, owner_client: Client
) -> None:
    factories.make_credit(organization=organization, nanos=25_000_000_000)
    price = factories.make_price(input_nanos=1_000_000_000_000)
    factories.make_call(
        organization=organization,
        price=price,
        usage=Usage(input=1_000_000),
        hold_nanos=10**12 // 100,
    )
    text = owner_client.get(f"/console/{organization.slug}/").content.decode()
    assert "smollm2-135m" in text
    assert "1 call since 00:00 UTC" in text
    assert "Spend per day over 30 days" in text


def test_the_overview_of_another_organization_shows_none_of_it(
    organization: Organization, other_organization: Organization, outsider_client: Client
) -> None:
    factories.make_credit(organization=organization)
    call = factories.make_call(organization=organization, price=factories.make_price())
    text = outsider_client.get(f"/console/{other_organization.slug}/").content.decode()
    assert call.request_id not in text
    assert "No credit left" in text


def test_the_overview_warns_of_a_key_that_a_browser_used(
    organization: Organization, workspace: Workspace, deployment: Deployment, owner_client: Client
) -> None:
    key = provisioning.provision(workspace, at=timezone.now()).key
    key.exposed_at = timezone.now()
    key.save()
    text = owner_client.get(f"/console/{organization.slug}/").content.decode()
    assert f"The key {key.prefix}… was used from a browser." in text


@pytest.fixture
def know() -> Iterator[Any]:
    """A function (health, or None for no answer) that the function host's watch would call."""
    host_status.forget()
    yield host_status.note
    host_status.forget()


def test_the_overview_warns_while_functions_are_not_isolated(
    organization: Organization, owner_client: Client, know: Any
) -> None:
    url = f"/console/{organization.slug}/"
    assert "Functions" not in owner_client.get(url).content.decode()
    know(Health("local-plain", warning="They can read this server."))
    text = owner_client.get(url).content.decode()
    assert "Functions run without isolation." in text
    assert "They can read this server." in text
    know(Health("local-bwrap"))
    assert "Functions" not in owner_client.get(url).content.decode()


def test_the_overview_says_when_functions_do_not_run_and_why(
    organization: Organization, owner_client: Client, know: Any
) -> None:
    url = f"/console/{organization.slug}/"
    know(Health("auto", refusal="bubblewrap is not installed"))
    assert "bubblewrap is not installed" in owner_client.get(url).content.decode()
    know(None)
    assert "do not run" not in owner_client.get(url).content.decode()  # being started again
    know(None)
    assert "Functions do not run at the moment." in owner_client.get(url).content.decode()


def test_the_overview_says_who_is_stood_in_for(
    owner_client: Client, organization: Organization, settings: Any
) -> None:
    for name, provider in (("gpt-4o", "openai"), ("smollm2-135m", "local")):
        factories.make_route(public_name=name, provider=provider)
    factories.make_price()
    settings.PROVIDER_ENVIRONMENT = {"local": {"base_url": "http://127.0.0.1:9/v1"}}
    path = f"/console/{organization.slug}/"
    assert "Stand-ins answer for" not in owner_client.get(path).content.decode()
    settings.STANDIN_URL = "http://127.0.0.1:9"
    page = owner_client.get(path)
    assert "Stand-ins answer for" in page.content.decode()
    assert page.context["standins"] == ["OpenAI"]
    assert page.context["model"] == "smollm2-135m"


def test_provisioning_shows_the_secret_once(
    organization: Organization, deployment: Deployment, owner_client: Client
) -> None:
    url = _keys(organization, f"{deployment.deploy_id}/provision/")
    answer = owner_client.post(url)
    secret = keys.reveal(keys.current(deployment))  # type: ignore[arg-type]
    assert secret in answer.content.decode()
    assert "no-store" in answer["Cache-Control"]
    again = owner_client.post(url, follow=True)
    assert secret not in again.content.decode()
    assert "already has a key" in again.content.decode()
    assert secret not in owner_client.get(_keys(organization)).content.decode()


def test_provisioning_before_the_first_deploy_says_what_to_do(
    organization: Organization, workspace: Workspace, owner_client: Client
) -> None:
    deployment = factories.make_deployment(workspace=workspace, deployed=False)
    url = _keys(organization, f"{deployment.deploy_id}/provision/")
    assert "Deploy your app first" in owner_client.post(url, follow=True).content.decode()


def test_rotating_shows_the_new_secret_and_keeps_the_old_key_for_its_grace(
    organization: Organization, workspace: Workspace, deployment: Deployment, owner_client: Client
) -> None:
    old = provisioning.provision(workspace, at=timezone.now())
    url = _keys(organization, f"{deployment.deploy_id}/rotate/")
    text = owner_client.post(url, {"grace": "3600"}).content.decode()
    new = keys.current(deployment)
    assert new is not None
    assert keys.reveal(new) in text
    assert old.secret not in text
    old.key.refresh_from_db()
    assert old.key.revoked_at is None
    assert old.key.expires_at is not None
    assert f"{old.key.prefix}…</code> works until" in text


@pytest.mark.parametrize("grace", ["", "soon", "-5"])
def test_a_grace_that_is_not_offered_keeps_no_old_key(
    grace: str,
    organization: Organization,
    workspace: Workspace,
    deployment: Deployment,
    owner_client: Client,
) -> None:
    old = provisioning.provision(workspace, at=timezone.now())
    owner_client.post(_keys(organization, f"{deployment.deploy_id}/rotate/"), {"grace": grace})
    old.key.refresh_from_db()
    assert old.key.expires_at is None


def test_revoking_ends_every_key_of_the_deployment(
    organization: Organization, workspace: Workspace, deployment: Deployment, owner_client: Client
) -> None:
    made = provisioning.provision(workspace, at=timezone.now())
    url = _keys(organization, f"{deployment.deploy_id}/revoke/")
    text = owner_client.post(url, follow=True).content.decode()
    made.key.refresh_from_db()
    assert made.key.revoked_at is not None
    assert "Provision key" in text


def test_an_app_with_its_own_value_is_marked(
    organization: Organization, deployment: Deployment, owner_client: Client
) -> None:
    environment.update(deployment, {"OPENAI_API_KEY": "sk-of-their-own"})
    text = owner_client.get(_keys(organization)).content.decode()
    assert "Own value set" in text
    assert "sk-of-their-own" not in text


def test_without_deployments_the_page_says_how_to_deploy(
    organization: Organization, owner_client: Client
) -> None:
    text = owner_client.get(_keys(organization)).content.decode()
    assert "python -m deployments.cli deploy" in text
