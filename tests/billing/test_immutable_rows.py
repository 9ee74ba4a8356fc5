"""The database itself refuses what must never happen, also to code that goes around the ledger."""

from datetime import timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from billing import ledger, pricing
from billing.models import (
    CreditGrant,
    GrantUse,
    LedgerAccount,
    OrganizationTerms,
    Payment,
    PaymentEvent,
    PriceVersion,
    Refund,
    Transfer,
    UsageRecord,
)
from tests import factories

NOW = timezone.now()
NEVER_EDITED = "never edited"


@pytest.fixture
def accounts(organization):
    factories.make_credit(organization=organization, nanos=1000)
    return ledger.open_accounts(organization)


@pytest.fixture
def hold(organization, accounts):
    intention = ledger.Hold(organization.pk, 300, "h", NOW, NOW + timedelta(minutes=1))
    return Transfer.objects.get(pk=ledger.hold(intention))


@pytest.fixture
def record(organization):
    factories.make_credit(organization=organization)
    usage = pricing.Usage(input=10, output=5)
    return factories.make_call(organization=organization, price=factories.make_price(), usage=usage)


def make_transfer(accounts, **fields):
    defaults = {
        "organization": accounts["CREDITS"].organization,
        "debit_account": accounts["CREDITS"],
        "credit_account": accounts["USAGE_REVENUE"],
        "amount_nanos": 10,
        "code": "USAGE",
        "idempotency_key": "k",
        "fingerprint": "f",
        "created_at": NOW,
    }
    return Transfer.objects.create(**{**defaults, **fields})


def refused(name):
    """A context in which the database refuses, naming `name` (or, on SQLite, its columns)."""
    return pytest.raises(IntegrityError, match=name)


@pytest.mark.parametrize("model", [Transfer, UsageRecord, PriceVersion])
def test_rows_of_money_are_not_edited(record, model):
    fields = {Transfer: "reason", UsageRecord: "error_code", PriceVersion: "source"}
    with refused(NEVER_EDITED), transaction.atomic():
        model.objects.update(**{fields[model]: "changed"})


@pytest.mark.parametrize("model", [Transfer, UsageRecord, PriceVersion])
def test_rows_of_money_are_not_deleted(record, model):
    with refused(NEVER_EDITED), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"DELETE FROM {model._meta.db_table}")


@pytest.mark.parametrize("model", [Transfer, UsageRecord, PriceVersion])
def test_tables_of_money_are_not_emptied(record, model):
    if connection.vendor != "postgresql":
        pytest.skip("Only PostgreSQL has TRUNCATE.")
    with refused(NEVER_EDITED), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # pending checks would refuse it first
        cursor.execute(f"TRUNCATE {model._meta.db_table} CASCADE")


def test_rows_are_not_replaced_by_an_upsert(accounts):
    first = make_transfer(accounts)
    with refused(NEVER_EDITED), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO billing_transfer SELECT * FROM billing_transfer WHERE id = %s "
            "ON CONFLICT (id) DO UPDATE SET amount_nanos = 1",
            [first.pk],
        )


def test_rows_are_not_replaced_by_sqlites_own_statement(accounts):
    if connection.vendor != "sqlite":
        pytest.skip("Only SQLite has INSERT OR REPLACE.")
    first = make_transfer(accounts)
    with refused(NEVER_EDITED), transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(
            "INSERT OR REPLACE INTO billing_transfer SELECT * FROM billing_transfer WHERE id = %s",
            [first.pk],
        )


def test_the_platform_cannot_delete_an_organization_that_has_money(organization, accounts):
    with pytest.raises(Exception, match=r"protected|violates|FOREIGN"):
        organization.delete()


def test_an_amount_is_above_zero(accounts):
    with refused("billing_transfer_amount_positive"), transaction.atomic():
        make_transfer(accounts, amount_nanos=0)


def test_a_transfer_needs_two_accounts(accounts):
    with refused("billing_transfer_two_accounts"), transaction.atomic():
        make_transfer(accounts, credit_account=accounts["CREDITS"])


