"""The interface every way of running a function has, and the events an invocation yields.

Pure types. A driver that runs functions elsewhere (AWS Lambda) implements FunctionDriver itself;
drivers that run them on this machine implement Launcher and share the pool.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

MEBIBYTE = 1024 * 1024
RESPONSE_BYTES_MAX = 6 * MEBIBYTE
STREAMED_BYTES_MAX = 20 * MEBIBYTE


@dataclass(frozen=True)
class FunctionSpec:
    """One function of one release: all a driver must know to run it."""

    deployment_id: int  # database id, for the log
    deploy_id: str
    release_id: str  # public id: new release, new instances
    function_name: str
    folder: Path
    entry: str  # file inside the folder that exports `handler`
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    memory_mb: int = 1024

    @property
    def key(self) -> tuple[str, str]:
        """What instances are shared by."""
        return self.release_id, self.function_name


@dataclass(frozen=True)
class InvokeContext:
    """One invocation: its id, shown to visitors and in the log, and its limit in seconds."""

    request_id: str
    timeout_seconds: float = 30.0


@dataclass(frozen=True)
class Head:
    """Status and headers; the first event of a successful invocation. Header names lower case."""

    status: int
    headers: tuple[tuple[str, str], ...]
    length: int | None = None  # bytes of the body, when known: not of a stream


@dataclass(frozen=True)
class Chunk:
    """A piece of the body, as the function wrote it."""

    data: bytes


@dataclass(frozen=True)
class Done:
    """The response is complete."""

    duration_ms: int
    cold: bool


class Failure(StrEnum):
    """Why an invocation failed."""

    INIT = "init"
    TIMEOUT = "timeout"
    CRASH = "crash"
    HANDLER = "handler"
    RESPONSE = "response"  # not a valid answer, or too large
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"  # nothing runs functions at this moment, or is allowed to
    PLATFORM = "platform"


@dataclass(frozen=True)
class Failed:
    """The invocation failed; the message is for the owner's log, never for visitors."""

    kind: Failure
    message: str


Event = Head | Chunk | Done | Failed


class UnableToPrepare(Exception):
    """The driver cannot take the function; the message is for the deployment's owner."""


class FunctionDriver(Protocol):
    """Runs functions somewhere."""

    name: str

    def invoke(
        self, spec: FunctionSpec, event: bytes, context: InvokeContext
    ) -> AsyncGenerator[Event]:
        """Head, Chunks, then Done or Failed (Failed may come at any point).

        `event` is the JSON the handler gets. Closing the iterator early tells the function that
        nobody listens any more; it may finish within its time limit.
        """
        ...

    async def prepare(self, spec: FunctionSpec) -> None:
        """Make the function ready to be invoked, before its release goes live; idempotent.

        Raises UnableToPrepare: the release then fails, and the one before keeps serving.
        """
        ...

    async def retire(self, spec: FunctionSpec) -> None:
        """Keep nothing of this release of the function ready; running invocations finish.

        It may be prepared again, when people go back to the release.
        """
        ...

    async def delete(self, deploy_id: str, function_names: Collection[str]) -> None:
        """Keep nothing of a deleted deployment, which had functions of these names; idempotent."""
        ...

    async def close(self) -> None:
        """Stop everything now."""
        ...


@dataclass(frozen=True)
class Bridge:
    """A port of an instance's own loopback that leads, through a socket, to this machine."""

    host: str  # name or address under which functions reach it; must resolve to the loopback
    port: int
    socket: str  # file name in `Place.sockets`


@dataclass(frozen=True)
class Place:
    """Where one instance meets this machine: two folders of its own."""

    sockets: Path  # `api.sock` (Runtime API) and those of the bridges; not for writing
    home: Path  # its only place for temporary files, unless the launcher gives it another
    bridges: tuple[Bridge, ...] = ()

    @property
    def api_socket(self) -> Path:
        """The socket of the instance's Runtime API."""
        return self.sockets / "api.sock"


class UnableToLaunch(Exception):
    """The launcher cannot start instances here; the message is for the operator."""


class Launcher(Protocol):
    """Starts one instance of a function as a process on this machine."""

    name: str
    warning: str  # what the operator must know about this driver; may be empty
    has_own_network: bool  # instances reach nothing of this machine but through bridges

    async def launch(self, spec: FunctionSpec, place: Place) -> asyncio.subprocess.Process:
        """A started process in a process group of its own, with pipes for all three streams.

        It connects to the Runtime API at `place.api_socket`. It must end when its stdin ends.
        Raises UnableToLaunch, or OSError when this one process cannot be started.
        """
        ...

    async def ended(self, spec: FunctionSpec, place: Place, exit_status: int) -> str:
        """Free what the launcher keeps for an ended instance, and say for the log how it ended.

        `exit_status` is the process's; negative: the signal that killed it.
        """
        ...
