"""Worked examples in dollars, for a reader who knows bookkeeping and no Python.

Each line of a story is one thing that happened; `books` is the trial balance after it: per
account, debits and credits posted, in dollars.
"""

from datetime import timedelta

import pytest
from django.utils import timezone

from billing import checks, ledger
from billing.models import Transfer
from billing.money import dollars_from_nanos, nanos_from_dollars

NOW = timezone.now()
pytestmark = pytest.mark.django_db


class Story:
    """Acme's dealings with us, told in dollars."""

    def __init__(self, organization):
        self.organization = organization

    def we_give(self, dollars):
        ledger.grant(
            self.organization,
            nanos_from_dollars(dollars),
            reason="welcome",
            idempotency_key=f"grant {dollars}",
            at=NOW,
        )

    def a_call_reserves(self, dollars, name="call"):
        return Transfer.objects.get(
            pk=ledger.hold(
                ledger.Hold(
                    self.organization.pk,
                    nanos_from_dollars(dollars),
                    f"{name} reserves",
                    NOW,
                    NOW + timedelta(minutes=20),
                )
            )
        )

    def the_call_costs(self, hold, dollars, name="call"):
        ledger.settle(
            ledger.Settlement(
                self.organization.pk,
                hold.pk,
                hold.amount_nanos,
                nanos_from_dollars(dollars),
                f"{name} ends",
                NOW,
            )
        )

    def we_correct(self, dollars):
        ledger.correct(
            self.organization,
            nanos_from_dollars(dollars),
            reason="put right",
            idempotency_key=f"correct {dollars}",
            at=NOW,
        )

    @property
    def available(self):
        return str(dollars_from_nanos(ledger.balance(self.organization).available_nanos))

    @property
    def books(self):
        return {
            kind: (
                str(dollars_from_nanos(account.debits_posted_nanos)),
                str(dollars_from_nanos(account.credits_posted_nanos)),
            )
            for kind, account in ledger.open_accounts(self.organization).items()
            if account.debits_posted_nanos or account.credits_posted_nanos
        }


@pytest.fixture
def acme(organization):
    return Story(organization)


def test_promotional_credit_is_our_expense_and_what_we_owe_in_service(acme):
    acme.we_give("25")
    assert acme.books == {"PROMOTIONS": ("25", "0"), "CREDITS": ("0", "25")}


def test_a_call_reserves_its_worst_case_and_pays_what_it_used(acme):
    acme.we_give("25")
    call = acme.a_call_reserves("2.00")
    assert acme.available == "23"
    assert acme.books["CREDITS"] == ("0", "25")  # nothing is paid yet
    acme.the_call_costs(call, "0.75")
    assert acme.available == "24.25"
    assert acme.books == {
        "PROMOTIONS": ("25", "0"),
        "CREDITS": ("0.75", "25"),
        "USAGE_REVENUE": ("0", "0.75"),
    }


def test_a_call_that_failed_pays_nothing(acme):
    acme.we_give("25")
    acme.the_call_costs(acme.a_call_reserves("2.00"), "0")
    assert acme.available == "25"
    assert "USAGE_REVENUE" not in acme.books


def test_the_last_dollar_can_be_spent_and_not_one_nano_more(acme):
    acme.we_give("1")
    acme.the_call_costs(acme.a_call_reserves("1"), "1")
    assert acme.available == "0"
    with pytest.raises(ledger.UnableToHold):
        acme.a_call_reserves("0.000000001", name="another")


def test_a_call_that_cost_more_than_reserved_leaves_a_receivable_not_a_debt_in_credits(acme):
    acme.we_give("1")
    acme.the_call_costs(acme.a_call_reserves("1"), "1.20")
    assert acme.available == "0"
    assert acme.books == {
        "PROMOTIONS": ("1", "0"),
        "CREDITS": ("1", "1"),
        "OVERAGE_RECEIVABLE": ("0.2", "0"),
        "USAGE_REVENUE": ("0", "1.2"),
    }


def test_a_mistake_is_put_right_by_another_entry_and_both_stay(acme):
    acme.we_give("25")
    acme.we_correct("-5")
    acme.we_correct("2")
    assert acme.available == "22"
    assert acme.books == {
        "PROMOTIONS": ("25", "0"),
        "CREDITS": ("5", "27"),
        "CORRECTIONS": ("2", "5"),
    }


def test_whatever_happened_debits_equal_credits(acme):
    acme.we_give("25")
    acme.the_call_costs(acme.a_call_reserves("2"), "3")
    acme.we_correct("-1")
    figures = dict(checks.verify(acme.organization).figures)
    assert figures["Debits posted"] == figures["Credits posted"] == "$29.00"
