"""Metering: the seam between the gateway and money. Hold before a call, settle after it.

`Meter.open` sets the call's worst case aside, `Call.relay` and `Call.report` keep count before
anything is forwarded, `Call.settle` records what was used, once, whatever ended the call. The
gateway uses nothing else of money.

All of it is memory and files: credit comes from a lease of this process, the count goes to a slot,
the settlement to the journal (billing/journal, docs/adr/0005). The database is asked for more
credit in the background, and told of settlements by the ingester. Must not know HTTP, dialects or
deployments: their ids are plain values here.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from django.conf import settings

from billing import calls, leases
from billing.barrier import Barrier
from billing.barrier import UnableToSettle as UnableToSettle
from billing.calls import Ending as Ending
from billing.calls import Opening as Opening
from billing.calls import Served as Served
from billing.calls import cost_nanos as cost_nanos
from billing.calls import new_call_id as new_call_id
from billing.journal import records
from billing.journal.lease import Lease
from billing.journal.slots import NoFreeSlot
from billing.journal.writer import JournalWriter, NoRoom
from billing.ledger import UnableToHold as UnableToHold
from billing.models import UsageRecord
from billing.pricing import UnpricedBucket, Usage
from billing.purses import RECLAIM_AFTER, Purse, Wish
from billing.purses import BillingUnavailable as BillingUnavailable
from billing.sidecar import Sidecar
from billing.tally import Lag, Tally
from orgs import failpoints

log = structlog.get_logger(__name__)

STOP_SECONDS_MAX = 30.0
UNLIMITED = 2**62


class Call:
    """One call between `Meter.open` and its settlement."""

    __slots__ = (
        "_description",
        "_held",
        "_lease",
        "_meter",
        "_more_at",
        "_paid",
        "_relayed",
        "_reported",
        "_served",
        "_settled_at",
        "_slot",
        "opening",
    )

    def __init__(
        self, meter: "Meter", opening: Opening, lease: Lease | None, held: int, paid: int
    ) -> None:
        """Made by `Meter.open`. `paid`: pieces of output that what is held pays for."""
        self.opening = opening
        self._meter = meter
        self._lease = lease
        self._held = held
        self._paid = paid
        self._more_at = paid if paid == UNLIMITED else paid // 2
        self._relayed = 0
        self._reported: Usage | None = None
        self._served: Served | None = None
        self._settled_at: int | None = None
        self._description = records.encode_opening(opening)
        self._slot = meter.journal.slots.open(self._description)

    def serve(self, served: Served | None) -> None:
        """From now on another candidate serves the call (None: the one it was opened for)."""
        if served != self._served:
            self._served = served
            self._description = records.encode_opening(self.opening, served)
            self._meter.journal.slots.describe(self._slot, self._description)

    def relay(self, pieces: int) -> bool:
        """So many pieces of output have been relayed, the one about to go included.

        False when credit has run out: nothing more may be forwarded.
        """
        if pieces >= self._more_at and not self._extend(pieces):
            return False  # what is not forwarded is not charged
        self._relayed = pieces
        self._meter.journal.slots.relay(self._slot, pieces)
        failpoints.reach("web.after_chunk_counted")
        return True

    def _extend(self, pieces: int) -> bool:
        """A sliced stream is past half of what it holds: hold more. False when it is used up."""
        lease, opening = self._lease, self.opening
        assert lease is not None  # only what is held can be sliced  # noqa: S101
        if lease.hold(opening.slice_nanos):
            self._held += opening.slice_nanos
            self._paid += calls.OUTPUT_SLICE_TOKENS
            self._more_at += calls.OUTPUT_SLICE_TOKENS
            return True
        self._meter.purse.refill_soon(opening.organization_id, opening.slice_nanos)
        return pieces < self._paid

    def report(self, usage: Usage) -> None:
        """What the provider says was used so far: replaces what was said before."""
        if usage != self._reported:
            self._reported = usage
            self._meter.journal.slots.report(self._slot, usage)
            failpoints.reach("web.after_usage_reported")

    def usage(self, *, is_whole: bool) -> tuple[Usage, str]:
        """What has been used by now, and how that is known; see calls.usage_at_end."""
        return calls.usage_at_end(
            self._reported, pieces_relayed=self._relayed, opening=self.opening, is_whole=is_whole
        )

    def settle(self, ending: Ending) -> "asyncio.Future[None]":
        """Record how the call ended: done on return; the future says when it is durable.

        Only the first ending counts; asking again waits for the same. The future raises
        UnableToSettle when the disk refuses.
        """
        if self._settled_at is None:
            self._settled_at = self._meter._settle(self, ending)
        return self._meter._when_durable(self._settled_at)

    def interrupted(self, at: datetime) -> Ending:
        """The ending of a call that this process cannot finish."""
        usage, source = self.usage(is_whole=False)
        elapsed = at - self.opening.started_at
        return Ending(
            status=UsageRecord.Status.CRASHED.value,
            http_status=503,
            usage=usage,
            usage_source=source,
            error_code="service_unavailable",
            duration_ms=max(0, int(elapsed / timedelta(milliseconds=1))),
            served=self._served,
        )


@dataclass(frozen=True, slots=True)
class Vitals:
    """What monitoring asks of a serving process; bytes and seconds are of its own journal.

    `unbooked_seconds`: how long the oldest settlement has waited to be booked. `leased_nanos`: the
    credit it holds on lease that no call in flight has set aside.
    """

    calls_in_flight: int
    slots_free: int
    unbooked_bytes: int
    unbooked_seconds: float
    leased_nanos: int
    is_failed: bool


_current: "Meter | None" = None


def current() -> "Meter":
    """The running meter of this process. Raises BillingUnavailable before start and after stop."""
    if _current is None:
        raise BillingUnavailable("Metering is not running in this process.")
    return _current


class Meter:
    """Holds and settles calls; one per process and event loop."""

    journal: JournalWriter
    purse: Purse

    def __init__(self, on_failure: Callable[[], None] | None = None) -> None:
        """Nothing runs before `start`. `on_failure`: the disk has failed, the process must end."""
        self._on_failure = on_failure
        self._is_running = False
        self._calls: dict[UUID, Call] = {}
        self._sidecar: Sidecar | None = None
        self.tally = Tally()
        self._lag = Lag()

    def vitals(self) -> Vitals:
        """How this process's metering does now. Only while it runs."""
        page = self.journal.page
        written, booked = page.written, min(page.ingested, page.written)
        return Vitals(
            calls_in_flight=len(self._calls),
            slots_free=self.journal.slots.free_count,
            unbooked_bytes=written - booked,
            unbooked_seconds=self._lag.seconds(
                booked=booked, written=written, now=time.monotonic()
            ),
            leased_nanos=self.purse.free_nanos,
            is_failed=page.is_failed,
        )

    # --- Life -----------------------------------------------------------------------------------
    async def start(self) -> None:
        """Make this process's journal, and become its `current()` meter."""
        global _current
        host = socket.gethostname()[:60]
        self.journal = JournalWriter(
            settings.JOURNAL_DIR,
            f"{host}-{os.urandom(8).hex()}",
            segment_bytes=settings.JOURNAL_SEGMENT_BYTES,
            slot_count=settings.JOURNAL_SLOTS,
            free_bytes_min=settings.JOURNAL_FREE_BYTES_MIN,
        )
        self._barrier = Barrier(self.journal, settings.BILLING_BARRIER, on_failure=self._fail)
        self.purse = Purse(self.journal.name, host=host, on_lost=self._fail)
        if settings.INGEST_IN_WEB:
            self._sidecar = Sidecar(settings.JOURNAL_DIR, host=host)
            self._sidecar.start()
        self.purse.start()
        self._is_running = True
        _current = self

    async def stop(self) -> None:
        """Settle calls still open with what they last reported, and let go of the journal.

        Whoever ingests books what is in it and returns its leases: the kernel's lock tells.
        """
        global _current
        if _current is self:
            _current = None
        if not self._is_running:
            return
        self._is_running = False
        self.purse.stop()
        for call in list(self._calls.values()):
            _ = call.settle(call.interrupted(datetime.now(UTC)))
        await self._barrier.drain(STOP_SECONDS_MAX)
        self._barrier.close()
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self.purse.close()
        self.journal.close()
        if self._sidecar is not None:
            self._sidecar.stop(STOP_SECONDS_MAX)

    # --- Opening --------------------------------------------------------------------------------
    async def open(self, opening: Opening) -> Call:
        """Set the call's worst case aside; for a stream with too little credit, its beginning.

        Raises UnableToHold (not enough credit) or BillingUnavailable (the database does not
        answer and the lease is used up, the disk is full, too many calls, the process is stopping).
        """
        self._require_service()
        lease, held = None, 0
        if opening.hold_nanos > 0:
            lease, held = self.purse.lease(opening.organization_id), opening.hold_nanos
            if not lease.hold(held):
                held = await self.purse.hold(lease, _wish(opening))
                self._require_service_again(lease, held)
            elif lease.free < held:
                self.purse.refill_soon(opening.organization_id)
        failpoints.reach("web.after_hold")
        is_whole = held == opening.hold_nanos
        return self._opened(
            opening, lease, held, paid=UNLIMITED if is_whole else calls.OUTPUT_SLICE_TOKENS
        )

    def _opened(self, opening: Opening, lease: Lease | None, held: int, paid: int) -> Call:
        try:
            call = Call(self, opening, lease, held, paid)
        except BaseException as error:
            if lease is not None:
                lease.settle(held, 0)
            if isinstance(error, NoFreeSlot):
                raise BillingUnavailable("Too many calls are in flight.") from None
            raise
        self._calls[opening.call_id] = call
        failpoints.reach("web.after_open")
        return call

    def _require_service_again(self, lease: Lease, held: int) -> None:
        """Service may have ended while credit was asked for: then what was held is free again."""
        try:
            self._require_service()
        except BillingUnavailable:
            lease.settle(held, 0)
            raise

    def _require_service(self) -> None:
        if not self._is_running:
            raise BillingUnavailable("Metering is not running in this process.")
        if self.journal.page.is_failed:
            raise BillingUnavailable("The journal's disk has failed.")
        if not self.purse.is_current:
            raise BillingUnavailable("The database has been away for too long.")
        try:
            self.journal.require_room()
        except NoRoom as error:
            raise BillingUnavailable(f"The journal's disk is full: {error}") from None

    # --- Settling -------------------------------------------------------------------------------
    def _settle(self, call: Call, ending: Ending) -> int:
        """Write the settlement, free the slot, return what was held; the position after it."""
        self._calls.pop(call.opening.call_id, None)
        call.serve(ending.served)
        cost = _cost_nanos(call.opening, ending)
        try:
            position = self.journal.append(_payload(call._description, ending, cost))
        except Exception as error:
            # The slot stays open: the call is charged by its count when this process has ended.
            log.critical("settlement not written", opening=repr(call.opening), ending=repr(ending))
            self._fail(f"The journal cannot be written: {error}")
            return UNLIMITED
        self.journal.slots.free(call._slot)
        self.tally.add(call.opening, ending, cost)
        self._lag.wrote(position, time.monotonic())
        failpoints.reach("web.after_slot_freed")
        if call._lease is not None:
            call._lease.settle(call._held, cost)
        return position

    def _when_durable(self, position: int) -> "asyncio.Future[None]":
        """See Barrier.wait; fails at once for what could not be written."""
        if position != UNLIMITED:
            return self._barrier.wait(position)
        unwritten: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        unwritten.set_exception(UnableToSettle("The settlement could not be recorded."))
        return unwritten

    def _fail(self, reason: str) -> None:
        """This process can promise nothing any more: refuse calls, and ask to be ended."""
        log.critical("metering has failed", reason=reason)
        self.journal.page.fail()
        if self._on_failure is not None:
            on_failure, self._on_failure = self._on_failure, None
            on_failure()


