"""Refusals in the shape and with the statuses clients' typed exceptions are built from."""

import json
from typing import Any

import httpx
import openai
import pytest

from gateway import refusals
from gateway.refusals import Refusal

RETRY = "x-should-retry"
FACTS = {"scope": "key", "limit": 60, "used": 60, "requested": 1}
MONEY_FACTS = {
    "scope": "key",
    "limit": "$1.00",
    "used": "$1.00",
    "requested": "$0.10",
    "resets_at": "2027-01-01T00:00:00Z",
}
WAIT = {"retry-after": "1", "retry-after-ms": "1000"}
# refusal, status, type, code, param, headers; the class openai-python raises
TABLE: list[tuple[Refusal, int, str, str | None, str | None, dict[str, str], type[Exception]]] = [
    (
        refusals.missing_key(),
        *(401, refusals.INVALID, None, None, {"www-authenticate": "Bearer"}),
        openai.AuthenticationError,
    ),
    (
        refusals.wrong_key("aig_0123456789abcdefghij"),
        *(401, refusals.INVALID, "invalid_api_key", None, {"www-authenticate": "Bearer"}),
        openai.AuthenticationError,
    ),
    (
        refusals.key_used_from_browser(),
        *(403, refusals.INVALID, "key_used_from_browser", None, {}),
        openai.PermissionDeniedError,
    ),
    (
        refusals.organization_suspended("Suspended."),
        *(403, refusals.INVALID, "organization_suspended", None, {}),
        openai.PermissionDeniedError,
    ),
    (
        refusals.unknown_path("POST", "/v1/xyz"),
        *(404, refusals.INVALID, None, None, {}),
        openai.NotFoundError,
    ),
    (
        refusals.wrong_method("POST"),
        *(405, refusals.INVALID, "method_not_supported", None, {"allow": "POST"}),
        openai.APIStatusError,
    ),
    (
        refusals.body_too_large(10, 20),
        *(413, refusals.INVALID, "request_too_large", None, {"connection": "close"}),
        openai.APIStatusError,
    ),
    (
        refusals.encoded_body(),
        *(415, refusals.INVALID, "unsupported_encoding", None, {}),
        openai.APIStatusError,
    ),
    (
        refusals.slow_body(),
        *(408, refusals.INVALID, "request_timeout", None, {"connection": "close"}),
        openai.APIStatusError,
    ),
    (
        refusals.invalid_json(),
        *(400, refusals.INVALID, None, None, {}),
        openai.BadRequestError,
    ),
    (
        refusals.missing_parameter("messages[0].role"),
        *(400, refusals.INVALID, "missing_required_parameter", "messages[0].role", {}),
        openai.BadRequestError,
    ),
    (
        refusals.wrong_type("n", "an integer", "1"),
        *(400, refusals.INVALID, "invalid_type", "n", {}),
        openai.BadRequestError,
    ),
    (
        refusals.unsupported_value("n", "Invalid 'n'."),
        *(400, refusals.INVALID, "unsupported_value", "n", {}),
        openai.BadRequestError,
    ),
    (
        refusals.unknown_model("gpt-0"),
        *(404, refusals.INVALID, "model_not_found", None, {}),
        openai.NotFoundError,
    ),
    (
        refusals.model_not_allowed("gpt-4o", "key"),
        *(403, refusals.INVALID, "model_not_allowed", "model", {}),
        openai.PermissionDeniedError,
    ),
    (
        refusals.provider_not_configured("gpt-4o", "openai", "OpenAI"),
        *(503, refusals.SERVER, "provider_not_configured", None, {RETRY: "false"}),
        openai.InternalServerError,
    ),
    (
        refusals.endpoint_not_offered("m", "/responses", "/chat/completions"),
        *(400, refusals.INVALID, "unsupported_endpoint", "model", {}),
        openai.BadRequestError,
    ),
    (
        refusals.embeddings_elsewhere(),
        *(400, refusals.INVALID, "unsupported_endpoint", None, {}),
        openai.BadRequestError,
    ),
    (
        refusals.model_without_price("m"),
        *(503, refusals.SERVER, "model_not_priced", None, {RETRY: "false"}),
        openai.InternalServerError,
    ),
    (
        refusals.out_of_credit("https://x.example/console/acme/"),
        *(429, "insufficient_quota", "insufficient_quota", None, {RETRY: "false"}),
        openai.RateLimitError,
    ),
    (
        refusals.credit_reserved("https://x.example/console/acme/"),
        *(429, "insufficient_quota", "credit_reserved", None, {RETRY: "true", "retry-after": "2"}),
        openai.RateLimitError,
    ),
    (
        refusals.rate_limited("requests", "requests of this key", FACTS, WAIT, "1s"),
        *(429, "requests", "rate_limit_exceeded", None, WAIT),
        openai.RateLimitError,
    ),
    (
        refusals.too_large_for_limit("tokens", "tokens of this key", FACTS, {}),
        *(429, "tokens", "rate_limit_exceeded", None, {RETRY: "false"}),
        openai.RateLimitError,
    ),
    (
        refusals.budget_spent("daily budget of this key", MONEY_FACTS),
        *(429, "insufficient_quota", "insufficient_quota", None, {RETRY: "false"}),
        openai.RateLimitError,
    ),
    (
        refusals.budget_too_small("daily budget of this key", MONEY_FACTS),
        *(429, "insufficient_quota", "insufficient_quota", None, {RETRY: "false"}),
        openai.RateLimitError,
    ),
    (
        refusals.budget_reserved("daily budget of this key", MONEY_FACTS),
        *(429, "insufficient_quota", "budget_reserved", None, {"retry-after": "2", RETRY: "true"}),
        openai.RateLimitError,
    ),
    (
        refusals.billing_unavailable(),
        *(503, refusals.SERVER, "service_unavailable", None, {"retry-after": "1"}),
        openai.InternalServerError,
    ),
    (
        refusals.settlement_unconfirmed(),
        *(503, refusals.SERVER, "settlement_unconfirmed", None, {RETRY: "false"}),
        openai.InternalServerError,
    ),
    (
        refusals.service_unavailable(),
        *(503, refusals.SERVER, "service_unavailable", None, {"retry-after": "1"}),
        openai.InternalServerError,
    ),
    (
        refusals.upstream_failed(retryable=True),
        *(502, refusals.SERVER, "upstream_error", None, {RETRY: "true"}),
        openai.InternalServerError,
    ),
    (
        refusals.upstream_failed(retryable=False),
        *(502, refusals.SERVER, "upstream_error", None, {RETRY: "false"}),
        openai.InternalServerError,
    ),
    (
        refusals.upstream_overloaded(7),
        *(503, refusals.SERVER, "upstream_overloaded", None, {"retry-after": "7"}),
        openai.InternalServerError,
    ),
    (
        refusals.upstream_timed_out(),
        *(504, refusals.SERVER, "upstream_timeout", None, {RETRY: "false"}),
        openai.InternalServerError,
    ),
    (
        refusals.upstream_timed_out(is_dispatched=False),
        *(504, refusals.SERVER, "upstream_timeout", None, {RETRY: "true"}),
        openai.InternalServerError,
    ),
    (
        refusals.request_refused_upstream("Too long.", "context_length_exceeded", "messages"),
        *(400, refusals.INVALID, "context_length_exceeded", "messages", {}),
        openai.BadRequestError,
    ),
    (
        refusals.invalid_field("max_tokens", "Field required", code="missing_required_parameter"),
        *(400, refusals.INVALID, "missing_required_parameter", "max_tokens", {}),
        openai.BadRequestError,
    ),
    (
        refusals.key_in_url(),
        *(400, refusals.INVALID, "key_in_url", None, {}),
        openai.BadRequestError,
    ),
    (
        refusals.unknown_model_of_response("gpt-0"),
        *(400, refusals.INVALID, "model_not_found", "model", {}),
        openai.BadRequestError,
    ),
    (
        refusals.previous_response_not_found("resp_1"),
        *(404, refusals.INVALID, "previous_response_not_found", "previous_response_id", {}),
        openai.NotFoundError,
    ),
    (
        refusals.response_not_found("resp_1"),
        *(404, refusals.INVALID, None, None, {}),
        openai.NotFoundError,
    ),
    (
        refusals.item_not_found("msg_1"),
        *(404, refusals.INVALID, None, "input", {}),
        openai.NotFoundError,
    ),
    (
        refusals.unsupported_parameter("n", "Not here."),
        *(400, refusals.INVALID, "unsupported_parameter", "n", {}),
        openai.BadRequestError,
    ),
    (
        refusals.internal("req_1"),
        *(500, refusals.SERVER, None, None, {}),
        openai.InternalServerError,
    ),
    (
        refusals.stream_with_idempotency_key(),
        *(400, refusals.INVALID, "idempotency_not_supported", "Idempotency-Key", {}),
        openai.BadRequestError,
    ),
    (
        refusals.idempotency_key_invalid("It has a space."),
        *(400, refusals.INVALID, "idempotency_key_invalid", "Idempotency-Key", {}),
        openai.BadRequestError,
    ),
    (
        refusals.idempotency_key_reused("Use another."),
        *(422, refusals.INVALID, "idempotency_key_reused", "Idempotency-Key", {}),
        openai.UnprocessableEntityError,
    ),
    (
        refusals.idempotency_in_progress("Ask again.", 2),
        *(409, refusals.INVALID, "idempotency_in_progress", "Idempotency-Key"),
        {"retry-after": "2", RETRY: "true"},
        openai.ConflictError,
    ),
    (
        refusals.idempotent_answer_not_kept("It was too large."),
        *(409, refusals.INVALID, "idempotent_answer_not_kept", "Idempotency-Key"),
        {RETRY: "false"},
        openai.ConflictError,
    ),
    (
        refusals.idempotent_answer_lost("req_1"),
        *(409, refusals.INVALID, "idempotent_answer_lost", "Idempotency-Key"),
        {RETRY: "false"},
        openai.ConflictError,
    ),
]


