"""A provider's stream that breaks after it began: every client notices, and one record says so.

Every client's wire to every provider's wire, forwarded and translated, over real sockets and heard
by the real Python SDKs. What breaks it: an error of the provider's, a connection that is reset or
closed in the middle, garbage in several forms, and silence.
"""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import anthropic
import httpx2
import openai
import pytest
from google.genai import errors as genai_errors

from billing.models import UsageRecord
from tests.gateway.conftest import Tenant, make_tenant
from tests.gateway.sdks import SDKS, Changing, Sdk
from tests.gateway.served import MODELS, STREAM_HEAD, Asked, Script, Served, framed, reset

Status, Source = UsageRecord.Status, UsageRecord.Source
TEXT = "Hello world"


def message(data: Any, event: str = "") -> bytes:
    """One server-sent event; what is not bytes is sent as JSON."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return (f"event: {event}\n".encode() if event else b"") + b"data: " + raw + b"\n\n"


# --- what providers say ----------------------------------------------------------------------


MODEL = {"model": "m"}


def chat(delta: dict[str, Any]) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": None}
    return message({"id": "c", "object": "chat.completion.chunk", "choices": [choice], **MODEL})


def typed(kind: str, **members: Any) -> bytes:
    return message({"type": kind, **members}, kind)


def gemini(text: str) -> bytes:
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}}
    usage = {"promptTokenCount": 12, "candidatesTokenCount": 2}
    return message({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m"})


RESPONSE = {"id": "resp_1", "object": "response", "created_at": 1, "output": [], **MODEL}
ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "status": "in_progress"}
PART = {"type": "output_text", "text": "", "annotations": []}
AT = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
CLAUDE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "content": [],
    **MODEL,
    "usage": {"input_tokens": 12, "output_tokens": 1},
}
BEGINNINGS = {
    "chat": (
        chat({"role": "assistant", "content": ""}) + chat({"content": "Hello "}),
        chat({"content": "world"}),
    ),
    "responses": (
        typed("response.created", sequence_number=0, response=RESPONSE)
        + typed("response.in_progress", sequence_number=1, response=RESPONSE)
        + typed(
            "response.output_item.added",
            sequence_number=2,
            output_index=0,
            item={**ITEM, "content": []},
        )
        + typed("response.content_part.added", sequence_number=3, part=PART, **AT)
        + typed("response.output_text.delta", sequence_number=4, delta="Hello ", **AT),
        typed("response.output_text.delta", sequence_number=5, delta="world", **AT),
    ),
    "anthropic": (
        typed("message_start", message=CLAUDE)
        + typed("content_block_start", index=0, content_block={"type": "text", "text": ""})
        + typed("content_block_delta", index=0, delta={"type": "text_delta", "text": "Hello "}),
        typed("content_block_delta", index=0, delta={"type": "text_delta", "text": "world"}),
    ),
    "gemini": (gemini("Hello "), gemini("world")),
}
SECRET = "org-Ab12345678 is out of money"
FAILED = {"status": "failed", "error": {"code": "server_error", "message": SECRET}}
ERRORS = {
    "chat": message({"error": {"message": SECRET, "type": "server_error", "code": None}}),
    "responses": typed(
        "error",
        sequence_number=6,
        error={"type": "server_error", "code": "server_error", "message": SECRET, "param": None},
    )
    + typed("response.failed", sequence_number=7, response={**RESPONSE, **FAILED}),
    "anthropic": typed("error", error={"type": "overloaded_error", "message": SECRET}),
    "gemini": message({"error": {"code": 503, "message": SECRET, "status": "UNAVAILABLE"}}),
}


def garbled(wire: str, data: bytes) -> bytes:
    """A message whose data is this, in the form of the wire."""
    events = {"responses": "response.output_text.delta", "anthropic": "content_block_delta"}
    return message(data, events.get(wire, ""))


# --- what breaks them ------------------------------------------------------------------------


async def _end(writer: asyncio.StreamWriter) -> None:
    writer.write(b"0\r\n\r\n")


async def _reset(writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def _wait(_: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


@dataclass(frozen=True)
class Fault:
    """What the provider sends on its wire after it began, how it goes on, and the ending that is
    recorded."""

    sends: Callable[[str], bytes]
    then: Callable[[asyncio.StreamWriter], Any]
    status: str
    code: str = "upstream_error"


def half(wire: str) -> bytes:
    """The first half of a message, in the middle of a chunk."""
    return framed(BEGINNINGS[wire][1])[:-20]


def whole_half(wire: str) -> bytes:
    """The first half of a message as a chunk of its own."""
    return framed(BEGINNINGS[wire][1][:-20])


FAULTS = {
    "an error": Fault(lambda wire: framed(ERRORS[wire]), _end, Status.UPSTREAM_ERROR),
    "a reset inside a chunk": Fault(half, _reset, Status.TRUNCATED),
    "an end inside a message": Fault(whole_half, _end, Status.TRUNCATED),
    "an end without the last message": Fault(
        lambda wire: framed(BEGINNINGS[wire][1]), _end, Status.TRUNCATED
    ),
    "half of an object": Fault(
        lambda wire: framed(garbled(wire, b'{"type": "content_block_delta", "choi')),
        _end,
        Status.UPSTREAM_ERROR,
    ),
    "a proxy's error page": Fault(
        lambda wire: framed(garbled(wire, b"<html>502 Bad Gateway</html>")),
        _end,
        Status.UPSTREAM_ERROR,
    ),
    "bytes that are no text": Fault(
        lambda wire: framed(BEGINNINGS[wire][1].replace(b"world", b"w\xff\xferld")),
        _end,
        Status.UPSTREAM_ERROR,
    ),
    "silence": Fault(lambda _: b"", _wait, Status.TIMEOUT, "upstream_timeout"),
}


def breaking(wire: str, fault: Fault, heard: threading.Event) -> Script:
    """A stream of this wire that breaks as soon as the client has heard its beginning."""

    async def script(_: Asked, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM_HEAD + framed(BEGINNINGS[wire][0]))
        await asyncio.to_thread(heard.wait, 20)
        writer.write(fault.sends(wire))
        await writer.drain()
        await fault.then(writer)

    return script


# --- what clients hear -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def tenant(served: Served) -> Tenant:
    return make_tenant(dollars=1000)


@pytest.fixture(scope="module")
def sdks(served: Served, tenant: Tenant) -> Iterator[dict[str, Sdk]]:
    transport = Changing()
    transport.key = tenant.key
    with httpx2.Client(transport=transport, timeout=30) as http:
        yield {kind.wire: kind(http, served.url) for kind in SDKS}


def text_of(wire: str, piece: Any) -> str:
    """The text in a piece of a stream, as the SDK shows it."""
    match wire:
        case "chat":
            return "".join(choice.delta.content or "" for choice in piece.choices)
        case "responses":
            return piece.delta if piece.type == "response.output_text.delta" else ""
        case "anthropic":
            return piece.delta.text if piece.type == "content_block_delta" else ""
        case _:
            return piece.text or ""


def listen(wire: str, pieces: Iterator[Any], texts: list[str], heard: threading.Event) -> None:
    """Read a stream to its end, and say so when text has arrived."""
    for piece in pieces:
        if text := text_of(wire, piece):
            texts.append(text)
            heard.set()


MESSAGES = {
    "upstream_error": "The model's provider failed to answer this request.",
    "upstream_timeout": "The model's provider did not answer in time.",
}


def check_openai(error: Any, code: str) -> None:
    assert type(error) is openai.APIError
    assert (error.code, error.message) == (code, MESSAGES[code])
    assert error.type == "server_error"


def check_anthropic(error: Any, code: str) -> None:
    assert type(error) is anthropic.APIStatusError
    kind = "timeout_error" if code == "upstream_timeout" else "api_error"
    assert error.body == {"type": "error", "error": {"type": kind, "message": MESSAGES[code]}}


def check_gemini(error: Any, code: str) -> None:
    assert type(error) is genai_errors.ServerError
    assert (error.code, error.message) == (504 if "timeout" in code else 502, MESSAGES[code])


CHECKS = {
    "chat": check_openai,
    "responses": check_openai,
    "anthropic": check_anthropic,
    "gemini": check_gemini,
}


@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("upstream", list(MODELS))
@pytest.mark.parametrize("client", [kind.wire for kind in SDKS])
def test_a_stream_that_breaks_is_an_exception_and_one_record(
    served: Served, tenant: Tenant, sdks: dict[str, Sdk], client: str, upstream: str, fault: str
) -> None:
    broken, heard = FAULTS[fault], threading.Event()
    wire = upstream.partition(",")[0]
    served.upstream.script = breaking(wire, broken, heard)
    records = UsageRecord.objects.filter(organization=tenant.organization).order_by("call_id")
    before, texts = records.count(), list[str]()
    impatience = served.limits(idle=0.1) if fault == "silence" else nullcontext()
    with impatience, pytest.raises(sdks[client].base) as caught:
        listen(client, sdks[client].stream(MODELS[upstream]), texts, heard)
    # What the client got before is part of the answer.
    assert "".join(texts)
    assert TEXT.startswith("".join(texts))
    CHECKS[client](caught.value, broken.code)
    assert "org-" not in str(caught.value)
    (record,) = records[before:]
    assert record.status == broken.status
    reports_early = wire in ("anthropic", "gemini")
    assert record.usage_source == (Source.PROVIDER_PARTIAL if reports_early else Source.ESTIMATED)
    assert record.output_tokens > 0
    assert record.cost_nanos > 0


# --- the bytes -------------------------------------------------------------------------------

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    "responses": ("/v1/responses", {"input": "Hi"}),
    "anthropic": (
        "/v1/messages",
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100},
    ),
    "gemini": ("", {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}),
}


def read_broken(served: Served, tenant: Tenant, client: str, upstream: str) -> bytes:
    """The body of a stream that the provider resets."""
    heard = threading.Event()
    wire = upstream.partition(",")[0]
    served.upstream.script = breaking(wire, FAULTS["a reset inside a chunk"], heard)
    path, body = REQUESTS[client]
    body = {**body, "stream": True, "model": MODELS[upstream]}
    if client == "gemini":
        path = f"/v1beta/models/{body.pop('model')}:streamGenerateContent?alt=sse"
        del body["stream"]
    headers = {"authorization": f"Bearer {tenant.key}"}
    read = b""
    with httpx2.stream("POST", served.url + path, headers=headers, json=body) as answer:
        for piece in answer.iter_raw():
            read += piece
            if b"Hello " in read:
                heard.set()
    return read


@pytest.mark.parametrize("upstream", list(MODELS))
def test_responses_say_error_first_and_then_response_failed(
    served: Served, tenant: Tenant, upstream: str
) -> None:
    """openai-python raises on the first, which must have a nested `error`; AI SDK 5 wants it flat
    or nested by version, with a code that is no null; Codex reads only the second."""
    read = read_broken(served, tenant, "responses", upstream).decode()
    blocks = [block.split("\n") for block in read.removesuffix("\n\n").split("\n\n")]
    events = [json.loads(data.removeprefix("data: ")) for _, data in blocks]
    assert [name.removeprefix("event: ") for name, _ in blocks] == [one["type"] for one in events]
    assert [one["sequence_number"] for one in events] == list(range(len(events)))
    error, failed = events[-2:]
    told = {"message": MESSAGES["upstream_error"], "code": "upstream_error", "param": None}
    number = error["sequence_number"]
    assert error == {
        "type": "error",
        "sequence_number": number,
        **told,
        "error": {"type": "server_error", **told},
    }
    response = failed["response"]
    assert (failed["type"], response["status"]) == ("response.failed", "failed")
    assert response["error"]["code"] == "upstream_error"
    assert response["error"]["message"] == MESSAGES["upstream_error"]
    assert response["id"] == events[0]["response"]["id"]


@pytest.mark.parametrize("upstream", list(MODELS))
def test_a_chat_stream_ends_with_the_error_and_with_no_sign_of_success(
    served: Served, tenant: Tenant, upstream: str
) -> None:
    read = read_broken(served, tenant, "chat", upstream).decode()
    *chunks, last = [block.removeprefix("data: ") for block in read.split("\n\n") if block]
    assert set(json.loads(last)["error"]) == {"message", "type", "param", "code"}
    reasons = [choice["finish_reason"] for one in chunks for choice in json.loads(one)["choices"]]
    assert set(reasons) == {None}


@pytest.mark.parametrize("upstream", list(MODELS))
def test_an_anthropic_stream_ends_with_the_error_event(
    served: Served, tenant: Tenant, upstream: str
) -> None:
    read = read_broken(served, tenant, "anthropic", upstream).decode()
    names = [block.split("\n")[0] for block in read.split("\n\n") if block]
    assert names[-1] == "event: error"
    assert not {"event: message_delta", "event: message_stop"} & set(names)


@pytest.mark.parametrize("upstream", list(MODELS))
def test_a_gemini_stream_ends_with_an_error_object(
    served: Served, tenant: Tenant, upstream: str
) -> None:
    read = read_broken(served, tenant, "gemini", upstream).decode().replace("\r\n", "\n")
    *chunks, last = [block.removeprefix("data: ") for block in read.split("\n\n") if block]
    assert json.loads(last)["error"]["status"] == "UNAVAILABLE"
    assert not any("finishReason" in one for one in chunks)
