"""Functions run in real Node.js processes behind the pool."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
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
    Place,
)
from deployments.runtime.local_plain import LocalPlain, environment_of
from deployments.runtime.output import LogWriter
from deployments.runtime.pool import Limits, Pool
from tests.deployments.waiting import until, until_gone

Write = Callable[..., FunctionSpec]


@pytest.fixture
def write_function(tmp_path: Path) -> Write:
    """A function (code, entry=..., **spec fields) -> FunctionSpec of a function on disk."""

    def write(code: str, *, entry: str = "index.mjs", **fields: Any) -> FunctionSpec:
        release_id = fields.pop("release_id", "rel_1")
        folder = tmp_path / release_id / "api.func"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / entry).write_text(code)
        return FunctionSpec(
            deployment_id=fields.pop("deployment_id", 1),
            deploy_id="app-1",
            release_id=release_id,
            function_name="api",
            folder=folder,
            entry=entry,
            **fields,
        )

    return write


class Lines:
    """Collects the log instead of the database."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def __call__(self, rows: Any) -> None:
        self.rows += rows

    @property
    def text(self) -> str:
        return "\n".join(row.message for row in self.rows)


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
async def make_pool(tmp_path: Path, lines: Lines) -> AsyncIterator[Callable[..., Pool]]:
    pools = []

    def make(**limits: Any) -> Pool:
        pools.append(
            Pool(LocalPlain(), tmp_path / "run", limits=Limits(**limits), writer=LogWriter(lines))
        )
        return pools[-1]

    yield make
    for pool in pools:
        await pool.close()


@pytest.fixture
def pool(make_pool: Callable[..., Pool]) -> Pool:
    return make_pool()


async def invoke(
    pool: Pool,
    spec: FunctionSpec,
    event: Any = None,
    *,
    request_id: str = "r1",
    timeout: float = 30,
) -> list[Event]:
    raw = json.dumps(event or {}).encode()
    return [item async for item in pool.invoke(spec, raw, InvokeContext(request_id, timeout))]


def body_of(items: list[Event]) -> str:
    assert isinstance(items[-1], Done), items
    return b"".join(item.data for item in items if isinstance(item, Chunk)).decode()


def failure_of(items: list[Event]) -> Failed:
    assert isinstance(items[-1], Failed), items
    return items[-1]


# --- Answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ("index.mjs", "export const handler = async (e) => ({statusCode: 201, body: e.name})"),
        ("index.js", "exports.handler = async (e) => ({statusCode: 201, body: e.name})"),
        ("index.cjs", "module.exports = {handler: async (e) => ({statusCode: 201, body: e.name})}"),
        ("index.js", "exports.handler = (e, c, cb) => cb(null, {statusCode: 201, body: e.name})"),
        ("index.js", "exports.handler = (e, c) => c.succeed({statusCode: 201, body: e.name})"),
        ("index.js", "exports.handler = (e) => ({statusCode: 201, body: e.name})"),
        ("index.js", "export const handler = async (e) => ({statusCode: 201, body: e.name})"),
    ],
)
async def test_every_style_of_handler_answers(
    pool: Pool, write_function: Write, entry: str, code: str
) -> None:
    items = await invoke(pool, write_function(code, entry=entry), {"name": "Zoë"})
    assert items[0] == Head(201, (), 4)
    assert body_of(items) == "Zoë"


async def test_a_warm_instance_is_used_again(pool: Pool, write_function: Write) -> None:
    spec = write_function("export const handler = async () => process.pid")
    first, second = await invoke(pool, spec), await invoke(pool, spec)
    assert body_of(first) == body_of(second)
    assert isinstance(first[-1], Done)
    assert first[-1].cold
    assert isinstance(second[-1], Done)
    assert not second[-1].cold


async def test_releases_and_deployments_share_no_instance(
    pool: Pool, write_function: Write
) -> None:
    code = "globalThis.n ??= 0; export const handler = async () => `${process.pid} ${++n}`"
    mine = write_function(code)
    newer = write_function(code, release_id="rel_2")
    theirs = write_function(code, release_id="rel_3", deployment_id=2)
    answers = [body_of(await invoke(pool, spec)).split() for spec in (mine, newer, theirs)]
    assert len({pid for pid, _ in answers}) == 3
    assert {count for _, count in answers} == {"1"}


async def test_instances_of_a_superseded_release_end(pool: Pool, write_function: Write) -> None:
    code = "export const handler = async () => process.pid"
    old = write_function(code)
    pid = int(body_of(await invoke(pool, old)))
    await invoke(pool, write_function(code, release_id="rel_2"))
    await until_gone(pid)


