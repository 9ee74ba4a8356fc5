"""One process, one journal and the books, on a disk that loses what was not synced.

A machine of steps: calls open, relay, report and settle; the process is killed, the power fails,
booking and leases go on, answers are lost. The model keeps what the world outside knows: what was
generated for each call, what was forwarded and which ends were released. Whatever happened, in the
end every released call is booked once with its exact cost, every other one between what was
forwarded and what was generated, and no credit stays on lease.

A machine that finds nothing proves little unless it would find something: each of `BREAKAGES` takes
one promise out of the protocol, and the same machine must notice.
"""

import os
import shutil
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, Phase
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing import calls, checks, ingest, leases, ledger
from billing.calls import Ending, Opening
from billing.ingest import Ingester
from billing.journal import directory as place
from billing.journal import frames, records
from billing.journal.lease import Lease
from billing.journal.reader import JournalReader
from billing.journal.slots import SlotTable
from billing.journal.writer import JournalWriter
from billing.models import DeadLetter, Journal, UsageRecord
from billing.pricing import Usage
from orgs import failpoints
from tests import factories

pytestmark = pytest.mark.django_db(transaction=True)

CREDIT = 1_000_000_000
SEGMENT = 64 * 1024
SLOTS = 6
INPUT = 100
OUTPUT_MAX = 40


class Lost(Exception):
    """A transaction's end that never came, or came and was never heard of."""


@dataclass
class Made:
    """One call as the world outside knows it."""

    opening: Opening
    slot: int
    generated: int = 0
    forwarded: int = 0
    # Of that, what the slots on the disk know.
    forwarded_durably: int = 0
    # What must be billed at least: what was forwarded, unless the power failed since.
    owed: int = 0
    reported: Usage | None = None
    settled_at: int | None = None
    cost: int = 0
    is_released: bool = False


class Disk:
    """What files hold after a power loss: the last sync of each, and some of what came after.

    Stands in for fsync and fdatasync. Names are durable from the start; a log's bytes after the
    last sync may be there, missing or torn; slots are as they were when they were last synced.
    """

    def __init__(self) -> None:
        self._synced: dict[str, bytes] = {}

    def sync(self, descriptor: int) -> None:
        """In the place of `os.fdatasync` and `os.fsync`."""
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if Path(path).is_file():
            self._synced[path] = Path(path).read_bytes()

    def lose_power(self, directory: Path, kept_bytes: int) -> None:
        """Only after the writer is closed: `kept_bytes` of what was not synced are on the disk."""
        for base in place.segment_bases(directory):
            path = place.segment_path(directory, base)
            written = path.read_bytes()
            synced = self._synced.get(str(path), b"").ljust(len(written), b"\0")
            pairs = enumerate(zip(written, synced, strict=True))
            same = next((at for at, (new, old) in pairs if new != old), len(written))
            path.write_bytes(written[: same + kept_bytes] + synced[same + kept_bytes :])
        slots = directory / "slots"
        slots.write_bytes(self._synced.get(str(slots), bytes(slots.stat().st_size)))
        # The page is a hint alone: it may survive or not.
        page = place.Page(directory / "page")
        page.written = page.durable
        page.close()


