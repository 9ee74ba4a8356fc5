"""The purse: credit that this process holds on lease, and how it gets more and gives it back.

Memory answers nearly every call; the database is asked in a thread of its own, once at a time for
each organization, however many calls wait. Must not know calls: it holds amounts.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone

from billing import leases
from billing.journal.lease import Lease
from billing.ledger import UnableToHold
from billing.recall import RecallListener

log = structlog.get_logger(__name__)

HOLD_SECONDS_MAX = 5.0
WAITING_MAX = 2_000
# When too little credit is free: ask again this often, while other processes give back theirs.
RECALL_PAUSES_SECONDS = (0.05, 0.1, 0.1)
IDLE_SECONDS = 5.0
UPKEEP_SECONDS = 1.0
RENEW_SECONDS = 10.0
# Without word from the database for so long, leases are no longer used; and only well after that,
# and after the longest call, are they taken back from a host that has vanished.
LEASE_SECONDS_MAX = 1800.0
RECLAIM_AFTER = timedelta(seconds=2 * LEASE_SECONDS_MAX)
Answer = TypeVar("Answer")


class BillingUnavailable(Exception):
    """Credit can be neither checked nor reserved just now; the call must not be sent."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody wants held: `worst_nanos`, or, if that is not to be had, `least_nanos`."""

    organization_id: int
    worst_nanos: int
    least_nanos: int


