"""Metering: the seam between the gateway and money. Hold before a call, settle after it.

`Meter.open` reserves a call's worst case before anything is sent, `Call.progress` keeps the
running total, `Call.settle` records what was used, once, whatever ended the call. The gateway uses
nothing else of money.

Inside, for now: every hold and settlement goes to the database by group commit (billing/writer.py,
docs/adr/0006). A process that dies leaves holds, which expire. Must not know HTTP, dialects or
deployments: their ids are plain values here.
"""

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

from django.db.models import QuerySet

from billing import ledger, pricing
from billing.calls import Ending as Ending
from billing.calls import Opening as Opening
from billing.calls import Served as Served
from billing.calls import cost_nanos as cost_nanos
from billing.calls import new_call_id as new_call_id
from billing.ledger import UnableToHold as UnableToHold
from billing.models import Transfer, UsageRecord
from billing.writer import BillingUnavailable as BillingUnavailable
from billing.writer import HoldOperation, SettleOperation, Writer
from billing.writer import UnableToSettle as UnableToSettle

QUEUE_MAX = 10_000
OPEN_SECONDS_MAX = 5.0
STOP_SECONDS_MAX = 30.0
HOLD_LIFETIME = timedelta(minutes=20)


class Call:
    """One call between `Meter.open` and its settlement."""

    __slots__ = ("_committed", "_hold_id", "_meter", "_outer", "opening", "served", "usage")

    def __init__(self, meter: "Meter", opening: Opening, hold_id: int | None) -> None:
        """Made by `Meter.open`."""
        self.opening = opening
        self.usage = pricing.Usage()
        # Who serves it now, if not who it was opened for: charged so if the process must stop.
        self.served: Served | None = None
        self._meter = meter
        self._hold_id = hold_id
        self._committed: asyncio.Future[None] | None = None
        self._outer: asyncio.Future[None] | None = None

    def progress(self, usage: pricing.Usage) -> None:
        """The running total so far: replaces what was said before, never adds to it."""
        self.usage = usage

    def settle(self, ending: Ending) -> "asyncio.Future[None]":
        """Record how the call ended; the future is done when that is committed.

        Only the first ending counts; asking again gives the same future. Cancelling whoever awaits
        it cancels no settlement. The future raises UnableToSettle when the database refuses the
        record for ever, BillingUnavailable when the process had to stop without a database.
        """
        if self._committed is None:
            self._committed = self._meter._settle(self.opening, self._hold_id, ending)
        if self._outer is None or self._outer.cancelled():
            self._outer = asyncio.shield(self._committed)
        return self._outer


_current: "Meter | None" = None


def current() -> "Meter":
    """The running meter of this process. Raises BillingUnavailable before start and after stop."""
    if _current is None:
        raise BillingUnavailable("Metering is not running in this process.")
    return _current


