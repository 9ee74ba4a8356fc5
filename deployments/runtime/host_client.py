"""The function host as seen by a web process: a driver and a source of log lines over its socket.

Owns when an invocation may be sent again: only while it is sure that the host has not taken it. A
host that is away for a moment, because it is being started again, is waited for. Must not know how
functions are run.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Collection
from pathlib import Path
from typing import Any

from deployments.runtime.driver import (
    Done,
    Event,
    Failed,
    Failure,
    FunctionSpec,
    InvokeContext,
    UnableToPrepare,
)
from deployments.runtime.log_queue import Batch
from deployments.runtime.wire import (
    Answer,
    Ask,
    Connection,
    Health,
    Invoke,
    Kind,
    UnableToUnderstand,
)

logger = logging.getLogger(__name__)

CONNECT_SECONDS_MAX = 2.0
ANSWER_SECONDS_MAX = 5.0
AWAY_SECONDS_MAX = 5.0  # a host that has been away for longer is not waited for
AWAY_POLL_SECONDS = 0.1
ATTEMPTS_MAX = 20  # with a host that comes and goes
SLACK_SECONDS = 45.0  # beyond the function's own time: waiting for room, loading, stopping

BROKEN = (OSError, EOFError, UnableToUnderstand, TimeoutError)
RESTARTING = "The functions are being restarted (the function host does not answer)."
CUT = (
    "The function host stopped while the request was with it. It may have run, so it was not sent "
    "again."
)


class UnableToReachHost(Exception):
    """Nobody answers on the host's socket; the message is for the operator."""


async def connect(path: Path) -> Connection:
    """A connection to the host. Raises UnableToReachHost."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            return Connection(*await asyncio.open_unix_connection(path))
    except OSError as error:  # TimeoutError is one
        reason = error.strerror or type(error).__name__
        raise UnableToReachHost(
            f"The function host does not answer on {path} ({reason})."
        ) from None


async def ask(path: Path, question: Ask) -> Answer:
    """Ask once. Raises UnableToReachHost."""
    connection = await connect(path)
    try:
        async with asyncio.timeout(ANSWER_SECONDS_MAX):
            await connection.send(question)
            return _answer(await connection.receive())
    except BROKEN as error:
        raise UnableToReachHost(
            f"The function host gave no answer to '{question.what}' ({error or 'too late'})."
        ) from None
    finally:
        connection.close()


def _answer(value: Any) -> Answer:
    if not isinstance(value, Answer):
        raise UnableToUnderstand(f"{type(value).__name__} instead of an answer")
    return value


class HostDriver:
    """A FunctionDriver that has the function host run functions."""

    name = "host"

    def __init__(self, path: Path) -> None:
        """`path` is the host's socket."""
        self._path = path
        self._away_since: float | None = None

    async def invoke(
        self, spec: FunctionSpec, event: bytes, context: InvokeContext
    ) -> AsyncGenerator[Event]:
        """See FunctionDriver."""
        for attempt in range(ATTEMPTS_MAX):
            if attempt:
                await asyncio.sleep(AWAY_POLL_SECONDS)
            try:
                connection = await self._connect()
            except UnableToReachHost as error:
                logger.error(str(error))
                break
            conversation = _converse(connection, Invoke(spec, context), event)
            async with contextlib.aclosing(conversation) as items:
                async for item in items:
                    if item is None:
                        break
                    yield item
                else:
                    return
        yield Failed(Failure.UNAVAILABLE, RESTARTING)

    async def _connect(self) -> Connection:
        """Connect, waiting a while for a host that has just gone away. Raises UnableToReachHost."""
        while True:
            try:
                connection = await connect(self._path)
            except UnableToReachHost:
                now = time.monotonic()
                self._away_since = self._away_since or now
                if now - self._away_since >= AWAY_SECONDS_MAX:
                    raise
                await asyncio.sleep(AWAY_POLL_SECONDS)
            else:
                self._away_since = None
                return connection

    async def prepare(self, spec: FunctionSpec) -> None:
        """See FunctionDriver. A host that is away prepares when it is back: on demand."""
        with contextlib.suppress(UnableToReachHost):
            answer = await ask(self._path, Ask("prepare", spec=spec))
            if answer.problem:
                raise UnableToPrepare(answer.problem)

    async def retire(self, spec: FunctionSpec) -> None:
        """See FunctionDriver. A host that is away has no instances."""
        with contextlib.suppress(UnableToReachHost):
            await ask(self._path, Ask("retire", spec=spec))

    async def delete(self, deploy_id: str, function_names: Collection[str]) -> None:
        """See FunctionDriver. A host that is away has no instances."""
        question = Ask("delete", deploy_id=deploy_id, function_names=tuple(function_names))
        with contextlib.suppress(UnableToReachHost):
            await ask(self._path, question)

    async def health(self) -> Health:
        """How the host is. Raises UnableToReachHost."""
        return (await ask(self._path, Ask("health"))).health or Health(driver="")

    async def close(self) -> None:
        """See FunctionDriver. The host goes on for the other web processes."""


async def _converse(
    connection: Connection, request: Invoke, event: bytes
) -> AsyncGenerator[Event | None]:
    """The events of an invocation, or None alone when the host has surely not taken it."""
    try:
        try:
            await _send(connection.send(request))
        except BROKEN:
            yield None  # without its event the host cannot have begun
            return
        # Should the host leave meanwhile, what it said before tells what became of the event.
        with contextlib.suppress(ConnectionError):
            await _send(connection.send_raw(Kind.EVENT, event))
        while True:
            async with asyncio.timeout(request.context.timeout_seconds + SLACK_SECONDS):
                item = await connection.receive()
            yield item
            if item is None or isinstance(item, Done | Failed):
                return
    except BROKEN as error:
        logger.error("The function host broke off: %s.", error or type(error).__name__)
        yield Failed(Failure.UNAVAILABLE, CUT)
    finally:
        connection.close()


async def _send(sending: Awaitable[None]) -> None:
    async with asyncio.timeout(ANSWER_SECONDS_MAX):
        await sending


class HostLog:
    """A LogSource: the host's queue of lines, over one connection."""

    def __init__(self, path: Path) -> None:
        """`path` is the host's socket."""
        self._path = path
        self._connection: Connection | None = None
        self._stored = False

    async def take(self, wait_seconds: float) -> Batch | None:
        """See LogSource. A host that is away has no lines."""
        try:
            return await self._ask(wait_seconds)
        except (*BROKEN, UnableToReachHost):
            await self._close()
            await asyncio.sleep(min(wait_seconds, 1.0))
            return None
        except asyncio.CancelledError:
            await self._close()  # an answer may be under way: its batch goes back
            raise

    async def _ask(self, wait_seconds: float) -> Batch | None:
        if self._connection is None:
            self._connection = await connect(self._path)
        stored, self._stored = self._stored, False
        async with asyncio.timeout(wait_seconds + ANSWER_SECONDS_MAX):
            await self._connection.send(Ask("lines", wait_seconds=wait_seconds, stored=stored))
            return _answer(await self._connection.receive()).batch

    async def acknowledge(self, batch: Batch) -> None:
        """See LogSource. It goes with the next question, at the latest when there is no more."""
        self._stored = True

    async def give_back(self, batch: Batch) -> None:
        """See LogSource."""
        self._stored = False
        await self._close()

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        self._stored = False
        if connection is not None:
            connection.close()
