"""Static files of a release over plain ASGI.

Owns validators, ranges, encodings and caching. A release is immutable: what may be served is the
index made when it was unpacked (`staticindex.py`), and only that is ever opened, without following
links, which leaves no path to climb out by.
"""

import asyncio
import os
import re
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from pathlib import Path
from typing import Any, BinaryIO

from deployments import mediatypes, staticindex
from deployments.staticindex import StaticFile

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = Iterable[tuple[str, str]]

CHUNK_BYTES = 64 * 1024
IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATE = "public, max-age=0, must-revalidate"
# `app.3f2a9c1b.js`, `index-DkR3x9Qa.css`: a hash has digits and letters, a word or a date does not.
HASHED_NAME = re.compile(
    r"[.\-_](?:(?=[0-9a-f]*[0-9])(?=[0-9a-f]*[a-f])[0-9a-f]{8,64}"
    r"|(?=\w*[0-9])(?=\w*[a-z])(?=\w*[A-Z])\w{8})(?:\.\w+)+$"
)
IMMUTABLE_FOLDERS = ("_next/static/",)
HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, token
CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
QUALITY = re.compile(r"\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*", re.IGNORECASE)


class StaticFiles:
    """What a release's `static/` folder holds."""

    def __init__(
        self, release: Path, files: Mapping[str, StaticFile], *, activated_at: datetime
    ) -> None:
        """`activated_at` is when these files began to be what the site shows."""
        self.last_modified = format_datetime(
            activated_at.astimezone(UTC).replace(microsecond=0), usegmt=True
        )
        self._release = release
        self._files = files

    @classmethod
    def read(cls, release: Path, *, activated_at: datetime) -> "StaticFiles":
        """The files of the unpacked `release` (blocking). Raises staticindex.UnableToReadIndex."""
        return cls(release, staticindex.read(release), activated_at=activated_at)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> StaticFile:
        return self._files[name]

    def open(self, name: str, encoding: str = "") -> BinaryIO:
        """The file, or its compressed copy, opened for reading (blocking).

        Raises OSError when it is not what was indexed any more: a link, also on the way to it, a
        pipe, or of another size. A function of the app may write into its own release's folder.
        """
        file = self._files[name]
        steps = (staticindex.FOLDER, encoding) if encoding else (staticindex.STATIC,)
        handle = _open_beneath(self._release, (*steps, *name.split("/")))
        found = os.fstat(handle)
        expected = file.encoded_sizes[encoding] if encoding else file.size
        if not stat.S_ISREG(found.st_mode) or found.st_size != expected:
            os.close(handle)
            raise OSError(f"{name} of {self._release} is not what was unpacked.")
        return os.fdopen(handle, "rb")


def _open_beneath(root: Path, steps: tuple[str, ...]) -> int:
    """The file's descriptor, reached from `root` step by step without following a link."""
    folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for step in steps[:-1]:
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
            deeper = os.open(step, flags, dir_fd=folder)
            os.close(folder)
            folder = deeper
        # Non-blocking: opening a pipe must not wait for somebody to write into it.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
        return os.open(steps[-1], flags, dir_fd=folder)
    finally:
        os.close(folder)


def cache_control(name: str) -> str:
    """How long browsers may keep a file: for ever when its name carries a hash of its content."""
    if name.endswith((".html", ".htm")):
        return "no-cache"
    is_hashed = name.startswith(IMMUTABLE_FOLDERS) or HASHED_NAME.search(name.rsplit("/", 1)[-1])
    return IMMUTABLE if is_hashed else REVALIDATE


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """First and last byte (inclusive) a Range header asks for.

    None when the whole file should be sent: no, several or malformed ranges (RFC 9110, 14.2 lets a
    server ignore them). Raises ValueError when the range lies outside the file.
    """
    found = re.fullmatch(r"bytes=([0-9]{0,18})-([0-9]{0,18})", header.replace(" ", ""))
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:
        first, last = max(size - int(found[2]), 0), size - 1
    else:
        first, last = int(found[1]), min(int(found[2] or size), size - 1)
        if found[2] and int(found[2]) < first:
            return None
    if first > last:
        raise ValueError("The range lies outside the file.")
    return first, last


