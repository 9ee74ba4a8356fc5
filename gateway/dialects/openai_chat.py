"""OpenAI chat completions, both roles.

Facts: platform.openai.com/docs/api-reference/chat and its streaming page. Order of a stream: one
chunk with the role, deltas, one chunk with `finish_reason` per choice, one chunk with `choices: []`
and `usage` if asked for, `data: [DONE]`. `cached_tokens` is a part of `prompt_tokens` and
`reasoning_tokens` a part of `completion_tokens`. Reasoning text has no official field:
`reasoning_content` (DeepSeek) and `reasoning` (OpenRouter, Groq) are read, the first is written.
Pure: no clock, no network; knows no provider.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from billing.pricing import Usage
from gateway import sse
from gateway.dialects import chat_requests, provider_errors
from gateway.dialects.base import (
    Inspection,
    Json,
    TruncatedStream,
    UnreadableAnswer,
    UpstreamFailure,
)
from gateway.events import (
    ChoiceFinished,
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
from gateway.generation import GenerationRequest
from gateway.refusals import Refusal

NAME = "openai_chat"
DONE = b"[DONE]"
MODEL_MEMBER = re.compile(rb'"model":\s?"([^"\\]{1,120})"')
# `function_call` is the retired single-function form of tool calls.
FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "tool_calls": FinishReason.TOOL_CALLS,
    "function_call": FinishReason.TOOL_CALLS,
    "content_filter": FinishReason.CONTENT_FILTER,
}


def read_usage_object(usage: Any) -> Usage | None:
    """OpenAI's `usage` as disjoint buckets; None when it is absent or no object."""
    if not isinstance(usage, dict):
        return None

    def count(holder: Any, name: str) -> int:
        value = holder.get(name) if isinstance(holder, dict) else None
        return max(int(value), 0) if isinstance(value, int | float) else 0

    details = usage.get("prompt_tokens_details")
    prompt = count(usage, "prompt_tokens")
    # A part can never exceed the whole: a provider that says otherwise is not billed twice.
    cache_read = min(count(details, "cached_tokens"), prompt)
    cache_write = min(count(details, "cache_write_tokens"), prompt - cache_read)
    output = count(usage, "completion_tokens")
    reasoning = min(count(usage.get("completion_tokens_details"), "reasoning_tokens"), output)
    return Usage(
        input=prompt - cache_read - cache_write,
        cache_read=cache_read,
        cache_write=cache_write,
        output=output,
        reasoning=reasoning,
    )


def write_usage_object(usage: Usage) -> Json:
    """Disjoint buckets as OpenAI's `usage`; both details always, strict clients require them."""
    return {
        "prompt_tokens": usage.whole_input,
        "completion_tokens": usage.output,
        "total_tokens": usage.total,
        "prompt_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write,
        },
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


# --- client side -----------------------------------------------------------------------------


class ChatClient:
    """Clients that speak chat completions."""

    name = NAME

    def inspect(self, body: Json) -> Inspection:
        """See ClientDialect."""
        return chat_requests.inspect(body)

    def read_request(self, body: Json) -> GenerationRequest:
        """See ClientDialect."""
        return chat_requests.read(body)

    def write_response(self, events: Iterable[Event], *, response_id: str, created_at: int) -> Json:
        """See ClientDialect."""
        writer = ResponseWriter()
        for event in events:
            writer.add(event)
        return writer.finish(response_id, created_at)

    def stream_encoder(
        self, inspection: Inspection, *, response_id: str, created_at: int
    ) -> "ChatStreamEncoder":
        """See ClientDialect."""
        return ChatStreamEncoder(inspection, response_id, created_at)

    def write_failure(self, refusal: Refusal) -> bytes:
        """One error message, then the stream closes: openai-python and the AI SDK raise on it."""
        return sse.encode(orjson.dumps(refusal.body()))


