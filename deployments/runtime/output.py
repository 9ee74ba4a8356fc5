"""What instances print, line by line, into the deployment's log.

Owns the tag that the bootstrap puts before console lines, the rate cap, and writing in batches
from a thread of its own, so that a slow database never holds a function or the event loop.
"""

import asyncio
import json
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from django.db import connections

from deployments import logs
from deployments.runtime.driver import MEBIBYTE, FunctionSpec

logger = logging.getLogger(__name__)

TAG = b"\x1e"  # a console line: the tag, then {"r": request id, "m": message}
LINE_BYTES_MAX = 64 * 1024
LINES_WAITING_MAX = 10_000
WRITE_SECONDS = 0.5
OUTPUT_BYTES_PER_MINUTE_MAX = MEBIBYTE


class LogWriter:
    """Collects lines and writes them twice a second. Lines beyond the buffer are dropped."""

    def __init__(self, write: Callable[[Iterable[logs.LogLine]], None] = logs.append_many) -> None:
        self._write = write
        self._waiting: list[logs.LogLine] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="function-logs")
        self._flushing: asyncio.Task[None] | None = None
        self._closed = False

    def add(self, spec: FunctionSpec, request_id: str, message: str) -> None:
        """Log a line of the function, as printed now."""
        if self._closed or not message or len(self._waiting) >= LINES_WAITING_MAX:
            return
        self._waiting.append(
            logs.LogLine(
                deployment_id=spec.deployment_id,
                function_name=spec.function_name,
                request_id=request_id,
                message=message,
                at=datetime.now(UTC),
            )
        )
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush_soon())

    async def _flush_soon(self) -> None:
        while self._waiting:
            await asyncio.sleep(WRITE_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Write what waits, now."""
        lines, self._waiting = self._waiting, []
        if lines:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._store, lines)

    def _store(self, lines: list[logs.LogLine]) -> None:
        try:
            self._write(lines)
        except Exception:
            # The database is away or the deployment was erased: output is lost, serving goes on.
            logger.exception("Could not write %d lines of function output.", len(lines))
            connections.close_all()

    async def close(self) -> None:
        """Write what waits and end the thread. Safe to call twice."""
        if self._flushing is not None:
            self._flushing.cancel()
        await self.flush()
        if not self._closed:
            self._closed = True
            await asyncio.get_running_loop().run_in_executor(self._thread, connections.close_all)
            self._thread.shutdown()


@dataclass
class RateCap:
    """Bytes of output of one deployment in the current minute."""

    minute: int = 0
    used: int = 0

    def admits(self, size: int) -> tuple[bool, bool]:
        """Whether `size` more bytes may be kept, and whether this is the first refusal."""
        minute = int(time.monotonic() // 60)
        if minute != self.minute:
            self.minute, self.used = minute, 0
        before = self.used
        self.used += size
        return (
            self.used <= OUTPUT_BYTES_PER_MINUTE_MAX,
            before <= OUTPUT_BYTES_PER_MINUTE_MAX < self.used,
        )


class Output:
    """The output streams of one instance."""

    def __init__(
        self,
        spec: FunctionSpec,
        writer: LogWriter,
        cap: RateCap,
        current_request: Callable[[], str],
    ) -> None:
        self._spec = spec
        self._writer = writer
        self._cap = cap
        self._current_request = current_request

    async def read(self, stream: asyncio.StreamReader) -> None:
        """Log every line until the stream ends. Always reads on, so the function never blocks."""
        rest = b""
        while data := await stream.read(LINE_BYTES_MAX):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._line(line)
            if len(rest) > LINE_BYTES_MAX:
                self._line(rest)
                rest = b""
        self._line(rest)

    def _line(self, line: bytes) -> None:
        if not line.strip():
            return
        admitted, is_first_refusal = self._cap.admits(len(line))
        if is_first_refusal:
            self._writer.add(
                self._spec, "", "Output over 1 MB in a minute: the rest of this minute is dropped."
            )
        if admitted:
            self._writer.add(self._spec, *self._parse(line))

    def _parse(self, line: bytes) -> tuple[str, str]:
        """Request id and message of a tagged line, or of a plain line printed just now."""
        if line.startswith(TAG):
            try:
                tagged = json.loads(line[1:])
                return str(tagged["r"]), str(tagged["m"])
            except (ValueError, KeyError, TypeError):
                pass  # printed by the app itself, or cut: shown as it is
        return self._current_request(), line.decode("utf-8", "replace").rstrip()
