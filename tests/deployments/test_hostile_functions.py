"""Functions that mean harm, each in a sandbox: contained, explained, gone without a trace.

Every case says what the visitor gets and what the owner's log tells. While it runs, a function of
another tenant keeps answering. Afterwards no process, mount, control group, socket or file of it is
left.
"""

import asyncio
import base64
import contextlib
import json
import platform
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deployments.runtime import isolation, system_calls
from deployments.runtime.driver import (
    Chunk,
    Done,
    Failed,
    Failure,
    FunctionSpec,
    Head,
    InvokeContext,
)
from deployments.runtime.local_bwrap import TASKS_MAX
from deployments.runtime.pool import Limits, Pool
from deployments.runtime.system_calls import PAUSE, Call
from deployments.serving import encode_headers
from tests.deployments.sandboxes import WatchedBwrap, needs_bwrap, needs_root, processes_of

pytestmark = [pytest.mark.functions, needs_bwrap]

PRELUDE = """
import fs from 'node:fs'; import net from 'node:net'; import http from 'node:http';
import dgram from 'node:dgram'; import dns from 'node:dns'; import os from 'node:os';
import { spawn, spawnSync } from 'node:child_process'; import { Worker } from 'node:worker_threads';
const sleep = (ms) => new Promise((go) => setTimeout(go, ms));
const code = async (action) => {
  try { await action(); return 'done' } catch (error) { return error.code ?? String(error) } };
const connect = (where) => code(() => new Promise((resolve, reject) => {
  net.connect(where, resolve).on('error', reject) }));
const api = (method, path, body) => new Promise((resolve) => {
  const request = http.request({ socketPath: '/run/aig/api.sock', method,
    path: '/2018-06-01/runtime' + path, agent: false }, (r) => (r.resume(), resolve(r.statusCode)));
  request.on('error', (error) => resolve(error.code)).end(body) });
const install = (program) => {
  fs.writeFileSync('/tmp/program', Buffer.from(program, 'base64'), { mode: 0o755 });
  return '/tmp/program' };
const answers = (program) => spawnSync(install(program)).stdout.toString('base64');
"""
CLONE_AS_FORK = Call("clone", 56, 220, (17,))  # with SIGCHLD


def native(*calls: Call) -> str:
    """A program that makes the calls, for a function to bring along."""
    return base64.b64encode(system_calls.program(platform.machine(), calls)).decode()


@dataclass
class Case:
    """A function, and what must come of it: an answer that `accepts`, or a failure."""

    name: str
    handler: str  # the body of `async (event, context) => {...}`, or a whole module
    accepts: Callable[[Any], bool] | None = None
    fails: Failure | None = None
    log: str = ""
    event: dict[str, Any] = field(default_factory=dict)
    seconds: float = 20
    memory_mb: int = 128

    @property
    def module(self) -> str:
        if "export const handler" in self.handler:
            return PRELUDE + self.handler
        return PRELUDE + f"export const handler = async (event, context) => {{ {self.handler} }};"


