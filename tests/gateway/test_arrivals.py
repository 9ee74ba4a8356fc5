"""Pieces of an answer go on when they arrive: all of them, in order, and only while wanted."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from gateway import arrivals
from gateway.upstream import Answer, Connections, UpstreamCut
from tests.gateway.conftest import Provider
from tests.gateway.test_pings import until
from tests.gateway.test_upstream import LIMITS, ask

# More than aiohttp buffers before it stops reading.
LARGE = [bytes([65 + at % 26]) * 100_000 for at in range(30)]


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    opened = Connections(LIMITS)
    yield opened
    await opened.close()


class Script:
    """A provider that sends what it is given, when it is given it; None ends the answer."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()

    def send(self, *pieces: bytes | None) -> None:
        for piece in pieces:
            self._pieces.put_nowait(piece)

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while (piece := await self._pieces.get()) is not None:
            await response.write(piece)
        return response


class Taker:
    """Keeps what it is handed; says it has had enough after so many bytes."""

    def __init__(self, bytes_max: int = 2**40) -> None:
        self.taken = b""
        self.bytes_max = bytes_max

    def __call__(self, piece: bytes) -> bool:
        self.taken += piece
        return len(self.taken) < self.bytes_max


async def opened(connections: Connections, provider: Provider, script: Script) -> Answer:
    provider.handler = script
    return await ask(connections, provider.base_url, is_stream=True)


async def test_pieces_are_handed_on_as_they_arrive(
    connections: Connections, provider: Provider
) -> None:
    script, taker = Script(), Taker()
    async with await opened(connections, provider, script) as answer:
        delivering = asyncio.create_task(answer.deliver(taker))
        for piece in (b"one", b"two", b"three"):
            before = taker.taken
            script.send(piece)
            await until(lambda expected=before + piece: taker.taken == expected)
        script.send(None)
        assert await delivering is False
    assert taker.taken == b"onetwothree"


async def test_no_task_is_woken_for_a_piece(connections: Connections, provider: Provider) -> None:
    """What all this is for: the piece is taken in the callback that read it."""
    script, tasks = Script(), []

    def take(piece: bytes) -> bool:
        tasks.append(asyncio.current_task())
        return True

    async with await opened(connections, provider, script) as answer:
        delivering = asyncio.create_task(answer.deliver(take))
        script.send(b"one")
        await until(lambda: len(tasks) == 1)
        script.send(b"two")
        await until(lambda: len(tasks) == 2)
        script.send(None)
        await delivering
    assert tasks[1] is None


@pytest.mark.parametrize("bytes_max", [2**40, 250_000, 1])
async def test_nothing_is_lost_or_turned_round_when_more_comes_than_is_taken(
    connections: Connections, provider: Provider, bytes_max: int
) -> None:
    script, taker = Script(), Taker(bytes_max)
    script.send(*LARGE, None)
    async with await opened(connections, provider, script) as answer:
        while await answer.deliver(taker):
            taker.bytes_max += bytes_max
            await asyncio.sleep(0.001)  # a client that reads slowly
    assert taker.taken == b"".join(LARGE)


