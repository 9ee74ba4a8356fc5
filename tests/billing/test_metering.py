"""Metering end to end: a real event loop, a real journal on a disk, a real database."""

import asyncio
import functools
import os
import time
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import OperationalError, connection
from django.utils import timezone

from billing import (
    barrier,
    calls,
    checks,
    leases,
    ledger,
    metering,
    prices,
    pricing,
    purses,
    sidecar,
)
from billing.journal import directory
from billing.models import Journal, Lease, Transfer, UsageRecord
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
def posted(organization):
    return ledger.balance(organization).posted_nanos


@in_thread
def leased(organization):
    return ledger.balance(organization).held_nanos


def lease_of(meter, organization):
    return meter.purse._leases[organization.pk]


@in_thread
def silence():
    """An hour in which no host renews its leases, although they live."""
    return factories.reclaim_leases(after=timezone.now())


async def is_known(meter, organization, nanos):
    """Whether this process knows of so much credit on lease."""
    return lease_of(meter, organization).granted == nanos


@in_thread
def top_up(organization, nanos):
    factories.make_credit(organization=organization, nanos=nanos)


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
    assert lease_of(meter, organization).held == 100_000
    await call.settle(ending(first_token_ms=30, attempts=({"provider": "local"},)))
    assert lease_of(meter, organization).held == 0
    assert lease_of(meter, organization).spent == COST
    assert await posted(organization) == 1_000_000 - COST
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
    assert await posted(organization) == 1_000_000
    [record] = await records()
    assert (record.status, record.cost_nanos, record.transfer) == ("UPSTREAM_ERROR", 0, None)


async def test_a_cost_above_the_hold_is_charged_in_full(meter, organization, opening):
    call = await meter.open(opening(hold_nanos=10_000))
    await call.settle(ending())
    assert await posted(organization) == 1_000_000 - COST
    assert await differences() == []


async def test_what_credit_cannot_cover_is_owed(meter, organization, opening):
    call = await meter.open(opening(hold_nanos=1_000_000))
    await call.settle(ending(usage=pricing.Usage(input=60_000)))
    assert await posted(organization) == 0
    [record] = await records()
    assert record.cost_nanos == 1_200_000
    transfers = Transfer.objects.filter(code="USAGE").order_by("id")
    amounts = await in_thread(lambda: list(transfers.values_list("amount_nanos", flat=True)))()
    assert amounts == [1_000_000, 200_000]
    assert await in_thread(ledger.owed_nanos)(organization.pk) == 200_000
    assert await differences() == []


async def test_a_free_call_needs_no_credit(meter, organization, opening):
    call = await meter.open(opening(hold_nanos=0))
    await call.settle(factories.make_ending())
    assert len(await records()) == 1
    assert await in_thread(Transfer.objects.filter(code="USAGE").count)() == 0
    assert await in_thread(Lease.objects.count)() == 0


async def test_a_call_is_charged_at_the_price_of_who_served_it(meter, organization, opening):
    dear = await in_thread(factories.make_price)(model="dear", input_nanos=10**9)
    served = metering.Served("local", "dear", pricing.Price.from_rates(dear.pk, dear.rates))
    call = await meter.open(opening(hold_nanos=1_000_000))
    call.serve(served)
    await call.settle(ending(served=served, usage=pricing.Usage(input=100)))
    [record] = await records()
    assert (record.upstream_model, record.price_version_id) == ("dear", dear.pk)
    assert record.cost_nanos == 100_000


# --- Credit -------------------------------------------------------------------------------------
async def test_a_running_call_keeps_the_price_it_was_admitted_with(meter, organization, opening):
    first = opening()
    call = await meter.open(first)
    change = in_thread(prices.adopt)
    quote = prices.Quote(
        "local",
        "smollm2-135m",
        {
            bucket: [{"from_input_tokens": 0, "nanos_per_million": 100_000_000}]
            for bucket in ("input", "output")
        },
        "test",
    )
    [newer] = await change([prices.Change(quote, None)], timezone.now())
    await call.settle(ending())
    [record] = await records()
    assert record.price_version_id == first.price.version_id != newer.pk
    assert record.cost_nanos == COST
    assert await differences() == []


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