@pytest.mark.parametrize(
    ("refusal", "status", "error_type", "code", "param", "headers", "raised"),
    TABLE,
    ids=[f"{row[1]}-{row[3]}" for row in TABLE],
)
def test_every_refusal_has_its_row_of_the_table(
    refusal: Refusal,
    status: int,
    error_type: str,
    code: str | None,
    param: str | None,
    headers: dict[str, str],
    raised: type[Exception],
) -> None:
    error = refusal.body()["error"]
    assert list(error)[:4] == ["message", "type", "param", "code"]
    assert (refusal.status, error["type"], error["code"], error["param"]) == (
        *(status, error_type, code, param),
    )
    assert refusal.headers == headers
    assert error["message"] == refusal.message == str(refusal)
    assert as_openai_sees(refusal).__class__ is raised


def as_openai_sees(refusal: Refusal) -> openai.APIStatusError:
    """The exception the SDK makes of the answer, by its own code."""
    response = httpx.Response(
        refusal.status,
        headers=refusal.headers,
        content=json.dumps(refusal.body()).encode(),
        request=httpx.Request("POST", "http://gateway.test/v1/chat/completions"),
    )
    client = openai.OpenAI(api_key="unused", base_url="http://gateway.test/v1")
    error = client._make_status_error_from_response(response)
    client.close()
    assert error.code == refusal.code  # type: ignore[attr-defined]
    return error


