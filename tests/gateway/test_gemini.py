"""Gemini's wire over every recording of it: however the bytes arrive, and nothing lost."""

import json
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import orjson
import pytest
from google.genai.types import GenerateContentResponse
from hypothesis import given
from hypothesis import strategies as st

from billing.pricing import Usage
from gateway import refusals, sse
from gateway.dialects import gemini
from gateway.dialects.base import Inspection, Reply, TruncatedStream, UnreadableAnswer
from gateway.dialects.gemini_answers import write_usage
from gateway.dialects.gemini_signatures import NOT_GEMINIS
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
from tests.recordings import Recording, of_folder

CLIENT = gemini.GeminiClient()
UPSTREAM = gemini.GeminiUpstream()
SEED = "0123456789abcdef" * 2
SHOWS_THOUGHTS = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
REPLY = Reply(SEED, 7, SHOWS_THOUGHTS)
INSPECTION = Inspection("asked-for", True, None, 1, True)
RECORDINGS = of_folder("gemini")
UNDECLARED = "UNEXPECTED_TOOL_CALL"  # with the call of a function that nobody declared
BLOCKED = {
    "gemini/errors/gemini-prompt-blocked-stream",
    "gemini/max-tokens-stop-and-safety/pyd__google_model_armor_prompt_template_text_gets_blocked.1",
}


def is_stream(recording: Recording) -> bool:
    return "response_text" in recording.content


def is_error(recording: Recording) -> bool:
    return "error" in (recording.content.get("response") or {})


STREAMS = [one for one in RECORDINGS if is_stream(one)]
ANSWERS = [one for one in RECORDINGS if not is_stream(one) and not is_error(one)]


def each(recordings: Iterable[Recording]) -> Any:
    return pytest.mark.parametrize("recording", [pytest.param(r, id=r.name) for r in recordings])


def merge(events: Iterable[Event]) -> list[Event]:
    """Adjacent deltas of the same thing joined, and only the last usage kept, at the end."""
    merged: list[Event] = []
    usage: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        match last, event:
            case _, UsageReported():
                usage = [event]
            case TextDelta(), TextDelta() if last.choice == event.choice:
                logprobs = (*last.logprobs, *event.logprobs)
                merged[-1] = replace(last, text=last.text + event.text, logprobs=logprobs)
            case ReasoningDelta(), ReasoningDelta() if last.choice == event.choice:
                merged[-1] = replace(last, text=last.text + event.text)
            case _:
                merged.append(event)
    return merged + usage


def decode(pieces: Iterable[bytes]) -> list[Event]:
    decoder = UPSTREAM.stream_decoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return merge([*events, *decoder.close()])


def forward(pieces: Iterable[bytes]) -> tuple[gemini.GeminiPassThrough, bytes, bytes]:
    reader = UPSTREAM.pass_through(INSPECTION, REPLY)
    forwarded = b"".join([reader.feed(piece) for piece in pieces])
    return reader, forwarded, reader.close()


def single_bytes(stream: bytes) -> Iterator[bytes]:
    return (stream[at : at + 1] for at in range(len(stream)))


def with_crlf(stream: bytes) -> bytes:
    return stream.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def messages_of(stream: bytes) -> list[bytes]:
    blocks = stream.replace(b"\r\n", b"\n").split(b"\n\n")
    return [block + b"\n\n" for block in blocks if block.strip()]


def objects_of(stream: bytes) -> list[dict[str, Any]]:
    return [json.loads(message.data) for message in sse.Decoder().feed(stream)]


def write_stream(events: Iterable[Event], reply: Reply = REPLY) -> bytes:
    """What a client gets at our hands."""
    encoder = CLIENT.stream_encoder(INSPECTION, reply)
    events = list(events)
    written = b"".join(encoder.write(event) for event in events)
    if any(isinstance(event, Failed) for event in events):
        return written + encoder.write_failure(refusals.upstream_failed(retryable=False))
    usages = [event.usage for event in events if isinstance(event, UsageReported)]
    assert encoder.result() is None
    return written + encoder.write_end(usages[-1])


