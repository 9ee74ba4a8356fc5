"""Monthly statements: opening balance, what moved it, closing balance, and what was used.

The balance of a statement is the organization's credit minus what it owes for calls beyond that.
Movements of money belong to the month of their transfer; usage to the month (UTC) in which the
call began, whenever its record and its charge arrived. A closed month never changes: what arrives
later is a named line of the next statement, and of no other. Opening plus lines is closing, always.

Owns how statements are made, closed and proved unchanged. Must not know how they are shown.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import structlog
from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import TruncMonth

from billing import usage
from billing.models import LedgerAccount, Statement, Transfer, UsageRollup
from orgs.models import Organization

log = structlog.get_logger(__name__)

# Records of the month's last calls have this long to arrive before the month is closed.
CLOSE_AFTER = timedelta(days=2)
Code = Transfer.Code
OURS = (LedgerAccount.Kind.CREDITS.value, LedgerAccount.Kind.OVERAGE_RECEIVABLE.value)
# Codes in the order of a statement; usage comes last and from its own records.
LABELS = {
    Code.TOPUP.value: "Top-ups",
    Code.PROMO.value: "Promotional credit",
    Code.REFUND.value: "Refunds",
    Code.DISPUTE.value: "Disputed payments",
    Code.EXPIRY.value: "Expired promotional credit",
    Code.CORRECTION.value: "Corrections",
    Code.USAGE.value: "Usage",
}
USAGE = Code.USAGE.value


class NoSuchMonth(Exception):
    """The organization has no statement of this month: nothing had happened, or it is to come."""


@dataclass(frozen=True, slots=True)
class Line:
    """One movement of the balance: the sum, in nano-dollars with its sign, of `count` of a kind.

    `late_month` ("2026-10") is set on what belongs to a month that was closed without it.
    """

    code: str
    label: str
    amount_nanos: int
    count: int
    late_month: str | None = None


@dataclass(frozen=True, slots=True)
class UsageLine:
    """Usage of a day, a model or a deployment."""

    name: str
    calls: int
    tokens: int
    cost_nanos: int


@dataclass(frozen=True, slots=True)
class Figures:
    """A statement. `stated` is all that this and earlier statements have said: code and month

    ("TOPUP", "2026-10") to amount and count, so that the next one finds what came late.
    """

    organization: str
    month: str
    opening_nanos: int
    lines: list[Line]
    closing_nanos: int
    days: list[UsageLine]
    models: list[UsageLine]
    deployments: list[UsageLine]
    stated: dict[str, dict[str, list[int]]]
    previous_digest: str

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> "Figures":
        """From `Statement.figures`."""
        made = {name: [UsageLine(**row) for row in stored[name]] for name in BREAKDOWNS}
        return cls(**{**stored, **made, "lines": [Line(**row) for row in stored["lines"]]})

    def to_json(self) -> dict[str, Any]:
        """As `Statement.figures`: text and whole numbers only."""
        return asdict(self)

    @property
    def first_day(self) -> date:
        """The month as a date."""
        return date.fromisoformat(f"{self.month}-01")

    @property
    def used_nanos(self) -> int:
        """What the month's own usage cost; late usage is not in it."""
        return sum(row.cost_nanos for row in self.models)


BREAKDOWNS = ("days", "models", "deployments")
Totals = dict[str, dict[str, list[int]]]


def canonical_json(figures: dict[str, Any]) -> bytes:
    """Figures as JSON with sorted keys, no spaces and ASCII alone: what the digest is of."""
    return json.dumps(figures, sort_keys=True, separators=(",", ":")).encode("ascii")


def digest_of(figures: dict[str, Any]) -> str:
    """SHA-256 (hex) of the canonical JSON."""
    return hashlib.sha256(canonical_json(figures)).hexdigest()


