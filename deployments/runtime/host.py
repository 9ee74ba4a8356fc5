"""The function host: a process of its own that runs functions for the web processes.

Started as `python -m deployments.runtime.host` with an empty environment: it knows no database, no
secret and no setting, only its arguments. Functions' variables reach it over its socket and are
never in an argument or a file. Owns the socket, the conversations on it (`wire`) and the order of
an end; how functions are run is the pool's business.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import fcntl
import logging
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.runtime import launchers
from deployments.runtime.driver import Failed, Failure, FunctionSpec, UnableToPrepare
from deployments.runtime.egress import Egress, Policy
from deployments.runtime.log_queue import Batch, LogQueue
from deployments.runtime.network import Gateway, Network, UnableToAddress
from deployments.runtime.pool import SOCKET_PATH_BYTES_MAX, Limits, Pool
from deployments.runtime.wire import (
    Answer,
    Ask,
    Connection,
    Health,
    Invoke,
    Kind,
    UnableToUnderstand,
)

logger = logging.getLogger("deployments.runtime.host")

CONNECTIONS_MAX = 1024
REQUEST_SECONDS_MAX = 10.0  # for an invocation to arrive: its sender is on this machine
SEND_SECONDS_MAX = 60.0  # a web process that takes nothing for so long is out of order
WAIT_SECONDS_MAX = 60.0  # for lines
DRAIN_SECONDS_MAX = 10.0  # running invocations may end in this time
POLL_SECONDS = 0.02  # at the end
LAST_LINES_SECONDS_MAX = 3.0  # and somebody may fetch the last lines in this


class UnableToHost(Exception):
    """The host cannot start; the message is for the operator."""


@dataclass(frozen=True)
class Settings:
    """All a host is told."""

    socket: Path
    folder: Path  # for instances: sockets and temporary files
    driver: str = launchers.AUTO
    allow_plain: bool = False
    socket_mode: int = 0o600
    gateway_url: str = "http://localhost:8000"
    gateway_address: str = ""
    egress: Policy = Policy.PUBLIC
    limits: Limits = dataclasses.field(default_factory=Limits)


class Host:
    """Answers web processes. `driver` is None when functions are refused; `health` says why."""

    def __init__(self, driver: Pool | None, queue: LogQueue, health: Health) -> None:
        self._driver = driver
        self._queue = queue
        self._health = health
        self._is_stopping = False
        self._running = 0
        self._conversations: set[asyncio.Task[None]] = set()

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101
        self._conversations.add(task)
        connection = Connection(reader, writer)
        try:
            if len(self._conversations) <= CONNECTIONS_MAX:
                await self._converse(connection)
        except (OSError, EOFError):
            pass  # the web process left
        except UnableToUnderstand as error:
            logger.error("A web process is not understood (%s): is it of this version?", error)
        except Exception:
            logger.exception("A conversation failed.")
        finally:
            self._conversations.discard(task)
            connection.close()

    async def _converse(self, connection: Connection) -> None:
        async with asyncio.timeout(REQUEST_SECONDS_MAX):
            first = await connection.receive()
        if isinstance(first, Invoke):
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                kind, event = await connection.receive_raw()
            if kind != Kind.EVENT:
                raise UnableToUnderstand(f"{kind.name} instead of an event")
            await self._invoke(connection, first, event)
        elif isinstance(first, Ask) and first.what == "lines":
            await self._hand_out_lines(connection, first)
        elif isinstance(first, Ask):
            await connection.send(await self._answer(first))
            await _wait_for_end(connection)
        else:
            raise UnableToUnderstand(f"a conversation begins with {type(first).__name__}")

    # --- Invocations -------------------------------------------------------------------------

    async def _invoke(self, connection: Connection, request: Invoke, event: bytes) -> None:
        """Run it, unless the web process leaves first."""
        if self._is_stopping:
            await connection.send_raw(Kind.NOT_TAKEN)
            await _wait_for_end(connection)
            return
        self._running += 1
        running = asyncio.create_task(self._run(connection, request, event))
        leaving = asyncio.create_task(_wait_for_end(connection))
        try:
            await asyncio.wait({running, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._running -= 1
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        try:
            if not running.cancelled():
                running.result()
                # The end of the answer is read before the connection is closed.
                await asyncio.wait({leaving}, timeout=REQUEST_SECONDS_MAX)
        finally:
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)

    async def _run(self, connection: Connection, request: Invoke, event: bytes) -> None:
        if self._driver is None:
            self._queue.add(request.spec, request.context.request_id, self._health.refusal)
            await connection.send(Failed(Failure.UNAVAILABLE, self._health.refusal))
            return
        invocation = self._driver.invoke(request.spec, event, request.context)
        async with contextlib.aclosing(invocation) as items:
            async for item in items:
                async with asyncio.timeout(SEND_SECONDS_MAX):
                    await connection.send(item)

    # --- Questions ---------------------------------------------------------------------------

    async def _answer(self, question: Ask) -> Answer:
        if question.what == "health":
            return Answer(health=self.health())
        if self._driver is None:
            return Answer(problem=self._health.refusal)
        try:
            match question:
                case Ask("prepare", FunctionSpec() as spec):
                    await self._driver.prepare(spec)
                case Ask("retire", FunctionSpec() as spec):
                    await self._driver.retire(spec)
                case Ask("delete"):
                    await self._driver.delete(question.deploy_id, question.function_names)
                case _:
                    raise UnableToUnderstand(f"the question {question.what!r}")
        except UnableToPrepare as error:
            return Answer(problem=str(error))
        return Answer()

    def health(self) -> Health:
        """How this host is now."""
        return Health(
            driver=self._health.driver,
            warning=self._health.warning,
            refusal=self._health.refusal,
            instances=self._driver.instance_count if self._driver is not None else 0,
            deploy_ids=tuple(self._driver.deploy_ids) if self._driver is not None else (),
            running=self._running,
            lines_waiting=self._queue.waiting,
            lines_dropped=self._queue.dropped_total,
        )

    async def _hand_out_lines(self, connection: Connection, question: Ask) -> None:
        """Give batches to a web process for as long as it stores them."""
        batch: Batch | None = None
        try:
            while True:
                batch = await self._take(connection, question)
                await connection.send(Answer(batch=batch))
                question = await connection.receive()
                if not isinstance(question, Ask) or question.what != "lines":
                    raise UnableToUnderstand("something between two batches of lines")
                if batch is not None and question.stored:
                    await self._queue.acknowledge(batch)
                    batch = None
        finally:
            if batch is not None:
                await self._queue.give_back(batch)

    async def _take(self, connection: Connection, question: Ask) -> Batch | None:
        """The next batch, if one comes in time. Raises EOFError when the web process leaves."""
        taking = asyncio.create_task(self._queue.take(min(question.wait_seconds, WAIT_SECONDS_MAX)))
        leaving = asyncio.create_task(_wait_for_end(connection))
        try:
            await asyncio.wait({taking, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not taking.done():
                raise EOFError
            return taking.result()
        finally:
            taking.cancel()
            leaving.cancel()
            await asyncio.gather(taking, leaving, return_exceptions=True)

    # --- The end -----------------------------------------------------------------------------

    async def close(self) -> None:
        """Take nothing more, let running invocations end, stop functions, hand out what is left."""
        self._is_stopping = True
        await _until(lambda: not self._running, DRAIN_SECONDS_MAX)
        if self._driver is not None:
            await self._driver.close()
        await _until(lambda: not self._queue.waiting, LAST_LINES_SECONDS_MAX)
        for conversation in set(self._conversations):
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)


async def _wait_for_end(connection: Connection) -> None:
    """Until the other side closes the connection; it has nothing to say before."""
    with contextlib.suppress(OSError):
        if await connection.reader.read(1):
            raise UnableToUnderstand("more than one question on a connection")


async def _until(happened: Callable[[], bool], seconds_max: float) -> None:
    for _ in range(int(seconds_max / POLL_SECONDS)):
        if happened():
            return
        await asyncio.sleep(POLL_SECONDS)


# --- The process -------------------------------------------------------------------------------


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serve on the socket until `stop` is set. Raises UnableToHost."""
    with _only_one(settings.socket):
        queue = LogQueue()
        host = await _make(settings, queue)
        server = await _listen(settings, host.converse)
        logger.info("Serving functions on %s.", settings.socket)
        try:
            await stop.wait()
        finally:
            settings.socket.unlink(missing_ok=True)  # who looks for a host now finds none
            server.close()
            await host.close()