def test_only_resolutions_name_a_hold(accounts, hold):
    name = "billing_transfer_only_resolutions_name_a_hold"
    with refused(name), transaction.atomic():
        make_transfer(accounts, pending_transfer=hold)
    with refused(name), transaction.atomic():
        make_transfer(accounts, phase="VOID_PENDING")


def test_only_holds_expire_and_all_do(accounts):
    with refused("billing_transfer_only_holds_expire"), transaction.atomic():
        make_transfer(accounts, expires_at=NOW)
    with refused("billing_transfer_only_holds_expire"), transaction.atomic():
        make_transfer(accounts, phase="PENDING")


def test_a_hold_is_resolved_once(accounts, hold):
    make_transfer(accounts, phase="POST_PENDING", pending_transfer=hold)
    with refused(r"billing_transfer_resolved_once|pending_transfer_id"), transaction.atomic():
        make_transfer(
            accounts, phase="VOID_PENDING", pending_transfer=hold, idempotency_key="other"
        )


def test_a_resolution_is_not_above_its_hold(accounts, hold):
    with refused("resolution"), transaction.atomic():
        make_transfer(accounts, phase="POST_PENDING", pending_transfer=hold, amount_nanos=301)


def test_a_resolution_names_a_hold_and_no_other_transfer(accounts):
    posted = make_transfer(accounts)
    with refused("resolution"), transaction.atomic():
        make_transfer(
            accounts, phase="POST_PENDING", pending_transfer=posted, idempotency_key="other"
        )


def test_a_resolution_stays_in_the_organization_of_its_hold(hold, other_organization):
    theirs = ledger.open_accounts(other_organization)
    with refused("resolution"), transaction.atomic():
        make_transfer(theirs, phase="POST_PENDING", pending_transfer=hold)


def test_an_intention_is_carried_out_once(accounts):
    make_transfer(accounts)
    with refused(r"billing_transfer_once_per_key|idempotency_key"), transaction.atomic():
        make_transfer(accounts)


def test_credit_never_goes_below_zero_holds_included(accounts, hold):
    credit = LedgerAccount.objects.filter(pk=accounts["CREDITS"].pk)
    with refused("billing_account_no_overdraft"), transaction.atomic():
        credit.update(debits_posted_nanos=701)
    with refused("billing_account_no_overdraft"), transaction.atomic():
        credit.update(debits_pending_nanos=1001)


# --- Promotional credit ---------------------------------------------------------------------------
@pytest.fixture
def lot(organization, accounts):
    return CreditGrant.objects.get()


@pytest.mark.parametrize(
    "change",
    [
        {"amount_nanos": 999},
        {"expires_at": NOW},
        {"created_at": NOW - timedelta(days=1)},
        {"used_nanos": 4},
        {"expired_nanos": 4},
    ],
)
def test_of_a_grant_only_what_is_spent_grows(lot, change):
    CreditGrant.objects.update(used_nanos=5, expired_nanos=5)
    with refused("billing_grant_only_spent_grows|only what is used"), transaction.atomic():
        CreditGrant.objects.update(**change)


def test_a_grant_does_not_move_to_another_organization(lot, other_organization):
    with refused("billing_grant_only_spent_grows|only what is used"), transaction.atomic():
        CreditGrant.objects.update(organization=other_organization)


@pytest.mark.parametrize(
    "change", [{"used_nanos": 1001}, {"used_nanos": 600, "expired_nanos": 600}]
)
def test_a_grant_is_not_spent_beyond_its_amount(lot, change):
    with refused("billing_grant_spent_within_amount"), transaction.atomic():
        CreditGrant.objects.update(**change)


def test_a_grant_is_above_zero(lot, accounts):
    with refused("billing_grant_amount_positive"), transaction.atomic():
        CreditGrant.objects.create(
            organization=lot.organization,
            transfer=make_transfer(accounts),
            amount_nanos=0,
            created_at=NOW,
        )


