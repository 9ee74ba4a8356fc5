"""Retries and fallback: who is tried, when trying stops, and what is billed and noted."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from django.db import connection

from billing.models import UsageRecord
from gateway import attempts
from gateway.app import GatewayApp
from tests import factories
from tests.gateway.conftest import ApiClient, Provider, Tenant, until
from tests.gateway.test_proxy import TEXT, record_of, streamed, whole


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "PAUSE_SECONDS", 0)


async def add_fallback() -> None:
    """`gpt-4o` is also served by the local provider, at another price, if OpenAI does not."""

    def add() -> None:
        route = factories.make_route(public_name="gpt-4o", provider="local", upstream_name="spare")
        route.position = 1
        route.save()
        factories.make_price(
            provider="local", model="spare", input_nanos=1_000_000_000, output_nanos=1_000_000_000
        )
        connection.close()

    await asyncio.to_thread(add)


def by_model(**handlers: Any) -> Callable[[web.Request], Any]:
    """Answers by the upstream model asked for."""

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        answer: web.StreamResponse = await handlers[body["model"].replace("-", "_")](request)
        return answer

    return handler


def failing(status: int, **headers: str) -> Any:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no"}}, status=status, headers=headers)

    return handler


async def test_another_candidate_answers_and_is_billed_at_its_own_price(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await add_fallback()
    provider.handler = by_model(gpt_4o=failing(500), spare=whole())
    answer = await api.chat()
    assert answer.status == 200
    record = await record_of(tenant)
    assert (record.provider, record.upstream_model) == ("local", "spare")
    assert record.cost_nanos == (12 + 5) * 1_000
    (noted,) = record.attempts
    assert noted["provider"] == "openai"
    assert noted["outcome"] == "upstream_error"
    assert [request["model"] for request in provider.requests] == ["gpt-4o", "spare"]


async def test_streams_fall_back_before_their_first_byte(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await add_fallback()
    provider.handler = by_model(gpt_4o=failing(503), spare=streamed(*TEXT, b"data: [DONE]\n\n"))
    answer = await api.chat(stream=True)
    assert answer.messages[-1] == "[DONE]"
    assert (await record_of(tenant)).provider == "local"


async def test_nothing_is_tried_again_once_bytes_have_gone_out(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await add_fallback()
    provider.handler = by_model(gpt_4o=streamed(*TEXT[:2], then="cut"), spare=whole())
    await api.chat(stream=True)
    assert len(provider.requests) == 1
    assert (await record_of(tenant)).provider == "openai"


async def test_the_users_mistake_is_not_tried_elsewhere(api: ApiClient, provider: Provider) -> None:
    await add_fallback()
    provider.handler = by_model(gpt_4o=failing(400), spare=whole())
    assert (await api.chat()).status == 400
    assert len(provider.requests) == 1


async def test_a_lone_candidate_is_tried_twice(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    answers = [failing(500), whole()]

    async def handler(request: web.Request) -> web.StreamResponse:
        answer: web.StreamResponse = await answers.pop(0)(request)
        return answer

    provider.handler = handler
    assert (await api.chat()).status == 200
    assert len((await record_of(tenant)).attempts) == 1


async def test_a_lone_candidate_that_says_when_to_come_back_is_not_asked_again_at_once(
    api: ApiClient, provider: Provider
) -> None:
    provider.handler = failing(429, **{"retry-after": "7"})
    answer = await api.chat()
    assert answer.status == 503
    assert answer.headers["retry-after"] == "7"
    assert len(provider.requests) == 1


async def test_a_provider_that_asked_for_a_pause_is_tried_last(
    api: ApiClient, provider: Provider
) -> None:
    await add_fallback()
    provider.handler = by_model(gpt_4o=failing(429, **{"retry-after": "60"}), spare=whole())
    assert (await api.chat()).status == 200
    assert (await api.chat()).status == 200
    assert [request["model"] for request in provider.requests] == ["gpt-4o", "spare", "spare"]


async def test_after_the_pause_one_call_probes_and_the_others_keep_away(
    api: ApiClient, app: GatewayApp, provider: Provider
) -> None:
    await add_fallback()
    assert app._services is not None
    name = ("openai", provider.base_url)
    app._services.breakers.failed(name, now=time.monotonic() - 60, retry_after_seconds=30)
    may_answer = asyncio.Event()

    async def late(request: web.Request) -> web.StreamResponse:
        await may_answer.wait()
        answer: web.StreamResponse = await whole()(request)
        return answer

    provider.handler = by_model(gpt_4o=late, spare=whole())
    probe = asyncio.ensure_future(api.chat())
    await asyncio.wait_for(provider.asked.wait(), timeout=5)
    assert (await api.chat()).status == 200
    may_answer.set()
    assert (await probe).status == 200
    assert (await api.chat()).status == 200
    assert [request["model"] for request in provider.requests] == ["gpt-4o", "spare", "gpt-4o"]


async def test_a_call_that_the_process_cannot_finish_is_billed_as_who_served_it(
    api: ApiClient, app: GatewayApp, provider: Provider, tenant: Tenant
) -> None:
    await add_fallback()
    provider.handler = by_model(gpt_4o=failing(500), spare=streamed(*TEXT[:3], then="silence"))
    call = asyncio.ensure_future(api.chat(stream=True, hang_up_after=100))

    async def spare_was_asked() -> bool:
        return len(provider.requests) == 2

    await until(spare_was_asked)
    await asyncio.sleep(0.2)
    await app.stop()
    record = await record_of(tenant)
    assert (record.status, record.provider) == (UsageRecord.Status.CRASHED, "local")
    call.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await call
