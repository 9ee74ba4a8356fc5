"""The AI API behind a real server, and a provider that is a script over raw sockets.

Owns a thread with an event loop in which uvicorn serves the API as production does and a bare TCP
server plays every provider. Tests talk to it from their own thread with real SDKs, so everything
between a client's call and its exception is real. Must know no row of any table.
"""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import uvicorn
import uvloop
from asgiref.sync import sync_to_async
from django.db import connection, connections
from django.test import override_settings
from django.test.utils import setup_databases, teardown_databases

from config.asgi import Platform
from config.connection import Connection
from gateway.app import GatewayApp
from gateway.upstream import Limits
from tests import factories
from tests.immutability import empty

T = TypeVar("T")
SECONDS_MAX = 30.0


@dataclass(frozen=True)
class Asked:
    """One request that a provider got."""

    path: str
    body: Any

    @property
    def is_stream(self) -> bool:
        return bool(self.body.get("stream")) or ":streamGenerateContent" in self.path


Script = Callable[[Asked, asyncio.StreamWriter], Awaitable[None]]


def answering(status: int, body: bytes | Any = b"", **headers: str) -> Script:
    """A whole answer; what is not bytes is sent as JSON. `retry_after="7"` is a header."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content_type": "application/json", "content_length": str(len(raw)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in sent.items())

    async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {status} X\r\nconnection: close\r\n{lines}\r\n".encode() + raw)

    return script


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: text/event-stream\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def framed(data: bytes) -> bytes:
    """One piece of a chunked body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def beginning(*pieces: bytes) -> Script:
    """A stream that begins with these pieces and then says nothing more."""

    async def script(asked: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + b"".join(framed(piece) for piece in pieces))
        await silent(asked, writer)

    return script


async def silent(_: Asked, __: asyncio.StreamWriter) -> None:
    """Takes the request and says nothing more."""
    await asyncio.Event().wait()


async def cutting(_: Asked, writer: asyncio.StreamWriter) -> None:
    """Resets the connection instead of answering."""
    reset(writer)


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with a RST: without lingering, the kernel says that the connection broke."""
    raw = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Upstream:
    """Every provider at once: answers each request by the script of the moment."""

    def __init__(self) -> None:
        self.script: Script = silent
        self.asked: list[Asked] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; on the same port as before."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no more: connections are refused."""
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = int(head.lower().partition("content-length: ")[2].split("\r\n")[0])
            asked = Asked(head.split(" ")[1], json.loads(await reader.readexactly(length)))
            self.asked.append(asked)
            await self._play(asked, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the gateway left
        finally:
            writer.close()

    async def _play(
        self, asked: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """The script, until it ends or the gateway hangs up."""
        playing = asyncio.ensure_future(self.script(asked, writer))
        leaving = asyncio.ensure_future(reader.read())
        done, rest = await asyncio.wait({playing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for one in rest:
            one.cancel()
        for one in done:
            one.result()


@dataclass
class Served:
    """The running API. `url` is the address without a version; `drained_url` that of a process
    which is about to stop."""

    url: str
    drained_url: str
    upstream: Upstream
    app: GatewayApp
    loop: asyncio.AbstractEventLoop
    keys: dict[str, str] = field(default_factory=dict)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(SECONDS_MAX)

    @contextmanager
    def limits(self, **seconds: float) -> Iterator[None]:
        """Wait less for providers: `connect`, `first_byte`, `idle`, `total`."""
        assert self.app._services is not None
        held = self.app._services.connections
        before: Limits = held.limits
        held.limits = replace(before, **seconds)
        try:
            yield
        finally:
            held.limits = before

    @contextmanager
    def unreachable(self) -> Iterator[None]:
        """Providers refuse connections."""
        self.run(self.upstream.close())
        try:
            yield
        finally:
            self.run(self.upstream.open())


@asynccontextmanager
async def _listening(app: Any, *, lifespan: str) -> AsyncIterator[str]:
    """uvicorn as config/web.py runs it; its address."""
    config = uvicorn.Config(
        app,
        http=Connection,
        loop="none",
        lifespan="on" if lifespan == "on" else "off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,
    )
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config)
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    while not server.started and not serving.done():  # noqa: ASYNC110 - it sets no event
        await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/ai"
    finally:
        server.should_exit = True
        await serving


async def _live(upstream: Upstream, ready: Callable[[Served], None], done: asyncio.Event) -> None:
    await upstream.open()
    # Before the other starts: a process has one meter.
    drained = Platform(serves_only_the_ai_api=True)
    await drained._ai.start()
    await drained._ai.stop()
    platform = Platform(serves_only_the_ai_api=True)
    async with (
        _listening(platform, lifespan="on") as url,
        _listening(drained, lifespan="off") as drained_url,
    ):
        loop = asyncio.get_running_loop()
        ready(Served(url, drained_url, upstream, platform._ai, loop))
        await done.wait()
    await upstream.close()
    await sync_to_async(connections.close_all)()


@contextmanager
def serve(upstream: Upstream) -> Iterator[Served]:
    """Run everything in a thread of its own until left."""
    made: list[Served] = []
    is_ready, done = threading.Event(), asyncio.Event()
    failures: list[BaseException] = []

    def ready(served: Served) -> None:
        made.append(served)
        is_ready.set()

    def live() -> None:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_live(upstream, ready, done))
        except BaseException as failure:
            failures.append(failure)
            raise
        finally:
            is_ready.set()

    thread = threading.Thread(target=live, name="served")
    thread.start()
    is_ready.wait(SECONDS_MAX)
    if not made:
        thread.join()
        raise RuntimeError("The API did not start.") from (failures or [None])[0]
    try:
        yield made[0]
    finally:
        made[0].loop.call_soon_threadsafe(done.set)
        thread.join(SECONDS_MAX)
        assert not thread.is_alive()


# Models by the wire their provider speaks; the last is never forwarded to, always translated for.
MODELS = {
    "chat": "gpt-4o",
    "responses": "gpt-5.2-codex",
    "anthropic": "claude-sonnet-4.5",
    "gemini": "gemini-3-flash",
    "chat, translated": "smollm2-135m",
}
ROUTES = {
    "gpt-4o": ("openai", "openai_chat"),
    "gpt-5.2-codex": ("openai", "openai_responses"),
    "claude-sonnet-4.5": ("anthropic", ""),
    "gemini-3-flash": ("google", ""),
    "smollm2-135m": ("local", ""),
}
API_KEY = "sk-provider-secret-0123456789"


@contextmanager
def configured(port: int) -> Iterator[None]:
    """Every provider at this port, and the models."""
    for name, (provider, dialect) in ROUTES.items():
        route = factories.make_route(public_name=name, provider=provider)
        route.dialect = dialect
        route.save()
        factories.make_price(provider=provider, model=name, output_nanos=10_000_000_000)
    known = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": API_KEY}
    providers = dict.fromkeys((provider for provider, _ in ROUTES.values()), known)
    with override_settings(PROVIDER_ENVIRONMENT=providers):
        yield


# As it is while tests are collected: what a test must never empty.
REAL_DATABASE = connection.settings_dict["NAME"]


@contextmanager
def database() -> Iterator[None]:
    """The test database, emptied afterwards; made here if no other test of this run asked for one.

    pytest-django makes it for tests that say so, each of which would empty it for the others.
    """
    made = None
    if connection.settings_dict["NAME"] == REAL_DATABASE:
        made = setup_databases(verbosity=0, interactive=False, aliases={"default"})
    try:
        yield
    finally:
        if made is not None:
            teardown_databases(made, verbosity=0)
        else:
            empty(connection)
