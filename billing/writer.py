"""The writer: one thread that commits queued holds and settlements, many in one transaction.

It takes whatever is queued, commits it, answers, and repeats: while one batch commits, the next
gathers, so a transaction's cost is shared by as many calls as are in flight. A settlement is tried
until the database takes it; a row that can never be written is refused alone, with its figures in
the log. Knows asyncio only to answer: one wake-up of the event loop per batch.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
from django.db import DataError, IntegrityError, connection
from django.db import Error as DatabaseRefusal

from billing import calls, ledger, rows

log = structlog.get_logger(__name__)

# A usage record has 38 columns and SQLite takes 32,766 parameters in one statement.
BATCH_MAX = 500
RETRY_SECONDS_MIN = 0.05
RETRY_SECONDS_MAX = 5.0


class BillingUnavailable(Exception):
    """Credit can be neither checked nor reserved just now; the call must not be sent."""


class UnableToSettle(Exception):
    """The database refuses this settlement for ever; its figures are in the log."""


@dataclass(slots=True, eq=False)
class HoldOperation:
    """A hold on its way to the database; the future is answered with the hold's id."""

    intention: ledger.Hold
    future: "asyncio.Future[int]"
    opening: calls.Opening
    outcome: int | BaseException | None = None


@dataclass(slots=True, eq=False)
class SettleOperation:
    """A settlement on its way; with an ending, the call's usage record goes with it."""

    intention: ledger.Settlement
    future: "asyncio.Future[None]"
    opening: calls.Opening
    ending: calls.Ending | None
    outcome: BaseException | None = None


Operation = HoldOperation | SettleOperation


