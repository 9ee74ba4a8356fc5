"""CPU of metering alone: microseconds per call (hold and settle) with 32 calls in flight.

    DATABASE_URL=sqlite:///bench.sqlite3 python bench/metering.py [calls [in_flight [wait_ms]]]

`wait_ms`: how long each call pretends to wait for its provider; calls then drift apart and batches
get smaller. Makes its own organization, price and credit in that database, and leaves them there:
use a database made for the purpose. Prints this process's CPU; a database server's own is not in
it.
"""

import asyncio
import os
import random
import resource
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import django

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def run(
    organization_id: int, price: object, calls: int, in_flight: int, wait_ms: int
) -> None:
    from billing import metering, pricing

    meter = metering.Meter()
    await meter.start()
    left = calls

    async def client() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            now = time.time()
            call_id = metering.new_call_id(int(now * 1000))
            call = await meter.open(
                metering.Opening(
                    call_id=call_id, organization_id=organization_id, workspace_id=1,
                    deployment_id=1, deploy_id="app-0000000001", key_id=1,
                    request_id=f"req_{call_id.hex}", endpoint="chat.completions", is_stream=False,
                    model_requested="smollm2-135m", provider="local",
                    upstream_model="smollm2-135m", price=price,
                    margin_basis_points=0, hold_nanos=1_000_000,
                    started_at=datetime.fromtimestamp(now, UTC),
                )
            )  # fmt: skip
            if wait_ms:
                await asyncio.sleep(random.uniform(0.5, 1.5) * wait_ms / 1000)
            await call.settle(
                metering.Ending(
                    status="FINISHED", http_status=200, usage_source="PROVIDER",
                    usage=pricing.Usage(input=1000, output=200), duration_ms=12,
                )
            )  # fmt: skip

    cpu, clock = cpu_seconds(), time.perf_counter()
    await asyncio.gather(*(client() for _ in range(in_flight)))
    cpu, clock = cpu_seconds() - cpu, time.perf_counter() - clock
    await meter.stop()
    print(
        f"{calls} calls, {in_flight} in flight: {cpu / calls * 1e6:.0f} us CPU per call, "
        f"{calls / clock:.0f} calls/s"
    )


def main() -> None:
    django.setup()
    from django.core.management import call_command
    from django.db import connection
    from django.utils import timezone

    from billing import ledger, pricing
    from billing.models import PriceVersion
    from orgs.models import Organization

    call_command("migrate", verbosity=0)
    now = timezone.now()
    organization = Organization.objects.create(name="Bench", slug=f"bench-{time.time_ns()}")
    ledger.grant(organization, 10**15, reason="bench", idempotency_key="bench", at=now)
    rates = {
        "input": [{"from_input_tokens": 0, "nanos_per_million": 20_000_000}],
        "output": [{"from_input_tokens": 0, "nanos_per_million": 40_000_000}],
    }
    version = PriceVersion.objects.create(
        provider="bench", model="bench", effective_at=now, rates=rates, source="bench",
        created_at=now,
    )  # fmt: skip
    price = pricing.Price.from_rates(version.pk, rates)
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    in_flight = int(sys.argv[2]) if len(sys.argv) > 2 else 32
    wait_ms = int(sys.argv[3]) if len(sys.argv) > 3 else 0
    print(connection.vendor)
    for _ in range(3):
        asyncio.run(run(organization.pk, price, calls, in_flight, wait_ms))
    balance = ledger.balance(organization)
    print(f"left {balance.posted_nanos}, held {balance.held_nanos}")


if __name__ == "__main__":
    main()
