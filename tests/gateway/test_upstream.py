"""Calls to providers that misbehave: what is followed, waited for, read, and told the client."""

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from billing.models import UsageRecord
from gateway import proxy, upstream
from gateway.app import GatewayApp
from gateway.credentials import Upstream
from gateway.providers import PROVIDERS
from gateway.upstream import (
    Connections,
    ConnectTimedOut,
    Limits,
    UnableToReach,
    UpstreamCut,
    UpstreamTimedOut,
)
from tests.gateway.conftest import Answer, ApiClient, Provider, Tenant, shorten, until
from tests.gateway.test_attempts import add_fallback, by_model
from tests.gateway.test_proxy import DONE, TEXT, USAGE_CHUNK, balances, record_of, streamed, whole

Status = UsageRecord.Status


LIMITS = Limits(connect=5, first_byte=30, idle=30, total=60)


@pytest.fixture
async def connections() -> AsyncIterator[Connections]:
    opened = Connections(LIMITS)
    yield opened
    await opened.close()


async def ask(
    connections: Connections, base_url: str, *, is_stream: bool = False
) -> upstream.Answer:
    deadline = connections.new_deadline()
    return await connections.send(at(base_url), "/x", b"{}", is_stream=is_stream, deadline=deadline)


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
        async with await ask(connections, provider.base_url, is_stream=is_stream):
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


