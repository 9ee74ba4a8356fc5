"""`PUT /api/data/uploads/<token>`: takes a bundle's bytes to disk as they arrive.

A plain ASGI application, because Django would hold or spool the whole body first. Owns limits of
size and time of an upload; the token is its only authority, there is no Authorization header.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from channels.db import database_sync_to_async
from django.conf import settings
from django.utils import timezone

from deployments import deploying, storage
from orgs import failpoints

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

IDLE_SECONDS_MAX = 30.0
# Pieces are joined up to this size before a thread writes them.
WRITE_BYTES = 1024 * 1024
# What clients call a zip: the deploy client says application/zip, browsers on Windows the second,
# tools that do not look the third, and curl -T nothing.
CONTENT_TYPES = frozenset(
    {"application/zip", "application/x-zip-compressed", "application/octet-stream", ""}
)
# How a zip begins, with entries and without (APPNOTE 4.3.7, 4.3.16).
SIGNATURES = (b"PK\x03\x04", b"PK\x05\x06")
SIGNATURE_BYTES = 4


class UnableToUpload(Exception):
    """A refusal, with the HTTP status, code and message to answer."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class _ClientGone(Exception):
    """The client closed the connection: nobody is left to answer."""


async def upload_app(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application; `scope["path"]` is the whole path, whatever mounted it."""
    try:
        bundle = await _take(scope, receive)
    except UnableToUpload as refusal:
        body = {"error": {"code": refusal.code, "message": refusal.message}}
        await _answer(send, refusal.status, body)
    except _ClientGone:
        return
    else:
        await _answer(send, 200, {"received": True, "bytes": bundle.size_bytes})


async def _take(scope: Scope, receive: Receive) -> storage.StoredBundle:
    if scope["method"] != "PUT":
        raise UnableToUpload(405, "method_not_allowed", "Send the zip with PUT.")
    token = scope["path"].removeprefix(deploying.UPLOAD_PATH)
    try:
        upload = await database_sync_to_async(deploying.expect_upload)(token)
        _check_type(scope)
        _check_length(scope)
        with storage.Incoming() as incoming:
            await _save(receive, incoming)
            failpoints.reach("deploy.after_upload_arrived")
            bundle = await asyncio.to_thread(incoming.keep)
        failpoints.reach("deploy.after_bundle_stored")
        await database_sync_to_async(deploying.receive)(upload, bundle, at=timezone.now())
        failpoints.reach("deploy.after_upload_received")
    except deploying.UploadNotAllowed as error:
        raise UnableToUpload(403, "upload_not_allowed", str(error)) from None
    except deploying.UploadAlreadyUsed as error:
        raise UnableToUpload(409, "upload_already_used", str(error)) from None
    except storage.UnableToReachStore as error:
        raise UnableToUpload(503, "storage_unavailable", str(error)) from error
    return bundle


def _too_large() -> UnableToUpload:
    megabytes = settings.UPLOAD_BYTES_MAX // (1024 * 1024)
    return UnableToUpload(413, "bundle_too_large", f"A bundle may have at most {megabytes} MB.")


def _check_type(scope: Scope) -> None:
    """Refuse what is not sent as a zip: forms above all, whose body wraps the file."""
    sent = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
    if sent.partition(";")[0].strip().lower() not in CONTENT_TYPES:
        raise UnableToUpload(
            415,
            "unsupported_media_type",
            "Send the zip itself as the body, with Content-Type: application/zip, not "
            f"{sent[:100]!r}.",
        )


def _check_start(start: bytes | bytearray) -> None:
    if not start.startswith(SIGNATURES):
        raise UnableToUpload(
            400,
            "not_a_zip",
            "The body is not a zip file: it does not begin with PK. Send the zip's bytes as they "
            "are.",
        )


def _check_length(scope: Scope) -> None:
    """Refuse early what says it is too large; what says nothing is counted as it arrives."""
    declared = dict(scope["headers"]).get(b"content-length")
    if declared is None:
        return
    if not declared.isdigit():
        raise UnableToUpload(400, "invalid_request", "Content-Length is not a number.")
    if int(declared) > settings.UPLOAD_BYTES_MAX:
        raise _too_large()


async def _save(receive: Receive, incoming: storage.Incoming) -> None:
    """Raises UnableToUpload, storage.UnableToReachStore."""
    waiting = bytearray()
    try:
        async with asyncio.timeout(settings.UPLOAD_SECONDS_MAX):
            async for piece in _pieces(receive):
                waiting += piece
                if incoming.size_bytes == 0 and len(waiting) >= SIGNATURE_BYTES:
                    _check_start(waiting)
                if incoming.size_bytes + len(waiting) > settings.UPLOAD_BYTES_MAX:
                    raise _too_large()
                if len(waiting) >= WRITE_BYTES:
                    await asyncio.to_thread(incoming.write, bytes(waiting))
                    waiting.clear()
    except TimeoutError:
        raise UnableToUpload(
            408, "upload_timeout", "The upload stopped or took too long; try again."
        ) from None
    if incoming.size_bytes == 0:
        if not waiting:
            raise UnableToUpload(
                400, "empty_upload", "The body is empty; send the zip as the body."
            )
        _check_start(bytes(waiting))
    await asyncio.to_thread(incoming.write, bytes(waiting))


async def _pieces(receive: Receive) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises TimeoutError after IDLE_SECONDS_MAX of silence."""
    more = True
    while more:
        message = await asyncio.wait_for(receive(), IDLE_SECONDS_MAX)
        if message["type"] == "http.disconnect":
            raise _ClientGone
        yield message.get("body", b"")
        more = message.get("more_body", False)


async def _answer(send: Send, status: int, body: dict[str, Any]) -> None:
    content = json.dumps(body).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    if status >= 400:
        # The body may be unread, and must not be taken for the next request.
        headers.append((b"connection", b"close"))
    if status == 503:
        headers.append((b"retry-after", b"5"))
    if status == 405:
        headers.append((b"allow", b"PUT"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": content})
