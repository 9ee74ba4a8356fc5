"""Instances on this machine: started on demand, reused while warm, stopped when idle.

Owns the supervisor's rules (concurrency, limits in time, draining of superseded releases) and
what the platform says about a run in the function's log. Must not know how a process is isolated:
that is the launcher's.
"""

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections import OrderedDict, defaultdict
from collections.abc import AsyncGenerator, Collection, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.runtime.driver import (
    Event,
    Failed,
    Failure,
    FunctionSpec,
    InvokeContext,
    Launcher,
)
from deployments.runtime.instance import Instance, UnableToStart
from deployments.runtime.invocation import Invocation
from deployments.runtime.log_queue import LineSink
from deployments.runtime.network import Network
from deployments.runtime.output import Output, RateCap

# sun_path holds 104 bytes on macOS, 108 on Linux, with the final NUL.
SOCKET_PATH_BYTES_MAX = 100
DELETED_KEPT_MAX = 1_000


@dataclass(frozen=True)
class Limits:
    """The supervisor's limits; seconds and counts."""

    init_seconds: float = 10.0
    idle_seconds: float = 300.0
    wait_seconds: float = 10.0  # for a free instance
    concurrency: int = 10  # invocations at a time per deployment
    instances: int = 64  # on this machine, idle ones included


class Pool:
    """A FunctionDriver that runs functions as processes of a launcher."""

    def __init__(
        self,
        launcher: Launcher,
        folder: Path,
        sink: LineSink,
        *,
        limits: Limits | None = None,
        network: Network | None = None,
    ) -> None:
        """`folder` is for sockets and temporary files; a short one is made when it is too long.

        `sink` gets what functions print and what the platform says about their runs. `network` is
        for launchers that give instances a network of their own.
        """
        self.name = launcher.name
        self.limits = limits or Limits()
        self._sink = sink
        self._launcher = launcher
        self._network = network if launcher.has_own_network else None
        self._wished_folder = folder
        self._folder: Path | None = None
        self._numbers = itertools.count(1)
        self._idle: dict[tuple[str, str], list[Instance]] = defaultdict(list)
        self._instances: set[Instance] = set()
        self._slots: dict[int, asyncio.Semaphore] = {}
        self._caps: dict[int, RateCap] = defaultdict(RateCap)
        self._releases: dict[int, str] = {}  # deployment -> the release it was last asked for
        self._deleted: OrderedDict[str, None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    # --- Invoking ----------------------------------------------------------------------------

    async def invoke(
        self, spec: FunctionSpec, event: bytes, context: InvokeContext
    ) -> AsyncGenerator[Event]:
        """See FunctionDriver."""
        self._supersede(spec)
        slot = self._slots.setdefault(
            spec.deployment_id, asyncio.Semaphore(self.limits.concurrency)
        )
        try:
            async with asyncio.timeout(self.limits.wait_seconds):
                await slot.acquire()
        except TimeoutError:
            yield self._failed(
                spec,
                context,
                Failure.THROTTLED,
                f"{self.limits.concurrency} requests were running already and none ended within "
                f"{self.limits.wait_seconds:.0f} seconds: the request was refused.",
            )
            return
        run = _Run(slot)
        try:
            async with contextlib.aclosing(self._attempt(spec, event, context, run)) as items:
                async for item in items:
                    yield item
        finally:
            run.release_slot()

    async def _attempt(
        self, spec: FunctionSpec, event: bytes, context: InvokeContext, run: "_Run"
    ) -> AsyncGenerator[Event]:
        while True:
            try:
                instance = await self._take(spec)
            except UnableToStart as error:
                yield self._failed(spec, context, Failure.INIT, str(error))
                return
            except _Full as error:
                yield self._failed(spec, context, Failure.THROTTLED, str(error))
                return
            invocation = Invocation(event, context, cold=not instance.is_used)
            timer = self._expire_later(instance, invocation, context)
            instance.begin(invocation)
            try:
                while True:
                    item = await invocation.get()
                    if _was_never_taken(invocation, item):
                        break  # a warm instance died before it took the work: safe to repeat
                    if isinstance(item, Failed):
                        self._sink.add(spec, context.request_id, item.message)
                    yield item
                    if invocation.outcome is item:
                        return
            finally:
                self._end(instance, invocation, timer, run)

    def _expire_later(
        self, instance: Instance, invocation: Invocation, context: InvokeContext
    ) -> asyncio.TimerHandle:
        """At the deadline the invocation fails and the instance is killed, whoever waits."""

        def expire() -> None:
            invocation.fail(
                Failed(
                    Failure.TIMEOUT, f"Task timed out after {context.timeout_seconds:.2f} seconds"
                )
            )
            self._discard(instance)

        return asyncio.get_running_loop().call_later(context.timeout_seconds, expire)

    def _end(
        self, instance: Instance, invocation: Invocation, timer: asyncio.TimerHandle, run: "_Run"
    ) -> None:
        """The caller is done with the invocation; the instance may still be at work on it."""
        if invocation.outcome is not None and not invocation.streamed:
            timer.cancel()
            self._give_back(instance)
            return
        invocation.abandon()
        run.keep_slot = True
        self._spawn(self._settle(instance, timer, run.slot))

    async def _settle(
        self, instance: Instance, timer: asyncio.TimerHandle, slot: asyncio.Semaphore
    ) -> None:
        """Wait until the handler has returned too, at most until the deadline."""
        try:
            await instance.wait_until_free()
            timer.cancel()
            self._give_back(instance)
        finally:
            slot.release()

    def _failed(
        self, spec: FunctionSpec, context: InvokeContext, kind: Failure, message: str
    ) -> Failed:
        self._sink.add(spec, context.request_id, message)
        return Failed(kind, message)

    # --- Instances ---------------------------------------------------------------------------

    async def _take(self, spec: FunctionSpec) -> Instance:
        """A free instance: the one used last, or a new one. Raises UnableToStart, _Full."""
        while idle := self._idle.get(spec.key):
            instance = idle.pop()
            if instance.idle_timer is not None:
                instance.idle_timer.cancel()
            if instance.is_alive:
                return instance
            self._discard(instance)
        self._make_room()
        return await self._start(spec)

    async def _start(self, spec: FunctionSpec) -> Instance:
        folder = await self._own_folder() / f"{next(self._numbers):x}"
        instance = Instance(spec, folder, self._network)
        self._instances.add(instance)
        output = Output(spec, self._sink, self._caps[spec.deployment_id], instance.request_id)
        try:
            await instance.start(self._launcher, output, timeout_seconds=self.limits.init_seconds)
        except BaseException:
            self._discard(instance)
            raise
        return instance

    def _make_room(self) -> None:
        """Stop the instance idle for longest when the machine's limit is reached. Raises _Full."""
        if len(self._instances) < self.limits.instances:
            return
        for idle in self._idle.values():
            if idle:
                self._discard(idle.pop(0))
                return
        raise _Full(f"All {self.limits.instances} function instances of this server are busy.")

    def _give_back(self, instance: Instance) -> None:
        """Keep the instance warm, unless its release was superseded, or it died or is to."""
        if instance not in self._instances:
            return  # discarded at the deadline; its end has only been scheduled yet
        spec = instance.spec
        is_current = self._releases.get(spec.deployment_id) == spec.release_id
        if not instance.is_alive or not is_current or spec.deploy_id in self._deleted:
            self._discard(instance)
            return
        self._idle[spec.key].append(instance)
        instance.idle_timer = asyncio.get_running_loop().call_later(
            self.limits.idle_seconds, self._discard, instance
        )

    def _discard(self, instance: Instance) -> None:
        """Stop the instance in the background."""
        idle = self._idle.get(instance.spec.key, [])
        if instance in idle:
            idle.remove(instance)
        if not idle:
            self._idle.pop(instance.spec.key, None)
        if instance in self._instances:
            self._instances.remove(instance)
            self._spawn(instance.stop())

    def _supersede(self, spec: FunctionSpec) -> None:
        """Remember the release; idle instances of the deployment's others are stopped."""
        if self._releases.get(spec.deployment_id) == spec.release_id:
            return
        self._releases[spec.deployment_id] = spec.release_id
        for instance in list(itertools.chain.from_iterable(self._idle.values())):
            other = instance.spec
            if other.deployment_id == spec.deployment_id and other.release_id != spec.release_id:
                self._discard(instance)

    @property
    def instance_count(self) -> int:
        """How many processes there are, idle ones included."""
        return len(self._instances)

    @property
    def deploy_ids(self) -> set[str]:
        """Which deployments have instances."""
        return {instance.spec.deploy_id for instance in self._instances}

    async def prepare(self, spec: FunctionSpec) -> None:
        """See FunctionDriver. Nothing to do: an instance starts from the release's folder."""

    async def retire(self, spec: FunctionSpec) -> None:
        """See FunctionDriver."""
        if self._releases.get(spec.deployment_id) == spec.release_id:
            del self._releases[spec.deployment_id]  # what runs now is not kept either
        for instance in list(self._idle.get(spec.key, ())):
            self._discard(instance)

    async def delete(self, deploy_id: str, function_names: Collection[str]) -> None:
        """See FunctionDriver. Every function of the deployment goes, whatever its name.

        So does what a request starts that was under way, or that met a web process which has not
        heard of it yet.
        """
        self._deleted[deploy_id] = None
        while len(self._deleted) > DELETED_KEPT_MAX:
            self._deleted.popitem(last=False)
        for instance in list(itertools.chain.from_iterable(self._idle.values())):
            if instance.spec.deploy_id == deploy_id:
                self._discard(instance)

    # --- The pool itself ---------------------------------------------------------------------

    async def _own_folder(self) -> Path:
        """This process's folder for sockets, made once; leftovers of dead processes are removed."""
        if self._folder is None:
            self._folder = await asyncio.to_thread(_make_folder, self._wished_folder)
        return self._folder

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """See FunctionDriver. The last lines of output are in the sink then."""
        for instance in list(self._instances):
            self._discard(instance)
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)


