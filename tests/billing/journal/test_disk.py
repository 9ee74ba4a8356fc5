"""One process, one journal and the books, on a disk that loses what was not synced.

A machine of steps: calls open, relay, report and settle; the process is killed, the power fails,
booking and leases go on, answers are lost. The model keeps what the world outside knows: what was
generated for each call, and which ends were released. Whatever happened, in the end every released
call is booked once with its exact cost, nothing is billed above what was generated, and no credit
stays on lease.
"""

import os
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from django.utils import timezone
from hypothesis import HealthCheck
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
from billing.journal import directory as place
from billing.journal import frames, records
from billing.journal.lease import Lease
from billing.journal.writer import JournalWriter
from billing.models import DeadLetter, UsageRecord
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
    reported: Usage | None = None
    is_settled: bool = False
    cost: int = 0
    is_released: bool = False


class Disk:
    """What a journal's files hold after a power loss: the last sync, and some of what came after.

    Frames after the synced position may be there, missing or torn; slots are as they were when
    they were last synced. The files themselves were made durable when the journal was made.
    """

    def __init__(self, writer: JournalWriter) -> None:
        self._writer = writer
        self.sync_slots()

    def sync_slots(self) -> None:
        """What the sidecar does every quarter of a second."""
        self._slots = (self._writer.directory / "slots").read_bytes()

    def lose_power(self, kept_bytes: int) -> None:
        """Only after the writer is closed: `kept_bytes` of what was not synced are on the disk."""
        directory = self._writer.directory
        page = place.Page(directory / "page")
        durable, end = page.durable, page.written
        page.close()
        kept = min(end, durable + kept_bytes)
        for base in place.segment_bases(directory):
            self._drop(place.segment_path(directory, base), max(kept, base) - base)
        (directory / "slots").write_bytes(self._slots)
        # The page is a hint alone: it may survive or not.
        with (directory / "page").open("r+b") as file:
            file.seek(2 * 8)
            file.write(durable.to_bytes(8, "little"))

    def _drop(self, path: Path, kept: int) -> None:
        length = path.stat().st_size
        if kept < length:
            with path.open("r+b") as file:
                file.seek(kept)
                file.write(bytes(length - kept))


class Machine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="disk-"))
        self.organization = factories.make_organization()
        factories.make_credit(organization=self.organization, nanos=CREDIT)
        self.price = factories.make_price(model=f"model-{self.organization.pk}")
        self.ingester = ingest.Ingester(self.root, host="here")
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
        self.disk = Disk(self.writer)
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
        self.writer.append(payload)
        made.is_settled = True
        if not is_freed:  # killed between the two: the slot still says what it said
            self.kill()
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
        self.kill()

    # --- The disk -------------------------------------------------------------------------------
    @rule()
    def sync(self) -> None:
        self.writer.sync()
        for made in self.made[self.made_before :]:
            made.is_released = made.is_settled

    @rule()
    def sync_slots(self) -> None:
        self.disk.sync_slots()

    @rule()
    def kill(self) -> None:
        self._die()

    @rule(kept_bytes=st.integers(0, 2_000))
    def power_loss(self, kept_bytes: int) -> None:
        self._die(kept_bytes=kept_bytes)

    def _die(self, kept_bytes: int | None = None) -> None:
        self.writer.close()
        if kept_bytes is not None:
            self.disk.lose_power(kept_bytes)
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
        self.ingester = ingest.Ingester(self.root, host="here")

    @rule(needed=st.integers(1, 20_000_000), is_heard=st.booleans())
    def grant(self, needed: int, is_heard: bool) -> None:
        granted = leases.grant(self.writer.name, self.organization.pk, needed_nanos=needed)
        if is_heard:
            self.lease.confirm(granted.granted_nanos)

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
            self._die()
            self.writer.close()
            self.ingester.ingest(timezone.now())
            self._check()
        finally:
            self.ingester.close()
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


def test_whatever_dies_and_whatever_the_disk_forgets_released_calls_are_booked_once(
    transactional_db,
):
    run_state_machine_as_test(
        Machine,
        settings=hypothesis_settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
