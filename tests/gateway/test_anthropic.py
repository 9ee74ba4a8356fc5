"""The Messages wire beyond what was recorded: odd streams, foreign state, and its own SDK."""

from collections.abc import Iterable
from typing import Any

import anthropic
import httpx2
import orjson
import pytest

from billing.pricing import Usage
from gateway import refusals, sse
from gateway.dialects.anthropic import AnthropicClient, AnthropicUpstream
from gateway.dialects.anthropic_models import family, is_same_model
from gateway.dialects.base import Json, Target, TruncatedStream, UnreadableAnswer
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
from gateway.generation import Reasoning, Text, ToolCall
from gateway.refusals import Refusal
from tests.gateway.test_anthropic_contract import (
    INSPECTION,
    REPLY,
    check_grammar,
    decode,
    frames_of,
    normal,
    write_answer,
    write_stream,
)

CLIENT, UPSTREAM = AnthropicClient(), AnthropicUpstream()
STARTED, DONE = Started("resp_1", "gemini-3"), ChoiceFinished(FinishReason.STOP)
CALL = ToolCallStarted(0, "call_a", "weather")


def blocks(*events: Event) -> Any:
    """The content of the answer, which both its forms agree on."""
    told = [STARTED, *events, Ended()]
    written = write_stream(told)
    check_grammar(written)
    message = write_answer(told)
    assert normal(UPSTREAM.read_response(message)) == normal(decode([written]))
    return message["content"]


def frame(kind: str, **members: Any) -> bytes:
    return sse.encode(orjson.dumps({"type": kind, **members}), event=kind)


def start(**usage: Any) -> bytes:
    return frame("message_start", message={"id": "msg_1", "model": "m", "usage": usage})


def delta(index: int, **members: Any) -> bytes:
    return frame("content_block_delta", index=index, delta=members)


def block(index: int, **members: Any) -> bytes:
    return frame("content_block_start", index=index, content_block=members)


END = frame("message_delta", delta={"stop_reason": "end_turn"}) + frame("message_stop")


# --- reading ---------------------------------------------------------------------------------


def test_a_call_without_arguments_has_empty_ones() -> None:
    call = block(0, type="tool_use", id="a", name="b", input={})
    stream = start() + call + delta(0, type="input_json_delta", partial_json="") + END
    assert ToolCallDelta(0, "{}") in decode([stream])


def test_arguments_that_come_whole_with_the_block_are_read() -> None:
    stream = start() + block(0, type="tool_use", id="a", name="b", input={"c": 1}) + END
    assert ToolCallDelta(0, '{"c":1}') in decode([stream])


def test_calls_are_counted_apart_from_other_blocks_and_get_an_id_in_any_case() -> None:
    stream = (
        start()
        + block(0, type="thinking", thinking="")
        + block(1, type="server_tool_use", id="s", name="web_search", input={})
        + block(2, type="tool_use", id="a", name="b")
        + block(3, type="tool_use", name="c")
        + END
    )
    calls = [event for event in decode([stream]) if isinstance(event, ToolCallStarted)]
    assert calls == [ToolCallStarted(0, "a", "b"), ToolCallStarted(1, "msg_1_1", "c")]


def test_a_citation_knows_the_text_it_supports() -> None:
    source = {"type": "web_search_result_location", "url": "https://a", "title": "A"}
    page = {"type": "char_location", "cited_text": "x"}
    stream = (
        start()
        + block(0, type="text", text="So: ")
        + block(1, type="text", text="", citations=[])
        + delta(1, type="citations_delta", citation=source)
        + delta(1, type="citations_delta", citation=page)
        + delta(1, type="text_delta", text="blue")
        + END
    )
    citations = [event for event in decode([stream]) if isinstance(event, CitationAdded)]
    assert citations == [CitationAdded("https://a", "A", 4, 8)]


def test_what_is_unknown_is_skipped() -> None:
    stream = (
        start()
        + frame("weather_report", sky="blue")
        + block(0, type="hologram", shape="cat")
        + delta(0, type="text_delta", text="not text")
        + delta(7, type="text_delta", text="nowhere")
        + block(1, type="text", text="")
        + delta(1, type="emoji_delta", emoji=":)")
        + delta(1, type="text_delta", text="Hi")
        + END
    )
    assert decode([stream]) == [
        Started("msg_1", "m"),
        TextDelta("Hi"),
        ChoiceFinished(FinishReason.STOP, native="end_turn"),
        Ended(),
    ]


