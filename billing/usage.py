"""Usage as people read it: totals, groups, the list of calls, and why a call cost what it did.

Reads only. Sums come from rollups, and from the records themselves only for edges of a period that
are no whole hour. Every function takes the organization, so that no caller can forget it. Must not
know what a deployment is: its ids are plain values on usage records.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Count, Q, QuerySet, Sum
from django.db.models.functions import TruncDate

from billing import ledger, money, pricing, rollups
from billing.models import UsageRecord, UsageRollup
from billing.rollups import hour_after as hour_after
from orgs.models import Organization

NANO_MILLIONTHS_PER_DOLLAR = money.NANOS_PER_DOLLAR * pricing.TOKENS_PER_PRICE
BURN_DAYS = timedelta(days=7)
BURN_DAYS_SHOWN_MAX = 730
BUCKET_LABELS = {
    "input": "input",
    "cache_read": "cached input",
    "cache_write": "cache write",
    "cache_write_1h": "cache write for an hour",
    "audio_input": "audio input",
    "audio_cache_read": "cached audio input",
    "image_input": "image input",
    "output": "output",
    "audio_output": "audio output",
    "image_output": "image output",
}


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over calls: tokens of every bucket in `usage`, cost in nano-dollars."""

    calls: int = 0
    usage: pricing.Usage = field(default_factory=pricing.Usage)
    cost_nanos: int = 0

    @property
    def total_tokens(self) -> int:
        """All tokens."""
        return self.usage.total


@dataclass(frozen=True, slots=True)
class DayTotals:
    """One day (UTC) on which there were calls."""

    day: date
    totals: Totals


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """One model, by the name callers asked for."""

    model: str
    totals: Totals


@dataclass(frozen=True, slots=True)
class DeploymentTotals:
    """One deployment, also when it has been deleted since."""

    deployment_id: int
    deploy_id: str
    totals: Totals


@dataclass(frozen=True, slots=True)
class ExplainedLine:
    """One line of a call's bill, exact, with its formula as text."""

    label: str
    tokens: int
    nanos_per_million: int
    dollars: Decimal
    formula: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a call cost what it did: lines, their exact sum, the margin on it, the cost charged."""

    lines: list[ExplainedLine]
    sum_dollars: Decimal
    margin_basis_points: int
    cost_nanos: int

    @property
    def margin_percent(self) -> str:
        """The margin as people say it: `2.5 %`."""
        return percent(self.margin_basis_points)

    @property
    def margin_dollars(self) -> Decimal:
        """What the margin adds, exactly."""
        return self.sum_dollars * self.margin_basis_points / pricing.BASIS_POINTS

    @property
    def exact_dollars(self) -> Decimal:
        """Sum and margin, before rounding."""
        return self.sum_dollars + self.margin_dollars

    @property
    def is_rounded(self) -> bool:
        """Whether the exact amount was no whole number of nano-dollars."""
        return self.exact_dollars != money.dollars_from_nanos(self.cost_nanos)

    @property
    def formula(self) -> str:
        """How the lines become the cost, as text."""
        text = " + ".join(f"${_plain(line.dollars)}" for line in self.lines) or "$0"
        if self.margin_basis_points:
            text = f"({text}) × (1 + {self.margin_percent})"
        if self.is_rounded:
            text += f" = ${_plain(self.exact_dollars)}, rounded to the nano-dollar"
        return f"{text} = ${_plain(money.dollars_from_nanos(self.cost_nanos))}"


def balance(organization: Organization) -> ledger.Balance:
    """What the organization has, what calls in flight hold of it, and what it may still spend."""
    return ledger.balance(organization)


def summary(
    organization: Organization,
    start: datetime,
    end: datetime,
    deployment_id: int | None = None,
    workspace_id: int | None = None,
) -> Totals:
    """Totals of calls started in [start, end)."""
    scope = _Scope(organization, start, end, deployment_id, workspace_id)
    return next(iter(_grouped(scope).values()), Totals())


def add_up(parts: Iterable[Totals]) -> Totals:
    """The sum of disjoint totals: what is shown beside them must agree, while calls go on."""
    sums: Counter[str] = Counter()
    for part in parts:
        sums.update(calls=part.calls, cost_nanos=part.cost_nanos)
        sums.update({f"{name}_tokens": getattr(part.usage, name) for name in pricing.RECORDED})
    return _totals(sums)


def per_day(
    organization: Organization,
    start: datetime,
    end: datetime,
    deployment_id: int | None = None,
    workspace_id: int | None = None,
) -> list[DayTotals]:
    """Totals of each day with calls, oldest first; days are UTC."""
    scope = _Scope(organization, start, end, deployment_id, workspace_id)
    return [DayTotals(day, totals) for (day,), totals in sorted(_grouped(scope, "day").items())]


def per_model(
    organization: Organization,
    start: datetime,
    end: datetime,
    deployment_id: int | None = None,
    workspace_id: int | None = None,
) -> list[ModelTotals]:
    """Totals of each model asked for, dearest first."""
    scope = _Scope(organization, start, end, deployment_id, workspace_id)
    found = [
        ModelTotals(model, totals)
        for (model,), totals in _grouped(scope, "model_requested").items()
    ]
    return sorted(found, key=lambda row: (-row.totals.cost_nanos, row.model))


def per_deployment(
    organization: Organization,
    start: datetime,
    end: datetime,
    deployment_id: int | None = None,
    workspace_id: int | None = None,
) -> list[DeploymentTotals]:
    """Totals of each deployment, dearest first."""
    scope = _Scope(organization, start, end, deployment_id, workspace_id)
    found = [
        DeploymentTotals(deployment_id, deploy_id, totals)
        for (deployment_id, deploy_id), totals in _grouped(
            scope, "deployment_id", "deploy_id"
        ).items()
    ]
    return sorted(found, key=lambda row: (-row.totals.cost_nanos, row.deploy_id))


@dataclass(frozen=True, slots=True)
class SpendRow:
    """What one deployment spent with one model on one day (UTC)."""

    day: date
    model: str
    deploy_id: str
    totals: Totals


def per_day_model_deployment(
    organization: Organization, start: datetime, end: datetime
) -> list[SpendRow]:
    """The finest view of spend that pages and exports need, oldest first."""
    found = _grouped(_Scope(organization, start, end), "day", "model_requested", "deploy_id")
    return [
        SpendRow(day, model, deploy_id, totals)
        for (day, model, deploy_id), totals in sorted(found.items())
    ]


def estimated_calls(organization: Organization, start: datetime, end: datetime) -> int:
    """Calls whose usage is no final report of the provider's, though something was used."""
    by_source = _grouped(_Scope(organization, start, end), "usage_source")
    sources = UsageRecord.Source
    return sum(
        totals.calls
        for (source,), totals in by_source.items()
        if source in (sources.ESTIMATED, sources.PROVIDER_PARTIAL)
    )


