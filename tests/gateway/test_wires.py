"""Every client's wire to every provider's wire, through the running AI API."""

import json
from typing import Any

import pytest
from aiohttp import web
from asgiref.sync import sync_to_async
from django.db import connection

from billing.models import UsageRecord
from gateway import endpoints
from gateway.app import GatewayApp
from tests import factories
from tests.gateway.conftest import Answer, ApiClient, Provider, Tenant, make_tenant
from tests.recordings import FOLDER

pytestmark = pytest.mark.usefixtures("transactional_db")

MODELS = {
    "openai_chat": ("gpt-4o", "openai", ""),
    "openai_responses": ("gpt-5.2-codex", "openai", "openai_responses"),
    "anthropic": ("claude-sonnet-4.5", "anthropic", ""),
    "gemini": ("gemini-3-flash", "google", ""),
}


def sse(*messages: tuple[str, Any]) -> bytes:
    return b"".join(
        (f"event: {event}\n" if event else "").encode()
        + b"data: "
        + (data if isinstance(data, bytes) else json.dumps(data).encode())
        + b"\n\n"
        for event, data in messages
    )


def _chat(delta: Any, finish: str | None = None) -> Any:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [choice]}


STREAMS = {
    "openai_chat": sse(
        ("", _chat({"role": "assistant", "content": ""})),
        ("", _chat({"content": "Hello "})),
        ("", _chat({"content": "world"})),
        ("", _chat({}, "stop")),
        ("", {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": [],
              "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}}),
        ("", b"[DONE]"),
    ),
    "anthropic": sse(
        ("message_start", {"type": "message_start", "message": {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [],
            "stop_reason": None, "stop_sequence": None,
            "usage": {"input_tokens": 12, "output_tokens": 1}}}),
        ("content_block_start", {"type": "content_block_start", "index": 0,
                                 "content_block": {"type": "text", "text": ""}}),
        ("content_block_delta", {"type": "content_block_delta", "index": 0,
                                 "delta": {"type": "text_delta", "text": "Hello "}}),
        ("content_block_delta", {"type": "content_block_delta", "index": 0,
                                 "delta": {"type": "text_delta", "text": "world"}}),
        ("content_block_stop", {"type": "content_block_stop", "index": 0}),
        ("message_delta", {"type": "message_delta",
                           "delta": {"stop_reason": "end_turn", "stop_sequence": None},
                           "usage": {"output_tokens": 5}}),
        ("message_stop", {"type": "message_stop"}),
    ),
    "gemini": sse(
        ("", {"candidates": [{"content": {"role": "model", "parts": [{"text": "Hello "}]}}],
              "usageMetadata": {"promptTokenCount": 12}, "modelVersion": "m", "responseId": "r"}),
        ("", {"candidates": [{"content": {"role": "model", "parts": [{"text": "world"}]},
                              "finishReason": "STOP"}],
              "usageMetadata": {"promptTokenCount": 12, "candidatesTokenCount": 5,
                                "totalTokenCount": 17},
              "modelVersion": "m", "responseId": "r"}),
    ),
}  # fmt: skip


def responses_stream() -> bytes:
    """A recorded stream of OpenAI's own, whose text and usage the test reads from it."""
    folder = FOLDER / "openai-responses" / "streaming-text"
    for path in sorted(folder.glob("*.json")):
        recording = json.loads(path.read_text())
        text = recording.get("response_text") or ""
        if "response.completed" in text:
            return str(text).encode()
    raise AssertionError("No recorded stream is whole.")


STREAMS["openai_responses"] = responses_stream()

REQUESTS: dict[str, tuple[str, dict[str, Any]]] = {
    "openai_chat": (
        "/chat/completions",
        {"messages": [{"role": "user", "content": "Hi"}], "stream": True},
    ),
    "openai_responses": ("/responses", {"input": "Hi", "stream": True}),
    "anthropic": (
        "/messages",
        {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 64, "stream": True},
    ),
    "gemini": ("", {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}),
}


def _add_models() -> Tenant:
    for name, provider, dialect in MODELS.values():
        route = factories.make_route(public_name=name, provider=provider)
        route.dialect = dialect
        route.save()
        factories.make_price(provider=provider, model=name)
    tenant = make_tenant()
    connection.close()
    return tenant


@pytest.fixture
async def tenant() -> Tenant:
    return await sync_to_async(_add_models)()


@pytest.fixture
def api(settings: Any, provider: Provider, app: GatewayApp, tenant: Tenant) -> ApiClient:
    known = {"base_url": provider.base_url, "api_key": "sk-provider-secret-0123456789"}
    settings.PROVIDER_ENVIRONMENT = dict.fromkeys(("openai", "anthropic", "google"), known)
    return ApiClient(app, tenant.key)


async def ask(api: ApiClient, client: str, model: str) -> Answer:
    path, body = REQUESTS[client]
    if client == "gemini":
        return await api.call(f"/api/ai/v1beta/models/{model}:streamGenerateContent", body)
    return await api.call(path, {**body, "model": model})


def text_of(client: str, answer: Answer) -> str:
    """The text a client of this wire puts together."""
    texts = []
    for block in answer.body.decode().replace("\r\n", "\n").split("\n\n"):
        data = block.partition("data: ")[2]
        if not data or data == "[DONE]":
            continue
        message = json.loads(data)
        if client == "openai_chat":
            texts += [one["delta"].get("content") or "" for one in message["choices"]]
        elif client == "openai_responses" and message["type"] == "response.output_text.delta":
            texts.append(message["delta"])
        elif client == "anthropic" and message["type"] == "content_block_delta":
            texts.append(message["delta"].get("text", ""))
        elif client == "gemini":
            for candidate in message.get("candidates", []):
                parts = candidate.get("content", {}).get("parts", [])
                texts += [part.get("text", "") for part in parts]
    return "".join(texts)


@pytest.mark.parametrize("upstream", list(MODELS))
@pytest.mark.parametrize("client", list(REQUESTS))
async def test_a_stream_crosses_from_any_wire_to_any_other(
    api: ApiClient, provider: Provider, tenant: Tenant, client: str, upstream: str
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        asked = provider.requests[-1]
        # OpenAI speaks both of its wires: a Responses client is forwarded in its own.
        spoken = "openai_responses" if "input" in asked else upstream
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(STREAMS[spoken])
        return response

    provider.handler = handler
    answer = await ask(api, client, MODELS[upstream][0])
    assert answer.status == 200, answer.body
    text = text_of(client, answer)
    record = await UsageRecord.objects.aget(organization=tenant.organization)
    assert record.status == UsageRecord.Status.FINISHED, (record.error_code, answer.body)
    assert record.usage_source == UsageRecord.Source.PROVIDER
    assert record.cost_nanos > 0
    is_responses = upstream == "openai_responses" or (client, upstream) == (
        "openai_responses",
        "openai_chat",
    )
    if is_responses:
        assert text
    else:
        assert text == "Hello world"
        assert (record.input_tokens, record.output_tokens) == (12, 5)


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("asked", "made"), [(True, 2), (None, 2), (False, 1)])
async def test_a_client_that_takes_one_call_at_a_time_gets_one(
    api: ApiClient, provider: Provider, asked: bool | None, made: int, is_stream: bool
) -> None:
    """Gemini's wire has no word for it."""
    calls = [{"functionCall": {"name": "f", "args": {"n": number}}} for number in range(2)]
    content = {"role": "model", "parts": calls}
    whole = {"candidates": [{"content": content, "finishReason": "STOP"}], "modelVersion": "m"}

    async def handler(request: web.Request) -> web.StreamResponse:
        if not is_stream:
            return web.json_response(whole)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(sse(("", whole)))
        return response

    provider.handler = handler
    function = {"type": "function", "function": {"name": "f"}}
    body = {**REQUESTS["openai_chat"][1], "model": "gemini-3-flash", "stream": is_stream}
    body |= {"tools": [function], "parallel_tool_calls": asked}
    answer = await api.call("/chat/completions", body)
    assert answer.body.count(b'"name":"f"') == made
    assert answer.body.count(rb"{\"n\":0}") == 1
    assert answer.body.count(rb"{\"n\":1}") == made - 1
    assert b'"finish_reason":"tool_calls"' in answer.body


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_function_keeps_its_name_with_a_provider_that_does_not_take_it(
    api: ApiClient, provider: Provider, is_stream: bool
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        (tool,) = provider.requests[-1]["tools"]
        function = {"name": tool["function"]["name"], "arguments": "{}"}
        called = {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": function}]}
        if not is_stream:
            choice = {"index": 0, "message": called, "finish_reason": "tool_calls"}
            return web.json_response({"model": "m", "choices": [choice]})
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        pieces = (("", _chat(called)), ("", _chat({}, "tool_calls")), ("", b"[DONE]"))
        await response.write(sse(*pieces))
        return response

    provider.handler = handler
    declared = [{"functionDeclarations": [{"name": "weather.get"}]}]
    method = "streamGenerateContent" if is_stream else "generateContent"
    body = {**REQUESTS["gemini"][1], "tools": declared}
    answer = await api.call(f"/api/ai/v1beta/models/gpt-4o:{method}", body)
    assert provider.requests[-1]["tools"][0]["function"]["name"] == "weather_get"
    assert b'"functionCall":{"name":"weather.get"' in answer.body


async def test_a_tier_that_changes_the_price_is_refused_also_where_the_request_is_translated(
    api: ApiClient, provider: Provider
) -> None:
    """The model is on Responses alone, so what is asked of chat completions is written anew."""
    body = {**REQUESTS["openai_chat"][1], "model": "gpt-5.2-codex", "service_tier": "priority"}
    refused = await api.call("/chat/completions", body)
    assert (refused.status, refused.json["error"]["param"]) == (400, "service_tier")
    assert provider.requests == []


@pytest.mark.parametrize("client", list(REQUESTS))
async def test_an_error_before_the_stream_has_the_clients_shape(
    api: ApiClient, client: str
) -> None:
    answer = await ask(api, client, "no-such-model")
    assert answer.status in (400, 404)
    error = answer.json["error"]
    if client == "gemini":
        assert error["status"] == "NOT_FOUND"
    elif client == "anthropic":
        assert answer.json["type"] == "error"
        assert error["type"] == "not_found_error"
    else:
        assert error["code"] == "model_not_found"


async def test_responses_are_kept_read_continued_and_deleted(
    api: ApiClient, provider: Provider, app: GatewayApp
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(STREAMS["anthropic"])
        return response

    provider.handler = handler
    first = await ask(api, "openai_responses", "claude-sonnet-4.5")
    completed = json.loads(first.body.decode().rstrip().rpartition("data: ")[2])
    kept = completed["response"]
    assert kept["status"] == "completed"

    read = await api.call(f"/responses/{kept['id']}", method="GET")
    assert read.json["output"] == kept["output"]
    path = f"/responses/{kept['id']}"
    again = await api.call(path, method="GET", query=b"stream=true")
    assert (again.status, again.json["error"]["param"]) == (400, "stream")
    assert (await api.call(path, method="GET", query=b"stream=false")).status == 200
    items = await api.call(f"/responses/{kept['id']}/input_items", method="GET")
    assert items.json["data"][0]["content"][0]["text"] == "Hi"
    assert items.json["has_more"] is False
    wrong = await api.call(f"/responses/{kept['id']}/input_items", method="GET", query=b"limit=0")
    assert wrong.json["error"]["param"] == "limit"

    body = {
        "model": "claude-sonnet-4.5",
        "stream": True,
        "input": [
            {"type": "item_reference", "id": kept["output"][0]["id"]},
            {"role": "user", "content": "Again"},
        ],
    }
    assert (await api.call("/responses", body)).status == 200
    asked = provider.requests[-1]["messages"]
    assert [turn["role"] for turn in asked] == ["assistant", "user"]
    assert "Hello world" in json.dumps(asked[0])

    body = {**body, "input": "And now?", "previous_response_id": kept["id"]}
    assert (await api.call("/responses", body)).status == 200
    asked = provider.requests[-1]["messages"]
    assert [turn["role"] for turn in asked] == ["user", "assistant", "user"]

    stranger = ApiClient(app, (await sync_to_async(_stranger)()).key)
    assert (await stranger.call(f"/responses/{kept['id']}", method="GET")).status == 404
    assert (await stranger.call("/responses", body)).status == 404

    deleted = await api.call(f"/responses/{kept['id']}", method="DELETE")
    assert deleted.json == {"id": kept["id"], "object": "response", "deleted": True}
    assert (await api.call(f"/responses/{kept['id']}", method="GET")).status == 404
    assert (await api.call("/responses", body)).status == 404


def _stranger() -> Tenant:
    tenant = make_tenant()
    connection.close()
    return tenant


async def test_store_false_keeps_nothing(api: ApiClient, provider: Provider) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(STREAMS["anthropic"])
        return response

    provider.handler = handler
    body = {"model": "claude-sonnet-4.5", "stream": True, "input": "Hi", "store": False}
    answer = await api.call("/responses", body)
    kept = json.loads(answer.body.decode().rstrip().rpartition("data: ")[2])["response"]
    assert (await api.call(f"/responses/{kept['id']}", method="GET")).status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1beta/models/gemini-3-flash:generateContent"),
        ("POST", "/v1/models/gemini-3-flash:streamGenerateContent"),
        ("POST", "/v1beta/models/gemini-3-flash:countTokens"),
        ("POST", "/v1beta/models/gemini-3-flash:batchEmbedContents"),
        ("GET", "/v1beta/models"),
        ("GET", "/v1beta/models/gemini-3-flash"),
        ("POST", "/v1beta/cachedContents"),
    ],
)
@pytest.mark.parametrize("query", ["key={}", "alt=sse&key={}", "%6bey={}", "key="])
async def test_a_key_in_the_url_is_refused_on_every_gemini_path(
    api: ApiClient, tenant: Tenant, method: str, path: str, query: str
) -> None:
    answer = await api.call(
        f"/api/ai{path}",
        REQUESTS["gemini"][1] if method == "POST" else None,
        method=method,
        query=query.format(tenant.key).encode(),
    )
    error = answer.json["error"]
    assert (answer.status, error["status"]) == (400, "INVALID_ARGUMENT")
    assert error["details"][0]["reason"] == "KEY_IN_URL"
    assert "header" in error["message"]
    assert tenant.key.encode() not in answer.body


@pytest.mark.parametrize("model", [name for name, _, _ in MODELS.values()])
async def test_tokens_are_counted_for_googles_clients_and_every_model(
    api: ApiClient, tenant: Tenant, model: str
) -> None:
    path = f"/api/ai/v1beta/models/{model}:countTokens"
    contents = REQUESTS["gemini"][1]
    short = await api.call(path, contents)
    whole = await api.call(path, {"generateContentRequest": {"model": model, **contents}})
    long = await api.call(path, {"contents": [{"role": "user", "parts": [{"text": "Hi " * 200}]}]})
    assert (short.status, whole.status, list(short.json)) == (200, 200, ["totalTokens"])
    assert 0 < short.json["totalTokens"] <= whole.json["totalTokens"] < long.json["totalTokens"]
    both = {**contents, "model": model, "messages": [{"role": "user", "content": "Hi"}]}
    for_google = await api.call(path, both)
    for_anthropic = await api.call("/messages/count_tokens", both)
    assert for_google.json["totalTokens"] == for_anthropic.json["input_tokens"]
    assert not await UsageRecord.objects.filter(organization=tenant.organization).aexists()


async def test_what_cannot_be_counted_is_refused_in_googles_shape(api: ApiClient) -> None:
    path = "/api/ai/v1beta/models/gemini-3-flash:countTokens"
    missing = await api.call(path, {"contents": []})
    assert (missing.status, missing.json["error"]["status"]) == (400, "INVALID_ARGUMENT")
    unknown = await api.call(path.replace("flash", "none"), REQUESTS["gemini"][1])
    assert (unknown.status, unknown.json["error"]["status"]) == (404, "NOT_FOUND")
    assert (await api.call(path, REQUESTS["gemini"][1], key="aig_wrong")).status == 401
    assert (await api.call(path, method="GET")).status == 405


@pytest.mark.parametrize("method", ["embedContent", "batchEmbedContents"])
async def test_googles_embeddings_are_refused_with_the_way_to_have_them(
    api: ApiClient, method: str
) -> None:
    answer = await api.call(f"/api/ai/v1beta/models/gemini-3-flash:{method}", {"requests": []})
    assert answer.status == 400
    assert "/api/ai/v1/embeddings" in answer.json["error"]["message"]
    assert (await api.call("/api/ai/v1beta/models/gemini-3-flash:predict", {})).status == 404


async def test_shared_paths_speak_the_wire_of_whoever_asks(api: ApiClient, tenant: Tenant) -> None:
    """Newer Google clients say v1 where older ones say v1beta."""
    google = {"x-goog-api-key": tenant.key}
    listed = await api.call("/models", method="GET", key="", headers=google)
    assert "models/gpt-4o" in [model["name"] for model in listed.json["models"]]
    shown = await api.call("/models/gpt-4o", method="GET", key="", headers=google)
    assert shown.json["name"] == "models/gpt-4o"
    for path, method in (("/models/none", "GET"), ("/xyz", "POST")):
        refused = await api.call(path, {}, method=method, key="", headers=google)
        assert (refused.status, refused.json["error"]["status"]) == (404, "NOT_FOUND")
        refused = await api.call(
            path, {}, method=method, headers={"anthropic-version": "2023-06-01"}
        )
        assert (refused.status, refused.json["error"]["type"]) == (404, "not_found_error")
        refused = await api.call(path, {}, method=method)
        assert (refused.status, refused.json["error"]["type"]) == (404, "invalid_request_error")


async def test_googles_clients_read_one_model(api: ApiClient) -> None:
    answer = await api.call("/api/ai/v1beta/models/gemini-3-flash", method="GET")
    assert answer.json["name"] == "models/gemini-3-flash"
    missing = await api.call("/api/ai/v1beta/models/gemini-0", method="GET")
    assert (missing.status, missing.json["error"]["status"]) == (404, "NOT_FOUND")


def test_a_kept_input_is_read_page_by_page() -> None:
    items = [{"id": f"item_{number}"} for number in range(5)]
    seen: list[str] = []
    query: dict[str, list[str]] = {"limit": ["2"], "order": ["asc"]}
    while True:
        page = endpoints._page(items, query)
        seen += [item["id"] for item in page["data"]]
        if not page["has_more"]:
            break
        query["after"] = [page["last_id"]]
    assert seen == [item["id"] for item in items]
    assert endpoints._page(items, {})["data"][0]["id"] == "item_4", "latest first"


async def test_a_store_that_is_full_of_waiting_is_a_503(api: ApiClient, app: GatewayApp) -> None:
    assert app._services is not None
    places = app._services.store._threads._places
    taken = 0
    while places.acquire(blocking=False):
        taken += 1
    refused = await api.call("/responses/resp_1", method="GET")
    places.release(taken)
    assert refused.status == 503
    assert refused.json["error"]["code"] == "service_unavailable"
    assert refused.headers["retry-after"] == "1"
    assert (await api.call("/responses/resp_1", method="GET")).status == 404
