"""What providers of chat completions answer, read: whole, and as a stream.

The other half of openai_chat.py, which says where the facts come from and what both share. Owns how
answers of compatible servers differ from OpenAI's. Pure: no clock, no network; knows no provider.
"""

import hashlib
from typing import Any

import orjson

from billing.pricing import Usage
from gateway import sse
from gateway.dialects.base import Json, TruncatedStream, UnreadableAnswer
from gateway.dialects.counting import Counts, divide
from gateway.dialects.openai_usage import read_input_details
from gateway.events import (
    ChoiceFinished,
    CitationAdded,
    Ended,
    Event,
    Failed,
    FinishReason,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)

# `function_call` is the retired single-function form of tool calls.
FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
    "model_length": FinishReason.LENGTH,  # Mistral's word for a full context window
}
# Said of an answer that broke off: OpenRouter's word, DeepSeek's word.
BROKEN_OFF = frozenset({"error", "insufficient_system_resource"})


def read_usage_object(usage: Any) -> Usage | None:
    """OpenAI's `usage` as disjoint buckets; None when it is absent or counts nothing.

    Google's and xAI's compatible endpoints leave thinking out of `completion_tokens` and count it
    in `total_tokens` only: what the total has beyond prompt and completion was written, thinking.
    """
    counts = Counts()
    prompt = counts.take(usage, "prompt_tokens")
    completion = counts.take(usage, "completion_tokens")
    if prompt is None and completion is None and not counts.is_doubtful:
        return None
    prompt, completion = prompt or 0, completion or 0
    hidden = max((counts.take(usage, "total_tokens") or 0) - prompt - completion, 0)
    if counts.is_doubtful:
        hidden = 0  # what the total has beyond may be what was left out
    details = usage.get("completion_tokens_details")
    return divide(
        prompt,
        completion + hidden,
        **read_input_details(counts, usage.get("prompt_tokens_details")),
        audio_output=counts.take(details, "audio_tokens") or 0,
        image_output=counts.take(details, "image_tokens") or 0,
        reasoning=counts.take(details, "reasoning_tokens") or hidden,
        is_doubtful=counts.is_doubtful,
    )


def read(body: Json) -> list[Event]:
    """A whole answer's events. Raises UnreadableAnswer."""
    choices = body.get("choices")
    if not isinstance(choices, list):
        raise UnreadableAnswer("The answer has no choices.")
    events: list[Event] = [Started(_text(body.get("id")), _text(body.get("model")), _created(body))]
    for position, choice in enumerate(choices):
        events.extend(_read_choice(choice, position, _identity(body)))
    if usage := read_usage_object(body.get("usage")):
        events.append(UsageReported(usage))
    events.append(Ended())
    return events


def _created(body: Json) -> int:
    created = body.get("created")
    return int(created) if isinstance(created, int | float) else 0


def _objects(value: Any) -> list[Json]:
    """The objects of a list; compatible servers send null, and now and then something else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    """Text that is a string or, as Mistral has it, a list of parts with text."""
    if isinstance(value, str):
        return value
    texts = (part.get("text") for part in _objects(value))
    return "".join(text for text in texts if isinstance(text, str))


def _whole_number(value: Any, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _read_texts(message: Json, choice: Json, index: int) -> list[Event]:
    """Reasoning, text and refusal of a message or a delta; nothing for what is empty."""
    events: list[Event] = []
    # Servers that changed the field's name send both: the same text twice.
    if reasoning := _text(message.get("reasoning_content")) or _text(message.get("reasoning")):
        events.append(ReasoningDelta(reasoning, index))
    text = _text(message.get("content"))
    logprobs = tuple(_objects(_object(choice.get("logprobs")).get("content")))
    if text or logprobs:
        events.append(TextDelta(text, index, logprobs))
    if refusal := _text(message.get("refusal")):
        events.append(RefusalDelta(refusal, index))
    events.extend(_read_citations(message, index))
    return events


def _read_citations(message: Json, index: int) -> list[Event]:
    """Sources, as models that search the web name them; their offsets are characters."""
    cited = [_object(one.get("url_citation")) for one in _objects(message.get("annotations"))]
    return [
        CitationAdded(
            _text(one.get("url")),
            _text(one.get("title")),
            _whole_number(one.get("start_index"), -1),
            _whole_number(one.get("end_index"), -1),
            choice=index,
        )
        for one in cited
        if _text(one.get("url"))
    ]


def _identity(body: Json) -> str:
    """What tells an answer from others."""
    return f"{_text(body.get('id'))} {_created(body)}"


def _make_call_id(identity: str, choice: int, number: int) -> str:
    """An id for a call without one, which its result must name: unlike those of other answers."""
    digest = hashlib.sha256(f"{identity}\n{choice}\n{number}".encode()).hexdigest()
    return f"call_{digest[:24]}"


def _arguments(function: Json) -> str:
    """A call's arguments: JSON as text or, as some servers have it, as an object."""
    arguments = function.get("arguments")
    return orjson.dumps(arguments).decode() if isinstance(arguments, dict) else _text(arguments)