def test_missing_counts_leave_the_earlier_ones_standing() -> None:
    stream = (
        start(input_tokens=10, cache_read_input_tokens=5, output_tokens=1)
        + frame(
            "message_delta",
            delta={"stop_reason": "end_turn"},
            usage={"output_tokens": 7, "input_tokens": None},
        )
        + frame("message_stop")
    )
    assert UsageReported(Usage(input=10, cache_read=5, output=7)) in decode([stream])


def test_no_counts_are_no_usage() -> None:
    assert not [event for event in decode([start() + END]) if isinstance(event, UsageReported)]
    assert UPSTREAM.read_usage({"content": []}) is None


def test_compaction_counts_and_another_models_advice_does_not() -> None:
    usage = {
        "input_tokens": 1,
        "output_tokens": 2,
        "cache_creation_input_tokens": 3,
        "output_tokens_details": {"thinking_tokens": 99},
        "iterations": [
            {"type": "compaction", "input_tokens": 100, "output_tokens": 10},
            {"type": "message", "input_tokens": 1, "output_tokens": 2},
            {"type": "advisor_message", "input_tokens": 1000, "output_tokens": 1000},
        ],
    }
    assert UPSTREAM.read_usage({"usage": usage}) == Usage(
        input=101, cache_write=3, output=12, reasoning=12
    )


def test_a_refusal_is_told_with_or_without_its_reason() -> None:
    for details, text in (({"explanation": "Because."}, "Because."), (None, "declined")):
        refused = {"stop_reason": "refusal", "stop_details": details}
        stream = start() + frame("message_delta", delta=refused) + frame("message_stop")
        refusal, finished = decode([stream])[1:3]
        assert isinstance(refusal, RefusalDelta)
        assert text in refusal.text
        assert finished == ChoiceFinished(FinishReason.CONTENT_FILTER, native="refusal")


@pytest.mark.parametrize(
    ("native", "reason"),
    [
        ("max_tokens", FinishReason.LENGTH),
        ("model_context_window_exceeded", FinishReason.LENGTH),
        ("stop_sequence", FinishReason.STOP),
        ("pause_turn", FinishReason.STOP),
        ("tool_use", FinishReason.TOOL_CALLS),
        ("something_new", FinishReason.STOP),
    ],
)
def test_stop_reasons_have_their_meaning_and_are_kept(native: str, reason: FinishReason) -> None:
    end = frame("message_delta", delta={"stop_reason": native}) + frame("message_stop")
    assert ChoiceFinished(reason, native=native) in decode([start() + end])


def test_nothing_counts_after_the_end_or_an_error() -> None:
    error = frame("error", error={"type": "overloaded_error", "message": "Overloaded"})
    late = block(0, type="text", text="late") + b"data: garbage\n\n"
    assert decode([start() + END + late])[-1] == Ended()
    assert decode([start() + error + late])[-1] == Failed("Overloaded", "overloaded_error")


@pytest.mark.parametrize("data", [b"data: nonsense\n\n", b"data: [1]\n\n"])
def test_an_event_that_is_no_object_is_unreadable(data: bytes) -> None:
    with pytest.raises(UnreadableAnswer):
        UPSTREAM.stream_decoder().feed(data)


def test_a_message_without_its_stop_is_truncated() -> None:
    decoder = UPSTREAM.stream_decoder()
    decoder.feed(start() + END.removesuffix(frame("message_stop")))
    with pytest.raises(TruncatedStream):
        decoder.close()


def test_forwarding_does_not_mistake_a_providers_objects_for_events() -> None:
    result = block(0, type="server_tool_use", id="s", name="x", input={"type": "error"})
    reader = UPSTREAM.pass_through(INSPECTION, REPLY)
    assert reader.feed(start() + result + END) == (start() + result + END).removesuffix(
        frame("message_stop")
    )
    assert (reader.failure, reader.result()) == ("", None)
    assert reader.close() == frame("message_stop")


