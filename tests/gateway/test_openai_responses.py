"""The Responses wire: every recording read, forwarded and written again; and its stream's grammar.

A recording belongs to one kind, and each kind's tests run over all of that kind.
"""

import json
import pickle
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.pricing import Usage
from gateway import refusals, sse
from gateway.dialects import CLIENT_DIALECTS, UPSTREAM_DIALECTS
from gateway.dialects.base import (
    Inspection,
    PassThrough,
    Reply,
    TruncatedStream,
    UnreadableAnswer,
)
from gateway.dialects.openai_responses import ResponsesClient, ResponsesUpstream
from gateway.dialects.responses_objects import write_usage
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
from gateway.generation import GenerationRequest
from tests.gateway import responses_schema
from tests.recordings import ALL, FOLDER, Recording, of_folder, of_kind

CLIENT = ResponsesClient()
UPSTREAM = ResponsesUpstream()
SEED = "0123456789abcdef0123456789abcdef"
REPLY = Reply(SEED, 7, {})
ASKED = Inspection("asked-for", True, None, keeps_state=True)
SECRET = "sk-provider-secret-0123456789"

RECORDINGS = of_folder("openai-responses")
BEGINNING = b"event: response.created\n"


def split(recording: Recording) -> list[Recording]:
    """A recording that holds the streams of several answers, as one recording each."""
    _, *answers = recording.stream.split(BEGINNING)
    if len(answers) < 2:
        return [recording]
    return [
        Recording(
            f"{recording.name}#{number}",
            "stream",
            {**recording.content, "response_text": (BEGINNING + answer).decode()},
        )
        for number, answer in enumerate(answers)
    ]


STREAMS = [part for one in RECORDINGS if one.kind == "stream" for part in split(one)]
FAILED = [one for one in STREAMS if b'"type":"error"' in one.stream or b".failed" in one.stream]
WHOLE = [one for one in STREAMS if one not in FAILED]
ANSWERS = [one for one in RECORDINGS if one.kind == "answer"]
ERRORS = [one for one in RECORDINGS if one.kind == "error"]


def each(recordings: Iterable[Recording]) -> Any:
    """Parametrize over recordings, by name."""
    return pytest.mark.parametrize(
        "recording", [pytest.param(one, id=one.name) for one in recordings]
    )


def merge(events: Iterable[Event]) -> list[Event]:
    """Adjacent deltas of the same thing joined, and only the last usage kept."""
    merged: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        match last, event:
            case TextDelta(), TextDelta():
                logprobs = (*last.logprobs, *event.logprobs)
                merged[-1] = replace(last, text=last.text + event.text, logprobs=logprobs)
            case RefusalDelta(), RefusalDelta():
                merged[-1] = replace(last, text=last.text + event.text)
            case ReasoningDelta(), ReasoningDelta() if last.is_summary == event.is_summary:
                merged[-1] = replace(last, text=last.text + event.text)
            case ToolCallDelta(), ToolCallDelta() if last.index == event.index:
                merged[-1] = replace(last, json_piece=last.json_piece + event.json_piece)
            case _:
                merged.append(event)
    return merged


def decode(pieces: Iterable[bytes]) -> list[Event]:
    decoder = UPSTREAM.stream_decoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return merge([*events, *decoder.close()])


def forward(pieces: Iterable[bytes]) -> tuple[PassThrough, bytes]:
    reader = UPSTREAM.pass_through(ASKED, REPLY)
    forwarded = b"".join([reader.feed(piece) for piece in pieces])
    return reader, forwarded + reader.close()


def write_stream(events: Iterable[Event], reply: Reply = REPLY) -> bytes:
    encoder = CLIENT.stream_encoder(ASKED, reply)
    usage = Usage()
    written = b""
    for event in events:
        if isinstance(event, UsageReported):
            usage = event.usage
        if isinstance(event, Failed):
            return written + encoder.write_failure(refusals.upstream_failed(retryable=False))
        written += encoder.write(event)
    return written + encoder.write_end(usage)


def write_answer(events: Iterable[Event], reply: Reply = REPLY) -> dict[str, Any]:
    writer = CLIENT.response_writer(ASKED, reply)
    for event in events:
        writer.add(event)
    return writer.finish()


def single_bytes(stream: bytes) -> Iterator[bytes]:
    return (stream[at : at + 1] for at in range(len(stream)))


def messages_of(stream: bytes) -> list[bytes]:
    """The stream's messages, each with its blank line."""
    return [block + b"\n\n" for block in stream.split(b"\n\n") if block.strip()]


def types_of(stream: bytes) -> list[str]:
    return [event["type"] for event in responses_schema.events_of(stream)]


# --- the collection --------------------------------------------------------------------------


