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
    """More of what the model thought aloud."""

    text: str
    choice: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallStarted:
    """A tool call begins. `index` counts the calls of a choice from 0."""

    index: int
    call_id: str
    name: str
    choice: int = 0


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
    """A choice ended."""

    reason: FinishReason
    choice: int = 0


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
    | ToolCallStarted
    | ToolCallDelta
    | UsageReported
    | ChoiceFinished
    | Ended
    | Failed
)
