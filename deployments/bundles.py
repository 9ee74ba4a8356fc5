"""Unpacking uploaded zips that nobody vouches for.

Pure: files in, files out. Owns every rule about what an archive may contain and how much it may
expand to. Must not know what the files mean (layout.py) or where they end up (releases.py).

Python's own `extract` is never called: it writes symlinks as files, lets the last of two equal
names win, keeps case collisions, and Python before 3.11.8 unpacks entries that share one body, so
that ten kilobytes become hundreds of megabytes. Only zipfile's reader of the central directory is
used; bodies are inflated here, counting the bytes that really come out.
"""

import os
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MIB = 1024 * 1024
ENTRIES_MAX = 10_000
FOLDERS_MAX = 20_000  # a single name can stand for 250 of them
NAME_BYTES_MAX = 512
SEGMENT_BYTES_MAX = 255
COMMENT_BYTES_MAX = 1024
CHUNK_BYTES = 64 * 1024
# What the platform itself puts beside a bundle's files; no entry may have that name.
RESERVED_FOLDER = ".platform"
# Characters that turn the reading order of what follows, so that a name looks like another one
# (Unicode Standard Annex 9), and the two that end a line or a paragraph.
DECEPTIVE = frozenset(
    "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
# Ten thousand entries with the longest names and ordinary extra fields need less than this.
DIRECTORY_BYTES_MAX = 8 * MIB

FLAG_ENCRYPTED = 0x1 | 0x40 | 0x2000  # traditional, strong, masked headers (APPNOTE 4.4.4)
FLAG_PATCH = 0x20
FLAG_DESCRIPTOR = 0x8  # checksum and sizes follow the body, in place of the local header
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # APPNOTE 4.3.7
LOCAL_SIGNATURE = b"PK\x03\x04"
END_BYTES, END_SIGNATURE = 22, b"PK\x05\x06"  # APPNOTE 4.3.16
DESCRIPTOR_SIGNATURE = b"PK\x07\x08"
# Checksum, compressed and plain size: 4.3.9 and its zip64 form.
DESCRIPTORS = (struct.Struct("<3I"), struct.Struct("<IQQ"))
ELSEWHERE = 0xFFFFFFFF  # a size that stands in the zip64 field
DIFFERS = "is described differently at two places of the zip"
METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}


class UnableToReadBundle(Exception):
    """The archive is damaged, hostile or too big; the message names the entry and the rule."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How much may come out of one archive; bytes are counted as they appear, never believed."""

    file_bytes_max: int = 100 * MIB
    total_bytes_max: int = 250 * MIB  # AWS Lambda's limit for an unpacked deployment
    ratio_max: int = 200
    ratio_applies_from_bytes: int = MIB


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What came out: files and their bytes in total."""

    file_count: int
    byte_count: int


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of the archive, with its body's place verified."""

    name: str
    info: zipfile.ZipInfo
    body_offset: int


