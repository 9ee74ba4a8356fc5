"""verify_ledger is silent when the books are right and names what is not, whoever tampered."""

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.db.models import F
from django.utils import timezone

from billing import checks, dead_letters, leases, ledger
from billing.models import DeadLetter, Journal, Lease, LedgerAccount, Transfer, UsageRecord
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