def test_every_recording_is_read_by_a_test() -> None:
    kinds = {one.kind for one in RECORDINGS}
    assert kinds == {"stream", "answer", "error", "client_request"}  # requests: their own tests
    assert len(RECORDINGS) == len(list((FOLDER / "openai-responses").rglob("*.json")))
    assert [one for one in ALL if one.name.startswith("openai-responses")] == []
    assert {one.name for one in FAILED} == {
        "openai-responses/errors/aisdk__openai-error.1.stream",
        "openai-responses/errors/openai-responses-midstream-error-event-overloaded",
        "openai-responses/errors/openai-responses-response-failed-server-error",
    }


def test_every_recordings_licence_is_kept_beside_it() -> None:
    kept = {path.name.removesuffix(".LICENSE.txt") for path in (FOLDER / "LICENSES").iterdir()}
    sources = [one.content["source"]["repo"] for one in RECORDINGS if "source" in one.content]
    names = {repo.replace("vercel/ai", "vercel/vercel-ai").split("/")[1] for repo in sources}
    assert names <= {*kept, *{"opentelemetry-python-contrib", "openllmetry", "ruby_llm"}}


# --- streams ---------------------------------------------------------------------------------


@each(STREAMS)
def test_a_stream_decodes_and_forwards_the_same_byte_by_byte(recording: Recording) -> None:
    stream = recording.stream
    assert decode(single_bytes(stream)) == decode([stream])
    assert forward(single_bytes(stream))[1] == forward([stream])[1]


@each(STREAMS)
def test_a_stream_decodes_the_same_with_other_line_ends(recording: Recording) -> None:
    whole = decode([recording.stream])
    for line_end in (b"\r\n", b"\r"):
        assert decode([recording.stream.replace(b"\n", line_end)]) == whole


