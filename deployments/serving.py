"""Static files of a release over plain ASGI.

Owns types, validators, ranges and caching. A release is immutable, so its files are listed once;
only what is on that list is ever opened, which leaves no path to climb out by.
"""

import asyncio
import mimetypes
import os
import re
import stat
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

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
_types = mimetypes.MimeTypes()
for _suffix, _type in {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".json": "application/json",
    ".map": "application/json",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".avif": "image/avif",
    ".webp": "image/webp",
    ".ico": "image/x-icon",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    ".md": "text/markdown",
}.items():
    _types.add_type(_type, _suffix)
TEXT_TYPES = {"application/json", "application/manifest+json", "application/xml", "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A regular file of a release."""

    name: str  # below static/, with forward slashes
    size: int
    etag: str


class StaticFiles:
    """What a release's `static/` folder holds."""

    def __init__(self, root: Path, files: dict[str, StaticFile]) -> None:
        self.root = root
        self._files = files

    @classmethod
    def scan(cls, root: Path) -> "StaticFiles":
        """List the regular files below `root` (blocking). Links are not followed nor listed."""
        files: dict[str, StaticFile] = {}
        for folder, _, names in os.walk(root, followlinks=False):
            for name in names:
                path = Path(folder, name)
                found = path.lstat()
                if stat.S_ISREG(found.st_mode):
                    relative = path.relative_to(root).as_posix()
                    etag = f'"{found.st_size:x}-{found.st_mtime_ns:x}"'
                    files[relative] = StaticFile(relative, found.st_size, etag)
        return cls(root, files)

    def __contains__(self, name: object) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> StaticFile:
        return self._files[name]

    def open(self, name: str) -> BinaryIO:
        """The file opened for reading (blocking). Raises OSError, also for a link."""
        return os.fdopen(os.open(self.root / name, os.O_RDONLY | os.O_NOFOLLOW), "rb")


def content_type(name: str) -> str:
    """The media type of a file by its name, with the charset of text."""
    guessed = _types.guess_type(name, strict=False)[0] or "application/octet-stream"
    is_text = guessed.startswith("text/") or guessed in TEXT_TYPES
    return f"{guessed}; charset=utf-8" if is_text else guessed


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
    If-None-Match and Range.
    """
    if request.method not in ("GET", "HEAD"):
        await respond(send, 405, [("allow", "GET, HEAD")])
        return
    file = files[name]
    headers = {
        "content-type": content_type(name),
        "cache-control": cache_control(name),
        "etag": file.etag,
        "accept-ranges": "bytes",
        "x-content-type-options": "nosniff",
        **dict(extra_headers),
    }
    if status == 200 and _is_unchanged(request.headers.get("if-none-match", ""), file.etag):
        await respond(send, 304, headers.items())
        return
    first, last = 0, file.size - 1
    if status == 200:
        try:
            asked = _asked_range(request, file)
        except ValueError:
            headers["content-range"] = f"bytes */{file.size}"
            await respond(send, 416, headers.items())
            return
        if asked is not None:
            first, last = asked
            status = 206
            headers["content-range"] = f"bytes {first}-{last}/{file.size}"
    await _send_file(send, files, file, request.method, status, headers, first, last - first + 1)


def _is_unchanged(if_none_match: str, etag: str) -> bool:
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return "*" in tags or etag in tags


def _asked_range(request: FileRequest, file: StaticFile) -> tuple[int, int] | None:
    """The range to send; None for the whole file. Raises ValueError."""
    if request.method != "GET" or request.headers.get("if-range", file.etag) != file.etag:
        return None
    return byte_range(request.headers.get("range", ""), file.size)


async def _send_file(
    send: Send,
    files: StaticFiles,
    file: StaticFile,
    method: str,
    status: int,
    headers: dict[str, str],
    first: int,
    length: int,
) -> None:
    try:
        opened = await asyncio.to_thread(files.open, file.name)
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
        if method == "HEAD":
            length = 0
        opened.seek(first)
        while length > 0:
            data = await asyncio.to_thread(opened.read, min(CHUNK_BYTES, length))
            if not data:
                return  # cut short under us: the server closes the connection
            length -= len(data)
            if length > 0:
                await send({"type": "http.response.body", "body": data, "more_body": True})
            else:
                await send({"type": "http.response.body", "body": data})
                return
        await send({"type": "http.response.body", "body": b""})
    finally:
        opened.close()
