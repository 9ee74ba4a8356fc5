"""GenerateContentResponse objects, whole or streamed, read into events. Part of `gemini`. Pure.

Facts: ai.google.dev/api/generate-content and recorded traffic. What a candidate began in one object
may go on in the next, so readers keep state. Unknown parts and members are skipped.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import orjson

from billing.pricing import Usage
from gateway.dialects import gemini_signatures
from gateway.dialects.base import Json
from gateway.dialects.counting import Counts, divide
from gateway.dialects.gemini_arguments import PartialCall
from gateway.events import (
    AudioDelta,
    Carry,
    ChoiceFinished,
    CitationAdded,
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

# Every other reason is STOP; those in FAILURES end the answer without one.
FINISH_REASONS = {
    "STOP": FinishReason.STOP,
    "MAX_TOKENS": FinishReason.LENGTH,
    "CONTINUATION": FinishReason.LENGTH,
    **dict.fromkeys(
        (
            *("SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "MODEL_ARMOR"),
            *("IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "IMAGE_OTHER"),
            *("NO_IMAGE", "LANGUAGE", "ESCALATION", "PUP_LIMITED_DISABLED"),
        ),
        FinishReason.CONTENT_FILTER,
    ),
}
# The model wrote something that is no answer: its client must notice. A call of an undeclared
# function that came nevertheless is the client's to answer, as it is with other models.
FAILURES = frozenset(
    (
        *("MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "TOO_MANY_TOOL_CALLS"),
        *("MALFORMED_RESPONSE", "MISSING_THOUGHT_SIGNATURE"),
    )
)
USAGE_COUNTS = (
    "promptTokenCount",
    "toolUsePromptTokenCount",
    "cachedContentTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
)
USAGE_DETAILS = ("promptTokensDetails", "cacheTokensDetails", "candidatesTokensDetails")


def object_of(value: Any) -> Json:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def objects_of(value: Any) -> list[Json]:
    """The objects of an array; none of anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text_of(value: Any) -> str:
    """The value if it is a string, else ""."""
    return value if isinstance(value, str) else ""


def count_of(value: Any) -> int | None:
    """A count; None when there is none. True is no count."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return max(int(value), 0)


class UsageReader:
    """Usage so far. A later message may leave a count out: that is not a zero."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._is_doubtful = False

    def read(self, chunk: Json) -> Usage | None:
        """The running total after this message; None as long as nothing was counted.

        `*TokensDetails` itemise a count by modality. Video and documents cost what text does.
        """
        metadata = chunk.get("usageMetadata")
        if not isinstance(metadata, dict):
            return None
        counts = Counts()
        found = {name: counts.take(metadata, name) for name in USAGE_COUNTS}
        for name in USAGE_DETAILS:
            for item in objects_of(metadata.get(name)):
                if (modality := item.get("modality")) in ("AUDIO", "IMAGE"):
                    found[f"{name}.{modality}"] = counts.take(item, "tokenCount")
        self._counts.update({name: count for name, count in found.items() if count is not None})
        self._is_doubtful |= counts.is_doubtful
        if not self._counts and not self._is_doubtful:
            return None
        return self._divided(lambda name: self._counts.get(name, 0))

    def _divided(self, count: Callable[[str], int]) -> Usage:
        thought = count("thoughtsTokenCount")
        image, cached_image = count("promptTokensDetails.IMAGE"), count("cacheTokensDetails.IMAGE")
        return divide(
            count("promptTokenCount") + count("toolUsePromptTokenCount"),
            count("candidatesTokenCount") + thought,
            cached=count("cachedContentTokenCount"),
            audio=count("promptTokensDetails.AUDIO"),
            cached_audio=count("cacheTokensDetails.AUDIO"),
            image=max(image - cached_image, 0),
            audio_output=count("candidatesTokensDetails.AUDIO"),
            image_output=count("candidatesTokensDetails.IMAGE"),
            reasoning=thought,
            is_doubtful=self._is_doubtful,
        )