@each(STREAMS)
def test_a_message_cut_anywhere_gives_the_same_events_and_bytes(recording: Recording) -> None:
    """Each message from the state before it, in two pieces, with the next one as a witness."""
    decoder = UPSTREAM.stream_decoder()
    reader = UPSTREAM.pass_through(ASKED, REPLY)
    messages = messages_of(recording.stream)
    for number, message in enumerate(messages):
        decoded_before, read_before = pickle.dumps(decoder), pickle.dumps(reader)
        witness = messages[number + 1] if number + 1 < len(messages) else b""
        events = pickle.loads(decoded_before).feed(message + witness)
        whole = pickle.loads(read_before)
        forwarded = whole.feed(message + witness)
        for at in range(1, len(message), max(len(message) // 8, 1)):
            pieces = (message[:at], message[at:], witness)
            cut_decoder, cut_reader = pickle.loads(decoded_before), pickle.loads(read_before)
            assert [one for piece in pieces for one in cut_decoder.feed(piece)] == events
            assert b"".join([cut_reader.feed(piece) for piece in pieces]) == forwarded
            assert vars(cut_reader) == vars(whole)
        decoder.feed(message)
        reader.feed(message)


@each(WHOLE)
def test_a_stream_is_forwarded_as_it_is(recording: Recording) -> None:
    reader, forwarded = forward([recording.stream])
    assert forwarded == recording.stream
    assert reader.failure == ""


@each(STREAMS)
def test_the_end_is_kept_back_until_it_is_asked_for(recording: Recording) -> None:
    reader = UPSTREAM.pass_through(ASKED, REPLY)
    forwarded = reader.feed(recording.stream)
    for event in (b"response.completed", b"response.incomplete", b"response.failed"):
        assert b"event: " + event not in forwarded
        assert b'"type":"' + event not in forwarded
    deltas = [one for one in forwarded.split(b"\n\n") if re.search(rb'"type": ?"\S+delta"', one)]
    assert reader.relayed_pieces == len(deltas)


@each(STREAMS)
def test_forwarding_learns_what_decoding_learns(recording: Recording) -> None:
    events = decode([recording.stream])
    usages = [event.usage for event in events if isinstance(event, UsageReported)]
    models = [event.model for event in events if isinstance(event, Started)]
    failures = [event.message for event in events if isinstance(event, Failed)]
    reader, _ = forward([recording.stream])
    assert reader.usage == (usages[-1] if usages else None)
    assert reader.model == "".join(models)
    assert reader.failure == "".join(failures)
    assert bool(reader.failure) == (recording in FAILED)
    result = reader.result()
    assert (result is None) == (recording in FAILED)
    if result is not None:
        assert result["store"] is True
        assert result["usage"]["total_tokens"] == usages[-1].total


@each(STREAMS)
def test_a_stream_cut_before_its_end_is_noticed(recording: Recording) -> None:
    decoder = UPSTREAM.stream_decoder()
    reader = UPSTREAM.pass_through(ASKED, REPLY)
    for message in messages_of(recording.stream):
        with pytest.raises(TruncatedStream):
            decoder.close()
        with pytest.raises(TruncatedStream):
            reader.close()
        decoder.feed(message)
        reader.feed(message)
        if b'"type":"response.completed"' in message or reader.failure:
            break
    decoder.close()
    reader.close()


@each(WHOLE)
def test_a_streams_events_are_in_order_and_end(recording: Recording) -> None:
    events = decode([recording.stream])
    assert isinstance(events[0], Started)
    assert [type(event) for event in events[-3:]] == [ChoiceFinished, UsageReported, Ended]
    calls = [event.index for event in events if isinstance(event, ToolCallStarted)]
    assert calls == list(range(len(calls)))
    finished = events[-3]
    assert isinstance(finished, ChoiceFinished)
    assert (finished.reason is FinishReason.TOOL_CALLS) == bool(calls)


@each(WHOLE)
def test_the_final_object_says_what_was_streamed(recording: Recording) -> None:
    """Streamed and whole answers of one scenario are the same events, but for citations' order."""
    result, _ = forward([recording.stream])
    assert result.result() is not None
    whole = merge(UPSTREAM.read_response(result.result() or {}))
    streamed = decode([recording.stream])
    assert contents(whole) == contents(streamed)


def contents(events: Iterable[Event]) -> dict[str, Any]:
    """What an answer says, however its pieces were ordered. Some servers leave out logprobs."""
    said: dict[str, Any] = {"text": "", "thought": "", "calls": {}, "rest": []}
    for event in events:
        match event:
            case TextDelta(text=text):
                said["text"] += text
            case ReasoningDelta(text=text):
                said["thought"] += text
            case ToolCallStarted(index=index):
                said["calls"][index] = [event, ""]
            case ToolCallDelta(index=index, json_piece=piece):
                said["calls"][index][1] += piece
            case ReasoningEnded():
                pass
            case _:
                said["rest"].append(event)
    return said


@each(STREAMS)
def test_a_stream_written_again_obeys_the_grammar_and_says_the_same(recording: Recording) -> None:
    events = decode([recording.stream])
    written = write_stream(events)
    response = responses_schema.check_stream(written, is_failed=recording in FAILED)
    again = decode([written])
    if recording in FAILED:
        assert isinstance(again[-1], Failed)
        return
    assert forget_identity(again) == forget_identity(events)
    assert response == write_answer(events)
    assert response["usage"]["total_tokens"] > 0


def forget_identity(events: Iterable[Event]) -> list[Event]:
    """Without what the gateway sets itself; a signature may come late, and then has its item."""
    kept = [
        replace(event, native="") if isinstance(event, ChoiceFinished) else event
        for event in events
        if not isinstance(event, Started | ReasoningEnded)
    ]
    carries = [e.carry.data for e in events if isinstance(e, ReasoningEnded) and e.carry]
    return [*merge(kept), *(TextDelta(data) for data in carries)]


@each(WHOLE)
def test_openai_pythons_own_accumulator_reads_what_is_written(recording: Recording) -> None:
    written = write_stream(decode([recording.stream]))
    with sdk(written).responses.stream(model="asked-for", input="hi") as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert kinds[-1] == "response.completed"
    expected = write_answer(decode([recording.stream]))
    assert final.usage is not None
    assert final.usage.total_tokens == expected["usage"]["total_tokens"]
    assert [item.id for item in final.output] == [item["id"] for item in expected["output"]]
    texts = [
        part["text"]
        for item in expected["output"]
        if item["type"] == "message"
        for part in item["content"]
    ]
    assert final.output_text == "".join(texts)


def sdk(stream: bytes) -> openai.OpenAI:
    """openai-python, whose server answers with this stream."""

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    client = httpx.Client(transport=httpx.MockTransport(answer))
    return openai.OpenAI(api_key="k", base_url="http://gateway/v1", http_client=client)


@given(st.data())
def test_any_stream_in_any_pieces_decodes_and_forwards_the_same(data: st.DataObject) -> None:
    recording = data.draw(st.sampled_from(STREAMS), label="recording")
    stream = recording.stream
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12), label="cuts")
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    assert decode(pieces) == decode([stream])
    assert forward(pieces)[1] == forward([stream])[1]


FOREIGN = [
    pytest.param(name, one, id=one.name)
    for name, recordings in (
        ("openai_chat", of_kind("stream")),
        ("anthropic", [one for one in of_folder("anthropic") if one.kind == "stream"]),
        ("gemini", [one for one in of_folder("gemini") if one.kind == "stream"]),
    )
    for one in recordings
]


