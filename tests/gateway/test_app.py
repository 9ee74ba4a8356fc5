"""The AI API as clients meet it: paths, methods, models, and what happens when we have a bug."""

import json
from typing import Any

import pytest
from openai.types import Model

from billing.models import OrganizationTerms, UsageRecord
from gateway import app as app_module
from gateway import endpoints, proxy
from gateway.app import GatewayApp
from tests.gateway.conftest import Answer, ApiClient, Provider, Tenant
from tests.gateway.test_proxy import TEXT, balances, record_of, streamed, whole

ERROR_KEYS = {"message", "type", "param", "code"}


def error_of(answer: Answer) -> dict[str, Any]:
    error: dict[str, Any] = answer.json["error"]
    assert set(error) >= ERROR_KEYS
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"].startswith("req_")
    return error


# --- models -----------------------------------------------------------------------------------


async def test_models_are_listed_as_openais_sdk_expects(api: ApiClient) -> None:
    answer = await api.call("/models", method="GET")
    assert answer.json["object"] == "list"
    models = [Model.model_validate(row, strict=True) for row in answer.json["data"]]
    assert [model.id for model in models] == ["claude-sonnet-4.5", "gpt-4o", "unpriced"]
    assert {model.object for model in models} == {"model"}
    by_id = {row["id"]: row for row in answer.json["data"]}
    assert by_id["gpt-4o"]["status"] == "available"
    assert by_id["gpt-4o"]["context_window"] == 8192
    assert by_id["gpt-4o"]["pricing"] == {
        "unit": "USD per 1M tokens",
        "input": "2.5",
        "output": "10",
    }
    assert by_id["unpriced"]["status"] == "model_not_priced"
    assert by_id["claude-sonnet-4.5"]["status"] == "provider_not_configured"
    assert by_id["claude-sonnet-4.5"]["pricing"] is None


async def test_models_are_listed_at_what_the_caller_pays(api: ApiClient, tenant: Tenant) -> None:
    await OrganizationTerms.objects.acreate(
        organization=tenant.organization, margin_basis_points=1_000
    )
    answer = await api.call("/models/gpt-4o", method="GET")
    assert answer.json["pricing"] == {
        "unit": "USD per 1M tokens",
        "margin_included": "10 %",
        "input": "2.75",
        "output": "11",
    }


async def test_one_model_is_described_like_in_the_list(api: ApiClient) -> None:
    listed = (await api.call("/models", method="GET")).json["data"]
    for row in listed:
        one = await api.call(f"/models/{row['id']}", method="GET")
        assert one.json == row


@pytest.mark.parametrize("name", ["", "gpt-99", "gpt-4o/", "a/b", "..", "x" * 1000])
async def test_an_unknown_model_is_a_404(api: ApiClient, name: str) -> None:
    answer = await api.call(f"/models/{name}", method="GET")
    assert answer.status == 404
    assert error_of(answer)["code"] == "model_not_found"
    assert len(answer.body) < 500


# --- paths and methods ------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/nothing", "/chat", "/chat/completions/", "/Models", ""])
async def test_an_unknown_path_is_named(api: ApiClient, path: str) -> None:
    answer = await api.call(path)
    assert answer.status == 404
    assert error_of(answer)["message"] == f"Invalid URL (POST /api/ai/v1{path})"
    assert error_of(answer)["code"] is None


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/api/ai/chat/completions", "/api/ai/v1/chat/completions"),
        ("/api/ai/models", "/api/ai/v1/models"),
        ("/api/ai/models/gpt-4o", "/api/ai/v1/models/gpt-4o"),
    ],
)
async def test_a_forgotten_version_is_pointed_out(api: ApiClient, path: str, meant: str) -> None:
    message = error_of(await api.call(path))["message"]
    assert message.startswith(f"Invalid URL (POST {path})")
    assert f"Did you mean {meant}?" in message


async def test_a_long_or_strange_path_is_answered_all_the_same(api: ApiClient) -> None:
    answer = await api.call("/" + "x" * 5000 + '\r\nx: "y"')
    assert answer.status == 404
    assert len(answer.body) < 500


@pytest.mark.parametrize(
    ("path", "allowed"),
    [("/chat/completions", "POST"), ("/models", "GET"), ("/models/gpt-4o", "GET")],
)
async def test_a_wrong_method_names_the_right_one(api: ApiClient, path: str, allowed: str) -> None:
    for method in {"GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"} - {allowed}:
        answer = await api.call(path, method=method)
        assert answer.status == 405
        assert answer.headers["allow"] == allowed
        assert error_of(answer)["code"] == "method_not_supported"


async def test_no_answer_of_any_kind_invites_a_browser(api: ApiClient, provider: Provider) -> None:
    """Preflights are refused like everything else, and no Access-Control header is ever sent."""

    async def inviting(request: Any) -> Any:
        response = await whole()(request)
        response.headers["Access-Control-Allow-Origin"] = "*"
        response.headers["Set-Cookie"] = "a=b"
        return response

    provider.handler = inviting
    preflight = {"origin": "https://app.example", "access-control-request-method": "POST"}
    answers = [
        await api.chat(),
        await api.chat(model="nope"),
        await api.chat(key="wrong"),
        await api.chat(headers={"origin": "https://app.example"}),
        await api.call("/chat/completions", method="OPTIONS", key="", headers=preflight),
        await api.call("/models", method="OPTIONS", headers=preflight),
        await api.call("/models", method="GET"),
        await api.call("/nothing"),
        await api.call("/chat/completions", raw=b"{"),
    ]
    provider.handler = streamed(*TEXT)
    answers.append(await api.chat(stream=True))
    assert {answer.status for answer in answers} == {200, 400, 401, 403, 404, 405}
    for answer in answers:
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "set-cookie" not in answer.headers
        assert answer.headers["x-request-id"]
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert len({answer.headers["x-request-id"] for answer in answers}) == len(answers)


