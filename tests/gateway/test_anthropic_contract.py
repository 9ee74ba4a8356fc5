"""What holds for every recording of the Messages API, however its bytes arrive."""

import json
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import orjson
import pytest
from anthropic.types import Message, MessageCreateParams, RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from billing.pricing import Usage
from gateway import refusals, sse
from gateway.dialects import UPSTREAM_DIALECTS
from gateway.dialects.anthropic import AnthropicClient, AnthropicPassThrough, AnthropicUpstream
from gateway.dialects.base import (
    Inspection,
    Json,
    Reply,
    Target,
    TruncatedStream,
    UnreadableAnswer,
)
from gateway.events import (
    ChoiceFinished,
    CitationAdded,
    Ended,
    Event,
    Failed,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from tests.recordings import ALL, Recording, of_folder

CLIENT, UPSTREAM = AnthropicClient(), AnthropicUpstream()
INSPECTION = Inspection("asked-for", True, 100, wants_usage=True)
REPLY = Reply("0" * 32, 7, {})
LONG_STREAM_BYTES = 5_000
EVENT = TypeAdapter[RawMessageStreamEvent](RawMessageStreamEvent)
REQUEST = TypeAdapter[MessageCreateParams](MessageCreateParams)

RECORDINGS = of_folder("anthropic")
STREAMS = [one for one in RECORDINGS if one.kind == "stream"]
ANSWERS = [one for one in RECORDINGS if one.kind == "answer" and "content" in one.answer]
COUNTS = [one for one in RECORDINGS if one.kind == "answer" and "content" not in one.answer]
ERRORS_INSIDE = [one for one in STREAMS if "/errors/" in one.name]
WHOLE_STREAMS = [one for one in STREAMS if one not in ERRORS_INSIDE]
REQUESTS = [one for one in RECORDINGS if one.request is not None]
FOLDERS = {"openai_responses": "openai-responses", "gemini": "gemini"}
OTHER_STREAMS = [
    *[("openai_chat", one) for one in ALL if one.kind == "stream"],
    *[
        (dialect, one)
        for dialect, folder in FOLDERS.items()
        for one in of_folder(folder)
        if one.kind == "stream" and dialect in UPSTREAM_DIALECTS
    ],
]


def each(recordings: Iterable[Recording]) -> Any:
    """Parametrize over recordings, by name."""
    return pytest.mark.parametrize(
        "recording", [pytest.param(one, id=one.name) for one in recordings]
    )


def merge(events: Iterable[Event]) -> list[Event]:
    """Adjacent deltas of the same thing joined, and only the last usage kept, before the end."""
    merged: list[Event] = []
    usage: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        match last, event:
            case _, UsageReported():
                usage = [event]
            case TextDelta(), TextDelta():
                merged[-1] = replace(last, text=last.text + event.text)
            case ReasoningDelta(), ReasoningDelta():
                merged[-1] = replace(last, text=last.text + event.text)
            case ToolCallDelta(), ToolCallDelta() if last.index == event.index:
                merged[-1] = replace(last, json_piece=last.json_piece + event.json_piece)
            case _:
                merged.append(event)
    return [*merged[:-1], *usage, *merged[-1:]]


def decode(pieces: Iterable[bytes]) -> list[Event]:
    decoder = UPSTREAM.stream_decoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return merge([*events, *decoder.close()])


def forward(pieces: Iterable[bytes]) -> tuple[AnthropicPassThrough, bytes]:
    reader = UPSTREAM.pass_through(INSPECTION, REPLY)
    forwarded = b"".join([reader.feed(piece) for piece in pieces])
    return reader, forwarded + reader.close()


def single_bytes(stream: bytes) -> Iterator[bytes]:
    return (stream[at : at + 1] for at in range(len(stream)))


def messages_of(stream: bytes) -> list[bytes]:
    """The stream's messages, each with its blank line."""
    return [block + b"\n\n" for block in stream.strip(b"\n").split(b"\n\n") if block]


def offsets(message: bytes, stream: bytes) -> range:
    """Every offset of a message; in long streams some, from its end, at most some hundreds."""
    step = 1 if len(stream) <= LONG_STREAM_BYTES else max(5, len(message) // 200)
    return range(len(message) - 1, 0, -step)


def frames_of(stream: bytes) -> list[Json]:
    return [orjson.loads(message.data) for message in sse.Decoder().feed(stream)]


def write_stream(events: Iterable[Event]) -> bytes:
    """What a client gets, at our hands."""
    encoder = CLIENT.stream_encoder(INSPECTION, REPLY)
    written, usage, failed = b"", Usage(), False
    for event in events:
        written += encoder.write(event)
        usage = event.usage if isinstance(event, UsageReported) else usage
        failed = failed or isinstance(event, Failed)
    if failed:
        return written + encoder.write_failure(refusals.upstream_failed(retryable=False))
    return written + encoder.write_end(usage)


def write_answer(events: Iterable[Event]) -> Json:
    writer = CLIENT.response_writer(INSPECTION, REPLY)
    for event in events:
        writer.add(event)
    return dict(writer.finish())


def content_of(events: Iterable[Event]) -> list[Event]:
    """What was said: without identity, usage, and offsets, which no wire keeps exactly."""
    return [
        replace(event, start=-1, end=-1) if isinstance(event, CitationAdded) else event
        for event in merge(events)
        if not isinstance(event, Started | UsageReported)
    ]


# --- the collection --------------------------------------------------------------------------


def test_every_recording_of_this_wire_is_read_by_a_test() -> None:
    assert len(RECORDINGS) == len(STREAMS) + len(ANSWERS) + len(COUNTS)
    assert len(RECORDINGS) > 75
    assert {one.name.split("/")[1] for one in COUNTS} == {"count-tokens", "prompt-caching"}
    assert all(one.answer["input_tokens"] > 0 for one in COUNTS)


# --- streams ---------------------------------------------------------------------------------


@each(STREAMS)
def test_a_stream_decodes_the_same_byte_by_byte_and_with_other_line_ends(
    recording: Recording,
) -> None:
    whole = decode([recording.stream])
    assert decode(single_bytes(recording.stream)) == whole
    for line_end in (b"\r\n", b"\r"):
        assert decode([recording.stream.replace(b"\n", line_end)]) == whole


@each(STREAMS)
def test_a_message_cut_anywhere_gives_the_same_events_and_is_forwarded_the_same(
    recording: Recording,
) -> None:
    """Each message from the state before it, in two pieces, with the next one as a witness."""
    decoder, reader = UPSTREAM.stream_decoder(), UPSTREAM.pass_through(INSPECTION, REPLY)
    messages = messages_of(recording.stream)
    for number, message in enumerate(messages):
        before = pickle.dumps((decoder, reader))
        witness = messages[number + 1] if number + 1 < len(messages) else b""
        whole, forwarder = pickle.loads(before)
        events, forwarded = whole.feed(message + witness), forwarder.feed(message + witness)
        for at in offsets(message, recording.stream):
            cut, other = pickle.loads(before)
            pieces = (message[:at], message[at:], witness)
            assert [event for piece in pieces for event in cut.feed(piece)] == events, (number, at)
            assert b"".join([other.feed(piece) for piece in pieces]) == forwarded, (number, at)
            assert (other.usage, other.model, other.failure, other.relayed_pieces) == (
                forwarder.usage,
                forwarder.model,
                forwarder.failure,
                forwarder.relayed_pieces,
            )
        decoder.feed(message)
        reader.feed(message)


@each(WHOLE_STREAMS)
def test_a_stream_is_forwarded_as_it_is_and_its_end_held_back(recording: Recording) -> None:
    reader = UPSTREAM.pass_through(INSPECTION, REPLY)
    forwarded = reader.feed(recording.stream)
    end = reader.close()
    assert b'"message_stop"' not in forwarded
    assert (forwarded + end).strip(b"\n") == recording.stream.strip(b"\n")
    assert [frame["type"] for frame in frames_of(end)] == ["message_stop"]


@each(STREAMS)
def test_forwarding_learns_what_decoding_learns(recording: Recording) -> None:
    events = decode([recording.stream])
    usages = [event.usage for event in events if isinstance(event, UsageReported)]
    models = [event.model for event in events if isinstance(event, Started)]
    failures = [event.message for event in events if isinstance(event, Failed)]
    spoken = [frame for frame in frames_of(recording.stream) if "delta" in frame.get("type", "")]
    counts = set()
    for pieces in ([recording.stream], single_bytes(recording.stream)):
        reader, _ = forward(pieces)
        assert reader.usage == (usages[-1] if usages else None)
        assert reader.model == "".join(models)
        assert reader.failure == "".join(failures)
        assert (recording in ERRORS_INSIDE) == bool(reader.failure)
        counts.add(reader.relayed_pieces)
    assert len(counts) == 1
    deltas = [frame for frame in spoken if frame["type"] == "content_block_delta"]
    # A token a piece at least, more for a long one, and never more than the provider counts.
    assert len(deltas) <= max(counts)
    if len(deltas) < max(counts) and recording in WHOLE_STREAMS:
        assert max(counts) <= usages[-1].whole_output


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
    assert decoder.close() == []
    reader.close()


@each(WHOLE_STREAMS)
def test_a_streams_events_are_in_order_and_end_once(recording: Recording) -> None:
    events = decode([recording.stream])
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Ended)
    assert [type(event) for event in events].count(ChoiceFinished) == 1
    assert isinstance(events[-2], UsageReported)
    assert isinstance(events[-3], ChoiceFinished)
    calls = [event for event in events if isinstance(event, ToolCallStarted)]
    assert [call.index for call in calls] == list(range(len(calls)))
    assert all(call.call_id and call.name for call in calls)


@each(one for one in WHOLE_STREAMS if "spliced" not in one.name)
def test_the_calls_of_a_stream_have_whole_arguments(recording: Recording) -> None:
    arguments = [
        event.json_piece for event in decode([recording.stream]) if isinstance(event, ToolCallDelta)
    ]
    started = [frame for frame in frames_of(recording.stream) if "content_block" in frame]
    uses = [one for one in started if one["content_block"]["type"] == "tool_use"]
    assert len(arguments) == len(uses)
    assert all(isinstance(json.loads(piece), dict) for piece in arguments)


@each(WHOLE_STREAMS)
def test_a_streams_usage_is_its_last_counts_over_its_first(recording: Recording) -> None:
    frames = frames_of(recording.stream)
    counts: dict[str, Any] = {}
    for frame in frames:
        usage = frame.get("usage") or frame.get("message", {}).get("usage") or {}
        counts |= {name: value for name, value in usage.items() if value is not None}
    usage = decode([recording.stream])[-2]
    assert isinstance(usage, UsageReported)
    assert usage.usage.input == counts["input_tokens"]
    assert usage.usage.output == counts["output_tokens"]
    assert usage.usage.cache_read == counts.get("cache_read_input_tokens", 0)
    assert usage.usage.cache_write == counts.get("cache_creation_input_tokens", 0)
    thought = counts.get("output_tokens_details", {}).get("thinking_tokens", 0)
    assert usage.usage.reasoning == thought


@each(STREAMS)
def test_a_stream_written_and_read_again_says_the_same(recording: Recording) -> None:
    events = decode([recording.stream])
    again = decode([write_stream(events)])
    if recording in ERRORS_INSIDE:
        assert [type(event) for event in again][-1] is Failed
        return
    assert content_of(again) == content_of(events)
    assert again[-2] == events[-2]
    assert [event for event in again if isinstance(event, Started)] == [
        replace(event, response_id=f"msg_{REPLY.seed}")
        for event in events
        if isinstance(event, Started)
    ]


@each(WHOLE_STREAMS)
def test_every_event_written_is_one_the_sdk_reads_and_the_grammar_allows(
    recording: Recording,
) -> None:
    check_grammar(write_stream(decode([recording.stream])))


def check_grammar(written: bytes) -> None:
    """The order of events that every client relies on."""
    messages = sse.Decoder().feed(written)
    frames = [orjson.loads(message.data) for message in messages]
    assert [message.event for message in messages] == [frame["type"] for frame in frames]
    for frame in frames:
        EVENT.validate_python(frame)
    kinds = [frame["type"] for frame in frames]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert all(kind.startswith("content_block") for kind in kinds[1:-2])
    opened: int | None = None
    started = 0
    for frame in frames[1:-2]:
        match frame["type"]:
            case "content_block_start":
                assert opened is None
                assert frame["index"] == started
                opened, started = started, started + 1
            case "content_block_delta":
                assert frame["index"] == opened
            case "content_block_stop":
                assert frame["index"] == opened
                opened = None
    assert opened is None


@given(st.data())
def test_any_stream_in_any_pieces_decodes_and_forwards_the_same(data: st.DataObject) -> None:
    recording = data.draw(st.sampled_from(STREAMS), label="recording")
    stream = recording.stream
    if data.draw(st.booleans(), label="crlf"):
        stream = stream.replace(b"\n", b"\r\n")
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12), label="cuts")
    edges = [0, *sorted(cuts), len(stream)]
    pieces = [stream[start:end] for start, end in pairwise(edges)]
    assert decode(pieces) == decode([recording.stream])
    assert forward(pieces)[1] == forward([stream])[1]


