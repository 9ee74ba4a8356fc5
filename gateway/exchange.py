"""One HTTP exchange with a client over ASGI: reading its body, answering, noticing it is gone.

Owns the headers every answer carries and the limits of what is read. Must know no model and no
money. No answer ever carries an `Access-Control-*` header: keys are for servers, not for browsers.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from gateway import refusals

BODY_SECONDS_MAX = 30.0  # between two pieces of a request body
BODY_SECONDS_TOTAL_MAX = 300.0  # a body that trickles in holds a connection, too
# The ASGI extension by which a server offers to write a piece of a stream without being awaited:
# its `write` takes the piece and says whether the client keeps up. Its `abort` ends the connection
# without waiting for the client to read what was written. See config/connection.py.
WRITE = "aigateway.write"

Scope = Mapping[str, Any]
Receive = Callable[[], Any]
Send = Callable[[dict[str, Any]], Any]


class ClientGone(Exception):
    """The client closed the connection before its answer was complete."""


class Exchange:
    """One request and its answer."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: str = scope.get("query_string", b"").decode("latin-1")
        self.headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.request_id = request_id
        self.is_gone = False
        self.has_started = False
        # Headers that every answer from now on carries.
        self.answer_headers: Mapping[str, str] = {}
        # Given the status and body of a whole answer before it is sent.
        self.on_answer: Callable[[int, bytes], Awaitable[None]] | None = None
        self._receive = receive
        self._send = send
        offered = scope.get("extensions", {}).get(WRITE, {})
        self._write: Callable[[bytes], bool] | None = offered.get("write")
        self._abort: Callable[[], None] | None = offered.get("abort")
        # What the server could not be given without waiting for it.
        self._unsent = b""
        self._watch: asyncio.Task[None] | None = None
        self._on_gone: Callable[[], None] | None = None
        # Asked for once: asking costs a system call each time (CPython 3.11 compares process ids).
        self._loop = asyncio.get_running_loop()
        self._streaming: asyncio.Task[Any] | None = None
        self._sent_at = 0.0
        # Who waits for the client to read on, and whether it has waited in vain.
        self._sending: asyncio.Task[Any] | None = None
        self._is_stalled = False
        self._stall_timer: asyncio.TimerHandle | None = None
        self._ping_timer: asyncio.TimerHandle | None = None
        self._pinging: asyncio.Task[None] | None = None

    def header(self, name: bytes) -> bytes:
        """The value of the first header with this lower-case name, b"" without one."""
        return next((value for header, value in self.headers if header == name), b"")

    async def read_body(self, bytes_max: int) -> bytes:
        """The request body. Raises Refusal (too large, too slow, encoded), ClientGone."""
        self._check_declared(bytes_max)
        try:
            async with asyncio.timeout(BODY_SECONDS_TOTAL_MAX):
                return await self._read_pieces(bytes_max)
        except TimeoutError:
            raise refusals.slow_body() from None

    async def _read_pieces(self, bytes_max: int) -> bytes:
        # Not a list of pieces: a byte at a time, that would take fifty times the body's memory.
        body = bytearray()
        is_more = True
        while is_more:
            async with asyncio.timeout(BODY_SECONDS_MAX):
                message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            piece: bytes = message.get("body", b"")
            is_more = message.get("more_body", False)
            if len(body) + len(piece) > bytes_max:
                raise refusals.body_too_large(bytes_max, len(body) + len(piece))
            if not body and not is_more:
                return piece
            body += piece
        return bytes(body)

    def _check_declared(self, bytes_max: int) -> None:
        for name, value in self.headers:
            if name == b"content-length" and value.isdigit() and int(value) > bytes_max:
                raise refusals.body_too_large(bytes_max, int(value))
            if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
                raise refusals.encoded_body()

    def watch(self, on_gone: Callable[[], None]) -> None:
        """Call `on_gone` as soon as the client hangs up; until `unwatch`. Body must be read.

        The one given last is called. Raises ClientGone when that has happened already.
        """
        if self.is_gone:
            raise ClientGone
        self._on_gone = on_gone
        if self._watch is None:
            self._watch = asyncio.ensure_future(self._wait())

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.is_gone = True
        if self._on_gone is not None:
            self._on_gone()

    def unwatch(self) -> None:
        """Stop watching, and keeping alive."""
        self._stop_pinging()
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def send_json(
        self, status: int, body: Any, headers: Mapping[str, str] | None = None
    ) -> None:
        """A whole JSON answer."""
        await self.send_bytes(status, orjson.dumps(body), headers)

    async def send_bytes(
        self, status: int, body: bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """A whole answer whose body is JSON already."""
        if self.on_answer is not None:
            await self.on_answer(status, body)
        extra = [(b"content-length", str(len(body)).encode())]
        await self._start(status, b"application/json", b"no-store", headers, extra)
        await self._send({"type": "http.response.body", "body": body})

    async def start_stream(
        self, *, ping: bytes = b"", ping_seconds: float = 0.0, stall_seconds: float = 0.0
    ) -> None:
        """Begin an event stream that no proxy on the way should buffer or rewrite.

        All of it is sent by the task that begins it, except for pings.
        `ping` is sent whenever nothing else was for so long, so that nobody on the way takes the
        stream for dead. Pieces must be whole messages: it comes between any two of them. A client
        that takes nothing for `stall_seconds` while a piece waits for it counts as gone (0: never).
        """
        extra = [(b"x-accel-buffering", b"no")]
        await self._start(200, b"text/event-stream", b"no-cache, no-transform", None, extra)
        self._streaming = asyncio.current_task()
        self._sent_at = self._loop.time()
        if ping:
            self._ping_after(ping, ping_seconds, ping_seconds)
        if stall_seconds:
            self._check_stall_after(stall_seconds, stall_seconds)

    def _check_stall_after(self, stall_seconds: float, wait_seconds: float) -> None:
        """One timer per stream, as for pings."""

        def check() -> None:
            waited = self._loop.time() - self._sent_at if self._sending is not None else 0.0
            if waited < stall_seconds:
                self._check_stall_after(stall_seconds, stall_seconds - waited)
                return
            self._is_stalled = self.is_gone = True
            if self._on_gone is not None:
                self._on_gone()
            if self._sending is not None:
                self._sending.cancel()
            # Closed, it would be open until its client has read the rest: for ever.
            if self._abort is not None:
                self._abort()

        self._stall_timer = self._loop.call_later(wait_seconds, check)

    def _ping_after(self, ping: bytes, ping_seconds: float, wait_seconds: float) -> None:
        """One timer per stream, armed again only when it fires: sending a piece costs no timer."""

        def check() -> None:
            silent_seconds = self._loop.time() - self._sent_at
            if silent_seconds < ping_seconds:
                self._ping_after(ping, ping_seconds, ping_seconds - silent_seconds)
                return
            # One that could not be written yet will do: the client is slow to read.
            if self._pinging is None or self._pinging.done():
                self._pinging = asyncio.ensure_future(self._ping(ping))
            self._ping_after(ping, ping_seconds, ping_seconds)

        self._ping_timer = self._loop.call_later(wait_seconds, check)

    async def _ping(self, ping: bytes) -> None:
        # Whoever waits for the client is who must be told that it takes nothing: not a ping.
        if not self.is_gone and self._sending is None:
            with contextlib.suppress(ClientGone):
                message = {"type": "http.response.body", "body": ping, "more_body": True}
                await self._send_on(message, self._pinging)

    def _stop_pinging(self) -> None:
        if self._ping_timer is not None:
            self._ping_timer.cancel()
            self._ping_timer = None
        if self._pinging is not None:
            self._pinging.cancel()
            self._pinging = None

    def write_piece(self, piece: bytes) -> bool:
        """More of a stream, at once. False: await `drain` before anything else is sent.

        Raises ClientGone.
        """
        if self.is_gone:
            raise ClientGone
        if self._write is None:
            self._unsent = piece
            return False
        self._sent_at = self._loop.time()
        return self._write(piece)

    async def drain(self) -> None:
        """Wait while the client reads slowly. Raises ClientGone."""
        if self.is_gone:
            raise ClientGone
        piece, self._unsent = self._unsent, b""
        message = {"type": "http.response.body", "body": piece, "more_body": True}
        await self._send_on(message, self._streaming)

    async def end_stream(self, piece: bytes = b"") -> None:
        """The last of a stream. Raises ClientGone when the client has stopped reading."""
        self._stop_pinging()
        await self._send_on({"type": "http.response.body", "body": piece}, self._streaming)

    async def _send_on(self, message: dict[str, Any], task: asyncio.Task[Any] | None) -> None:
        """Send, unless the client takes nothing for too long; `task` is who is sending."""
        if self._is_stalled:
            raise ClientGone
        self._sent_at = self._loop.time()
        self._sending = task
        try:
            await self._send(message)
        except asyncio.CancelledError:
            if not self._is_stalled or task is None or task.uncancel():
                raise
            raise ClientGone from None
        finally:
            if self._sending is task:
                self._sending = None

    async def _start(
        self,
        status: int,
        content_type: bytes,
        cache_control: bytes,
        headers: Mapping[str, str] | None,
        extra: list[tuple[bytes, bytes]],
    ) -> None:
        self.has_started = True
        await self._send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [
                    (b"content-type", content_type),
                    (b"cache-control", cache_control),
                    (b"x-request-id", self.request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    *extra,
                    *(
                        (name.encode(), value.encode())
                        for name, value in {**self.answer_headers, **(headers or {})}.items()
                    ),
                ],
            }
        )
