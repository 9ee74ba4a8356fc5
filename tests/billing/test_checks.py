"""verify_ledger is silent when the books are right and names what is not, whoever tampered."""

from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import F
from django.utils import timezone

from billing import (
    checks,
    dead_letters,
    leases,
    ledger,
    payments,
    refunds,
    rollups,
    statements,
)
from billing.models import (
    CreditGrant,
    DeadLetter,
    GrantUse,
    Journal,
    Lease,
    LedgerAccount,
    Payment,
    PriceVersion,
    Refund,
    Statement,
    Transfer,
    UsageRecord,
    UsageRollup,
)
from billing.pricing import Usage
from tests import factories
from tests.immutability import without_triggers

pytestmark = pytest.mark.django_db


@pytest.fixture
def record(organization):
    factories.make_credit(organization=organization)
    return factories.make_call(
        organization=organization, price=factories.make_price(), usage=Usage(input=9, output=9)
    )


@pytest.fixture
def tamper(record):
    """Change rows in a way that no trigger or constraint sees."""

    def change(model, pk, **fields):
        with without_triggers(connection):
            model.objects.filter(pk=pk).update(**fields)

    return change


def differences(organization=None):
    return checks.verify(organization).differences


def test_right_books_have_figures_and_no_differences(record, capsys):
    call_command("verify_ledger")
    shown = capsys.readouterr().out
    assert "The ledger is exact." in shown
    assert "Credit of customers  $25.00" in shown
    assert "Usage charged        $0.00000054" in shown
    assert "Open holds           0, $0.00" in shown


def test_empty_books_are_right(db):
    assert differences() == []


def test_calls_in_flight_are_listed_and_no_difference(organization, record):
    now = timezone.now()
    ledger.hold(ledger.Hold(organization.pk, 5_000_000, "open", now, now))
    report = checks.verify()
    assert report.is_clean
    assert dict(report.figures)["Open holds"].startswith("1, $0.005, oldest of ")


@pytest.mark.parametrize("counter", checks.COUNTERS)
def test_a_tampered_counter_is_named(record, tamper, organization, counter):
    account = LedgerAccount.objects.get(organization=organization, kind="USAGE_REVENUE")
    tamper(LedgerAccount, account.pk, **{counter: getattr(account, counter) + 5})
    found = differences()
    assert any(f"{organization.slug}/USAGE_REVENUE: {counter}" in text for text in found)
    assert any(text.startswith(("Debits posted are", "Debits pending are")) for text in found)


def test_a_tampered_cost_is_named(record, tamper):
    tamper(UsageRecord, record.pk, cost_nanos=record.cost_nanos + 1)
    found = differences()
    assert any(record.request_id in text for text in found)
    assert any("usage records cost 541, transfers charged 540" in text for text in found)


def test_tampered_quantities_are_named(record, tamper):
    tamper(UsageRecord, record.pk, output_tokens=8)
    assert any(f"Call {record.request_id}: recorded cost" in text for text in differences())


def test_a_tampered_transfer_is_named(record, tamper, organization):
    now = timezone.now()
    held = ledger.hold(ledger.Hold(organization.pk, 1_000_000, "held", now, now))
    settlement = ledger.Settlement(organization.pk, held, 1_000_000, 500_000, "settled", now)
    tamper(Transfer, ledger.settle(settlement), amount_nanos=2_000_000)
    assert any("does not fit the hold it resolves" in text for text in differences())


def test_calls_under_each_others_charge_are_named(organization, record, tamper):
    other = factories.make_call(
        organization=organization, price=factories.make_price(), usage=Usage(input=90)
    )
    assert differences() == []
    tamper(UsageRecord, record.pk, transfer=other.transfer)
    # The sums of the organization are still right.
    lost, swollen = record.transfer, other.transfer
    assert differences() == [
        f"Transfer {lost.public_id} charged {lost.amount_nanos}, its calls cost 0 "
        f"(difference -{lost.amount_nanos}).",
        f"Transfer {swollen.public_id} charged {swollen.amount_nanos}, its calls cost "
        f"{swollen.amount_nanos + record.cost_nanos} (difference {record.cost_nanos}).",
    ]


def test_what_credit_does_not_cover_belongs_to_the_same_calls(organization, record):
    left = ledger.balance(organization).posted_nanos
    ledger.correct(
        organization,
        100 - left,
        reason="leave little",
        idempotency_key="leave-little",
        at=timezone.now(),
    )
    for _ in range(2):  # covered in part, then not at all
        factories.make_call(
            organization=organization, price=factories.make_price(), usage=Usage(input=90)
        )
    assert ledger.owed_nanos(organization.pk) > 0
    assert differences() == []


