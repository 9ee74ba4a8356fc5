"""A provider's answer on the Responses wire: read into events, or forwarded and looked at.

Part of `openai_responses`. What a `.done` event or the final object says beyond the deltas before
it is told, too, so that servers which leave out deltas lose nothing; that is also how a whole
answer is read. Unknown events and items are skipped. Pure.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from billing.pricing import Usage
from gateway import sse
from gateway.dialects import responses_objects
from gateway.dialects.base import Inspection, Json, Reply, TruncatedStream, UnreadableAnswer
from gateway.dialects.responses_carry import OPENAI
from gateway.events import (
    Carry,
    ChoiceFinished,
    CitationAdded,
    Ended,
    Event,
    Failed,
    FinishReason,
    ImageMade,
    ReasoningDelta,
    ReasoningEnded,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.refusals import Refusal

# The terminal event repeats the whole answer, images included.
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
REASONS = {
    "max_output_tokens": FinishReason.LENGTH,
    "content_filter": FinishReason.CONTENT_FILTER,
}
UNFINISHED = ("failed", "cancelled", "queued", "in_progress")
DONE = "[DONE]"
PARAGRAPH = "\n\n"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _number(value: Any, default: int) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else default


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def read_response(body: Json) -> Sequence[Event]:
    """A whole answer as events. Raises UnreadableAnswer."""
    check_response(body)
    reader = AnswerReader()
    return [*reader.start(body), *reader.end(body)]


def check_response(body: Json) -> None:
    """Raises UnreadableAnswer for an object that is an error or no complete answer."""
    if body.get("error") or body.get("status") in UNFINISHED:
        raise UnreadableAnswer("The answer is an error or not complete.")
    if not isinstance(body.get("output"), list):
        raise UnreadableAnswer("The answer has no output.")


class _Told:
    """How much of one item has been told: characters of each part, citations of each text."""

    def __init__(self) -> None:
        self.lengths: dict[tuple[str, int], int] = {}
        self.citations: dict[int, int] = {}
        self.began_at: dict[int, int] = {}
        self.call = -1


class AnswerReader:
    """The state of reading one answer."""

    def __init__(self) -> None:
        self._items: dict[int, _Told] = {}
        self._model = ""
        self._has_started = False
        self._said = 0
        self._calls = 0
        self.has_ended = False

    def read(self, event: Json) -> list[Event]:
        """The events behind one event of the wire."""
        if self.has_ended:
            return []
        handler = HANDLERS.get(_text(event.get("type")))
        return handler(self, event) if handler else []

    # --- beginning and end -------------------------------------------------------------------

    def start(self, response: Json) -> list[Event]:
        """The answer's identity, once."""
        if self._has_started:
            return []
        self._has_started = True
        self._model = _text(response.get("model"))
        created_at = _number(response.get("created_at"), 0)
        return [Started(_text(response.get("id")), self._model, created_at)]

    def end(self, response: Json) -> list[Event]:
        """What the final object adds: the output where none was streamed, usage, the reason."""
        events = self.start(response)
        if not self._items:
            for position, item in enumerate(_objects(response.get("output"))):
                events.extend(self._read_whole(position, item))
        self.has_ended = True
        native = _text(_object(response.get("incomplete_details")).get("reason"))
        reason = REASONS.get(native)
        if reason is None and response.get("status") == "incomplete":
            reason = FinishReason.LENGTH  # for a reason that is not known yet, cut short it is
        if reason is None:
            reason = FinishReason.TOOL_CALLS if self._calls else FinishReason.STOP
        events.append(ChoiceFinished(reason, native=native or _text(response.get("status"))))
        if usage := responses_objects.read_usage(response.get("usage")):
            events.append(UsageReported(usage))
        return [*events, Ended()]

    def created(self, event: Json) -> list[Event]:
        """`response.created` and what else carries the unfinished object."""
        return self.start(_object(event.get("response")))

    def completed(self, event: Json) -> list[Event]:
        """`response.completed` and `response.incomplete`."""
        return self.end(_object(event.get("response")))

    def failed(self, event: Json) -> list[Event]:
        """`response.failed`: the error, after the usage it may report."""
        self.has_ended = True
        usage = responses_objects.read_usage(_object(event.get("response")).get("usage"))
        return [*([UsageReported(usage)] if usage else []), read_failure(event)]

    def error(self, event: Json) -> list[Event]:
        """An `error` event; the `response.failed` that follows says nothing new."""
        self.has_ended = True
        return [read_failure(event)]

    # --- items -------------------------------------------------------------------------------

    def _told(self, position: int) -> _Told:
        return self._items.setdefault(position, _Told())

    def item_added(self, event: Json) -> list[Event]:
        """An item began; a call is told at once."""
        position = _number(event.get("output_index"), len(self._items))
        self._told(position)
        item = _object(event.get("item"))
        return self._start_call(position, item) if item.get("type") == "function_call" else []

    def item_done(self, event: Json) -> list[Event]:
        """An item is complete."""
        position = _number(event.get("output_index"), len(self._items))
        return self._read_whole(position, _object(event.get("item")))

    def _read_whole(self, position: int, item: Json) -> list[Event]:
        """What has not been told of a complete item."""
        reader = ITEM_READERS.get(_text(item.get("type")))
        told = self._told(position)
        return reader(self, position, told, item) if reader else []

    def message(self, position: int, told: _Told, item: Json) -> list[Event]:
        """Texts with their citations, and refusals."""
        events: list[Event] = []
        for number, part in enumerate(_objects(item.get("content"))):
            if part.get("type") == "refusal":
                events.extend(self._refuse(told, number, self._rest(told, part, number, "refusal")))
            else:
                events.extend(self._read_text_part(told, number, part))
        return events

    def _read_text_part(self, told: _Told, number: int, part: Json) -> list[Event]:
        logprobs = [] if told.lengths.get(("text", number)) else _objects(part.get("logprobs"))
        events = self._say(told, number, self._rest(told, part, number, "text"), logprobs)
        seen = told.citations.get(number, 0)
        for annotation in _objects(part.get("annotations"))[seen:]:
            events.extend(self._cite(told, number, annotation))
        return events

    def thought(self, position: int, told: _Told, item: Json) -> list[Event]:
        """Reasoning: its texts, and the encrypted form that continues it."""
        events: list[Event] = []
        for member, kind in (("summary", "summary"), ("content", "thought")):
            for number, part in enumerate(_objects(item.get(member))):
                rest = self._rest(told, part, number, kind)
                events.extend(self._think(told, kind, number, rest))
        encrypted = _text(item.get("encrypted_content"))
        carry = Carry(OPENAI, encrypted, self._model) if encrypted else None
        return [*events, ReasoningEnded(carry)]

    def call(self, position: int, told: _Told, item: Json) -> list[Event]:
        """A function call."""
        events = self._start_call(position, item)
        return [*events, *self._argue(told, _text(item.get("arguments")), is_whole=True)]

    def image(self, position: int, told: _Told, item: Json) -> list[Event]:
        """An image the model made."""
        data = _text(item.get("result"))
        media_type = f"image/{_text(item.get('output_format')) or 'png'}"
        return [ImageMade(data, media_type)] if data else []

    # --- deltas ------------------------------------------------------------------------------

    def text_delta(self, event: Json) -> list[Event]:
        """More text."""
        told, number = self._at(event)
        return self._say(told, number, _text(event.get("delta")), _objects(event.get("logprobs")))

    def text_done(self, event: Json) -> list[Event]:
        """A complete text."""
        told, number = self._at(event)
        return self._say(told, number, self._rest(told, event, number, "text"), [])

    def annotation(self, event: Json) -> list[Event]:
        """A citation."""
        told, number = self._at(event)
        return self._cite(told, number, _object(event.get("annotation")))

    def refusal_delta(self, event: Json) -> list[Event]:
        """More of a refusal."""
        told, number = self._at(event)
        return self._refuse(told, number, _text(event.get("delta")))

    def summary_delta(self, event: Json) -> list[Event]:
        """More of the summary of a thought."""
        told, _ = self._at(event)
        number = _number(event.get("summary_index"), 0)
        return self._think(told, "summary", number, _text(event.get("delta")))

    def thought_delta(self, event: Json) -> list[Event]:
        """More of a thought itself."""
        told, number = self._at(event)
        return self._think(told, "thought", number, _text(event.get("delta")))

    def arguments_delta(self, event: Json) -> list[Event]:
        """More of a call's arguments; of a call that was never announced they say nothing."""
        told, _ = self._at(event)
        return self._argue(told, _text(event.get("delta"))) if told.call >= 0 else []

    def _at(self, event: Json) -> tuple[_Told, int]:
        told = self._told(_number(event.get("output_index"), 0))
        return told, _number(event.get("content_index"), 0)

    def _rest(self, told: _Told, holder: Json, number: int, kind: str) -> str:
        """What a complete text has beyond what was told of it."""
        whole = _text(holder.get("refusal" if kind == "refusal" else "text"))
        return whole[told.lengths.get((kind, number), 0) :]

    @staticmethod
    def _tell(told: _Told, kind: str, number: int, text: str) -> bool:
        """Note that `text` is told; whether it is the first of its part."""
        before = told.lengths.get((kind, number), 0)
        told.lengths[kind, number] = before + len(text)
        return before == 0

    def _say(self, told: _Told, number: int, text: str, logprobs: list[Json]) -> list[Event]:
        if not text and not logprobs:
            return []
        told.began_at.setdefault(number, self._said)
        self._tell(told, "text", number, text)
        self._said += len(text)
        return [TextDelta(text, logprobs=tuple(logprobs))]

    def _refuse(self, told: _Told, number: int, text: str) -> list[Event]:
        self._tell(told, "refusal", number, text)
        return [RefusalDelta(text)] if text else []

    def _think(self, told: _Told, kind: str, number: int, text: str) -> list[Event]:
        """A part of a thought after the first begins a paragraph."""
        if not text:
            return []
        is_first = self._tell(told, kind, number, text)
        before = PARAGRAPH if is_first and number > 0 else ""
        return [ReasoningDelta(before + text, is_summary=kind == "summary")]

    def _cite(self, told: _Told, number: int, annotation: Json) -> list[Event]:
        """A URL citation; files cited are the provider's own."""
        told.citations[number] = told.citations.get(number, 0) + 1
        if annotation.get("type") != "url_citation":
            return []
        base = told.began_at.get(number, self._said)
        start = _number(annotation.get("start_index"), -1)
        end = _number(annotation.get("end_index"), -1)
        return [
            CitationAdded(
                url=_text(annotation.get("url")),
                title=_text(annotation.get("title")),
                start=start + base if start >= 0 else -1,
                end=end + base if end >= 0 else -1,
            )
        ]

    def _start_call(self, position: int, item: Json) -> list[Event]:
        told = self._told(position)
        if told.call >= 0:
            return []
        told.call = self._calls
        self._calls += 1
        call_id = _text(item.get("call_id")) or _text(item.get("id")) or f"call_{told.call}"
        return [ToolCallStarted(told.call, call_id, _text(item.get("name")))]

    def _argue(self, told: _Told, text: str, *, is_whole: bool = False) -> list[Event]:
        rest = text[told.lengths.get(("arguments", 0), 0) :] if is_whole else text
        self._tell(told, "arguments", 0, rest)
        return [ToolCallDelta(told.call, rest)] if rest else []