def write_answer(events: Iterable[Event], reply: Reply = REPLY) -> dict[str, Any]:
    writer = CLIENT.response_writer(INSPECTION, reply)
    for event in events:
        writer.add(event)
    return writer.finish()


def content_of(events: Iterable[Event]) -> list[Event]:
    """What was said, without ids, the provider's own words and places of signatures."""
    said: list[Event] = []
    for event in merge(events):
        match event:
            case Started() | ReasoningEnded(carry=None) | Ended():
                pass
            case ToolCallStarted():
                said.append(replace(event, carry=_unstamped(event.carry)))
            case TextSigned() | ReasoningEnded():
                said.append(replace(event, carry=_unstamped(event.carry)))
            case ChoiceFinished():
                said.append(replace(event, native=""))
            case RefusalDelta(text=text, choice=choice):
                said.append(TextDelta(text, choice))
            case _:
                said.append(event)
    return said


def _unstamped(carry: Carry | None) -> Carry | None:
    return replace(carry, model="") if carry else None


# --- the collection --------------------------------------------------------------------------


def test_every_recording_is_read_by_a_test() -> None:
    assert len(STREAMS) > 15
    assert len(ANSWERS) > 35
    errors = [one for one in RECORDINGS if is_error(one)]
    assert len(STREAMS) + len(ANSWERS) + len(errors) == len(RECORDINGS)
    for one in errors:
        body = orjson.dumps(one.content["response"])
        failure = UPSTREAM.read_error(one.content["status"], {}, body, secrets=[])
        assert failure.refusal.status == 400


# --- streams ---------------------------------------------------------------------------------


@each(STREAMS)
def test_a_stream_decodes_the_same_byte_by_byte_and_with_any_line_ends(
    recording: Recording,
) -> None:
    whole = decode([recording.stream])
    assert decode(single_bytes(recording.stream)) == whole
    crlf = with_crlf(recording.stream)
    assert decode([crlf]) == whole
    assert decode(single_bytes(crlf)) == whole


@each(STREAMS)
def test_a_message_cut_anywhere_gives_the_same_events_and_bytes(recording: Recording) -> None:
    decoder, reader = UPSTREAM.stream_decoder(), UPSTREAM.pass_through(INSPECTION, REPLY)
    for message in map(with_crlf, messages_of(recording.stream)):
        before = pickle.dumps((decoder, reader))
        events, forwarded = decoder.feed(message), reader.feed(message)
        step = 1 if len(message) < 1000 else 7
        for at in range(len(message) - 1, 0, -step):
            cut, cut_reader = pickle.loads(before)
            assert cut.feed(message[:at]) + cut.feed(message[at:]) == events, at
            pieces = cut_reader.feed(message[:at]) + cut_reader.feed(message[at:])
            assert pieces == forwarded, at
            assert cut_reader.usage == reader.usage


@each(STREAMS)
def test_a_stream_as_one_json_array_says_the_same(recording: Recording) -> None:
    body = json.dumps([json.loads(m[6:]) for m in messages_of(recording.stream)], indent=1)
    assert decode([body.encode()]) == decode([recording.stream])
    assert decode(single_bytes(body.encode())) == decode([recording.stream])


@each(STREAMS)
def test_a_stream_cut_before_its_end_is_noticed(recording: Recording) -> None:
    decoder, reader = UPSTREAM.stream_decoder(), UPSTREAM.pass_through(INSPECTION, REPLY)
    for message in messages_of(recording.stream):
        for part in (message[:-1], message[-1:]):
            with pytest.raises(TruncatedStream):
                decoder.close()
            with pytest.raises(TruncatedStream):
                reader.close()
            decoder.feed(part)
            reader.feed(part)
    assert decoder.close() == [Ended()]
    assert reader.close()


@each(STREAMS)
def test_a_stream_is_forwarded_unchanged_and_its_end_held_back(recording: Recording) -> None:
    stream = with_crlf(b"".join(messages_of(recording.stream)))
    for pieces in ([stream], single_bytes(stream)):
        reader, forwarded, held = forward(pieces)
        assert forwarded + held == stream
        assert b'"finishReason"' not in forwarded
        assert b'"finishReason"' in held or b'"blockReason"' in held
        assert reader.relayed_pieces <= len(messages_of(forwarded))
        assert reader.result() is None


