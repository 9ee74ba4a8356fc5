"""Ingest books every settlement once, whatever is repeated, damaged or made up."""

import os
import shutil
import threading
import time
import zlib
from dataclasses import replace
from datetime import timedelta

import msgspec
import pytest
from django.db import connection, connections
from django.utils import timezone

from billing import checks, ingest, leases, ledger
from billing.calls import cost_nanos
from billing.journal import directory as place
from billing.journal import frames, records
from billing.journal.writer import JournalWriter
from billing.models import DeadLetter, Journal, Lease, Transfer, UsageRecord
from billing.pricing import Usage
from orgs import failpoints
from tests import factories
from tests.immutability import without_triggers

pytestmark = pytest.mark.django_db(transaction=True)

NOW = timezone.now()
USAGE = Usage(input=1000, output=500)
COST = 40_000


@pytest.fixture
def organization(transactional_db):
    organization = factories.make_organization()
    factories.make_credit(organization=organization, nanos=1_000_000)
    return organization


@pytest.fixture
def price(organization):
    return factories.make_price()


@pytest.fixture
def make_writer(tmp_path):
    made = []

    def make(name="here-1"):
        writer = JournalWriter(tmp_path, name, segment_bytes=64 * 1024, slot_count=8)
        made.append(writer)
        return writer

    yield make
    for writer in made:
        writer.close()


@pytest.fixture
def writer(make_writer):
    return make_writer()


@pytest.fixture
def ingester(tmp_path):
    made = ingest.Ingester(tmp_path, host="here")
    yield made
    made.close()


@pytest.fixture
def settled(organization, price, writer):
    """Append the settlement of a call, as the meter does; its opening."""

    def settle(*, cost=None, usage=USAGE, writer=writer, **fields):
        opening = factories.make_opening(organization=organization, price=price, **fields)
        ending = factories.make_ending(usage=usage)
        payload = records.encode_settlement(
            records.encode_opening(opening),
            ending,
            cost_nanos(opening, ending) if cost is None else cost,
        )
        writer.append(payload)
        return opening

    return settle


def posted(organization):
    return ledger.balance(organization).posted_nanos


def test_what_is_in_a_journal_is_booked_once(organization, settled, ingester, writer):
    openings = [settled() for _ in range(3)]
    assert ingester.ingest(NOW) == 3
    assert ingester.ingest(NOW) == 0
    found = set(UsageRecord.objects.values_list("call_id", flat=True))
    assert found == {opening.call_id for opening in openings}
    # One transfer for the batch, named by each of its records.
    transfer = Transfer.objects.get(code="USAGE")
    assert transfer.amount_nanos == 3 * COST
    assert set(UsageRecord.objects.values_list("transfer_id", flat=True)) == {transfer.pk}
    assert posted(organization) == 1_000_000 - 3 * COST
    assert writer.page.ingested == writer.page.written
    assert checks.verify().differences == []


def test_a_backlog_is_booked_in_long_batches(organization, settled, ingester):
    # More than one statement takes on SQLite.
    for _ in range(900):
        settled(usage=Usage(input=10))
    assert ingester.ingest(NOW) == 900
    assert UsageRecord.objects.count() == 900
    assert Transfer.objects.filter(code="USAGE").count() == 1
    assert checks.verify().differences == []


def test_a_journal_with_a_long_backlog_keeps_no_other_waiting(
    organization, settled, ingester, writer, make_writer, monkeypatch
):
    monkeypatch.setattr(ingest, "BATCH_MAX", 2)
    other = make_writer("here-2")
    for _ in range(10):
        settled()
    for _ in range(3):
        settled(writer=other)
    turns = []
    real = ingest.Ingester._ingest_batch

    def noted(self, reader, at, **options):
        turns.append(reader.name)
        return real(self, reader, at, **options)

    monkeypatch.setattr(ingest.Ingester, "_ingest_batch", noted)
    assert ingester.ingest(NOW, looks_for_dead=False) == 13
    assert turns == ["here-1", "here-2", "here-1", "here-2", "here-1", "here-1", "here-1"]