# --- Reading -----------------------------------------------------------------------------------
def months(organization: Organization, at: datetime) -> list[date]:
    """Every month that has a statement, open or closed, latest first."""
    first = _first_month(organization)
    return [] if first is None else list(_months_between(first, _month_of(at)))[::-1]


def closed_months(organization: Organization) -> set[date]:
    """Months whose statement is final."""
    return set(Statement.objects.filter(organization=organization).values_list("month", flat=True))


def statement(organization: Organization, month: date, at: datetime) -> tuple[Figures, bool]:
    """The statement of a month and whether it is closed; an open one is as of `at`.

    Raises NoSuchMonth.
    """
    first = _first_month(organization)
    if first is None or not first <= month <= _month_of(at):
        raise NoSuchMonth(f"There is no statement of {month:%B %Y}.")
    known = (
        Statement.objects.filter(organization=organization, month__lte=month)
        .order_by("-month")
        .first()
    )
    if known is not None and known.month == month:
        return Figures.from_json(known.figures), True
    figures = Figures.from_json(known.figures) if known else None
    for open_month in _months_between(_next(known.month) if known else first, month):
        figures = _make(organization, open_month, figures)
    if figures is None:  # unreachable: the month asked for is among those made
        raise NoSuchMonth(f"There is no statement of {month:%B %Y}.")
    return figures, False


# --- Closing -----------------------------------------------------------------------------------
def close_due(organization: Organization, at: datetime) -> list[Statement]:
    """Close, oldest first, every month that ended CLOSE_AFTER ago; the statements made.

    Repeating it, also at the same time elsewhere, closes a month once.
    """
    last = Statement.objects.filter(organization=organization).order_by("-month").first()
    first = _next(last.month) if last else _first_month(organization)
    made = []
    for month in _months_between(first, _month_of(at)) if first else ():
        if _midnight(_next(month)) + CLOSE_AFTER > at:
            break
        figures = _make(organization, month, Figures.from_json(last.figures) if last else None)
        last, is_new = Statement.objects.get_or_create(
            organization=organization,
            month=month,
            defaults={
                "figures": figures.to_json(),
                "digest": digest_of(figures.to_json()),
                "closed_at": at,
            },
        )
        if is_new:
            made.append(last)
    return made


def close_all_due(at: datetime) -> int:
    """Close what is due of every organization; how many statements.

    One that cannot be closed is logged and holds up nobody else's; the next run tries it again.
    """
    made = 0
    for owner in Organization.objects.order_by("pk"):
        try:
            made += len(close_due(owner, at))
        except Exception:
            log.exception("statement_not_closed", organization=owner.slug)
    return made


# --- Making ------------------------------------------------------------------------------------
def _make(organization: Organization, month: date, previous: Figures | None) -> Figures:
    """The statement of a month after `previous`, with everything known now."""
    end = _midnight(_next(month))
    known = known_until_end_of(organization, month)
    stated = previous.stated if previous else {}
    lines = [line for code in LABELS for line in _lines(code, month, known, stated)]
    opening = previous.closing_nanos if previous else 0
    return Figures(
        organization=organization.public_id,
        month=_name(month),
        opening_nanos=opening,
        lines=lines,
        closing_nanos=opening + sum(line.amount_nanos for line in lines),
        stated=known,
        previous_digest=digest_of(previous.to_json()) if previous else "",
        **_breakdowns(organization, _midnight(month), end),
    )


def known_until_end_of(organization: Organization, month: date) -> Totals:
    """All that moved the balance until then, as the books have it now: see `Figures.stated`."""
    end = _midnight(_next(month))
    known = _moved(organization, end)
    known[USAGE] = _used(organization, end)
    return known


def _lines(code: str, month: date, known: Totals, stated: Totals) -> Iterator[Line]:
    """What the month adds to what was stated, with a line of its own for each month before it."""
    now, said = known.get(code, {}), stated.get(code, {})
    for name in sorted({*now, *said}, reverse=True):
        amount, count = now.get(name, (0, 0))
        said_amount, said_count = said.get(name, (0, 0))
        is_late = name != _name(month)
        label = LABELS[code]
        if is_late:
            label += f" of {date.fromisoformat(f'{name}-01'):%B %Y}, recorded after its statement"
        if amount != said_amount or count != said_count:
            yield Line(
                code, label, amount - said_amount, count - said_count, name if is_late else None
            )


