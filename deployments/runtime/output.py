"""What instances print, line by line, into the queue of output.

Owns the tag that the bootstrap puts before console lines, and the rate cap.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from deployments.runtime.driver import MEBIBYTE, FunctionSpec
from deployments.runtime.log_queue import LineSink

TAG = b"\x1e"  # a console line: the tag, then {"r": request id, "m": message}
LINE_BYTES_MAX = 64 * 1024
OUTPUT_BYTES_PER_MINUTE_MAX = MEBIBYTE


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
        sink: LineSink,
        cap: RateCap,
        current_request: Callable[[], str],
    ) -> None:
        self._spec = spec
        self._sink = sink
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

    def say(self, message: str) -> None:
        """Log what the platform has to say about the request that runs now; capped as output."""
        if self._admits(len(message)):
            self._sink.add(self._spec, self._current_request(), message)

    def _line(self, line: bytes) -> None:
        if line.strip() and self._admits(len(line)):
            self._sink.add(self._spec, *self._parse(line))

    def _admits(self, size: int) -> bool:
        """Whether so many more bytes may be logged; the first refusal in a minute is logged."""
        admitted, is_first_refusal = self._cap.admits(size)
        if is_first_refusal:
            self._sink.add(
                self._spec, "", "Output over 1 MB in a minute: the rest of this minute is dropped."
            )
        return admitted

    def _parse(self, line: bytes) -> tuple[str, str]:
        """Request id and message of a tagged line, or of a plain line printed just now."""
        if line.startswith(TAG):
            try:
                tagged = json.loads(line[1:])
                return str(tagged["r"]), str(tagged["m"])
            except (ValueError, KeyError, TypeError):
                pass  # printed by the app itself, or cut: shown as it is
        return self._current_request(), line.decode("utf-8", "replace").rstrip()
