"""Our records beside a provider's own export, per model and period: what differs, and by how much.

Calls and tokens come from rollups, in the provider's own days. Costs are computed again from the
records at their price versions, without the organizations' margins, since the provider knows none.
Only calls that used something count: a refusal is not in anybody's bill. Must not know files.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from django.db.models import Q, Sum
from django.db.models.functions import TruncDate

from billing import exports, pricing, rollups
from billing.exports import CALLS, COST, Export
from billing.models import PriceVersion, Reconciliation, UsageRecord, UsageRollup
from orgs.models import Organization

NOT_USED = UsageRecord.Source.NONE.value
ROWS_OFF_KEPT_MAX = 200
HUNDRED = Decimal(100)
# Our name of a model is what the provider said it served, else what was asked of it.
Ours = dict[tuple[date, str], Counter[str]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One amount of one model and period on both sides; None: that side has no such row."""

    first: date
    last: date
    model: str
    quantity: str
    ours: int | None
    theirs: int | None

    @property
    def percent(self) -> Decimal:
        """Of theirs, rounded to a thousandth; 100 where only one side has anything."""
        ours, theirs = self.ours or 0, self.theirs or 0
        if ours == theirs:
            return Decimal(0)
        if not theirs:
            return HUNDRED
        return (HUNDRED * abs(ours - theirs) / theirs).quantize(Decimal("0.001"))


@dataclass(slots=True)
class Comparison:
    """Every amount compared, in order, and what could not be."""

    first: date
    last: date
    tolerance_percent: Decimal
    lines: list[Difference] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def off(self) -> list[Difference]:
        """What differs by more than is tolerated."""
        return [line for line in self.lines if line.percent > self.tolerance_percent]


def known_models(provider: str) -> list[str]:
    """Every name under which the provider served us, or was asked to."""
    names = UsageRollup.objects.filter(provider=provider).order_by()
    found = names.values_list("model_served", "upstream_model").distinct()
    return sorted({name for pair in found for name in pair if name})


def compare(
    provider: str,
    export: Export,
    *,
    first: date,
    last: date,
    zone: ZoneInfo,
    tolerance_percent: Decimal,
) -> Comparison:
    """The export's rows that lie within `first` to `last`, and ours of these days in `zone`."""
    result = Comparison(first, last, tolerance_percent, notes=list(export.notes))
    theirs: dict[tuple[date, date, str], Counter[str]] = {}
    for row in export.rows:
        if first <= row.first and row.last <= last:
            theirs.setdefault((row.first, row.last, row.model), Counter()).update(row.amounts)
    names = {model for _, _, model in theirs}
    tells = {name for amounts in theirs.values() for name in amounts}
    ours = _ours(provider, first, last, zone, names)
    if COST in tells:
        _add_costs(ours, provider, first, last, zone, names)
    seen: set[tuple[date, str]] = set()
    for (start, end, model), amounts in sorted(theirs.items()):
        days = [(day, model) for day in _days(start, end) if (day, model) in ours]
        seen.update(days)
        sums = sum((ours[key] for key in days), Counter[str]())
        for name in sorted(amounts):
            mine = _amount(sums, name) if days else None
            result.lines.append(Difference(start, end, model, name, mine, amounts[name]))
    for (day, model), sums in sorted(ours.items()):
        if (day, model) not in seen:
            result.lines += [
                Difference(day, day, model, name, _amount(sums, name), None)
                for name in sorted(tells or {CALLS})
                if _amount(sums, name)
            ]
    return result