def encode_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers as ASGI wants them; what could break out of its line is left out."""
    encoded = []
    for name, value in headers:
        if not HEADER_NAME.fullmatch(name) or CONTROL_CHARACTERS.search(value):
            continue
        try:
            encoded.append((name.encode("ascii"), value.encode("latin-1")))
        except UnicodeEncodeError:
            encoded.append((name.encode("ascii"), value.encode()))
    return encoded


async def respond(send: Send, status: int, headers: Headers, body: bytes = b"") -> None:
    """A whole response at once; the length is added."""
    length = () if status in (204, 304) else (("content-length", str(len(body))),)
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": encode_headers([*headers, *length]),
        }
    )
    await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True)
class FileRequest:
    """What of a request matters to a file. Header names are lower case."""

    method: str
    headers: dict[str, str]


def choose_encoding(accepted: str, offered: Iterable[str]) -> str:
    """The best of `offered` (in order of preference) by an Accept-Encoding; empty for none.

    RFC 9110, 12.5.3: `q=0` forbids, `*` stands for what is not named. The content as it is stays
    the answer of last resort, whatever is said of `identity`.
    """
    qualities: dict[str, float] = {}
    for part in accepted.lower().split(","):
        coding, _, parameter = part.partition(";")
        found = QUALITY.fullmatch(parameter)
        qualities[coding.strip()] = float(found[1]) if found else float(not parameter.strip())
    fallback = qualities.get("*", 0.0)
    best = max(offered, key=lambda each: qualities.get(each, fallback), default="")
    quality = qualities.get(best, fallback)
    return best if quality > 0 and quality >= qualities.get("identity", 0.0) else ""


@dataclass(frozen=True, slots=True)
class _Representation:
    """One of the forms a file can be sent in."""

    file: StaticFile
    encoding: str  # empty: as it is

    @property
    def size(self) -> int:
        return self.file.encoded_sizes[self.encoding] if self.encoding else self.file.size

    @property
    def etag(self) -> str:
        """Weak for compressed copies: another version of a compressor makes other bytes."""
        return f'W/"{self.file.digest}-{self.encoding}"' if self.encoding else self.strong_etag

    @property
    def strong_etag(self) -> str:
        return f'"{self.file.digest}"'


async def serve_file(
    send: Send,
    files: StaticFiles,
    name: str,
    request: FileRequest,
    *,
    status: int = 200,
    extra_headers: Headers = (),
) -> None:
    """Answer with the file `name`, which is in `files`.

    `extra_headers` (names in lower case) win over the ones made here. Only a plain 200 honours
    conditions and Range; a range is one of the content as it is, never of a compressed copy.
    """
    if request.method not in ("GET", "HEAD"):
        await respond(send, 405, [("allow", "GET, HEAD")])
        return
    extra = dict(extra_headers)
    chosen = _choose(files[name], request, extra)
    headers = {
        "content-type": mediatypes.content_type(name),
        "cache-control": cache_control(name),
        "etag": chosen.etag,
        "last-modified": files.last_modified,
        "accept-ranges": "bytes",
        "x-content-type-options": "nosniff",
        **extra,
    }
    if chosen.file.encoded_sizes:
        headers["vary"] = _also_varying_by_encoding(extra.get("vary", ""))
    if status == 200 and _is_unchanged(request.headers, chosen.etag, files.last_modified):
        await respond(send, 304, headers.items())
        return
    if chosen.encoding:
        headers["content-encoding"] = chosen.encoding
    first, last = 0, chosen.size - 1
    if status == 200:
        try:
            asked = _asked_range(request, chosen)
        except ValueError:
            headers["content-range"] = f"bytes */{chosen.size}"
            await respond(send, 416, headers.items())
            return
        if asked is not None:
            first, last = asked
            status = 206
            headers["content-range"] = f"bytes {first}-{last}/{chosen.size}"
    await _send_file(send, files, chosen, request.method, status, headers, first, last - first + 1)


def _choose(file: StaticFile, request: FileRequest, extra: dict[str, str]) -> _Representation:
    """The form to send: compressed if the client wants it and no route or range objects."""
    is_range = request.method == "GET" and "range" in request.headers
    is_fixed = "content-encoding" in extra or "no-transform" in extra.get("cache-control", "")
    if is_range or is_fixed:
        return _Representation(file, "")
    accepted = request.headers.get("accept-encoding", "")
    return _Representation(file, choose_encoding(accepted, file.encoded_sizes))


def _also_varying_by_encoding(vary: str) -> str:
    named = [name.strip() for name in vary.split(",") if name.strip()]
    if "*" in named or any(name.lower() == "accept-encoding" for name in named):
        return vary
    return ", ".join(["Accept-Encoding", *named])


def _is_unchanged(asked: Mapping[str, str], etag: str, last_modified: str) -> bool:
    """RFC 9110, 13.2.2: a date counts only without tags.

    It must be the very date: after a rollback the content is other than what the client has, and
    the date may be an older one.
    """
    if "if-none-match" in asked:
        tags = {tag.strip().removeprefix("W/") for tag in asked["if-none-match"].split(",")}
        return "*" in tags or etag.removeprefix("W/") in tags
    try:
        since = parsedate_to_datetime(asked.get("if-modified-since", ""))
        return format_datetime(since.astimezone(UTC), usegmt=True) == last_modified
    except (ValueError, TypeError, OverflowError):
        return False


def _asked_range(request: FileRequest, chosen: _Representation) -> tuple[int, int] | None:
    """The range to send; None for the whole file. Raises ValueError.

    If-Range needs the strong tag: a date cannot tell two releases of one second apart.
    """
    if request.method != "GET":
        return None
    if request.headers.get("if-range", chosen.strong_etag) != chosen.strong_etag:
        return None
    return byte_range(request.headers.get("range", ""), chosen.size)


async def _send_file(
    send: Send,
    files: StaticFiles,
    chosen: _Representation,
    method: str,
    status: int,
    headers: dict[str, str],
    first: int,
    length: int,
) -> None:
    wanted = length if method == "GET" else 0
    try:
        # Opened and begun in one go: most files are read with it.
        opened, data = await asyncio.to_thread(_begin, files, chosen, first, wanted)
    except OSError:
        await respond(send, 404, [("content-type", "text/plain")], b"Not found.")
        return
    try:
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": encode_headers([*headers.items(), ("content-length", str(length))]),
            }
        )
        wanted -= len(data)
        while wanted > 0:
            if not data:
                return  # cut short under us: the server closes the connection
            await send({"type": "http.response.body", "body": data, "more_body": True})
            data = await asyncio.to_thread(opened.read, min(CHUNK_BYTES, wanted))
            wanted -= len(data)
        await send({"type": "http.response.body", "body": data})
    finally:
        opened.close()


def _begin(
    files: StaticFiles, chosen: _Representation, first: int, wanted: int
) -> tuple[BinaryIO, bytes]:
    """The file opened, and its first piece from byte `first` on (blocking). Raises OSError."""
    opened = files.open(chosen.file.name, chosen.encoding)
    try:
        opened.seek(first)
        return opened, opened.read(min(CHUNK_BYTES, wanted))
    except OSError:
        opened.close()
        raise
