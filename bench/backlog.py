"""How fast a backlog is booked, and that callers do not notice: a million settled calls.

    [DATABASE_URL=postgresql://...] python -m bench.backlog [calls] [crashes]

A journal is written as a process leaves it that had no ingester for hours. A web process serves
calls one after another, first with no ingester at all, then while ingesters start and are killed
over and over, then while one catches up. Prints rows booked per second and how long calls took in
each phase. Exit code 1 when the books are not exact afterwards: there is no budget of time, because
the database, the web process, its caller and the provider all share this machine.
"""

import asyncio
import sys
import time

from tests.faults import backlog
from tests.faults.client import Clients
from tests.faults.invariants import violations
from tests.faults.platform import Platform
from tests.faults.upstream import Upstream

# Booked by each ingester before it is killed: so many batches but one.
BATCHES = 20
CALLS_ALONE = 200
BOOKED = """
from billing.models import Journal
print(Journal.objects.filter(name="{name}").values_list("position", flat=True).first() or 0)
"""


class Callers:
    """Calls one after another, and how long each took."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    async def during(self, what: str, work: "asyncio.Future[object]") -> None:
        """Call until the work is done, at least once; print what that was like."""
        took: list[float] = []
        while not took or not work.done():
            began_at = time.perf_counter()
            seen = await self._clients.call(f"{what}-{len(self._clients.seen)}", pause_ms=0)
            took.append(time.perf_counter() - began_at)
            assert seen.saw_end, seen
        took.sort()
        middle, late = took[len(took) // 2], took[int(len(took) * 0.99)]
        print(f"{what:28} {len(took):6} calls, {middle * 1e3:.1f} ms, p99 {late * 1e3:.1f} ms")


def crash(platform: Platform, times: int) -> None:
    """Ingesters that book some batches and die before the next is committed."""
    for _ in range(times):
        process = platform.start_ingester(crash_at=f"ingest.before_commit:{BATCHES}")
        assert process.wait(timeout=600) < 0


def catch_up(platform: Platform) -> None:
    """An ingester that lives, until the journal is gone."""
    platform.start_ingester()
    directory = platform.data / "journal" / backlog.NAME
    while directory.exists():
        time.sleep(0.05)


def measure(platform: Platform, upstream: Upstream, calls: int, crashes: int) -> bool:
    platform.prepare()
    began_at = time.perf_counter()
    backlog.write(platform, calls)
    print(f"{calls} calls settled in {time.perf_counter() - began_at:.0f} s")
    directory = platform.data / "journal" / backlog.NAME
    size = sum(path.stat().st_size for path in directory.glob("log-*"))
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])
    callers = Callers(clients)

    async def story() -> float:
        loop = asyncio.get_running_loop()

        async def some() -> None:
            while len(clients.seen) < CALLS_ALONE:  # noqa: ASYNC110 - somebody else calls
                await asyncio.sleep(0.01)

        await callers.during("no ingester", asyncio.ensure_future(some()))
        await callers.during(
            "ingesters that die", loop.run_in_executor(None, crash, platform, crashes)
        )
        position = int(platform.python(BOOKED.format(name=backlog.NAME)))
        left = calls * (1 - position / size)
        began_at = time.perf_counter()
        await callers.during("catching up", loop.run_in_executor(None, catch_up, platform))
        return left / (time.perf_counter() - began_at)

    rate = asyncio.run(story())
    print(f"booked {rate:,.0f} rows/s beside the web process; {size / calls:.0f} bytes a call")
    books = platform.settle()
    found = [*books.differences]
    if len(books.records) != calls + len(clients.seen) or len(books.by_request) != calls + len(
        clients.seen
    ):
        found.append(f"{len(books.records)} records of {calls} and {len(clients.seen)} calls.")
    books.records[:] = [r for r in books.records if not r["request_id"].startswith("late-")]
    found += violations(books, clients.seen, upstream.generated)
    print(f"Books: {found[:3] or 'exact'}")
    return not found


def main() -> None:
    """Measure on a database of its own, dropped afterwards."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    crashes = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    upstream = Upstream()
    upstream.start()
    platform = Platform(upstream.port, {"INGEST_IN_WEB": "false"})
    try:
        is_good = measure(platform, upstream, calls, crashes)
    finally:
        platform.close()
        upstream.stop()
    sys.exit(0 if is_good else 1)


if __name__ == "__main__":
    main()
