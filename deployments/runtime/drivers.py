"""Which driver runs this process's functions: chosen by FUNCTION_DRIVER, made on first use.

One driver per process and event loop, and work on functions that are kept elsewhere for threads
without a loop. Must not know how a driver works.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from django.conf import settings

from deployments.runtime.driver import FunctionDriver, FunctionSpec, Launcher
from deployments.runtime.local_bwrap import LocalBwrap
from deployments.runtime.local_plain import LocalPlain
from deployments.runtime.pool import Pool

LAUNCHERS: dict[str, type[Launcher]] = {
    LocalPlain.name: LocalPlain,
    LocalBwrap.name: LocalBwrap,
}

_drivers: WeakKeyDictionary[asyncio.AbstractEventLoop, FunctionDriver] = WeakKeyDictionary()


AWS_LAMBDA = "aws-lambda"


class UnableToRun(Exception):
    """FUNCTION_DRIVER names no driver of this version, or one that is not set up."""


def current() -> FunctionDriver:
    """The driver of this process and event loop. Raises UnableToRun."""
    loop = asyncio.get_running_loop()
    driver = _drivers.get(loop)
    if driver is None:
        driver = _drivers[loop] = _make()
    return driver


def _make() -> FunctionDriver:
    if settings.FUNCTION_DRIVER == AWS_LAMBDA:
        return _aws_lambda()
    launcher = LAUNCHERS.get(settings.FUNCTION_DRIVER)
    if launcher is None:
        raise UnableToRun(
            f"FUNCTION_DRIVER={settings.FUNCTION_DRIVER!r} is unknown; "
            f"choose one of: {', '.join([*LAUNCHERS, AWS_LAMBDA])}."
        )
    return Pool(launcher(), settings.RUNTIME_DIR)


def _aws_lambda() -> FunctionDriver:
    if not settings.AWS_LAMBDA["region"]:
        raise UnableToRun("FUNCTION_DRIVER=aws-lambda needs AWS_LAMBDA_REGION.")
    # Importing boto3 takes a fifth of a second: only processes that use it pay for it.
    from deployments.runtime.aws_functions import Configuration
    from deployments.runtime.aws_lambda import AwsLambda

    return AwsLambda(Configuration(**settings.AWS_LAMBDA))


# --- Functions kept elsewhere ------------------------------------------------------------------


def keeps_functions() -> bool:
    """Whether functions are kept outside of this machine: then they must be prepared there."""
    return settings.FUNCTION_DRIVER == AWS_LAMBDA


def prepare(functions: Sequence[FunctionSpec]) -> None:
    """Make functions ready to be invoked, and wait. Raises UnableToPrepare, UnableToRun."""

    async def work(driver: FunctionDriver) -> None:
        for spec in functions:
            await driver.prepare(spec)

    _run(work)


def retire(functions: Sequence[FunctionSpec]) -> None:
    """Keep these functions of superseded releases no longer. Raises the driver's errors."""

    async def work(driver: FunctionDriver) -> None:
        for spec in functions:
            await driver.retire(spec)

    _run(work)


def delete(deploy_id: str, function_names: Collection[str]) -> None:
    """Keep nothing of a deleted deployment's functions. Raises the driver's errors."""

    async def work(driver: FunctionDriver) -> None:
        await driver.delete(deploy_id, function_names)

    _run(work)


def _run(work: Callable[[FunctionDriver], Coroutine[Any, Any, None]]) -> None:
    """Have a driver of its own do the work; nothing is to do where functions are on this machine.

    For threads without an event loop: views, tasks, commands.
    """
    if not keeps_functions():
        return

    async def run() -> None:
        try:
            await work(current())
        finally:
            await shutdown()

    asyncio.run(run())


async def shutdown() -> None:
    """Stop every function of this event loop and write the last lines of output."""
    driver = _drivers.pop(asyncio.get_running_loop(), None)
    if driver is not None:
        with contextlib.suppress(asyncio.CancelledError):
            await driver.close()
