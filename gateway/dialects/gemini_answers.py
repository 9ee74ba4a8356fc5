"""GenerateContentResponse objects, whole and as a stream, written for clients. Part of `gemini`.

Facts: ai.google.dev/api/generate-content and google-genai's types and chat helper, which drops an
answer from its history when a part of it is empty altogether. A call is written whole, in one part.
Thoughts are shown to those who asked for them (`includeThoughts`); what a provider wants back of
them travels as a signature either way. Pure.
"""

from typing import Any

import orjson

from billing.pricing import Usage
from gateway import sse
from gateway.dialects import gemini_contents, gemini_signatures
from gateway.dialects.base import Inspection, Json, Reply, UnreadableAnswer
from gateway.events import (
    AudioDelta,
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
    TextSigned,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.generation import Reasoning
from gateway.refusals import Refusal

FINISH_REASONS = {
    FinishReason.STOP: "STOP",
    FinishReason.TOOL_CALLS: "STOP",
    FinishReason.LENGTH: "MAX_TOKENS",
    FinishReason.CONTENT_FILTER: "SAFETY",
}
# google.rpc.Code names by HTTP status; others fall to the class of their status.
STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
SPOKEN_MEDIA_TYPE = "audio/pcm"


def write_usage(usage: Usage) -> Json:
    """Disjoint buckets as `usageMetadata`: thinking is counted apart from what was written.

    What was heard, seen, said or drawn is itemised by modality, where there is any.
    """
    written = usage.whole_output - usage.reasoning
    metadata: Json = {
        "promptTokenCount": usage.whole_input,
        "cachedContentTokenCount": usage.cache_read + usage.audio_cache_read,
        "candidatesTokenCount": written,
        "thoughtsTokenCount": usage.reasoning,
        "totalTokenCount": usage.total,
    }
    heard = usage.audio_input + usage.audio_cache_read
    details = {
        "promptTokensDetails": _modalities(usage.whole_input, heard, usage.image_input),
        "cacheTokensDetails": _modalities(
            usage.cache_read + usage.audio_cache_read, usage.audio_cache_read, 0
        ),
        "candidatesTokensDetails": _modalities(written, usage.audio_output, usage.image_output),
    }
    return metadata | {name: items for name, items in details.items() if items}


def _modalities(whole: int, audio: int, image: int) -> list[Json]:
    """Tokens by modality; none where everything is text."""
    if not audio and not image:
        return []
    counts = {"TEXT": whole - audio - image, "AUDIO": audio, "IMAGE": image}
    return [{"modality": name, "tokenCount": count} for name, count in counts.items() if count]


def write_refusal(refusal: Refusal, request_id: str) -> Json:
    """Google's error object; `details` say machine-readably what OpenAI says in `code`."""
    status = STATUS_NAMES.get(refusal.status) or (
        "INVALID_ARGUMENT" if refusal.status < 500 else "UNAVAILABLE"
    )
    metadata = {"param": refusal.param} if refusal.param else {}
    reason = (refusal.code or refusal.error_type).upper()
    details: list[Json] = [
        {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": reason,
            "domain": "gateway",
            "metadata": {**metadata, **{key: str(value) for key, value in refusal.extra.items()}},
        },
        {"@type": "type.googleapis.com/google.rpc.RequestInfo", "requestId": request_id},
    ]
    if seconds := refusal.headers.get("retry-after"):
        details.append(
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{seconds}s"}
        )
    error = {"code": refusal.status, "message": refusal.message, "status": status}
    return {"error": {**error, "details": details}}


def write_failure(refusal: Refusal, request_id: str) -> bytes:
    """An error inside a stream: google-genai raises on a message that begins with `error`."""
    return _encode(write_refusal(refusal, request_id))


def _encode(chunk: Json) -> bytes:
    """One message, with the line ends of this wire."""
    return sse.encode(orjson.dumps(chunk)).replace(b"\n", b"\r\n")


class CandidateWriter:
    """The parts of one candidate, as its events come."""

    def __init__(self, *, wants_thoughts: bool) -> None:
        self._wants_thoughts = wants_thoughts
        self._thoughts: list[str] = []
        self._is_summary = False
        self._before: list[Reasoning] = []
        self._calls: dict[int, tuple[ToolCallStarted, list[str]]] = {}
        self._texts: list[str] = []
        self._citations: list[CitationAdded] = []
        self.reason = FinishReason.STOP

    def write(self, event: Event) -> list[Json]:
        """The parts that this event completes."""
        match event:
            case ToolCallStarted(index=index):
                self._calls[index] = (event, [])
                return []
            case ToolCallDelta(index=index, json_piece=piece):
                if index in self._calls:  # what follows whole arguments is nothing
                    self._calls[index][1].append(piece)
                return []
            case CitationAdded():
                self._citations.append(event)
                return []
            case ChoiceFinished(reason=reason):
                self.reason = reason
                return self._write_calls() + self._write_rest()
            case _:
                return self._write_calls(only_whole=True) + self._write_content(event)

    def _write_content(self, event: Event) -> list[Json]:
        match event:
            case TextDelta(text=text) if text:
                self._texts.append(text)
                return [self._sign({"text": text}, None)]
            case RefusalDelta(text=text) if text:
                return [self._sign({"text": text}, None)]
            case TextSigned(carry=carry):
                return [self._sign({"text": ""}, carry)]
            case ReasoningDelta(text=text, is_summary=is_summary):
                return self._write_thought(text, is_summary=is_summary)
            case ReasoningEnded(carry=carry):
                return self._end_thought(carry)
            case ImageMade(data=data, media_type=media_type):
                return [self._sign({"inlineData": {"mimeType": media_type, "data": data}}, None)]
            case AudioDelta():
                return _write_audio(event)
            case _:
                return []

    def _sign(self, part: Json, own: Carry | None) -> Json:
        """The part with what must come back: reasoning before it, and its own state."""
        if signature := gemini_signatures.pack(self._before, own):
            part["thoughtSignature"] = signature
        self._before = []
        return part

    def _write_thought(self, text: str, *, is_summary: bool) -> list[Json]:
        self._thoughts.append(text)
        self._is_summary = is_summary
        return [{"text": text, "thought": True}] if self._wants_thoughts and text else []

    def _end_thought(self, carry: Carry | None) -> list[Json]:
        """Thoughts without state are not wanted back; the others are shown, or sent along."""
        text, self._thoughts = "".join(self._thoughts), []
        if carry is None:
            return []
        if self._wants_thoughts:
            signature = gemini_signatures.pack((), carry)
            return [{"text": "", "thought": True, "thoughtSignature": signature}]
        self._before.append(Reasoning(text, carry, is_summary=self._is_summary))
        return []

    def _write_calls(self, *, only_whole: bool = False) -> list[Json]:
        """The calls collected so far; the first one signed, as Gemini wants it back.

        `only_whole` leaves those that may still grow: some servers say something in between.
        """
        calls, self._calls = self._calls, {}
        parts: list[Json] = []
        for index, (call, pieces) in sorted(calls.items()):
            if only_whole and not _is_object("".join(pieces)):
                self._calls[index] = (call, pieces)
                continue
            arguments = self._read_arguments("".join(pieces))
            if arguments is not None:
                function = {"name": call.name, "args": arguments, "id": call.call_id}
                parts.append(self._sign({"functionCall": function}, call.carry))
        if parts:
            parts[0].setdefault("thoughtSignature", gemini_signatures.NOT_GEMINIS)
        return parts

    def _read_arguments(self, text: str) -> Json | None:
        """A call's arguments; None for a call that was cut where the answer became too long.

        Raises UnreadableAnswer: this wire cannot say what is no object.
        """
        try:
            arguments = orjson.loads(text or "{}")
        except orjson.JSONDecodeError:
            arguments = None
        if isinstance(arguments, dict):
            return arguments
        if self.reason is FinishReason.LENGTH:
            return None
        raise UnreadableAnswer("The arguments of a call are no JSON object.")

    def _write_rest(self) -> list[Json]:
        """What reasoning left to carry when no part came after it."""
        return [self._sign({"text": ""}, None)] if self._before else []

    def ending(self) -> Json:
        """The members of the candidate that come with its end."""
        ending: Json = {"finishReason": FINISH_REASONS[self.reason]}
        if self._citations:
            ending["groundingMetadata"] = _write_grounding(self._citations, "".join(self._texts))
        return ending


def _is_object(text: str) -> bool:
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def _write_audio(event: AudioDelta) -> list[Json]:
    parts: list[Json] = []
    if event.transcript:
        parts.append({"text": event.transcript})
    if event.data:
        parts.append({"inlineData": {"mimeType": SPOKEN_MEDIA_TYPE, "data": event.data}})
    return parts


def _write_grounding(citations: list[CitationAdded], text: str) -> Json:
    """Sources and what they support; this wire counts bytes of UTF-8."""
    sources = list(dict.fromkeys((one.url, one.title) for one in citations))
    supports = []
    for one in citations:
        if one.start < 0 or one.end < 0:
            continue
        segment = {
            "startIndex": len(text[: one.start].encode()),
            "endIndex": len(text[: one.end].encode()),
            "text": text[one.start : one.end],
        }
        indices = [sources.index((one.url, one.title))]
        supports.append({"segment": segment, "groundingChunkIndices": indices})
    return {
        "groundingChunks": [{"web": {"uri": url, "title": title}} for url, title in sources],
        "groundingSupports": supports,
    }


def _write_logprobs(logprobs: tuple[Json, ...]) -> Json:
    """OpenAI's list of tokens as `logprobsResult`."""
    return {
        "chosenCandidates": [_write_token(token) for token in logprobs],
        "topCandidates": [
            {"candidates": [_write_token(top) for top in token.get("top_logprobs") or ()]}
            for token in logprobs
        ],
    }


def _write_token(token: Json) -> Json:
    return {"token": token.get("token", ""), "logProbability": token.get("logprob", 0.0)}


class GeminiResponseWriter:
    """Collects the events of a whole answer into one object."""

    def __init__(self, inspection: Inspection, reply: Reply) -> None:
        self._wants_thoughts = gemini_contents.wants_thoughts(reply.body)
        self._model = inspection.model
        self._seed = reply.seed
        self._usage: Usage | None = None
        self._writers: dict[int, CandidateWriter] = {}
        self._parts: dict[int, list[Json]] = {}
        self._logprobs: dict[int, tuple[Json, ...]] = {}

    def add(self, event: Event) -> None:
        """See ResponseWriter."""
        match event:
            case Started(model=model):
                self._model = model or self._model
            case UsageReported(usage=usage):
                self._usage = usage
            case Ended() | Failed():
                pass
            case _:
                if isinstance(event, TextDelta) and event.logprobs:
                    known = self._logprobs.get(event.choice, ())
                    self._logprobs[event.choice] = (*known, *event.logprobs)
                writer = self._writer(event.choice)
                for part in writer.write(event):
                    _join(self._parts[event.choice], part)

    def _writer(self, index: int) -> CandidateWriter:
        if index not in self._writers:
            self._writers[index] = CandidateWriter(wants_thoughts=self._wants_thoughts)
            self._parts[index] = []
        return self._writers[index]

    def finish(self) -> Json:
        """See ResponseWriter."""
        self._writer(0)
        answer: Json = {
            "candidates": [self._candidate(index) for index in sorted(self._writers)],
            "modelVersion": self._model,
            "responseId": self._seed,
        }
        if self._usage:  # not reported is not zero
            answer["usageMetadata"] = write_usage(self._usage)
        return answer

    def _candidate(self, index: int) -> Json:
        parts = self._parts[index] or [{"text": ""}]
        candidate = {
            "content": {"parts": parts, "role": "model"},
            **self._writers[index].ending(),
            "index": index,
        }
        if index in self._logprobs:
            candidate["logprobsResult"] = _write_logprobs(self._logprobs[index])
        return candidate


def _join(parts: list[Json], part: Json) -> None:
    """Add a part; text goes on in the one before, unless that is signed or of another kind."""
    last = parts[-1] if parts else {}
    is_text = "text" in last and "text" in part and last.get("thought") == part.get("thought")
    if is_text and "thoughtSignature" not in last:
        signed = {name: part[name] for name in ("thoughtSignature",) if name in part}
        parts[-1] = {**last, "text": last["text"] + part["text"], **signed}
    else:
        parts.append(part)


class GeminiStreamEncoder:
    """Writes messages with new parts; the end of every candidate waits for the call's end."""

    def __init__(self, inspection: Inspection, reply: Reply) -> None:
        self._wants_thoughts = gemini_contents.wants_thoughts(reply.body)
        self._seed = reply.seed
        self._tail: Json = {"modelVersion": inspection.model, "responseId": reply.seed}
        self._writers: dict[int, CandidateWriter] = {}

    def write(self, event: Event) -> bytes:
        """See StreamEncoder. Raises UnreadableAnswer for a call whose arguments are no object."""
        match event:
            case Started(model=model):
                self._tail["modelVersion"] = model or self._tail["modelVersion"]
                return b""
            case UsageReported() | Ended() | Failed():
                return b""
            case _:
                return self._write_parts(event, event.choice)

    def _write_parts(self, event: Event, index: int) -> bytes:
        if index not in self._writers:
            self._writers[index] = CandidateWriter(wants_thoughts=self._wants_thoughts)
        parts = self._writers[index].write(event)
        candidate: Json = {}
        if parts:
            candidate["content"] = {"parts": parts, "role": "model"}
        if isinstance(event, TextDelta) and event.logprobs:
            candidate["logprobsResult"] = _write_logprobs(event.logprobs)
        if not candidate:
            return b""
        return _encode({"candidates": [{**candidate, "index": index}], **self._tail})

    def write_end(self, usage: Usage) -> bytes:
        """See StreamEncoder. The message that ends an answer of this wire carries its usage."""
        if not self._writers:
            self._writers[0] = CandidateWriter(wants_thoughts=self._wants_thoughts)
        candidates: list[Any] = [
            {
                "content": {"parts": [{"text": ""}], "role": "model"},
                **writer.ending(),
                "index": index,
            }
            for index, writer in sorted(self._writers.items())
        ]
        ending = {"candidates": candidates, "usageMetadata": write_usage(usage), **self._tail}
        return _encode(ending)

    def write_failure(self, refusal: Refusal) -> bytes:
        """See StreamEncoder."""
        return write_failure(refusal, self._seed)

    def result(self) -> Json | None:
        """See StreamEncoder. No client of this wire can ask for an answer again."""
        return None
