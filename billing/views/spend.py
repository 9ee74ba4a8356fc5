"""Console page of spend: how fast credit goes, on what, and the same as CSV."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from billing import money, usage
from billing.spreadsheets import csv_text
from billing.templatetags.charts import Series
from orgs.context import ConsoleRequest, member_page

PERIODS = {7: "7 days", 30: "30 days", 90: "90 days"}
DAYS_DEFAULT = 30
# As many colours as the stylesheet has; the rest share the last one.
SERIES_MAX = 6
OTHERS = "Others"
SHARES_SHOWN = 20  # of models and of deployments; the cheaper ones are behind a click


@dataclass(frozen=True, slots=True)
class Period:
    """Whole days (UTC), today included."""

    days: int
    start: datetime
    end: datetime

    @property
    def first(self) -> date:
        """The first day."""
        return self.start.date()

    @property
    def last(self) -> date:
        """Today."""
        return (self.end - timedelta(days=1)).date()


def _period(request: ConsoleRequest, at: datetime) -> Period:
    """The period named in the address; the usual one for anything else."""
    text = request.GET.get("days", "")
    days = int(text) if text in map(str, PERIODS) else DAYS_DEFAULT
    end = at.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    return Period(days, end - timedelta(days=days), end)


@require_GET
@member_page
def spend(request: ConsoleRequest) -> HttpResponse:
    """Burn rate, days left, and spend per day by model or by deployment."""
    now = timezone.now()
    period = _period(request, now)
    organization = request.organization
    is_by_deployment = request.GET.get("by") == "deployment"
    rows = usage.per_day_model_deployment(organization, period.start, period.end)
    models, deployments = _shares(rows, _model), _shares(rows, _deploy_id)
    context = {
        "balance": usage.balance(organization),
        "burn": usage.burn(organization, now),
        "period": period,
        "periods": PERIODS.items(),
        "by": "deployment" if is_by_deployment else "model",
        "series": _series(rows, _deploy_id if is_by_deployment else _model),
        "models": models[:SHARES_SHOWN],
        "other_models": models[SHARES_SHOWN:],
        "deployments": deployments[:SHARES_SHOWN],
        "other_deployments": deployments[SHARES_SHOWN:],
        "total": usage.add_up(row.totals for row in rows),
        "estimated": usage.estimated_calls(organization, period.start, period.end),
    }
    return render(request, "billing/spend.html", context)


def _model(row: usage.SpendRow) -> str:
    return row.model


def _deploy_id(row: usage.SpendRow) -> str:
    return row.deploy_id


def _shares(
    rows: Iterable[usage.SpendRow], name_of: Callable[[usage.SpendRow], str]
) -> list[tuple[str, usage.Totals]]:
    """Totals per name, dearest first."""
    found: dict[str, list[usage.Totals]] = {}
    for row in rows:
        found.setdefault(name_of(row), []).append(row.totals)
    shares = [(name, usage.add_up(parts)) for name, parts in found.items()]
    return sorted(shares, key=lambda share: (-share[1].cost_nanos, share[0]))


def _series(
    rows: Iterable[usage.SpendRow], name_of: Callable[[usage.SpendRow], str]
) -> list[Series]:
    """The dearest names with a colour each, everything else together as the last."""
    found: dict[str, dict[date, int]] = {}
    for row in rows:
        days = found.setdefault(name_of(row), {})
        days[row.day] = days.get(row.day, 0) + row.totals.cost_nanos
    series = sorted(
        (Series(name, days) for name, days in found.items()), key=lambda one: -one.total_nanos
    )
    shown, rest = series[: SERIES_MAX - 1], series[SERIES_MAX - 1 :]
    if len(rest) < 2:
        return series
    others: dict[date, int] = {}
    for one in rest:
        for day, nanos in one.nanos_by_day.items():
            others[day] = others.get(day, 0) + nanos
    return [*shown, Series(OTHERS, others)]


@require_GET
@member_page
def spend_export(request: ConsoleRequest) -> HttpResponse:
    """Day, model and deployment with calls, tokens and dollars."""
    period = _period(request, timezone.now())
    header = ("day", "model", "deployment", "calls", "tokens", "cost_dollars")
    rows = [
        (
            row.day.isoformat(),
            row.model,
            row.deploy_id,
            row.totals.calls,
            row.totals.total_tokens,
            money.dollars_from_nanos(row.totals.cost_nanos).quantize(Decimal("0.000000001")),
        )
        for row in usage.per_day_model_deployment(request.organization, period.start, period.end)
    ]
    name = f"spend-{request.organization.slug}-{period.first}-{period.last}.csv"
    return HttpResponse(
        csv_text([header, *rows]),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
