"""Metering end to end: a real event loop, the real writer thread, a real database."""

import asyncio
import functools
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection
from django.utils import timezone

from billing import calls, checks, ledger, metering, pricing, writer
from billing.models import Transfer, UsageRecord
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)

# At $0.02 and $0.04 per million tokens: 1,000 input and 500 output tokens cost 40,000 nanos.
USAGE = pricing.Usage(input=1000, output=500)
COST = 40_000


@pytest.fixture
def organization(transactional_db):
    organization = factories.make_organization()
    factories.make_credit(organization=organization, nanos=1_000_000)
    return organization


@pytest.fixture
def opening(organization):
    price = factories.make_price()

    def make(**fields):
        return factories.make_opening(
            organization=organization, price=price, **{"hold_nanos": 100_000, **fields}
        )

    return make


@pytest.fixture
async def meter(organization):
    meter = metering.Meter()
    await meter.start()
    yield meter
    await meter.stop()


def in_thread(function):
    """Run database code from a test's event loop, and leave no connection in the thread."""

    @functools.wraps(function)
    def run(*arguments, **named):
        try:
            return function(*arguments, **named)
        finally:
            connection.close()

    return sync_to_async(run)


@in_thread
def figures(organization):
    balance = ledger.balance(organization)
    return balance.posted_nanos, balance.held_nanos


@in_thread
def records():
    return list(UsageRecord.objects.order_by("call_id").select_related("transfer"))


@in_thread
def differences():
    return checks.verify().differences


async def until(condition):
    """Wait for what another thread is about to do."""
    while not await condition():  # noqa: ASYNC110 - another thread's doing
        await asyncio.sleep(0.01)


def ending(**fields):
    return replace(factories.make_ending(usage=USAGE), **fields)


async def test_a_call_is_held_for_and_then_charged(meter, organization, opening):
    first = opening()
    call = await meter.open(first)
    assert await figures(organization) == (1_000_000, 100_000)
    await call.settle(ending(first_token_ms=30, attempts=({"provider": "local"},)))
    assert await figures(organization) == (1_000_000 - COST, 0)
    [record] = await records()
    assert (record.call_id, record.cost_nanos, record.held_nanos) == (first.call_id, COST, 100_000)
    assert (record.input_tokens, record.output_tokens) == (1000, 500)
    assert record.transfer.amount_nanos == COST
    assert record.attempts == [{"provider": "local"}]
    assert (record.is_stream, record.first_token_ms, record.duration_ms) == (False, 30, 120)
    assert record.started_at == first.started_at
    assert await differences() == []


async def test_a_call_that_used_nothing_costs_nothing(meter, organization, opening):
    call = await meter.open(opening())
    await call.settle(factories.make_ending(status="UPSTREAM_ERROR", http_status=502))
    assert await figures(organization) == (1_000_000, 0)
    [record] = await records()
    assert (record.status, record.cost_nanos, record.transfer) == ("UPSTREAM_ERROR", 0, None)


async def test_a_cost_above_the_hold_is_charged_in_full(meter, organization, opening):
    call = await meter.open(opening(hold_nanos=10_000))
    await call.settle(ending())
    assert await figures(organization) == (990_000, 0)
    [record] = await records()
    assert record.cost_nanos == COST
    assert record.transfer.amount_nanos == 10_000
    assert await differences() == []


async def test_a_free_call_needs_no_credit(meter, organization, opening):
    call = await meter.open(opening(hold_nanos=0))
    await call.settle(factories.make_ending())
    assert len(await records()) == 1
    assert await in_thread(Transfer.objects.filter(code="USAGE").count)() == 0


async def test_a_call_that_cannot_be_paid_is_refused_with_the_figures(meter, opening):
    with pytest.raises(metering.UnableToHold) as refusal:
        await meter.open(opening(hold_nanos=1_000_001))
    assert refusal.value.available_nanos == 1_000_000
    assert refusal.value.needed_nanos == 1_000_001
    assert not refusal.value.is_reserved


async def test_credit_held_by_running_calls_is_called_reserved(meter, opening):
    await meter.open(opening(hold_nanos=600_000))
    with pytest.raises(metering.UnableToHold) as refusal:
        await meter.open(opening(hold_nanos=600_000))
    assert refusal.value.is_reserved
    assert refusal.value.held_nanos == 600_000