class _BoundedReads:
    """A seekable file that refuses a single read of more than DIRECTORY_BYTES_MAX.

    zipfile reads the central directory in one read of the size the archive claims, and makes an
    object per entry before anyone can count them.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek = file.seek
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        if size > DIRECTORY_BYTES_MAX:
            raise UnableToReadBundle(
                f"The zip's directory is larger than {DIRECTORY_BYTES_MAX // MIB} MB; a bundle may "
                f"have at most {ENTRIES_MAX:,} entries."
            )
        return self._file.read(size)

    def seekable(self) -> bool:
        return True


def unpack(bundle: BinaryIO, into: Path, budget: Budget | None = None) -> Unpacked:
    """Write the files of the zip `bundle` below the empty folder `into`, mode 0644.

    `bundle` must be seekable. Raises UnableToReadBundle; `into` may then hold some files, and the
    caller removes it. The caller also syncs it and renames it into place.
    """
    if any(into.iterdir()):
        raise ValueError(f"{into} is not empty.")
    budget = budget or Budget()
    archive, infos = _read_directory(bundle)
    _check_edges(bundle, archive, infos)
    folders = _check_names(infos)
    entries = _locate_bodies(bundle, infos, directory_offset=archive.start_dir)
    for folder in sorted(folders):  # a parent sorts before what is in it
        (into / folder).mkdir(exist_ok=True)
        (into / folder).chmod(0o755)
    written = 0
    for entry in entries:
        written += _write(bundle, entry, into, budget, room=budget.total_bytes_max - written)
    return Unpacked(file_count=len(entries), byte_count=written)


def _read_directory(bundle: BinaryIO) -> tuple[zipfile.ZipFile, list[zipfile.ZipInfo]]:
    try:
        archive = zipfile.ZipFile(_BoundedReads(bundle))
    except UnicodeDecodeError:
        raise UnableToReadBundle("The zip has an entry whose name is not valid UTF-8.") from None
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OSError) as error:
        raise UnableToReadBundle(f"The upload is not a readable zip file ({error}).") from None
    infos = archive.infolist()
    if not infos:
        raise UnableToReadBundle("The zip is empty.")
    if len(infos) > ENTRIES_MAX:
        raise UnableToReadBundle(
            f"The zip has {len(infos):,} entries; at most {ENTRIES_MAX:,} are allowed."
        )
    return archive, infos


def _check_edges(bundle: BinaryIO, archive: zipfile.ZipFile, infos: list[zipfile.ZipInfo]) -> None:
    """Nothing before the first entry, nothing behind the end, no long comment.

    Readers disagree about which directory of such a file counts: what one of them checked is not
    what another one would unpack.
    """
    if min(info.header_offset for info in infos) != 0:
        raise UnableToReadBundle("The zip has data before its first entry.")
    if len(archive.comment) > COMMENT_BYTES_MAX:
        raise UnableToReadBundle(f"The zip's comment is longer than {COMMENT_BYTES_MAX:,} bytes.")
    bundle.seek(-END_BYTES - len(archive.comment), os.SEEK_END)
    if not bundle.read(END_BYTES).startswith(END_SIGNATURE):
        raise UnableToReadBundle("The zip has data behind its end.")


def _refuse(name: str, problem: str) -> UnableToReadBundle:
    shown = name if len(name) <= 200 else name[:200] + "…"
    return UnableToReadBundle(f"Entry {shown!r}: {problem}")


# --- Names -----------------------------------------------------------------------------------


def _check_names(infos: list[zipfile.ZipInfo]) -> set[str]:
    """Every folder the archive needs. Raises UnableToReadBundle on any unsafe or doubtful name."""
    files: dict[str, str] = {}
    folders: set[str] = set()
    for info in infos:
        name = info.orig_filename  # zipfile cuts `filename` at a NUL
        _check_kind(name, info)
        _check_name(name)
        path = name.removesuffix("/")
        if name.endswith("/"):
            folders.update(_steps(path))
        else:
            folders.update(_steps(path.rpartition("/")[0]))
            twin = files.get(path.casefold())
            if twin is not None:
                raise _refuse(name, f"has the same name as {twin!r} (upper and lower case ignored)")
            files[path.casefold()] = name
        if len(folders) > FOLDERS_MAX:
            raise UnableToReadBundle(f"The zip has more than {FOLDERS_MAX:,} folders.")
    for folder in folders:
        if folder.casefold() in files:
            raise _refuse(files[folder.casefold()], "is both a file and a folder")
    return folders


def _steps(folder: str) -> Iterator[str]:
    """`a/b/c` as `a`, `a/b`, `a/b/c`; nothing for the top."""
    parts = folder.split("/") if folder else []
    return ("/".join(parts[: count + 1]) for count in range(len(parts)))


def _check_name(name: str) -> None:
    if not name:
        raise _refuse(name, "has no name")
    if len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES_MAX:
        raise _refuse(name, f"the name is longer than {NAME_BYTES_MAX} bytes")
    if name.startswith("/"):
        raise _refuse(name, "the path is absolute")
    _check_characters(name)
    if name.split("/")[0].casefold() == RESERVED_FOLDER:
        raise _refuse(name, f"the name {RESERVED_FOLDER} at the top is the platform's own")
    for segment in name.removesuffix("/").split("/"):
        if segment in {"", ".", ".."}:
            raise _refuse(name, f"the path contains {segment!r} as a step")
        if len(segment.encode()) > SEGMENT_BYTES_MAX:
            raise _refuse(name, f"a step of the path is longer than {SEGMENT_BYTES_MAX} bytes")


def _check_characters(name: str) -> None:
    if "\\" in name or ":" in name:
        raise _refuse(name, "the name contains a backslash or colon; separate folders with /")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in name):
        raise _refuse(name, "the name contains a control character")
    if DECEPTIVE & set(name):
        raise _refuse(name, "the name contains a character that hides how it reads")
    if unicodedata.normalize("NFC", name) != name:
        raise _refuse(name, "the name is not in Unicode normal form C")


def _check_kind(name: str, info: zipfile.ZipInfo) -> None:
    """Only plain files and folders, unencrypted, stored or deflated."""
    if info.flag_bits & FLAG_ENCRYPTED:
        raise _refuse(name, "is encrypted")
    if info.flag_bits & FLAG_PATCH or info.compress_type not in METHODS:
        raise _refuse(name, "uses a compression method other than store or deflate")
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if kind == stat.S_IFLNK:
        raise _refuse(name, "is a symbolic link; put the file itself into the zip")
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise _refuse(name, "is neither a file nor a folder")
    if kind == stat.S_IFREG and mode & (stat.S_ISUID | stat.S_ISGID):
        raise _refuse(name, "has the set-user-id or set-group-id bit")
    is_folder = name.endswith("/")
    if kind and (kind == stat.S_IFDIR) != is_folder:
        raise _refuse(name, "is a folder by its mode or its name, but not by both")
    if is_folder and info.file_size:
        raise _refuse(name, "is a folder with content")


# --- Bodies ----------------------------------------------------------------------------------


def _locate_bodies(
    bundle: BinaryIO, infos: list[zipfile.ZipInfo], *, directory_offset: int
) -> list[_Entry]:
    """The files in the order of their bodies, after checking that no two share a byte."""
    entries = []
    free_from = 0
    previous = ""
    for info in sorted(infos, key=lambda one: one.header_offset):
        name = info.orig_filename
        if info.header_offset < free_from:
            raise _refuse(
                name, f"overlaps {repr(previous) if previous else 'the start of the zip'}"
            )
        body_offset = _body_offset(bundle, info)
        free_from = body_offset + info.compress_size
        if info.flag_bits & FLAG_DESCRIPTOR:
            free_from += _descriptor_bytes(bundle, info, at=free_from)
        if free_from > directory_offset:
            raise _refuse(name, "reaches into the zip's directory")
        previous = name
        if not name.endswith("/"):
            entries.append(_Entry(name, info, body_offset))
    return entries


def _body_offset(bundle: BinaryIO, info: zipfile.ZipInfo) -> int:
    """Where the body starts, by the local header, which must agree with the central directory."""
    bundle.seek(info.header_offset)
    raw = bundle.read(LOCAL_HEADER.size)
    if len(raw) < LOCAL_HEADER.size or not raw.startswith(LOCAL_SIGNATURE):
        raise _refuse(info.orig_filename, "has no header where the zip's directory says")
    _, _, flags, method, _, _, checksum, packed, plain, name_length, extra_length = (
        LOCAL_HEADER.unpack(raw)
    )
    try:
        local_name = bundle.read(name_length).decode("utf-8" if flags & 0x800 else "cp437")
    except UnicodeDecodeError:
        local_name = ""
    differs = local_name != info.orig_filename or method != info.compress_type
    if (flags ^ info.flag_bits) & (FLAG_DESCRIPTOR | FLAG_ENCRYPTED):
        differs = True
    if not flags & FLAG_DESCRIPTOR:
        differs |= checksum != info.CRC
        differs |= packed not in {info.compress_size, ELSEWHERE}
        differs |= plain not in {info.file_size, ELSEWHERE}
    if differs:
        raise _refuse(info.orig_filename, DIFFERS)
    return info.header_offset + LOCAL_HEADER.size + int(name_length) + int(extra_length)


def _descriptor_bytes(bundle: BinaryIO, info: zipfile.ZipInfo, *, at: int) -> int:
    """Length of the descriptor behind a body, which must agree with the central directory."""
    expected = (info.CRC, info.compress_size, info.file_size)
    bundle.seek(at)
    raw = bundle.read(len(DESCRIPTOR_SIGNATURE) + max(form.size for form in DESCRIPTORS))
    for start in (len(DESCRIPTOR_SIGNATURE), 0):  # the signature is optional
        if start and not raw.startswith(DESCRIPTOR_SIGNATURE):
            continue
        for form in DESCRIPTORS:
            if len(raw) >= start + form.size and form.unpack_from(raw, start) == expected:
                return start + form.size
    raise _refuse(info.orig_filename, DIFFERS)


def _write(bundle: BinaryIO, entry: _Entry, into: Path, budget: Budget, *, room: int) -> int:
    """Write one file; the bytes written. Raises UnableToReadBundle as soon as a limit is passed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        handle = os.open(into / entry.name, flags, 0o644)
    except FileExistsError:  # a file system that folds more names together than we do
        raise _refuse(entry.name, "has the same name as another entry") from None
    written = 0
    checksum = 0
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), 0o644)  # whatever the umask: another user runs the functions
        for piece in _inflated(bundle, entry):
            written += len(piece)
            _check_budget(entry, written, budget, room)
            checksum = zlib.crc32(piece, checksum)
            file.write(piece)
    if written != entry.info.file_size or checksum != entry.info.CRC:
        raise _refuse(entry.name, "is damaged: size or checksum differ from the zip's directory")
    return written