async def test_a_redirect_to_another_host_reaches_nobody_and_is_one_record(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    reached: list[asyncio.StreamWriter] = []
    other = await asyncio.start_server(lambda _, writer: reached.append(writer), "127.0.0.2", 0)
    address = other.sockets[0].getsockname()

    async def handler(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": f"http://127.0.0.2:{address[1]}/v1"})

    provider.handler = handler
    assert (await api.chat(stream=True)).status == 502
    other.close()
    await other.wait_closed()
    assert reached == []
    record = await record_of(tenant)
    assert (record.status, record.cost_nanos) == (Status.UPSTREAM_ERROR, 0)


async def test_a_provider_whose_name_nobody_knows_is_one_failed_call(
    api: ApiClient, settings: Any, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    settings.PROVIDER_ENVIRONMENT["openai"]["base_url"] = "http://nowhere.invalid/v1"
    answer = await api.chat()
    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_error")
    record = await record_of(tenant)
    assert (record.status, record.cost_nanos) == (Status.UPSTREAM_ERROR, 0)


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's context that nobody has reason to trust."""
    folder = tmp_path_factory.mktemp("self-signed")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    named = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *named, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


@pytest.mark.parametrize("is_encrypted", [True, False])
async def test_a_provider_without_a_certificate_to_trust_never_gets_the_key(
    api: ApiClient, settings: Any, tenant: Tenant, self_signed: ssl.SSLContext, is_encrypted: bool
) -> None:
    heard = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            heard.append(await reader.read(65536))
        writer.close()

    context = self_signed if is_encrypted else None
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    settings.PROVIDER_ENVIRONMENT["openai"]["base_url"] = f"https://127.0.0.1:{port}/v1"
    answer = await api.chat()
    server.close()
    await server.wait_closed()
    assert (answer.status, answer.json["error"]["code"]) == (502, "upstream_error")
    assert b"sk-" not in b"".join(heard)
    record = await record_of(tenant)
    assert (record.status, record.cost_nanos) == (Status.UPSTREAM_ERROR, 0)


async def test_a_refused_connection_may_be_retried(
    connections: Connections,
) -> None:
    with pytest.raises(UnableToReach):
        await ask(connections, "http://127.0.0.1:9/v1")


@contextlib.contextmanager
def deaf() -> Iterator[str]:
    """An address whose queue is full: the kernel answers nothing to whoever connects."""
    with socket.socket() as listener, contextlib.ExitStack() as filling:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(4):
            waiting = filling.enter_context(socket.socket())
            waiting.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}"


async def test_a_provider_that_takes_no_connection_is_unreachable(
    connections: Connections,
) -> None:
    connections.limits = replace(LIMITS, connect=0.1)
    with deaf() as base_url, pytest.raises(ConnectTimedOut):
        await ask(connections, base_url)


async def test_waiting_for_a_free_connection_ends(
    monkeypatch: pytest.MonkeyPatch, provider: Provider
) -> None:
    monkeypatch.setattr(upstream, "CONNECTIONS_MAX", 1)
    monkeypatch.setattr(upstream, "ACQUIRE_SECONDS_MAX", 0.1)
    provider.handler = streamed(*TEXT, then="silence")
    connections = Connections(LIMITS)
    try:
        async with await ask(connections, provider.base_url, is_stream=True):
            with pytest.raises(UnableToReach):
                await ask(connections, provider.base_url, is_stream=True)
    finally:
        await connections.close()


async def outcomes_of(tenant: Tenant) -> list[str]:
    """How the attempts of the only call ended that did not serve it to its end."""
    return [attempt["outcome"] for attempt in (await record_of(tenant)).attempts]


async def test_a_connection_that_takes_too_long_is_a_504_that_may_be_retried(
    api: ApiClient, app: GatewayApp, settings: Any, tenant: Tenant
) -> None:
    shorten(app, connect=0.1)
    with deaf() as base_url:
        settings.PROVIDER_ENVIRONMENT["openai"]["base_url"] = base_url
        answer = await api.chat()
    assert answer.status == 504
    assert answer.json["error"]["code"] == "upstream_timeout"
    assert answer.headers["x-should-retry"] == "true"
    assert await outcomes_of(tenant) == ["connect_timeout"] * 2
    assert await balances(tenant) == (0, 0)


@pytest.mark.parametrize(
    ("stream", "limit"), [(False, "total"), (True, "total"), (True, "first_byte")]
)
async def test_silence_is_a_504_that_must_not_be_retried(
    api: ApiClient, app: GatewayApp, provider: Provider, tenant: Tenant, stream: bool, limit: str
) -> None:
    shorten(app, **{limit: 0.1})
    provider.handler = silent
    answer = await api.chat(stream=stream)
    assert answer.status == 504
    assert answer.json["error"]["code"] == "upstream_timeout"
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers
    record = await record_of(tenant)
    assert (record.status, record.http_status) == (Status.TIMEOUT, 504)
    assert await outcomes_of(tenant) == [f"{limit}_timeout"]
    assert len(provider.requests) == 1
    assert await balances(tenant) == (0, 0)


async def test_a_stream_of_headers_alone_has_not_begun(
    api: ApiClient, app: GatewayApp, provider: Provider, tenant: Tenant
) -> None:
    """So its failure still has a status of its own."""
    shorten(app, first_byte=0.2)
    provider.handler = streamed(then="silence")
    answer = await api.chat(stream=True)
    assert answer.status == 504
    assert await outcomes_of(tenant) == ["first_byte_timeout"]
    await asyncio.wait_for(provider.cut.wait(), timeout=5)


async def test_an_empty_stream_is_a_failed_attempt(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = streamed()
    answer = await api.chat(stream=True)
    assert answer.status == 502
    assert await outcomes_of(tenant) == ["upstream_cut"] * 2


@pytest.mark.parametrize("first", [silent, streamed(then="silence")])
async def test_a_silent_stream_goes_to_the_next_candidate_and_is_billed_once(
    api: ApiClient, app: GatewayApp, provider: Provider, tenant: Tenant, first: Any
) -> None:
    await add_fallback()
    shorten(app, first_byte=0.3)
    provider.handler = by_model(gpt_4o=first, spare=streamed(*TEXT, b"data: [DONE]\n\n"))
    answer = await api.chat(stream=True)
    assert answer.messages[-1] == "[DONE]"
    assert await outcomes_of(tenant) == ["first_byte_timeout"]
    assert (await record_of(tenant)).provider == "local"
    assert [request["model"] for request in provider.requests] == ["gpt-4o", "spare"]


async def test_a_whole_answer_may_take_longer_than_a_streams_first_byte(
    api: ApiClient, app: GatewayApp, provider: Provider
) -> None:
    shorten(app, first_byte=0.01, idle=0.01)

    async def slow(request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return await whole()(request)

    provider.handler = slow
    assert (await api.chat()).status == 200


async def test_silence_inside_a_stream_ends_it_with_an_error(
    api: ApiClient, app: GatewayApp, provider: Provider, tenant: Tenant
) -> None:
    shorten(app, idle=0.2)
    provider.handler = streamed(*TEXT[:2], then="silence")
    answer = await api.chat(stream=True)
    assert answer.status == 200
    assert '"upstream_timeout"' in answer.messages[-1]
    assert "[DONE]" not in answer.messages
    assert (await record_of(tenant)).status == Status.TIMEOUT
    assert await outcomes_of(tenant) == ["idle_timeout"]
    await asyncio.wait_for(provider.cut.wait(), timeout=5)


async def test_a_whole_answer_that_stops_in_the_middle_is_a_504(
    api: ApiClient, app: GatewayApp, provider: Provider, tenant: Tenant
) -> None:
    shorten(app, idle=0.2)

    async def half(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-length": "1000"})
        await response.prepare(request)
        await response.write(b'{"choices": [')
        await asyncio.sleep(30)
        return response

    provider.handler = half
    assert (await api.chat()).status == 504
    assert await outcomes_of(tenant) == ["idle_timeout"]


async def dripping(request: web.Request) -> web.StreamResponse:
    """A byte at a time, for ever: never silent for long, and soon inside a message that lasts."""
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    await response.write(TEXT[0])
    while True:
        await response.write(b":")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("endless", [streamed(*TEXT[:3] * 1000), dripping])
async def test_a_stream_that_never_ends_is_ended(
    api: ApiClient, app: GatewayApp, provider: Provider, tenant: Tenant, endless: Any
) -> None:
    shorten(app, total=0.5)
    provider.handler = endless
    answer = await api.chat(stream=True)
    assert '"upstream_timeout"' in answer.messages[-1]
    assert (await record_of(tenant)).status == Status.TIMEOUT
    assert await outcomes_of(tenant) == ["total_timeout"]


async def test_pieces_that_keep_coming_outlast_the_idle_limit(
    connections: Connections, provider: Provider
) -> None:
    connections.limits = replace(LIMITS, first_byte=10, idle=1)

    async def steady(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(15):
            await response.write(b"x")
            await asyncio.sleep(0.1)
        return response

    provider.handler = steady
    async with await ask(connections, provider.base_url, is_stream=True) as got:
        assert await got.read() == b"x" * 15


async def test_a_client_that_leaves_before_the_first_byte_ends_the_attempt(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = silent
    await api.chat(stream=True, hang_up_when=provider.asked)
    await asyncio.wait_for(provider.cut.wait(), timeout=5)
    assert (await record_of(tenant)).status == Status.CLIENT_GONE
    assert len(provider.requests) == 1


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
    async with await ask(connections, provider.base_url) as got:
        with pytest.raises(UpstreamCut):
            await got.read(bytes_max=99_999)
    async with await ask(connections, provider.base_url) as got:
        assert len(await got.read(bytes_max=100_000)) == 100_000
    async with await ask(connections, provider.base_url) as got:
        assert await got.read_start(5) == b"xxxxx"


async def test_closing_ends_whoever_is_reading(
    connections: Connections, provider: Provider
) -> None:
    provider.handler = streamed(*TEXT[:1], then="silence")
    async with await ask(connections, provider.base_url, is_stream=True) as got:
        await got.next_piece()
        asyncio.get_running_loop().call_later(0.05, got.close)
        with pytest.raises(UpstreamCut):
            await asyncio.wait_for(got.next_piece(), timeout=5)
    await asyncio.wait_for(provider.cut.wait(), timeout=5)


async def test_a_slow_provider_is_told_apart_from_a_gone_one(
    connections: Connections, provider: Provider
) -> None:
    connections.limits = replace(LIMITS, total=0.1)
    provider.handler = silent
    with pytest.raises(UpstreamTimedOut):
        await ask(connections, provider.base_url)


@pytest.mark.parametrize("is_stream", [False, True])
async def test_nobody_sees_the_end_of_a_call_whose_settlement_takes_too_long(
    api: ApiClient,
    provider: Provider,
    tenant: Tenant,
    monkeypatch: pytest.MonkeyPatch,
    is_stream: bool,
) -> None:
    monkeypatch.setattr(proxy, "SETTLE_SECONDS_MAX", 0.0)
    provider.handler = streamed(*TEXT, USAGE_CHUNK, DONE) if is_stream else whole()
    answer = await api.chat(stream=is_stream)
    assert b"settlement_unconfirmed" in answer.body
    assert b"[DONE]" not in answer.body
    assert is_stream or answer.status == 503
    # It was written before the wait began, and is booked all the same.
    records = UsageRecord.objects.filter(organization=tenant.organization)
    await until(records.aexists)
    assert [record.status async for record in records] == [UsageRecord.Status.FINISHED]
