"""Calls with an Idempotency-Key: one upstream call and one bill, however often they are sent."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web
from asgiref.sync import sync_to_async
from django.db import OperationalError
from django.utils import timezone

from billing.models import UsageRecord
from gateway.app import GatewayApp
from gateway.replays import Replays
from orgs import idempotency
from orgs.models import IdempotentRequest
from tests.gateway.conftest import ApiClient, Provider, Tenant, make_tenant
from tests.gateway.test_embeddings import ASKED, embed, embedder
from tests.gateway.test_proxy import balances, record_of, streamed, whole

__all__ = ["embedder"]
KEY = {"Idempotency-Key": "order-1"}
REPLAYED = "idempotent-replayed"


def code_of(answer: Any) -> str:
    return str(answer.json["error"]["code"])


async def test_the_same_call_again_is_answered_from_what_was_kept(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    first = await api.chat(headers=KEY)
    spent = await balances(tenant)
    second = await api.chat(headers=KEY)
    assert (first.status, second.status) == (200, 200)
    assert second.body == first.body
    assert second.headers[REPLAYED] == "true"
    assert REPLAYED not in first.headers
    assert second.headers["x-request-id"] != first.headers["x-request-id"]
    assert len(provider.requests) == 1
    await record_of(tenant)
    assert await balances(tenant) == spent


async def test_fifty_at_once_are_one_call_and_one_bill(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    answers = await asyncio.gather(*(api.chat(headers=KEY) for _ in range(50)))
    assert {answer.status for answer in answers} <= {200, 409}
    assert sum(answer.status == 200 and REPLAYED not in answer.headers for answer in answers) == 1
    for answer in answers:
        if answer.status == 409:
            assert code_of(answer) == "idempotency_in_progress"
            assert int(answer.headers["retry-after"]) > 0
    assert len(provider.requests) == 1
    await record_of(tenant)


async def test_while_the_first_runs_the_next_is_told_to_ask_again(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    goes_on = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await goes_on.wait()
        return await whole()(request)  # type: ignore[no-any-return]

    provider.handler = slow
    first = asyncio.create_task(api.chat(headers=KEY))
    await provider.asked.wait()
    assert (await api.chat(headers=KEY)).status == 409
    goes_on.set()
    assert (await first).status == 200
    assert (await api.chat(headers=KEY)).headers[REPLAYED] == "true"


async def test_another_call_with_the_key_is_refused(api: ApiClient, provider: Provider) -> None:
    provider.handler = whole()
    await api.chat(headers=KEY)
    other = await api.chat(headers=KEY, temperature=0.5)
    assert (other.status, code_of(other)) == (422, "idempotency_key_reused")
    elsewhere = await api.call("/embeddings", ASKED, headers=KEY)
    assert code_of(elsewhere) == "idempotency_key_reused"
    assert len(provider.requests) == 1


async def test_a_stream_cannot_be_replayed_and_says_so(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = streamed()
    answer = await api.chat(headers=KEY, stream=True)
    assert (answer.status, code_of(answer)) == (400, "idempotency_not_supported")
    assert not provider.requests
    assert not await UsageRecord.objects.aexists()


async def test_a_failure_that_cost_nothing_is_not_kept(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    async def fail(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no"}}, status=400)

    provider.handler = fail
    assert (await api.chat(headers=KEY)).status == 400
    assert not await IdempotentRequest.objects.aexists()
    provider.handler = whole()
    assert (await api.chat(headers=KEY)).status == 200
    # Refused before it was sent: likewise, and the answer that was kept stays.
    assert (await api.chat(headers={"Idempotency-Key": "2"}, model="none")).status == 404
    assert await IdempotentRequest.objects.acount() == 1


async def test_a_failure_that_was_billed_is_kept(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    """An answer with an error inside, whose tokens the provider reports and bills."""

    async def fail_inside(_: web.Request) -> web.Response:
        return web.json_response(
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "gpt-4o",
                "choices": "none",
                "usage": {"prompt_tokens": 12, "completion_tokens": 5},
            }
        )

    provider.handler = fail_inside
    body = {"model": "gpt-4o", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    first = await api.call("/messages", body, headers=KEY)
    assert first.status >= 500
    assert (await record_of(tenant)).cost_nanos > 0
    second = await api.call("/messages", body, headers=KEY)
    assert (second.status, second.body) == (first.status, first.body)
    assert second.headers[REPLAYED] == "true"
    assert len(provider.requests) == 1


async def test_an_attempt_whose_process_died_can_be_repeated_after_its_lease(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    await api.chat(headers=KEY)
    dead = {"status": None, "answer_sealed": "", "leased_until": timezone.now() + timedelta(60)}
    unbilled = {"reference": "req_unknown"}
    await IdempotentRequest.objects.aupdate(**dead, **unbilled)
    assert (await api.chat(headers=KEY)).status == 409
    await IdempotentRequest.objects.aupdate(leased_until=timezone.now())
    assert (await api.chat(headers=KEY)).status == 200
    assert len(provider.requests) == 2


async def test_a_call_that_was_billed_and_whose_answer_is_lost_is_not_billed_again(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    first = await api.chat(headers=KEY)
    await record_of(tenant)
    spent = await balances(tenant)
    lost = {"status": None, "answer_sealed": "", "leased_until": timezone.now()}
    await IdempotentRequest.objects.aupdate(**lost)
    for _ in range(2):
        again = await api.chat(headers=KEY)
        assert (again.status, code_of(again)) == (409, "idempotent_answer_lost")
        assert again.headers["x-should-retry"] == "false"
        assert again.json["error"]["request_id"] == first.headers["x-request-id"]
        assert "was made and billed" in again.json["error"]["message"]
    assert len(provider.requests) == 1
    assert await balances(tenant) == spent
    assert (await api.chat(headers={"Idempotency-Key": "order-2"})).status == 200


async def test_a_claim_outlives_the_longest_call(
    api: ApiClient, provider: Provider, settings: Any
) -> None:
    provider.handler = whole()
    began_at = timezone.now()
    await api.chat(headers=KEY)
    row = await IdempotentRequest.objects.aget()
    longest = timedelta(seconds=settings.PROVIDER_SECONDS_MAX["total"])
    assert row.leased_until > began_at + longest
    assert row.expires_at >= began_at + idempotency.LIFETIME


async def test_a_cancelled_call_gives_its_key_back(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    async def never(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    provider.handler = never
    call = asyncio.create_task(api.chat(headers=KEY))
    await provider.asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    provider.handler = whole()
    assert (await api.chat(headers=KEY)).status == 200


async def test_another_deployments_key_is_another(
    app: GatewayApp, api: ApiClient, provider: Provider
) -> None:
    provider.handler = whole()
    await api.chat(headers=KEY)
    outsider = await sync_to_async(make_tenant)()
    answer = await ApiClient(app, outsider.key).chat(headers=KEY)
    assert answer.status == 200
    assert REPLAYED not in answer.headers
    assert len(provider.requests) == 2


async def test_without_the_header_nothing_is_asked_and_nothing_kept(
    api: ApiClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("No call without the header asks for replays.")

    monkeypatch.setattr(Replays, "run", never)
    provider.handler = whole()
    assert (await api.chat()).status == 200
    assert not await IdempotentRequest.objects.aexists()


async def test_a_key_that_is_none_is_refused(api: ApiClient, provider: Provider) -> None:
    answer = await api.chat(headers={"Idempotency-Key": "a b"})
    assert (answer.status, code_of(answer)) == (400, "idempotency_key_invalid")
    assert not provider.requests


async def test_embeddings_are_replayed_too(
    embedder: ApiClient,
    provider: Provider,
    tenant: Tenant,
) -> None:
    provider.handler = embed
    first = await embedder.call("/embeddings", ASKED, headers=KEY)
    second = await embedder.call("/embeddings", ASKED, headers=KEY)
    assert (second.status, second.body) == (200, first.body)
    assert second.headers[REPLAYED] == "true"
    assert len(provider.requests) == 1
    await record_of(tenant)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/responses", {"input": "Hi"}),
        ("/messages", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9}),
        (
            "/api/ai/v1beta/models/gpt-4o:generateContent",
            {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
        ),
    ],
)
async def test_every_wire_replays(
    api: ApiClient, provider: Provider, tenant: Tenant, path: str, body: dict[str, Any]
) -> None:
    provider.handler = whole()
    asked = body if "generateContent" in path else {**body, "model": "gpt-4o"}
    if path == "/responses":
        provider.handler = _response
    first = await api.call(path, asked, headers=KEY)
    second = await api.call(path, asked, headers=KEY)
    assert (first.status, second.status) == (200, 200), first.body
    assert second.body == first.body
    assert second.headers[REPLAYED] == "true"
    assert len(provider.requests) == 1
    await record_of(tenant)


async def _response(_: web.Request) -> web.Response:
    return web.json_response(
        {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "status": "completed",
            "model": "gpt-4o",
            "output": [],
            "usage": {"input_tokens": 12, "output_tokens": 5, "total_tokens": 17},
        }
    )


def _away(*_: Any, **__: Any) -> Any:
    raise OperationalError("the database is away")


async def test_without_a_database_nothing_is_sent_that_could_not_be_repeated(
    api: ApiClient, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.handler = whole()
    monkeypatch.setattr(idempotency, "claim", _away)
    answer = await api.chat(headers=KEY)
    assert answer.status == 503
    assert not provider.requests


async def test_an_answer_that_cannot_be_kept_still_reaches_its_client(
    api: ApiClient, provider: Provider, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.handler = whole()
    monkeypatch.setattr(idempotency, "keep", _away)
    assert (await api.chat(headers=KEY)).status == 200
    await record_of(tenant)
