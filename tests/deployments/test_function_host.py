"""Functions run in a process of their own, which web processes reach over its socket."""

import asyncio
import json
import signal
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deployments.runtime.driver import (
    Chunk,
    Done,
    Event,
    Failed,
    Failure,
    FunctionSpec,
    Head,
    InvokeContext,
)
from deployments.runtime.host_client import HostDriver, HostLog, UnableToReachHost
from deployments.runtime.log_queue import Batch
from tests.deployments import functions
from tests.deployments.function_host import ROOT, FunctionHost
from tests.deployments.functions import body_of
from tests.deployments.waiting import is_gone, until, until_gone

pytestmark = pytest.mark.functions

Write = Callable[..., FunctionSpec]
# Makes the file `event.at` and answers once that is removed.
WAITING = """
import fs from 'node:fs';
export const handler = async (event) => {
  fs.writeFileSync(event.at, '');
  while (fs.existsSync(event.at)) await new Promise((go) => setTimeout(go, 5));
  return process.pid;
};
"""
PID = "export const handler = async () => process.pid"
ENDLESS = (
    "import fs from 'node:fs';"
    "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
    "  stream.on('close', () => fs.writeFileSync(event.closed, ''));"
    "  while (!stream.destroyed) {"
    "    stream.write('x'); await new Promise((go) => setTimeout(go, 5)); } });"
)


SECRET = b"aig_of_this_test"


class Host(FunctionHost):
    """The host under test, with its driver at hand."""

    async def invoke(self, spec: FunctionSpec, event: Any = None) -> list[Event]:
        return await functions.invoke(self.driver, spec, event)

    async def pid_of(self, spec: FunctionSpec) -> int:
        """The process that a function with the code PID runs in."""
        return int(body_of(await self.invoke(spec)))


@pytest.fixture
async def host(short_folder: Path) -> AsyncIterator[Host]:
    made = Host(short_folder)
    await made.start()
    yield made
    print(made.log.read_text())
    if made.process.poll() is None:
        await made.end()


@pytest.fixture
def write_function(tmp_path: Path) -> Write:
    """A function (code, **spec fields) -> FunctionSpec of a function on disk."""
    return partial(functions.write_function, tmp_path)


def read(path: Path) -> bytes:
    return path.read_bytes()


def count(folder: Path, pattern: str) -> int:
    return len(list(folder.glob(pattern)))


async def messages_of(log: HostLog) -> list[str]:
    """The messages of the next batch, which is then stored."""
    batch = await log.take(10)
    assert batch is not None
    await log.acknowledge(batch)
    await log.take(0)
    return [line.message for line in batch.lines]


# --- The process -------------------------------------------------------------------------------


