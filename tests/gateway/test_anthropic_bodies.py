"""What the Messages provider is asked: everything in its words, and nothing it refuses."""

import base64
import json
from itertools import pairwise
from typing import Any

import orjson
import pytest

from gateway.dialects import CLIENT_DIALECTS, UPSTREAM_DIALECTS
from gateway.dialects.anthropic import AnthropicUpstream
from gateway.dialects.anthropic_bodies import sanitize
from gateway.dialects.base import Json, Target
from gateway.events import Carry
from gateway.generation import (
    Audio,
    File,
    GenerationRequest,
    Image,
    OutputFormat,
    Parameters,
    Part,
    Reasoning,
    RefusalText,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from gateway.refusals import Refusal
from tests.gateway.test_anthropic_contract import check_request
from tests.recordings import ALL, Recording, of_folder

HAIKU, OPUS, OLD = "claude-haiku-4-5", "claude-opus-4-8", "claude-sonnet-4-0"
WEATHER = Tool("weather", "Tells it.", {"type": "object", "properties": {"city": {}}})
PDF = "data:application/pdf;base64,JVBERi0="
USER = Turn("user", (Text("Hi"),))


def write(*turns: Turn, model: str = HAIKU, most: int = 0, **fields: Any) -> Json:
    request = GenerationRequest("asked", turns or (USER,), **fields)
    written = AnthropicUpstream().write_request(request, Target(model, most))
    check_request(written)
    return written


def with_parameters(model: str = HAIKU, *turns: Turn, **parameters: Any) -> Json:
    return write(*turns, model=model, parameters=Parameters(**parameters))


def messages(*turns: Turn, model: str = HAIKU) -> Any:
    return write(*turns, model=model)["messages"]


def blocks(*parts: Part) -> Any:
    (message,) = messages(Turn("user", parts))
    return message["content"]


FOLDERS = {"openai_responses": "openai-responses", "gemini": "gemini"}
FOREIGN_REQUESTS = [
    *[("openai_chat", one) for one in ALL if one.request and "messages" in one.request],
    *[
        (dialect, one)
        for dialect, folder in FOLDERS.items()
        for one in of_folder(folder)
        if isinstance(one.request, dict)
    ],
]
OWN_REQUESTS = [one for one in of_folder("anthropic") if "max_tokens" in (one.request or {})]


@pytest.mark.parametrize("model", [HAIKU, OPUS])
@pytest.mark.parametrize(
    ("dialect", "recording"), [pytest.param(*one, id=one[1].name) for one in FOREIGN_REQUESTS]
)
def test_every_recorded_request_is_asked_in_the_sdks_types_or_refused_by_name(
    dialect: str, recording: Recording, model: str
) -> None:
    body = {"model": "asked", **(recording.request or {})}
    request = read_or_none(dialect, body)
    if request is None:  # the client's own dialect could not say it to anybody else
        return
    written, refused = write_or_refuse(request, model)
    assert refused in REFUSED or written is not None
    if written is not None:
        check_request(written)
        roles = [message["role"] for message in written["messages"]]
        assert all(one != other for one, other in pairwise(roles))


@pytest.mark.parametrize("dialect", ["openai_chat", *FOLDERS])
@pytest.mark.parametrize("recording", OWN_REQUESTS, ids=lambda one: one.name)
def test_every_recorded_request_of_this_wire_is_asked_of_other_providers_or_refused_by_name(
    recording: Recording, dialect: str
) -> None:
    request = read_or_none("anthropic", recording.request or {})
    if request is not None:
        written, refused = write_or_refuse(request, "other", dialect)
        assert refused or orjson.dumps(written)


def read_or_none(dialect: str, body: Json) -> GenerationRequest | None:
    try:
        return CLIENT_DIALECTS[dialect].read_request(body)
    except Refusal:
        return None


REFUSED = (
    *("n", "stop", "logprobs", "input_audio", "modalities", "web_search_options"),
    "messages",  # one asks nothing
)


def write_or_refuse(
    request: GenerationRequest, model: str, dialect: str = "anthropic"
) -> tuple[Json | None, str | None]:
    """The provider's body, or the parameter that it cannot say."""
    try:
        return UPSTREAM_DIALECTS[dialect].write_request(request, Target(model, 0)), None
    except Refusal as refusal:
        return None, refusal.param


# --- the conversation ------------------------------------------------------------------------


def test_instructions_before_the_conversation_are_the_system_and_later_ones_are_marked() -> None:
    first, second = Turn("system", (Text("One."),)), Turn("system", (Text("Two."),))
    written = write(first, second, USER, Turn("assistant", (Text("Yes?"),)), first, USER)
    assert written["system"] == [{"type": "text", "text": "One."}, {"type": "text", "text": "Two."}]
    assert [message["role"] for message in written["messages"]] == ["user", "assistant", "user"]
    assert written["messages"][2]["content"][0]["text"] == "<system>One.</system>"
    assert write(first, USER)["system"] == "One."


def test_instructions_alone_are_asked_as_a_user() -> None:
    written = write(Turn("system", (Text("Say hi."),)))
    assert "system" not in written
    assert written["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Say hi."}]}
    ]