# --- whole answers ---------------------------------------------------------------------------


@each(ANSWERS)
def test_a_whole_answer_written_again_keeps_what_it_says(recording: Recording) -> None:
    body = recording.answer
    events = UPSTREAM.read_response(body)
    written = write_answer(events)
    Message.model_validate(written)
    assert written["model"] == body["model"]
    assert written["stop_reason"] == body["stop_reason"]
    said = [block for block in body["content"] if block["type"] in SAID]
    for kind, member in SAID.items():
        theirs = [block[member] for block in said if block["type"] == kind]
        ours = [block[member] for block in written["content"] if block["type"] == kind]
        if kind == "text":  # blocks of text run together where nothing parts them
            ours, theirs = ["".join(ours)], ["".join(theirs)]
        assert ours == theirs
    assert content_of(UPSTREAM.read_response(written)) == content_of(events)


SAID = {
    "text": "text",
    "thinking": "signature",
    "redacted_thinking": "data",
    "tool_use": "input",
}


@each(ANSWERS)
def test_a_whole_answers_usage_adds_up(recording: Recording) -> None:
    body = recording.answer
    theirs = body["usage"]
    usage = UPSTREAM.read_usage(body)
    assert usage is not None
    assert usage.output == theirs["output_tokens"]
    assert usage.whole_input == (
        theirs["input_tokens"]
        + theirs.get("cache_creation_input_tokens", 0)
        + theirs.get("cache_read_input_tokens", 0)
    )
    written = write_answer(UPSTREAM.read_response(body))
    assert UPSTREAM.read_usage(written) == usage


