"""Streams that fall silent are kept open, and no client minds: pings between messages."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import anthropic
import openai
import pytest
import uvicorn
from aiohttp import web
from asgiref.sync import sync_to_async
from django.db import connection
from google import genai

from gateway import sse
from gateway.app import GatewayApp
from gateway.dialects import CLIENT_DIALECTS
from gateway.exchange import ClientGone, Exchange
from tests import factories
from tests.gateway.conftest import ApiClient, Provider, Tenant, shorten
from tests.gateway.test_exchange import Message, Wire, send
from tests.gateway.test_proxy import DONE, TEXT, USAGE_CHUNK, record_of, streamed
from tests.gateway.test_wires import MODELS, STREAMS

PING_SECONDS = 0.02
PAUSE_SECONDS = 0.3
WIRES = sorted(CLIENT_DIALECTS)


@pytest.fixture(autouse=True)
def _pings_at_once(settings: Any) -> None:
    settings.STREAM_PING_SECONDS = PING_SECONDS


def halting(*pieces: bytes) -> Any:
    """Sends the pieces with silence before each of them and before the end."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await asyncio.sleep(PAUSE_SECONDS)
            await response.write(piece)
        await asyncio.sleep(PAUSE_SECONDS)
        return response

    return handler


# --- one exchange -----------------------------------------------------------------------------


def pieces_of(wire: Wire) -> list[bytes]:
    return [message["body"] for message in wire.sent if message["type"] == "http.response.body"]


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not happened():  # noqa: ASYNC110 - the event loop's timers do it
            await asyncio.sleep(0.005)


async def test_silence_is_filled_until_the_stream_ends() -> None:
    wire = Wire()
    exchange = wire.exchange()
    await exchange.start_stream(ping=b": ping\n\n", ping_seconds=0.01)
    await until(lambda: len(pieces_of(wire)) >= 3)
    await send(exchange, b"data: 1\n\n")
    await until(lambda: pieces_of(wire)[-1] == b": ping\n\n")
    await exchange.end_stream(b"data: 2\n\n")
    sent = pieces_of(wire)
    await asyncio.sleep(0.05)
    assert pieces_of(wire) == sent
    assert [piece for piece in sent if piece != b": ping\n\n"] == [b"data: 1\n\n", b"data: 2\n\n"]


async def test_a_stream_that_is_left_is_pinged_no_more() -> None:
    wire = Wire()
    exchange = wire.exchange()
    await exchange.start_stream(ping=b": ping\n\n", ping_seconds=0.01)
    exchange.unwatch()
    sent = len(wire.sent)
    await asyncio.sleep(0.05)
    assert len(wire.sent) == sent


