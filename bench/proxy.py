"""CPU of one web process per proxied call: real uvicorn, real database, hold and settle on.

    python -m bench.proxy [calls] [in_flight]

Uses SQLite in a temporary folder, or DATABASE_URL (a database made for the purpose). The provider
and the clients are processes of their own; what counts is the CPU time the kernel charged to the
web process, all threads included: those that make settlements durable and book them, too. Beside
each figure stands what the same bytes take in bench/forwarder.py, which only copies them, and in
bench/plain.py: the same server and client libraries without a gateway. Exit code 1 when a budget
is exceeded.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import httpx

from bench.provider import ONE_BY_ONE

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
WARM_UP_CALLS = 300
STREAM_END = b"data: [DONE]\n\n"
# What the provider serves in the wire that is asked in, and in another.
FORWARDED, TRANSLATED = "gpt-4o", "claude-sonnet-4.5"


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked for, and how many microseconds of CPU in the web process a call may take."""

    name: str
    model: str
    budget: int
    is_stream: bool = True
    is_one_by_one: bool = False

    def body(self) -> bytes:
        """The request."""
        body = {
            "model": self.model,
            "stream": self.is_stream,
            "max_completion_tokens": 200,
            "messages": [{"role": "user", "content": "Say a hundred words about the sea."}],
        }
        if self.is_one_by_one:
            body["user"] = ONE_BY_ONE
        return json.dumps(body, separators=(",", ":")).encode()


CASES = (
    Case("whole answer", FORWARDED, 1500, is_stream=False),
    Case("stream of 100, forwarded", FORWARDED, 1200),
    Case("stream of 100, translated", TRANSLATED, 3000),
    Case("100 one by one, forwarded", FORWARDED, 3500, is_one_by_one=True),
    Case("100 one by one, translated", TRANSLATED, 4500, is_one_by_one=True),
)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def load(url: str, key: str, case: Case, *, calls: int, in_flight: int) -> list[float]:
    """Make the calls; seconds each took. Raises AssertionError when one is not answered well."""
    body = case.body()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    left = calls
    took: list[float] = []

    async def work(session: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            began_at = time.perf_counter()
            async with session.post(url, data=body, headers=headers) as response:
                text = await response.read()
                assert response.status == 200, text
                assert not case.is_stream or text.endswith(STREAM_END), text[-200:]
            took.append(time.perf_counter() - began_at)

    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(work(session) for _ in range(in_flight)))
    return took


def manage(code: str, environment: dict[str, str]) -> str:
    """Run Python code in the project's Django; its output."""
    prelude = "import django; django.setup()\n"
    done = subprocess.run(
        [sys.executable, "-c", prelude + code],
        cwd=ROOT,
        env={**environment, "DJANGO_SETTINGS_MODULE": "config.settings"},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


SEED = """
from django.core.management import call_command
from django.utils import timezone
call_command("migrate", verbosity=0)
from config import demo
print(demo.seed(at=timezone.now(), say=lambda text: None).gateway_key)
call_command("grant_credit", "demo", "1000000", reason="bench", key="bench", verbosity=0)
"""


@contextmanager
def helper(*arguments: str) -> Iterator[tuple[int, str]]:
    """A process of this folder while the block runs: its id, and the port it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield process.pid, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


@contextmanager
def platform(environment: dict[str, str]) -> Iterator[int]:
    """The web process while the block runs: its id."""
    port = environment["PORT"]
    web = subprocess.Popen(
        [sys.executable, "-m", "config.web", "--port", port], cwd=ROOT, env=environment
    )
    try:
        for _ in range(200):
            try:
                httpx.get(f"http://127.0.0.1:{port}/health", headers={"host": "localhost"})
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield web.pid
    finally:
        web.terminate()
        web.wait(timeout=30)


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def main() -> None:
    """Measure, print, judge."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    in_flight = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    with (
        tempfile.TemporaryDirectory() as folder,
        helper("bench.provider") as (_, provider_port),
        helper("bench.forwarder", provider_port) as forwarder,
        helper("bench.plain", provider_port) as plain,
    ):
        provider = f"http://127.0.0.1:{provider_port}/v1"
        environment = {
            **os.environ,
            "DATA_DIR": folder,
            "PORT": free_port(),
            "PROVIDER_OPENAI_BASE_URL": provider,
            "PROVIDER_OPENAI_API_KEY": "sk-bench",
            "PROVIDER_ANTHROPIC_BASE_URL": provider,
            "PROVIDER_ANTHROPIC_API_KEY": "sk-bench",
        }
        key = manage(SEED, environment).splitlines()[0]
        with platform(environment) as pid:
            ours = Target(pid, f"http://127.0.0.1:{environment['PORT']}/api/ai/v1", key)
            floors = [
                Target(pid, f"http://127.0.0.1:{port}/v1", key) for pid, port in (forwarder, plain)
            ]
            results = [measure(case, ours, floors, calls, in_flight) for case in CASES]
        print(
            manage(
                "from django.core.management import call_command; call_command('verify_ledger')",
                environment,
            ).splitlines()[-1]
        )
    sys.exit(0 if all(results) else 1)


@dataclass(frozen=True, slots=True)
class Target:
    """A process that is asked under a base URL."""

    pid: int
    base_url: str
    key: str

    def run(self, case: Case, calls: int, in_flight: int) -> tuple[float, list[float]]:
        """Microseconds of CPU per call, and the seconds each took, ascending."""
        url = f"{self.base_url}/chat/completions"
        asyncio.run(load(url, self.key, case, calls=WARM_UP_CALLS, in_flight=in_flight))
        before = cpu_seconds(self.pid)
        took = asyncio.run(load(url, self.key, case, calls=calls, in_flight=in_flight))
        return (cpu_seconds(self.pid) - before) / len(took) * 1e6, sorted(took)


def measure(case: Case, ours: Target, floors: Sequence[Target], calls: int, in_flight: int) -> bool:
    """Run one kind of call through the gateway and past it; whether its budget holds."""
    if case.is_one_by_one:
        calls //= 3  # each takes as long as a model would
    copied = replace(case, model=FORWARDED)
    bare, plain = (floor.run(copied, calls, in_flight)[0] for floor in floors)
    micros, took = ours.run(case, calls, in_flight)
    is_good = micros <= case.budget
    budget = f"(budget {case.budget}{'' if is_good else ', EXCEEDED'})"
    p50, p99 = (took[len(took) * percent // 100] * 1e3 for percent in (50, 99))
    print(
        f"{case.name:26} {micros:6.0f} us CPU/call {budget:14} bare {bare:5.0f} plain {plain:5.0f}"
        f"   p50 {p50:.1f} ms   p99 {p99:.1f} ms   {in_flight} in flight"
    )
    return is_good


if __name__ == "__main__":
    main()
