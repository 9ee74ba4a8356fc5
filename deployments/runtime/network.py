"""The ways out of an instance that has a network of its own: to the gateway, and to the proxy.

Owns the host's ends of an instance's bridges, and the variables that lead a function's libraries to
them. Functions reach the gateway at exactly the URL they were given, TLS included: bytes are passed
on as they are. Everything else is egress's to decide.
"""

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from deployments.runtime.driver import Bridge
from deployments.runtime.egress import HEAD_BYTES_MAX, Egress
from deployments.runtime.relay import Connection, Limits, relay

PROXY_PORT = 3128
CONNECT_SECONDS_MAX = 5.0
CONNECTIONS_MAX = 200  # of an instance on each bridge
# A stream may be silent for as long as the gateway lets it; an instance's end closes everything.
GATEWAY_TIMES = Limits(idle_seconds=1800.0, total_seconds=3600.0)
LOOPBACK = "localhost,127.0.0.1,::1,[::1]"  # libraries differ in how they write the last

Serve = Callable[[Connection], Awaitable[None]]


class UnableToAddress(Exception):
    """The gateway's URL or address cannot be read; the message is for the operator."""


@dataclass(frozen=True)
class Gateway:
    """Where functions reach the gateway: `host` and `port` of its URL, and what answers there."""

    host: str
    port: int
    address: tuple[str, int]

    @classmethod
    def at(cls, url: str, address: str = "") -> "Gateway":
        """The gateway with this public URL, reached at `address` (host:port) if it is given.

        Raises UnableToAddress.
        """
        parts = _split(url, f"{url!r} is no URL")
        if not parts.hostname or parts.scheme not in ("http", "https"):
            raise UnableToAddress(f"{url!r} must begin with http:// or https:// and name a host.")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if not address:
            return cls(parts.hostname, port, (parts.hostname, port))
        there = _split(f"//{address}", f"{address!r} is no address")
        if not there.hostname or not there.port:
            raise UnableToAddress(f"{address!r} must be host:port (FUNCTION_GATEWAY_ADDRESS).")
        return cls(parts.hostname, port, (there.hostname, there.port))


class Network:
    """Makes the ways out, for all instances of this machine."""

    def __init__(self, gateway: Gateway, egress: Egress) -> None:
        self._gateway = gateway
        self._egress = egress
        self._proxy_port = PROXY_PORT if gateway.port != PROXY_PORT else PROXY_PORT + 1
        self.bridges = (
            Bridge(gateway.host, gateway.port, "gw.sock"),
            Bridge("localhost", self._proxy_port, "egress.sock"),
        )

    def environment(self) -> Mapping[str, str]:
        """The variables by which libraries find the proxy, Node's own included (24.5 and newer)."""
        proxy = f"http://127.0.0.1:{self._proxy_port}"
        direct = f"{LOOPBACK},{self._gateway.host}"
        return {
            **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), proxy),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), direct),
            "NODE_USE_ENV_PROXY": "1",
        }

    async def open(self, deployment_id: int, sockets: Path, say: Callable[[str], None]) -> "Ways":
        """Listen on the sockets of an instance's bridges. Raises OSError."""

        async def proxy(connection: Connection) -> None:
            await self._egress.serve(deployment_id, connection, say)

        ways = Ways()
        try:
            await ways.listen(sockets / "gw.sock", self._pass_on)
            await ways.listen(sockets / "egress.sock", proxy)
        except BaseException:
            await ways.close()
            raise
        return ways

    async def _pass_on(self, function: Connection) -> None:
        """A connection to the gateway."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                gateway = Connection(*await asyncio.open_connection(*self._gateway.address))
        except OSError:
            return  # for the function, as if nobody listened there
        await relay(function, gateway, GATEWAY_TIMES)


class Ways:
    """The host's ends of one instance's bridges."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._connections: set[asyncio.Task[None]] = set()

    async def listen(self, path: Path, serve: Serve) -> None:
        """Serve each connection on the socket `path` until closed. Raises OSError."""
        count = 0

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal count
            task = asyncio.current_task()
            assert task is not None  # noqa: S101
            self._connections.add(task)
            count += 1
            try:
                if count <= CONNECTIONS_MAX:
                    await serve(Connection(reader, writer))
            except (OSError, asyncio.CancelledError):
                pass  # an end of the connection left, or the instance ends
            finally:
                count -= 1
                self._connections.discard(task)
                writer.transport.abort()

        before = os.umask(0o177)
        try:
            server = await asyncio.start_unix_server(take, path, limit=HEAD_BYTES_MAX)
        finally:
            os.umask(before)
        self._servers.append(server)

    async def close(self) -> None:
        """Close all at once."""
        for server in self._servers:
            server.close()
        for connection in set(self._connections):
            connection.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._connections, return_exceptions=True)


def _split(url: str, complaint: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise UnableToAddress(complaint) from None
    return parts
