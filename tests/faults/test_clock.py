"""The wall clock jumps while calls run: nothing is refused, negative or counted twice."""

import asyncio
import json

import pytest

from tests.faults.client import Clients
from tests.faults.story import calls_around, every_call_ended_and_is_booked

pytestmark = pytest.mark.faults

HOUR, YEARS = 3_600, 10 * 365 * 86_400
STARTED = """
import json
from billing.models import UsageRecord
print(json.dumps([
    [record.started_at.year, record.duration_ms, record.first_token_ms or 0]
    for record in UsageRecord.objects.order_by("started_at")
]))
"""
# The price holds in the other time, too: a model that has none yet is refused, as it should be.
PRICED_LONG_AGO = """
from datetime import UTC, datetime
from billing.models import PriceVersion
now = PriceVersion.objects.filter(provider="openai", model="gpt-4o").latest("effective_at")
PriceVersion.objects.create(provider="openai", model="gpt-4o", source="test", rates=now.rates,
    effective_at=datetime(2000, 1, 1, tzinfo=UTC), created_at=now.created_at)
"""


@pytest.mark.parametrize("seconds", [HOUR, -HOUR, YEARS, -YEARS])
def test_calls_go_on_when_the_clock_jumps(platform, upstream, tmp_path, seconds):
    shift = tmp_path / "shift"
    shift.write_text("0")
    platform.python(PRICED_LONG_AGO)
    _, port = platform.start_web(CLOCK_SHIFT=str(shift))
    clients = Clients(platform.key, [port])

    def turn(by: int) -> None:
        replacement = tmp_path / "next"
        replacement.write_text(str(by))
        replacement.replace(shift)

    asyncio.run(calls_around(clients, lambda: turn(seconds), lambda: turn(0)))
    every_call_ended_and_is_booked(platform, upstream, clients)
    started = json.loads(platform.python(STARTED))
    assert all(0 <= first <= duration < 60_000 for _, duration, first in started)
    if abs(seconds) == YEARS:  # the process did see the other time
        assert len({year for year, _, _ in started}) > 1
