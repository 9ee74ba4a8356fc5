"""Calls to providers that misbehave: what is followed, waited for, read, and told the client."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from billing.models import UsageRecord
from gateway import proxy, upstream
from gateway.credentials import Upstream
from gateway.providers import PROVIDERS
from gateway.upstream import Connections, UnableToReach, UpstreamCut, UpstreamTimedOut
from tests.gateway.conftest import Answer, ApiClient, Provider, Tenant, until
from tests.gateway.test_proxy import TEXT, balances, record_of, streamed, whole

Status = UsageRecord.Status


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    opened = Connections()
    yield opened
    await opened.close()


def at(base_url: str, api_key: str = "sk-provider-secret-0123456789") -> Upstream:
    return Upstream(PROVIDERS["openai"], base_url, api_key)


async def silent(request: web.Request) -> web.StreamResponse:
    """Takes the request and never answers."""
    await asyncio.sleep(30)
    raise AssertionError("nobody waits so long")


async def test_a_request_has_our_headers_and_no_others(
    connections: Connections, provider: Provider
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({}, headers={"Set-Cookie": "a=b; Path=/"})

    provider.handler = handler
    for is_stream in (False, True):
        async with await connections.send(at(provider.base_url), "/x", b"{}", is_stream=is_stream):
            pass
    for sent in provider.headers:
        headers = {name.lower(): value for name, value in sent.items()}
        assert set(headers) == {
            "host",
            "content-type",
            "accept",
            "accept-encoding",
            "user-agent",
            "authorization",
            "content-length",
        }
        assert headers["accept-encoding"] == "identity"
        assert headers["authorization"] == "Bearer sk-provider-secret-0123456789"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(
    api: ApiClient, provider: Provider, tenant: Tenant, status: int
) -> None:
    """It could carry our key to another host."""

    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": provider.base_url + "/elsewhere"})

    provider.handler = handler
    for stream in (False, True):
        answer = await api.chat(stream=stream)
        assert answer.status == 502
        assert "location" not in answer.headers
    assert len(provider.requests) == 2


async def test_a_refused_connection_may_be_retried(
    connections: Connections,
) -> None:
    with pytest.raises(UnableToReach):
        await connections.send(at("http://127.0.0.1:9/v1"), "/x", b"{}", is_stream=False)


async def test_a_provider_that_takes_no_connection_is_unreachable(
    connections: Connections, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its queue is full: the kernel answers nothing, so connecting takes as long as we let it."""
    monkeypatch.setattr(upstream, "CONNECT_SECONDS_MAX", 0.1)
    with socket.socket() as listener, contextlib.ExitStack() as filling:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            waiting = filling.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(("127.0.0.1", port))
        with pytest.raises(UnableToReach):
            await connections.send(at(f"http://127.0.0.1:{port}"), "/x", b"{}", is_stream=False)