def test_forwarding_has_a_limit() -> None:
    reader = UPSTREAM.pass_through(INSPECTION, REPLY)
    with pytest.raises(sse.MessageTooLong):
        reader.feed(b"data: " + b"x" * sse.MESSAGE_BYTES_MAX)


# --- writing ---------------------------------------------------------------------------------


def test_calls_whose_pieces_are_mixed_are_told_one_after_another() -> None:
    second = ToolCallStarted(1, "call_b", "time")
    assert blocks(
        CALL,
        ToolCallDelta(0, '{"city"'),
        second,
        ToolCallDelta(1, '{"zone": '),
        ToolCallDelta(0, ': "Oslo"}'),
        ToolCallDelta(1, '"CET"}'),
        DONE,
    ) == [
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "tool_use", "id": "call_b", "name": "time", "input": {"zone": "CET"}},
    ]


def test_what_is_said_while_a_calls_arguments_are_open_waits_for_them() -> None:
    """The wire cannot go back to a block: the rest of the arguments would be lost."""
    assert blocks(
        CALL,
        ToolCallDelta(0, '{"city"'),
        TextDelta("Looking "),
        ToolCallStarted(1, "call_b", "time"),
        ReasoningDelta("Hm."),
        ToolCallDelta(1, "{}"),
        ToolCallDelta(0, ': "Oslo"}'),
        TextDelta("up."),
        DONE,
    ) == [
        {"type": "tool_use", "id": "call_a", "name": "weather", "input": {"city": "Oslo"}},
        {"type": "text", "text": "Looking "},
        {"type": "tool_use", "id": "call_b", "name": "time", "input": {}},
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "up."},
    ]


def test_calls_without_arguments_are_told_too() -> None:
    calls = [ToolCallStarted(number, f"call_{number}", "ping") for number in range(3)]
    assert [one["input"] for one in blocks(*calls, DONE)] == [{}, {}, {}]
    content = blocks(*calls, TextDelta("Hi"), DONE)
    assert [one["type"] for one in content] == ["tool_use"] * 3 + ["text"]


def test_a_stop_after_calls_is_a_call_for_tools() -> None:
    message = write_answer([STARTED, CALL, ToolCallDelta(0, "{}"), DONE, Ended()])
    assert message["stop_reason"] == "tool_use"


def test_arguments_cut_off_are_kept_as_text() -> None:
    content = write_answer([STARTED, CALL, ToolCallDelta(0, '{"ci'), Ended()])["content"]
    assert content[0]["input"] == {"arguments": '{"ci'}


def test_own_signatures_are_written_as_they_are() -> None:
    assert blocks(
        ReasoningDelta("Hm."),
        ReasoningEnded(Carry("anthropic.thinking", "c2ln+/==", "claude")),
        ReasoningEnded(Carry("anthropic.redacted", "ZGF0", "claude")),
        ReasoningEnded(),
        TextDelta("Hi"),
        DONE,
    ) == [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln+/=="},
        {"type": "redacted_thinking", "data": "ZGF0"},
        {"type": "text", "text": "Hi"},
    ]


def test_state_of_other_providers_comes_back_with_the_next_request() -> None:
    thought, text, call = (Carry("gemini.thought", data, "gemini-3") for data in "abc")
    content = blocks(
        ReasoningDelta("Hm."),
        ReasoningEnded(thought),
        TextDelta("Hi"),
        TextSigned(text),
        ToolCallStarted(0, "call_a", "weather", carry=call),
        ToolCallDelta(0, "{}"),
        DONE,
    )
    body = {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "assistant", "content": content}],
    }
    (turn,) = CLIENT.read_request(body).turns
    assert turn.parts == (
        Reasoning("Hm.", thought, is_summary=True),
        Text("Hi", text),
        ToolCall("call_a", "weather", "{}", call),
    )


def test_a_refusal_is_a_stop_with_an_explanation() -> None:
    message = write_answer([STARTED, RefusalDelta("I can"), RefusalDelta("not."), DONE, Ended()])
    assert (message["stop_reason"], message["content"]) == ("refusal", [])
    assert message["stop_details"]["explanation"] == "I cannot."


