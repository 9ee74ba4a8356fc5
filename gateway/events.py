"""The one vocabulary between dialects: what a model's answer consists of, as frozen values.

Ours, not any vendor's. Upstream dialects read bytes into these, client dialects write bytes from
them; so N dialects need N readers and N writers, never N x N. Pure values; no behaviour.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Any

from billing.pricing import Usage


class FinishReason(Enum):
    """Why a model stopped."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class Carry:
    """State a provider wants back unchanged on the next turn, and that clients tend to drop.

    `kind` says whose it is and what: `anthropic.thinking` (a signature), `anthropic.redacted` (a
    redacted block's data), `gemini.thought` (a thoughtSignature), `openai.encrypted` (encrypted
    reasoning). `model` is the upstream model that made it: it means nothing to any other.
    """

    kind: str
    data: str
    model: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """The answer began. `created_at` is the provider's own time in epoch seconds, 0 if unknown."""

    response_id: str
    model: str
    created_at: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of a choice. `logprobs`: OpenAI's list of token log probabilities, if asked."""

    text: str
    choice: int = 0
    logprobs: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """More text of a refusal."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of what the model thought aloud. `is_summary`: the provider's summary of it."""

    text: str
    choice: int = 0
    is_summary: bool = False


@dataclass(frozen=True, slots=True)
class ReasoningEnded:
    """A block of reasoning is complete; also for one without text (redacted, encrypted only)."""

    carry: Carry | None = None
    choice: int = 0


@dataclass(frozen=True, slots=True)
class TextSigned:
    """State that belongs to the text so far (Gemini signs the last part of an answer)."""

    carry: Carry
    choice: int = 0


@dataclass(frozen=True, slots=True)
class CitationAdded:
    """A source of the text so far. Offsets are characters of the choice's text, -1 if unknown."""

    url: str
    title: str = ""
    start: int = -1
    end: int = -1
    cited_text: str = ""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ImageMade:
    """An image the model made: base64 data and its media type."""

    data: str
    media_type: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class AudioDelta:
    """More spoken audio: base64 data, its transcript, or both; `audio_id` once, if there is one."""

    data: str = ""
    transcript: str = ""
    audio_id: str = ""
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A tool call begins. `index` counts the calls of a choice from 0; ids are never empty."""

    index: int
    call_id: str
    name: str
    choice: int = 0
    carry: Carry | None = None


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a tool call's JSON arguments, as text."""

    index: int
    json_piece: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class UsageReported:
    """Tokens so far: a running total, so the latest one replaces those before it."""

    usage: Usage


@dataclass(frozen=True, slots=True)
class ChoiceFinished:
    """A choice ended. `native` is the provider's own word for why, for records."""

    reason: FinishReason
    choice: int = 0
    native: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """The answer is complete: nothing follows."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The provider reported an error inside the answer. `message` is theirs: never relay it raw."""

    message: str
    code: str = ""


Event = (
    Started
    | TextDelta
    | RefusalDelta
    | ReasoningDelta
    | ReasoningEnded
    | TextSigned
    | CitationAdded
    | ImageMade
    | AudioDelta
    | ToolCallStarted
    | ToolCallDelta
    | UsageReported
    | ChoiceFinished
    | Ended
    | Failed
)
