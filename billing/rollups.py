"""Rollups: usage summed by hour and by day, so that no page or report scans the calls themselves.

Exact at any moment and cheap at any rate (docs/adr has the why): a trigger adds a part with every
insert of usage records, in the same transaction, whenever and by whomever that happens; `merge`
moves parts into the one row of their hour and of their day. Readers sum merged rows and parts
alike, so merging changes no figure, and a record that arrives days late is simply there.

Owns the merging, the way to read a period, and the rebuilding from usage records. Must not know
who reads.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django.db import connection, transaction
from django.db.models import Q

from billing import rows
from billing.models import UsageRecord, UsageRollup
from orgs.models import Organization

HOUR, DAY = UsageRollup.Period.HOUR.value, UsageRollup.Period.DAY.value
# What tells one row of an hour from another.
DIMENSIONS = (
    "organization_id",
    "workspace_id",
    "deployment_id",
    "deploy_id",
    "key_id",
    "model_requested",
    "model_served",
    "provider",
    "upstream_model",
    "usage_source",
)
TOKENS = tuple(
    field.name for field in UsageRecord._meta.get_fields() if field.name.endswith("_tokens")
)
MEASURES = ("calls", "errors", *TOKENS, "cost_nanos")
NO_ERRORS = (UsageRecord.Status.FINISHED.value, UsageRecord.Status.CLIENT_GONE.value)
TABLE = "billing_usagerollup"
# Ids go into one statement, and SQLite takes 32,766 parameters.
PARTS_PER_MERGE = 10_000


@dataclass(frozen=True, slots=True)
class Spans:
    """A period [start, end) cut where rollups can answer: whole days, whole hours, and edges."""

    days: tuple[datetime, datetime]
    hours: tuple[tuple[datetime, datetime], ...]
    edges: tuple[tuple[datetime, datetime], ...]


def spans(start: datetime, end: datetime) -> Spans:
    """Cut [start, end): at most one run of days, two runs of hours, two edges below an hour."""
    first_hour, last_hour = _ceiling(start, hours=1), _floor(end, hours=1)
    if first_hour >= last_hour:
        # At most one hour's border inside: only the records can tell.
        return Spans((start, start), (), ((start, end),) if start < end else ())
    first_day, last_day = _ceiling(start, hours=24), _floor(end, hours=24)
    if first_day >= last_day:
        first_day = last_day = last_hour
    return Spans(
        days=(first_day, last_day),
        hours=_not_empty((first_hour, first_day), (last_day, last_hour)),
        edges=_not_empty((start, first_hour), (last_hour, end)),
    )


def _not_empty(*found: tuple[datetime, datetime]) -> tuple[tuple[datetime, datetime], ...]:
    return tuple(span for span in found if span[0] < span[1])


def _floor(at: datetime, *, hours: int) -> datetime:
    at = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return at.replace(hour=at.hour // hours * hours)


def _ceiling(at: datetime, *, hours: int) -> datetime:
    floor = _floor(at, hours=hours)
    return floor if floor == at else floor + timedelta(hours=hours)


def hour_after(at: datetime) -> datetime:
    """The end of the hour in progress: a period until then needs no edge."""
    return _floor(at, hours=1) + timedelta(hours=1)


def in_spans(found: Spans) -> Q:
    """Which rollup rows add up to the spans' days and hours: each call is in exactly one."""
    first_day, last_day = found.days
    is_part = Q(period=HOUR, is_merged=False)
    wanted = Q(starts_at__gte=first_day, starts_at__lt=last_day) & (Q(period=DAY) | is_part)
    for start, end in found.hours:
        wanted |= Q(period=HOUR, starts_at__gte=start, starts_at__lt=end)
    return wanted


# --- Merging -----------------------------------------------------------------------------------
def merge(*, parts_max: int = PARTS_PER_MERGE) -> int:
    """Move the oldest parts into the rows of their hours and days; how many parts.

    Safe to run twice or in several processes at once: they take turns, and a part that has been
    moved is gone in the same transaction.
    """
    with _alone():
        parts = list(
            UsageRollup.objects.filter(is_merged=False)
            .order_by("id")
            .values_list("id", flat=True)[: min(parts_max, PARTS_PER_MERGE)]
        )
        if not parts:
            return 0
        among = f"id IN ({rows.placeholders(parts)})"
        for period, starts_at in ((HOUR, "starts_at"), (DAY, day_of("starts_at"))):
            _add_up(period, starts_at, TABLE, among, parts)
        UsageRollup.objects.filter(pk__in=parts).delete()
        return len(parts)


