"""Embeddings: forwarded as they are, billed by input alone."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from django.db import connection

from billing.models import UsageRecord
from tests import factories
from tests.gateway.conftest import ApiClient, Provider, Tenant
from tests.gateway.test_proxy import record_of


@pytest.fixture
async def embedder(api: ApiClient) -> ApiClient:
    def add() -> None:
        route = factories.make_route(public_name="text-embedding-3-small", provider="openai")
        route.capabilities = ["embeddings"]
        route.output_tokens_max = 0
        route.save()
        factories.make_price(
            provider="openai",
            model="text-embedding-3-small",
            input_nanos=20_000_000,
            output_nanos=0,
        )
        connection.close()

    await asyncio.to_thread(add)
    return api


async def embed(request: web.Request) -> web.Response:
    return web.json_response(
        {
            "object": "list",
            "data": [{"object": "embedding", "index": 0, "embedding": [0.1, -0.2]}],
            "model": "text-embedding-3-small",
            "usage": {"prompt_tokens": 1000, "total_tokens": 1000},
        }
    )


ASKED = {"model": "text-embedding-3-small", "input": ["Hello"], "dimensions": 2}


async def test_vectors_come_back_and_input_is_billed(
    embedder: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = embed
    answer = await embedder.call("/embeddings", ASKED)
    assert answer.json["data"][0]["embedding"] == [0.1, -0.2]
    assert provider.requests == [ASKED]
    record = await record_of(tenant)
    assert record.endpoint == "embeddings"
    assert (record.input_tokens, record.output_tokens) == (1000, 0)
    assert record.cost_nanos == 20_000


async def test_a_provider_that_fails_costs_nothing(
    embedder: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    async def fail(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no"}}, status=500)

    provider.handler = fail
    assert (await embedder.call("/embeddings", ASKED)).status == 502
    record = await record_of(tenant)
    assert (record.status, record.cost_nanos) == (UsageRecord.Status.UPSTREAM_ERROR, 0)


async def test_nonsense_is_a_502(embedder: ApiClient, provider: Provider, tenant: Tenant) -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.json_response({"data": None})

    provider.handler = nonsense
    assert (await embedder.call("/embeddings", ASKED)).status == 502
    assert (await record_of(tenant)).error_code == "upstream_unreadable"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "x"}, "model"),
        ({"model": "text-embedding-3-small"}, "input"),
        ({"model": 5, "input": "x"}, "model"),
        ({"model": "text-embedding-3-small", "input": []}, "input"),
        ({"model": "text-embedding-3-small", "input": 5}, "input"),
    ],
)
async def test_bad_requests_name_the_parameter(api: ApiClient, body: Any, param: str) -> None:
    answer = await api.call("/embeddings", body)
    assert answer.status == 400
    assert answer.json["error"]["param"] == param


async def test_a_model_that_generates_is_not_offered_for_embedding(api: ApiClient) -> None:
    answer = await api.call("/embeddings", {"model": "gpt-4o", "input": "x"})
    assert answer.json["error"]["code"] == "unsupported_endpoint"
    assert "/v1/chat/completions" in answer.json["error"]["message"]


async def test_every_text_of_a_batch_is_held(
    embedder: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = embed
    batch = ["word " * 4000] * 10
    await embedder.call("/embeddings", {**ASKED, "input": batch})
    record = await record_of(tenant)
    assert record.held_nanos == 10 * 8192 * 20