def test_booking_ends_though_a_writer_goes_on(organization, settled, ingester, writer, monkeypatch):
    real = ingest.Ingester._ingest_batch

    def written_meanwhile(self, reader, at, **options):
        settled()
        return real(self, reader, at, **options)

    monkeypatch.setattr(ingest.Ingester, "_ingest_batch", written_meanwhile)
    settled()
    assert ingester.ingest(NOW, looks_for_dead=False) == 2


def test_every_field_of_a_settlement_reaches_its_record(organization, price, ingester, writer):
    opening = factories.make_opening(
        organization=organization, price=price, workspace_id=2, deployment_id=3, deploy_id="a-1",
        is_stream=True, model="tab\tback\\slash\nend\\", hold_nanos=7, margin_basis_points=50,
        started_at=NOW,
    )  # fmt: skip
    attempts = ({"provider": "other", "outcome": 'said "no" – \\N', "duration_ms": 4},)
    ending = replace(
        factories.make_ending(usage=USAGE, http_status=206),
        model_served="größer",
        upstream_request_id="",
        error_code="\\N",
        attempts=attempts,
        first_token_ms=None,
    )
    cost = cost_nanos(opening, ending)
    writer.append(records.encode_settlement(records.encode_opening(opening), ending, cost))
    ingester.ingest(NOW)
    record = UsageRecord.objects.get()
    for name in (
        "call_id", "organization_id", "workspace_id", "deployment_id", "deploy_id", "key_id",
        "request_id", "endpoint", "is_stream", "model_requested", "provider", "upstream_model",
        "margin_basis_points", "started_at",
    ):  # fmt: skip
        assert getattr(record, name) == getattr(opening, name), name
    for name in (
        "status", "http_status", "usage", "usage_source", "model_served", "upstream_request_id",
        "error_code", "duration_ms", "first_token_ms",
    ):  # fmt: skip
        assert getattr(record, name) == getattr(ending, name), name
    assert record.attempts == list(attempts)
    assert (record.price_version_id, record.held_nanos) == (price.pk, 7)
    assert (record.cost_nanos, record.transfer.amount_nanos) == (cost, cost)


def test_a_position_set_back_books_nothing_twice(organization, settled, ingester):
    for _ in range(3):
        settled()
        ingester.ingest(NOW)
    Journal.objects.update(position=0)
    another = ingest.Ingester(ingester._root, host="here")
    settled()
    assert another.ingest(NOW) == 4
    another.close()
    assert UsageRecord.objects.count() == 4
    assert posted(organization) == 1_000_000 - 4 * COST
    assert checks.verify().differences == []


def test_a_frame_written_twice_is_one_call(organization, settled, ingester, writer):
    settled()
    [frame] = frames.decode(os.pread(writer._log, writer.page.written, 0))
    for _ in range(3):
        writer.append(frame.payload)
    ingester.ingest(NOW)
    assert UsageRecord.objects.count() == 1
    assert posted(organization) == 1_000_000 - COST


def test_a_segment_and_a_whole_journal_that_were_copied_are_booked_once(
    organization, settled, ingester, writer
):
    for _ in range(3):
        settled()
    first = place.segment_path(writer.directory, 0)
    copied = writer.directory.with_name("here-copy")
    shutil.copytree(writer.directory, copied, ignore=lambda *_: ["wake"])
    writer.close()
    shutil.copy(first, place.segment_path(writer.directory, first.stat().st_size))
    # The rest of the first segment is empty: what is there is read, and the copy after it.
    assert ingester.ingest(NOW) == 9
    assert UsageRecord.objects.count() == 3
    assert posted(organization) == 1_000_000 - 3 * COST
    assert not copied.exists()
    assert checks.verify().differences == []


def test_a_batch_is_covered_by_its_journals_lease_first(organization, settled, ingester, writer):
    leases.register(writer.name, host="here", at=NOW)
    leases.grant(writer.name, organization.pk, needed_nanos=60_000)
    granted = Lease.objects.get().granted_nanos
    settled()
    ingester.ingest(NOW)
    assert Lease.objects.get().used_nanos == COST
    assert ledger.balance(organization).held_nanos == granted - COST
    for _ in range(5):
        settled()
    ingester.ingest(NOW)
    assert ledger.balance(organization).held_nanos == 0
    assert posted(organization) == 1_000_000 - 6 * COST
    assert checks.verify().differences == []


