"""The platform behind a real server in a thread, as live logs need it, and clients of it."""

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn
from asgiref.sync import sync_to_async
from django.db import connections
from websockets.sync.client import ClientConnection, connect

from config import web
from config.asgi import Platform
from deployments import consumers

SECONDS_MAX = 30.0
AGENT_PATH = "/api/data/deployments/live-logs"


@dataclass
class LiveServer:
    """`port` on loopback; the server's event loop."""

    port: int
    loop: asyncio.AbstractEventLoop

    def open(self, path: str, *, host: str | None = None, **headers: str) -> ClientConnection:
        """A socket at this path; `host` overrides the Host header."""
        return connect(
            f"ws://{host or 'localhost'}:{self.port}{path}",
            sock=socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS_MAX),
            additional_headers=headers,
            open_timeout=SECONDS_MAX,
            proxy=None,
        )

    def as_agent(self, token: str, query: str = "") -> ClientConnection:
        return self.open(f"{AGENT_PATH}{query}", Authorization=f"Bearer {token}")


def message(client: ClientConnection) -> dict[str, Any]:
    """The next message."""
    read: dict[str, Any] = json.loads(client.recv(timeout=SECONDS_MAX))
    return read


def line(client: ClientConnection) -> dict[str, Any]:
    """The next message that is no heartbeat."""
    while "heartbeat" in (read := message(client)):
        pass
    return read


async def _live(ready: Any, done: asyncio.Event) -> None:
    options = {**web.options(0, "127.0.0.1"), "app": Platform(), "lifespan": "off"}
    options.update(loop="none", timeout_graceful_shutdown=1)
    listener = socket.create_server(("127.0.0.1", 0))
    await consumers.startup()
    server = uvicorn.Server(uvicorn.Config(**options))  # type: ignore[arg-type]
    serving = asyncio.ensure_future(server.serve(sockets=[listener]))
    while not server.started and not serving.done():  # noqa: ASYNC110 - it sets no event
        await asyncio.sleep(0.01)
    ready(LiveServer(listener.getsockname()[1], asyncio.get_running_loop()))
    await done.wait()
    server.should_exit = True
    await serving
    await consumers.shutdown()
    await sync_to_async(connections.close_all)()


@contextmanager
def serve() -> Iterator[LiveServer]:
    """Run it until the block ends. Tests need `django_db(transaction=True)`."""
    made: list[LiveServer] = []
    is_ready, done = threading.Event(), asyncio.Event()

    def ready(server: LiveServer) -> None:
        made.append(server)
        is_ready.set()

    def live() -> None:
        try:
            asyncio.run(_live(ready, done))
        finally:
            is_ready.set()

    thread = threading.Thread(target=live, name="live-server")
    thread.start()
    assert is_ready.wait(SECONDS_MAX)
    try:
        yield made[0]
    finally:
        made[0].loop.call_soon_threadsafe(done.set)
        thread.join(SECONDS_MAX)
        assert not thread.is_alive()
