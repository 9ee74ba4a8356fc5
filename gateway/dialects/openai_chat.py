"""OpenAI chat completions, both roles.

Facts: platform.openai.com/docs/api-reference/chat and its streaming page. Order of a stream: one
chunk with the role, deltas, one chunk with `finish_reason` per choice, one chunk with `choices: []`
and `usage` if asked for, `data: [DONE]`. `cached_tokens` is a part of `prompt_tokens` and
`reasoning_tokens` a part of `completion_tokens`. Reasoning text has no official field:
`reasoning_content` (DeepSeek) and `reasoning` (OpenRouter, Groq) are read, the first is written.
Pure: no clock, no network; knows no provider.
"""

import re
from collections.abc import Mapping, Sequence

import orjson

from billing.pricing import Usage
from gateway import sse
from gateway.dialects import chat_answers, chat_requests, media, openai_models, provider_errors
from gateway.dialects.base import (
    Inspection,
    Json,
    Reply,
    Target,
    TruncatedStream,
    UnreadableAnswer,
    UpstreamFailure,
)
from gateway.dialects.media import Medium
from gateway.dialects.openai_usage import (
    write_input_details,
    write_output_details,
)
from gateway.events import (
    AudioDelta,
    ChoiceFinished,
    CitationAdded,
    Ended,
    Event,
    Failed,
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
from gateway.generation import GenerationRequest
from gateway.refusals import Refusal

NAME = "openai_chat"
DONE = b"[DONE]"
MODEL_MEMBER = re.compile(rb'"model":\s?"([^"\\]{1,120})"')


def write_usage_object(usage: Usage) -> Json:
    """Disjoint buckets as OpenAI's `usage`; both details always, strict clients require them."""
    return {
        "prompt_tokens": usage.whole_input,
        "completion_tokens": usage.whole_output,
        "total_tokens": usage.total,
        "prompt_tokens_details": write_input_details(usage),
        "completion_tokens_details": write_output_details(usage),
    }


# --- client side -----------------------------------------------------------------------------


class ChatClient:
    """Clients that speak chat completions."""

    name = NAME
    ping = sse.PING
    parameter_names: Mapping[str, str] = {}

    def inspect(self, body: Json) -> Inspection:
        """See ClientDialect."""
        return chat_requests.inspect(body)

    def media(self, body: Json) -> list[Medium]:
        """See ClientDialect."""
        return media.in_chat(body)

    def read_request(self, body: Json) -> GenerationRequest:
        """See ClientDialect."""
        return chat_requests.read(body)

    def expand(self, body: Json, items: Mapping[str, Json], previous: Sequence[Json]) -> Json:
        """See ClientDialect. Chat completions refer to nothing."""
        return body

    def response_writer(self, inspection: Inspection, reply: Reply) -> "ChatResponseWriter":
        """See ClientDialect."""
        return ChatResponseWriter(inspection, reply)

    def stream_encoder(self, inspection: Inspection, reply: Reply) -> "ChatStreamEncoder":
        """See ClientDialect."""
        return ChatStreamEncoder(inspection, reply)

    def status_of(self, refusal: Refusal) -> int:
        """See ClientDialect."""
        return refusal.status

    def write_refusal(self, refusal: Refusal, request_id: str) -> Json:
        """See ClientDialect."""
        return refusal.body()


class ChatResponseWriter:
    """Collects the events of a whole answer into a `chat.completion` object."""

    def __init__(self, inspection: Inspection, reply: Reply) -> None:
        self._reply = reply
        self._model = inspection.model
        self._usage: Usage | None = None
        self._choices: dict[int, Json] = {}
        self._calls: dict[tuple[int, int], Json] = {}

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
                self._model = model or self._model
            case UsageReported(usage=usage):
                self._usage = usage
            case ChoiceFinished(reason=reason, choice=index):
                self._choice(index)["finish_reason"] = reason.value
            case Ended() | Failed() | ReasoningEnded() | TextSigned():
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
            case ToolCallStarted(index=index):
                call = _write_tool_call(event)
                self._calls[choice["index"], index] = call["function"]
                message.setdefault("tool_calls", []).append(call)
            case ToolCallDelta(index=index, json_piece=piece):
                self._calls[choice["index"], index]["arguments"] += piece
            case CitationAdded():
                message["annotations"].append(_write_citation(event))
            case ImageMade():
                message.setdefault("images", []).append(_write_image(event))
            case AudioDelta():
                _add_audio(message.setdefault("audio", _no_audio(self._reply)), event)

    def finish(self) -> Json:
        """The whole object."""
        self._choice(0)
        return {
            "id": f"chatcmpl-{self._reply.seed}",
            "object": "chat.completion",
            "created": self._reply.created_at,
            "model": self._model,
            "choices": [self._choices[index] for index in sorted(self._choices)],
            # Not reported is not zero.
            "usage": write_usage_object(self._usage) if self._usage else None,
            "service_tier": None,
            "system_fingerprint": None,
        }


def _write_tool_call(event: ToolCallStarted) -> Json:
    """A call without arguments yet. A Gemini signature goes where Google's own endpoint puts it.

    Beside it stands whose it is: to any other model it means nothing.
    """
    function = {"name": event.name, "arguments": ""}
    call: Json = {"id": event.call_id, "type": "function", "function": function}
    if event.carry is not None and event.carry.kind == chat_requests.THOUGHT_SIGNATURE:
        call["extra_content"] = {"google": {"thought_signature": event.carry.data}}
        if event.carry.model:
            call["extra_content"]["gateway"] = {"model": event.carry.model}
    return call


def _write_citation(event: CitationAdded) -> Json:
    """OpenAI's `url_citation` annotation."""
    citation = {
        "url": event.url,
        "title": event.title,
        "start_index": max(event.start, 0),
        "end_index": max(event.end, 0),
    }
    return {"type": "url_citation", "url_citation": citation}


def _write_image(event: ImageMade) -> Json:
    """An image as OpenRouter's clients read it; chat completions have no official place for one."""
    url = f"data:{event.media_type};base64,{event.data}"
    return {"type": "image_url", "image_url": {"url": url}}


def _no_audio(reply: Reply) -> Json:
    return {"id": f"audio_{reply.seed}", "data": "", "transcript": "", "expires_at": 0}


def _add_audio(audio: Json, event: AudioDelta) -> None:
    audio["id"] = event.audio_id or audio["id"]
    audio["data"] += event.data
    audio["transcript"] += event.transcript


class ChatStreamEncoder:
    """Writes `chat.completion.chunk` messages."""

    def __init__(self, inspection: Inspection, reply: Reply) -> None:
        self._wants_usage = inspection.wants_usage
        self._head: Json = {
            "id": f"chatcmpl-{reply.seed}",
            "object": "chat.completion.chunk",
            "created": reply.created_at,
            "model": inspection.model,
            "service_tier": None,
            "system_fingerprint": None,
        }
        self._opened: set[int] = set()
        # What stands before and after the text of a chunk, by choice.
        self._around: dict[int, tuple[bytes, bytes]] = {}

    def write(self, event: Event) -> bytes:
        """See StreamEncoder."""
        if type(event) is TextDelta and not event.logprobs and event.choice in self._around:
            before, after = self._around[event.choice]
            return before + orjson.dumps(event.text) + after
        match event:
            case Started(model=model):
                self._head["model"] = model or self._head["model"]
                self._around.clear()
                return b""
            case UsageReported() | Ended() | Failed() | ReasoningEnded() | TextSigned():
                return b""
            case ChoiceFinished(reason=reason, choice=index):
                return self._open(index) + self._chunk(index, {}, finish_reason=reason.value)
            case TextDelta(text=text, choice=index, logprobs=logprobs):
                self._note_around(index)
                return self._open(index) + self._chunk(index, {"content": text}, logprobs=logprobs)
            case _:
                return self._open(event.choice) + self._chunk(event.choice, self._delta(event))

    def _delta(self, event: Event) -> Json:
        match event:
            case RefusalDelta(text=text):
                return {"refusal": text}
            case ReasoningDelta(text=text):
                return {"reasoning_content": text}
            case ToolCallStarted(index=index):
                return {"tool_calls": [{"index": index, **_write_tool_call(event)}]}
            case ToolCallDelta(index=index, json_piece=piece):
                return {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            case CitationAdded():
                return {"annotations": [_write_citation(event)]}
            case ImageMade():
                return {"images": [_write_image(event)]}
            case AudioDelta(data=data, transcript=transcript):
                pieces = {"id": event.audio_id, "data": data, "transcript": transcript}
                return {"audio": {name: piece for name, piece in pieces.items() if piece}}
            case _:
                return {}

    def _note_around(self, index: int) -> None:
        """Only the text differs from one chunk to the next, so the rest is written once."""
        before, _, after = self._chunk(index, {"content": ""}).partition(b'"content":""')
        self._around[index] = (before + b'"content":', after)

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
        """One error message, then the stream closes: openai-python and the AI SDK raise on it."""
        return _write_failure(refusal)

    def result(self) -> Json | None:
        """See StreamEncoder."""
        return None


def _write_failure(refusal: Refusal) -> bytes:
    return sse.encode(orjson.dumps(refusal.body()))


# --- upstream side ---------------------------------------------------------------------------


class ChatUpstream:
    """Providers that speak chat completions."""

    name = NAME
    tool_name = openai_models.TOOL_NAME
    characters_per_token = 0

    def path(self, model: str, *, is_stream: bool) -> str:
        """See UpstreamDialect."""
        return "/chat/completions"

    def write_request(self, request: GenerationRequest, target: Target) -> Json:
        """See UpstreamDialect."""
        return chat_requests.write(request, target.model)

    def prepare_pass_through(self, body: Json, target: Target, *, is_stream: bool) -> Json:
        """See UpstreamDialect. Metering is not the client's choice: streams always report usage."""
        prepared = {**chat_requests.clean(body, target.model), "model": target.model}
        if is_stream:
            options = body.get("stream_options")
            asked = options if isinstance(options, dict) else {}
            prepared["stream_options"] = {**asked, "include_usage": True}
        return prepared

    def pass_through(self, inspection: Inspection, reply: Reply) -> "ChatPassThrough":
        """See UpstreamDialect."""
        return ChatPassThrough(wants_usage=inspection.wants_usage)

    def amend(self, body: Json, inspection: Inspection) -> Json:
        """See UpstreamDialect."""
        return body

    def read_usage(self, body: Json) -> Usage | None:
        """See UpstreamDialect. OpenRouter and Azure send errors with status 200, too."""
        if body.get("error") and not body.get("choices"):
            raise UnreadableAnswer("The answer is an error.")
        return chat_answers.read_usage_object(body.get("usage"))

    def read_response(self, body: Json) -> Sequence[Event]:
        """See UpstreamDialect."""
        return chat_answers.read(body)

    def stream_decoder(self) -> chat_answers.ChatStreamDecoder:
        """See UpstreamDialect."""
        return chat_answers.ChatStreamDecoder()

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str]
    ) -> UpstreamFailure:
        """See UpstreamDialect."""
        return provider_errors.read(status, headers, body, secrets=secrets)