def test_results_of_parallel_calls_come_in_one_message_before_what_the_user_adds() -> None:
    calls = tuple(ToolCall(f"call_{name}", "weather", "{}") for name in "ab")
    results = [
        Turn("tool", (ToolResult("call_a", (Text("sun"),)),)),
        Turn("tool", (ToolResult("call_b", (), is_error=True),)),
    ]
    said = messages(USER, Turn("assistant", (Text("Let me see."), *calls)), USER, *results)
    assert [message["role"] for message in said] == ["user", "assistant", "user"]
    assert said[2]["content"] == [
        {
            "type": "tool_result",
            "tool_use_id": "call_a",
            "content": [{"type": "text", "text": "sun"}],
        },
        {"type": "tool_result", "tool_use_id": "call_b", "is_error": True},
        {"type": "text", "text": "Hi"},
    ]


def test_ids_of_other_providers_are_spelled_as_this_wire_allows_on_both_sides() -> None:
    call = ToolCall("functions.weather:0|x", "weather", "{}")
    said = messages(
        USER,
        Turn("assistant", (call,)),
        Turn("tool", (ToolResult("functions.weather:0|x", (Text("sun"),)),)),
    )
    assert said[1]["content"][0]["id"] == "functions_weather_0_x"
    assert said[2]["content"][0]["tool_use_id"] == "functions_weather_0_x"


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ("", {}),
        ('{"city": "Oslo"}', {"city": "Oslo"}),
        ('{"city": "Os', {"arguments": '{"city": "Os'}),
        ("[1]", {"arguments": [1]}),
    ],
)
def test_arguments_are_an_object_whatever_the_model_wrote(arguments: str, written: Json) -> None:
    said = messages(USER, Turn("assistant", (ToolCall("a", "weather", arguments),)), USER)
    assert said[1]["content"][0]["input"] == written


def test_empty_text_is_left_out_and_messages_of_nothing_else_with_it() -> None:
    said = messages(USER, Turn("assistant", (Text(""),)), Turn("user", (Text(" "), Text("there"))))
    assert said == [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "there"}],
        }
    ]


def test_a_last_assistant_message_does_not_end_in_white_space() -> None:
    assert messages(USER, Turn("assistant", (Text("So: \n"),)))[1]["content"][0]["text"] == "So:"
    assert len(messages(USER, Turn("assistant", (Text(" \n"),)))) == 1


def test_an_earlier_refusal_is_text() -> None:
    said = messages(USER, Turn("assistant", (RefusalText("No."),)), USER)
    assert said[1]["content"] == [{"type": "text", "text": "No."}]


def test_signed_thinking_goes_back_to_the_model_that_signed_it_and_to_no_other() -> None:
    own = Reasoning("Hm.", Carry("anthropic.thinking", "c2ln+/==", "claude-haiku-4-5-20251001"))
    hidden = Reasoning("", Carry("anthropic.redacted", "ZGF0", ""))
    foreign = (
        Reasoning("Hm?", Carry("gemini.thought", "xx", HAIKU)),
        Reasoning("Hm!", Carry("anthropic.thinking", "other", OPUS)),
        Reasoning("unsigned"),
    )
    turns = (USER, Turn("assistant", (own, hidden, *foreign, Text("Yes."))), USER)
    said = with_parameters(HAIKU, *turns, reasoning_effort="low")["messages"]
    assert said[1]["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln+/=="},
        {"type": "redacted_thinking", "data": "ZGF0"},
        {"type": "text", "text": "Yes."},
    ]