async def test_the_context_is_that_of_lambda(pool: Pool, write_function: Write) -> None:
    spec = write_function(
        "export const handler = async (e, c) => ({...c, left: c.getRemainingTimeInMillis()})"
    )
    context = json.loads(body_of(await invoke(pool, spec, request_id="abc")))
    assert 0 < context.pop("left") <= 30_000
    assert context == {
        "awsRequestId": "abc",
        "callbackWaitsForEmptyEventLoop": True,
        "functionName": "app-1-api",
        "functionVersion": "$LATEST",
        "invokedFunctionArn": "arn:aws:lambda:local:000000000000:function:app-1-api",
        "logGroupName": "/aws/lambda/app-1-api",
        "logStreamName": "rel_1",
        "memoryLimitInMB": "1024",
    }


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


# --- Streaming ---------------------------------------------------------------------------------

STREAM = """
export const handler = awslambda.streamifyResponse(async (event, stream, context) => {
  stream = awslambda.HttpResponseStream.from(stream, {
    statusCode: 203, headers: {"Content-Type": "text/event-stream"}, cookies: ["a=1"],
  });
  for (const word of ["one", "two", "three"]) {
    stream.write(word);
    await new Promise((go) => setTimeout(go, 30));
  }
  stream.end();
});
"""


async def test_a_stream_arrives_chunk_by_chunk(pool: Pool, write_function: Write) -> None:
    items = await invoke(pool, write_function(STREAM))
    assert items[0] == Head(203, (("content-type", "text/event-stream"), ("set-cookie", "a=1")))
    assert items[1:-1] == [Chunk(b"one"), Chunk(b"two"), Chunk(b"three")]
    assert isinstance(items[-1], Done)


async def test_the_first_chunk_arrives_while_the_handler_still_runs(
    pool: Pool, write_function: Write, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    spec = write_function(
        "import fs from 'node:fs';"
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        "  stream.write('first');"
        "  while (!fs.existsSync(event.gate)) await new Promise((go) => setTimeout(go, 5));"
        "  stream.end('last'); });"
    )
    received = []
    async for item in pool.invoke(
        spec, json.dumps({"gate": str(gate)}).encode(), InvokeContext("r1")
    ):
        received.append(item)
        if item == Chunk(b"first"):
            gate.touch()
    assert received[:3] == [
        Head(200, (("content-type", "application/octet-stream"),)),
        Chunk(b"first"),
        Chunk(b"last"),
    ]


async def test_a_stream_without_data_still_has_its_head(pool: Pool, write_function: Write) -> None:
    spec = write_function(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " awslambda.HttpResponseStream.from(stream, {statusCode: 204}).end(); })"
    )
    items = await invoke(pool, spec)
    assert items[0] == Head(204, ())
    assert body_of(items) == ""


async def test_a_large_stream_is_whole(pool: Pool, write_function: Write) -> None:
    spec = write_function(
        "import {Readable} from 'node:stream'; import {pipeline} from 'node:stream/promises';"
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        "  const parts = Array.from({length: 50}, (_, i) => String(i % 10).repeat(100000));"
        "  await pipeline(Readable.from(parts), stream); })"
    )
    body = body_of(await invoke(pool, spec))
    assert body == "".join(str(i % 10) * 100_000 for i in range(50))


async def test_a_stream_over_the_limit_fails(pool: Pool, write_function: Write) -> None:
    spec = write_function(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " for (let i = 0; i < 22 && !stream.destroyed; i++)"
        "   await new Promise((go) => stream.write(Buffer.alloc(1048576), go));"
        " stream.end(); })"
    )
    assert "larger than 20 MB" in failure_of(await invoke(pool, spec)).message


async def test_a_stream_that_fails_half_way_ends_as_failed(
    pool: Pool, write_function: Write, lines: Lines
) -> None:
    spec = write_function(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " stream.write('half'); await new Promise((go) => setTimeout(go, 1000));"
        " throw new Error('broken pipe dream'); })"
    )
    items = await invoke(pool, spec)
    assert Chunk(b"half") in items
    assert failure_of(items).kind == Failure.HANDLER
    assert "broken pipe dream" in failure_of(items).message
    await pool.writer.flush()
    assert "broken pipe dream" in lines.text


async def test_a_stream_nobody_reads_any_more_is_closed_for_the_function(
    pool: Pool, write_function: Write, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    spec = write_function(
        "import fs from 'node:fs';"
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        "  stream.on('close', () => fs.writeFileSync(event.told, 'closed'));"
        "  while (!stream.destroyed) {"
        "    stream.write('x'); await new Promise((go) => setTimeout(go, 5)); } });"
    )
    items = pool.invoke(spec, json.dumps({"told": str(told)}).encode(), InvokeContext("r1"))
    async for item in items:
        if isinstance(item, Chunk):
            break
    await items.aclose()
    await until(told.exists)


# --- Failures ----------------------------------------------------------------------------------


async def test_an_error_in_the_handler_fails_and_is_logged_with_its_stack(
    pool: Pool, write_function: Write, lines: Lines
) -> None:
    spec = write_function("export const handler = async () => { throw new TypeError('no luck'); }")
    assert failure_of(await invoke(pool, spec, request_id="r7")).kind == Failure.HANDLER
    await pool.writer.flush()
    row = lines.rows[-1]
    assert row.request_id == "r7"
    assert row.message.startswith("TypeError: no luck\n    at ")
    assert "index.mjs" in row.message


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
        ("index.mjs", "export const handler = ;", "SyntaxError"),
        ("index.mjs", "throw new Error('no database')", "no database"),
        ("index.mjs", "process.exit(3)", "ended while loading: exit status 3"),
    ],
)
async def test_a_function_that_cannot_load_says_why(
    pool: Pool, write_function: Write, lines: Lines, entry: str, code: str, hint: str
) -> None:
    failed = failure_of(await invoke(pool, write_function(code, entry=entry)))
    assert failed.kind == Failure.INIT
    assert hint in failed.message
    await pool.writer.flush()
    assert hint in lines.text


