"""Checks of the ledger by itself: counters, double entry, credit, holds. See `billing.checks`."""

from django.db.models import Count, F, Min, Q, QuerySet, Sum

from billing import ledger
from billing.checks.books import Books, Report
from billing.checks.journals import outstanding_leases
from billing.models import LedgerAccount, Transfer
from billing.money import format_dollars

Phase = Transfer.Phase
Kind = LedgerAccount.Kind
Code = Transfer.Code
# Code to the (debit, credit) accounts of its transfers.
ACCOUNTS = {
    Code.TOPUP: [(Kind.PAYMENTS_CLEARING, Kind.CREDITS)],
    Code.PROMO: [(Kind.PROMOTIONS, Kind.CREDITS)],
    Code.EXPIRY: [(Kind.CREDITS, Kind.BREAKAGE)],
    Code.OVERAGE: [(Kind.CREDITS, Kind.OVERAGE_RECEIVABLE)],
    Code.CORRECTION: [(Kind.CORRECTIONS, Kind.CREDITS), (Kind.CREDITS, Kind.CORRECTIONS)],
    Code.USAGE: [
        (Kind.CREDITS, Kind.USAGE_REVENUE),
        (Kind.OVERAGE_RECEIVABLE, Kind.USAGE_REVENUE),
    ],
    Code.REFUND: [
        (Kind.CREDITS, Kind.PAYMENTS_CLEARING),
        (Kind.OVERAGE_RECEIVABLE, Kind.PAYMENTS_CLEARING),
    ],
    Code.DISPUTE: [
        (Kind.CREDITS, Kind.PAYMENTS_CLEARING),
        (Kind.OVERAGE_RECEIVABLE, Kind.PAYMENTS_CLEARING),
        (Kind.PAYMENTS_CLEARING, Kind.CREDITS),
    ],
}
COUNTERS = (
    "debits_pending_nanos",
    "debits_posted_nanos",
    "credits_pending_nanos",
    "credits_posted_nanos",
)


def counters_equal_the_rows(books: Books, report: Report) -> None:
    """Every counter of an account is the sum of its transfers and leases, from zero (I4, I5)."""
    open_holds = Q(phase=Phase.PENDING, resolutions__isnull=True)
    posted = Q(phase__in=[Phase.POSTED, Phase.POST_PENDING])
    derived = {
        f"{side}s_{state}_nanos": sums_by(books.transfers.filter(rows), f"{side}_account_id")
        for side in ("debit", "credit")
        for state, rows in (("pending", open_holds), ("posted", posted))
    }
    accounts = list(books.accounts.order_by("organization_id", "id"))
    leased = outstanding_leases()
    for account in accounts:
        for counter in COUNTERS:
            stored, summed = getattr(account, counter), derived[counter].get(account.pk, 0)
            if (account.kind, counter) in LEASED_COUNTERS:
                summed += leased.get(account.organization_id, 0)
            if stored != summed:
                report.differences.append(
                    f"{_name(account)}: {counter} is {stored}, its rows sum to {summed} "
                    f"(difference {stored - summed})."
                )
    report.figures.append(("Accounts", f"{len(accounts):,}"))
    report.figures.append(("Transfers", f"{books.transfers.count():,}"))


# Where credit in the hands of serving processes is counted as held, on both sides of its entry.
LEASED_COUNTERS = {
    (LedgerAccount.Kind.CREDITS.value, "debits_pending_nanos"),
    (LedgerAccount.Kind.USAGE_REVENUE.value, "credits_pending_nanos"),
}


def debits_equal_credits(books: Books, report: Report) -> None:
    """What left one account arrived in another."""
    sums = books.accounts.aggregate(**{name: Sum(name, default=0) for name in COUNTERS})
    for state in ("posted", "pending"):
        debits, credits = sums[f"debits_{state}_nanos"], sums[f"credits_{state}_nanos"]
        report.figures.append((f"Debits {state}", format_dollars(debits)))
        report.figures.append((f"Credits {state}", format_dollars(credits)))
        if debits != credits:
            report.differences.append(
                f"Debits {state} are {debits}, credits {state} are {credits} nano-dollars."
            )


