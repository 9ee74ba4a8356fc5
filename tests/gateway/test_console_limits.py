"""The console's limits: what members see, what owners set, what outsiders are not told."""

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing.pricing import Usage
from deployments.models import Deployment
from gateway import keys
from gateway.models import GatewayKey, Limit, ModelRoute
from orgs.models import Membership, Organization, Workspace
from tests import factories

Scope = Limit.Scope
EMPTY = {
    "requests_per_minute": "",
    "tokens_per_minute": "",
    "concurrency": "",
    "daily_budget_nanos": "",
    "monthly_budget_nanos": "",
}


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace)


@pytest.fixture
def key(deployment: Deployment) -> GatewayKey:
    return keys.issue(deployment, at=timezone.now())[0]


def url(
    organization: Organization, scope: str = "", name: str = "", *, is_set: bool = False
) -> str:
    if not scope:
        return reverse("gateway:limit-list", args=[organization.slug])
    page = "gateway:limit-set" if is_set else "gateway:limit-detail"
    return reverse(page, args=[organization.slug, scope, name])


def test_every_scope_is_listed_with_what_is_used_of_its_limits(
    member_client: Client, organization: Organization, key: GatewayKey, settings: Any
) -> None:
    settings.LIMIT_DEFAULTS = {}
    deployment = key.deployment
    Limit.objects.create(
        organization=organization,
        scope=Scope.DEPLOYMENT,
        scope_id=deployment.pk,
        requests_per_minute=60,
        daily_budget_nanos=2_000_000_000,
    )
    factories.make_credit(organization=organization)
    factories.make_call(
        organization=organization,
        price=factories.make_price(input_nanos=1_000_000_000_000),
        usage=Usage(input=1_000),
        deployment_id=deployment.pk,
        deploy_id=deployment.deploy_id,
    )
    text = member_client.get(url(organization)).content.decode()
    for name in (organization.name, "main", deployment.deploy_id, key.prefix):
        assert name in text
    assert text.count("No limit of its own") == 3
    assert '$1.00 <span class="faint">of $2.00</span>' in text
    assert 'aria-label="50 % used"' in text
    assert "Change" not in text


@pytest.mark.parametrize("scope", ["organization", "workspace", "deployment", "key"])
def test_an_owner_sets_limits_of_any_scope(
    scope: str, owner_client: Client, organization: Organization, key: GatewayKey
) -> None:
    names = {
        "organization": organization.slug,
        "workspace": key.deployment.workspace.public_id,
        "deployment": key.deployment.deploy_id,
        "key": key.public_id,
    }
    fields = {**EMPTY, "requests_per_minute": "60", "daily_budget_nanos": "2.50"}
    answer = owner_client.post(url(organization, scope, names[scope], is_set=True), fields)
    assert answer.status_code == 302
    row = Limit.objects.get(scope=scope.upper())
    assert (row.requests_per_minute, row.daily_budget_nanos) == (60, 2_500_000_000)
    page = owner_client.get(url(organization, scope, names[scope])).content.decode()
    assert 'value="60"' in page
    assert 'value="2.5"' in page
    owner_client.post(url(organization, scope, names[scope], is_set=True), EMPTY)
    assert Limit.objects.count() == 0


@pytest.mark.parametrize(
    ("field", "typed", "problem"),
    [
        ("requests_per_minute", "0", "Give at least 1, or leave it empty for no limit."),
        ("tokens_per_minute", "many", "Give a whole number, or leave it empty for no limit."),
        ("daily_budget_nanos", "lots", "Give an amount of dollars, such as 25 or 0.50."),
        ("monthly_budget_nanos", "-5", "Give more than 0 and at most 100,000,000 dollars."),
    ],
)
def test_what_is_no_limit_is_explained_beside_its_field(
    field: str, typed: str, problem: str, owner_client: Client, organization: Organization
) -> None:
    answer = owner_client.post(
        url(organization, "organization", organization.slug, is_set=True), {**EMPTY, field: typed}
    )
    assert answer.status_code == 400
    text = answer.content.decode()
    assert problem in text
    assert f'value="{typed}"' in text
    assert Limit.objects.count() == 0


@pytest.mark.parametrize("role", ["MEMBER", "VIEWER", "BILLING"])
def test_only_owners_and_admins_set_limits(role: str, organization: Organization) -> None:
    client = Client()
    user = factories.make_member(organization=organization, role=Membership.Role(role))
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    page = client.get(url(organization, "organization", organization.slug))
    assert page.status_code == 200
    assert "Save limits" not in page.content.decode()
    target = url(organization, "organization", organization.slug, is_set=True)
    assert client.post(target, {**EMPTY, "concurrency": "1"}).status_code == 403
    assert Limit.objects.count() == 0


def test_scopes_of_others_do_not_exist(
    outsider_client: Client,
    other_organization: Organization,
    organization: Organization,
    key: GatewayKey,
) -> None:
    for scope, name in (
        ("organization", organization.slug),
        ("workspace", key.deployment.workspace.public_id),
        ("deployment", key.deployment.deploy_id),
        ("key", key.public_id),
        ("staff", other_organization.slug),
        ("planet", "earth"),
    ):
        assert outsider_client.get(url(other_organization, scope, name)).status_code == 404
        target = url(other_organization, scope, name, is_set=True)
        assert outsider_client.post(target, EMPTY).status_code == 404


