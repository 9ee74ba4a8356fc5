"""Threads that ask the database on behalf of an event loop, and how they end.

Owns that no thread leaves a connection behind. Must know nothing of what is asked.
"""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError

from django.db import connections

END_SECONDS_MAX = 5.0


class DatabaseThreads(ThreadPoolExecutor):
    """A pool of exactly so many threads, each with database connections of its own."""

    def __init__(self, count: int, name: str) -> None:
        super().__init__(max_workers=count, thread_name_prefix=name)
        self._count = count

    def close(self) -> None:
        """End the threads and their connections."""
        everyone = Barrier(self._count)
        for _ in range(self._count):
            self.submit(_close_connections, everyone)
        self.shutdown(wait=True)


def _close_connections(everyone: Barrier) -> None:
    """Close this thread's connections; waits for the other threads, so that each does it once."""
    connections.close_all()
    with contextlib.suppress(BrokenBarrierError):
        everyone.wait(timeout=END_SECONDS_MAX)
