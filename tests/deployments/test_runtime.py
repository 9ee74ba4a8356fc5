"""What the pool does with processes on this machine; what every driver does is in drivers/."""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deployments.runtime.driver import Failure, FunctionSpec, Launcher, Place
from deployments.runtime.local_bwrap import LocalBwrap
from deployments.runtime.local_plain import LocalPlain, environment_of
from deployments.runtime.pool import Limits, Pool
from tests.deployments import functions
from tests.deployments.functions import Lines, body_of, failure_of, invoke
from tests.deployments.sandboxes import needs_bwrap
from tests.deployments.waiting import until, until_gone

pytestmark = pytest.mark.functions

Write = Callable[..., FunctionSpec]


@pytest.fixture
def write_function(tmp_path: Path) -> Write:
    """A function (code, entry=..., **spec fields) -> FunctionSpec of a function on disk."""
    return partial(functions.write_function, tmp_path)


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture(params=[LocalPlain, pytest.param(LocalBwrap, marks=needs_bwrap)])
def launcher(request: pytest.FixtureRequest) -> Launcher:
    return request.param()


# For what only processes of this machine's own can show; isolation has tests of its own.
without_sandbox = pytest.mark.parametrize("launcher", [LocalPlain], indirect=True)


@pytest.fixture
async def make_pool(
    tmp_path: Path, lines: Lines, launcher: Launcher
) -> AsyncIterator[Callable[..., Pool]]:
    pools = []

    def make(**limits: Any) -> Pool:
        pools.append(Pool(launcher, tmp_path / "run", lines, limits=Limits(**limits)))
        return pools[-1]

    yield make
    for pool in pools:
        await pool.close()


@pytest.fixture
def pool(make_pool: Callable[..., Pool]) -> Pool:
    return make_pool()


def pids_of(pool: Pool) -> set[int]:
    """The processes of the pool's instances, as this machine numbers them."""
    return {instance.pid for instance in pool._instances}


# --- Loading -----------------------------------------------------------------------------------


async def test_a_module_is_recognised_without_a_package_file(
    pool: Pool, write_function: Write
) -> None:
    spec = write_function("export const handler = async () => 'module'", entry="index.js")
    assert body_of(await invoke(pool, spec)) == "module"


async def test_instances_of_a_superseded_release_end(pool: Pool, write_function: Write) -> None:
    code = "export const handler = async () => 1"
    await invoke(pool, write_function(code))
    (pid,) = pids_of(pool)
    await invoke(pool, write_function(code, release_id="rel_2"))
    await until_gone(pid)


