"""Prices, credit and keys change while calls run: what has begun goes on as it began."""

import asyncio

import pytest

from tests.faults.client import Clients, Seen, until
from tests.faults.invariants import violations

pytestmark = pytest.mark.faults

INPUT_NANOS, OUTPUT_NANOS, PROMPT = 2_500, 10_000, 7
TOKENS = 300

CHANGE = """
from django.utils import timezone
from billing import ledger
from billing.models import PriceVersion
from orgs.models import Organization
now = timezone.now()
def rate(nanos):
    return [{"from_input_tokens": 0, "nanos_per_million": nanos * 1_000_000}]
PriceVersion.objects.create(provider="openai", model="gpt-4o", effective_at=now, source="test",
                            rates={"input": rate(5_000), "output": rate(20_000)}, created_at=now)
ledger.grant(Organization.objects.get(slug="demo"), 10**9, reason="top-up",
             idempotency_key="top-up", at=now)
"""
REVOKE = """
from django.utils import timezone
from gateway import provisioning
from orgs.models import Workspace
provisioning.revoke(Workspace.objects.get(name="playground"), at=timezone.now())
"""


async def call_until(clients: Clients, name: str, status: int) -> Seen:
    """Calls, one after another, until one has the status."""
    for number in range(100):
        seen = await clients.call(f"{name}-{number}")
        if seen.status == status:
            break
        await asyncio.sleep(0.1)
    return seen


def test_calls_keep_their_price_and_a_revoked_key_opens_no_more(platform, upstream):
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])

    async def scenario() -> tuple[list[Seen], Seen]:
        running = [
            asyncio.create_task(clients.call(f"running-{number}", tokens=TOKENS, pause_ms=40))
            for number in range(8)
        ]
        await until(lambda: all(seen.delivered for seen in clients.seen))
        await asyncio.to_thread(platform.python, CHANGE)
        for number in range(20):
            await clients.call(f"dearer-{number}")
            await asyncio.sleep(0.2)
        await asyncio.to_thread(platform.python, REVOKE)
        refused = await call_until(clients, "revoked", 401)
        return await asyncio.gather(*running), refused

    running, refused = asyncio.run(scenario())
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert refused.status == 401
    assert all(seen.saw_end for seen in running)
    costs = {name: books.by_request[request_id]["cost"] for name, request_id in _ids(clients)}
    old = TOKENS * OUTPUT_NANOS + PROMPT * INPUT_NANOS
    assert {costs[seen.name] for seen in running} == {old}
    assert costs["dearer-19"] == 2 * (12 * OUTPUT_NANOS + PROMPT * INPUT_NANOS)
    # $25 of welcome credit and $1 more.
    assert books.posted == 26 * 10**9 - sum(costs.values())


def _ids(clients: Clients) -> list[tuple[str, str]]:
    return [(seen.name, seen.request_id) for seen in clients.seen if seen.status == 200]
