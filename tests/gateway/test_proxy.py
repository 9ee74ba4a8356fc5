"""Calls through the AI API to a scripted provider: what the client sees and what is billed."""

import asyncio
import json
from typing import Any

import pytest
from aiohttp import web

from billing import metering
from billing.models import OrganizationTerms, UsageRecord
from billing.pricing import Usage
from gateway.app import GatewayApp
from tests.gateway.conftest import ApiClient, Provider, Tenant, make_tenant, until

Status = UsageRecord.Status
USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}
COST_NANOS = 12 * 2_500 + 5 * 10_000


def whole(usage: Any = USAGE) -> Any:
    async def handler(_: web.Request) -> web.Response:
        message = {"role": "assistant", "content": "Hi there", "refusal": None}
        return web.json_response(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 1,
                "model": "gpt-4o-2024-08-06",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": usage,
                "extra_member": {"kept": True},
            }
        )

    return handler


def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-4o-2024-08-06",
        "choices": choices,
        **more,
    }
    return b"data: " + json.dumps(body).encode() + b"\n\n"


USAGE_CHUNK = (
    b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,'
    b'"model":"gpt-4o-2024-08-06","choices":[],"usage":' + json.dumps(USAGE).encode() + b"}\n\n"
)
DONE = b"data: [DONE]\n\n"
TEXT = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Hi"}),
    chunk({"content": " there"}),
    chunk({}, "stop"),
]


def streamed(*pieces: bytes, then: str = "end") -> Any:
    """Sends the pieces, then ends, cuts the connection, or falls silent."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
            await asyncio.sleep(0.01)
        if then == "silence":
            await asyncio.sleep(30)
        if then == "cut":
            assert request.transport is not None
            request.transport.abort()
        return response

    return handler


async def record_of(tenant: Tenant) -> UsageRecord:
    """The tenant's only usage record; it is booked soon after the call has ended."""
    records = UsageRecord.objects.select_related("transfer")
    async with asyncio.timeout(10):
        while not await records.filter(organization=tenant.organization).aexists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return await records.aget(organization=tenant.organization)


async def balances(tenant: Tenant) -> tuple[int, int]:
    """Spent, of the five dollars granted, and held for calls in flight; nano-dollars."""
    account = await tenant.organization.ledger_accounts.aget(kind="CREDITS")
    lease = metering.current().purse._leases.get(tenant.organization.pk)
    return 5_000_000_000 - account.posted_nanos, lease.held if lease else 0