RESOURCES = [
    Case(
        "forks without end",
        "const child = spawn(install(event.program)); child.on('error', () => {});"
        "await sleep(1500); return fs.readdirSync('/proc').filter((n) => n > 0).length",
        event={"program": native(*[CLONE_AS_FORK] * 200, PAUSE)},
        accepts=lambda count: 50 < count <= TASKS_MAX,
    ),
    Case(
        "starts node without end",
        "let n = 0; for (; n < 200; n++) {"
        " const child = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);"
        " child.on('error', () => {}); if (!child.pid) break; } return n",
        accepts=lambda count: count < TASKS_MAX,
    ),
    Case(
        "300 MB of heap",
        "const all = []; for (let i = 0; i < 300; i++)"
        " all.push(Array.from({ length: 131072 }, (_, j) => i + j + 0.5)); return all.length",
        fails=Failure.CRASH,
        log="memory limit",
    ),
    Case(
        "300 MB of buffers",
        "const all = []; for (let i = 0; i < 30; i++) all.push(Buffer.alloc(10485760, 1));"
        "return all.length",
        fails=Failure.CRASH,
        log="used more than its memory limit of 128 MB",
    ),
    Case(
        "memory of many children",
        "const hog = 'const all = []; for (let i = 0; i < 20; i++)"
        " all.push(Buffer.alloc(10485760, 1)); setTimeout(() => {}, 5000)';"
        "for (let i = 0; i < 3; i++) spawn(process.execPath, ['-e', hog]).on('error', () => {});"
        "await sleep(1500); return 'alive'",
        accepts=lambda answer: answer == "alive",
    ),
    Case(
        "a busy loop", "for (;;) {}", fails=Failure.TIMEOUT, log="timed out after 1.00", seconds=1
    ),
    Case(
        "stops itself",
        "process.kill(process.pid, 'SIGSTOP'); await sleep(100); return 1",
        fails=Failure.TIMEOUT,
        seconds=1,
    ),
    Case(
        "never answers",
        "await new Promise(() => {})",
        fails=Failure.TIMEOUT,
        log="timed out after 1.00",
        seconds=1,
    ),
    Case(
        "30 MB of log",
        "const line = 'x'.repeat(10000); for (let i = 0; i < 3000; i++) console.log(line);"
        "return 'done'",
        accepts=lambda answer: answer == "done",
        log="Output over 1 MB in a minute",
    ),
    Case(
        "30 MB of log without a line end",
        "fs.writeSync(1, Buffer.alloc(31457280, 'x')); return 'done'",
        accepts=lambda answer: answer == "done",
        log="Output over 1 MB in a minute",
    ),
    Case(
        "fills its temporary folder",
        "let n = 0; const error = await code(() => { for (; n < 20; n++)"
        " fs.writeFileSync('/tmp/' + n, Buffer.alloc(10485760, 1)) }); return [n, error]",
        accepts=lambda answer: answer == [6, "ENOSPC"],
    ),
    Case(
        "opens files without end",
        "let n = 0; const error = await code(() => { for (; n < 5000; n++)"
        " fs.openSync('/dev/null') }); return [n, error]",
        accepts=lambda answer: 500 < answer[0] < 1024 and answer[1] == "EMFILE",
    ),
    Case(
        "opens sockets without end",
        "const all = []; const server = net.createServer((s) => all.push(s)).listen(0);"
        "server.on('error', () => {}); let failed = 0; for (let i = 0; i < 2000; i++)"
        " all.push(net.connect(server.address().port).on('error', () => failed++));"
        "await sleep(500); all.forEach((s) => s.destroy()); server.close(); return failed",
        accepts=lambda failed: failed > 0,
    ),
    Case(
        "starts threads without end",
        "const all = []; const resourceLimits = { maxOldGenerationSizeMb: 4 };"
        "for (let i = 0; i < 200; i++) all.push(new Worker('setInterval(() => {}, 1000)',"
        " { eval: true, resourceLimits }).on('error', () => {}));"
        "await sleep(30000); return all.length",
        fails=Failure.CRASH,
    ),
]