def _check_budget(entry: _Entry, written: int, budget: Budget, room: int) -> None:
    if written > budget.file_bytes_max:
        raise _refuse(entry.name, f"is larger than {budget.file_bytes_max // MIB} MB when unpacked")
    if written > room:
        raise _refuse(
            entry.name,
            f"with it the bundle is larger than {budget.total_bytes_max // MIB} MB when unpacked",
        )
    compressed = max(entry.info.compress_size, 1)
    if written > budget.ratio_applies_from_bytes and written > budget.ratio_max * compressed:
        raise _refuse(entry.name, f"expands to more than {budget.ratio_max} times its size")


def _inflated(bundle: BinaryIO, entry: _Entry) -> Iterator[bytes]:
    """The content in pieces of at most CHUNK_BYTES. Raises UnableToReadBundle."""
    if entry.info.compress_type == zipfile.ZIP_STORED:
        yield from _stored(bundle, entry)
        return
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for raw in _stored(bundle, entry):
            waiting = raw
            while waiting:
                yield inflater.decompress(waiting, CHUNK_BYTES)
                waiting = inflater.unconsumed_tail
            if inflater.eof:
                break
        while piece := inflater.decompress(b"", CHUNK_BYTES):
            yield piece
    except zlib.error as error:
        raise _refuse(entry.name, f"is damaged ({error})") from None
    if not inflater.eof:
        raise _refuse(entry.name, "is damaged: its data ends too early")


def _stored(bundle: BinaryIO, entry: _Entry) -> Iterator[bytes]:
    """The body as it is in the zip, in pieces."""
    bundle.seek(entry.body_offset)
    left = entry.info.compress_size
    while left:
        piece = bundle.read(min(left, CHUNK_BYTES))
        if not piece:
            raise _refuse(entry.name, "is damaged: the zip ends inside it")
        left -= len(piece)
        yield piece


def sync_path(path: str | Path) -> None:
    """One file or folder on the disk (fsync)."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