def test_organizations_in_one_batch_pay_for_their_own_calls(
    organization, price, settled, ingester, writer
):
    other = factories.make_organization()
    factories.make_credit(organization=other, nanos=1_000_000)
    settled()
    for _ in range(2):
        opening = factories.make_opening(organization=other, price=price)
        ending = factories.make_ending(usage=USAGE)
        writer.append(records.encode_settlement(records.encode_opening(opening), ending, COST))
    ingester.ingest(NOW)
    assert posted(organization) == 1_000_000 - COST
    assert posted(other) == 1_000_000 - 2 * COST


# --- Poison -------------------------------------------------------------------------------------
def test_a_cost_that_does_not_compute_is_kept_aside_and_the_rest_flows(
    organization, settled, ingester
):
    settled()
    settled(cost=1)
    settled()
    assert ingester.ingest(NOW) == 3
    letter = DeadLetter.objects.get()
    assert letter.reason == "It says 1 nano-dollars; its quantities cost 40000."
    assert (letter.organization_id, letter.cost_nanos) == (organization.pk, 1)
    assert posted(organization) == 1_000_000 - 2 * COST


def test_a_price_or_an_organization_that_does_not_exist_is_kept_aside(
    organization, settled, ingester, writer, price
):
    opening = factories.make_opening(organization=organization, price=price)
    unknown_price = replace(opening, price=replace(opening.price, version_id=10**6))
    unknown_organization = replace(opening, organization_id=10**6)
    ending = factories.make_ending(usage=USAGE)
    for made_up in (unknown_price, unknown_organization):
        writer.append(records.encode_settlement(records.encode_opening(made_up), ending, COST))
    settled()
    ingester.ingest(NOW)
    reasons = list(DeadLetter.objects.order_by("position").values_list("reason", flat=True))
    assert "There is no price version 1000000" in reasons[0]
    assert reasons[1] == "There is no organization 1000000."
    assert posted(organization) == 1_000_000 - COST


def test_a_record_that_the_database_refuses_is_found_among_its_batch(
    organization, settled, ingester, writer, price
):
    first = settled()
    opening = replace(
        factories.make_opening(organization=organization, price=price), request_id=first.request_id
    )
    ending = factories.make_ending(usage=USAGE)
    writer.append(records.encode_settlement(records.encode_opening(opening), ending, COST))
    for _ in range(5):
        settled()
    assert ingester.ingest(NOW) == 7
    assert "The database refuses it" in DeadLetter.objects.get().reason
    assert UsageRecord.objects.count() == 6
    assert posted(organization) == 1_000_000 - 6 * COST


def test_every_changed_byte_is_kept_aside_or_harmless(organization, settled, ingester, writer):
    """A frame changed at each byte in turn: never booked wrong, never in the way of the next."""
    settled()
    length = writer.page.written
    frame = os.pread(writer._log, length, 0)
    # The length of a frame is its first four bytes; see the tests that follow.
    for at in range(4, length):
        changed = bytearray(frame)
        changed[at] ^= 0xFF
        os.pwrite(writer._log, bytes(changed), writer.page.written)
        writer._position += length
        writer.page.written = writer._position
    settled()
    ingester.ingest(NOW)
    assert UsageRecord.objects.count() == 2
    assert DeadLetter.objects.count() == length - 4
    assert set(DeadLetter.objects.values_list("reason", flat=True)) == {"The checksum is wrong."}
    assert posted(organization) == 1_000_000 - 2 * COST


@pytest.mark.parametrize("length", [0, 1, 100, 300, 4095, 2**24])
@pytest.mark.parametrize("is_dead", [False, True], ids=["living", "dead"])
def test_a_frame_whose_length_is_lost_hides_no_other(
    organization, settled, ingester, writer, length, is_dead
):
    for _ in range(4):
        settled()
    first = next(frames.decode(os.pread(writer._log, writer.page.written, 0)))
    second = frames.frame_bytes(first)
    os.pwrite(writer._log, length.to_bytes(4, "little"), second)
    if not is_dead:
        ingester.ingest(NOW)
    settled()  # what a living writer adds to the segment afterwards
    if is_dead:
        writer.close()
    ingester.ingest(NOW)
    assert UsageRecord.objects.count() == 4
    assert posted(organization) == 1_000_000 - 4 * COST
    lost = DeadLetter.objects.order_by("position")
    assert lost[0].position == second
    assert sum(len(letter.raw) for letter in lost) == second


