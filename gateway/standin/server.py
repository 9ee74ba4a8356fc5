"""The server: routes, the order of checks, and how an answer is written, streamed or broken."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from billing.pricing import Usage
from gateway import sse
from gateway.dialects import CLIENT_DIALECTS
from gateway.dialects.base import Inspection, Reply, StreamEncoder
from gateway.events import Event, UsageReported
from gateway.refusals import Refusal
from gateway.standin import catalog, embeddings, scripts, strict_anthropic, strict_gemini
from gateway.standin.answers import Answer
from gateway.standin.caching import Cache, count_tokens
from gateway.standin.local import LocalModel, UnableToAskModel
from gateway.standin.memory import Memory
from gateway.standin.rejections import Asked, Json, Rejection, Rule, apply, objects
from gateway.standin.wires import ANTHROPIC, CHAT, GEMINI, RESPONSES, Wire

BODY_BYTES_MAX = 32 * 1024 * 1024
SILENCE_SECONDS_MAX = 600
GARBAGE = b'{"this is no JSON'
SSE_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def create_app(model_url: str, *, body_bytes_max: int = BODY_BYTES_MAX) -> web.Application:
    """The stand-ins' application; `model_url` is the local model's, ending in /v1."""
    server = Server(LocalModel(model_url))
    app = web.Application(client_max_size=body_bytes_max)
    app.add_routes(
        [
            web.post("/v1/chat/completions", guard(CHAT, server.answer_chat)),
            web.post("/v1/responses", guard(RESPONSES, server.answer_response)),
            web.get("/v1/responses/{id}", guard(RESPONSES, server.show_response)),
            web.delete("/v1/responses/{id}", guard(RESPONSES, server.delete_response)),
            web.post("/v1/embeddings", guard(CHAT, server.answer_embeddings)),
            web.post("/v1/messages", guard(ANTHROPIC, server.answer_message)),
            web.post("/v1/messages/count_tokens", guard(ANTHROPIC, server.count_message)),
            # Newer SDKs of Google's ask for v1, older ones and most documentation for v1beta.
            web.post("/v1beta/models/{model}:{method}", guard(GEMINI, server.answer_gemini)),
            web.post("/v1/models/{model}:{method}", guard(GEMINI, server.answer_gemini)),
            web.get("/v1beta/models", guard(GEMINI, server.list_gemini_models)),
            web.get("/v1/models", server.list_models),
        ]
    )
    app.on_cleanup.append(server.close)
    return app


def guard(wire: Wire, handle: Handler) -> Handler:
    """The handler behind the wire's key check, with refusals written as the service writes them."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        try:
            headers = {name.lower(): value for name, value in request.headers.items()}
            wire.check_key(headers, request.query.get("key", ""))
            return await handle(request)
        except Rejection as rejection:
            return _write_rejection(wire, rejection)
        except web.HTTPRequestEntityTooLarge:
            return _write_rejection(wire, wire.error(413, "", None))
        except UnableToAskModel as error:
            return _write_rejection(wire, wire.error(503, str(error), None))
        except Refusal as refusal:
            # What our own reading of the wire refuses is a bad request on every one.
            return _write_rejection(wire, wire.error(refusal.status, refusal.message, None))

    return guarded


def _write_rejection(wire: Wire, rejection: Rejection) -> web.Response:
    headers = wire.headers() | rejection.headers
    return web.json_response(rejection.body, status=rejection.status, headers=headers)


