"""Calls to providers: connections, timeouts, and errors as three named exceptions.

Owns one aiohttp session per process and its limits. Requests are built from scratch: of a client's
headers only those travel on that are handed over by name. Redirects are not followed (a redirect
could carry our key to another host), compressed answers are not asked for. Must know no dialect and
no money.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from types import TracebackType

import aiohttp

from gateway.credentials import Upstream

CONNECT_SECONDS_MAX = 5.0
# Until a connection is there: waiting for a free one, resolving the name, connecting.
ACQUIRE_SECONDS_MAX = 15.0
IDLE_SECONDS_MAX = 120.0  # between two pieces, and until the first byte of a stream
ANSWER_SECONDS_MAX = 600.0  # until the first byte of a whole answer: it is made first
TOTAL_SECONDS_MAX = 900.0
CONNECTIONS_MAX = 2000
ANSWER_BYTES_MAX = 32 * 1024 * 1024
ERROR_BYTES_MAX = 64 * 1024


class UnableToReach(Exception):
    """The provider could not be connected to: nothing was sent, so nothing is billed."""


class UpstreamTimedOut(Exception):
    """The provider was connected to and then took too long."""


class UpstreamCut(Exception):
    """The connection ended in the middle of an answer, or the answer is too large."""


class Answer:
    """A provider's response, from its headers on. Close it, or use it as a context manager."""

    def __init__(self, response: aiohttp.ClientResponse, deadline: float) -> None:
        self._response = response
        self._deadline = deadline
        self.status = response.status
        self.headers = response.headers

    async def __aenter__(self) -> "Answer":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # An answer that was read to its end gives its connection back; any other is cut.
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()

    def close(self) -> None:
        """Cut the connection now; whoever is reading gets UpstreamCut."""
        self._response.close()

    async def read(self, *, bytes_max: int = ANSWER_BYTES_MAX) -> bytes:
        """The whole body. Raises UpstreamTimedOut, UpstreamCut."""
        parts: list[bytes] = []
        size = 0
        async for piece in self.pieces():
            parts.append(piece)
            size += len(piece)
            if size > bytes_max:
                raise UpstreamCut(f"The answer is longer than {bytes_max} bytes.")
        return b"".join(parts)

    async def read_start(self, bytes_max: int) -> bytes:
        """The first `bytes_max` bytes of the body. Raises UpstreamTimedOut, UpstreamCut."""
        start = b""
        async for piece in self.pieces():
            start += piece
            if len(start) >= bytes_max:
                break
        return start[:bytes_max]

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises UpstreamTimedOut, UpstreamCut."""
        loop_time = asyncio.get_running_loop().time
        content = self._response.content
        try:
            while piece := await content.readany():
                yield piece
                if loop_time() > self._deadline:
                    raise UpstreamTimedOut
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise UpstreamTimedOut from error
        except aiohttp.ClientError as error:
            raise UpstreamCut(str(error)) from error


class Connections:
    """The process's connections to all providers."""

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
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

    async def send(
        self,
        upstream: Upstream,
        path: str,
        body: bytes,
        *,
        is_stream: bool,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """POST `body` (JSON) and wait for the answer's headers.

        `headers` are added; none of them replaces one of ours.
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
            total=None,
            connect=ACQUIRE_SECONDS_MAX,
            sock_connect=CONNECT_SECONDS_MAX,
            sock_read=IDLE_SECONDS_MAX if is_stream else ANSWER_SECONDS_MAX,
        )
        try:
            response = await self._session.post(
                upstream.base_url + path,
                data=body,
                headers=sent,
                timeout=timeout,
                allow_redirects=False,
            )
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise UnableToReach(str(error)) from error
        except (TimeoutError, aiohttp.ServerTimeoutError) as error:
            raise UpstreamTimedOut from error
        except aiohttp.ClientError as error:
            raise UpstreamCut(str(error)) from error
        return Answer(response, asyncio.get_running_loop().time() + TOTAL_SECONDS_MAX)
