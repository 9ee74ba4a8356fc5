"""What is known about the function host, for pages: asked in the background, read at once.

Owns how often the host is asked and what people are told about it. A page never waits for the
host; a process that serves nobody (a command, a test) knows nothing and says nothing.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from deployments.runtime.host_client import UnableToReachHost
from deployments.runtime.wire import Health

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
MISSES_MAX = 2  # a host that is being started again is no news


@dataclass(frozen=True)
class Notice:
    """Something people should know about how functions run; `level` as in pages' notices."""

    level: str
    title: str
    text: str


AWAY = Notice(
    "bad",
    "Functions do not run at the moment.",
    "The function host does not answer. Sites without functions are not affected.",
)

_health: Health | None = None
_misses = 0


def note(health: Health | None) -> None:
    """Keep what was found out last; None when the host did not answer."""
    global _health, _misses
    if health is None:
        _misses += 1
    else:
        _health, _misses = health, 0


def forget() -> None:
    """Know nothing, as at the start."""
    global _health, _misses
    _health, _misses = None, 0


def notice() -> Notice | None:
    """What to tell people, by what is known now."""
    if _misses >= MISSES_MAX:
        return AWAY
    if _health is None:
        return None
    if _health.refusal:
        return Notice("bad", "Functions are refused.", _health.refusal)
    if _health.warning:
        return Notice("warn", "Functions run without isolation.", _health.warning)
    return None


async def watch(
    health: Callable[[], Awaitable[Health]], tend: Callable[[Health], Awaitable[None]]
) -> None:
    """Ask again and again, until cancelled; `tend` does what the health calls for."""
    while True:
        try:
            known = await health()
            note(known)
            await tend(known)
        except UnableToReachHost as error:
            note(None)
            if _misses == MISSES_MAX:
                logger.error("%s Is it running? See docs/operations.md.", error)
        await asyncio.sleep(POLL_SECONDS)