def test_it_starts_with_an_empty_environment_and_knows_no_database() -> None:
    code = (
        "import sys; import deployments.runtime.host;"
        "known = {name.split('.')[0] for name in sys.modules};"
        "print(sorted(known & {'django', 'config', 'orgs', 'psycopg', 'sqlite3', 'redis'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


async def test_variables_are_in_no_argument_and_no_environment_but_the_functions_own(
    host: Host, write_function: Write
) -> None:
    spec = write_function(PID, environment={"OPENAI_API_KEY": SECRET.decode()})
    pid = await host.pid_of(spec)
    own, its = Path(f"/proc/{host.process.pid}"), Path(f"/proc/{pid}")
    files = [own / "environ", own / "cmdline", its / "cmdline"]
    files += [path for path in host.folder.rglob("*") if path.is_file()]
    assert not any(SECRET in read(path) for path in files)
    assert SECRET in read(its / "environ")


async def test_only_its_user_may_connect(host: Host) -> None:
    assert stat.S_IMODE(host.socket.stat().st_mode) == 0o600


async def test_a_second_host_on_the_socket_is_refused(host: Host) -> None:
    second = await asyncio.to_thread(
        subprocess.run,
        host.command(),
        cwd=ROOT,
        env={},
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert "Another function host serves" in second.stderr
    assert (await host.driver.health()).driver == "local-plain"


async def test_the_end_of_its_input_ends_it_and_all_functions(
    host: Host, write_function: Write
) -> None:
    pid = await host.pid_of(write_function(PID))
    assert await host.end() == 0
    await until_gone(pid)
    assert not host.socket.exists()


async def test_functions_die_with_a_host_that_is_killed(host: Host, write_function: Write) -> None:
    pid = await host.pid_of(write_function(PID))
    host.kill()
    await until_gone(pid)


async def test_health_tells_what_runs(host: Host, write_function: Write) -> None:
    await host.pid_of(write_function(PID))
    health = await host.driver.health()
    assert health.driver == "local-plain"
    assert "WITHOUT ISOLATION" in health.warning
    assert (health.refusal, health.instances, health.running) == ("", 1, 0)


# --- Invocations -------------------------------------------------------------------------------


async def test_events_pass_as_they_come(host: Host, write_function: Write) -> None:
    spec = write_function(
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        " stream = awslambda.HttpResponseStream.from(stream, {statusCode: 203, cookies: ['a=1']});"
        " for (const word of event.words) {"
        "   stream.write(word); await new Promise((go) => setTimeout(go, 30)); }"
        " stream.end(); })"
    )
    items = await host.invoke(spec, {"words": ["one", "two"]})
    assert items[0] == Head(203, (("set-cookie", "a=1"),))
    assert items[1:-1] == [Chunk(b"one"), Chunk(b"two")]
    assert isinstance(items[-1], Done)


async def test_six_megabytes_go_in_and_out(host: Host, write_function: Write) -> None:
    spec = write_function(
        "export const handler = async (event) => ({statusCode: 200,"
        " body: `${event.body.length}${'y'.repeat(6000000)}`})"
    )
    body = "\u0001" * 1_000_000 + "x" * 5_000_000  # the first million is six times that in JSON
    assert body_of(await host.invoke(spec, {"body": body})) == "6000000" + "y" * 6_000_000


async def test_a_web_process_that_leaves_ends_the_stream(
    host: Host, write_function: Write, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    event = json.dumps({"closed": str(closed)}).encode()
    running = host.driver.invoke(write_function(ENDLESS), event, InvokeContext("r1"))
    async with aclosing(running) as items:
        async for item in items:
            if isinstance(item, Chunk):
                break
    await until(closed.exists)


async def test_a_slow_reader_holds_the_function_back(
    host: Host, write_function: Write, tmp_path: Path
) -> None:
    spec = write_function(
        "import fs from 'node:fs';"
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        "  let written = 0;"
        "  while (written < 16 && !stream.destroyed) {"
        "    await new Promise((go) => stream.write(Buffer.alloc(1048576), go));"
        "    fs.writeFileSync(event.written, String(++written)); }"
        "  stream.end(); })"
    )
    written = tmp_path / "written"
    event = json.dumps({"written": str(written)}).encode()
    total = 0
    async for item in host.driver.invoke(spec, event, InvokeContext("r1")):
        if isinstance(item, Chunk):
            if not total:
                await until(written.exists)
                await asyncio.sleep(0.5)  # long enough for all of it, if nothing held it back
                assert int(written.read_text()) < 8
            total += len(item.data)
    assert total == 16 * 1024 * 1024


async def test_the_concurrency_of_a_deployment_counts_all_web_processes(
    host: Host, write_function: Write, tmp_path: Path
) -> None:
    spec = write_function(
        "import fs from 'node:fs'; export const handler = async (event) => {"
        " fs.writeFileSync(`${event.folder}/${event.name}`, '');"
        " const go = `${event.folder}/go`;"
        " while (!fs.existsSync(go)) await new Promise((again) => setTimeout(again, 5));"
        " return 1; }"
    )
    others = [HostDriver(host.socket) for _ in range(11)]

    async def run(number: int) -> list[Event]:
        event = json.dumps({"folder": str(tmp_path), "name": f"at-{number}"}).encode()
        context = InvokeContext(f"r{number}")
        return [item async for item in others[number].invoke(spec, event, context)]

    running = [asyncio.create_task(run(number)) for number in range(11)]
    await until(lambda: count(tmp_path, "at-*") == 10)
    await asyncio.sleep(0.2)
    assert count(tmp_path, "at-*") == 10
    (tmp_path / "go").touch()
    for items in await asyncio.gather(*running):
        assert body_of(items) == "1"


async def test_retiring_and_deleting_end_instances(host: Host, write_function: Write) -> None:
    old, other = (
        write_function(PID),
        write_function(PID, deployment_id=2, deploy_id="app-2", release_id="rel_2"),
    )
    first, second = await host.pid_of(old), await host.pid_of(other)
    await host.driver.retire(old)
    await until_gone(first)
    assert not is_gone(second)
    await host.driver.delete("app-2", ["api"])
    await until_gone(second)


async def test_a_deleted_deployments_running_instance_ends_with_its_request(
    host: Host, write_function: Write, tmp_path: Path
) -> None:
    at = tmp_path / "at"
    running = asyncio.create_task(host.invoke(write_function(WAITING), {"at": str(at)}))
    await until(at.exists)
    await host.driver.delete("app-1", ["api"])
    at.unlink()
    await until_gone(int(body_of(await running)))


# --- A host that goes away ---------------------------------------------------------------------


async def test_a_request_waits_for_a_host_that_is_started_again(
    host: Host, write_function: Write
) -> None:
    spec = write_function(PID)
    first = await host.pid_of(spec)
    host.kill()
    waiting = asyncio.create_task(host.pid_of(spec))
    await asyncio.sleep(0.2)
    await host.start()
    assert await waiting != first


async def test_a_request_that_a_killed_host_had_is_not_sent_again(
    host: Host, write_function: Write, tmp_path: Path
) -> None:
    spec = write_function(
        "import fs from 'node:fs'; export const handler = (event) => {"
        " fs.appendFileSync(event.runs, 'x'); return new Promise(() => {}); }"
    )
    runs = tmp_path / "runs"
    running = asyncio.create_task(host.invoke(spec, {"runs": str(runs)}))
    await until(runs.exists)
    host.kill()
    await host.start()
    (failed,) = await running
    assert isinstance(failed, Failed)
    assert failed.kind == Failure.UNAVAILABLE
    assert "was not sent again" in failed.message
    assert runs.read_text() == "x"


async def test_without_a_host_the_failure_says_so(
    short_folder: Path, write_function: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deployments.runtime.host_client.AWAY_SECONDS_MAX", 0.2)
    nobody = Host(short_folder)
    (failed,) = await nobody.invoke(write_function(PID))
    assert failed == Failed(
        Failure.UNAVAILABLE,
        "The functions are being restarted (the function host does not answer).",
    )
    with pytest.raises(UnableToReachHost, match=r"does not answer on .*fnhost\.sock"):
        await nobody.driver.health()


async def test_a_host_that_stops_lets_requests_end_and_takes_no_more(
    host: Host, write_function: Write, tmp_path: Path
) -> None:
    at = tmp_path / "at"
    running = asyncio.create_task(host.invoke(write_function(WAITING), {"at": str(at)}))
    await until(at.exists)
    host.process.send_signal(signal.SIGTERM)
    await until(lambda: not host.socket.exists())
    at.unlink()
    assert int(body_of(await running)) > 0
    assert await asyncio.to_thread(host.process.wait, 30) == 0


# --- Output ------------------------------------------------------------------------------------


async def test_a_line_is_handed_to_one_of_those_who_wait(host: Host, write_function: Write) -> None:
    logs = [HostLog(host.socket) for _ in range(3)]
    stored: list[Batch] = []

    async def store(log: HostLog) -> None:
        while True:
            batch = await log.take(5)
            if batch is not None:
                stored.append(batch)
                await log.acknowledge(batch)

    takers = [asyncio.create_task(store(log)) for log in logs]
    spec = write_function(
        "export const handler = async (event) => {"
        " for (let i = 0; i < 500; i++) console.log(`${event.run} ${i}`); return 1; }"
    )
    for run in range(3):
        assert (
            body_of(await functions.invoke(host.driver, spec, {"run": run}, request_id=f"r{run}"))
            == "1"
        )
    await until(lambda: sum(len(batch.lines) for batch in stored) >= 1500)
    for taker in takers:
        taker.cancel()
    lines = [line for batch in stored for line in batch.lines]
    assert {line.message for line in lines} == {f"{r} {i}" for r in range(3) for i in range(500)}
    assert len(lines) == 1500
    assert {line.request_id for line in lines} == {"r0", "r1", "r2"}


async def test_a_batch_goes_to_another_when_its_taker_vanishes(
    host: Host, write_function: Write
) -> None:
    spec = write_function("export const handler = async () => { console.log('once'); return 1; }")
    await host.invoke(spec)
    first, second = HostLog(host.socket), HostLog(host.socket)
    lost = await first.take(10)
    assert lost is not None
    await first.give_back(lost)
    again = await second.take(10)
    assert again == lost
    await second.acknowledge(again)
    assert await second.take(0) is None
    assert (await host.driver.health()).lines_waiting == 0


async def test_the_last_lines_are_handed_out_while_the_host_stops(
    host: Host, write_function: Write
) -> None:
    log = HostLog(host.socket)
    assert await log.take(0) is None  # connected before the socket is gone
    spec = write_function(
        "export const handler = async () => { console.log('last words'); return 1; }"
    )
    await host.invoke(spec)
    host.process.send_signal(signal.SIGTERM)
    assert await messages_of(log) == ["last words"]
    assert await asyncio.to_thread(host.process.wait, 30) == 0


async def test_a_function_that_floods_never_fills_the_host(
    host: Host, write_function: Write
) -> None:
    spec = write_function(
        "export const handler = async () => {"
        " for (let i = 0; i < 20000; i++) console.log(i); return 1; }"
    )
    await host.invoke(spec)
    health = await host.driver.health()
    assert health.lines_waiting == 10_000
    assert health.lines_dropped == 10_000


async def test_refused_functions_name_the_reason(short_folder: Path, write_function: Write) -> None:
    host = Host(short_folder)
    await host.start("--driver", "no-such-driver")
    (failed,) = await host.invoke(write_function(PID))
    assert isinstance(failed, Failed)
    assert failed.kind == Failure.UNAVAILABLE
    assert "FUNCTION_DRIVER='no-such-driver' is unknown; choose one of: auto" in failed.message
    assert (await host.driver.health()).refusal == failed.message
    assert await messages_of(HostLog(host.socket)) == [failed.message]
    await host.end()
