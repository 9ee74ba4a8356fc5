"""What our connections offer beyond ASGI: pieces of a stream written at once."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

from config.connection import Connection
from gateway.exchange import WRITE

REQUEST = b"GET /%d HTTP/1.1\r\nhost: localhost\r\n\r\n"


class App:
    """Streams its path three times; ends each answer when told to."""

    def __init__(self) -> None:
        self.writes: list[Any] = []
        self.aborts: list[Any] = []
        self.may_end = asyncio.Event()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        write = scope["extensions"][WRITE]["write"]
        self.writes.append(write)
        self.aborts.append(scope["extensions"][WRITE]["abort"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            assert write(scope["path"].encode())
        await self.may_end.wait()
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def app() -> App:
    return App()


@pytest.fixture
async def port(app: App) -> AsyncIterator[int]:
    config = uvicorn.Config(app, port=0, http=Connection, lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(5):
        while not server.started:  # noqa: ASYNC110 - uvicorn has nothing to wait for
            await asyncio.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[1]
    app.may_end.set()
    server.should_exit = server.force_exit = True  # whatever connection a failed test has left
    await serving


async def test_pieces_go_into_the_answer_of_their_own_request(app: App, port: int) -> None:
    """Also when the client has sent its next one already."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST % 1 + REQUEST % 2)
    assert await reader.readuntil(b"2\r\n/1\r\n2\r\n/1\r\n2\r\n/1\r\n")
    assert len(app.writes) == 1
    app.may_end.set()
    rest = await reader.readuntil(b"2\r\n/2\r\n2\r\n/2\r\n2\r\n/2\r\n0\r\n\r\n")
    assert rest.startswith(b"0\r\n\r\nHTTP/1.1 200")
    assert b"2\r\n/1" not in rest
    writer.close()


async def test_whoever_has_left_is_written_nothing(app: App, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST % 1)
    await reader.readuntil(b"/1\r\n")
    writer.transport.abort()
    cycle = app.writes[0].args[0]
    async with asyncio.timeout(5):
        while not cycle.disconnected:  # noqa: ASYNC110 - nor has its protocol
            await asyncio.sleep(0.005)
    assert app.writes[0](b"to nobody")


async def test_a_client_that_reads_nothing_does_not_keep_up(app: App, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST % 1)
    await reader.readuntil(b"/1\r\n")
    writes = 0
    while app.writes[0](b"x" * 100_000):
        writes += 1
        assert writes < 1_000
    writer.transport.abort()


async def test_a_connection_can_be_ended_whose_client_reads_nothing(app: App, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(REQUEST % 1)
    await reader.readuntil(b"/1\r\n")
    app.writes[0](b"x" * 20_000_000)  # more than all buffers on the way take
    app.aborts[0]()
    cycle = app.writes[0].args[0]
    async with asyncio.timeout(5):
        while not cycle.disconnected:  # noqa: ASYNC110 - nor has its protocol
            await asyncio.sleep(0.005)
    writer.transport.abort()