@each(ANSWERS)
def test_a_whole_answer_streamed_says_the_same(recording: Recording) -> None:
    events = list(UPSTREAM.read_response(recording.answer))
    written = write_stream(events)
    check_grammar(written)
    assert content_of(decode([written])) == content_of(events)


@each(WHOLE_STREAMS)
def test_a_streamed_answer_told_whole_says_the_same(recording: Recording) -> None:
    events = decode([recording.stream])
    written = write_answer(events)
    Message.model_validate(written)
    if "spliced" in recording.name:  # a call cut in the middle has no whole form
        return
    again = normal(UPSTREAM.read_response(written))
    assert again == normal(events)


def normal(events: Iterable[Event]) -> list[Event]:
    """Content, with JSON arguments in one spelling."""
    return [
        replace(event, json_piece=json.dumps(json.loads(event.json_piece)))
        if isinstance(event, ToolCallDelta)
        else event
        for event in content_of(events)
    ]


@pytest.mark.parametrize("body", [{"type": "error", "error": {"message": "x"}}, {"content": None}])
def test_what_is_no_message_is_no_answer(body: Json) -> None:
    with pytest.raises(UnreadableAnswer):
        UPSTREAM.read_response(body)


# --- requests --------------------------------------------------------------------------------


@each(one for one in REQUESTS if "max_tokens" in (one.request or {}))
def test_a_recorded_request_is_read_and_written_with_the_same_meaning(
    recording: Recording,
) -> None:
    body = recording.request
    assert body is not None
    before = pickle.dumps(body)
    asked = CLIENT.inspect(body)
    assert (asked.model, asked.is_stream) == (body["model"], bool(body.get("stream")))
    assert asked.output_tokens_max == body["max_tokens"]
    if body.get("mcp_servers"):
        with pytest.raises(refusals.Refusal, match="mcp_servers"):
            CLIENT.read_request(body)
        return
    request = CLIENT.read_request(body)
    written = UPSTREAM.write_request(request, Target(body["model"], 0))
    check_request(written)
    assert meaning(written) == meaning(body)
    assert pickle.dumps(body) == before
    prepared = UPSTREAM.prepare_pass_through(body, Target("upstream", 0), is_stream=True)
    assert prepared == {**body, "model": "upstream"}
    assert pickle.dumps(body) == before


