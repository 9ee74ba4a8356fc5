"""Usage that cannot be true, on every provider's wire, forwarded and translated: one record each,
whose amounts can be true."""

from typing import Any

import httpx2
import pytest

from billing.models import UsageRecord
from tests.gateway.conftest import Tenant, make_tenant
from tests.gateway.served import MODELS, Served, answering
from tests.gateway.test_broken_streams import (
    AT,
    BEGINNINGS,
    CLAUDE,
    ITEM,
    PART,
    REQUESTS,
    RESPONSE,
    TEXT,
    message,
    typed,
)

TOKENS_MAX = 100
NUMBERS = {
    "null": None,
    "zero": 0,
    "negative": -5,
    "enormous": 10**18,
    "beyond 64 bits": 10**30,
    "a fraction": 0.5,
    "text": "7",
    "a list": [7],
}


def chat(number: Any) -> bytes:
    usage = {"prompt_tokens": number, "completion_tokens": number, "total_tokens": number}
    stop = {"index": 0, "delta": {}, "finish_reason": "stop"}
    chunk = {"id": "c", "object": "chat.completion.chunk", "model": "m"}
    return (
        b"".join(BEGINNINGS["chat"])
        + message({**chunk, "choices": [stop]})
        + message({**chunk, "choices": [], "usage": usage})
        + message(b"[DONE]")
    )


def responses(number: Any) -> bytes:
    usage = {"input_tokens": number, "output_tokens": number, "total_tokens": number}
    part = {**PART, "text": TEXT}
    item = {**ITEM, "status": "completed", "content": [part]}
    ended = {**RESPONSE, "status": "completed", "output": [item], "usage": usage}
    return (
        b"".join(BEGINNINGS["responses"])
        + typed("response.output_text.done", sequence_number=6, text=TEXT, **AT)
        + typed("response.content_part.done", sequence_number=7, part=part, **AT)
        + typed("response.output_item.done", sequence_number=8, output_index=0, item=item)
        + typed("response.completed", sequence_number=9, response=ended)
    )


def anthropic(number: Any) -> bytes:
    begun, more = BEGINNINGS["anthropic"]
    start = typed("message_start", message=CLAUDE)
    assert begun.startswith(start)
    claude = {**CLAUDE, "usage": {"input_tokens": number, "output_tokens": number}}
    return (
        typed("message_start", message=claude)
        + begun.removeprefix(start)
        + more
        + typed("content_block_stop", index=0)
        + typed(
            "message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None},
            usage={"output_tokens": number},
        )
        + typed("message_stop")
    )


def gemini(number: Any) -> bytes:
    usage = {
        "promptTokenCount": number,
        "candidatesTokenCount": number,
        "totalTokenCount": number,
    }

    def piece(text: str, **members: Any) -> bytes:
        candidate = {"content": {"role": "model", "parts": [{"text": text}]}, **members}
        return message({"candidates": [candidate], "usageMetadata": usage, "modelVersion": "m"})

    return piece("Hello ") + piece("world", finishReason="STOP")


STREAMS = {"chat": chat, "responses": responses, "anthropic": anthropic, "gemini": gemini}


@pytest.fixture(scope="module")
def tenant(served: Served) -> Tenant:
    return make_tenant(dollars=1000)


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("upstream", STREAMS)
@pytest.mark.parametrize("client", ["chat", "anthropic"])
def test_usage_that_cannot_be_true_is_one_record_of_what_can(
    served: Served, tenant: Tenant, client: str, upstream: str, number: str
) -> None:
    stream = STREAMS[upstream](NUMBERS[number])
    served.upstream.script = answering(200, stream, content_type="text/event-stream")
    path, body = REQUESTS[client]
    limit = {"max_tokens": TOKENS_MAX}
    records = UsageRecord.objects.filter(organization=tenant.organization).order_by("call_id")
    before = records.count()
    answer = httpx2.post(
        served.url + path,
        headers={"authorization": f"Bearer {tenant.key}"},
        json={**body, **limit, "stream": True, "model": MODELS[upstream]},
        timeout=30,
    )
    assert answer.status_code == 200
    (record,) = records[before:]
    assert record.status == UsageRecord.Status.FINISHED
    assert "world" in answer.text
    assert 0 <= record.input_tokens <= 1_000
    assert 0 <= record.output_tokens <= TOKENS_MAX
    assert 0 <= record.cost_nanos < 10_000_000
    # What is said in earnest is believed; what cannot be is estimated by what was relayed.
    assert (record.output_tokens == 0) == (number == "zero")
