"""How much of their limits an organization's scopes have used, for people to look at.

Owns the figures of the console's page: from usage records, so that every process shows the same.
They may be a moment behind what the limits themselves count. Must not decide anything.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from billing import money, usage
from gateway import allowances, budgets
from gateway.allowances import Subject
from gateway.models import Limit
from gateway.windows import ScopeLimits
from orgs.models import Organization

Scope = Limit.Scope
NEARLY_PERCENT = 80
DEPTHS = {Scope.ORGANIZATION: 0, Scope.WORKSPACE: 1, Scope.DEPLOYMENT: 2, Scope.KEY: 3}


@dataclass(frozen=True, slots=True)
class Gauge:
    """One limit: its name, what is used and what is allowed as text, and the share in percent.

    `percent` is None where nobody counts what is used now.
    """

    label: str
    used: str
    limit: str
    percent: int | None

    @property
    def level(self) -> str:
        """ "bad" when it is used up, "warn" when nearly, else ""."""
        if self.percent is None or self.percent < NEARLY_PERCENT:
            return ""
        return "bad" if self.percent >= 100 else "warn"


@dataclass(frozen=True, slots=True)
class Consumption:
    """A scope with the limits that are set for it; `depth` is how far below the organization.

    `models` are those its calls are confined to, by public name; None for all.
    """

    subject: Subject
    gauges: list[Gauge]
    models: list[str] | None
    depth: int


def of_subjects(
    organization: Organization, subjects: Iterable[Subject], at: datetime
) -> list[Consumption]:
    """These scopes of the organization, those without limits, too; `at` in UTC."""
    rows = allowances.read_all(organization)
    spent = budgets.by_scope(organization.pk, at)
    return [_of(subject, rows, spent, at) for subject in subjects]


def of_subject(subject: Subject, at: datetime) -> Consumption:
    """One scope, likewise."""
    rows = allowances.read_all(subject.organization)
    return _of(subject, rows, budgets.by_scope(subject.organization.pk, at), at)


def _of(
    subject: Subject,
    rows: dict[tuple[str, int], Limit],
    spent: dict[tuple[str, int], tuple[int, int]],
    at: datetime,
) -> Consumption:
    limits = _limits(subject, rows)
    return Consumption(
        subject,
        gauges=list(_gauges(subject, limits, spent, at)),
        models=None if limits is None else allowances.models_of(limits),
        depth=DEPTHS[Scope(subject.scope)],
    )


def _limits(subject: Subject, rows: dict[tuple[str, int], Limit]) -> ScopeLimits | None:
    """What applies to the scope itself; the organization's with staff's and the defaults."""
    row = rows.get((subject.scope, subject.scope_id))
    if subject.scope == Scope.ORGANIZATION:
        staff = rows.get((Scope.STAFF, subject.scope_id))
        return allowances.of_organization(subject.scope_id, row, staff)
    return None if row is None else allowances.of_row(row)


def _gauges(
    subject: Subject,
    limits: ScopeLimits | None,
    spent: dict[tuple[str, int], tuple[int, int]],
    at: datetime,
) -> Iterator[Gauge]:
    if limits is None:
        return
    per_minute = (
        ("Requests / minute", limits.requests_per_minute),
        ("Tokens / minute", limits.tokens_per_minute),
    )
    if any(limit is not None for _, limit in per_minute):
        counted = _this_minute(subject, at)
        for (label, limit), used in zip(per_minute, counted, strict=True):
            if limit is not None:
                text = "–" if used is None else f"{used:,}"
                yield Gauge(
                    label, text, f"{limit:,}", None if used is None else _percent(used, limit)
                )
    if limits.concurrency is not None:
        yield Gauge("Calls at once", "–", f"{limits.concurrency:,}", None)
    day, month = spent.get((limits.scope, limits.scope_id), (0, 0))
    for label, limit, used in (
        ("Budget today", limits.daily_nanos, day),
        ("Budget this month", limits.monthly_nanos, month),
    ):
        if limit is not None:
            yield Gauge(
                label,
                money.format_dollars(used),
                money.format_dollars(limit),
                _percent(used, limit),
            )


def _this_minute(subject: Subject, at: datetime) -> tuple[int | None, int | None]:
    """Calls begun in this minute and their tokens, as far as they have ended."""
    ids = {Scope.WORKSPACE: "workspace_id", Scope.DEPLOYMENT: "deployment_id"}
    if subject.scope == Scope.KEY:
        return None, None
    narrowed = {ids[Scope(subject.scope)]: subject.scope_id} if subject.scope in ids else {}
    start = at.replace(second=0, microsecond=0)
    totals = usage.summary(subject.organization, start, start + timedelta(minutes=1), **narrowed)
    return totals.calls, totals.total_tokens


def _percent(used: int, limit: int) -> int:
    return min(used * 100 // limit, 999)
