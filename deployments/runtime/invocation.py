"""One invocation on its way: events from the function's side to the visitor's, with back-pressure.

The Runtime API puts, the pool's caller gets. A slow visitor fills the small buffer, `put` waits,
the socket from the function fills up, and the function's own writes wait.
"""

import asyncio
import contextlib
import time
from collections import deque

from deployments.runtime.driver import Chunk, Done, Event, Failed, Head, InvokeContext

BUFFERED_EVENTS_MAX = 8  # of a stream: each at most what one read from the socket gives


class Invocation:
    """State of one invocation. One producer, one consumer, one event loop."""

    def __init__(self, event: bytes, context: InvokeContext, *, cold: bool) -> None:
        self.event = event
        self.request_id = context.request_id
        self.cold = cold
        self.deadline_ms = int((time.time() + context.timeout_seconds) * 1000)
        self.delivered = False  # the function's process has taken it
        self.streamed = False
        self.abandoned = False  # nobody reads the events any more
        self._started = time.monotonic()
        self._events: deque[Head | Chunk] = deque()
        self._outcome: Done | Failed | None = None
        self._ended = asyncio.Event()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    @property
    def outcome(self) -> Done | Failed | None:
        """How it ended; None while it runs."""
        return self._outcome

    @property
    def is_wanted(self) -> bool:
        """Whether more events may be put."""
        return self._outcome is None and not self.abandoned

    async def put(self, event: Head | Chunk) -> bool:
        """Hand an event over, once there is room; False when nobody wants it any more."""
        while self.is_wanted and len(self._events) >= BUFFERED_EVENTS_MAX:
            self._writable.clear()
            await self._writable.wait()
        if not self.is_wanted:
            return False
        self._events.append(event)
        self._readable.set()
        return True

    async def get(self) -> Event:
        """The next event; Done or Failed is the last."""
        while not self._events:
            if self._outcome is not None:
                return self._outcome
            self._readable.clear()
            await self._readable.wait()
        self._writable.set()
        return self._events.popleft()

    async def wait_for_outcome(self, seconds: float) -> None:
        """Until it has ended, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()

    def complete(self) -> None:
        """The response is complete. The first ending stands."""
        self._end(Done(int((time.monotonic() - self._started) * 1000), self.cold))

    def fail(self, failed: Failed) -> None:
        """The invocation failed. The first ending stands."""
        self._end(failed)

    def abandon(self) -> None:
        """Nobody listens any more: what was put is dropped, and `put` tells the producer."""
        self.abandoned = True
        self._events.clear()
        self._writable.set()

    def _end(self, outcome: Done | Failed) -> None:
        if self._outcome is None:
            self._outcome = outcome
            self._ended.set()
        self._readable.set()
        self._writable.set()