def _moved(organization: Organization, end: datetime) -> Totals:
    """Code and month to amount and count: transfers that changed the balance, except usage."""
    transfers = Transfer.objects.filter(
        organization=organization,
        created_at__lt=end,
        phase__in=(Transfer.Phase.POSTED, Transfer.Phase.POST_PENDING),
    ).exclude(code=USAGE)
    is_in, is_out = Q(credit_account__kind__in=OURS), Q(debit_account__kind__in=OURS)
    found: Totals = {}
    for direction, sign in ((is_in & ~is_out, 1), (is_out & ~is_in, -1)):
        for code, name, amount, count in _by_month(transfers.filter(direction)):
            line = found.setdefault(code, {}).setdefault(name, [0, 0])
            line[0] += sign * amount
            line[1] += count
    return found


def _by_month(transfers: "QuerySet[Transfer]") -> Iterator[tuple[str, str, int, int]]:
    grouped = (
        transfers.order_by()
        .annotate(month=TruncMonth("created_at", tzinfo=UTC))
        .values("code", "month")
        .annotate(amount=Sum("amount_nanos"), count=Count("pk"))
    )
    for row in grouped:
        yield row["code"], _name(row["month"]), row["amount"], row["count"]


def _used(organization: Organization, end: datetime) -> dict[str, list[int]]:
    """Month to cost (negative: it lowers the balance) and calls; free calls make no line."""
    rollups = UsageRollup.objects.filter(organization=organization, starts_at__lt=end).filter(
        Q(period=UsageRollup.Period.DAY) | Q(is_merged=False)
    )
    grouped = (
        rollups.order_by()
        .annotate(month=TruncMonth("starts_at", tzinfo=UTC))
        .values("month")
        .annotate(cost=Sum("cost_nanos"), count=Sum("calls"))
    )
    return {_name(row["month"]): [-row["cost"], row["count"]] for row in grouped}


def _breakdowns(
    organization: Organization, start: datetime, end: datetime
) -> dict[str, list[UsageLine]]:
    days = usage.per_day(organization, start, end)
    models = usage.per_model(organization, start, end)
    deployments = usage.per_deployment(organization, start, end)
    return {
        "days": [_usage_line(row.day.isoformat(), row.totals) for row in days],
        "models": [_usage_line(row.model, row.totals) for row in models],
        "deployments": [_usage_line(row.deploy_id, row.totals) for row in deployments],
    }


def _usage_line(name: str, totals: usage.Totals) -> UsageLine:
    return UsageLine(name, totals.calls, totals.total_tokens, totals.cost_nanos)


# --- Months ------------------------------------------------------------------------------------
def _first_month(organization: Organization) -> date | None:
    """The first month closed, else that of the first movement or call; None before any."""
    closed = Statement.objects.filter(organization=organization).order_by("month").first()
    if closed is not None:
        return closed.month
    transfer = Transfer.objects.filter(organization=organization).order_by("pk").first()
    rollup = UsageRollup.objects.filter(organization=organization).order_by("starts_at").first()
    moments = [
        row for row in (transfer and transfer.created_at, rollup and rollup.starts_at) if row
    ]
    return _month_of(min(moments)) if moments else None


def _months_between(first: date, last: date) -> Iterator[date]:
    """Both included."""
    while first <= last:
        yield first
        first = _next(first)


def _month_of(at: datetime) -> date:
    return at.astimezone(UTC).date().replace(day=1)


def _next(month: date) -> date:
    return (month + timedelta(days=32)).replace(day=1)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def _name(month: date) -> str:
    return f"{month:%Y-%m}"