@each(STREAMS)
def test_forwarding_learns_what_decoding_learns(recording: Recording) -> None:
    events = decode([recording.stream])
    reader, _, _ = forward([recording.stream])
    assert [UsageReported(reader.usage)] == [e for e in events if isinstance(e, UsageReported)]
    assert [reader.model] == [event.model for event in events if isinstance(event, Started)]
    assert reader.failure == ""


@each(STREAMS)
def test_a_streams_events_are_in_order_and_end(recording: Recording) -> None:
    events = decode([recording.stream])
    assert isinstance(events[0], Started)
    assert isinstance(events[-2], Ended)
    finished = [event for event in events if isinstance(event, ChoiceFinished)]
    assert len(finished) == 1
    has_calls = any(isinstance(event, ToolCallStarted) for event in events)
    assert (finished[0].reason is FinishReason.TOOL_CALLS) == has_calls
    ids = [event.call_id for event in events if isinstance(event, ToolCallStarted)]
    assert len(ids) == len(set(ids))
    assert all(ids)
    for event in events:
        if isinstance(event, ToolCallDelta):
            assert isinstance(json.loads(event.json_piece), dict)


@each(STREAMS)
def test_a_stream_written_and_read_again_says_the_same(recording: Recording) -> None:
    events = decode([recording.stream])
    again = decode([write_stream(events)])
    assert content_of(again) == content_of(events)


@each(STREAMS)
def test_a_stream_and_a_whole_answer_of_the_same_events_say_the_same(recording: Recording) -> None:
    events = decode([recording.stream])
    whole = UPSTREAM.read_response(write_answer(events))
    assert content_of(whole) == content_of(decode([write_stream(events)]))


@each(STREAMS)
def test_every_message_written_is_one_the_sdk_reads(recording: Recording) -> None:
    objects = objects_of(write_stream(decode([recording.stream])))
    read = [GenerateContentResponse.model_validate(one) for one in objects]
    assert {one.response_id for one in read} == {SEED}
    assert [bool(one.candidates[0].finish_reason) for one in read] == [False] * (len(read) - 1) + [
        True
    ]
    assert all(one.usage_metadata is None for one in read[:-1])
    assert read[-1].usage_metadata is not None


@given(st.data())
def test_any_stream_in_any_pieces_decodes_and_forwards_the_same(data: st.DataObject) -> None:
    stream = with_crlf(data.draw(st.sampled_from(STREAMS)).stream)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12))
    pieces = [stream[start:end] for start, end in pairwise([0, *sorted(cuts), len(stream)])]
    assert decode(pieces) == decode([stream])
    assert forward(pieces)[1:] == forward([stream])[1:]


# --- whole answers ---------------------------------------------------------------------------


@each(ANSWERS)
def test_a_whole_answer_written_again_keeps_what_it_says(recording: Recording) -> None:
    body = recording.answer
    events = UPSTREAM.read_response(body)
    written = write_answer(events)
    GenerateContentResponse.model_validate(written)
    assert content_of(UPSTREAM.read_response(written)) == content_of(events)
    if recording.name not in BLOCKED:
        theirs, ours = body["candidates"][0], written["candidates"][0]
        assert ours["finishReason"] == theirs["finishReason"].replace(UNDECLARED, "STOP")
        parts = theirs["content"].get("parts", [])
        assert text_of(ours["content"]["parts"]) == text_of(parts)
        assert signatures_of(ours["content"]["parts"]) == signatures_of(parts)
    assert written["modelVersion"] == body["modelVersion"]


def text_of(parts: list[dict[str, Any]]) -> str:
    return "".join(part.get("text", "") for part in parts if not part.get("thought"))


def signatures_of(parts: list[dict[str, Any]]) -> list[str]:
    """A call without one is written as another provider's, which is none."""
    found = [part["thoughtSignature"] for part in parts if "thoughtSignature" in part]
    return [signature for signature in found if signature != NOT_GEMINIS]


