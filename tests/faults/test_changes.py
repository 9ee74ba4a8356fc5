"""Prices, credit, keys and their owners change while calls run: what has begun goes on."""

import asyncio

import pytest

from tests.faults.client import Clients, Seen, until
from tests.faults.invariants import violations

pytestmark = pytest.mark.faults

INPUT_NANOS, OUTPUT_NANOS, PROMPT = 2_500, 10_000, 7
TOKENS = 300
STREAMS = 8

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
DELETE = """
from django.utils import timezone
from deployments import deploying
from gateway.models import GatewayKey
deploying.delete(GatewayKey.objects.get().deployment, at=timezone.now())
"""
SUSPEND = """
from django.utils import timezone
from orgs.models import Organization
Organization.objects.filter(slug="demo").update(
    suspended_at=timezone.now(), suspension_reason="The card was stolen.")
"""
# What is done to whom a call is made for; the status of calls from then on, and its code.
ENDINGS = {
    "the key is revoked": (REVOKE, 401, "invalid_api_key"),
    "the deployment is deleted": (DELETE, 401, "invalid_api_key"),
    "the organization is suspended": (SUSPEND, 403, "organization_suspended"),
}


async def call_until(clients: Clients, name: str, status: int) -> Seen:
    """Calls, one after another, until one has the status."""
    for number in range(100):
        seen = await clients.call(f"{name}-{number}")
        if seen.status == status:
            break
        await asyncio.sleep(0.1)
    return seen


def begin_streams(clients: Clients) -> list["asyncio.Task[Seen]"]:
    """Streams of some seconds."""
    return [
        asyncio.create_task(clients.call(f"running-{number}", tokens=TOKENS, pause_ms=40))
        for number in range(STREAMS)
    ]


def test_calls_keep_the_price_they_began_at_and_credit_arrives(platform, upstream):
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])

    async def scenario() -> list[Seen]:
        running = begin_streams(clients)
        await until(lambda: sum(seen.delivered > 0 for seen in clients.seen) == STREAMS)
        await asyncio.to_thread(platform.python, CHANGE)
        for number in range(20):
            await clients.call(f"dearer-{number}")
            await asyncio.sleep(0.2)
        return await asyncio.gather(*running)

    running = asyncio.run(scenario())
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert all(seen.saw_end for seen in clients.seen)
    costs = {seen.name: books.by_request[seen.request_id]["cost"] for seen in clients.seen}
    old = TOKENS * OUTPUT_NANOS + PROMPT * INPUT_NANOS
    assert {costs[seen.name] for seen in running} == {old}
    assert costs["dearer-19"] == 2 * (12 * OUTPUT_NANOS + PROMPT * INPUT_NANOS)
    # $25 of welcome credit and $1 more.
    assert books.posted == 26 * 10**9 - sum(costs.values())


@pytest.mark.parametrize("ending", ENDINGS)
def test_nobody_gets_in_any_more_and_streams_end_and_are_billed(platform, upstream, ending):
    change, status, code = ENDINGS[ending]
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])

    async def scenario() -> tuple[Seen, Seen, list[Seen]]:
        running = begin_streams(clients)
        await until(lambda: sum(seen.delivered > 0 for seen in clients.seen) == STREAMS)
        await asyncio.to_thread(platform.python, change)
        refused = await call_until(clients, "refused", status)
        later = await clients.call("later")
        return refused, later, await asyncio.gather(*running)

    refused, later, running = asyncio.run(scenario())
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert (refused.status, later.status) == (status, status)
    assert code in refused.error
    assert all(seen.saw_end for seen in running), running
    assert {books.by_request[seen.request_id]["status"] for seen in running} == {"FINISHED"}