@pytest.mark.parametrize("is_dead", [False, True], ids=["living", "dead"])
def test_settlements_that_turned_into_zeros_are_missed_aloud(
    organization, settled, ingester, writer, is_dead
):
    settled()
    kept = writer.page.written
    for _ in range(3):
        settled()
    os.pwrite(writer._log, bytes(writer.page.written - kept), kept)
    if is_dead:
        writer.close()
    ingester.ingest(NOW)
    assert UsageRecord.objects.count() == 1
    assert [letter.position for letter in DeadLetter.objects.all()] == [kept]
    assert Journal.objects.get().position == 4 * kept


def test_a_segment_that_is_gone_is_missed_aloud_and_the_next_one_is_booked(
    organization, settled, ingester, writer
):
    while writer._base == 0:
        settled()
    place.segment_path(writer.directory, 0).unlink()
    ingester.ingest(NOW)
    assert UsageRecord.objects.count() == 1
    letter = DeadLetter.objects.get()
    assert (letter.position, letter.reason) == (0, "The log has a gap here.")


def test_nonsense_with_a_right_checksum_is_kept_aside(organization, settled, ingester, writer):
    for payload in (b"\x00", b"\xff" * 40, b"\x00\x05hello", os.urandom(200)):
        writer.append(payload)
    settled()
    ingester.ingest(NOW)
    assert DeadLetter.objects.count() == 4
    assert posted(organization) == 1_000_000 - COST


NESTED = msgspec.Raw(b"\x91" * 3000 + b"\x90")


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("description", "call_id", b"short"),
        ("description", "workspace_id", 2**64 - 1),
        ("description", "started_at_us", 2**60),
        ("outcome", "usage", [1000, 500]),
        ("outcome", "http_status", 2**64 - 1),
        ("outcome", "attempts", [{"provider": b"no text"}]),
        ("outcome", "attempts", [{"provider": NESTED}]),
    ],
)
def test_a_value_that_no_record_can_have_is_kept_aside(
    organization, price, settled, ingester, writer, part, field, value
):
    opening = factories.make_opening(organization=organization, price=price)
    settlement = records.settlement_of(opening, factories.make_ending(usage=USAGE), COST)
    halves = {}
    for name in ("description", "outcome"):
        fields = msgspec.structs.asdict(getattr(settlement, name))
        changed = {**fields, field: value} if name == part else fields
        halves[name] = msgspec.msgpack.encode(list(changed.values()))
    length = len(halves["description"]).to_bytes(2, "big")
    writer.append(length + halves["description"] + halves["outcome"])
    settled()
    assert ingester.ingest(NOW) == 2
    assert DeadLetter.objects.count() == 1
    assert posted(organization) == 1_000_000 - COST


def test_a_record_of_ten_megabytes_is_kept_aside_and_what_follows_its_segment_flows(
    organization, price, settled, ingester, tmp_path
):
    segment = 16 * 1024 * 1024
    writer = JournalWriter(tmp_path, "here-wide", segment_bytes=segment, slot_count=8)
    settled(writer=writer)
    record = os.urandom(10_000_000)
    wide = frames.HEADER.pack(len(record), zlib.crc32(record)) + record
    os.pwrite(writer._log, wide, writer.page.written)
    writer._position = writer.page.written = segment - 10
    settled(writer=writer)  # in the next segment
    writer.close()
    ingester.ingest(NOW)
    assert UsageRecord.objects.count() == 2
    assert posted(organization) == 1_000_000 - 2 * COST
    letters = [bytes(letter.raw) for letter in DeadLetter.objects.order_by("position")]
    assert b"".join(letters).startswith(wide)
    assert max(map(len, letters)) < 2 * 1024 * 1024