@each([one for one in ANSWERS if one.name not in BLOCKED])
def test_a_whole_answers_usage_adds_up_to_the_providers_total(recording: Recording) -> None:
    usage = UPSTREAM.read_usage(recording.answer)
    assert usage is not None
    theirs = recording.answer["usageMetadata"]
    assert usage.total == theirs["totalTokenCount"]
    assert usage.cache_read == theirs.get("cachedContentTokenCount", 0)
    assert usage.reasoning == theirs.get("thoughtsTokenCount", 0)
    assert UPSTREAM.read_usage({"usageMetadata": write_usage(usage)}) == usage


@each([one for one in RECORDINGS if one.name in BLOCKED])
def test_a_blocked_prompt_is_a_refusal_that_was_filtered(recording: Recording) -> None:
    if is_stream(recording):
        events = decode([recording.stream])
    else:
        events = list(UPSTREAM.read_response(recording.answer))
    refusal, finished = [e for e in events if isinstance(e, RefusalDelta | ChoiceFinished)]
    assert isinstance(refusal, RefusalDelta)
    assert finished.native in refusal.text
    assert finished.reason is FinishReason.CONTENT_FILTER


# --- cases the recordings lack ---------------------------------------------------------------


def message(**members: Any) -> bytes:
    return b"data: " + orjson.dumps(members) + b"\r\n\r\n"


def candidate(*parts: dict[str, Any], **members: Any) -> dict[str, Any]:
    return {"content": {"parts": list(parts), "role": "model"}, **members}


def test_parallel_calls_of_one_function_get_ids_of_their_own_that_never_change() -> None:
    call = {"functionCall": {"name": "add", "args": {"a": 1}}}
    body = {"candidates": [candidate(call, call, finishReason="STOP")], "responseId": "r1"}
    first, second = [
        event for event in UPSTREAM.read_response(body) if isinstance(event, ToolCallStarted)
    ]
    assert (first.index, second.index) == (0, 1)
    assert first.call_id != second.call_id
    streamed = decode([message(**body)])
    assert [event for event in streamed if isinstance(event, ToolCallStarted)] == [first, second]
    other = UPSTREAM.read_response({**body, "responseId": "r2"})
    assert first.call_id not in {e.call_id for e in other if isinstance(e, ToolCallStarted)}


def test_a_call_keeps_the_id_its_provider_gave_unless_it_gave_it_twice() -> None:
    call = {"functionCall": {"name": "add", "id": "theirs"}}
    body = {"candidates": [candidate(call, call, finishReason="STOP")], "responseId": "r1"}
    first, second = [e for e in UPSTREAM.read_response(body) if isinstance(e, ToolCallStarted)]
    assert first.call_id == "theirs"
    assert second.call_id.startswith("call_")


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("STOP", FinishReason.STOP),
        ("MAX_TOKENS", FinishReason.LENGTH),
        ("SAFETY", FinishReason.CONTENT_FILTER),
        ("MODEL_ARMOR", FinishReason.CONTENT_FILTER),
        ("NO_IMAGE", FinishReason.CONTENT_FILTER),
        ("A_REASON_OF_TOMORROW", FinishReason.STOP),
    ],
)
def test_reasons_to_stop(native: str, reason: FinishReason) -> None:
    body = {"candidates": [candidate({"text": "x"}, finishReason=native)]}
    assert ChoiceFinished(reason, 0, native) in UPSTREAM.read_response(body)


def test_being_cut_or_filtered_says_more_than_having_called_a_tool() -> None:
    call = {"functionCall": {"name": "add", "args": {}}}
    body = {"candidates": [candidate(call, finishReason="MAX_TOKENS")]}
    assert ChoiceFinished(FinishReason.LENGTH, 0, "MAX_TOKENS") in UPSTREAM.read_response(body)