async def test_a_client_that_reads_slowly_gets_one_ping_at_a_time() -> None:
    wire = Wire()
    exchange = wire.exchange()
    waiting: list[bytes] = []

    async def blocked(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.body":
            waiting.append(message["body"])
            await asyncio.Event().wait()

    exchange._send = blocked
    await exchange.start_stream(ping=b": ping\n\n", ping_seconds=0.01)
    await asyncio.sleep(0.1)
    assert waiting == [b": ping\n\n"]
    exchange.unwatch()


# --- through the API --------------------------------------------------------------------------


async def test_pings_stand_between_messages_and_never_inside_one(
    api: ApiClient, provider: Provider
) -> None:
    whole = b"".join([*TEXT, USAGE_CHUNK, DONE])
    cuts = [whole[:50], whole[50:51], whole[51:400], whole[400:]]
    provider.handler = halting(*cuts)
    answer = await api.chat(stream=True, stream_options={"include_usage": True})
    ping = b": ping\n\n"
    assert answer.body.startswith(ping)
    assert ping in answer.body.lstrip(ping)
    messages = answer.body.split(b"\n\n")
    assert all(message.startswith((b"data: ", b": ping")) for message in messages if message)
    assert answer.body.replace(ping, b"") == whole


async def test_a_stream_without_silence_is_not_pinged(
    api: ApiClient, provider: Provider, settings: Any
) -> None:
    settings.STREAM_PING_SECONDS = 15
    provider.handler = streamed(*TEXT, DONE)
    assert b"ping" not in (await api.chat(stream=True)).body


async def test_a_stream_begun_for_a_ping_still_ends_at_the_first_byte_limit(
    api: ApiClient, app: GatewayApp, provider: Provider, tenant: Tenant
) -> None:
    shorten(app, first_byte=0.3)
    provider.handler = streamed(then="silence")
    answer = await api.chat(stream=True)
    assert answer.status == 200
    assert '"upstream_timeout"' in answer.messages[-1]
    attempts = (await record_of(tenant)).attempts
    assert [attempt["outcome"] for attempt in attempts] == ["first_byte_timeout"]


async def test_an_error_that_comes_in_time_keeps_its_status(
    api: ApiClient, provider: Provider
) -> None:
    async def failing(_: web.Request) -> web.Response:
        await asyncio.sleep(PAUSE_SECONDS)
        return web.json_response({"error": {"message": "Too long."}}, status=400)

    provider.handler = failing
    answer = await api.chat(stream=True)
    assert answer.status == 400
    assert b"ping" not in answer.body


# --- official clients -------------------------------------------------------------------------


@pytest.fixture
async def address(app: GatewayApp) -> AsyncIterator[str]:
    """The AI API under uvicorn, as the process serves it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
        serving = asyncio.ensure_future(server._serve([listener]))
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/api/ai"
        server.should_exit = True
        await serving


@pytest.fixture
async def models(tenant: Tenant, provider: Provider, settings: Any) -> dict[str, str]:
    """By wire, a model whose provider speaks it."""
    known = {"base_url": provider.base_url, "api_key": "sk-x"}
    settings.PROVIDER_ENVIRONMENT = dict.fromkeys(("openai", "anthropic", "google"), known)

    def add() -> None:
        for wire in ("openai_responses", "gemini"):
            model, provider_name, dialect = MODELS[wire]
            route = factories.make_route(public_name=model, provider=provider_name)
            route.dialect = dialect
            route.save()
        for wire in ("openai_responses", "gemini", "anthropic"):
            factories.make_price(provider=MODELS[wire][1], model=MODELS[wire][0])
        connection.close()

    await sync_to_async(add)()
    return {wire: MODELS[wire][0] for wire in WIRES}


async def ask_openai_chat(url: str, key: str, model: str) -> str:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=model, stream=True, messages=[{"role": "user", "content": "Hello"}]
        )
        chunks = [chunk async for chunk in stream]
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


async def ask_openai_responses(url: str, key: str, model: str) -> str:
    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client,
        client.responses.stream(model=model, input="Hello") as stream,
    ):
        return (await stream.get_final_response()).output_text


async def ask_anthropic(url: str, key: str, model: str) -> str:
    async with (
        anthropic.AsyncAnthropic(base_url=url, api_key=key, max_retries=0) as client,
        client.messages.stream(
            model=model, max_tokens=50, messages=[{"role": "user", "content": "Hello"}]
        ) as stream,
    ):
        return await stream.get_final_text()


async def ask_gemini(url: str, key: str, model: str) -> str:
    options = genai.types.HttpOptions(base_url=url)
    client = genai.Client(api_key=key, http_options=options).aio
    stream = await client.models.generate_content_stream(model=model, contents="Hello")
    return "".join([chunk.text or "" async for chunk in stream])


CLIENTS: dict[str, Callable[[str, str, str], Awaitable[str]]] = {
    "openai_chat": ask_openai_chat,
    "openai_responses": ask_openai_responses,
    "anthropic": ask_anthropic,
    "gemini": ask_gemini,
}


def test_every_wire_has_a_client_and_a_ping() -> None:
    assert sorted(CLIENTS) == WIRES
    assert all(CLIENT_DIALECTS[wire].ping for wire in WIRES)


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")  # google-genai's own
@pytest.mark.parametrize("way", ["forwarded", "translated"])
@pytest.mark.parametrize("wire", WIRES)
async def test_the_official_client_reads_the_same_with_pings(
    address: str,
    tenant: Tenant,
    models: dict[str, str],
    provider: Provider,
    settings: Any,
    wire: str,
    way: str,
) -> None:
    other = "anthropic" if wire != "anthropic" else "openai_chat"
    speaks = wire if way == "forwarded" else other
    stream, model = STREAMS[speaks], models[speaks]
    settings.STREAM_PING_SECONDS = 15
    provider.handler = streamed(stream)
    text = await CLIENTS[wire](address, tenant.key, model)
    assert len(text) > 10
    settings.STREAM_PING_SECONDS = PING_SECONDS
    half = len(stream) // 2
    provider.handler = halting(stream[:half], stream[half:])
    seen: list[bytes] = []
    send_on = Exchange._send_on

    async def see(self: Exchange, message: dict[str, Any], task: Any) -> None:
        if message.get("more_body"):
            seen.append(message["body"])
        await send_on(self, message, task)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Exchange, "_send_on", see)
        assert await CLIENTS[wire](address, tenant.key, model) == text
    ping = CLIENT_DIALECTS[wire].ping
    assert seen[0] == ping
    assert seen.count(ping) > 2


class Slow:
    """A client that takes nothing after the head of its answer."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        wire = Wire()
        scope = {"method": "POST", "path": "/", "headers": []}
        self.exchange = Exchange(scope, wire.receive, self._send, "req_1")
        self.is_told = asyncio.Event()
        self.exchange.watch(self.is_told.set)

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.body":
            self.asked.append(message["body"])
            await asyncio.Event().wait()


async def test_pings_keep_no_client_that_takes_nothing() -> None:
    """Also when a ping is due long before the client counts as gone."""
    client = Slow()
    await client.exchange.start_stream(ping=sse.PING, ping_seconds=0.02, stall_seconds=0.2)
    async with asyncio.timeout(5):
        with pytest.raises(ClientGone):
            await send(client.exchange, b"unread")
    assert client.asked == [b"unread"]
    client.exchange.unwatch()


@pytest.mark.parametrize("is_last", [False, True])
async def test_a_client_that_takes_no_ping_takes_nothing_after_it(is_last: bool) -> None:
    client = Slow()
    await client.exchange.start_stream(ping=sse.PING, ping_seconds=0.02, stall_seconds=0.2)
    await until(lambda: client.asked == [sse.PING])
    sending = client.exchange.end_stream if is_last else partial(send, client.exchange)
    async with asyncio.timeout(5):
        with pytest.raises(ClientGone):
            await sending(b"unread")
    client.exchange.unwatch()


async def test_nothing_is_sent_to_a_client_that_took_no_ping_for_too_long() -> None:
    client = Slow()
    await client.exchange.start_stream(ping=sse.PING, ping_seconds=0.02, stall_seconds=0.1)
    await until(client.is_told.is_set)
    async with asyncio.timeout(5):
        with pytest.raises(ClientGone):
            await client.exchange.end_stream(b"unread")
    assert client.asked == [sse.PING]
    client.exchange.unwatch()
