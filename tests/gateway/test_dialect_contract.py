"""What holds for every recording: the same answer however its bytes arrive, and nothing lost.

A recording belongs to one kind, and each kind's tests run over all of that kind; so a recording
that no test reads cannot exist (`test_every_recording_is_read_by_a_test`).
"""

import json
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from gateway import refusals, sse
from gateway.dialects import CLIENT_DIALECTS, UPSTREAM_DIALECTS
from gateway.dialects.base import (
    Inspection,
    PassThrough,
    Reply,
    Target,
    TruncatedStream,
    UnreadableAnswer,
)
from gateway.dialects.openai_chat import write_usage_object
from gateway.events import (
    ChoiceFinished,
    Ended,
    Event,
    Failed,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from tests.recordings import ALL, FOLDER, WIRES_APART, Recording, of_folder, of_kind

CLIENT = CLIENT_DIALECTS["openai_chat"]
UPSTREAM = UPSTREAM_DIALECTS["openai_chat"]
REPLY = Reply(seed="0" * 32, created_at=7, body={})
LONG_STREAM_BYTES = 5_000
STREAMS_WITH_ERROR = {
    "errors/openai-chat-midstream-error-2023",
    "openai-compatible-others/pyd__openrouter_stream_error.0",
    "openai-compatible-others/pyd__tool_use_failed_error_streaming.0",
}


def each(recordings: Iterable[Recording]) -> Any:
    """Parametrize over recordings, by name."""
    return pytest.mark.parametrize(
        "recording", [pytest.param(one, id=one.name) for one in recordings]
    )


STREAMS = of_kind("stream")
ANSWERS = of_kind("answer")
REQUESTS = [one for one in ALL if one.request is not None and "contents" not in one.request]
WHOLE_STREAMS = [one for one in STREAMS if one.name not in STREAMS_WITH_ERROR]


def inspection(*, wants_usage: bool = True) -> Inspection:
    return Inspection("asked-for", True, None, 1, wants_usage)


def write_response(events: Iterable[Event]) -> Any:
    """A whole answer, as the chat client's dialect writes it."""
    writer = CLIENT.response_writer(inspection(), REPLY)
    for event in events:
        writer.add(event)
    return writer.finish()


def merge(events: Iterable[Event]) -> list[Event]:
    """Adjacent deltas of the same thing joined, and only the last usage kept."""
    merged: list[Event] = []
    for event in events:
        last = merged[-1] if merged else None
        match last, event:
            case TextDelta(), TextDelta() if last.choice == event.choice:
                logprobs = (*last.logprobs, *event.logprobs)
                merged[-1] = replace(last, text=last.text + event.text, logprobs=logprobs)
            case (RefusalDelta(), RefusalDelta()) | (ReasoningDelta(), ReasoningDelta()) if (
                last.choice == event.choice
            ):
                merged[-1] = replace(last, text=last.text + event.text)
            case ToolCallDelta(), ToolCallDelta() if (last.choice, last.index) == (
                event.choice,
                event.index,
            ):
                merged[-1] = replace(last, json_piece=last.json_piece + event.json_piece)
            case UsageReported(), UsageReported():
                merged[-1] = event
            case _:
                merged.append(event)
    return merged


def decode(pieces: Iterable[bytes]) -> list[Event]:
    decoder = UPSTREAM.stream_decoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return merge([*events, *decoder.close()])


def forward(pieces: Iterable[bytes], *, wants_usage: bool) -> tuple[PassThrough, bytes]:
    reader = UPSTREAM.pass_through(inspection(wants_usage=wants_usage), REPLY)
    forwarded = b"".join([reader.feed(piece) for piece in pieces])
    return reader, forwarded + reader.close()


def single_bytes(stream: bytes) -> Iterator[bytes]:
    return (stream[at : at + 1] for at in range(len(stream)))


def messages_of(stream: bytes) -> list[bytes]:
    """The stream's messages, each with its blank line."""
    return [block + b"\n\n" for block in stream.split(b"\n\n") if block]


def offsets(message: bytes, stream: bytes) -> range:
    """Every offset of a message; in long streams every fifth, from its end."""
    return range(len(message) - 1, 0, -1 if len(stream) <= LONG_STREAM_BYTES else -5)


def chunk_of(message: bytes) -> dict[str, Any]:
    """The JSON of a message's data; {} for comments and the end."""
    lines = message.decode().splitlines()
    data = "".join(line[6:] for line in lines if line.startswith("data: "))
    return dict(json.loads(data)) if data.startswith("{") else {}


# --- the collection --------------------------------------------------------------------------


def test_every_recording_is_read_by_a_test() -> None:
    tested = {"stream", "answer", "client_request", "error"}
    assert {one.kind for one in ALL} == tested  # errors: test_provider_errors
    apart = sum(len(of_folder(wire)) for wire in WIRES_APART)
    assert len(ALL) + apart == len(list(FOLDER.rglob("*.json")))
    assert {one.name for one in STREAMS} >= STREAMS_WITH_ERROR


def test_every_recordings_licence_is_kept_beside_it() -> None:
    kept = {path.name.removesuffix(".LICENSE.txt") for path in (FOLDER / "LICENSES").iterdir()}
    sources = [one.content["source"]["repo"] for one in of_folder("") if "source" in one.content]
    names = {repo.replace("vercel/ai", "vercel/vercel-ai").split("/")[1] for repo in sources}
    assert names == kept


# --- streams ---------------------------------------------------------------------------------


@each(STREAMS)
def test_a_stream_decodes_the_same_byte_by_byte(recording: Recording) -> None:
    assert decode(single_bytes(recording.stream)) == decode([recording.stream])


@each(STREAMS)
def test_a_stream_decodes_the_same_with_other_line_ends(recording: Recording) -> None:
    whole = decode([recording.stream])
    for line_end in (b"\r\n", b"\r"):
        other = recording.stream.replace(b"\n", line_end)
        assert decode([other]) == whole
        assert decode(single_bytes(other)) == whole


@each(STREAMS)
def test_a_message_cut_anywhere_gives_the_same_events(recording: Recording) -> None:
    """Each message from the state before it, in two pieces, with the next one as a witness."""
    decoder = UPSTREAM.stream_decoder()
    messages = messages_of(recording.stream)
    for number, message in enumerate(messages):
        before = pickle.dumps(decoder)
        witness = messages[number + 1] if number + 1 < len(messages) else b""
        whole = pickle.loads(before).feed(message + witness)
        for at in offsets(message, recording.stream):
            cut = pickle.loads(before)
            events = cut.feed(message[:at]) + cut.feed(message[at:]) + cut.feed(witness)
            assert events == whole, (number, at)
        decoder.feed(message)


@each(STREAMS)
@pytest.mark.parametrize("wants_usage", [True, False], ids=["usage", "no-usage"])
def test_a_message_cut_anywhere_is_forwarded_the_same(
    recording: Recording, wants_usage: bool
) -> None:
    reader = UPSTREAM.pass_through(inspection(wants_usage=wants_usage), REPLY)
    messages = messages_of(recording.stream)
    for number, message in enumerate(messages):
        before = pickle.dumps(reader)
        witness = messages[number + 1] if number + 1 < len(messages) else b""
        whole = pickle.loads(before)
        forwarded = whole.feed(message + witness)
        for at in offsets(message, recording.stream):
            cut = pickle.loads(before)
            pieces = cut.feed(message[:at]) + cut.feed(message[at:]) + cut.feed(witness)
            assert pieces == forwarded, (number, at)
            assert vars(cut) == vars(whole), (number, at)
        reader.feed(message)


@each(STREAMS)
@pytest.mark.parametrize("wants_usage", [True, False], ids=["usage", "no-usage"])
def test_a_stream_is_forwarded_as_it_is_but_for_usage_nobody_asked_for(
    recording: Recording, wants_usage: bool
) -> None:
    expected = b""
    for message in messages_of(recording.stream):
        chunk = chunk_of(message)
        if chunk.get("error"):
            break
        is_report = chunk.get("usage") and not chunk["choices"]
        if wants_usage or not is_report:
            expected += message
    for pieces in ([recording.stream], single_bytes(recording.stream)):
        _, forwarded = forward(pieces, wants_usage=wants_usage)
        assert forwarded == expected


@each(STREAMS)
def test_forwarding_learns_what_decoding_learns(recording: Recording) -> None:
    events = decode([recording.stream])
    usages = [event.usage for event in events if isinstance(event, UsageReported)]
    models = [event.model for event in events if isinstance(event, Started)]
    failures = [event.message for event in events if isinstance(event, Failed)]
    for pieces in ([recording.stream], single_bytes(recording.stream)):
        reader, _ = forward(pieces, wants_usage=False)
        assert reader.usage == (usages[-1] if usages else None)
        assert reader.model == "".join(models)
        assert reader.failure == "".join(failures)
        assert (recording.name in STREAMS_WITH_ERROR) == bool(reader.failure)


@each(STREAMS)
def test_no_more_pieces_are_counted_than_carry_output(recording: Recording) -> None:
    output = (TextDelta, ReasoningDelta, RefusalDelta, ToolCallDelta)
    spoken = sum(
        isinstance(event, output) for event in UPSTREAM.stream_decoder().feed(recording.stream)
    )
    for pieces in ([recording.stream], single_bytes(recording.stream)):
        reader, _ = forward(pieces, wants_usage=False)
        assert reader.relayed_pieces <= spoken
        assert bool(reader.relayed_pieces) == bool(spoken)


@each(STREAMS)
def test_a_stream_cut_before_its_end_is_noticed(recording: Recording) -> None:
    decoder = UPSTREAM.stream_decoder()
    reader = UPSTREAM.pass_through(inspection(), REPLY)
    for message in messages_of(recording.stream):
        with pytest.raises(TruncatedStream):
            decoder.close()
        with pytest.raises(TruncatedStream):
            reader.close()
        decoder.feed(message[:-1])
        reader.feed(message[:-1])
        with pytest.raises(TruncatedStream):
            decoder.close()
        decoder.feed(message[-1:])
        reader.feed(message[-1:])
        if reader.failure:
            break
    decoder.close()
    reader.close()


@each(WHOLE_STREAMS)
def test_a_streams_events_are_in_order_and_end(recording: Recording) -> None:
    events = decode([recording.stream])
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Ended)
    finished = [event.choice for event in events if isinstance(event, ChoiceFinished)]
    spoken = {event.choice for event in events if hasattr(event, "choice")}
    assert sorted(finished) == sorted(spoken)


