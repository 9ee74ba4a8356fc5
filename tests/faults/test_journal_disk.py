"""The journal's disk fills up, or fails: nothing that ran is lost, nothing new is promised."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.client import Clients, Seen, until
from tests.faults.invariants import violations
from tests.faults.platform import Platform

pytestmark = pytest.mark.faults

SEGMENT = 64 * 1024
RUNNING = 4
CALLS_MAX = 400


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    allowed = [] if os.getuid() == 0 else ["sudo", "-n"]
    options = f"size=4m,uid={os.getuid()},mode=700"
    subprocess.run([*allowed, "mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    yield place
    subprocess.run([*allowed, "umount", place], check=True)


@pytest.fixture
def platform(upstream, small_disk):
    upstream.generated.clear()
    platform = Platform(
        upstream.port,
        {
            "JOURNAL_DIR": str(small_disk / "journal"),
            "JOURNAL_SEGMENT_BYTES": str(SEGMENT),
            "JOURNAL_SLOTS": "64",
        },
    )
    platform.prepare()
    yield platform
    platform.close()


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is left on the disk."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    yield
    ballast.unlink()


async def call_until(clients: Clients, name: str, status: int) -> Seen:
    """Calls, one after another, until one has the status."""
    for number in range(CALLS_MAX):
        seen = await clients.call(f"{name}-{number}", tokens=2, pause_ms=0)
        if seen.status == status:
            break
    return seen


def test_a_full_disk_refuses_new_calls_and_those_that_run_are_booked(
    platform, upstream, small_disk
):
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])

    async def scenario() -> tuple[Seen, Seen, list[Seen]]:
        with full(small_disk):
            running = [
                asyncio.create_task(clients.call(f"running-{n}", tokens=400, pause_ms=40))
                for n in range(RUNNING)
            ]
            await until(lambda: all(seen.delivered for seen in clients.seen))
            refused = await call_until(clients, "filling", 503)
            ended = await asyncio.gather(*running)
        return refused, await call_until(clients, "after", 200), ended

    refused, after, ended = asyncio.run(scenario())
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert refused.status == 503, platform.logs()
    assert "Billing is not available" in refused.error
    assert "the journal's disk is full" in platform.logs()
    assert [seen for seen in ended if not seen.saw_end] == []
    assert after.saw_end


def test_a_disk_that_fails_to_sync_ends_the_process_and_another_one_books(
    platform, upstream, tmp_path
):
    switch = tmp_path / "fail"
    process, port = platform.start_web(FAIL_SYNC_WHEN=str(switch))
    clients = Clients(platform.key, [port])

    async def scenario() -> None:
        await asyncio.gather(*(clients.call(f"good-{n}") for n in range(4)))
        switch.touch()
        failing = await asyncio.gather(*(clients.call(f"failing-{n}") for n in range(4)))
        assert [seen for seen in failing if seen.saw_end] == []

    asyncio.run(scenario())
    process.wait(timeout=60)
    _, port = platform.start_web()
    clients.ports = [port]
    after = asyncio.run(clients.call("after"))
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert after.saw_end
    assert "The journal cannot be made durable" in (platform.data / "process-0.log").read_text()
