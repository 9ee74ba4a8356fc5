"""Calls to providers: connections, four timeouts, and errors as three named exceptions.

Owns one aiohttp session per process and its limits: until connected, until the first byte of a
stream, between two pieces, and for a whole call with all its attempts. Requests are built from
scratch: of a client's headers only those travel on that are handed over by name. Redirects are not
followed (a redirect could carry our key to another host), compressed answers are not asked for.
Must know no dialect and no money.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import aiohttp

from gateway.arrivals import Connector, Push, Take
from gateway.credentials import Upstream

# Until a connection is there: waiting for a free one, resolving the name, connecting.
ACQUIRE_SECONDS_MAX = 15.0
CONNECTIONS_MAX = 2000
ANSWER_BYTES_MAX = 32 * 1024 * 1024
ERROR_BYTES_MAX = 64 * 1024


# What is waited for in vain: the outcome that an attempt is noted with.
CONNECT_TIMEOUT = "connect_timeout"
FIRST_BYTE_TIMEOUT = "first_byte_timeout"
IDLE_TIMEOUT = "idle_timeout"
TOTAL_TIMEOUT = "total_timeout"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a provider is waited for, in seconds; see docs/configuration.md.

    `first_byte` is for streams: a whole answer is made before its first byte is sent, so only
    `total` bounds it. `total` runs from the call's first attempt to its last byte.
    """

    connect: float
    first_byte: float
    idle: float
    total: float


class UnableToReach(Exception):
    """The provider could not be connected to: nothing was sent, so nothing is billed."""


class ConnectTimedOut(UnableToReach):
    """No connection came about in time."""


class UpstreamTimedOut(Exception):
    """The provider was connected to and then took too long; `outcome` says what was too long."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class UpstreamCut(Exception):
    """The connection ended in the middle of an answer, or the answer is too large."""


class Answer:
    """A provider's response, from its headers on. Close it, or use it as a context manager.

    One timer watches it, armed again only when it fires: a timer per piece would cost more than
    forwarding the piece. `first_byte_at` and `deadline` are times of the event loop's clock.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        *,
        first_byte_at: float,
        idle_seconds: float,
        deadline: float,
    ) -> None:
        self._response = response
        self._content = response.content
        self._loop = asyncio.get_running_loop()
        self._idle_seconds = idle_seconds
        self._deadline = deadline
        self._heard_at = 0.0
        self._held = b""
        self._timeout = ""
        self._push: Push | None = None
        self._silent_until = first_byte_at
        self._timer = self._loop.call_at(min(first_byte_at, deadline), self._check)
        self.status = response.status
        self.headers = response.headers

    def _check(self) -> None:
        """The timer fired: cut the connection if a limit has passed, else wait for the next."""
        now = self._loop.time()
        if self._push is not None:
            self._heard_at = max(self._heard_at, self._push.arrived_at)
        if self._heard_at:
            self._silent_until = self._heard_at + self._idle_seconds
        if now >= self._deadline:
            self._timeout = TOTAL_TIMEOUT
        elif now >= self._silent_until:
            self._timeout = IDLE_TIMEOUT if self._heard_at else FIRST_BYTE_TIMEOUT
        else:
            at = min(self._silent_until, self._deadline)
            self._timer = self._loop.call_at(at, self._check)
            return
        self._cut()

    def _cut(self) -> None:
        self._response.close()
        if self._push is not None:
            self._push.stop()

    async def __aenter__(self) -> "Answer":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        # An answer that was read to its end gives its connection back; any other is cut.
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    def close(self) -> None:
        """Cut the connection now; whoever is reading gets UpstreamCut."""
        self._timer.cancel()
        self._cut()

    async def hear(self, *, seconds_max: float) -> None:
        """Wait for the first piece, kept for `next_piece`; no longer than so many seconds.

        Raises UpstreamTimedOut, UpstreamCut.
        """
        try:
            async with asyncio.timeout(seconds_max):
                self._held = await self.next_piece()
        except TimeoutError:
            return
        if not self._held:
            raise UpstreamCut("The answer is empty.")

    async def read(self, *, bytes_max: int = ANSWER_BYTES_MAX) -> bytes:
        """The whole body. Raises UpstreamTimedOut, UpstreamCut."""
        parts: list[bytes] = []
        size = 0
        while piece := await self.next_piece():
            parts.append(piece)
            size += len(piece)
            if size > bytes_max:
                raise UpstreamCut(f"The answer is longer than {bytes_max} bytes.")
        return b"".join(parts)

    async def read_start(self, bytes_max: int) -> bytes:
        """The first `bytes_max` bytes of the body. Raises UpstreamTimedOut, UpstreamCut."""
        start = b""
        while len(start) < bytes_max and (piece := await self.next_piece()):
            start += piece
        return start[:bytes_max]

    async def next_piece(self) -> bytes:
        """What has arrived since the last time, b"" at the end.

        Raises UpstreamTimedOut, UpstreamCut.
        """
        if self._held:
            held, self._held = self._held, b""
            return held
        try:
            piece = await self._content.readany()
        except aiohttp.ClientError as error:
            if self._timeout:
                raise UpstreamTimedOut(self._timeout) from error
            raise UpstreamCut(str(error)) from error
        if self._timeout:
            raise UpstreamTimedOut(self._timeout)
        is_first = not self._heard_at
        self._heard_at = self._loop.time()
        if is_first:  # from here on another limit holds
            self._timer.cancel()
            self._check()
        return piece

    async def deliver(self, take: Take) -> bool:
        """Hand what arrives to `take`, until that says it can take no more for now.

        True then: ask again. False at the end. Nearly every piece goes on in the callback that
        read it from the connection. Raises UpstreamTimedOut, UpstreamCut, and what `take` raises.
        """
        while piece := await self.next_piece():
            if not take(piece) or await self._pushed(take):
                return True
        return False

    async def _pushed(self, take: Take) -> bool:
        """Whether `take` has had enough; False when `next_piece` has something to say."""
        if self._response.connection is None:  # all of it has arrived
            return False
        self._push = push = Push(self._response, take)
        try:
            return await push.stopped
        finally:
            push.stop()
            self._heard_at = max(self._heard_at, push.arrived_at)
            self._push = None