def _was_never_taken(invocation: Invocation, item: Event) -> bool:
    return (
        isinstance(item, Failed)
        and item.kind == Failure.CRASH
        and not invocation.delivered
        and not invocation.cold
    )


class _Full(Exception):
    """No room for another instance."""


class _Run:
    """Who gives the slot back: the request, or the background work that outlives it."""

    def __init__(self, slot: asyncio.Semaphore) -> None:
        self.slot = slot
        self.keep_slot = False

    def release_slot(self) -> None:
        if not self.keep_slot:
            self.slot.release()


def _make_folder(wished: Path) -> Path:
    """A folder for this process whose socket paths fit a socket address."""
    longest = wished / str(os.getpid()) / "ffffffff" / "run" / "api.sock"
    if len(os.fsencode(longest)) > SOCKET_PATH_BYTES_MAX:
        return Path(tempfile.mkdtemp(prefix="aig-"))
    _remove_leftovers(wished)
    wished.mkdir(mode=0o700, parents=True, exist_ok=True)
    return Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=wished))


def _remove_leftovers(folder: Path) -> None:
    """Remove folders of processes that are gone: they died without `close`."""
    for leftover in folder.glob("*-*") if folder.is_dir() else ():
        pid = leftover.name.partition("-")[0]
        if not pid.isdigit():
            continue
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(leftover, ignore_errors=True)
        except PermissionError:
            continue
