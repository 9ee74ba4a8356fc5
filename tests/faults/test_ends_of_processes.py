"""A process is killed by the kernel for its memory, or ends itself after so many requests."""

import asyncio
import io
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.faults.client import Clients, until
from tests.faults.invariants import violations

pytestmark = pytest.mark.faults

STREAMS = 12
MEMORY_MORE = 8 * 1024 * 1024
# Below the limit of a request's body.
BODY = b"[" + b"0," * (9 * 1024 * 1024) + b"0]"
BY_RECOVERY = """
from billing.models import UsageRecord
print(UsageRecord.objects.filter(error_code="process_died").count())
"""


@contextmanager
def little_memory(process: subprocess.Popen) -> Iterator[Path]:
    """A control group in which the process may take little more than it has; its count of kills.

    Version 1 has a hierarchy for memory, version 2 one for all; what a process has when it comes
    into a group stays counted where it was.
    """
    name = f"faults-{os.getpid()}"
    first = Path("/sys/fs/cgroup/memory")
    group = (first if first.is_dir() else Path("/sys/fs/cgroup")) / name
    limit, kills = (
        ("memory.limit_in_bytes", "memory.oom_control")
        if first.is_dir()
        else ("memory.max", "memory.events")
    )
    try:
        group.mkdir()
        (group / limit).write_text(str(MEMORY_MORE))
        (group / "cgroup.procs").write_text(str(process.pid))
    except OSError as error:
        group.rmdir() if group.is_dir() else None
        pytest.skip(f"No control group of memory can be made here: {error}")
    yield group / kills
    group.rmdir()


async def push(port: int, key: str) -> None:
    """Requests that take memory, until nobody takes them any more."""
    url = f"http://127.0.0.1:{port}/api/ai/v1/chat/completions"
    headers = {"authorization": f"Bearer {key}"}
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            while True:
                async with session.post(url, data=io.BytesIO(BODY), headers=headers) as answer:
                    await answer.read()
    except aiohttp.ClientError:
        return


def test_a_process_that_the_kernel_kills_for_its_memory_leaves_every_call_exact(platform, upstream):
    process, port = platform.start_web()
    clients = Clients(platform.key, [port])

    async def scenario() -> None:
        for number in range(3):
            await clients.call(f"before-{number}")
        running = [
            asyncio.create_task(clients.call(f"running-{number}", tokens=2_000, pause_ms=20))
            for number in range(STREAMS)
        ]
        await until(lambda: sum(seen.delivered > 3 for seen in clients.seen) >= STREAMS + 3, 60)
        with little_memory(process) as kills:
            await asyncio.gather(*(push(port, platform.key) for _ in range(4)))
            await asyncio.to_thread(process.wait, 60)
            assert "oom_kill 1" in kills.read_text()
        await asyncio.gather(*running)

    asyncio.run(scenario())
    assert process.returncode == -signal.SIGKILL, platform.logs()
    _, clients.ports[0] = platform.start_web()
    after = asyncio.run(clients.call("after"))
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert after.saw_end
    assert int(platform.python(BY_RECOVERY)) == STREAMS


def test_processes_that_end_after_so_many_requests_strand_nothing(platform, upstream):
    clients = Clients(platform.key, [])

    async def calls(who: int, is_enough: asyncio.Event) -> None:
        number = 0
        while not is_enough.is_set():
            number += 1
            seen = await clients.call(f"{who}-{number}", tokens=20, pause_ms=5)
            await asyncio.sleep(0 if seen.status else 0.2)

    async def scenario() -> list[int]:
        is_enough, codes = asyncio.Event(), []
        callers: list[asyncio.Task[None]] = []
        for _ in range(3):
            process, port = await asyncio.to_thread(lambda: platform.start_web(REQUESTS_MAX="30"))
            clients.ports = [port]
            callers = callers or [asyncio.create_task(calls(n, is_enough)) for n in range(6)]
            codes.append(await asyncio.to_thread(process.wait, 60))
        is_enough.set()
        await asyncio.gather(*callers)
        return codes

    assert asyncio.run(scenario()) == [0, 0, 0], platform.logs()
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert len(books.records) >= 60
    # Each settled its own calls, and let those that ran come to their end.
    assert int(platform.python(BY_RECOVERY)) == 0
    assert {record["status"] for record in books.records} == {"FINISHED"}
