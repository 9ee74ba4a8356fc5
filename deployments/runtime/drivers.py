"""Which driver runs this process's functions: chosen by FUNCTION_DRIVER, made on first use.

One driver per process and event loop. Must not know how a driver works.
"""

import asyncio
import contextlib
from weakref import WeakKeyDictionary

from django.conf import settings

from deployments.runtime.driver import FunctionDriver, Launcher
from deployments.runtime.local_bwrap import LocalBwrap
from deployments.runtime.local_plain import LocalPlain
from deployments.runtime.pool import Pool

LAUNCHERS: dict[str, type[Launcher]] = {
    LocalPlain.name: LocalPlain,
    LocalBwrap.name: LocalBwrap,
}

_drivers: WeakKeyDictionary[asyncio.AbstractEventLoop, FunctionDriver] = WeakKeyDictionary()


class UnableToRun(Exception):
    """FUNCTION_DRIVER names no driver of this version."""


def current() -> FunctionDriver:
    """The driver of this process and event loop. Raises UnableToRun."""
    loop = asyncio.get_running_loop()
    driver = _drivers.get(loop)
    if driver is None:
        driver = _drivers[loop] = _make()
    return driver


def _make() -> FunctionDriver:
    launcher = LAUNCHERS.get(settings.FUNCTION_DRIVER)
    if launcher is None:
        raise UnableToRun(
            f"FUNCTION_DRIVER={settings.FUNCTION_DRIVER!r} is unknown; "
            f"choose one of: {', '.join(LAUNCHERS)}."
        )
    return Pool(launcher(), settings.RUNTIME_DIR)


async def shutdown() -> None:
    """Stop every function of this event loop and write the last lines of output."""
    driver = _drivers.pop(asyncio.get_running_loop(), None)
    if driver is not None:
        with contextlib.suppress(asyncio.CancelledError):
            await driver.close()