async def test_many_calls_at_once_spend_exactly_what_they_use(meter, organization, opening):
    openings = [opening(hold_nanos=50_000) for _ in range(24)]
    outcomes = await asyncio.gather(*map(meter.open, openings), return_exceptions=True)
    running = [each for each in outcomes if isinstance(each, metering.Call)]
    assert len(running) == 20
    assert sum(isinstance(each, metering.UnableToHold) for each in outcomes) == 4
    await asyncio.gather(*(call.settle(ending()) for call in running))
    assert await figures(organization) == (1_000_000 - 20 * COST, 0)
    assert len(await records()) == 20
    assert await differences() == []


async def test_settling_twice_charges_once_and_the_first_ending_counts(
    meter, organization, opening
):
    call = await meter.open(opening())
    first = call.settle(ending())
    assert call.settle(ending(usage=pricing.Usage(input=9))) is first
    await first
    await call.settle(ending(status="CRASHED"))
    assert await figures(organization) == (1_000_000 - COST, 0)
    assert [record.status for record in await records()] == ["FINISHED"]


async def test_a_settlement_survives_the_task_that_awaited_it(meter, organization, opening):
    call = await meter.open(opening())

    async def request() -> None:
        await call.settle(ending())

    task = asyncio.create_task(request())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await call.settle(ending())
    assert await figures(organization) == (1_000_000 - COST, 0)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
async def test_a_hold_is_given_back_when_its_caller_goes_away(meter, organization, opening, rounds):
    task = asyncio.create_task(meter.open(opening()))
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    async def nothing_is_held():
        return await figures(organization) == (1_000_000, 0)

    # Through the writer once more, so that whatever the cancelled call queued has been written.
    probe = await meter.open(opening(hold_nanos=1))
    await probe.settle(factories.make_ending())
    await asyncio.wait_for(until(nothing_is_held), 10)
    assert await differences() == []


async def test_a_caller_who_leaves_in_the_moment_of_the_grant_holds_nothing(
    meter, organization, opening
):
    task = asyncio.create_task(meter.open(opening()))
    is_held = in_thread(Transfer.objects.filter(phase="PENDING").exists)
    while not await is_held():  # noqa: ASYNC110 - another thread's doing
        await asyncio.sleep(0)
    task.cancel()
    outcome = (await asyncio.gather(task, return_exceptions=True))[0]
    if isinstance(outcome, metering.Call):  # the answer was faster than the cancellation
        await outcome.settle(factories.make_ending())

    async def nothing_is_held():
        return await figures(organization) == (1_000_000, 0)

    await asyncio.wait_for(until(nothing_is_held), 10)


async def test_stop_writes_everything_that_is_queued(organization, opening):
    meter = metering.Meter()
    await meter.start()
    running = await asyncio.gather(*(meter.open(opening(hold_nanos=50_000)) for _ in range(15)))
    settled = [call.settle(ending()) for call in running]
    await meter.stop()
    assert all(future.done() and future.exception() is None for future in settled)
    assert await figures(organization) == (1_000_000 - 15 * COST, 0)


async def test_stop_charges_open_calls_what_they_last_reported(organization, opening):
    meter = metering.Meter()
    await meter.start()
    silent, talking = await meter.open(opening()), await meter.open(opening())
    talking.progress(pricing.Usage(input=1000, output=100))
    talking.progress(USAGE)
    await meter.stop()
    assert await figures(organization) == (1_000_000 - COST, 0)
    found = {record.call_id: record for record in await records()}
    assert found[silent.opening.call_id].usage_source == "NONE"
    assert found[talking.opening.call_id].usage_source == "PROVIDER_PARTIAL"
    assert {record.status for record in found.values()} == {"CRASHED"}


async def test_before_start_and_after_stop_nothing_can_be_opened(organization, opening):
    meter = metering.Meter()
    with pytest.raises(metering.BillingUnavailable):
        await meter.open(opening())
    await meter.start()
    assert metering.current() is meter
    await meter.stop()
    with pytest.raises(metering.BillingUnavailable):
        await meter.open(opening())
    with pytest.raises(metering.BillingUnavailable):
        metering.current()


async def test_one_record_that_cannot_be_written_does_not_stop_the_others(
    meter, organization, opening
):
    good, bad = await meter.open(opening()), await meter.open(opening())
    bad.opening = replace(bad.opening, request_id=good.opening.request_id)
    futures = [good.settle(ending()), bad.settle(ending())]
    outcomes = await asyncio.gather(*futures, return_exceptions=True)
    assert outcomes[0] is None
    assert isinstance(outcomes[1], metering.UnableToSettle)
    assert await figures(organization) == (1_000_000 - COST, 100_000)