def test_sources_pictures_and_speech_have_their_nearest_form() -> None:
    content = blocks(
        TextDelta("Blue"),
        CitationAdded("https://a", "A", 0, 4, "the sky"),
        AudioDelta(data="AAAA", transcript="Spoken."),
        ImageMade("iVBO", "image/png"),
        DONE,
    )
    assert content == [
        {
            "type": "text",
            "text": "Blue",
            "citations": [
                {
                    "type": "web_search_result_location",
                    "url": "https://a",
                    "title": "A",
                    "cited_text": "the sky",
                    "encrypted_index": "",
                }
            ],
        },
        {"type": "text", "text": "Spoken.![image](data:image/png;base64,iVBO)"},
    ]


def test_a_source_after_its_text_and_other_choices_are_left_out() -> None:
    late = CitationAdded("https://a")
    assert blocks(late, TextDelta("Hi", choice=1), DONE) == []


def test_an_answer_without_any_event_is_still_one() -> None:
    encoder = CLIENT.stream_encoder(INSPECTION, REPLY)
    check_grammar(encoder.write_end(Usage()))
    assert encoder.result() is None
    assert CLIENT.response_writer(INSPECTION, REPLY).finish()["model"] == INSPECTION.model


@pytest.mark.parametrize(
    ("reported", "read"),
    [
        (
            {
                "input_tokens": 1,
                "cache_creation_input_tokens": 10,
                "cache_creation": {
                    "ephemeral_5m_input_tokens": 4,
                    "ephemeral_1h_input_tokens": 6,
                },
            },
            Usage(input=1, cache_write=4, cache_write_1h=6),
        ),
        ({"cache_creation_input_tokens": 10}, Usage(cache_write=10)),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 6}}, Usage(cache_write_1h=6)),
        (
            {
                "cache_creation_input_tokens": 5,
                "cache_creation": {"ephemeral_1h_input_tokens": 6},
            },
            Usage(cache_write_1h=5),
        ),
        ({"input_tokens": 3, "output_tokens": -1}, Usage(input=3, is_doubtful=True)),
        ({"input_tokens": 10**18}, Usage(is_doubtful=True)),
    ],
)
def test_what_is_kept_for_an_hour_is_told_from_what_is_kept_for_minutes(
    reported: dict[str, Any], read: Usage
) -> None:
    assert UPSTREAM.read_usage({"usage": reported}) == read


def test_the_end_tells_the_settled_usage() -> None:
    encoder = CLIENT.stream_encoder(INSPECTION, REPLY)
    usage = Usage(input=1, cache_read=2, cache_write=2, cache_write_1h=1, output=5, reasoning=4)
    assert encoder.write(UsageReported(usage)) == b""
    (told,) = [one for one in frames_of(encoder.write_end(usage)) if "usage" in one]
    assert told["usage"] == {
        "input_tokens": 1,
        "cache_creation_input_tokens": 3,
        "cache_read_input_tokens": 2,
        "cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 1},
        "output_tokens": 5,
        "output_tokens_details": {"thinking_tokens": 4},
    }


# --- errors and the SDK ----------------------------------------------------------------------


def sdk(answer: httpx2.Response) -> anthropic.Anthropic:
    """Anthropic's own client, fed with one answer."""
    transport = httpx2.MockTransport(lambda _: answer)
    http = httpx2.Client(transport=transport)
    return anthropic.Anthropic(api_key="k", http_client=http, max_retries=0)


def ask(client: anthropic.Anthropic) -> anthropic.types.Message:
    messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": "Hi"}]
    return client.messages.create(model="m", max_tokens=9, messages=messages)