async def test_credit_that_was_spent_and_is_not_booked_yet_is_not_called_reserved(
    organization, opening, settings
):
    settings.INGEST_IN_WEB = False
    settings.BILLING_BARRIER = "write"
    meter = metering.Meter()
    await meter.start()
    call = await meter.open(opening(hold_nanos=1_000_000))
    await call.settle(ending(usage=pricing.Usage(input=49_000)))
    with pytest.raises(metering.UnableToHold) as refusal:
        await meter.open(opening(hold_nanos=600_000))
    assert not refusal.value.is_reserved
    await meter.stop()


async def test_many_calls_at_once_spend_exactly_what_they_use(meter, organization, opening):
    openings = [opening(hold_nanos=50_000) for _ in range(24)]
    outcomes = await asyncio.gather(*map(meter.open, openings), return_exceptions=True)
    running = [each for each in outcomes if isinstance(each, metering.Call)]
    assert len(running) == 20
    assert sum(isinstance(each, metering.UnableToHold) for each in outcomes) == 4
    await asyncio.gather(*(call.settle(ending()) for call in running))
    assert await posted(organization) == 1_000_000 - 20 * COST
    assert len(await records()) == 20
    assert await differences() == []


async def test_a_call_that_fits_the_lease_asks_the_database_for_nothing(
    meter, organization, opening, monkeypatch
):
    first = await meter.open(opening(hold_nanos=1_000))
    await first.settle(factories.make_ending())

    def away(*_, **__):
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(leases, "grant", away)
    call = await meter.open(opening(hold_nanos=100_000))
    await call.settle(ending())
    assert await posted(organization) == 1_000_000 - COST


async def test_with_the_database_away_and_the_lease_used_up_credit_is_not_called_gone(
    meter, opening, monkeypatch
):
    def away(*_, **__):
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(leases, "grant", away)
    with pytest.raises(metering.BillingUnavailable):
        await meter.open(opening())


async def test_an_answer_that_was_lost_grants_nothing_twice(
    meter, organization, opening, monkeypatch
):
    real, lost = leases.grant, []

    def lose_the_first_answer(*arguments, **named):
        answer = real(*arguments, **named)
        if not lost:
            lost.append(answer)
            raise OperationalError("the connection is lost")
        return answer

    monkeypatch.setattr(leases, "grant", lose_the_first_answer)
    with pytest.raises(metering.BillingUnavailable):
        await meter.open(opening(hold_nanos=600_000))
    call = await meter.open(opening(hold_nanos=300_000))
    assert lease_of(meter, organization).granted == await leased(organization)
    await call.settle(ending())
    assert await differences() == []


async def test_a_grant_that_comes_after_its_caller_gave_up_is_not_lost(
    meter, organization, opening, monkeypatch
):
    real = leases.grant

    def grant_late(*arguments, **named):
        answer = real(*arguments, **named)
        time.sleep(0.5)
        return answer

    monkeypatch.setattr(leases, "grant", grant_late)
    monkeypatch.setattr(purses, "HOLD_SECONDS_MAX", 0.1)
    with pytest.raises(metering.BillingUnavailable):
        await meter.open(opening(hold_nanos=600_000))
    await asyncio.wait_for(until(lambda: is_known(meter, organization, 600_000)), 20)


async def test_credit_granted_without_an_answer_goes_back_although_nobody_asks_again(
    meter, organization, opening, monkeypatch
):
    real = leases.grant

    def lose_the_answer(*arguments, **named):
        real(*arguments, **named)
        raise OperationalError("the connection is lost")

    monkeypatch.setattr(leases, "grant", lose_the_answer)
    monkeypatch.setattr(purses, "IDLE_SECONDS", 0.0)
    with pytest.raises(metering.BillingUnavailable):
        await meter.open(opening(hold_nanos=600_000))
    assert await leased(organization) == 600_000

    async def nothing_is_leased():
        return await leased(organization) == 0

    await asyncio.wait_for(until(nothing_is_leased), 20)