# --- Dead writers -------------------------------------------------------------------------------
def interrupted(writer, opening, *, relayed=0, reported=None):
    """A call in flight, when its writer dies."""
    index = writer.slots.open(records.encode_opening(opening))
    if relayed:
        writer.slots.relay(index, relayed)
    if reported:
        writer.slots.report(index, reported)


def test_calls_of_a_dead_writer_are_charged_by_what_was_relayed(
    organization, price, ingester, writer, make_writer
):
    leases.register(writer.name, host="here", at=NOW)
    leases.grant(writer.name, organization.pk, needed_nanos=500_000)

    def opening():
        return factories.make_opening(
            organization=organization,
            price=price,
            input_tokens_estimate=100,
            output_tokens_max=50,
            started_at=NOW - timedelta(seconds=5),
        )

    silent, relayed, reported, long = opening(), opening(), opening(), opening()
    interrupted(writer, silent)
    interrupted(writer, relayed, relayed=7)
    interrupted(writer, reported, relayed=9, reported=Usage(input=1000, output=1))
    interrupted(writer, long, relayed=10_000)
    writer.close()
    ingester.ingest(NOW)
    found = {record.call_id: record for record in UsageRecord.objects.all()}
    assert {record.status for record in found.values()} == {"CRASHED"}
    tokens = {
        name: (found[call.call_id].input_tokens, found[call.call_id].output_tokens)
        for name, call in {
            "silent": silent,
            "relayed": relayed,
            "reported": reported,
            "long": long,
        }.items()
    }
    assert tokens == {
        "silent": (0, 0), "relayed": (100, 7), "reported": (1000, 9), "long": (100, 50),
    }  # fmt: skip
    assert found[silent.call_id].usage_source == "NONE"
    assert found[relayed.call_id].usage_source == "ESTIMATED"
    assert found[reported.call_id].usage_source == "PROVIDER_PARTIAL"
    assert found[relayed.call_id].duration_ms == 5000
    assert ledger.balance(organization).held_nanos == 0
    assert Journal.objects.get().closed_at == NOW
    assert not writer.directory.exists()
    assert checks.verify().differences == []


def test_counts_in_a_slot_that_no_credit_could_pay_are_kept_aside(
    organization, price, ingester, writer
):
    opening = factories.make_opening(organization=organization, price=price)
    interrupted(writer, opening, relayed=1, reported=Usage(input=2**62))
    interrupted(writer, factories.make_opening(organization=organization, price=price))
    writer.close()
    ingester.ingest(NOW)
    assert "The database refuses it" in DeadLetter.objects.get().reason
    assert UsageRecord.objects.get().status == "CRASHED"
    assert Journal.objects.get().closed_at == NOW


def test_a_call_that_settled_and_kept_its_slot_is_charged_once_and_in_full(
    organization, price, settled, ingester, writer
):
    opening = settled()
    interrupted(writer, opening, relayed=3)
    writer.close()
    ingester.ingest(NOW)
    record = UsageRecord.objects.get()
    assert (record.status, record.cost_nanos) == ("FINISHED", COST)
    assert posted(organization) == 1_000_000 - COST


def test_a_settlement_that_was_torn_is_charged_by_its_slot(
    organization, price, settled, ingester, writer
):
    opening = factories.make_opening(
        organization=organization, price=price, input_tokens_estimate=100, output_tokens_max=50
    )
    interrupted(writer, opening, relayed=7)
    ending = factories.make_ending(usage=USAGE)
    payload = records.encode_settlement(records.encode_opening(opening), ending, COST)
    os.pwrite(writer._log, frames.encode(payload)[:-1], 0)
    writer.close()
    ingester.ingest(NOW)
    record = UsageRecord.objects.get()
    assert (record.status, record.output_tokens) == ("CRASHED", 7)
    assert not DeadLetter.objects.exists()


def test_a_living_writers_calls_in_flight_are_left_alone(organization, price, ingester, writer):
    opening = factories.make_opening(organization=organization, price=price)
    interrupted(writer, opening, relayed=7)
    assert ingester.ingest(NOW) == 0
    assert not UsageRecord.objects.exists()