@pytest.mark.parametrize("reason", sorted(["MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL"]))
def test_a_malformed_call_fails_the_answer_and_is_still_counted(reason: str) -> None:
    body = {
        "candidates": [{"finishReason": reason, "finishMessage": "Malformed: print(add(1)"}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 4},
    }
    events = decode([message(**body)])
    assert Failed("Malformed: print(add(1)", reason) in events
    usage = UPSTREAM.read_usage(body)
    assert UsageReported(usage) in events
    assert usage.output == 4
    with pytest.raises(UnreadableAnswer):
        UPSTREAM.read_response(body)


def test_a_call_of_an_undeclared_function_is_the_clients_to_answer() -> None:
    call = {"functionCall": {"name": "add", "args": {}}}
    body = {"candidates": [candidate(call, finishReason=UNDECLARED)]}
    assert ChoiceFinished(FinishReason.TOOL_CALLS, 0, UNDECLARED) in UPSTREAM.read_response(body)


def test_an_error_inside_the_stream_ends_it() -> None:
    start = message(candidates=[candidate({"text": "Hel"})], responseId="r", modelVersion="m")
    error = message(error={"code": 503, "message": "Overloaded.", "status": "UNAVAILABLE"})
    after = message(candidates=[candidate({"text": "lo"}, finishReason="STOP")])
    events = decode([start + error + after])
    assert events == [Started("r", "m"), TextDelta("Hel"), Failed("Overloaded.", "UNAVAILABLE")]
    reader, forwarded, held = forward([start, error, after])
    assert (forwarded, held) == (start, b"")
    assert reader.failure == "Overloaded."


def test_a_plain_json_error_in_place_of_a_stream_is_read() -> None:
    body = json.dumps([{"error": {"code": 500, "message": "No.", "status": "INTERNAL"}}], indent=2)
    assert decode(single_bytes(body.encode())) == [Failed("No.", "INTERNAL")]


@pytest.mark.parametrize("raw", [b"data: {\r\n\r\n", b"data: [1]\r\n\r\n", b"data: x\r\n\r\n"])
def test_garbage_is_no_answer(raw: bytes) -> None:
    with pytest.raises(UnreadableAnswer):
        UPSTREAM.stream_decoder().feed(raw)
    with pytest.raises(UnreadableAnswer):
        UPSTREAM.pass_through(INSPECTION, REPLY).feed(raw)


@pytest.mark.parametrize("body", [{}, {"error": {"code": 500}}, {"candidates": []}])
def test_an_answer_without_candidates_is_none(body: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer):
        UPSTREAM.read_response(body)


def test_a_message_without_end_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gemini, "MESSAGE_BYTES_MAX", 100)
    for start in (b"data: ", b"["):
        with pytest.raises(sse.MessageTooLong):
            UPSTREAM.stream_decoder().feed(start + b"x" * 200)
    with pytest.raises(sse.MessageTooLong):
        UPSTREAM.pass_through(INSPECTION, REPLY).feed(b"data: " + b"x" * 200)


def test_comments_are_forwarded_and_mean_nothing() -> None:
    answer = message(candidates=[candidate({"text": "x"}, finishReason="STOP")])
    stream = b": ping\r\n\r\n" + answer + b": ping\r\n\r\n"
    reader, forwarded, held = forward(single_bytes(stream))
    assert forwarded == b": ping\r\n\r\n"
    assert forwarded + held == stream
    assert reader.relayed_pieces == 0
    assert decode([stream])[1] == TextDelta("x")


def test_a_candidate_that_ends_early_does_not_end_the_others() -> None:
    def of(index: int, **members: Any) -> bytes:
        return message(candidates=[candidate({"text": "x"}, index=index, **members)])

    first = of(0, finishReason="STOP") + of(1)
    stream = first + of(1, finishReason="MAX_TOKENS")
    _, forwarded, held = forward([stream])
    assert forwarded == first
    assert forwarded + held == stream
    finished = [event for event in decode([stream]) if isinstance(event, ChoiceFinished)]
    assert [event.choice for event in finished] == [0, 1]
    with pytest.raises(TruncatedStream):
        forward([first])