class Meter:
    """Holds and settles calls; one per process and event loop."""

    def __init__(self) -> None:
        """Nothing runs before `start`."""
        self._writer: Writer | None = None
        self._calls: dict[UUID, Call] = {}

    async def start(self) -> None:
        """Start the writer and become the process's `current()` meter."""
        global _current
        self._loop = asyncio.get_running_loop()
        self._writer = Writer(on_unclaimed=self._release)
        self._writer.start()
        _current = self

    async def stop(self) -> None:
        """Settle calls still open with what they last reported, write what is queued, end."""
        global _current
        if _current is self:
            _current = None
        if self._writer is None:
            return
        for call in list(self._calls.values()):
            _ = call.settle(_interrupted(call))
        await self._writer.stop(STOP_SECONDS_MAX)
        self._writer = None

    async def open(self, opening: Opening) -> Call:
        """Reserve the call's worst case.

        Raises UnableToHold (not enough credit) or BillingUnavailable (the database does not
        answer, too much is queued, or the process is stopping). A hold that is granted after
        its caller went away is given back.
        """
        if _current is not self or self._writer is None:
            raise BillingUnavailable("Metering is not running in this process.")
        hold_id = None
        if opening.hold_nanos > 0:
            hold_id = await self._reserve(self._writer, opening)
        call = Call(self, opening, hold_id)
        self._calls[opening.call_id] = call
        return call

    async def _reserve(self, writer: Writer, opening: Opening) -> int:
        if writer.is_failing:
            raise BillingUnavailable("The database does not answer.")
        if writer.length >= QUEUE_MAX:
            raise BillingUnavailable("Too many calls wait for credit to be reserved.")
        operation = HoldOperation(_hold_for(opening), self._loop.create_future(), opening)
        writer.put(operation)
        try:
            async with asyncio.timeout(OPEN_SECONDS_MAX):
                return await operation.future
        except TimeoutError:
            self._give_back(operation)
            raise BillingUnavailable("The database does not answer.") from None
        except asyncio.CancelledError:
            self._give_back(operation)
            raise

    def _give_back(self, operation: HoldOperation) -> None:
        """The caller left in the moment the hold was granted. (If later, the writer notices.)"""
        future = operation.future
        if not future.cancelled() and future.exception() is None:
            self._release(operation, future.result())

    def _release(self, operation: HoldOperation, hold_id: int) -> None:
        _ = self._settle(operation.opening, hold_id, None)

    def _settle(
        self, opening: Opening, hold_id: int | None, ending: Ending | None
    ) -> "asyncio.Future[None]":
        """Queue the end of a call (without an ending: of its hold); however full the queue is."""
        self._calls.pop(opening.call_id, None)
        operation = SettleOperation(
            _settlement_for(opening, hold_id, ending), self._loop.create_future(), opening, ending
        )
        # Whoever never looks at a failure must not make the event loop complain: it is logged.
        operation.future.add_done_callback(_look_at_failure)
        if self._writer is None:
            raise BillingUnavailable("Metering is not running in this process.")
        self._writer.put(operation)
        return operation.future


def _look_at_failure(future: "asyncio.Future[None]") -> None:
    if not future.cancelled():
        future.exception()


def _hold_for(opening: Opening) -> ledger.Hold:
    return ledger.Hold(
        organization_id=opening.organization_id,
        amount_nanos=opening.hold_nanos,
        idempotency_key=f"hold:{opening.call_id.hex}",
        created_at=opening.started_at,
        expires_at=opening.started_at + HOLD_LIFETIME,
    )


def _settlement_for(
    opening: Opening, hold_id: int | None, ending: Ending | None
) -> ledger.Settlement:
    cost = 0 if ending is None else cost_nanos(opening, ending)
    duration_ms = 0 if ending is None else max(0, ending.duration_ms)
    return ledger.Settlement(
        organization_id=opening.organization_id,
        hold_id=hold_id,
        held_nanos=0 if hold_id is None else opening.hold_nanos,
        cost_nanos=cost,
        idempotency_key=f"settle:{opening.call_id.hex}",
        created_at=opening.started_at + timedelta(milliseconds=duration_ms),
        reason="caller left before the call" if ending is None else "",
    )


def _interrupted(call: Call) -> Ending:
    """The ending of a call that the process could not finish: what it last reported is charged."""
    used = call.usage.total > 0
    source = UsageRecord.Source.PROVIDER_PARTIAL if used else UsageRecord.Source.NONE
    elapsed = datetime.now(UTC) - call.opening.started_at
    return Ending(
        status=UsageRecord.Status.CRASHED,
        http_status=503,
        usage=call.usage,
        usage_source=source,
        error_code="service_unavailable",
        duration_ms=int(elapsed / timedelta(milliseconds=1)),
        served=call.served,
    )


# --- Holds that no call will settle -------------------------------------------------------------
def release_expired_holds(at: datetime, *, lookback: timedelta = timedelta(days=1)) -> int:
    """Void holds whose call left no settlement in time; how many.

    Looks only at holds that expired within `lookback`: holds are kept for ever, so that looking at
    all of them would cost more every day.
    """
    expired = ledger.open_holds_of_calls().filter(expires_at__lte=at, expires_at__gt=at - lookback)
    return _release_each(expired, reason="expired hold", at=at)


def release_all_holds(reason: str, *, at: datetime) -> int:
    """Void every open hold of a call; how many. Only when no other process can be serving calls."""
    return _release_each(ledger.open_holds_of_calls(), reason=reason, at=at)


def _release_each(holds: "QuerySet[Transfer]", *, reason: str, at: datetime) -> int:
    released = 0
    for hold in holds.iterator(chunk_size=500):
        try:
            ledger.release(hold, reason=reason, at=at)
        except ledger.AlreadySettled:
            continue  # its call came back in this very moment
        released += 1
    return released
