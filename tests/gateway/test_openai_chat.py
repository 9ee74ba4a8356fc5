"""The chat dialect beyond its recordings: usage, odd servers, forwarding, and hostile answers."""

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CompletionUsage
from openai.types.chat import ChatCompletionChunk

from billing.pricing import Usage
from gateway import refusals, sse
from gateway.dialects.base import Inspection, Reply, Target, TruncatedStream, UnreadableAnswer
from gateway.dialects.chat_answers import read_usage_object
from gateway.dialects.openai_chat import (
    ChatClient,
    ChatPassThrough,
    ChatUpstream,
    write_usage_object,
)
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

CLIENT, UPSTREAM = ChatClient(), ChatUpstream()
REPLY = Reply(seed="0" * 32, created_at=7, body={})
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17}


def chunk(delta: Any = None, finish: str | None = None, **fields: Any) -> bytes:
    """One message of a stream; with `delta=None` its choices are empty."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [] if delta is None else [choice],
        **fields,
    }
    return sse.encode(json.dumps(body).encode())


def write_response(events: Any) -> Any:
    writer = CLIENT.response_writer(Inspection("m", False, None), REPLY)
    for event in events:
        writer.add(event)
    return writer.finish()


def decode(*pieces: bytes) -> list[Event]:
    decoder = UPSTREAM.stream_decoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return [*events, *decoder.close()]


def call(index: int | None, call_id: str | None, name: str | None, arguments: str | None) -> bytes:
    """A chunk with one piece of a tool call; None leaves a member out."""
    function = {
        key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None
    }
    piece: dict[str, Any] = {"function": function}
    if index is not None:
        piece["index"] = index
    if call_id is not None:
        piece |= {"id": call_id, "type": "function"}
    return chunk({"tool_calls": [piece]})


# --- usage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("usage", "read"),
    [
        (None, None),
        ({}, None),
        ([], None),
        ("12", None),
        (True, None),
        ({"prompt_tokens": None, "completion_tokens": None}, None),
        ({"prompt_tokens": "12"}, None),
        ({"prompt_tokens": True, "completion_tokens": False}, None),
        ({"input_tokens": 5}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}, Usage()),
        ({"prompt_tokens": 0}, Usage()),
        ({"prompt_tokens": 7}, Usage(input=7)),
        ({"completion_tokens": 7}, Usage(output=7)),
        (USAGE, Usage(input=12, output=5)),
        ({"prompt_tokens": 12.0, "completion_tokens": 5.0}, Usage(input=12, output=5)),
        ({"prompt_tokens": -4, "completion_tokens": -1}, Usage(is_doubtful=True)),
        ({"prompt_tokens": 10**18, "completion_tokens": 5}, Usage(output=5, is_doubtful=True)),
        ({"prompt_tokens": 7, "completion_tokens": 1.5}, Usage(input=7, is_doubtful=True)),
        ({"prompt_tokens": 7, "completion_tokens": 1e400}, Usage(input=7, is_doubtful=True)),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_tokens_details": {
                    "cached_tokens": 10,
                    "audio_tokens": 40,
                    "image_tokens": 30,
                },
                "completion_tokens_details": {"audio_tokens": 35, "reasoning_tokens": 5},
            },
            Usage(
                input=20,
                cache_read=10,
                audio_input=40,
                image_input=30,
                output=15,
                audio_output=35,
                reasoning=5,
            ),
        ),
        # More cached and spoken tokens than there are: some are both.
        (
            {
                "prompt_tokens": 100,
                "prompt_tokens_details": {"cached_tokens": 70, "audio_tokens": 60},
            },
            Usage(cache_read=40, audio_cache_read=30, audio_input=30),
        ),
        (
            {
                "prompt_tokens": 100,
                "completion_tokens": 50,
                "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
                "completion_tokens_details": {"reasoning_tokens": 20},
            },
            Usage(input=10, cache_read=60, cache_write=30, output=50, reasoning=20),
        ),
        (
            {"prompt_tokens": 10, "prompt_tokens_details": {"cached_tokens": 99}},
            Usage(cache_read=10),
        ),
        (
            {
                "prompt_tokens": 10,
                "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 8},
            },
            Usage(cache_read=8, cache_write=2),
        ),
        (
            {"completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 9}},
            Usage(output=3, reasoning=3),
        ),
        (
            {"prompt_tokens": 1, "prompt_tokens_details": None, "completion_tokens_details": 5},
            Usage(input=1),
        ),
        # Google's compatible endpoint: thinking is in the total alone.
        (
            {"prompt_tokens": 35, "completion_tokens": 12, "total_tokens": 109},
            Usage(input=35, output=74, reasoning=62),
        ),
        # xAI: the same, with the thinking itemised.
        (
            {
                "prompt_tokens": 32,
                "completion_tokens": 9,
                "total_tokens": 135,
                "completion_tokens_details": {"reasoning_tokens": 94},
            },
            Usage(input=32, output=103, reasoning=94),
        ),
        (
            {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 3},
            Usage(input=12, output=5),
        ),
    ],
)
def test_usage_is_read_into_disjoint_buckets(usage: Any, read: Usage | None) -> None:
    assert read_usage_object(usage) == read


COUNTS = st.integers(-5, 10_000) | st.none() | st.booleans() | st.sampled_from([10**18, 0.5, 7.0])
INPUT_DETAILS = ("cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens")
OUTPUT_DETAILS = ("reasoning_tokens", "audio_tokens", "image_tokens")
REPORTS = st.fixed_dictionaries(
    {"prompt_tokens": COUNTS, "completion_tokens": COUNTS},
    optional={
        "total_tokens": COUNTS,
        "prompt_tokens_details": st.none()
        | st.fixed_dictionaries({}, optional=dict.fromkeys(INPUT_DETAILS, COUNTS)),
        "completion_tokens_details": st.none()
        | st.fixed_dictionaries({}, optional=dict.fromkeys(OUTPUT_DETAILS, COUNTS)),
    },
)


def is_count(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < 10**18 and value == int(value)


def numbers_in(report: Any) -> list[Any]:
    if isinstance(report, dict):
        return [number for value in report.values() for number in numbers_in(value)]
    is_number = isinstance(report, int | float) and not isinstance(report, bool)
    return [report] if is_number else []


@given(REPORTS)
def test_a_number_that_can_be_no_count_is_left_out_and_told(report: dict[str, Any]) -> None:
    usage = read_usage_object(report)
    if usage is not None and not all(map(is_count, numbers_in(report))):
        assert usage.is_doubtful
    if all(map(is_count, numbers_in(report))):
        assert usage is None or not usage.is_doubtful


@given(REPORTS)
def test_buckets_are_never_negative_and_add_up_to_the_providers_total(
    report: dict[str, Any],
) -> None:
    usage = read_usage_object(report)
    counts = {name: value if is_count(value) else None for name, value in report.items()}
    prompt, completion = counts["prompt_tokens"], counts["completion_tokens"]
    if usage is None:
        assert (prompt, completion) == (None, None)
        return
    assert min(usage.counts) >= 0
    assert usage.whole_input == (prompt or 0)
    assert usage.reasoning <= usage.output
    parts = (prompt or 0) + (completion or 0)
    if not usage.is_doubtful:
        parts = max(parts, counts.get("total_tokens") or 0)
    assert usage.total == parts or usage.is_doubtful
    assert usage.total >= parts
    assert usage.whole_output == usage.total - usage.whole_input


@given(REPORTS)
def test_usage_written_and_read_again_is_the_same(report: dict[str, Any]) -> None:
    usage = read_usage_object(report)
    if usage is not None:
        written = write_usage_object(usage)
        assert read_usage_object(written) == replace(usage, is_doubtful=False)
        CompletionUsage.model_validate(written, strict=True)


def test_an_answer_without_usage_does_not_claim_zero_tokens() -> None:
    message = {"role": "assistant", "content": "Hi"}
    body = {"model": "m", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    events = UPSTREAM.read_response(body)
    assert write_response(events)["usage"] is None
    events = UPSTREAM.read_response({**body, "usage": {"prompt_tokens": 0}})
    written = write_response(events)
    assert written["usage"]["total_tokens"] == 0


# --- streams of odd servers ------------------------------------------------------------------


def test_a_stream_begins_with_the_first_chunk_that_says_something() -> None:
    azure = chunk(id="", model="", created=0, prompt_filter_results=[])
    events = decode(azure, chunk({"role": "assistant", "content": ""}), chunk({}, "stop"), DONE)
    assert events == [Started("chatcmpl-1", "m", 1), ChoiceFinished(FinishReason.STOP), Ended()]


def test_reasoning_under_both_names_is_read_once() -> None:
    both = chunk({"reasoning_content": "Hm", "reasoning": "Hm"})
    assert decode(both, DONE)[1:] == [ReasoningDelta("Hm"), Ended()]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_reasoning_under_either_name_is_read(name: str) -> None:
    assert decode(chunk({name: "Hm"}), DONE)[1:] == [ReasoningDelta("Hm"), Ended()]


def test_content_in_parts_is_text_and_not_their_notation() -> None:
    content = [{"type": "text", "text": "a"}, {"type": "other"}, {"type": "text", "text": "b"}]
    assert decode(chunk({"content": content}), DONE)[1:] == [TextDelta("ab"), Ended()]


def test_token_probabilities_without_text_are_kept() -> None:
    token = {"token": "x", "logprob": -1.0, "bytes": [240], "top_logprobs": []}
    choice = {"index": 0, "delta": {"content": ""}, "logprobs": {"content": [token]}}
    assert decode(chunk(choices=[choice]), DONE)[1:] == [TextDelta("", 0, (token,)), Ended()]


def test_a_finish_said_twice_is_heard_once() -> None:
    events = decode(chunk({}, "tool_calls"), chunk({}, "stop", usage=USAGE), DONE)
    finished = [event for event in events if isinstance(event, ChoiceFinished)]
    assert finished == [ChoiceFinished(FinishReason.TOOL_CALLS)]


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("stop", FinishReason.STOP),
        ("length", FinishReason.LENGTH),
        ("tool_calls", FinishReason.TOOL_CALLS),
        ("function_call", FinishReason.TOOL_CALLS),
        ("content_filter", FinishReason.CONTENT_FILTER),
        ("eos", FinishReason.STOP),
    ],
)
def test_finish_reasons(theirs: str, ours: FinishReason) -> None:
    assert ChoiceFinished(ours) in decode(chunk({}, theirs), DONE)


def test_a_running_total_replaces_the_ones_before() -> None:
    first, last = {**USAGE, "completion_tokens": 1}, USAGE
    stream = (chunk({"content": "a"}, usage=first), chunk({"content": "b"}, usage=last), DONE)
    reported = [event.usage for event in decode(*stream) if isinstance(event, UsageReported)]
    assert reported == [
        Usage(input=12, output=5, reasoning=4),
        Usage(input=12, output=5),
    ]
    reader = ChatPassThrough(wants_usage=False)
    assert b"".join(reader.feed(piece) for piece in stream) == b"".join(stream[:2])
    assert reader.usage == Usage(input=12, output=5)


@pytest.mark.parametrize("silent", [b": ka\n\n", b"data:\n\n", b"data: \n\n", b"event: ping\n\n"])
def test_a_message_without_data_says_nothing(silent: bytes) -> None:
    assert decode(silent, chunk({"content": "a"}), silent, DONE, silent) == [
        Started("chatcmpl-1", "m", 1),
        TextDelta("a"),
        Ended(),
    ]


def test_what_comes_after_the_end_is_not_read_or_forwarded() -> None:
    assert decode(DONE + chunk({"content": "late"})) == [Ended()]
    assert decode(DONE, chunk({"content": "late"}), b"data: {\n\n") == [Ended()]
    for pieces in ([DONE + chunk({"content": "late"})], [DONE, chunk({"content": "late"})]):
        reader = ChatPassThrough(wants_usage=True)
        assert b"".join(reader.feed(piece) for piece in pieces) == b""
        assert reader.close() == DONE


# --- tool calls ------------------------------------------------------------------------------

A, B = ("call_a", "look"), ("call_b", "find")
PARALLEL = [
    ToolCallStarted(0, *A),
    ToolCallDelta(0, '{"x":1}'),
    ToolCallStarted(1, *B),
    ToolCallDelta(1, '{"y":2}'),
]


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param(
            [call(0, *A, ""), call(0, None, None, '{"x":1}'), call(1, *B, '{"y":2}')], id="openai"
        ),
        pytest.param([call(0, *A, '{"x":1}'), call(0, *B, '{"y":2}')], id="all with index 0"),
        pytest.param([call(None, *A, '{"x":1}'), call(None, *B, '{"y":2}')], id="no index"),
        pytest.param([call(4, *A, '{"x":1}'), call(9, *B, '{"y":2}')], id="index from 4"),
        pytest.param(
            [call(0, *A, ""), call(0, *A, '{"x":1}'), call(1, *B, ""), call(1, *B, '{"y":2}')],
            id="id and name with every piece",
        ),
        pytest.param(
            [
                call(0, *A, ""),
                call(0, "fresh1", None, '{"x":1}'),
                call(1, *B, None),
                call(1, "fresh2", None, '{"y":2}'),
            ],
            id="a fresh id with every piece",
        ),
        pytest.param(
            [
                call(None, *A, None),
                call(None, None, None, '{"x":1}'),
                call(None, *B, None),
                call(None, None, None, '{"y":2}'),
            ],
            id="no index, in pieces",
        ),
    ],
)
def test_the_pieces_of_tool_calls_come_together(chunks: list[bytes]) -> None:
    assert decode(*chunks, DONE)[1:-1] == PARALLEL


def test_calls_without_index_in_one_list_are_told_apart() -> None:
    calls = [
        {"id": A[0], "function": {"name": A[1], "arguments": '{"x":1}'}},
        {"id": B[0], "function": {"name": B[1], "arguments": '{"y":2}'}},
    ]
    assert decode(chunk({"tool_calls": calls}), DONE)[1:-1] == PARALLEL


def test_interleaved_calls_and_choices_keep_their_places() -> None:
    def of_choice(number: int) -> bytes:
        calls = [{"index": 0, "id": f"c{number}", "function": {"name": "f", "arguments": "{}"}}]
        return chunk(choices=[{"index": number, "delta": {"tool_calls": calls}}])

    events = decode(of_choice(1), of_choice(0), DONE)
    assert ToolCallStarted(0, "c1", "f", 1) in events
    assert ToolCallStarted(0, "c0", "f", 0) in events


def test_a_whole_answer_takes_call_numbers_as_they_come() -> None:
    events = [
        ToolCallStarted(3, *A),
        ToolCallStarted(7, *B),
        ToolCallDelta(7, "{}"),
        ToolCallDelta(3, '{"x"'),
        ToolCallDelta(3, ":1}"),
    ]
    written = write_response(events)
    calls = written["choices"][0]["message"]["tool_calls"]
    assert [(one["id"], one["function"]["arguments"]) for one in calls] == [
        ("call_a", '{"x":1}'),
        ("call_b", "{}"),
    ]


# --- writing ---------------------------------------------------------------------------------


def encoded(*events: Event, wants_usage: bool = False) -> list[dict[str, Any]]:
    inspection = Inspection("asked-for", True, None, 1, wants_usage)
    encoder = CLIENT.stream_encoder(inspection, REPLY)
    stream = b"".join(encoder.write(event) for event in events) + encoder.write_end(Usage(input=2))
    messages = sse.Decoder().feed(stream)
    assert messages[-1].data == "[DONE]"
    return [json.loads(message.data) for message in messages[:-1]]


def test_usage_is_written_last_and_only_when_asked_for() -> None:
    assert all("usage" not in one for one in encoded(TextDelta("a")))
    *chunks, last = encoded(TextDelta("a"), UsageReported(Usage(input=1)), wants_usage=True)
    assert all(one["usage"] is None for one in chunks)
    assert (last["choices"], last["usage"]["prompt_tokens"]) == ([], 2)


def test_the_model_asked_for_stands_in_until_the_provider_names_one() -> None:
    assert encoded(Started("x", ""), TextDelta("a"))[0]["model"] == "asked-for"
    assert encoded(Started("x", "theirs"), TextDelta("a"))[0]["model"] == "theirs"


def test_each_choice_opens_with_its_role_once() -> None:
    chunks = encoded(TextDelta("a", 1), TextDelta("b", 0), RefusalDelta("c", 1))
    opened = [one["choices"][0]["index"] for one in chunks if "role" in one["choices"][0]["delta"]]
    assert opened == [1, 0]


def test_each_message_is_written_in_one_piece() -> None:
    encoder = CLIENT.stream_encoder(Inspection("m", True, None, 1, False), REPLY)
    piece = encoder.write(TextDelta('line\nbreak "usage":{ [DONE]'))
    assert piece.endswith(b"\n\n")
    assert piece.count(b"\n\n") == 2  # the role and the text


EVENTS = st.lists(
    st.one_of(
        st.builds(TextDelta, st.text(max_size=5), st.integers(0, 2)),
        st.builds(RefusalDelta, st.text(max_size=5), st.integers(0, 2)),
        st.builds(ReasoningDelta, st.text(max_size=5), st.integers(0, 2)),
        st.builds(ChoiceFinished, st.sampled_from(FinishReason), st.integers(0, 2)),
        st.builds(ToolCallStarted, st.integers(0, 2), st.text(max_size=3), st.just("f")),
    ),
    max_size=8,
)


@given(EVENTS)
def test_any_events_make_chunks_the_openai_sdk_reads(events: list[Event]) -> None:
    for one in encoded(*events, wants_usage=True):
        ChatCompletionChunk.model_validate(one)


def test_a_failure_inside_a_stream_is_one_message_with_all_four_keys() -> None:
    refusal = refusals.upstream_failed(retryable=False)
    encoder = CLIENT.stream_encoder(Inspection("m", True, None, 1, False), REPLY)
    (message,) = sse.Decoder().feed(encoder.write_failure(refusal))
    assert json.loads(message.data) == refusal.body()


# --- errors inside streams -------------------------------------------------------------------

FAILURES = [
    pytest.param(
        b'data: {"error":{"message":"boom","code":"x"}}\n\n', Failed("boom", "x"), id="object"
    ),
    pytest.param(b'data: {"error" : {"message":"boom"}}\n\n', Failed("boom"), id="spaces"),
    pytest.param(b'data: {"error":"boom"}\n\n', Failed("boom"), id="string"),
    pytest.param(
        b'event: error\ndata: {"error":{"message":"boom"}}\n\n', Failed("boom"), id="named"
    ),
    pytest.param(b'data:{"error":{"message":"boom"}}\nid: 4\n\n', Failed("boom"), id="more fields"),
    pytest.param(
        b'data: {"object":"error","message":"boom","code":400}\n\n',
        Failed("boom", "400"),
        id="vllm",
    ),
]


@pytest.mark.parametrize(("message", "failed"), FAILURES)
def test_an_error_inside_a_stream_ends_it(message: bytes, failed: Failed) -> None:
    assert decode(chunk({"content": "a"}), message, chunk({"content": "b"}))[2:] == [failed]
    reader = ChatPassThrough(wants_usage=True)
    forwarded = reader.feed(chunk({"content": "a"}) + message + chunk({"content": "b"}) + DONE)
    assert forwarded == chunk({"content": "a"})
    assert reader.failure == "boom"
    assert reader.feed(chunk({"content": "c"})) == b""
    assert reader.close() == b""


def test_an_error_after_the_usage_report_withholds_the_report() -> None:
    reader = ChatPassThrough(wants_usage=True)
    assert reader.feed(chunk(usage=USAGE) + b'data: {"error":"boom"}\n\n') == b""
    assert (reader.failure, reader.close()) == ("boom", b"")
    assert reader.usage == Usage(input=12, output=5)


def test_no_error_is_no_failure() -> None:
    stream = chunk({"content": "a"}, error=None) + DONE
    assert TextDelta("a") in decode(stream)
    reader = ChatPassThrough(wants_usage=False)
    assert reader.feed(stream) + reader.close() == stream
    assert reader.failure == ""


@pytest.mark.parametrize("data", [b"{", b"[]", b"5", b'"x"', b"null", b"<html>"])
def test_a_chunk_that_is_no_object_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableAnswer):
        decode(sse.encode(data))


@pytest.mark.parametrize("data", [b'{"usage":{', b'["[DONE]"]', b'["error"]', b'"[DONE] x"'])
def test_forwarding_notices_what_it_has_to_read_and_cannot(data: bytes) -> None:
    with pytest.raises(UnreadableAnswer):
        ChatPassThrough(wants_usage=True).feed(sse.encode(data))


# --- forwarding ------------------------------------------------------------------------------


def test_text_that_looks_like_usage_or_the_end_is_only_text() -> None:
    text = '"usage":{"prompt_tokens":9} data: [DONE] {"error":{"message":"x"}} "error"'
    stream = chunk({"content": text}) + chunk({"content": "[DONE]"}) + chunk({"content": "error"})
    reader = ChatPassThrough(wants_usage=False)
    assert reader.feed(stream) == stream
    assert (reader.usage, reader.failure, reader.relayed_pieces) == (None, "", 3)
    with pytest.raises(TruncatedStream):
        reader.close()


@pytest.mark.parametrize("space", [b"", b" ", b"  ", b"\t"])
def test_usage_is_found_whatever_the_spaces(space: bytes) -> None:
    stream = b'data: {"choices":[],"usage"' + space + b":" + space + b'{"prompt_tokens":3}}\n\n'
    reader = ChatPassThrough(wants_usage=False)
    assert reader.feed(stream) == b""
    assert reader.usage == Usage(input=3)


def test_a_usage_report_with_a_choice_is_forwarded_at_once() -> None:
    message = chunk({"content": "a"}, "stop", usage=USAGE)
    reader = ChatPassThrough(wants_usage=False)
    assert reader.feed(message) == message
    assert reader.usage == Usage(input=12, output=5)


def test_a_report_that_is_not_the_last_message_keeps_its_place() -> None:
    late = chunk(moderation={"flagged": False})
    reader = ChatPassThrough(wants_usage=True)
    assert reader.feed(chunk(usage=USAGE)) == b""
    assert reader.feed(late) == chunk(usage=USAGE) + late
    assert reader.feed(DONE) == b""
    assert reader.close() == DONE


def test_an_object_that_reports_no_tokens_is_no_report() -> None:
    message = chunk(usage={})
    reader = ChatPassThrough(wants_usage=False)
    assert reader.feed(message) == message
    assert reader.usage is None


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("space", [b"", b" "])
def test_pieces_are_counted_however_they_are_spelt(end: bytes, space: bytes) -> None:
    delta = b'{"content":' + space + b'"data: \\"content\\":\\"x"}'
    said = b"data:" + space + b'{"choices":[{"delta":' + delta + b"}]}" + end + end
    silent = said.replace(delta, b'{"role":"assistant","content":' + space + b'""}')
    last = said.replace(delta, b"{}")
    stream = (b": ka" + end + end) + silent + said * 3 + last
    for step in (1, 5, 1000):
        reader = ChatPassThrough(wants_usage=False)
        for at in range(0, len(stream), step):
            reader.feed(stream[at : at + step])
        assert reader.relayed_pieces == 3


@pytest.mark.parametrize(
    ("written", "model"),
    [
        (b'"model":"gpt-4o"', "gpt-4o"),
        (b'"model": "gpt-4o"', "gpt-4o"),
        (b'"model":"","x":{"model":"b"}', "b"),
        (b'"model":"\xc3\xa9"', "é"),
        (b'"modell":"x"', ""),
    ],
)
def test_the_model_is_noted_while_forwarding(written: bytes, model: str) -> None:
    reader = ChatPassThrough(wants_usage=False)
    reader.feed(b"data: {" + written + b"}\n\n")
    assert reader.model == model


def test_a_message_without_end_is_refused() -> None:
    reader = ChatPassThrough(wants_usage=False)
    reader.feed(b"data: " + b"x" * (sse.MESSAGE_BYTES_MAX - 6))
    with pytest.raises(sse.MessageTooLong):
        reader.feed(b"x")
    decoder = UPSTREAM.stream_decoder()
    with pytest.raises(sse.MessageTooLong):
        decoder.feed(b"data: " + b"x" * sse.MESSAGE_BYTES_MAX)


@given(st.lists(st.binary(max_size=30) | st.sampled_from([DONE, chunk({}), b"\n\n"]), max_size=6))
def test_forwarding_any_bytes_holds_back_only_what_is_not_whole(pieces: list[bytes]) -> None:
    reader = ChatPassThrough(wants_usage=True)
    try:
        forwarded = b"".join([reader.feed(piece) for piece in pieces])
    except (UnreadableAnswer, sse.UnreadableMessage):
        return
    sent = b"".join(pieces).replace(b"\r\n", b"\n")
    assert sent.startswith(forwarded)
    assert forwarded == b"" or forwarded.endswith(b"\n\n")


# --- requests and hostile answers ------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        (None, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}),
        ("no", {"include_usage": True}),
    ],
)
def test_usage_is_asked_for_whatever_the_client_says(options: Any, sent: dict[str, Any]) -> None:
    body = {"model": "alias", "messages": [], "stream": True, "stream_options": options, "x": 1}
    prepared = UPSTREAM.prepare_pass_through(body, Target("real", 100), is_stream=True)
    assert prepared == {**body, "model": "real", "stream_options": sent}
    assert body["model"] == "alias"
    assert body["stream_options"] == options


def test_sources_of_a_model_that_searches_are_read_whole_and_streamed() -> None:
    source = {"url": "https://a.example", "title": "A", "start_index": 0, "end_index": 2}
    said = {
        "content": "So.",
        "annotations": [
            {"type": "url_citation", "url_citation": source},
            {"type": "url_citation", "url_citation": {"url": "https://b.example"}},
            {"type": "file_citation"},
        ],
    }
    cited = [
        CitationAdded("https://a.example", "A", 0, 2),
        CitationAdded("https://b.example"),
    ]
    whole = UPSTREAM.read_response(
        {"model": "m", "choices": [{"index": 0, "message": said, "finish_reason": "stop"}]}
    )
    assert [event for event in whole if isinstance(event, CitationAdded)] == cited
    chunk = {"model": "m", "choices": [{"index": 0, "delta": said}]}
    streamed = UPSTREAM.stream_decoder().feed(b"data: " + json.dumps(chunk).encode() + b"\n\n")
    assert streamed[1:] == [TextDelta("So."), *cited]


def read_both(message: dict[str, Any], finish: str = "tool_calls") -> list[list[Any]]:
    """The events of an answer, whole and streamed."""
    head = {"id": "a", "model": "m", "created": 1}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    chunk = {**head, "choices": [{"index": 0, "delta": message, "finish_reason": finish}]}
    data = b"data: " + json.dumps(chunk).encode() + b"\n\n"
    streamed = UPSTREAM.stream_decoder().feed(data)
    return [list(UPSTREAM.read_response({**head, "choices": [choice]})), streamed]


def test_a_call_without_an_id_gets_one_and_arguments_may_be_an_object() -> None:
    calls = [{"function": {"name": name, "arguments": {"a": 1}}} for name in ("f", "g")]
    whole, streamed = (
        [event for event in events if isinstance(event, ToolCallStarted | ToolCallDelta)]
        for events in read_both({"tool_calls": calls})
    )
    assert whole == streamed
    ids = [event.call_id for event in whole if isinstance(event, ToolCallStarted)]
    assert all(re.fullmatch(r"call_[0-9a-f]{24}", call_id) for call_id in ids)
    assert len(set(ids)) == 2
    pieces = [event.json_piece for event in whole if isinstance(event, ToolCallDelta)]
    assert pieces == ['{"a":1}'] * 2


@pytest.mark.parametrize("finish", ["error", "insufficient_system_resource"])
def test_an_answer_that_broke_off_is_no_whole_one(finish: str) -> None:
    with pytest.raises(UnreadableAnswer):
        read_both({"content": "So"}, finish)
    choice = {"index": 0, "delta": {"content": "So"}, "finish_reason": finish}
    data = b"data: " + json.dumps({"model": "m", "choices": [choice]}).encode() + b"\n\n"
    events = UPSTREAM.stream_decoder().feed(data)
    assert events[1:] == [TextDelta("So"), Failed("The answer broke off.", finish)]


def test_a_full_window_is_a_limit() -> None:
    for events in read_both({"content": "So"}, "model_length"):
        assert ChoiceFinished(FinishReason.LENGTH) in events


def test_azures_filtered_choice_has_no_message_and_says_why() -> None:
    body = {"model": "m", "choices": [{"index": 0, "finish_reason": "content_filter"}]}
    assert ChoiceFinished(FinishReason.CONTENT_FILTER) in UPSTREAM.read_response(body)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"choices": None},
        {"choices": {}},
        {"choices": ["x"]},
        {"choices": [{}]},
        {"choices": [{"index": 0}]},
        {"error": {"message": "no"}},
    ],
)
def test_an_answer_without_choices_is_unreadable(body: dict[str, Any]) -> None:
    with pytest.raises(UnreadableAnswer):
        UPSTREAM.read_response(body)


NAMES = [
    *("id", "model", "created", "choices", "index", "delta", "message", "content", "refusal"),
    *("reasoning", "tool_calls", "function", "name", "arguments", "logprobs", "finish_reason"),
    *("usage", "prompt_tokens", "prompt_tokens_details", "cached_tokens", "error", "text"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats(-3, 3) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
    ),
    max_leaves=15,
)


@given(st.dictionaries(st.sampled_from(NAMES), JSON), st.lists(JSON, max_size=2))
def test_no_whole_answer_breaks_the_reader(body: dict[str, Any], choices: list[Any]) -> None:
    for one in (body, {**body, "choices": choices}, {"choices": [{"message": body}]}):
        try:
            UPSTREAM.read_usage(one)
            events = UPSTREAM.read_response(one)
        except UnreadableAnswer:
            continue
        write_response(events)


@given(st.lists(st.dictionaries(st.sampled_from(NAMES), JSON), min_size=1, max_size=3))
def test_no_chunk_breaks_the_readers(bodies: list[dict[str, Any]]) -> None:
    choices = [{"choices": [body]} for body in bodies]
    deltas = [{"choices": [{"index": 0, "delta": body}]} for body in bodies]
    for one in (bodies, choices, deltas):
        stream = b"".join(sse.encode(json.dumps(body).encode()) for body in one) + DONE
        events = decode(stream)
        write_response(events)
        encoded(*events)
        reader = ChatPassThrough(wants_usage=True)
        reader.feed(stream)
        reader.close()
        failures = [event for event in events if isinstance(event, Failed)]
        assert bool(reader.failure) == bool(failures)
        usages = [event.usage for event in events if isinstance(event, UsageReported)]
        assert reader.usage == (usages[-1] if usages else None)