@pytest.mark.parametrize(("name", "recording"), FOREIGN)
def test_streams_of_other_providers_become_streams_of_this_wire(
    name: str, recording: Recording
) -> None:
    decoder = UPSTREAM_DIALECTS[name].stream_decoder()
    events = [*decoder.feed(recording.stream), *decoder.close()]
    is_failed = any(isinstance(event, Failed) for event in events)
    written = write_stream(events)
    response = responses_schema.check_stream(written, is_failed=is_failed)
    if is_failed:
        return
    first = [event for event in events if getattr(event, "choice", 0) == 0]
    texts = [event.text for event in first if isinstance(event, TextDelta)]
    content = [
        part for item in response["output"] if item["type"] == "message" for part in item["content"]
    ]
    assert "".join(part.get("text", "") for part in content) == "".join(texts)
    calls = [event.call_id for event in first if isinstance(event, ToolCallStarted)]
    answered = [item for item in response["output"] if item["type"] == "function_call"]
    assert [item["call_id"] for item in answered] == calls
    whole = [item["arguments"] for item in answered if item["status"] == "completed"]
    if "/uncertain/" in recording.name:  # one of them ends in the middle of a call's arguments
        whole = []
    assert all(isinstance(json.loads(arguments), dict) for arguments in whole)
    assert carries_of(CLIENT.read_request({"model": "m", "input": response["output"] or "x"})) >= {
        carry
        for carry in (getattr(event, "carry", None) for event in first)
        if carry is not None and carry.kind != "openai.encrypted"
    } - signatures_without_text(first)
    assert contents(decode([written]))["text"] == "".join(texts)


def carries_of(request: GenerationRequest) -> set[Carry]:
    """The state of providers that a replayed answer brings back."""
    parts = [part for turn in request.turns for part in turn.parts]
    return {carry for carry in (getattr(part, "carry", None) for part in parts) if carry}


def signatures_without_text(events: Iterable[Event]) -> set[Carry]:
    """Signatures of text that a later one replaced, or that had no text to stay with."""
    return {event.carry for event in events if isinstance(event, TextSigned)}


@each(of_kind("answer"))
def test_whole_answers_of_chat_providers_become_response_objects(recording: Recording) -> None:
    events = UPSTREAM_DIALECTS["openai_chat"].read_response(recording.answer)
    responses_schema.check_response(write_answer(events))


@each(STREAMS)
@pytest.mark.parametrize("name", sorted(CLIENT_DIALECTS))
def test_every_client_can_be_written_what_this_wire_says(recording: Recording, name: str) -> None:
    client = CLIENT_DIALECTS[name]
    encoder = client.stream_encoder(Inspection("asked-for", True, None), REPLY)
    written = b"".join(encoder.write(event) for event in decode([recording.stream]))
    assert sse.Decoder().feed(written + encoder.write_end(Usage(output=1)))


# --- whole answers ---------------------------------------------------------------------------


@each(ANSWERS)
def test_a_whole_answer_written_again_keeps_what_it_says(recording: Recording) -> None:
    events = UPSTREAM.read_response(recording.answer)
    written = write_answer(events)
    responses_schema.check_response(written)
    assert written["model"] == recording.answer["model"]
    assert forget_identity(UPSTREAM.read_response(written)) == forget_identity(events)
    assert said(written) == said(recording.answer)


def said(response: dict[str, Any]) -> list[Any]:
    """Texts, calls and summaries in order; what OpenAI's own tools did is left out."""
    found: list[Any] = []
    for item in response["output"]:
        match item["type"]:
            case "message":
                found.extend(part.get("text") or part.get("refusal") for part in item["content"])
            case "function_call":
                found.append((item["call_id"], item["name"], item["arguments"]))
            case "reasoning" if item["summary"]:
                found.append("\n\n".join(part["text"] for part in item["summary"]))
    return ["".join(found)] if all(isinstance(one, str) for one in found) else found


@each(ANSWERS)
def test_a_whole_answers_usage_adds_up_to_the_providers_total(recording: Recording) -> None:
    usage = UPSTREAM.read_usage(recording.answer)
    assert usage is not None
    reported = recording.answer["usage"]
    assert usage.total == reported["total_tokens"]
    assert usage.whole_input == reported["input_tokens"]
    details = reported["input_tokens_details"]
    assert usage.cache_read == details["cached_tokens"]
    assert usage.cache_write == details.get("cache_write_tokens", 0)
    assert usage.reasoning == reported["output_tokens_details"]["reasoning_tokens"]
    written = write_usage(usage)
    assert UPSTREAM.read_usage({"output": [], "usage": written}) == usage


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no"}, "output": []},
        {"status": "failed", "output": []},
        {"status": "queued", "output": []},
        {"status": "completed"},
        {},
    ],
)
def test_an_answer_that_is_an_error_or_unfinished_is_no_answer(body: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer):
        UPSTREAM.read_response(body)
    with pytest.raises(UnreadableAnswer):
        UPSTREAM.read_usage(body)


# --- errors ----------------------------------------------------------------------------------

