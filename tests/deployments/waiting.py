"""Waiting for what another process does, without guessing how long it takes."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path


async def until(happened: Callable[[], bool]) -> None:
    """Return once `happened` is true; a test that waits for ever is stopped by its runner."""
    async with asyncio.timeout(60):
        while True:
            if happened():
                return
            await asyncio.sleep(0.01)


async def until_gone(pid: int) -> None:
    """Return once the process has ended (a zombie has, only nobody asked yet)."""
    await until(lambda: is_gone(pid))


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return True
    return stat.rsplit(")", 1)[1].split()[0] == "Z"


def hear_ctrl_c() -> None:
    """In a child before it starts: take SIGINT, which shells have their background jobs ignore."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
