"""Where bundles and releases are kept as files: zips by content, releases by id.

Owns the store of bundles (Django's storage API: STORAGES["bundles"], a folder or S3), INCOMING_DIR,
where they lie while they arrive, and RELEASES_DIR, this host's working copies: what is there is
whole or not at all. Must not know what is in a bundle, nor who needs it how long (retention.py).
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
from typing import BinaryIO, Self, cast

from django.conf import settings
from django.core.files.base import File
from django.core.files.storage import Storage, storages

from deployments import bundles, staticindex
from deployments.models import Release
from orgs import failpoints

SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
UNPACKING_PREFIX, REMOVED_PREFIX = ".unpacking-", ".removed-"
LEFTOVER_AGE = timedelta(days=1)


class UnableToOpenBundle(Exception):
    """No bundle with this content is kept."""


class UnableToReachStore(Exception):
    """The store is away, full or refuses us; what was asked may work in a moment."""

    def __init__(self) -> None:
        super().__init__("The store of bundles cannot be used right now. Try again in a moment.")


@dataclass(frozen=True, slots=True)
class StoredBundle:
    """A bundle that is safely stored."""

    sha256: str
    size_bytes: int


class _Arrived(File):  # type: ignore[type-arg]  # generic in the stubs alone
    """A whole upload, which a folder on the same disk takes over by renaming it."""

    def temporary_file_path(self) -> str:
        """Where it lies; Django's FileSystemStorage moves files that have this."""
        return str(self.name)


class Incoming:
    """A bundle while it arrives; leaves nothing behind unless `keep` is called.

    It lies in a local file until it is whole: only then its name, the digest, is known.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._hash = hashlib.sha256()

    def __enter__(self) -> Self:
        """Raises UnableToReachStore."""
        with _store_errors():
            folder = Path(settings.INCOMING_DIR)
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder, suffix=".zip")
        self._path, self._file = Path(name), os.fdopen(handle, "w+b")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk: the rest of the buffer cannot be written
            self._file.close()
        self._path.unlink(missing_ok=True)

    def write(self, piece: bytes) -> None:
        """Append a piece. Raises UnableToReachStore."""
        with _store_errors():
            self._file.write(piece)
        self._hash.update(piece)
        self.size_bytes += len(piece)

    def keep(self) -> StoredBundle:
        """Put what was written into the store under its content's name, durably.

        Raises UnableToReachStore.
        """
        sha256 = self._hash.hexdigest()
        name = _bundle_name(sha256)
        with _store_errors():
            self._file.flush()
            os.fsync(self._file.fileno())
            _store().save(name, _Arrived(self._file, name=str(self._path)))
            with contextlib.suppress(NotImplementedError):  # not a folder
                bundles.sync_path(Path(_store().path(name)).parent)
        return StoredBundle(sha256=sha256, size_bytes=self.size_bytes)


def _store() -> Storage:
    return storages["bundles"]


@contextlib.contextmanager
def _store_errors() -> Iterator[None]:
    """Whatever fails on the way to the store, as our own error; a missing file stays one."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnableToReachStore from error


def _bundle_name(sha256: str) -> str:
    if not SHA256.fullmatch(sha256):
        raise UnableToOpenBundle("Not the name of a bundle.")
    return f"{sha256[:2]}/{sha256}.zip"


def open_bundle(sha256: str) -> BinaryIO:
    """The bundle as a local file, for reading. Raises UnableToOpenBundle, UnableToReachStore."""
    try:
        with _store_errors():
            return cast(BinaryIO, _store().open(_bundle_name(sha256), "rb"))
    except FileNotFoundError:
        raise UnableToOpenBundle(
            "The uploaded bundle is no longer kept; upload it again and deploy."
        ) from None


def remove_bundle(sha256: str) -> None:
    """Forget the bundle, if it is there. Raises UnableToReachStore."""
    with contextlib.suppress(FileNotFoundError, UnableToOpenBundle), _store_errors():
        _store().delete(_bundle_name(sha256))


def stored_bundles() -> Iterator[str]:
    """The digests of all bundles in the store. Raises UnableToReachStore."""
    with _store_errors():
        folders, _ = _store().listdir("")
    for folder in folders:
        with _store_errors():
            _, files = _store().listdir(folder)
        for name in files:
            if SHA256.fullmatch(name.removesuffix(".zip")):
                yield name.removesuffix(".zip")


def is_older(sha256: str, than: datetime) -> bool:
    """Whether a stored bundle was last stored before `than`. Raises UnableToReachStore."""
    try:
        with _store_errors():
            return _store().get_modified_time(_bundle_name(sha256)) < than
    except FileNotFoundError:
        return False


# --- Working copies of releases --------------------------------------------------------------


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


def unpacked_releases() -> list[str]:
    """The ids of all releases with files on this host."""
    folders = Path(settings.RELEASES_DIR).glob("*")
    return [folder.name for folder in folders if not folder.name.startswith(".")]


def remove_release_by_id(public_id: str) -> None:
    """Remove files of a release that may have no row any more, as far as possible."""
    _remove_folder(Path(settings.RELEASES_DIR) / public_id)


def _remove_folder(folder: Path) -> None:
    """Out of sight first: a removal cut short must not leave half a release in its place."""
    if not folder.exists():
        return
    with contextlib.suppress(OSError):
        doomed = Path(tempfile.mkdtemp(dir=folder.parent, prefix=REMOVED_PREFIX)) / "release"
        with contextlib.suppress(FileNotFoundError):
            folder.rename(doomed)
            failpoints.reach("deploy.in_removal")
        shutil.rmtree(doomed.parent, ignore_errors=True)


def remove_leftovers(*, at: datetime) -> int:
    """Remove what interrupted uploads and unpackings left behind over a day ago; the count."""
    oldest = (at - LEFTOVER_AGE).timestamp()
    candidates = [
        *Path(settings.INCOMING_DIR).glob("*.zip"),
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
