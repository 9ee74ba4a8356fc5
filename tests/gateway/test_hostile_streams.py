"""A provider's stream that is HTTP, and strange: one record each, with amounts that can be true."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from billing.models import UsageRecord
from tests.gateway.conftest import Answer, ApiClient, Tenant
from tests.gateway.test_proxy import record_of

Status = UsageRecord.Status
Ask = Callable[[ApiClient], Awaitable[Answer]]
DONE = b"data: [DONE]\n\n"
TOKENS = 3
SERIOUS = {"prompt_tokens": 12, "completion_tokens": TOKENS, "total_tokens": 15}


def chunk(text: str = "", usage: Any = None, *, choices: bool = True) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": None}
    body = {"id": "c", "model": "gpt-4o", "choices": [choice] if choices else []}
    return b"data: " + json.dumps({**body, "usage": usage}).encode() + b"\n\n"


def report(usage: Any) -> bytes:
    return chunk(usage=usage, choices=False)


def counts(number: Any) -> dict[str, Any]:
    return {"prompt_tokens": number, "completion_tokens": number, "total_tokens": number}


CONTENT = chunk("a") * TOKENS
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n"
BODIES = {
    "two ends": CONTENT + report(SERIOUS) + DONE + DONE,
    "content after the end": CONTENT + report(SERIOUS) + DONE + chunk("more") * 5,
    "usage twice": CONTENT + report(SERIOUS) + report(SERIOUS) + DONE,
    "usage null": CONTENT + report(None) + DONE,
    "usage zero": CONTENT + report(counts(0)) + DONE,
    "usage negative": CONTENT + report(counts(-5)) + DONE,
    "usage enormous": CONTENT + report(counts(10**18)) + DONE,
    "usage beyond 64 bits": CONTENT + report(counts(10**30)) + DONE,
    "usage as text": CONTENT + report(counts("7")) + DONE,
    "usage first": report(SERIOUS) + CONTENT + DONE,
    "line ends of every kind": (
        CONTENT.replace(b"\n\n", b"\r\n\r\n", 1).replace(b"\n\n", b"\n\r\n", 1)
        + report(SERIOUS).replace(b"\n\n", b"\r\n\n")
        + DONE
    ),
    "comments and fields nobody knows": (
        b": hello\n\n: \n"
        + CONTENT.replace(b"data:", b": x\nid: 7\nretry: 1\nwhat: ever\ndata:")
        + report(SERIOUS)
        + b":\n\n"
        + DONE
    ),
    "no space after the colon": (CONTENT + report(SERIOUS) + DONE).replace(b"data: ", b"data:"),
    "NUL in the text": chunk("\0") * TOKENS + report(SERIOUS) + DONE,
    "NUL bytes": CONTENT.replace(b"\n\n", b"\n\0\n\n") + b"\0\n\n" + report(SERIOUS) + DONE,
}


@pytest.fixture
async def says(settings: Any) -> AsyncIterator[Callable[[bytes], None]]:
    """Tell the provider what bytes to answer with."""
    answers: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answers[-1])
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings.PROVIDER_ENVIRONMENT["openai"]["base_url"] = f"http://127.0.0.1:{port}/v1"
    yield answers.append
    server.close()
    await server.wait_closed()


async def forwarded(api: ApiClient) -> Answer:
    """A stream for a client of the provider's own wire."""
    return await api.chat(stream=True)


async def translated(api: ApiClient) -> Answer:
    """A stream for a client of another wire."""
    asked = [{"role": "user", "content": "Hello"}]
    body = {"model": "gpt-4o", "messages": asked, "max_tokens": 100, "stream": True}
    return await api.call("/messages", body)


WAYS = (forwarded, translated)


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize("body", BODIES)
async def test_a_strange_stream_is_one_record_of_what_can_be_true(
    api: ApiClient, says: Callable[[bytes], None], tenant: Tenant, body: str, ask: Ask
) -> None:
    says(HEAD + b"\r\n" + BODIES[body])
    answer = await ask(api)
    assert answer.status == 200
    record = await record_of(tenant)
    # Either what the provider says in earnest, or an estimate by what was relayed.
    assert record.status == Status.FINISHED
    assert record.output_tokens == (0 if body == "usage zero" else TOKENS)
    assert 0 <= record.input_tokens < 1_000
    assert 0 <= record.cost_nanos < 10_000_000


@pytest.mark.parametrize("ask", WAYS)
async def test_an_event_of_ten_megabytes_ends_its_stream_and_is_not_relayed(
    api: ApiClient, says: Callable[[bytes], None], tenant: Tenant, ask: Ask
) -> None:
    says(HEAD + b"\r\n" + CONTENT + chunk("x" * 10_000_000) + report(SERIOUS) + DONE)
    answer = await ask(api)
    assert "failed to answer this request" in answer.messages[-1]
    assert b"x" * 100 not in answer.body
    record = await record_of(tenant)
    assert (record.status, record.output_tokens) == (Status.UPSTREAM_ERROR, TOKENS)


@pytest.mark.parametrize(
    ("ask", "status"), [(forwarded, Status.FINISHED), (translated, Status.UPSTREAM_ERROR)]
)
async def test_a_nul_where_json_has_no_place_for_it_is_one_record(
    api: ApiClient, says: Callable[[bytes], None], tenant: Tenant, ask: Ask, status: str
) -> None:
    says(HEAD + b"\r\n" + CONTENT + chunk("~").replace(b"~", b"\0") + report(SERIOUS) + DONE)
    await ask(api)
    record = await record_of(tenant)
    assert record.status == status
    assert record.output_tokens <= TOKENS


async def test_a_stream_of_single_bytes_is_read_whole(
    api: ApiClient, says: Callable[[bytes], None], tenant: Tenant
) -> None:
    body = CONTENT + report(SERIOUS) + DONE
    framed = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    says(HEAD + b"transfer-encoding: chunked\r\n\r\n" + framed)
    answer = await api.chat(stream=True)
    assert answer.body.count(b"data: [DONE]") == 1
    record = await record_of(tenant)
    assert (record.status, record.output_tokens) == (Status.FINISHED, TOKENS)
    assert record.input_tokens == 12


async def test_a_compressed_stream_nobody_asked_for_is_one_failed_call(
    api: ApiClient, says: Callable[[bytes], None], tenant: Tenant
) -> None:
    says(HEAD + b"content-encoding: gzip\r\n\r\n" + gzip.compress(CONTENT + report(SERIOUS) + DONE))
    answer = await api.chat(stream=True)
    assert b"upstream_error" in answer.body
    record = await record_of(tenant)
    assert record.status in (Status.UPSTREAM_ERROR, Status.TRUNCATED)
    assert record.cost_nanos == 0


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        (b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + HEAD, {Status.FINISHED}),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD, {Status.FINISHED}),
        (HEAD + b"content-length: 100000\r\n", {Status.TRUNCATED}),
        # What follows the declared body is refused with all of it or not, as it arrives.
        (HEAD + b"content-length: 200\r\n", {Status.TRUNCATED, Status.UPSTREAM_ERROR}),
    ],
)
async def test_strange_heads_are_read_as_http_says(
    api: ApiClient, says: Callable[[bytes], None], tenant: Tenant, head: bytes, statuses: set[str]
) -> None:
    says(
        head + b"\r\n" + CONTENT + report(SERIOUS) + (DONE if Status.FINISHED in statuses else b"")
    )
    await api.chat(stream=True)
    record = await record_of(tenant)
    assert record.status in statuses
    assert record.output_tokens <= TOKENS
