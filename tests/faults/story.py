"""What fault tests tell alike: calls before, during and after something goes wrong."""

import asyncio
from collections.abc import Callable

from tests.faults.client import Clients, Seen, until
from tests.faults.invariants import violations
from tests.faults.platform import Books, Platform
from tests.faults.upstream import Upstream

RUNNING = 6


async def calls_around(
    clients: Clients, begin: Callable[[], object], end: Callable[[], object]
) -> list[Seen]:
    """Streams that run while a fault begins, and calls made while it lasts; the latter."""
    await clients.call("warm")
    running = [
        asyncio.create_task(clients.call(f"running-{number}", tokens=60, pause_ms=30))
        for number in range(RUNNING)
    ]
    await until(lambda: sum(seen.delivered > 3 for seen in clients.seen) == RUNNING + 1)
    await asyncio.to_thread(begin)
    try:
        during = [await clients.call(f"during-{number}") for number in range(4)]
        await asyncio.gather(*running)
    finally:
        await asyncio.to_thread(end)
    await clients.call("after")
    return during


def every_call_ended_and_is_booked(
    platform: Platform, upstream: Upstream, clients: Clients
) -> Books:
    """Everybody saw the end of their call, and the books agree."""
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    cut = [seen for seen in clients.seen if not seen.saw_end]
    assert not cut, f"{cut}\n{platform.logs()}"
    assert len(books.records) == len(clients.seen)
    return books