@each(STREAMS)
def test_a_stream_written_and_read_again_says_the_same(recording: Recording) -> None:
    events = decode([recording.stream])
    written = write_stream(events)
    again = decode([written])
    assert forget_identity(again) == forget_identity(events)
    models = [event.model for event in events if isinstance(event, Started)]
    started = [event for event in again if isinstance(event, Started)]
    assert started == [Started(f"chatcmpl-{REPLY.seed}", model, 7) for model in models]


def write_stream(events: list[Event]) -> bytes:
    """What a client that asked for usage gets, at our hands."""
    encoder = CLIENT.stream_encoder(inspection(), REPLY)
    written = b"".join(encoder.write(event) for event in events)
    failed = [event for event in events if isinstance(event, Failed)]
    usages = [event.usage for event in events if isinstance(event, UsageReported)]
    if failed:
        return written + encoder.write_failure(refusals.upstream_failed(retryable=False))
    return written + encoder.write_end(usages[-1]) if usages else written + sse.encode(b"[DONE]")


def forget_identity(events: list[Event]) -> list[Event]:
    """Without what the gateway sets itself, and usage where a terminal frame has it."""
    last_usage = [event for event in events if isinstance(event, UsageReported)][-1:]
    content = [
        Failed("") if isinstance(event, Failed) else event
        for event in events
        if not isinstance(event, Started | UsageReported)
    ]
    return merge(content) + ([] if isinstance(content[-1], Failed) else last_usage)


