"""AWS Lambda's API over HTTP, as far as the driver uses it, running functions in real Node.

The wire is that of the service: SigV4 checked, states that take a moment, revisions, aliases,
`vnd.amazon.eventstream` frames, errors as captures of the service show them, log tails in its text
format. It is independent of the driver's code: only the Node side (bootstrap.mjs) is shared.
"""

import asyncio
import base64
import contextlib
import hashlib
import io
import itertools
import json
import re
import struct
import tempfile
import time
import uuid
import zipfile
import zlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aiohttp import web
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from deployments.runtime.local_plain import BOOTSTRAP, node_path

ACCESS_KEY, SECRET_KEY, REGION = "AKIAFAKE", "fake-secret", "eu-central-1"
FUNCTIONS = "/2015-03-31/functions"
TAIL_BYTES = 4096
POLLS_UNTIL_READY = 1


class ApiError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class Version:
    """A function's code and configuration, as one version or as $LATEST."""

    number: str
    configuration: dict[str, Any]
    code: bytes
    folder: Path
    idle: list["Sandbox"] = field(default_factory=list)

    @property
    def code_sha256(self) -> str:
        return base64.b64encode(hashlib.sha256(self.code).digest()).decode()


@dataclass
class Function:
    name: str
    latest: Version
    versions: dict[str, Version] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    revision: str = field(default_factory=lambda: str(uuid.uuid4()))
    polls_until_ready: int = POLLS_UNTIL_READY
    concurrency: int | None = None
    running: int = 0
    numbers: itertools.count = field(default_factory=lambda: itertools.count(1))

    def touch(self) -> None:
        """Something was changed: it takes a moment, and the revision is another."""
        self.revision = str(uuid.uuid4())
        self.polls_until_ready = POLLS_UNTIL_READY

    def resolve(self, qualifier: str) -> Version:
        number = self.aliases.get(qualifier, qualifier)
        if number == "$LATEST":
            return self.latest
        if number not in self.versions:
            arn = f"arn:aws:lambda:{REGION}:000000000000:function:{self.name}:{qualifier}"
            raise ApiError(404, "ResourceNotFoundException", f"Function not found: {arn}")
        return self.versions[number]


@dataclass
class Run:
    """One invocation: what its sandbox says, what the client is sent, and its log."""

    request_id: str
    event: bytes
    deadline_ms: int
    said: asyncio.Queue[tuple[str, Any]] = field(default_factory=lambda: asyncio.Queue(16))
    sent: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(16))
    content_type: str | None = None
    is_followed: bool = True  # by the client
    log: list[str] = field(default_factory=list)
    sandbox: "Sandbox | None" = None

    async def send(self, payload: bytes | None) -> None:
        """None is the end. Waits for a client that is slow, not for one that has left."""
        if self.is_followed:
            await self.sent.put(payload)

    async def send_error(self, error: dict[str, Any]) -> None:
        """The error as payload, unless a response has begun: that just ends."""
        if self.content_type is None:
            self.content_type = "application/json"
            await self.send(json.dumps(error).encode())

    def leave(self) -> None:
        """The client has left; the run goes on, as it does at the service."""
        self.is_followed = False
        while not self.sent.empty():
            self.sent.get_nowait()


