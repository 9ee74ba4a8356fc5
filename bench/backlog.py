"""How fast a backlog is booked, and that callers do not notice: a million settled calls.

    [DATABASE_URL=postgresql://...] python -m bench.backlog
        [--calls 1000000] [--crashes 10] [--crash-seconds 600]

A web process serves calls one after another: first beside an ingester with nothing else to do, then
without one, then while ingesters start and are killed over and over, then while one catches up. The
backlog is a journal as a process leaves it that had no ingester for hours. Prints rows booked per
second, how long calls took in each phase, and how far the web process's own journal was behind by
what it says at /metrics. Exit code 1 when the books are not exact afterwards: there is no budget of
time, because the database, the web process, its caller and the provider all share this machine.
"""

import argparse
import asyncio
import functools
import itertools
import signal
import statistics
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import httpx

from billing.journal.directory import Page
from tests.faults import backlog
from tests.faults.client import Clients
from tests.faults.invariants import violations
from tests.faults.platform import Platform, Process
from tests.faults.upstream import Upstream

# An ingester dies at one of these places when it comes there first.
PLACES = ("after_read", "after_charge", "after_records", "before_commit", "after_commit")
# What a supervisor waits before it starts the next.
RESTART_SECONDS = 1.0
CALLS_ALONE = 500
TOKEN = "of the measurement"
LAG = "aigateway_journal_unbooked_seconds "


class Callers:
    """Calls one after another, and how long each took."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def during(self, what: str, work: Callable[[], object]) -> None:
        """Call while the work, in a thread, goes on, CALLS_ALONE times at least; print how."""
        took: list[float] = []
        working = asyncio.get_running_loop().run_in_executor(None, work)
        while len(took) < CALLS_ALONE or not working.done():
            began_at = time.perf_counter()
            seen = await self._clients.call(f"{what}-{len(self._clients.seen)}", pause_ms=0)
            took.append(time.perf_counter() - began_at)
            assert seen.saw_end, seen
        await working
        took.sort()
        mean, middle, late = (
            statistics.fmean(took),
            took[len(took) // 2],
            took[len(took) * 99 // 100],
        )
        print(
            f"{what:20} {len(took):6} calls: {mean * 1e3:.1f} ms, median {middle * 1e3:.1f} ms,"
            f" p99 {late * 1e3:.1f} ms, longest {took[-1] * 1e3:.0f} ms",
            flush=True,
        )


class Lag:
    """How long the web process's settlements wait to be booked, by what it says at /metrics."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/metrics"

    def now(self) -> float:
        """Seconds."""
        headers = {"authorization": f"Bearer {TOKEN}"}
        text = httpx.get(self._url, headers=headers, trust_env=False, timeout=30).text
        [line] = [line for line in text.splitlines() if line.startswith(LAG)]
        return float(line.removeprefix(LAG))

    async def peak_during(self, work: "Coroutine[None, None, None]") -> float:
        """The most while the work goes on, asked every second and at its end."""
        working, peak = asyncio.ensure_future(work), 0.0
        while not working.done():
            await asyncio.wait([working], timeout=1)
            peak = max(peak, await asyncio.to_thread(self.now))
        await working
        return peak


def crash(platform: Platform, *, lives: int, seconds: float) -> None:
    """Ingesters that book a batch at most and die, each at the next of the places.

    So many of them at least, and for so long.
    """
    until = time.monotonic() + seconds
    for life, place in enumerate(itertools.cycle(PLACES), start=1):
        process = platform.start_ingester(crash_at=f"ingest.{place}")
        assert process.wait(timeout=600) == -signal.SIGKILL
        if life >= lives and time.monotonic() >= until:
            print(f"{life} ingesters died")
            return
        time.sleep(RESTART_SECONDS)


def catch_up(platform: Platform, directory: Path, calls: int) -> None:
    """An ingester that lives, until the journal is gone; print how fast it was once it began."""
    page = Page(directory / "page")
    before = page.ingested
    platform.start_ingester()
    while page.ingested == before:
        time.sleep(0.005)
    began_at, left = time.perf_counter(), calls * (1 - page.ingested / page.written)
    while directory.exists():
        time.sleep(0.01)
    took = time.perf_counter() - began_at
    page.close()
    print(f"booked {left:,.0f} calls, {left / took:,.0f} a second, beside the web process")


def end(process: Process) -> None:
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)


def measure(
    platform: Platform, upstream: Upstream, calls: int, *, crashes: int, crash_seconds: float
) -> bool:
    platform.prepare()
    _, port = platform.start_web()
    clients, lag = Clients(platform.key, [port]), Lag(port)
    directory = platform.data / "journal" / backlog.NAME

    async def story() -> None:
        callers = Callers(clients)
        ingester = platform.start_ingester()
        await callers.during("beside an ingester", lambda: time.sleep(10))
        end(ingester)
        backlog.write(platform, calls)
        await callers.during("no ingester", lambda: None)
        crashes_end = functools.partial(crash, platform, lives=crashes, seconds=crash_seconds)
        peak = await lag.peak_during(callers.during("ingesters that die", crashes_end))
        print(f"its oldest call waited to be booked for {peak:.0f} s at most, by /metrics")
        books = functools.partial(catch_up, platform, directory, calls)
        peak = await lag.peak_during(callers.during("catching up", books))
        await callers.during("caught up", lambda: time.sleep(10))
        print(f"its oldest call waited {peak:.0f} s at most, {lag.now():.1f} s in the end")

    asyncio.run(story())
    books = platform.settle()
    found = [*books.differences]
    wanted = calls + len(clients.seen)
    if not len(books.records) == len(books.by_request) == wanted:
        found.append(f"{len(books.records)} records of {wanted} calls.")
    late = [r for r in books.records if r["request_id"].startswith("late-")]
    if {record["cost"] for record in late} != {backlog.COST_NANOS}:
        found.append("A call of the backlog has another cost.")
    books.records[:] = [r for r in books.records if not r["request_id"].startswith("late-")]
    found += violations(books, clients.seen, upstream.generated)
    print(f"Books of {wanted:,} calls: {found[:3] or 'exact'}")
    return not found


def main() -> None:
    """Measure on a database of its own, dropped afterwards."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--calls", type=int, default=1_000_000)
    parser.add_argument("--crashes", type=int, default=10)
    parser.add_argument("--crash-seconds", type=float, default=0.0)
    asked = parser.parse_args()
    upstream = Upstream()
    upstream.start()
    platform = Platform(upstream.port, {"INGEST_IN_WEB": "false", "METRICS_TOKEN": TOKEN})
    try:
        is_good = measure(
            platform,
            upstream,
            asked.calls,
            crashes=asked.crashes,
            crash_seconds=asked.crash_seconds,
        )
    finally:
        platform.close()
        upstream.stop()
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
