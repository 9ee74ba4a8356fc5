"""The drivers under test, each made ready to run functions on this machine."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.runtime.driver import Event, FunctionDriver, FunctionSpec, Launcher
from deployments.runtime.local_plain import LocalPlain
from deployments.runtime.output import LogWriter
from deployments.runtime.pool import Limits, Pool
from tests.deployments.functions import Lines, invoke, write_function


@dataclass(frozen=True)
class Options:
    """What a test asks of the driver; seconds and counts."""

    concurrency: int = 10
    wait_seconds: float = 10.0  # for a free instance
    init_seconds: float = 10.0
    timeout_seconds: float = 30.0


@dataclass
class Subject:
    """A driver under test. `differs`: the documented differences (docs/functions.md) it has."""

    name: str
    driver: FunctionDriver
    writer: LogWriter
    lines: Lines
    options: Options
    folder: Path
    differs: frozenset[str] = frozenset()
    code_folder: Callable[[FunctionSpec], Path] = field(default=lambda spec: spec.folder)

    async def deploy(self, code: str, **fields: Any) -> FunctionSpec:
        """A function the driver has prepared; see `write_function`."""
        spec = write_function(self.folder, code, **fields)
        await self.driver.prepare(spec)
        return spec

    async def invoke(
        self, spec: FunctionSpec, event: Any = None, *, request_id: str = "r1"
    ) -> list[Event]:
        return await invoke(
            self.driver, spec, event, request_id=request_id, timeout=self.options.timeout_seconds
        )

    async def run(self, code: str, event: Any = None, **fields: Any) -> list[Event]:
        """Deploy the code and invoke it once."""
        return await self.invoke(await self.deploy(code, **fields), event)

    def open_gate(self, spec: FunctionSpec) -> None:
        """Let code that awaits `gate()` go on; see GATE."""
        (self.code_folder(spec) / "gate").touch()


# For functions: `await gate()` returns once the test has called `Subject.open_gate`.
GATE = """
import fs from 'node:fs';
const gate = async () => {
  while (!fs.existsSync(process.env.LAMBDA_TASK_ROOT + '/gate'))
    await new Promise((go) => setTimeout(go, 5));
};
"""


def _pool(make_launcher: Callable[[], Launcher]) -> "Build":
    """A pool of this process over the launcher."""

    @asynccontextmanager
    async def build(folder: Path, options: Options) -> AsyncIterator[Subject]:
        lines = Lines()
        writer = LogWriter(lines)
        launcher = make_launcher()
        limits = Limits(
            concurrency=options.concurrency,
            wait_seconds=options.wait_seconds,
            init_seconds=options.init_seconds,
        )
        pool = Pool(launcher, folder / "run", limits=limits, writer=writer)
        yield Subject(launcher.name, pool, writer, lines, options, folder / "code")
        await pool.close()

    return build


Build = Callable[[Path, Options], AbstractAsyncContextManager[Subject]]
SUBJECTS: dict[str, Build] = {LocalPlain.name: _pool(LocalPlain)}