class Purse:
    """The leases of one process, by organization; used in the event loop's thread."""

    def __init__(self, journal: str, *, host: str, on_lost: Callable[[str], None]) -> None:
        """`on_lost(reason)`: the leases were taken back, nothing may be spent any more."""
        self._loop = asyncio.get_running_loop()
        self._journal = journal
        self._host = host
        self._on_lost = on_lost
        self._leases: dict[int, Lease] = {}
        self._locks: dict[int, asyncio.Lock] = {}
        self._shortages: dict[int, tuple[float, leases.Granted]] = {}
        self._waiting = 0
        self._refilling: set[int] = set()
        self._asking: dict[int, asyncio.Task[leases.Granted]] = {}
        # Whose grants may have been made although no answer came.
        self._unanswered: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._database = ThreadPoolExecutor(1, thread_name_prefix="billing-leases")
        self._is_registered = False
        self._renewed_at = time.monotonic()
        self._recalls = RecallListener(self._give_back_recalled)
        self._upkeep: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to renew, to give back what is idle and to hear recalls."""
        self._recalls.start()
        self._upkeep = asyncio.ensure_future(self._keep_up())

    def stop(self) -> None:
        """Ask nothing any more. Leases stay: whoever books the journal returns them."""
        self._recalls.stop()
        if self._upkeep is not None:
            self._upkeep.cancel()

    def close(self) -> None:
        """Close the connection, in its own thread: it belongs to the thread that made it."""
        closed = self._database.submit(lambda: connection.close())
        with suppress(TimeoutError):
            closed.result(timeout=HOLD_SECONDS_MAX)
        self._database.shutdown(wait=False)

    @property
    def is_current(self) -> bool:
        """Whether the database has been heard of lately enough to spend what it granted."""
        return time.monotonic() - self._renewed_at <= LEASE_SECONDS_MAX

    @property
    def free_nanos(self) -> int:
        """Credit on lease that nothing is set aside of, over all organizations."""
        return sum(max(lease.free, 0) for lease in self._leases.values())

    def lease(self, organization_id: int) -> Lease:
        """The organization's lease, empty at first; it counts as used now."""
        lease = self._leases.get(organization_id)
        if lease is None:
            lease = self._leases[organization_id] = Lease()
        lease.used_at = self._loop.time()
        return lease

    # --- Holding --------------------------------------------------------------------------------
    async def hold(self, lease: Lease, wish: Wish) -> int:
        """Hold what is wished for, when the lease has too little: ask the database, then others.

        The amount held: the worst, else the least. Raises UnableToHold, BillingUnavailable.
        """
        if self._waiting >= WAITING_MAX:
            raise BillingUnavailable("Too many calls wait for credit to be reserved.")
        self._waiting += 1
        try:
            async with asyncio.timeout(HOLD_SECONDS_MAX):
                return await self._hold_in_turn(lease, wish)
        except TimeoutError:
            raise BillingUnavailable("The database does not answer.") from None
        finally:
            self._waiting -= 1

    async def _hold_in_turn(self, lease: Lease, wish: Wish) -> int:
        left = 0
        lock = self._lock(wish.organization_id)
        for pause in (0.0, *RECALL_PAUSES_SECONDS):
            if pause:
                await asyncio.sleep(pause)
            since = self._loop.time()
            async with lock:
                granted = None
                if lease.free < wish.worst_nanos:
                    granted = await self._grant_once(lease, wish, since=since)
                for nanos in (wish.worst_nanos, wish.least_nanos):
                    if lease.hold(nanos):
                        return nanos
                assert granted is not None  # else there was enough  # noqa: S101
                # What this process has spent may not be booked yet.
                left = granted.posted_nanos - (lease.spent - granted.booked_nanos)
                if left < wish.least_nanos:
                    break  # gone, not held by somebody else: waiting brings nothing
        free = max(0, lease.free)
        raise UnableToHold(
            available_nanos=free,
            held_nanos=max(0, left - free),
            needed_nanos=wish.least_nanos,
        )

    async def _grant_once(self, lease: Lease, wish: Wish, *, since: float) -> leases.Granted:
        """More credit, or what the database has said since then if it gave all it had.

        Without this, hundreds of calls that wait for the same credit would ask one after another,
        and run out of time.
        """
        asked_at, granted = self._shortages.get(wish.organization_id, (0.0, None))
        if granted is not None and asked_at >= since:
            return granted
        return await self._grant(wish.organization_id, wish.worst_nanos - max(0, lease.free))

    def refill_soon(self, organization_id: int, needed_nanos: int = 0) -> None:
        """More credit in the background, once at a time; failure is met when credit is needed."""
        if organization_id not in self._refilling:
            self._refilling.add(organization_id)
            self._spawn(self._refill(organization_id, needed_nanos))

    async def _refill(self, organization_id: int, needed_nanos: int) -> None:
        try:
            async with self._lock(organization_id):
                await self._grant(organization_id, needed_nanos)
        except BillingUnavailable:
            pass
        finally:
            self._refilling.discard(organization_id)

    async def _grant(self, organization_id: int, needed_nanos: int) -> leases.Granted:
        """Ask the database for more of an organization's credit. Raises BillingUnavailable.

        Whoever waits may give up: what is granted counts all the same, and who comes next waits
        for the same answer.
        """
        asking = self._asking.get(organization_id)
        if asking is None:
            asking = self._loop.create_task(self._ask_for(organization_id, needed_nanos))
            self._asking[organization_id] = asking
            asking.add_done_callback(lambda done: self._answered(organization_id, done))
        return await asyncio.shield(asking)

    def _answered(self, organization_id: int, asked: "asyncio.Task[leases.Granted]") -> None:
        del self._asking[organization_id]
        # The transaction may have been committed before the connection was lost.
        if asked.cancelled() or asked.exception() is not None:
            self._unanswered.add(organization_id)

    async def _ask_for(self, organization_id: int, needed_nanos: int) -> leases.Granted:
        def ask() -> leases.Granted:
            if not self._is_registered:
                leases.register(self._journal, host=self._host, at=timezone.now())
                self._is_registered = True
            return leases.grant(self._journal, organization_id, needed_nanos=needed_nanos)

        asked_at = self._loop.time()
        granted = await self._ask(ask)
        self._leases[organization_id].confirm(granted.granted_nanos, granted.beyond_nanos)
        self._unanswered.discard(organization_id)
        if granted.available_nanos == 0:
            self._shortages[organization_id] = asked_at, granted
        return granted

    # --- Giving back ----------------------------------------------------------------------------
    def _give_back_recalled(self, organization_id: int) -> None:
        """Another process needs credit: return what no call here holds."""
        lease = self._leases.get(organization_id)
        # Whoever is waiting for credit here asked, or competes: nothing is idle.
        if lease is not None and lease.free > 0 and not self._lock(organization_id).locked():
            self._spawn(self._give_back(organization_id, lease))

    async def _give_back(self, organization_id: int, lease: Lease) -> None:
        returned = lease.give_back()
        # If it cannot be told now: the next return names the total, this amount included.
        with suppress(BillingUnavailable):
            await self._ask(
                lambda: leases.give_back(self._journal, organization_id, returned_nanos=returned)
            )

    async def _keep_up(self) -> None:
        """Renew the leases, and return what has been idle."""
        renewed_at = 0.0
        while True:
            await asyncio.sleep(UPKEEP_SECONDS)
            now = self._loop.time()
            if self._is_registered and now - renewed_at > RENEW_SECONDS:
                renewed_at = now
                with suppress(BillingUnavailable):
                    await self._ask(lambda: leases.renew(self._journal, at=timezone.now()))
            for organization_id in self._unanswered - self._asking.keys():
                await self._look(organization_id)
            for organization_id, lease in list(self._leases.items()):
                if lease.free > 0 and not lease.held and now - lease.used_at > IDLE_SECONDS:
                    await self._give_back(organization_id, lease)

    async def _look(self, organization_id: int) -> None:
        """Learn what a grant whose answer was lost has granted, so that it can be returned."""
        with suppress(BillingUnavailable):
            lease = await self._ask(lambda: leases.look(self._journal, organization_id))
            self._unanswered.discard(organization_id)
            if lease is not None:
                self._leases[organization_id].confirm(lease.granted_nanos, lease.beyond_nanos)

    # --- Asking ---------------------------------------------------------------------------------
    async def _ask(self, question: Callable[[], Answer]) -> Answer:
        """Run a question to the database in its thread. Raises BillingUnavailable."""
        try:
            answer = await self._loop.run_in_executor(self._database, _closing_on_error, question)
        except (DatabaseError, RuntimeError) as error:
            log.warning("credit cannot be asked for", error=str(error))
            raise BillingUnavailable("The database does not answer.") from error
        except leases.LeaseLost:
            self._on_lost("The leases of this process were taken back.")
            raise BillingUnavailable("This process must start again.") from None
        self._renewed_at = time.monotonic()
        return answer

    def _lock(self, organization_id: int) -> asyncio.Lock:
        return self._locks.setdefault(organization_id, asyncio.Lock())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _closing_on_error(question: Callable[[], Answer]) -> Answer:
    """The answer; after an error of the database the next question gets a new connection."""
    try:
        return question()
    except DatabaseError:
        connection.close()
        raise
