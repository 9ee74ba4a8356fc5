"""A provider that keeps its own count: OpenAI's chat completions with one token a chunk.

It runs in the test's own process, which nobody kills, so what it generated for each call is the
truth. A call names itself in its first message; its prompt says how long the answer is.
"""

import asyncio
import json
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from aiohttp import web

PROMPT_TOKENS = 7


@dataclass
class Upstream:
    """A running provider: `generated[name]` tokens were made for each call."""

    port: int = 0
    generated: dict[str, int] = field(default_factory=dict)
    # Calls that have arrived and get no answer, not even its head.
    silent: set[str] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Serve on a free port of loopback, in a thread."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def _run(self, ready: threading.Event) -> None:
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        runner = self._loop.run_until_complete(self._serve(ready))
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> web.AppRunner:
        application = web.Application()
        application.router.add_post("/v1/chat/completions", self._answer)
        runner = web.AppRunner(application, shutdown_timeout=0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        ready.set()
        return runner

    def stop(self) -> None:
        """End serving."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=10)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        name, tokens, pause_ms = json.loads(body["messages"][-1]["content"])
        self.generated[name] = 0
        while name in self.silent:  # noqa: ASYNC110 - a test says when, in another thread
            await asyncio.sleep(0.02)
        headers = {"x-request-id": f"up-{name}"}
        if not body.get("stream"):
            self.generated[name] = tokens
            return web.json_response(_whole(tokens), headers=headers)
        answer = web.StreamResponse(headers={"content-type": "text/event-stream", **headers})
        await answer.prepare(request)
        with suppress(ConnectionError):  # whoever asked has gone, or was killed
            await self._stream(answer, name, tokens, pause_ms)
        return answer

    async def _stream(
        self, answer: web.StreamResponse, name: str, tokens: int, pause_ms: int
    ) -> None:
        for _ in range(tokens):
            self.generated[name] += 1
            await answer.write(_chunk([{"index": 0, "delta": {"content": "t "}}]))
            if pause_ms:
                await asyncio.sleep(pause_ms / 1000)
        await answer.write(_chunk([{"index": 0, "delta": {}, "finish_reason": "stop"}]))
        await answer.write(_chunk([], _usage(tokens)) + b"data: [DONE]\n\n")


def _usage(tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": tokens + PROMPT_TOKENS,
    }


def _chunk(choices: list[object], usage: object = None) -> bytes:
    body = {
        "id": "chatcmpl-faults",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-2024-08-06",
        "choices": choices,
        "usage": usage,
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _whole(tokens: int) -> dict[str, object]:
    message = {"role": "assistant", "content": "t " * tokens, "refusal": None}
    return {
        "id": "chatcmpl-faults",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-4o-2024-08-06",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _usage(tokens),
    }
