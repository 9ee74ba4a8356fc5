"""The journal's disk fills up, or fails: nothing that ran is lost, nothing new is promised."""

import asyncio
import os
import shutil
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
# So that so many take several seconds: the disk's free space is looked at once in a second.
PAUSE_SECONDS = 0.01
WATERMARK = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MiB and 200 files."""
    place = tmp_path / "small"
    place.mkdir()
    allowed = [] if os.getuid() == 0 else ["sudo", "-n"]
    options = f"size=4m,nr_inodes=200,uid={os.getuid()},mode=700"
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
            "JOURNAL_FREE_BYTES_MIN": "0",
        },
    )
    platform.prepare()
    yield platform
    platform.close()


@contextmanager
def no_byte_left(disk: Path) -> Iterator[None]:
    """Not a byte is left on the disk."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    yield
    ballast.unlink()


@contextmanager
def little_left(disk: Path) -> Iterator[None]:
    """Below the watermark, with space enough for everything."""
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(free - WATERMARK // 2))
    yield
    ballast.unlink()


@contextmanager
def no_file_left(disk: Path) -> Iterator[None]:
    """There is space, and no inode for another file."""
    made: list[Path] = []
    with suppress(OSError):
        while True:
            ballast = disk / f"ballast-{len(made)}"
            ballast.touch()
            made.append(ballast)
    assert os.statvfs(disk).f_bavail > 0
    yield
    for ballast in made:
        ballast.unlink()


async def call_until(clients: Clients, name: str, status: int) -> Seen:
    """Calls, one after another, until one has the status."""
    for number in range(CALLS_MAX):
        seen = await clients.call(f"{name}-{number}", tokens=2, pause_ms=0)
        if seen.status == status:
            break
        await asyncio.sleep(PAUSE_SECONDS)
    return seen


DESCRIBED = {no_byte_left: "full", no_file_left: "full", little_left: "almost full"}


@pytest.mark.parametrize("exhausted", DESCRIBED)
def test_a_full_disk_refuses_new_calls_and_those_that_run_are_booked(
    platform, upstream, small_disk, exhausted
):
    if exhausted is little_left:
        platform.settings["JOURNAL_FREE_BYTES_MIN"] = str(WATERMARK)
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])

    async def scenario() -> tuple[Seen, Seen, list[Seen]]:
        running = [
            asyncio.create_task(clients.call(f"running-{n}", tokens=400, pause_ms=40))
            for n in range(RUNNING)
        ]
        await until(lambda: sum(seen.delivered > 0 for seen in clients.seen) == RUNNING)
        with exhausted(small_disk):
            refused = await call_until(clients, "filling", 503)
            ended = await asyncio.gather(*running)
        return refused, await call_until(clients, "after", 200), ended

    refused, after, ended = asyncio.run(scenario())
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert refused.status == 503, platform.logs()
    assert "Billing is not available" in refused.error
    assert f"the journal's disk is {DESCRIBED[exhausted]}" in platform.logs()
    assert [seen for seen in ended if not seen.saw_end] == []
    assert after.saw_end


@pytest.fixture
def broken_when(platform, tmp_path) -> Path:
    """While this file exists, the journal's disk fails to sync, in every process."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("There is no C compiler to make a failing disk with.")
    library, switch = tmp_path / "failing_sync.so", tmp_path / "broken"
    source = Path(__file__).parent / "failing_sync.c"
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    platform.settings.update(LD_PRELOAD=str(library), FAIL_SYNC_WHEN=str(switch))
    return switch


@pytest.mark.parametrize("ingester", ["beside the loop", "a process of its own"])
def test_a_disk_that_fails_to_sync_ends_the_process_and_another_one_books(
    platform, upstream, broken_when, ingester
):
    if ingester != "beside the loop":
        platform.settings["INGEST_IN_WEB"] = "false"
        platform.start_ingester()
    process, port = platform.start_web()
    clients = Clients(platform.key, [port])

    async def scenario() -> None:
        await asyncio.gather(*(clients.call(f"good-{n}") for n in range(4)))
        broken_when.touch()
        failing = await asyncio.gather(*(clients.call(f"failing-{n}") for n in range(4)))
        assert [seen for seen in failing if seen.saw_end] == []

    asyncio.run(scenario())
    assert [seen.name for seen in clients.seen if seen.saw_end] == [f"good-{n}" for n in range(4)]
    process.wait(timeout=60)
    broken_when.unlink()
    _, port = platform.start_web()
    clients.ports = [port]
    after = asyncio.run(clients.call("after"))
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert after.saw_end
    assert "The journal cannot be made durable" in platform.logs()
