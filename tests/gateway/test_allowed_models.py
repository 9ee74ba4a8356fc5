"""Models that a key may use: on every endpoint, as its scopes allow, within a second."""

from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.utils import timezone

from gateway import keys
from gateway.models import GatewayKey, Limit, ModelRoute
from gateway.snapshot import REFUSE_AFTER_SECONDS
from tests.gateway.conftest import Answer, ApiClient, Provider, Tenant, make_tenant, until
from tests.gateway.test_limits import limit
from tests.gateway.test_proxy import whole

Scope = Limit.Scope
CLAUDE = "claude-sonnet-4.5"
HELLO = [{"role": "user", "content": "Hello"}]
CONTENTS = {"contents": [{"role": "user", "parts": [{"text": "Hello"}]}]}
GEMINI = f"/api/ai/v1beta/models/{CLAUDE}"
# Every way of naming a model: path and body.
WAYS: dict[str, tuple[str, Any]] = {
    "chat": ("/chat/completions", {"model": CLAUDE, "messages": HELLO}),
    "chat, streamed": ("/chat/completions", {"model": CLAUDE, "messages": HELLO, "stream": True}),
    "responses": ("/responses", {"model": CLAUDE, "input": "Hello"}),
    "responses, continued": (
        "/responses",
        {"model": CLAUDE, "input": "Hello", "previous_response_id": "resp_1"},
    ),
    "responses, referring": (
        "/responses",
        {"model": CLAUDE, "input": [{"type": "item_reference", "id": "rs_1"}]},
    ),
    "messages": ("/messages", {"model": CLAUDE, "max_tokens": 9, "messages": HELLO}),
    "count_tokens": ("/messages/count_tokens", {"model": CLAUDE, "messages": HELLO}),
    "embeddings": ("/embeddings", {"model": CLAUDE, "input": "Hello"}),
    "generateContent": (f"{GEMINI}:generateContent", CONTENTS),
    "streamGenerateContent": (f"{GEMINI}:streamGenerateContent", CONTENTS),
    "countTokens": (f"{GEMINI}:countTokens", CONTENTS),
    "one model": (f"/models/{CLAUDE}", None),
    "one model, Gemini's": (GEMINI, None),
}


async def use(api: ApiClient, way: str) -> Answer:
    path, body = WAYS[way]
    return await api.call(path, body, method="GET" if body is None else "POST")