class Wire:
    """A connection's transport on which nothing arrives by itself."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str) -> None: ...


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


async def begun(read_bufsize: int) -> tuple[arrivals.Connection, Any]:
    """A connection on which the head of a chunked answer has arrived, and that answer."""
    protocol = arrivals.Connection(asyncio.get_running_loop())
    protocol.connection_made(Wire())  # type: ignore[arg-type]
    protocol.set_response_params(read_bufsize=read_bufsize)
    protocol.data_received(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    _, content = await protocol.read()
    return protocol, SimpleNamespace(content=content, connection=SimpleNamespace(protocol=protocol))


async def test_what_arrives_while_it_is_read_comes_after_what_is_read() -> None:
    """aiohttp keeps the rest of a read that is larger than its buffer, and goes on when asked."""
    protocol, response = await begun(read_bufsize=8)
    taker = Taker()
    push = arrivals.Push(response, taker)
    pieces = [b"%04d" % at for at in range(500)]
    protocol.data_received(chunked(*pieces))
    assert taker.taken == b"".join(pieces)
    push.stop()


async def test_what_a_read_has_left_goes_on_without_anything_else_arriving() -> None:
    """Reading makes room, in which the rest of what had arrived comes after that read."""
    protocol, response = await begun(read_bufsize=8)
    pieces = [b"%04d" % at for at in range(500)]
    protocol.data_received(chunked(*pieces))
    taker = Taker()
    taker(await response.content.readany())
    push = arrivals.Push(response, taker)
    assert taker.taken == b"".join(pieces)
    push.stop()


async def test_an_answer_that_was_cut_before_anybody_waited_is_told_at_once() -> None:
    protocol, response = await begun(read_bufsize=8)
    protocol.connection_lost(None)
    push = arrivals.Push(response, Taker())
    assert push.stopped.result() is False


async def test_nothing_is_held_back_after_so_many_small_chunks_that_reading_paused() -> None:
    """aiohttp's parser stops once more, after that pause is over, and goes on when asked."""
    protocol, response = await begun(read_bufsize=64)
    small, taker = [b"x"] * (response.content._high_water_chunks + 1), Taker()
    protocol.data_received(chunked(*small))
    assert protocol._reading_paused
    push = arrivals.Push(response, taker)
    protocol.data_received(chunked(b"one", b"two"))
    assert taker.taken == b"".join(small) + b"onetwo"
    push.stop()


async def test_what_taking_raises_reaches_whoever_waits(
    connections: Connections, provider: Provider
) -> None:
    script = Script()
    script.send(b"one")

    def take(piece: bytes) -> bool:
        if piece == b"two":
            raise ValueError("two")
        script.send(b"two")
        return True

    async with await opened(connections, provider, script) as answer:
        with pytest.raises(ValueError, match="two"):
            await answer.deliver(take)


async def test_a_cut_is_told_after_all_that_came_before_it(
    connections: Connections, provider: Provider
) -> None:
    taker = Taker()

    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for piece in (b"one", b"two"):
            await response.write(piece)
            await asyncio.sleep(0.01)
        assert request.transport is not None
        request.transport.abort()
        return response

    provider.handler = cut
    async with await ask(connections, provider.base_url, is_stream=True) as answer:
        with pytest.raises(UpstreamCut):
            await answer.deliver(taker)
    assert taker.taken == b"onetwo"


async def test_closing_ends_delivery(connections: Connections, provider: Provider) -> None:
    script, taker = Script(), Taker()
    script.send(b"one")
    async with await opened(connections, provider, script) as answer:
        delivering = asyncio.create_task(answer.deliver(taker))
        await until(lambda: taker.taken == b"one")
        answer.close()
        with pytest.raises(UpstreamCut):
            await asyncio.wait_for(delivering, timeout=5)


async def test_a_cancelled_delivery_takes_nothing_more(
    connections: Connections, provider: Provider
) -> None:
    script, taker = Script(), Taker()
    script.send(b"one")
    async with await opened(connections, provider, script) as answer:
        delivering = asyncio.create_task(answer.deliver(taker))
        await until(lambda: taker.taken == b"one")
        delivering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await delivering
        protocol: Any = answer._response.connection.protocol  # type: ignore[union-attr]
        assert protocol.on_arrival is None
        script.send(b"two")
        assert await answer.next_piece() == b"two"
    assert taker.taken == b"one"


async def test_the_next_call_on_the_connection_is_read_as_any_other(
    connections: Connections, provider: Provider
) -> None:
    script, taker = Script(), Taker()
    script.send(b"one")
    async with await opened(connections, provider, script) as answer:
        delivering = asyncio.create_task(answer.deliver(taker))
        await until(lambda: taker.taken == b"one")
        script.send(b"two", None)
        await delivering
        protocol: Any = next(iter(connections._session._connector._conns.values()))[0][0]
    assert isinstance(protocol, arrivals.Connection)
    script.send(b"three")
    async with await opened(connections, provider, script) as answer:
        assert answer._response.connection.protocol is protocol  # type: ignore[union-attr]
        script.send(None)
        assert await answer.read() == b"three"
    assert taker.taken == b"onetwo"
