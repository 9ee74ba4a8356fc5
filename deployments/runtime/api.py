"""The AWS Lambda Runtime API of one instance, on a unix socket of its own.

Owns the wire: paths, headers and the streaming format, as documented in "Using the Lambda runtime
API" and "Building a custom runtime" (response streaming). One instance, one socket: an instance
cannot take another's invocations. Must not know how the instance was started.
"""

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from aiohttp import ClientError, StreamReader, web

from deployments.runtime import events
from deployments.runtime.driver import (
    RESPONSE_BYTES_MAX,
    STREAMED_BYTES_MAX,
    Chunk,
    Failed,
    Failure,
    Head,
)
from deployments.runtime.invocation import Invocation

VERSION = "/2018-06-01/runtime"
BROKEN_OFF = Failed(Failure.HANDLER, "The response stream broke off.")
LEFT_SECONDS_MAX = 1.0  # until the server has seen the end of a dead process's connections
POLL_SECONDS = 0.005
DRAIN_SECONDS_MAX = 30.0  # for a slow visitor to take what a dead process wrote
EXIT_SECONDS_MAX = 10.0  # from the end of a connection to that of its sandbox, on a busy machine
ERROR_BYTES_MAX = 256 * 1024


class RuntimeApi:
    """Serves one instance. `ready` is set while the instance waits for an invocation."""

    def __init__(self, socket_path: Path) -> None:
        self.socket_path = socket_path
        self.ready = asyncio.Event()
        self.init_error: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.current: Invocation | None = None
        self._no_stream = asyncio.Event()  # is being received
        self._no_stream.set()
        self._waiting: asyncio.Queue[Invocation] = asyncio.Queue(maxsize=1)
        self._taking: set[asyncio.Task[Invocation]] = set()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on the socket."""
        app = web.Application()
        app.add_routes(
            [
                web.get(f"{VERSION}/invocation/next", self._next),
                web.post(f"{VERSION}/invocation/{{id}}/response", self._response),
                web.post(f"{VERSION}/invocation/{{id}}/error", self._error),
                web.post(f"{VERSION}/init/error", self._init_error),
            ]
        )
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=0.1, keepalive_timeout=3600
        )
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket_path)).start()

    async def close(self) -> None:
        """Stop listening and drop the connections."""
        # The server has forgotten the requests of a process that is gone; they would wait for ever.
        for taking in self._taking:
            taking.cancel()
        if self._runner is not None:
            await self._runner.cleanup()

    async def drain(self) -> None:
        """Receive what a process that has ended left in its connections, at most for a while."""
        for _ in range(int(LEFT_SECONDS_MAX / POLL_SECONDS)):
            if self._runner is None or self._runner.server is None:
                return
            if not self._runner.server.connections:
                break
            await asyncio.sleep(POLL_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS_MAX):
                await self._no_stream.wait()

    def deliver(self, invocation: Invocation) -> None:
        """Queue an invocation for the instance's next `next`."""
        self.current = invocation
        self.ready.clear()
        self._waiting.put_nowait(invocation)

    async def _next(self, _: web.Request) -> web.Response:
        if self._waiting.empty():
            self.ready.set()
        invocation = await self._take()
        invocation.delivered = True
        return web.Response(
            body=invocation.event,
            content_type="application/json",
            headers={
                "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
                "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
            },
        )

    async def _take(self) -> Invocation:
        """The next invocation, once there is one; cancelled by `close`."""
        taking = asyncio.create_task(self._waiting.get())
        self._taking.add(taking)
        try:
            return await taking
        finally:
            self._taking.discard(taking)

    def _invocation(self, request: web.Request) -> Invocation:
        """The running invocation the request is about; another id is an error of the runtime."""
        current = self.current
        if current is None or current.request_id != request.match_info["id"]:
            raise web.HTTPBadRequest(text=json.dumps({"errorType": "InvalidRequestID"}))
        return current

    async def _response(self, request: web.Request) -> web.Response:
        invocation = self._invocation(request)
        if request.headers.get("Lambda-Runtime-Function-Response-Mode", "").lower() == "streaming":
            invocation.streamed = True
            self._no_stream.clear()
            failed = await _forward_stream(request, invocation)
        else:
            failed = await _forward_buffered(request, invocation)
        self._no_stream.set()
        if failed is None:
            invocation.complete()
            return web.Response(status=202)
        if failed is BROKEN_OFF:
            # How the process ended says more; if it lives, it has closed the stream itself.
            await invocation.wait_for_outcome(EXIT_SECONDS_MAX)
        invocation.fail(failed)
        return web.Response(status=413, text=failed.message)

    async def _error(self, request: web.Request) -> web.Response:
        invocation = self._invocation(request)
        invocation.fail(Failed(Failure.HANDLER, await _error_text(request)))
        return web.Response(status=202)

    async def _init_error(self, request: web.Request) -> web.Response:
        if not self.init_error.done():
            self.init_error.set_result(await _error_text(request))
        return web.Response(status=202)


