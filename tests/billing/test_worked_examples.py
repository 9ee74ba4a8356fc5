"""Worked examples in dollars, for a reader who knows bookkeeping and no Python.

Each story runs the platform's own code and prints every ledger line it makes; together they are
docs/ledger.md, which a test compares. With `WRITE_DOCS=1` in the environment it writes the page.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from billing import refunds
from billing.models import LedgerAccount, Transfer
from tests import factories
from tests.billing.bookkeeping import Books

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "ledger.md"
INTRO = """# The ledger, by example

Every movement of an organization's money is one line: an amount from a debit account to a credit
account. Lines are added, never changed. The tables below were printed by the platform's own code
when its tests ran (`tests/billing/test_worked_examples.py`), every line of it; the tests fail when
this page says something else.

| account | what it is |
|---|---|
| Credits | what the organization has paid or been given and not yet spent: we owe it in service |
| Usage revenue | what calls have earned |
| Promotions | credit we gave away: our expense |
| Payments clearing | money at Stripe |
| Overage receivable | what the organization owes us |
| Corrections | mistakes put right |
| Breakage | promotions that expired unspent |

A line that is *held* reserves an amount; it is *settled* (the amount moves) or *released* (nothing
moves) by a further line.
"""
pytestmark = pytest.mark.django_db


def promotions_are_spent_first_and_expire(books: Books) -> None:
    books.title(
        "Promotion, top-up, usage, expiry",
        "Promotional credit is spent before what was paid for. What is left of it when its time is "
        "over is taken back; what was paid for never expires.",
    )
    books.promise("1 Jan", "10.00", until="31 Jan")
    books.pay("2 Jan", "50.00")
    books.call("3 Jan", "4.00")
    books.call("10 Jan", "3.25")
    books.now(available="52.75", promotional="2.75")
    books.expire("1 Feb")
    books.now(available="50.00", promotional="0.00")
    books.call("2 Feb", "5.00")
    books.now(available="45.00")


def unspent_money_goes_back(books: Books) -> None:
    books.title(
        "Refund",
        "Only what was paid for and is unspent goes back. It is held while Stripe is asked, so "
        "that no call can spend it meanwhile. A refund that fails gives the credit back.",
    )
    books.pay("1 Mar", "50.00")
    books.call("2 Mar", "12.34")
    books.refuse(
        "3 Mar",
        "Acme asks for $40.00 back",
        refunds.UnableToRefund,
        lambda: books.ask_refund("3 Mar", "40.00"),
    )
    books.ask_refund("3 Mar", "30.00")
    books.now(available="7.66", held="30.00")
    books.answer_refund("4 Mar", "succeeded", "Stripe has sent it")
    books.now(available="7.66", held="0.00")
    books.ask_refund("5 Mar", "7.66")
    books.answer_refund("6 Mar", "failed", "Stripe could not send it")
    books.now(available="7.66", held="0.00")


def calls_beyond_the_credit_are_owed(books: Books) -> None:
    books.title(
        "Calls beyond the credit",
        "Credit never falls below zero. What calls cost beyond it is owed, and collected from the "
        "next credit that arrives, before anything else.",
    )
    books.pay("1 Apr", "5.00")
    books.call("2 Apr", "6.20")
    books.now(available="0.00", owed="1.20")
    books.pay("3 Apr", "20.00")
    books.now(available="18.80", owed="0.00")


def mistakes_are_put_right_by_further_lines(books: Books) -> None:
    books.title(
        "Correction",
        "A mistake and its correction both stay in the books. A correction takes promotional "
        "credit last, so that undoing one undoes exactly it.",
    )
    books.promise("1 May", "10.00", until="31 May")
    books.pay("2 May", "25.00")
    books.correct("3 May", "2.50", "Calls were charged twice; we give $2.50 back")
    books.correct("4 May", "-0.50", "That was $0.50 too much")
    books.now(available="37.00", promotional="10.00")


def a_payment_may_be_disputed(books: Books) -> None:
    books.title(
        "Dispute",
        "When a bank takes a payment back, its credit goes with it, and what was spent of it is "
        "owed. When the dispute is won, everything comes back.",
    )
    books.pay("1 Jun", "25.00")
    books.call("2 Jun", "20.00")
    books.dispute("3 Jun")
    books.now(available="0.00", owed="20.00")
    books.win_dispute("20 Jun")
    books.now(available="5.00", owed="0.00")


STORIES = [
    promotions_are_spent_first_and_expire,
    unspent_money_goes_back,
    calls_beyond_the_credit_are_owed,
    mistakes_are_put_right_by_further_lines,
    a_payment_may_be_disputed,
]


def told(story: Callable[[Books], None]) -> Books:
    """The story, run for an organization of its own; it fails where a figure is not as told."""
    books = Books(factories.make_organization())
    story(books)
    books.close()
    return books


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_the_story_comes_true(story: Callable[[Books], None]) -> None:
    assert told(story).lines_told > 0


def test_the_page_prints_every_line_of_every_story() -> None:
    page = "\n".join([INTRO, *("\n".join(told(story).text) for story in STORIES)])
    if os.environ.get("WRITE_DOCS"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page


def test_every_account_and_every_reason_is_in_a_story() -> None:
    for story in STORIES:
        told(story)
    assert set(Transfer.objects.values_list("code", flat=True)) == set(Transfer.Code)
    moved = LedgerAccount.objects.exclude(debits_posted_nanos=0, credits_posted_nanos=0)
    assert set(moved.values_list("kind", flat=True)) == set(LedgerAccount.Kind)
