"""CPU of one web process per proxied call: real uvicorn, real database, hold and settle on.

    python -m bench.proxy [calls] [in_flight]

Uses SQLite in a temporary folder, or DATABASE_URL (a database made for the purpose). The provider
and the clients are processes of their own; what counts is the CPU time the kernel charged to the
web process, all threads included. Exit code 1 when a budget is exceeded.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import httpx

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
WARM_UP_CALLS = 300
# What is asked for: (model, whether as a stream, microseconds of CPU in the web process per call).
CASES = {
    "whole answer": ("gpt-4o", False, 1500),
    "stream of 100, forwarded": ("gpt-4o", True, 1200),
    "stream of 100, translated": ("claude-sonnet-4.5", True, 3000),
}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def load(
    url: str, key: str, model: str, *, calls: int, in_flight: int, is_stream: bool
) -> list[float]:
    """Make the calls; seconds each took. Raises AssertionError when one is not answered well."""
    body = json.dumps(
        {
            "model": model,
            "stream": is_stream,
            "max_completion_tokens": 200,
            "messages": [{"role": "user", "content": "Say a hundred words about the sea."}],
        },
        separators=(",", ":"),
    ).encode()
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
                assert not is_stream or text.endswith(b"data: [DONE]\n\n"), text[-200:]
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


def main() -> None:
    """Measure, print, judge."""
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    in_flight = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        provider = subprocess.Popen(
            [sys.executable, "-m", "bench.provider"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert provider.stdout is not None
        url = f"http://127.0.0.1:{provider.stdout.readline().strip()}/v1"
        environment = {
            **os.environ,
            "DATA_DIR": folder,
            "PORT": str(port),
            "PROVIDER_OPENAI_BASE_URL": url,
            "PROVIDER_OPENAI_API_KEY": "sk-bench",
            "PROVIDER_ANTHROPIC_BASE_URL": url,
            "PROVIDER_ANTHROPIC_API_KEY": "sk-bench",
        }
        key = manage(SEED, environment).splitlines()[0]
        web = subprocess.Popen(
            [sys.executable, "-m", "config.web", "--port", str(port)], cwd=ROOT, env=environment
        )
        try:
            is_good = measure(web.pid, port, key, calls, in_flight)
        finally:
            web.terminate()
            web.wait(timeout=30)
            provider.kill()
            provider.wait()
        print(
            manage(
                "from django.core.management import call_command; call_command('verify_ledger')",
                environment,
            ).splitlines()[-1]
        )
    sys.exit(0 if is_good else 1)


def measure(pid: int, port: int, key: str, calls: int, in_flight: int) -> bool:
    """Warm up, then one run per kind of call; whether every budget holds."""
    base = f"http://127.0.0.1:{port}"
    url = f"{base}/api/ai/v1/chat/completions"
    for _ in range(200):
        try:
            httpx.get(f"{base}/health", headers={"host": "localhost"})
            break
        except httpx.HTTPError:
            time.sleep(0.1)
    is_good = True
    for name, (model, is_stream, budget) in CASES.items():
        kind = {"in_flight": in_flight, "is_stream": is_stream}
        asyncio.run(load(url, key, model, calls=WARM_UP_CALLS, **kind))
        before, began_at = cpu_seconds(pid), time.perf_counter()
        took = asyncio.run(load(url, key, model, calls=calls, **kind))
        seconds = time.perf_counter() - began_at
        micros = (cpu_seconds(pid) - before) / len(took) * 1e6
        took.sort()
        print(
            f"{name:26} {micros:6.0f} us CPU/call (budget {budget})   "
            f"{len(took) / seconds:6.0f} calls/s   p50 {took[len(took) // 2] * 1e3:.1f} ms   "
            f"p99 {took[len(took) * 99 // 100] * 1e3:.1f} ms   {in_flight} in flight"
        )
        is_good = is_good and micros <= budget
    return is_good


if __name__ == "__main__":
    main()
