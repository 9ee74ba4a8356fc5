"""A whole or streamed answer for clients of the Responses wire. Part of `openai_responses`.

The stream's grammar, exactly as OpenAI sends it: `response.created`, `response.in_progress`, the
items one after another, one terminal event with the complete output and usage; `sequence_number`
counts from 0. No `[DONE]`. After an error: `error`, on which openai-python raises, then
`response.failed`, which is what Codex reads; AI SDK takes either. Pure.
"""

from collections.abc import Callable
from typing import Any

import orjson

from billing.pricing import Usage
from gateway import sse
from gateway.dialects import responses_objects, responses_tools
from gateway.dialects.base import Inspection, Json, Reply
from gateway.dialects.responses_carry import seal
from gateway.dialects.responses_items import CallItem, ImageItem, Item, MessageItem, ReasoningItem
from gateway.events import (
    AudioDelta,
    ChoiceFinished,
    CitationAdded,
    Ended,
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
    UsageReported,
)
from gateway.refusals import Refusal

INCOMPLETE_REASONS = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.CONTENT_FILTER: "content_filter",
}


class ResponsesStreamEncoder:
    """Writes the events of one answer; at most one message or reasoning item is open at a time."""

    def __init__(self, inspection: Inspection, reply: Reply) -> None:
        self._seed = reply.seed
        self._object = responses_objects.new_object(inspection, reply)
        self._origins = {
            function.flat_name: (function.name, function.namespace)
            for function in responses_tools.functions(reply.body)
        }
        self._items: list[Item] = []
        self._message: MessageItem | None = None
        self._thought: ReasoningItem | None = None
        self._calls: dict[int, CallItem] = {}
        self._said = 0
        self._reason = FinishReason.STOP
        self._usage: Usage | None = None
        self._has_begun = False
        self._sequence = 0
        self._told: list[bytes] = []
        self._result: Json | None = None

    def write(self, event: Event) -> bytes:
        """See StreamEncoder. This wire has one choice: others are not written."""
        handler = HANDLERS.get(type(event))
        if handler is None or getattr(event, "choice", 0) != 0:
            return b""
        handler(self, event)
        return self._take()

    def write_end(self, usage: Usage) -> bytes:
        """See StreamEncoder."""
        self._begin()
        self._close_all()
        reason = INCOMPLETE_REASONS.get(self._reason)
        status = "incomplete" if reason else "completed"
        self._result = {
            **self._object,
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "output": [item.body for item in self._items],
            "usage": responses_objects.write_usage(usage),
        }
        self._tell(f"response.{status}", {"response": self._result})
        return self._take()

    def write_failure(self, refusal: Refusal) -> bytes:
        """See StreamEncoder."""
        self._begin()
        partial = {
            **self._object,
            "output": [item.partial() for item in self._items],
            "usage": responses_objects.write_usage(self._usage) if self._usage else None,
        }
        self._tell("error", responses_objects.write_error_event(refusal))
        self._tell("response.failed", {"response": responses_objects.fail(partial, refusal)})
        return self._take()

    def result(self) -> Json | None:
        """See StreamEncoder: the object of the terminal event, None before it."""
        return self._result

    # --- events ------------------------------------------------------------------------------

    def started(self, event: Started) -> None:
        """The object's model is the one that answers."""
        self._object["model"] = event.model or self._object["model"]
        self._begin()

    def text(self, event: TextDelta) -> None:
        """Text goes to the open message."""
        if event.text or event.logprobs:
            self._speak().text(event.text, event.logprobs)

    def refusal(self, event: RefusalDelta) -> None:
        """So does a refusal, as a part of its own."""
        if event.text:
            self._speak().refusal(event.text)

    def audio(self, event: AudioDelta) -> None:
        """This wire has no audio: what was spoken is written as text."""
        if event.transcript:
            self._speak().text(event.transcript, ())

    def citation(self, event: CitationAdded) -> None:
        """A citation needs the text it belongs to."""
        if self._message is not None:
            self._message.cite(event)

    def text_signed(self, event: TextSigned) -> None:
        """See MessageItem.sign."""
        if self._message is not None:
            self._message.sign(seal(event.carry))

    def reasoning(self, event: ReasoningDelta) -> None:
        """Thought goes to the open reasoning item."""
        if event.text:
            self._think().think(event.text, is_summary=event.is_summary)

    def reasoning_ended(self, event: ReasoningEnded) -> None:
        """A block that is only sealed becomes an item, too; an empty one does not."""
        if event.carry is not None:
            self._think()
        self._close_thought(seal(event.carry) if event.carry else "")

    def call_started(self, event: ToolCallStarted) -> None:
        """A call's state travels in a reasoning item before it, which every client replays."""
        self._begin()
        sealed = ""
        if event.carry is not None:
            sealed = seal(event.carry, call_id=event.call_id)
            self._think()
            self._close_thought(sealed)
        self._close_message()
        self._close_thought()
        self._close_calls(only_whole=True)
        name, namespace = self._origins.get(event.name, (event.name, ""))
        call = CallItem(
            self._new_id("fc"),
            len(self._items),
            self._tell,
            call_id=event.call_id,
            name=name,
            namespace=namespace,
        )
        if sealed:
            call.sign(sealed)
        self._items.append(call)
        self._calls[event.index] = call

    def call_delta(self, event: ToolCallDelta) -> None:
        """Arguments go to their call; what follows a whole object is nothing."""
        call = self._calls.get(event.index)
        if call is not None and event.json_piece:
            call.add(event.json_piece)

    def image(self, event: ImageMade) -> None:
        """An image is an item of its own."""
        self._begin()
        self._close_open()
        item = ImageItem(self._new_id("ig"), len(self._items), self._tell)
        self._items.append(item)
        item.close(event.data, event.media_type)

    def usage(self, event: UsageReported) -> None:
        """Kept for an answer that fails."""
        self._usage = event.usage

    def finished(self, event: ChoiceFinished) -> None:
        """Items stay open: citations may follow."""
        self._reason = event.reason

    def ended(self, event: Ended) -> None:
        """Every item is complete; the terminal event waits for the settlement."""
        self._begin()
        self._close_all()

    # --- items -------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        self._tell("response.created", {"response": self._object})
        self._tell("response.in_progress", {"response": self._object})

    def _speak(self) -> MessageItem:
        """The open message, a new one if there is none."""
        if self._message is None:
            self._begin()
            self._close_open()
            self._message = MessageItem(
                self._new_id("msg"), len(self._items), self._tell, self._said
            )
            self._items.append(self._message)
        return self._message

    def _think(self) -> ReasoningItem:
        """The open reasoning item, a new one if there is none."""
        if self._thought is None:
            self._begin()
            self._close_open()
            self._thought = ReasoningItem(self._new_id("rs"), len(self._items), self._tell)
            self._items.append(self._thought)
        return self._thought

    def _new_id(self, prefix: str) -> str:
        return f"{prefix}_{self._seed}{len(self._items)}"

    def _close_message(self, status: str = "completed") -> None:
        if self._message is not None:
            self._said += self._message.close(status)
            self._message = None

    def _close_thought(self, sealed: str = "") -> None:
        if self._thought is not None:
            self._thought.close(sealed)
            self._thought = None

    def _close_calls(self, status: str = "completed", *, only_whole: bool = False) -> None:
        """Calls that might still grow stay open: some servers write parallel calls in turns."""
        for index, call in list(self._calls.items()):
            if not only_whole or call.is_whole():
                call.close(status)
                del self._calls[index]

    def _close_open(self) -> None:
        """Before an item of another kind begins."""
        self._close_message()
        self._close_thought()
        self._close_calls(only_whole=True)

    def _close_all(self) -> None:
        """At the end; what was being written when an answer was cut short is incomplete."""
        status = "incomplete" if self._reason in INCOMPLETE_REASONS else "completed"
        self._close_message(status)
        self._close_thought()
        for call in self._calls.values():
            call.close("completed" if call.is_whole() else status)
        self._calls.clear()

    # --- bytes -------------------------------------------------------------------------------

    def _tell(self, kind: str, fields: Json) -> None:
        data = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        self._told.append(sse.encode(orjson.dumps(data), event=kind))

    def _take(self) -> bytes:
        told = b"".join(self._told)
        self._told.clear()
        return told