class AnswerReader:
    """Reads GenerateContentResponse objects, one or a stream of them, into events."""

    def __init__(self) -> None:
        self.response_id = ""
        self.model = ""
        self.failure = ""
        self.is_blocked = False
        self._started = False
        self._usage = UsageReader()
        self._candidates: dict[int, CandidateReader] = {}

    @property
    def spoken(self) -> bool:
        """Whether any candidate came."""
        return bool(self._candidates)

    @property
    def is_complete(self) -> bool:
        """Whether everything that began has ended."""
        readers = self._candidates.values()
        return self.is_blocked or (self.spoken and all(one.is_finished for one in readers))

    def read(self, chunk: Json) -> list[Event]:
        """The events of one object. A Failed, if any, comes last."""
        if error := chunk.get("error"):
            return [self._fail(text_of(object_of(error).get("message")), error_code(error))]
        self.response_id = self.response_id or text_of(chunk.get("responseId"))
        self.model = self.model or text_of(chunk.get("modelVersion"))
        events: list[Event] = []
        if not self._started:
            self._started = True
            events.append(Started(self.response_id, self.model))
        failures: list[Event] = []
        for position, candidate in enumerate(objects_of(chunk.get("candidates"))):
            index = count_of(candidate.get("index"))
            reader = self._reader(position if index is None else index)
            events.extend(reader.read(candidate))
            reason = text_of(candidate.get("finishReason"))
            if reason in FAILURES and not reader.has_calls:
                message = text_of(candidate.get("finishMessage")) or reason
                failures.append(self._fail(message, reason))
        events.extend(self._read_block(chunk))
        if usage := self._usage.read(chunk):
            events.append(UsageReported(usage))
        return events + failures[:1]

    def finish(self) -> list[Event]:
        """Ends what a whole answer left open."""
        return [
            event
            for reader in self._candidates.values()
            if not reader.is_finished
            for event in reader.finish("")
        ]

    def _reader(self, index: int) -> "CandidateReader":
        if index not in self._candidates:
            self._candidates[index] = CandidateReader(self, index)
        return self._candidates[index]

    def _fail(self, message: str, code: str) -> Failed:
        self.failure = message or code or "error"
        return Failed(self.failure, code)

    def _read_block(self, chunk: Json) -> list[Event]:
        """A prompt that was refused has no candidates, and a reason."""
        reason = text_of(object_of(chunk.get("promptFeedback")).get("blockReason"))
        if not reason or self.spoken or self.is_blocked:
            return []
        self.is_blocked = True
        return [
            RefusalDelta(f"The model's provider blocked this prompt ({reason})."),
            ChoiceFinished(FinishReason.CONTENT_FILTER, 0, reason),
        ]


def error_code(error: Any) -> str:
    """Google's word for an error, such as UNAVAILABLE."""
    status, code = object_of(error).get("status"), object_of(error).get("code")
    return text_of(status) or str(code or "")