def test_a_count_that_a_later_message_leaves_out_is_no_zero() -> None:
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 7, "thoughtsTokenCount": 2}
    stream = message(candidates=[candidate({"text": "x"})], usageMetadata=usage) + message(
        candidates=[candidate(finishReason="STOP")], usageMetadata={"promptTokenCount": 5}
    )
    reported = [event.usage for event in decode([stream]) if isinstance(event, UsageReported)]
    assert (reported[-1].input, reported[-1].output, reported[-1].reasoning) == (5, 9, 2)


def test_usage_of_tools_is_input_and_cached_tokens_are_a_part_of_the_prompt() -> None:
    usage = UPSTREAM.read_usage(
        {
            "usageMetadata": {
                "promptTokenCount": 100,
                "toolUsePromptTokenCount": 20,
                "cachedContentTokenCount": 30,
                "candidatesTokenCount": 5,
                "thoughtsTokenCount": 6,
            }
        }
    )
    assert usage is not None
    assert (usage.input, usage.cache_read, usage.output, usage.reasoning) == (90, 30, 11, 6)
    assert UPSTREAM.read_usage({"usageMetadata": {"trafficType": "ON_DEMAND"}}) is None
    assert UPSTREAM.read_usage({}) is None


def test_modalities_are_buckets_of_their_own() -> None:
    metadata = {
        "promptTokenCount": 100,
        "cachedContentTokenCount": 30,
        "candidatesTokenCount": 50,
        "thoughtsTokenCount": 5,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 40},
            {"modality": "AUDIO", "tokenCount": 25},
            {"modality": "IMAGE", "tokenCount": 30},
            {"modality": "VIDEO", "tokenCount": 5},
        ],
        "cacheTokensDetails": [
            {"modality": "AUDIO", "tokenCount": 10},
            {"modality": "IMAGE", "tokenCount": 20},
        ],
        "candidatesTokensDetails": [
            {"modality": "AUDIO", "tokenCount": 12},
            {"modality": "IMAGE", "tokenCount": 8},
        ],
    }
    usage = Usage(
        input=45,
        cache_read=20,
        audio_cache_read=10,
        audio_input=15,
        image_input=10,
        output=35,
        audio_output=12,
        image_output=8,
        reasoning=5,
    )
    assert UPSTREAM.read_usage({"usageMetadata": metadata}) == usage
    assert UPSTREAM.read_usage({"usageMetadata": write_usage(usage)}) == usage


@pytest.mark.parametrize("number", [-1, 10**18, 0.5])
def test_a_number_that_can_be_no_count_leaves_the_earlier_one_standing(number: float) -> None:
    first = message(candidates=[candidate({"text": "a"})], usageMetadata={"promptTokenCount": 9})
    last = message(
        candidates=[candidate({"text": "b"}, finishReason="STOP")],
        usageMetadata={"promptTokenCount": number, "candidatesTokenCount": 2},
    )
    usages = [event.usage for event in decode([first + last]) if isinstance(event, UsageReported)]
    assert usages[-1] == Usage(input=9, output=2, is_doubtful=True)


def test_thoughts_end_where_other_content_begins() -> None:
    stream = message(
        candidates=[
            candidate(
                {"text": "Hm", "thought": True},
                {"text": "m.", "thought": True},
                {"text": "Yes."},
                finishReason="STOP",
            )
        ]
    )
    assert decode([stream])[1:4] == [
        ReasoningDelta("Hmm.", is_summary=True),
        ReasoningEnded(),
        TextDelta("Yes."),
    ]


def test_images_and_audio_are_read_and_written() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "aW1hZ2U="}}
    audio = {"inlineData": {"mimeType": "audio/L16;rate=24000", "data": "c291bmQ="}}
    other = {"inlineData": {"mimeType": "video/mp4", "data": "eA=="}}
    sketch = {**image, "thought": True}
    body = {"candidates": [candidate(sketch, image, audio, other, finishReason="STOP")]}
    events = UPSTREAM.read_response(body)
    assert events[1:3] == [ImageMade("aW1hZ2U=", "image/png"), AudioDelta("c291bmQ=")]
    parts = write_answer(events)["candidates"][0]["content"]["parts"]
    assert parts == [image, {"inlineData": {"mimeType": "audio/pcm", "data": "c291bmQ="}}]