async def _make(settings: Settings, queue: LogQueue) -> Host:
    """A host with the driver it is told to have; one that refuses functions if that must not be."""
    try:
        launcher = launchers.choose(settings.driver, allow_plain=settings.allow_plain)
        await launchers.prove(launcher)
    except launchers.UnableToChoose as error:
        logger.error(str(error))
        return Host(None, queue, Health(driver=settings.driver, refusal=str(error)))
    if launcher.warning:
        logger.warning(launcher.warning)
    gateway = _gateway(settings)
    network = Network(gateway, Egress(settings.egress, gateway.host))
    pool = Pool(launcher, settings.folder, queue, limits=settings.limits, network=network)
    return Host(pool, queue, Health(driver=launcher.name, warning=launcher.warning))


def _gateway(settings: Settings) -> Gateway:
    try:
        return Gateway.at(settings.gateway_url, settings.gateway_address)
    except UnableToAddress as error:
        raise UnableToHost(str(error)) from None


async def _listen(
    settings: Settings,
    converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> asyncio.Server:
    settings.socket.unlink(missing_ok=True)
    before = os.umask(0o777 & ~settings.socket_mode)
    try:
        return await asyncio.start_unix_server(converse, settings.socket, backlog=CONNECTIONS_MAX)
    finally:
        os.umask(before)


@contextlib.contextmanager
def _only_one(path: Path) -> Any:
    """Hold the lock beside the socket. Raises UnableToHost when another host has it."""
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise UnableToHost(
            f"The path of the socket {path} is longer than {SOCKET_PATH_BYTES_MAX} bytes: "
            "choose a shorter one (FUNCTION_HOST_SOCKET)."
        )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnableToHost(f"Another function host serves {path} already.") from None
        yield


def _stop_on_signals(stop: asyncio.Event, *, supervised: bool) -> None:
    """SIGTERM and SIGINT ask for the end; so does the end of our input when supervised."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if supervised:
        threading.Thread(target=_wait_for_end_of_input, args=(loop, stop), daemon=True).start()


def _wait_for_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    # os.read, not sys.stdin: a daemon thread inside a buffered read breaks the interpreter's exit.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended already
        loop.call_soon_threadsafe(stop.set)


def _settings() -> tuple[Settings, bool]:
    parser = argparse.ArgumentParser(
        prog="python -m deployments.runtime.host", description="Run deployed functions."
    )
    parser.add_argument("--socket", type=Path, required=True, help="where web processes connect")
    parser.add_argument("--folder", type=Path, required=True, help="for sockets of functions")
    parser.add_argument("--driver", default=launchers.AUTO, help="see FUNCTION_DRIVER")
    parser.add_argument(
        "--allow-plain", action="store_true", help="without bubblewrap, run without isolation"
    )
    parser.add_argument(
        "--socket-mode",
        type=lambda text: int(text, 8),
        default=0o600,
        help="0660 when web processes run as another user of the socket's group",
    )
    parser.add_argument(
        "--gateway-url", default="http://localhost:8000", help="PUBLIC_URL of the platform"
    )
    parser.add_argument(
        "--gateway-address", default="", help="host:port that answers for it, if not its own"
    )
    parser.add_argument(
        "--egress",
        type=Policy,
        choices=list(Policy),
        default=Policy.PUBLIC,
        help="where functions may connect to, besides the gateway",
    )
    for limit in dataclasses.fields(Limits):
        parser.add_argument(
            f"--{limit.name.replace('_', '-')}", type=type(limit.default), default=limit.default
        )
    parser.add_argument("--supervised", action="store_true", help="end when standard input does")
    arguments = vars(parser.parse_args())
    supervised = arguments.pop("supervised")
    limits = Limits(**{each.name: arguments.pop(each.name) for each in dataclasses.fields(Limits)})
    return Settings(**arguments, limits=limits), supervised


async def _main() -> None:
    settings, supervised = _settings()
    stop = asyncio.Event()
    _stop_on_signals(stop, supervised=supervised)
    await serve(settings, stop)


def main() -> None:
    """Command line entry point."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s [%(levelname)-8s] %(message)s [%(name)s]"
    )
    with contextlib.suppress(ImportError):
        import uvloop

        uvloop.install()
    try:
        asyncio.run(_main())
    except UnableToHost as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
