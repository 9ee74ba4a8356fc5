"""Gemini's generateContent, both roles.

Facts: ai.google.dev/api/generate-content, /gemini-api/docs/thought-signatures and recorded traffic.
A stream is the same object again and again, each with new parts, `usageMetadata` on every one and
cumulative, `finishReason` on the last; lines end in CRLF and nothing marks the end. Calls come
whole, mostly without an id; STOP also ends an answer that calls tools. `thoughtsTokenCount` is not
part of `candidatesTokenCount`. Pure: no clock, no network; knows no provider.
"""

import re
from collections.abc import Mapping, Sequence

import orjson

from billing.pricing import Usage
from gateway import sse
from gateway.dialects import (
    gemini_answers,
    gemini_contents,
    gemini_reading,
    gemini_requests,
    media,
    provider_errors,
)
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
from gateway.events import Ended, Event
from gateway.generation import GenerationRequest
from gateway.refusals import Refusal

NAME = "gemini"
TOOL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")
# An image comes whole in one message.
MESSAGE_BYTES_MAX = 32 * 1024 * 1024


# --- client side -----------------------------------------------------------------------------


class GeminiClient:
    """Clients that speak generateContent.

    The model is in their URL, as is whether they want a stream: the endpoint puts both into the
    body, as `model` and `stream`, before it is read here. google-genai takes a line that is not
    `data:` for JSON, a comment too; a blank line it skips, as every reader of event streams does.
    """

    name = NAME
    ping = b"\r\n"
    parameter_names: Mapping[str, str] = {
        "messages": "contents",
        "tool_choice": "toolConfig.functionCallingConfig",
        "n": "generationConfig.candidateCount",
        "stop": "generationConfig.stopSequences",
        "logprobs": "generationConfig.responseLogprobs",
        "top_logprobs": "generationConfig.logprobs",
        "modalities": "generationConfig.responseModalities",
        "response_format": "generationConfig.responseSchema",
        "reasoning_effort": "generationConfig.thinkingConfig",
    }

    def inspect(self, body: Json) -> Inspection:
        """See ClientDialect."""
        return gemini_contents.inspect(body)

    def media(self, body: Json) -> list[Medium]:
        """See ClientDialect."""
        return media.in_gemini(body)

    def expand(self, body: Json, items: Mapping[str, Json], previous: Sequence[Json]) -> Json:
        """See ClientDialect. This wire refers to nothing that was kept."""
        return body

    def read_request(self, body: Json) -> GenerationRequest:
        """See ClientDialect."""
        return gemini_contents.read(body)

    def response_writer(
        self, inspection: Inspection, reply: Reply
    ) -> gemini_answers.GeminiResponseWriter:
        """See ClientDialect."""
        return gemini_answers.GeminiResponseWriter(inspection, reply)

    def stream_encoder(
        self, inspection: Inspection, reply: Reply
    ) -> gemini_answers.GeminiStreamEncoder:
        """See ClientDialect."""
        return gemini_answers.GeminiStreamEncoder(inspection, reply)

    def status_of(self, refusal: Refusal) -> int:
        """See ClientDialect."""
        return refusal.status

    def write_refusal(self, refusal: Refusal, request_id: str) -> Json:
        """See ClientDialect."""
        return gemini_answers.write_refusal(refusal, request_id)


# --- upstream side ---------------------------------------------------------------------------


class GeminiUpstream:
    """Providers that speak generateContent."""

    name = NAME
    tool_name = TOOL_NAME
    characters_per_token = 0

    def path(self, model: str, *, is_stream: bool) -> str:
        """See UpstreamDialect."""
        method = "streamGenerateContent?alt=sse" if is_stream else "generateContent"
        return f"/models/{model.removeprefix('models/')}:{method}"

    def write_request(self, request: GenerationRequest, target: Target) -> Json:
        """See UpstreamDialect."""
        return gemini_requests.write(request, target)

    def prepare_pass_through(self, body: Json, target: Target, *, is_stream: bool) -> Json:
        """See UpstreamDialect. The URL names the model, and usage is always reported."""
        return gemini_requests.clean(body)

    def pass_through(self, inspection: Inspection, reply: Reply) -> "GeminiPassThrough":
        """See UpstreamDialect."""
        return GeminiPassThrough(reply)

    def amend(self, body: Json, inspection: Inspection) -> Json:
        """See UpstreamDialect."""
        return body

    def read_usage(self, body: Json) -> Usage | None:
        """See UpstreamDialect."""
        if body.get("error") and not body.get("candidates"):
            raise UnreadableAnswer("The answer is an error.")
        return gemini_reading.UsageReader().read(body)

    def read_response(self, body: Json) -> Sequence[Event]:
        """See UpstreamDialect."""
        reader = gemini_reading.AnswerReader()
        events = reader.read(body)
        if reader.failure:
            raise UnreadableAnswer(f"The answer failed: {reader.failure}.")
        if not reader.spoken and not reader.is_blocked:
            raise UnreadableAnswer("The answer has no candidates.")
        return [*events, *reader.finish(), Ended()]

    def stream_decoder(self) -> "GeminiStreamDecoder":
        """See UpstreamDialect."""
        return GeminiStreamDecoder()

    def read_error(
        self, status: int, headers: Mapping[str, str], body: bytes, *, secrets: Sequence[str]
    ) -> UpstreamFailure:
        """See UpstreamDialect. A bad key is a 400 here, and RetryInfo stands in the body."""
        return provider_errors.read(status, headers, body, secrets=secrets)


