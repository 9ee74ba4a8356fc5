"""The four wires as rows: who may ask, what is refused, what state comes with an answer."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from gateway import sse
from gateway.dialects.base import StreamEncoder
from gateway.events import Carry
from gateway.refusals import Refusal
from gateway.standin import (
    models,
    strict_anthropic,
    strict_gemini,
    strict_openai,
    strict_responses,
)
from gateway.standin.rejections import Asked, Rejection, Rule
from gateway.standin.signatures import OPENAI_PREFIX, sign

OVERLOADED = "Our servers are currently overloaded. Please try again later."


def _nothing(asked: Asked, text: str) -> Carry | None:
    return None


@dataclass(frozen=True, slots=True)
class Wire:
    """One provider's wire. `thinks` says none, hidden or shown; the carries what must come back.

    `delta_event` is how the wire names a piece of text in a stream. `carry_of_reasoning` is given
    the reasoning's text, the other two the call's name or nothing.
    """

    dialect: str
    check_key: Callable[[dict[str, str], str], None]
    rules: tuple[Rule, ...]
    error: Callable[[int, str, int | None], Rejection]
    thinks: Callable[[Asked], str]
    write_failure: Callable[[StreamEncoder], bytes]
    headers: Callable[[], dict[str, str]]
    call_prefix: str
    carry_of_reasoning: Callable[[Asked, str], Carry | None] = _nothing
    carry_of_call: Callable[[Asked, str], Carry | None] = _nothing
    carry_of_text: Callable[[Asked, str], Carry | None] = _nothing
    is_summary: bool = False
    delta_event: str = ""


# --- OpenAI ----------------------------------------------------------------------------------


def _openai_headers() -> dict[str, str]:
    return {
        "x-request-id": f"req_{secrets.token_hex(16)}",
        "openai-version": "2020-10-01",
        "openai-organization": "stand-in",
        "openai-processing-ms": "1",
        "x-ratelimit-limit-requests": "10000",
        "x-ratelimit-remaining-requests": "9999",
        "x-ratelimit-reset-requests": "6ms",
    }


def _chat_thinks(asked: Asked) -> str:
    """Chat completions count reasoning and never show it."""
    effort = asked.body.get("reasoning_effort")
    return "hidden" if models.openai_is_reasoning(asked.model, effort) else "none"


def _responses_think(asked: Asked) -> str:
    chosen = asked.body.get("reasoning") or {}
    if not models.openai_is_reasoning(asked.model, chosen.get("effort")):
        return "none"
    return "shown" if chosen.get("summary") or chosen.get("generate_summary") else "hidden"


def _encrypted(asked: Asked, text: str) -> Carry | None:
    """Encrypted reasoning, for whoever asked for it."""
    if "reasoning.encrypted_content" not in (asked.body.get("include") or ()):
        return None
    data = OPENAI_PREFIX + sign(strict_responses.ENCRYPTED, "").replace("+", "-").replace("/", "_")
    return Carry(strict_responses.ENCRYPTED, data, asked.model)


def _write_chat_failure(encoder: StreamEncoder) -> bytes:
    return sse.encode(orjson.dumps(strict_openai.error(500).body))


def _write_responses_failure(encoder: StreamEncoder) -> bytes:
    return encoder.write_failure(
        Refusal(503, "service_unavailable_error", OVERLOADED, code="server_is_overloaded")
    )


# --- Anthropic -------------------------------------------------------------------------------


def _anthropic_headers() -> dict[str, str]:
    return {
        "request-id": f"req_01{secrets.token_hex(11)}",
        "anthropic-organization-id": "00000000-0000-4000-8000-000000000000",
        "anthropic-ratelimit-requests-limit": "4000",
        "anthropic-ratelimit-requests-remaining": "3999",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:00:00Z",
    }


def _signed_thinking(asked: Asked, text: str) -> Carry:
    return Carry(strict_anthropic.THINKING, sign(strict_anthropic.THINKING, text), asked.model)


def _write_anthropic_failure(encoder: StreamEncoder) -> bytes:
    error = {"details": None, "type": "overloaded_error", "message": "Overloaded"}
    return sse.encode(orjson.dumps({"type": "error", "error": error}), event="error")


# --- Gemini ----------------------------------------------------------------------------------


def _signed_thought(asked: Asked, text: str) -> Carry | None:
    """From Gemini 3 on calls and the last text are signed, for the same model."""
    if models.gemini_version(asked.model) < (3, 0):
        return None
    return Carry(strict_gemini.THOUGHT, sign(strict_gemini.THOUGHT, asked.model), asked.model)


def _write_gemini_failure(encoder: StreamEncoder) -> bytes:
    return sse.encode(orjson.dumps(strict_gemini.error(503).body)).replace(b"\n", b"\r\n")


def _gemini_headers() -> dict[str, str]:
    return {"server-timing": "gfet4t7; dur=1", "vary": "Origin, X-Origin, Referer"}


CHAT = Wire(
    "openai_chat",
    strict_openai.check_key,
    strict_openai.RULES,
    strict_openai.error,
    _chat_thinks,
    _write_chat_failure,
    _openai_headers,
    "call_",
)
RESPONSES = Wire(
    "openai_responses",
    strict_openai.check_key,
    strict_responses.RULES,
    strict_openai.error,
    _responses_think,
    _write_responses_failure,
    _openai_headers,
    "call_",
    carry_of_reasoning=_encrypted,
    is_summary=True,
    delta_event="response.output_text.delta",
)
ANTHROPIC = Wire(
    "anthropic",
    strict_anthropic.check_key,
    strict_anthropic.RULES,
    strict_anthropic.error,
    lambda asked: strict_anthropic.thinks(asked.body),
    _write_anthropic_failure,
    _anthropic_headers,
    "toolu_01",
    carry_of_reasoning=_signed_thinking,
    delta_event="content_block_delta",
)
GEMINI = Wire(
    "gemini",
    strict_gemini.check_key,
    strict_gemini.RULES,
    strict_gemini.error,
    strict_gemini.thinks,
    _write_gemini_failure,
    _gemini_headers,
    "",
    carry_of_call=_signed_thought,
    carry_of_text=_signed_thought,
)
