"""A function host for tests: started, killed, ended and started again."""

import asyncio
import subprocess
import sys
from pathlib import Path

from deployments.runtime.host_client import HostDriver, HostLog
from tests.deployments.functions import Lines
from tests.deployments.waiting import until

ROOT = Path(__file__).resolve().parents[2]


class FunctionHost:
    """A host over the plain launcher; `folder` has a path short enough for sockets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "fnhost.sock"
        self.log = folder / "host.log"
        self.driver = HostDriver(self.socket)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "the host was not started"
        return self._process

    def command(self, *arguments: str) -> list[str]:
        command = [sys.executable, "-m", "deployments.runtime.host", "--supervised"]
        command += ["--socket", str(self.socket), "--folder", str(self.folder / "run")]
        return [*command, "--driver", "local-plain", *arguments]

    async def start(self, *arguments: str) -> None:
        """Start it and wait until it serves; later arguments win over earlier ones."""
        self._start(self.command(*arguments))
        await until(self._serves)

    def _start(self, command: list[str]) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=ROOT, env={}, stdin=subprocess.PIPE, stdout=log, stderr=log
            )

    def _serves(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return self.socket.exists()

    def kill(self) -> None:
        """Kill it as a full machine would. Its socket stays behind, as it does then."""
        self.process.kill()
        self.process.wait()

    async def end(self) -> int:
        """Take its input away, as a supervisor that dies does; its exit status."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return await asyncio.to_thread(self.process.wait, 30)


class EndingHostDriver(HostDriver):
    """The driver and the log of a host that belongs to one test and ends with it."""

    def __init__(self, host: FunctionHost) -> None:
        super().__init__(host.socket)
        self.lines = Lines()
        self._host = host
        self._log = HostLog(host.socket)
        self._collecting = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        while True:
            batch = await self._log.take(5)
            if batch is not None:
                self.lines.rows += batch.lines
                await self._log.acknowledge(batch)

    async def collect(self) -> None:
        """Return once the host has no line that is not in `lines`."""
        async with asyncio.timeout(10):
            for _ in iter(int, 1):
                if not (await self.health()).lines_waiting:
                    return
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        """End the host; its last lines are in `lines` then. Safe to call twice."""
        await self._host.end()
        self._collecting.cancel()