@pytest.mark.parametrize("way", WAYS)
async def test_a_model_that_is_not_allowed_is_refused_on_every_endpoint(
    way: str, api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await limit(tenant, allowed_models=["gpt-4o"])
    answer = await use(api, way)
    assert answer.status == 403
    message = answer.json["error"]["message"]
    assert message.startswith(f"The model `{CLAUDE}` is not among those that this deployment may")
    assert provider.requests == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_model_that_is_allowed_is_not_refused_for_that(
    way: str, api: ApiClient, tenant: Tenant
) -> None:
    await limit(tenant, allowed_models=["gpt-4o", CLAUDE])
    assert (await use(api, way)).status != 403


async def test_an_unknown_model_is_unknown_before_it_is_not_allowed(
    api: ApiClient, tenant: Tenant
) -> None:
    await limit(tenant, allowed_models=["gpt-4o"])
    assert (await api.chat(model="gpt-0")).status == 404


async def test_lists_of_models_have_the_allowed_ones_alone(api: ApiClient, tenant: Tenant) -> None:
    await limit(tenant, allowed_models=["gpt-4o", CLAUDE])
    await limit(tenant, Scope.ORGANIZATION, allowed_models=[CLAUDE, "unpriced"])
    openai = await api.call("/models", method="GET")
    assert [row["id"] for row in openai.json["data"]] == [CLAUDE]
    anthropic = await api.call("/models", method="GET", headers={"anthropic-version": "2023-06-01"})
    assert [row["id"] for row in anthropic.json["data"]] == [CLAUDE]
    gemini = await api.call("/api/ai/v1beta/models", method="GET")
    assert [row["name"] for row in gemini.json["models"]] == [f"models/{CLAUDE}"]


@pytest.mark.parametrize("scope", [choice for choice in Scope if choice != Scope.KEY])
async def test_no_scope_gives_what_one_above_it_withholds(
    scope: str, api: ApiClient, tenant: Tenant
) -> None:
    await limit(tenant, Scope.KEY, allowed_models=["gpt-4o", CLAUDE])
    await limit(tenant, scope, allowed_models=["gpt-4o"])
    refused = await api.chat(model=CLAUDE)
    assert (refused.status, refused.json["error"]["code"]) == (403, "model_not_allowed")
    wanted = "organization" if scope == Scope.STAFF else scope.lower()
    assert refused.json["error"]["scope"] == wanted
    assert (await api.chat()).status != 403


async def test_owners_and_staffs_lists_of_an_organization_both_count(
    api: ApiClient, tenant: Tenant
) -> None:
    await limit(tenant, Scope.ORGANIZATION, allowed_models=["gpt-4o"])
    await limit(tenant, Scope.STAFF, allowed_models=[CLAUDE])
    assert (await api.chat()).status == 403
    assert (await api.chat(model=CLAUDE)).status == 403
    assert (await api.call("/models", method="GET")).json["data"] == []


async def test_a_list_counts_within_a_second_and_for_its_own_key_alone(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    assert (await api.chat()).status == 200
    row = await limit(tenant, Scope.KEY, allowed_models=[CLAUDE])

    async def is_refused() -> bool:
        return (await api.chat()).status == 403

    await until(is_refused, seconds_max=REFUSE_AFTER_SECONDS + 0.5)
    # The old key is on its way out and keeps what is its own.
    _, text = await _rotate(tenant)
    await row.arefresh_from_db()
    new_key = await GatewayKey.objects.aget(deployment=tenant.deployment, expires_at=None)
    copied = await Limit.objects.aget(scope=Scope.KEY, scope_id=new_key.pk)
    assert copied.allowed_models == [CLAUDE]
    assert await is_refused()
    await copied.adelete()

    async def is_free() -> bool:
        return (await api.chat(key=text)).status == 200

    await until(is_free)
    assert await is_refused()


async def _rotate(tenant: Tenant) -> tuple[GatewayKey, str]:
    now = timezone.now()
    return await sync_to_async(keys.rotate)(
        tenant.deployment, expires_at=now + timedelta(hours=1), at=now
    )


async def test_a_model_that_is_gone_allows_nothing_and_harms_nothing(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    await limit(tenant, allowed_models=["gpt-4o", CLAUDE])
    await ModelRoute.objects.filter(public_name=CLAUDE).adelete()
    assert (await api.chat()).status == 200
    assert (await api.chat(model=CLAUDE)).status == 404
    await ModelRoute.objects.filter(public_name="gpt-4o").adelete()

    async def has_none() -> bool:
        listed = await api.call("/models", method="GET")
        return bool(listed.status == 200 and listed.json["data"] == [])

    await until(has_none)


async def test_a_model_keeps_being_allowed_under_its_former_name(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    await limit(tenant, allowed_models=["gpt-4o"])
    await ModelRoute.objects.filter(public_name="gpt-4o").aupdate(
        public_name="gpt-4o-2024", aliases=["gpt-4o"]
    )
    for name in ("gpt-4o", "gpt-4o-2024"):
        assert (await api.chat(model=name)).status == 200


async def test_a_kept_response_can_be_read_when_its_model_is_not_allowed_any_more(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    await ModelRoute.objects.filter(public_name="gpt-4o").aupdate(dialect="openai_chat")
    made = await api.call("/responses", {"model": "gpt-4o", "input": "Hello"})
    assert made.status == 200
    await limit(tenant, allowed_models=[CLAUDE])

    async def is_refused() -> bool:
        body = {"model": "gpt-4o", "input": "More", "previous_response_id": made.json["id"]}
        return (await api.call("/responses", body)).status == 403

    await until(is_refused)
    read = await api.call(f"/responses/{made.json['id']}", method="GET")
    assert read.json == made.json


async def test_others_lists_are_not_ours(api: ApiClient, provider: Provider) -> None:
    other = await sync_to_async(make_tenant)()
    for scope in Scope:
        await limit(other, scope, allowed_models=[CLAUDE])
    provider.handler = whole()
    assert (await api.chat()).status == 200
    assert (await api.chat(key=other.key)).status == 403
