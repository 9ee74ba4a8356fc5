"""The first layer every HTTP request meets: what no handler behind it should ever see.

Owns limits that uvicorn does not have (number and size of headers, one Host, plain paths) and the
body limit of Django's side. Sends no answer of its own beyond a short refusal.
"""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

HEADERS_MAX = 100
HEADER_BYTES_MAX = 32 * 1024
HOST_PATTERN = re.compile(
    rb"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]+\])(?::\d{1,5})?"
)
# An encoded dot, slash, backslash or NUL has no honest use in a path, nor have dot segments, which
# every client resolves before it sends.
BAD_PATH = re.compile(rb"%2e|%2f|%5c|%00|\\|//|/\.{1,2}(?:/|$)", re.IGNORECASE)
BODY_SECONDS_MAX = 30.0  # between two pieces of a request body

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class BodyTooLarge(Exception):
    """A request body went past its limit while being read."""


class BodyTooSlow(Exception):
    """A request body stopped arriving."""


def refusal_for(scope: Scope) -> tuple[int, str] | None:
    """Status and message when the request's head is unacceptable, else None."""
    headers = scope["headers"]
    if len(headers) > HEADERS_MAX:
        return 431, f"More than {HEADERS_MAX} headers."
    if sum(len(name) + len(value) for name, value in headers) > HEADER_BYTES_MAX:
        return 431, f"More than {HEADER_BYTES_MAX} bytes of headers."
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) != 1 or not HOST_PATTERN.fullmatch(hosts[0].lower()):
        return 400, "Send exactly one valid Host header."
    if BAD_PATH.search(scope.get("raw_path") or scope["path"].encode()):
        return 400, "The path has dot segments, encoded dots or slashes, or double slashes."
    return None


def host_of(scope: Scope) -> str:
    """The request's host name in lower case, without port. The head must have been accepted."""
    value = next(value for name, value in scope["headers"] if name == b"host")
    return re.sub(r":\d+$", "", value.decode("latin-1").lower())


async def send_refusal(send: Send, status: int, message: str, code: str = "bad_request") -> None:
    """A short JSON error, in a shape that clients of the data API and of the AI API both read."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    body = orjson.dumps({"error": error})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"x-request-id", f"req_{uuid.uuid4().hex}".encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def send_health(send: Send) -> None:
    """The answer to `/health`: the process has started and serves."""
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"status":"ok"}'})


def declared_too_large(scope: Scope, bytes_max: int) -> bool:
    """Whether the Content-Length already says the body is over the limit."""
    return any(
        name == b"content-length" and value.isdigit() and int(value) > bytes_max
        for name, value in scope["headers"]
    )


def limited(receive: Receive, bytes_max: int) -> Receive:
    """`receive` that raises BodyTooLarge and BodyTooSlow.

    Django under ASGI spools a body of any size to disk and waits for it for ever.
    """
    size = 0
    is_whole = False

    async def counted() -> dict[str, Any]:
        nonlocal size, is_whole
        if is_whole:  # from now on, only the end of the connection is waited for
            return await receive()
        try:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                message = await receive()
        except TimeoutError:
            raise BodyTooSlow from None
        if message["type"] == "http.request":
            size += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if size > bytes_max:
                raise BodyTooLarge
        return message

    return counted
