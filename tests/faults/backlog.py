"""What a process has settled while nobody booked: a journal of any length, its writer gone."""

from tests.faults.platform import Platform

COST_NANOS = 7 * 2_500 + 2 * 10_000
NAME = "here-late"

_WRITE = """
from django.conf import settings
from django.utils import timezone
from billing import calls, ledger
from billing.calls import Ending, Opening
from billing.journal import records
from billing.journal.writer import JournalWriter
from billing.models import PriceVersion
from billing.pricing import Price, Usage
from orgs.models import Organization
organization = Organization.objects.get(slug="demo")
version = PriceVersion.objects.filter(provider="openai", model="gpt-4o").latest("effective_at")
price = Price.from_rates(version.pk, version.rates)
ledger.grant(organization, {count} * {cost}, reason="what the backlog costs",
             idempotency_key="backlog", at=timezone.now())
writer = JournalWriter(settings.JOURNAL_DIR, "{name}", segment_bytes=1024 * 1024, slot_count=8)
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


def write(platform: Platform, count: int) -> None:
    """So many settled calls, and the credit that they cost; nothing else knows of them."""
    platform.python(_WRITE.format(count=count, cost=COST_NANOS, name=NAME), seconds_max=600)