ENDINGS = [
    Case("exits", "process.exit(7)", fails=Failure.CRASH, log="exit status 7"),
    Case("aborts", "process.abort()", fails=Failure.CRASH, log="killed by SIGABRT"),
    Case(
        "breaks its memory",
        "process.kill(process.pid, 'SIGSEGV'); await sleep(1000)",
        fails=Failure.CRASH,
        log="killed by SIGSEGV",
    ),
    Case(
        "closes every file handle",
        "for (let fd = 3; fd < 100; fd++) try { fs.closeSync(fd) } catch {} await sleep(30000)",
        fails=Failure.CRASH,
    ),
    Case(
        "leaves grandchildren in sessions of their own",
        "const file = install(event.program); for (let i = 0; i < 3; i++)"
        " spawn(file, { detached: true, stdio: 'ignore' }).unref(); return 'left'",
        event={"program": native(PAUSE)},
        accepts=lambda answer: answer == "left",
    ),
    Case(
        "leaves children and exits",
        "spawn(install(event.program), { detached: true, stdio: 'inherit' }).unref();"
        "process.exit(0)",
        event={"program": native(PAUSE)},
        fails=Failure.CRASH,
        log="exit status 0",
    ),
    Case(
        "kills everything it may",
        "return code(() => process.kill(-1, 'SIGKILL'))",
        accepts=lambda answer: answer in ("done", "ESRCH", "EPERM"),
    ),
    Case(
        "kills the first process of its sandbox",
        "return code(() => process.kill(1, 'SIGKILL'))",
        accepts=lambda answer: answer in ("done", "EPERM"),  # ignored, or another user's
    ),
]

ANSWERS = [
    Case(
        "answers twice",
        "export const handler = (event, context, callback) => {"
        " callback(null, 'one'); callback(null, 'two') };",
        accepts=lambda answer: answer == "one",
    ),
    Case("50 MB", "return 'x'.repeat(52428800)", fails=Failure.RESPONSE, memory_mb=512),
    Case(
        "a stream without end",
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        " while (!stream.destroyed) await new Promise((go) =>"
        "  stream.write(Buffer.alloc(65536), go)); });",
        fails=Failure.RESPONSE,
        log="larger than 20 MB",
    ),
    Case(
        "headers that split the response",
        "return { statusCode: 200, headers: { 'x-a': 'b\\r\\nset-cookie: c=d' }, body: '' }",
        accepts=lambda answer: answer == "",  # without that header: see Stage.invoke
    ),
    Case(
        "answers another's request",
        "return [await api('POST', '/invocation/another/response', '{}'),"
        " await api('POST', '/invocation/another/error', '{}')]",
        accepts=lambda answer: answer == [400, 400],
    ),
    Case(
        "answers before it answers",
        "await api('POST', `/invocation/${context.awsRequestId}/response`, '\"first\"');"
        "return 'second'",
        accepts=lambda answer: answer == "first",
    ),
    Case(
        "fails and answers",
        "await api('POST', `/invocation/${context.awsRequestId}/error`, '{\"errorType\": \"E\"}');"
        "return 'fine'",
        fails=Failure.HANDLER,
    ),
    Case(
        "says that it could not load while it runs",
        "return api('POST', '/init/error', '{}')",
        accepts=lambda answer: answer == 202,
    ),
    Case(
        "speaks nonsense to the Runtime API",
        "const socket = net.connect('/run/aig/api.sock'); socket.on('error', () => {});"
        "socket.write('\\x00'.repeat(100000)); socket.write('GET / HTTP/9.9\\r\\n'.repeat(1000));"
        "await sleep(100); return api('GET', '/nowhere')",
        accepts=lambda answer: answer == 404,
    ),
    Case(
        "holds thousands of connections to the Runtime API",
        "const all = []; for (let i = 0; i < 900; i++)"
        " all.push(net.connect('/run/aig/api.sock').on('error', () => {}));"
        "await sleep(300); return 'held'",
        accepts=lambda answer: answer == "held",
    ),
    Case(
        "prints as somebody else, and to terminals",
        'fs.writeSync(1, \'\\x1e{"r": "another", "m": "forged"}\\n\');'
        "console.log('\\x1b]0;owned\\x07\\x1b[2J'); return 'printed'",
        accepts=lambda answer: answer == "printed",
        log="forged",
    ),
]

