"""Frames: settlements as bytes in a log, each with its length and checksum. Pure.

`length u32 | CRC-32 of the payload u32 | payload`, little endian. Segments are preallocated with
zeros, so zeros up to the end mean "nothing written here yet". A frame that a dying process wrote in
part fails its checksum. What is damaged ends where the next whole frame begins: a broken length
hides only its own frame. Must not know what a payload means.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

HEADER = struct.Struct("<II")
FRAME_BYTES_MAX = 4096
PAYLOAD_BYTES_MAX = FRAME_BYTES_MAX - HEADER.size
# Where a length above zero may stand whose upper two bytes are zero, as every length's are.
_POSSIBLE_LENGTH = re.compile(rb"(?s)(?=(?!\x00\x00)..\x00\x00)")


class FrameTooLong(Exception):
    """A payload above the limit: admission reserves room for frames of at most this size."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame: its payload, and the offset where it begins."""

    offset: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no frame: torn by a dying process, changed by something else, or gone.

    `end` is where to read on; None when no whole frame follows in what was decoded.
    """

    offset: int
    raw: bytes
    end: int | None


def encode(payload: bytes) -> bytes:
    """The frame around a payload. Raises FrameTooLong."""
    if not 0 < len(payload) <= PAYLOAD_BYTES_MAX:
        raise FrameTooLong(f"{len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} fit.")
    return HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def decode(data: bytes, offset: int = 0) -> Iterator[Frame | Damage]:
    """Frames of `data` from its beginning, which lies at `offset` of the log.

    Ends where only zeros are left, or at the end of the data. Damage with an `end` is stepped over;
    damage without one is the last thing given.
    """
    position, size = 0, len(data)
    while position < size:
        end = _end_of(data, position)
        if end is not None:
            payload = data[position + HEADER.size : end]
            if zlib.crc32(payload) == HEADER.unpack_from(data, position)[1]:
                yield Frame(offset + position, payload)
                position = end
                continue
            # If it is the length that is wrong, whole frames may lie inside it.
            end = _next_frame(data, position + 1, end) or end
        elif is_unwritten(data, position):
            return
        else:
            end = _next_frame(data, position + 1, size)
        yield Damage(offset + position, data[position:end], None if end is None else offset + end)
        if end is None:
            return
        position = end


def is_unwritten(data: bytes, start: int = 0) -> bool:
    """Whether there are only zeros from `start` on."""
    return data.count(0, start) == len(data) - start


def _end_of(data: bytes, position: int) -> int | None:
    """Where a frame at `position` would end; None when its length cannot be right."""
    if position + HEADER.size > len(data):
        return None
    length = HEADER.unpack_from(data, position)[0]
    end: int = position + HEADER.size + length
    return end if 0 < length <= PAYLOAD_BYTES_MAX and end <= len(data) else None


def _next_frame(data: bytes, start: int, stop: int) -> int | None:
    """Where the first whole frame begins in [start, stop)."""
    for found in _POSSIBLE_LENGTH.finditer(data, start):
        position = found.start()
        if position >= stop:
            return None
        end = _end_of(data, position)
        if end is not None:
            payload = data[position + HEADER.size : end]
            if zlib.crc32(payload) == HEADER.unpack_from(data, position)[1]:
                return position
    return None


def frame_bytes(frame: Frame) -> int:
    """How many bytes of the log a frame takes."""
    return HEADER.size + len(frame.payload)
