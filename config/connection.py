"""One client's connection to the web process: uvicorn's, with limits on how a request begins.

uvicorn waits for ever for a client that sends nothing, or a request's head byte by byte, and keeps
whatever length of it. Owns the limits of heads as they arrive; what a whole head may say is
config/edge.py's. Must know nothing of what is served.
"""

import asyncio
from functools import partial

from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from gateway import exchange

# From the connection, or a request's first byte, to the end of its head.
HEAD_SECONDS_MAX = 10.0
# Twice what config/edge.py lets pass, so that it can say what is wrong with a whole head.
HEAD_BYTES_MAX = 64 * 1024


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, which ends connections whose next head is late or endless."""

    _head_ends: asyncio.TimerHandle | None = None
    _head_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected, and owes a head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """It has gone."""
        self._stop_expecting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a head, of a body, or of both."""
        if self._head_ends is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_ends is not None and self._head_bytes > HEAD_BYTES_MAX:
            self._refuse(431, f"More than {HEAD_BYTES_MAX} bytes of headers.")

    def on_message_begin(self) -> None:
        """The first byte of a request, which may be one of many on this connection."""
        super().on_message_begin()
        if self._head_ends is None:
            self._expect_head()
            self._head_bytes = 1  # at least: it has begun

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._stop_expecting()
        super().on_headers_complete()
        if self.cycle is not None and self.cycle.scope is self.scope:
            self.scope["extensions"] = {
                exchange.WRITE: {
                    "write": partial(_write, self.cycle),
                    "abort": self.transport.abort,
                }
            }

    def _expect_head(self) -> None:
        self._head_bytes = 0
        self._head_ends = self.loop.call_later(HEAD_SECONDS_MAX, self._give_up)

    def _stop_expecting(self) -> None:
        if self._head_ends is not None:
            self._head_ends.cancel()
            self._head_ends = None

    def _give_up(self) -> None:
        if self._is_answering():  # the request before this one has all the time it needs
            self._head_ends = self.loop.call_later(HEAD_SECONDS_MAX, self._give_up)
        elif self._head_bytes:
            self._refuse(408, f"The request's head took more than {HEAD_SECONDS_MAX:g} seconds.")
        else:
            self._stop_expecting()
            self.transport.close()

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, status: int, message: str) -> None:
        self._stop_expecting()
        if self._is_answering():  # nothing may be said inside another answer
            self.transport.close()
            return
        body = message.encode()
        head = f"content-type: text/plain\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
        self.transport.write(STATUS_LINE[status] + head.encode() + b"\r\n" + body)
        self.transport.close()


def _write(cycle: RequestResponseCycle, piece: bytes) -> bool:
    """Write a piece of an answer of unknown length; whether the client keeps up.

    What uvicorn's `send` does with it, which takes three times as long for being able to wait.
    """
    if not cycle.disconnected:
        cycle.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    return not cycle.flow.write_paused