@each(WHOLE_STREAMS)
def test_every_chunk_written_is_one_the_openai_sdk_reads(recording: Recording) -> None:
    written = write_stream(decode([recording.stream]))
    messages = [message.data for message in sse.Decoder().feed(written)]
    assert messages[-1] == "[DONE]"
    chunks = [ChatCompletionChunk.model_validate_json(data) for data in messages[:-1]]
    assert {chunk.id for chunk in chunks} == {f"chatcmpl-{REPLY.seed}"}
    roles = [choice.delta.role for chunk in chunks for choice in chunk.choices]
    assert [role for role in roles if role] == ["assistant"] * len(
        {choice.index for chunk in chunks for choice in chunk.choices}
    )


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
    assert forward(pieces, wants_usage=True)[1] == forward([stream], wants_usage=True)[1]


# --- whole answers ---------------------------------------------------------------------------


@each(ANSWERS)
def test_a_whole_answer_written_again_keeps_what_it_says(recording: Recording) -> None:
    body = recording.answer
    events = UPSTREAM.read_response(body)
    written = write_response(events)
    assert written["model"] == body["model"]
    assert len(written["choices"]) == len(body["choices"])
    for theirs, ours in zip(body["choices"], written["choices"], strict=True):
        assert ours["index"] == theirs["index"]
        assert ours["finish_reason"] == theirs["finish_reason"]
        message = theirs.get("message", {})
        assert ours["message"]["content"] == message.get("content")
        assert ours["message"]["refusal"] == message.get("refusal")
        reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
        assert ours["message"].get("reasoning_content", "") == reasoning
        for call, copy in zip(calls_of(message), calls_of(ours["message"]), strict=True):
            assert copy[1:] == call[1:]
            assert copy[0] == call[0] if call[0] else copy[0].startswith("call_")
    again = UPSTREAM.read_response(written)
    assert list(again)[1:] == list(events)[1:]