HANDLERS: dict[str, Callable[[AnswerReader, Json], list[Event]]] = {
    "response.created": AnswerReader.created,
    "response.queued": AnswerReader.created,
    "response.in_progress": AnswerReader.created,
    "response.output_item.added": AnswerReader.item_added,
    "response.output_item.done": AnswerReader.item_done,
    "response.output_text.delta": AnswerReader.text_delta,
    "response.output_text.done": AnswerReader.text_done,
    "response.output_text.annotation.added": AnswerReader.annotation,
    "response.refusal.delta": AnswerReader.refusal_delta,
    "response.reasoning_summary_text.delta": AnswerReader.summary_delta,
    "response.reasoning_text.delta": AnswerReader.thought_delta,
    "response.function_call_arguments.delta": AnswerReader.arguments_delta,
    "response.completed": AnswerReader.completed,
    "response.incomplete": AnswerReader.completed,
    "response.failed": AnswerReader.failed,
    "response.cancelled": AnswerReader.failed,
    "error": AnswerReader.error,
}
ITEM_READERS: dict[str, Callable[[AnswerReader, int, _Told, Json], list[Event]]] = {
    "message": AnswerReader.message,
    "reasoning": AnswerReader.thought,
    "function_call": AnswerReader.call,
    "image_generation_call": AnswerReader.image,
}


