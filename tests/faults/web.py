"""A serving process for fault tests: the AI API alone, under uvicorn as in production.

With `FAIL_SYNC_WHEN=<path>` the disk refuses to sync data from the moment that this file exists.
"""

import errno
import os
import sys
from pathlib import Path

import uvicorn

from config import web


def fail_syncs_when(switch: Path) -> None:
    """Put a disk in the place of the real one that fails when it is told to."""
    fdatasync = os.fdatasync

    def sync(descriptor: int) -> None:
        if switch.exists():
            raise OSError(errno.EIO, "The test's disk has failed.")
        fdatasync(descriptor)

    os.fdatasync = sync


if __name__ == "__main__":
    if path := os.environ.get("FAIL_SYNC_WHEN"):
        fail_syncs_when(Path(path))
    options = {**web.options(int(sys.argv[1]), "127.0.0.1"), "app": "config.asgi:gateway"}
    uvicorn.run(**{**options, "timeout_graceful_shutdown": 10})