def calls_of(message: dict[str, Any]) -> list[tuple[str, str, str]]:
    calls = message.get("tool_calls") or []
    return [(one["id"], one["function"]["name"], one["function"]["arguments"]) for one in calls]


@each(ANSWERS)
def test_a_whole_answers_usage_adds_up_to_the_providers_total(recording: Recording) -> None:
    body = recording.answer
    usage = UPSTREAM.read_usage(body)
    assert usage is not None
    assert usage.total == body["usage"]["total_tokens"]
    assert usage.whole_input == body["usage"]["prompt_tokens"]
    written = write_usage_object(usage)
    assert UPSTREAM.read_usage({"usage": written}) == usage
    details = body["usage"].get("prompt_tokens_details") or {}
    assert written["prompt_tokens_details"]["cached_tokens"] == details.get("cached_tokens", 0)
    assert [UsageReported(usage)] == [
        event for event in UPSTREAM.read_response(body) if isinstance(event, UsageReported)
    ]


@each(ANSWERS)
def test_a_whole_answer_written_is_one_the_openai_sdk_reads(recording: Recording) -> None:
    written = write_response(UPSTREAM.read_response(recording.answer))
    ChatCompletion.model_validate_json(orjson.dumps(written))


@each(one for one in of_kind("error") if isinstance(one.content["response"], dict))
def test_an_error_with_status_200_is_no_answer(recording: Recording) -> None:
    with pytest.raises(UnreadableAnswer):
        UPSTREAM.read_response(recording.answer)
    if "error" in recording.answer:
        with pytest.raises(UnreadableAnswer):
            UPSTREAM.read_usage(recording.answer)


# --- requests --------------------------------------------------------------------------------


@each(REQUESTS)
def test_a_clients_request_is_read_and_written_with_the_same_meaning(recording: Recording) -> None:
    body = recording.request
    assert body is not None
    before = pickle.dumps(body)
    asked = CLIENT.inspect(body)
    assert asked.model == body["model"]
    assert asked.is_stream == bool(body.get("stream"))
    assert asked.choices == body.get("n", 1)
    assert asked.wants_usage == bool((body.get("stream_options") or {}).get("include_usage"))
    written = UPSTREAM.write_request(CLIENT.read_request(body), Target("upstream-name", 100))
    assert meaning(written) == meaning({**body, "model": "upstream-name"})
    assert pickle.dumps(body) == before


def meaning(body: dict[str, Any]) -> dict[str, Any]:
    """A request without what says nothing, such as defaults, and with one name for each thing."""
    meant = {
        name: value
        for name, value in body.items()
        if name != "stream_options" and value not in (None, False, [])
    }
    if (limit := meant.pop("max_tokens", None)) is not None:
        meant["max_completion_tokens"] = limit
    if meant.get("n") == 1:
        del meant["n"]
    if isinstance(meant.get("stop"), str):
        meant["stop"] = [meant["stop"]]
    if meant.get("response_format") == {"type": "text"}:
        del meant["response_format"]
    meant["messages"] = [meaning_of_message(message) for message in body["messages"]]
    if body.get("tools"):
        meant["tools"] = [filled(tool["function"]) for tool in body["tools"]]
    return meant


def meaning_of_message(message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    content = [dict(part) for part in content or ()]
    # What one provider alone understands of a part is not part of the vocabulary.
    for part in content:
        part.pop("prompt_cache_breakpoint", None)
    role = "system" if message["role"] == "developer" else message["role"]
    calls = [
        {name: call[name] for name in ("id", "function")}
        for call in message.get("tool_calls") or ()
    ]
    return filled({**message, "role": role, "content": content, "tool_calls": calls})


def filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", [])}


@each(REQUESTS)
def test_a_request_passed_through_changes_its_model_and_asks_for_usage_alone(
    recording: Recording,
) -> None:
    body = recording.request
    assert body is not None
    before = pickle.dumps(body)
    is_stream = bool(body.get("stream"))
    prepared = UPSTREAM.prepare_pass_through(
        body, Target("upstream-name", 100), is_stream=is_stream
    )
    expected = {**body, "model": "upstream-name"}
    if is_stream:
        expected["stream_options"] = {"include_usage": True}
    assert prepared == expected
    assert pickle.dumps(body) == before
