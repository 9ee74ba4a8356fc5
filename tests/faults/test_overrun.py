"""Many streams at once on credit for a tenth of them, served by one process or several.

The bound on what may be spent beyond credit: leases never add up to more than the balance, and a
process holds no more than its leases, so `spent <= balance + sum(eps)` over the streams that were
cut. A stream whose worst case is held has eps = 0: it cannot cost more. A stream that is held
slice by slice is cut at the first read from its provider that reaches what is paid for; of that
read nothing is forwarded, but it was generated, so eps is what one read can hold beyond the last
token paid for. One read is at most READ_BYTES_MAX, and one token of this provider is an event of
at least EVENT_BYTES_MIN.
"""

import asyncio
import json
import os

import pytest

from tests.faults.client import Clients, Seen
from tests.faults.invariants import violations
from tests.faults.platform import Platform

pytestmark = pytest.mark.faults

STREAMS = 200
PAID_FOR = 20
ON_POSTGRESQL = os.environ.get("DATABASE_URL", "").startswith("postgres")
PROCESSES = (1, 2, 4) if ON_POSTGRESQL else (1,)
# gpt-4o: $10 per million tokens of output, $2.50 of input.
OUTPUT_NANOS, INPUT_NANOS = 10_000, 2_500
SLICE = 2_048
# aiohttp pauses reading at twice its buffer of 64 KiB.
READ_BYTES_MAX = 3 * 64 * 1024
EVENT_BYTES_MIN = 150
PATIENCE = 100

LEAVE = """
from django.utils import timezone
from billing import ledger
from orgs.models import Organization
organization = Organization.objects.get(slug="demo")
ledger.correct(organization, {nanos} - ledger.balance(organization).posted_nanos,
               reason="leave little", idempotency_key="leave-little", at=timezone.now())
"""
WORST = """
from django.db.models import Max
from billing.models import UsageRecord
print(UsageRecord.objects.aggregate(most=Max("held_nanos"))["most"])
"""


def start(platform: Platform, count: int) -> list[int]:
    """So many serving processes; on PostgreSQL with an ingester of their own. Their ports."""
    if ON_POSTGRESQL:
        platform.settings["INGEST_IN_WEB"] = "false"
        platform.start_ingester()
    return [platform.start_web()[1] for _ in range(count)]


async def spend_the_rest(clients: Clients, **options: int) -> list[Seen]:
    """One call after another until credit is gone: what lies idle in any lease is found."""
    made = []
    for number in range(PATIENCE):
        seen = await clients.call(f"rest-{number}", **options)
        made.append(seen)
        if code_of(seen) == "insufficient_quota" and seen.status == 429:
            return made
        if seen.status == 429:
            await asyncio.sleep(0.2)
    return made


def code_of(seen: Seen) -> str:
    """The code of a refusal, or of an error inside a stream."""
    if seen.error.startswith("{"):
        return json.loads(seen.error)["error"]["code"]
    return seen.error


def unexplained(seen: list[Seen]) -> list[Seen]:
    """Calls that neither ended whole, nor were refused or cut for want of credit."""
    return [
        call
        for call in seen
        if not (call.status == 200 and (call.saw_end or code_of(call) == "insufficient_quota"))
        and not (call.status == 429 and code_of(call) in ("insufficient_quota", "credit_reserved"))
    ]


@pytest.mark.parametrize("processes", PROCESSES)
def test_calls_held_whole_never_overrun_and_leave_nothing_idle(platform, upstream, processes):
    tokens = 64
    cost = tokens * OUTPUT_NANOS + 7 * INPUT_NANOS
    platform.python(LEAVE.format(nanos=PAID_FOR * cost))
    clients = Clients(platform.key, start(platform, processes))

    async def play():
        await asyncio.gather(
            *(clients.call(f"call-{n}", tokens=tokens, pause_ms=5) for n in range(STREAMS))
        )
        return await spend_the_rest(clients, tokens=tokens, pause_ms=0)

    rest = asyncio.run(play())
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert unexplained(clients.seen) == [], platform.logs()
    assert code_of(rest[-1]) == "insufficient_quota"
    assert books.owed == 0
    assert sum(record["cost"] for record in books.records) == PAID_FOR * cost - books.posted
    # What is left pays for no further call.
    assert 0 <= books.posted < int(platform.python(WORST))


@pytest.mark.parametrize("processes", PROCESSES)
def test_streams_held_in_slices_overrun_by_less_than_a_read_each(platform, upstream, processes):
    tokens, tokens_max = 2_600, 16_000
    credit = PAID_FOR * tokens * OUTPUT_NANOS
    platform.python(LEAVE.format(nanos=credit))
    clients = Clients(platform.key, start(platform, processes))
    options = {"tokens": tokens, "tokens_max": tokens_max, "pause_ms": 0}

    async def play():
        await asyncio.gather(*(clients.call(f"call-{n}", **options) for n in range(STREAMS)))
        return await spend_the_rest(clients, **options)

    rest = asyncio.run(play())
    books = platform.settle()
    assert violations(books, clients.seen, upstream.generated) == [], platform.logs()
    assert unexplained(clients.seen) == [], platform.logs()
    assert code_of(rest[-1]) == "insufficient_quota"
    cut = [call for call in clients.seen if call.status == 200 and not call.saw_end]
    assert books.owed <= len(cut) * READ_BYTES_MAX // EVENT_BYTES_MIN * OUTPUT_NANOS
    spent = sum(record["cost"] for record in books.records)
    assert spent == credit - books.posted + books.owed
    # What is left does not pay for a stream's beginning: its input and a slice of output.
    beginning = int(platform.python(WORST)) - (tokens_max - SLICE) * OUTPUT_NANOS
    assert 0 <= books.posted < beginning
