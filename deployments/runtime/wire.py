"""What web processes and the function host say to each other over the host's socket.

Pure: frames and the values in them. A frame is one byte of kind, four bytes of length, then that
many bytes: msgpack, except for events and chunks, which are sent as they are.

A connection carries one conversation, opened by the web process:

    invoke    INVOKE, EVENT            -> HEAD, CHUNK..., DONE or FAILED; or NOT_TAKEN
    ask       ASK                      -> ANSWER
    lines     ASK ("lines")            -> ANSWER, for ever; the next ASK acknowledges its batch

Closing an invoke's connection early says that nobody listens any more; closing that of lines gives
back the batch that was not acknowledged.
"""

import asyncio
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import msgspec

from deployments.runtime.driver import MEBIBYTE, Chunk, Done, Event, Failed, FunctionSpec, Head
from deployments.runtime.driver import InvokeContext as Context
from deployments.runtime.log_queue import Batch

HEADER = struct.Struct(">BI")
FRAME_BYTES_MAX = 64 * MEBIBYTE  # an event's body may be 6 MB of characters that JSON escapes
BUFFER_BYTES_MAX = 64 * 1024  # what is written ahead before a slow reader is waited for


class Kind(IntEnum):
    """What a frame holds."""

    INVOKE = 1
    EVENT = 2
    HEAD = 3
    CHUNK = 4
    DONE = 5
    FAILED = 6
    NOT_TAKEN = 7  # the host is stopping: the function has seen nothing of the event
    ASK = 8
    ANSWER = 9


class UnableToUnderstand(Exception):
    """The other side does not speak this protocol, or another version of it."""


@dataclass(frozen=True)
class Invoke:
    """The function to invoke, and the invocation's id and limit."""

    spec: FunctionSpec
    context: Context


@dataclass(frozen=True)
class Ask:
    """One question: `health`, `prepare`, `retire`, `delete` or `lines`."""

    what: str
    spec: FunctionSpec | None = None  # of prepare and retire
    deploy_id: str = ""  # of delete, with the names of its functions
    function_names: tuple[str, ...] = ()
    wait_seconds: float = 0.0  # of lines
    stored: bool = False  # of lines: what became of the batch before


@dataclass(frozen=True)
class Health:
    """How the host is. A refusal says why it runs no function."""

    driver: str
    warning: str = ""
    refusal: str = ""
    instances: int = 0
    deploy_ids: tuple[str, ...] = ()  # of deployments with instances
    running: int = 0
    lines_waiting: int = 0
    lines_dropped: int = 0


@dataclass(frozen=True)
class Answer:
    """The answer to an Ask; a problem is one for the deployment's owner."""

    health: Health | None = None
    batch: Batch | None = None
    problem: str = ""


_TYPES: Mapping[Kind, Any] = {
    Kind.INVOKE: Invoke,
    Kind.HEAD: Head,
    Kind.DONE: Done,
    Kind.FAILED: Failed,
    Kind.ASK: Ask,
    Kind.ANSWER: Answer,
}
_BY_NUMBER = {int(kind): kind for kind in Kind}
_KINDS = {of: kind for kind, of in _TYPES.items()}
_encoder = msgspec.msgpack.Encoder(enc_hook=os.fspath)  # paths are the only foreign type
_decoders = {
    kind: msgspec.msgpack.Decoder(of, dec_hook=lambda _, value: Path(value))
    for kind, of in _TYPES.items()
}


@dataclass
class Connection:
    """One end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    _is_limited: bool = field(default=False, init=False)

    async def send(self, value: Event | Invoke | Ask | Answer) -> None:
        """Send a value; waits while the other side is slow. Raises OSError."""
        if isinstance(value, Chunk):
            await self.send_raw(Kind.CHUNK, value.data)
        else:
            await self.send_raw(_KINDS[type(value)], _encoder.encode(value))

    async def send_raw(self, kind: Kind, data: bytes = b"") -> None:
        """Send a frame as it is. Raises OSError."""
        if not self._is_limited:
            self.writer.transport.set_write_buffer_limits(high=BUFFER_BYTES_MAX)
            self._is_limited = True
        self.writer.write(HEADER.pack(kind, len(data)))
        if data:
            self.writer.write(data)
        await self.writer.drain()

    async def receive_raw(self) -> tuple[Kind, bytes]:
        """The next frame. Raises EOFError, OSError, UnableToUnderstand."""
        kind, length = HEADER.unpack(await self.reader.readexactly(HEADER.size))
        known = _BY_NUMBER.get(kind)
        if known is None or length > FRAME_BYTES_MAX:
            raise UnableToUnderstand(f"a frame of kind {kind} with {length} bytes")
        return known, await self.reader.readexactly(length)

    async def receive(self) -> Any:
        """The next frame's value: bytes of an event, None of NOT_TAKEN. Raises as receive_raw."""
        kind, data = await self.receive_raw()
        if kind == Kind.CHUNK:
            return Chunk(data)
        if kind == Kind.EVENT:
            return data
        if kind == Kind.NOT_TAKEN:
            return None
        try:
            return _decoders[kind].decode(data)
        except msgspec.MsgspecError as error:
            raise UnableToUnderstand(f"{kind.name}: {error}") from None

    def close(self) -> None:
        """Close it now; what was not sent yet is dropped."""
        self.writer.transport.abort()
