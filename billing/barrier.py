"""The barrier: what the end of an answer waits for once its settlement is written.

`fsync`: the journal is durable up to it, which the sidecar sees to; should nobody, this process
does it itself. `database`: it is booked. `write`: nothing, for it survives the process already.
Polls the shared page only while somebody waits. Must not know what a settlement is.
"""

import asyncio
from collections import deque
from collections.abc import Callable

import structlog

from billing.journal.writer import JournalWriter
from billing.sidecar import BOOK_NOW, SYNC_NOW

log = structlog.get_logger(__name__)

POLL_SECONDS = 0.001
# A sidecar that is there and makes nothing durable for so long is stuck: sync here.
STALLED_SECONDS = 0.25
# After that, until it does again, it has less time: answers wait for it.
STALLED_ALONE_SECONDS = 0.02
WARN_SECONDS = 60.0


class UnableToSettle(Exception):
    """The settlement could not be made durable; its figures are in the log."""


class Barrier:
    """Waits of one process on its journal; used in the event loop's thread."""

    def __init__(
        self, journal: JournalWriter, mode: str, *, on_failure: Callable[[str], None]
    ) -> None:
        """`mode` as in the module's docstring. `on_failure(reason)`: the disk has failed."""
        self._loop = asyncio.get_running_loop()
        self._journal = journal
        self._mode = mode
        self._on_failure = on_failure
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        # One for everybody who need not wait.
        self._passed: asyncio.Future[None] = self._loop.create_future()
        self._passed.set_result(None)
        self._is_polling = False
        self._is_closed = False
        self._moved_at = 0.0
        self._warned_at = -WARN_SECONDS
        self._syncing: asyncio.Task[None] | None = None
        # Whether this process had to sync for itself, now and the last time somebody waited.
        self._has_synced = False
        self._is_alone = False

    def wait(self, position: int) -> "asyncio.Future[None]":
        """A future that is done when the barrier is passed up to `position` of the log.

        It raises UnableToSettle when the disk has failed.
        """
        if self._reached() >= position:
            return self._passed
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiters.append((position, future))
        self._begin_to_poll()
        return future

    async def drain(self, seconds_max: float) -> None:
        """Until nobody waits any more, within reason."""
        if self._waiters:
            await asyncio.wait([future for _, future in self._waiters], timeout=seconds_max)

    def close(self) -> None:
        """Look at the journal no more."""
        self._is_closed = True

    def _reached(self) -> int:
        """Up to which position the barrier is passed."""
        page = self._journal.page
        if self._mode == "write":
            return page.written
        return page.ingested if self._mode == "database" else page.durable

    def _begin_to_poll(self) -> None:
        if not self._is_polling:
            self._is_polling = True
            self._is_alone, self._has_synced = self._has_synced, False
            self._moved_at = self._loop.time()
            self._wake()
            self._loop.call_later(POLL_SECONDS, self._poll)

    def _wake(self) -> None:
        self._journal.wake(BOOK_NOW if self._mode == "database" else SYNC_NOW)

    def _poll(self) -> None:
        """Release who has passed by now; again in a millisecond if anybody is left."""
        if self._is_closed:
            return
        is_failed = self._journal.page.is_failed
        if is_failed:
            self._on_failure("The journal cannot be made durable.")
        self._release(self._reached(), is_failed=is_failed)
        if not self._waiters:
            self._is_polling = False
            return
        self._wake()
        if self._mode == "fsync" and self._syncing is None and self._is_left_alone():
            self._has_synced = True
            self._syncing = self._loop.create_task(self._sync_here())
        self._loop.call_later(POLL_SECONDS, self._poll)

    def _is_left_alone(self) -> bool:
        """Whether nobody else makes the log durable, or not in time."""
        if not self._journal.has_sidecar():
            return True
        is_alone = self._is_alone or self._has_synced
        limit = STALLED_ALONE_SECONDS if is_alone else STALLED_SECONDS
        return self._loop.time() - self._moved_at > limit

    def _release(self, reached: int, *, is_failed: bool) -> None:
        waiters = self._waiters
        while waiters and (is_failed or waiters[0][0] <= reached):
            self._moved_at = self._loop.time()
            _, future = waiters.popleft()
            if not future.done():
                _answer(future, is_failed=is_failed)

    async def _sync_here(self) -> None:
        """Nobody makes the log durable: do it, in a thread."""
        if self._loop.time() - self._warned_at > WARN_SECONDS:
            self._warned_at = self._loop.time()
            log.warning("nobody makes journals durable; is `manage.py ingest_usage` running?")
        try:
            await asyncio.to_thread(self._journal.sync)
        except OSError as error:
            self._on_failure(f"The journal cannot be made durable: {error}")
        finally:
            self._syncing = None


def _answer(future: "asyncio.Future[None]", *, is_failed: bool) -> None:
    if not is_failed:
        future.set_result(None)
        return
    future.set_exception(UnableToSettle("The settlement could not be made durable."))
    future.exception()  # whoever never looks must not make the loop complain: it is logged