HANDLERS: dict[type[Any], Callable[[ResponsesStreamEncoder, Any], None]] = {
    Started: ResponsesStreamEncoder.started,
    TextDelta: ResponsesStreamEncoder.text,
    RefusalDelta: ResponsesStreamEncoder.refusal,
    AudioDelta: ResponsesStreamEncoder.audio,
    CitationAdded: ResponsesStreamEncoder.citation,
    TextSigned: ResponsesStreamEncoder.text_signed,
    ReasoningDelta: ResponsesStreamEncoder.reasoning,
    ReasoningEnded: ResponsesStreamEncoder.reasoning_ended,
    ToolCallStarted: ResponsesStreamEncoder.call_started,
    ToolCallDelta: ResponsesStreamEncoder.call_delta,
    ImageMade: ResponsesStreamEncoder.image,
    UsageReported: ResponsesStreamEncoder.usage,
    ChoiceFinished: ResponsesStreamEncoder.finished,
    Ended: ResponsesStreamEncoder.ended,
}


class ResponsesWriter:
    """Collects the events of a whole answer into a response object."""

    def __init__(self, inspection: Inspection, reply: Reply) -> None:
        self._encoder = ResponsesStreamEncoder(inspection, reply)
        self._usage = Usage()

    def add(self, event: Event) -> None:
        """See ResponseWriter."""
        if isinstance(event, UsageReported):
            self._usage = event.usage
        self._encoder.write(event)

    def finish(self) -> Json:
        """See ResponseWriter. Usage is always an object: AI SDK 5 refuses an answer without."""
        self._encoder.write_end(self._usage)
        return self._encoder.result() or {}
