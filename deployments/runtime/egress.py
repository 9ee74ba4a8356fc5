"""The proxy through which functions reach the internet: HTTP CONNECT, and http:// in full.

Owns the policy of outgoing connections: whom functions may connect to, how many connections they
may have and for how long. A name is resolved once, here, all its addresses must be public, and the
connection goes to the very address that was checked: a name cannot point elsewhere a moment later.
Must not know how a function gets to the proxy.
"""

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from urllib.parse import urlsplit

from deployments.runtime import addresses
from deployments.runtime.addresses import Address
from deployments.runtime.relay import Connection, Limits, relay

logger = logging.getLogger(__name__)

HEAD_BYTES_MAX = 16 * 1024
HEAD_SECONDS_MAX = 10.0
CONNECT_SECONDS_MAX = 10.0  # for the name and the connection
CONNECTIONS_MAX = 100  # of a deployment at a time
TIMES = Limits(idle_seconds=120.0, total_seconds=900.0)
PORTS_REFUSED = {25: "mail is not sent from here (use a mail service's API, or port 587)"}
HOP_BY_HOP = {"connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "host"}

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]
Connect = Callable[[Address, int], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


class Policy(StrEnum):
    """FUNCTION_EGRESS: where functions may connect to, besides the gateway."""

    PUBLIC = "public"
    NONE = "none"


class Refused(Exception):
    """The connection is not made; the message says why to whoever wrote the function."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Request:
    """What a function asks the proxy for: a tunnel, or an http request that is passed on."""

    host: str
    port: int
    head: bytes = b""  # of the request that is passed on; empty for a tunnel


async def resolve(host: str, port: int) -> list[Address]:
    """All addresses of a name. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(row[4][0]).partition("%")[0]) for row in found]


async def connect(address: Address, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to exactly this address. Raises OSError."""
    return await asyncio.open_connection(str(address), port)


def is_own(address: Address) -> bool:
    """Whether the address is one of this machine's: only those can be bound to."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.bind((str(address), 0))
        return True
    return False


class Egress:
    """The proxy's policy and counts, for all functions of this machine."""

    def __init__(
        self,
        policy: Policy,
        gateway_host: str,
        *,
        resolve: Resolve = resolve,
        connect: Connect = connect,
        times: Limits = TIMES,
    ) -> None:
        self._policy = policy
        self._gateway_host = gateway_host
        self._resolve = resolve
        self._connect = connect
        self._times = times
        self._connections: Counter[int] = Counter()  # by deployment

    async def serve(
        self, deployment_id: int, function: Connection, say: Callable[[str], None]
    ) -> None:
        """Serve one connection of a function. `say` writes to its log."""
        self._connections[deployment_id] += 1
        try:
            await self._serve(deployment_id, function, say)
        finally:
            self._connections[deployment_id] -= 1
            if not self._connections[deployment_id]:
                del self._connections[deployment_id]
            with contextlib.suppress(OSError):
                function.writer.close()

    async def _serve(
        self, deployment_id: int, function: Connection, say: Callable[[str], None]
    ) -> None:
        request: Request | None = None
        try:
            request = await _read(function.reader)
            if request is None:
                return
            if self._connections[deployment_id] > CONNECTIONS_MAX:
                raise Refused(
                    HTTPStatus.TOO_MANY_REQUESTS,
                    f"the site has {CONNECTIONS_MAX} outgoing connections already",
                )
            server = await self._open(request)
        except Refused as refused:
            whom = f"{request.host}:{request.port}" if request else "a proxy request"
            say(f"The connection to {whom} was refused: {refused}.")
            await _answer(function.writer, refused)
            return
        if request.head:
            server.writer.write(request.head)
        else:
            function.writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await relay(function, server, self._times)

    async def _open(self, request: Request) -> Connection:
        """A connection to the very address that was checked. Raises Refused."""
        if self._policy is Policy.NONE:
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "functions here reach the AI gateway and nothing else (FUNCTION_EGRESS=none)",
            )
        if request.host.lower().rstrip(".") == self._gateway_host.lower():
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "connect to the gateway directly, not through the proxy (see NO_PROXY)",
            )
        if reason := PORTS_REFUSED.get(request.port):
            raise Refused(HTTPStatus.FORBIDDEN, reason)
        try:
            async with asyncio.timeout(CONNECT_SECONDS_MAX):
                return await self._connect_to(await self._checked(request), request.port)
        except TimeoutError:
            raise Refused(HTTPStatus.GATEWAY_TIMEOUT, "there was no answer in time") from None

    async def _checked(self, request: Request) -> Sequence[Address]:
        """The addresses of the host, all of them public. Raises Refused."""
        try:
            literal = addresses.literal(request.host)
        except addresses.NotAHost as error:
            raise Refused(HTTPStatus.FORBIDDEN, str(error)) from None
        if literal is not None:
            found: Sequence[Address] = [literal]
        else:
            try:
                found = await self._resolve(request.host, request.port)
            except (OSError, UnicodeError):
                found = []
        if not found:
            raise Refused(HTTPStatus.BAD_GATEWAY, "the name is not known")
        if not all(addresses.is_public(each) and not is_own(each) for each in found):
            raise Refused(
                HTTPStatus.FORBIDDEN,
                "it is inside a private network or this machine; functions reach public "
                "addresses only",
            )
        return found

    async def _connect_to(self, found: Sequence[Address], port: int) -> Connection:
        """A connection to the first address that answers. Raises Refused, TimeoutError."""
        for address in found:
            try:
                return Connection(*await self._connect(address, port))
            except TimeoutError:
                raise
            except OSError as error:
                reason = error.strerror or type(error).__name__
        raise Refused(HTTPStatus.BAD_GATEWAY, f"the server does not take it ({reason})")


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """The request; None when the function left without one. Raises Refused."""
    try:
        async with asyncio.timeout(HEAD_SECONDS_MAX):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        raise Refused(
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"the request's head is larger than {HEAD_BYTES_MAX // 1024} KB",
        ) from None
    except TimeoutError:
        raise Refused(HTTPStatus.REQUEST_TIMEOUT, "no request came") from None
    except OSError:
        return None
    return parse(head)


