"""Answers of the Messages API, written: our events as its stream. Part of `anthropic`.

A whole message is put together from the stream that would have said it, so both forms agree by
construction. Facts: platform.claude.com/docs/en/build-with-claude/streaming. Pure.
"""

from collections.abc import Callable
from typing import Any

import orjson

from billing.pricing import Usage
from gateway.dialects import anthropic_carries as carries
from gateway.dialects.anthropic_answers import FINISH_REASONS
from gateway.dialects.base import Json
from gateway.events import (
    AudioDelta,
    Carry,
    ChoiceFinished,
    CitationAdded,
    Event,
    FinishReason,
    ImageMade,
    ReasoningDelta,
    ReasoningEnded,
    RefusalDelta,
    Started,
    TextDelta,
    TextSigned,
    ToolCallDelta,
    ToolCallStarted,
)

STOP_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
}


def write_usage(usage: Usage) -> Json:
    """Our buckets as Anthropic's usage object, which is disjoint, too, but knows only text."""
    return {
        "input_tokens": usage.input + usage.audio_input + usage.image_input,
        "cache_creation_input_tokens": usage.cache_write + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read + usage.audio_cache_read,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.whole_output,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    }


class MessageFrames:
    """Says our events as the events of one Messages stream, blocks strictly one after another.

    What comes while the arguments of a call are still open waits for them, in order: the wire has
    no way to go back to a block. State that only other providers understand is sealed into the
    signature of a thinking block, which clients must return unchanged.
    """

    def __init__(self, message_id: str, model: str) -> None:
        self._message_id = message_id
        self._model = model
        self._is_started = False
        self._blocks = 0
        self._open = ""
        self._call = -1
        self._arguments: list[str] = []
        self._waiting: list[Event] = []
        self._has_called = False
        self._is_cited = False
        self._refusal = ""
        self._stop_reason = "end_turn"

    def take(self, event: Event) -> list[Json]:
        """Their events for one of ours. There is one choice; what belongs to others is left out."""
        if isinstance(event, Started):
            self._model = event.model or self._model
            return self._start()
        writer = WRITERS.get(type(event))
        if writer is None or getattr(event, "choice", 0) != 0:
            return []
        if self._must_wait(event):
            self._waiting.append(event)
            return []
        return self._start() + writer(self, event)

    def _must_wait(self, event: Event) -> bool:
        """Whether a call is open that it does not belong to. How an answer ends never waits."""
        if self._open != "tool_use" or isinstance(event, ChoiceFinished | RefusalDelta):
            return False
        if isinstance(event, ToolCallDelta) and event.index == self._call:
            return False
        return not self._is_call_whole()

    def _start(self) -> list[Json]:
        if self._is_started:
            return []
        self._is_started = True
        message: Json = {
            "id": self._message_id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "stop_details": None,
            "usage": write_usage(Usage()),
        }
        return [{"type": "message_start", "message": message}]

    # Blocks.

    def _begin(self, kind: str, block: Json) -> list[Json]:
        frames = self._close()
        self._open, self._is_cited = kind, False
        start = {"type": "content_block_start", "index": self._blocks, "content_block": block}
        return [*frames, start]

    def _close(self) -> list[Json]:
        if not self._open:
            return []
        self._open = ""
        self._call = -1
        self._blocks += 1
        return [{"type": "content_block_stop", "index": self._blocks - 1}]

    def _delta(self, kind: str, member: str, value: Any) -> list[Json]:
        delta = {"type": kind, member: value}
        return [{"type": "content_block_delta", "index": self._blocks, "delta": delta}]

    # Text.

    def _text(self, event: TextDelta) -> list[Json]:
        return self._add_text(event.text)

    def _add_text(self, text: str) -> list[Json]:
        if not text:
            return []
        frames: list[Json] = []
        if self._open != "text" or self._is_cited:
            frames += self._begin("text", {"type": "text", "text": ""})
        return frames + self._delta("text_delta", "text", text)

    def _citation(self, event: CitationAdded) -> list[Json]:
        """A source of the text so far, whose block ends with it.

        One that comes after the text's block cannot be said.
        """
        if self._open != "text":
            return []
        self._is_cited = True
        citation = {
            "type": "web_search_result_location",
            "url": event.url,
            "title": event.title or None,
            "cited_text": event.cited_text,
            "encrypted_index": "",
        }
        return self._delta("citations_delta", "citation", citation)

    def _text_signed(self, event: TextSigned) -> list[Json]:
        return self._sealed(event.carry, carries.TEXT)

    def _image(self, event: ImageMade) -> list[Json]:
        """The wire has no images from a model, so it is told in text, whole."""
        return self._add_text(f"![image](data:{event.media_type};base64,{event.data})")

    def _audio(self, event: AudioDelta) -> list[Json]:
        return self._add_text(event.transcript)

    def _refuse(self, event: RefusalDelta) -> list[Json]:
        self._refusal += event.text
        return []

    # Thinking.

    def _reasoning(self, event: ReasoningDelta) -> list[Json]:
        if not event.text:
            return []
        frames: list[Json] = []
        if self._open != "thinking":
            frames += self._begin_thinking()
        return frames + self._delta("thinking_delta", "thinking", event.text)

    def _begin_thinking(self) -> list[Json]:
        return self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})

    def _reasoning_ended(self, event: ReasoningEnded) -> list[Json]:
        carry = event.carry
        if carry is not None and carry.kind == carries.REDACTED:
            block = {"type": "redacted_thinking", "data": carry.data}
            return self._begin("redacted_thinking", block) + self._close()
        if carry is not None:
            return self._sealed(carry, carries.REASONING)
        return self._close() if self._open == "thinking" else []

    def _sealed(self, carry: Carry, place: str) -> list[Json]:
        """The end of a thinking block that is signed; of an empty one where none is open."""
        frames: list[Json] = []
        if self._open != "thinking" or place != carries.REASONING:
            frames += self._begin_thinking()
        signature = carries.write_signature(carry, place)
        return frames + self._delta("signature_delta", "signature", signature) + self._close()

    # Tool calls.

    def _call_started(self, event: ToolCallStarted) -> list[Json]:
        frames = self._close()
        if event.carry is not None:
            frames += self._begin_thinking()
            signature = carries.write_signature(event.carry, carries.CALL)
            frames += self._delta("signature_delta", "signature", signature)
        block = {"type": "tool_use", "id": event.call_id, "name": event.name, "input": {}}
        frames += self._begin("tool_use", block)
        self._call, self._arguments, self._has_called = event.index, [], True
        return frames

    def _call_delta(self, event: ToolCallDelta) -> list[Json]:
        if event.index != self._call or not event.json_piece:
            return []
        self._arguments.append(event.json_piece)
        frames = self._delta("input_json_delta", "partial_json", event.json_piece)
        return frames + self._say_waiting() if self._waiting and self._is_call_whole() else frames

    def _say_waiting(self) -> list[Json]:
        """Say what waited for the call that is whole now; some of it may wait for the next one."""
        waiting, self._waiting = self._waiting, []
        return [frame for event in waiting for frame in self.take(event)]

    def _is_call_whole(self) -> bool:
        arguments = "".join(self._arguments)
        if not arguments.rstrip().endswith("}"):
            return False
        try:
            orjson.loads(arguments)
        except orjson.JSONDecodeError:
            return False
        return True

    def _flush(self) -> list[Json]:
        """Say everything that still waits: nothing more can come for the call before it."""
        frames: list[Json] = []
        while self._waiting:
            frames += self._close() + self._say_waiting()
        return frames

    # The end.

    def _finish(self, event: ChoiceFinished) -> list[Json]:
        self._stop_reason = STOP_REASONS[event.reason]
        if FINISH_REASONS.get(event.native) == event.reason:
            self._stop_reason = event.native
        if event.reason is FinishReason.STOP and self._has_called:
            self._stop_reason = "tool_use"  # some providers say "stop" after a call
        if self._refusal:
            self._stop_reason = "refusal"
        return self._flush() + self._close()

    def end(self, usage: Usage) -> list[Json]:
        """The terminal events."""
        details = {"type": "refusal", "category": None, "explanation": self._refusal or None}
        delta = {
            "stop_reason": self._stop_reason,
            "stop_sequence": None,
            "stop_details": details if self._stop_reason == "refusal" else None,
        }
        return [
            *self._start(),
            *self._flush(),
            *self._close(),
            {"type": "message_delta", "delta": delta, "usage": write_usage(usage)},
            {"type": "message_stop"},
        ]