class ChatPassThrough:
    """Forwards chunks as they are; parses only those that can matter.

    A JSON string cannot contain `"usage":{` unescaped, so looking for those bytes finds the usage
    chunk and nothing a model could have written.
    """

    def __init__(self, *, wants_usage: bool) -> None:
        self._wants_usage = wants_usage
        self._messages = sse.Splitter()
        self._held = b""
        self._ended = False
        self.usage: Usage | None = None
        self.failure = ""
        self.model = ""
        self.relayed_pieces = 0

    def feed(self, piece: bytes) -> bytes:
        """See PassThrough. Raises sse.MessageTooLong, sse.UnreadableMessage, UnreadableAnswer."""
        whole = b"" if self._ended else self._messages.feed(piece)
        if not whole:
            return b""
        if not self.model:
            self.model = _model_of(whole)
        if _find_remarkable(whole) < 0:  # nearly always
            return self._forward(whole)
        forward = b""
        for messages, is_to_read in sse.sift(whole, _find_remarkable):
            if self._ended:
                break
            forward += self._read(messages) if is_to_read else self._forward(messages)
        return forward

    def close(self) -> bytes:
        """See PassThrough."""
        if not self._ended:
            raise TruncatedStream
        return self._held

    def write_failure(self, refusal: Refusal) -> bytes:
        """See PassThrough."""
        return _write_failure(refusal)

    def result(self) -> Json | None:
        """See PassThrough."""
        return None

    def _read(self, message: bytes) -> bytes:
        """What to forward of one message; the terminal ones are held."""
        data = sse.data_of(message)
        if data == DONE:
            self._ended = True
            self._held += message
            return b""
        return self._read_chunk(message, data) if data else self._forward(message)

    def _forward(self, messages: bytes) -> bytes:
        """The messages, after the usage report that turned out not to be the last."""
        sse.check_objects(messages)
        self.relayed_pieces += len(SPEAKS.findall(messages))
        if not self._held:
            return messages
        held, self._held = self._held, b""
        return held + messages

    def _read_chunk(self, message: bytes, data: bytes) -> bytes:
        chunk = chat_answers.read_chunk(data)
        if failure := chat_answers.read_failure(chunk):
            self._ended = True
            self._held = b""
            self.failure = failure.message or "error"
            return b""
        usage = chat_answers.read_usage_object(chunk.get("usage"))
        if usage is None:
            return self._forward(message)
        self.usage = usage
        if chunk.get("choices"):
            return self._forward(message)
        # The report comes last; it is held with the end until the call is settled.
        forward, self._held = self._held, message if self._wants_usage else b""
        return forward


# Deltas that carry output, as far as can be seen without reading. The text of an answer is never
# taken for one: inside a string its quotes are escaped.
SPEAKS = re.compile(rb'"(?:content|reasoning_content|reasoning|refusal|arguments)"\s*:\s*"[^"]')
USAGE_REPORT = re.compile(rb'"usage"\s*:\s*\{')


def _find_remarkable(messages: bytes) -> int:
    """Where a usage report, an error in either form, or the end may begin; -1 for nowhere.

    Strings a model wrote match only as whole values, which costs no more than reading a chunk for
    nothing. Three searches for fixed text: one pattern of alternatives takes five times as long.
    """
    report = USAGE_REPORT.search(messages)
    if report is None and b"[DONE]" not in messages and b'"error"' not in messages:
        return -1
    found = (messages.find(b"[DONE]"), messages.find(b'"error"'), report.start() if report else -1)
    return min(at for at in found if at >= 0)


def _model_of(block: bytes) -> str:
    """The value of the first `"model"` member, which no provider escapes; "" without one."""
    match = MODEL_MEMBER.search(block)
    return match.group(1).decode("utf-8", errors="replace") if match else ""