class Writer:
    """Owns the thread and its queue. Its methods are called in the event loop's thread."""

    def __init__(self, on_unclaimed: Callable[[HoldOperation, int], None]) -> None:
        """`on_unclaimed(operation, hold_id)`: a hold was granted that nobody waits for any more."""
        self._loop = asyncio.get_running_loop()
        self._on_unclaimed = on_unclaimed
        self._queue: queue.SimpleQueue[Operation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="billing-writer", daemon=True)
        self._is_ended = False
        self._gives_up = threading.Event()
        self._failures = 0

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    @property
    def is_failing(self) -> bool:
        """Whether the database has refused twice in a row: a new hold would only wait in vain."""
        return self._failures >= 2

    @property
    def length(self) -> int:
        """How many operations wait, about."""
        return self._queue.qsize()

    def put(self, operation: Operation) -> None:
        """Queue an operation; its future is answered once it is committed or refused."""
        if self._is_ended:
            self._refuse(operation, BillingUnavailable("Metering has stopped."))
            self._answer([operation])
            return
        self._queue.put(operation)

    async def stop(self, seconds_max: float) -> None:
        """Write everything queued, then end; what cannot be written in time is logged."""
        self._queue.put(None)
        deadline = self._loop.call_later(seconds_max, self._gives_up.set)
        try:
            await asyncio.to_thread(self._thread.join)
        finally:
            deadline.cancel()
        self._is_ended = True
        # The last batch is answered by a callback of this loop; what came too late, here.
        await asyncio.sleep(0)
        while not self._queue.empty():
            if (late := self._queue.get_nowait()) is not None:
                self.put(late)

    # --- In the event loop: answers ------------------------------------------------------------
    def _answer(self, batch: list[Operation]) -> None:
        for operation in batch:
            if isinstance(operation, HoldOperation):
                self._answer_hold(operation)
            elif not operation.future.done():
                if operation.outcome is None:
                    operation.future.set_result(None)
                else:
                    operation.future.set_exception(operation.outcome)

    def _answer_hold(self, operation: HoldOperation) -> None:
        outcome, future = operation.outcome, operation.future
        if future.cancelled():
            if isinstance(outcome, int):
                self._on_unclaimed(operation, outcome)
        elif isinstance(outcome, int):
            future.set_result(outcome)
        elif outcome is not None:
            future.set_exception(outcome)

    # --- In the writer's thread -----------------------------------------------------------------
    def _run(self) -> None:
        try:
            while batch := self._take():
                self._commit(batch, is_retry=False)
                self._loop.call_soon_threadsafe(self._answer, batch)
        finally:
            connection.close()

    def _take(self) -> list[Operation]:
        """The next batch, waiting for its first operation; empty when it is time to end."""
        batch: list[Operation] = []
        while len(batch) < BATCH_MAX:
            try:
                operation = self._queue.get(block=not batch)
            except queue.Empty:
                break
            if operation is None:
                if batch:
                    self._queue.put(None)
                break
            # Nothing of a hold is written yet, so one that nobody waits for needs no undoing.
            if not (isinstance(operation, HoldOperation) and operation.future.cancelled()):
                batch.append(operation)
        return batch

    def _commit(self, batch: list[Operation], *, is_retry: bool) -> None:
        """Write the batch, whatever it takes; on return every operation has its outcome."""
        pause = RETRY_SECONDS_MIN
        while True:
            try:
                self._write(batch, is_retry=is_retry)
                self._failures = 0
                return
            except Exception as error:
                if not _is_passing(error):
                    self._commit_singly(batch, error, is_retry=is_retry)
                    return
                # After a lost connection the commit may have happened: look before writing again.
                is_retry = True
                self._failures += 1
                log.warning("billing_write_failed", error=str(error), operations=len(batch))
                connection.close()
            if self._gives_up.wait(pause):
                for operation in batch:
                    self._refuse(operation, BillingUnavailable("The database does not answer."))
                return
            pause = min(pause * 2, RETRY_SECONDS_MAX)

    def _commit_singly(self, batch: list[Operation], error: Exception, *, is_retry: bool) -> None:
        """One of the batch cannot be written: find it without holding up the others."""
        if len(batch) > 1 or not is_retry:
            for operation in batch:
                self._commit([operation], is_retry=True)
            return
        operation = batch[0]
        if isinstance(operation, SettleOperation) and isinstance(error, ledger.AlreadySettled):
            if operation.ending is None:
                return  # wanted released, and is
            # The hold expired while the call ran. The cost is still owed: as overage.
            operation.intention = replace(operation.intention, hold_id=None, held_nanos=0)
            self._commit(batch, is_retry=True)
            return
        self._refuse(operation, error)

    def _write(self, batch: list[Operation], *, is_retry: bool) -> None:
        """Commit the batch in one transaction: transfers, counters and usage records."""
        holds = [item for item in batch if isinstance(item, HoldOperation)]
        settlements = [item for item in batch if isinstance(item, SettleOperation)]
        outcome = ledger.commit_batch(
            settlements=[item.intention for item in settlements],
            holds=[item.intention for item in holds],
            is_retry=is_retry,
            also=lambda outcome: _record(settlements, outcome),
        )
        for item, held in zip(holds, outcome.held, strict=True):
            item.outcome = held

    def _refuse(self, operation: Operation, error: Exception) -> None:
        """This one cannot be written: say so to its caller, and keep its figures in the log."""
        if isinstance(operation, HoldOperation):
            operation.outcome = BillingUnavailable("The hold could not be recorded.")
            log.error("hold_refused", error=str(error), key=operation.intention.idempotency_key)
            return
        operation.outcome = UnableToSettle("The settlement could not be recorded.")
        log.error(
            "settlement_refused",
            error=str(error),
            opening=repr(operation.opening),
            ending=repr(operation.ending),
            cost_nanos=operation.intention.cost_nanos,
        )


def _record(settlements: list[SettleOperation], outcome: ledger.BatchOutcome) -> None:
    """Write the usage records of calls that ended, each with the transfer that charged it."""
    records = [
        calls.usage_row(
            item.opening,
            item.ending,
            cost_nanos=item.intention.cost_nanos,
            transfer_id=transfer_id,
        )
        for item, transfer_id in zip(settlements, outcome.settled, strict=True)
        if item.ending is not None
    ]
    if records:
        rows.insert(
            "billing_usagerecord",
            calls.USAGE_COLUMNS,
            records,
            suffix="ON CONFLICT (call_id) DO NOTHING",  # an earlier try wrote it
        )


def _is_passing(error: Exception) -> bool:
    """Whether trying again may help: anything the database says except that the row is wrong."""
    return isinstance(error, DatabaseRefusal) and not isinstance(error, IntegrityError | DataError)
