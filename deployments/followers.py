"""Reading on in a deployment's log: what came since the last look, and what had to be skipped.

Owns the position of one reader. Lines become visible in the order of their ids (see LogStream), so
a position is one number and no line is lost or read twice. Must know nothing of sockets.
"""

from dataclasses import dataclass

from django.db.models import QuerySet

from deployments import logs
from deployments.models import LogEntry

BATCH_MAX = 200
# A reader who is further behind is put forward to so many lines before the end.
BEHIND_MAX = 2_000
TAIL_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines in order, how many before them were skipped, and whether there are none after them."""

    entries: list[LogEntry]
    dropped: int
    is_last: bool


class Follower:
    """One reader of the wanted lines of one deployment's log. For one thread at a time."""

    def __init__(self, deployment_id: int, *, only: logs.LineFilter, position: int) -> None:
        self._deployment_id = deployment_id
        self._only = only
        self.position = position

    def read(self) -> Batch:
        """The next lines, at most BATCH_MAX; the position moves past them."""
        newest = logs.newest_id(self._deployment_id)
        if newest <= self.position:
            return Batch([], 0, is_last=True)
        waiting = self._up_to(newest)
        entries, dropped = list(waiting[: BATCH_MAX + 1]), 0
        if len(entries) > BATCH_MAX and (dropped := self._skip(newest)):
            entries = list(self._up_to(newest)[: BATCH_MAX + 1])
        is_last = len(entries) <= BATCH_MAX
        entries = entries[:BATCH_MAX]
        # Lines that were not wanted are not looked at again.
        self.position = newest if is_last else entries[-1].pk
        return Batch(entries, dropped, is_last)

    def _up_to(self, newest: int) -> QuerySet[LogEntry]:
        return logs.between(
            self._deployment_id, after_id=self.position, up_to_id=newest, only=self._only
        )

    def _skip(self, newest: int) -> int:
        """Move to BEHIND_MAX lines before the end if that is forward; how many were skipped."""
        dropped = self._up_to(newest).count() - BEHIND_MAX
        if dropped <= 0:
            return 0
        self.position = self._up_to(newest).values_list("id", flat=True)[dropped - 1]
        return dropped


def from_id(deployment_id: int, *, only: logs.LineFilter, after_id: int) -> Follower:
    """A reader of what was written after the line with this id."""
    return Follower(deployment_id, only=only, position=after_id)


def from_tail(deployment_id: int, *, only: logs.LineFilter, lines: int) -> Follower:
    """A reader that begins with the newest `lines` wanted lines, 0 to TAIL_MAX."""
    newest = logs.newest_id(deployment_id)
    if not lines:
        return Follower(deployment_id, only=only, position=newest)
    wanted = logs.between(deployment_id, after_id=0, up_to_id=newest, only=only)
    # The newest line that is not wanted any more.
    before = wanted.reverse().values_list("id", flat=True)[lines : lines + 1].first()
    return Follower(deployment_id, only=only, position=before or 0)
