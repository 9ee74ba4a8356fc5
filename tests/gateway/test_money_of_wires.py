"""What a call through other wires costs when it ends badly: delivered tokens are billed once."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from billing.models import UsageRecord
from tests.gateway.conftest import ApiClient, Provider, Tenant
from tests.gateway.test_proxy import balances
from tests.gateway.test_wires import (  # noqa: F401 - fixtures
    MODELS,
    REQUESTS,
    STREAMS,
    api,
    ask,
    tenant,
)

Status = UsageRecord.Status
# OpenAI is called in a Responses client's own wire, which the last test has.
PAIRS = [
    (client, upstream)
    for client in REQUESTS
    for upstream in ("openai_chat", "anthropic", "gemini")
    if (client, upstream) != ("openai_responses", "openai_chat")
]


def first_half(wire: str) -> bytes:
    """The first messages of the wire's stream: text has begun, the end is missing."""
    blocks = STREAMS[wire].split(b"\n\n")
    return b"\n\n".join(blocks[: len(blocks) // 2]) + b"\n\n"


def sending(body: bytes, *, then: str) -> Any:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(body)
        if then == "cut":
            await asyncio.sleep(0.05)
            assert request.transport is not None
            request.transport.abort()
        return response

    return handler


def says_failure(client: str, body: bytes) -> bool:
    """Whether the stream tells its client, in the form it notices, that something went wrong."""
    last = json.loads(body.decode().rstrip().rpartition("data: ")[2])
    if client == "openai_responses":
        return bool(last["type"] == "response.failed" and last["response"]["error"]["code"])
    if client == "anthropic":
        return bool(last["type"] == "error" and last["error"]["type"])
    return bool(last["error"]["message"])


@pytest.mark.parametrize("then", ["end", "cut"])
@pytest.mark.parametrize(("client", "upstream"), PAIRS)
async def test_a_stream_that_stops_early_is_an_error_to_the_client_and_one_record(
    api: ApiClient,  # noqa: F811
    provider: Provider,
    tenant: Tenant,  # noqa: F811
    client: str,
    upstream: str,
    then: str,
) -> None:
    provider.handler = sending(first_half(upstream), then=then)
    answer = await ask(api, client, MODELS[upstream][0])
    assert answer.status == 200
    assert says_failure(client, answer.body), answer.body
    record = await UsageRecord.objects.aget(organization=tenant.organization)
    assert record.status == Status.TRUNCATED
    assert 0 < record.output_tokens <= 5
    assert record.cost_nanos > 0
    assert await balances(tenant) == (record.cost_nanos, 0)


async def test_a_forwarded_response_that_stops_early_is_an_error_too(
    api: ApiClient,  # noqa: F811
    provider: Provider,
    tenant: Tenant,  # noqa: F811
) -> None:
    provider.handler = sending(first_half("openai_responses"), then="cut")
    answer = await ask(api, "openai_responses", "gpt-5.2-codex")
    assert says_failure("openai_responses", answer.body)
    record = await UsageRecord.objects.aget(organization=tenant.organization)
    assert record.status == Status.TRUNCATED


@pytest.mark.parametrize(("client", "upstream"), PAIRS)
async def test_what_is_held_covers_the_body_that_is_sent(
    api: ApiClient,  # noqa: F811
    provider: Provider,
    tenant: Tenant,  # noqa: F811
    client: str,
    upstream: str,
) -> None:
    """Also where the provider's wire says more than the client did: a token per byte at most."""
    provider.handler = sending(STREAMS[upstream], then="end")
    answer = await ask(api, client, MODELS[upstream][0])
    assert answer.status == 200
    record = await UsageRecord.objects.select_related("price_version").aget(
        organization=tenant.organization
    )
    rate = record.price_version.rates["input"][0]["nanos_per_million"]
    sent = len(json.dumps(provider.requests[0], separators=(",", ":")))
    assert record.held_nanos >= sent * rate // 1_000_000
    assert record.cost_nanos <= record.held_nanos
