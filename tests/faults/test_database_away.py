"""PostgreSQL dies, stops, refuses: calls go on as far as leases reach, and every call is exact."""

import asyncio
import os
import time

import pytest

from tests.faults.client import Clients, Seen, until
from tests.faults.invariants import violations
from tests.faults.platform import Platform
from tests.faults.postgres_proxy import PostgresProxy
from tests.faults.postgres_server import PostgresServer
from tests.faults.story import calls_around, every_call_ended_and_is_booked

# Its server is its own: once, with the tests on PostgreSQL, is enough.
ON_POSTGRESQL = os.environ.get("DATABASE_URL", "").startswith("postgres")
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(not ON_POSTGRESQL, reason="runs when DATABASE_URL names a PostgreSQL"),
]

LEAVE = """
from django.utils import timezone
from billing import ledger
from orgs.models import Organization
organization = Organization.objects.get(slug="demo")
ledger.correct(organization, {nanos} - ledger.balance(organization).posted_nanos,
               reason="leave little", idempotency_key="leave-little", at=timezone.now())
"""
# What a call of 64 tokens holds at most, and a lease of three such calls: an eighth of this.
WORST_NANOS = 1_170_000
LITTLE_NANOS = 8 * 3 * WORST_NANOS
MANY = 60
# Far longer than what was read of callers and models counts as fresh.
OUTAGE_SECONDS = 30


@pytest.fixture(scope="module")
def server():
    server = PostgresServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def platform(upstream, server):
    upstream.generated.clear()
    platform = Platform(upstream.port, {"INGEST_IN_WEB": "false"}, server_url=server.url)
    platform.prepare()
    platform.start_ingester()
    yield platform
    platform.close()


async def recover(clients: Clients) -> Seen:
    """Calls until one has ended."""
    for number in range(60):
        seen = await clients.call(f"after-{number}")
        if seen.saw_end:
            return seen
        await asyncio.sleep(0.5)
    return seen


def restart(server: PostgresServer) -> None:
    server.restart_immediately()


def kill_backends_again_and_again(server: PostgresServer) -> None:
    for _ in range(20):
        server.kill_backends()


def be_read_only(server: PostgresServer) -> None:
    server.set_read_only(is_on=True)


def be_writable(server: PostgresServer) -> None:
    server.set_read_only(is_on=False)


def nothing(server: PostgresServer) -> None:
    """Over by itself."""


FAULTS = {
    "restarted at once": (restart, nothing),
    "backends killed": (kill_backends_again_and_again, nothing),
    "stopped": (PostgresServer.stop_answering, PostgresServer.answer_again),
    "read-only": (be_read_only, be_writable),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_calls_go_on_and_are_booked_when_the_database_is_back(platform, upstream, server, fault):
    begin, end = FAULTS[fault]
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])
    asyncio.run(calls_around(clients, lambda: begin(server), lambda: end(server)))
    every_call_ended_and_is_booked(platform, upstream, clients)


OUTAGES = {
    "stopped": (PostgresServer.stop_answering, PostgresServer.answer_again),
    "crashed": (PostgresServer.crash, PostgresServer.start_again),
}


@pytest.mark.parametrize("outage", OUTAGES)
def test_calls_go_on_for_as_long_as_an_outage_takes(platform, upstream, server, outage):
    begin, end = OUTAGES[outage]
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])

    async def scenario() -> None:
        await clients.call("warm")
        await asyncio.to_thread(begin, server)
        try:
            ends_at = time.monotonic() + OUTAGE_SECONDS
            while time.monotonic() < ends_at:
                await clients.call(f"during-{len(clients.seen)}")
                await asyncio.sleep(0.5)
        finally:
            await asyncio.to_thread(end, server)
        await clients.call("after")

    asyncio.run(scenario())
    every_call_ended_and_is_booked(platform, upstream, clients)