def test_thinking_does_not_go_back_to_a_model_that_is_not_to_think() -> None:
    """The API refuses it: "When thinking is disabled, an `assistant` message in the final position
    cannot contain `thinking`"."""
    signed = Reasoning("Hm.", Carry("anthropic.thinking", "sig", ""))
    loop = (
        USER,
        Turn("assistant", (signed, ToolCall("a", "weather", "{}"))),
        Turn("tool", (ToolResult("a", (Text("sun"),)),)),
    )

    def kinds(model: str = HAIKU, **parameters: Any) -> list[str]:
        body = with_parameters(model, *loop, **parameters)
        return [block["type"] for block in body["messages"][1]["content"]]

    assert kinds(reasoning_effort="low") == ["thinking", "tool_use"]
    assert kinds() == ["tool_use"]
    assert kinds("claude-sonnet-5") == ["thinking", "tool_use"], "it thinks unasked"
    assert kinds("claude-sonnet-5", reasoning_effort="none") == ["tool_use"]


def test_no_message_ends_in_thinking() -> None:
    signed = Reasoning("Hm.", Carry("anthropic.thinking", "sig", ""))
    turns = (USER, Turn("assistant", (Text("So"), signed)), USER)
    body = with_parameters(HAIKU, *turns, reasoning_effort="low")
    assert [block["type"] for block in body["messages"][1]["content"]] == ["text"]
    turns = (USER, Turn("assistant", (signed,)), Turn("user", (Text("Go on."),)))
    body = with_parameters(HAIKU, *turns, reasoning_effort="low")
    assert [message["role"] for message in body["messages"]] == ["user"]


def test_an_answer_that_was_begun_is_finished_without_thinking() -> None:
    """The API wants a last assistant message to begin with its thinking."""
    turns = (USER, Turn("assistant", (Text("Well, "),)))
    body = with_parameters(HAIKU, *turns, reasoning_effort="low")
    assert "thinking" not in body
    assert body["messages"][-1]["role"] == "assistant"


@pytest.mark.parametrize(
    "turns",
    [
        (Turn("user", (Text(" "),)),),
        (Turn("system", (Text(""),)),),
        (USER, Turn("assistant", (Text("Yes."),)), Turn("user", (Text(""),))),
    ],
)
def test_a_last_message_that_says_nothing_is_refused(turns: tuple[Turn, ...]) -> None:
    """Left out, it would have the model go on with its own last answer."""
    with pytest.raises(Refusal) as refusal:
        write(*turns)
    assert refusal.value.param == "messages"


# --- pictures, files, sound ------------------------------------------------------------------


def test_pictures_and_files_are_sent_whole_or_by_address() -> None:
    text = base64.b64encode("Größe".encode()).decode()
    assert blocks(
        Image("data:image/png;base64,iVBO"),
        Image("https://example.org/a.png", "high"),
        File(data_url=PDF, filename="a.pdf"),
        File(url="https://example.org/a.pdf"),
        File(data_url=f"data:text/plain;charset=utf-8;base64,{text}"),
        File(data_url="data:image/gif;base64,R0lG"),
    ) == [
        {"type": "image", "source": base64_source("image/png", "iVBO")},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {
            "type": "document",
            "source": base64_source("application/pdf", "JVBERi0="),
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "Größe"},
        },
        {"type": "image", "source": base64_source("image/gif", "R0lG")},
    ]


def base64_source(media_type: str, data: str) -> Json:
    return {"type": "base64", "media_type": media_type, "data": data}


@pytest.mark.parametrize(
    ("part", "param"),
    [
        (Audio("AAAA", "wav"), "input_audio"),
        (Image("data:nonsense"), "image_url"),
        (File(data_url="JVBERi0="), "file_data"),
        (File(data_url="data:text/plain;base64,A"), "file_data"),
        (File(data_url="data:application/zip;base64,UEs="), "file_data"),
        (File(file_id="file-123"), "file_id"),
    ],
)
def test_what_this_wire_cannot_carry_is_refused_by_name(part: Part, param: str) -> None:
    with pytest.raises(Refusal) as refusal:
        blocks(part)
    assert (refusal.value.status, refusal.value.param) == (400, param)


def test_results_may_hold_pictures() -> None:
    result = ToolResult("a", (Text("Look:"), Image("https://example.org/a.png")))
    content = messages(Turn("tool", (result,)))[0]["content"][0]["content"]
    assert [block["type"] for block in content] == ["text", "image"]


