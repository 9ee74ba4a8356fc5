"""Limits as clients of the AI API meet them: headers on every answer, and refusals that say why."""

import asyncio
import re
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from aiohttp import web
from asgiref.sync import sync_to_async
from django.db import IntegrityError, transaction

from gateway import app as app_module
from gateway.app import GatewayApp
from gateway.budgets import Budgets
from gateway.limits import Limiter
from gateway.models import GatewayKey, Limit
from gateway.snapshot import Snapshot
from gateway.windows import Counter, minute_of
from orgs.models import Organization
from tests import factories
from tests.gateway.conftest import Answer, ApiClient, Provider, Tenant, make_tenant, until
from tests.gateway.test_proxy import DONE, TEXT, USAGE_CHUNK, balances, streamed, whole

Scope = Limit.Scope
RATE_HEADERS = {
    f"x-ratelimit-{what}-{kind}"
    for what in ("limit", "remaining", "reset")
    for kind in ("requests", "tokens")
}


async def limit(tenant: Tenant, scope: str = Scope.DEPLOYMENT, **values: Any) -> Limit:
    ids = {
        Scope.DEPLOYMENT: tenant.deployment.pk,
        Scope.WORKSPACE: tenant.workspace.pk,
        Scope.ORGANIZATION: tenant.organization.pk,
        Scope.STAFF: tenant.organization.pk,
    }
    scope_id = ids.get(Scope(scope))
    if scope_id is None:
        scope_id = (await GatewayKey.objects.aget(deployment=tenant.deployment)).pk
    return await Limit.objects.acreate(
        organization=tenant.organization, scope=scope, scope_id=scope_id, **values
    )


async def early_in_a_minute() -> None:
    """So that the calls that follow share a window."""
    if time.time() % 60 > 50:
        await asyncio.sleep(60 - time.time() % 60)


def running(app: GatewayApp, tenant: Tenant) -> Counter:
    """What this process counts for the tenant's organization."""
    assert app._services is not None
    windows = app._services.limiter.windows
    return windows._counters[("organization", tenant.organization.pk)]


def error_of(answer: Answer) -> dict[str, Any]:
    assert answer.status == 429
    error: dict[str, Any] = answer.json["error"]
    return error


# --- answers that are given -------------------------------------------------------------------


