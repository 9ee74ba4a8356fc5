"""The index of a release's static files: written once when it is unpacked, read by who serves it.

Owns the folder `.platform` of a release: `static.json` with every file's size and digest, and the
compressed copies beside it. Pure: files below one folder. Everything follows from the content, so
two hosts that unpack the same bundle agree about every validator. Must not know HTTP.
"""

import gzip
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import brotli

from deployments import bundles, mediatypes

FOLDER = bundles.RESERVED_FOLDER
INDEX = "static.json"
STATIC = "static"
DIGEST_CHARACTERS = 32  # 128 bits of SHA-256
# Below, headers outweigh what is saved; above, a file would take seconds.
COMPRESSED_BYTES_MIN = 1024
COMPRESSED_BYTES_MAX = 8 * bundles.MIB
# Of all files of one bundle; at 10 MB a second and more.
COMPRESSED_TOTAL_BYTES_MAX = 48 * bundles.MIB
SAVED_SHARE_MIN = 0.05
BROTLI_QUALITY = 9  # 11 is thirty times as slow for 8 % less
GZIP_LEVEL = 9
# In the order in which they are preferred.
ENCODINGS = ("br", "gzip")


class UnableToReadIndex(Exception):
    """The release's files are missing, or were unpacked without an index."""


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A regular file of a release."""

    name: str  # below static/, with forward slashes
    size: int
    digest: str
    encoded_sizes: Mapping[str, int] = field(default_factory=dict)  # by encoding


def write(release: Path) -> None:
    """Index the files of the unpacked bundle in `release`, and compress what gains by it."""
    folder = release / FOLDER
    folder.mkdir(mode=0o755)
    room = COMPRESSED_TOTAL_BYTES_MAX
    listed: dict[str, list[object]] = {}
    for name, path in _files(release / STATIC):
        size = path.stat().st_size
        encoded: dict[str, int] = {}
        if _is_worth_compressing(name, size) and size <= room:
            room -= size
            encoded = _compress(path.read_bytes(), name, folder)
        listed[name] = [size, _digest(path), encoded]
    draft = folder / f"{INDEX}.draft"
    draft.write_text(json.dumps(listed))
    bundles.sync_path(draft)
    draft.rename(folder / INDEX)  # complete when it is there


def _files(root: Path) -> Iterator[tuple[str, Path]]:
    """Names below `root` and paths of its regular files, sorted."""
    for folder, folders, names in os.walk(root, followlinks=False):
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield path.relative_to(root).as_posix(), path


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_CHARACTERS]


def _is_worth_compressing(name: str, size: int) -> bool:
    return COMPRESSED_BYTES_MIN <= size <= COMPRESSED_BYTES_MAX and mediatypes.is_compressible(name)


def _compress(content: bytes, name: str, folder: Path) -> dict[str, int]:
    """Write the compressed copies that are smaller; their sizes by encoding."""
    sizes = {}
    for encoding in ENCODINGS:
        if encoding == "br":
            encoded = brotli.compress(content, quality=BROTLI_QUALITY)
        else:
            encoded = gzip.compress(content, GZIP_LEVEL, mtime=0)
        if len(encoded) > len(content) * (1 - SAVED_SHARE_MIN):
            continue
        path = folder / encoding / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
        path.chmod(0o644)
        sizes[encoding] = len(encoded)
    return sizes


def is_written(release: Path) -> bool:
    """Whether `release` is a whole release with its index."""
    return (release / FOLDER / INDEX).is_file()


def read(release: Path) -> dict[str, StaticFile]:
    """The files `write` found, by name. Raises UnableToReadIndex."""
    try:
        listed = json.loads((release / FOLDER / INDEX).read_bytes())
    except (OSError, ValueError) as error:
        raise UnableToReadIndex(f"{release} has no index of its files ({error}).") from None
    return {
        name: StaticFile(name, size, digest, encoded)
        for name, (size, digest, encoded) in listed.items()
    }
