"""Threads that ask the database on behalf of an event loop, and how they end.

Owns that no thread leaves a connection behind, and how much may wait for one. Must know nothing of
what is asked.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BoundedSemaphore, BrokenBarrierError
from typing import Any, TypeVar

from django.db import Error as DatabaseFailure
from django.db import close_old_connections, connections

END_SECONDS_MAX = 5.0
QUEUE_MAX = 200

Value = TypeVar("Value")


class UnableToAsk(Exception):
    """The database did not answer in time, or too much waits for it."""


class DatabaseThreads(ThreadPoolExecutor):
    """A pool of exactly so many threads, each with database connections of its own."""

    def __init__(self, count: int, name: str, *, queue_max: int = QUEUE_MAX) -> None:
        """`queue_max`: of what `ask` has waiting for a thread or in one."""
        super().__init__(max_workers=count, thread_name_prefix=name)
        self._count = count
        self._places = BoundedSemaphore(queue_max)

    async def ask(self, work: Callable[..., Value], *arguments: Any, seconds_max: float) -> Value:
        """What `work` answers in one of the threads. Raises UnableToAsk, and what it raises."""
        if not self._places.acquire(blocking=False):
            raise UnableToAsk("Too much waits for the database.")
        deadline = time.monotonic() + seconds_max
        future = self.submit(_guarded, deadline, work, *arguments)
        # Its place is free when a thread has had it, not when nobody waits for it any more.
        future.add_done_callback(lambda _: self._places.release())
        try:
            async with asyncio.timeout(seconds_max):
                return await asyncio.shield(asyncio.wrap_future(future))
        except (DatabaseFailure, TimeoutError) as error:
            raise UnableToAsk("The database does not answer.") from error

    def close(self) -> None:
        """End the threads and their connections."""
        everyone = Barrier(self._count)
        for _ in range(self._count):
            self.submit(_close_connections, everyone)
        self.shutdown(wait=True)


def _guarded(deadline: float, work: Callable[..., Value], *arguments: Any) -> Value:
    if time.monotonic() > deadline:
        raise UnableToAsk("Nobody waits for it any more.")
    close_old_connections()
    return work(*arguments)


def _close_connections(everyone: Barrier) -> None:
    """Close this thread's connections; waits for the other threads, so that each does it once."""
    connections.close_all()
    with contextlib.suppress(BrokenBarrierError):
        everyone.wait(timeout=END_SECONDS_MAX)
