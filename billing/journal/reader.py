"""The reader's side of a journal: settlements from a position on, calls in flight of a dead writer.

Changes nothing but the page's `durable` and `ingested`, and, when a journal is finished, its files.
Must not know what a settlement means.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from billing.journal import directory as place
from billing.journal import frames
from billing.journal.directory import FORMAT, Page, UnableToOpenJournal
from billing.journal.frames import Damage, Frame
from billing.journal.slots import OpenSlot, SlotTable


@dataclass(frozen=True, slots=True)
class Batch:
    """Frames in order, and the position from which to read on."""

    frames: list[Frame | Damage]
    end: int


class JournalReader:
    """A journal's files as one that does not write them sees them."""

    def __init__(self, directory: Path) -> None:
        """Raises UnableToOpenJournal (also for a journal of another format)."""
        self.name = directory.name
        self.directory = directory
        try:
            self.page = Page(directory / "page")
        except (OSError, ValueError) as error:
            raise UnableToOpenJournal(f"{directory}: {error}") from error
        if self.page.format != FORMAT:
            raise UnableToOpenJournal(
                f"{directory} was written in format {self.page.format}; this version reads "
                f"{FORMAT}. Ingest it with the version that wrote it."
            )
        self._synced: dict[int, int] = {}

    def read(self, position: int, *, is_dead: bool, frames_max: int = 1000) -> Batch:
        """Frames from `position` on.

        Of a living writer only what it has declared written; of a dead one also what it had no
        time to declare. A torn frame at the end of a dead writer's log is Damage.
        """
        found: list[Frame | Damage] = []
        limit = None if is_dead else self.page.written
        while len(found) < frames_max and (limit is None or position < limit):
            base = position - position % self.page.segment_bytes
            data = self._segment(base, position, limit)
            if data is None:
                break
            # One more than is wanted, which may turn out to be cut short.
            wanted = frames_max - len(found)
            items = list(islice(frames.decode(data, position), wanted + 1))
            if len(items) > 1 and _is_cut_short(items[-1], base + self.page.segment_bytes, limit):
                items.pop()  # it ends in what the next read brings
            for item in items[:wanted]:
                found.append(item)
                position = _end_of(item, base + self.page.segment_bytes)
            if items and position < base + self.page.segment_bytes:
                continue
            following = base + self.page.segment_bytes
            if not place.segment_path(self.directory, following).exists():
                break
            if limit is not None and following > limit:
                break
            position = following
        return Batch(found, position)

    def _segment(self, base: int, position: int, limit: int | None) -> bytes | None:
        """What a segment holds from `position` on; None when there is no such segment."""
        end = base + self.page.segment_bytes
        if limit is not None:
            end = min(end, limit)
        try:
            descriptor = os.open(place.segment_path(self.directory, base), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            length = min(end - position, frames.FRAME_BYTES_MAX * 256)
            return os.pread(descriptor, length, position - base)
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        """Make what the writer has written durable, and say so. Raises OSError.

        A failed sync is final: the page is marked, and the writer stops serving.
        """
        position = self.page.written
        if position <= self.page.durable or self.page.is_failed:
            return
        try:
            for base in place.segment_bases(self.directory):
                if self.page.durable < base + self.page.segment_bytes and base < position:
                    _sync_file(place.segment_path(self.directory, base))
        except FileNotFoundError:
            return  # ingested and deleted meanwhile
        except OSError:
            self.page.fail()
            raise
        self.page.durable = position

    def sync_slots(self) -> None:
        """Make the table of calls in flight durable: what a power loss may lose is this old."""
        _sync_file(self.directory / "slots")

    def open_slots(self) -> Iterator[OpenSlot]:
        """Calls that were in flight when the writer died."""
        descriptor = os.open(self.directory / "slots", os.O_RDWR)
        try:
            mapping = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        table = SlotTable(memoryview(mapping))
        try:
            yield from list(table.scan())
        finally:
            table.release()
            mapping.close()

    def delete_segments_before(self, position: int) -> None:
        """Delete segments whose every frame has been ingested."""
        for base in place.segment_bases(self.directory):
            if base + self.page.segment_bytes <= position:
                place.segment_path(self.directory, base).unlink(missing_ok=True)

    def delete(self) -> None:
        """Remove a finished journal's directory."""
        place.remove(self.directory)

    def close(self) -> None:
        """Unmap."""
        self.page.close()


def _is_cut_short(item: Frame | Damage, segment_end: int, limit: int | None) -> bool:
    """Whether this looks damaged only because the read ended inside it."""
    if isinstance(item, Frame) or item.end is not None:
        return False
    end = segment_end if limit is None else min(segment_end, limit)
    return item.offset + len(item.raw) < end


def _end_of(item: Frame | Damage, segment_end: int) -> int:
    """Where the next frame begins; after damage without an end, nothing in the segment counts."""
    if isinstance(item, Frame):
        return item.offset + frames.frame_bytes(item)
    return segment_end if item.end is None else item.end


def _sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
