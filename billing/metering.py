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
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import structlog
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone

from billing import calls, failpoints, leases
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
from billing.recall import RecallListener
from billing.sidecar import BOOK_NOW, Sidecar

log = structlog.get_logger(__name__)

OPEN_SECONDS_MAX = 5.0
STOP_SECONDS_MAX = 30.0
WAITING_MAX = 2_000
# When too little credit is free: ask again this often, while other processes give back theirs.
RECALL_PAUSES_SECONDS = (0.05, 0.1, 0.1)
POLL_SECONDS = 0.001
# A sidecar that makes nothing durable for so long is taken for dead: sync here.
STALLED_SECONDS = 0.25
WARN_SECONDS = 60.0
IDLE_SECONDS = 5.0
UPKEEP_SECONDS = 1.0
RENEW_SECONDS = 10.0
# Without word from the database for so long, leases are no longer used; and only well after that,
# and after the longest call, are they taken back from a host that has vanished.
LEASE_SECONDS_MAX = 1800.0
RECLAIM_AFTER = timedelta(seconds=2 * LEASE_SECONDS_MAX)
UNLIMITED = 2**62
Answer = TypeVar("Answer")


class BillingUnavailable(Exception):
    """Credit can be neither checked nor reserved just now; the call must not be sent."""


class UnableToSettle(Exception):
    """The settlement could not be written; its figures are in the log."""


