"""Chat requests: every refusal names what is wrong, and everything else is kept."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dialects import chat_requests
from gateway.generation import (
    Audio,
    File,
    GenerationRequest,
    Image,
    OutputFormat,
    Parameters,
    Reasoning,
    RefusalText,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from gateway.refusals import INVALID, Refusal

HELLO = {"role": "user", "content": "Hello"}
BASE: dict[str, Any] = {"model": "gpt-4o", "messages": [HELLO]}
ROLES = "'system', 'developer', 'user', 'assistant', 'tool', 'function'"
PARTS = "'text', 'image_url', 'file', 'input_audio', 'refusal'"
MISSING, TYPE, VALUE = "missing_required_parameter", "invalid_type", "unsupported_value"


def body(**fields: Any) -> dict[str, Any]:
    return {**copy.deepcopy(BASE), **fields}


def message(**fields: Any) -> dict[str, Any]:
    """A body with this as its only message."""
    return body(messages=[fields])


def part(**fields: Any) -> dict[str, Any]:
    """A body whose only message has this as its only part."""
    return message(role="user", content=[fields])


def call(**fields: Any) -> dict[str, Any]:
    """A body whose only message has made this tool call."""
    return message(role="assistant", content=None, tool_calls=[fields])


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in BASE.items() if key != name}


def wants(path: str, words: str, got: str) -> tuple[str, str, str]:
    message = f"Invalid type for '{path}': expected {words}, but got {got} instead."
    return (TYPE, path, message)


def lacks(path: str) -> tuple[str, str, str]:
    return (MISSING, path, f"Missing required parameter: '{path}'.")


def unknown(path: str, value: str, known: str) -> tuple[str, str, str]:
    return (VALUE, path, f"Invalid value: '{value}'. Supported values are: {known}.")


def too_small(path: str, value: int) -> tuple[str, str, str]:
    return (VALUE, path, f"Invalid '{path}': expected a value >= 1, but got {value} instead.")


def choices(value: int) -> tuple[str, str, str]:
    return (VALUE, "n", f"Invalid 'n': expected a value from 1 to 128, but got {value} instead.")


def empty(path: str) -> tuple[str, str, str]:
    message = f"Invalid '{path}': empty array. Expected an array with minimum length 1."
    return (VALUE, path, message)


# Refused before pricing, whichever provider is asked.
INSPECTED = [
    (without("model"), lacks("model")),
    (body(model=None), lacks("model")),
    (body(model=5), wants("model", "a string", "an integer")),
    (body(model=["gpt-4o"]), wants("model", "a string", "an array")),
    (without("messages"), lacks("messages")),
    (body(messages=None), lacks("messages")),
    (body(messages="Hello"), wants("messages", "an array of objects", "a string")),
    (body(messages={}), wants("messages", "an array of objects", "an object")),
    (body(messages=[]), empty("messages")),
    (body(stream="true"), wants("stream", "a boolean", "a string")),
    (body(stream=1), wants("stream", "a boolean", "an integer")),
    (body(stream_options=True), wants("stream_options", "an object", "a boolean")),
    (
        body(stream_options={"include_usage": "no"}),
        wants("stream_options.include_usage", "a boolean", "a string"),
    ),
    (body(max_tokens=0), too_small("max_tokens", 0)),
    (body(max_tokens=-1), too_small("max_tokens", -1)),
    (body(max_completion_tokens=0), too_small("max_completion_tokens", 0)),
    (body(max_completion_tokens=5, max_tokens=0), too_small("max_tokens", 0)),
    (body(max_tokens=True), wants("max_tokens", "an integer", "a boolean")),
    (body(max_tokens=1.5), wants("max_tokens", "an integer", "a number")),
    (body(max_tokens="9"), wants("max_tokens", "an integer", "a string")),
    (body(n=0), choices(0)),
    (body(n=129), choices(129)),
    (body(n=True), wants("n", "an integer", "a boolean")),
    (body(n=[1]), wants("n", "an integer", "an array")),
]
# Refused when the request is translated.
READ = [
    (body(messages=["Hello"]), wants("messages[0]", "an object", "a string")),
    (body(messages=[HELLO, None]), wants("messages[1]", "an object", "null")),
    (message(content="x"), lacks("messages[0].role")),
    (message(role=1, content="x"), wants("messages[0].role", "a string", "an integer")),
    (message(role="robot", content="x"), unknown("messages[0].role", "robot", ROLES)),
    (message(role="x" * 500, content="x"), unknown("messages[0].role", "x" * 120, ROLES)),
    (
        message(role="user", name=1, content="x"),
        wants("messages[0].name", "a string", "an integer"),
    ),
    (message(role="user"), lacks("messages[0].content")),
    (message(role="system", content=None), lacks("messages[0].content")),
    (message(role="user", content=[]), empty("messages[0].content")),
    (
        message(role="user", content=5),
        wants("messages[0].content", "a string or an array of objects", "an integer"),
    ),
    (
        message(role="user", content=["x"]),
        wants("messages[0].content[0]", "an object", "a string"),
    ),
    (part(text="x"), lacks("messages[0].content[0].type")),
    (part(type="video"), unknown("messages[0].content[0].type", "video", PARTS)),
    (part(type="text"), lacks("messages[0].content[0].text")),
    (part(type="text", text=5), wants("messages[0].content[0].text", "a string", "an integer")),
    (part(type="image_url"), lacks("messages[0].content[0].image_url")),
    (
        part(type="image_url", image_url="https://x.example/a.png"),
        wants("messages[0].content[0].image_url", "an object", "a string"),
    ),
    (part(type="image_url", image_url={}), lacks("messages[0].content[0].image_url.url")),
    (part(type="file"), lacks("messages[0].content[0].file")),
    (
        part(type="file", file={"file_id": 5}),
        wants("messages[0].content[0].file.file_id", "a string", "an integer"),
    ),
    (part(type="input_audio"), lacks("messages[0].content[0].input_audio")),
    (
        part(type="input_audio", input_audio={"data": "AA=="}),
        lacks("messages[0].content[0].input_audio.format"),
    ),
    (part(type="refusal"), lacks("messages[0].content[0].refusal")),
    (message(role="tool", content="x"), lacks("messages[0].tool_call_id")),
    (
        message(role="tool", tool_call_id=5, content="x"),
        wants("messages[0].tool_call_id", "a string", "an integer"),
    ),
    (
        message(
            role="tool",
            tool_call_id="c",
            content=[{"type": "text", "text": "x"}, {"type": "file", "file": {"file_id": "f"}}],
        ),
        unknown("messages[0].content[1].type", "file", "'text', 'image_url'"),
    ),
    (message(role="function", content="x"), lacks("messages[0].name")),
    (
        message(role="assistant", tool_calls={}),
        wants("messages[0].tool_calls", "an array of objects", "an object"),
    ),
    (
        message(role="assistant", tool_calls=["x"]),
        wants("messages[0].tool_calls[0]", "an object", "a string"),
    ),
    (call(id="c"), lacks("messages[0].tool_calls[0].function")),
    (call(function={"name": "f"}), lacks("messages[0].tool_calls[0].id")),
    (call(id="c", function={}), lacks("messages[0].tool_calls[0].function.name")),
    (
        call(id="c", function={"name": "f", "arguments": {}}),
        wants("messages[0].tool_calls[0].function.arguments", "a string", "an object"),
    ),
    (
        message(role="assistant", function_call={"arguments": "{}"}),
        lacks("messages[0].function_call.name"),
    ),
    (
        message(role="assistant", content="x", reasoning_content=5),
        wants("messages[0].reasoning_content", "a string", "an integer"),
    ),
    (body(tools={}), wants("tools", "an array of objects", "an object")),
    (body(tools=["f"]), wants("tools[0]", "an object", "a string")),
    (body(tools=[{"type": "custom"}]), unknown("tools[0].type", "custom", "'function'")),
    (body(tools=[{"type": 5}]), wants("tools[0].type", "a string", "an integer")),
    (body(tools=[{"type": "function"}]), lacks("tools[0].function")),
    (body(tools=[{"type": "function", "function": {}}]), lacks("tools[0].function.name")),
    (
        body(tools=[{"type": "function", "function": {"name": "f", "parameters": "{}"}}]),
        wants("tools[0].function.parameters", "an object", "a string"),
    ),
    (
        body(tools=[{"type": "function", "function": {"name": "f", "strict": 1}}]),
        wants("tools[0].function.strict", "a boolean", "an integer"),
    ),
    (
        body(tool_choice="always"),
        unknown("tool_choice", "always", "'none', 'auto', 'required'"),
    ),
    (
        body(tool_choice={"type": "function"}),
        wants(
            "tool_choice",
            "'auto', 'none', 'required' or an object naming a function",
            "an object",
        ),
    ),
    (
        body(tool_choice=1),
        wants(
            "tool_choice",
            "'auto', 'none', 'required' or an object naming a function",
            "an integer",
        ),
    ),
    (
        body(tool_choice={"type": "function", "function": {}}),
        lacks("tool_choice.function.name"),
    ),
    (body(response_format="json"), wants("response_format", "an object", "a string")),
    (body(response_format={}), lacks("response_format.type")),
    (
        body(response_format={"type": "xml"}),
        unknown("response_format.type", "xml", "'text', 'json_object', 'json_schema'"),
    ),
    (body(response_format={"type": "json_schema"}), lacks("response_format.json_schema")),
    (
        body(response_format={"type": "json_schema", "json_schema": {"schema": {}}}),
        lacks("response_format.json_schema.name"),
    ),
    (
        body(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": 1}}),
        wants("response_format.json_schema.schema", "an object", "an integer"),
    ),
    (body(temperature="hot"), wants("temperature", "a number", "a string")),
    (body(temperature=True), wants("temperature", "a number", "a boolean")),
    (body(top_p=[]), wants("top_p", "a number", "an array")),
    (body(presence_penalty={}), wants("presence_penalty", "a number", "an object")),
    (body(frequency_penalty="1"), wants("frequency_penalty", "a number", "a string")),
    (body(seed=1.5), wants("seed", "an integer", "a number")),
    (body(seed=False), wants("seed", "an integer", "a boolean")),
    (body(stop=5), wants("stop", "a string or an array of strings", "an integer")),
    (body(stop=["a", 5]), wants("stop[1]", "a string", "an integer")),
    (body(logprobs=1), wants("logprobs", "a boolean", "an integer")),
    (body(top_logprobs=True), wants("top_logprobs", "an integer", "a boolean")),
    (body(reasoning_effort=3), wants("reasoning_effort", "a string", "an integer")),
    (body(parallel_tool_calls="no"), wants("parallel_tool_calls", "a boolean", "a string")),
    (body(user=7), wants("user", "a string", "an integer")),
]


def check(refusal: Refusal, code: str, param: str, text: str) -> None:
    assert refusal.status == 400
    assert refusal.body() == {
        "error": {"message": text, "type": INVALID, "param": param, "code": code}
    }


def name_of(row: tuple[dict[str, Any], tuple[str, str, str]]) -> str:
    return f"{row[1][0]}-{row[1][1]}-{row[1][2][-40:]}"


@pytest.mark.parametrize("row", INSPECTED, ids=name_of)
def test_inspection_refuses_and_names_the_parameter(row: Any) -> None:
    asked, expected = row
    with pytest.raises(Refusal) as inspected:
        chat_requests.inspect(asked)
    check(inspected.value, *expected)
    with pytest.raises(Refusal) as read:
        chat_requests.read(asked)
    check(read.value, *expected)


@pytest.mark.parametrize("row", READ, ids=name_of)
def test_reading_refuses_and_names_the_parameter(row: Any) -> None:
    asked, expected = row
    chat_requests.inspect(asked)
    with pytest.raises(Refusal) as refused:
        chat_requests.read(asked)
    check(refused.value, *expected)


# --- inspecting ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "limit"),
    [
        ({}, None),
        ({"max_tokens": None, "max_completion_tokens": None}, None),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 900, "max_completion_tokens": 6}, 900),
        ({"max_tokens": 5, "max_completion_tokens": 600}, 600),
    ],
)
def test_the_output_limit_is_the_larger_of_its_two_names(
    fields: dict[str, Any], limit: int | None
) -> None:
    assert chat_requests.inspect(body(**fields)).output_tokens_max == limit


def test_null_means_not_asked_for() -> None:
    names = "stream stream_options n stop tools tool_choice response_format temperature seed user"
    asked = body(**dict.fromkeys(names.split()))
    assert chat_requests.read(asked) == chat_requests.read(BASE)
    inspection = chat_requests.inspect(asked)
    assert (inspection.is_stream, inspection.choices, inspection.wants_usage) == (False, 1, False)


# --- what is kept ----------------------------------------------------------------------------


def turns(*messages: dict[str, Any]) -> tuple[Turn, ...]:
    return chat_requests.read(body(messages=list(messages))).turns


def test_the_developer_role_is_the_system_role() -> None:
    developer = {"role": "developer", "content": "Be brief."}
    assert turns(developer) == (Turn("system", (Text("Be brief."),)),)
    written = chat_requests.write(chat_requests.read(body(messages=[developer])), "m")
    assert written["messages"] == [{"role": "system", "content": "Be brief."}]


def test_every_part_is_read_and_written() -> None:
    content = [
        {"type": "text", "text": "Look"},
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "file", "file": {"file_data": "data:a;base64,AA==", "filename": "a.pdf"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    asked = message(role="user", name="Ann", content=content)
    request = chat_requests.read(asked)
    assert request.turns == (
        Turn(
            "user",
            (
                Text("Look"),
                Image("https://x.example/a.png", "low"),
                Image("data:image/png;base64,AA=="),
                File(data_url="data:a;base64,AA==", filename="a.pdf"),
                File(file_id="file-1"),
                Audio("AA==", "wav"),
            ),
            "Ann",
        ),
    )
    assert chat_requests.write(request, "gpt-4o") == asked


def test_an_assistants_turn_keeps_reasoning_text_refusal_and_calls_in_this_order() -> None:
    function = {"name": "look_up", "arguments": '{"a":1}'}
    asked = {
        "role": "assistant",
        "content": "Wait.",
        "refusal": "No.",
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
    }
    expected = (
        Reasoning("Hm."),
        Text("Wait."),
        RefusalText("No."),
        ToolCall("call_1", "look_up", '{"a":1}'),
    )
    assert turns(asked) == (Turn("assistant", expected),)
    written = chat_requests.write(chat_requests.read(body(messages=[asked])), "m")
    assert turns(*written["messages"]) == (Turn("assistant", expected),)


def test_reasoning_is_read_back_under_the_other_name_too() -> None:
    asked = {"role": "assistant", "content": "Yes.", "reasoning": "Hm."}
    assert turns(asked) == (Turn("assistant", (Reasoning("Hm."), Text("Yes."))),)


@pytest.mark.parametrize("arguments", [None, ""])
def test_a_call_without_arguments_has_an_empty_object(arguments: str | None) -> None:
    call = {"id": "c", "function": {"name": "now", "arguments": arguments}}
    asked = {"role": "assistant", "tool_calls": [call]}
    assert turns(asked) == (Turn("assistant", (ToolCall("c", "now", "{}"),)),)


def test_an_empty_call_id_from_googles_endpoint_may_come_back() -> None:
    call = {"id": "", "type": "function", "function": {"name": "now", "arguments": "{}"}}
    asked = (
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "", "content": "Noon"},
    )
    assert turns(*asked)[1] == Turn("tool", (ToolResult("", (Text("Noon"),)),))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("Noon", (Text("Noon"),)),
        (None, ()),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], (Text("a"), Text("b"))),
        (
            [{"type": "image_url", "image_url": {"url": "https://x.example/"}}],
            (Image("https://x.example/"),),
        ),
    ],
)
def test_a_tools_answer_is_text_or_images(content: Any, parts: Any) -> None:
    asked = {"role": "tool", "tool_call_id": "c", "content": content}
    assert turns(asked) == (Turn("tool", (ToolResult("c", parts),)),)


def test_the_retired_function_call_becomes_a_tool_call_known_by_its_name() -> None:
    asked = (
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "4"},
    )
    calling, answering = turns(*asked)
    assert calling.parts == (ToolCall("f", "f", "{}"),)
    assert answering.parts == (ToolResult("f", (Text("4"),)),)


def test_unknown_fields_survive_and_known_ones_are_not_repeated() -> None:
    extra = {"metadata": {"a": 1}, "made_up": [1, None], "verbosity": "low", "store": False}
    request = chat_requests.read(body(**extra, temperature=0, max_tokens=5, stream=True))
    assert request.parameters.extra == extra
    written = chat_requests.write(request, "upstream-name")
    assert written == {
        **extra,
        "model": "upstream-name",
        "messages": [HELLO],
        "temperature": 0.0,
        "max_completion_tokens": 5,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_an_extra_field_cannot_override_what_the_gateway_sets() -> None:
    written = chat_requests.write(
        chat_requests.read(body(stream=True, stream_options={"include_usage": False})), "theirs"
    )
    assert written["stream_options"] == {"include_usage": True}
    assert written["model"] == "theirs"


@pytest.mark.parametrize(
    ("choice", "read"),
    [
        ("auto", ToolChoice("auto")),
        ("none", ToolChoice("none")),
        ("required", ToolChoice("required")),
        ({"type": "function", "function": {"name": "f"}}, ToolChoice("named", "f")),
    ],
)
def test_tool_choices_are_kept(choice: Any, read: ToolChoice) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    request = chat_requests.read(body(tool_choice=choice, tools=tools))
    assert request.tool_choice == read
    assert chat_requests.write(request, "m")["tool_choice"] == choice


def test_a_choice_without_tools_is_left_out() -> None:
    request = chat_requests.read(body(tool_choice="auto"))
    assert "tool_choice" not in chat_requests.write(request, "m")


def test_what_a_family_of_openais_refuses_is_left_out() -> None:
    asked = body(temperature=0.5, top_p=0.5, reasoning_effort="low", seed=1)
    request = chat_requests.read(asked)
    assert set(asked) - set(chat_requests.write(request, "gpt-4o")) == {"reasoning_effort"}
    assert set(asked) - set(chat_requests.write(request, "gpt-5-mini")) == {"temperature", "top_p"}
    assert set(asked) - set(chat_requests.write(request, "gpt-oss-20b")) == set()
    awake = chat_requests.read({**asked, "reasoning_effort": "none"})
    assert "temperature" in chat_requests.write(awake, "gpt-5.2")


def test_reasoning_goes_back_only_to_servers_that_have_a_field_for_it() -> None:
    turns = [{"role": "assistant", "content": "4", "reasoning_content": "2 + 2"}]
    request = chat_requests.read(body(messages=turns))
    assert "reasoning_content" not in chat_requests.write(request, "gpt-4o")["messages"][0]
    assert "reasoning_content" in chat_requests.write(request, "deepseek-r1")["messages"][0]


def test_images_of_tool_results_follow_them_as_the_users() -> None:
    image = Image("data:image/png;base64,AAAA")
    request = GenerationRequest(
        "m",
        (
            Turn("tool", (ToolResult("call_1", (Text("see"), image)),)),
            Turn("tool", (ToolResult("call_2", (Text("too"),)),)),
            Turn("user", (Text("What is it?"),)),
        ),
    )
    messages = chat_requests.write(request, "m")["messages"]
    assert [message["role"] for message in messages] == ["tool", "tool", "user", "user"]
    assert messages[0]["content"] == "see"
    assert messages[2]["content"][0]["type"] == "image_url"


@pytest.mark.parametrize(
    ("schema", "read"),
    [
        (
            {"name": "a", "schema": {"type": "object"}, "strict": True, "description": "An A"},
            OutputFormat("json_schema", "a", {"type": "object"}, True, "An A"),
        ),
        ({"name": "a"}, OutputFormat("json_schema", "a")),
        ({"name": "a", "strict": False}, OutputFormat("json_schema", "a", strict=False)),
    ],
)
def test_an_output_schema_is_kept(schema: dict[str, Any], read: OutputFormat) -> None:
    asked = {"type": "json_schema", "json_schema": schema}
    request = chat_requests.read(body(response_format=asked))
    assert request.output_format == read
    assert chat_requests.write(request, "m")["response_format"] == asked


def test_plain_text_is_no_output_format() -> None:
    assert chat_requests.read(body(response_format={"type": "text"})).output_format is None
    request = chat_requests.read(body(response_format={"type": "json_object"}))
    assert chat_requests.write(request, "m")["response_format"] == {"type": "json_object"}


def test_a_tool_keeps_its_schema_and_strictness() -> None:
    tools = [
        {
            "type": "function",
            "function": {
                "name": "f",
                "description": "Does f.",
                "parameters": {"type": "object", "$defs": {}},
                "strict": False,
            },
        },
        {"type": "function", "function": {"name": "g"}},
    ]
    request = chat_requests.read(body(tools=tools))
    assert request.tools == (
        Tool("f", "Does f.", {"type": "object", "$defs": {}}, False),
        Tool("g"),
    )
    assert chat_requests.write(request, "m")["tools"] == tools


def test_whether_calls_may_be_parallel_is_not_said_without_tools() -> None:
    request = chat_requests.read(body(parallel_tool_calls=False))
    assert "parallel_tool_calls" not in chat_requests.write(request, "m")
    request = chat_requests.read(body(parallel_tool_calls=False, tools=TOOLS))
    assert chat_requests.write(request, "m")["parallel_tool_calls"] is False


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_tools_that_are_not_allowed_are_not_told_of() -> None:
    tools = [*TOOLS, {"type": "function", "function": {"name": "other"}}]
    request = chat_requests.read(body(tools=tools, tool_choice=allowed("required", "other")))
    assert [tool.name for tool in request.tools] == ["other"]
    assert request.tool_choice == ToolChoice("required")
    request = chat_requests.read(body(tools=tools, tool_choice=allowed("auto")))
    assert (request.tools, request.tool_choice) == ((), ToolChoice("auto"))


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (allowed("required", "missing"), "tool_choice.allowed_tools.tools"),
        (allowed("none", "f"), "tool_choice.allowed_tools.mode"),
        ({"type": "allowed_tools"}, "tool_choice.allowed_tools"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{}]}},
            "tool_choice.allowed_tools.tools[0].function",
        ),
    ],
)
def test_a_choice_among_tools_that_means_nothing_is_refused(choice: Any, param: str) -> None:
    with pytest.raises(Refusal) as refusal:
        chat_requests.read(body(tools=TOOLS, tool_choice=choice))
    assert refusal.value.param == param


def test_what_was_spoken_comes_back_as_its_words_or_not_at_all() -> None:
    spoken = {"id": "audio_1", "transcript": "Hello.", "data": "aGk="}
    request = chat_requests.read(message(role="assistant", audio=spoken))
    assert request.turns == (Turn("assistant", (Text("Hello."),)),)
    with pytest.raises(Refusal) as refusal:
        chat_requests.read(message(role="assistant", audio={"id": "audio_1"}))
    assert refusal.value.param == "messages[0].audio"


TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "f"}}]
PARAMETERS: dict[str, Any] = {
    "temperature": 0.0,
    "top_p": 0.5,
    "stop": ["END"],
    "n": 3,
    "seed": 0,
    "presence_penalty": -1.5,
    "frequency_penalty": 2.0,
    "logprobs": True,
    "top_logprobs": 0,
    "reasoning_effort": "low",
    "parallel_tool_calls": False,
    "user": "u",
    "max_completion_tokens": 9,
}


@given(st.sets(st.sampled_from(sorted(PARAMETERS))))
def test_any_parameters_are_written_as_they_were_asked(names: set[str]) -> None:
    asked = body(model="m", tools=TOOLS, **{name: PARAMETERS[name] for name in names})
    assert chat_requests.write(chat_requests.read(asked), asked["model"]) == asked


@pytest.mark.parametrize(("model", "written"), [("gpt-4o", None), ("gpt-5", None), ("llama", 40)])
def test_what_other_wires_tune_with_is_not_asked_of_openai(model: str, written: int | None) -> None:
    request = GenerationRequest(
        "m", (Turn("user", (Text("Hi"),)),), parameters=Parameters(extra={"top_k": 40})
    )
    assert chat_requests.write(request, model).get("top_k") == written


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "function", "name", "id", "image_url", "url"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
FIELDS = sorted(chat_requests.READ_FIELDS)


def translate(asked: dict[str, Any]) -> Refusal | None:
    """Read and write; the refusal, if any."""
    try:
        chat_requests.write(chat_requests.read(asked), "m")
    except Refusal as refusal:
        return refusal
    return None


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6), st.booleans())
def test_any_json_is_translated_or_refused(fields: dict[str, Any], complete: bool) -> None:
    refusal = translate({**BASE, **fields} if complete else fields)
    if refusal is not None:
        assert refusal.status == 400
        assert refusal.code in {MISSING, TYPE, VALUE}
        assert refusal.param


@given(st.lists(JSON, min_size=1, max_size=3), st.lists(JSON, max_size=2))
def test_any_messages_and_tools_are_translated_or_refused(
    messages: list[Any], tools: list[Any]
) -> None:
    for asked in (
        body(messages=messages),
        body(messages=[{"role": "user", "content": messages}], tools=tools),
        body(messages=[{"role": "assistant", "tool_calls": messages}], tool_choice=messages[0]),
        body(messages=[{"role": "tool", "tool_call_id": "c", "content": messages}]),
    ):
        refusal = translate(asked)
        assert refusal is None or refusal.status == 400