# The file -> status and code our client sees.
EXPECTED = {
    "aisdk__openai-error.1": (502, "upstream_error"),
    "pyd__model_name_suggestion_openai-responses_.0": (502, "upstream_error"),
    "pyd__multimodal_tool_return_matrix_direct-url-audio-openai_responses_.1": (400, None),
    "pyd__openai_responses_model_http_error.0": (400, None),
    "pyd__openai_responses_thinking_with_modified_history.1": (400, None),
    "rubyllm__err_openai_gpt-5-nano_handles_context_length_exceeded_errors.0": (
        *(400, "context_length_exceeded"),
    ),
    "rubyllm__err_openai_gpt-5-nano_raises_appropriate_auth_error.0": (502, "upstream_error"),
}


@each(ERRORS)
def test_a_providers_error_becomes_one_for_our_client(recording: Recording) -> None:
    status = recording.content["status"] or 429
    body = orjson.dumps(recording.answer)
    failure = UPSTREAM.read_error(status, recording.headers, body, secrets=[SECRET])
    expected = EXPECTED[recording.name.rpartition("/")[2]]
    assert failure.refusal.status == expected[0]
    if expected[1]:
        assert failure.refusal.code == expected[1]
    written = CLIENT.write_refusal(failure.refusal, "req-1")
    assert written["error"].keys() >= {"message", "type", "param", "code"}


def test_a_stream_that_fails_is_noticed_by_openai_python_and_names_its_partial_output() -> None:
    events = [Started("x", "m"), TextDelta("Hel"), UsageReported(Usage(input=3, output=1))]
    written = write_stream([*events, Failed("secret words of the provider")])
    assert b"secret words" not in written
    response = responses_schema.check_stream(written, is_failed=True)
    assert types_of(written)[-2:] == ["error", "response.failed"]
    assert response["error"]["code"] == "upstream_error"
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == "Hel"
    assert response["usage"]["total_tokens"] == 4
    with pytest.raises(openai.APIError, match="provider failed"):
        list(sdk(written).responses.create(model="m", input="hi", stream=True))


def test_an_error_event_is_understood_in_every_form_clients_know() -> None:
    written = write_stream([Failed("x")])
    error = responses_schema.events_of(written)[-2]
    assert error["code"] == error["error"]["code"] == "upstream_error"
    assert error["message"] == error["error"]["message"]
    unnamed = CLIENT.stream_encoder(ASKED, REPLY).write_failure(refusals.internal("req-1"))
    error = responses_schema.events_of(unnamed)[-2]
    assert error["code"] == "server_error"  # never null: AI SDK would not read the event


def test_a_failure_while_forwarding_continues_the_providers_numbers() -> None:
    stream = next(one for one in WHOLE if "otel" in one.name).stream
    reader = UPSTREAM.pass_through(ASKED, REPLY)
    half = b"".join(messages_of(stream)[:5])
    forwarded = reader.feed(half)
    written = forwarded + reader.write_failure(refusals.upstream_failed(retryable=False))
    events = responses_schema.events_of(written)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["response"]["id"] == events[0]["response"]["id"]
    with pytest.raises(openai.APIError):
        list(sdk(written).responses.create(model="m", input="hi", stream=True))


def test_a_failure_before_anything_was_forwarded_is_a_whole_stream() -> None:
    reader = UPSTREAM.pass_through(ASKED, REPLY)
    written = reader.write_failure(refusals.upstream_timed_out())
    responses_schema.check_stream(written, is_failed=True)


@pytest.mark.parametrize(
    ("event", "failed"),
    [
        ({"type": "error", "code": "c", "message": "flat"}, Failed("flat", "c")),
        ({"type": "error", "error": {"code": "c", "message": "nested"}}, Failed("nested", "c")),
        ({"type": "error", "error": {"type": "t", "message": "m"}}, Failed("m", "t")),
        (
            {"type": "response.failed", "response": {"error": {"code": "c", "message": "m"}}},
            Failed("m", "c"),
        ),
        ({"type": "response.cancelled", "response": {}}, Failed("error", "response.cancelled")),
    ],
)
def test_errors_inside_a_stream_are_read_in_every_form(
    event: dict[str, Any], failed: Failed
) -> None:
    decoder = UPSTREAM.stream_decoder()
    assert decoder.feed(sse.encode(orjson.dumps(event))) == [failed]
    assert decoder.feed(sse.encode(orjson.dumps({"type": "response.failed"}))) == []
    assert decoder.close() == []


@pytest.mark.parametrize("data", [b"{", b"[]", b'"x"'])
def test_an_event_that_is_no_object_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableAnswer):
        UPSTREAM.stream_decoder().feed(sse.encode(data))


# --- what servers leave out ------------------------------------------------------------------


def stream_of(*events: dict[str, Any]) -> bytes:
    return b"".join(sse.encode(orjson.dumps(event)) for event in events)


COMPLETED = {
    "type": "response.completed",
    "response": {"status": "completed", "output": [], "usage": None},
}


