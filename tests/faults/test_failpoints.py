"""The process is killed at every arrow of the money protocol; afterwards every call is exact."""

import asyncio
import json
import signal

import httpx
import pytest

from tests.faults.client import Clients, until
from tests.faults.invariants import violations
from tests.faults.platform import wait_for

pytestmark = pytest.mark.faults

# Each with the visit at which it kills, so that some calls have ended before and some are running.
PLACES = [
    "web.after_key_check:3",
    "lease.before_commit",
    "lease.after_commit",
    "web.after_hold:3",
    "web.after_open:3",
    "web.before_request:3",
    "web.after_headers:3",
    "web.after_chunk_counted:20",
    "web.after_chunk_sent:20",
    "web.after_usage_reported:3",
    "web.before_settle_write:3",
    "web.after_settle_write:3",
    "web.after_slot_freed:3",
    "web.after_barrier:3",
    "web.after_last_frame:3",
    "ingest.after_read",
    "ingest.after_charge",
    "ingest.after_records",
    "ingest.before_commit",
    "ingest.after_commit",
]

LET_CLAIMS_LAPSE = """
from django.utils import timezone
from orgs.models import IdempotentRequest
IdempotentRequest.objects.update(leased_until=timezone.now())
"""

COUNT_RECORDS = """
from billing.models import UsageRecord
print(UsageRecord.objects.count())
"""


async def play(clients: Clients) -> None:
    """One call after another, then several at once; streams and whole answers."""
    for number in range(2):
        await clients.call(f"first-{number}", is_stream=number == 0)
    await asyncio.gather(
        *(clients.call(f"at-once-{number}", is_stream=number != 2) for number in range(4))
    )


@pytest.mark.parametrize("place", PLACES)
def test_killed_at_any_arrow_every_call_is_exact(platform, upstream, place):
    process, port = platform.start_web(crash_at=place)
    clients = Clients(platform.key, [port])
    asyncio.run(play(clients))
    assert process.wait(timeout=30) == -signal.SIGKILL, platform.logs()
    # Another process serves on as if nothing had happened, and books what the first one left.
    _, port = platform.start_web()
    clients.ports = [port]
    after = asyncio.run(clients.call("after"))
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert after.saw_end


def test_killed_after_the_request_was_sent_and_before_anything_came_costs_nothing(
    platform, upstream
):
    process, port = platform.start_web()
    clients = Clients(platform.key, [port])
    names = ["stream", "whole"]
    upstream.silent = set(names)

    async def scenario() -> None:
        calls = [
            asyncio.create_task(clients.call(name, is_stream=name == "stream")) for name in names
        ]
        await until(lambda: set(names) <= upstream.generated.keys())
        process.kill()
        await asyncio.gather(*calls)

    try:
        asyncio.run(scenario())
    finally:
        upstream.silent = set()
    _, clients.ports[0] = platform.start_web()
    after = asyncio.run(clients.call("after"))
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert after.saw_end
    crashed = [record for record in books.records if record["status"] == "CRASHED"]
    assert [(record["source"], record["cost"]) for record in crashed] == [("NONE", 0)] * 2


@pytest.mark.parametrize("place", ["ingest.in_recovery", "ingest.in_removal"])
def test_killed_while_recovering_what_another_left_nothing_is_charged_twice(
    platform, upstream, place
):
    process, port = platform.start_web(crash_at="web.after_chunk_sent:20")
    clients = Clients(platform.key, [port])
    asyncio.run(play(clients))
    assert process.wait(timeout=30) == -signal.SIGKILL
    ingester = platform.start_ingester(crash_at=place)
    assert ingester.wait(timeout=30) == -signal.SIGKILL, platform.logs()
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert any(record["status"] == "CRASHED" for record in books.records)


def test_killed_between_billing_and_keeping_an_answer_the_repeated_call_is_not_billed_again(
    platform, upstream
):
    body = {
        "model": "gpt-4o",
        "max_completion_tokens": 64,
        "messages": [{"role": "user", "content": json.dumps(["once", 12, 2])}],
    }

    def call(port, key="order-1"):
        return httpx.post(
            f"http://127.0.0.1:{port}/api/ai/v1/chat/completions",
            headers={"authorization": f"Bearer {platform.key}", "idempotency-key": key},
            json=body,
            timeout=60,
            trust_env=False,
        )

    process, port = platform.start_web(crash_at="web.after_barrier")
    with pytest.raises(httpx.TransportError):
        call(port)
    assert process.wait(timeout=30) == -signal.SIGKILL, platform.logs()
    _, port = platform.start_web()
    wait_for(lambda: platform.python(COUNT_RECORDS).strip() == "1", what="the record")
    assert call(port).json()["error"]["code"] == "idempotency_in_progress"
    platform.python(LET_CLAIMS_LAPSE)
    lost = call(port)
    assert (lost.status_code, lost.json()["error"]["code"]) == (409, "idempotent_answer_lost")
    assert call(port, "order-2").status_code == 200
    books = platform.settle()
    assert books.differences == []
    first, second = sorted(books.records, key=lambda record: record["request_id"])
    assert first["request_id"] == lost.json()["error"]["request_id"]
    assert first["cost"] == second["cost"] > 0