def record(
    comparison: Comparison,
    provider: str,
    *,
    file_name: str,
    file_sha256: str,
    ran_by: str,
    at: datetime,
) -> Reconciliation:
    """Keep that the comparison was made, with the rows that were off."""
    return Reconciliation.objects.create(
        provider=provider,
        file_name=file_name[-255:],
        file_sha256=file_sha256,
        first_day=comparison.first,
        last_day=comparison.last,
        tolerance_percent=comparison.tolerance_percent,
        rows_compared=len(comparison.lines),
        rows_off=len(comparison.off),
        result={
            "off": [describe(line) for line in comparison.off[:ROWS_OFF_KEPT_MAX]],
            "notes": comparison.notes,
        },
        ran_by=ran_by[:120],
        ran_at=at,
    )


def describe(line: Difference) -> dict[str, Any]:
    """A line as JSON: amounts as whole numbers, costs in nano-dollars."""
    return {
        "from": line.first.isoformat(),
        "to": line.last.isoformat(),
        "model": line.model,
        "quantity": line.quantity,
        "ours": line.ours,
        "theirs": line.theirs,
        "percent": str(line.percent),
    }


# --- Our side ----------------------------------------------------------------------------------
def _ours(provider: str, first: date, last: date, zone: ZoneInfo, names: set[str]) -> Ours:
    """Calls and tokens per day and model, from rollups: `zone` has whole hours of offset."""
    found: Ours = {}
    hours = UsageRollup.objects.filter(
        _within("starts_at", first, last, zone), period=rollups.HOUR, provider=provider
    ).exclude(usage_source=NOT_USED)
    grouped = (
        hours.order_by()
        .annotate(day=TruncDate("starts_at", tzinfo=zone))
        .values("day", "model_served", "upstream_model")
        .annotate(**{f"sum_{name}": Sum(name) for name in ("calls", *rollups.TOKENS)})
    )
    row: dict[str, Any]
    for row in grouped:  # type: ignore[assignment]
        model = _name(row["model_served"], row["upstream_model"], names)
        sums = found.setdefault((row["day"], model), Counter())
        sums[CALLS] += row["sum_calls"]
        for bucket in pricing.BUCKETS:
            sums[bucket] += row[f"sum_{bucket}_tokens"]
    return found


def _add_costs(
    ours: Ours, provider: str, first: date, last: date, zone: ZoneInfo, names: set[str]
) -> None:
    """Cost of each call at its price version, without margin; reads the period's records."""
    prices = {
        version.pk: pricing.Price.from_rates(version.pk, version.rates)
        for version in PriceVersion.objects.filter(provider=provider)
    }
    columns = ("started_at", "model_served", "upstream_model", "price_version_id")
    tokens = [f"{bucket}_tokens" for bucket in pricing.BUCKETS]
    for organization in Organization.objects.order_by("pk"):  # by index, one after the other
        records = UsageRecord.objects.filter(
            _within("started_at", first, last, zone), organization=organization, provider=provider
        ).exclude(usage_source=NOT_USED)
        for at, served, upstream, price_id, *counts in (
            records.order_by().values_list(*columns, *tokens).iterator(chunk_size=10_000)
        ):
            used = pricing.Usage(**dict(zip(pricing.BUCKETS, counts, strict=True)))
            key = (at.astimezone(zone).date(), _name(served, upstream, names))
            cost = pricing.cost_nanos(prices[price_id], used, 0)
            ours.setdefault(key, Counter())[COST] += cost


def _name(served: str, upstream: str, names: set[str]) -> str:
    """Theirs, whichever of our two it is; else what was served."""
    return next((name for name in (served, upstream) if name in names), served or upstream)


def _amount(sums: Mapping[str, int], quantity: str) -> int:
    return sum(sums.get(name, 0) for name in exports.QUANTITIES.get(quantity, (quantity,)))


def _within(column: str, first: date, last: date, zone: ZoneInfo) -> Q:
    start = datetime.combine(first, time(), zone)
    end = datetime.combine(last + timedelta(days=1), time(), zone)
    return Q(**{f"{column}__gte": start, f"{column}__lt": end})


def _days(first: date, last: date) -> Iterable[date]:
    return (first + timedelta(days=number) for number in range((last - first).days + 1))