def merge_all() -> int:
    """Merge until nothing is left; how many parts."""
    merged = 0
    while count := merge():
        merged += count
    return merged


# --- Rebuilding --------------------------------------------------------------------------------
def rebuild(organization: Organization, day: date) -> None:
    """Replace an organization's rollups of one day (UTC) by sums over its usage records.

    Calls may arrive meanwhile: records and their parts are read as of one moment. Must not be
    called inside a transaction, except where nothing else writes.
    """
    start = datetime.combine(day, time(), UTC)
    end = start + timedelta(days=1)
    with _alone(is_one_moment=True):
        UsageRollup.objects.filter(
            organization=organization, starts_at__gte=start, starts_at__lt=end
        ).delete()
        among = "organization_id = %s AND started_at >= %s AND started_at < %s"
        parameters = [organization.pk, rows.datetime_for(start), rows.datetime_for(end)]
        for period, starts_at in ((HOUR, hour_of("started_at")), (DAY, day_of("started_at"))):
            _add_up(period, starts_at, "billing_usagerecord", among, parameters)


def days_used() -> tuple[date, date] | None:
    """The first and the last day (UTC) with usage or rollups; None when there never was any."""
    moments = [
        getattr(row, column)
        for model, column in ((UsageRecord, "started_at"), (UsageRollup, "starts_at"))
        for order in (column, f"-{column}")
        if (row := model.objects.order_by(order).only(column).first()) is not None
    ]
    return (min(moments).date(), max(moments).date()) if moments else None


# --- Statements of SQL, for both databases -------------------------------------------------------
def hour_of(column: str) -> str:
    """SQL for the hour (UTC) a time belongs to, as the database keeps times."""
    if connection.vendor == "sqlite":
        return f"substr({column}, 1, 13) || ':00:00'"
    return f"date_trunc('hour', {column}, 'UTC')"


def day_of(column: str) -> str:
    """SQL for the day (UTC) a time belongs to, likewise."""
    if connection.vendor == "sqlite":
        return f"substr({column}, 1, 10) || ' 00:00:00'"
    return f"date_trunc('day', {column}, 'UTC')"


def measured(table: str) -> list[str]:
    """SQL for each of MEASURES as a sum over usage records or over rollups."""
    if table == TABLE:
        return [f"SUM({name})" for name in MEASURES]
    finished = ",".join(f"'{status}'" for status in NO_ERRORS)
    counts = ["COUNT(*)", f"SUM(CASE WHEN status IN ({finished}) THEN 0 ELSE 1 END)"]
    return [*counts, *(f"SUM({name})" for name in MEASURES[2:])]


def _add_up(period: str, starts_at: str, table: str, among: str, parameters: Sequence[Any]) -> None:
    """Add sums over the rows of `table` that are `among` to the merged rows of `period`."""
    dimensions = ", ".join(DIMENSIONS)
    added = ", ".join(f"{name} = {TABLE}.{name} + excluded.{name}" for name in MEASURES)
    statement = (
        f"INSERT INTO {TABLE} (period, starts_at, is_merged, {dimensions}, {', '.join(MEASURES)})"  # noqa: S608 - our own names only
        f" SELECT '{period}', {starts_at}, TRUE, {dimensions}, {', '.join(measured(table))}"
        f" FROM {table} WHERE {among} GROUP BY {starts_at}, {dimensions}"
        f" ON CONFLICT (starts_at, period, {dimensions}) WHERE is_merged DO UPDATE SET {added}"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


@contextmanager
def _alone(*, is_one_moment: bool = False) -> Iterator[None]:
    """A transaction that no other merge or rebuild runs beside; inserts of usage go on.

    With `is_one_moment` all its statements see the same rows.
    """
    is_outermost = not connection.in_atomic_block
    with transaction.atomic():
        if connection.vendor == "postgresql":
            with connection.cursor() as cursor:
                if is_one_moment and is_outermost:
                    cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                # Conflicts with itself, not with INSERT; waiting for it takes no snapshot yet.
                cursor.execute(f"LOCK TABLE {TABLE} IN SHARE UPDATE EXCLUSIVE MODE")
        yield