def test_grants_and_their_uses_are_not_removed_nor_uses_edited(lot, accounts):
    use = GrantUse.objects.create(grant=lot, transfer=make_transfer(accounts), amount_nanos=5)
    for statement in (
        "DELETE FROM billing_grantuse",
        "UPDATE billing_grantuse SET amount_nanos = 1",
        f"DELETE FROM billing_creditgrant WHERE id <> {use.grant_id + 1}",
    ):
        with refused(NEVER_EDITED), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)


def test_a_transfer_uses_a_grant_once_and_above_zero(lot, accounts):
    transfer = make_transfer(accounts)
    GrantUse.objects.create(grant=lot, transfer=transfer, amount_nanos=5)
    with refused(r"once_per_transfer|grantuse\.grant_id"), transaction.atomic():
        GrantUse.objects.create(grant=lot, transfer=transfer, amount_nanos=5)
    with refused("billing_grant_use_amount_positive"), transaction.atomic():
        GrantUse.objects.create(grant=lot, transfer=lot.transfer, amount_nanos=0)


def test_a_use_fits_its_transfer_and_is_of_one_organization(lot, accounts, other_organization):
    with refused("grant_use_fits|uses grants of its own"), transaction.atomic():
        GrantUse.objects.create(grant=lot, transfer=make_transfer(accounts), amount_nanos=11)
    theirs = factories.make_credit(organization=other_organization)
    with refused("grant_use_fits|uses grants of its own"), transaction.atomic():
        GrantUse.objects.create(grant=lot, transfer=theirs, amount_nanos=5)


# --- Payments -------------------------------------------------------------------------------------
@pytest.fixture
def payment(organization):
    return Payment.objects.create(
        organization=organization,
        kind="CHECKOUT",
        amount_nanos=1000,
        idempotency_key="p",
        created_at=NOW,
    )


def make_refund(payment, **fields):
    defaults = {
        "payment": payment,
        "amount_nanos": 600,
        "is_external": True,
        "idempotency_key": "r",
        "created_at": NOW,
    }
    return Refund.objects.create(**{**defaults, **fields})


@pytest.mark.parametrize(
    "change", [{"amount_nanos": 1}, {"kind": "AUTO"}, {"idempotency_key": "q"}, {"public_id": "x"}]
)
def test_what_a_payment_asked_for_does_not_change(payment, change):
    with refused("billing_payment_asks_once|payment asked for"), transaction.atomic():
        Payment.objects.update(**change)


def test_a_credited_payment_stays_credited(payment, accounts):
    Payment.objects.update(status="SUCCEEDED", transfer=make_transfer(accounts))
    with refused("billing_payment_asks_once|payment asked for"), transaction.atomic():
        Payment.objects.update(status="FAILED", transfer=None)


def test_paid_means_credited(payment, accounts):
    with refused("billing_payment_paid_means_credited"), transaction.atomic():
        Payment.objects.update(status="SUCCEEDED")
    with refused("billing_payment_paid_means_credited"), transaction.atomic():
        Payment.objects.update(transfer=make_transfer(accounts))


def test_a_transfer_credits_one_payment_and_keys_and_events_are_used_once(payment, accounts):
    transfer = make_transfer(accounts)
    Payment.objects.update(status="SUCCEEDED", transfer=transfer)
    fields = {"organization": payment.organization, "amount_nanos": 5, "created_at": NOW}
    with refused("transfer_id"), transaction.atomic():
        Payment.objects.create(**fields, idempotency_key="q", status="SUCCEEDED", transfer=transfer)
    with refused("idempotency_key"), transaction.atomic():
        Payment.objects.create(**fields, idempotency_key="p")
    event = {"provider_event_id": "evt_1", "type": "t", "payload": "{}", "received_at": NOW}
    PaymentEvent.objects.create(**event)
    with refused("provider_event_id"), transaction.atomic():
        PaymentEvent.objects.create(**event)


def test_payments_and_refunds_are_above_zero(payment):
    with refused("billing_payment_amount_positive"), transaction.atomic():
        Payment.objects.create(
            organization=payment.organization, amount_nanos=0, idempotency_key="q", created_at=NOW
        )
    with refused("billing_refund_amount_positive"), transaction.atomic():
        make_refund(payment, amount_nanos=0)


