"""State that chat clients drop, put back on the next turn: reasoning and signatures by tool call.

Chat completions have no place for Anthropic's thinking signatures, OpenAI's encrypted reasoning or
Gemini's thought signatures, and providers refuse a tool loop without them. So they are kept under
the ids of the tool calls they came with. Pure; the store keeps and finds what is made here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gateway.events import (
    Carry,
    Event,
    ReasoningDelta,
    ReasoningEnded,
    TextSigned,
    ToolCallStarted,
)
from gateway.generation import GenerationRequest, Part, Reasoning, ToolCall, Turn


def stamp(event: Event, model: str) -> Event:
    """The event with its carry marked as made by `model`: it means nothing to any other."""
    match event:
        case ReasoningEnded(carry=Carry()) | TextSigned() | ToolCallStarted(carry=Carry()):
            assert event.carry is not None  # noqa: S101 - matched above
            return replace(event, carry=replace(event.carry, model=model))
        case _:
            return event


@dataclass(slots=True)
class Recorder:
    """Notes the state in one answer's events (its first choice)."""

    _reasoning: list[dict[str, Any]] = field(default_factory=list)
    _text: str = ""
    _calls: dict[str, Any] = field(default_factory=dict)

    def add(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case ReasoningDelta(text=text, choice=0):
                self._text += text
            case ReasoningEnded(carry=carry, choice=0):
                if carry is not None:
                    self._reasoning.append({"text": self._text, "carry": _write(carry)})
                self._text = ""
            case ToolCallStarted(call_id=call_id, carry=carry, choice=0):
                self._calls[call_id] = {
                    "reasoning": self._reasoning,
                    "carry": _write(carry) if carry else None,
                }
                self._reasoning = []
            case _:
                pass

    def rows(self) -> dict[str, Any]:
        """What to keep, by tool call id; nothing for calls without state."""
        return {
            call_id: payload
            for call_id, payload in self._calls.items()
            if payload["reasoning"] or payload["carry"]
        }


def missing_ids(request: GenerationRequest) -> list[str]:
    """Ids of tool calls in the history that came back without state."""
    return [
        part.call_id
        for turn in request.turns
        for part in turn.parts
        if isinstance(part, ToolCall) and part.carry is None
    ]


def restore(request: GenerationRequest, kept: Mapping[str, Any]) -> GenerationRequest:
    """The request with kept state put where its provider wants it."""
    if not kept:
        return request
    return replace(request, turns=tuple(_restore_turn(turn, kept) for turn in request.turns))


def _restore_turn(turn: Turn, kept: Mapping[str, Any]) -> Turn:
    has_state = any(isinstance(part, Reasoning) and part.carry for part in turn.parts)
    parts: list[Part] = []
    reasoning: list[Part] = []
    for part in turn.parts:
        payload = kept.get(part.call_id) if isinstance(part, ToolCall) else None
        if payload is None or not isinstance(part, ToolCall):
            parts.append(part)
            continue
        reasoning.extend(_read_reasoning(block) for block in payload["reasoning"])
        carry = part.carry or _read(payload["carry"])
        parts.append(replace(part, carry=carry))
    if has_state or not reasoning:
        return replace(turn, parts=tuple(parts))
    # The client's own copy of the text would say it twice.
    others = [part for part in parts if not isinstance(part, Reasoning)]
    return replace(turn, parts=(*reasoning, *others))


def _write(carry: Carry) -> dict[str, str]:
    return {"kind": carry.kind, "data": carry.data, "model": carry.model}


def _read(payload: Any) -> Carry | None:
    return Carry(payload["kind"], payload["data"], payload["model"]) if payload else None


def _read_reasoning(payload: Any) -> Reasoning:
    return Reasoning(payload["text"], _read(payload["carry"]))
