"""One running process of a function: start, one invocation at a time, stop.

Owns the process, its Runtime API socket and its folder. Must not know why an instance is started
or stopped: that is the pool's business.
"""

import asyncio
import contextlib
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from deployments.runtime.api import RuntimeApi
from deployments.runtime.driver import (
    Failed,
    Failure,
    FunctionSpec,
    Launcher,
    Place,
    UnableToLaunch,
)
from deployments.runtime.invocation import Invocation
from deployments.runtime.network import Network, Ways
from deployments.runtime.output import Output

STOP_SECONDS_MAX = 5.0


class UnableToStart(Exception):
    """The function did not get ready; the message is for the owner's log."""


class Instance:
    """A process that serves one function of one release, from start to stop."""

    def __init__(self, spec: FunctionSpec, folder: Path, network: Network | None = None) -> None:
        """`network` is for launchers that give instances a network of their own."""
        self.spec = spec
        self.folder = folder
        self.place = Place(
            sockets=folder / "run",
            home=folder / "tmp",
            bridges=network.bridges if network is not None else (),
        )
        self.api = RuntimeApi(self.place.api_socket)
        self.idle_timer: asyncio.TimerHandle | None = None
        self.is_used = False
        self._network = network
        self._ways: Ways | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._exited = asyncio.Event()
        self._stopping = False
        self._ending = ""  # how the process ended, once it has

    @property
    def is_alive(self) -> bool:
        """Whether the process runs and nobody is stopping it."""
        return self._process is not None and not self._exited.is_set() and not self._stopping

    @property
    def pid(self) -> int | None:
        """The process id, for people; None before the start."""
        return self._process.pid if self._process else None

    def request_id(self) -> str:
        """The request that untagged output belongs to."""
        current = self.api.current
        return current.request_id if current is not None else ""

    async def start(self, launcher: Launcher, output: Output, *, timeout_seconds: float) -> None:
        """Start the process and wait until it asks for work. Raises UnableToStart."""
        await asyncio.to_thread(self._make_folders)
        await self.api.start()
        try:
            process = await launcher.launch(await self._connect(output), self.place)
        except UnableToLaunch as error:
            raise UnableToStart(str(error)) from None
        except OSError as error:
            raise UnableToStart(f"The function's process could not be started: {error}.") from None
        self._process = process
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                self._tasks.append(asyncio.create_task(output.read(stream)))
        self._tasks.append(asyncio.create_task(self._watch(process, launcher)))
        await self._wait_until_ready(timeout_seconds)

    async def _connect(self, output: Output) -> FunctionSpec:
        """Open the ways out; the spec with the variables that lead to them."""
        if self._network is None:
            return self.spec
        self._ways = await self._network.open(
            self.spec.deployment_id, self.place.sockets, output.say
        )
        variables = {**self.spec.environment, **self._network.environment()}
        return replace(self.spec, environment=variables)

    def _make_folders(self) -> None:
        for folder in (self.place.sockets, self.place.home):
            folder.mkdir(mode=0o700, parents=True)

    async def _wait_until_ready(self, timeout_seconds: float) -> None:
        ready = asyncio.create_task(self.api.ready.wait())
        exited = asyncio.create_task(self._exited.wait())
        waits: list[asyncio.Future[Any]] = [ready, exited, self.api.init_error]
        try:
            await asyncio.wait(waits, timeout=timeout_seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
            exited.cancel()
        if self.api.init_error.done():
            raise UnableToStart(self.api.init_error.result())
        if self._exited.is_set():
            raise UnableToStart(f"The function ended while loading: {self._ending}.")
        if not self.api.ready.is_set():
            raise UnableToStart(
                f"The function did not load within {timeout_seconds:.2f} seconds: "
                "do less at the top level of its code."
            )

    def begin(self, invocation: Invocation) -> None:
        """Hand the instance its next invocation. It must be alive and free."""
        self.is_used = True
        self.api.deliver(invocation)
        if self._exited.is_set():
            self._fail_current()

    async def wait_until_free(self) -> None:
        """Until the process asks for its next invocation, or is gone."""
        waits = {
            asyncio.create_task(self.api.ready.wait()),
            asyncio.create_task(self._exited.wait()),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _watch(self, process: asyncio.subprocess.Process, launcher: Launcher) -> None:
        exit_status = await process.wait()
        self._ending = await launcher.ended(self.spec, self.place, exit_status)
        self._exited.set()
        # What it wrote last may still be on its way to the visitor: first that, then the failure.
        await self.api.drain()
        self._fail_current()

    def _fail_current(self) -> None:
        current = self.api.current
        if current is None:
            return
        if self._stopping:
            failed = Failed(Failure.PLATFORM, "The server stopped while the function was running.")
        else:
            failed = Failed(Failure.CRASH, f"The function's process ended: {self._ending}.")
        current.fail(failed)

    async def stop(self) -> None:
        """Kill the process group and remove the socket and folder. Safe to call twice."""
        if self._stopping:
            return
        self._stopping = True
        if self.idle_timer is not None:
            self.idle_timer.cancel()
        if self._process is not None:
            self._kill(self._process)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_SECONDS_MAX):
                    await self._exited.wait()
            # The last lines are still in the pipes; a grandchild may hold these open for ever.
            _, late = await asyncio.wait(self._tasks, timeout=1)
            for task in late:
                task.cancel()
        self._fail_current()
        if self._ways is not None:
            await self._ways.close()
        await self.api.close()
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        """End the whole group: what the function started dies with it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
