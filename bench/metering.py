"""What metering costs: CPU per call and per chunk, booking on this database, and recovery.

    DATABASE_URL=... python -m bench.metering

Budgets: accounting at most 10 us CPU per call (open and settle, without the barrier) and 0.5 us per
chunk; at least 10,000 rows/s booked in batches of 200 on PostgreSQL, and 20,000 in those of a
backlog; a dead process's journal recovered in under a second. Uses the database it is given, which
must be made for the purpose, and checks the books at the end: a measurement with wrong books has
failed. Exit code 1 above a budget.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

CALLS = 20_000
CHUNKS = 200_000
BOOKED = 20_000
BATCH = 200
CALL_US_MAX, CHUNK_US_MAX = 10.0, 0.5
BOOKED_PER_SECOND_MIN = 10_000
CAUGHT_UP_PER_SECOND_MIN = 20_000
RECOVERY_SECONDS_MAX = 1.0


def opening(organization_id: int, price: Any) -> Any:
    from billing import metering

    now = time.time()
    call_id = metering.new_call_id(int(now * 1000))
    return metering.Opening(
        call_id=call_id, organization_id=organization_id, workspace_id=1, deployment_id=1,
        deploy_id="app-0000000001", key_id=1, request_id=f"req_{call_id.hex}",
        endpoint="chat.completions", is_stream=True, model_requested="smollm2-135m",
        provider="local", upstream_model="smollm2-135m", price=price, margin_basis_points=0,
        hold_nanos=1_000_000, started_at=datetime.fromtimestamp(now, UTC),
        input_tokens_estimate=100, output_tokens_max=4096,
    )  # fmt: skip


def ending() -> Any:
    from billing import metering, pricing

    return metering.Ending(
        status="FINISHED", http_status=200, usage_source="PROVIDER",
        usage=pricing.Usage(input=1000, output=200), model_served="smollm2-135m",
        upstream_request_id="req_upstream", duration_ms=12, first_token_ms=3,
    )  # fmt: skip


async def accounting(organization_id: int, price: Any) -> tuple[float, float]:
    """CPU microseconds per call and per chunk in the serving thread."""
    from django.conf import settings

    from billing import metering

    settings.BILLING_BARRIER = "write"
    settings.INGEST_IN_WEB = False
    meter = metering.Meter()
    await meter.start()
    openings = [opening(organization_id, price) for _ in range(CALLS)]
    end = ending()
    first = await meter.open(opening(organization_id, price))
    await first.settle(end)
    began_at = time.thread_time()
    for each in openings:
        call = await meter.open(each)
        call.settle(end)
    per_call = (time.thread_time() - began_at) / CALLS * 1e6
    call = await meter.open(opening(organization_id, price))
    began_at = time.thread_time()
    for pieces in range(CHUNKS):
        call.relay(pieces)
    per_chunk = (time.thread_time() - began_at) / CHUNKS * 1e6
    call.settle(end)
    await meter.stop()
    return per_call, per_chunk


def fill(folder: Path, organization_id: int, price: Any, *, count: int, in_flight: int) -> None:
    """A journal of a process that is gone: `count` settlements and some calls in flight."""
    from billing.calls import cost_nanos
    from billing.journal import records
    from billing.journal.writer import JournalWriter

    writer = JournalWriter(
        folder, f"bench-{time.time_ns()}", segment_bytes=16 * 1024 * 1024, slot_count=1024
    )
    end = ending()
    for _ in range(count):
        each = opening(organization_id, price)
        description = records.encode_opening(each)
        writer.append(records.encode_settlement(description, end, cost_nanos(each, end)))
    for _ in range(in_flight):
        slot = writer.slots.open(records.encode_opening(opening(organization_id, price)))
        writer.slots.relay(slot, 7)
    writer.close()


def booking(
    organization_id: int, price: Any, *, count: int, in_flight: int = 0, batch: int = BATCH
) -> float:
    """Seconds until a dead process's journal is booked and closed."""
    from django.utils import timezone

    from billing import ingest

    ingest.BATCH_MAX = batch
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), organization_id, price, count=count, in_flight=in_flight)
        ingester = ingest.Ingester(Path(folder), host="bench")
        began_at = time.perf_counter()
        booked = ingester.ingest(timezone.now())
        took = time.perf_counter() - began_at
        ingester.close()
    assert booked == count + in_flight, booked
    return took


def seed() -> tuple[int, Any]:
    from django.core.management import call_command
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
    return organization.pk, pricing.Price.from_rates(version.pk, rates)


def judge(what: str, value: float, unit: str, limit: float, *, is_least: bool = False) -> bool:
    is_good = value >= limit if is_least else value <= limit
    word = "at least" if is_least else "at most"
    print(f"{what:34} {value:10,.2f} {unit} ({word} {limit:,.2f}){'' if is_good else '  EXCEEDED'}")
    return is_good


def measure() -> bool:
    import django

    django.setup()
    from django.db import connection

    from billing import checks, ingest

    batch_max = ingest.BATCH_MAX
    organization_id, price = seed()
    per_call, per_chunk = asyncio.run(accounting(organization_id, price))
    results = [
        judge("Accounting, per call", per_call, "us", CALL_US_MAX),
        judge("Accounting, per chunk", per_chunk, "us", CHUNK_US_MAX),
    ]
    for what, batch, least in (
        ("Booked per second", BATCH, BOOKED_PER_SECOND_MIN),
        ("Of a backlog", batch_max, CAUGHT_UP_PER_SECOND_MIN),
    ):
        rate = BOOKED / booking(organization_id, price, count=BOOKED, batch=batch)
        budget = least if connection.vendor == "postgresql" else 0
        results.append(judge(what, rate, "rows", budget, is_least=True))
    took = booking(organization_id, price, count=500, in_flight=500)
    results.append(judge("Recovery, 500 calls in flight", took, "s", RECOVERY_SECONDS_MAX))
    differences = [text for text in checks.verify().differences if "journal" not in text]
    print(f"Books: {'exact' if not differences else differences[:3]}")
    return all(results) and not differences


def main() -> None:
    """Measure in a process with a data folder of its own."""
    if "MEASURING" in os.environ:
        sys.exit(0 if measure() else 1)
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "MEASURING": "1", "DATA_DIR": folder}
        done = subprocess.run(
            [sys.executable, "-m", "bench.metering"], env=environment, check=False
        )
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
