"""What functions printed: written in batches by the runtime, read by people and agents.

Owns size, number and age limits of log lines, and that a deployment's lines become visible in the
order of their ids. Must not know who produces them or who watches.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, QuerySet

from deployments import wakeups
from deployments.models import Deployment, LogEntry, LogStream

MESSAGE_BYTES_MAX = 16 * 1024
CUT_MARK = " … (cut)"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# Control characters but tab and line feed; Unicode has a picture of each of the old ones.
VISIBLE = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    **dict.fromkeys([0, *range(0x7F, 0xA0)], 0xFFFD),
}
RETENTION = timedelta(hours=24)  # get-logs reaches back eight hours; the rest is slack for people
# A deployment keeps so many lines; the oldest go first, so many at once that it is not done for
# every batch.
LINES_MAX = 50_000
LINES_DROPPED_AT_ONCE = 5_000
PURGE_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line to be kept; `at` is when it was printed."""

    deployment_id: int
    function_name: str
    request_id: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class LineFilter:
    """Which lines are wanted: of one request, of one function; empty for all."""

    request_id: str = ""
    function_name: str = ""

    def apply(self, entries: QuerySet[LogEntry]) -> QuerySet[LogEntry]:
        """`entries` without the lines that are not wanted."""
        if self.request_id:
            entries = entries.filter(request_id=self.request_id)
        if self.function_name:
            entries = entries.filter(function_name=self.function_name)
        return entries


EVERY_LINE = LineFilter()


def append(
    deployment_id: int, *, function_name: str, request_id: str, message: str, at: datetime
) -> None:
    """Keep one line of a deployment's log; see `append_many`."""
    append_many([LogLine(deployment_id, function_name, request_id, message, at)])


def append_many(lines: Iterable[LogLine]) -> None:
    """Keep lines, in this order; messages are cut at MESSAGE_BYTES_MAX.

    Of a log longer than LINES_MAX the oldest lines are dropped. Whoever watches is woken when the
    lines are committed.
    """
    entries = [
        LogEntry(
            deployment_id=line.deployment_id,
            function_name=line.function_name[:200],
            request_id=line.request_id[:64],
            logged_at=line.at,
            message=_storable(line.message),
        )
        for line in lines
    ]
    counts = Counter(entry.deployment_id for entry in entries)
    with transaction.atomic():
        # Ids are given out under the streams' locks (see LogStream), which everybody takes in the
        # same order.
        for deployment_id in sorted(counts):
            _lengthen(deployment_id, counts[deployment_id])
        LogEntry.objects.bulk_create(entries, batch_size=500)
        for deployment_id in sorted(counts):
            _drop_beyond_limit(deployment_id)
        transaction.on_commit(lambda: wakeups.announce(counts.keys()), robust=True)


def _lengthen(deployment_id: int, added: int) -> None:
    """Count lines that are about to be added; from here to the commit nobody else adds any."""
    stream = LogStream.objects.filter(deployment_id=deployment_id)
    if not stream.update(line_count=F("line_count") + added):
        LogStream.objects.bulk_create(
            [LogStream(deployment_id=deployment_id)], ignore_conflicts=True
        )
        stream.update(line_count=F("line_count") + added)


def _drop_beyond_limit(deployment_id: int) -> None:
    """Drop the oldest lines of a log that has grown too long; under its stream's lock."""
    stream = LogStream.objects.get(deployment_id=deployment_id)
    if stream.line_count < LINES_MAX + LINES_DROPPED_AT_ONCE:
        return
    own = LogEntry.objects.filter(deployment_id=deployment_id)
    newest_dropped = own.order_by("-id").values_list("id", flat=True)[LINES_MAX : LINES_MAX + 1]
    own.filter(id__lte=newest_dropped[0]).delete()
    stream.line_count = LINES_MAX
    stream.save(update_fields=["line_count"])


def _storable(message: str) -> str:
    """`message` as text any database takes and any terminal may show: valid UTF-8, limited size.

    What a visitor sends and a function prints must not reach the terminal of whoever reads the log
    as a command: colours are dropped, other control characters become visible.
    """
    visible = COLOUR.sub("", message).translate(VISIBLE)
    encoded = visible.encode("utf-8", "replace")
    if len(encoded) <= MESSAGE_BYTES_MAX:
        return encoded.decode()
    room = MESSAGE_BYTES_MAX - len(CUT_MARK.encode())
    return encoded[:room].decode("utf-8", "ignore") + CUT_MARK


def recent(
    deployment: Deployment,
    *,
    minutes: int,
    limit: int = 1000,
    only: LineFilter = EVERY_LINE,
    at: datetime,
) -> list[LogEntry]:
    """The newest `limit` lines of the `minutes` before `at`, oldest first."""
    within = LogEntry.objects.filter(
        deployment=deployment, logged_at__gte=at - timedelta(minutes=minutes)
    )
    newest_first = only.apply(within).order_by("-logged_at", "-id")[:limit]
    return list(newest_first)[::-1]


def newest_id(deployment_id: int) -> int:
    """The id of the deployment's line written last; 0 when it has none."""
    ids = LogEntry.objects.filter(deployment_id=deployment_id).order_by("-id")
    return ids.values_list("id", flat=True).first() or 0


def between(
    deployment_id: int, *, after_id: int, up_to_id: int, only: LineFilter = EVERY_LINE
) -> QuerySet[LogEntry]:
    """The lines with `after_id` < id <= `up_to_id`, in the order they were written."""
    entries = LogEntry.objects.filter(
        deployment_id=deployment_id, id__gt=after_id, id__lte=up_to_id
    )
    return only.apply(entries).order_by("id")


@transaction.atomic
def clear(deployment: Deployment) -> None:
    """Forget every line: the deployment is being deleted."""
    LogStream.objects.filter(deployment=deployment).update(line_count=0)
    LogEntry.objects.filter(deployment=deployment).delete()


def purge(*, at: datetime) -> int:
    """Delete lines older than RETENTION, in batches so that writers get their turn; the count."""
    deleted = 0
    for deployment_id in LogStream.objects.values_list("deployment_id", flat=True):
        while batch := _purge_batch(deployment_id, at=at):
            deleted += batch
    return deleted


@transaction.atomic
def _purge_batch(deployment_id: int, *, at: datetime) -> int:
    """Delete some of the deployment's oldest lines and count what is left."""
    stream = LogStream.objects.select_for_update().get(deployment_id=deployment_id)
    own = LogEntry.objects.filter(deployment_id=deployment_id)
    old = own.filter(logged_at__lt=at - RETENTION).order_by("logged_at")
    ids = list(old.values_list("id", flat=True)[:PURGE_BATCH])
    if not ids:
        return 0
    deleted = own.filter(id__in=ids).delete()[0]
    stream.line_count = own.count()
    stream.save(update_fields=["line_count"])
    return deleted
