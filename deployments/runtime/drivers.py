"""Which driver this process's functions run with: chosen by settings, made on first use.

One driver per process and event loop, the writer of what its functions print, and work on functions
for threads without a loop. Local drivers run in the function host, a process of its own; in this
process only where FUNCTIONS_IN_PROCESS says so, for tests. Must not know how a driver works.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.conf import settings
from django.db import DatabaseError

from deployments import directory
from deployments.runtime import host_status, launchers
from deployments.runtime.driver import FunctionDriver, FunctionSpec
from deployments.runtime.egress import Egress, Policy
from deployments.runtime.host_client import HostDriver, HostLog
from deployments.runtime.log_queue import LineSink, LogQueue
from deployments.runtime.log_writer import LogWriter
from deployments.runtime.network import Gateway, Network
from deployments.runtime.pool import Pool
from deployments.runtime.wire import Health

logger = logging.getLogger(__name__)


AWS_LAMBDA = "aws-lambda"


class UnableToRun(Exception):
    """FUNCTION_DRIVER names no driver of this version, or one that is not set up."""


@dataclass(frozen=True)
class _Runtime:
    driver: FunctionDriver
    writer: LogWriter
    watching: asyncio.Task[None] | None = None  # the host's health, for pages


_runtimes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Runtime] = WeakKeyDictionary()


def current() -> FunctionDriver:
    """The driver of this process and event loop. Raises UnableToRun."""
    loop = asyncio.get_running_loop()
    runtime = _runtimes.get(loop)
    if runtime is None:
        runtime = _runtimes[loop] = _make()
    return runtime.driver


def start() -> None:
    """Begin to store what functions print and to watch their host, before any is invoked.

    Raises UnableToRun.
    """
    current()


def _make() -> _Runtime:
    queue = LogQueue()
    driver = _make_driver(queue)
    if isinstance(driver, HostDriver):
        tend = partial(_end_deleted, driver)
        watching = asyncio.create_task(host_status.watch(driver.health, tend))
        return _Runtime(driver, LogWriter(HostLog(settings.FUNCTION_HOST_SOCKET)), watching)
    return _Runtime(driver, LogWriter(queue))


async def _end_deleted(driver: HostDriver, health: Health) -> None:
    """Stop instances of deployments that were deleted, wherever that was done."""
    try:
        deleted = await sync_to_async(directory.deleted_among)(health.deploy_ids)
    except DatabaseError:
        return  # asked again in a few seconds
    for deploy_id in deleted:
        await driver.delete(deploy_id, [])


def _make_driver(sink: LineSink) -> FunctionDriver:
    if settings.FUNCTION_DRIVER == AWS_LAMBDA:
        return _aws_lambda(sink)
    if not settings.FUNCTIONS_IN_PROCESS:
        return HostDriver(settings.FUNCTION_HOST_SOCKET)
    try:
        launcher = launchers.choose(settings.FUNCTION_DRIVER, allow_plain=True)
    except launchers.UnableToChoose as error:
        raise UnableToRun(str(error)) from None
    if launcher.warning:
        logger.warning(launcher.warning)
    gateway = Gateway.at(settings.PUBLIC_URL, settings.FUNCTION_GATEWAY_ADDRESS)
    network = Network(gateway, Egress(Policy(settings.FUNCTION_EGRESS), gateway.host))
    return Pool(launcher, settings.RUNTIME_DIR, sink, network=network)


def _aws_lambda(sink: LineSink) -> FunctionDriver:
    if not settings.AWS_LAMBDA["region"]:
        raise UnableToRun("FUNCTION_DRIVER=aws-lambda needs AWS_LAMBDA_REGION.")
    # Importing boto3 takes a fifth of a second: only processes that use it pay for it.
    from deployments.runtime.aws_functions import Configuration
    from deployments.runtime.aws_lambda import AwsLambda

    return AwsLambda(Configuration(**settings.AWS_LAMBDA), sink)


# --- For threads without an event loop ---------------------------------------------------------


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
    """Have a driver of its own do the work, for threads without an event loop: views, tasks.

    Functions in this process belong to another event loop and need nothing done.
    """
    if settings.FUNCTIONS_IN_PROCESS and not keeps_functions():
        return

    async def run() -> None:
        driver = _make_driver(LogQueue())
        try:
            await work(driver)
        finally:
            await driver.close()

    asyncio.run(run())


async def shutdown() -> None:
    """Stop what this event loop runs and write the last lines of output."""
    runtime = _runtimes.pop(asyncio.get_running_loop(), None)
    if runtime is not None:
        if runtime.watching is not None:
            runtime.watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await runtime.driver.close()
            await runtime.writer.close()
