"""Providers' error answers -> what our client may see. Pure; the same rules for every wire.

Their 401/402/403 is about our credential and becomes a 502; their text is relayed only where it
tells the user what to change (a 400 of the user's own making), with secrets and account ids cut.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from gateway import refusals
from gateway.dialects.base import UpstreamFailure
from gateway.refusals import Refusal

RETRY_AFTER_SECONDS_DEFAULT = 5
RETRY_AFTER_SECONDS_MAX = 120
MESSAGE_CHARACTERS_MAX = 2000
WORD_CHARACTERS_MAX = 200
# A 4xx in these words is about our account: Google's bad key (a 400) and its 400
# FAILED_PRECONDITION for billing and region, Anthropic's 400 for an empty balance, OpenAI's 429 for
# one and its 400 for an account that has not been verified.
ABOUT_US = re.compile(
    r"API_KEY_INVALID|API key (not valid|expired)|invalid_api_key|FAILED_PRECONDITION"
    r"|credit balance is too low|insufficient_quota|billing_(hard_limit|not_active)"
    r"|organization must be verified|account_deactivated",
    re.IGNORECASE,
)
# Our account must not show: keys whole or masked, ids of organization, project, user and request.
# Ids are told from words such as `user_location` by a digit, a capital or a mask.
ACCOUNT_FACTS = re.compile(
    r"\b(?:sk|gsk|xai|hf|pplx)[-_][A-Za-z0-9*_\-]{6,}|\bAIza[A-Za-z0-9_\-]{10,}"
    r"|\bBearer\s+(?=\S*\d)[\w.~+/=\-]{8,}"
    r"|\b(?:org|proj|req|user|key)[-_](?=[A-Za-z_\-]*[A-Z0-9*])[A-Za-z0-9*_\-]{6,}"
    r"|\bprojects/\d{6,}|(?<=request ID )[A-Za-z0-9\-]{8,}"
)
CONTEXT_TOO_LONG = re.compile(
    r"context[ _](length|window|limit)|exceed\w*.{0,40}context|prompt is too long"
    r"|maximum prompt length|input token count.{0,40}exceed",
    re.IGNORECASE,
)
CONTENT_POLICY = re.compile(
    r"content[ _](policy|filter|management)|safety (system|reasons|settings)|usage polic"
    r"|moderation_blocked|PROHIBITED_CONTENT",
    re.IGNORECASE,
)


def read(
    status: int, headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str]
) -> UpstreamFailure:
    """The failure behind an upstream answer with `status` >= 300."""
    error = _error_object(body)
    said = _cut_secrets(_text(error, "message") or body.decode(errors="replace"), secrets)
    detail = f"{status} {said[:MESSAGE_CHARACTERS_MAX]}"
    if _is_about_us(status, error):
        return UpstreamFailure(refusals.upstream_failed(retryable=False), False, detail)
    if status in (429, 503, 529):
        refusal = refusals.upstream_overloaded(_retry_after_seconds(headers, error))
        return UpstreamFailure(refusal, True, detail)
    if status in (400, 413, 415, 422):
        return UpstreamFailure(_users_fault(error, secrets), False, detail)
    is_retryable = status >= 500 or status == 408
    return UpstreamFailure(refusals.upstream_failed(retryable=is_retryable), is_retryable, detail)


def _error_object(body: bytes) -> dict[str, Any]:
    """The `error` member of a JSON body, whichever shape: object, list of one, or text."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(parsed, list) and parsed:  # Google answers some errors as an array
        parsed = parsed[0]
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else {}
    return error if isinstance(error, dict) else {"message": error}


def _text(error: Mapping[str, Any], name: str) -> str:
    value = error.get(name)
    return value if isinstance(value, str) else ""


def _is_about_us(status: int, error: Mapping[str, Any]) -> bool:
    """Whether a 4xx speaks of our credential, our bill or our upstream model name."""
    if status in (401, 402, 403, 404):
        return True
    words = " ".join(_text(error, name) for name in ("code", "type", "status", "message"))
    return status < 500 and bool(ABOUT_US.search(f"{words} {error.get('details', '')}"))


def _users_fault(error: Mapping[str, Any], secrets: Sequence[str]) -> Refusal:
    message = scrub(_text(error, "message"), secrets) or "The provider refused this request."
    code = scrub(_text(error, "code"), secrets)[:WORD_CHARACTERS_MAX]
    if code == "context_length_exceeded" or CONTEXT_TOO_LONG.search(message):
        code = "context_length_exceeded"
    elif CONTENT_POLICY.search(f"{code} {message}"):
        code = "content_policy_violation"
    param = scrub(_text(error, "param"), secrets)[:WORD_CHARACTERS_MAX]
    return refusals.request_refused_upstream(message, code or None, param or None)


def scrub(message: str, secrets: Sequence[str]) -> str:
    """`message` without the given secrets, keys and account ids, cut to a readable length."""
    message = _cut_secrets(message, secrets)
    return ACCOUNT_FACTS.sub("[redacted]", message)[:MESSAGE_CHARACTERS_MAX]


def _cut_secrets(message: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        if secret:
            message = message.replace(secret, "[redacted]")
    return message


def _retry_after_seconds(headers: Mapping[str, str], error: Mapping[str, Any]) -> int:
    """Seconds to wait: the header, else Google's RetryInfo in the body, else a default.

    A date in the header needs a clock, so it counts as the default.
    """
    raw = headers.get("retry-after", "")
    if not raw:
        match = re.search(r"retryDelay\W+(\d+(?:\.\d+)?)s", str(error.get("details", "")))
        raw = match.group(1) if match else ""
    try:
        seconds = math.ceil(float(raw))
    except (ValueError, OverflowError):  # text, nothing, nan, inf
        return RETRY_AFTER_SECONDS_DEFAULT
    return min(max(seconds, 1), RETRY_AFTER_SECONDS_MAX)