def test_items_that_come_only_when_they_are_done_lose_nothing() -> None:
    call = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"}
    message = {
        "type": "message",
        "content": [
            {
                "type": "output_text",
                "text": "Hi",
                "annotations": [
                    {
                        "type": "url_citation",
                        "url": "https://a",
                        "title": "A",
                        "start_index": 0,
                        "end_index": 2,
                    }
                ],
            },
            {"type": "refusal", "refusal": "No"},
        ],
    }
    events = decode(
        [
            stream_of(
                {"type": "response.output_item.done", "output_index": 0, "item": message},
                {"type": "response.output_item.done", "output_index": 1, "item": call},
                {"type": "response.something.new"},
                {"type": "response.output_item.done", "output_index": 2, "item": {"type": "new"}},
                COMPLETED,
            )
        ]
    )
    assert events == [
        TextDelta("Hi"),
        CitationAdded("https://a", "A", 0, 2),
        RefusalDelta("No"),
        ToolCallStarted(0, "c1", "f"),
        ToolCallDelta(0, "{}"),
        Started("", "", 0),
        ChoiceFinished(FinishReason.TOOL_CALLS, native="completed"),
        Ended(),
    ]


def test_an_answer_that_comes_only_at_the_end_loses_nothing() -> None:
    output = [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}]
    response = {"id": "r", "model": "m", "created_at": 5, "status": "incomplete", "output": output}
    response["incomplete_details"] = {"reason": "max_output_tokens"}
    events = decode([stream_of({"type": "response.incomplete", "response": response})])
    assert events == [
        Started("r", "m", 5),
        TextDelta("Hi"),
        ChoiceFinished(FinishReason.LENGTH, native="max_output_tokens"),
        Ended(),
    ]


def test_an_answer_cut_short_for_a_reason_of_tomorrow_is_not_whole() -> None:
    response = {"id": "r", "model": "m", "status": "incomplete", "output": []}
    response["incomplete_details"] = {"reason": "made_up"}
    events = decode([stream_of({"type": "response.incomplete", "response": response})])
    assert ChoiceFinished(FinishReason.LENGTH, native="made_up") in events


def test_parts_of_a_summary_are_paragraphs() -> None:
    summary = [{"type": "summary_text", "text": text} for text in ("One", "Two")]
    item = {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": "gAAAA"}
    delta = {"type": "response.reasoning_summary_text.delta", "output_index": 0}
    streamed = decode(
        [
            stream_of(
                {**delta, "summary_index": 0, "delta": "One"},
                {**delta, "summary_index": 1, "delta": "Two"},
                {"type": "response.output_item.done", "output_index": 0, "item": item},
                COMPLETED,
            )
        ]
    )
    whole = merge(UPSTREAM.read_response({"output": [item]}))
    expected = [
        ReasoningDelta("One\n\nTwo", is_summary=True),
        ReasoningEnded(Carry("openai.encrypted", "gAAAA")),
    ]
    assert streamed[:2] == whole[1:3] == expected


def test_a_message_longer_than_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.dialects.responses_events.MESSAGE_BYTES_MAX", 10)
    with pytest.raises(sse.MessageTooLong):
        UPSTREAM.pass_through(ASKED, REPLY).feed(b"data: " + b"x" * 20)
    with pytest.raises(sse.MessageTooLong):
        UPSTREAM.stream_decoder().feed(b"data: " + b"x" * 20)


# --- the stream we write ---------------------------------------------------------------------

START = Started("provider-id", "the-model", 3)


def end(reason: FinishReason = FinishReason.STOP) -> list[Event]:
    return [ChoiceFinished(reason), UsageReported(Usage(input=2, output=3)), Ended()]


def test_text_has_its_whole_life() -> None:
    written = write_stream([START, TextDelta("Hel"), TextDelta("lo"), *end()])
    response = responses_schema.check_stream(written)
    assert types_of(written) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert response["id"] == f"resp_{SEED}"
    assert response["model"] == "the-model"
    assert response["created_at"] == 7
    assert response["output"] == [
        {
            "id": f"msg_{SEED}0",
            "type": "message",
            "status": "completed",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}
            ],
        }
    ]
    assert b"[DONE]" not in written


def test_the_first_events_are_written_as_soon_as_the_answer_begins() -> None:
    encoder = CLIENT.stream_encoder(ASKED, REPLY)
    assert types_of(encoder.write(START)) == ["response.created", "response.in_progress"]
    assert encoder.write(START) == b""
    assert encoder.result() is None
    assert encoder.write(UsageReported(Usage(output=1))) == b""
    assert types_of(encoder.write_end(Usage(output=1))) == ["response.completed"]
    result = encoder.result()
    assert result is not None
    assert result["usage"]["output_tokens"] == 1


