"""Frames: settlements as bytes in a log, each with its length and checksum. Pure.

`length u32 | CRC-32 of the payload u32 | payload`, little endian. Segments are preallocated with
zeros, so a length of zero means "nothing written here yet". A frame that a dying process wrote in
part fails its checksum. Must not know what a payload means.
"""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

HEADER = struct.Struct("<II")
FRAME_BYTES_MAX = 4096


class FrameTooLong(Exception):
    """A payload above the limit: admission reserves room for frames of at most this size."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A whole frame: its payload, and the offset where it begins."""

    offset: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that are no frame: torn by a dying process, or changed by something else.

    `end` is where the next frame would begin if the length can be believed, else None.
    """

    offset: int
    raw: bytes
    end: int | None


def encode(payload: bytes) -> bytes:
    """The frame around a payload. Raises FrameTooLong."""
    if not 0 < len(payload) <= FRAME_BYTES_MAX - HEADER.size:
        raise FrameTooLong(f"{len(payload)} bytes; at most {FRAME_BYTES_MAX - HEADER.size} fit.")
    return HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def decode(data: bytes, offset: int = 0) -> Iterator[Frame | Damage]:
    """Frames of `data` from its beginning, which lies at `offset` of the log.

    Ends at the first length of zero, or at the end of the data. Damage with an `end` is stepped
    over; damage without one is the last thing given.
    """
    position = 0
    while position + HEADER.size <= len(data):
        length, checksum = HEADER.unpack_from(data, position)
        if length == 0:
            return
        end = position + HEADER.size + length
        if length > FRAME_BYTES_MAX - HEADER.size or end > len(data):
            yield Damage(offset + position, data[position:], None)
            return
        payload = data[position + HEADER.size : end]
        if zlib.crc32(payload) == checksum:
            yield Frame(offset + position, payload)
        else:
            yield Damage(offset + position, data[position:end], offset + end)
        position = end


def frame_bytes(frame: Frame) -> int:
    """How many bytes of the log a frame takes."""
    return HEADER.size + len(frame.payload)
