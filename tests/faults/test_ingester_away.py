"""The ingester dies again and again, or comes late: calls do not notice, and the books catch up."""

import asyncio
import signal

import pytest

from tests.faults import backlog
from tests.faults.client import Clients
from tests.faults.platform import Platform
from tests.faults.story import every_call_ended_and_is_booked

pytestmark = pytest.mark.faults

BACKLOG = 20_000


@pytest.fixture
def platform(upstream):
    upstream.generated.clear()
    platform = Platform(upstream.port, {"INGEST_IN_WEB": "false"})
    platform.prepare()
    yield platform
    platform.close()


def test_calls_go_on_while_the_ingester_dies_again_and_again(platform, upstream):
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])

    def crash(place: str) -> int:
        return platform.start_ingester(crash_at=place).wait(timeout=60)

    async def scenario() -> list[int]:
        codes = []
        for place in ("after_read", "after_charge", "before_commit", "after_commit"):
            crashing = asyncio.create_task(asyncio.to_thread(crash, f"ingest.{place}"))
            while not crashing.done():
                await clients.call(f"{place}-{len(clients.seen)}")
            codes.append(crashing.result())
        return codes

    assert asyncio.run(scenario()) == [-signal.SIGKILL] * 4
    every_call_ended_and_is_booked(platform, upstream, clients)


def test_a_backlog_is_booked_to_the_last_call_by_ingesters_that_keep_dying(platform, upstream):
    backlog.write(platform, BACKLOG)
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])

    def crash() -> int:
        # Some batches are booked, and the next is lost just before it is.
        return platform.start_ingester(crash_at="ingest.before_commit:3").wait(timeout=120)

    async def scenario() -> list[int]:
        codes = []
        for _ in range(3):
            crashing = asyncio.create_task(asyncio.to_thread(crash))
            while not crashing.done():
                await clients.call(f"call-{len(clients.seen)}")
            codes.append(crashing.result())
        return codes

    assert asyncio.run(scenario()) == [-signal.SIGKILL] * 3
    assert all(seen.saw_end for seen in clients.seen)
    books = platform.settle()
    late = [record for record in books.records if record["request_id"].startswith("late-")]
    assert len(late) == BACKLOG
    assert len(books.by_request) == len(books.records) == BACKLOG + len(clients.seen)
    assert {record["cost"] for record in late} == {backlog.COST_NANOS}
    assert (books.differences, books.held) == ([], 0)
    assert (books.open_journals, books.directories) == (0, 0)
    # The backlog was paid for by the credit that came with it.
    others = sum(record["cost"] for record in books.records) - BACKLOG * backlog.COST_NANOS
    assert books.posted == 25 * 10**9 - others
