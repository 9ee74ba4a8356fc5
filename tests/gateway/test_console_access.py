"""Who may open which console page: one case per URL, and a URL without a case fails."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver, reverse
from django.utils import timezone

from billing.models import Payment, UsageRecord
from billing.pricing import Usage
from deployments import environment
from deployments.models import Deployment, EnvironmentVariable, Release
from gateway import provisioning
from gateway.models import GatewayKey
from orgs import tokens
from orgs.models import Membership, Organization, User, Workspace, WorkspaceToken
from tests import factories

SECRET_VALUE = "postgres://very-secret-value"


@dataclass
class Scene:
    """An organization with one of everything."""

    organization: Organization
    deployment: Deployment
    old_release: Release
    call: UsageRecord
    token: WorkspaceToken
    key: GatewayKey
    payment: Payment
    membership: Membership
    secrets: list[str]

    def url(self, name: str) -> str:
        return reverse(
            name, kwargs={"organization": self.organization.slug, **ARGUMENTS[name](self)}
        )


def _of_deployment(scene: Scene) -> dict[str, str]:
    return {"deploy_id": scene.deployment.deploy_id}


def _of_this_month(scene: Scene) -> dict[str, str]:
    return {"month": f"{scene.call.started_at:%Y-%m}"}


# What each console URL needs besides the organization.
ARGUMENTS: dict[str, Any] = {
    "gateway:overview": lambda scene: {},
    "gateway:key-list": lambda scene: {},
    "gateway:key-provision": _of_deployment,
    "gateway:key-rotate": _of_deployment,
    "gateway:key-revoke": _of_deployment,
    "gateway:limit-list": lambda scene: {},
    "gateway:limit-detail": lambda scene: {
        "scope": "deployment",
        "name": scene.deployment.deploy_id,
    },
    "gateway:limit-set": lambda scene: {"scope": "deployment", "name": scene.deployment.deploy_id},
    "billing:call-list": lambda scene: {},
    "billing:call-export": lambda scene: {},
    "billing:call-detail": lambda scene: {"request_id": scene.call.request_id},
    "billing:spend": lambda scene: {},
    "billing:spend-export": lambda scene: {},
    "billing:credit": lambda scene: {},
    "billing:top-up": lambda scene: {},
    "billing:auto-top-up": lambda scene: {},
    "billing:agent-top-up": lambda scene: {},
    "billing:refund-create": lambda scene: {"payment_id": scene.payment.public_id},
    "billing:statement-list": lambda scene: {},
    "billing:statement-detail": _of_this_month,
    "billing:statement-export": _of_this_month,
    "billing:statement-json": _of_this_month,
    "deployments:deployment-list": lambda scene: {},
    "deployments:deployment-detail": _of_deployment,
    "deployments:deployment-redeploy": _of_deployment,
    "deployments:deployment-rollback": lambda scene: {
        **_of_deployment(scene),
        "release_id": scene.old_release.public_id,
    },
    "deployments:deployment-delete": _of_deployment,
    "orgs:webhook-detail": lambda scene: {},
    "orgs:webhook-set": lambda scene: {},
    "orgs:webhook-rotate": lambda scene: {},
    "orgs:webhook-test": lambda scene: {},
    "orgs:webhook-remove": lambda scene: {},
    "orgs:member-list": lambda scene: {},
    "orgs:member-add": lambda scene: {},
    "orgs:member-role": lambda scene: {"member_id": scene.membership.pk},
    "orgs:member-remove": lambda scene: {"member_id": scene.membership.pk},
    "orgs:token-list": lambda scene: {},
    "orgs:token-create": lambda scene: {},
    "orgs:token-revoke": lambda scene: {"token_id": scene.token.public_id},
}
POSTED = {
    "billing:top-up",
    "billing:auto-top-up",
    "billing:agent-top-up",
    "billing:refund-create",
    "gateway:key-provision",
    "gateway:key-rotate",
    "gateway:key-revoke",
    "gateway:limit-set",
    "orgs:webhook-set",
    "orgs:webhook-rotate",
    "orgs:webhook-test",
    "orgs:webhook-remove",
    "deployments:deployment-redeploy",
    "deployments:deployment-rollback",
    "deployments:deployment-delete",
    "orgs:member-add",
    "orgs:member-role",
    "orgs:member-remove",
    "orgs:token-create",
    "orgs:token-revoke",
}
DOWNLOADS = {name for name in ARGUMENTS if name.endswith(("-export", "-json"))}
PAGES = sorted(ARGUMENTS.keys() - POSTED)


def _console_urls(patterns: Any, route: str = "", namespace: str = "") -> Iterator[str]:
    for pattern in patterns:
        path = route + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from _console_urls(pattern.url_patterns, path, pattern.app_name or namespace)
        elif isinstance(pattern, URLPattern) and path.startswith("console/"):
            yield f"{namespace}:{pattern.name}"


@pytest.fixture
def scene(organization: Organization, workspace: Workspace) -> Scene:
    deployment = factories.make_deployment(workspace=workspace)
    old_release = Release.objects.create(
        deployment=deployment,
        bundle_sha256="1" * 64,
        status=Release.Status.SUPERSEDED,
        activated_at=timezone.now(),
    )
    made = provisioning.provision(workspace, at=timezone.now())
    environment.update(deployment, {"DATABASE_URL": SECRET_VALUE})
    token, token_secret = tokens.issue(workspace, name="agent of Acme")
    factories.make_credit(organization=organization)
    call = factories.make_call(
        organization=organization,
        price=factories.make_price(),
        usage=Usage(input=1200, output=340),
        deployment_id=deployment.pk,
        deploy_id=deployment.deploy_id,
    )
    secrets = [
        made.secret,
        token_secret,
        SECRET_VALUE,
        made.key.digest,
        GatewayKey.objects.get(pk=made.key.pk).secret_sealed,
        token.digest,
        EnvironmentVariable.objects.filter(name="DATABASE_URL").get().value_sealed,
    ]
    payment = Payment.objects.create(
        organization=organization,
        kind=Payment.Kind.CHECKOUT,
        amount_nanos=5_000_000_000,
        idempotency_key="p",
        created_at=timezone.now(),
    )
    membership = Membership.objects.create(organization=organization, user=factories.make_user())
    return Scene(
        organization, deployment, old_release, call, token, made.key, payment, membership, secrets
    )


def _text(response: Any) -> str:
    return b"".join(response).decode() if response.streaming else response.content.decode()


def test_every_console_url_has_a_case() -> None:
    assert set(_console_urls(get_resolver().url_patterns)) == ARGUMENTS.keys()


@pytest.mark.parametrize("name", PAGES)
def test_an_owner_opens_the_page(name: str, scene: Scene, owner_client: Client) -> None:
    response = owner_client.get(scene.url(name))
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize("name", PAGES)
def test_no_page_shows_a_secret(name: str, scene: Scene, owner_client: Client) -> None:
    text = _text(owner_client.get(scene.url(name)))
    assert [secret for secret in scene.secrets if secret in text] == []


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_an_outsider_is_told_that_it_does_not_exist(
    name: str, scene: Scene, outsider_client: Client
) -> None:
    send = outsider_client.post if name in POSTED else outsider_client.get
    assert send(scene.url(name), {"name": "mine"}).status_code == 404


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_nobody_gets_in_without_logging_in(name: str, scene: Scene, client: Client) -> None:
    send = client.post if name in POSTED else client.get
    response = send(scene.url(name))
    assert response.status_code == 302
    assert response["Location"].startswith("/accounts/login/")


@pytest.mark.parametrize("name", sorted(POSTED))
@pytest.mark.parametrize("role", [Membership.Role.VIEWER, Membership.Role.BILLING])
def test_who_may_not_manage_changes_nothing(name: str, role: str, scene: Scene) -> None:
    user = factories.make_member(organization=scene.organization, role=role)
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    response = client.post(scene.url(name), {"name": "mine"})
    assert response.status_code == 403
    assert "Your role in this organization" in response.content.decode()
    scene.key.refresh_from_db()
    scene.deployment.refresh_from_db()
    scene.token.refresh_from_db()
    assert scene.key.revoked_at is None
    assert scene.deployment.deleted_at is None
    assert scene.token.revoked_at is None
    assert WorkspaceToken.objects.count() == 1


@pytest.mark.parametrize("name", sorted(POSTED))
def test_the_address_of_a_form_leads_to_the_page_it_is_on(
    name: str, scene: Scene, owner_client: Client
) -> None:
    """Nobody but a reload or a log-in goes there with GET, and nothing is changed by it."""
    page = owner_client.get(scene.url(name), follow=True)
    assert page.status_code == 200
    assert scene.url(name).startswith(page.redirect_chain[0][0])
    assert owner_client.put(scene.url(name)).status_code == 405


@pytest.mark.parametrize("name", sorted(POSTED))
def test_a_form_sent_after_the_session_ended_is_there_again_after_log_in(
    name: str, scene: Scene, owner: User
) -> None:
    client = Client()
    login = client.post(scene.url(name), {"name": "mine"}, follow=True)
    assert "nothing was sent" in _text(login)
    data = {"login": owner.email, "password": factories.PASSWORD}
    page = client.post(login.redirect_chain[-1][0], data, follow=True)
    assert page.status_code == 200
    assert scene.url(name).startswith(page.redirect_chain[-1][0])


@pytest.mark.parametrize("name", sorted(set(PAGES) - DOWNLOADS))
def test_an_id_is_on_a_page_once(
    name: str, scene: Scene, owner_client: Client, settings: Any
) -> None:
    """A label with another field's id names, and leads to, the wrong one."""
    settings.STRIPE_API_KEY = "sk_test_0123456789abcdefghijklmn"
    ids = Counter(re.findall(r'\sid="([^"]*)"', _text(owner_client.get(scene.url(name)))))
    assert [found for found, times in ids.items() if times > 1] == []


@pytest.mark.parametrize("name", PAGES)
def test_a_viewer_sees_no_form_that_changes_anything(name: str, scene: Scene) -> None:
    user = factories.make_member(organization=scene.organization, role=Membership.Role.VIEWER)
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    text = _text(client.get(scene.url(name)))
    assert text.count('method="post"') == (0 if name in DOWNLOADS else 1)  # log-out


@pytest.mark.parametrize("name", sorted(POSTED))
def test_a_form_of_another_site_is_refused(name: str, scene: Scene, owner: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    assert client.post(scene.url(name), {"name": "mine"}).status_code == 403


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("billing:call-detail", "request_id"),
        ("deployments:deployment-detail", "deploy_id"),
    ],
)
def test_foreign_things_are_not_found_under_the_own_organization(
    name: str,
    argument: str,
    scene: Scene,
    outsider_client: Client,
    other_organization: Organization,
) -> None:
    arguments = {"organization": other_organization.slug, **ARGUMENTS[name](scene)}
    assert outsider_client.get(reverse(name, kwargs=arguments)).status_code == 404
    assert argument in arguments
