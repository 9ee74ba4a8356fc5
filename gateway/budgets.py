"""Budgets: how much of a day's or a month's money is left, without asking the database per call.

What was spent comes from usage records, as rollups sum them, and is read in the background; on top
come calls of this process that are in flight (at their worst case) or not yet recorded (at their
cost). So a figure is never too low for what this process knows, calls at the same time cannot
overshoot together, and nothing but the database is believed about money. Must know no Redis.
"""

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from uuid import UUID

from billing import spending
from gateway.snapshot import Snapshot
from gateway.windows import ScopeLimits

ORGANIZATIONS_MAX = 10_000
# A call that is not recorded after so long never will be; whoever keeps records has logged it.
UNRECORDED_SECONDS_MAX = 3_600.0
UNRECORDED_MAX = 20_000

Scope = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Figures:
    """What the database says: spending per scope, of one day and its month, and calls found.

    Every call in `recorded` is part of `spent`.
    """

    day: date
    spent: dict[Scope, tuple[int, int]]
    recorded: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Shortfall:
    """The budget that does not cover a call, all in nano-dollars.

    `used` is spent, `reserved` is what calls in flight may still cost.
    """

    limits: ScopeLimits
    period: str
    limit: int
    used: int
    reserved: int
    wanted: int
    resets_at: datetime


@dataclass(frozen=True, slots=True)
class _Unrecorded:
    """A call that ended and may not be in the database yet."""

    scopes: Sequence[ScopeLimits]
    day: date
    nanos: int
    ended_at: float


@dataclass(slots=True)
class Spending:
    """What one organization has spent, as this process knows it."""

    figures: Figures
    _reserved: dict[Scope, int] = field(default_factory=dict)
    _unrecorded: dict[UUID, _Unrecorded] = field(default_factory=dict)
    # Sums over `_unrecorded`, per day on which the calls began.
    _sums: dict[Scope, dict[date, int]] = field(default_factory=dict)

    def waiting(self) -> tuple[UUID, ...]:
        """Calls that are not known to be recorded."""
        return tuple(self._unrecorded)

    def learn(self, figures: Figures) -> None:
        """Take newer figures; what they contain is no longer added to them."""
        if figures is self.figures:
            return
        self.figures = figures
        too_old = time.monotonic() - UNRECORDED_SECONDS_MAX
        for call_id, call in list(self._unrecorded.items()):
            if call_id in figures.recorded or call.ended_at < too_old:
                self._forget(call_id)

    def reserve(self, scopes: Iterable[ScopeLimits], nanos: int) -> None:
        """Count a call's worst case until it ends; a negative amount takes it back."""
        for limits in scopes:
            scope = (limits.scope, limits.scope_id)
            self._reserved[scope] = max(self._reserved.get(scope, 0) + nanos, 0)

    def end(
        self, call_id: UUID, scopes: Sequence[ScopeLimits], nanos: int, started_at: datetime
    ) -> None:
        """The call cost so much; counted here until it is found recorded."""
        if not nanos or len(self._unrecorded) >= UNRECORDED_MAX:
            return
        call = _Unrecorded(scopes, started_at.date(), nanos, time.monotonic())
        self._unrecorded[call_id] = call
        self._add(call, nanos)

    def _forget(self, call_id: UUID) -> None:
        call = self._unrecorded.pop(call_id)
        self._add(call, -call.nanos)

    def _add(self, call: _Unrecorded, nanos: int) -> None:
        for limits in call.scopes:
            sums = self._sums.setdefault((limits.scope, limits.scope_id), {})
            sums[call.day] = sums.get(call.day, 0) + nanos
            if not sums[call.day]:
                del sums[call.day]

    def used(self, limits: ScopeLimits, today: date) -> tuple[int, int]:
        """Spent today and this month, in nano-dollars, calls in flight not among them."""
        scope = (limits.scope, limits.scope_id)
        day, month = self.figures.spent.get(scope, (0, 0))
        # Midnight has passed since the figures were read: new ones are on their way.
        if self.figures.day != today:
            day = 0
        if not _same_month(self.figures.day, today):
            month = 0
        for begun, nanos in self._sums.get(scope, {}).items():
            if begun == today:
                day += nanos
            if _same_month(begun, today):
                month += nanos
        return day, month

    def shortfall(
        self, scopes: Iterable[ScopeLimits], wanted: int, at: datetime
    ) -> Shortfall | None:
        """The first budget that does not cover `wanted` nano-dollars more; `at` in UTC."""
        for limits in scopes:
            day, month = self.used(limits, at.date())
            reserved = self._reserved.get((limits.scope, limits.scope_id), 0)
            for period, limit, used in (
                ("daily", limits.daily_nanos, day),
                ("monthly", limits.monthly_nanos, month),
            ):
                if limit is not None and used + reserved + wanted > limit:
                    ends = spending.next_day if period == "daily" else spending.next_month
                    return Shortfall(limits, period, limit, used, reserved, wanted, ends(at))
        return None


def _same_month(one: date, other: date) -> bool:
    return (one.year, one.month) == (other.year, other.month)


class Budgets:
    """The spending of the organizations that have budgets; one per process and event loop."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._known: OrderedDict[int, Spending] = OrderedDict()

    async def of(self, organization_id: int) -> Spending:
        """What the organization has spent. Raises gateway.snapshot.UnableToLoad."""
        spending = self._known.get(organization_id)
        waiting = () if spending is None else spending.waiting()
        figures = await self._snapshot.figures(
            organization_id, lambda: load(organization_id, waiting)
        )
        # Another call may have made it while this one waited.
        spending = self._known.setdefault(organization_id, Spending(figures))
        spending.learn(figures)
        self._known.move_to_end(organization_id)
        while len(self._known) > ORGANIZATIONS_MAX:
            self._known.popitem(last=False)
        return spending


def load(organization_id: int, waiting: Iterable[UUID]) -> Figures:
    """Read the figures; `waiting` are calls of which this process must know if they are in them."""
    at = datetime.now(UTC)
    # First the calls, then the sums: so that every call found is in the sums.
    recorded = frozenset(spending.recorded(waiting))
    return Figures(at.date(), by_scope(organization_id, at), recorded)


def by_scope(organization_id: int, at: datetime) -> dict[Scope, tuple[int, int]]:
    """Spent on the day and in the month of `at` (UTC), per scope, in nano-dollars."""
    sums: dict[Scope, tuple[int, int]] = {}
    for row in spending.in_month(organization_id, at):
        for scope in (
            ("key", row.key_id),
            ("deployment", row.deployment_id),
            ("workspace", row.workspace_id),
            ("organization", organization_id),
        ):
            day, month = sums.get(scope, (0, 0))
            sums[scope] = (day + row.day_nanos, month + row.month_nanos)
    return sums