ESCAPES = [
    Case(
        "reads what other processes were started with",
        "return Promise.all(['/proc/1/environ', '/proc/1/mem', '/proc/1/maps', '/proc/1/root/etc']"
        ".map((file) => code(() => { if (fs.readFileSync(file).length) return; throw 'empty' })))",
        accepts=lambda answer: set(answer) <= {"EACCES", "empty", "EPERM", "EIO"},
    ),
    Case(
        "reads files of the machine",
        "return Promise.all([...event.files, '/etc/shadow', '/root', '/home', '/sys/fs/cgroup',"
        " '/boot', '/dev/vda', '/dev/sda', '/dev/mem', '/dev/kvm', '/var/lib', '/bin/sh',"
        " '/usr/bin/env', '/var/run/docker.sock'].map((file) => code(() => fs.statSync(file))))",
        accepts=lambda answer: set(answer) == {"ENOENT"},
    ),
    Case(
        "reaches what listens on the machine",
        "return Promise.all(event.ports.map((port) => connect({ host: '127.0.0.1', port })))",
        accepts=lambda answer: set(answer) == {"ECONNREFUSED"},
    ),
    Case(
        "reaches what stands in for the metadata address",
        "return connect({ host: '127.0.0.2', port: event.ports[0] })",
        accepts=lambda answer: answer == "ECONNREFUSED",
    ),
    Case(
        "reaches an abstract socket of the machine",
        "return connect({ path: '\\0' + event.abstract })",
        accepts=lambda answer: answer == "ECONNREFUSED",
    ),
    Case(
        "asks for names and sends datagrams",
        "const socket = dgram.createSocket('udp4');"
        "const sent = await code(() => new Promise((done, fail) => socket.send('x', 9, '192.0.2.1',"
        " (error) => error ? fail(error) : done())));"
        "socket.close(); return [sent, await code(() => dns.promises.lookup('gateway.example')),"
        " await code(() => dns.promises.resolve4('gateway.example'))]",
        accepts=lambda answer: answer[0] == "ENETUNREACH" and "done" not in answer,
    ),
    Case(
        "writes where its code and sockets are",
        "const write = (file) => () => fs.writeFileSync(file, 'x'); const sockets = '/run/aig';"
        "const own = sockets + '/api.sock';"
        "return Promise.all([write('/var/task/x'), write('/var/task/index.mjs'),"
        " write('/dev/x'), write('/dev/shm/x'), write('/etc/hosts'), write(sockets + '/x'),"
        " write('/proc/sys/kernel/core_pattern'),"
        " () => fs.mkdirSync('/x'), () => fs.unlinkSync(own), () => fs.chmodSync(sockets, 0o777),"
        " () => fs.renameSync(own, sockets + '/y')].map(code))",
        accepts=lambda answer: set(answer) <= {"EROFS", "EACCES", "EPERM", "ENOENT"},
    ),
    Case(
        "listens where its sockets are",
        "return code(() => new Promise((resolve, reject) =>"
        " net.createServer().on('error', reject).listen('/run/aig/gateway.sock', resolve)))",
        accepts=lambda answer: answer in ("EROFS", "EACCES", "EADDRINUSE"),
    ),
    Case(
        "leads links out of its temporary folder",
        "fs.symlinkSync(event.files[0], '/tmp/out'); fs.symlinkSync('/run/aig', '/tmp/in');"
        "return [await code(() => fs.readFileSync('/tmp/out')),"
        " await code(() => fs.writeFileSync('/tmp/in/x', '')),"
        " await code(() => fs.linkSync('/var/task/index.mjs', '/tmp/hard'))]",
        accepts=lambda answer: answer[0] == "ENOENT" and "done" not in answer,
    ),
    Case(
        "becomes root",
        "return Promise.all([() => process.setuid(0), () => process.setgid(0),"
        " () => process.setgroups([0]), () => process.initgroups('root', 0)].map(code))",
        accepts=lambda answer: "done" not in answer,
    ),
    Case(
        "makes system calls of its own",
        "return answers(event.program)",
        event={"program": native(*isolation.REFUSED)},
        accepts=lambda answer: all(
            value in (-1, -22, -38, -97)
            for value in system_calls.answers(base64.b64decode(answer), isolation.REFUSED).values()
        ),
    ),
    Case(
        "makes itself traceable and traces its first process",
        "return answers(event.program)",
        event={
            "program": native(Call("prctl", 157, 167, (4, 1)), Call("ptrace", 101, 117, (16, 1)))
        },
        accepts=lambda answer: (
            base64.b64decode(answer)[56:64] == (-1).to_bytes(8, "little", signed=True)
        ),
    ),
    Case(
        "raises its own limits",
        "const limits = fs.readFileSync('/proc/self/limits', 'utf8');"
        "return ['Max core file size', 'Max open files', 'Max file size'].map((name) =>"
        " limits.split('\\n').find((line) => line.startsWith(name)).trim().split(/ {2,}/)[2])",
        accepts=lambda answer: answer == ["0", "1024", "67108864"],
    ),
]

