"""Pieces of a provider's answer in the moment they arrive, without waking a task for each.

aiohttp lets a task wait for what has arrived: a future, a turn of the event loop and a dozen
coroutines for each piece, which costs more than forwarding it (docs/adr/0003). Owns aiohttp's end
of a connection and the callback through which pieces go on. Everything else of an answer, its
errors and its end among them, is left to whoever reads it with aiohttp. Must know no time limits.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

# Takes a piece; whether it can take another one at once.
Take = Callable[[bytes], bool]


class Connection(ResponseHandler):
    """aiohttp's end of one connection; calls `on_arrival` after bytes, or the end, have come."""

    on_arrival: Callable[[], None] | None = None
    # Whether reading has paused since the last request.
    _has_paused = False

    def set_response_params(self, **options: Any) -> None:
        """The next answer begins."""
        self._has_paused = False
        super().set_response_params(**options)

    def data_received(self, data: bytes) -> None:
        """More of an answer."""
        super().data_received(data)
        if self.on_arrival is not None:
            self.on_arrival()

    def connection_lost(self, exc: BaseException | None) -> None:
        """There is no more."""
        super().connection_lost(exc)
        if self.on_arrival is not None:
            self.on_arrival()

    def pause_reading(self) -> None:
        """More has arrived than is read."""
        self._has_paused = True
        super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Asked for by aiohttp after every read; nothing is to be done if reading never paused.

        The parser may act on a pause that is over, and would keep the rest until it is asked.
        """
        if self._has_paused:
            super().resume_reading(resume_parser)


class Connector(aiohttp.TCPConnector):
    """A connector that makes such connections."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory = partial(Connection, loop=self._loop)  # type: ignore[assignment]


class Push:
    """Hands the pieces of one answer on as they arrive, until something else is to be done."""

    def __init__(self, response: aiohttp.ClientResponse, take: Take) -> None:
        """Begins with what has arrived and was not read. The answer must still have a connection.

        Reading makes room for more, so a reader can leave something, and the end, without knowing.
        """
        loop = asyncio.get_running_loop()
        # By the event loop's clock; 0 before the first piece.
        self.arrived_at = 0.0
        # Whether `take` wants no more for now. False when there is something else to look at: the
        # end, an error. Raises what `take` raised.
        self.stopped: asyncio.Future[bool] = loop.create_future()
        self._content = response.content
        self._take = take
        self._time = loop.time
        self._is_reading = False
        self._has_arrived = False
        connection = response.connection
        protocol = None if connection is None else connection.protocol
        assert isinstance(protocol, Connection)  # see above  # noqa: S101
        self._protocol = protocol
        self._protocol.on_arrival = self._on_arrival
        self._on_arrival()

    def stop(self) -> None:
        """Take nothing more: from now on the connection may serve another call."""
        self._stop(is_enough=False)

    def _on_arrival(self) -> None:
        self._has_arrived = True
        if self._is_reading:
            return  # reading made room for more, which is next in turn
        self._is_reading = True
        while self._has_arrived and not self.stopped.done():
            self._has_arrived = False
            self._read()
        self._is_reading = False

    def _read(self) -> None:
        content = self._content
        if content.exception() is not None:
            self._stop(is_enough=False)
            return
        if piece := content.read_nowait():
            self.arrived_at = self._time()
            try:
                is_enough = not self._take(piece)
            except Exception as error:
                self._stop(error=error)
                return
            if is_enough:
                self._stop(is_enough=True)
        if content.is_eof():
            self._stop(is_enough=False)

    def _stop(self, *, is_enough: bool = False, error: Exception | None = None) -> None:
        if self._protocol.on_arrival == self._on_arrival:
            self._protocol.on_arrival = None
        if self.stopped.done():
            return  # cancelled, maybe
        if error is not None:
            self.stopped.set_exception(error)
        else:
            self.stopped.set_result(is_enough)