def test_every_constructor_is_in_the_table() -> None:
    constructors = {
        name
        for name, value in vars(refusals).items()
        if callable(value) and getattr(value, "__annotations__", {}).get("return") is Refusal
    }
    tested = {
        name for name in constructors if any(row[0].message == message_of(name) for row in TABLE)
    }
    assert tested == constructors
    assert len({row[0].message for row in TABLE}) == len(constructors)


ARGUMENTS: dict[str, Any] = {
    "organization_suspended": {"message": "Suspended."},
    "wrong_key": {"key": "aig_0123456789abcdefghij"},
    "unknown_path": {"method": "POST", "path": "/v1/xyz"},
    "wrong_method": {"allowed": "POST"},
    "body_too_large": {"limit": 10, "read": 20},
    "missing_parameter": {"name": "messages[0].role"},
    "wrong_type": {"name": "n", "expected": "an integer", "value": "1"},
    "unsupported_value": {"name": "n", "message": "Invalid 'n'."},
    "invalid_field": {"path": "max_tokens", "problem": "Field required"},
    "unknown_model": {"model": "gpt-0"},
    "model_not_allowed": {"model": "gpt-4o", "scope": "key"},
    "provider_not_configured": {"model": "gpt-4o", "provider": "openai", "label": "OpenAI"},
    "endpoint_not_offered": {
        "model": "m",
        "endpoint": "/responses",
        "offered": "/chat/completions",
    },
    "model_without_price": {"model": "m"},
    "out_of_credit": {"top_up_url": ""},
    "credit_reserved": {"top_up_url": ""},
    "rate_limited": {
        "error_type": "requests",
        "what": "requests of this key",
        "facts": FACTS,
        "headers": WAIT,
        "wait": "1s",
    },
    "too_large_for_limit": {
        "error_type": "tokens",
        "what": "tokens of this key",
        "facts": FACTS,
        "headers": {},
    },
    "budget_spent": {"what": "daily budget of this key", "facts": MONEY_FACTS},
    "budget_too_small": {"what": "daily budget of this key", "facts": MONEY_FACTS},
    "budget_reserved": {"what": "daily budget of this key", "facts": MONEY_FACTS},
    "upstream_failed": {"retryable": True},
    "upstream_overloaded": {"retry_after_seconds": 7},
    "request_refused_upstream": {
        "message": "Too long.",
        "code": "context_length_exceeded",
        "param": "messages",
    },
    "internal": {"request_id": "req_1"},
    "idempotency_key_invalid": {"message": "It has a space."},
    "idempotency_key_reused": {"message": "Use another."},
    "idempotency_in_progress": {"message": "Ask again.", "retry_after_seconds": 2},
    "idempotent_answer_not_kept": {"message": "It was too large."},
    "idempotent_answer_lost": {"request_id": "req_1"},
    "unknown_model_of_response": {"model": "gpt-0"},
    "previous_response_not_found": {"response_id": "resp_1"},
    "response_not_found": {"response_id": "resp_1"},
    "item_not_found": {"item_id": "msg_1"},
    "unsupported_parameter": {"name": "n", "message": "Not here."},
}