async def _error_text(request: web.Request) -> str:
    """The stack of a reported error, or what there is of it."""
    raw = await request.content.read(ERROR_BYTES_MAX)
    try:
        error: Any = json.loads(raw)
    except ValueError:
        error = None
    if not isinstance(error, dict):
        return raw.decode("utf-8", "replace")
    stack = error.get("stackTrace")
    lines = [str(line) for line in stack] if isinstance(stack, list) else []
    message = f"{error.get('errorType', 'Error')}: {error.get('errorMessage', '')}"
    return "\n".join(lines if lines and message.split("\n")[0] in lines[0] else [message, *lines])


async def _forward_buffered(request: web.Request, invocation: Invocation) -> Failed | None:
    raw = bytearray()
    async for data in request.content.iter_any():
        raw += data
        if len(raw) > RESPONSE_BYTES_MAX:
            return Failed(Failure.RESPONSE, events.RESPONSE_TOO_LARGE)
    try:
        head, body = events.response_of(bytes(raw))
    except events.UnableToAnswer as error:
        return Failed(Failure.RESPONSE, str(error))
    await invocation.put(replace(head, length=len(body)))
    if body:
        await invocation.put(Chunk(body))
    return None


async def _forward_stream(request: web.Request, invocation: Invocation) -> Failed | None:
    """Head, then every chunk as it comes. A connection that breaks is a failed stream."""
    try:
        rest = await _forward_prelude(request, invocation)
        total = len(rest)
        wanted = not rest or await invocation.put(Chunk(rest))
        async for data, _ in request.content.iter_chunks():  # as the function wrote them
            total += len(data)
            if total > STREAMED_BYTES_MAX:
                return Failed(Failure.RESPONSE, events.STREAM_TOO_LARGE)
            if data and not await invocation.put(Chunk(data)):
                wanted = False
                break
    except events.UnableToAnswer as error:
        return Failed(Failure.RESPONSE, str(error))
    except (OSError, ClientError, web.RequestPayloadError):
        if left := _left(request.content):
            await invocation.put(Chunk(left))
        return BROKEN_OFF
    if not wanted and request.transport is not None:
        # The function learns that the visitor is gone: its stream closes.
        request.transport.close()
    return None


def _left(content: StreamReader) -> bytes:
    """What had arrived before the connection broke; aiohttp keeps it behind its error."""
    return b"".join(content._buffer)[content._buffer_offset :]


async def _forward_prelude(request: web.Request, invocation: Invocation) -> bytes:
    """Put the head; returns the data that came with it. Raises UnableToAnswer."""
    content_type = request.headers.get("Content-Type", "application/octet-stream")
    if not content_type.startswith(events.INTEGRATION_RESPONSE):
        await invocation.put(Head(200, (("content-type", content_type),)))
        return b""
    prelude = events.Prelude()
    async for piece, _ in request.content.iter_chunks():
        if found := prelude.feed(piece):
            head, rest = found
            await invocation.put(head)
            return rest
    raise events.UnableToAnswer(events.PRELUDE_INCOMPLETE)
