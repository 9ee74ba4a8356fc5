"""Anthropic's Messages API, both roles.

Facts: platform.claude.com/docs/en/api/messages and .../build-with-claude/streaming. The parts:
`anthropic_requests` reads what clients ask, `anthropic_bodies` writes what the provider is asked,
`anthropic_answers` reads the events of an answer, `anthropic_frames` writes them,
`anthropic_models` knows what each family of models takes, `anthropic_carries` how foreign state
survives a turn.
Pure: no clock, no network; knows no provider.
"""

import re
from collections.abc import Mapping, Sequence

import orjson

from billing.pricing import Usage
from gateway import sse
from gateway.dialects import anthropic_bodies, anthropic_requests, media, provider_errors
from gateway.dialects.anthropic_answers import MessageReader, UsageTotals, read_message
from gateway.dialects.anthropic_frames import MessageBuilder, MessageFrames
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
from gateway.events import Event, UsageReported
from gateway.generation import GenerationRequest
from gateway.refusals import Refusal

NAME = "anthropic"
# Their streams say several tokens in a piece, and how many only at the end. In recorded traffic a
# token has at most four and a half characters: this counts less than was written, never more.
CHARACTERS_PER_TOKEN = 6
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
# platform.claude.com/docs/en/api/errors. Their SDKs choose the exception by status.
ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def status_of(refusal: Refusal) -> int:
    """The status Anthropic has for it: there is no 502 and no 503, but 500 and, for what passes
    by itself, 529."""
    if refusal.status in (502, 503):
        return 529 if "retry-after" in refusal.headers else 500
    return refusal.status


def error_type(status: int) -> str:
    """Anthropic's word for an error of this status."""
    return ERROR_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def write_error(refusal: Refusal) -> Json:
    """A refusal as Anthropic's error object."""
    return {
        "type": "error",
        "error": {"type": error_type(status_of(refusal)), "message": refusal.message},
    }


def write_frame(frame: Json) -> bytes:
    """One event of the stream: its name comes twice."""
    return sse.encode(orjson.dumps(frame), event=frame["type"])


# --- client side -----------------------------------------------------------------------------


class AnthropicClient:
    """Clients that speak the Messages API, whose streams have a ping of their own."""

    name = NAME
    ping = write_frame({"type": "ping"})
    parameter_names: Mapping[str, str] = {
        "stop": "stop_sequences",
        "response_format": "output_config.format",
        "reasoning_effort": "output_config.effort",
    }

    def inspect(self, body: Json) -> Inspection:
        """See ClientDialect."""
        return anthropic_requests.inspect(body)

    def media(self, body: Json) -> list[Medium]:
        """See ClientDialect."""
        return media.in_anthropic(body)

    def expand(self, body: Json, items: Mapping[str, Json], previous: Sequence[Json]) -> Json:
        """See ClientDialect. Messages refer to nothing."""
        return body

    def read_request(self, body: Json) -> GenerationRequest:
        """See ClientDialect."""
        return anthropic_requests.read(body)

    def response_writer(self, inspection: Inspection, reply: Reply) -> "AnthropicResponseWriter":
        """See ClientDialect."""
        return AnthropicResponseWriter(inspection, reply)

    def stream_encoder(self, inspection: Inspection, reply: Reply) -> "AnthropicStreamEncoder":
        """See ClientDialect."""
        return AnthropicStreamEncoder(inspection, reply)

    def status_of(self, refusal: Refusal) -> int:
        """See ClientDialect."""
        return status_of(refusal)

    def write_refusal(self, refusal: Refusal, request_id: str) -> Json:
        """See ClientDialect."""
        return {**write_error(refusal), "request_id": request_id}


class AnthropicResponseWriter:
    """Collects the events of a whole answer into a `message` object."""

    def __init__(self, inspection: Inspection, reply: Reply) -> None:
        self._frames = MessageFrames(f"msg_{reply.seed}", inspection.model)
        self._builder = MessageBuilder()
        self._usage = Usage()

    def add(self, event: Event) -> None:
        """See ResponseWriter."""
        if isinstance(event, UsageReported):
            self._usage = event.usage
        for frame in self._frames.take(event):
            self._builder.add(frame)

    def finish(self) -> Json:
        """See ResponseWriter."""
        for frame in self._frames.end(self._usage):
            self._builder.add(frame)
        return self._builder.message()


class AnthropicStreamEncoder:
    """Writes the events of a Messages stream."""

    def __init__(self, inspection: Inspection, reply: Reply) -> None:
        self._frames = MessageFrames(f"msg_{reply.seed}", inspection.model)

    def write(self, event: Event) -> bytes:
        """See StreamEncoder."""
        return b"".join([write_frame(frame) for frame in self._frames.take(event)])

    def write_end(self, usage: Usage) -> bytes:
        """See StreamEncoder."""
        return b"".join([write_frame(frame) for frame in self._frames.end(usage)])

    def write_failure(self, refusal: Refusal) -> bytes:
        """An `error` event, then the stream closes: every Anthropic SDK raises on it."""
        return write_frame(write_error(refusal))

    def result(self) -> Json | None:
        """See StreamEncoder."""
        return None