def test_a_payment_is_refunded_at_most_once_in_full(payment):
    make_refund(payment, amount_nanos=600, status="FAILED")
    make_refund(payment, amount_nanos=600, idempotency_key="s")
    with refused("billing_refund_within_payment|at most once in full"), transaction.atomic():
        make_refund(payment, amount_nanos=401, idempotency_key="t")
    make_refund(payment, amount_nanos=400, idempotency_key="t")


def test_what_a_refund_asked_for_does_not_change_and_its_end_stays(payment):
    make_refund(payment)
    with refused("billing_refund_asks_once|refund asked for"), transaction.atomic():
        Refund.objects.update(amount_nanos=1)
    Refund.objects.update(status="FAILED")
    with refused("billing_refund_asks_once|refund asked for"), transaction.atomic():
        Refund.objects.update(status="SUCCEEDED")


def test_a_refund_is_held_for_unless_it_was_made_elsewhere(payment):
    with refused("billing_refund_is_held_for_or_external"), transaction.atomic():
        make_refund(payment, is_external=False)


def test_what_the_provider_said_is_kept_as_it_came(payment):
    PaymentEvent.objects.create(
        provider_event_id="evt_1", type="t", payload="{}", received_at=NOW, payment=payment
    )
    PaymentEvent.objects.update(processed_at=NOW, outcome="done")
    with refused("billing_event_is_kept|kept as it came"), transaction.atomic():
        PaymentEvent.objects.update(payload="[]")


def test_payments_refunds_and_events_are_not_removed(payment):
    make_refund(payment)
    PaymentEvent.objects.create(provider_event_id="evt_1", type="t", payload="{}", received_at=NOW)
    for table in ("billing_refund", "billing_paymentevent", "billing_payment"):
        with refused(NEVER_EDITED), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(f"DELETE FROM {table}")


def test_counters_are_never_negative(accounts):
    for counter in ("debits_pending", "debits_posted", "credits_pending", "credits_posted"):
        with refused("billing_account_counters_not_negative"), transaction.atomic():
            LedgerAccount.objects.filter(pk=accounts["CORRECTIONS"].pk).update(
                **{f"{counter}_nanos": -1}
            )


def test_an_organization_has_one_account_of_a_kind(organization, accounts):
    with refused(r"billing_account_one_per_kind|ledgeraccount.kind"), transaction.atomic():
        LedgerAccount.objects.create(organization=organization, kind="CREDITS")


def test_a_price_version_is_one_per_moment(record):
    version = record.price_version
    with refused(r"billing_price_version_unique|effective_at"), transaction.atomic():
        PriceVersion.objects.create(
            provider=version.provider,
            model=version.model,
            effective_at=version.effective_at,
            rates={},
            source="again",
            created_at=NOW,
        )


@pytest.mark.parametrize("bucket", [*pricing.BUCKETS, "reasoning"])
def test_usage_is_never_negative(record, bucket):
    with refused("billing_usage_not_negative"), transaction.atomic():
        copy_of(record, **{f"{bucket}_tokens": -1})


@pytest.mark.parametrize("margin", [-1, pricing.MARGIN_BASIS_POINTS_MAX + 1])
def test_a_margin_is_within_its_range(organization, margin):
    with refused("margin"), transaction.atomic():
        OrganizationTerms.objects.create(organization=organization, margin_basis_points=margin)


def test_a_recorded_margin_is_never_negative(record):
    with refused("margin"), transaction.atomic():
        copy_of(record, margin_basis_points=-1)


def test_a_cost_has_a_transfer(record):
    with refused("billing_usage_cost_has_a_transfer"), transaction.atomic():
        copy_of(record, transfer=None)


def test_a_request_is_recorded_once(record):
    with refused("request_id"), transaction.atomic():
        copy_of(record, request_id=record.request_id)


def copy_of(record, **changes):
    fields = {
        field.name: getattr(record, field.name)
        for field in UsageRecord._meta.concrete_fields
        if field.name != "call_id"
    }
    return UsageRecord.objects.create(**{**fields, "request_id": "req_other", **changes})