class Sandbox:
    """A Node process behind a Runtime API of its own; one invocation at a time."""

    def __init__(self, function: str, version: Version) -> None:
        self._function, self._version = function, version
        self._folder = tempfile.TemporaryDirectory(prefix="fake-lambda-")
        self._events: asyncio.Queue[Run] = asyncio.Queue()
        self.ready = asyncio.Event()
        self.run: Run | None = None
        self.init_error: dict[str, Any] | None = None
        self.init_log: list[str] = []
        self.exited = asyncio.Event()
        self.exit_text = ""

    async def start(self) -> None:
        app = web.Application(client_max_size=2**26)
        base = "/2018-06-01/runtime"
        app.add_routes(
            [
                web.get(f"{base}/invocation/next", self._next),
                web.post(f"{base}/invocation/{{id}}/response", self._response),
                web.post(f"{base}/invocation/{{id}}/error", self._error),
                web.post(f"{base}/init/error", self._init_error),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, keepalive_timeout=3600)
        await self._runner.setup()
        socket = f"{self._folder.name}/api.sock"
        await web.UnixSite(self._runner, socket).start()
        configuration = self._version.configuration
        name, memory = self._function, configuration["MemorySize"]
        module = configuration["Handler"].split(".")[0]
        entries = [f"{module}{end}" for end in (".js", ".mjs", ".cjs")]
        entry = next(each for each in entries if (self._version.folder / each).is_file())
        variables = {
            "AWS_EXECUTION_ENV": f"AWS_Lambda_{configuration['Runtime']}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(memory),
            "AWS_LAMBDA_FUNCTION_NAME": name,
            "AWS_LAMBDA_FUNCTION_VERSION": self._version.number,
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": f"2026/09/15/[{self._version.number}]{uuid.uuid4().hex}",
            "LAMBDA_TASK_ROOT": str(self._version.folder),
            "_HANDLER": configuration["Handler"],
            "AIG_ENTRY": entry,
            "AIG_RUNTIME_SOCKET": socket,
        }
        self._process = await asyncio.create_subprocess_exec(
            str(node_path()),
            f"--max-old-space-size={int(memory * 0.75)}",
            str(BOOTSTRAP),
            cwd=self._version.folder,
            env={"PATH": "/usr/bin:/bin", **configuration["Environment"]["Variables"], **variables},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=2**20,
        )
        self._tasks = [asyncio.create_task(self._watch())]

    async def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()
        self._folder.cleanup()

    async def _watch(self) -> None:
        output = self._process.stdout
        assert output is not None
        async for line in output:
            self._print(line.decode("utf-8", "replace").rstrip("\n"))
        code = await self._process.wait()
        names = {-6: "aborted", -9: "killed"}
        self.exit_text = f"signal: {names[code]}" if code in names else f"exit status {code}"
        self.exited.set()
        if self.run is not None:
            await self.run.said.put(("error", _exit_error(self.run.request_id, self.exit_text)))

    def _print(self, line: str) -> None:
        """A line of output as the service logs it."""
        if not line.startswith("\x1e"):
            self._say(line)
            return
        tagged = json.loads(line[1:])
        levels = {"WARN": "WARN", "ERROR": "ERROR"}
        word, _, rest = tagged["m"].partition(" ")
        level, message = (levels[word], rest) if word in levels else ("INFO", tagged["m"])
        self._say(_console(tagged["r"] or "undefined", level, message))

    def _say(self, line: str) -> None:
        (self.run.log if self.run else self.init_log).append(line)

    def invoke(self, run: Run) -> None:
        self.run = run
        self.ready.clear()
        self._events.put_nowait(run)

    async def _next(self, _: web.Request) -> web.Response:
        if self._events.empty():
            self.ready.set()
        run = await self._events.get()
        return web.Response(
            body=run.event,
            headers={
                "Lambda-Runtime-Aws-Request-Id": run.request_id,
                "Lambda-Runtime-Deadline-Ms": str(run.deadline_ms),
            },
        )

    async def _response(self, request: web.Request) -> web.Response:
        run = self.run
        assert run is not None
        await run.said.put(("head", request.headers["Content-Type"]))
        with contextlib.suppress(OSError, web.RequestPayloadError):
            if "Lambda-Runtime-Function-Response-Mode" in request.headers:
                async for data, _ in request.content.iter_chunks():
                    await run.said.put(("chunk", data))
            else:
                await run.said.put(("chunk", await request.read()))
            await run.said.put(("end", None))
        return web.Response(status=202)

    async def _error(self, request: web.Request) -> web.Response:
        error = _with_trace(await request.json())
        run = self.run
        assert run is not None
        run.log.append(_reported(run.request_id, "Invoke Error", error))
        await run.said.put(("error", error))
        return web.Response(status=202)

    async def _init_error(self, request: web.Request) -> web.Response:
        self.init_error = _with_trace(await request.json())
        self.init_log.append(_reported("undefined", "Uncaught Exception", self.init_error))
        return web.Response(status=202)


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S}.000Z"


