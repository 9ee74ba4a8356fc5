"""Answers of the Messages API, read: its stream events to ours. Part of `anthropic`.

A whole message is read as the stream that would have said it, so both forms agree by construction.
 Facts: platform.claude.com/docs/en/build-with-claude/streaming. Order of a stream:
`message_start`, blocks one after another (`content_block_start`, deltas, `content_block_stop`),
`message_delta` with the stop reason and cumulative usage, `message_stop`; `ping` anywhere. Token
counts exclude each other: `input_tokens` leaves out what the cache read and wrote. Pure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from billing.pricing import Usage
from gateway.dialects import anthropic_carries as carries
from gateway.dialects.base import Json, UnreadableAnswer
from gateway.dialects.counting import Counts, divide
from gateway.events import (
    Carry,
    ChoiceFinished,
    CitationAdded,
    Ended,
    Event,
    Failed,
    FinishReason,
    ReasoningDelta,
    ReasoningEnded,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)

FINISH_REASONS = {
    "end_turn": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    # A long loop of the provider's own tools pauses; sending the answer back continues it.
    "pause_turn": FinishReason.STOP,
    "compaction": FinishReason.STOP,
    "max_tokens": FinishReason.LENGTH,
    "model_context_window_exceeded": FinishReason.LENGTH,
    "tool_use": FinishReason.TOOL_CALLS,
    "refusal": FinishReason.CONTENT_FILTER,
}
REFUSED = "The model's provider declined to answer this request."


# --- usage -----------------------------------------------------------------------------------


class UsageTotals:
    """What the usage objects of one answer add up to: each field's latest value counts.

    `message_start` has the input, `message_delta` the output and, since 2025, the input again;
    proxies fill only one of them. A missing or null field leaves the earlier value standing.
    """

    def __init__(self) -> None:
        self._latest: dict[str, int] = {}
        self._is_doubtful = False

    def merge(self, usage: Any) -> Usage | None:
        """The totals after one more usage object; None while nothing was ever counted."""
        if isinstance(usage, dict):
            counts = Counts()
            self._latest.update(_counts(counts, usage))
            self._is_doubtful |= counts.is_doubtful
        if not self._latest and not self._is_doubtful:
            return None
        latest = self._latest
        read, written = latest.get("cache_read", 0), latest.get("cache_write", 0)
        return divide(
            latest.get("input", 0) + read + written,
            latest.get("output", 0),
            cached=read,
            written=written,
            written_1h=latest.get("cache_write_1h", 0),
            reasoning=latest.get("thinking", 0),
            is_doubtful=self._is_doubtful,
        )


def _counts(counts: Counts, usage: Json) -> dict[str, int]:
    """The counts in a usage object. Compaction is left out of the top-level counts it causes."""
    kept = {
        ttl: counts.take(usage.get("cache_creation"), f"ephemeral_{ttl}_input_tokens")
        for ttl in ("5m", "1h")
    }
    written = counts.take(usage, "cache_creation_input_tokens")
    if written is None and any(kept.values()):
        written = sum(filter(None, kept.values()))
    found = {
        "input": counts.take(usage, "input_tokens"),
        "output": counts.take(usage, "output_tokens"),
        "cache_read": counts.take(usage, "cache_read_input_tokens"),
        "cache_write": written,
        "cache_write_1h": kept["1h"],
        "thinking": counts.take(usage.get("output_tokens_details"), "thinking_tokens"),
    }
    rounds = _objects(usage.get("iterations"))
    if own := [one for one in rounds if one.get("type") in ("compaction", "message")]:
        for name in ("input", "output"):
            found[name] = sum(counts.take(one, f"{name}_tokens") or 0 for one in own)
    return {name: count for name, count in found.items() if count is not None}


# --- theirs to ours --------------------------------------------------------------------------


def _objects(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _text(holder: Mapping[str, Any], name: str) -> str:
    value = holder.get(name)
    return value if isinstance(value, str) else ""


@dataclass(slots=True)
class Block:
    """A content block being read. `start` is the answer's length in characters at its begin."""

    kind: str
    start: int
    call: int = -1
    has_arguments: bool = False
    input: Any = None
    signature: str = ""
    redacted: str = ""
    citations: list[Json] = field(default_factory=list)