# --- limits, sampling, thinking --------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "most", "asked", "written"),
    [
        ("claude-opus-5", 0, None, 128_000),
        ("claude-sonnet-4-5-20250929", 0, None, 64_000),
        ("claude-opus-4-1", 0, None, 32_000),
        ("claude-3-haiku-20240307", 0, None, 4_096),
        ("claude-nobody-knows-7", 0, None, 128_000),
        (HAIKU, 1_000, None, 1_000),
        (HAIKU, 0, 500, 500),
        (HAIKU, 0, 1_000_000, 64_000),
    ],
)
def test_max_tokens_is_always_said_and_never_more_than_the_model_writes(
    model: str, most: int, asked: int | None, written: int
) -> None:
    parameters = Parameters(output_tokens_max=asked)
    assert write(model=model, most=most, parameters=parameters)["max_tokens"] == written


def test_temperature_is_clamped_and_comes_without_top_p() -> None:
    body = with_parameters(temperature=1.7, top_p=0.5, extra={"top_k": 5})
    assert (body["temperature"], body["top_k"]) == (1.0, 5)
    assert "top_p" not in body
    assert with_parameters(top_p=0.5)["top_p"] == 0.5


@pytest.mark.parametrize("model", [OPUS, "claude-sonnet-5", "claude-opus-5", "claude-fable-5"])
def test_models_that_refuse_sampling_are_not_sent_any(model: str) -> None:
    body = with_parameters(model, temperature=0.2, top_p=0.5, extra={"top_k": 5})
    assert body.keys().isdisjoint({"temperature", "top_p", "top_k"})


def test_older_models_think_with_a_budget_beside_the_answer_and_without_sampling() -> None:
    body = with_parameters(reasoning_effort="medium", output_tokens_max=500, temperature=0.1)
    assert body["thinking"] == {"type": "enabled", "budget_tokens": 10_000}
    assert body["max_tokens"] == 10_500
    assert "temperature" not in body
    assert "thinking" not in with_parameters(reasoning_effort="none")
    assert "thinking" not in with_parameters("claude-3-5-haiku-20241022", reasoning_effort="high")


def test_a_budget_leaves_room_for_the_answer() -> None:
    parameters = Parameters(reasoning_effort="high")
    body = write(most=8_000, parameters=parameters)
    assert body["max_tokens"] == 8_000
    assert body["thinking"]["budget_tokens"] == 4_000
    assert "thinking" not in write(most=2_000, parameters=parameters)


@pytest.mark.parametrize(
    ("model", "asked", "effort"),
    [
        ("claude-opus-4-6", "minimal", "low"),
        ("claude-opus-4-6", "xhigh", "max"),
        (OPUS, "xhigh", "xhigh"),
        ("claude-sonnet-5", "high", "high"),
        ("claude-fable-5", "max", "max"),
    ],
)
def test_newer_models_think_as_much_as_they_need(model: str, asked: str, effort: str) -> None:
    body = with_parameters(model, reasoning_effort=asked, output_tokens_max=500)
    assert body["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert body["output_config"] == {"effort": effort}
    assert body["max_tokens"] == 500


def test_thinking_is_switched_off_where_it_can_be() -> None:
    assert with_parameters("claude-sonnet-5", reasoning_effort="none")["thinking"] == {
        "type": "disabled"
    }
    body = with_parameters("claude-fable-5", reasoning_effort="none")
    assert "thinking" not in body
    assert body["output_config"] == {"effort": "low"}


def test_an_unknown_effort_is_refused_by_name() -> None:
    with pytest.raises(Refusal, match="'enormous'") as refusal:
        with_parameters(reasoning_effort="enormous")
    assert refusal.value.param == "reasoning_effort"


def test_a_loop_that_began_without_thinking_ends_without() -> None:
    """The API refuses a budget when the loop's own turn does not start with signed thinking."""
    result = Turn("tool", (ToolResult("a", (Text("sun"),)),))
    call = ToolCall("a", "weather", "{}")
    signed = Reasoning("Hm.", Carry("anthropic.thinking", "sig", HAIKU))
    effort = {"reasoning_effort": "low"}
    loop = [USER, Turn("assistant", (call,)), result]
    assert "thinking" not in with_parameters(HAIKU, *loop, **effort)
    loop[1] = Turn("assistant", (signed, call))
    assert "thinking" in with_parameters(HAIKU, *loop, **effort)
    ended = [*loop, Turn("assistant", (Text("Sunny."),)), USER]
    assert "thinking" in with_parameters(HAIKU, *ended, **effort)


# --- tools -----------------------------------------------------------------------------------


def test_tools_are_told_with_a_schema_whatever_they_came_with() -> None:
    strict = Tool("b", schema={"type": "object", "properties": {"n": {"minimum": 1}}}, strict=True)
    assert write(tools=(Tool("a"), WEATHER, strict))["tools"] == [
        {"name": "a", "input_schema": {"type": "object", "properties": {}}},
        {"name": "weather", "description": "Tells it.", "input_schema": WEATHER.schema},
        {
            "name": "b",
            "strict": True,
            "input_schema": {
                "type": "object",
                "properties": {"n": {"description": "minimum: 1"}},
                "additionalProperties": False,
            },
        },
    ]
    assert "strict" not in write(tools=(strict,), model=OLD)["tools"][0]


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (None, None),
        (ToolChoice("auto"), {"type": "auto"}),
        (ToolChoice("none"), {"type": "none"}),
        (ToolChoice("required"), {"type": "any"}),
        (ToolChoice("named", "weather"), {"type": "tool", "name": "weather"}),
    ],
)
def test_choices_of_tools_have_their_words(choice: ToolChoice | None, written: Json | None) -> None:
    assert write(tools=(WEATHER,), tool_choice=choice).get("tool_choice") == written
    assert "tool_choice" not in write(tool_choice=choice)