# --- upstream side ---------------------------------------------------------------------------


class AnthropicUpstream:
    """Providers that speak the Messages API."""

    name = NAME
    tool_name = TOOL_NAME
    characters_per_token = CHARACTERS_PER_TOKEN

    def path(self, model: str, *, is_stream: bool) -> str:
        """See UpstreamDialect."""
        return "/messages"

    def write_request(self, request: GenerationRequest, target: Target) -> Json:
        """See UpstreamDialect."""
        return anthropic_bodies.write(request, target)

    def prepare_pass_through(self, body: Json, target: Target, *, is_stream: bool) -> Json:
        """See UpstreamDialect. Usage is always reported."""
        return {**anthropic_bodies.clean(body), "model": target.model}

    def pass_through(self, inspection: Inspection, reply: Reply) -> "AnthropicPassThrough":
        """See UpstreamDialect."""
        return AnthropicPassThrough()

    def amend(self, body: Json, inspection: Inspection) -> Json:
        """See UpstreamDialect."""
        return body

    def read_usage(self, body: Json) -> Usage | None:
        """See UpstreamDialect."""
        _refuse_error(body)
        return UsageTotals().merge(body.get("usage"))

    def read_response(self, body: Json) -> Sequence[Event]:
        """See UpstreamDialect."""
        _refuse_error(body)
        return read_message(body)

    def stream_decoder(self) -> "AnthropicStreamDecoder":
        """See UpstreamDialect."""
        return AnthropicStreamDecoder()

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str]
    ) -> UpstreamFailure:
        """See UpstreamDialect."""
        return provider_errors.read(status, headers, body, secrets=secrets)


def _refuse_error(body: Json) -> None:
    if body.get("type") == "error" or "error" in body:
        raise UnreadableAnswer("The answer is an error.")


def _read_frame(data: str | bytes) -> Json:
    """One event. Raises UnreadableAnswer."""
    try:
        frame = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UnreadableAnswer("An event is not JSON.") from error
    if not isinstance(frame, dict):
        raise UnreadableAnswer("An event is not an object.")
    return frame


class AnthropicStreamDecoder:
    """Reads a Messages stream. The name in the data counts; the `event:` line may be missing."""

    def __init__(self) -> None:
        self._messages = sse.Decoder()
        self._reader = MessageReader()

    def feed(self, piece: bytes) -> list[Event]:
        """See StreamDecoder. Raises UnreadableAnswer for an event that is no JSON object."""
        events: list[Event] = []
        for message in self._messages.feed(piece):
            if self._reader.ended:
                break
            if data := message.data.strip():
                events.extend(self._reader.read(_read_frame(data)))
        return events

    def close(self) -> list[Event]:
        """See StreamDecoder."""
        if not self._reader.ended:
            raise TruncatedStream
        return []


# What can matter to the forwarder. A model's own words match only inside a JSON string, where the
# quotes are escaped; so does everything but a provider's objects, and those are read and skipped.
NEEDS_READING = re.compile(rb'"type"\s*:\s*"(?:message_start|message_delta|message_stop|error)"')
SPEAKS = re.compile(rb'"type"\s*:\s*"content_block_delta"')
# Of deltas alone: what tools have found is told in whole blocks, and is nothing the model wrote.
SAID = re.compile(
    rb'"(?:text|thinking|input_json)_delta"\s*,\s*'
    rb'"(?:text|thinking|partial_json)"\s*:\s*"((?:[^"\\]|\\.)*)"'
)


def _find_remarkable(messages: bytes) -> int:
    match = NEEDS_READING.search(messages)
    return match.start() if match else -1


class AnthropicPassThrough:
    """Forwards a Messages stream as it is; parses only its first and last events."""

    def __init__(self) -> None:
        self._messages = sse.Splitter()
        self._held = b""
        self._ended = False
        self._totals = UsageTotals()
        self.usage: Usage | None = None
        self.failure = ""
        self.model = ""
        self.relayed_pieces = 0

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
        """See PassThrough."""
        return write_frame(write_error(refusal))

    def result(self) -> Json | None:
        """See PassThrough."""
        return None

    def _forward(self, messages: bytes) -> bytes:
        if self._ended:
            return b""
        sse.check_objects(messages)
        self.relayed_pieces += len(SPEAKS.findall(messages))
        for said in SAID.findall(messages):
            # Its first token is counted already.
            self.relayed_pieces += max(len(said) // CHARACTERS_PER_TOKEN - 1, 0)
        return messages

    def _read(self, message: bytes) -> bytes:
        """What to forward of one message: all of it, but for an error and for the end."""
        if self._ended:
            return b""
        data = sse.data_of(message)
        if not data:
            return message
        frame = _read_frame(data)
        match frame.get("type"):
            case "message_start":
                start = frame.get("message") or {}
                self.model = self.model or str(start.get("model") or "")
                self.usage = self._totals.merge(start.get("usage"))
            case "message_delta":
                self.usage = self._totals.merge(frame.get("usage"))
            case "message_stop":
                self._ended, self._held = True, message
                return b""
            case "error":
                error = frame.get("error") or {}
                self._ended, self.failure = True, str(error.get("message") or "error")
                return b""
        return message
