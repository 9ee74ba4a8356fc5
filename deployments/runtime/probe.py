"""The function that tries to leave its sandbox (probe_function/), and what lies there for it.

Starts the probe through a launcher, without a pool, asks it to do one task after the other, and
lays out things of this machine it must not reach. Must not judge what it saw: isolation.py does.
"""

import asyncio
import base64
import contextlib
import json
import os
import platform
import secrets
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.runtime import system_calls
from deployments.runtime.api import RuntimeApi
from deployments.runtime.driver import (
    Chunk,
    Done,
    Failed,
    FunctionSpec,
    InvokeContext,
    Launcher,
    Place,
    UnableToLaunch,
)
from deployments.runtime.invocation import Invocation
from deployments.runtime.system_calls import PAUSE, Call

FUNCTION = Path(__file__).with_name("probe_function")
MEMORY_MB = 64
SECONDS_MAX = 20.0
OUTPUT_BYTES_MAX = 64 * 1024


@dataclass
class Bait:
    """Things of this machine that a function must not reach. Any user of it could."""

    folder: Path
    secret: Path
    tenant: Path
    socket: Path
    abstract_socket: str
    port: int
    token: str = field(default_factory=lambda: f"aig{secrets.token_hex(8)}")


@contextlib.asynccontextmanager
async def lay_bait(folder: Path) -> AsyncIterator[Bait]:
    """Files, and listening sockets, below `folder`."""
    secret, tenant = await asyncio.to_thread(_lay_files, folder)
    socket, abstract = folder / "bait.sock", f"\0aig-bait-{secrets.token_hex(8)}"
    async with contextlib.AsyncExitStack() as stack:
        tcp = await asyncio.start_server(_hang_up, "127.0.0.1", 0)
        stack.callback(tcp.close)
        for path in (str(socket), abstract):
            server = await asyncio.start_unix_server(_hang_up, path)
            stack.callback(server.close)
        await asyncio.to_thread(socket.chmod, 0o666)
        port = tcp.sockets[0].getsockname()[1]
        yield Bait(folder, secret, tenant, socket, abstract, port)


def _lay_files(folder: Path) -> tuple[Path, Path]:
    folder.chmod(0o711)  # the sandbox must keep functions away from what is in it, not this folder
    secret, tenant = folder / "secret", folder / "tenant" / "index.mjs"
    tenant.parent.mkdir()
    for file in (secret, tenant):
        file.write_text("secret")
        file.chmod(0o644)
    return secret, tenant


async def _hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@dataclass
class Probe:
    """A started probe."""

    bait: Bait
    spec: FunctionSpec
    _api: RuntimeApi
    _process: asyncio.subprocess.Process

    async def ask(self, task: str, **event: Any) -> Any:
        """What it answers to a task, or None when it failed or ended."""
        event |= {"task": task, "token": self.bait.token, "waiter": program_of([PAUSE])}
        context = InvokeContext(f"probe-{task}", SECONDS_MAX)
        invocation = Invocation(json.dumps(event).encode(), context, cold=True)
        await self._api.ready.wait()
        self._api.deliver(invocation)
        answer = asyncio.create_task(_answer(invocation))
        ended = asyncio.create_task(self._process.wait())
        await asyncio.wait({answer, ended}, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not answer.done():
            answer.cancel()
            return None
        return answer.result()


async def _answer(invocation: Invocation) -> Any:
    body = b""
    while True:
        item = await invocation.get()
        if isinstance(item, Chunk):
            body += item.data
        elif isinstance(item, Done):
            return json.loads(body)
        elif isinstance(item, Failed):
            return None


@contextlib.asynccontextmanager
async def start(launcher: Launcher, bait: Bait, name: str) -> AsyncIterator[Probe]:
    """A probe that is ready; ended afterwards.

    Raises UnableToLaunch with what the process printed when it does not get ready.
    """
    place = Place(sockets=bait.folder / name / "run", home=bait.folder / name / "tmp")
    for folder in (place.sockets, place.home):
        await asyncio.to_thread(folder.mkdir, parents=True, mode=0o700)
    spec = FunctionSpec(
        deployment_id=0,
        deploy_id="probe",
        release_id=name,
        function_name="probe",
        folder=FUNCTION,
        entry="index.mjs",
        environment={"PROBE_TOKEN": bait.token},
        memory_mb=MEMORY_MB,
    )
    api = RuntimeApi(place.api_socket)
    await api.start()
    try:
        process = await launcher.launch(spec, place)
        printed = asyncio.create_task(_read(process))
        try:
            await _wait_until_ready(api, process, printed)
            yield Probe(bait, spec, api, process)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await launcher.ended(spec, place, await process.wait())
            printed.cancel()
    finally:
        await api.close()


async def run(launcher: Launcher, bait: Bait, task: str, **event: Any) -> Any:
    """One task in a probe of its own; None when it failed or ended."""
    try:
        async with asyncio.timeout(SECONDS_MAX), start(launcher, bait, task) as probe:
            return await probe.ask(task, **event)
    finally:
        end_processes_with(bait.token)


async def _wait_until_ready(
    api: RuntimeApi, process: asyncio.subprocess.Process, printed: "asyncio.Task[str]"
) -> None:
    ready, ended = asyncio.create_task(api.ready.wait()), asyncio.create_task(process.wait())
    await asyncio.wait({ready, ended}, timeout=SECONDS_MAX, return_when=asyncio.FIRST_COMPLETED)
    is_ready = ready.done()
    for task in (ready, ended):
        task.cancel()
    if not is_ready:
        text = await asyncio.wait_for(printed, 1) if process.returncode is not None else ""
        raise UnableToLaunch(text or "The probe did not start, and printed nothing.")


async def _read(process: asyncio.subprocess.Process) -> str:
    """The beginning of what the process prints; the rest is read too, and dropped."""
    kept = b""
    for stream in (process.stderr, process.stdout):
        while stream is not None and (data := await stream.read(OUTPUT_BYTES_MAX)):
            kept = (kept + data)[:OUTPUT_BYTES_MAX]
    return kept.decode("utf-8", "replace").strip()


def program_of(calls: Sequence[Call]) -> str:
    """A program that makes the calls on this machine, in base64."""
    return base64.b64encode(system_calls.program(platform.machine(), calls)).decode()


def processes_with(token: str) -> list[int]:
    """The processes of this machine that have the token in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and token.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def user_of(pid: int) -> int:
    """The user id a process of this machine runs as."""
    return Path(f"/proc/{pid}").stat().st_uid


def end_processes_with(token: str) -> None:
    """End what a probe left behind, where nothing else does."""
    for pid in processes_with(token):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