def _read_choice(choice: Any, position: int, identity: str) -> list[Event]:
    """A whole choice of a non-streamed answer. Azure leaves out a message that was filtered."""
    if not isinstance(choice, dict) or not ("message" in choice or choice.get("finish_reason")):
        raise UnreadableAnswer("A choice has no message.")
    if _text(choice.get("finish_reason")) in BROKEN_OFF:
        raise UnreadableAnswer("The answer broke off.")
    index = _whole_number(choice.get("index"), position)
    message = _object(choice.get("message"))
    events = _read_texts(message, choice, index)
    if message.get("content") == "":
        events.append(TextDelta("", index))  # written and empty is not the same as absent
    for number, call in enumerate(_objects(message.get("tool_calls"))):
        function = _object(call.get("function"))
        call_id = _text(call.get("id")) or _make_call_id(identity, index, number)
        events.append(ToolCallStarted(number, call_id, _text(function.get("name")), index))
        events.append(ToolCallDelta(number, _arguments(function), index))
    reason = FINISH_REASONS.get(_text(choice.get("finish_reason")), FinishReason.STOP)
    events.append(ChoiceFinished(reason, index))
    return events


class ToolCalls:
    """The tool calls of one streamed choice: which pieces belong together.

    By `index`, with two exceptions seen in the wild: Google's compatible endpoint sent every
    parallel call, whole, with index 0; and some servers leave `index` out. So a piece that names
    another id and a function begins a call of its own. An id alone does not: vLLM once sent a
    fresh one with every piece.
    """

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._current: dict[int, tuple[int, str]] = {}
        self._count = 0

    def read(self, call: Json, position: int, choice: int) -> list[Event]:
        """The events of one entry of `delta.tool_calls`, at this position of the list."""
        key = _whole_number(call.get("index"), position)
        function = _object(call.get("function"))
        call_id, name = _text(call.get("id")), _text(function.get("name"))
        known = self._current.get(key)
        events: list[Event] = []
        if known is None or (name and call_id and call_id != known[1]):
            known = (self._count, call_id)
            self._current[key] = known
            self._count += 1
            given_id = call_id or _make_call_id(self._identity, choice, known[0])
            events.append(ToolCallStarted(known[0], given_id, name, choice))
        if arguments := _arguments(function):
            events.append(ToolCallDelta(known[0], arguments, choice))
        return events


class ChatStreamDecoder:
    """Reads a stream of chunks into events."""

    def __init__(self) -> None:
        self._messages = sse.Decoder()
        self._identity = ""
        self._started = False
        self._ended = False
        self._calls: dict[int, ToolCalls] = {}
        self._finished: set[int] = set()

    def feed(self, piece: bytes) -> list[Event]:
        """See StreamDecoder. Raises UnreadableAnswer for a chunk that is no JSON object."""
        events: list[Event] = []
        for message in self._messages.feed(piece):
            if not self._ended:
                events.extend(self._read_message(message.data.strip()))
        return events

    def close(self) -> list[Event]:
        """See StreamDecoder."""
        if not self._ended:
            raise TruncatedStream
        return []

    def _read_message(self, data: str) -> list[Event]:
        if not data:
            return []
        if data == "[DONE]":
            self._ended = True
            return [Ended()]
        chunk = read_chunk(data)
        if failure := read_failure(chunk):
            self._ended = True
            return [failure]
        events: list[Event] = []
        # Azure begins with a chunk of filter results that has neither.
        if not self._started and (chunk.get("model") or chunk.get("choices")):
            self._started, self._identity = True, _identity(chunk)
            events.append(
                Started(_text(chunk.get("id")), _text(chunk.get("model")), _created(chunk))
            )
        for position, choice in enumerate(_objects(chunk.get("choices"))):
            events.extend(self._read_choice(choice, _whole_number(choice.get("index"), position)))
        if usage := read_usage_object(chunk.get("usage")):
            events.append(UsageReported(usage))
        return events

    def _read_choice(self, choice: Json, index: int) -> list[Event]:
        delta = _object(choice.get("delta"))
        events = _read_texts(delta, choice, index)
        calls = self._calls.setdefault(index, ToolCalls(self._identity))
        for position, call in enumerate(_objects(delta.get("tool_calls"))):
            events.extend(calls.read(call, position, index))
        reason = _text(choice.get("finish_reason"))
        if reason in BROKEN_OFF:
            self._ended = True
            return [*events, Failed("The answer broke off.", reason)]
        if reason and index not in self._finished:
            self._finished.add(index)
            events.append(ChoiceFinished(FINISH_REASONS.get(reason, FinishReason.STOP), index))
        return events


def read_chunk(data: str | bytes) -> Json:
    """One chunk. Raises UnreadableAnswer."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UnreadableAnswer("A chunk is not JSON.") from error
    if not isinstance(chunk, dict):
        raise UnreadableAnswer("A chunk is not an object.")
    return chunk


def read_failure(chunk: Json) -> Failed | None:
    """The error a chunk reports: an `error` member or, as older vLLM has it, the chunk itself."""
    error = chunk.get("error") or (chunk if chunk.get("object") == "error" else None)
    if not error:
        return None
    if isinstance(error, dict):
        return Failed(str(error.get("message", "")), str(error.get("code") or ""))
    return Failed(str(error))