class Machine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="disk-"))
        self.disk = Disk()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(os, "fdatasync", self.disk.sync)
        self.patch.setattr(os, "fsync", self.disk.sync)
        self.organization = factories.make_organization()
        factories.make_credit(organization=self.organization, nanos=CREDIT)
        self.price = factories.make_price(model=f"model-{self.organization.pk}")
        self.ingester = Ingester(self.root, host="here")
        self.made: list[Made] = []
        self.open: list[Made] = []
        self.number = 0
        self._start()

    def _start(self) -> None:
        self.number += 1
        self.writer = JournalWriter(
            self.root,
            f"here-{self.organization.pk}-{self.number}",
            segment_bytes=SEGMENT,
            slot_count=SLOTS,
        )
        self.lease = Lease()
        self.made_before = len(self.made)
        self.open = []
        leases.register(self.writer.name, host="here", at=timezone.now())
        self.grant(20_000_000, is_heard=True)

    # --- Calls ----------------------------------------------------------------------------------
    @precondition(lambda self: len(self.open) < SLOTS)
    @rule()
    def open_a_call(self) -> None:
        opening = factories.make_opening(
            organization=self.organization,
            price=self.price,
            hold_nanos=1_000_000,
            input_tokens_estimate=INPUT,
            output_tokens_max=OUTPUT_MAX,
        )
        if not self.lease.hold(opening.hold_nanos):
            return
        self.writer.require_room()
        made = Made(opening, self.writer.slots.open(records.encode_opening(opening)))
        self.made.append(made)
        self.open.append(made)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, SLOTS), tokens=st.integers(1, 5))
    def a_chunk_arrives(self, which: int, tokens: int) -> None:
        made = self.open[which % len(self.open)]
        made.generated = min(made.generated + tokens, OUTPUT_MAX)
        self.writer.slots.relay(made.slot, made.generated)
        made.forwarded = made.owed = made.generated

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, SLOTS))
    def the_provider_reports(self, which: int) -> None:
        made = self.open[which % len(self.open)]
        made.reported = Usage(input=INPUT, output=made.generated)
        self.writer.slots.report(made.slot, made.reported)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, SLOTS), is_freed=st.booleans())
    def settle(self, which: int, is_freed: bool) -> None:
        made = self.open[which % len(self.open)]
        payload, made.cost = self._settlement(made)
        made.settled_at = self.writer.append(payload)
        if not is_freed:  # killed between the two: the slot still says what it said
            self.die(None)
            return
        self._finish(made)

    def _settlement(self, made: Made) -> tuple[bytes, int]:
        usage = Usage(input=INPUT, output=made.generated)
        ending = Ending(
            status=UsageRecord.Status.FINISHED.value,
            http_status=200,
            usage=usage,
            usage_source=UsageRecord.Source.PROVIDER.value,
        )
        cost = calls.cost_nanos(made.opening, ending)
        description = records.encode_opening(made.opening)
        return records.encode_settlement(description, ending, cost), cost

    def _finish(self, made: Made) -> None:
        self.writer.slots.free(made.slot)
        self.open.remove(made)
        self.lease.settle(made.opening.hold_nanos, made.cost)

    @precondition(lambda self: self.open)
    @rule(which=st.integers(0, SLOTS), share=st.floats(0.01, 0.99))
    def killed_writing_a_settlement(self, which: int, share: float) -> None:
        made = self.open[which % len(self.open)]
        frame = frames.encode(self._settlement(made)[0])
        page = self.writer.page
        at = page.written - self.writer._base
        if at + len(frame) <= SEGMENT:
            os.pwrite(self.writer._log, frame[: int(len(frame) * share)], at)
        self.die(None)

    @precondition(lambda self: len(self.open) < SLOTS)
    @rule(tokens=st.integers(1, 5))
    def a_call_runs_to_its_end(self, tokens: int) -> None:
        """The steps above at once: few walks would make them in this order."""
        before = len(self.open)
        self.open_a_call()
        if len(self.open) > before:
            self.a_chunk_arrives(before, tokens)
            self.settle(before, is_freed=True)
            self.sync(is_sidecar=True)

    # --- The disk -------------------------------------------------------------------------------
    @rule(is_sidecar=st.booleans())
    def sync(self, is_sidecar: bool) -> None:
        if is_sidecar:
            self._read(JournalReader.sync)
        else:
            self.writer.sync()
        durable = self.writer.page.durable
        for made in self.made[self.made_before :]:
            if made.settled_at is not None and made.settled_at <= durable:
                made.is_released = True

    @rule()
    def sync_slots(self) -> None:
        self._read(JournalReader.sync_slots)
        for made in self.open:
            made.forwarded_durably = made.forwarded

    def _read(self, act: Callable[[JournalReader], None]) -> None:
        """What the sidecar does, in another process."""
        reader = JournalReader(self.writer.directory)
        try:
            act(reader)
        finally:
            reader.close()

    @rule(kept_bytes=st.none() | st.integers(0, 2_000))
    def die(self, kept_bytes: int | None) -> None:
        """Killed; or, with a number, the power fails."""
        self.writer.close()
        if kept_bytes is not None:
            for made in self.made[self.made_before :]:
                if not made.is_released:
                    made.owed = 0 if made.settled_at else made.forwarded_durably
            self.disk.lose_power(self.writer.directory, kept_bytes)
        self._start()

    # --- Booking and leases ---------------------------------------------------------------------
    @rule()
    def ingest(self) -> None:
        self.ingester.ingest(timezone.now())

    @rule(place=st.sampled_from(["ingest.before_commit", "ingest.after_commit"]))
    def ingest_and_hear_no_answer(self, place: str) -> None:
        """The commit arrived or it did not; whoever ingests does not know, and starts again."""

        def lose(reached: str) -> None:
            if reached == place:
                raise Lost

        with pytest.MonkeyPatch.context() as patch, suppress(Lost):
            patch.setattr(failpoints, "reach", lose)
            self.ingester.ingest(timezone.now(), looks_for_dead=False)
        self.ingester.close()
        self.ingester = Ingester(self.root, host="here")

    @rule(needed=st.integers(1, 20_000_000), is_heard=st.booleans())
    def grant(self, needed: int, is_heard: bool) -> None:
        granted = leases.grant(self.writer.name, self.organization.pk, needed_nanos=needed)
        if is_heard:
            self.lease.confirm(granted.granted_nanos, granted.beyond_nanos)

    @rule(times=st.integers(0, 2))
    def give_back(self, times: int) -> None:
        total = self.lease.give_back()
        for _ in range(times):
            leases.give_back(self.writer.name, self.organization.pk, returned_nanos=total)

    # --- What must hold -------------------------------------------------------------------------
    @invariant()
    def a_process_spends_no_more_than_it_was_granted(self) -> None:
        assert self.lease.free >= 0

    def teardown(self) -> None:
        try:
            self.die(None)
            self.writer.close()
            self.ingester.ingest(timezone.now())
            self._check()
        finally:
            self.patch.undo()
            self.ingester.close()
            self.writer.close()
            shutil.rmtree(self.root, ignore_errors=True)

    def _check(self) -> None:
        booked: dict[object, list[UsageRecord]] = {}
        for record in UsageRecord.objects.filter(organization=self.organization):
            booked.setdefault(record.call_id, []).append(record)
        for made in self.made:
            found = booked.pop(made.opening.call_id, [])
            assert len(found) <= 1
            if made.is_released:
                assert [record.cost_nanos for record in found] == [made.cost]
            assert sum(record.output_tokens for record in found) >= made.owed
            for record in found:
                assert record.output_tokens <= made.generated
                assert record.input_tokens in (0, INPUT)
        assert booked == {}
        spent = sum(
            UsageRecord.objects.filter(organization=self.organization).values_list(
                "cost_nanos", flat=True
            )
        )
        balance = ledger.balance(self.organization)
        assert (balance.posted_nanos, balance.held_nanos) == (CREDIT - spent, 0)
        assert not DeadLetter.objects.exists()
        assert checks.verify().differences == []


