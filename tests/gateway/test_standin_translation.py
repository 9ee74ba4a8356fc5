"""What the dialects make of one wire's real requests, the strict stand-in of another wire takes."""

from typing import Any

import orjson
import pytest

from gateway.dialects import CLIENT_DIALECTS, UPSTREAM_DIALECTS
from gateway.dialects.base import Target
from gateway.refusals import Refusal
from gateway.standin import strict_anthropic, strict_gemini
from gateway.standin.rejections import Asked, apply
from tests.recordings import Recording, of_folder

SOURCES = {
    "anthropic": ("anthropic", "/messages"),
    "gemini": ("gemini", "enerateContent"),
    "openai-chat": ("openai_chat", "/chat/completions"),
    "openai-responses": ("openai_responses", "/responses"),
}
TARGETS: tuple[tuple[str, Target, Any], ...] = (
    ("anthropic", Target("claude-sonnet-4-5", 64_000), strict_anthropic.RULES),
    ("anthropic", Target("claude-opus-5", 128_000), strict_anthropic.RULES),
    ("gemini", Target("gemini-3-flash-preview", 65_536), strict_gemini.RULES),
    ("gemini", Target("gemini-2.5-flash", 65_536), strict_gemini.RULES),
)
# Google answers a prompt without content; Anthropic has no way to ask nothing.
ASKS_NOTHING = "gemini/max-tokens-stop-and-safety/pyd__google_model_empty_user_prompt.0"
HEADERS = {"anthropic-version": "2023-06-01"}


def requests() -> list[Any]:
    """Requests that their own service answered, with the dialect they are written in."""
    return [
        pytest.param(one, dialect, id=one.name)
        for folder, (dialect, path) in SOURCES.items()
        for one in of_folder(folder)
        if isinstance(one.request, dict)
        and path in (one.content.get("url") or "")
        and one.content["status"] == 200
        and one.name != ASKS_NOTHING
    ]


def write(body: dict[str, Any], dialect: str, wire: str, target: Target) -> Any:
    """The body for the other wire; None where a dialect refuses it, which a client is told."""
    try:
        request = CLIENT_DIALECTS[dialect].read_request(body)
        written = UPSTREAM_DIALECTS[wire].write_request(request, target)
    except Refusal:
        return None
    return orjson.loads(orjson.dumps(written))


@pytest.mark.parametrize(("recording", "dialect"), requests())
def test_a_translated_request_is_taken_or_was_refused_before(
    recording: Recording, dialect: str
) -> None:
    body = {"model": "gemini-2.5-flash", **(recording.request or {})}
    for wire, target, rules in TARGETS:
        # A body of the same wire goes through as it is.
        sent = write(body, dialect, wire, target) if wire != dialect else None
        if sent is not None:
            apply(rules, Asked(HEADERS, sent, target.model))


def test_most_requests_can_be_translated() -> None:
    written = [
        write({"model": "m", **one.values[0].request}, one.values[1], wire, target)
        for one in requests()
        for wire, target, _ in TARGETS
    ]
    assert sum(body is not None for body in written) > 0.9 * len(written)