class MessageReader:
    """Reads the events of one Messages stream; unknown events, blocks and deltas say nothing."""

    def __init__(self) -> None:
        self._totals = UsageTotals()
        self._blocks: dict[Any, Block] = {}
        self._id = ""
        self._model = ""
        self._started = False
        self._finished = False
        self._calls = 0
        self._characters = 0
        self.ended = False

    def read(self, frame: Json) -> list[Event]:
        """Our events for one of theirs."""
        reader = READERS.get(frame.get("type", ""))
        return reader(self, frame) if reader and not self.ended else []

    def _message_start(self, frame: Json) -> list[Event]:
        message = _object(frame.get("message"))
        events: list[Event] = []
        if not self._started:  # proxies that fall back to another model start twice
            self._started = True
            self._id, self._model = _text(message, "id"), _text(message, "model")
            events.append(Started(self._id, self._model))
        return events + self._usage(message.get("usage"))

    def _usage(self, usage: Any) -> list[Event]:
        totals = self._totals.merge(usage) if usage else None
        return [UsageReported(totals)] if totals else []

    def _block_start(self, frame: Json) -> list[Event]:
        index, content = frame.get("index"), _object(frame.get("content_block"))
        events = self._block_stop(frame)
        block = Block(_text(content, "type"), self._characters)
        self._blocks[index] = block
        match block.kind:
            case "text":
                block.citations.extend(_objects(content.get("citations")))
                return events + self._add_text(_text(content, "text"))
            case "thinking":
                block.signature = _text(content, "signature")
                return events + _reasoning(_text(content, "thinking"))
            case "redacted_thinking":
                block.redacted = _text(content, "data")
            case "tool_use":
                block.call, block.input = self._calls, content.get("input")
                self._calls += 1
                call_id = _text(content, "id") or f"{self._id}_{block.call}"
                events.append(ToolCallStarted(block.call, call_id, _text(content, "name")))
        return events

    def _block_delta(self, frame: Json) -> list[Event]:
        block = self._blocks.get(frame.get("index"))
        delta = _object(frame.get("delta"))
        if block is None:
            return []
        match block.kind, delta.get("type"):
            case "text", "text_delta":
                return self._add_text(_text(delta, "text"))
            case "text", "citations_delta":
                block.citations.append(_object(delta.get("citation")))
            case "thinking", "thinking_delta":
                return _reasoning(_text(delta, "thinking"))
            case "thinking", "signature_delta":
                block.signature += _text(delta, "signature")
            case "tool_use", "input_json_delta":
                # The first piece is empty, and the only one of a call without arguments.
                if piece := _text(delta, "partial_json"):
                    block.has_arguments = True
                    return [ToolCallDelta(block.call, piece)]
        return []

    def _add_text(self, text: str) -> list[Event]:
        self._characters += len(text)
        return [TextDelta(text)] if text else []

    def _block_stop(self, frame: Json) -> list[Event]:
        block = self._blocks.pop(frame.get("index"), None)
        return self._end(block) if block else []

    def _end(self, block: Block) -> list[Event]:
        match block.kind:
            case "text":
                return [
                    CitationAdded(
                        _text(citation, "url"),
                        _text(citation, "title"),
                        block.start,
                        self._characters,
                        _text(citation, "cited_text"),
                    )
                    for citation in block.citations
                    if citation.get("url")
                ]
            case "thinking":
                signed = Carry(carries.THINKING, block.signature, self._model)
                return [ReasoningEnded(signed if block.signature else None)]
            case "redacted_thinking":
                return [ReasoningEnded(Carry(carries.REDACTED, block.redacted, self._model))]
            case "tool_use" if not block.has_arguments:
                return [ToolCallDelta(block.call, orjson.dumps(block.input or {}).decode())]
        return []

    def _end_blocks(self) -> list[Event]:
        blocks, self._blocks = self._blocks, {}
        return [event for block in blocks.values() for event in self._end(block)]

    def _message_delta(self, frame: Json) -> list[Event]:
        delta = _object(frame.get("delta"))
        events = self._usage(frame.get("usage"))
        reason = _text(delta, "stop_reason")
        return events + self._finish(reason, delta) if reason else events

    def _finish(self, reason: str, delta: Json) -> list[Event]:
        if self._finished:
            return []
        self._finished = True
        events = self._end_blocks()
        if reason == "refusal":
            details = _object(delta.get("stop_details"))
            events.append(RefusalDelta(_text(details, "explanation") or REFUSED))
        finish = FINISH_REASONS.get(reason, FinishReason.STOP)
        return [*events, ChoiceFinished(finish, native=reason)]

    def _message_stop(self, frame: Json) -> list[Event]:
        self.ended = True
        return [*self._finish("", {}), Ended()]

    def _error(self, frame: Json) -> list[Event]:
        self.ended = True
        error = _object(frame.get("error"))
        return [Failed(_text(error, "message") or "error", _text(error, "type"))]


def _reasoning(text: str) -> list[Event]:
    """Claude's thinking reaches us summarized by its provider."""
    return [ReasoningDelta(text, is_summary=True)] if text else []


READERS: dict[str, Callable[[MessageReader, Json], list[Event]]] = {
    "message_start": MessageReader._message_start,
    "content_block_start": MessageReader._block_start,
    "content_block_delta": MessageReader._block_delta,
    "content_block_stop": MessageReader._block_stop,
    "message_delta": MessageReader._message_delta,
    "message_stop": MessageReader._message_stop,
    "error": MessageReader._error,
}


def read_message(message: Json) -> list[Event]:
    """A whole message as events. Raises UnreadableAnswer."""
    content = message.get("content")
    if not isinstance(content, list):
        raise UnreadableAnswer("The answer has no content.")
    reader = MessageReader()
    head = {name: message.get(name) for name in ("id", "model")}
    frames: list[Json] = [{"type": "message_start", "message": head}]
    for index, block in enumerate(content):
        frames.append({"type": "content_block_start", "index": index, "content_block": block})
        frames.append({"type": "content_block_stop", "index": index})
    frames.append({"type": "message_delta", "delta": message, "usage": message.get("usage")})
    frames.append({"type": "message_stop"})
    return [event for frame in frames for event in reader.read(frame)]