CASES = [*RESOURCES, *ENDINGS, *ANSWERS, *ESCAPES]


class Log:
    """Keeps what the pool logs."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, str]] = []

    def add(self, spec: FunctionSpec, request_id: str, message: str) -> None:
        self.rows.append((spec.deployment_id, request_id, message))

    async def close(self) -> None:
        pass

    def text_of(self, deployment_id: int) -> str:
        return "\n".join(message for owner, _, message in self.rows if owner == deployment_id)


@dataclass
class Stage:
    """A pool of sandboxes with two tenants: the attacker is deployment 1, the neighbour 2."""

    pool: Pool
    launcher: WatchedBwrap
    log: Log
    folder: Path

    def function(self, deployment_id: int, module: str, **fields: Any) -> FunctionSpec:
        folder = self.folder / f"release-{deployment_id}"
        folder.mkdir(exist_ok=True)
        (folder / "index.mjs").write_text(module)
        return FunctionSpec(
            deployment_id=deployment_id,
            deploy_id=f"app-{deployment_id}",
            release_id=f"rel_{deployment_id}",
            function_name="default",
            folder=folder,
            entry="index.mjs",
            **fields,
        )

    async def invoke(
        self, spec: FunctionSpec, event: Any = None, *, seconds: float = 20
    ) -> Failed | Any:
        """The failure, or the answer parsed."""
        body = bytearray()
        context = InvokeContext(f"request-{spec.deployment_id}", seconds)
        async for item in self.pool.invoke(spec, json.dumps(event or {}).encode(), context):
            if isinstance(item, Chunk):
                body += item.data
            elif isinstance(item, Head):
                assert b"\r" not in b"".join(sum(encode_headers(item.headers), ()))
            elif isinstance(item, Failed):
                return item
            elif isinstance(item, Done):
                break
        try:
            return json.loads(body)
        except ValueError:
            return body.decode("utf-8", "replace")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    launcher, log = WatchedBwrap(), Log()
    await asyncio.to_thread(tmp_path.chmod, 0o700)
    pool = Pool(launcher, tmp_path / "run", log, limits=Limits(init_seconds=30))
    stage = Stage(pool, launcher, log, tmp_path)
    yield stage
    await pool.close()
    assert launcher.made
    assert launcher.leftovers() == []


@pytest.fixture
async def listening() -> AsyncIterator[dict[str, Any]]:
    """What this machine has that functions must not reach."""
    connections: list[str] = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append("connected")
        writer.close()

    abstract = f"aig-test-{id(connections)}"
    servers = [
        await asyncio.start_server(take, "0.0.0.0", 0),
        await asyncio.start_unix_server(take, f"\0{abstract}"),
    ]
    port = servers[0].sockets[0].getsockname()[1]
    yield {"ports": [port, 5432, 6379], "abstract": abstract}
    for server in servers:
        server.close()
    assert connections == []


@contextlib.asynccontextmanager
async def neighbour_answering(stage: Stage) -> AsyncIterator[None]:
    """Another tenant's function, asked again and again meanwhile: every answer must come."""
    spec = stage.function(2, "export const handler = async (event) => event.n + 1;")
    assert await stage.invoke(spec, {"n": 0}) == 1
    answers: list[Any] = []

    ended = asyncio.Event()

    async def ask() -> None:
        while not ended.is_set() or not answers:
            answers.append(await stage.invoke(spec, {"n": len(answers)}))
            await asyncio.sleep(0.02)

    asking = asyncio.create_task(ask())
    try:
        yield
    finally:
        ended.set()
        await asking
    assert answers == list(range(1, len(answers) + 1))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_hostile_function_is_contained(
    case: Case, stage: Stage, listening: dict[str, Any]
) -> None:
    secret = stage.folder / "secret"
    secret.write_text("secret")
    spec = stage.function(1, case.module, memory_mb=case.memory_mb)
    event = {**listening, "files": [str(secret), str(stage.folder)], **case.event}
    async with neighbour_answering(stage):
        answer = await stage.invoke(spec, event, seconds=case.seconds)
    if case.fails is not None:
        assert isinstance(answer, Failed), answer
        assert answer.kind == case.fails, answer
        assert answer.message in stage.log.text_of(1)
    else:
        assert case.accepts is not None
        assert case.accepts(answer), answer
    assert case.log in stage.log.text_of(1)
    assert stage.log.text_of(2) == ""
    assert sum(len(message) for owner, _, message in stage.log.rows if owner == 1) < 3 << 20