def test_a_process_that_is_stopped_while_the_database_hangs_leaves_every_call_exact(
    platform, upstream, server
):
    """It may wait for the database for ever, so whoever stops it kills it in the end."""
    process, port = platform.start_web()
    clients = Clients(platform.key, [port])

    async def scenario() -> None:
        await clients.call("warm")
        running = [
            asyncio.create_task(clients.call(f"running-{number}", tokens=3_000, pause_ms=20))
            for number in range(6)
        ]
        await until(lambda: sum(seen.delivered > 3 for seen in clients.seen) == 7)
        await asyncio.to_thread(server.stop_answering)
        try:
            process.terminate()
            await asyncio.wait(running)
            process.kill()
            await asyncio.to_thread(process.wait)
        finally:
            await asyncio.to_thread(server.answer_again)

    asyncio.run(scenario())
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert len(books.records) == 7


def test_calls_go_on_when_the_database_has_no_connection_left(platform, upstream, server):
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])
    taken = []

    def give_back() -> None:
        for connection in taken:
            connection.close()

    asyncio.run(
        calls_around(clients, lambda: taken.extend(server.take_every_connection()), give_back)
    )
    assert len(taken) > 10
    every_call_ended_and_is_booked(platform, upstream, clients)


def test_with_the_lease_used_up_and_no_database_calls_are_unavailable_not_unpaid(
    platform, upstream, server
):
    platform.python(LEAVE.format(nanos=LITTLE_NANOS))
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])

    async def scenario() -> list[Seen]:
        await clients.call("warm")
        await asyncio.to_thread(server.stop_answering)
        try:
            return await asyncio.gather(
                *(clients.call(f"stopped-{number}", tokens=60, pause_ms=30) for number in range(12))
            )
        finally:
            await asyncio.to_thread(server.answer_again)

    stopped = asyncio.run(scenario())

    after = asyncio.run(recover(clients))
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    refused = [seen for seen in stopped if seen.status != 200]
    assert {seen.status for seen in refused} == {503}, stopped
    assert all("Billing is not available" in seen.error for seen in refused)
    assert all(seen.saw_end for seen in stopped if seen.status == 200)
    assert after.saw_end, after


# --- A commit whose answer is lost --------------------------------------------------------------


@pytest.fixture
def proxy(server):
    proxy = PostgresProxy(server.port)
    proxy.start()
    yield proxy
    proxy.close()


def test_commits_whose_answer_is_lost_are_neither_lost_nor_made_twice(upstream, server, proxy):
    upstream.generated.clear()
    platform = Platform(upstream.port, {"INGEST_IN_WEB": "false"}, server_url=server.url)
    try:
        platform.prepare()
        # Little enough that the lease must be refilled again and again.
        platform.python(LEAVE.format(nanos=MANY * WORST_NANOS))
        platform.database = platform.database.replace(f":{server.port}/", f":{proxy.port}/")
        platform.start_ingester()
        _, port = platform.start_web()
        clients = Clients(platform.key, [port])

        async def scenario() -> Seen:
            await clients.call("warm")
            for number in range(MANY // 2):
                proxy.loses_answers = number % 3 != 0
                await clients.call(f"during-{number}")
            await until(lambda: proxy.lost > 5)
            proxy.loses_answers = False
            return await recover(clients)

        after = asyncio.run(scenario())
        books = platform.settle()
        assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
        # There was credit all the time: whoever was refused was told to come again.
        assert {seen.status for seen in clients.seen} <= {200, 503}
        assert after.saw_end, after
        spent = sum(record["cost"] for record in books.records)
        assert books.posted == MANY * WORST_NANOS - spent
    finally:
        platform.close()


# --- PostgreSQL's own disk is full --------------------------------------------------------------


def test_calls_go_on_while_the_databases_own_disk_is_full(upstream):
    server = PostgresServer(disk_megabytes=256)
    upstream.generated.clear()
    platform = Platform(upstream.port, {"INGEST_IN_WEB": "false"})
    try:
        server.start()
        platform.server_url = server.url
        platform.prepare()
        platform.start_ingester()
        _, port = platform.start_web()
        clients = Clients(platform.key, [port])
        asyncio.run(calls_around(clients, server.fill_disk, server.empty_disk))
        every_call_ended_and_is_booked(platform, upstream, clients)
    finally:
        platform.close()
        server.close()
