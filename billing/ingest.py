"""Ingest: what journals hold becomes usage records and ledger entries, exactly once.

A batch of a journal's frames is booked in one transaction with the journal's position, so whatever
dies, and whenever, reading starts again exactly where the books end. A call is charged once for
ever: its id is the usage record's primary key. When a journal's lock is free its writer is dead:
its calls in flight are charged by what their slots say, its leases are returned, it is closed.

What can never be booked goes to `DeadLetter` in the same transaction, and the rest flows on. Must
not know HTTP or what a provider is. Runs as `manage.py ingest_usage`, or in threads of the only web
process (billing/sidecar.py).
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import structlog
from django.db import DataError, IntegrityError, OperationalError, connection, transaction

from billing import calls, charges, leases, pricing, usage_rows
from billing.calls import Ending, Opening
from billing.journal import directory as place
from billing.journal import records
from billing.journal.directory import UnableToOpenJournal
from billing.journal.frames import Damage, Frame
from billing.journal.reader import Batch, JournalReader
from billing.journal.records import Settlement, UnreadableRecord
from billing.journal.slots import OpenSlot
from billing.models import DeadLetter, Journal, PriceVersion, UsageRecord
from orgs import failpoints
from orgs.models import Organization

log = structlog.get_logger(__name__)

# A transaction costs what booking a hundred calls does, whatever is in it. It keeps the accounts of
# its organizations locked: one of many more calls would be felt by whoever needs a lease.
BATCH_MAX = 2000
# What a dead letter's column takes: a damaged count may have come to more.
KEPT_NANOS_MAX = 2**63 - 1


class _Entry(NamedTuple):
    """A settlement to be booked, with where it was read."""

    position: int
    raw: bytes
    settlement: Settlement

    @property
    def call_id(self) -> bytes:
        return self.settlement.description.call_id

    @property
    def organization_id(self) -> int:
        return self.settlement.description.organization_id

    @property
    def cost_nanos(self) -> int:
        return self.settlement.outcome.cost_nanos


@dataclass(frozen=True, slots=True)
class _Refused:
    """Bytes that cannot be booked."""

    position: int
    raw: bytes
    reason: str
    organization_id: int | None = None
    cost_nanos: int = 0


class Prices:
    """Price versions by id, as pricing takes them. Immutable, so kept for ever."""

    def __init__(self) -> None:
        """Nothing is loaded before it is asked for."""
        self._known: dict[int, pricing.Price] = {}

    def __call__(self, version_id: int) -> pricing.Price:
        """The version. Raises LookupError."""
        if version_id not in self._known:
            version = PriceVersion.objects.filter(pk=version_id).first()
            if version is None:
                raise LookupError(f"There is no price version {version_id}.")
            self._known[version_id] = pricing.Price.from_rates(version_id, version.rates)
        return self._known[version_id]


class Ingester:
    """Books the journals below one directory. Used by one thread."""

    def __init__(self, root: Path, *, host: str) -> None:
        """`root` need not exist yet."""
        self._root = root
        self._host = host
        self._readers: dict[str, JournalReader] = {}
        self._price_of = Prices()
        self._organizations: set[int] = set()
        self._unreadable: set[str] = set()

    def ingest(self, at: datetime, *, looks_for_dead: bool = True) -> int:
        """Book everything that can be booked now; how many frames were read.

        One journal's trouble does not stop the others: it is raised at the end. Raises the
        database's errors when it is away: nothing is lost, try again.
        """
        count = 0
        troubles: dict[str, Exception] = {}
        # In turns, so that a journal with a long backlog keeps no other waiting, and no further
        # than what is there now: whoever writes all the time would never let this end.
        behind = {reader: reader.page.written for reader in self.journals()}
        while behind:
            for reader, written in list(behind.items()):
                with self._noting(troubles, reader):
                    booked = self._ingest_once(reader, at)
                    count += booked
                    if booked and reader.page.ingested < written:
                        continue
                del behind[reader]
        if looks_for_dead:
            for reader in list(self._readers.values()):
                if reader.name not in troubles:
                    with self._noting(troubles, reader):
                        count += self._finish_if_dead(reader, at)
            self._remove_leftovers()
        for trouble in troubles.values():
            raise trouble
        return count

    @contextmanager
    def _noting(self, troubles: dict[str, Exception], reader: JournalReader) -> Iterator[None]:
        """Keep a journal's trouble for later; not the database's, which is everybody's."""
        try:
            yield
        except OperationalError:
            raise
        except Exception as error:
            log.exception("a journal cannot be booked", journal=reader.name)
            troubles[reader.name] = error

    def journals(self) -> list[JournalReader]:
        """Readers of the journals that are there."""
        names = {path.parent.name for path in self._root.glob("*/ready")}
        for name in self._readers.keys() - names:
            self._readers.pop(name).close()
        for name in sorted(names - self._readers.keys()):
            try:
                self._readers[name] = JournalReader(self._root / name)
            except UnableToOpenJournal as error:
                # Said once, tried again: the reason may pass (no file left to open).
                if name not in self._unreadable:
                    log.error("a journal cannot be read", journal=name, error=str(error))
                self._unreadable.add(name)
            else:
                self._unreadable.discard(name)
        return list(self._readers.values())

    def _remove_leftovers(self) -> None:
        """What is no journal: of processes that died before they could serve, or while removing."""
        directories = self._root.iterdir() if self._root.is_dir() else ()
        for directory in directories:
            if place.is_finished(directory) or place.is_abandoned(directory):
                place.remove(directory)

    def close(self) -> None:
        """Let go of every journal."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _ingest_once(self, reader: JournalReader, at: datetime) -> int:
        if reader.page.written <= reader.page.ingested:
            return 0
        return self._ingest_batch(reader, at, is_dead=False)

    def _ingest_batch(self, reader: JournalReader, at: datetime, *, is_dead: bool) -> int:
        """One transaction; how many frames it read."""
        with transaction.atomic():
            position = self._lock_position(reader.name, at)
            batch = reader.read(position, is_dead=is_dead, frames_max=BATCH_MAX)
            failpoints.reach("ingest.after_read")
            if batch.frames:
                self._book_frames(reader, batch, f"{reader.name}:{position}-{batch.end}", at)
            if batch.end != position:
                _move(reader.name, batch.end)
            failpoints.reach("ingest.before_commit")
        failpoints.reach("ingest.after_commit")
        reader.page.ingested = min(batch.end, reader.page.written)
        reader.delete_segments_before(batch.end)
        return len(batch.frames)

    def _lock_position(self, name: str, at: datetime) -> int:
        """The journal's row, locked: of two ingesters one waits here, and reads on from there."""
        found = _locked_position(name)
        if found is None:
            leases.register(name, host=self._host, at=at)
            found = _locked_position(name)
        assert found is not None  # it is registered  # noqa: S101
        return found

    def _book_frames(self, reader: JournalReader, batch: Batch, key: str, at: datetime) -> None:
        entries: list[_Entry] = []
        refused: list[_Refused] = []
        for item in batch.frames:
            read = self._read(item, reader)
            if isinstance(read, _Entry):
                entries.append(read)
            elif read is not None:
                refused.append(read)
        refused += self._book(entries, key=key, journal=reader.name, at=at)
        _keep(refused, journal=reader.name, at=at)

    def _read(self, item: Frame | Damage, reader: JournalReader) -> _Entry | _Refused | None:
        """What a frame says; None for a frame that its writer died writing."""
        if isinstance(item, Damage):
            if item.offset >= reader.page.written:
                return None  # nobody saw the end of that call; its slot is still open
            reason = "The checksum is wrong." if item.raw else "The log has a gap here."
            return _Refused(item.offset, item.raw, reason)
        try:
            settlement = records.decode_settlement(item.payload, self._price_of)
        except UnreadableRecord as error:
            return _Refused(item.offset, item.payload, str(error))
        return self._checked(_Entry(item.offset, item.payload, settlement))

    def _checked(self, entry: _Entry) -> _Entry | _Refused:
        """The entry, if it is of an organization of ours and its cost computes again.

        The database checks foreign keys when it commits: too late to refuse one record alone.
        """
        if not self._is_known(entry.organization_id):
            return _refused(entry, f"There is no organization {entry.organization_id}.")
        try:
            cost = records.cost_nanos(entry.settlement)
        except pricing.UnpricedBucket as error:
            return _refused(entry, f"The price has no rate for {error} tokens.")
        said = entry.cost_nanos
        if cost != said:
            return _refused(entry, f"It says {said} nano-dollars; its quantities cost {cost}.")
        return entry

    def _is_known(self, organization_id: int) -> bool:
        if organization_id not in self._organizations:
            self._organizations |= set(
                Organization.objects.filter(pk=organization_id).values_list("pk", flat=True)
            )
        return organization_id in self._organizations

    def _book(
        self, entries: Sequence[_Entry], *, journal: str, key: str, at: datetime
    ) -> list[_Refused]:
        """Book what is new; what the database refuses, found by halving, is given back."""
        if not entries:
            return []
        try:
            with transaction.atomic():
                _book_new(entries, journal=journal, key=key, at=at)
        except (IntegrityError, DataError, OverflowError) as error:
            if len(entries) == 1:
                return [_refused(entries[0], f"The database refuses it: {error}")]
            middle = len(entries) // 2
            return [
                *self._book(entries[:middle], journal=journal, key=f"{key}a", at=at),
                *self._book(entries[middle:], journal=journal, key=f"{key}b", at=at),
            ]
        return []

    # --- Dead writers ---------------------------------------------------------------------------
    def _finish_if_dead(self, reader: JournalReader, at: datetime) -> int:
        lock = place.take_lock(reader.directory)
        if lock is None:
            return 0
        with _closing(lock):
            return self._finish(reader, at)

    def _finish(self, reader: JournalReader, at: datetime) -> int:
        """Book what the dead writer left, return its leases, remove its files."""
        count = 0
        while booked := self._ingest_batch(reader, at, is_dead=True):
            count += booked
        with transaction.atomic():
            self._lock_position(reader.name, at)
            in_flight = list(self._in_flight(reader, at))
            entries = [each for each in in_flight if isinstance(each, _Entry)]
            refused = [each for each in in_flight if isinstance(each, _Refused)]
            failpoints.reach("ingest.in_recovery")
            key = f"{reader.name}:slots"
            refused += self._book(entries, journal=reader.name, key=key, at=at)
            _keep(refused, journal=reader.name, at=at)
            returned = leases.close(reader.name)
            Journal.objects.filter(name=reader.name).update(closed_at=at)
        log.info(
            "journal closed",
            journal=reader.name,
            interrupted_calls=len(in_flight),
            returned_nanos=returned,
        )
        del self._readers[reader.name]
        reader.close()
        reader.delete()
        return count + len(in_flight)

    def _in_flight(self, reader: JournalReader, at: datetime) -> Iterator[_Entry | _Refused]:
        for slot in reader.open_slots():
            # Slots have no place in the log: below zero they cannot be taken for one.
            position = -1 - slot.index
            try:
                opening = records.decode_opening(slot.description, self._price_of)
            except UnreadableRecord as error:
                yield _Refused(position, slot.description, str(error))
                continue
            try:
                settlement = _interrupted(opening, slot, at)
            except pricing.UnpricedBucket as error:
                reason = f"The price has no rate for {error} tokens."
                yield _Refused(position, slot.description, reason, opening.organization_id)
                continue
            yield self._checked(_Entry(position, slot.description, settlement))