def parse(head: bytes) -> Request:
    """What the head (with its final blank line) asks for. Raises Refused."""
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, _, rest = first.partition(" ")
    target, _, version = rest.rpartition(" ")
    if version not in ("HTTP/1.1", "HTTP/1.0") or not target.isprintable() or " " in target:
        raise _not_understood()
    is_tunnel = method == "CONNECT"
    try:
        parts = urlsplit(f"//{target}" if is_tunnel else target)
        port = parts.port
    except ValueError:
        raise _not_understood() from None
    if not parts.hostname or parts.username is not None or port == 0:
        raise _not_understood()
    if is_tunnel:
        if port is None or parts.path or parts.query:
            raise _not_understood()
        return Request(parts.hostname, port)
    if parts.scheme != "http":
        raise _not_understood()
    path = parts._replace(scheme="", netloc="").geturl() or "/"
    authority = parts.netloc
    kept = [line for line in lines if line.partition(":")[0].strip().lower() not in HOP_BY_HOP]
    passed_on = [f"{method} {path} HTTP/1.1", f"Host: {authority}", *kept, "Connection: close"]
    return Request(
        parts.hostname, port or 80, ("\r\n".join(passed_on) + "\r\n\r\n").encode("latin-1")
    )


def _not_understood() -> Refused:
    return Refused(
        HTTPStatus.BAD_REQUEST,
        "this is an HTTP proxy: send CONNECT host:port, or a request for a whole http:// address",
    )


async def _answer(writer: asyncio.StreamWriter, refused: Refused) -> None:
    text = f"{refused}\n".encode()
    head = (
        f"HTTP/1.1 {refused.status.value} {refused.status.phrase}\r\n"
        f"Content-Type: text/plain; charset=utf-8\r\nContent-Length: {len(text)}\r\n"
        "Proxy-Status: functions; error=connection_refused\r\nConnection: close\r\n\r\n"
    )
    writer.write(head.encode() + text)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(HEAD_SECONDS_MAX):
            await writer.drain()