def test_one_call_at_a_time_is_said_with_the_choice() -> None:
    parameters = Parameters(parallel_tool_calls=False)
    assert write(tools=(WEATHER,), parameters=parameters)["tool_choice"] == {
        "type": "auto",
        "disable_parallel_tool_use": True,
    }
    written = write(tools=(WEATHER,), tool_choice=ToolChoice("none"), parameters=parameters)
    assert written["tool_choice"] == {"type": "none"}


def test_a_forced_tool_is_not_asked_together_with_a_budget() -> None:
    parameters = Parameters(reasoning_effort="high")
    written = write(tools=(WEATHER,), tool_choice=ToolChoice("required"), parameters=parameters)
    assert "thinking" not in written
    assert written["tool_choice"] == {"type": "any"}


def test_a_forced_tool_leaves_it_to_a_newer_model_whether_to_think() -> None:
    parameters = Parameters(reasoning_effort="high")
    choice = ToolChoice("required")
    written = write(tools=(WEATHER,), tool_choice=choice, parameters=parameters, model=OPUS)
    assert "thinking" not in written
    assert written["output_config"] == {"effort": "high"}


def test_a_model_that_cannot_be_forced_says_so() -> None:
    with pytest.raises(Refusal) as refusal:
        write(tools=(WEATHER,), tool_choice=ToolChoice("required"), model="claude-fable-5")
    assert refusal.value.param == "tool_choice"


# --- structured output, the rest -------------------------------------------------------------


def test_a_schema_is_asked_for_beside_the_effort() -> None:
    output = OutputFormat("json_schema", "dog", {"type": "object", "properties": {}})
    written = write(model=OPUS, output_format=output, parameters=Parameters(reasoning_effort="low"))
    assert written["output_config"] == {
        "effort": "low",
        "format": {
            "type": "json_schema",
            "schema": {"type": "object", "properties": {}, "additionalProperties": False},
        },
    }


@pytest.mark.parametrize(
    ("model", "schema"), [(OLD, {"type": "object"}), (HAIKU, None)], ids=["old model", "no schema"]
)
def test_a_schema_that_cannot_be_kept_is_refused(model: str, schema: Json | None) -> None:
    with pytest.raises(Refusal) as refusal:
        write(model=model, output_format=OutputFormat("json_schema", "dog", schema))
    assert (refusal.value.param or "").startswith("response_format")


COUNTS = {"type": "object", "additionalProperties": {"type": "integer"}}


