"""Adding a provider whose dialect exists takes one row and one route: this test adds one."""

import asyncio
from typing import Any

import pytest
from django.db import connection

from gateway.app import GatewayApp
from gateway.providers import PROVIDERS, AuthStyle, Provider
from tests import factories
from tests.gateway.conftest import ApiClient, Tenant
from tests.gateway.conftest import Provider as ScriptedProvider
from tests.gateway.test_proxy import TEXT, USAGE_CHUNK, record_of, streamed

ROW = Provider(
    "groq",
    "Groq",
    ("openai_chat",),
    "https://api.groq.com/openai/v1",
    AuthStyle.BEARER,
    headers=(("x-team", "ours"),),
)


async def test_a_row_and_a_route_make_a_provider_answer(
    monkeypatch: pytest.MonkeyPatch,
    settings: Any,
    provider: ScriptedProvider,
    app: GatewayApp,
    tenant: Tenant,
) -> None:
    monkeypatch.setitem(PROVIDERS, ROW.name, ROW)
    settings.PROVIDER_ENVIRONMENT["groq"] = {"base_url": provider.base_url, "api_key": "gsk-1"}

    def add_route() -> None:
        factories.make_route(public_name="llama", provider="groq", upstream_name="llama-3")
        factories.make_price(provider="groq", model="llama-3")
        connection.close()

    await asyncio.to_thread(add_route)
    provider.handler = streamed(*TEXT, USAGE_CHUNK, b"data: [DONE]\n\n")
    answer = await ApiClient(app, tenant.key).chat(model="llama", stream=True)
    assert answer.messages[-1] == "[DONE]"
    assert provider.requests[0]["model"] == "llama-3"
    sent = {name.lower(): value for name, value in provider.headers[0].items()}
    assert (sent["authorization"], sent["x-team"]) == ("Bearer gsk-1", "ours")
    record = await record_of(tenant)
    assert (record.provider, record.status) == ("groq", "FINISHED")