def play(*, examples: int, steps: int = 30, **options: Any) -> None:
    """Run the machine."""
    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **options,
        ),
    )


def test_whatever_dies_and_whatever_the_disk_forgets_released_calls_are_booked_once(
    transactional_db,
):
    play(examples=25)


# --- Whether the machine would notice -----------------------------------------------------------


def sync_nothing(patch: pytest.MonkeyPatch) -> None:
    """The log is called durable without a sync."""

    def claim(journal: JournalWriter | JournalReader) -> None:
        journal.page.durable = journal.page.written

    patch.setattr(JournalWriter, "sync", claim)
    patch.setattr(JournalReader, "sync", claim)


def move_on_before_booking(patch: pytest.MonkeyPatch) -> None:
    """The journal's position is committed by itself, before what was read is booked."""
    ingest_batch = Ingester._ingest_batch

    def commit_then_book(
        self: Ingester, reader: JournalReader, at: datetime, *, is_dead: bool
    ) -> int:
        with transaction.atomic():
            position = self._lock_position(reader.name, at)
            end = reader.read(position, is_dead=is_dead, frames_max=ingest.BATCH_MAX).end
            Journal.objects.filter(name=reader.name).update(position=end)
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(Ingester, "_lock_position", lambda *_: position)
            return ingest_batch(self, reader, at, is_dead=is_dead)

    patch.setattr(Ingester, "_ingest_batch", commit_then_book)


def count_after_forwarding(patch: pytest.MonkeyPatch) -> None:
    """A slot says what had been forwarded before the piece that was just forwarded."""
    relay = SlotTable.relay
    late: dict[tuple[int, int], int] = {}

    def relay_late(self: SlotTable, slot: int, pieces: int) -> None:
        relay(self, slot, late.get((id(self), slot), 0))
        late[id(self), slot] = pieces

    patch.setattr(SlotTable, "relay", relay_late)


def believe_every_frame(patch: pytest.MonkeyPatch) -> None:
    """Whatever has a length is a frame."""
    patch.setattr(zlib, "crc32", lambda _: 0)


BREAKAGES = (sync_nothing, move_on_before_booking, count_after_forwarding, believe_every_frame)


@pytest.mark.parametrize("break_protocol", BREAKAGES)
def test_the_machine_notices_what_is_broken(transactional_db, break_protocol):
    with pytest.MonkeyPatch.context() as patch:
        break_protocol(patch)
        with pytest.raises(AssertionError):
            play(
                examples=200,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                report_multiple_bugs=False,  # one is enough to have noticed
            )
