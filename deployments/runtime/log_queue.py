"""Lines of output on their way from instances to whoever stores them.

Owns the queue between the two: bounded in lines and bytes, handed out in batches. A batch is stored
by one taker or given to another: it stays in the queue until it is acknowledged, under an id that
lets the store recognise it when an acknowledgement got lost. What does not fit is dropped and
counted, and each deployment's log tells how much. Knows no database.
"""

import asyncio
import contextlib
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from deployments.runtime.driver import MEBIBYTE, FunctionSpec

LINES_WAITING_MAX = 10_000
BYTES_WAITING_MAX = 16 * MEBIBYTE
BATCH_LINES_MAX = 500
GATHER_SECONDS = 0.2  # lines come in bursts: one transaction for each would be wasteful
DEPLOYMENTS_COUNTED_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a function's log; `at` is when it was printed."""

    deployment_id: int
    function_name: str
    request_id: str
    message: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines to be stored together; the same id always stands for the same lines."""

    id: str
    lines: tuple[Line, ...]


class LineSink(Protocol):
    """Takes the lines of instances."""

    def add(self, spec: FunctionSpec, request_id: str, message: str) -> None:
        """Log a line of the function, as printed now. Never waits."""
        ...


class LogSource(Protocol):
    """Where batches come from: the queue itself, or its end in another process."""

    async def take(self, wait_seconds: float) -> Batch | None:
        """The next batch; None when there was none for so long."""
        ...

    async def acknowledge(self, batch: Batch) -> None:
        """The batch is stored."""
        ...

    async def give_back(self, batch: Batch) -> None:
        """The batch could not be stored: somebody else, or a later try, may."""
        ...


class LogQueue:
    """The queue. One event loop; any number of takers."""

    def __init__(self, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._clock = clock
        self._lines: deque[Line] = deque()
        self._returned: deque[Batch] = deque()
        self._taken: dict[str, Batch] = {}
        self._count = 0  # of lines in all three
        self._bytes = 0
        self._dropped: dict[tuple[int, str], int] = {}
        self._has_lines = asyncio.Event()
        self.dropped_total = 0

    @property
    def waiting(self) -> int:
        """How many lines nobody has stored yet."""
        return self._count

    def add(self, spec: FunctionSpec, request_id: str, message: str) -> None:
        """See LineSink. A line that does not fit is counted instead."""
        if not message:
            return
        key = (spec.deployment_id, spec.function_name)
        size = len(message)
        if self._count >= LINES_WAITING_MAX or self._bytes + size > BYTES_WAITING_MAX:
            self.dropped_total += 1
            if key in self._dropped or len(self._dropped) < DEPLOYMENTS_COUNTED_MAX:
                self._dropped[key] = self._dropped.get(key, 0) + 1
            return
        self._append(Line(*key, request_id, message, self._clock()))

    def _append(self, line: Line) -> None:
        self._lines.append(line)
        self._count += 1
        self._bytes += len(line.message)
        self._has_lines.set()

    async def take(self, wait_seconds: float) -> Batch | None:
        """See LogSource."""
        if not await self._wait(wait_seconds):
            return None
        if not self._returned and len(self._lines) < BATCH_LINES_MAX and wait_seconds:
            await asyncio.sleep(min(GATHER_SECONDS, wait_seconds))
        batch = self._next()
        if batch is not None:
            self._taken[batch.id] = batch
        return batch

    async def _wait(self, seconds: float) -> bool:
        if not self._has_lines.is_set() and seconds:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._has_lines.wait()
        return self._has_lines.is_set()

    def _next(self) -> Batch | None:
        """A batch that came back, else a new one; None when another taker was faster."""
        batch = None
        if self._returned:
            batch = self._returned.popleft()
        elif self._lines:
            count = min(BATCH_LINES_MAX, len(self._lines))
            batch = Batch(str(uuid.uuid4()), tuple(self._lines.popleft() for _ in range(count)))
        if not self._returned and not self._lines:
            self._has_lines.clear()
        return batch

    async def acknowledge(self, batch: Batch) -> None:
        """See LogSource. Now that there is room again, each log is told what it misses."""
        if self._taken.pop(batch.id, None) is None:
            return
        self._count -= len(batch.lines)
        self._bytes -= sum(len(line.message) for line in batch.lines)
        dropped, self._dropped = self._dropped, {}
        for (deployment_id, function_name), count in dropped.items():
            text = f"{count} lines of output were dropped here: they could not be stored in time."
            self._append(Line(deployment_id, function_name, "", text, self._clock()))

    async def give_back(self, batch: Batch) -> None:
        """See LogSource."""
        if self._taken.pop(batch.id, None) is not None:
            self._returned.append(batch)
            self._has_lines.set()