def _locked_position(name: str) -> int | None:
    lock = "FOR UPDATE" if connection.features.has_select_for_update else ""
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT position FROM billing_journal WHERE name = %s {lock}", [name])  # noqa: S608
        found = cursor.fetchone()
    return found[0] if found else None


def _move(name: str, position: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("UPDATE billing_journal SET position = %s WHERE name = %s", [position, name])


def _interrupted(opening: Opening, slot: OpenSlot, at: datetime) -> Settlement:
    """How a call ended whose process died: charged by what had been relayed of it."""
    usage, source = calls.usage_at_end(
        slot.reported, pieces_relayed=slot.relayed, opening=opening, is_whole=False
    )
    elapsed = at - opening.started_at
    ending = Ending(
        status=UsageRecord.Status.CRASHED.value,
        http_status=503,
        usage=usage,
        usage_source=source,
        error_code="process_died",
        duration_ms=max(0, int(elapsed.total_seconds() * 1000)),
    )
    return records.settlement_of(opening, ending, calls.cost_nanos(opening, ending))


def _refused(entry: _Entry, reason: str) -> _Refused:
    return _Refused(entry.position, entry.raw, reason, entry.organization_id, entry.cost_nanos)


def _book_new(entries: Sequence[_Entry], *, journal: str, key: str, at: datetime) -> None:
    """Charge and record the calls that are not recorded yet."""
    known = usage_rows.known(entry.call_id for entry in entries)
    fresh: dict[bytes, _Entry] = {}
    for entry in entries:
        if entry.call_id not in known:
            fresh.setdefault(entry.call_id, entry)
    if not fresh:
        return
    posted = charges.post(_costs(fresh.values()), journal=journal, key=f"usage:{key}", at=at)
    failpoints.reach("ingest.after_charge")
    usage_rows.add((entry.settlement, _paid_by(entry, posted)) for entry in fresh.values())
    failpoints.reach("ingest.after_records")


def _costs(entries: Iterable[_Entry]) -> dict[int, int]:
    """Organization -> nano-dollars above zero."""
    costs: dict[int, int] = {}
    for entry in entries:
        if entry.cost_nanos:
            so_far = costs.get(entry.organization_id, 0)
            costs[entry.organization_id] = so_far + entry.cost_nanos
    return costs


def _paid_by(entry: _Entry, posted: Mapping[int, charges.Posted]) -> int | None:
    """The transfer that a record names; None for a call that cost nothing."""
    return posted[entry.organization_id].transfer_id if entry.cost_nanos else None


def _keep(refused: Sequence[_Refused], *, journal: str, at: datetime) -> None:
    """Dead letters: whole, with the reason, and loud."""
    for item in refused:
        log.error(
            "a journal's record cannot be booked",
            journal=journal,
            position=item.position,
            reason=item.reason,
            cost_nanos=item.cost_nanos,
        )
    DeadLetter.objects.bulk_create(
        [
            DeadLetter(
                journal_id=journal,
                position=item.position,
                raw=item.raw,
                reason=item.reason[:300],
                organization_id=item.organization_id,
                cost_nanos=min(item.cost_nanos, KEPT_NANOS_MAX),
                created_at=at,
            )
            for item in refused
        ],
        ignore_conflicts=True,
    )


@contextmanager
def _closing(descriptor: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(descriptor)