async def test_what_was_charged_beyond_the_lease_strands_no_later_credit(
    meter, organization, opening
):
    # It costs twenty times what was held, and more than there is.
    call = await meter.open(opening(hold_nanos=1_000_000))
    await call.settle(ending(usage=pricing.Usage(input=1000, output=500_000)))
    cost = 20_020_000

    async def is_booked():
        return await posted(organization) == 0

    await asyncio.wait_for(until(is_booked), 20)
    await top_up(organization, cost)
    # All that is left after the debt is paid can be spent.
    again = await meter.open(opening(hold_nanos=1_000_000))
    await again.settle(ending())
    assert await posted(organization) == 1_000_000 - COST
    lease = lease_of(meter, organization)
    assert lease.free == await leased(organization)
    assert await differences() == []


async def test_credit_that_is_not_used_goes_back(meter, organization, opening, monkeypatch):
    monkeypatch.setattr(purses, "IDLE_SECONDS", 0.0)
    call = await meter.open(opening())
    assert await leased(organization) >= 100_000
    await call.settle(ending())

    async def nothing_is_leased():
        return await leased(organization) == 0

    await asyncio.wait_for(until(nothing_is_leased), 20)
    assert await posted(organization) == 1_000_000 - COST
    again = await meter.open(opening(hold_nanos=900_000))
    await again.settle(ending())
    assert await differences() == []


async def test_another_process_gets_what_this_one_does_not_use(meter, organization, opening):
    """Two meters are two processes to everything but Python."""
    if connection.vendor != "postgresql":
        pytest.skip("one process serves from SQLite")
    other = metering.Meter()
    await other.start()
    first = await other.open(opening(hold_nanos=900_000))
    await first.settle(ending())
    call = await meter.open(opening(hold_nanos=800_000))
    await call.settle(ending())
    await other.stop()
    assert await posted(organization) == 1_000_000 - 2 * COST
    assert await differences() == []


async def test_a_process_that_renews_keeps_its_leases_whatever_the_clock_says(
    meter, organization, opening
):
    call = await meter.open(opening())
    now = timezone.now()
    for hours in (0, 1, 10**5, -1, 2, 10**5):
        for _ in range(leases.LOOKS):
            assert await in_thread(metering.reclaim_leases)(now + timedelta(hours=hours)) == []
        await in_thread(leases.renew)(meter.journal.name, at=now)
    await call.settle(ending())
    assert await leased(organization) > 0


async def test_a_lease_that_was_taken_back_ends_the_process(organization, opening):
    ended = []
    meter = metering.Meter(on_failure=lambda: ended.append(True))
    await meter.start()
    await (await meter.open(opening())).settle(ending())
    # A clock that is wrong by hours takes nothing.
    assert await in_thread(metering.reclaim_leases)(timezone.now() + timedelta(hours=2)) == []
    assert await silence() == [meter.journal.name]
    assert await leased(organization) == 0
    with pytest.raises(metering.BillingUnavailable):
        await meter.open(opening(hold_nanos=900_000))
    assert ended == [True]
    await meter.stop()
    assert await differences() == []


# --- Streams with little credit -----------------------------------------------------------------
SLICED = {"hold_nanos": 10**9, "input_nanos": 20_000, "slice_nanos": 81_920, "is_stream": True}


async def test_a_stream_that_cannot_be_paid_to_its_worst_case_is_paid_slice_by_slice(
    meter, organization, opening
):
    call = await meter.open(opening(**SLICED, output_tokens_max=100_000))
    assert lease_of(meter, organization).held == 101_920
    relayed = 0
    while call.relay(relayed + 1):
        relayed += 1
    # $0.001 buys the input and eleven slices of 2,048 tokens.
    assert relayed == 11 * 2048 - 1
    assert lease_of(meter, organization).held == 20_000 + 11 * 81_920
    usage, _ = call.usage(is_whole=False)
    await call.settle(ending(usage=usage))
    # The piece that was withheld, of 40 nano-dollars, is not charged.
    assert await posted(organization) == 1_000_000 - 11 * 81_920 + 40