async def test_text_from_outside_never_makes_a_record_unwritable(meter, opening):
    call = await meter.open(opening())
    await call.settle(
        ending(model_served="m\x00" * 500, upstream_request_id="u" * 999, error_code="e" * 99)
    )
    [record] = await records()
    assert len(record.error_code) == 64
    assert "\x00" not in record.model_served


async def test_a_settlement_waits_for_a_database_that_is_away(
    meter, organization, opening, monkeypatch
):
    call = await meter.open(opening())
    real, failures = ledger.commit_batch, []

    def away_twice(**batch):
        if len(failures) < 2:
            failures.append(batch)
            raise OperationalError("the connection is lost")
        return real(**batch)

    monkeypatch.setattr(ledger, "commit_batch", away_twice)
    await call.settle(ending())
    assert len(failures) == 2
    assert await figures(organization) == (1_000_000 - COST, 0)


async def test_a_commit_whose_answer_was_lost_is_not_written_twice(
    meter, organization, opening, monkeypatch
):
    real, lost = writer.Writer._write, []

    def lose_the_first_answer(self, batch, **options):
        real(self, batch, **options)
        if len(lost) < 2 and batch not in lost:
            lost.append(batch)
            raise OperationalError("the connection is lost")

    monkeypatch.setattr(writer.Writer, "_write", lose_the_first_answer)
    call = await meter.open(opening())
    await call.settle(ending())
    assert len(lost) == 2
    assert await figures(organization) == (1_000_000 - COST, 0)
    assert len(await records()) == 1
    assert await differences() == []


async def test_while_the_database_is_away_new_calls_are_refused_at_once(
    meter, organization, opening, monkeypatch
):
    real, is_away = ledger.commit_batch, [True]

    def away(**batch):
        if is_away:
            raise OperationalError("the connection is lost")
        return real(**batch)

    running = await meter.open(opening())
    monkeypatch.setattr(ledger, "commit_batch", away)
    settled = running.settle(ending())

    async def is_noticed():
        return meter._writer.is_failing

    await asyncio.wait_for(until(is_noticed), 10)
    with pytest.raises(metering.BillingUnavailable):
        await meter.open(opening())
    is_away.clear()
    await settled
    assert await figures(organization) == (1_000_000 - COST, 0)


async def test_a_full_queue_refuses_holds_and_takes_settlements(meter, opening, monkeypatch):
    call = await meter.open(opening())
    monkeypatch.setattr(metering, "QUEUE_MAX", 0)
    with pytest.raises(metering.BillingUnavailable):
        await meter.open(opening())
    await call.settle(ending())


# --- Holds without a call ------------------------------------------------------------------------
async def test_a_hold_whose_call_vanished_is_released_when_it_expires(meter, organization, opening):
    call = await meter.open(opening())
    release = in_thread(metering.release_expired_holds)
    now = call.opening.started_at
    assert await release(now + timedelta(minutes=19)) == 0
    assert await release(now + timedelta(minutes=20)) == 1
    assert await release(now + timedelta(minutes=21)) == 0
    assert await figures(organization) == (1_000_000, 0)


async def test_a_call_that_outlives_its_hold_is_still_charged(meter, organization, opening):
    call = await meter.open(opening())
    await in_thread(metering.release_expired_holds)(timezone.now() + timedelta(minutes=21))
    await call.settle(ending())
    [record] = await records()
    assert (record.cost_nanos, record.transfer.phase) == (COST, "POSTED")
    assert await figures(organization) == (1_000_000, 0)
    assert await differences() == []


async def test_a_new_process_that_is_alone_releases_every_hold(meter, organization, opening):
    await meter.open(opening())
    await meter.open(opening())
    released = await in_thread(metering.release_all_holds)("restart", at=timezone.now())
    assert released == 2
    assert await figures(organization) == (1_000_000, 0)


# --- Call ids ------------------------------------------------------------------------------------
def test_call_ids_are_unique_and_ordered_by_time():
    ids = [metering.new_call_id(1_700_000_000_000 + number // 10) for number in range(1000)]
    assert len(set(ids)) == 1000
    assert ids == sorted(ids)
    assert ids[0].int >> 80 == 1_700_000_000_000
    assert isinstance(ids[0], uuid.UUID)


def test_another_process_numbers_its_calls_under_another_epoch():
    before = calls._epoch
    calls._begin_epoch()
    assert calls._epoch != before