def read_failure(event: Json) -> Failed:
    """The error of an `error` event, nested or flat, or of a failed response."""
    response = _object(event.get("response"))
    error = _object(event.get("error")) or _object(response.get("error")) or event
    message = _text(error.get("message")) or _text(response.get("status")) or "error"
    return Failed(message, _text(error.get("code")) or _text(error.get("type")))


def load(data: str | bytes) -> Json:
    """One message's JSON. Raises UnreadableAnswer."""
    try:
        event = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UnreadableAnswer("An event is not JSON.") from error
    if not isinstance(event, dict):
        raise UnreadableAnswer("An event is not an object.")
    return event


class ResponsesStreamDecoder:
    """Reads a stream of the wire's events into ours."""

    def __init__(self) -> None:
        self._messages = sse.Decoder(message_bytes_max=MESSAGE_BYTES_MAX)
        self._reader = AnswerReader()

    def feed(self, piece: bytes) -> list[Event]:
        """See StreamDecoder. Raises UnreadableAnswer, sse.MessageTooLong."""
        events: list[Event] = []
        for message in self._messages.feed(piece):
            data = message.data.strip()
            if data and data != DONE and not self._reader.has_ended:
                events.extend(self._reader.read(load(data)))
        return events

    def close(self) -> list[Event]:
        """See StreamDecoder."""
        if not self._reader.has_ended:
            raise TruncatedStream
        return []