def _wish(opening: Opening) -> Wish:
    """What the call needs: its worst case; a stream can begin with its input and one slice."""
    least = opening.hold_nanos
    if opening.slice_nanos:
        # A short stream's worst case is less than a slice: then that is all it needs.
        least = min(least, opening.input_nanos + opening.slice_nanos)
    return Wish(opening.organization_id, opening.hold_nanos, least)


def _cost_nanos(opening: Opening, ending: Ending) -> int:
    """What the call costs; nothing if its price has no rate for what it used.

    The ingester computes it again, and keeps such a record aside for people to look at.
    """
    try:
        return calls.cost_nanos(opening, ending)
    except UnpricedBucket as error:
        log.error("a price lacks a rate", bucket=str(error), price=opening.price.version_id)
        return 0


def _payload(description: bytes, ending: Ending, cost_nanos: int) -> bytes:
    """The settlement's record; if anything from outside cannot be encoded, without that."""
    try:
        return records.encode_settlement(description, ending, cost_nanos)
    except Exception:
        log.exception("an ending cannot be encoded whole")
        return records.encode_settlement(description, records.bare(ending), cost_nanos)


def reclaim_leases(at: datetime) -> list[str]:
    """Take back the credit of hosts that have been silent for too long; their journals' names."""
    return leases.reclaim(at, silent_for=RECLAIM_AFTER)
