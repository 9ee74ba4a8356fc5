"""The first layer: heads and bodies that nothing behind it should see."""

import asyncio
import json
from typing import Any

import pytest

from config import edge


def scope(path: bytes = b"/", **more: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "path": path.decode(),
        "raw_path": path,
        "headers": [(b"host", b"localhost:8000")],
        **more,
    }


def with_hosts(*hosts: bytes) -> dict[str, Any]:
    return scope(headers=[(b"host", host) for host in hosts])


@pytest.mark.parametrize(
    "host",
    [
        b"localhost",
        b"LOCALHOST:8000",
        b"app-0123456789.apps.example.com",
        b"127.0.0.1:8000",
        b"[::1]:8000",
        b"xn--bcher-kva.example",
        b"a" * 63 + b".example",
    ],
)
def test_honest_hosts_pass(host: bytes) -> None:
    assert edge.refusal_for(with_hosts(host)) is None


@pytest.mark.parametrize(
    "hosts",
    [
        (),
        (b"localhost", b"localhost"),
        (b"localhost", b"evil.example"),
        (b"",),
        (b"localhost/admin",),
        (b"localhost?x",),
        (b"user@localhost",),
        (b"local host",),
        (b"localhost:port",),
        (b"localhost:800000",),
        (b"localhost,evil.example",),
        (b".example.com",),
        (b"example.com.",),
        (b"-example.com",),
        (b"ex\xc3\xa4mple.com",),
        (b"[::1",),
        (b"localhost\r\nx: y",),
        (b"a" * 300,),
    ],
)
def test_no_host_two_hosts_and_bad_hosts_are_refused(hosts: tuple[bytes, ...]) -> None:
    refusal = edge.refusal_for(with_hosts(*hosts))
    assert refusal is not None
    assert refusal[0] == 400
    assert "Host" in refusal[1]


@pytest.mark.parametrize(
    "path",
    [
        b"/%2e%2e/admin",
        b"/a/%2E./b",
        b"/a%2fb",
        b"/a%2Fb",
        b"/a%5cb",
        b"/a\\b",
        b"//evil.example/",
        b"/a//b",
        b"/a%00",
        b"/../etc/passwd",
        b"/api/ai/../data/x",
        b"/a/./b",
        b"/a/..",
        b"/.",
    ],
)
def test_paths_that_may_be_read_in_two_ways_are_refused(path: bytes) -> None:
    refusal = edge.refusal_for(scope(path))
    assert refusal is not None
    assert refusal[0] == 400
    # A server that does not give the raw path is no way around.
    if b"%" not in path:
        del (without := scope(path))["raw_path"]
        assert edge.refusal_for(without) is not None


@pytest.mark.parametrize(
    "path",
    [
        b"/",
        b"/.well-known/security.txt",
        b"/_next/static/chunks/app-1.2.js",
        b"/a/...",
        b"/a..b/c.",
        b"/caf%C3%A9/%20",
        b"/api/ai/v1/models/claude-sonnet-4.5",
    ],
)
def test_honest_paths_pass(path: bytes) -> None:
    assert edge.refusal_for(scope(path)) is None


def test_headers_are_limited_in_number_and_size() -> None:
    host = (b"host", b"localhost")

    def refused(*headers: tuple[bytes, bytes]) -> tuple[int, str] | None:
        return edge.refusal_for(scope(headers=[host, *headers]))

    assert refused(*[(b"x", b"y")] * (edge.HEADERS_MAX - 1)) is None
    assert (refused(*[(b"x", b"y")] * edge.HEADERS_MAX) or (0,))[0] == 431
    left = edge.HEADER_BYTES_MAX - len(b"hostlocalhost")
    assert refused((b"x", b"y" * (left - 1))) is None
    assert (refused((b"x", b"y" * left)) or (0,))[0] == 431
    assert (refused((b"x" * left, b"y")) or (0,))[0] == 431


def test_the_host_is_read_without_port_and_case() -> None:
    assert edge.host_of(with_hosts(b"App-1.Localhost:8000")) == "app-1.localhost"
    assert edge.host_of(with_hosts(b"[::1]:8000")) == "[::1]"
    assert edge.host_of(with_hosts(b"localhost")) == "localhost"


async def test_a_refusal_reads_like_both_apis() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await edge.send_refusal(send, 400, "No.")
    headers = dict(sent[0]["headers"])
    assert headers[b"connection"] == b"close"
    assert headers[b"x-request-id"].startswith(b"req_")
    assert headers[b"x-content-type-options"] == b"nosniff"
    assert not [name for name in headers if name.startswith(b"access-control")]
    assert int(headers[b"content-length"]) == len(sent[1]["body"])
    error = json.loads(sent[1]["body"])["error"]
    assert error == {
        "message": "No.",
        "type": "invalid_request_error",
        "param": None,
        "code": "bad_request",
    }


@pytest.mark.parametrize(
    ("length", "is_refused"),
    [(b"10", False), (b"11", True), (b"1" * 30, True), (b"-5", False), (b"", False)],
)
def test_a_declared_length_is_believed_when_it_is_too_much(length: bytes, is_refused: bool) -> None:
    declared = scope(headers=[(b"content-length", length)])
    assert edge.declared_too_large(declared, 10) is is_refused


def receive_from(*messages: dict[str, Any]) -> edge.Receive:
    left = list(messages)

    async def receive() -> dict[str, Any]:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


async def test_a_body_is_counted_whatever_was_declared() -> None:
    receive = edge.limited(receive_from(part(b"xxxxx"), part(b"xxxxx"), part(b"x")), 10)
    await receive()
    await receive()
    with pytest.raises(edge.BodyTooLarge):
        await receive()


async def test_a_body_that_stops_arriving_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "BODY_SECONDS_MAX", 0.05)
    receive = edge.limited(receive_from(part(b"x")), 10)
    await receive()
    with pytest.raises(edge.BodyTooSlow):
        await receive()


async def test_waiting_for_the_end_of_the_connection_has_no_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(edge, "BODY_SECONDS_MAX", 0.05)
    receive = edge.limited(receive_from(part(b"x", more=False)), 10)
    await receive()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(receive(), timeout=0.15)