def test_reasoning_text_tool_calls_and_text_again_are_items_in_order() -> None:
    events = [
        START,
        ReasoningDelta("Think", is_summary=True),
        ReasoningEnded(Carry("openai.encrypted", "gAAAA")),
        TextDelta("First"),
        ToolCallStarted(0, "call_a", "f"),
        ToolCallDelta(0, '{"a":'),
        ToolCallDelta(0, "1}"),
        ToolCallStarted(1, "call_b", "g"),
        TextDelta("Then"),
        *end(FinishReason.TOOL_CALLS),
    ]
    response = responses_schema.check_stream(write_stream(events))
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["reasoning", "message", "function_call", "function_call", "message"]
    assert response["output"][0]["encrypted_content"] == "gAAAA"
    assert [item["id"] for item in response["output"]] == [
        *(f"rs_{SEED}0", f"msg_{SEED}1", f"fc_{SEED}2", f"fc_{SEED}3", f"msg_{SEED}4"),
    ]
    calls = [item for item in response["output"] if item["type"] == "function_call"]
    assert [call["arguments"] for call in calls] == ['{"a":1}', "{}"]
    assert [call["call_id"] for call in calls] == ["call_a", "call_b"]


def test_parallel_calls_written_in_turns_keep_their_arguments() -> None:
    events = [
        START,
        ToolCallStarted(0, "call_a", "f"),
        ToolCallStarted(1, "call_b", "g"),
        ToolCallDelta(0, '{"a"'),
        ToolCallDelta(1, '{"b"'),
        ToolCallDelta(0, ":1}"),
        ToolCallDelta(1, ":2}"),
        *end(FinishReason.TOOL_CALLS),
    ]
    response = responses_schema.check_stream(write_stream(events))
    assert [item["arguments"] for item in response["output"]] == ['{"a":1}', '{"b":2}']


def test_a_call_is_done_when_the_next_one_begins() -> None:
    encoder = CLIENT.stream_encoder(ASKED, REPLY)
    encoder.write(ToolCallStarted(0, "call_a", "f"))
    encoder.write(ToolCallDelta(0, "{}"))
    kinds = types_of(encoder.write(ToolCallStarted(1, "call_b", "g")))
    assert kinds == [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.output_item.added",
    ]
    assert encoder.write(ToolCallDelta(0, "more")) == b""


def test_raw_reasoning_has_the_raw_form() -> None:
    written = write_stream([START, ReasoningDelta("Hmm"), TextDelta("4"), *end()])
    response = responses_schema.check_stream(written)
    assert "response.reasoning_text.delta" in types_of(written)
    assert response["output"][0]["content"] == [{"type": "reasoning_text", "text": "Hmm"}]
    assert response["output"][0]["summary"] == []


def test_a_sealed_thought_without_words_is_an_item_and_an_empty_one_is_not() -> None:
    carry = Carry("anthropic.redacted", "data", "claude")
    written = write_stream([START, ReasoningEnded(carry), ReasoningEnded(), TextDelta("x"), *end()])
    response = responses_schema.check_stream(written)
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][0]["encrypted_content"].startswith("gw1.")
    assert types_of(written)[2:4] == ["response.output_item.added", "response.output_item.done"]


def test_state_of_a_call_travels_in_a_reasoning_item_before_it() -> None:
    carry = Carry("gemini.thought", "sig+/=", "gemini-3")
    events = [
        START,
        ReasoningDelta("Hm", is_summary=True),
        ToolCallStarted(0, "call_a", "f", carry=carry),
        ToolCallDelta(0, "{}"),
        *end(FinishReason.TOOL_CALLS),
    ]
    for given_events in (events, [events[0], *events[2:]]):
        response = responses_schema.check_stream(write_stream(given_events))
        thought, call = response["output"]
        assert thought["encrypted_content"] == call["encrypted_content"]
        replayed = CLIENT.read_request(
            {
                "model": "m",
                "input": [
                    {name: thought[name] for name in ("type", "id", "summary")},
                    {**thought, "status": "completed"},
                    {name: call[name] for name in ("type", "call_id", "name", "arguments")},
                ],
            }
        )
        assert replayed.turns[0].parts[-1].carry == carry  # type: ignore[union-attr]


def test_state_of_a_text_stays_with_its_message() -> None:
    carry = Carry("gemini.thought", "sig", "gemini-3")
    response = responses_schema.check_stream(
        write_stream([START, TextDelta("Hi"), TextSigned(carry), *end()])
    )
    read = CLIENT.read_request({"model": "m", "input": response["output"]})
    assert read.turns[0].parts[0].carry == carry  # type: ignore[union-attr]
    assert write_answer([START, TextSigned(carry), *end()])["output"] == []


