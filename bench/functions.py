"""Functions on this machine: cold starts, what a warm call costs, memory of idle instances.

    python -m bench.functions [cold starts] [warm calls]

Measures `local-bwrap` against its budgets, with `local-plain` beside it for comparison. A cold
start is from asking the pool to the whole answer; the overhead of a warm call is against the same
function behind Node's own HTTP server. Memory is that of the whole process tree of an instance,
bubblewrap included, of twenty idle ones. Exit code 1 when a budget is exceeded, 0 where there is
no bubblewrap.
"""

import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import django

IDLE_INSTANCES = 20
BUDGETS = {"cold ms": 150.0, "warm overhead ms": 3.0, "MB per idle instance": 12.0}
FUNCTION = "export const handler = async (event) => ({ statusCode: 200, body: event.name });"
SERVER = """
const http = require("node:http");
http.createServer(async (request, response) => {
  let body = "";
  for await (const chunk of request) body += chunk;
  response.end(JSON.parse(body).name);
}).listen(0, "127.0.0.1", function () { console.log(this.address().port); });
"""
EVENT = b'{"name": "Ada"}'


class Log:
    """Output of functions, dropped."""

    def add(self, *_: object) -> None:
        """See LineSink."""


class Bench:
    """One launcher behind a pool of its own."""

    def __init__(self, launcher: object, folder: Path) -> None:
        from deployments.runtime.pool import Limits, Pool

        self.folder = folder
        self.releases = 0
        limits = Limits(concurrency=IDLE_INSTANCES, init_seconds=30)
        self.pool = Pool(launcher, folder / "run", Log(), limits=limits)

    def release(self):
        """A new release of the function: its first call is a cold one."""
        from deployments.runtime.driver import FunctionSpec

        self.releases += 1
        folder = self.folder / f"release-{self.releases}"
        folder.mkdir()
        (folder / "index.mjs").write_text(FUNCTION)
        return FunctionSpec(
            deployment_id=self.releases,
            deploy_id="bench",
            release_id=folder.name,
            function_name="default",
            folder=folder,
            entry="index.mjs",
        )

    async def call(self, spec) -> float:
        """Milliseconds of one call."""
        from deployments.runtime.driver import Chunk, InvokeContext

        started = time.perf_counter()
        async with contextlib.aclosing(
            self.pool.invoke(spec, EVENT, InvokeContext("bench", 30))
        ) as items:
            received = [item async for item in items]
        assert Chunk(b"Ada") in received, received
        return (time.perf_counter() - started) * 1000

    async def cold(self, count: int) -> list[float]:
        """Milliseconds of first calls, each in a new instance."""
        times = []
        for _ in range(count):
            times.append(await self.call(spec := self.release()))
            await self.pool.retire(spec)
        return times

    async def warm(self, count: int) -> list[float]:
        """Milliseconds of calls of one instance."""
        spec = self.release()
        await self.call(spec)
        return [await self.call(spec) for _ in range(count)]

    async def memory(self) -> tuple[float, float, float]:
        """MB: one idle instance alone, what a further one adds, and what no others share of it.

        The first two are proportional (Pss), so other Node processes of this machine make them
        smaller; the last (Uss) is the mean of all.
        """
        await self.call(self.release())
        alone = self.tree_memory()
        for _ in range(IDLE_INSTANCES - 1):
            await self.call(self.release())
        together = self.tree_memory()
        further = (together["PSS"] - alone["PSS"]) / (IDLE_INSTANCES - 1)
        return alone["PSS"], further, together["USS"] / IDLE_INSTANCES

    def tree_memory(self) -> dict[str, float]:
        """MB of all instances by kind, every process of theirs counted."""
        pids = [pid for each in self.pool._instances for pid in tree(each.pid)]
        return {kind: sum(memory(pid)[kind] for pid in pids) for kind in ("PSS", "USS")}


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from tree(int(child))


def memory(pid: int) -> dict[str, float]:
    """MB, from proc_pid_smaps(5)."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(rest.split()[0]) / 1024 for name, rest in (row.split(":") for row in rows)}
    return {"PSS": sizes["Pss"], "USS": sizes["Private_Clean"] + sizes["Private_Dirty"]}


async def direct(count: int) -> list[float]:
    """Milliseconds per call of the same function behind Node's HTTP server."""
    from deployments.runtime.local_plain import node_path

    process = await asyncio.create_subprocess_exec(
        str(node_path()), "-e", SERVER, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    times = []
    try:
        url = f"http://127.0.0.1:{int(await process.stdout.readline())}/"
        async with aiohttp.ClientSession() as session:
            for _ in range(count):
                started = time.perf_counter()
                async with session.post(url, data=EVENT) as response:
                    assert await response.read() == b"Ada"
                times.append((time.perf_counter() - started) * 1000)
    finally:
        process.kill()
        await process.wait()
    return times


async def measure(launcher: object, cold: int, warm: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="aig-") as name:
        folder = Path(name)
        await asyncio.to_thread(folder.chmod, 0o755)  # functions run as other users
        bench = Bench(launcher, folder)
        try:
            cold_times = await bench.cold(cold)
            # In turns, so that the machine's other work weighs on both alike.
            rounds = [(await direct(warm // 5), await bench.warm(warm // 5)) for _ in range(5)]
            overheads = [
                statistics.median(through) - statistics.median(straight)
                for straight, through in rounds
            ]
        finally:
            await bench.pool.close()
        bench = Bench(launcher, folder / "memory")
        bench.folder.mkdir()
        try:
            alone, further, own = await bench.memory()
        finally:
            await bench.pool.close()
    return {
        "cold ms": statistics.median(cold_times),
        "cold ms, best": min(cold_times),
        "warm overhead ms": statistics.median(overheads),
        "first instance, MB": alone,
        "further instance, MB": further,
        "MB per idle instance": own,
    }


def main() -> None:
    cold, warm = (int(value) for value in (sys.argv[1:] + ["15", "500"][len(sys.argv) - 1 :]))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    django.setup()
    from deployments.runtime.local_bwrap import LocalBwrap
    from deployments.runtime.local_plain import LocalPlain

    if shutil.which("bwrap") is None:
        print("No bubblewrap here: nothing measured.")
        return
    plain = asyncio.run(measure(LocalPlain(), cold, warm))
    bwrap = asyncio.run(measure(LocalBwrap(), cold, warm))
    print(f"{'':26}{'local-bwrap':>14}{'budget':>10}{'local-plain':>14}")
    for name, value in bwrap.items():
        budget = f"{BUDGETS[name]:.1f}" if name in BUDGETS else ""
        print(f"{name:26}{value:14.1f}{budget:>10}{plain[name]:14.1f}")
    sys.exit(1 if any(bwrap[name] > budget for name, budget in BUDGETS.items()) else 0)


if __name__ == "__main__":
    main()
