"""`/metrics`: who may read it, and that it says what metering has counted."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from billing import metering, pricing
from billing.metering import Meter
from config.asgi import Platform
from tests import factories
from tests.config.asking import Seen, request

TOKEN = "token-of-the-monitoring"


@pytest.fixture
async def meter(transactional_db: None) -> AsyncIterator[Meter]:
    meter = Meter()
    await meter.start()
    yield meter
    await meter.stop()


@pytest.fixture
def opening(transactional_db: None) -> metering.Opening:
    organization = factories.make_organization()
    factories.make_credit(organization=organization, nanos=1_000_000)
    return factories.make_opening(
        organization=organization, price=factories.make_price(), hold_nanos=100_000
    )


async def scrape(**headers: str) -> Seen:
    return await request(Platform(), "/metrics", **headers)


async def figures() -> dict[str, float]:
    """Every sample by its name and labels, as monitoring reads them."""
    seen = await scrape(authorization=f"Bearer {TOKEN}")
    assert seen.status == 200, seen.body
    return {
        " ".join([sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))]): (
            sample.value
        )
        for family in text_string_to_metric_families(seen.body.decode())
        for sample in family.samples
    }


async def test_metrics_are_off_until_a_token_is_set(meter: Meter) -> None:
    seen = await scrape(authorization="Bearer ")
    assert (seen.status, seen.error["code"]) == (404, "metrics_off")
    assert "METRICS_TOKEN" in seen.error["message"]


@pytest.mark.parametrize("sent", [{}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}])
async def test_whoever_lacks_the_token_reads_nothing(
    meter: Meter, settings: Any, sent: dict[str, str]
) -> None:
    settings.METRICS_TOKEN = TOKEN
    seen = await scrape(**sent)
    assert (seen.status, seen.error["code"]) == (401, "unauthorized")
    assert TOKEN not in seen.body.decode()


async def test_a_process_that_does_not_meter_says_so(settings: Any) -> None:
    settings.METRICS_TOKEN = TOKEN
    seen = await scrape(authorization=f"Bearer {TOKEN}")
    assert (seen.status, seen.error["code"]) == (503, "unavailable")


async def test_a_call_is_seen_in_flight_and_counted_when_it_has_ended(
    meter: Meter, opening: metering.Opening, settings: Any
) -> None:
    settings.METRICS_TOKEN = TOKEN
    call = await meter.open(opening)
    assert (await figures())["aigateway_calls_in_flight"] == 1
    usage = pricing.Usage(input=1000, output=500)
    await call.settle(factories.make_ending(usage=usage))
    seen = await figures()
    served = "model=smollm2-135m provider=local"
    assert seen["aigateway_calls_in_flight"] == 0
    assert seen[f"aigateway_calls_total {served} status=finished"] == 1
    assert seen[f"aigateway_tokens_total direction=input {served}"] == 1000
    assert seen[f"aigateway_tokens_total direction=output {served}"] == 500
    assert seen[f"aigateway_cost_nanodollars_total {served}"] == 40_000
    assert seen[f"aigateway_call_duration_seconds_bucket le=0.1 {served}"] == 0
    assert seen[f"aigateway_call_duration_seconds_bucket le=0.25 {served}"] == 1
    assert seen[f"aigateway_call_duration_seconds_bucket le=+Inf {served}"] == 1
    assert seen[f"aigateway_call_duration_seconds_sum {served}"] == 0.12
    assert seen["aigateway_journal_failed"] == 0
    assert seen["process_resident_memory_bytes"] > 1_000_000


async def test_settlements_that_nobody_books_are_seen_to_wait(
    meter_without_ingester: Meter, opening: metering.Opening, settings: Any
) -> None:
    settings.METRICS_TOKEN = TOKEN
    call = await meter_without_ingester.open(opening)
    await call.settle(factories.make_ending(usage=pricing.Usage(input=1000, output=500)))
    first = await figures()
    await asyncio.sleep(0.01)
    second = await figures()
    assert first["aigateway_journal_unbooked_bytes"] > 100
    waited = "aigateway_journal_unbooked_seconds"
    assert 0 < first[waited] < second[waited]


@pytest.fixture
async def meter_without_ingester(transactional_db: None, settings: Any) -> AsyncIterator[Meter]:
    settings.INGEST_IN_WEB, settings.BILLING_BARRIER = False, "write"
    meter = Meter()
    await meter.start()
    yield meter
    await meter.stop()