async def test_a_stream_goes_on_when_credit_arrives(meter, organization, opening):
    call = await meter.open(opening(**SLICED))
    for pieces in range(1, 11 * 2048 - 500):
        assert call.relay(pieces)
    await in_thread(factories.make_credit)(organization=organization, nanos=1_000_000)
    assert call.relay(11 * 2048 - 400)  # asks for more, in the background

    async def is_extended():
        call.relay(11 * 2048 - 300)
        return call._paid > 11 * 2048

    await asyncio.wait_for(until(is_extended), 10)
    assert call.relay(11 * 2048 + 5)
    await call.settle(factories.make_ending())


async def test_without_credit_for_its_first_slice_a_stream_is_refused(meter, opening):
    with pytest.raises(metering.UnableToHold) as refusal:
        await meter.open(opening(**{**SLICED, "input_nanos": 1_000_000}))
    assert refusal.value.needed_nanos == 1_081_920


async def test_a_stream_shorter_than_a_slice_needs_its_worst_case_alone(meter, opening):
    short = {**SLICED, "hold_nanos": 60_000}
    running = [await meter.open(opening(**short)) for _ in range(16)]
    with pytest.raises(metering.UnableToHold) as refusal:
        await meter.open(opening(**short))
    # The calls in flight hold credit for it, so waiting helps.
    assert refusal.value.is_reserved
    assert refusal.value.needed_nanos == 60_000
    for call in running:
        await call.settle(factories.make_ending())


# --- Settling -----------------------------------------------------------------------------------
async def test_settling_twice_charges_once_and_the_first_ending_counts(
    meter, organization, opening
):
    call = await meter.open(opening())
    await asyncio.gather(call.settle(ending()), call.settle(ending(usage=pricing.Usage(input=9))))
    await call.settle(ending(status="CRASHED"))
    assert await posted(organization) == 1_000_000 - COST
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
    assert await posted(organization) == 1_000_000 - COST


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 20])
async def test_a_caller_who_goes_away_holds_nothing(meter, organization, opening, rounds):
    task = asyncio.create_task(meter.open(opening()))
    for _ in range(rounds):
        await asyncio.sleep(0)
    task.cancel()
    [outcome] = await asyncio.gather(task, return_exceptions=True)
    if isinstance(outcome, metering.Call):  # the answer was faster than the cancellation
        await outcome.settle(factories.make_ending())
    probe = await meter.open(opening(hold_nanos=1))
    await probe.settle(factories.make_ending())
    assert lease_of(meter, organization).held == 0
    assert await differences() == []


async def test_stop_writes_everything_and_returns_the_credit(organization, opening):
    meter = metering.Meter()
    await meter.start()
    running = await asyncio.gather(*(meter.open(opening(hold_nanos=50_000)) for _ in range(15)))
    settled = [call.settle(ending()) for call in running]
    await meter.stop()
    assert all(future.done() and future.exception() is None for future in settled)
    assert await posted(organization) == 1_000_000 - 15 * COST
    assert await leased(organization) == 0
    assert not list(meter.journal.directory.parent.iterdir())
    journal = await in_thread(Journal.objects.get)(name=meter.journal.name)
    assert journal.closed_at is not None
    assert await differences() == []


async def test_stop_charges_open_calls_what_they_last_reported(organization, opening):
    meter = metering.Meter()
    await meter.start()
    silent, talking = await meter.open(opening()), await meter.open(opening())
    talking.report(pricing.Usage(input=1000, output=100))
    talking.report(USAGE)
    await meter.stop()
    assert await posted(organization) == 1_000_000 - COST
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


async def test_text_from_outside_never_makes_a_record_unwritable(meter, opening):
    call = await meter.open(opening(model="ü" * 500))
    await call.settle(
        ending(
            model_served="m\x00" * 500,
            upstream_request_id="\ud800" * 999,
            error_code="e" * 99,
            attempts=tuple({"provider": "p" * 5000, "outcome": "o"} for _ in range(9)),
        )
    )
    [record] = await records()
    assert len(record.error_code) == 64
    assert "\x00" not in record.model_served
    assert record.model_requested == "ü" * 60


async def test_what_cannot_be_written_down_costs_the_record_its_details_only(meter, opening):
    call = await meter.open(opening())
    await call.settle(ending(model_served="m", attempts=({"duration_ms": 2**70},)))
    [record] = await records()
    assert (record.cost_nanos, record.attempts, record.model_served) == (COST, [], "")