@pytest.mark.parametrize(
    ("refusal", "kind", "raised"),
    [
        (refusals.invalid_json(), "invalid_request_error", anthropic.BadRequestError),
        (refusals.missing_key(), "authentication_error", anthropic.AuthenticationError),
        (refusals.key_used_from_browser(), "permission_error", anthropic.PermissionDeniedError),
        (refusals.unknown_model("m"), "not_found_error", anthropic.NotFoundError),
        (refusals.slow_body(), "timeout_error", anthropic.APIStatusError),
        (refusals.body_too_large(1, 2), "request_too_large", anthropic.RequestTooLargeError),
        (refusals.out_of_credit("u"), "rate_limit_error", anthropic.RateLimitError),
        (refusals.internal("r"), "api_error", anthropic.InternalServerError),
        (refusals.upstream_failed(retryable=True), "api_error", anthropic.InternalServerError),
        (refusals.upstream_overloaded(1), "overloaded_error", anthropic.InternalServerError),
        (refusals.upstream_timed_out(), "timeout_error", anthropic.InternalServerError),
    ],
)
def test_a_refusal_is_one_the_sdk_names(
    refusal: Refusal, kind: str, raised: type[anthropic.APIStatusError]
) -> None:
    body = CLIENT.write_refusal(refusal, "req_1")
    assert body == {
        "type": "error",
        "error": {"type": kind, "message": refusal.message},
        "request_id": "req_1",
    }
    with pytest.raises(raised) as error:
        ask(sdk(httpx2.Response(refusal.status, json=body)))
    assert error.value.status_code == refusal.status
    assert refusal.message in str(error.value)


@pytest.mark.parametrize("writer", ["encoder", "forwarder"])
def test_a_failure_inside_a_stream_is_one_the_sdk_raises(writer: str) -> None:
    encoder = CLIENT.stream_encoder(INSPECTION, REPLY)
    written = encoder.write(STARTED) + encoder.write(TextDelta("Hi"))
    failing = encoder if writer == "encoder" else UPSTREAM.pass_through(INSPECTION, REPLY)
    written += failing.write_failure(refusals.upstream_failed(retryable=False))
    with pytest.raises(anthropic.APIStatusError, match="provider failed"):
        stream_text(written)


def stream_text(written: bytes) -> anthropic.types.Message:
    headers = {"content-type": "text/event-stream"}
    client = sdk(httpx2.Response(200, content=written, headers=headers))
    with client.messages.stream(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "Hi"}]
    ) as stream:
        return stream.get_final_message()


def test_the_sdk_puts_a_stream_together_as_we_do() -> None:
    events: Iterable[Event] = [
        STARTED,
        ReasoningDelta("Hm."),
        ReasoningEnded(Carry("gemini.thought", "x", "gemini-3")),
        TextDelta("Hel"),
        TextDelta("lo"),
        CALL,
        ToolCallDelta(0, '{"city": '),
        ToolCallDelta(0, '"Oslo"}'),
        UsageReported(Usage(input=3, output=4)),
        ChoiceFinished(FinishReason.TOOL_CALLS),
        Ended(),
    ]
    ours = write_answer(events)
    theirs = stream_text(write_stream(events)).model_dump(exclude_unset=True)
    assert [strip(block) for block in theirs["content"]] == ours["content"]
    assert theirs["stop_reason"] == ours["stop_reason"] == "tool_use"
    assert theirs["usage"]["output_tokens"] == ours["usage"]["output_tokens"] == 4


def strip(block: Json) -> Json:
    """Without what the SDK adds of its own."""
    return {name: value for name, value in block.items() if value is not None}


# --- facts -----------------------------------------------------------------------------------


def test_a_name_belongs_to_the_longest_family_it_begins_with() -> None:
    assert family("claude-sonnet-4-5-20250929").keeps_schemas
    assert not family("claude-sonnet-4-20250514").keeps_schemas
    assert family("claude-3-7-sonnet-latest").thinking == "budget"
    assert family("claude-tomorrow-9").thinking == "adaptive"
    assert is_same_model("claude-haiku-4-5", "claude-haiku-4-5-20251001")
    assert is_same_model("claude-sonnet-4-0", "claude-sonnet-4-20250514")
    assert not is_same_model("claude-opus-4", "claude-opus-4-5")


def test_the_provider_is_asked_in_one_place() -> None:
    assert UPSTREAM.path("claude-haiku-4-5", is_stream=True) == "/messages"
    body = {"model": "public", "max_tokens": 5, "messages": [], "made_up": 1}
    assert UPSTREAM.prepare_pass_through(body, Target("claude", 9), is_stream=False) == {
        **body,
        "model": "claude",
    }


def test_a_providers_error_is_read_by_the_common_rules() -> None:
    body = b'{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}'
    failure = UPSTREAM.read_error(529, {}, body, secrets=[])
    assert (failure.refusal.status, failure.is_retryable) == (503, True)
