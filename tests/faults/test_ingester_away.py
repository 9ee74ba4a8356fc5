"""The ingester dies again and again, or comes late: calls do not notice, and the books catch up."""

import asyncio
import signal

import pytest

from tests.faults.client import Clients
from tests.faults.platform import Platform
from tests.faults.story import every_call_ended_and_is_booked

pytestmark = pytest.mark.faults

BACKLOG = 20_000

# What a process writes in an hour without an ingester; it has ended since.
WRITE = """
from django.conf import settings
from django.utils import timezone
from billing import calls
from billing.calls import Ending, Opening
from billing.journal import records
from billing.journal.writer import JournalWriter
from billing.models import PriceVersion
from billing.pricing import Price, Usage
from orgs.models import Organization
organization = Organization.objects.get(slug="demo")
version = PriceVersion.objects.filter(provider="openai", model="gpt-4o").latest("effective_at")
price = Price.from_rates(version.pk, version.rates)
writer = JournalWriter(settings.JOURNAL_DIR, "here-late", segment_bytes=1024 * 1024, slot_count=8)
for number in range({count}):
    at = timezone.now()
    call_id = calls.new_call_id(int(at.timestamp() * 1000))
    opening = Opening(
        call_id=call_id, organization_id=organization.pk, workspace_id=1, deployment_id=1,
        deploy_id="app-0000000001", key_id=1, request_id=f"late-{{number}}", is_stream=False,
        endpoint="chat.completions", model_requested="gpt-4o", provider="openai",
        upstream_model="gpt-4o", price=price, margin_basis_points=0, hold_nanos=0, started_at=at,
    )
    ending = Ending(
        status="FINISHED", http_status=200, usage=Usage(input=7, output=2), usage_source="PROVIDER"
    )
    payload = records.encode_settlement(
        records.encode_opening(opening), ending, calls.cost_nanos(opening, ending)
    )
    writer.require_room()
    writer.append(payload)
writer.close()
"""


@pytest.fixture
def platform(upstream):
    upstream.generated.clear()
    platform = Platform(upstream.port, {"INGEST_IN_WEB": "false"})
    platform.prepare()
    yield platform
    platform.close()


def test_calls_go_on_while_the_ingester_dies_again_and_again(platform, upstream):
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])

    def crash(place: str) -> int:
        return platform.start_ingester(crash_at=place).wait(timeout=60)

    async def scenario() -> list[int]:
        codes = []
        for place in ("after_read", "after_charge", "before_commit", "after_commit"):
            crashing = asyncio.create_task(asyncio.to_thread(crash, f"ingest.{place}"))
            while not crashing.done():
                await clients.call(f"{place}-{len(clients.seen)}")
            codes.append(crashing.result())
        return codes

    assert asyncio.run(scenario()) == [-signal.SIGKILL] * 4
    every_call_ended_and_is_booked(platform, upstream, clients)


def test_a_backlog_is_booked_to_the_last_call(platform):
    platform.python(WRITE.format(count=BACKLOG))
    books = platform.settle()
    assert books.differences == []
    assert len(books.by_request) == len(books.records) == BACKLOG
    assert {record["cost"] for record in books.records} == {7 * 2_500 + 2 * 10_000}
    assert books.posted == 25 * 10**9 - BACKLOG * (7 * 2_500 + 2 * 10_000)
    assert (books.held, books.open_journals, books.directories) == (0, 0, 0)