class Connections:
    """The process's connections to all providers."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._session = aiohttp.ClientSession(
            connector=Connector(
                limit=CONNECTIONS_MAX, limit_per_host=CONNECTIONS_MAX, keepalive_timeout=30
            ),
            auto_decompress=False,
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    def new_deadline(self) -> float:
        """When a call that begins now must have ended, by the event loop's clock."""
        return asyncio.get_running_loop().time() + self.limits.total

    async def send(
        self,
        upstream: Upstream,
        path: str,
        body: bytes,
        *,
        is_stream: bool,
        deadline: float,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """POST `body` (JSON) and wait for the answer's headers.

        `headers` are added; none of them replaces one of ours. `deadline` is of the whole call.
        Raises UnableToReach, UpstreamTimedOut, UpstreamCut.
        """
        sent = {
            **(headers or {}),
            "content-type": "application/json",
            "accept": "text/event-stream" if is_stream else "application/json",
            "accept-encoding": "identity",
            "user-agent": "aigateway/1",
            **upstream.headers(),
        }
        timeout = aiohttp.ClientTimeout(
            total=None, connect=ACQUIRE_SECONDS_MAX, sock_connect=self.limits.connect
        )
        now = asyncio.get_running_loop().time()
        first_byte_at = now + self.limits.first_byte if is_stream else deadline
        try:
            async with asyncio.timeout_at(min(first_byte_at, deadline)):
                response = await self._session.post(
                    upstream.base_url + path,
                    data=body,
                    headers=sent,
                    timeout=timeout,
                    allow_redirects=False,
                )
        except aiohttp.ConnectionTimeoutError as error:
            raise ConnectTimedOut(str(error)) from error
        except aiohttp.ClientConnectorError as error:
            raise UnableToReach(str(error)) from error
        except TimeoutError as error:
            is_over = first_byte_at >= deadline
            raise UpstreamTimedOut(TOTAL_TIMEOUT if is_over else FIRST_BYTE_TIMEOUT) from error
        except aiohttp.ClientError as error:
            raise UpstreamCut(str(error)) from error
        return Answer(
            response,
            first_byte_at=first_byte_at,
            idle_seconds=self.limits.idle,
            deadline=deadline,
        )