async def test_a_whole_answer_is_forwarded_as_it_is_and_billed(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    answer = await api.chat(seed=7, made_up_field="kept")
    assert answer.status == 200
    assert answer.json["extra_member"] == {"kept": True}
    assert provider.requests[0]["made_up_field"] == "kept"
    record = await record_of(tenant)
    assert record.status == Status.FINISHED
    assert (record.input_tokens, record.output_tokens) == (12, 5)
    assert record.usage_source == UsageRecord.Source.PROVIDER
    assert record.cost_nanos == COST_NANOS
    assert record.model_served == "gpt-4o-2024-08-06"
    assert answer.headers["x-request-id"] == record.request_id
    assert await balances(tenant) == (COST_NANOS, 0)


async def test_the_clients_headers_do_not_travel_to_the_provider(
    api: ApiClient, provider: Provider
) -> None:
    provider.handler = whole()
    await api.chat(
        headers={"cookie": "a=b", "x-forwarded-for": "1.2.3.4", "openai-organization": "x"}
    )
    sent = {name.lower(): value for name, value in provider.headers[0].items()}
    assert sent["authorization"] == "Bearer sk-provider-secret-0123456789"
    assert not {"cookie", "x-forwarded-for", "openai-organization"} & set(sent)


async def test_a_stream_arrives_piece_by_piece_without_the_usage_chunk_nobody_asked_for(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = streamed(*TEXT, USAGE_CHUNK, DONE)
    answer = await api.chat(stream=True)
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.body == b"".join(TEXT) + DONE
    assert len(answer.pieces) >= 4
    assert provider.requests[0]["stream_options"] == {"include_usage": True}
    record = await record_of(tenant)
    assert record.is_stream
    assert record.cost_nanos == COST_NANOS
    assert record.first_token_ms is not None
    assert record.model_served == "gpt-4o-2024-08-06"


async def test_a_stream_reports_usage_to_a_client_that_asked(
    api: ApiClient, provider: Provider
) -> None:
    provider.handler = streamed(*TEXT, USAGE_CHUNK, DONE)
    answer = await api.chat(stream=True, stream_options={"include_usage": True})
    assert answer.body == b"".join(TEXT) + USAGE_CHUNK + DONE


async def test_the_local_model_goes_through_the_event_vocabulary(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await asyncio.to_thread(_add_local_model)
    provider.handler = streamed(*TEXT, USAGE_CHUNK, DONE)
    answer = await api.chat(model="smollm2-135m", stream=True)
    chunks = [json.loads(data) for data in answer.messages if data != "[DONE]"]
    assert "".join(one["choices"][0]["delta"].get("content") or "" for one in chunks) == "Hi there"
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert answer.messages[-1] == "[DONE]"
    record = await record_of(tenant)
    assert (record.input_tokens, record.output_tokens) == (12, 5)


def _add_local_model() -> None:
    from django.db import connection

    from tests import factories

    factories.make_route()
    factories.make_price()
    connection.close()


@pytest.mark.parametrize("then", ["end", "cut"])
async def test_a_cut_stream_gives_the_client_an_error_and_one_record(
    api: ApiClient, provider: Provider, tenant: Tenant, then: str
) -> None:
    provider.handler = streamed(*TEXT[:3], then=then)
    answer = await api.chat(stream=True)
    assert json.loads(answer.messages[-1])["error"]["code"] == "upstream_error"
    assert "[DONE]" not in answer.messages
    record = await record_of(tenant)
    assert record.status == Status.TRUNCATED
    assert record.usage_source == UsageRecord.Source.ESTIMATED
    assert record.output_tokens == 2  # the first of three pieces names the role alone
    assert record.cost_nanos > 0
    assert (await balances(tenant))[1] == 0


@pytest.mark.parametrize(
    "garbage",
    [
        b'data: {"usage":{ not json\n\n',
        b'data: {"choices": [{"del\n\n',
        b"data: <html>Bad gateway</html>\n\n",
        b'data: {"choices": [{"delta": {"content": "\xff"}}]}\n\n',
    ],
)
async def test_garbage_inside_a_stream_is_an_error_the_client_notices(
    api: ApiClient, provider: Provider, tenant: Tenant, garbage: bytes
) -> None:
    provider.handler = streamed(*TEXT[:2], garbage, DONE)
    answer = await api.chat(stream=True)
    assert answer.body.startswith(TEXT[0] + TEXT[1] + b'data: {"error":')
    assert json.loads(answer.messages[-1])["error"]["type"] == "server_error"
    assert (await record_of(tenant)).status == Status.UPSTREAM_ERROR


async def test_an_error_inside_a_stream_is_told_in_our_words(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    failure = b'data: {"error":{"message":"org-secret123456 is out of money","type":"x"}}\n\n'
    provider.handler = streamed(*TEXT[:2], failure)
    answer = await api.chat(stream=True)
    assert b"org-secret" not in answer.body
    assert json.loads(answer.messages[-1])["error"]["code"] == "upstream_error"
    assert (await record_of(tenant)).error_code == "upstream_error"


async def test_a_client_that_hangs_up_is_billed_what_was_relayed_and_the_provider_is_cut(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = streamed(*TEXT[:3], then="silence")
    await api.chat(stream=True, hang_up_after=2)
    await asyncio.wait_for(provider.cut.wait(), timeout=5)
    record = await record_of(tenant)
    assert record.status == Status.CLIENT_GONE
    assert record.usage_source == UsageRecord.Source.ESTIMATED
    assert 0 < record.output_tokens <= 3
    assert (await balances(tenant))[1] == 0


@pytest.mark.parametrize(
    ("status", "body", "seen", "code"),
    [
        (500, {"error": {"message": "boom at proj_abcdef"}}, 502, "upstream_error"),
        (401, {"error": {"message": "Incorrect API key sk-provider"}}, 502, "upstream_error"),
        (402, {"error": {"message": "please recharge"}}, 502, "upstream_error"),
        (429, {"error": {"message": "slow down"}}, 503, "upstream_overloaded"),
        (529, {"error": {"message": "Overloaded: capacity of proj_x"}}, 503, "upstream_overloaded"),
        (302, {}, 502, "upstream_error"),
        (
            400,
            {"error": {"message": "maximum context length is 8 tokens", "param": "messages"}},
            400,
            "context_length_exceeded",
        ),
    ],
)
async def test_a_providers_error_costs_nothing_and_is_told_in_our_words(
    api: ApiClient,
    provider: Provider,
    tenant: Tenant,
    status: int,
    body: dict[str, Any],
    seen: int,
    code: str,
) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.json_response(body, status=status, headers={"location": "http://127.0.0.1:1/"})

    provider.handler = handler
    answer = await api.chat()
    assert answer.status == seen
    error = answer.json["error"]
    assert error["code"] == code
    assert set(error) == {"message", "type", "param", "code"}
    if seen != 400:
        assert body.get("error", {}).get("message", "-") not in error["message"]
    record = await record_of(tenant)
    assert (record.cost_nanos, record.usage_source) == (0, UsageRecord.Source.NONE)
    assert await balances(tenant) == (0, 0)


async def test_a_provider_that_cannot_be_reached_is_a_502_that_may_be_retried(
    api: ApiClient, settings: Any, tenant: Tenant
) -> None:
    settings.PROVIDER_ENVIRONMENT["openai"]["base_url"] = "http://127.0.0.1:9/v1"
    answer = await api.chat()
    assert answer.status == 502
    assert answer.headers["x-should-retry"] == "true"
    assert (await record_of(tenant)).error_code == "upstream_unreachable"


async def test_an_answer_that_is_no_json_is_a_502(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    async def handler(_: web.Request) -> web.Response:
        return web.Response(text="<html>nginx</html>")

    provider.handler = handler
    assert (await api.chat()).status == 502
    assert (await record_of(tenant)).error_code == "upstream_unreadable"


async def test_an_answer_without_usage_is_billed_by_estimate_and_says_so(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole(usage=None)
    assert (await api.chat()).status == 200
    record = await record_of(tenant)
    assert record.usage_source == UsageRecord.Source.ESTIMATED
    assert 0 < record.output_tokens <= 100


async def test_zero_reported_tokens_stay_zero(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole(usage={"prompt_tokens": 0, "completion_tokens": 0})
    await api.chat()
    record = await record_of(tenant)
    assert (record.cost_nanos, record.usage_source) == (0, UsageRecord.Source.PROVIDER)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    "reported",
    [
        {"prompt_tokens": 10**18, "completion_tokens": 5},
        {"prompt_tokens": -1, "completion_tokens": 5},
        {"prompt_tokens": 12, "completion_tokens": -5},
        {"prompt_tokens": 12, "completion_tokens": 0.5},
        {"prompt_tokens": 10**7, "completion_tokens": 5},  # beyond the model's context
        {"prompt_tokens": 12, "completion_tokens": 10**7},
    ],
)
async def test_a_report_that_cannot_be_is_billed_by_estimate_and_says_so(
    api: ApiClient, provider: Provider, tenant: Tenant, reported: Any, is_stream: bool
) -> None:
    usage_chunk = USAGE_CHUNK.replace(json.dumps(USAGE).encode(), json.dumps(reported).encode())
    provider.handler = streamed(*TEXT, usage_chunk, DONE) if is_stream else whole(usage=reported)
    assert (await api.chat(stream=is_stream)).status == 200
    record = await record_of(tenant)
    assert record.status == Status.FINISHED
    assert record.usage_source == UsageRecord.Source.ESTIMATED
    assert 0 < record.input_tokens <= 100
    assert 0 < record.output_tokens <= 150


async def test_spoken_and_drawn_tokens_are_recorded_in_their_buckets(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    details = {"cached_tokens": 2, "audio_tokens": 3, "image_tokens": 4}
    provider.handler = whole(
        usage=USAGE
        | {
            "prompt_tokens_details": details,
            "completion_tokens_details": {"audio_tokens": 4, "reasoning_tokens": 1},
        }
    )
    await api.chat()
    record = await record_of(tenant)
    assert record.usage == Usage(
        input=3,
        cache_read=2,
        audio_input=3,
        image_input=4,
        output=1,
        audio_output=4,
        reasoning=1,
    )
    assert record.cost_nanos == COST_NANOS  # without prices of their own


async def test_an_organizations_margin_is_held_charged_and_recorded(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    await api.chat()
    without = await record_of(tenant)
    await OrganizationTerms.objects.acreate(
        organization=tenant.organization, margin_basis_points=2_000
    )

    async def is_charged() -> bool:
        await api.chat()
        latest = await UsageRecord.objects.alatest("started_at")
        return latest.margin_basis_points == 2_000

    await until(is_charged)
    latest = await UsageRecord.objects.alatest("started_at")
    assert latest.cost_nanos == COST_NANOS * 12 // 10
    assert latest.held_nanos == without.held_nanos * 12 // 10


async def test_a_call_beyond_the_credit_is_refused_before_the_provider_hears_of_it(
    app: GatewayApp, provider: Provider, catalog: None
) -> None:
    poor = await asyncio.to_thread(_make_poor_tenant)
    answer = await ApiClient(app, poor.key).chat()
    assert answer.status == 429
    assert answer.json["error"]["code"] == "insufficient_quota"
    assert answer.json["error"]["type"] == "insufficient_quota"
    assert answer.headers["x-should-retry"] == "false"
    assert provider.requests == []


def _make_poor_tenant() -> Tenant:
    from django.db import connection

    tenant = make_tenant(dollars=0)
    connection.close()
    return tenant


async def test_credit_that_calls_in_flight_hold_is_told_apart_from_no_credit(
    api: ApiClient, provider: Provider
) -> None:
    """Five dollars; each call may write 300,000 tokens, worth three dollars, before it ends."""
    provider.handler = streamed(*TEXT[:2], then="silence")
    body = {"stream": True, "n": 30, "max_completion_tokens": 10_000}
    first = asyncio.ensure_future(api.chat(**body, hang_up_after=3))
    await asyncio.wait_for(provider.asked.wait(), timeout=10)
    answer = await api.chat(**{**body, "stream": False})
    assert answer.status == 429
    assert answer.json["error"]["code"] == "credit_reserved"
    assert answer.headers["retry-after"] == "2"
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_a_cancelled_request_still_settles(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = streamed(*TEXT[:2], then="silence")
    call = asyncio.ensure_future(api.chat(stream=True))
    await asyncio.wait_for(provider.asked.wait(), timeout=10)
    await asyncio.sleep(0.1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    record = await record_of(tenant)
    assert record.status == Status.CLIENT_GONE
    assert (await balances(tenant))[1] == 0