def _console(request_id: str, level: str, message: str) -> str:
    return f"{_now()}\t{request_id}\t{level}\t{message}"


def _reported(request_id: str, what: str, error: dict[str, Any]) -> str:
    told = {**error, "stack": error["trace"]}
    del told["trace"]
    return _console(request_id, "ERROR", f"{what} \t{json.dumps(told)}")


def _with_trace(error: dict[str, Any]) -> dict[str, Any]:
    return {
        "errorType": error["errorType"],
        "errorMessage": error["errorMessage"],
        "trace": error["stackTrace"],
    }


def _exit_error(request_id: str, text: str) -> dict[str, Any]:
    return {
        "errorType": "Runtime.ExitError",
        "errorMessage": f"RequestId: {request_id} Error: Runtime exited with error: {text}",
    }


def frame(event_type: str, content_type: str, payload: bytes) -> bytes:
    """One message of an event stream."""
    headers = b"".join(
        bytes([len(name)])
        + name.encode()
        + b"\x07"
        + struct.pack("!H", len(value))
        + value.encode()
        for name, value in (
            (":event-type", event_type),
            (":content-type", content_type),
            (":message-type", "event"),
        )
    )
    prelude = struct.pack("!II", len(headers) + len(payload) + 16, len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    return message + struct.pack("!I", zlib.crc32(message))


class FakeLambda:
    """The service, listening on a port of the loopback."""

    def __init__(self, folder: Path) -> None:
        self.functions: dict[str, Function] = {}
        self.calls: list[str] = []  # names of the operations asked for
        self.peers: set[Any] = set()  # ends of the connections that invocations came by
        self.throttle = 0  # so many of the next invocations are refused
        self.breaks_off = False  # answers end before they are complete
        self.before_publish: Callable[[Function], None] = lambda function: None
        self._folder = folder
        self._folders = itertools.count(1)
        self._sandboxes: list[Sandbox] = []
        self._runs: set[asyncio.Task[None]] = set()

    async def start(self) -> str:
        app = web.Application(client_max_size=2**27, middlewares=[self._answer])
        one = f"{FUNCTIONS}/{{name}}"
        app.add_routes(
            [
                web.post(FUNCTIONS, self.create_function),
                web.get(f"{one}/configuration", self.get_function_configuration),
                web.put(f"{one}/code", self.update_function_code),
                web.put(f"{one}/configuration", self.update_function_configuration),
                web.post(f"{one}/versions", self.publish_version),
                web.delete(one, self.delete_function),
                web.post(f"{one}/aliases", self.create_alias),
                web.get(f"{one}/aliases", self.list_aliases),
                web.get(f"{one}/aliases/{{alias}}", self.get_alias),
                web.put(f"{one}/aliases/{{alias}}", self.update_alias),
                web.delete(f"{one}/aliases/{{alias}}", self.delete_alias),
                web.put("/2017-10-31/functions/{name}/concurrency", self.put_function_concurrency),
                web.post(
                    "/2021-11-15/functions/{name}/response-streaming-invocations",
                    self.invoke_with_response_stream,
                ),
            ]
        )
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def close(self) -> None:
        for sandbox in list(self._sandboxes):
            await self._end(sandbox)
        await asyncio.gather(*self._runs, return_exceptions=True)
        await self._runner.cleanup()

    def code_folder(self, name: str, qualifier: str) -> Path:
        """Where the code of a function's alias lies."""
        return self.functions[name].resolve(qualifier).folder

    @web.middleware
    async def _answer(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            _check_signature(request, await request.read())
            self.calls.append(handler.__name__)
            answer: web.StreamResponse = await handler(request)
        except ApiError as error:
            return web.json_response(
                {"Type": "User", "Message": str(error)},
                status=error.status,
                headers={"X-Amzn-ErrorType": error.code},
            )
        return answer

    # --- Control plane -----------------------------------------------------------------------

    def _function(self, request: web.Request) -> Function:
        name = request.match_info["name"]
        if name not in self.functions:
            raise ApiError(404, "ResourceNotFoundException", f"Function not found: {name}")
        return self.functions[name]

    def _changeable(self, request: web.Request) -> Function:
        function = self._function(request)
        if function.polls_until_ready:
            raise ApiError(
                409,
                "ResourceConflictException",
                "The operation cannot be performed at this time. An update is in progress for "
                f"resource: {function.name}",
            )
        return function

    def _unpacked(self, code: bytes) -> Path:
        folder = self._folder / str(next(self._folders))
        folder.mkdir(parents=True)
        with zipfile.ZipFile(io.BytesIO(code)) as archive:
            archive.extractall(folder)
        return folder

    def _describe(self, function: Function, version: Version) -> web.Response:
        is_latest = version.number == "$LATEST"
        busy = is_latest and bool(function.polls_until_ready)
        return web.json_response(
            {
                **version.configuration,
                "FunctionName": function.name,
                "FunctionArn": f"arn:aws:lambda:{REGION}:000000000000:function:{function.name}",
                "CodeSha256": version.code_sha256,
                "Version": version.number,
                "State": "Pending" if busy and not function.versions else "Active",
                "LastUpdateStatus": "InProgress" if busy else "Successful",
                "RevisionId": function.revision,
            }
        )

    async def create_function(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["FunctionName"]
        if not re.fullmatch(r"[a-zA-Z0-9-_]{1,64}", name):
            raise ApiError(400, "InvalidParameterValueException", f"Invalid name: {name}")
        if name in self.functions:
            raise ApiError(409, "ResourceConflictException", f"Function already exist: {name}")
        code = base64.b64decode(body.pop("Code")["ZipFile"])
        latest = Version("$LATEST", body, code, self._unpacked(code))
        self.functions[name] = Function(name, latest)
        return self._describe(self.functions[name], latest)

    async def get_function_configuration(self, request: web.Request) -> web.Response:
        function = self._function(request)
        version = function.resolve(request.query.get("Qualifier", "$LATEST"))
        answer = self._describe(function, version)
        if version is function.latest and function.polls_until_ready:
            function.polls_until_ready -= 1
            if not function.polls_until_ready:
                function.revision = str(uuid.uuid4())  # as the service does
        return answer

    async def update_function_code(self, request: web.Request) -> web.Response:
        function = self._changeable(request)
        code = base64.b64decode((await request.json())["ZipFile"])
        configuration = function.latest.configuration
        function.latest = Version("$LATEST", configuration, code, self._unpacked(code))
        function.touch()
        return self._describe(function, function.latest)

    async def update_function_configuration(self, request: web.Request) -> web.Response:
        function = self._changeable(request)
        old = function.latest
        merged = {**old.configuration, **(await request.json())}
        function.latest = Version("$LATEST", merged, old.code, old.folder)
        function.touch()
        return self._describe(function, function.latest)

    async def publish_version(self, request: web.Request) -> web.Response:
        function = self._changeable(request)
        body = await request.json()
        self.before_publish(function)
        latest = function.latest
        if body["RevisionId"] != function.revision or body["CodeSha256"] != latest.code_sha256:
            raise ApiError(412, "PreconditionFailedException", "The Revision Id provided is stale.")
        newest = list(function.versions.values())[-1:]
        for version in newest:
            same = (version.configuration, version.code) == (latest.configuration, latest.code)
            if same:  # nothing changed: the service answers with the latest version
                return self._describe(function, version)
        number = str(next(function.numbers))
        function.versions[number] = Version(
            number, dict(latest.configuration), latest.code, latest.folder
        )
        return self._describe(function, function.versions[number])

    async def delete_function(self, request: web.Request) -> web.Response:
        function = self._function(request)
        qualifier = request.query.get("Qualifier")
        if qualifier is None:
            del self.functions[function.name]
        elif qualifier in function.aliases.values():
            raise ApiError(409, "ResourceConflictException", "Version is used by an alias.")
        else:
            function.versions.pop(qualifier)
        return web.Response(status=204)

    async def put_function_concurrency(self, request: web.Request) -> web.Response:
        function = self._function(request)
        function.concurrency = (await request.json())["ReservedConcurrentExecutions"]
        return web.json_response({"ReservedConcurrentExecutions": function.concurrency})

    def _alias(self, function: Function, alias: str) -> web.Response:
        if alias not in function.aliases:
            raise ApiError(404, "ResourceNotFoundException", f"Alias not found: {alias}")
        return web.json_response({"Name": alias, "FunctionVersion": function.aliases[alias]})

    async def create_alias(self, request: web.Request) -> web.Response:
        function = self._function(request)
        body = await request.json()
        if body["Name"] in function.aliases:
            raise ApiError(409, "ResourceConflictException", "Alias already exists.")
        function.resolve(body["FunctionVersion"])
        function.aliases[body["Name"]] = body["FunctionVersion"]
        return self._alias(function, body["Name"])

    async def update_alias(self, request: web.Request) -> web.Response:
        function, alias = self._function(request), request.match_info["alias"]
        self._alias(function, alias)
        version = (await request.json())["FunctionVersion"]
        function.resolve(version)
        function.aliases[alias] = version
        return self._alias(function, alias)

    async def get_alias(self, request: web.Request) -> web.Response:
        return self._alias(self._function(request), request.match_info["alias"])

    async def list_aliases(self, request: web.Request) -> web.Response:
        wanted = request.query["FunctionVersion"]
        aliases = self._function(request).aliases
        return web.json_response(
            {"Aliases": [{"Name": name} for name, number in aliases.items() if number == wanted]}
        )

    async def delete_alias(self, request: web.Request) -> web.Response:
        self._function(request).aliases.pop(request.match_info["alias"], None)
        return web.Response(status=204)

    # --- Invoking ----------------------------------------------------------------------------

    async def invoke_with_response_stream(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        self.peers.add(request.transport.get_extra_info("peername"))
        function = self._function(request)
        version = function.resolve(request.query.get("Qualifier", "$LATEST"))
        is_over = function.concurrency is not None and function.running >= function.concurrency
        if self.throttle or is_over:
            self.throttle = max(0, self.throttle - 1)
            raise ApiError(429, "TooManyRequestsException", "Rate Exceeded.")
        seconds = version.configuration["Timeout"]
        run = Run(str(uuid.uuid4()), await request.read(), int((time.time() + seconds) * 1000))
        work = asyncio.create_task(self._run(function, version, run))
        self._runs.add(work)
        work.add_done_callback(self._runs.discard)
        return await self._relay(request, run, version)

    async def _relay(self, request: web.Request, run: Run, version: Version) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={
                "Content-Type": "application/vnd.amazon.eventstream",
                "X-Amzn-RequestId": run.request_id,
                "X-Amz-Executed-Version": version.number,
            }
        )
        try:
            while True:
                payload = await run.sent.get()
                if not response.prepared:
                    response.headers["X-Amzn-Remapped-Content-Type"] = str(run.content_type)
                    await response.prepare(request)
                if payload is None:
                    break
                if payload:
                    octets = "application/octet-stream"
                    await response.write(frame("PayloadChunk", octets, payload))
            if self.breaks_off:
                await response.write_eof()
                return response
            tail = "\n".join([*run.log, ""]).encode()[-TAIL_BYTES:]
            complete = {"LogResult": base64.b64encode(tail).decode()}
            end = complete if request.headers["X-Amz-Log-Type"] == "Tail" else {}
            await response.write(
                frame("InvokeComplete", "application/json", json.dumps(end).encode())
            )
            await response.write_eof()
        finally:
            run.leave()
        return response

    async def _run(self, function: Function, version: Version, run: Run) -> None:
        function.running += 1
        began = time.monotonic()
        seconds = version.configuration["Timeout"]
        is_cold = not version.idle
        try:
            async with asyncio.timeout(seconds):
                status = await self._work(function, version, run)
        except TimeoutError:
            status = "timeout"
            await self._tell_of_timeout(run, seconds)
        used = f"Duration: {(time.monotonic() - began) * 1000:.2f} ms"
        run.log += [
            f"END RequestId: {run.request_id}",
            f"REPORT RequestId: {run.request_id}\t{used}\tBilled Duration: 1 ms\tMemory Size: "
            + f"{version.configuration['MemorySize']} MB\tMax Memory Used: 77 MB\t"
            + ("Init Duration: 140.00 ms\t" if is_cold else "")
            + (f"Status: {status}" if status else ""),
        ]
        assert run.sandbox is not None
        if status:
            await self._end(run.sandbox)
        else:
            run.sandbox.run = None
            version.idle.append(run.sandbox)
        function.running -= 1
        await run.send(None)

    async def _tell_of_timeout(self, run: Run, seconds: int) -> None:
        assert run.sandbox is not None
        if run.sandbox.run is None:
            run.log.append("INIT_REPORT Init Duration: 9999.00 ms\tPhase: init\tStatus: timeout")
        text = f"Task timed out after {seconds:.2f} seconds"
        run.log.append(f"{_now()} {run.request_id} {text}\n")
        message = f"RequestId: {run.request_id} Error: {text}"
        await run.send_error({"errorType": "Sandbox.Timedout", "errorMessage": message})

    async def _work(self, function: Function, version: Version, run: Run) -> str:
        """Have a sandbox do the run; the status of the report, empty for one that went well."""
        if version.idle:
            sandbox = run.sandbox = version.idle.pop()
        else:
            sandbox = run.sandbox = Sandbox(function.name, version)
            self._sandboxes.append(sandbox)
            await sandbox.start()
            await _first(sandbox.ready, sandbox.exited)
        run.log += sandbox.init_log
        sandbox.init_log = []
        run.log.append(f"START RequestId: {run.request_id} Version: {version.number}")
        if sandbox.exited.is_set():
            return await self._tell_of_init(sandbox, run)
        sandbox.invoke(run)
        while True:
            kind, value = await run.said.get()
            if kind == "head":
                run.content_type = value
                await run.send(b"")  # the client gets the headers with it
            elif kind == "chunk":
                await run.send(value)
            elif kind == "error":
                await run.send_error(value)
                if value["errorType"] == "Runtime.ExitError":
                    return "error\tError Type: Runtime.ExitError"
                break
            else:
                break
        await _first(sandbox.ready, sandbox.exited)
        return ""

    async def _tell_of_init(self, sandbox: Sandbox, run: Run) -> str:
        """Of a process that ended before it was ready."""
        error_type = "Runtime.Unknown" if sandbox.init_error else "Runtime.ExitError"
        status = f"error\tError Type: {error_type}"
        run.log.append(f"INIT_REPORT Init Duration: 99.00 ms\tPhase: invoke\tStatus: {status}")
        error = sandbox.init_error or _exit_error(run.request_id, sandbox.exit_text)
        await run.send_error(error)
        return status

    async def _end(self, sandbox: Sandbox) -> None:
        if sandbox in self._sandboxes:
            self._sandboxes.remove(sandbox)
            await sandbox.close()


async def _first(*events: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def _check_signature(request: web.Request, body: bytes) -> None:
    """The signature is that of the one key there is."""
    given = request.headers.get("Authorization", "")
    names = re.search(r"SignedHeaders=([^,]+)", given)
    signature = re.search(r"Signature=([0-9a-f]{64})", given)
    if names and signature:
        signed = {name: request.headers[name] for name in names[1].split(";")}
        url = f"http://{request.host}{request.raw_path}"
        again = AWSRequest(method=request.method, url=url, data=body, headers=signed)
        again.context["timestamp"] = request.headers["X-Amz-Date"]
        auth = SigV4Auth(Credentials(ACCESS_KEY, SECRET_KEY), "lambda", REGION)
        to_sign = auth.string_to_sign(again, auth.canonical_request(again))
        if auth.signature(to_sign, again) == signature[1]:
            return
    raise ApiError(403, "InvalidSignatureException", "The request signature does not match.")


@contextlib.asynccontextmanager
async def fake_lambda(folder: Path) -> AsyncIterator[tuple[FakeLambda, str]]:
    """The service and its address, for as long as needed."""
    service = FakeLambda(folder)
    address = await service.start()
    try:
        yield service, address
    finally:
        await service.close()
