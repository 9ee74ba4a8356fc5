"""Sandboxes in tests: where they run, as whom, and what they must leave behind (nothing)."""

import asyncio
import concurrent.futures.thread  # noqa: F401 - a user who is not root could not import it later
import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.runtime.api import RuntimeApi
from deployments.runtime.driver import Chunk, FunctionSpec, InvokeContext, Place
from deployments.runtime.invocation import Invocation
from deployments.runtime.local_bwrap import LocalBwrap, Sandbox

needs_bwrap = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("bwrap") is None,
    reason="needs Linux and bubblewrap",
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs user ids of functions")
ORDINARY_UID = 54_321


def as_ordinary_user(work: Callable[[], Awaitable[Any]]) -> Any:
    """What `work` answers in a process of a user who is not root and owns nothing."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def become_and_run() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(ORDINARY_UID)
            os.setuid(ORDINARY_UID)
        answers.put(asyncio.run(work()))

    process = context.Process(target=become_and_run)
    process.start()
    try:
        return answers.get(timeout=60)
    finally:
        process.join(5)
        process.kill()


async def answer_of(
    launcher: LocalBwrap, spec: FunctionSpec, place: Place, *, event: Any = None
) -> Any:
    """What the function answers in an instance of its own, without a pool; parsed."""
    for folder in (place.sockets, place.home):
        await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True)
    async with contextlib.AsyncExitStack() as stack:
        api = RuntimeApi(place.api_socket)
        await api.start()
        stack.push_async_callback(api.close)
        process = await launcher.launch(spec, place)
        stack.push_async_callback(_end, launcher, spec, place, process)
        invocation = Invocation(
            json.dumps(event).encode(), InvokeContext("request-1", 30), cold=True
        )
        async with asyncio.timeout(30):
            await api.ready.wait()
            api.deliver(invocation)
            head, chunk = await invocation.get(), await invocation.get()
        assert isinstance(chunk, Chunk), (head, chunk)
        return json.loads(chunk.data)


async def _end(
    launcher: LocalBwrap, spec: FunctionSpec, place: Place, process: asyncio.subprocess.Process
) -> None:
    process.kill()
    await process.communicate()
    await launcher.ended(spec, place, await process.wait())


class WatchedBwrap(LocalBwrap):
    """The launcher, remembering what it made, to see that nothing of it stays."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Place, Sandbox]] = []

    async def launch(self, spec: FunctionSpec, place: Place) -> asyncio.subprocess.Process:
        process = await super().launch(spec, place)
        self.made.append((place, self._sandboxes[place.sockets]))
        return process

    def leftovers(self) -> list[str]:
        """What is left of instances that were stopped, for people."""
        return [thing for place, sandbox in self.made for thing in left_of(place, sandbox)]


def left_of(place: Place, sandbox: Sandbox) -> list[str]:
    left = [str(folder) for folder in (place.sockets, place.home) if folder.exists()]
    left += [str(folder) for folder in (sandbox.group.folders if sandbox.group else [])]
    left = [path for path in left if Path(path).exists()]
    left += [f"mount of {place.sockets}"] * (str(place.sockets) in mounts())
    if sandbox.reservation is not None:
        left += [f"process {pid} of user {sandbox.uid}" for pid in processes_of(sandbox.uid)]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as again:
            try:
                again.bind(f"\0aig-function-uid-{sandbox.uid}")
            except OSError:
                left.append(f"reservation of user {sandbox.uid}")
    return left


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


def processes_of(uid: int) -> list[int]:
    """The processes of this machine that run as the user."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and folder.stat().st_uid == uid:
                found.append(int(folder.name))
        except OSError:
            continue  # it ended
    return found