def credit_is_not_negative(books: Books, report: Report) -> None:
    """Nobody's credit is below zero, holds included (I6)."""
    posted = held = 0
    for account in books.accounts.filter(kind=LedgerAccount.Kind.CREDITS):
        posted += account.posted_nanos
        held += account.debits_pending_nanos
        if account.available_nanos < 0:
            report.differences.append(
                f"{_name(account)}: {account.available_nanos} nano-dollars available."
            )
    report.figures.append(("Credit of customers", format_dollars(posted)))
    report.figures.append(("of which held", format_dollars(held)))


def resolutions_fit_their_holds(books: Books, report: Report) -> None:
    """A hold is resolved once, between its own accounts, by at most its amount."""
    resolutions = books.transfers.filter(pending_transfer__isnull=False)
    unfit = resolutions.exclude(
        pending_transfer__phase=Phase.PENDING,
        pending_transfer__organization=F("organization"),
        pending_transfer__debit_account=F("debit_account"),
        pending_transfer__credit_account=F("credit_account"),
        pending_transfer__amount_nanos__gte=F("amount_nanos"),
    )
    report.differences.extend(
        f"Transfer {transfer.public_id} does not fit the hold it resolves." for transfer in unfit
    )
    twice = resolutions.values("pending_transfer").annotate(times=Count("id")).filter(times__gt=1)
    report.differences.extend(
        f"The hold with id {row['pending_transfer']} is resolved {row['times']} times."
        for row in twice
    )


def accounts_are_of_the_organization(books: Books, report: Report) -> None:
    """No transfer reaches into another organization."""
    foreign = books.transfers.exclude(
        debit_account__organization=F("organization"),
        credit_account__organization=F("organization"),
    )
    report.differences.extend(
        f"Transfer {transfer.public_id} uses another organization's account."
        for transfer in foreign
    )


def accounts_are_of_the_purpose(books: Books, report: Report) -> None:
    """Each transfer moves between accounts that its code is about; a resolution has its hold's."""
    is_right = Q()
    for code, pairs in ACCOUNTS.items():
        for debit, credit in pairs:
            is_right |= Q(code=code, debit_account__kind=debit, credit_account__kind=credit)
    wrong = books.transfers.filter(
        ~is_right | (Q(pending_transfer__isnull=False) & ~Q(pending_transfer__code=F("code")))
    )
    report.differences.extend(
        f"Transfer {transfer.public_id} ({transfer.get_code_display()}) moves "
        f"{transfer.amount_nanos} nano-dollars between accounts it has nothing to do with."
        for transfer in wrong
    )


def floors_are_in_place(books: Books, report: Report) -> None:
    """Credit, and nothing else, is kept from falling below zero; no more is repaid than is owed."""
    for account in books.accounts:
        if account.allows_overdraft == (account.kind == Kind.CREDITS):
            word = "may" if account.allows_overdraft else "may not"
            report.differences.append(f"{_name(account)} {word} fall below zero.")
        if account.kind == Kind.OVERAGE_RECEIVABLE and account.posted_nanos > 0:
            report.differences.append(
                f"{_name(account)}: {account.posted_nanos} nano-dollars more are repaid than owed."
            )


def open_holds(books: Books, report: Report) -> None:
    """Not a difference by itself: calls in flight hold credit."""
    found = (books.transfers & ledger.open_holds()).aggregate(
        count=Count("id"), amount=Sum("amount_nanos", default=0), oldest=Min("created_at")
    )
    text = f"{found['count']:,}, {format_dollars(found['amount'])}"
    if found["oldest"]:
        text += f", oldest of {found['oldest']:%Y-%m-%d %H:%M:%S} UTC"
    report.figures.append(("Open holds", text))


def sums_by(transfers: "QuerySet[Transfer]", by: str) -> dict[int, int]:
    """Amounts summed by a column's value."""
    return dict(transfers.values(by).annotate(total=Sum("amount_nanos")).values_list(by, "total"))


def _name(account: LedgerAccount) -> str:
    return f"{account.organization.slug}/{account.kind}"
