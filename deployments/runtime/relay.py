"""Copies bytes between two connections, both ways, until both ends are done or time is up.

Owns half-closing, back-pressure (a slow end holds the other back) and limits in time. Must not know
what the bytes mean.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass

PIECE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True)
class Connection:
    """A stream pair of asyncio."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@dataclass(frozen=True)
class Limits:
    """Seconds without a byte in either direction, and in all."""

    idle_seconds: float
    total_seconds: float


class _Activity:
    """When a byte last passed in either direction."""

    def __init__(self) -> None:
        self.at = time.monotonic()


async def relay(one: Connection, other: Connection, limits: Limits) -> None:
    """Copy until both directions have ended, one breaks or a limit is reached; closes both."""
    activity = _Activity()
    copying = [
        asyncio.create_task(_copy(one, other, activity, limits.idle_seconds)),
        asyncio.create_task(_copy(other, one, activity, limits.idle_seconds)),
    ]
    try:
        await asyncio.wait(
            copying, timeout=limits.total_seconds, return_when=asyncio.FIRST_EXCEPTION
        )
    finally:
        for task in copying:
            task.cancel()
        await asyncio.gather(*copying, return_exceptions=True)
        for connection in (one, other):
            with contextlib.suppress(OSError):
                connection.writer.close()


async def _copy(
    source: Connection, target: Connection, activity: _Activity, idle_seconds: float
) -> None:
    """One direction. Raises OSError, TimeoutError when both were silent for too long."""
    while True:
        try:
            async with asyncio.timeout(idle_seconds):
                piece = await source.reader.read(PIECE_BYTES_MAX)
        except TimeoutError:
            if time.monotonic() - activity.at >= idle_seconds:
                raise
            continue
        activity.at = time.monotonic()
        if not piece:
            if target.writer.can_write_eof():
                target.writer.write_eof()
            return
        target.writer.write(piece)
        async with asyncio.timeout(idle_seconds):
            await target.writer.drain()