class ResponseWriter:
    """Collects the events of a whole answer into a `chat.completion` object."""

    def __init__(self) -> None:
        self._model = ""
        self._usage = Usage()
        self._choices: dict[int, Json] = {}

    def _choice(self, index: int) -> Json:
        if index not in self._choices:
            self._choices[index] = {
                "index": index,
                "message": {
                    "role": "assistant",
                    "content": None,
                    "refusal": None,
                    "annotations": [],
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
        return self._choices[index]

    def add(self, event: Event) -> None:
        """Take one event in."""
        match event:
            case Started(model=model):
                self._model = model
            case UsageReported(usage=usage):
                self._usage = usage
            case ChoiceFinished(reason=reason, choice=index):
                self._choice(index)["finish_reason"] = reason.value
            case Ended() | Failed():
                pass
            case _:
                self._add_delta(event, self._choice(event.choice))

    def _add_delta(self, event: Event, choice: Json) -> None:
        message = choice["message"]
        match event:
            case TextDelta(text=text, logprobs=logprobs):
                message["content"] = (message["content"] or "") + text
                if logprobs:
                    choice["logprobs"] = choice["logprobs"] or {"content": [], "refusal": None}
                    choice["logprobs"]["content"].extend(logprobs)
            case RefusalDelta(text=text):
                message["refusal"] = (message["refusal"] or "") + text
            case ReasoningDelta(text=text):
                message["reasoning_content"] = message.get("reasoning_content", "") + text
            case ToolCallStarted(call_id=call_id, name=name):
                message.setdefault("tool_calls", []).append(
                    {
                        "id": call_id,
                        "type": "function",
                        "function": {"name": name, "arguments": ""},
                    }
                )
            case ToolCallDelta(index=index, json_piece=piece):
                message["tool_calls"][index]["function"]["arguments"] += piece

    def finish(self, response_id: str, created_at: int) -> Json:
        """The whole object."""
        self._choice(0)
        return {
            "id": response_id,
            "object": "chat.completion",
            "created": created_at,
            "model": self._model,
            "choices": [self._choices[index] for index in sorted(self._choices)],
            "usage": write_usage_object(self._usage),
            "service_tier": None,
            "system_fingerprint": None,
        }


class ChatStreamEncoder:
    """Writes `chat.completion.chunk` messages."""

    def __init__(self, inspection: Inspection, response_id: str, created_at: int) -> None:
        self._wants_usage = inspection.wants_usage
        self._head: Json = {
            "id": response_id,
            "object": "chat.completion.chunk",
            "created": created_at,
            "model": inspection.model,
            "service_tier": None,
            "system_fingerprint": None,
        }
        self._opened: set[int] = set()

    def write(self, event: Event) -> bytes:
        """See StreamEncoder."""
        match event:
            case Started(model=model):
                self._head["model"] = model or self._head["model"]
                return b""
            case UsageReported() | Ended() | Failed():
                return b""
            case ChoiceFinished(reason=reason, choice=index):
                return self._open(index) + self._chunk(index, {}, finish_reason=reason.value)
            case TextDelta(text=text, choice=index, logprobs=logprobs):
                return self._open(index) + self._chunk(index, {"content": text}, logprobs=logprobs)
            case _:
                return self._open(event.choice) + self._chunk(event.choice, self._delta(event))

    def _delta(self, event: Event) -> Json:
        match event:
            case RefusalDelta(text=text):
                return {"refusal": text}
            case ReasoningDelta(text=text):
                return {"reasoning_content": text}
            case ToolCallStarted(index=index, call_id=call_id, name=name):
                function = {"name": name, "arguments": ""}
                call = {"index": index, "id": call_id, "type": "function", "function": function}
                return {"tool_calls": [call]}
            case ToolCallDelta(index=index, json_piece=piece):
                return {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            case _:
                return {}

    def _open(self, index: int) -> bytes:
        """The first chunk of a choice carries the role."""
        if index in self._opened:
            return b""
        self._opened.add(index)
        return self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def _chunk(
        self,
        index: int,
        delta: Json,
        *,
        finish_reason: str | None = None,
        logprobs: tuple[Json, ...] = (),
    ) -> bytes:
        choice = {
            "index": index,
            "delta": delta,
            "logprobs": {"content": list(logprobs), "refusal": None} if logprobs else None,
            "finish_reason": finish_reason,
        }
        chunk = {**self._head, "choices": [choice]}
        if self._wants_usage:
            chunk["usage"] = None
        return sse.encode(orjson.dumps(chunk))

    def write_end(self, usage: Usage) -> bytes:
        """See StreamEncoder."""
        done = sse.encode(DONE)
        if not self._wants_usage:
            return done
        chunk = {**self._head, "choices": [], "usage": write_usage_object(usage)}
        return sse.encode(orjson.dumps(chunk)) + done

    def write_failure(self, refusal: Refusal) -> bytes:
        """See StreamEncoder."""
        return sse.encode(orjson.dumps(refusal.body()))


# --- upstream side ---------------------------------------------------------------------------


class ChatUpstream:
    """Providers that speak chat completions."""

    name = NAME

    def path(self, upstream_model: str, *, is_stream: bool) -> str:
        """See UpstreamDialect."""
        return "/chat/completions"

    def write_request(self, request: GenerationRequest, upstream_model: str) -> Json:
        """See UpstreamDialect."""
        return chat_requests.write(request, upstream_model)

    def prepare_pass_through(self, body: Json, upstream_model: str, *, is_stream: bool) -> Json:
        """See UpstreamDialect. Metering is not the client's choice: streams always report usage."""
        prepared = {**body, "model": upstream_model}
        if is_stream:
            options = body.get("stream_options")
            asked = options if isinstance(options, dict) else {}
            prepared["stream_options"] = {**asked, "include_usage": True}
        return prepared

    def pass_through(self, inspection: Inspection) -> "ChatPassThrough":
        """See UpstreamDialect."""
        return ChatPassThrough(wants_usage=inspection.wants_usage)

    def read_usage(self, body: Json) -> Usage | None:
        """See UpstreamDialect."""
        return read_usage_object(body.get("usage"))

    def read_response(self, body: Json) -> Sequence[Event]:
        """See UpstreamDialect."""
        choices = body.get("choices")
        if not isinstance(choices, list):
            raise UnreadableAnswer("The answer has no choices.")
        events: list[Event] = [
            Started(str(body.get("id", "")), str(body.get("model", "")), _created(body))
        ]
        for choice in choices:
            events.extend(_read_choice(choice))
        if usage := read_usage_object(body.get("usage")):
            events.append(UsageReported(usage))
        events.append(Ended())
        return events

    def stream_decoder(self) -> "ChatStreamDecoder":
        """See UpstreamDialect."""
        return ChatStreamDecoder()

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str]
    ) -> UpstreamFailure:
        """See UpstreamDialect."""
        return provider_errors.read(status, headers, body, secrets=secrets)


def _created(body: Json) -> int:
    created = body.get("created")
    return int(created) if isinstance(created, int | float) else 0


def _read_choice(choice: Json) -> list[Event]:
    """A whole choice of a non-streamed answer."""
    if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
        raise UnreadableAnswer("A choice has no message.")
    index = int(choice.get("index", 0))
    message = choice["message"]
    events: list[Event] = []
    if reasoning := message.get("reasoning_content") or message.get("reasoning"):
        events.append(ReasoningDelta(str(reasoning), index))
    if isinstance(message.get("content"), str):
        logprobs = (choice.get("logprobs") or {}).get("content") or ()
        events.append(TextDelta(message["content"], index, tuple(logprobs)))
    if message.get("refusal"):
        events.append(RefusalDelta(str(message["refusal"]), index))
    for number, call in enumerate(message.get("tool_calls") or ()):
        function = call.get("function") or {}
        events.append(
            ToolCallStarted(number, str(call.get("id", "")), str(function.get("name", "")), index)
        )
        events.append(ToolCallDelta(number, str(function.get("arguments") or ""), index))
    reason = FINISH_REASONS.get(str(choice.get("finish_reason")), FinishReason.STOP)
    events.append(ChoiceFinished(reason, index))
    return events


class ChatStreamDecoder:
    """Reads a stream of chunks into events."""

    def __init__(self) -> None:
        self._messages = sse.Decoder()
        self._started = False
        self._ended = False
        self._calls: set[tuple[int, int]] = set()

    def feed(self, piece: bytes) -> list[Event]:
        """See StreamDecoder. Raises UnreadableAnswer for a chunk that is no JSON object."""
        events: list[Event] = []
        for message in self._messages.feed(piece):
            if not self._ended:
                events.extend(self._read_message(message.data))
        return events

    def close(self) -> list[Event]:
        """See StreamDecoder."""
        if not self._ended:
            raise TruncatedStream
        return []

    def _read_message(self, data: str) -> list[Event]:
        if data == "[DONE]":
            self._ended = True
            return [Ended()]
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise UnreadableAnswer("A chunk is not JSON.") from error
        if not isinstance(chunk, dict):
            raise UnreadableAnswer("A chunk is not an object.")
        if chunk.get("error"):
            self._ended = True
            return [_read_failure(chunk["error"])]
        events: list[Event] = []
        if not self._started:
            self._started = True
            events.append(
                Started(str(chunk.get("id", "")), str(chunk.get("model", "")), _created(chunk))
            )
        for choice in chunk.get("choices") or ():
            events.extend(self._read_choice(choice))
        if usage := read_usage_object(chunk.get("usage")):
            events.append(UsageReported(usage))
        return events

    def _read_choice(self, choice: Json) -> list[Event]:
        index = int(choice.get("index", 0))
        delta = choice.get("delta") or {}
        events: list[Event] = []
        for field, make in DELTA_READERS:
            if value := delta.get(field):
                events.append(make(str(value), index))
        if delta.get("content"):
            logprobs = (choice.get("logprobs") or {}).get("content") or ()
            events.append(TextDelta(str(delta["content"]), index, tuple(logprobs)))
        for position, call in enumerate(delta.get("tool_calls") or ()):
            events.extend(self._read_tool_call(call, position, index))
        if reason := choice.get("finish_reason"):
            events.append(ChoiceFinished(FINISH_REASONS.get(str(reason), FinishReason.STOP), index))
        return events

    def _read_tool_call(self, call: Json, position: int, choice: int) -> list[Event]:
        # Some compatible servers leave `index` out; then the position in the list is all there is.
        number = call.get("index")
        number = int(number) if isinstance(number, int) else position
        function = call.get("function") or {}
        events: list[Event] = []
        if (choice, number) not in self._calls:
            self._calls.add((choice, number))
            events.append(
                ToolCallStarted(
                    number, str(call.get("id") or ""), str(function.get("name") or ""), choice
                )
            )
        if arguments := function.get("arguments"):
            events.append(ToolCallDelta(number, str(arguments), choice))
        return events


DELTA_READERS: tuple[tuple[str, Callable[[str, int], Event]], ...] = (
    ("reasoning_content", ReasoningDelta),
    ("reasoning", ReasoningDelta),
    ("refusal", RefusalDelta),
)


def _read_failure(error: Any) -> Failed:
    if isinstance(error, dict):
        return Failed(str(error.get("message", "")), str(error.get("code") or ""))
    return Failed(str(error))


class ChatPassThrough:
    """Forwards chunks as they are; parses only those that can matter.

    A JSON string cannot contain `"usage":{` unescaped, so looking for those bytes finds the usage
    chunk and nothing a model could have written.
    """

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._rest = b""
        self._terminal = b""
        self._ended = False
        self.usage: Usage | None = None
        self.failure = ""
        self.model = ""
        self.relayed_messages = 0

    def feed(self, piece: bytes) -> bytes:
        """See PassThrough. Raises sse.MessageTooLong, UnreadableAnswer."""
        buffer = self._rest + piece
        if b"\r" in buffer:
            buffer = buffer.replace(b"\r\n", b"\n")
        cut = buffer.rfind(b"\n\n") + 2
        if cut == 1:
            self._rest = self._bounded(buffer)
            return b""
        whole, self._rest = buffer[:cut], self._bounded(buffer[cut:])
        if not self.model:
            self.model = _model_of(whole)
        if not _needs_reading(whole):
            self.relayed_messages += whole.count(b"data: ")
            return whole
        return b"".join(self._read_block(block) for block in whole.split(b"\n\n") if block)

    def close(self) -> bytes:
        """See PassThrough."""
        if not self._ended:
            raise TruncatedStream
        return self._terminal

    @staticmethod
    def _bounded(rest: bytes) -> bytes:
        if len(rest) > sse.MESSAGE_BYTES_MAX:
            raise sse.MessageTooLong
        return rest

    def _read_block(self, block: bytes) -> bytes:
        """What to forward of one message; the terminal ones go to `_terminal`."""
        if self._ended:
            return b""
        data = block.partition(b"data:")[2].strip()
        if data == DONE:
            self._ended = True
            self._terminal += block + b"\n\n"
            return b""
        if not _needs_reading(block):
            self.relayed_messages += 1
            return block + b"\n\n"
        return self._read_chunk(block, data)

    def _read_chunk(self, block: bytes, data: bytes) -> bytes:
        try:
            chunk = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise UnreadableAnswer("A chunk is not JSON.") from error
        if isinstance(chunk, dict) and chunk.get("error"):
            self._ended = True
            self.failure = _read_failure(chunk["error"]).message or "error"
            return b""
        if usage := read_usage_object(chunk.get("usage")):
            self.usage = usage
            if not chunk.get("choices"):
                # The report comes last; it is held with the end until the call is settled.
                if self._wants_usage:
                    self._terminal += block + b"\n\n"
                return b""
        self.relayed_messages += 1
        return block + b"\n\n"


def _model_of(block: bytes) -> str:
    """The value of the first `"model"` member, which no provider escapes; "" without one."""
    match = MODEL_MEMBER.search(block)
    return match.group(1).decode("utf-8", errors="replace") if match else ""


def _needs_reading(block: bytes) -> bool:
    return (
        b'"usage":{' in block
        or b'"usage": {' in block
        or b"[DONE]" in block
        or b'"error":' in block
    )