def test_a_starting_writer_is_not_taken_for_a_dead_one(ingester, writer):
    (writer.directory / "ready").unlink()
    assert ingester.ingest(NOW) == 0
    writer.close()
    assert ingester.ingest(NOW) == 0
    assert writer.directory.exists()
    long_ago = time.time() - 3600
    os.utime(writer.directory / "lock", (long_ago, long_ago))
    ingester.ingest(NOW)
    assert not writer.directory.exists()


def test_what_is_left_of_a_journal_that_was_being_removed_goes_without_a_wait(
    organization, settled, ingester, writer, monkeypatch
):
    class Killed(BaseException):
        pass

    def kill(reached):
        if reached == "ingest.in_removal":
            raise Killed

    settled()
    writer.close()
    monkeypatch.setattr(failpoints, "reach", kill)
    with pytest.raises(Killed):
        ingester.ingest(NOW)
    monkeypatch.undo()
    (writer.directory / "page").unlink()  # some of it had gone
    assert ingester.ingest(NOW) == 0
    assert not writer.directory.exists()
    assert posted(organization) == 1_000_000 - COST


def test_a_journal_that_cannot_be_opened_for_a_while_is_booked_afterwards(
    organization, settled, ingester, writer, monkeypatch
):
    settled()

    def open_nothing(*_):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("billing.journal.reader.Page", open_nothing)
        for _ in range(3):
            assert ingester.ingest(NOW) == 0
    assert ingester.ingest(NOW) == 1
    assert posted(organization) == 1_000_000 - COST


def test_one_journals_trouble_does_not_stop_the_others(
    organization, settled, ingester, writer, make_writer, monkeypatch
):
    other = make_writer("here-2")
    settled()
    settled(writer=other)
    real = ingest.Ingester._ingest_batch

    def troubled(self, reader, at, **options):
        if reader.name == writer.name:
            raise ZeroDivisionError
        return real(self, reader, at, **options)

    monkeypatch.setattr(ingest.Ingester, "_ingest_batch", troubled)
    with pytest.raises(ZeroDivisionError):
        ingester.ingest(NOW)
    assert UsageRecord.objects.count() == 1
    assert other.page.ingested == other.page.written


def test_a_price_without_a_rate_is_kept_aside_whether_the_call_ended_or_not(
    organization, ingester, writer
):
    version = factories.make_price(model="half")
    with without_triggers(connection):
        type(version).objects.filter(pk=version.pk).update(rates={"input": version.rates["input"]})
    version.refresh_from_db()
    opening = factories.make_opening(organization=organization, price=version, output_tokens_max=9)
    ending = factories.make_ending(usage=USAGE)
    writer.append(records.encode_settlement(records.encode_opening(opening), ending, 0))
    other = factories.make_opening(organization=organization, price=version, output_tokens_max=9)
    interrupted(writer, other, relayed=3)
    writer.close()
    ingester.ingest(NOW)
    assert [letter.reason for letter in DeadLetter.objects.all()] == [
        "The price has no rate for output tokens."
    ] * 2
    assert Journal.objects.get().closed_at == NOW


def test_what_a_reclaimed_host_ingests_late_is_still_charged(
    organization, settled, ingester, writer
):
    leases.register(writer.name, host="here", at=NOW - timedelta(hours=3))
    leases.grant(writer.name, organization.pk, needed_nanos=500_000)
    settled()
    assert factories.reclaim_leases(after=NOW) == [writer.name]
    assert ledger.balance(organization).held_nanos == 0
    ingester.ingest(NOW)
    assert posted(organization) == 1_000_000 - COST
    assert checks.verify().differences == []


# --- Two at once --------------------------------------------------------------------------------
def test_two_ingesters_at_once_book_everything_once(organization, settled, writer, tmp_path):
    for _ in range(60):
        settled(usage=Usage(input=10))
    count, failures = [], []

    def run():
        own = ingest.Ingester(tmp_path, host="here")
        try:
            for _ in range(20):
                count.append(own.ingest(NOW))
        except Exception as error:
            failures.append(error)
        finally:
            own.close()
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sum(count) == 60
    assert UsageRecord.objects.count() == 60
    assert posted(organization) == 1_000_000 - 60 * 200
    assert checks.verify().differences == []
