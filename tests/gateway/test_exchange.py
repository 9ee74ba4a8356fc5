"""One exchange over ASGI: how a body is read, and what becomes of slow, large or lost clients."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from billing.models import UsageRecord
from gateway import exchange as exchange_module
from gateway.app import GatewayApp
from gateway.exchange import WRITE, ClientGone, Exchange
from gateway.refusals import Refusal
from tests.gateway.conftest import ApiClient, Provider
from tests.gateway.test_proxy import whole

Message = dict[str, Any]
DISCONNECT: Message = {"type": "http.disconnect"}


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


class Wire:
    """Both ends of an exchange: hands out messages, keeps what is sent; then stays silent."""

    def __init__(self, *messages: Message, headers: dict[str, str] | None = None) -> None:
        self.incoming = list(messages)
        self.sent: list[Message] = []
        self.headers = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]

    async def receive(self) -> Message:
        if not self.incoming:
            await asyncio.Event().wait()
        return self.incoming.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    def exchange(self) -> Exchange:
        scope = {"method": "POST", "path": "/api/ai/v1/x", "headers": self.headers}
        return Exchange(scope, self.receive, self.send, "req_1")


async def send(exchange: Exchange, piece: bytes) -> None:
    """A piece of a stream, through a server that must be waited for."""
    assert not exchange.write_piece(piece)
    await exchange.drain()


async def refusal_of(wire: Wire, bytes_max: int = 10) -> Refusal:
    with pytest.raises(Refusal) as raised:
        await wire.exchange().read_body(bytes_max)
    return raised.value


@pytest.mark.parametrize(
    "messages",
    [
        [part(b"0123456789", more=False)],
        [part(b"01234"), part(b"56789", more=False)],
        [part(b""), part(b"0123456789"), part(b"", more=False)],
        [*(part(bytes([byte])) for byte in b"0123456789"), part(b"", more=False)],
    ],
)
async def test_a_body_is_the_same_however_it_arrives(messages: list[Message]) -> None:
    assert await Wire(*messages).exchange().read_body(10) == b"0123456789"


async def test_an_empty_body_is_one_too() -> None:
    assert await Wire(part(b"", more=False)).exchange().read_body(10) == b""
    assert await Wire({"type": "http.request"}).exchange().read_body(10) == b""


async def test_a_body_declared_too_large_is_refused_before_it_is_read() -> None:
    wire = Wire(part(b"x"), headers={"content-length": "11"})
    refusal = await refusal_of(wire)
    assert (refusal.status, refusal.code) == (413, "request_too_large")
    assert refusal.message == "Maximum content size limit (10) exceeded (11 bytes read)"
    assert refusal.headers["connection"] == "close"
    assert len(wire.incoming) == 1


async def test_a_body_that_turns_out_too_large_is_refused_while_it_arrives() -> None:
    for declared in ({}, {"content-length": "5"}, {"content-length": "-1"}):
        wire = Wire(*[part(b"xxxx")] * 5, headers=declared)
        refusal = await refusal_of(wire)
        assert refusal.status == 413
        assert len(wire.incoming) == 2


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "identity, gzip", "x"])
async def test_an_encoded_body_is_refused(encoding: str) -> None:
    refusal = await refusal_of(Wire(headers={"content-encoding": encoding}))
    assert (refusal.status, refusal.code) == (415, "unsupported_encoding")


@pytest.mark.parametrize("encoding", ["identity", "Identity ", ""])
async def test_a_body_declared_plain_is_read(encoding: str) -> None:
    wire = Wire(part(b"{}", more=False), headers={"content-encoding": encoding})
    assert await wire.exchange().read_body(10) == b"{}"


async def test_a_body_that_stops_arriving_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "BODY_SECONDS_MAX", 0.05)
    refusal = await refusal_of(Wire(part(b"x")))
    assert (refusal.status, refusal.code) == (408, "request_timeout")
    assert refusal.headers["connection"] == "close"


async def test_a_body_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange_module, "BODY_SECONDS_TOTAL_MAX", 0.1)
    wire = Wire()

    async def trickle() -> Message:
        await asyncio.sleep(0.01)
        return part(b"x")

    wire.receive = trickle  # type: ignore[method-assign]
    refusal = await refusal_of(wire, bytes_max=1_000_000)
    assert refusal.status == 408


async def test_a_client_that_leaves_in_its_body_is_noticed() -> None:
    with pytest.raises(ClientGone):
        await Wire(part(b"x"), DISCONNECT).exchange().read_body(10)


async def test_leaving_is_noticed_while_the_answer_is_made() -> None:
    wire = Wire(part(b"", more=False), DISCONNECT)
    exchange = wire.exchange()
    await exchange.read_body(10)
    gone = asyncio.Event()
    exchange.watch(gone.set)
    await asyncio.wait_for(gone.wait(), timeout=1)
    assert exchange.is_gone
    with pytest.raises(ClientGone):
        exchange.write_piece(b"x")
    with pytest.raises(ClientGone):
        await exchange.drain()
    exchange.unwatch()
    exchange.unwatch()


async def test_a_stream_tells_proxies_not_to_buffer_it() -> None:
    wire = Wire()
    exchange = wire.exchange()
    await exchange.start_stream()
    await send(exchange, b"data: 1\n\n")
    await exchange.end_stream()
    start, piece, end = wire.sent
    headers = dict(start["headers"])
    assert headers[b"content-type"] == b"text/event-stream"
    assert headers[b"cache-control"] == b"no-cache, no-transform"
    assert headers[b"x-accel-buffering"] == b"no"
    assert b"content-length" not in headers
    assert piece["more_body"] is True
    assert not end.get("more_body")


# --- through the API --------------------------------------------------------------------------


async def call(app: GatewayApp, key: str, receive: Callable[[], Any], **headers: str) -> Wire:
    """A chat completion whose body comes from `receive`."""
    wire = Wire()
    sent = {"authorization": f"Bearer {key}", **headers}
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/api/ai/v1/chat/completions",
        "headers": [(name.encode(), value.encode()) for name, value in sent.items()],
    }
    await app(scope, receive, wire.send)
    return wire


async def test_the_limit_of_the_ai_api_is_the_settings(
    api: ApiClient, settings: Any, provider: Provider
) -> None:
    provider.handler = whole()
    settings.AI_BODY_BYTES_MAX = 1000
    assert (await api.chat()).status == 200
    answer = await api.chat(padding="x" * 1000)
    assert answer.status == 413
    assert answer.json["error"]["code"] == "request_too_large"
    assert answer.headers["connection"] == "close"
    assert len(provider.requests) == 1


async def test_a_wrong_key_is_refused_before_the_body_is_waited_for(app: GatewayApp) -> None:
    async def receive() -> Message:
        raise AssertionError("the body was read")

    wire = await call(app, "wrong", receive)
    assert wire.sent[0]["status"] == 401


async def test_a_client_that_leaves_before_its_body_ends_costs_nothing(
    app: GatewayApp, api: ApiClient, provider: Provider
) -> None:
    messages = [part(b'{"model": "gpt-4o"'), DISCONNECT]

    async def receive() -> Message:
        return messages.pop(0)

    wire = await call(app, api.key, receive)
    assert wire.sent == []
    assert provider.requests == []
    assert not await UsageRecord.objects.aexists()


async def test_an_encoded_body_is_refused_by_the_api(api: ApiClient) -> None:
    answer = await api.call(
        "/chat/completions", raw=b"\x1f\x8b", headers={"content-encoding": "gzip"}
    )
    assert answer.status == 415


async def test_a_body_in_many_pieces_is_forwarded_whole(
    app: GatewayApp, api: ApiClient, provider: Provider
) -> None:
    provider.handler = whole()
    body = json.dumps(
        {"model": "gpt-4o", "messages": [{"role": "user", "content": "ü" * 300}]}
    ).encode()
    pieces = [part(body[start : start + 7]) for start in range(0, len(body), 7)]
    pieces.append(part(b"", more=False))
    waiting = asyncio.Event()

    async def receive() -> Message:
        if not pieces:
            await waiting.wait()
        return pieces.pop(0)

    wire = await call(app, api.key, receive)
    assert wire.sent[0]["status"] == 200
    assert provider.requests[0]["messages"][0]["content"] == "ü" * 300


@pytest.mark.parametrize("is_last", [False, True])
async def test_a_client_that_stops_reading_its_stream_counts_as_gone(is_last: bool) -> None:
    wire = Wire()
    gone: list[bool] = []

    async def stall(message: Message) -> None:
        if message.get("body") == b"unread":
            await asyncio.Event().wait()

    exchange = Exchange(
        {"method": "POST", "path": "/", "headers": []}, wire.receive, stall, "req_1"
    )
    exchange.watch(lambda: gone.append(True))
    await exchange.start_stream(stall_seconds=0.05)
    await send(exchange, b"read")
    with pytest.raises(ClientGone):
        await (exchange.end_stream(b"unread") if is_last else send(exchange, b"unread"))
    assert exchange.is_gone
    assert gone == [True]
    exchange.unwatch()


async def test_a_server_that_writes_at_once_is_waited_for_only_when_its_client_is_slow() -> None:
    wire, written, keeps_up = Wire(), [], True

    def write(piece: bytes) -> bool:
        written.append(piece)
        return keeps_up

    scope = {"method": "POST", "path": "/", "headers": [], "extensions": {WRITE: {"write": write}}}
    exchange = Exchange(scope, wire.receive, wire.send, "req_1")
    await exchange.start_stream()
    assert exchange.write_piece(b"data: 1\n\n")
    keeps_up = False
    assert not exchange.write_piece(b"data: 2\n\n")
    await exchange.drain()
    assert written == [b"data: 1\n\n", b"data: 2\n\n"]
    assert [message.get("body", b"") for message in wire.sent] == [b"", b""]


async def test_the_connection_of_a_client_that_takes_nothing_is_not_left_open() -> None:
    wire, aborted = Wire(), []

    async def stall(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    offered = {"write": lambda piece: False, "abort": lambda: aborted.append(True)}
    scope = {"method": "POST", "path": "/", "headers": [], "extensions": {WRITE: offered}}
    exchange = Exchange(scope, wire.receive, stall, "req_1")
    await exchange.start_stream(stall_seconds=0.05)
    with pytest.raises(ClientGone):
        await send(exchange, b"unread")
    assert aborted == [True]
    exchange.unwatch()


async def test_a_stream_with_nothing_to_say_does_not_make_its_client_a_slow_one() -> None:
    exchange = Wire().exchange()
    await exchange.start_stream(stall_seconds=0.01)
    await asyncio.sleep(0.1)
    await send(exchange, b"read")
    exchange.unwatch()


async def test_a_cancelled_stream_is_cancelled_and_its_client_not_gone() -> None:
    async def stall(message: Message) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    exchange = Exchange(
        {"method": "POST", "path": "/", "headers": []}, Wire().receive, stall, "req_1"
    )
    await exchange.start_stream(stall_seconds=60)
    sending = asyncio.create_task(send(exchange, b"unread"))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    exchange.unwatch()