def test_sources_are_placed_by_characters_and_written_by_bytes() -> None:
    text = "Größe: 5. Höhe: 7."
    start = len("Größe: 5. ".encode())
    grounding = {
        "groundingChunks": [{"web": {"uri": "https://a.example", "title": "A"}}],
        "groundingSupports": [
            {
                "segment": {"startIndex": start, "endIndex": len(text.encode()), "text": text[10:]},
                "groundingChunkIndices": [0, 9],
            }
        ],
    }
    ending = candidate(finishReason="STOP", groundingMetadata=grounding)
    stream = message(candidates=[candidate({"text": text}, groundingMetadata=grounding)])
    events = decode([stream + message(candidates=[ending])])
    cited = [event for event in events if isinstance(event, CitationAdded)]
    assert cited == [CitationAdded("https://a.example", "A", 10, len(text), text[10:])]
    written = write_answer(events)["candidates"][0]["groundingMetadata"]
    assert (
        written["groundingSupports"][0]["segment"] == grounding["groundingSupports"][0]["segment"]
    )
    only_sources = {"groundingChunks": grounding["groundingChunks"]}
    body = {"candidates": [candidate({"text": "x"}, groundingMetadata=only_sources)]}
    assert CitationAdded("https://a.example", "A") in UPSTREAM.read_response(body)


def test_token_probabilities_come_in_openais_form() -> None:
    recording = next(one for one in ANSWERS if "logprobs" in one.name)
    events = UPSTREAM.read_response(recording.answer)
    tokens = [token for e in events if isinstance(e, TextDelta) for token in e.logprobs]
    assert "".join(token["token"] for token in tokens) == "2 + 2 = 4"
    assert tokens[0]["bytes"] == [50]
    assert len(tokens[0]["top_logprobs"]) == 5
    written = write_answer(events)["candidates"][0]["logprobsResult"]
    theirs = recording.answer["candidates"][0]["logprobsResult"]["chosenCandidates"]
    assert [one["token"] for one in written["chosenCandidates"]] == [t["token"] for t in theirs]


def test_arguments_in_pieces_are_put_together() -> None:
    events = [
        event
        for recording in STREAMS
        if "aisdk__google-stream-tool-call" in recording.name
        for event in decode([recording.stream])
        if isinstance(event, ToolCallDelta)
    ]
    arguments = [json.loads(event.json_piece) for event in events]
    assert arguments[:2] == [{"location": "Boston"}, {"location": "San Francisco"}]
    operation = arguments[2]["operations"][0]
    assert operation["description"] == "Fresh red apple"
    assert operation["price"] == 0.5


@pytest.mark.parametrize(
    "piece",
    [
        {},
        {"jsonPath": 1, "stringValue": "x"},
        {"jsonPath": "$", "stringValue": "x"},
        {"jsonPath": "$.a[99999999]", "numberValue": 1},
        {"jsonPath": "$.a.b", "stringValue": "x"},
    ],
)
def test_pieces_that_fit_nowhere_do_no_harm(piece: dict[str, Any]) -> None:
    first = {"jsonPath": "$.a", "stringValue": "1"}
    call = {"name": "f", "partialArgs": [first, piece]}
    body = {"candidates": [candidate({"functionCall": call}, finishReason="STOP")]}
    (delta,) = [e for e in UPSTREAM.read_response(body) if isinstance(e, ToolCallDelta)]
    assert json.loads(delta.json_piece) == {"a": "1"}


def test_a_bad_key_is_our_fault_and_a_wait_is_read_from_the_body() -> None:
    details = [{"reason": "API_KEY_INVALID"}]
    bad_key = {"error": {"code": 400, "message": "No.", "details": details}}
    failure = UPSTREAM.read_error(400, {}, orjson.dumps(bad_key), secrets=[])
    assert (failure.refusal.status, failure.is_retryable) == (502, False)
    wait = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.4s"}
    busy = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [wait]}}
    failure = UPSTREAM.read_error(429, {}, orjson.dumps(busy), secrets=[])
    assert failure.refusal.headers["retry-after"] == "35"