@pytest.mark.parametrize(
    "schema",
    [
        COUNTS,
        {"type": "object", "properties": {"counts": COUNTS}},
        {"type": "array", "items": {"anyOf": [COUNTS, {"type": "null"}]}},
        {"$ref": "#/$defs/counts", "$defs": {"counts": COUNTS}},
        {"type": "object", "properties": {"any": {"type": "object"}}},
        {"type": "object", "properties": {}, "patternProperties": {"^a": {}}},
    ],
)
def test_an_object_of_unknown_names_is_refused(schema: Json) -> None:
    """Structured output knows closed objects only: all it could answer with is an empty one."""
    with pytest.raises(Refusal) as refusal:
        write(output_format=OutputFormat("json_schema", "n", schema))
    assert refusal.value.param == "response_format"
    tool = Tool("f", "", {"type": "object", "properties": {"x": schema}}, strict=True)
    written = write(tools=(tool,))["tools"][0]
    assert written["input_schema"]["properties"]["x"] == schema
    assert "strict" not in written


def test_an_object_that_only_leaves_its_end_open_is_closed() -> None:
    for rest in ({}, {"additionalProperties": True}, {"additionalProperties": {}}):
        schema = {"type": "object", "properties": {"a": {"type": "string"}}, **rest}
        written = write(output_format=OutputFormat("json_schema", "n", schema))
        assert written["output_config"]["format"]["schema"]["additionalProperties"] is False


def test_json_without_a_schema_is_an_instruction() -> None:
    output = OutputFormat("json_object")
    assert "JSON object" in write(output_format=output)["system"]
    written = write(Turn("system", (Text("Be kind."),)), USER, output_format=output)
    assert written["system"][0]["text"] == "Be kind."


def test_schemas_lose_what_is_refused_and_tell_it_instead() -> None:
    assert sanitize(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "description": "A dog.",
            "minProperties": 1,
            "properties": {
                "format": {"type": "string", "format": "date"},
                "age": {"type": "integer", "minimum": 0, "maximum": 30},
                "tags": {"type": "array", "items": {"type": "string", "pattern": "^a"}},
                "owner": {"oneOf": [{"$ref": "#/$defs/owner"}, {"type": "null"}]},
                "site": {"type": "string", "format": "iri"},
            },
            "required": ["age"],
            "$defs": {"owner": {"type": "object", "properties": {"n": {"const": 1}}}},
        }
    ) == {
        "type": "object",
        "description": "A dog.\nminProperties: 1",
        "properties": {
            "format": {"type": "string", "format": "date"},
            "age": {"type": "integer", "description": "minimum: 0\nmaximum: 30"},
            "tags": {"type": "array", "items": {"type": "string", "description": "pattern: ^a"}},
            "owner": {"anyOf": [{"$ref": "#/$defs/owner"}, {"type": "null"}]},
            "site": {"type": "string", "description": "format: iri"},
        },
        "required": ["age"],
        "$defs": {
            "owner": {
                "type": "object",
                "properties": {"n": {"const": 1}},
                "additionalProperties": False,
            }
        },
        "additionalProperties": False,
    }


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        ({"choices": 2}, "n"),
        ({"stop": ("a", "\n")}, "stop"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "logprobs"),
        ({"extra": {"modalities": ["text", "audio"]}}, "modalities"),
        ({"extra": {"modalities": ["text", "image"]}}, "modalities"),
        ({"extra": {"modalities": 5}}, "modalities"),
        ({"extra": {"web_search_options": {"user_location": None}}}, "web_search_options"),
        ({"extra": {"functions": [{"name": "a"}]}}, "functions"),
    ],
)
def test_what_would_change_the_answer_and_cannot_be_said_is_refused(
    parameters: Json, param: str
) -> None:
    with pytest.raises(Refusal) as refusal:
        with_parameters(**parameters)
    assert (refusal.value.status, refusal.value.param) == (400, param)


def test_what_only_tunes_the_answer_is_left_out() -> None:
    extra = {"logit_bias": {"1": 1}, "service_tier": "flex", "modalities": ["text"], "store": True}
    body = with_parameters(seed=1, presence_penalty=0.5, frequency_penalty=0.5, extra=extra)
    assert body.keys() == {"model", "max_tokens", "messages"}


def test_stops_users_and_streams_are_said() -> None:
    body = with_parameters(stop=("a", "b"), user="u1", extra={"safety_identifier": "s1"})
    assert (body["stop_sequences"], body["metadata"]) == (["a", "b"], {"user_id": "u1"})
    assert with_parameters(extra={"safety_identifier": "s1"})["metadata"] == {"user_id": "s1"}
    assert write(is_stream=True)["stream"] is True
    assert json.dumps(body)
