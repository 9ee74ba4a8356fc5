"""A serving process for fault tests: the AI API alone, under uvicorn as in production.

With `CLOCK_SHIFT=<path>` its wall clock is wrong by the seconds that this file says.
"""

import datetime as standard
import os
import sys
import time
from pathlib import Path

import uvicorn

from config import web


def shift_clock_by(file: Path) -> None:
    """Put a wall clock in the place of the real one that is wrong by what the file says."""
    real = time.time

    def shifted() -> float:
        return real() + float(file.read_text() or 0)

    class IsDatetime(type):
        """Whatever the standard library itself makes is one, too."""

        def __instancecheck__(cls, value: object) -> bool:
            return isinstance(value, _real_datetime)

    class Shifted(standard.datetime, metaclass=IsDatetime):
        """The standard class, but for what time it is."""

        @classmethod
        def now(cls, tz: standard.tzinfo | None = None) -> standard.datetime:
            return _real_datetime.fromtimestamp(shifted(), tz)

    time.time = shifted
    standard.datetime = Shifted  # type: ignore[misc]


_real_datetime = standard.datetime


if __name__ == "__main__":
    if path := os.environ.get("CLOCK_SHIFT"):
        shift_clock_by(Path(path))
    options = {**web.options(int(sys.argv[1]), "127.0.0.1"), "app": "config.asgi:gateway"}
    uvicorn.run(**{**options, "timeout_graceful_shutdown": 10})