def test_a_refusal_is_a_part_of_its_own() -> None:
    written = write_stream([START, TextDelta("Well."), RefusalDelta("I "), RefusalDelta("won't")])
    response = responses_schema.check_stream(written)
    content = response["output"][0]["content"]
    assert [part["type"] for part in content] == ["output_text", "refusal"]
    assert content[1]["refusal"] == "I won't"
    assert types_of(written).count("response.refusal.delta") == 2


def test_citations_are_annotations_at_the_places_of_their_part() -> None:
    events = [
        START,
        TextDelta("One."),
        ToolCallStarted(0, "c", "f"),
        TextDelta("Two."),
        CitationAdded("https://a", "A", 4, 8),
        CitationAdded("https://b"),
        *end(),
    ]
    written = write_stream(events)
    response = responses_schema.check_stream(written)
    annotations = response["output"][2]["content"][0]["annotations"]
    assert [(one["url"], one["start_index"], one["end_index"]) for one in annotations] == [
        ("https://a", 0, 4),
        ("https://b", 0, 4),
    ]
    again = [event for event in decode([written]) if isinstance(event, CitationAdded)]
    assert again == [CitationAdded("https://a", "A", 4, 8), CitationAdded("https://b", "", 4, 8)]
    assert write_answer([START, CitationAdded("https://a"), *end()])["output"] == []


def test_logprobs_are_in_deltas_and_in_the_end() -> None:
    logprob = {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}
    written = write_stream([START, TextDelta("Hi", logprobs=(logprob,)), *end()])
    response = responses_schema.check_stream(written)
    assert response["output"][0]["content"][0]["logprobs"] == [logprob]


def test_an_image_is_an_item_and_speech_is_its_text() -> None:
    events = [START, AudioDelta(transcript="Spoken"), ImageMade("aGk=", "image/webp"), *end()]
    response = responses_schema.check_stream(write_stream(events))
    assert response["output"][0]["content"][0]["text"] == "Spoken"
    assert response["output"][1]["result"] == "aGk="
    again = UPSTREAM.read_response(response)
    assert ImageMade("aGk=", "image/webp") in again


@pytest.mark.parametrize(
    ("reason", "details"),
    [
        (FinishReason.LENGTH, "max_output_tokens"),
        (FinishReason.CONTENT_FILTER, "content_filter"),
    ],
)
def test_an_answer_cut_short_is_incomplete_and_so_is_what_was_being_written(
    reason: FinishReason, details: str
) -> None:
    events = [START, TextDelta("Hel"), ToolCallStarted(0, "c", "f"), ToolCallDelta(0, '{"a')]
    written = write_stream([*events, *end(reason)])
    response = responses_schema.check_stream(written)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": details}
    assert [item["status"] for item in response["output"]] == ["completed", "incomplete"]
    assert types_of(written)[-1] == "response.incomplete"


def test_an_answer_without_anything_is_an_empty_output() -> None:
    response = responses_schema.check_stream(write_stream(end(FinishReason.CONTENT_FILTER)))
    assert response["output"] == []
    assert response["model"] == "asked-for"


def test_other_choices_are_not_written() -> None:
    events = [START, TextDelta("a"), TextDelta("b", choice=1), *end()]
    response = write_answer([*events, ChoiceFinished(FinishReason.LENGTH, 1)])
    assert response["output"][0]["content"][0]["text"] == "a"
    assert response["status"] == "completed"


def test_the_object_repeats_the_request() -> None:
    body = {
        "model": "asked-for",
        "input": "hi",
        "instructions": "Be brief.",
        "tools": [
            {"type": "function", "name": "f"},
            {"type": "web_search"},
            {
                "type": "namespace",
                "name": "ns",
                "description": "d",
                "tools": [{"type": "function", "name": "f"}, {"type": "function", "name": "h"}],
            },
        ],
        "tool_choice": "required",
        "text": {"verbosity": "low"},
        "reasoning": {"effort": "low"},
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "top_p": None,
        "max_output_tokens": 99,
        "service_tier": "auto",
        "store": False,
    }
    calls = [ToolCallStarted(number, f"c{number}", name) for number, name in enumerate(NAMES)]
    inspection = CLIENT.inspect(body)
    writer = CLIENT.response_writer(inspection, Reply(SEED, 7, body))
    for event in (START, *calls, *end()):
        writer.add(event)
    response = writer.finish()
    responses_schema.check_response(response)
    assert response["instructions"] == "Be brief."
    assert response["tools"][0] == {
        "type": "function",
        "name": "f",
        "description": None,
        "parameters": None,
        "strict": None,
    }
    assert response["text"] == {"format": {"type": "text"}, "verbosity": "low"}
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert response["top_p"] == 1.0
    assert response["store"] is False
    assert response["service_tier"] == "default"
    called = [(item["name"], item.get("namespace")) for item in response["output"]]
    assert called == [("f", None), ("f", "ns"), ("h", "ns"), ("unknown", None)]


NAMES = ("f", "ns__f", "h", "unknown")