@needs_root
async def test_a_tenant_finds_nothing_of_another_nor_of_the_service(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_SECRET", "of the service")
    victim = stage.function(
        2,
        PRELUDE + "export const handler = async () => { fs.writeFileSync('/tmp/secret', 'of 2');"
        " console.log('of 2'); return Object.keys(process.env) };",
        environment={"TENANT_SECRET": "of 2"},
    )
    assert "TENANT_SECRET" in await stage.invoke(victim)
    ((place, sandbox),) = stage.launcher.made
    pid = processes_of(sandbox.uid)[0]
    attacker = stage.function(
        1,
        PRELUDE + "export const handler = async ({ paths, socket, pid }) => ({"
        " files: await Promise.all(paths.map((path) => code(() => fs.statSync(path)))),"
        " socket: await connect({ path: socket }),"
        " signal: await code(() => process.kill(pid, 'SIGKILL')),"
        " temporary: fs.readdirSync('/tmp'), sockets: fs.readdirSync('/run/aig'),"
        " processes: fs.readdirSync('/proc').filter((name) => name > 0).length,"
        " everything: JSON.stringify(process.env) + fs.readFileSync('/proc/self/mountinfo')"
        " + fs.readFileSync('/proc/self/cgroup') + fs.readFileSync('/etc/passwd') });",
    )
    seen = await stage.invoke(
        attacker,
        {
            "paths": [
                str(victim.folder),
                str(place.sockets),
                "/tmp/secret",
                f"/proc/{pid}/environ",
                f"/proc/{pid}/root/tmp/secret",
            ],
            "socket": str(place.api_socket),
            "pid": pid,
        },
    )
    assert set(seen["files"]) == {"ENOENT"}
    assert seen["socket"] == "ENOENT"
    assert seen["signal"] == "ESRCH"
    assert seen["temporary"] == []
    assert seen["sockets"] == ["api.sock"]
    assert seen["processes"] == 2
    for secret in ("of 2", "of the service", "SECRET", "app-2", "rel_2", str(victim.folder)):
        assert secret not in seen["everything"]
    assert len({sandbox.uid for _, sandbox in stage.launcher.made}) == (
        2 if stage.launcher.has_own_users else 1
    )
    assert stage.log.text_of(2) == "of 2"
    assert await stage.invoke(victim)  # it still runs


def test_the_corpus_is_not_small() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)
