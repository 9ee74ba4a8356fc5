"""A serving process for fault tests: the AI API alone, under uvicorn as in production.

With `CLOCK_SHIFT=<path>` its wall clock is wrong by the seconds that this file says. With
`REQUESTS_MAX=<n>` it ends after so many requests, to be started anew. `HEAD_SECONDS=<n>` is how
long a request's head may take.
"""

import datetime as standard
import os
import sys
import time
from pathlib import Path

import uvicorn

from config import connection, web


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
    if seconds := os.environ.get("HEAD_SECONDS"):
        connection.HEAD_SECONDS_MAX = float(seconds)
    options = {**web.options(int(sys.argv[1]), "127.0.0.1"), "app": "config.asgi:gateway"}
    if requests := os.environ.get("REQUESTS_MAX"):
        options["limit_max_requests"] = int(requests)
    uvicorn.run(**{**options, "timeout_graceful_shutdown": 10})
