"""The drivers under test, each made ready to run functions on this machine."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deployments.runtime.aws_functions import Configuration, function_name
from deployments.runtime.aws_lambda import AwsLambda
from deployments.runtime.driver import Event, FunctionDriver, FunctionSpec, Launcher
from deployments.runtime.local_bwrap import LocalBwrap
from deployments.runtime.local_plain import LocalPlain
from deployments.runtime.pool import Limits, Pool
from tests.deployments.fake_lambda import REGION, fake_lambda
from tests.deployments.function_host import EndingHostDriver, FunctionHost
from tests.deployments.functions import Lines, invoke, write_function


@dataclass(frozen=True)
class Options:
    """What a test asks of the driver; seconds and counts."""

    concurrency: int = 10
    wait_seconds: float = 10.0  # for a free instance
    init_seconds: float = 10.0
    timeout_seconds: float = 30.0


async def _nothing() -> None:
    """Lines are there at once."""


@dataclass
class Subject:
    """A driver under test. `differs`: the documented differences (docs/functions.md) it has."""

    name: str
    driver: FunctionDriver
    lines: Lines
    options: Options
    folder: Path
    differs: frozenset[str] = frozenset()
    code_folder: Callable[[FunctionSpec], Path] = field(default=lambda spec: spec.folder)
    flush: Callable[[], Awaitable[None]] = field(default=_nothing)  # what is logged is in `lines`

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
        launcher = make_launcher()
        limits = Limits(
            concurrency=options.concurrency,
            wait_seconds=options.wait_seconds,
            init_seconds=options.init_seconds,
        )
        pool = Pool(launcher, folder / "run", lines, limits=limits)
        yield Subject(launcher.name, pool, lines, options, folder / "code")
        await pool.close()

    return build


@asynccontextmanager
async def _aws_lambda(folder: Path, options: Options) -> AsyncIterator[Subject]:
    """The driver against the fake service, which runs functions in plain Node processes."""
    lines = Lines()
    async with fake_lambda(folder / "fake") as (service, address):
        configuration = Configuration(
            region=REGION,
            role="arn:aws:iam::000000000000:role/functions",
            timeout_seconds=int(options.timeout_seconds),
            reserved_concurrency=options.concurrency,
            endpoint_url=address,
            wait_seconds=options.wait_seconds,
            init_seconds=options.init_seconds,
        )
        driver = AwsLambda(configuration, lines)

        def code_folder(spec: FunctionSpec) -> Path:
            name = function_name(configuration.prefix, spec.deploy_id, spec.function_name)
            return service.code_folder(name, spec.release_id)

        yield Subject(
            driver.name,
            driver,
            lines,
            options,
            folder / "code",
            differs=frozenset({"request-id", "early-close", "raw-lines", "last-words"}),
            code_folder=code_folder,
        )
        await driver.close()


@asynccontextmanager
async def _host(folder: Path, options: Options) -> AsyncIterator[Subject]:
    """The function host, a process of its own, over the plain launcher."""
    with tempfile.TemporaryDirectory(prefix="aig-test-") as short_folder:
        host = FunctionHost(Path(short_folder))
        await host.start(
            f"--concurrency={options.concurrency}",
            f"--wait-seconds={options.wait_seconds}",
            f"--init-seconds={options.init_seconds}",
        )
        driver = EndingHostDriver(host)
        yield Subject("host", driver, driver.lines, options, folder / "code", flush=driver.collect)
        await driver.close()


Build = Callable[[Path, Options], AbstractAsyncContextManager[Subject]]
SUBJECTS: dict[str, Build] = {
    LocalPlain.name: _pool(LocalPlain),
    LocalBwrap.name: _pool(LocalBwrap),
    "host": _host,
    AwsLambda.name: _aws_lambda,
}
