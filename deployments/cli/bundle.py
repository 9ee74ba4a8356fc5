"""A bundle as the client sees it: a folder to zip, or a zip that is ready.

Owns which files of a folder are sent (and which are not) and writing the zip; must know nothing of
what makes a bundle correct, nor of servers. What is sent:

- at the top only `config.json`, `.env.production`, `static/` and `functions/`;
- below `static/` and `functions/` every file, hidden ones too (`.next`, `.well-known`), except
  what version control and file managers leave behind;
- no symbolic links: what they point to may lie outside the folder.
"""

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TOP_FILES = ("config.json", ".env.production")
TOP_FOLDERS = ("static", "functions")
NEVER_SENT = frozenset({".git", ".hg", ".svn", ".DS_Store", "Thumbs.db", "desktop.ini", "__MACOSX"})
COPY_BYTES = 256 * 1024
# The first date a zip can hold: the same files give the same bytes, whenever they were written.
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)


class UnableToReadBundle(Exception):
    """The path is no folder and no zip, or a file in it cannot be read."""


@dataclass(frozen=True)
class Bundle:
    """What would be sent. Names use `/` and have no leading one.

    `sizes` maps the name of each file to its bytes; `links` are symbolic links left out; `ignored`
    are the names at the top that are left out; `read(name, limit)` gives up to `limit` bytes.
    """

    source: Path
    sizes: Mapping[str, int]
    read: Callable[[str, int], bytes]
    links: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    is_zip: bool = False

    @property
    def total_bytes(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(self.sizes.values())

    def below(self, folder: str) -> list[str]:
        """Names of the files in a folder and the folders in it; `folder` ends with `/`."""
        return [name for name in self.sizes if name.startswith(folder)]

    def text(self, name: str, *, limit: int) -> str:
        """The first `limit` bytes of a file as text; bytes that are no UTF-8 become U+FFFD."""
        return self.read(name, limit).decode("utf-8", "replace")


def open_bundle(path: Path) -> Bundle:
    """The bundle at a path. Raises UnableToReadBundle."""
    try:
        if path.is_dir():
            return _open_folder(path)
        if path.is_file():
            return _open_zip(path)
    except OSError as error:
        raise UnableToReadBundle(f"{path} cannot be read: {error.strerror or error}.") from None
    raise UnableToReadBundle(
        f"{path} does not exist. Give a folder with a config.json in it, or a .zip of one."
    )


@dataclass
class _Listing:
    sizes: dict[str, int] = field(default_factory=dict)
    links: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)


def _open_folder(folder: Path) -> Bundle:
    listing = _Listing()
    for entry in _sorted_entries(folder):
        if entry.name in TOP_FOLDERS and entry.is_dir(follow_symlinks=False):
            _list_below(Path(entry.path), entry.name, listing)
        elif entry.name in (*TOP_FILES, *TOP_FOLDERS):
            _list_file(entry, entry.name, listing)
        else:
            listing.ignored.append(entry.name)

    def read(name: str, limit: int) -> bytes:
        with (folder / name).open("rb") as file:
            return file.read(limit)

    return Bundle(
        source=folder,
        sizes=dict(sorted(listing.sizes.items())),
        read=_readable(read),
        links=tuple(sorted(listing.links)),
        ignored=tuple(listing.ignored),
    )


def _sorted_entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _list_below(folder: Path, name: str, listing: _Listing) -> None:
    for entry in _sorted_entries(folder):
        if entry.name in NEVER_SENT:
            continue
        inner = f"{name}/{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            _list_below(Path(entry.path), inner, listing)
        else:
            _list_file(entry, inner, listing)


def _list_file(entry: os.DirEntry[str], name: str, listing: _Listing) -> None:
    """A regular file or a link; sockets, pipes and devices are no part of a bundle."""
    if entry.is_symlink():
        listing.links.append(name)
    elif entry.is_file(follow_symlinks=False):
        listing.sizes[name] = entry.stat(follow_symlinks=False).st_size


def _open_zip(path: Path) -> Bundle:
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {
                info.filename: info.file_size for info in archive.infolist() if not info.is_dir()
            }
    except zipfile.BadZipFile:
        raise UnableToReadBundle(
            f"{path} is not a zip file. Give a .zip, or a folder with a config.json in it."
        ) from None

    def read(name: str, limit: int) -> bytes:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            return file.read(limit)

    return Bundle(source=path, sizes=dict(sorted(sizes.items())), read=_readable(read), is_zip=True)


def _readable(read: Callable[[str, int], bytes]) -> Callable[[str, int], bytes]:
    """The same, with one error for all that may be wrong with a file."""

    def checked(name: str, limit: int) -> bytes:
        try:
            return read(name, limit)
        except (
            OSError,
            RuntimeError,
            NotImplementedError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise UnableToReadBundle(f"{name} cannot be read: {error}") from None

    return checked


@contextmanager
def as_zip(bundle: Bundle, *, on_progress: Callable[[int], None]) -> Iterator[Path]:
    """The bundle as a zip on disk, removed afterwards if it was made here.

    `on_progress` is told the bytes read of each piece. Files are copied piece by piece, so memory
    does not grow with the bundle. Raises UnableToReadBundle.
    """
    if bundle.is_zip:
        yield bundle.source
        return
    with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
        target = Path(folder) / "bundle.zip"
        write_zip(bundle, target, on_progress=on_progress)
        yield target


def write_zip(bundle: Bundle, target: Path, *, on_progress: Callable[[int], None]) -> None:
    """Write a folder's files in the order of their names, always with the same date and mode."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, size in bundle.sizes.items():
            info = zipfile.ZipInfo(name, date_time=ZIP_EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o100644 << 16
            info.file_size = size
            try:
                _copy_into(archive, info, bundle.source / name, on_progress)
            except (OSError, ValueError) as error:  # ValueError: a name that is no Unicode
                raise UnableToReadBundle(f"{name!r} cannot be sent: {error}") from None


def _copy_into(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, on_progress: Callable[[int], None]
) -> None:
    with path.open("rb") as source, archive.open(info, "w") as target:
        while piece := source.read(COPY_BYTES):
            target.write(piece)
            on_progress(len(piece))
