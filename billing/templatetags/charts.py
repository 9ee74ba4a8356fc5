"""Charts as SVG made on the server: no script, readable without colour, numbers in tooltips.

Owns geometry only. Widths are percentages, so that a chart fills a phone and a laptop alike and
its text keeps its size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

from django import template

from billing import money
from billing.usage import DayTotals, Totals

register = template.Library()

PLOT_TOP, PLOT_BOTTOM = 12, 262  # pixels; the axis labels live below
GRID_LINES = 3
LABELS_EVERY_DAYS = 7
LABELS_MAX = 6
BAR_SHARE = 0.68  # of a day's width
BAR_HEIGHT_MIN = 2.0  # a day with any spend shows
PEAK_NANOS_MIN = 30_000_000  # without any spend the axis ends at three cents


@dataclass(frozen=True, slots=True)
class Bar:
    """One day: positions in percent across, pixels down."""

    day: date
    label: str
    slot_x: str
    slot_width: str
    x: str
    width: str
    y: float
    height: float
    middle: str
    shows_date: bool


@dataclass(frozen=True, slots=True)
class GridLine:
    """A line of the grid and the amount it stands for."""

    y: float
    label: str


def _ceiling(peak_nanos: int) -> int:
    """The smallest of 1, 2, 3, 5 times a power of ten per grid line that fits the peak."""
    step = 1
    while True:
        for factor in (1, 2, 3, 5):
            if step * factor * GRID_LINES >= peak_nanos:
                return step * factor * GRID_LINES
        step *= 10


def _grid(ceiling: int) -> list[GridLine]:
    return [
        GridLine(
            y=PLOT_BOTTOM - (PLOT_BOTTOM - PLOT_TOP) * number / GRID_LINES,
            label=money.format_dollars(ceiling * number // GRID_LINES) if number else "$0",
        )
        for number in range(GRID_LINES + 1)
    ]


def _bars(
    days: Sequence[DayTotals], ceiling: int, label_every: int = LABELS_EVERY_DAYS
) -> list[Bar]:
    width = 100 / max(len(days), 1)
    bars = []
    for index, row in enumerate(days):
        cost_nanos, number = row.totals.cost_nanos, row.totals.calls
        height = (PLOT_BOTTOM - PLOT_TOP) * cost_nanos / ceiling
        height = max(height, BAR_HEIGHT_MIN) if cost_nanos else 0.0
        calls = f"{number:,} call{'' if number == 1 else 's'}"
        bars.append(
            Bar(
                day=row.day,
                label=f"{row.day:%d %b %Y}: {money.format_dollars(cost_nanos)}, {calls}",
                slot_x=f"{index * width:.3f}%",
                slot_width=f"{width:.3f}%",
                x=f"{(index + (1 - BAR_SHARE) / 2) * width:.3f}%",
                width=f"{width * BAR_SHARE:.3f}%",
                y=round(PLOT_BOTTOM - height, 1),
                height=round(height, 1),
                middle=f"{(index + 0.5) * width:.3f}%",
                shows_date=(len(days) - 1 - index) % label_every == min(2, len(days) - 1),
            )
        )
    return bars


def _without_gaps(rows: Sequence[DayTotals], first: date, last: date) -> list[DayTotals]:
    """One row per day from `first` to `last`."""
    known = {row.day: row for row in rows}
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    return [known.get(day, DayTotals(day, Totals())) for day in days]


@register.inclusion_tag("billing/spend_chart.html")
def spend_chart(rows: Sequence[DayTotals], first: date, last: date) -> dict[str, Any]:
    """Spend of each day from `first` to `last`; `rows` may leave out days without calls."""
    days = _without_gaps(rows, first, last)
    peak = max((row.totals.cost_nanos for row in days), default=0)
    ceiling = _ceiling(peak or PEAK_NANOS_MIN)
    total = sum(row.totals.cost_nanos for row in days)
    return {
        "bars": _bars(days, ceiling),
        "grid": _grid(ceiling),
        "summary": f"Spend per day over {len(days)} days: {money.format_dollars(total)} in all, "
        f"{money.format_dollars(peak)} on the dearest day.",
        "baseline": PLOT_BOTTOM,
    }


@dataclass(frozen=True, slots=True)
class Series:
    """One colour of a stacked chart: spend per day in nano-dollars, and the sum as its legend."""

    name: str
    nanos_by_day: Mapping[date, int]

    @property
    def total_nanos(self) -> int:
        """The whole period's."""
        return sum(self.nanos_by_day.values())


@dataclass(frozen=True, slots=True)
class Segment:
    """One series' part of a day's bar; `number` picks the colour."""

    number: int
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Stack:
    """A day's bar of segments."""

    bar: Bar
    segments: list[Segment]


@register.inclusion_tag("billing/stacked_chart.html")
def stacked_chart(series: Sequence[Series], first: date, last: date) -> dict[str, Any]:
    """Spend of each day from `first` to `last`, one colour per series, the largest at the base."""
    count = (last - first).days + 1
    days = [first + timedelta(days=number) for number in range(count)]
    sums = {day: sum(one.nanos_by_day.get(day, 0) for one in series) for day in days}
    peak = max(sums.values(), default=0)
    ceiling = _ceiling(peak or PEAK_NANOS_MIN)
    rows = [DayTotals(day, Totals(cost_nanos=sums[day])) for day in days]
    every = max(LABELS_EVERY_DAYS, -(-count // LABELS_MAX))
    stacks = [
        Stack(replace(bar, label=_describe(day, series)), _segments(day, series, ceiling))
        for day, bar in zip(days, _bars(rows, ceiling, every), strict=True)
    ]
    return {
        "stacks": stacks,
        "series": series,
        "grid": _grid(ceiling),
        "summary": f"Spend per day over {count} days: {money.format_dollars(sum(sums.values()))} "
        f"in all, {money.format_dollars(peak)} on the dearest day.",
        "baseline": PLOT_BOTTOM,
    }


def _segments(day: date, series: Sequence[Series], ceiling: int) -> list[Segment]:
    segments, below = [], 0
    for number, one in enumerate(series):
        nanos = one.nanos_by_day.get(day, 0)
        bottom, top = (
            PLOT_BOTTOM - (PLOT_BOTTOM - PLOT_TOP) * level / ceiling
            for level in (below, below + nanos)
        )
        if nanos:
            segments.append(Segment(number, round(top, 1), round(bottom - top, 1)))
        below += nanos
    return segments


def _describe(day: date, series: Sequence[Series]) -> str:
    parts = [
        f"{one.name} {money.format_dollars(nanos)}"
        for one in series
        if (nanos := one.nanos_by_day.get(day, 0))
    ]
    return f"{day:%d %b %Y}: {', '.join(parts) or 'nothing'}"


@register.filter
def percent_of(part: int, whole: int) -> str:
    """`part` of `whole` as an SVG or CSS width: `37.5%`."""
    return f"{100 * part / whole:.1f}%" if whole else "0%"
