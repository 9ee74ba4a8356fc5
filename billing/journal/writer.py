"""The writer's side of a journal: one per serving process, used in its event loop's thread.

Owns preallocation: space for the settlement of every call in flight is on the disk before the call
is admitted, so a disk that fills up refuses new calls and loses none. Must not know leases, prices
or the database.
"""

import mmap
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import structlog

from billing.journal import directory as place
from billing.journal import frames
from billing.journal.directory import Page, UnableToOpenJournal
from billing.journal.slots import SLOT_BYTES, SlotTable
from orgs import failpoints

log = structlog.get_logger(__name__)


ALLOCATING_SECONDS_MAX = 1.0
# How old the figure of the disk's free space may be.
MEASURE_SECONDS = 1.0


class NoRoom(Exception):
    """The disk has no space for the settlement of another call, or too little for comfort."""


class JournalWriter:
    """A journal that this process writes; `name` is its directory's."""

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        segment_bytes: int,
        slot_count: int,
        free_bytes_min: int = 0,
    ) -> None:
        """Make and lock the directory. Raises UnableToOpenJournal.

        `free_bytes_min`: with less than that free on its disk, no further call finds room.
        """
        self.name = name
        self.directory = root / name
        self._segment_bytes = segment_bytes
        self._slot_count = slot_count
        self._free_bytes_min = free_bytes_min
        self._free_bytes = free_bytes_min
        self._measured_at = -MEASURE_SECONDS
        self._position = 0
        self._is_closed = False
        self._spare: int | None = None
        self._spare_lock = threading.Lock()
        self._allocating: threading.Thread | None = None
        try:
            self._make()
        except OSError as error:
            raise UnableToOpenJournal(f"{self.directory}: {error}") from error

    def _make(self) -> None:
        self.directory.mkdir(parents=True, mode=0o700)
        lock = place.take_lock(self.directory)
        if lock is None:
            raise UnableToOpenJournal(f"{self.directory} is locked by another process.")
        self._lock = lock
        self._root = os.open(self.directory.parent, os.O_RDONLY)
        self.page = Page(self.directory / "page", segment_bytes=self._segment_bytes)
        self._slots_map = self._map_slots()
        self.slots = SlotTable(memoryview(self._slots_map))
        self._base = 0
        self._log = self._allocate(0)
        os.mkfifo(self.directory / "wake", 0o600)
        # Read and write: opening the writing end alone would wait for a reader.
        self._wake = os.open(self.directory / "wake", os.O_RDWR | os.O_NONBLOCK)
        (self.directory / "ready").touch(mode=0o600)
        place.sync_directory(self.directory)
        place.sync_directory(self.directory.parent)

    def _map_slots(self) -> mmap.mmap:
        descriptor = os.open(self.directory / "slots", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._slot_count * SLOT_BYTES)
            return mmap.mmap(descriptor, self._slot_count * SLOT_BYTES)
        finally:
            os.close(descriptor)

    def _allocate(self, base: int) -> int:
        """A segment full of zeros, on the disk; its file. Raises OSError (no space)."""
        path = place.segment_path(self.directory, base)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self._segment_bytes)
            # Sizes and extents now, so that making a frame durable touches its data alone.
            os.fsync(descriptor)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return descriptor

    def require_room(self) -> None:
        """Make sure that one more call can be settled whatever the disk does. Raises NoRoom."""
        self._require_free_space()
        needed = (self._slot_count - self.slots.free_count + 2) * frames.FRAME_BYTES_MAX
        left = self._base + self._segment_bytes - self._position
        if self._spare is None and left < self._segment_bytes // 2:
            self._begin_allocating()
        if left >= needed:
            return
        if self._spare is None and self._allocating is not None:
            # About to refuse: rather stand still for the milliseconds that this takes.
            self._allocating.join(ALLOCATING_SECONDS_MAX)
        if self._spare is None or left + self._segment_bytes < needed:
            raise NoRoom(f"{left} bytes are left in {self.directory}.")

    def _require_free_space(self) -> None:
        """Stop before the disk is full: its other users, and calls in flight, need the rest.

        What fills it may be this journal: settlements that nobody books pile up.
        """
        now = time.monotonic()
        if now - self._measured_at >= MEASURE_SECONDS:
            self._measured_at = now
            disk = os.statvfs(self.directory)
            had_enough = self._free_bytes >= self._free_bytes_min
            self._free_bytes = disk.f_bavail * disk.f_frsize
            if had_enough and self._free_bytes < self._free_bytes_min:
                log.error(
                    "the journal's disk is almost full: calls are refused",
                    free_bytes=self._free_bytes,
                    free_bytes_min=self._free_bytes_min,
                )
        if self._free_bytes < self._free_bytes_min:
            raise NoRoom(
                f"{self._free_bytes} bytes are free on the disk of {self.directory},"
                f" and JOURNAL_FREE_BYTES_MIN is {self._free_bytes_min}."
            )

    def _begin_allocating(self) -> None:
        """Prepare the next segment in a thread: it may take milliseconds."""
        if self._allocating is None or not self._allocating.is_alive():
            self._allocating = threading.Thread(target=self._allocate_spare, daemon=True)
            self._allocating.start()

    def _allocate_spare(self) -> None:
        with self._spare_lock:
            if self._spare is not None:
                return
            try:
                self._spare = self._allocate(self._base + self._segment_bytes)
            except OSError as error:
                log.error("the journal's disk is full", error=str(error), journal=self.name)

    def append(self, payload: bytes) -> int:
        """Add a settlement; the position after it. Raises OSError, frames.FrameTooLong.

        On return the frame survives the death of this process; `page.durable` says when it
        survives a power loss.
        """
        frame = frames.encode(payload)
        if self._position + len(frame) > self._base + self._segment_bytes:
            self._next_segment()
        failpoints.reach("web.before_settle_write")
        at = self._position - self._base
        written = os.pwrite(self._log, frame, at)
        while written < len(frame):
            written += os.pwrite(self._log, frame[written:], at + written)
        self._position += len(frame)
        self.page.written = self._position
        failpoints.reach("web.after_settle_write")
        return self._position

    def _next_segment(self) -> None:
        base = self._base + self._segment_bytes
        with self._spare_lock:
            following = self._spare if self._spare is not None else self._allocate(base)
            self._spare = None
            # What follows is made durable by the new file alone: the old one must be whole first.
            os.fdatasync(self._log)
            os.close(self._log)
            self._log, self._base, self._position = following, base, base

    def wake(self, signal: bytes) -> None:
        """Tell whoever makes the log durable that somebody waits."""
        with suppress(BlockingIOError):  # the pipe is full of reminders
            os.write(self._wake, signal)

    def has_sidecar(self) -> bool:
        """Whether there is a process that makes the log durable when it is woken."""
        return place.has_sidecar(self._root)

    def sync(self) -> None:
        """Make everything written durable, here and now. Raises OSError: then stop serving."""
        position = self.page.written
        try:
            os.fdatasync(self._log)
        except OSError:
            self.page.fail()
            raise
        self.page.durable = position

    def close(self) -> None:
        """Let go of the lock: whoever ingests will find no writer, and tidy up. Once is enough."""
        if self._is_closed:
            return
        self._is_closed = True
        with self._spare_lock:
            if self._spare is not None:
                os.close(self._spare)
                self._spare = None
        self.slots.release()
        self._slots_map.close()
        self.page.close()
        for descriptor in (self._log, self._wake, self._root, self._lock):
            os.close(descriptor)
