"""Whether the books are right: everything that must hold, derived again from the rows.

Reads only, in one snapshot, so that calls in flight cannot look like differences. Each check
trusts as little as it can: counters are compared with sums over transfers, costs are computed again
from quantities and prices. Must change nothing; putting right is `ledger.correct`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from django.db import connection, transaction
from django.db.models import Count, F, Min, Q, QuerySet, Sum

from billing import ledger, pricing, usage
from billing.models import (
    CreditGrant,
    GrantUse,
    LedgerAccount,
    PriceVersion,
    Transfer,
    UsageRecord,
)
from billing.money import format_dollars
from orgs.models import Organization

Phase = Transfer.Phase
COUNTERS = (
    "debits_pending_nanos",
    "debits_posted_nanos",
    "credits_pending_nanos",
    "credits_posted_nanos",
)


@dataclass(slots=True)
class Report:
    """Figures to read, and the differences: sentences that name the row and both values."""

    figures: list[tuple[str, str]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Whether everything that must hold does."""
        return not self.differences


@dataclass(frozen=True, slots=True)
class _Books:
    """The rows under check: everything, or those of one organization."""

    accounts: "QuerySet[LedgerAccount]"
    transfers: "QuerySet[Transfer]"
    records: "QuerySet[UsageRecord]"
    lots: "QuerySet[CreditGrant]"


def verify(organization: Organization | None = None) -> Report:
    """Check one organization's books, or everybody's."""
    wanted = {} if organization is None else {"organization": organization}
    books = _Books(
        LedgerAccount.objects.filter(**wanted).select_related("organization"),
        Transfer.objects.filter(**wanted).order_by(),
        UsageRecord.objects.filter(**wanted).order_by(),
        CreditGrant.objects.filter(**wanted).select_related("organization").order_by("pk"),
    )
    report = Report()
    with _snapshot():
        for check in (
            _counters_equal_the_rows,
            _debits_equal_credits,
            _credit_is_not_negative,
            _resolutions_fit_their_holds,
            _accounts_are_of_the_organization,
            _usage_is_what_was_charged,
            _costs_compute_again,
            _lots_are_what_was_taken,
            _lots_lie_in_the_balance,
            _open_holds,
        ):
            check(books, report)
    return report


@contextmanager
def _snapshot() -> Iterator[None]:
    """Everything read inside is of one moment; writers are not held up."""
    if connection.in_atomic_block:
        yield
        return
    with connection.cursor() as cursor:
        if connection.vendor == "sqlite":
            # Not `atomic`: our write transactions take the lock at BEGIN, a reader need not.
            cursor.execute("BEGIN DEFERRED")
            try:
                yield
            finally:
                cursor.execute("ROLLBACK")
            return
        with transaction.atomic():
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield


def _counters_equal_the_rows(books: _Books, report: Report) -> None:
    open_holds = Q(phase=Phase.PENDING, resolutions__isnull=True)
    posted = Q(phase__in=[Phase.POSTED, Phase.POST_PENDING])
    derived = {
        f"{side}s_{state}_nanos": _sums(books.transfers.filter(rows), f"{side}_account_id")
        for side in ("debit", "credit")
        for state, rows in (("pending", open_holds), ("posted", posted))
    }
    accounts = list(books.accounts.order_by("organization_id", "id"))
    for account in accounts:
        for counter in COUNTERS:
            stored, summed = getattr(account, counter), derived[counter].get(account.pk, 0)
            if stored != summed:
                report.differences.append(
                    f"{_name(account)}: {counter} is {stored}, its transfers sum to {summed} "
                    f"(difference {stored - summed})."
                )
    report.figures.append(("Accounts", f"{len(accounts):,}"))
    report.figures.append(("Transfers", f"{books.transfers.count():,}"))


def _debits_equal_credits(books: _Books, report: Report) -> None:
    sums = books.accounts.aggregate(**{name: Sum(name, default=0) for name in COUNTERS})
    for state in ("posted", "pending"):
        debits, credits = sums[f"debits_{state}_nanos"], sums[f"credits_{state}_nanos"]
        report.figures.append((f"Debits {state}", format_dollars(debits)))
        report.figures.append((f"Credits {state}", format_dollars(credits)))
        if debits != credits:
            report.differences.append(
                f"Debits {state} are {debits}, credits {state} are {credits} nano-dollars."
            )


def _credit_is_not_negative(books: _Books, report: Report) -> None:
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


def _resolutions_fit_their_holds(books: _Books, report: Report) -> None:
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