async def test_every_answer_says_what_is_left(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await early_in_a_minute()
    await limit(tenant, requests_per_minute=60, tokens_per_minute=10_000)
    provider.handler = whole()
    first, second = await api.chat(), await api.chat()
    assert first.headers.keys() >= RATE_HEADERS
    assert first.headers["x-ratelimit-limit-requests"] == "60"
    assert first.headers["x-ratelimit-remaining-requests"] == "59"
    assert second.headers["x-ratelimit-remaining-requests"] == "58"
    assert first.headers["x-ratelimit-limit-tokens"] == "10000"
    assert re.fullmatch(r"\d+(\.\d+)?(s|ms)", first.headers["x-ratelimit-reset-requests"])
    # The first call's reservation (100 and its input) shrank to the 17 tokens it used.
    left = int(second.headers["x-ratelimit-remaining-tokens"])
    assert left == int(first.headers["x-ratelimit-remaining-tokens"]) - 17


async def test_streams_and_failures_of_providers_say_it_too(
    api: ApiClient, provider: Provider
) -> None:
    provider.handler = streamed(*TEXT, USAGE_CHUNK, DONE)
    assert (await api.chat(stream=True)).headers.keys() >= RATE_HEADERS

    async def failing(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no"}}, status=400)

    provider.handler = failing
    answer = await api.chat()
    assert answer.status == 400
    assert answer.headers.keys() >= RATE_HEADERS


async def test_the_scope_with_the_least_left_is_the_one_shown(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await limit(tenant, Scope.KEY, requests_per_minute=1000)
    await limit(tenant, Scope.WORKSPACE, requests_per_minute=7)
    await limit(tenant, Scope.ORGANIZATION, requests_per_minute=500)
    provider.handler = whole()
    answer = await api.chat()
    assert answer.headers["x-ratelimit-limit-requests"] == "7"


async def test_without_any_limit_nothing_is_said(
    api: ApiClient, provider: Provider, settings: Any
) -> None:
    settings.LIMIT_DEFAULTS = {}
    provider.handler = whole()
    answer = await api.chat()
    assert answer.status == 200
    assert not [name for name in answer.headers if "ratelimit" in name]


async def test_anthropics_clients_read_headers_of_their_own(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await limit(tenant, requests_per_minute=60)
    provider.handler = whole()
    body = {"model": "gpt-4o", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
    answer = await api.call("/messages", body)
    assert answer.status == 200
    assert answer.headers["anthropic-ratelimit-requests-limit"] == "60"
    assert answer.headers["anthropic-ratelimit-requests-remaining"] == "59"
    reset_at = datetime.fromisoformat(answer.headers["anthropic-ratelimit-requests-reset"])
    assert 0 <= (reset_at - datetime.now(UTC)).total_seconds() + 1 <= 62


# --- refusals ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", list(Scope))
async def test_the_refusal_names_the_scope_and_the_numbers(
    scope: str, api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await early_in_a_minute()
    await limit(tenant, scope, requests_per_minute=1)
    provider.handler = whole()
    assert (await api.chat()).status == 200
    before = time.time()
    answer = await api.chat()
    error = error_of(answer)
    name = "organization" if scope == Scope.STAFF else scope.lower()
    assert error["type"] == "requests"
    assert error["code"] == "rate_limit_exceeded"
    assert error["param"] is None
    assert error["message"].startswith(
        f"Rate limit reached for requests per minute of this {name}: "
        "Limit 1, Used 1, Requested 1. Please try again in "
    )
    assert {key: error[key] for key in ("scope", "limit", "used")} == {
        "scope": name,
        "limit": 1,
        "used": 1,
    }
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(provider.requests) == 1
    # Whoever waits as long as we say is let in: the minute has turned by then.
    wait_ms = int(answer.headers["retry-after-ms"])
    assert minute_of(before + wait_ms / 1000 + 0.1) > minute_of(before)
    assert int(answer.headers["retry-after"]) * 1000 >= wait_ms
    assert int(answer.headers["retry-after"]) <= 60


async def test_tokens_that_do_not_fit_are_refused_as_tokens(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await early_in_a_minute()
    await limit(tenant, tokens_per_minute=200)
    provider.handler = streamed(*TEXT, USAGE_CHUNK, DONE, then="silence")
    first = asyncio.ensure_future(api.chat(stream=True))
    await provider.asked.wait()
    error = error_of(await api.chat())
    assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
    assert "tokens per minute of this deployment: Limit 200, Used " in error["message"]
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_a_call_larger_than_its_limit_is_told_not_to_retry(
    api: ApiClient, tenant: Tenant
) -> None:
    await limit(tenant, tokens_per_minute=50)
    answer = await api.chat()
    error = error_of(answer)
    assert error["message"].startswith("Request too large for tokens per minute")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


async def test_a_client_that_set_no_maximum_is_not_too_large_for_a_small_limit(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await limit(tenant, tokens_per_minute=300)
    provider.handler = whole()
    assert (await api.chat(max_completion_tokens=None)).status == 200


async def test_calls_at_once_are_limited_and_come_back(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await limit(tenant, concurrency=1)
    go = asyncio.Event()
    answers = whole()

    async def handler(request: web.Request) -> web.Response:
        await go.wait()
        response: web.Response = await answers(request)
        return response

    provider.handler = handler
    first = asyncio.ensure_future(api.chat())
    await provider.asked.wait()
    answer = await api.chat()
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
    assert error["message"] == (
        "Rate limit reached for concurrent requests of this deployment: "
        "Limit 1, Used 1, Requested 1. Please try again in 1s."
    )
    assert answer.headers["retry-after"] == "1"
    go.set()
    assert (await first).status == 200
    assert (await api.chat()).status == 200


async def test_each_wire_gets_its_own_error(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await early_in_a_minute()
    provider.handler = whole()
    assert (await api.chat()).status == 200
    await limit(tenant, requests_per_minute=1)
    await until_limited(api)
    text = [{"role": "user", "content": "Hi"}]
    chat = await api.chat()
    responses = await api.call("/responses", {"model": "gpt-4o", "input": "Hi"})
    messages = await api.call("/messages", {"model": "gpt-4o", "max_tokens": 50, "messages": text})
    gemini = await api.call(
        "/api/ai/v1beta/models/gpt-4o:generateContent",
        {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
    )
    assert {one.status for one in (chat, responses, messages, gemini)} == {429}
    assert {one.headers["x-ratelimit-limit-requests"] for one in (chat, messages, gemini)} == {"1"}
    assert responses.json["error"]["code"] == "rate_limit_exceeded"
    assert messages.json["error"]["type"] == "rate_limit_error"
    assert messages.headers["anthropic-ratelimit-requests-remaining"] == "0"
    assert gemini.json["error"]["status"] == "RESOURCE_EXHAUSTED"
    assert "Rate limit reached for" in gemini.json["error"]["message"]


async def until_limited(api: ApiClient) -> None:
    async def is_limited() -> bool:
        return (await api.chat()).status == 429

    await until(is_limited)


async def test_embeddings_are_limited_too(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await early_in_a_minute()
    await limit(tenant, requests_per_minute=1)

    def seed() -> None:
        route = factories.make_route(public_name="text-embedding-3-small", provider="openai")
        route.capabilities = ["embeddings"]
        route.save()
        factories.make_price(provider="openai", model="text-embedding-3-small")

    await sync_to_async(seed)()

    async def handler(_: web.Request) -> web.Response:
        data = [{"object": "embedding", "index": 0, "embedding": [0.1]}]
        usage = {"prompt_tokens": 2, "total_tokens": 2}
        return web.json_response({"object": "list", "data": data, "model": "m", "usage": usage})

    provider.handler = handler
    body = {"model": "text-embedding-3-small", "input": "hello"}
    assert (await api.call("/embeddings", body)).status == 200
    assert error_of(await api.call("/embeddings", body))["code"] == "rate_limit_exceeded"


def test_every_endpoint_that_asks_a_provider_admits_its_calls() -> None:
    """What costs nothing is named here, so that a new endpoint must be thought about."""
    free = {"/api/ai/v1/messages/count_tokens"}
    posted = {path for path, methods in app_module.FIXED.items() if "POST" in methods} - free
    for path in posted:
        used = names_used(app_module.FIXED[path]["POST"])
        assert used & {"serve_generation", "admit_and_hold"}, path


def names_used(handler: Any) -> set[str]:
    """The names in a function and in the functions of its module that it calls."""
    used = set(handler.__code__.co_names)
    for name in list(used):
        called = handler.__globals__.get(name)
        if getattr(called, "__module__", "") == handler.__module__ and hasattr(called, "__code__"):
            used |= set(called.__code__.co_names)
    return used


# --- what limits mean together ----------------------------------------------------------------


async def test_a_limit_counts_within_a_second_of_being_set_and_ends_with_its_row(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    assert (await api.chat()).headers["x-ratelimit-limit-requests"] == "600000"
    row = await limit(tenant, requests_per_minute=100)

    async def shows(value: str) -> bool:
        return (await api.chat()).headers["x-ratelimit-limit-requests"] == value

    await until(lambda: shows("100"))
    await row.adelete()
    await until(lambda: shows("600000"))


async def test_an_owner_cannot_raise_what_staff_gave(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await limit(tenant, Scope.STAFF, requests_per_minute=9)
    await limit(tenant, Scope.ORGANIZATION, requests_per_minute=1000)
    provider.handler = whole()
    assert (await api.chat()).headers["x-ratelimit-limit-requests"] == "9"


async def test_staff_may_give_more_than_the_platforms_default(
    api: ApiClient, provider: Provider, tenant: Tenant, settings: Any
) -> None:
    settings.LIMIT_DEFAULTS = {"requests_per_minute": 5}
    await limit(tenant, Scope.STAFF, requests_per_minute=50)
    provider.handler = whole()
    assert (await api.chat()).headers["x-ratelimit-limit-requests"] == "50"


async def test_limits_of_others_do_not_count(
    app: GatewayApp, api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await limit(tenant, Scope.ORGANIZATION, requests_per_minute=1)
    other = await sync_to_async(make_tenant)()
    provider.handler = whole()
    assert (await api.chat()).status == 200
    assert (await api.chat()).status == 429
    assert (await ApiClient(app, other.key).chat()).status == 200


# --- what is given back -----------------------------------------------------------------------


async def test_no_way_of_ending_leaves_a_call_counted_as_in_flight(
    app: GatewayApp, api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = streamed(*TEXT, USAGE_CHUNK, DONE)
    await api.chat(stream=True)
    await api.chat(stream=True, hang_up_after=1)
    provider.handler = streamed(TEXT[0], then="cut")
    await api.chat(stream=True)

    async def failing(_: web.Request) -> web.Response:
        return web.Response(status=500)

    provider.handler = failing
    await api.chat()
    provider.handler = streamed(TEXT[0], then="silence")
    provider.asked.clear()
    cancelled = asyncio.ensure_future(api.chat(stream=True))
    await provider.asked.wait()
    assert running(app, tenant).running == 1
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert running(app, tenant).running == 0


async def test_a_call_without_credit_counts_for_nothing(
    app: GatewayApp, provider: Provider, catalog: None
) -> None:
    poor = await sync_to_async(make_tenant)(dollars=0)
    await limit(poor, requests_per_minute=1)
    answer = await ApiClient(app, poor.key).chat()
    assert error_of(answer)["code"] == "insufficient_quota"
    assert running(app, poor).running == 0
    assert running(app, poor).requests == 0


async def test_a_refused_call_holds_no_credit(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await limit(tenant, tokens_per_minute=50)
    assert (await api.chat()).status == 429
    assert await balances(tenant) == (0, 0)


# --- the database -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        {"requests_per_minute": 0},
        {"tokens_per_minute": 0},
        {"concurrency": 0},
        {"daily_budget_nanos": 0},
        {"monthly_budget_nanos": -1},
    ],
)
def test_the_database_refuses_limits_that_are_not_positive(
    values: dict[str, int], organization: Organization
) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Limit.objects.create(
            organization=organization, scope=Scope.STAFF, scope_id=organization.pk, **values
        )


def test_the_database_refuses_a_second_row_of_one_scope(organization: Organization) -> None:
    row = {"organization": organization, "scope": Scope.STAFF, "scope_id": organization.pk}
    Limit.objects.create(**row, concurrency=1)
    with pytest.raises(IntegrityError), transaction.atomic():
        Limit.objects.create(**row, concurrency=2)


def test_the_database_refuses_an_organizations_limit_under_another(
    organization: Organization, other_organization: Organization
) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Limit.objects.create(
            organization=organization,
            scope=Scope.ORGANIZATION,
            scope_id=other_organization.pk,
            concurrency=1,
        )


def test_a_limiter_without_redis_shares_nothing() -> None:
    assert Limiter(Budgets(Snapshot())).shared is None
