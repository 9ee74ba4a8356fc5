"""The websocket of live logs: lines as they are printed, by position.

Owns the connection, its repetition and what its end means; must know nothing of terminals. The
server's side of it is docs/live-logs.md. A line is passed on once, in order, whatever happens to
the connection: it goes on after the last id that was heard.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.sync.client import ClientConnection, connect

from deployments.cli.client import RefusedByServer, UnableToReachServer
from deployments.cli.configuration import Server

PATH = "/api/data/deployments/live-logs"
OPEN_SECONDS_MAX = 10.0
SILENCE_SECONDS_MAX = 45.0  # the server says something every 15 s
CLOSE_SECONDS_MAX = 2.0
MESSAGE_BYTES_MAX = 1024 * 1024
# Waits between tries to connect again; the last one is repeated.
RETRY_PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
RECONNECT_SECONDS_MAX = 300.0
# What the server closes a socket with, as the HTTP status of the same refusal.
REFUSALS = {4400: 400, 4401: 401, 4404: 404, 4429: 429}


class LiveNotOffered(Exception):
    """The server has no such websocket, or something between cannot pass one on."""


class _ConnectionLost(Exception):
    """It ended without a refusal; one may connect again."""


@dataclass
class Position:
    """Which lines are wanted, and the id of the last one heard."""

    site: str | None
    after: int
    request_id: str = ""
    function_name: str = ""

    def query(self) -> str:
        """The parameters of the next connection."""
        given = {
            "id": self.site,
            "after": self.after,
            "requestId": self.request_id,
            "functionName": self.function_name,
        }
        return urlencode({name: value for name, value in given.items() if value not in (None, "")})


def follow(
    server: Server,
    position: Position,
    *,
    on_lost: Callable[[], None],
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[dict[str, Any]]:
    """Lines and `{"dropped": n}` for ever, connecting again as needed.

    Raises LiveNotOffered if the first connection fails, RefusedByServer for a refusal,
    UnableToReachServer when the connection stays away for RECONNECT_SECONDS_MAX.
    """
    connection = _open(server, position)
    tries = 0
    while True:
        try:
            for message in _lines(connection, position):
                tries = 0
                yield message
        except _ConnectionLost:
            on_lost()
        connection, tries = _open_again(server, position, tries, pause=pause, clock=clock)


def _open(server: Server, position: Position) -> ClientConnection:
    address = urlsplit(server.url)
    scheme = "wss" if address.scheme == "https" else "ws"
    host = address.hostname or ""
    is_local = host in ("localhost", "127.0.0.1", "::1") or host.endswith(".localhost")
    try:
        return connect(
            f"{scheme}://{address.netloc}{address.path}{PATH}?{position.query()}",
            additional_headers={"Authorization": f"Bearer {server.token}"},
            user_agent_header="deployments-cli",
            open_timeout=OPEN_SECONDS_MAX,
            close_timeout=CLOSE_SECONDS_MAX,
            max_size=MESSAGE_BYTES_MAX,
            proxy=None if is_local else True,  # a proxy cannot reach this machine's own ports
        )
    except (InvalidHandshake, InvalidURI, OSError) as error:  # TimeoutError is an OSError
        raise LiveNotOffered(str(error)) from None


def _open_again(
    server: Server,
    position: Position,
    tries: int,
    *,
    pause: Callable[[float], None],
    clock: Callable[[], float],
) -> tuple[ClientConnection, int]:
    """A new connection, and how many tries were made since a line was heard."""
    deadline = clock() + RECONNECT_SECONDS_MAX
    while clock() < deadline:
        pause(RETRY_PAUSES_SECONDS[min(tries, len(RETRY_PAUSES_SECONDS) - 1)])
        tries += 1
        try:
            return _open(server, position), tries
        except LiveNotOffered:
            continue
    raise UnableToReachServer(f"The connection to {server.url} was lost and does not come back.")


def _lines(connection: ClientConnection, position: Position) -> Iterator[dict[str, Any]]:
    """What one connection says; heartbeats only move the position."""
    with connection:
        while True:
            message = _next(connection)
            if "heartbeat" in message:
                position.after = max(position.after, int(message.get("lastId") or 0))
                continue
            position.after = int(message.get("id") or position.after)
            yield message


def _next(connection: ClientConnection) -> dict[str, Any]:
    try:
        message = json.loads(connection.recv(timeout=SILENCE_SECONDS_MAX))
    except ConnectionClosed as closed:
        if closed.rcvd is not None and closed.rcvd.code in REFUSALS:
            raise RefusedByServer(REFUSALS[closed.rcvd.code], closed.rcvd.reason) from None
        raise _ConnectionLost from None
    except (TimeoutError, ValueError):
        raise _ConnectionLost from None
    if not isinstance(message, dict):
        raise _ConnectionLost
    return message