WRITERS: dict[type, Callable[[MessageFrames, Any], list[Json]]] = {
    TextDelta: MessageFrames._text,
    RefusalDelta: MessageFrames._refuse,
    ReasoningDelta: MessageFrames._reasoning,
    ReasoningEnded: MessageFrames._reasoning_ended,
    TextSigned: MessageFrames._text_signed,
    CitationAdded: MessageFrames._citation,
    ImageMade: MessageFrames._image,
    AudioDelta: MessageFrames._audio,
    ToolCallStarted: MessageFrames._call_started,
    ToolCallDelta: MessageFrames._call_delta,
    ChoiceFinished: MessageFrames._finish,
}


class MessageBuilder:
    """Puts the events of a stream together into the message they tell."""

    def __init__(self) -> None:
        self._message: Json = {}
        self._arguments = ""

    def add(self, frame: Json) -> None:
        """Take one event of theirs in."""
        match frame["type"]:
            case "message_start":
                self._message = {**frame["message"]}
            case "content_block_start":
                self._message["content"].append({**frame["content_block"]})
                self._arguments = ""
            case "content_block_delta":
                self._add_delta(self._message["content"][-1], frame["delta"])
            case "content_block_stop":
                block = self._message["content"][-1]
                if block["type"] == "tool_use":
                    block["input"] = read_arguments(self._arguments)
            case "message_delta":
                self._message.update(frame["delta"], usage=frame["usage"])

    def _add_delta(self, block: Json, delta: Json) -> None:
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
            case "thinking_delta":
                block["thinking"] += delta["thinking"]
            case "signature_delta":
                block["signature"] = delta["signature"]
            case "citations_delta":
                block.setdefault("citations", []).append(delta["citation"])
            case "input_json_delta":
                self._arguments += delta["partial_json"]

    def message(self) -> Json:
        """The whole message."""
        return self._message


def read_arguments(arguments: str) -> Json:
    """A call's JSON arguments as the object this wire wants.

    Arguments that are no object (cut off, or a slip of the model) are kept as what they were, for
    a conversation must not end because of them.
    """
    try:
        parsed = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        parsed = arguments
    return parsed if isinstance(parsed, dict) else {"arguments": parsed}