@dataclass(frozen=True, slots=True)
class Burn:
    """How fast credit goes: nano-dollars a day on average, and until when it lasts at that rate.

    `lasts_until` is None when nothing is spent, or for longer than BURN_DAYS_SHOWN_MAX.
    """

    nanos_per_day: int
    days_left: int | None
    lasts_until: date | None


def burn(organization: Organization, at: datetime) -> Burn:
    """From the last BURN_DAYS days; fewer when the first call is younger."""
    end = rollups.hour_after(at)
    start = end - BURN_DAYS
    days = BURN_DAYS.days
    if (first := _first_use(organization)) is not None and first > start:
        days = max(1, -(-(end - first) // timedelta(days=1)))
    spent = summary(organization, start, end).cost_nanos
    available = max(balance(organization).available_nanos, 0)
    if not spent:
        return Burn(0, None, None)
    days_left = available * days // spent
    until = at.date() + timedelta(days=days_left) if days_left <= BURN_DAYS_SHOWN_MAX else None
    return Burn(spent // days, days_left, until)


def _first_use(organization: Organization) -> datetime | None:
    rollup = UsageRollup.objects.filter(organization=organization, period=rollups.HOUR)
    return rollup.order_by("starts_at").values_list("starts_at", flat=True).first()


def calls(
    organization: Organization,
    *,
    before_call_id: UUID | None = None,
    limit: int = 50,
    workspace_id: int | None = None,
    deployment_id: int | None = None,
    model: str | None = None,
    status: str | None = None,
    request_id: str | None = None,
) -> list[UsageRecord]:
    """Calls, latest first, each with its price version; `model` is the name asked for.

    The next page begins before the last call of this one, so that new calls shift nothing.
    """
    wanted = {
        "call_id__lt": before_call_id,
        "workspace_id": workspace_id,
        "deployment_id": deployment_id,
        "model_requested": model,
        "status": status,
        "request_id": request_id,
    }
    given = {name: value for name, value in wanted.items() if value is not None}
    records = UsageRecord.objects.filter(organization=organization, **given)
    return list(records.select_related("price_version").order_by("-call_id")[:limit])


def billed_at(request_id: str) -> datetime | None:
    """When the call ended, if it is recorded and cost something; else None."""
    record = UsageRecord.objects.filter(request_id=request_id, cost_nanos__gt=0).first()
    if record is None:
        return None
    return record.started_at + timedelta(milliseconds=record.duration_ms)


def explain(record: UsageRecord) -> Explanation:
    """The bill of one call, from the quantities, price version and margin that it names."""
    price = pricing.Price.from_rates(record.price_version_id, record.price_version.rates)
    lines = [_explained(line) for line in pricing.bill_lines(price, record.usage)]
    return Explanation(
        lines=lines,
        sum_dollars=sum((line.dollars for line in lines), Decimal(0)),
        margin_basis_points=record.margin_basis_points,
        cost_nanos=record.cost_nanos,
    )


def percent(basis_points: int) -> str:
    """Basis points as people say them: `2.5 %`."""
    return f"{(Decimal(basis_points) / 100).normalize():f} %"


def described_counts(used: pricing.Usage) -> list[tuple[str, int]]:
    """Label and tokens of each bucket: the plain ones always, the others where something is."""
    return [
        (BUCKET_LABELS[bucket], tokens)
        for bucket, tokens in zip(pricing.BUCKETS, used.counts, strict=True)
        if tokens or bucket in ("input", "cache_read", "output")
    ]


def _explained(line: pricing.BillLine) -> ExplainedLine:
    dollars = Decimal(line.tokens * line.nanos_per_million) / NANO_MILLIONTHS_PER_DOLLAR
    rate = money.dollars_from_nanos(line.nanos_per_million)
    label = BUCKET_LABELS[line.bucket]
    formula = f"{line.tokens:,} {label} × ${_plain(rate)} / 1M = ${_plain(dollars)}"
    return ExplainedLine(label, line.tokens, line.nanos_per_million, dollars, formula)


def _plain(dollars: Decimal) -> str:
    """Every digit and no exponent, but no lone tenth: 0.02, 2.50, 15."""
    text = f"{dollars:,.19f}".rstrip("0").rstrip(".")
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals}0" if len(decimals) == 1 else text


TOTALLED = (*rollups.TOKENS, "cost_nanos")


@dataclass(frozen=True, slots=True)
class _Scope:
    """Whose calls of which time; ids narrow them down."""

    organization: Organization
    start: datetime
    end: datetime
    deployment_id: int | None = None
    workspace_id: int | None = None

    def sources(self) -> "Iterator[tuple[QuerySet[Any], str, Any]]":
        """Disjoint sets of rows that make up the scope: rows, their time, their count of calls."""
        spans = rollups.spans(self.start, self.end)
        if spans.hours or spans.days[0] < spans.days[1]:
            found = UsageRollup.objects.filter(self._narrowed(), rollups.in_spans(spans))
            yield found, "starts_at", Sum("calls")
        if spans.edges:
            is_edge = Q()
            for start, end in spans.edges:
                is_edge |= Q(started_at__gte=start, started_at__lt=end)
            records = UsageRecord.objects.filter(self._narrowed(), is_edge)
            yield records, "started_at", Count("call_id")

    def _narrowed(self) -> Q:
        wanted = {"deployment_id": self.deployment_id, "workspace_id": self.workspace_id}
        given = {name: value for name, value in wanted.items() if value is not None}
        return Q(organization=self.organization, **given)


def _grouped(scope: _Scope, *by: str) -> dict[tuple[Any, ...], Totals]:
    """Totals per value of `by` ("day" is the day of the call, UTC); one query per source."""
    found: dict[tuple[Any, ...], Counter[str]] = {}
    for rows, time, count in scope.sources():
        if "day" in by:
            rows = rows.annotate(day=TruncDate(time, tzinfo=UTC))
        sums = {f"sum_{name}": Sum(name) for name in TOTALLED}
        # Without a group, one row is made of no rows at all.
        grouped = rows.order_by().values(*(by or ("organization_id",)))
        for row in grouped.annotate(sum_calls=count, **sums):
            sum_of = found.setdefault(tuple(row[name] for name in by), Counter())
            sum_of.update({name: row[f"sum_{name}"] or 0 for name in ("calls", *TOTALLED)})
    return {key: _totals(sums) for key, sums in found.items()}


def _totals(sums: "Counter[str]") -> Totals:
    tokens: dict[str, Any] = {name: sums[f"{name}_tokens"] for name in pricing.RECORDED}
    return Totals(sums["calls"], pricing.Usage(**tokens), sums["cost_nanos"])
