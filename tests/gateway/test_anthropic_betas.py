"""Anthropic's beta header: what a client may turn on."""

import pytest
from aiohttp import web

from gateway.dialects import anthropic_betas
from tests.gateway.conftest import ApiClient, Provider
from tests.gateway.test_wires import STREAMS, api, tenant

__all__ = ["api", "tenant"]
CONTEXT = "context-management-2025-06-27"


@pytest.mark.parametrize(
    ("given", "goes_on"),
    [
        ("", ""),
        (CONTEXT, CONTEXT),
        (f"claude-code-20250219, {CONTEXT}", f"claude-code-20250219,{CONTEXT}"),
        ("fast-mode-2026-02-01", ""),
        (f"context-1m-2025-08-07,{CONTEXT},files-api-2025-04-14", CONTEXT),
        ("context-management", ""),
        (f"{CONTEXT}\r\nx-api-key: stolen", ""),
    ],
)
def test_features_that_change_the_bill_or_reach_the_account_stay_out(
    given: str, goes_on: str
) -> None:
    assert anthropic_betas.permitted(given) == goes_on


@pytest.mark.parametrize(("model", "goes_on"), [("claude-sonnet-4.5", CONTEXT), ("gpt-4o", None)])
async def test_the_header_goes_to_anthropic_only(
    api: ApiClient, provider: Provider, model: str, goes_on: str | None
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(STREAMS["anthropic" if goes_on else "openai_chat"])
        return response

    provider.handler = handler
    body = {
        "model": model,
        "max_tokens": 99,
        "stream": True,
        "messages": [{"role": "user", "content": "Hi"}],
    }
    headers = {"anthropic-beta": f"fast-mode-2026-02-01,{CONTEXT}"}
    assert (await api.call("/messages", body, headers=headers)).status == 200
    assert provider.headers[-1].get("anthropic-beta") == goes_on
