"""Where bundles and releases are kept as files: zips by content, releases by id.

Owns the folders BUNDLES_DIR and RELEASES_DIR and how files appear in them: whole or not at all.
Must not know what is in a bundle.
"""

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from django.conf import settings

from deployments import bundles, staticindex
from deployments.models import Release

SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
UNPACKING_PREFIX, REMOVED_PREFIX = ".unpacking-", ".removed-"
LEFTOVER_AGE = timedelta(days=1)


class UnableToOpenBundle(Exception):
    """No bundle with this content is kept."""


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A bundle that is safely on disk."""

    sha256: str
    size_bytes: int


class Incoming:
    """A bundle while it arrives; leaves nothing behind unless `keep` is called."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        self._path, self._file = _temporary_file()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, piece: bytes) -> None:
        """Append a piece."""
        self._file.write(piece)
        self._hash.update(piece)
        self.size_bytes += len(piece)

    def keep(self) -> StoredBundle:
        """Put what was written under its content's name, durably."""
        self._file.flush()
        os.fsync(self._file.fileno())
        sha256 = self._hash.hexdigest()
        target = _bundle_path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        self._path.replace(target)
        bundles.sync_path(target.parent)
        return StoredBundle(sha256=sha256, size_bytes=self.size_bytes)


def _incoming_folder() -> Path:
    return Path(settings.BUNDLES_DIR) / "incoming"


def _temporary_file() -> tuple[Path, BinaryIO]:
    folder = _incoming_folder()
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, suffix=".zip")
    return Path(name), os.fdopen(handle, "wb")


def _bundle_path(sha256: str) -> Path:
    if not SHA256.fullmatch(sha256):
        raise UnableToOpenBundle("Not the name of a bundle.")
    return Path(settings.BUNDLES_DIR) / sha256[:2] / f"{sha256}.zip"


def open_bundle(sha256: str) -> BinaryIO:
    """The bundle's file, for reading. Raises UnableToOpenBundle."""
    try:
        return _bundle_path(sha256).open("rb")
    except FileNotFoundError:
        raise UnableToOpenBundle(
            "The uploaded bundle is no longer kept; upload it again and deploy."
        ) from None


def remove_bundle(sha256: str) -> None:
    """Forget the bundle, if it is there."""
    with contextlib.suppress(FileNotFoundError, UnableToOpenBundle):
        _bundle_path(sha256).unlink()


def release_folder(release: Release) -> Path:
    """Where the release's files are: `config.json`, `static/`, `functions/`."""
    return Path(settings.RELEASES_DIR) / release.public_id


@contextlib.contextmanager
def unpacking() -> Iterator[Path]:
    """A new empty folder beside the releases; gone afterwards unless it was moved into place."""
    root = Path(settings.RELEASES_DIR)
    root.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=root, prefix=UNPACKING_PREFIX))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def place_release(folder: Path, release: Release) -> None:
    """Move an unpacked folder to where the release's files belong, at once and durably.

    A release's files never change, so when they are there already they stay.
    """
    target = release_folder(release)
    if not is_placed(release):
        _remove_folder(target)  # half of one, from a disk that lost the rest
        with contextlib.suppress(FileExistsError):
            _rename_folder(folder, target)
    bundles.sync_path(target.parent)


def is_placed(release: Release) -> bool:
    """Whether the release's files are here, whole."""
    return staticindex.is_written(release_folder(release))


def _rename_folder(folder: Path, target: Path) -> None:
    """Raises FileExistsError when another process was first (the system says ENOTEMPTY)."""
    try:
        folder.rename(target)
    except OSError:
        if target.exists():
            raise FileExistsError(target) from None
        raise


def remove_release(release: Release) -> None:
    """Remove the release's files, as far as possible."""
    _remove_folder(release_folder(release))


def _remove_folder(folder: Path) -> None:
    """Out of sight first: a removal cut short must not leave half a release in its place."""
    with contextlib.suppress(OSError):
        doomed = Path(tempfile.mkdtemp(dir=folder.parent, prefix=REMOVED_PREFIX)) / "release"
        with contextlib.suppress(FileNotFoundError):
            folder.rename(doomed)
        shutil.rmtree(doomed.parent, ignore_errors=True)


def remove_leftovers(*, at: datetime) -> int:
    """Remove what interrupted uploads and unpackings left behind over a day ago; the count."""
    oldest = (at - LEFTOVER_AGE).timestamp()
    candidates = [
        *_incoming_folder().glob("*.zip"),
        *Path(settings.RELEASES_DIR).glob(f"{UNPACKING_PREFIX}*"),
        *Path(settings.RELEASES_DIR).glob(f"{REMOVED_PREFIX}*"),
    ]
    removed = 0
    for path in candidates:
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                removed += 1
    return removed