async def test_a_function_that_loads_for_ever_is_stopped(
    make_pool: Callable[..., Pool], write_function: Write
) -> None:
    pool = make_pool(init_seconds=0.5)
    failed = failure_of(await invoke(pool, write_function("for (;;) {}")))
    assert failed.kind == Failure.INIT
    assert "did not load within 0.50 seconds" in failed.message


async def test_a_handler_over_its_time_is_killed(
    pool: Pool, write_function: Write, lines: Lines, tmp_path: Path
) -> None:
    spec = write_function(
        "import fs from 'node:fs'; export const handler = async (e) => {"
        " fs.writeFileSync(e.file, String(process.pid)); for (;;) {} }"
    )
    file = tmp_path / "pid"
    failed = failure_of(await invoke(pool, spec, {"file": str(file)}, timeout=0.5))
    assert failed.kind == Failure.TIMEOUT
    await until_gone(int(file.read_text()))
    await pool.writer.flush()
    assert "Task timed out after 0.50 seconds" in lines.text


async def test_a_crash_fails_the_request_and_the_next_one_gets_a_new_instance(
    pool: Pool, write_function: Write, lines: Lines
) -> None:
    spec = write_function(
        "export const handler = async (e) => { if (e.crash) process.exit(7); return process.pid; }"
    )
    first = body_of(await invoke(pool, spec))
    failed = failure_of(await invoke(pool, spec, {"crash": True}))
    assert failed == Failed(Failure.CRASH, "The function's process ended: exit status 7.")
    assert body_of(await invoke(pool, spec)) != first


async def test_an_unhandled_rejection_is_reported_as_the_requests_failure(
    pool: Pool, write_function: Write
) -> None:
    spec = write_function(
        "export const handler = () => new Promise(() => { Promise.reject(new Error('lost')); })"
    )
    failed = failure_of(await invoke(pool, spec))
    assert failed.kind == Failure.HANDLER
    assert "lost" in failed.message


async def test_an_instance_that_dies_while_idle_is_replaced_unnoticed(
    pool: Pool, write_function: Write
) -> None:
    spec = write_function(
        "export const handler = async () => { setTimeout(() => process.exit(0), 1);"
        " return process.pid; }"
    )
    pids = {body_of(await invoke(pool, spec)) for _ in range(4)}
    assert pids


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("({statusCode: 'many'})", "statusCode must be a number"),
        ("({statusCode: 99})", "statusCode must be a number"),
        ("({statusCode: 200, headers: [1]})", "headers must be an object"),
        ("({statusCode: 200, body: '*', isBase64Encoded: true})", "body is not base64"),
        ("'x'.repeat(6 * 1024 * 1024 + 1)", "larger than 6 MB"),
    ],
)
async def test_an_answer_that_cannot_be_sent_is_explained(
    pool: Pool, write_function: Write, answer: str, complaint: str
) -> None:
    spec = write_function(f"export const handler = async () => {answer}")
    failed = failure_of(await invoke(pool, spec))
    assert failed.kind == Failure.RESPONSE
    assert complaint in failed.message


# --- Limits and life ---------------------------------------------------------------------------


async def test_requests_over_the_concurrency_of_a_deployment_are_refused(
    make_pool: Callable[..., Pool], write_function: Write, tmp_path: Path
) -> None:
    pool = make_pool(concurrency=1, wait_seconds=0.1)
    gate = tmp_path / "gate"
    spec = write_function(
        "import fs from 'node:fs'; export const handler = async (e) => {"
        " fs.writeFileSync(e.gate + '-started', '');"
        " while (!fs.existsSync(e.gate)) await new Promise((go) => setTimeout(go, 5)); return 1; }"
    )
    first = asyncio.create_task(invoke(pool, spec, {"gate": str(gate)}))
    await until(Path(f"{gate}-started").exists)
    assert failure_of(await invoke(pool, spec)).kind == Failure.THROTTLED
    gate.touch()
    assert body_of(await first) == "1"
    assert body_of(await invoke(pool, spec, {"gate": str(gate)})) == "1"