def _read_chunk(data: str | bytes) -> Json:
    """One message's object. Raises UnreadableAnswer."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise UnreadableAnswer("A chunk is not JSON.") from error
    if not isinstance(chunk, dict):
        raise UnreadableAnswer("A chunk is not an object.")
    return chunk


class GeminiStreamDecoder:
    """Reads a stream of objects into events.

    A server that was not asked for `alt=sse`, or a proxy that drops it, answers with one JSON
    array, and errors may come as plain JSON: such a body is read when it is whole.
    """

    def __init__(self) -> None:
        self._messages = sse.Decoder(message_bytes_max=MESSAGE_BYTES_MAX)
        self._answer = gemini_reading.AnswerReader()
        self._is_plain: bool | None = None
        self._plain = b""
        self._ended = False

    def feed(self, piece: bytes) -> list[Event]:
        """See StreamDecoder. Raises UnreadableAnswer, sse.MessageTooLong."""
        if self._is_plain is None and (start := piece.lstrip()):
            self._is_plain = start[:1] in (b"[", b"{")
        if self._is_plain:
            chunks = self._feed_plain(piece)
        else:
            chunks = [
                _read_chunk(message.data)
                for message in self._messages.feed(piece)
                if message.data.strip() and not self._ended
            ]
        return [event for chunk in chunks for event in self._read(chunk)]

    def _feed_plain(self, piece: bytes) -> list[Json]:
        """The objects of a plain JSON body, once it is whole."""
        self._plain += piece
        if len(self._plain) > MESSAGE_BYTES_MAX:
            raise sse.MessageTooLong
        if not piece.rstrip().endswith((b"]", b"}")):
            return []
        try:
            body = orjson.loads(self._plain)
        except orjson.JSONDecodeError:
            return []
        self._plain = b""
        return gemini_reading.objects_of(body if isinstance(body, list) else [body])

    def _read(self, chunk: Json) -> list[Event]:
        if self._ended:
            return []
        events = self._answer.read(chunk)
        self._ended = bool(self._answer.failure)
        return events

    def close(self) -> list[Event]:
        """See StreamDecoder. Nothing but `finishReason` tells a whole answer from a cut one."""
        if self._ended:
            return []
        if self._plain or not self._answer.is_complete:
            raise TruncatedStream
        return [Ended()]


# --- forwarding ------------------------------------------------------------------------------

SPEAKS = re.compile(rb'"text"\s*:\s*"[^"]|"(?:functionCall|inlineData)"\s*:')
BOUNDARY = re.compile(rb"\n\r?\n")  # with the line end of either kind before it


class GeminiPassThrough:
    """Forwards messages as they are; the one that completes the answer is held to the end."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._messages = sse.Splitter(message_bytes_max=MESSAGE_BYTES_MAX, keeps_line_ends=True)
        self._held = b""
        self._spoken: set[int] = set()
        self._finished: set[int] = set()
        self._is_blocked = False
        self._usage_reader = gemini_reading.UsageReader()
        self.usage: Usage | None = None
        self.failure = ""
        self.model = ""
        self.relayed_pieces = 0

    def feed(self, piece: bytes) -> bytes:
        """See PassThrough. Raises sse.MessageTooLong, UnreadableAnswer."""
        if self.failure:
            return b""
        whole = self._messages.feed(piece)
        forward, start = [], 0
        for match in BOUNDARY.finditer(whole):
            forward.append(self._read_message(whole[start : match.end()]))
            start = match.end()
        return b"".join(forward)

    def _read_message(self, message: bytes) -> bytes:
        """What to forward of one message, and of those held before it."""
        if self.failure:
            return b""
        data = sse.data_of(message)
        if not data:
            return self._pass_on(message, is_data=False)
        chunk = _read_chunk(data)
        if error := chunk.get("error"):
            self._held = b""
            self.failure = (
                gemini_reading.text_of(gemini_reading.object_of(error).get("message"))
                or gemini_reading.error_code(error)
                or "error"
            )
            return b""
        self.model = self.model or gemini_reading.text_of(chunk.get("modelVersion"))
        self.usage = self._usage_reader.read(chunk) or self.usage
        self._note_ends(chunk)
        return self._pass_on(message, is_data=True)

    def _note_ends(self, chunk: Json) -> None:
        for position, candidate in enumerate(gemini_reading.objects_of(chunk.get("candidates"))):
            index = gemini_reading.count_of(candidate.get("index"))
            index = position if index is None else index
            self._spoken.add(index)
            if candidate.get("finishReason"):
                self._finished.add(index)
        if (
            gemini_reading.object_of(chunk.get("promptFeedback")).get("blockReason")
            and not self._spoken
        ):
            self._is_blocked = True

    @property
    def _is_complete(self) -> bool:
        return self._is_blocked or bool(self._spoken and self._spoken == self._finished)

    def _pass_on(self, message: bytes, *, is_data: bool) -> bytes:
        if self._is_complete:
            self._held += message
            if len(self._held) > MESSAGE_BYTES_MAX:
                raise sse.MessageTooLong
            return b""
        self.relayed_pieces += is_data and SPEAKS.search(message) is not None
        held, self._held = self._held, b""
        return held + message

    def close(self) -> bytes:
        """See PassThrough."""
        if self.failure:
            return b""
        if not self._is_complete:
            raise TruncatedStream
        return self._held

    def write_failure(self, refusal: Refusal) -> bytes:
        """See PassThrough."""
        return gemini_answers.write_failure(refusal, self._reply.seed)

    def result(self) -> Json | None:
        """See PassThrough. No client of this wire can ask for an answer again."""
        return None