def check_request(written: Json) -> None:
    """The SDK's own types accept it; iterables are validated only as they are consumed."""
    consume(REQUEST.validate_python(written))


def consume(value: Any) -> None:
    if isinstance(value, dict):
        value = value.values()
    if not isinstance(value, str | bytes) and isinstance(value, Iterable):
        for item in value:
            consume(item)


def meaning(body: Json) -> Json:
    """A request without defaults and marks, and with one form for each thing."""
    system = body.get("system") or []
    tools = [
        {name: tool[name] for name in ("name", "input_schema", "strict") if tool.get(name)}
        for tool in body.get("tools", ())
        if tool.get("type", "custom") == "custom"
    ]
    return {
        "model": body["model"],
        "system": [{"type": "text", "text": system}] if isinstance(system, str) else system,
        "messages": meaning_of_messages(body["messages"]),
        "tools": tools,
        "tool_choice": body.get("tool_choice") if tools else None,
        "stop": body.get("stop_sequences", []),
        "format": body.get("output_config", {}).get("format"),
        "user": body.get("metadata", {}).get("user_id"),
        # An effort alone makes the model think in this vocabulary; a budget becomes an effort.
        "thinks": "thinking" in body or "effort" in body.get("output_config", {}),
    }


def meaning_of_messages(messages: list[Json]) -> list[Json]:
    meant: list[Json] = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        kept = [
            meaning_of_block(block, message["role"])
            for block in blocks
            if block["type"] in KEPT_BLOCKS and block.get("text") != ""
        ]
        if meant and meant[-1]["role"] == role:
            meant[-1]["content"] += kept
        elif kept:
            meant.append({"role": role, "content": kept})
    last = meant[-1]["content"][-1]
    if meant[-1]["role"] == "assistant":
        last["text"] = last["text"].rstrip()
    return meant