async def test_as_many_calls_as_there_are_slots_are_in_flight(organization, opening, settings):
    settings.JOURNAL_SLOTS = 2
    meter = metering.Meter()
    await meter.start()
    running = [await meter.open(opening(hold_nanos=1)) for _ in range(2)]
    with pytest.raises(metering.BillingUnavailable, match="in flight"):
        await meter.open(opening(hold_nanos=1))
    assert lease_of(meter, organization).held == 2
    await running[0].settle(factories.make_ending())
    await meter.open(opening(hold_nanos=1))
    await meter.stop()


# --- What an answer's end waits for ---------------------------------------------------------------
@pytest.mark.parametrize("mode", ["fsync", "write", "database"])
async def test_every_barrier_is_passed(organization, opening, settings, mode):
    settings.BILLING_BARRIER = mode
    meter = metering.Meter()
    await meter.start()
    calls_made = [await meter.open(opening(hold_nanos=1)) for _ in range(5)]
    await asyncio.gather(*(call.settle(ending()) for call in calls_made))
    page = meter.journal.page
    assert page.written > 0
    if mode != "write":
        assert (page.durable if mode == "fsync" else page.ingested) == page.written
    await meter.stop()
    assert len(await records()) == 5


async def test_a_sidecar_that_is_gone_is_not_waited_for(
    organization, opening, settings, monkeypatch
):
    settings.INGEST_IN_WEB = False
    settings.BILLING_BARRIER = "fsync"
    monkeypatch.setattr(barrier, "STALLED_SECONDS", 3600)
    meter = metering.Meter()
    await meter.start()
    held = directory.hold_as_sidecar(meter.journal.directory.parent)
    call = await meter.open(opening())
    durable = call.settle(ending())
    done, _ = await asyncio.wait([durable], timeout=20 * barrier.POLL_SECONDS)
    assert not done
    os.close(held)
    await asyncio.wait_for(durable, 20)
    assert meter.journal.page.durable == meter.journal.page.written
    await meter.stop()


async def test_a_sidecar_that_is_stuck_is_not_waited_for_long(organization, opening, settings):
    settings.INGEST_IN_WEB = False
    settings.BILLING_BARRIER = "fsync"
    meter = metering.Meter()
    await meter.start()
    held = directory.hold_as_sidecar(meter.journal.directory.parent)
    call = await meter.open(opening())
    await asyncio.wait_for(call.settle(ending()), 20)
    os.close(held)
    assert meter.journal.page.durable == meter.journal.page.written
    await meter.stop()


async def test_without_a_file_to_open_the_sidecar_looks_again(
    meter, organization, opening, monkeypatch
):
    call = await meter.open(opening())
    watch, failures = sidecar._Watched.sync_when_woken, []

    def fail_twice(self):
        if len(failures) < 2:
            failures.append(True)
            raise OSError(24, "Too many open files")
        return watch(self)

    monkeypatch.setattr(sidecar._Watched, "sync_when_woken", fail_twice)
    await call.settle(ending())

    async def looks_again():
        return len(failures) == 2

    await asyncio.wait_for(until(looks_again), 20)
    assert meter._sidecar._syncer.is_alive()
    assert await differences() == []


async def test_a_disk_that_refuses_to_sync_ends_the_process_and_promises_nothing(
    organization, opening, settings, monkeypatch
):
    settings.BILLING_BARRIER = "fsync"
    ended = asyncio.Event()
    meter = metering.Meter(on_failure=ended.set)
    await meter.start()
    call = await meter.open(opening())

    def broken(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.fdatasync", broken)
    with pytest.raises(metering.UnableToSettle):
        await asyncio.wait_for(call.settle(ending()), 20)
    await asyncio.wait_for(ended.wait(), 5)
    with pytest.raises(metering.BillingUnavailable):
        await meter.open(opening())
    monkeypatch.undo()
    await meter.stop()
    # What was written is not lost: only the promise could not be given.
    assert await posted(organization) == 1_000_000 - COST


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