def _accounts_are_of_the_organization(books: _Books, report: Report) -> None:
    foreign = books.transfers.exclude(
        debit_account__organization=F("organization"),
        credit_account__organization=F("organization"),
    )
    report.differences.extend(
        f"Transfer {transfer.public_id} uses another organization's account."
        for transfer in foreign
    )


def _usage_is_what_was_charged(books: _Books, report: Report) -> None:
    charged = _sums(
        books.transfers.filter(
            code=Transfer.Code.USAGE, phase__in=[Phase.POSTED, Phase.POST_PENDING]
        ),
        "organization_id",
    )
    used = dict(
        books.records.values("organization_id")
        .annotate(cost=Sum("cost_nanos"))
        .values_list("organization_id", "cost")
    )
    for organization in Organization.objects.filter(pk__in={*charged, *used}):
        paid, cost = charged.get(organization.pk, 0), used.get(organization.pk, 0)
        if paid != cost:
            report.differences.append(
                f"{organization.slug}: usage records cost {cost}, transfers charged {paid} "
                f"(difference {cost - paid})."
            )
    report.figures.append(("Usage charged", format_dollars(sum(charged.values()))))


def _costs_compute_again(books: _Books, report: Report) -> None:
    prices = {
        version.pk: pricing.Price.from_rates(version.pk, version.rates)
        for version in PriceVersion.objects.all()
    }
    count = 0
    for record in books.records.iterator(chunk_size=2000):
        count += 1
        try:
            cost = pricing.cost_nanos(prices[record.price_version_id], usage.usage_of(record))
        except pricing.UnpricedBucket as error:
            report.differences.append(f"Call {record.request_id}: no price for {error} tokens.")
            continue
        if cost != record.cost_nanos:
            report.differences.append(
                f"Call {record.request_id}: recorded cost {record.cost_nanos}, computed {cost}."
            )
    report.figures.append(("Calls", f"{count:,}"))


def _lots_are_what_was_taken(books: _Books, report: Report) -> None:
    uses = GrantUse.objects.filter(grant__in=books.lots).order_by()
    expiry = Q(transfer__code=Transfer.Code.EXPIRY)
    used, expired = (
        dict(
            uses.filter(rows)
            .values("grant_id")
            .annotate(total=Sum("amount_nanos"))
            .values_list("grant_id", "total")
        )
        for rows in (~expiry, expiry)
    )
    for lot in books.lots:
        for name, stored, summed in (
            ("used", lot.used_nanos, used.get(lot.pk, 0)),
            ("expired", lot.expired_nanos, expired.get(lot.pk, 0)),
        ):
            if stored != summed:
                report.differences.append(
                    f"{lot.organization.slug}: grant {lot.pk} has {name} {stored}, its uses sum to "
                    f"{summed} (difference {stored - summed})."
                )


def _lots_lie_in_the_balance(books: _Books, report: Report) -> None:
    """Promotional credit is part of the balance that no refund is taking."""
    left: dict[int, int] = {}
    for lot in books.lots:
        left[lot.organization_id] = left.get(lot.organization_id, 0) + lot.remaining_nanos
    room: dict[int, int] = {}
    for account in books.accounts:
        if account.kind == LedgerAccount.Kind.CREDITS:
            room[account.organization_id] = (
                room.get(account.organization_id, 0) + account.posted_nanos
            )
        if account.kind == LedgerAccount.Kind.PAYMENTS_CLEARING:
            room[account.organization_id] = (
                room.get(account.organization_id, 0) - account.credits_pending_nanos
            )
    for organization in Organization.objects.filter(pk__in=left):
        if left[organization.pk] > room.get(organization.pk, 0):
            report.differences.append(
                f"{organization.slug}: {left[organization.pk]} nano-dollars of promotions are "
                f"unspent, the balance holds {room.get(organization.pk, 0)}."
            )
    report.figures.append(("Unspent promotions", format_dollars(sum(left.values()))))


def _open_holds(books: _Books, report: Report) -> None:
    """Not a difference by itself: calls in flight hold credit."""
    found = (books.transfers & ledger.open_holds()).aggregate(
        count=Count("id"), amount=Sum("amount_nanos", default=0), oldest=Min("created_at")
    )
    text = f"{found['count']:,}, {format_dollars(found['amount'])}"
    if found["oldest"]:
        text += f", oldest of {found['oldest']:%Y-%m-%d %H:%M:%S} UTC"
    report.figures.append(("Open holds", text))


def _sums(transfers: "QuerySet[Transfer]", by: str) -> dict[int, int]:
    """Amounts summed by a column's value."""
    return dict(transfers.values(by).annotate(total=Sum("amount_nanos")).values_list(by, "total"))


def _name(account: LedgerAccount) -> str:
    return f"{account.organization.slug}/{account.kind}"
