"""A journal's directory: names, the lock, the shared page. What writer and readers agree on.

Must be on a real local file system: flock and shared memory mappings do not cross a network
(docs/operations.md says what to do without one).
"""

import fcntl
import mmap
import os
import struct
import time
from contextlib import suppress
from pathlib import Path

from orgs import failpoints

# Another layout of slots or records gets another number: a journal is read by what wrote it.
FORMAT = 1
PAGE_BYTES = 4096
# From making its directory to being ready a process takes milliseconds.
STARTING_SECONDS_MAX = 60.0
_HEAD = struct.Struct("=QQ")  # the first two of:
_FORMAT, _SEGMENT, _WRITTEN, _DURABLE, _INGESTED, _IS_FAILED = range(6)


class UnableToOpenJournal(Exception):
    """The directory cannot be made, locked or read; the message says which and why."""


class Page:
    """Counters shared between the process that writes a journal and whoever reads it.

    Positions are offsets in the log as a whole; each is written by one side only and grows.
    """

    def __init__(self, path: Path, *, segment_bytes: int = 0) -> None:
        """Map the page; with `segment_bytes`, make it. Raises OSError."""
        flags = os.O_RDWR | (os.O_CREAT if segment_bytes else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            if segment_bytes:
                os.posix_fallocate(descriptor, 0, PAGE_BYTES)
                os.pwrite(descriptor, _HEAD.pack(FORMAT, segment_bytes), 0)
                # After a power loss a page of zeros would make the whole log unreadable.
                os.fsync(descriptor)
            self._map = mmap.mmap(descriptor, PAGE_BYTES)
        finally:
            os.close(descriptor)
        self._words = memoryview(self._map).cast("Q")

    @property
    def format(self) -> int:
        """The layout that the journal was written in."""
        return self._words[_FORMAT]

    @property
    def segment_bytes(self) -> int:
        """How long each segment of the log is."""
        return self._words[_SEGMENT]

    @property
    def written(self) -> int:
        """Up to here whole frames are in the log."""
        return self._words[_WRITTEN]

    @written.setter
    def written(self, position: int) -> None:
        self._words[_WRITTEN] = position

    @property
    def durable(self) -> int:
        """Up to here the log survives a power loss."""
        return self._words[_DURABLE]

    @durable.setter
    def durable(self, position: int) -> None:
        self._words[_DURABLE] = max(position, self._words[_DURABLE])

    @property
    def ingested(self) -> int:
        """Up to here everything is committed to the database."""
        return self._words[_INGESTED]

    @ingested.setter
    def ingested(self, position: int) -> None:
        self._words[_INGESTED] = max(position, self._words[_INGESTED])

    @property
    def is_failed(self) -> bool:
        """Whether the disk has refused to make the log durable: nothing may be promised any more.

        PostgreSQL's lesson: a second fdatasync after a failed one may claim success for pages
        that were dropped (wiki.postgresql.org/wiki/Fsync_Errors).
        """
        return bool(self._words[_IS_FAILED])

    def fail(self) -> None:
        """The disk has refused."""
        self._words[_IS_FAILED] = 1

    def close(self) -> None:
        """Unmap."""
        self._words.release()
        self._map.close()


def segment_path(directory: Path, base: int) -> Path:
    """The segment of the log that begins at offset `base`."""
    return directory / f"log-{base:016x}"


def segment_bases(directory: Path) -> list[int]:
    """Where the segments begin that are there, ascending; none in a directory that is gone."""
    names: list[str] = []
    with suppress(FileNotFoundError):
        names = os.listdir(directory)
    return sorted(int(name[4:], 16) for name in names if name.startswith("log-"))


def take_lock(directory: Path) -> int | None:
    """The lock of a journal whose writer is gone, as an open file; None while it lives."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def hold_as_sidecar(root: Path) -> int:
    """Say, as long as the open file that is returned lives, that journals below are looked after.

    Makes the directory. A kernel lock, so that it ends with its process, however that ends.
    """
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    return descriptor


def has_sidecar(root: int) -> bool:
    """Whether somebody holds this directory, an open file of one's own, as its sidecar."""
    try:
        fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(root, fcntl.LOCK_UN)
    return False


def is_finished(directory: Path) -> bool:
    """Whether everything in it is booked, and whoever was removing it died over that."""
    return (directory / "finished").exists()


def is_abandoned(directory: Path) -> bool:
    """Whether it never became a journal, and the process that began to make it is gone."""
    lock = directory / "lock"
    if (directory / "ready").exists():  # the last thing that is made
        return False
    with suppress(FileNotFoundError):
        changed_at = (lock if lock.exists() else directory).stat().st_mtime
        if time.time() - changed_at > STARTING_SECONDS_MAX:
            descriptor = take_lock(directory)
            if descriptor is not None:
                os.close(descriptor)
                return True
    return False


def remove(directory: Path) -> None:
    """Remove a journal that is finished, whatever is left of it.

    It stops being a journal in one step, so that nobody reads what is half removed; killed on the
    way, it `is_finished` until it is gone.
    """
    with suppress(FileNotFoundError):
        (directory / "ready").rename(directory / "finished")
    failpoints.reach("ingest.in_removal")
    with suppress(OSError):  # another one removes it, too
        for path in directory.iterdir():
            if path.name != "finished":
                path.unlink()
        (directory / "finished").unlink(missing_ok=True)
        directory.rmdir()


def sync_directory(directory: Path) -> None:
    """Make names in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
