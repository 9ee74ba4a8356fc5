"""Random kills while calls go on, then the books against both ends' own counts.

    python -m tests.faults.chaos --seconds 1800 --seed 7      (`make chaos SECONDS=1800 SEED=7`)

On PostgreSQL (DATABASE_URL): two serving processes, an ingester, and the database's own backends
are killed at random. On SQLite: the one process that serves. The seed is printed; it decides who
is killed and when, not how the machine schedules. Exit code 1 when anything does not hold.
"""

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from dataclasses import dataclass, field

import psycopg

from tests.faults.client import Clients
from tests.faults.invariants import violations
from tests.faults.platform import Platform, Process
from tests.faults.upstream import Upstream

IN_FLIGHT = 12
PAUSE_SECONDS = (0.2, 1.5)


@dataclass
class Chaos:
    """One run: who serves, who calls, who is killed."""

    platform: Platform
    clients: Clients
    chance: random.Random
    web: dict[int, Process] = field(default_factory=dict)
    ingester: Process | None = None
    kills: dict[str, int] = field(default_factory=dict)

    @property
    def is_postgres(self) -> bool:
        """Whether there are several processes and a server."""
        return self.platform.database.startswith("postgres")

    def start(self) -> None:
        """Everything that serves."""
        for _ in range(2 if self.is_postgres else 1):
            self._start_web()
        if self.is_postgres:
            self.ingester = self.platform.start_ingester()

    def _start_web(self) -> None:
        ingests = "off" if self.is_postgres else "on"
        process, port = self.platform.start_web(INGEST_IN_WEB=ingests)
        self.web[port] = process
        self.clients.ports = list(self.web)

    def kill_somebody(self) -> None:
        """One victim; whoever is missing starts again."""
        victims = ["web"] if not self.is_postgres else ["web", "web", "ingester", "backends"]
        victim = self.chance.choice(victims)
        self.kills[victim] = self.kills.get(victim, 0) + 1
        if victim == "web":
            port = self.chance.choice(list(self.web))
            process = self.web.pop(port)
            self.clients.ports = list(self.web) or [port]
            process.send_signal(signal.SIGKILL)
            process.wait()
            self._start_web()
        elif victim == "ingester":
            assert self.ingester is not None
            self.ingester.kill()
            self.ingester.wait()
            self.ingester = self.platform.start_ingester()
        else:
            self._kill_backends()

    def _kill_backends(self) -> None:
        base, _, name = self.platform.database.rpartition("/")
        with psycopg.connect(f"{base}/postgres", autocommit=True, connect_timeout=5) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name]
            )


async def call_on(clients: Clients, chance: random.Random, stop: asyncio.Event, who: int) -> None:
    """One client after another, until it is enough."""
    number = 0
    while not stop.is_set():
        number += 1
        tokens = chance.randint(1, 60)
        seen = await clients.call(
            f"{who}-{number}",
            tokens=tokens,
            pause_ms=chance.choice([0, 1, 5, 20]),
            is_stream=chance.random() < 0.8,
            hang_up_after=chance.randint(1, tokens) if chance.random() < 0.2 else None,
        )
        await asyncio.sleep(chance.random() * 0.05 if seen.status == 200 else 0.2)


async def rage(chaos: Chaos, seconds: float) -> None:
    """Calls and kills, side by side."""
    stop = asyncio.Event()
    callers = [
        asyncio.ensure_future(
            call_on(chaos.clients, random.Random(chaos.chance.random()), stop, number)
        )
        for number in range(IN_FLIGHT)
    ]
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        await asyncio.sleep(chaos.chance.uniform(*PAUSE_SECONDS))
        await asyncio.to_thread(chaos.kill_somebody)
    stop.set()
    await asyncio.gather(*callers)


def run(seconds: float, seed: int) -> list[str]:
    """Violations of one run; its figures are printed."""
    print(f"seed {seed}, {seconds:.0f} s", flush=True)
    upstream = Upstream()
    upstream.start()
    platform = Platform(upstream.port)
    try:
        platform.prepare()
        clients = Clients(platform.key, [])
        chaos = Chaos(platform, clients, random.Random(seed))
        chaos.start()
        asyncio.run(rage(chaos, seconds))
        books = platform.settle()
        found = violations(books, clients.seen, upstream.generated)
        ended = sum(call.saw_end for call in clients.seen)
        delivered = sum(call.delivered for call in clients.seen)
        billed = sum(record["output"] for record in books.records)
        made = sum(upstream.generated.values())
        print(
            f"killed {chaos.kills}; {len(clients.seen)} calls, {ended} ended, "
            f"{len(books.records)} recorded; tokens made {made}, billed {billed}, "
            f"delivered {delivered}; {len(found)} violations"
        )
        if found:
            print(platform.logs())
        return found
    except BaseException:
        print(platform.logs())
        raise
    finally:
        platform.close()
        upstream.stop()


def main() -> None:
    """Command line entry point."""
    parser = argparse.ArgumentParser(description="Random kills, then exact books.")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "big"))
    arguments = parser.parse_args()
    found = run(arguments.seconds, arguments.seed)
    print("\n".join(found) or "Every call is exact.")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