# --- forwarding ------------------------------------------------------------------------------


def with_our_state(response: Json, inspection: Inspection) -> Json:
    """A provider's response object as our client should see it: its state is kept by us."""
    return {
        **response,
        "store": inspection.keeps_state,
        "previous_response_id": inspection.previous_id or None,
    }


# What can matter. A JSON string cannot hold these bytes unescaped, so nothing a model wrote is
# taken for an event; a match elsewhere in an event costs one parse.
SPEAKS = re.compile(rb'"type"\s*:\s*"response\.[a-z_.]+\.delta"')
NEEDS_READING = re.compile(
    rb'"response\.(?:created|completed|incomplete|failed|cancelled|output_item\.done)"'
    rb'|"type"\s*:\s*"error"|\[DONE\]'
)


def _find_remarkable(messages: bytes) -> int:
    match = NEEDS_READING.search(messages)
    return match.start() if match else -1


class ResponsesPassThrough:
    """Forwards messages as they are; parses the few that say something about the whole answer."""

    def __init__(self, inspection: Inspection, reply: Reply) -> None:
        self._inspection = inspection
        self._reply = reply
        self._messages = sse.Splitter(message_bytes_max=MESSAGE_BYTES_MAX)
        self._held = b""
        self._ended = False
        self._object: Json | None = None
        self._output: list[Json] = []
        self._result: Json | None = None
        self.usage: Usage | None = None
        self.failure = ""
        self.model = ""
        self.relayed_pieces = 0
        self._relayed_messages = 0

    def feed(self, piece: bytes) -> bytes:
        """See PassThrough. Raises sse.MessageTooLong, sse.UnreadableMessage, UnreadableAnswer."""
        return b"".join(
            [
                self._read(messages) if is_to_read else self._forward(messages)
                for messages, is_to_read in sse.sift(self._messages.feed(piece), _find_remarkable)
            ]
        )

    def close(self) -> bytes:
        """See PassThrough."""
        if not self._ended:
            raise TruncatedStream
        return self._held

    def write_failure(self, refusal: Refusal) -> bytes:
        """See PassThrough: the same two events as in a stream of our own."""
        told: list[tuple[str, Json]] = []
        response = self._object
        if response is None:
            response = responses_objects.new_object(self._inspection, self._reply)
            told.append(("response.created", {"response": response}))
            told.append(("response.in_progress", {"response": response}))
        usage = responses_objects.write_usage(self.usage) if self.usage else None
        partial = {**response, "output": self._output, "usage": usage}
        told.append(("error", responses_objects.write_error_event(refusal)))
        told.append(("response.failed", {"response": responses_objects.fail(partial, refusal)}))
        written = b""
        for number, (kind, fields) in enumerate(told, start=self._relayed_messages):
            data = {"type": kind, "sequence_number": number, **fields}
            written += sse.encode(orjson.dumps(data), event=kind)
        return written

    def result(self) -> Json | None:
        """See PassThrough: the final object, with the state that is kept here and not there."""
        if self._result is None:
            return None
        return with_our_state(self._result, self._inspection)

    def _read(self, message: bytes) -> bytes:
        """What to forward of one message; the terminal ones are held."""
        data = sse.data_of(message)
        is_done = data == DONE.encode()
        if self._ended:
            # OpenAI sends nothing more; other servers of this wire end as chat completions do.
            self._held += message if is_done and self._held else b""
            return b""
        if is_done or not data:
            return self._forward(message)
        self._look(load(data))
        if self._ended:
            self._held = b"" if self.failure else message
            return b""
        return self._forward(message)

    def _forward(self, messages: bytes) -> bytes:
        if self._ended:
            return b""
        sse.check_objects(messages)
        self._relayed_messages += sse.count_messages(messages)
        self.relayed_pieces += len(SPEAKS.findall(messages))
        return messages

    def _look(self, event: Json) -> None:
        """Learn from an event; notes the end."""
        kind = _text(event.get("type"))
        response = _object(event.get("response"))
        if kind == "response.created" and self._object is None:
            self._object, self.model = response, _text(response.get("model"))
        elif kind == "response.output_item.done":
            self._output.append(_object(event.get("item")))
        elif kind in ("response.completed", "response.incomplete"):
            self._ended = True
            self._result = response
            self.model = self.model or _text(response.get("model"))
            self.usage = responses_objects.read_usage(response.get("usage"))
        elif kind in ("error", "response.failed", "response.cancelled"):
            self._ended = True
            self.failure = read_failure(event).message
            self.usage = responses_objects.read_usage(response.get("usage"))
