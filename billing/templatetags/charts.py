"""Charts as SVG made on the server: no script, readable without colour, numbers in tooltips.

Owns geometry only. Widths are percentages, so that a chart fills a phone and a laptop alike and
its text keeps its size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from django import template

from billing import money
from billing.usage import DayTotals, Totals

register = template.Library()

PLOT_TOP, PLOT_BOTTOM = 12, 262  # pixels; the axis labels live below
GRID_LINES = 3
LABELS_EVERY_DAYS = 7
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


def _bars(days: Sequence[DayTotals], ceiling: int) -> list[Bar]:
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
                shows_date=(len(days) - 1 - index) % LABELS_EVERY_DAYS == 2,
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
    grid = [
        GridLine(
            y=PLOT_BOTTOM - (PLOT_BOTTOM - PLOT_TOP) * number / GRID_LINES,
            label=money.format_dollars(ceiling * number // GRID_LINES) if number else "$0",
        )
        for number in range(GRID_LINES + 1)
    ]
    total = sum(row.totals.cost_nanos for row in days)
    return {
        "bars": _bars(days, ceiling),
        "grid": grid,
        "summary": f"Spend per day over {len(days)} days: {money.format_dollars(total)} in all, "
        f"{money.format_dollars(peak)} on the dearest day.",
        "baseline": PLOT_BOTTOM,
    }


@register.filter
def percent_of(part: int, whole: int) -> str:
    """`part` of `whole` as an SVG or CSS width: `37.5%`."""
    return f"{100 * part / whole:.1f}%" if whole else "0%"