def test_a_lease_that_the_account_does_not_know_of_is_named(organization, record):
    now = timezone.now()
    leases.register("here-1", host="here", at=now)
    leases.grant("here-1", organization.pk, needed_nanos=5_000)
    assert differences() == []
    Lease.objects.update(granted_nanos=F("granted_nanos") + 7)
    assert any("difference -7" in text for text in differences())


def test_a_closed_journal_that_holds_credit_is_named(organization, record):
    now = timezone.now()
    leases.register("here-1", host="here", at=now)
    leases.grant("here-1", organization.pk, needed_nanos=5_000)
    Journal.objects.update(closed_at=now)
    assert any("closed journal here-1 still holds" in text for text in differences())


def test_a_record_that_could_not_be_booked_is_a_difference_with_its_amount(record):
    now = timezone.now()
    leases.register("here-1", host="here", at=now)
    DeadLetter.objects.create(
        journal_id="here-1", position=8, raw=b"?", reason="torn", cost_nanos=99, created_at=now
    )
    assert any("here-1 at 8 is not booked (99 nano-dollars)" in text for text in differences())
    letter = DeadLetter.objects.get()
    dead_letters.resolve(letter, resolution="Corrected by hand.", at=now)
    assert differences() == []
    with pytest.raises(dead_letters.AlreadyResolved):
        dead_letters.resolve(letter, resolution="Again.", at=now)


def test_money_moved_into_another_organization_is_named(record, tamper, other_organization):
    theirs = ledger.open_accounts(other_organization)["PROMOTIONS"]
    grant = Transfer.objects.get(code="PROMO")
    tamper(Transfer, grant.pk, debit_account=theirs)
    assert any("another organization's account" in text for text in differences())


# --- What names each other ----------------------------------------------------------------------
@pytest.fixture
def payment(organization, record):
    """Twenty dollars that were paid."""
    now = timezone.now()
    payment = Payment.objects.create(
        organization=organization,
        kind=Payment.Kind.CHECKOUT,
        amount_nanos=20 * 10**9,
        idempotency_key="paid",
        created_at=now,
    )
    payments.credit(payment, amount_nanos=20 * 10**9, provider_payment_id="pi_1", at=now)
    payment.refresh_from_db()
    return payment


@pytest.fixture
def refund(payment):
    """Under way."""
    return refunds.request(payment, 3 * 10**9, key="back", reason="", by=None, at=timezone.now())


def test_a_payment_of_another_amount_than_was_credited_is_named(payment, tamper):
    assert differences() == []
    tamper(Payment, payment.pk, amount_nanos=19 * 10**9)
    assert any(f"Payment {payment.public_id}" in text for text in differences())


def test_a_payment_credited_to_another_organization_is_named(payment, tamper, other_organization):
    tamper(Payment, payment.pk, organization=other_organization)
    assert any(f"Payment {payment.public_id}" in text for text in differences())


def test_credit_that_nobody_paid_for_is_named(organization, record):
    ledger.top_up(organization.pk, 5, reason="a gift", idempotency_key="gift", at=timezone.now())
    assert any("no payment names it" in text for text in differences())


@pytest.mark.parametrize(
    ("ends", "fields"),
    [
        (None, {"status": "SUCCEEDED"}),
        (None, {"status": "FAILED"}),
        (None, {"amount_nanos": 2 * 10**9}),
        (refunds.complete, {"status": "FAILED"}),
        (refunds.complete, {"status": "REQUESTED"}),
        (lambda refund, *, at: refunds.fail(refund, "no", at=at), {"status": "SUCCEEDED"}),
    ],
)
def test_a_refund_that_is_not_what_its_transfers_moved_is_named(refund, tamper, ends, fields):
    if ends:
        ends(refund, at=timezone.now())
    assert differences() == []
    tamper(Refund, refund.pk, **fields)
    assert any(f"Refund {refund.public_id}" in text for text in differences())


def test_a_refund_made_elsewhere_that_says_another_amount_is_named(payment, tamper):
    refunds.note_total(payment, 4 * 10**9, at=timezone.now())
    assert differences() == []
    tamper(Refund, Refund.objects.get().pk, amount_nanos=10**9)
    assert any("is not what its transfers moved" in text for text in differences())


def test_credit_held_for_no_refund_is_named(refund, record):
    with without_triggers(connection):
        refund.delete()
    assert any("nano-dollars for no refund" in text for text in differences())


def test_more_refunded_than_was_paid_is_named(payment, refund, tamper):
    tamper(Payment, payment.pk, amount_nanos=2 * 10**9)
    assert any("is refunded 3000000000" in text for text in differences())