def message_of(constructor: str) -> str:
    refusal: Refusal = getattr(refusals, constructor)(**ARGUMENTS.get(constructor, {}))
    return refusal.message


def test_out_of_credit_says_where_to_pay() -> None:
    error = refusals.out_of_credit("https://x.example/console/acme/").body()["error"]
    assert error["scope"] == "organization"
    assert error["top_up_url"] == "https://x.example/console/acme/"


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("aig_ab1234567890wxyz_0123", "aig_ab12****0123"),
        ("aig_short", "****"),
        ("", "****"),
        ("aig_ab12\n34567890wxyz\x1b[0m0123", "aig_ab12****0123"),
    ],
)
def test_a_wrong_key_is_shown_masked(key: str, shown: str) -> None:
    refusal = refusals.wrong_key(key)
    assert f"provided: {shown}." in refusal.message
    assert not key or key not in refusal.message


def test_a_long_model_name_is_not_echoed_whole() -> None:
    assert len(refusals.unknown_model("x" * 100_000).message) < 300


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "a boolean"),
        (1, "an integer"),
        (1.5, "a number"),
        ("", "a string"),
        ([], "an array"),
        ({}, "an object"),
    ],
)
def test_types_are_named_as_json_has_them(value: object, words: str) -> None:
    refusal = refusals.wrong_type("x", "something else", value)
    message = f"Invalid type for 'x': expected something else, but got {words} instead."
    assert refusal.message == message