async def test_waiting_for_a_free_connection_ends(
    monkeypatch: pytest.MonkeyPatch, provider: Provider
) -> None:
    monkeypatch.setattr(upstream, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(upstream, "ACQUIRE_SECONDS_MAX", 0.1)
    provider.handler = streamed(*TEXT, then="silence")
    connections = Connections()
    try:
        async with await connections.send(at(provider.base_url), "/x", b"{}", is_stream=True):
            with pytest.raises(UnableToReach):
                await connections.send(at(provider.base_url), "/x", b"{}", is_stream=True)
    finally:
        await connections.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_silence_is_a_504_that_must_not_be_retried(
    api: ApiClient,
    provider: Provider,
    tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    stream: bool,
) -> None:
    limit = "IDLE_SECONDS_MAX" if stream else "ANSWER_SECONDS_MAX"
    monkeypatch.setattr(upstream, limit, 0.1)
    provider.handler = silent
    answer = await api.chat(stream=stream)
    assert answer.status == 504
    assert answer.json["error"]["code"] == "upstream_timeout"
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    record = await record_of(tenant)
    assert (record.status, record.http_status) == (Status.TIMEOUT, 504)
    assert await balances(tenant) == (0, 0)


async def test_silence_inside_a_stream_ends_it_with_an_error(
    api: ApiClient, provider: Provider, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "IDLE_SECONDS_MAX", 0.1)
    provider.handler = streamed(*TEXT[:2], then="silence")
    answer = await api.chat(stream=True)
    assert answer.status == 200
    assert '"upstream_timeout"' in answer.messages[-1]
    assert "[DONE]" not in answer.messages
    assert (await record_of(tenant)).status == Status.TIMEOUT
    await asyncio.wait_for(provider.cut.wait(), timeout=5)


async def test_a_stream_that_never_ends_is_ended(
    api: ApiClient, provider: Provider, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "TOTAL_SECONDS_MAX", 0.15)
    provider.handler = streamed(*TEXT[:3] * 100)
    answer = await api.chat(stream=True)
    assert '"upstream_timeout"' in answer.messages[-1]
    assert (await record_of(tenant)).status == Status.TIMEOUT


async def test_an_answer_too_large_is_a_502_and_not_kept(
    api: ApiClient, provider: Provider, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def large(_: web.Request) -> web.Response:
        return web.json_response({"padding": "x" * 200_000})

    provider.handler = large
    monkeypatch.setattr(upstream.Answer.read, "__kwdefaults__", {"bytes_max": 100_000})
    answer = await api.chat()
    assert answer.status == 502
    assert answer.headers["x-should-retry"] == "false"
    assert (await record_of(tenant)).status == Status.TRUNCATED


@pytest.mark.parametrize(("status", "seen"), [(500, 502), (429, 503), (401, 502)])
async def test_a_huge_error_page_says_no_more_than_a_short_one(
    api: ApiClient, provider: Provider, status: int, seen: int
) -> None:
    async def huge(_: web.Request) -> web.Response:
        return web.Response(status=status, text="<html>" + "internal detail " * 50_000)

    provider.handler = huge
    answer = await api.chat()
    assert answer.status == seen
    assert "internal detail" not in answer.body.decode()
    assert len(answer.body) < 1000


async def test_an_answer_cut_in_the_middle_is_a_502(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "1000"})
        await response.prepare(request)
        await response.write(b'{"choices": [')
        assert request.transport is not None
        request.transport.abort()
        return response

    provider.handler = cut
    assert (await api.chat()).status == 502
    assert (await record_of(tenant)).status == Status.TRUNCATED


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\n{}",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n{}",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        b"",
    ],
)
async def test_a_provider_that_speaks_no_http_is_a_502(
    api: ApiClient, settings: Any, tenant: Tenant, raw: bytes
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings.PROVIDER_ENVIRONMENT["openai"]["base_url"] = f"http://127.0.0.1:{port}/v1"
    try:
        answer: Answer = await api.chat()
    finally:
        server.close()
        await server.wait_closed()
    assert answer.status == 502
    assert answer.json["error"]["code"] == "upstream_error"
    assert (await record_of(tenant)).cost_nanos == 0


async def test_a_compressed_answer_nobody_asked_for_is_a_502(
    api: ApiClient, provider: Provider
) -> None:
    async def compressed(_: web.Request) -> web.Response:
        return web.Response(body=b"\x1f\x8b\x08garbage", headers={"content-encoding": "gzip"})

    provider.handler = compressed
    assert (await api.chat()).status == 502


async def test_reading_stops_at_the_limit(connections: Connections, provider: Provider) -> None:
    async def large(_: web.Request) -> web.Response:
        return web.Response(body=b"x" * 100_000)

    provider.handler = large
    async with await connections.send(at(provider.base_url), "/x", b"{}", is_stream=False) as got:
        with pytest.raises(UpstreamCut):
            await got.read(bytes_max=99_999)
    async with await connections.send(at(provider.base_url), "/x", b"{}", is_stream=False) as got:
        assert len(await got.read(bytes_max=100_000)) == 100_000
    async with await connections.send(at(provider.base_url), "/x", b"{}", is_stream=False) as got:
        assert await got.read_start(5) == b"xxxxx"


async def test_closing_ends_whoever_is_reading(
    connections: Connections, provider: Provider
) -> None:
    provider.handler = streamed(*TEXT[:1], then="silence")
    async with await connections.send(at(provider.base_url), "/x", b"{}", is_stream=True) as got:
        pieces = got.pieces()
        await anext(pieces)
        asyncio.get_running_loop().call_later(0.05, got.close)
        with pytest.raises((UpstreamCut, StopAsyncIteration)):
            await asyncio.wait_for(anext(pieces), timeout=5)
    await asyncio.wait_for(provider.cut.wait(), timeout=5)


async def test_a_slow_provider_is_told_apart_from_a_gone_one(
    connections: Connections, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upstream, "ANSWER_SECONDS_MAX", 0.1)
    provider.handler = silent
    with pytest.raises(UpstreamTimedOut):
        await connections.send(at(provider.base_url), "/x", b"{}", is_stream=False)


async def test_a_settlement_that_takes_too_long_does_not_keep_the_answer(
    api: ApiClient, provider: Provider, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy, "SETTLE_SECONDS_MAX", 0.0)
    provider.handler = whole()
    assert (await api.chat()).status == 200

    async def is_settled() -> bool:
        return await UsageRecord.objects.filter(organization=tenant.organization).aexists()

    await until(is_settled)