def test_a_transfer_under_a_wrong_name_is_named(record, tamper):
    tamper(Transfer, record.transfer_id, code="CORRECTION")
    assert any("accounts it has nothing to do with" in text for text in differences())


@pytest.mark.parametrize("kind", ["CREDITS", "BREAKAGE"])
def test_a_missing_or_wrong_floor_is_named(organization, record, tamper, kind):
    account = LedgerAccount.objects.get(organization=organization, kind=kind)
    tamper(LedgerAccount, account.pk, allows_overdraft=not account.allows_overdraft)
    assert any(f"{organization.slug}/{kind} may" in text for text in differences())


def test_a_grant_that_is_not_what_its_transfer_gave_is_named(record, tamper, other_organization):
    lot = CreditGrant.objects.get()
    tamper(CreditGrant, lot.pk, organization=other_organization)
    assert any("not what its transfer has given" in text for text in differences())


def test_a_promotion_without_a_grant_is_named(record):
    with without_triggers(connection):
        GrantUse.objects.all().delete()
        CreditGrant.objects.all().delete()
    assert any("no grant says what became of it" in text for text in differences())


def test_a_grant_used_by_what_took_no_credit_is_named(record, tamper):
    use = GrantUse.objects.get()
    tamper(GrantUse, use.pk, transfer=Transfer.objects.get(code="PROMO"))
    assert any("which takes no credit of its organization" in text for text in differences())


@pytest.mark.parametrize("dimension", ["deployment_id", "key_id", "workspace_id"])
def test_usage_summed_under_another_scope_is_named(record, tamper, dimension):
    """Budgets read these."""
    rollups.merge_all()
    rollup = UsageRollup.objects.filter(period="DAY").get()
    tamper(UsageRollup, rollup.pk, **{dimension: 999})
    assert any("rebuild_rollups" in text for text in differences())


def test_a_price_that_cannot_be_read_is_a_difference_and_no_crash(record, tamper):
    tamper(PriceVersion, record.price_version_id, rates={"input": [{"from_input_tokens": 0.5}]})
    found = differences()
    assert any(f"Price version {record.price_version_id} cannot be read" in text for text in found)
    assert any("no readable price version" in text for text in found)


def test_a_statement_forged_with_its_digest_is_named(organization, price_of_september):
    statements.close_due(organization, datetime(2026, 10, 5, tzinfo=UTC))
    assert differences() == []
    row = Statement.objects.get()
    figures = row.figures
    figures["stated"]["USAGE"]["2026-09"][0] -= 7
    figures["lines"][-1]["amount_nanos"] -= 7
    figures["closing_nanos"] -= 7
    with without_triggers(connection):
        Statement.objects.update(figures=figures, digest=statements.digest_of(figures))
    assert any("of USAGE in 2026-09, the books have" in text for text in differences())


@pytest.fixture
def price_of_september(organization):
    """Credit and a call of a month that is over."""
    at = datetime(2026, 9, 10, tzinfo=UTC)
    ledger.grant(organization, 10**9, reason="w", idempotency_key="w", at=at)
    price = factories.make_price()
    for hours in range(2):
        factories.make_call(
            organization=organization,
            price=price,
            usage=Usage(input=9, output=9),
            started_at=at + timedelta(hours=hours),
        )
    return price


def test_what_arrives_after_a_statement_is_no_difference(organization, price_of_september):
    statements.close_due(organization, datetime(2026, 10, 5, tzinfo=UTC))
    factories.make_call(
        organization=organization,
        price=price_of_september,
        usage=Usage(input=9, output=9),
        started_at=datetime(2026, 9, 30, tzinfo=UTC),
    )
    assert differences() == []


def test_one_organization_can_be_checked_alone(record, tamper, organization, other_organization):
    tamper(UsageRecord, record.pk, cost_nanos=0)
    assert differences(other_organization) == []
    assert differences(organization) != []


def test_the_command_fails_when_something_differs(record, tamper, capsys):
    tamper(UsageRecord, record.pk, cost_nanos=1)
    with pytest.raises(SystemExit) as exit_:
        call_command("verify_ledger")
    assert exit_.value.code == 1
    assert "DIFFERENCE" in capsys.readouterr().err


def test_the_command_knows_only_organizations_that_exist(db):
    with pytest.raises(CommandError, match="No organization has the slug 'nobody'"):
        call_command("verify_ledger", "--organization", "nobody")


@pytest.mark.django_db(transaction=True)
def test_outside_a_transaction_the_check_reads_one_moment():
    organization = factories.make_organization()
    factories.make_credit(organization=organization)
    assert checks.verify(organization).is_clean
    assert not connection.in_atomic_block
    factories.make_credit(organization=organization)  # and leaves the connection as it was
