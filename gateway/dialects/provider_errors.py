"""Providers' error answers -> what our client may see. Pure; the same rules for every wire.

Their 401/402/403 is about our credential and becomes a 502; their text is relayed only where it
tells the user what to change (a 400 of the user's own making), with secrets and account ids cut.
"""

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
# Our account must not show: organization and project ids, keys, request ids, links with queries.
ACCOUNT_FACTS = re.compile(
    r"\b(?:org|proj|req|user|sk|key)[-_][A-Za-z0-9*_\-]{6,}|\bAIza[A-Za-z0-9_\-]{10,}"
)
CONTEXT_TOO_LONG = re.compile(
    r"context.{0,20}(length|window|size)|prompt is too long|input token count.*exceed"
    r"|maximum.{0,20}tokens",
    re.IGNORECASE,
)
CONTENT_POLICY = re.compile(r"content.?(policy|filter|management)|safety", re.IGNORECASE)


def read(
    status: int, headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str]
) -> UpstreamFailure:
    """The failure behind an upstream answer with `status` >= 300."""
    error = _error_object(body)
    detail = f"{status} {_text(error, 'message') or body[:300].decode(errors='replace')}"
    if status in (429, 503, 529):
        refusal = refusals.upstream_overloaded(_retry_after_seconds(headers, error))
        return UpstreamFailure(refusal, True, detail)
    if status in (400, 404, 413, 415, 422) and not _is_about_us(status, error):
        return UpstreamFailure(_users_fault(error, secrets), False, detail)
    is_retryable = status >= 500 or status == 408
    return UpstreamFailure(refusals.upstream_failed(retryable=is_retryable), is_retryable, detail)


def _error_object(body: bytes) -> dict[str, Any]:
    """The `error` member of a JSON body, whichever shape: object, list of one, or text."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if isinstance(parsed, list) and parsed:  # Vertex answers errors of streams as an array
        parsed = parsed[0]
    error = parsed.get("error", parsed) if isinstance(parsed, dict) else {}
    return error if isinstance(error, dict) else {"message": str(error)}


def _text(error: Mapping[str, Any], name: str) -> str:
    value = error.get(name)
    return value if isinstance(value, str) else ""


def _is_about_us(status: int, error: Mapping[str, Any]) -> bool:
    """Whether a 4xx speaks of our credential or our upstream model name, not of the request.

    Google answers a bad key with 400 and the reason API_KEY_INVALID.
    """
    return status == 404 or "API_KEY_INVALID" in str(error.get("details", ""))


def _users_fault(error: Mapping[str, Any], secrets: Sequence[str]) -> Refusal:
    message = scrub(_text(error, "message"), secrets) or "The provider refused this request."
    code = _text(error, "code") or None
    if code == "context_length_exceeded" or CONTEXT_TOO_LONG.search(message):
        code = "context_length_exceeded"
    elif CONTENT_POLICY.search(f"{code} {message}"):
        code = "content_policy_violation"
    return refusals.request_refused_upstream(message, code, _text(error, "param") or None)


def scrub(message: str, secrets: Sequence[str]) -> str:
    """`message` without the given secrets, keys and account ids, cut to a readable length."""
    for secret in secrets:
        if secret:
            message = message.replace(secret, "[redacted]")
    return ACCOUNT_FACTS.sub("[redacted]", message)[:MESSAGE_CHARACTERS_MAX]


def _retry_after_seconds(headers: Mapping[str, str], error: Mapping[str, Any]) -> int:
    """Seconds to wait: the header, else Google's RetryInfo in the body, else a default."""
    raw = headers.get("retry-after", "")
    if not raw:
        match = re.search(r"retryDelay\W+(\d+)", str(error.get("details", "")))
        raw = match.group(1) if match else ""
    try:
        seconds = int(float(raw))
    except ValueError:
        return RETRY_AFTER_SECONDS_DEFAULT
    return min(max(seconds, 1), RETRY_AFTER_SECONDS_MAX)