class CandidateReader:
    """One candidate: what its parts say, and what must be remembered between them."""

    def __init__(self, answer: AnswerReader, index: int) -> None:
        self._answer = answer
        self._index = index
        self._call_ids: set[str] = set()
        self._calls = 0
        self._is_thinking = False
        self._partial: PartialCall | None = None
        self._texts: list[str] = []
        self._cited: set[tuple[str, int, int]] = set()
        self.is_finished = False

    @property
    def has_calls(self) -> bool:
        """Whether it called a tool."""
        return self._calls > 0

    def read(self, candidate: Json) -> list[Event]:
        """The events of one appearance of the candidate."""
        events: list[Event] = []
        for part in objects_of(object_of(candidate.get("content")).get("parts")):
            events.extend(self._read_part(part))
        if logprobs := _read_logprobs(candidate.get("logprobsResult")):
            events.append(TextDelta("", self._index, logprobs))
        events.extend(self._read_citations(candidate))
        reason = text_of(candidate.get("finishReason"))
        if reason and not self.is_finished:
            events.extend(self.finish(reason))
        return events

    def finish(self, reason: str) -> list[Event]:
        """The end of the candidate, for the provider's own reason."""
        self.is_finished = True
        events = self._end_thinking() + self._end_partial()
        if reason in FAILURES and not self.has_calls:
            return events
        finish = FINISH_REASONS.get(reason, FinishReason.STOP)
        if finish is FinishReason.STOP and self._calls:
            finish = FinishReason.TOOL_CALLS
        return [*events, ChoiceFinished(finish, self._index, reason)]

    def _read_part(self, part: Json) -> list[Event]:
        signature = text_of(part.get("thoughtSignature"))
        carry = None
        if signature and signature != gemini_signatures.NOT_GEMINIS:
            carry = Carry(gemini_signatures.GEMINI, signature, self._answer.model)
        if part.get("thought") is True:
            return self._read_thought(part, carry)
        if isinstance(part.get("functionCall"), dict):
            return self._end_thinking() + self._read_call(part["functionCall"], carry)
        events = self._read_text(part, carry) + self._read_media(part.get("inlineData"))
        return self._end_thinking() + events if events else []

    def _read_thought(self, part: Json, carry: Carry | None) -> list[Event]:
        """Thought text, which is the provider's summary of it; sketches of images are left out."""
        events: list[Event] = []
        if text := text_of(part.get("text")):
            self._is_thinking = True
            events.append(ReasoningDelta(text, self._index, is_summary=True))
        if carry:
            self._is_thinking = False
            events.append(ReasoningEnded(carry, self._index))
        return events

    def _end_thinking(self) -> list[Event]:
        if not self._is_thinking:
            return []
        self._is_thinking = False
        return [ReasoningEnded(None, self._index)]

    def _read_text(self, part: Json, carry: Carry | None) -> list[Event]:
        events: list[Event] = []
        if text := text_of(part.get("text")):
            self._texts.append(text)
            events.append(TextDelta(text, self._index))
        if carry and "text" in part:
            events.append(TextSigned(carry, self._index))
        return events

    def _read_media(self, inline: Any) -> list[Event]:
        media_type, data = (
            text_of(object_of(inline).get("mimeType")),
            text_of(object_of(inline).get("data")),
        )
        if not data:
            return []
        if media_type.startswith("image/"):
            return [ImageMade(data, media_type, self._index)]
        if media_type.startswith("audio/"):
            return [AudioDelta(data, choice=self._index)]
        return []

    # --- calls

    def _read_call(self, call: Json, carry: Carry | None) -> list[Event]:
        """A call, whole or a piece of one; a piece without a name belongs to the one before."""
        name = text_of(call.get("name"))
        pieces = objects_of(call.get("partialArgs"))
        if not (call.get("willContinue") or pieces or self._partial):
            return self._write_call(name, text_of(call.get("id")), call.get("args"), carry)
        events: list[Event] = []
        if name:
            events = self._end_partial()
            self._partial = PartialCall(name, text_of(call.get("id")), carry)
        if self._partial:
            for piece in pieces:
                self._partial.add(piece)
        return events if call.get("willContinue") else events + self._end_partial()

    def _end_partial(self) -> list[Event]:
        call, self._partial = self._partial, None
        if call is None:
            return []
        return self._write_call(call.name, call.call_id, call.arguments, call.carry)

    def _write_call(
        self, name: str, given_id: str, arguments: Any, carry: Carry | None
    ) -> list[Event]:
        if not name:
            return []
        pieces = orjson.dumps(object_of(arguments)).decode()
        index, self._calls = self._calls, self._calls + 1
        call_id = given_id
        if not call_id or call_id in self._call_ids:
            call_id = self._make_id(index, f"{name}{pieces}")
        self._call_ids.add(call_id)
        return [
            ToolCallStarted(index, call_id, name, self._index, carry),
            ToolCallDelta(index, pieces, self._index),
        ]

    def _make_id(self, index: int, content: str) -> str:
        """An id for a call without one: the same for the same answer, unlike those of others."""
        seed = self._answer.response_id or content
        digest = hashlib.sha256(f"{seed}\n{self._index}\n{index}".encode()).hexdigest()
        return f"call_{digest[:24]}"

    # --- sources

    def _read_citations(self, candidate: Json) -> list[Event]:
        grounding = object_of(candidate.get("groundingMetadata"))
        sources = [
            (text_of(web.get("uri")), text_of(web.get("title")))
            for web in (
                object_of(chunk.get("web") or chunk.get("retrievedContext") or chunk.get("maps"))
                for chunk in objects_of(grounding.get("groundingChunks"))
            )
        ]
        supports = objects_of(grounding.get("groundingSupports"))
        events: list[Event] = []
        for support in supports:
            segment = object_of(support.get("segment"))
            for number in support.get("groundingChunkIndices") or ():
                if isinstance(number, int) and 0 <= number < len(sources):
                    events.extend(self._cite(sources[number], segment))
        if not supports:
            for source in sources:
                events.extend(self._cite(source, {}))
        return events

    def _cite(self, source: tuple[str, str], segment: Json) -> list[Event]:
        """One source of one segment, once: later messages repeat them."""
        url, title = source
        start, end = self._locate(segment)
        if not url or (url, start, end) in self._cited:
            return []
        self._cited.add((url, start, end))
        return [CitationAdded(url, title, start, end, text_of(segment.get("text")), self._index)]

    def _locate(self, segment: Json) -> tuple[int, int]:
        """The segment's place in characters, (-1, -1) if unknown; the wire counts UTF-8 bytes."""
        end = count_of(segment.get("endIndex"))
        if end is None:
            return -1, -1
        whole = "".join(self._texts)
        said = text_of(segment.get("text"))
        raw = whole.encode()
        start = min(count_of(segment.get("startIndex")) or 0, len(raw))
        before = len(raw[:start].decode(errors="ignore"))
        length = len(raw[start:end].decode(errors="ignore"))
        if said and whole[before : before + length] != said:
            before, length = whole.find(said), len(said)
        return (before, before + length) if before >= 0 else (-1, -1)


def _read_logprobs(result: Any) -> tuple[Json, ...]:
    """`logprobsResult` as OpenAI's list of tokens."""
    tops = objects_of(object_of(result).get("topCandidates"))
    read = []
    for number, token in enumerate(objects_of(object_of(result).get("chosenCandidates"))):
        top = objects_of(tops[number].get("candidates")) if number < len(tops) else []
        read.append({**_read_token(token), "top_logprobs": [_read_token(one) for one in top]})
    return tuple(read)


def _read_token(token: Json) -> Json:
    text = text_of(token.get("token"))
    return {
        "token": text,
        "logprob": token.get("logProbability", 0.0),
        "bytes": list(text.encode()),
    }