@without_sandbox
async def test_the_environment_is_what_was_given_and_nothing_else(
    pool: Pool, write_function: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    spec = write_function(
        "export const handler = async () => process.env",
        environment={"OPENAI_API_KEY": "aig_x", "TZ": "Europe/Vienna"},
    )
    seen = json.loads(body_of(await invoke(pool, spec)))
    expected = environment_of(spec, Place(sockets=Path("/s"), home=Path(seen["HOME"])))
    del expected["AIG_RUNTIME_SOCKET"], expected["AIG_ENTRY"]
    assert seen == expected
    assert seen["OPENAI_API_KEY"] == "aig_x"
    assert seen["TZ"] == "Europe/Vienna"


@pytest.mark.parametrize(
    ("entry", "code", "hint"),
    [
        (
            "index.mjs",
            "export const GET = 1, POST = 2",
            "index.mjs does not export a function called 'handler'; it exports: GET, POST.",
        ),
        ("index.js", "module.exports = {}", "it exports: default."),
        (
            "index.mjs",
            "export default function (req, res) { res.end() }",
            "It looks like an HTTP handler (req, res)",
        ),
        ("index.mjs", "import 'left-pad'; export const handler = 1", "Bundle your dependencies"),
        ("index.js", "require('left-pad')", "Bundle your dependencies"),
    ],
)
async def test_a_function_that_cannot_load_gets_a_hint(
    pool: Pool, write_function: Write, lines: Lines, entry: str, code: str, hint: str
) -> None:
    failed = failure_of(await invoke(pool, write_function(code, entry=entry)))
    assert failed.kind == Failure.INIT
    assert hint in failed.message
    assert hint in lines.text


async def test_a_function_that_loads_for_ever_is_stopped(
    make_pool: Callable[..., Pool], write_function: Write
) -> None:
    pool = make_pool(init_seconds=0.5)
    failed = failure_of(await invoke(pool, write_function("for (;;) {}")))
    assert failed.kind == Failure.INIT
    assert "did not load within 0.50 seconds" in failed.message


async def test_a_handler_over_its_time_is_killed(
    pool: Pool, write_function: Write, lines: Lines
) -> None:
    spec = write_function("export const handler = async (e) => { while (e.busy); return 1 }")
    await invoke(pool, spec)
    (pid,) = pids_of(pool)
    failed = failure_of(await invoke(pool, spec, {"busy": True}, timeout=0.5))
    assert failed.kind == Failure.TIMEOUT
    await until_gone(pid)
    assert "Task timed out after 0.50 seconds" in lines.text


async def test_an_instance_that_dies_while_idle_is_replaced_unnoticed(
    pool: Pool, write_function: Write
) -> None:
    spec = write_function(
        "export const handler = async () => { setTimeout(() => process.exit(0), 1); return 'ok'; }"
    )
    assert [body_of(await invoke(pool, spec)) for _ in range(4)] == ["ok"] * 4


# --- Limits and life ---------------------------------------------------------------------------


async def test_an_idle_instance_makes_room_when_the_machine_is_full(
    make_pool: Callable[..., Pool], write_function: Write
) -> None:
    pool = make_pool(instances=1)
    code = "export const handler = async () => 'ok'"
    await invoke(pool, write_function(code))
    (first,) = pids_of(pool)
    other = write_function(code, release_id="rel_2", deployment_id=2)
    assert body_of(await invoke(pool, other)) == "ok"
    await until_gone(first)


@without_sandbox
async def test_an_idle_instance_ends_after_a_while(
    make_pool: Callable[..., Pool], write_function: Write
) -> None:
    pool = make_pool(idle_seconds=0.05)
    spec = write_function("export const handler = async () => process.pid")
    await until_gone(int(body_of(await invoke(pool, spec))))


async def test_retiring_a_release_ends_its_idle_instances(
    pool: Pool, write_function: Write
) -> None:
    spec = write_function("export const handler = async () => 1")
    await invoke(pool, spec)
    (pid,) = pids_of(pool)
    await pool.retire(spec)
    await until_gone(pid)


async def test_deleting_a_deployment_ends_its_idle_instances_and_no_others(
    pool: Pool, write_function: Write
) -> None:
    mine = write_function("export const handler = async () => 1")
    theirs = replace(mine, deployment_id=2, deploy_id="app-2", release_id="rel_2")
    await invoke(pool, mine)
    (my_pid,) = pids_of(pool)
    await invoke(pool, theirs)
    their_pids = pids_of(pool) - {my_pid}
    await pool.delete("app-1", ["api"])
    await until_gone(my_pid)
    await invoke(pool, theirs)
    assert pids_of(pool) == their_pids


@without_sandbox
async def test_closing_ends_what_the_function_started_too(
    pool: Pool, write_function: Write
) -> None:
    spec = write_function(
        "import {spawn} from 'node:child_process';"
        "const child = spawn('sleep', ['600']);"
        "export const handler = async () => [process.pid, child.pid]"
    )
    pids = json.loads(body_of(await invoke(pool, spec)))
    await pool.close()
    for pid in pids:
        await until_gone(pid)


async def test_a_request_running_when_the_server_stops_is_not_called_a_crash(
    pool: Pool, write_function: Write, lines: Lines
) -> None:
    spec = write_function(
        "export const handler = () => { console.log('started'); return new Promise(() => {}); }"
    )
    running = asyncio.create_task(invoke(pool, spec))
    await until(lambda: "started" in lines.text)
    await pool.close()
    assert failure_of(await running).kind == Failure.PLATFORM


async def test_an_instance_ends_when_its_server_is_gone(pool: Pool, write_function: Write) -> None:
    await invoke(pool, write_function("export const handler = async () => 1"))
    (instance,) = pool._instances
    instance._process.stdin.close()
    await until_gone(instance.pid)


async def test_leftovers_of_a_dead_server_are_removed(
    write_function: Write, lines: Lines, launcher: Launcher
) -> None:
    with tempfile.TemporaryDirectory() as folder:  # its path is short enough for sockets
        leftover = Path(folder) / f"{2**22 + 1}-x" / "1"
        leftover.mkdir(parents=True)
        pool = Pool(launcher, Path(folder), lines)
        assert body_of(await invoke(pool, write_function("export const handler = async () => 1")))
        assert not leftover.exists()
        await pool.close()


async def test_a_long_runtime_folder_is_no_obstacle(
    tmp_path: Path, write_function: Write, lines: Lines, launcher: Launcher
) -> None:
    pool = Pool(launcher, tmp_path / ("long" * 30), lines)
    spec = write_function("export const handler = async () => 'ok'")
    assert body_of(await invoke(pool, spec)) == "ok"
    await pool.close()


# --- Output ------------------------------------------------------------------------------------


async def test_endless_output_is_cut_and_says_so(
    pool: Pool, write_function: Write, lines: Lines
) -> None:
    spec = write_function(
        "export const handler = async () => {"
        " for (let i = 0; i < 3000; i++) console.log('x'.repeat(1000)); return 1; }"
    )
    await invoke(pool, spec)
    await pool.close()
    assert sum(len(row.message) for row in lines.rows) <= 2 * 1024 * 1024 + 1000
    assert "Output over 1 MB in a minute: the rest of this minute is dropped." in lines.text