class Server:
    """What every request shares: the local model, kept responses, the prompt cache."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        self._memory = Memory()
        self._cache = Cache()

    async def close(self, _: web.Application) -> None:
        """Close the connections to the local model."""
        await self._model.close()

    # --- OpenAI --------------------------------------------------------------------------------

    async def answer_chat(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/chat/completions`."""
        asked = await _read(request, CHAT)
        _check(CHAT, CHAT.rules, asked)
        return await self._answer(request, CHAT, asked, asked.body)

    async def answer_response(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/responses`."""
        asked = await _read(request, RESPONSES)
        _check(RESPONSES, RESPONSES.rules, asked)
        items, previous = self._memory.items(asked.body), self._memory.previous(asked.body)
        whole = {**asked.body, "input": asked.body.get("input") or []}
        expanded = CLIENT_DIALECTS["openai_responses"].expand(whole, items, previous)
        return await self._answer(request, RESPONSES, asked, expanded)

    async def show_response(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/responses/{id}`."""
        found = self._memory.find(request.match_info["id"])
        if found is None:
            raise _no_response(request.match_info["id"])
        return web.json_response(found, headers=RESPONSES.headers())

    async def delete_response(self, request: web.Request) -> web.StreamResponse:
        """`DELETE /v1/responses/{id}`."""
        response_id = request.match_info["id"]
        if not self._memory.forget(response_id):
            raise _no_response(response_id)
        body = {"id": response_id, "object": "response", "deleted": True}
        return web.json_response(body, headers=RESPONSES.headers())

    async def answer_embeddings(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/embeddings`."""
        asked = await _read(request, CHAT)
        _check(CHAT, embeddings.RULES, asked)
        texts = [embeddings.split(text) for text in embeddings.read_texts(asked.body)]
        vectors, tokens = await self._model.embed([piece for text in texts for piece in text])
        rest = iter(vectors)
        whole = [embeddings.join([next(rest) for _ in text]) for text in texts]
        return web.json_response(embeddings.write(asked, whole, tokens), headers=CHAT.headers())

    async def list_models(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1/models`: all three services have it, and their headers tell which is asked."""
        wire, body = CHAT, catalog.list_openai()
        if "anthropic-version" in request.headers:
            wire, body = ANTHROPIC, catalog.list_anthropic()
        elif "x-goog-api-key" in request.headers:
            wire, body = GEMINI, catalog.list_gemini()

        async def show(_: web.Request) -> web.StreamResponse:
            return web.json_response(body)

        return await guard(wire, show)(request)

    # --- Anthropic -----------------------------------------------------------------------------

    async def answer_message(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/messages`."""
        asked = await _read(request, ANTHROPIC)
        _check(ANTHROPIC, ANTHROPIC.rules, asked)
        return await self._answer(request, ANTHROPIC, asked, asked.body)

    async def count_message(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1/messages/count_tokens`."""
        asked = await _read(request, ANTHROPIC)
        _check(ANTHROPIC, strict_anthropic.RULES_TO_COUNT, asked)
        body = {"input_tokens": count_tokens(asked.body, "anthropic")}
        return web.json_response(body, headers=ANTHROPIC.headers())

    # --- Gemini --------------------------------------------------------------------------------

    async def answer_gemini(self, request: web.Request) -> web.StreamResponse:
        """`POST /v1beta/models/{model}:`generateContent, streamGenerateContent or countTokens."""
        method = request.match_info["method"]
        model = request.match_info["model"]
        asked = await _read(
            request, GEMINI, model=model, is_stream=method == "streamGenerateContent"
        )
        if method == "countTokens":
            counted = strict_gemini.field(asked.body, "generate_content_request") or asked.body
            return web.json_response({"totalTokens": count_tokens(counted, "gemini")})
        if method not in ("generateContent", "streamGenerateContent"):
            raise GEMINI.error(404, "", None)
        _check(GEMINI, GEMINI.rules, asked)
        whole = {**asked.body, "model": model, "stream": asked.is_stream}
        return await self._answer(request, GEMINI, asked, whole)

    async def list_gemini_models(self, request: web.Request) -> web.StreamResponse:
        """`GET /v1beta/models`."""
        return web.json_response(catalog.list_gemini())

    # --- answering -----------------------------------------------------------------------------

    async def _answer(
        self, request: web.Request, wire: Wire, asked: Asked, body: Json
    ) -> web.StreamResponse:
        dialect = CLIENT_DIALECTS[wire.dialect]
        inspection, read = dialect.inspect(body), dialect.read_request(body)
        plan = scripts.read_plan(read)
        if plan.status:
            raise wire.error(plan.status, "", plan.retry_after)
        reply = Reply(secrets.token_hex(16), int(time.time()), asked.body)
        answer = Answer(
            wire,
            asked,
            read,
            plan,
            self._cache.count(Asked(asked.headers, body, asked.model), wire.dialect),
            reply.seed,
            reply.created_at,
            self._model,
        )
        if not inspection.is_stream:
            result = await self._collect(request, answer, inspection, reply)
        else:
            encoder = dialect.stream_encoder(inspection, reply)
            result = await Stream(request, answer, encoder).send()
        if wire is RESPONSES:
            self._keep(asked.body, body, _result_of(result))
        return result.response

    async def _collect(
        self, request: web.Request, answer: Answer, inspection: Inspection, reply: Reply
    ) -> "Sent":
        """A whole answer, or what a fault makes of it."""
        writer = CLIENT_DIALECTS[answer.wire.dialect].response_writer(inspection, reply)
        async for event in answer.events():
            writer.add(event)
        whole = writer.finish()
        headers = answer.wire.headers()
        fault = answer.plan.fault.kind if answer.plan.fault else ""
        if fault == "midstream_error":
            raise answer.wire.error(500, "", None)
        if fault == "garbage":
            return Sent(
                web.Response(body=GARBAGE, headers=headers, content_type="application/json")
            )
        if fault:
            return Sent(await _break_whole(request, orjson.dumps(whole), is_cut=fault == "cut"))
        return Sent(web.json_response(whole, headers=headers), whole)

    def _keep(self, asked: Json, body: Json, result: Json | None) -> None:
        if result is None or asked.get("store") is False:
            return
        given = body["input"]
        turns = [{"role": "user", "content": given}] if isinstance(given, str) else objects(given)
        self._memory.keep(result, turns)


class Sent:
    """A response that was written, and the answer it holds if that was whole."""

    def __init__(self, response: web.StreamResponse, whole: Json | None = None) -> None:
        self.response = response
        self.whole = whole


def _result_of(sent: Sent) -> Json | None:
    return sent.whole


def _no_response(response_id: str) -> Rejection:
    return RESPONSES.error(404, f"Response with id '{response_id}' not found.", None)


async def _read(
    request: web.Request, wire: Wire, *, model: str = "", is_stream: bool = False
) -> Asked:
    """The request's body and headers. Raises Rejection for a body that is no JSON object."""
    raw = await request.read()
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        raise wire.error(400, NOT_JSON[wire.dialect], None)
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Asked(headers, body, model or str(body.get("model", "")), is_stream)


def _check(wire: Wire, rules: tuple[Rule, ...], asked: Asked) -> None:
    """Raises Rejection for a request that breaks a rule, or that no rule can make sense of."""
    try:
        apply(rules, asked)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        # A list where an object belongs, and the like: the services say 400 to all of it.
        message = "The request's members do not have the types they should have."
        raise wire.error(400, message, None) from error


NOT_JSON = {
    "openai_chat": "We could not parse the JSON body of your request.",
    "openai_responses": "We could not parse the JSON body of your request.",
    "anthropic": "The request body is not valid JSON: expected a JSON object",
    "gemini": "Invalid JSON payload received. Unexpected token.",
}


class Stream:
    """One streamed answer: an event a write, and the fault where the plan has one."""

    def __init__(self, request: web.Request, answer: Answer, encoder: StreamEncoder) -> None:
        self._request = request
        self._answer = answer
        self._encoder = encoder
        self._written = 0
        self._usage = Usage()
        # Without `alt=sse` Gemini streams one JSON array.
        self._is_array = answer.wire is GEMINI and request.query.get("alt") != "sse"
        media = {"content-type": "application/json"} if self._is_array else SSE_HEADERS
        self._response = web.StreamResponse(headers=answer.wire.headers() | media)

    async def send(self) -> Sent:
        """Write everything. An error before the first event is still an error's status."""
        events = self._answer.events()
        first = [await anext(events), await anext(events)]
        await self._response.prepare(self._request)
        fault = self._answer.plan.fault
        try:
            for event in first:
                await self._write_event(event)
            async for event in events:
                if fault and self._written >= fault.after:
                    return Sent(await self._break(fault.kind))
                await self._write_event(event)
        except UnableToAskModel:
            return Sent(await self._break("midstream_error"))
        if fault:
            return Sent(await self._break(fault.kind))
        await self._write(self._encoder.write_end(self._usage))
        if self._is_array:
            await self._response.write(b"]" if self._written else b"[]")
        await self._response.write_eof()
        return Sent(self._response, self._encoder.result())

    async def _write_event(self, event: Event) -> None:
        if isinstance(event, UsageReported):
            self._usage = event.usage
        await self._write(self._encoder.write(event))

    async def _write(self, frame: bytes) -> None:
        if not frame:
            return
        if self._is_array:
            frame = _to_array(frame, is_first=not self._written)
        self._written += 1
        await self._response.write(frame)

    async def _break(self, kind: str) -> web.StreamResponse:
        match kind:
            case "midstream_error":
                await self._write(self._answer.wire.write_failure(self._encoder))
                await self._response.write_eof()
            case "garbage":
                event = self._answer.wire.delta_event
                await self._response.write(sse.encode(GARBAGE, event=event))
                await self._response.write_eof()
            case "cut":
                _abort(self._request)
            case _:
                await _be_silent(self._request)
        return self._response


def _to_array(frame: bytes, *, is_first: bool) -> bytes:
    """Messages of an event stream as the next members of a JSON array."""
    members = [
        line.removeprefix(b"data: ")
        for line in frame.replace(b"\r\n", b"\n").split(b"\n")
        if line.startswith(b"data: ")
    ]
    return (b"[" if is_first else b",\r\n") + b",\r\n".join(members)


async def _break_whole(request: web.Request, body: bytes, *, is_cut: bool) -> web.StreamResponse:
    """A whole answer that stops in its middle."""
    headers = {"content-type": "application/json", "content-length": str(len(body))}
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if is_cut:
        _abort(request)
    else:
        await _be_silent(request)
    return response


async def _be_silent(request: web.Request) -> None:
    """Send nothing until the client has gone."""
    for _ in range(SILENCE_SECONDS_MAX):
        if request.transport is None or request.transport.is_closing():
            return
        await asyncio.sleep(1)


def _abort(request: web.Request) -> None:
    """Reset the connection."""
    transport: Any = request.transport
    if transport is not None:
        transport.abort()