async def test_before_the_start_and_after_the_end_the_answer_is_503(tenant: Tenant) -> None:
    answer = await ApiClient(GatewayApp(), tenant.key).chat()
    assert answer.status == 503
    assert error_of(answer)["code"] == "service_unavailable"


# --- models that cannot be called -------------------------------------------------------------


async def test_a_model_without_a_price_or_a_credential_is_refused_and_not_recorded(
    api: ApiClient, provider: Provider
) -> None:
    unpriced = await api.chat(model="unpriced")
    assert (unpriced.status, error_of(unpriced)["code"]) == (503, "model_not_priced")
    unconfigured = await api.chat(model="claude-sonnet-4.5")
    assert (unconfigured.status, error_of(unconfigured)["code"]) == (503, "provider_not_configured")
    assert provider.requests == []
    assert not await UsageRecord.objects.aexists()


# --- hostile bodies ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"\xff",
        b'{"model": NaN}',
        b'{"model": "\\ud800"}',
        b"\x1f\x8b\x08",
        b'{"a":' * 5_000,
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(api: ApiClient, raw: bytes) -> None:
    answer = await api.call("/chat/completions", raw=raw)
    assert answer.status == 400
    assert "could not parse the JSON body" in error_of(answer)["message"]


@pytest.mark.parametrize("depth", [200, 300, 900, 1100, 5000])
async def test_deep_nesting_is_forwarded_or_refused_but_never_a_bug(
    api: ApiClient, provider: Provider, depth: int
) -> None:
    provider.handler = whole()
    nested = "[" * depth + "]" * depth
    raw = f'{{"model":"gpt-4o","messages":[{{"role":"user","content":"x"}}],"metadata":{nested}}}'
    answer = await api.call("/chat/completions", raw=raw.encode())
    assert answer.status in (200, 400)


async def test_what_a_client_says_about_addresses_is_not_obeyed(
    api: ApiClient, provider: Provider
) -> None:
    provider.handler = whole()
    elsewhere = {"api_base": "http://127.0.0.1:9/", "base_url": "http://127.0.0.1:9/"}
    answer = await api.chat(
        **elsewhere, headers={"host": "evil.example", "x-forwarded-host": "evil.example"}
    )
    assert answer.status == 200
    assert provider.headers[0]["Host"].startswith("127.0.0.1:")


# --- bugs of ours -----------------------------------------------------------------------------


async def test_a_bug_before_the_call_is_a_500_with_the_request_id(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(proxy.routing, "choose", broken)
    answer = await api.chat()
    assert answer.status == 500
    assert error_of(answer)["type"] == "server_error"
    assert answer.headers["x-request-id"] in error_of(answer)["message"]
    assert "secret detail" not in answer.body.decode()


async def test_a_bug_during_the_call_still_settles(
    api: ApiClient, provider: Provider, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    provider.handler = whole()
    monkeypatch.setattr(proxy, "_answer", broken)
    answer = await api.chat()
    assert answer.status == 500
    record = await record_of(tenant)
    assert (record.status, record.http_status) == (UsageRecord.Status.CRASHED, 500)
    assert record.error_code == "internal_error"
    assert record.cost_nanos == 0
    assert await balances(tenant) == (0, 0)


async def test_a_bug_inside_a_stream_cuts_it_and_bills_what_was_relayed(
    api: ApiClient, provider: Provider, tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = proxy.Run.relay

    def broken(self: proxy.Run, tokens: int) -> None:
        relay(self, tokens)
        if self.relayed_tokens >= 2:
            raise ZeroDivisionError

    monkeypatch.setattr(proxy.Run, "relay", broken)
    provider.handler = streamed(*TEXT)
    answer = await api.chat(stream=True)
    assert answer.status == 200
    assert "[DONE]" not in answer.messages
    record = await record_of(tenant)
    assert record.status == UsageRecord.Status.CRASHED
    assert record.cost_nanos > 0
    assert (await balances(tenant))[1] == 0


async def test_nothing_is_answered_to_a_client_that_left(
    api: ApiClient, app: GatewayApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: Any) -> None:
        raise app_module.ClientGone

    monkeypatch.setitem(app_module.FIXED, "/api/ai/v1/models", {"GET": gone})
    answer = await api.call("/models", method="GET")
    assert (answer.status, answer.pieces) == (0, [])


def test_prices_read_as_people_write_them() -> None:
    from billing.pricing import Price

    price = Price(1, {"input": ((0, 150_000_000), (200_000, 1)), "output": ((0, 15_000_000_000),)})
    assert endpoints._describe_price(price, 0) == {
        "unit": "USD per 1M tokens",
        "input": "0.15",
        "output": "15",
    }
    assert json.dumps(endpoints._describe_price(Price(1, {"input": ((0, 0),)}), 0))
    # The last digit of a nano-dollar and of a basis point survive.
    assert endpoints._describe_price(Price(1, {"input": ((0, 1),)}), 1) == {
        "unit": "USD per 1M tokens",
        "margin_included": "0.01 %",
        "input": "0.0000000010001",
    }
