"""Whether the books are right: everything that must hold, derived again from the rows.

Reads only, in one snapshot, so that calls in flight cannot look like differences. Each check
trusts as little as it can: counters are compared with sums over transfers, rollups with sums over
usage records, costs are computed again from quantities and prices. Must change nothing; putting
right is `ledger.correct` and `rollups.rebuild`.

A check is a function of the rows under check and the report it adds figures and differences to; a
further one goes into a module of this package by what it looks at, and into CHECKS.
"""

from billing.checks import balances, consumption, journals, lots, paid, stated
from billing.checks.balances import COUNTERS as COUNTERS
from billing.checks.books import Check, books_of, one_moment
from billing.checks.books import Report as Report
from orgs.models import Organization

CHECKS: tuple[Check, ...] = (
    balances.counters_equal_the_rows,
    balances.debits_equal_credits,
    balances.credit_is_not_negative,
    balances.resolutions_fit_their_holds,
    balances.accounts_are_of_the_organization,
    balances.accounts_are_of_the_purpose,
    balances.floors_are_in_place,
    paid.payments_are_what_was_credited,
    paid.refunds_are_what_was_sent_back,
    consumption.calls_are_recorded_once,
    consumption.usage_is_what_was_charged,
    consumption.each_charge_is_its_calls,
    consumption.rollups_are_what_was_used,
    consumption.costs_compute_again,
    lots.lots_are_of_their_promotions,
    lots.lots_are_what_was_taken,
    lots.uses_are_of_their_transfers,
    lots.lots_lie_in_the_balance,
    stated.statements_are_unchanged,
    balances.open_holds,
    journals.closed_journals_hold_nothing,
    journals.nothing_is_unbooked,
)


def verify(organization: Organization | None = None) -> Report:
    """Check one organization's books, or everybody's."""
    books = books_of(organization)
    report = Report()
    with one_moment():
        for check in CHECKS:
            check(books, report)
    return report