KEPT_BLOCKS = frozenset(
    (
        *("text", "image", "document", "thinking", "redacted_thinking"),
        *("tool_use", "tool_result"),
    )
)


def meaning_of_block(block: Json, role: str) -> Json:
    kept = {
        name: value
        for name, value in block.items()
        if name not in ("cache_control", "citations") and value not in (None, False)
    }
    if role == "system":
        kept["text"] = kept["text"].removeprefix("<system>").removesuffix("</system>")
        kept["text"] = f"<system>{kept['text']}</system>"
    if block["type"] == "tool_result" and isinstance(block["content"], str):
        kept["content"] = [{"type": "text", "text": block["content"]}]
    if block["type"] == "document" and block["source"]["type"] == "text":
        title = f"{block['title']}\n\n" if "title" in block else ""
        return {"type": "text", "text": title + block["source"]["data"]}
    return kept


# --- what other providers say ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("dialect", "recording"), [pytest.param(*one, id=one[1].name) for one in OTHER_STREAMS]
)
def test_what_other_providers_say_is_told_in_the_grammar_of_this_wire(
    dialect: str, recording: Recording
) -> None:
    decoder = UPSTREAM_DIALECTS[dialect].stream_decoder()
    events = decoder.feed(recording.stream)
    if any(isinstance(event, Failed) for event in events):
        return
    written = write_stream(events)
    check_grammar(written)
    again = decode([written])
    for kind, member in ((TextDelta, "text"), (ReasoningDelta, "text"), (RefusalDelta, "text")):
        said = first_choice(events, kind, member)
        assert first_choice(again, kind, member) == said or (kind is RefusalDelta and not said)
    assert arguments_of(again) == arguments_of(events)
    Message.model_validate(write_answer(events))


def first_choice(events: Iterable[Event], kind: type, member: str) -> str:
    mine = [event for event in events if isinstance(event, kind)]
    return "".join(getattr(event, member) for event in mine if getattr(event, "choice", 0) == 0)


def arguments_of(events: Iterable[Event]) -> dict[str, Json]:
    """Arguments by call id."""
    calls: dict[int, tuple[str, str]] = {}
    for event in events:
        if isinstance(event, ToolCallStarted) and event.choice == 0:
            calls[event.index] = (event.call_id, "")
        elif isinstance(event, ToolCallDelta) and event.choice == 0:
            call_id, arguments = calls[event.index]
            calls[event.index] = (call_id, arguments + event.json_piece)
    return {call_id: json.loads(arguments or "{}") for call_id, arguments in calls.values()}
