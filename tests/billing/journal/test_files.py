"""A journal on a disk: what one process writes, another reads, while it lives and after."""

import os
import subprocess
import sys

import pytest

from billing.journal import directory as place
from billing.journal import frames
from billing.journal.directory import UnableToOpenJournal
from billing.journal.frames import Damage, Frame
from billing.journal.reader import JournalReader, UnableToOpen
from billing.journal.writer import JournalWriter, NoRoom

SEGMENT = 64 * 1024


@pytest.fixture
def make_writer(tmp_path):
    made = []

    def make(name="here-1", **options):
        writer = JournalWriter(
            tmp_path, name, **{"segment_bytes": SEGMENT, "slot_count": 4, **options}
        )
        made.append(writer)
        return writer

    yield make
    for writer in made:
        writer.close()


@pytest.fixture
def writer(make_writer):
    return make_writer()


@pytest.fixture
def reader(writer):
    reader = JournalReader(writer.directory)
    yield reader
    reader.close()


def payloads(batch):
    return [item.payload for item in batch.frames if isinstance(item, Frame)]


def test_a_reader_follows_the_writer(writer, reader):
    assert reader.read(0, is_dead=False).frames == []
    writer.append(b"one")
    first = reader.read(0, is_dead=False)
    assert payloads(first) == [b"one"]
    end = writer.append(b"two")
    second = reader.read(first.end, is_dead=False)
    assert payloads(second) == [b"two"]
    assert second.end == end == reader.page.written


def test_frames_never_span_segments_and_none_is_lost_between_them(writer, reader):
    written = [os.urandom(3000) for _ in range(60)]
    for payload in written:
        writer.require_room()
        writer.append(payload)
    read, position = [], 0
    while batch := reader.read(position, is_dead=False, frames_max=7):
        if not batch.frames:
            break
        read += payloads(batch)
        position = batch.end
    assert read == written
    assert place.segment_bases(writer.directory)[:3] == [0, SEGMENT, 2 * SEGMENT]
    reader.delete_segments_before(position)
    assert place.segment_bases(writer.directory)[0] == position - position % SEGMENT


def test_a_large_log_is_read_in_several_reads(make_writer):
    writer = make_writer("large-1", segment_bytes=8 * 1024 * 1024)
    written = [bytes([number % 251]) * 4000 for number in range(700)]
    for payload in written:
        writer.append(payload)
    reader = JournalReader(writer.directory)
    assert payloads(reader.read(0, is_dead=False, frames_max=10_000)) == written
    assert payloads(reader.read(0, is_dead=True, frames_max=10_000)) == written
    reader.close()


def test_a_dead_writers_undeclared_frame_counts_and_its_torn_one_does_not(writer, reader):
    writer.append(b"declared")
    whole, torn = frames.encode(b"undeclared"), frames.encode(b"torn apart")
    os.pwrite(writer._log, whole + torn[:-3], reader.page.written)
    assert payloads(reader.read(0, is_dead=False)) == [b"declared"]
    dead = reader.read(0, is_dead=True)
    assert payloads(dead) == [b"declared", b"undeclared"]
    assert isinstance(dead.frames[-1], Damage)
    assert dead.frames[-1].offset > reader.page.written


def test_the_lock_tells_a_living_writer_from_a_dead_one(writer):
    assert place.take_lock(writer.directory) is None
    dead = subprocess.run(
        [
            sys.executable,
            "-c",
            "import os, pathlib, sys\n"
            "from billing.journal.writer import JournalWriter\n"
            "writer = JournalWriter(pathlib.Path(sys.argv[1]), 'dead-1', segment_bytes=65536,\n"
            "                       slot_count=4)\n"
            "writer.append(b'last words')\n"
            "os.kill(os.getpid(), 9)\n",
            str(writer.directory.parent),
        ],
        check=False,
    )
    assert dead.returncode == -9
    reader = JournalReader(writer.directory.parent / "dead-1")
    lock = place.take_lock(reader.directory)
    assert lock is not None
    os.close(lock)
    assert payloads(reader.read(0, is_dead=True)) == [b"last words"]
    reader.close()


def test_syncing_says_how_far_the_log_is_durable(writer, reader):
    end = writer.append(b"one")
    assert writer.page.durable == 0
    reader.sync()
    assert writer.page.durable == end
    writer.sync()
    assert writer.page.durable == end


@pytest.mark.parametrize("call", ["open", "listdir"])
def test_a_file_that_cannot_be_opened_is_no_failed_sync(writer, reader, monkeypatch, call):
    """A process that has no descriptor left for a moment is not a disk that loses what it took."""
    end = writer.append(b"one")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, refuse_to_open)
        reader.sync()
    assert (reader.page.is_failed, reader.page.durable) == (False, 0)
    reader.sync()
    assert reader.page.durable == end


def test_slots_that_cannot_be_opened_are_told_from_a_failed_sync(writer, reader, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse_to_open)
        with pytest.raises(UnableToOpen):
            reader.sync_slots()


def refuse_to_open(*_):
    raise OSError(24, "Too many open files")


def test_a_page_says_what_it_is_before_the_journal_is_ready(make_writer, monkeypatch, tmp_path):
    """A power loss soon after the start leaves a log that can be read."""
    synced = {}
    fsync = os.fsync

    def note(descriptor):
        synced[os.readlink(f"/proc/self/fd/{descriptor}")] = os.pread(descriptor, 16, 0)
        fsync(descriptor)

    monkeypatch.setattr(place.os, "fsync", note)
    monkeypatch.setattr(place, "sync_directory", lambda _: None)
    writer = make_writer("fresh-1")
    head = synced[str(writer.directory / "page")]
    assert head == place.FORMAT.to_bytes(8, "little") + SEGMENT.to_bytes(8, "little")


def test_a_failed_sync_is_final(writer, reader, monkeypatch):
    writer.append(b"one")

    def broken(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="Input/output"):
        reader.sync()
    monkeypatch.undo()
    assert writer.page.is_failed
    reader.sync()
    assert writer.page.durable == 0


def test_a_full_disk_refuses_new_calls_and_takes_what_is_in_flight(make_writer, monkeypatch):
    writer = make_writer("full-1", slot_count=2)
    writer.slots.open(b"call")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)

    def fill():
        while True:
            writer.require_room()
            writer.append(bytes(4000))

    with pytest.raises(NoRoom):
        fill()
    for _ in range(2):
        writer.append(bytes(frames.FRAME_BYTES_MAX - frames.HEADER.size))


def test_a_disk_below_its_watermark_refuses_new_calls_and_takes_what_runs(make_writer, tmp_path):
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    writer = make_writer("low-1", free_bytes_min=free + 2**30)
    with pytest.raises(NoRoom, match="JOURNAL_FREE_BYTES_MIN"):
        writer.require_room()
    writer.append(b"what runs is settled")
    enough = make_writer("enough-1", free_bytes_min=free // 2)
    enough.require_room()


def test_a_journal_of_another_format_is_left_alone(writer):
    with (writer.directory / "page").open("r+b") as page:
        page.write((99).to_bytes(8, "little"))
    with pytest.raises(UnableToOpenJournal, match="format 99"):
        JournalReader(writer.directory)


def test_a_name_is_taken_once(make_writer, writer):
    with pytest.raises(UnableToOpenJournal):
        make_writer("here-1")
