"""Providers' errors: what our client may see of them, and what it must not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import provider_errors
from gateway.dialects.base import UpstreamFailure
from gateway.refusals import INVALID
from tests.recordings import Recording, of_kind

SECRET = "sk-provider-secret-0123456789"
ERRORS = of_kind("error")
OURS = "The model's provider failed to answer this request."
OVERLOADED = "The model's provider is overloaded. Please retry."


def read(
    status: int, body: Any = b"", headers: dict[str, str] | None = None, secret: str = SECRET
) -> UpstreamFailure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return provider_errors.read(status, headers or {}, raw, secrets=[secret, ""])


def error(message: str, **fields: Any) -> dict[str, Any]:
    return {"error": {"message": message, **fields}}


# --- recordings ------------------------------------------------------------------------------

# The file -> status and code our client sees; and whether another provider may be tried.
EXPECTED: dict[str, tuple[int, str | None, bool]] = {
    "errors/anthropic-413-request-too-large": (400, None, False),
    "errors/anthropic-429-account-rate-limit": (503, "upstream_overloaded", True),
    "errors/anthropic-429-rate-limited": (503, "upstream_overloaded", True),
    "errors/anthropic-500-api-error": (502, "upstream_error", True),
    "errors/anthropic-500-overloaded-null-request-id": (502, "upstream_error", True),
    "errors/anthropic-529-overloaded-2026": (503, "upstream_overloaded", True),
    "errors/anthropic-529-overloaded-with-doc-link": (503, "upstream_overloaded", True),
    "errors/anthropic-529-overloaded-with-headers": (503, "upstream_overloaded", True),
    "errors/gemini-429-resource-exhausted": (503, "upstream_overloaded", True),
    "errors/gemini-429-vertex-array-body": (503, "upstream_overloaded", True),
    "errors/gemini-503-overloaded": (503, "upstream_overloaded", True),
    # Our account is empty: retrying does not help, and it is none of the client's business.
    "errors/openai-429-insufficient-quota": (502, "upstream_error", False),
    "errors/openai-429-tpm-message-only": (503, "upstream_overloaded", True),
    "errors/openai-503-overloaded-2023": (503, "upstream_overloaded", True),
    "errors/pyd__anthropic_explicit_effort_xhigh_unsupported_model_errors.0": (400, None, False),
    "errors/pyd__model_name_suggestion_anthropic_.0": (502, "upstream_error", False),
    "errors/pyd__model_name_suggestion_google_.0": (502, "upstream_error", False),
    "errors/rubyllm__err_anthropic_handles_context_length_exceeded_errors.0": (
        *(400, "context_length_exceeded", False),
    ),
    "errors/rubyllm__err_anthropic_raises_appropriate_auth_error.0": (
        *(502, "upstream_error", False),
    ),
    "errors/rubyllm__err_gemini_handles_context_length_exceeded_errors.0": (
        *(503, "upstream_overloaded", True),
    ),
    "errors/rubyllm__err_gemini_raises_appropriate_auth_error.0": (502, "upstream_error", False),
    "openai-chat/errors/aisdk__reasoning-model-legacy-parameter-error": (
        *(400, "unsupported_parameter", False),
    ),
    "openai-chat/errors/otel__chat_completion_404.0": (502, "upstream_error", False),
    "openai-chat/errors/pyd__openai_o1_mini_system_role_system_.0": (
        *(400, "unsupported_value", False),
    ),
    "openai-chat/errors/pyd__openai_web_search_tool_model_not_supported.0": (400, None, False),
    "openai-chat/vision-and-files/openllmetry__vision.2": (400, "invalid_image_url", False),
    "openai-compatible-others/openllmetry__prompt_content_filtering.0": (
        *(400, "content_policy_violation", False),
    ),
    "openai-compatible-others/pyd__openrouter_errors_raised.0": (503, "upstream_overloaded", True),
    "openai-compatible-others/pyd__openrouter_errors_raised.1": (503, "upstream_overloaded", True),
    "openai-compatible-others/pyd__openrouter_errors_raised.2": (503, "upstream_overloaded", True),
    "openai-compatible-others/pyd__tool_use_failed_error.0": (400, "tool_use_failed", False),
    "openai-compatible-others/rubyllm__err_deepseek_deepseek-chat_handles_context_length"
    "_exceeded_errors.0": (400, "context_length_exceeded", False),
}


def test_every_recorded_error_has_an_expectation() -> None:
    assert {one.name for one in ERRORS} == set(EXPECTED)


@pytest.mark.parametrize("recording", [pytest.param(one, id=one.name) for one in ERRORS])
def test_a_recorded_error_becomes_what_our_client_should_see(recording: Recording) -> None:
    body = recording.content["response"]
    # Azure sent its refusal with 200, and the AI SDK's fixture has no status: both are 400s.
    status = {None: 400, 200: 400}.get(recording.content["status"], recording.content["status"])
    failure = read(status, body, recording.headers)
    seen, code, is_retryable = EXPECTED[recording.name]
    refusal = failure.refusal
    assert (refusal.status, refusal.code, failure.is_retryable) == (seen, code, is_retryable)
    assert failure.detail.startswith(f"{status} ")
    if seen == 400:
        assert refusal.message == body["error"]["message"]
        assert refusal.param == body["error"].get("param")
        assert refusal.error_type == INVALID
    else:
        assert refusal.message in (OURS, OVERLOADED)


def test_googles_retry_info_of_the_recording_is_passed_on() -> None:
    name = "errors/rubyllm__err_gemini_handles_context_length_exceeded_errors.0"
    recording = next(one for one in ERRORS if one.name == name)
    details = recording.answer["error"]["details"]
    delay = next(one["retryDelay"] for one in details if "retryDelay" in one)
    seconds = float(delay.removesuffix("s"))
    retry_after = int(read(429, recording.answer).refusal.headers["retry-after"])
    assert seconds <= retry_after < seconds + 1


# --- whose fault -----------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 307, 401, 402, 403, 404, 405, 409, 410])
@pytest.mark.parametrize("said", ["Incorrect API key provided: sk-pro***789", "Pay first."])
def test_what_is_about_our_account_stays_with_us(status: int, said: str) -> None:
    failure = read(status, error(said, code="invalid_api_key", param="authorization"))
    assert failure.refusal.status == 502
    assert failure.refusal.body()["error"] == {
        "message": OURS,
        "type": "server_error",
        "param": None,
        "code": "upstream_error",
    }
    assert failure.refusal.headers == {"x-should-retry": "false"}
    assert not failure.is_retryable
    assert said in failure.detail


GOOGLE_KEY = {
    "code": 400,
    "status": "INVALID_ARGUMENT",
    "details": [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}],
}


@pytest.mark.parametrize(
    "body",
    [
        error("API key not valid. Please pass a valid API key.", **GOOGLE_KEY),
        [error("API key not valid. Please pass a valid API key.", **GOOGLE_KEY)],
        error("API key expired. Please renew the API key.", **GOOGLE_KEY),
        error("User location is not supported.", status="FAILED_PRECONDITION"),
        error("Your credit balance is too low to access the Anthropic API. Please upgrade."),
        error("Billing hard limit has been reached", code="billing_hard_limit_reached"),
        error("Your organization must be verified to stream this model.", param="stream"),
        error("no", code="invalid_api_key"),
    ],
)
def test_a_400_about_our_account_stays_with_us(body: Any) -> None:
    failure = read(400, body)
    assert (failure.refusal.status, failure.refusal.message) == (502, OURS)
    assert not failure.is_retryable


@pytest.mark.parametrize("status", [500, 502, 504, 520, 408])
def test_a_providers_failure_may_be_retried(status: int) -> None:
    failure = read(status, error("Something broke at org-AbCdEf123456."))
    assert (failure.refusal.status, failure.refusal.message) == (502, OURS)
    assert failure.refusal.headers == {"x-should-retry": "true"}
    assert failure.is_retryable


@pytest.mark.parametrize("status", [400, 413, 415, 422])
def test_what_the_user_can_change_is_told(status: int) -> None:
    said = "Invalid schema for function 'get_user_profile': 'type' is required."
    body = error(said, code="invalid_function_parameters", param="tools[0].function.parameters")
    assert read(status, body).refusal.body()["error"] == {
        "message": said,
        "type": INVALID,
        "param": "tools[0].function.parameters",
        "code": "invalid_function_parameters",
    }


@pytest.mark.parametrize(
    "said",
    [
        "This model's maximum context length is 128000 tokens. However, you requested 1.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 199000 + 8000 > 200000",
        "The input token count (1250010) exceeds the maximum number of tokens allowed (1048576).",
        "This model's maximum prompt length is 131072 but the request contains 140000 tokens.",
        "the request exceeds the available context size. try increasing the context size",
        "Your input exceeds the context window of this model.",
    ],
)
def test_a_prompt_that_is_too_long_has_one_code(said: str) -> None:
    refusal = read(400, error(said, code="invalid_request_error")).refusal
    assert (refusal.code, refusal.message) == ("context_length_exceeded", said)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Your request was rejected as a result of our safety system.", None),
        ("The response was filtered by Azure OpenAI's content management policy.", None),
        ("Filtered.", "content_filter"),
        ("Filtered.", "content_policy_violation"),
        ("Your prompt was flagged as potentially violating our usage policy.", "invalid_prompt"),
        ("Output blocked by content filtering policy", None),
    ],
)
def test_a_breach_of_policy_has_one_code(said: str, code: str | None) -> None:
    assert read(400, error(said, code=code)).refusal.code == "content_policy_violation"


@pytest.mark.parametrize(
    "said",
    [
        "Unknown parameter: 'safety_identifier'.",
        "Invalid value for 'web_search_options.search_context_size'.",
        "max_tokens is too large: 100000. This model supports at most 4096 completion tokens.",
        "max_tokens: 100000 > 8192, which is the maximum allowed number of output tokens.",
        "Missing required parameter: 'messages[0].content'.",
    ],
)
def test_other_faults_are_not_mistaken_for_those(said: str) -> None:
    assert read(400, error(said)).refusal.code is None


# --- how long to wait ------------------------------------------------------------------------


def retry_info(delay: str) -> dict[str, Any]:
    detail = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}
    return error("Quota exceeded.", details=[{"@type": "x"}, detail])


@pytest.mark.parametrize("status", [429, 503, 529])
@pytest.mark.parametrize(
    ("headers", "body", "seconds"),
    [
        ({"retry-after": "17"}, {}, "17"),
        ({"retry-after": "0.2"}, {}, "1"),
        ({"retry-after": "1.5"}, {}, "2"),
        ({"retry-after": "0"}, {}, "1"),
        ({"retry-after": "-3"}, {}, "1"),
        ({"retry-after": "86400"}, {}, "120"),
        ({"retry-after": "1e400"}, {}, "5"),
        ({"retry-after": "nan"}, {}, "5"),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, {}, "5"),
        ({}, {}, "5"),
        ({}, retry_info("34s"), "34"),
        ({}, retry_info("34.07s"), "35"),
        ({}, retry_info("3600s"), "120"),
        ({}, retry_info("soon"), "5"),
        ({}, [retry_info("8s")], "8"),
        ({"retry-after": "3"}, retry_info("34s"), "3"),
    ],
)
def test_an_overloaded_provider_says_when_to_come_back(
    status: int, headers: dict[str, str], body: Any, seconds: str
) -> None:
    failure = read(status, body, headers)
    assert (failure.refusal.status, failure.refusal.code) == (503, "upstream_overloaded")
    assert failure.refusal.message == OVERLOADED
    assert failure.refusal.headers == {"retry-after": seconds}
    assert failure.is_retryable


# --- what must not show ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "fact",
    [
        SECRET,
        "sk-proj-********************abcd",
        "sk-ant-api03-AbCdEfGhIj",
        "gsk_abcdefghij",
        "xai-abcdefghij",
        "AIzaSyA-1234567890abcdefg",
        "Bearer abc1.def_ghi=",
        "org-AbCdEfGhIjKlMnOpQrStUvWx",
        "org-a1b2c3d4e5",
        "proj_tzz1TbPPOXaf6j9tEkVUBIAa",
        "req_c3e0f92d7b5426d1a4a17bb3d39953ea",
        "user_2wT5ElBE4Es3R4QrNLpZiXICmQP",
        "projects/123456789012",
    ],
)
def test_our_account_does_not_show(fact: str) -> None:
    said = f"Refused for {fact}, see ({fact}). Fix 'messages'."
    failure = read(400, error(said, code=f"x {fact}", param=f"y {fact}"))
    seen = json.dumps(failure.refusal.body())
    assert fact not in seen
    assert failure.refusal.message == "Refused for [redacted], see ([redacted]). Fix 'messages'."


def test_the_request_id_of_our_account_does_not_show() -> None:
    said = "Broken. (Please include the request ID 500d9fff2057e4af93a280f67002c342.)"
    assert "500d9fff" not in read(400, error(said)).refusal.message


@pytest.mark.parametrize(
    "said",
    [
        "Unknown parameter: 'user_location'.",
        "Invalid 'tools[0].function.name': 'org_members_list' is taken.",
        "Use a user-provided key_points list and req-specific settings.",
        "Risk-averse task-force sk-8.",
    ],
)
def test_ordinary_words_are_left_alone(said: str) -> None:
    assert read(400, error(said)).refusal.message == said


def test_our_key_is_not_even_in_the_log() -> None:
    for body in (error(f"Wrong key {SECRET}"), f"<html>{SECRET}</html>".encode()):
        for status in (400, 401, 429, 500):
            assert SECRET not in read(status, body).detail


@given(st.text(max_size=200), st.text(max_size=200), st.sampled_from([400, 401, 429, 500]))
def test_a_secret_never_shows_whatever_surrounds_it(before: str, after: str, status: int) -> None:
    secret = "k3y-s3cr3t"
    failure = read(status, error(before + secret + after), secret=secret)
    assert secret not in failure.refusal.message
    assert secret not in failure.detail


def test_a_very_long_message_is_cut() -> None:
    failure = read(400, error("x" * 50_000, code="c" * 50_000, param="p" * 50_000))
    assert len(json.dumps(failure.refusal.body())) < 3000
    assert len(failure.detail) < 3000


# --- garbage ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>502 Bad Gateway</html>",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"[1]",
        b"5",
        b'"no"',
        b"{}",
        b'{"error":null}',
        b'{"error":5}',
        b'{"error":[]}',
        b'{"error":{"message":{"a":1},"code":5,"param":[]}}',
    ],
)
@pytest.mark.parametrize(
    ("status", "seen"), [(400, 400), (401, 502), (429, 503), (500, 502), (302, 502), (999, 502)]
)
def test_a_garbage_body_still_has_its_status(body: bytes, status: int, seen: int) -> None:
    failure = read(status, body)
    assert failure.refusal.status == seen
    if seen == 400:
        assert failure.refusal.body()["error"] == {
            "message": "The provider refused this request.",
            "type": INVALID,
            "param": None,
            "code": None,
        }


@pytest.mark.parametrize("body", [b'{"error":"Too long."}', b'{"message":"Too long."}'])
def test_a_message_in_another_place_is_found(body: bytes) -> None:
    assert read(400, body).refusal.message == "Too long."


@given(st.integers(300, 599), st.binary(max_size=60), st.text(max_size=12))
def test_no_bytes_and_no_header_break_it(status: int, body: bytes, header: str) -> None:
    failure = read(status, body, {"retry-after": header})
    assert failure.refusal.status in (400, 502, 503)