async def test_an_idle_instance_makes_room_when_the_machine_is_full(
    make_pool: Callable[..., Pool], write_function: Write
) -> None:
    pool = make_pool(instances=1)
    code = "export const handler = async () => process.pid"
    first = int(body_of(await invoke(pool, write_function(code))))
    other = write_function(code, release_id="rel_2", deployment_id=2)
    assert int(body_of(await invoke(pool, other))) != first
    await until_gone(first)


async def test_an_idle_instance_ends_after_a_while(
    make_pool: Callable[..., Pool], write_function: Write
) -> None:
    pool = make_pool(idle_seconds=0.05)
    spec = write_function("export const handler = async () => process.pid")
    await until_gone(int(body_of(await invoke(pool, spec))))


async def test_retiring_a_release_ends_its_idle_instances(
    pool: Pool, write_function: Write
) -> None:
    spec = write_function("export const handler = async () => process.pid")
    pid = int(body_of(await invoke(pool, spec)))
    await pool.retire(spec)
    await until_gone(pid)


async def test_deleting_a_deployment_ends_its_idle_instances_and_no_others(
    pool: Pool, write_function: Write
) -> None:
    code = "export const handler = async () => process.pid"
    mine = write_function(code)
    theirs = replace(mine, deployment_id=2, deploy_id="app-2", release_id="rel_2")
    my_pid, their_pid = [int(body_of(await invoke(pool, spec))) for spec in (mine, theirs)]
    await pool.delete("app-1", ["api"])
    await until_gone(my_pid)
    assert int(body_of(await invoke(pool, theirs))) == their_pid


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
    pool: Pool, write_function: Write, tmp_path: Path
) -> None:
    spec = write_function(
        "import fs from 'node:fs'; export const handler = (e) => {"
        " fs.writeFileSync(e.started, ''); return new Promise(() => {}); }"
    )
    started = tmp_path / "started"
    running = asyncio.create_task(invoke(pool, spec, {"started": str(started)}))
    await until(started.exists)
    await pool.close()
    assert failure_of(await running).kind == Failure.PLATFORM


async def test_an_instance_ends_when_its_server_is_gone(pool: Pool, write_function: Write) -> None:
    spec = write_function("export const handler = async () => process.pid")
    pid = int(body_of(await invoke(pool, spec)))
    (instance,) = pool._instances
    instance._process.stdin.close()
    await until_gone(pid)


async def test_leftovers_of_a_dead_server_are_removed(
    pool: Pool, write_function: Write, tmp_path: Path
) -> None:
    leftover = tmp_path / "run" / f"{2**22 + 1}-x" / "1"
    leftover.mkdir(parents=True)
    await invoke(pool, write_function("export const handler = async () => 1"))
    assert not leftover.exists()


async def test_a_long_runtime_folder_is_no_obstacle(
    tmp_path: Path, write_function: Write, lines: Lines
) -> None:
    pool = Pool(LocalPlain(), tmp_path / ("long" * 30), writer=LogWriter(lines))
    spec = write_function("export const handler = async () => 'ok'")
    assert body_of(await invoke(pool, spec)) == "ok"
    await pool.close()


# --- Output ------------------------------------------------------------------------------------


async def test_console_lines_carry_the_request_and_stay_whole(
    pool: Pool, write_function: Write, lines: Lines
) -> None:
    spec = write_function(
        "console.log('loading'); export const handler = async (e) => {"
        " console.log('got', {a: 1}); console.error('two\\nlines'); process.stdout.write('raw\\n');"
        " return 1; }"
    )
    await invoke(pool, spec, request_id="r1")
    await invoke(pool, spec, request_id="r2")
    await pool.close()
    seen = [(row.request_id, row.message) for row in lines.rows]
    assert seen == [
        ("", "loading"),
        ("r1", "got { a: 1 }"),
        ("r1", "ERROR two\nlines"),
        ("r1", "raw"),
        ("r2", "got { a: 1 }"),
        ("r2", "ERROR two\nlines"),
        ("r2", "raw"),
    ]
    assert {(row.deployment_id, row.function_name) for row in lines.rows} == {(1, "api")}


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


async def test_the_operator_is_warned_that_nothing_is_isolated(
    pool: Pool, write_function: Write, caplog: pytest.LogCaptureFixture
) -> None:
    spec = write_function("export const handler = async () => 1")
    await invoke(pool, spec)
    await invoke(pool, replace(spec, function_name="other"))
    assert [r.message for r in caplog.records if "WITHOUT ISOLATION" in r.message] == [
        LocalPlain.warning
    ]
