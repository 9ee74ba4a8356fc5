"""Every admin page opens, and none shows or loses a secret."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db.models import Model
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from billing import leases, ledger, payments, statements
from billing.models import (
    AgentTopUp,
    AutoTopUp,
    CreditGrant,
    DeadLetter,
    GrantUse,
    Journal,
    Lease,
    LedgerAccount,
    OrganizationTerms,
    Payment,
    PaymentCustomer,
    PaymentEvent,
    PriceVersion,
    Reconciliation,
    Refund,
    Statement,
    Transfer,
    UsageRecord,
    UsageRollup,
)
from billing.pricing import Usage
from deployments import deploying, environment, logs
from deployments.models import EnvironmentVariable, Upload
from gateway import credentials, provisioning
from gateway.models import Alert, GatewayKey, Limit, ModelRoute, ProviderCredential
from orgs import deliveries, tokens
from orgs.models import Organization, User, Workspace, WorkspaceToken
from tests import factories

PROVIDER_KEY = "sk-provider-0123456789abcdef"
MODELS = sorted(
    (
        model
        for model in admin.site._registry
        if model._meta.app_label in {"orgs", "billing", "deployments", "gateway"}
    ),
    key=lambda model: model._meta.label,
)
OURS = {
    "Organization",
    "Workspace",
    "Membership",
    "User",
    "WorkspaceToken",
    "Deployment",
    "Release",
    "Upload",
    "EnvironmentVariable",
    "LogEntry",
    "GatewayKey",
    "Limit",
    "Alert",
    "WebhookEndpoint",
    "WebhookDelivery",
    "ModelRoute",
    "PriceVersion",
    "ProviderCredential",
    "LedgerAccount",
    "Transfer",
    "UsageRecord",
    "UsageRollup",
    "Statement",
    "Reconciliation",
    "CreditGrant",
    "GrantUse",
    "OrganizationTerms",
    "PaymentCustomer",
    "AutoTopUp",
    "AgentTopUp",
    "Payment",
    "Refund",
    "PaymentEvent",
    "Journal",
    "Lease",
    "DeadLetter",
}
NEVER_EDITED = [
    LedgerAccount,
    Transfer,
    PriceVersion,
    UsageRecord,
    UsageRollup,
    Statement,
    Reconciliation,
    CreditGrant,
    GrantUse,
    Payment,
    Refund,
    PaymentEvent,
    Journal,
    Lease,
    DeadLetter,
]
CLIENT_SECRET = "pi_1_secret_0123456789"


@pytest.fixture
def staff_client(db: None) -> Client:
    client = Client()
    user = User.objects.create_superuser("staff@example.com", factories.PASSWORD)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def secrets(organization: Organization, workspace: Workspace, owner: User) -> list[str]:
    """One row of every model, and all that must not appear."""
    deployment = factories.make_deployment(workspace=workspace)
    made = provisioning.provision(workspace, at=timezone.now())
    environment.update(deployment, {"DATABASE_URL": "postgres://very-secret"})
    token, token_secret = tokens.issue(workspace, name="agent")
    credential = ProviderCredential(provider="openai", name="main")
    credentials.seal_api_key(credential, PROVIDER_KEY)
    credential.save()
    deploying.issue_upload(deployment, at=timezone.now())
    logs.append(deployment.pk, function_name="f", request_id="r", message="line", at=timezone.now())
    factories.make_route()
    Limit.objects.create(
        organization=organization, scope="STAFF", scope_id=organization.pk, concurrency=5
    )
    endpoint, webhook_secret = deliveries.set_url(
        organization, "https://example.com/hook", at=timezone.now()
    )
    deliveries.queue(organization, event_id="e", kind="test", data={}, at=timezone.now())
    leases.register("here-1", host="here", at=timezone.now())
    Lease.objects.create(journal_id="here-1", organization=organization)
    DeadLetter.objects.create(
        journal_id="here-1", position=8, raw=b"?", reason="torn", created_at=timezone.now()
    )
    Alert.objects.create(
        organization=organization,
        scope="STAFF",
        scope_id=1,
        period="DAY",
        threshold_percent=50,
        used_nanos=1,
        limit_nanos=2,
        starts_at=timezone.now(),
        created_at=timezone.now(),
    )
    OrganizationTerms.objects.create(organization=organization, margin_basis_points=250)
    factories.make_credit(organization=organization)
    factories.make_call(
        organization=organization, price=factories.make_price(), usage=Usage(input=10, output=5)
    )
    statements.close_due(organization, timezone.now() + timedelta(days=40))
    _make_payment(organization, owner)
    Reconciliation.objects.create(
        provider="openai",
        file_name="usage.csv",
        file_sha256="0" * 64,
        first_day=timezone.now().date(),
        last_day=timezone.now().date(),
        tolerance_percent=1,
        rows_compared=1,
        rows_off=0,
        result={"off": [], "notes": []},
        ran_by="operator",
        ran_at=timezone.now(),
    )
    return [
        CLIENT_SECRET,
        made.secret,
        made.key.digest,
        GatewayKey.objects.get().secret_sealed,
        "postgres://very-secret",
        *EnvironmentVariable.objects.values_list("value_sealed", flat=True),
        token_secret,
        token.digest,
        PROVIDER_KEY,
        credential.api_key_sealed,
        Upload.objects.get().nonce,
        owner.password,
        webhook_secret,
        endpoint.secret_sealed,
    ]


def _make_payment(organization: Organization, owner: User) -> None:
    """A payment with everything that belongs to one."""
    now = timezone.now()
    payment = Payment.objects.create(
        organization=organization,
        kind="CHECKOUT",
        amount_nanos=5_000_000_000,
        idempotency_key="p",
        created_at=now,
    )
    Refund.objects.create(
        payment=payment, amount_nanos=5, is_external=True, idempotency_key="r", created_at=now
    )
    PaymentEvent.objects.create(
        provider_event_id="evt_1",
        type="payment_intent.succeeded",
        payload=f'{{"client_secret": "{CLIENT_SECRET}"}}',
        payment=payment,
        received_at=now,
    )
    PaymentCustomer.objects.create(
        organization=organization, provider_customer_id="cus_1", created_at=now
    )
    AgentTopUp.objects.create(
        organization=organization, monthly_cap_nanos=1, changed_by=owner, changed_at=now
    )
    AutoTopUp.objects.create(
        organization=organization,
        threshold_nanos=1,
        amount_nanos=2,
        monthly_cap_nanos=3,
        changed_by=owner,
        changed_at=now,
    )


def _list_url(model: type[Model]) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")


def _change_url(row: Model) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])


def test_every_model_of_ours_is_in_the_admin() -> None:
    assert {model.__name__ for model in MODELS} == OURS


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_lists_and_pages_open_and_show_no_secret(
    model: Any, secrets: list[str], staff_client: Client
) -> None:
    row = model._default_manager.order_by("pk").first()
    assert row is not None, "the scene has no such row"
    for url in (_list_url(model), f"{_list_url(model)}?q=a", _change_url(row)):
        response = staff_client.get(url)
        assert response.status_code == 200
        text = response.content.decode()
        assert [secret for secret in secrets if secret in text] == []


@pytest.mark.parametrize("model", NEVER_EDITED, ids=lambda model: model.__name__)
def test_money_is_neither_added_nor_changed_nor_deleted(
    model: Any, secrets: list[str], staff_client: Client
) -> None:
    row = model.objects.order_by("pk").first()
    name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
    assert staff_client.post(reverse(f"{name}_add"), {}).status_code == 403
    assert staff_client.post(_change_url(row), {}).status_code == 403
    assert (
        staff_client.post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"}).status_code
        == 403
    )
    assert "delete_selected" not in staff_client.get(_list_url(model)).content.decode()


def test_members_without_staff_rights_get_no_admin(owner_client: Client) -> None:
    assert owner_client.get("/admin/").status_code == 302


def test_organizations_of_the_same_name_are_told_apart_where_credit_is_granted(
    staff_client: Client,
) -> None:
    """They are looked up by what staff type, not listed: there may be thousands."""
    twins = [factories.make_organization(name="Twin") for _ in range(2)]
    form = staff_client.get(reverse("admin:billing_ledgeraccount_grant_credit"))
    page = form.content.decode()
    assert "Twin" not in page
    assert "select2" in page
    source = form.context["form"].fields["organization"].widget.build_attrs({})
    names = {"app_label": source["data-app-label"], "model_name": source["data-model-name"]}
    query = {**names, "field_name": source["data-field-name"], "term": "twin"}
    found = staff_client.get(reverse("admin:autocomplete"), query).json()["results"]
    assert sorted(row["text"] for row in found) == sorted(f"Twin ({one.slug})" for one in twins)


def test_staff_find_a_call_by_its_id_and_how_its_cost_came_about(
    organization: Organization, staff_client: Client
) -> None:
    factories.make_credit(organization=organization)
    call = factories.make_call(
        organization=organization,
        price=factories.make_price(model="explained", input_nanos=2_000_000_000),
        usage=Usage(input=1_500_000),
    )
    found = staff_client.get(_list_url(UsageRecord), {"q": call.request_id}).content.decode()
    assert str(call.pk) in found
    page = staff_client.get(reverse("admin:billing_usagerecord_change", args=[call.pk]))
    assert "1,500,000 input × $2 / 1M = $3" in page.content.decode()


def test_granting_credit_is_one_transfer_however_often_the_form_is_sent(
    organization: Organization, secrets: list[str], staff_client: Client
) -> None:
    account = LedgerAccount.objects.get(organization=organization, kind=LedgerAccount.Kind.CREDITS)
    before = account.posted_nanos
    url = reverse("admin:billing_ledgeraccount_grant_credit")
    assert url in staff_client.get(_list_url(LedgerAccount)).content.decode()
    key = staff_client.get(url).context["form"]["idempotency_key"].value()
    data = {
        "organization": organization.pk,
        "amount": "12.50",
        "reason": "Beta tester",
        "idempotency_key": key,
    }
    for _ in range(2):
        assert staff_client.post(url, data).status_code == 302
    account.refresh_from_db()
    assert account.posted_nanos - before == 12_500_000_000
    transfer = Transfer.objects.get(idempotency_key=key)
    assert transfer.reason == "Beta tester"
    assert transfer.created_by is not None
    changed = staff_client.post(url, data | {"amount": "99"})
    assert "granted something else before" in changed.content.decode()


@pytest.mark.parametrize("amount", ["", "0", "-5", "ten", "1.0000000001", "NaN"])
def test_an_amount_that_is_none_grants_nothing(
    amount: str, organization: Organization, staff_client: Client
) -> None:
    data = {"organization": organization.pk, "amount": amount, "reason": "x"}
    url = reverse("admin:billing_ledgeraccount_grant_credit")
    assert staff_client.post(url, data | {"idempotency_key": "k"}).status_code == 200
    assert not Transfer.objects.exists()


@pytest.mark.parametrize(
    ("day", "expires_at"),
    [("2999-12-31", datetime(3000, 1, 1, tzinfo=UTC)), ("2001-01-01", None), ("soon", None)],
)
def test_credit_may_be_granted_until_the_end_of_a_day(
    organization: Organization, staff_client: Client, day: str, expires_at: datetime | None
) -> None:
    data = {
        "organization": organization.pk,
        "amount": "5",
        "reason": "welcome",
        "expires_on": day,
        "idempotency_key": "k",
    }
    answer = staff_client.post(reverse("admin:billing_ledgeraccount_grant_credit"), data)
    assert answer.status_code == (302 if expires_at else 200)
    granted = CreditGrant.objects.values_list("expires_at", flat=True)
    assert list(granted) == ([expires_at] if expires_at else [])


def _balance(organization: Organization) -> int:
    return ledger.balance(organization).available_nanos


def test_credit_is_corrected_both_ways_once(
    organization: Organization, staff_client: Client
) -> None:
    url = reverse("admin:billing_ledgeraccount_correct_credit")
    assert staff_client.get(url).status_code == 200
    data = {"organization": organization.pk, "reason": "missed"}
    for amount, key in (("5", "a"), ("5", "a"), ("-2", "b")):
        sent = data | {"amount": amount, "idempotency_key": key}
        assert staff_client.post(url, sent).status_code == 302
    assert _balance(organization) == 3_000_000_000
    for amount, key, says in (
        ("0", "c", "must be other than zero"),
        ("-4", "d", "Only $3.00 of the credit is available."),
        ("9", "a", "corrected something else"),
    ):
        refused = staff_client.post(url, data | {"amount": amount, "idempotency_key": key})
        assert says in refused.content.decode()
    assert _balance(organization) == 3_000_000_000


def test_a_grant_is_ended_before_its_time(organization: Organization, staff_client: Client) -> None:
    factories.make_credit(organization=organization, nanos=5_000_000_000)
    url = reverse("admin:billing_creditgrant_end_grant", args=[CreditGrant.objects.get().pk])
    assert "$5.00 of it is unspent" in staff_client.get(url).content.decode()
    data = {"reason": "granted by mistake", "idempotency_key": "k"}
    assert staff_client.post(url, data).status_code == 302
    assert _balance(organization) == 0
    assert "Nothing of it is left" in staff_client.post(url, data).content.decode()


def test_a_refund_beyond_what_is_unspent_is_refused(
    organization: Organization, owner: User, staff_client: Client
) -> None:
    _make_payment(organization, owner)
    url = reverse("admin:billing_payment_refund", args=[Payment.objects.get().pk])
    assert "$0.00 of this payment" in staff_client.get(url).content.decode()
    data = {"amount": "1", "reason": "asked", "idempotency_key": "k"}
    assert "can be refunded now" in staff_client.post(url, data).content.decode()


def test_what_needed_attention_is_settled_with_what_was_done(
    organization: Organization, owner: User, staff_client: Client
) -> None:
    _make_payment(organization, owner)
    payment = Payment.objects.get()
    payments.flag(payment, "Received $24.00, expected $25.00.")
    waiting = f"{_list_url(Payment)}?attention=yes"
    assert payment.public_id in staff_client.get(waiting).content.decode()
    url = reverse("admin:billing_payment_settle_attention", args=[payment.pk])
    assert "expected $25.00" in staff_client.get(url).content.decode()
    data = {"reason": "Credited $24.00 by hand", "idempotency_key": "k"}
    assert staff_client.post(url, data).status_code == 302
    assert payment.public_id not in staff_client.get(waiting).content.decode()
    history = reverse("admin:billing_payment_history", args=[payment.pk])
    assert "Settled: Credited $24.00 by hand" in staff_client.get(history).content.decode()


@pytest.mark.parametrize("action", ["correct", "end", "refund", "settle"])
def test_staff_without_the_permission_move_no_money(
    organization: Organization, owner: User, action: str
) -> None:
    factories.make_credit(organization=organization)
    _make_payment(organization, owner)
    url = {
        "correct": reverse("admin:billing_ledgeraccount_correct_credit"),
        "end": reverse("admin:billing_creditgrant_end_grant", args=[CreditGrant.objects.get().pk]),
        "refund": reverse("admin:billing_payment_refund", args=[Payment.objects.get().pk]),
        "settle": reverse(
            "admin:billing_payment_settle_attention", args=[Payment.objects.get().pk]
        ),
    }[action]
    client = Client()
    client.force_login(
        factories.make_user(is_staff=True), backend="django.contrib.auth.backends.ModelBackend"
    )
    assert client.get(url).status_code == 403


def test_staff_without_the_permission_cannot_grant(organization: Organization) -> None:
    user = factories.make_user(is_staff=True)
    user.user_permissions.add(Permission.objects.get(codename="view_ledgeraccount"))
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    assert client.get(_list_url(LedgerAccount)).status_code == 200
    url = reverse("admin:billing_ledgeraccount_grant_credit")
    assert client.get(url).status_code == 403


def test_a_provider_key_is_stored_encrypted_and_kept_when_left_empty(staff_client: Client) -> None:
    data = {"provider": "openai", "name": "main", "base_url": "", "is_active": "on"}
    add = reverse("admin:gateway_providercredential_add")
    assert staff_client.post(add, data | {"api_key": PROVIDER_KEY}).status_code == 302
    credential = ProviderCredential.objects.get()
    assert credentials.configured()["openai"].api_key == PROVIDER_KEY
    assert credential.api_key_hint == PROVIDER_KEY[-4:]
    assert PROVIDER_KEY not in credential.api_key_sealed
    staff_client.post(_change_url(credential), data | {"name": "renamed", "api_key": ""})
    assert credentials.configured()["openai"].api_key == PROVIDER_KEY
    staff_client.post(_change_url(credential), data | {"api_key": "sk-replaced-0123456789"})
    assert credentials.configured()["openai"].api_key == "sk-replaced-0123456789"


def test_a_model_route_keeps_its_settings_through_its_form(staff_client: Client) -> None:
    route = factories.make_route()
    page = staff_client.get(_change_url(route))
    initial = page.context["adminform"].form.initial
    data = {name: value for name, value in initial.items() if value is not None}
    data |= {"aliases": '["small"]', "capabilities": '["chat"]', "is_active": "on"}
    assert staff_client.post(_change_url(route), data).status_code == 302
    route.refresh_from_db()
    assert (route.aliases, route.capabilities) == (["small"], ["chat"])
    assert route.context_tokens_max == 8192
    assert ModelRoute.objects.count() == 1


def test_staff_revoke_tokens_and_keys(
    workspace: Workspace, secrets: list[str], staff_client: Client
) -> None:
    for model in (WorkspaceToken, GatewayKey):
        row = model.objects.get()
        data = {"action": "revoke", "_selected_action": [row.pk]}
        asked = staff_client.post(_list_url(model), data)
        assert str(row) in asked.content.decode()
        row.refresh_from_db()
        assert row.revoked_at is None
        hidden = r'type="hidden" name="([a-z_]+)" value="([^"]*)"'
        confirmed = dict(re.findall(hidden, asked.content.decode()))
        assert staff_client.post(_list_url(model), confirmed).status_code == 302
        row.refresh_from_db()
        assert row.revoked_at is not None


def test_staff_make_people_by_e_mail_address(staff_client: Client) -> None:
    data = {
        "email": "new@example.com",
        "password1": factories.PASSWORD,
        "password2": factories.PASSWORD,
        "usable_password": "true",
    }
    response = staff_client.post(reverse("admin:orgs_user_add"), data)
    assert response.status_code == 302
    assert User.objects.get(email="new@example.com").check_password(factories.PASSWORD)


def test_what_was_done_about_a_dead_letter_is_said_once(
    secrets: list[str], staff_client: Client
) -> None:
    letter = DeadLetter.objects.get()
    url = reverse("admin:billing_deadletter_resolve", args=[letter.pk])
    assert "are not booked" in staff_client.get(url).content.decode()
    data = {"reason": "Corrected by hand.", "idempotency_key": "unused"}
    assert staff_client.post(url, data).status_code == 302
    letter.refresh_from_db()
    assert (letter.resolution, letter.resolved_at is not None) == ("Corrected by hand.", True)
    assert "resolved it already" in staff_client.post(url, data).content.decode()
