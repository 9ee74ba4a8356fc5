"""The sidecar: makes journals durable within a millisecond, and books them soon after.

Two threads: one waits on the journals' FIFOs and syncs what is waited for; the other books, so that
a slow database holds up no answer. Run as `manage.py ingest_usage`, one per host, or beside the
event loop of the only web process. It may die at any moment: web processes see it by a kernel lock
and sync for themselves, and booking goes on where it stopped.
"""

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog
from django.db import Error as DatabaseError
from django.db import connection
from django.utils import timezone

from billing.ingest import Ingester
from billing.journal import directory
from billing.journal.directory import UnableToOpenJournal
from billing.journal.reader import JournalReader, UnableToOpen

log = structlog.get_logger(__name__)

DISCOVER_SECONDS = 0.1
BOOK_SECONDS = 0.05
# A transaction costs what booking a hundred calls does: when several come at once, wait for more.
BUSY_CALLS = 3
BUSY_BOOK_SECONDS = 0.5
FIND_DEAD_SECONDS = 0.5
SYNC_SLOTS_SECONDS = 0.25
RETRY_SECONDS_MAX = 5.0
# What a serving process writes into its FIFO.
SYNC_NOW, BOOK_NOW = b"\x01", b"\x02"


class Sidecar:
    """Syncs and books the journals below one directory until it is stopped."""

    def __init__(self, root: Path, *, host: str) -> None:
        """Nothing runs before `start`."""
        self._root = root
        self._ingester = Ingester(root, host=host)
        self._stops = threading.Event()
        self._books_now = threading.Event()
        self._syncer = threading.Thread(target=self._sync, name="journal-sync", daemon=True)
        self._booker = threading.Thread(target=self._book, name="journal-ingest", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._syncer.start()
        self._booker.start()

    def stop(self, seconds_max: float) -> None:
        """Book what is there once more, the journals of ended processes included, then end."""
        self._stops.set()
        self._books_now.set()
        deadline = time.monotonic() + seconds_max
        self._syncer.join(timeout=seconds_max)
        self._booker.join(timeout=max(0.0, deadline - time.monotonic()))
        if self._booker.is_alive():
            log.error("journals are not booked yet; the next start goes on", root=str(self._root))

    def wait(self) -> None:
        """Wait until it is stopped."""
        while not self._stops.wait(timeout=1.0):
            if not (self._syncer.is_alive() and self._booker.is_alive()):
                raise RuntimeError("A thread of the sidecar has ended.")

    # --- Durability -----------------------------------------------------------------------------
    def _sync(self) -> None:
        watched, held = _Watched(self._root), directory.hold_as_sidecar(self._root)
        try:
            while not self._stops.is_set():
                try:
                    wants_booking = watched.sync_when_woken()
                except OSError as error:  # no file is left to open: look again in a moment
                    log.error("journals cannot be watched now", error=str(error))
                    self._stops.wait(timeout=DISCOVER_SECONDS)
                    continue
                if wants_booking:
                    self._books_now.set()
        finally:
            os.close(held)
            watched.close()

    # --- Booking --------------------------------------------------------------------------------
    def _book(self) -> None:
        pause, looked_at = BOOK_SECONDS, 0.0
        try:
            while not self._stops.is_set():
                self._books_now.wait(timeout=pause)
                self._books_now.clear()
                looks = time.monotonic() - looked_at > FIND_DEAD_SECONDS
                looked_at = time.monotonic() if looks else looked_at
                pause = _pause(pause, self._try(looks))
            self._try(True)
        finally:
            self._ingester.close()
            connection.close()

    def _try(self, looks_for_dead: bool) -> int | None:
        """How many calls were there; None when they could not all be booked."""
        try:
            return self._ingester.ingest(timezone.now(), looks_for_dead=looks_for_dead)
        except DatabaseError as error:
            log.warning("usage cannot be booked now", error=str(error))
            with suppress(DatabaseError):
                connection.close()
        except Exception:
            # A bug must be loud, and must not end the thread: what it cannot book stays in the
            # journals.
            log.exception("booking usage failed")
        return None


def _pause(last: float, booked: int | None) -> float:
    """How long to wait after booking so many, and after having waited `last` before."""
    if booked is None:
        return min(last * 2, RETRY_SECONDS_MAX)
    return BOOK_SECONDS if booked < BUSY_CALLS else BUSY_BOOK_SECONDS


class _Watched:
    """The journals whose FIFOs are listened to."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._poll = select.poll()
        self._journals: dict[int, JournalReader] = {}
        self._names: set[str] = set()
        self._discovered_at = 0.0
        self._slots_at = 0.0

    def sync_when_woken(self) -> bool:
        """Wait for a wake-up, or a moment; sync what is written. Whether somebody wants booking."""
        self._discover()
        wants_booking = False
        for descriptor, _ in self._poll.poll(DISCOVER_SECONDS * 1000):
            with suppress(BlockingIOError):
                wants_booking |= BOOK_NOW in os.read(descriptor, 4096)
        self._each(JournalReader.sync)
        if time.monotonic() - self._slots_at > SYNC_SLOTS_SECONDS:
            self._slots_at = time.monotonic()
            self._each(JournalReader.sync_slots)
        return wants_booking

    def _each(self, sync: Callable[[JournalReader], None]) -> None:
        for reader in list(self._journals.values()):
            try:
                sync(reader)
            except UnableToOpen:
                continue  # removed meanwhile, which is discovered; or no file is left to open
            except OSError as error:
                log.critical(
                    "a journal cannot be made durable", journal=reader.name, error=str(error)
                )

    def _discover(self) -> None:
        if time.monotonic() - self._discovered_at < DISCOVER_SECONDS:
            return
        self._discovered_at = time.monotonic()
        names = {path.parent.name for path in self._root.glob("*/ready")}
        for descriptor, reader in list(self._journals.items()):
            if reader.name not in names:
                self._forget(descriptor)
        for name in names - self._names:
            with suppress(OSError, UnableToOpenJournal):
                reader = JournalReader(self._root / name)
                descriptor = os.open(self._root / name / "wake", os.O_RDWR | os.O_NONBLOCK)
                self._journals[descriptor] = reader
                self._names.add(name)
                self._poll.register(descriptor, select.POLLIN)

    def _forget(self, descriptor: int) -> None:
        reader = self._journals.pop(descriptor)
        self._names.discard(reader.name)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        reader.close()

    def close(self) -> None:
        for descriptor in list(self._journals):
            self._forget(descriptor)
