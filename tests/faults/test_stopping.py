"""A process is asked to stop, is not waited for, or has no file left: every call is booked."""

import asyncio
import os
import resource
import signal
import subprocess

import pytest

from tests.faults.client import Clients, Seen, until
from tests.faults.invariants import violations

pytestmark = pytest.mark.faults

STREAMS = 100

BY_RECOVERY = """
from billing.models import UsageRecord
print(UsageRecord.objects.filter(error_code="process_died").count())
"""


async def run_and_signal(clients: Clients, process: subprocess.Popen, *signals: int) -> list[Seen]:
    """Streams that would last longer than the process may take to stop."""
    running = [
        asyncio.create_task(clients.call(f"running-{number}", tokens=3_000, pause_ms=20))
        for number in range(STREAMS)
    ]
    await until(lambda: sum(seen.delivered > 0 for seen in clients.seen) == STREAMS, 60)
    for number in signals:
        process.send_signal(number)
        await asyncio.sleep(0.5)
    return await asyncio.gather(*running)


def test_a_process_that_is_asked_to_stop_settles_every_stream_itself(platform, upstream):
    process, port = platform.start_web()
    clients = Clients(platform.key, [port])
    seen = asyncio.run(run_and_signal(clients, process, signal.SIGTERM))
    assert process.wait(timeout=60) in (0, -signal.SIGTERM)
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert len(books.records) == len(seen) == STREAMS
    assert int(platform.python(BY_RECOVERY)) == 0


def test_a_process_that_is_not_waited_for_leaves_every_stream_to_recovery(platform, upstream):
    process, port = platform.start_web()
    clients = Clients(platform.key, [port])
    asyncio.run(run_and_signal(clients, process, signal.SIGTERM, signal.SIGKILL))
    assert process.wait(timeout=60) == -signal.SIGKILL
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert len(books.records) == STREAMS
    assert int(platform.python(BY_RECOVERY)) > 0


def test_a_process_without_a_file_to_open_bills_nothing_wrong_and_recovers(platform, upstream):
    process, port = platform.start_web()
    clients = Clients(platform.key, [port])

    def allow(files: int) -> None:
        _, most = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (files, most))

    async def scenario() -> Seen:
        await clients.call("before")
        before, _ = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        # Room for some calls' two connections, and not for all.
        allow(len(os.listdir(f"/proc/{process.pid}/fd")) + 8)
        starved = [
            asyncio.create_task(clients.call(f"starved-{number}", tokens=40, pause_ms=30))
            for number in range(30)
        ]
        await asyncio.wait(starved, timeout=10)
        allow(before)
        await asyncio.gather(*starved)
        for number in range(50):
            after = await clients.call(f"after-{number}")
            if after.saw_end:
                break
        return after

    after = asyncio.run(scenario())
    assert process.poll() is None, platform.logs()
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert after.saw_end
