"""The reader's side of a journal: settlements from a position on, calls in flight of a dead writer.

Changes nothing but the page's `durable` and `ingested`, and, when a journal is finished, its files.
Must not know what a settlement means.
"""

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from billing.journal import directory as place
from billing.journal import frames
from billing.journal.directory import FORMAT, Page, UnableToOpenJournal
from billing.journal.frames import Damage, Frame
from billing.journal.slots import OpenSlot, SlotTable

READ_BYTES_MAX = frames.FRAME_BYTES_MAX * 256
# Items, and the position from which to read on.
_Read = tuple[list[Frame | Damage], int]


class UnableToOpen(Exception):
    """A file of the journal cannot be opened now. Says nothing about what is written in it."""


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

    def read(self, position: int, *, is_dead: bool, frames_max: int = 1000) -> Batch:
        """Frames from `position` on.

        Of a living writer only what it has declared written; of a dead one also what it had no
        time to declare. A torn frame at the end of a dead writer's log is Damage, and so is
        whatever was declared and is no frame, wherever it lies: nothing is skipped silently.
        """
        found: list[Frame | Damage] = []
        written = self.page.written
        while len(found) < frames_max and (position < written or is_dead):
            if position < written:
                items, end = self._declared(position, written, frames_max - len(found))
            else:
                items, end = self._undeclared(position, frames_max - len(found))
            found += items
            if end == position:
                break
            position = end
        return Batch(found, position)

    def _declared(self, position: int, written: int, wanted: int) -> "_Read":
        """Up to so many items of what the writer says it has written, and where to read on."""
        segment_end = self._segment_end(position)
        limit = min(segment_end, written)
        data = self._bytes(position, limit)
        if data is None:  # deleted: the position was set back, or somebody removed a file
            bases = place.segment_bases(self.directory)
            end = min([written, *(base for base in bases if base > position)])
            return [Damage(position, b"", end)], end
        items, end, rest = _decoded(data, position, wanted)
        if len(items) == wanted or not rest:
            return items, end
        if end + len(rest) < limit:  # the read ended inside it
            if end > position:
                return items, end
            rest = rest[: -frames.FRAME_BYTES_MAX]
        elif limit == segment_end and _is_unused_end(rest):
            return items, segment_end
        return [*items, Damage(end, rest, end + len(rest))], end + len(rest)

    def _undeclared(self, position: int, wanted: int) -> "_Read":
        """The same of what a dead writer had no time to declare."""
        segment_end = self._segment_end(position)
        data = self._bytes(position, segment_end)
        if data is None:
            return [], position
        items, end, rest = _decoded(data, position, wanted)
        if len(items) == wanted or (end > position and end + len(rest) < segment_end):
            return items, end
        if not frames.is_unwritten(rest):
            return [*items, Damage(end, rest.rstrip(b"\x00"), segment_end)], segment_end
        has_next = place.segment_path(self.directory, segment_end).exists()
        return items, segment_end if has_next else end

    def _segment_end(self, position: int) -> int:
        return position - position % self.page.segment_bytes + self.page.segment_bytes

    def _bytes(self, position: int, end: int) -> bytes | None:
        """What a segment holds in [position, end), as far as one read goes; None without it."""
        base = self._segment_end(position) - self.page.segment_bytes
        try:
            descriptor = os.open(place.segment_path(self.directory, base), os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            return os.pread(descriptor, min(end - position, READ_BYTES_MAX), position - base)
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
            for base in self._segment_bases():
                if self.page.durable < base + self.page.segment_bytes and base < position:
                    _sync_file(place.segment_path(self.directory, base))
        except UnableToOpen:
            return  # ingested and deleted meanwhile, or no file is left to open: nothing is lost
        except OSError:
            self.page.fail()
            raise
        self.page.durable = position

    def _segment_bases(self) -> list[int]:
        """Raises UnableToOpen: looking into a directory takes a file descriptor, too."""
        try:
            return place.segment_bases(self.directory)
        except OSError as error:
            raise UnableToOpen(str(self.directory)) from error

    def sync_slots(self) -> None:
        """Make the table of calls in flight durable: what a power loss may lose is this old.

        Raises UnableToOpen, OSError.
        """
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


def _decoded(data: bytes, position: int, wanted: int) -> tuple[list[Frame | Damage], int, bytes]:
    """Up to so many items of data from `position`, where they end, and what is no frame after."""
    items: list[Frame | Damage] = []
    end = position
    for item in frames.decode(data, position):
        following = _end_of(item)
        if following is None:
            break
        items.append(item)
        end = following
        if len(items) == wanted:
            break
    return items, end, data[end - position :]


def _end_of(item: Frame | Damage) -> int | None:
    if isinstance(item, Frame):
        return item.offset + frames.frame_bytes(item)
    return item.end


def _is_unused_end(rest: bytes) -> bool:
    """Whether a segment ends like this because the next frame did not fit into it."""
    return len(rest) < frames.FRAME_BYTES_MAX and frames.is_unwritten(rest)


def _sync_file(path: Path) -> None:
    """Raises UnableToOpen, and OSError when the disk has refused."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError as error:
        raise UnableToOpen(str(path)) from error
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