class Call:
    """One call between `Meter.open` and its settlement."""

    __slots__ = (
        "_description",
        "_ends_at",
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
        self._relayed = pieces
        self._meter.journal.slots.relay(self._slot, pieces)
        failpoints.reach("web.after_chunk_counted")
        return pieces < self._more_at or self._meter.extend(self, pieces)

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
        return self._meter.when_durable(self._settled_at)

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


_current: "Meter | None" = None


def current() -> "Meter":
    """The running meter of this process. Raises BillingUnavailable before start and after stop."""
    if _current is None:
        raise BillingUnavailable("Metering is not running in this process.")
    return _current


class Meter:
    """Holds and settles calls; one per process and event loop."""

    journal: JournalWriter

    def __init__(self, on_failure: Callable[[], None] | None = None) -> None:
        """Nothing runs before `start`. `on_failure`: the disk has failed, the process must end."""
        self._on_failure = on_failure
        self._is_running = False
        self._leases: dict[int, Lease] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._shortages: dict[int, tuple[float, leases.Granted]] = {}
        self._waiting = 0
        self._refilling: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._calls: dict[UUID, Call] = {}
        self._is_polling = False
        self._is_syncing = False
        self._warned_at = -WARN_SECONDS

    # --- Life -----------------------------------------------------------------------------------
    async def start(self) -> None:
        """Make this process's journal, and become its `current()` meter."""
        global _current
        self._loop = asyncio.get_running_loop()
        self._barrier = settings.BILLING_BARRIER
        self._host = socket.gethostname()[:60]
        self.journal = JournalWriter(
            settings.JOURNAL_DIR,
            f"{self._host}-{os.urandom(8).hex()}",
            segment_bytes=settings.JOURNAL_SEGMENT_BYTES,
            slot_count=settings.JOURNAL_SLOTS,
        )
        self._database = ThreadPoolExecutor(1, thread_name_prefix="billing-leases")
        self._is_registered = False
        self._renewed_at = time.monotonic()
        self._moved_at = 0.0
        self._sidecar: Sidecar | None = None
        if settings.INGEST_IN_WEB:
            self._sidecar = Sidecar(settings.JOURNAL_DIR, host=self._host)
            self._sidecar.start()
        self._recalls = RecallListener(self._give_back_recalled)
        self._recalls.start()
        self._is_running = True
        self._upkeep = asyncio.ensure_future(self._keep_up())
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
        self._upkeep.cancel()
        self._recalls.stop()
        for call in list(self._calls.values()):
            _ = call.settle(call.interrupted(datetime.now(UTC)))
        await self._drain()
        await asyncio.to_thread(self._close)

    async def _drain(self) -> None:
        """Wait until everything settled is durable, within reason."""
        futures = [future for _, future in self._waiters]
        if futures:
            await asyncio.wait(futures, timeout=STOP_SECONDS_MAX)

    def _close(self) -> None:
        # In its own thread: a connection belongs to the thread that made it.
        closed = self._database.submit(lambda: connection.close())
        with suppress(TimeoutError):
            closed.result(timeout=OPEN_SECONDS_MAX)
        self._database.shutdown(wait=False)
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
        lease, held, paid = None, 0, UNLIMITED
        if opening.hold_nanos > 0:
            lease = self._leases.setdefault(opening.organization_id, Lease())
            lease.used_at = self._loop.time()
            held, paid = opening.hold_nanos, UNLIMITED
            if not lease.hold(held):
                held, paid = await self._hold_slowly(lease, opening)
                self._require_service_again(lease, held)
            elif lease.free < held:
                self._refill_soon(opening.organization_id)
        failpoints.reach("web.after_hold")
        return self._opened(opening, lease, held, paid)

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
        if time.monotonic() - self._renewed_at > LEASE_SECONDS_MAX:
            raise BillingUnavailable("The database has been away for too long.")
        try:
            self.journal.require_room()
        except NoRoom as error:
            raise BillingUnavailable(f"The journal's disk is full: {error}") from None

    async def _hold_slowly(self, lease: Lease, opening: Opening) -> tuple[int, int]:
        """The lease has too little: ask the database, then other processes; (held, pieces paid)."""
        if self._waiting >= WAITING_MAX:
            raise BillingUnavailable("Too many calls wait for credit to be reserved.")
        self._waiting += 1
        try:
            async with asyncio.timeout(OPEN_SECONDS_MAX):
                return await self._hold_in_turn(lease, opening)
        except TimeoutError:
            raise BillingUnavailable("The database does not answer.") from None
        finally:
            self._waiting -= 1

    async def _hold_in_turn(self, lease: Lease, opening: Opening) -> tuple[int, int]:
        worst, organization_id = opening.hold_nanos, opening.organization_id
        # A short stream's worst case is less than a slice: then that is all it needs.
        sliced = opening.input_nanos + opening.slice_nanos if opening.slice_nanos else worst
        first = min(worst, sliced)
        lock = self._locks.setdefault(organization_id, asyncio.Lock())
        for pause in (0.0, *RECALL_PAUSES_SECONDS):
            if pause:
                await asyncio.sleep(pause)
            since = self._loop.time()
            async with lock:
                granted = None
                if lease.free < worst:
                    granted = self._shortage(organization_id, since=since)
                    granted = granted or await self._grant(
                        organization_id, worst - max(0, lease.free)
                    )
                if lease.hold(worst):
                    return worst, UNLIMITED
                if first < worst and lease.hold(first):
                    return first, calls.OUTPUT_SLICE_TOKENS
                assert granted is not None  # else there was enough  # noqa: S101
                # What this process has spent may not be booked yet.
                left = granted.posted_nanos - (lease.spent - granted.used_nanos)
                if left < first:
                    break  # gone, not held by somebody else: waiting brings nothing
        free = max(0, lease.free)
        raise UnableToHold(available_nanos=free, held_nanos=max(0, left - free), needed_nanos=first)

    def extend(self, call: Call, pieces: int) -> bool:
        """A sliced stream is past half of what it holds: hold more. False when it is used up."""
        lease, opening = call._lease, call.opening
        assert lease is not None  # only what is held can be sliced  # noqa: S101
        lease.used_at = self._loop.time()
        if lease.hold(opening.slice_nanos):
            call._held += opening.slice_nanos
            call._paid += calls.OUTPUT_SLICE_TOKENS
            call._more_at += calls.OUTPUT_SLICE_TOKENS
            return True
        self._refill_soon(opening.organization_id, needed=opening.slice_nanos)
        return pieces < call._paid

    # --- Leases ---------------------------------------------------------------------------------
    async def _grant(self, organization_id: int, needed: int) -> leases.Granted:
        """Ask the database for more of an organization's credit. Raises BillingUnavailable."""

        def ask() -> leases.Granted:
            self._register()
            return leases.grant(self.journal.name, organization_id, needed_nanos=needed)

        asked_at = self._loop.time()
        granted = await self._ask(ask)
        self._leases[organization_id].confirm(granted.granted_nanos)
        if granted.available_nanos == 0:
            self._shortages[organization_id] = asked_at, granted
        return granted

    def _shortage(self, organization_id: int, *, since: float) -> leases.Granted | None:
        """What the database has said since then, if it gave all it had: asking again is no use.

        Without this, hundreds of calls that wait for the same credit would ask one after another,
        and run out of time.
        """
        asked_at, granted = self._shortages.get(organization_id, (0.0, None))
        return granted if asked_at >= since else None

    def _refill_soon(self, organization_id: int, needed: int = 0) -> None:
        """More credit in the background, once at a time; failure is met when credit is needed."""
        if organization_id in self._refilling:
            return
        self._refilling.add(organization_id)

        async def refill() -> None:
            try:
                async with self._locks.setdefault(organization_id, asyncio.Lock()):
                    await self._grant(organization_id, needed)
            except BillingUnavailable:
                pass
            finally:
                self._refilling.discard(organization_id)

        self._spawn(refill())

    def _give_back_recalled(self, organization_id: int) -> None:
        """Another process needs credit: return what no call here holds."""
        lease = self._leases.get(organization_id)
        lock = self._locks.get(organization_id)
        # Whoever is waiting for credit here asked, or competes: nothing is idle.
        if lease is not None and lease.free > 0 and not (lock and lock.locked()):
            self._spawn(self._give_back(organization_id, lease))

    async def _give_back(self, organization_id: int, lease: Lease) -> None:
        returned = lease.give_back()
        # If it cannot be told now: the next return names the total, this amount included.
        with suppress(BillingUnavailable):
            await self._ask(
                lambda: leases.give_back(
                    self.journal.name, organization_id, returned_nanos=returned
                )
            )

    def _register(self) -> None:
        if not self._is_registered:
            leases.register(self.journal.name, host=self._host, at=timezone.now())
            self._is_registered = True

    async def _ask(self, question: Callable[[], Answer]) -> Answer:
        """Run a question to the database in its thread. Raises BillingUnavailable."""

        def run() -> Answer:
            try:
                return question()
            except DatabaseError:
                connection.close()
                raise

        try:
            answer = await self._loop.run_in_executor(self._database, run)
        except (DatabaseError, RuntimeError) as error:
            log.warning("credit cannot be asked for", error=str(error))
            raise BillingUnavailable("The database does not answer.") from error
        except leases.LeaseLost:
            self._fail("The leases of this process were taken back.")
            raise BillingUnavailable("This process must start again.") from None
        self._renewed_at = time.monotonic()
        return answer

    async def _keep_up(self) -> None:
        """Renew the leases, and return what has been idle."""
        renewed_at = 0.0
        while True:
            await asyncio.sleep(UPKEEP_SECONDS)
            now = self._loop.time()
            if self._is_registered and now - renewed_at > RENEW_SECONDS:
                renewed_at = now
                with suppress(BillingUnavailable):
                    await self._ask(lambda: leases.renew(self.journal.name, at=timezone.now()))
            for organization_id, lease in list(self._leases.items()):
                if lease.free > 0 and not lease.held and now - lease.used_at > IDLE_SECONDS:
                    await self._give_back(organization_id, lease)

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
        failpoints.reach("web.after_slot_freed")
        if call._lease is not None:
            call._lease.settle(call._held, cost)
            call._lease.used_at = self._loop.time()
        return position

    def when_durable(self, position: int) -> "asyncio.Future[None]":
        """A future that is done when the log is durable (or booked) up to `position`."""
        future: asyncio.Future[None] = self._loop.create_future()
        if position == UNLIMITED:
            future.set_exception(UnableToSettle("The settlement could not be recorded."))
        elif self._reached() >= position:
            future.set_result(None)
        else:
            self._waiters.append((position, future))
            self._poll_soon()
        return future

    def _reached(self) -> int:
        """Up to which position the barrier is passed."""
        page = self.journal.page
        if self._barrier == "write":
            return page.written
        return page.ingested if self._barrier == "database" else page.durable

    def _poll_soon(self) -> None:
        if self._is_polling:
            return
        self._is_polling = True
        self._moved_at = self._loop.time()
        self._wake()
        self._loop.call_later(POLL_SECONDS, self._poll)

    def _wake(self) -> None:
        self.journal.wake(BOOK_NOW if self._barrier == "database" else b"\x01")

    def _poll(self) -> None:
        """Release whose settlement is durable by now; again in a millisecond if any is left."""
        reached, now = self._reached(), self._loop.time()
        if self.journal.page.is_failed:
            self._fail("The journal cannot be made durable.")
            reached = -1
        waiters = self._waiters
        while waiters and (reached < 0 or waiters[0][0] <= reached):
            self._moved_at = now
            _, future = waiters.popleft()
            if not future.done():
                _answer(future, is_durable=reached >= 0)
        if not waiters:
            self._is_polling = False
            return
        self._wake()
        if now - self._moved_at > STALLED_SECONDS and self._barrier == "fsync":
            self._sync_here()
        self._loop.call_later(POLL_SECONDS, self._poll)

    def _sync_here(self) -> None:
        """Nobody makes the log durable: do it, in a thread."""
        if self._is_syncing:
            return
        self._is_syncing = True
        if self._loop.time() - self._warned_at > WARN_SECONDS:
            self._warned_at = self._loop.time()
            log.warning("nobody makes journals durable; is `manage.py ingest_usage` running?")

        async def sync() -> None:
            try:
                await asyncio.to_thread(self.journal.sync)
            except OSError as error:
                self._fail(f"The journal cannot be made durable: {error}")
            finally:
                self._is_syncing = False

        self._spawn(sync())

    def _fail(self, reason: str) -> None:
        """This process can promise nothing any more: refuse calls, and ask to be ended."""
        log.critical("metering has failed", reason=reason)
        self.journal.page.fail()
        if self._on_failure is not None:
            on_failure, self._on_failure = self._on_failure, None
            on_failure()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


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


def _answer(future: "asyncio.Future[None]", *, is_durable: bool) -> None:
    if is_durable:
        future.set_result(None)
    else:
        future.set_exception(UnableToSettle("The settlement could not be made durable."))
        future.exception()  # whoever never looks must not make the loop complain: it is logged


def reclaim_leases(at: datetime) -> list[str]:
    """Take back the credit of hosts that have been silent for too long; their journals' names."""
    return leases.reclaim(at, silent_for=RECLAIM_AFTER)