def test_staffs_limits_show_in_the_organizations_and_are_not_its_own_to_set(
    owner_client: Client, organization: Organization
) -> None:
    Limit.objects.create(
        organization=organization, scope=Scope.STAFF, scope_id=organization.pk, concurrency=3
    )
    page = owner_client.get(url(organization, "organization", organization.slug)).content.decode()
    assert 'Calls at once</span><span class="nowrap">3</span>' in page
    assert 'value="3"' not in page
    staff = url(organization, "staff", organization.slug, is_set=True)
    assert owner_client.post(staff, {**EMPTY, "concurrency": "99"}).status_code == 404


def test_an_owner_chooses_models_and_members_see_them(
    owner_client: Client, member_client: Client, organization: Organization
) -> None:
    for name in ("gpt-4o", "claude-opus-4.5"):
        factories.make_route(public_name=name)
    target = (organization, "organization", organization.slug)
    answer = owner_client.post(url(*target, is_set=True), {**EMPTY, "allowed_models": ["gpt-4o"]})
    assert answer.status_code == 302
    assert Limit.objects.get().allowed_models == ["gpt-4o"]
    assert 'value="gpt-4o" id="id_allowed_models_1" checked' in _text(owner_client, *target)
    assert 'value="claude-opus-4.5" id="id_allowed_models_0">' in _text(owner_client, *target)
    for page in (_text(member_client, *target), _text(member_client, organization)):
        assert "Models: gpt-4o" in page
        assert "claude-opus-4.5" not in page


def test_saving_other_limits_does_not_free_who_was_confined_to_a_model_that_is_gone(
    owner_client: Client, organization: Organization
) -> None:
    route = factories.make_route(public_name="gpt-4o")
    target = (organization, "organization", organization.slug)
    owner_client.post(url(*target, is_set=True), {**EMPTY, "allowed_models": ["gpt-4o"]})
    ModelRoute.objects.filter(pk=route.pk).delete()
    page = _text(owner_client, *target)
    assert "gpt-4o (not offered now)" in page
    fields = {**EMPTY, "concurrency": "3", "allowed_models": ["gpt-4o"]}
    assert owner_client.post(url(*target, is_set=True), fields).status_code == 302
    assert Limit.objects.get().allowed_models == ["gpt-4o"]
    refused = owner_client.post(
        url(*target, is_set=True), {**EMPTY, "allowed_models": ["gpt-4o", "gpt-5"]}
    )
    assert refused.status_code == 400
    assert "gpt-5 is not one of the available choices" in refused.content.decode()


def _text(client: Client, *target: Any) -> str:
    return client.get(url(*target)).content.decode()


# --- the admin --------------------------------------------------------------------------------


@pytest.fixture
def staff_client(db: None) -> Client:
    client = Client()
    user = factories.make_user(email="root@example.com", is_staff=True, is_superuser=True)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def test_staff_set_an_organizations_limits_in_dollars(
    staff_client: Client, organization: Organization, deployment: Deployment
) -> None:
    fields = {"organization": organization.pk, "scope": "STAFF", "monthly_budget": "100"}
    answer = staff_client.post(reverse("admin:gateway_limit_add"), fields)
    assert answer.status_code == 302
    row = Limit.objects.get()
    assert (row.scope, row.scope_id) == ("STAFF", organization.pk)
    assert row.monthly_budget_nanos == 100_000_000_000
    again = staff_client.post(reverse("admin:gateway_limit_add"), fields)
    assert "It has limits already" in again.content.decode()
    change = reverse("admin:gateway_limit_change", args=[row.pk])
    assert 'value="100"' in staff_client.get(change).content.decode()
    staff_client.post(change, {"concurrency": "5", "monthly_budget": "50"})
    row.refresh_from_db()
    assert (row.concurrency, row.monthly_budget_nanos) == (5, 50_000_000_000)
    factories.make_route(public_name="gpt-4o")
    staff_client.post(change, {"concurrency": "5", "allowed_models": ["gpt-4o"]})
    row.refresh_from_db()
    assert (row.concurrency, row.allowed_models) == (5, ["gpt-4o"])
    assert 'value="gpt-4o"' in staff_client.get(change).content.decode()
    listed = staff_client.get(reverse("admin:gateway_limit_changelist")).content.decode()
    assert "gpt-4o" in listed
    override = {**fields, "scope": "DEPLOYMENT", "name": deployment.deploy_id}
    assert staff_client.post(reverse("admin:gateway_limit_add"), override).status_code == 302
    assert Limit.objects.filter(scope="DEPLOYMENT", scope_id=deployment.pk).exists()


def test_staff_cannot_limit_what_the_organization_does_not_have(
    staff_client: Client, other_organization: Organization, deployment: Deployment
) -> None:
    answer = staff_client.post(
        reverse("admin:gateway_limit_add"),
        {
            "organization": other_organization.pk,
            "scope": "DEPLOYMENT",
            "name": deployment.deploy_id,
            "concurrency": "1",
        },
    )
    assert "no such key, deployment or workspace" in answer.content.decode()
    assert Limit.objects.count() == 0
