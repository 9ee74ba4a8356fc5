"""What functions printed: written in batches by the runtime, read by people and agents.

Owns size and age limits of log lines. Must not know who produces them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from deployments.models import Deployment, LogEntry

MESSAGE_BYTES_MAX = 16 * 1024
CUT_MARK = " … (cut)"
RETENTION = timedelta(hours=24)  # get-logs reaches back eight hours; the rest is slack for people
PURGE_BATCH = 5_000


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line to be kept; `at` is when it was printed."""

    deployment_id: int
    function_name: str
    request_id: str
    message: str
    at: datetime


def append(
    deployment_id: int, *, function_name: str, request_id: str, message: str, at: datetime
) -> None:
    """Keep one line of a deployment's log; see `append_many`."""
    append_many([LogLine(deployment_id, function_name, request_id, message, at)])


def append_many(lines: Iterable[LogLine]) -> None:
    """Keep lines, in this order; messages are cut at MESSAGE_BYTES_MAX."""
    LogEntry.objects.bulk_create(
        [
            LogEntry(
                deployment_id=line.deployment_id,
                function_name=line.function_name[:200],
                request_id=line.request_id[:64],
                logged_at=line.at,
                message=_storable(line.message),
            )
            for line in lines
        ],
        batch_size=500,
    )


def _storable(message: str) -> str:
    """`message` as text any database takes: valid UTF-8, no NUL, of limited size."""
    encoded = message.replace("\0", "\ufffd").encode("utf-8", "replace")
    if len(encoded) <= MESSAGE_BYTES_MAX:
        return encoded.decode()
    room = MESSAGE_BYTES_MAX - len(CUT_MARK.encode())
    return encoded[:room].decode("utf-8", "ignore") + CUT_MARK


def recent(
    deployment: Deployment, *, minutes: int, limit: int = 1000, at: datetime
) -> list[LogEntry]:
    """The newest `limit` lines of the `minutes` before `at`, oldest first."""
    newest_first = LogEntry.objects.filter(
        deployment=deployment, logged_at__gte=at - timedelta(minutes=minutes)
    ).order_by("-logged_at", "-id")[:limit]
    return list(newest_first)[::-1]


def purge(*, at: datetime) -> int:
    """Delete lines older than RETENTION, in batches so that writers get their turn; the count."""
    deleted = 0
    while True:
        ids = list(
            LogEntry.objects.filter(logged_at__lt=at - RETENTION)
            .order_by("logged_at")
            .values_list("id", flat=True)[:PURGE_BATCH]
        )
        if not ids:
            return deleted
        deleted += LogEntry.objects.filter(id__in=ids).delete()[0]
