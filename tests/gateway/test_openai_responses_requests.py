"""Responses requests: read from real clients, expanded, written for a provider, and forwarded."""

import pickle
from typing import Any

import pytest
from openai.types.responses import response_create_params
from pydantic import TypeAdapter

from gateway.dialects import CLIENT_DIALECTS, UPSTREAM_DIALECTS, responses_carry
from gateway.dialects.base import Target
from gateway.dialects.openai_responses import ResponsesClient, ResponsesUpstream
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
from tests.gateway.test_openai_responses import RECORDINGS, each
from tests.recordings import of_folder

CLIENT = ResponsesClient()
UPSTREAM = ResponsesUpstream()
TARGET = Target("gpt-5", 1000)
PLAIN = Target("gpt-4o", 1000)
SDK_REQUEST: TypeAdapter[Any] = TypeAdapter(response_create_params.ResponseCreateParamsNonStreaming)
ENCRYPTED = "reasoning.encrypted_content"

REQUESTS = [one for one in RECORDINGS if one.request is not None]
# What only OpenAI's own servers can do: conversations and background answers.
STATEFUL = [one for one in REQUESTS if {"conversation", "background"} & (one.request or {}).keys()]
REFERRING = [one for one in REQUESTS if "item_reference" in one.name]
PLAIN_REQUESTS = [one for one in REQUESTS if one not in STATEFUL and one not in REFERRING]


def read(**members: Any) -> GenerationRequest:
    return CLIENT.read_request({"model": "m", "input": "hi", **members})


def items(*given: Any) -> tuple[Turn, ...]:
    return read(input=list(given)).turns


def write(*turns: Turn, **members: Any) -> dict[str, Any]:
    return UPSTREAM.write_request(GenerationRequest("m", turns, **members), TARGET)


def refusal_of(**members: Any) -> Refusal:
    with pytest.raises(Refusal) as raised:
        read(**members)
    return raised.value


def user(text: str) -> Turn:
    return Turn("user", (Text(text),))


def assistant(*parts: Part) -> Turn:
    return Turn("assistant", parts)


# --- recordings ------------------------------------------------------------------------------


@each(PLAIN_REQUESTS)
def test_a_clients_request_is_read_and_written_with_the_same_meaning(recording: Any) -> None:
    body = recording.request
    before = pickle.dumps(body)
    asked = CLIENT.inspect(body)
    assert asked.model == body["model"]
    assert asked.is_stream == bool(body.get("stream"))
    assert asked.keeps_state == (body.get("store") is not False)
    written = UPSTREAM.write_request(CLIENT.read_request(body), Target("upstream", 10))
    assert meaning(written) == meaning({**body, "model": "upstream"})
    assert pickle.dumps(body) == before


def meaning(body: dict[str, Any]) -> dict[str, Any]:
    """A request without what says nothing, and with one form for each thing.

    State (`include`, `store`) is the gateway's own; what an answer repeats (`metadata`) is, too.
    """
    ours = ("include", "store", "metadata", "previous_response_id", "prompt_cache_options")
    meant = {name: value for name, value in body.items() if name not in ours and value}
    asked = body["input"]
    given = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    if instructions := meant.pop("instructions", None):
        given = [{"role": "system", "content": instructions}, *given]
    meant["input"] = [one for item in given for one in meaning_of_item(item)]
    tools = [tool for tool in body.get("tools", []) if tool["type"] == "function"]
    meant["tools"] = [filled(tool) for tool in tools]
    if not tools:
        meant.pop("tool_choice", None)
    if choice := meant.get("tool_choice"):
        meant["tool_choice"] = choice if isinstance(choice, str) else filled(choice)
    reasoning = {n: v for n, v in (body.get("reasoning") or {}).items() if n in KNOWN_REASONING}
    meant["reasoning"] = filled(reasoning)
    wording = {n: v for n, v in (body.get("text") or {}).items() if v != {"type": "text"}}
    meant["text"] = {
        name: filled(value) if isinstance(value, dict) else value for name, value in wording.items()
    }
    return filled(meant)


KNOWN_REASONING = ("effort", "summary")


def meaning_of_item(item: dict[str, Any]) -> list[dict[str, Any]]:
    kind = item.get("type", "message")
    if kind == "reasoning":
        kept = {name: item.get(name) for name in ("id", "type", "encrypted_content")}
        kept["summary"] = "\n\n".join(part["text"] for part in item["summary"])
        return [filled(kept)] if item.get("encrypted_content") else []
    unheard = ("id", "status", "phase", "type") if kind == "message" else ("id", "status")
    said = {name: value for name, value in item.items() if name not in unheard}
    if isinstance(said.get("content"), list):
        parts = [{n: v for n, v in part.items() if n in KNOWN_PARTS} for part in said["content"]]
        texts = [part["text"] for part in parts if "text" in part]
        is_plain = len(parts) == len(texts) == 1
        said["content"] = texts[0] if is_plain else [meaning_of_part(part) for part in parts]
    if isinstance(said.get("output"), list):
        said["output"] = [meaning_of_part(part) for part in said["output"]]
    said["role"] = {"developer": "system"}.get(said.get("role", ""), said.get("role"))
    return [filled(said)]


def meaning_of_part(part: dict[str, Any]) -> dict[str, Any]:
    default = {"detail": "auto"} if part["type"] == "input_image" else {}
    return filled({**default, **part})


KNOWN_PARTS = ("type", "text", "image_url", "detail", "filename", "file_data", "file_url")


def filled(fields: dict[str, Any]) -> dict[str, Any]:
    return {n: v for n, v in fields.items() if v not in (None, "", [], {}, False)}


@each(PLAIN_REQUESTS)
def test_what_is_written_is_a_request_of_openai_python(recording: Any) -> None:
    written = UPSTREAM.write_request(CLIENT.read_request(recording.request), TARGET)
    check_with_sdk(written)
    assert written["store"] is False


def check_with_sdk(body: dict[str, Any]) -> None:
    """Its types know every name. They want an id of reasoning, which OpenAI does without."""
    asked = body["input"]
    if isinstance(asked, list):
        asked = [
            {"id": "rs_1", **item} if item.get("type") == "reasoning" else item for item in asked
        ]
    unstreamed = {name: value for name, value in body.items() if name != "stream"}
    SDK_REQUEST.validate_python({**unstreamed, "input": asked})
    assert body.keys() <= KNOWN_FIELDS


KNOWN_FIELDS = {
    *response_create_params.ResponseCreateParamsBase.__annotations__,
    "stream",
}


@each(PLAIN_REQUESTS)
def test_a_request_passed_through_changes_what_it_must_alone(recording: Any) -> None:
    body = recording.request
    before = pickle.dumps(body)
    prepared = UPSTREAM.prepare_pass_through(body, TARGET, is_stream=bool(body.get("stream")))
    include = list(dict.fromkeys([*(body.get("include") or []), ENCRYPTED]))
    expected = {**body, "model": "gpt-5", "store": False, "include": include}
    expected.pop("previous_response_id", None)
    assert prepared == expected
    assert pickle.dumps(body) == before


@each(STATEFUL)
def test_what_lives_in_the_providers_account_is_refused(recording: Any) -> None:
    with pytest.raises(Refusal) as raised:
        CLIENT.inspect(recording.request)
    assert raised.value.status == 400
    assert raised.value.code == "unsupported_parameter"
    assert raised.value.param in ("conversation", "background")


@each(REFERRING)
def test_the_references_of_a_tool_loop_are_replaced_by_what_they_name(recording: Any) -> None:
    body = recording.request
    asked = CLIENT.inspect(body)
    thought, message = asked.references
    kept = {
        thought: {"id": thought, "type": "reasoning", "summary": [], "encrypted_content": "gAAA"},
        message: {
            "id": message,
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me see."}],
        },
    }
    expanded = CLIENT.expand(body, kept, [])
    assert [item.get("type") for item in expanded["input"]] == [
        *(None, "reasoning", "message", "function_call", "function_call_output"),
    ]
    turns = CLIENT.read_request(expanded).turns
    assert [turn.role for turn in turns] == ["user", "assistant", "tool"]
    assert [type(part) for part in turns[1].parts] == [Reasoning, Text, ToolCall]
    del kept[thought]
    with pytest.raises(Refusal) as raised:
        CLIENT.expand(body, kept, [])
    assert (raised.value.status, raised.value.param) == (404, "input")
    assert thought in raised.value.message
    with pytest.raises(Refusal, match="not found"):
        CLIENT.read_request(body)


def asked_or_refused(upstream: Any, request: GenerationRequest, target: Target) -> Any:
    """The provider's request, or the name of the parameter it cannot be given."""
    try:
        return upstream.write_request(request, target)
    except Refusal as refusal:
        return refusal.param if refusal.status == 400 else None


@each(PLAIN_REQUESTS)
def test_every_provider_can_be_asked_what_clients_of_this_wire_ask(recording: Any) -> None:
    request = CLIENT.read_request(recording.request)
    for upstream in UPSTREAM_DIALECTS.values():
        assert asked_or_refused(upstream, request, Target("some-model", 1000))


@each(
    one
    for one in of_folder("openai-chat")
    if one.request is not None and isinstance(one.request.get("messages"), list)
)
def test_what_chat_clients_ask_can_be_asked_on_this_wire(recording: Any) -> None:
    request = CLIENT_DIALECTS["openai_chat"].read_request(recording.request)
    written = asked_or_refused(UPSTREAM, request, PLAIN)
    if isinstance(written, dict):
        check_with_sdk(written)
    else:
        assert written in ("stop", "n", "web_search_options", "modalities", "input_audio")


# --- inspecting and expanding ----------------------------------------------------------------


def test_items_that_came_without_their_state_are_looked_up_and_completed() -> None:
    body = {
        "model": "m",
        "input": [
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA"},
            {"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f", "arguments": ""},
            {"id": "msg_1"},
            {"role": "user", "content": "hi", "id": "msg_2"},
        ],
    }
    assert CLIENT.inspect(body).references == ("rs_1", "fc_1", "msg_1")
    kept = {
        "rs_1": {"type": "reasoning", "id": "rs_1", "encrypted_content": "sealed"},
        "msg_1": {"type": "message", "role": "assistant", "content": "kept"},
    }
    expanded = CLIENT.expand(body, kept, [])["input"]
    assert expanded[0]["encrypted_content"] == "sealed"
    assert expanded[2] == body["input"][2]
    assert expanded[3]["content"] == "kept"


def test_the_turns_before_come_first_and_are_no_longer_named() -> None:
    body = {"model": "m", "input": "and now?", "previous_response_id": "resp_1"}
    assert CLIENT.inspect(body).previous_id == "resp_1"
    previous = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    expanded = CLIENT.expand(body, {}, previous)
    assert "previous_response_id" not in expanded
    assert CLIENT.read_request(expanded).turns == (
        user("a"),
        assistant(Text("b")),
        user("and now?"),
    )
    assert CLIENT.expand(body, {}, [])["input"] == "and now?"


@pytest.mark.parametrize(
    ("members", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 1}, "model", "invalid_type"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": 1}, "input", "invalid_type"),
        ({"input": []}, "input", "unsupported_value"),
        ({"input": ["x"]}, "input[0]", "invalid_type"),
        ({"input": [{}]}, "input[0].type", "missing_required_parameter"),
        ({"input": [{"type": "new_thing"}]}, "input[0].type", "unsupported_value"),
        ({"input": [{"type": "compaction"}]}, "input[0].type", "unsupported_value"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "unsupported_value"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"role": "user", "content": []}]}, "input[0].content", None),
        (
            {"input": [{"role": "user", "content": [{"type": "video"}]}]},
            *("input[0].content[0].type", "unsupported_value"),
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            *("input[0].content[0].file_id", "unsupported_parameter"),
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file"}]}]},
            *("input[0].content[0].file_data", "missing_required_parameter"),
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c"}]},
            *("input[0].name", "missing_required_parameter"),
        ),
        (
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "call_id": "c",
                        "output": [{"type": "refusal", "refusal": "no"}],
                    }
                ]
            },
            *("input[0].output[0].type", "unsupported_value"),
        ),
        ({"max_output_tokens": 0}, "max_output_tokens", "unsupported_value"),
        ({"max_output_tokens": True}, "max_output_tokens", "invalid_type"),
        ({"store": "no"}, "store", "invalid_type"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"instructions": ["x"]}, "instructions", "invalid_type"),
        ({"metadata": "x"}, "metadata", "invalid_type"),
        ({"tools": ["x"]}, "tools[0]", "invalid_type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tool_choice": "maybe"}, "tool_choice", "unsupported_value"),
        ({"tool_choice": 1}, "tool_choice", "invalid_type"),
        ({"tool_choice": {"type": "web_search"}}, "tool_choice", "unsupported_value"),
        (
            {"tools": [{"type": "web_search"}], "tool_choice": "required"},
            *("tool_choice", "unsupported_value"),
        ),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "unsupported_value"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
            *("text.format.schema", "missing_required_parameter"),
        ),
        ({"reasoning": {"effort": 3}}, "reasoning.effort", "invalid_type"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
    ],
)
def test_what_is_wrong_is_named(members: dict[str, Any], param: str, code: str | None) -> None:
    refusal = refusal_of(**members)
    assert refusal.status == 400
    assert refusal.param == param
    assert code is None or refusal.code == code


# --- reading ---------------------------------------------------------------------------------


def test_instructions_and_the_developer_are_the_system() -> None:
    turns = read(instructions="Be brief.", input=[{"role": "developer", "content": "x"}]).turns
    assert turns == (Turn("system", (Text("Be brief."),)), Turn("system", (Text("x"),)))


def test_what_the_assistant_did_in_a_row_is_one_turn() -> None:
    turns = items(
        {"role": "user", "content": "q"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": t} for t in ("A", "B")],
            "encrypted_content": "gAAA",
        },
        {"role": "assistant", "content": [{"type": "output_text", "text": "t"}], "phase": "x"},
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}", "id": "fc_1"},
        {"type": "function_call", "call_id": "c2", "name": "g", "arguments": "", "status": "x"},
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {
            "type": "function_call_output",
            "call_id": "c2",
            "output": [
                {"type": "input_text", "text": "two"},
                {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
            ],
        },
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    )
    carry = Carry("openai.encrypted", "gAAA")
    assert turns == (
        user("q"),
        assistant(
            Reasoning("A\n\nB", carry, "rs_1", is_summary=True),
            Text("t"),
            ToolCall("c1", "f", "{}"),
            ToolCall("c2", "g", "{}"),
        ),
        Turn("tool", (ToolResult("c1", (Text("one"),)),)),
        Turn("tool", (ToolResult("c2", (Text("two"), Image("https://x/y.png", "low"))),)),
        assistant(RefusalText("no")),
    )


def test_images_files_and_audio_of_a_user_are_read() -> None:
    content = [
        {"type": "input_text", "text": "see"},
        {"type": "input_image", "image_url": "data:image/png;base64,aGk="},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,aA"},
        {"type": "input_file", "file_url": "https://x/a.pdf"},
        {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}},
    ]
    assert items({"role": "user", "content": content})[0].parts == (
        Text("see"),
        Image("data:image/png;base64,aGk="),
        File(data_url="data:application/pdf;base64,aA", filename="a.pdf"),
        File(url="https://x/a.pdf"),
        Audio("aGk=", "wav"),
    )


def test_records_of_hosted_tools_are_left_out_and_free_text_calls_are_calls() -> None:
    turns = items(
        {"role": "user", "content": "q"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "mcp_list_tools", "id": "m", "tools": []},
        {"type": "image_generation_call", "id": "ig_1", "result": None},
        {"type": "image_generation_call", "id": "ig_2", "result": "aGk="},
        {"type": "custom_tool_call", "call_id": "c", "name": "apply_patch", "input": "*** x"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "done"},
    )
    assert turns[1:] == (
        assistant(
            Image("data:image/png;base64,aGk="),
            ToolCall("c", "apply_patch", '{"input":"*** x"}'),
        ),
        Turn("tool", (ToolResult("c", (Text("done"),)),)),
    )


def test_reasoning_that_says_nothing_and_carries_nothing_is_left_out() -> None:
    item = {"type": "reasoning", "id": "rs_1", "summary": []}
    damaged = {**item, "encrypted_content": "gw1.%%%"}
    raw = {**item, "content": [{"type": "reasoning_text", "text": "Hm"}]}
    assert items(item, damaged, raw) == (assistant(Reasoning("Hm", None, "rs_1")),)


@pytest.mark.parametrize("data", ["", "%%%", "e30", "W10", "eyJraW5kIjoxfQ"])
def test_a_damaged_seal_holds_nothing(data: str) -> None:
    assert responses_carry.unseal(responses_carry.PREFIX + data) is None


def test_state_of_other_providers_comes_back_as_it_was() -> None:
    carry = Carry("anthropic.thinking", "EqQB+/=", "claude-opus-5")
    sealed = responses_carry.seal(carry)
    (turn,) = items({"type": "reasoning", "summary": [], "encrypted_content": sealed})
    assert turn.parts == (Reasoning("", carry),)
    own = Carry("openai.encrypted", "gAAAA")
    assert responses_carry.seal(own) == "gAAAA"
    unsealed = responses_carry.unseal("gAAAA")
    assert unsealed is not None
    assert unsealed.carry == own


def test_the_parameters_of_a_request() -> None:
    parameters = read(
        max_output_tokens=50,
        temperature=1,
        top_p=0.5,
        top_logprobs=2,
        reasoning={"effort": "low", "summary": "auto"},
        text={"verbosity": "high"},
        parallel_tool_calls=False,
        user="u",
        service_tier="flex",
        truncation="auto",
        metadata={"a": "b"},
        client_metadata={"x": "y"},
    ).parameters
    assert parameters == Parameters(
        output_tokens_max=50,
        temperature=1.0,
        top_p=0.5,
        logprobs=True,
        top_logprobs=2,
        reasoning_effort="low",
        reasoning_summary="auto",
        parallel_tool_calls=False,
        user="u",
        extra={"service_tier": "flex", "verbosity": "high"},
    )
    assert read(include=["message.output_text.logprobs"]).parameters.logprobs


def test_output_formats_are_read() -> None:
    schema = {"type": "object"}
    chosen = {"type": "json_schema", "name": "n", "schema": schema, "strict": True}
    assert read(text={"format": chosen}).output_format == OutputFormat(
        "json_schema", "n", schema, strict=True
    )
    assert read(text={"format": {"type": "json_object"}}).output_format is not None
    assert read(text={"format": {"type": "text"}}).output_format is None


FUNCTION = {"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}
OTHER = {"type": "function", "name": "g", "description": "d"}
NAMESPACE = {
    "type": "namespace",
    "name": "ns",
    "tools": [{"type": "function", "name": "f"}, {"type": "function", "name": "h"}],
}
HOSTED: list[dict[str, Any]] = [
    {"type": "web_search"},
    {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
    {"type": "tool_search"},
]


def test_functions_are_read_namespaces_flattened_and_the_rest_left_out() -> None:
    request = read(tools=[NAMESPACE, FUNCTION, OTHER, *HOSTED], tool_choice="auto")
    assert request.tools == (
        Tool("f", schema={"type": "object"}, strict=True),
        Tool("g", "d"),
        Tool("ns__f"),
        Tool("h"),
    )
    assert request.tool_choice == ToolChoice("auto")
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    turns = read(tools=[NAMESPACE, FUNCTION], input=[{**call, "namespace": "ns"}, call]).turns
    assert turns == (assistant(ToolCall("c", "ns__f", "{}"), ToolCall("c", "f", "{}")),)


def test_choices_of_tools() -> None:
    tools = [FUNCTION, OTHER]
    named = read(tools=tools, tool_choice={"type": "function", "name": "g"})
    assert named.tool_choice == ToolChoice("named", "g")
    allowed = {
        "type": "allowed_tools",
        "mode": "required",
        "tools": [{"type": "function", "name": "g"}],
    }
    request = read(tools=tools, tool_choice=allowed)
    assert [tool.name for tool in request.tools] == ["g"]
    assert request.tool_choice == ToolChoice("required")
    assert read(tools=tools, tool_choice="none").tool_choice == ToolChoice("none")
    assert read(tool_choice="auto").tool_choice is None
    assert read(tools=HOSTED, tool_choice="none").tool_choice is None


# --- writing ---------------------------------------------------------------------------------


def test_a_conversation_is_written_as_items() -> None:
    own = Carry("openai.encrypted", "gAAA", "gpt-5")
    body = write(
        Turn("system", (Text("s"),)),
        Turn("user", (Text("q"), Image("https://x"), File("data:a", filename="a.pdf"))),
        assistant(
            Reasoning("T", own, "rs_1", is_summary=True),
            Reasoning("foreign", Carry("anthropic.thinking", "sig")),
            Text("a"),
            RefusalText("b"),
            ToolCall("c", "f", "{}"),
        ),
        Turn("tool", (ToolResult("c", (Text("one"), Text("two"))),)),
        assistant(Image("https://made")),
        Turn("user", (File(url="https://f"),)),
    )
    check_with_sdk({**body, "input": "checked below"})
    assert body["input"] == [
        {"role": "system", "content": "s"},
        {
            "role": "user",
            "content": [
                {"type": "input_text", "text": "q"},
                {"type": "input_image", "image_url": "https://x", "detail": "auto"},
                {"type": "input_file", "filename": "a.pdf", "file_data": "data:a"},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "T"}],
            "encrypted_content": "gAAA",
        },
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "b"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "onetwo"},
        {
            "role": "user",
            "content": [{"type": "input_image", "image_url": "https://made", "detail": "auto"}],
        },
        {"role": "user", "content": [{"type": "input_file", "file_url": "https://f"}]},
    ]
    assert body["include"] == [ENCRYPTED]
    assert body["store"] is False


def test_reasoning_is_not_written_without_the_item_that_followed_it() -> None:
    own = Carry("openai.encrypted", "gAAA")
    body = write(assistant(Text("a"), Reasoning("", own)), user("q"))
    assert [item["role"] for item in body["input"]] == ["assistant", "user"]


@pytest.mark.parametrize(
    ("model", "reasons"),
    [
        *(("gpt-5", True), ("gpt-5.4-mini", True), ("o4-mini", True), ("openai/o3", True)),
        *(("gpt-4o", False), ("gpt-5-chat-latest", False), ("gpt-4.1", False), ("m", False)),
    ],
)
def test_encrypted_reasoning_is_asked_of_models_that_reason(model: str, reasons: bool) -> None:
    body = UPSTREAM.write_request(read(), Target(model, 10))
    assert (ENCRYPTED in body.get("include", [])) == reasons
    prepared = UPSTREAM.prepare_pass_through(
        {"model": "m", "input": "x"}, Target(model, 10), is_stream=False
    )
    assert (ENCRYPTED in prepared.get("include", [])) == reasons


def test_tools_and_formats_are_written_with_their_defaults() -> None:
    body = write(
        user("q"),
        tools=(Tool("f"), Tool("g", "d", {"type": "object"}, strict=True)),
        tool_choice=ToolChoice("named", "g"),
        output_format=OutputFormat("json_schema", "", None, True, "what"),
        parameters=Parameters(logprobs=True, top_logprobs=1, extra={"verbosity": "low", "x": 1}),
    )
    check_with_sdk(body)
    assert body["tools"][0] == {
        "type": "function",
        "name": "f",
        "parameters": {"type": "object", "properties": {}},
        "strict": False,
    }
    assert body["tool_choice"] == {"type": "function", "name": "g"}
    assert body["text"]["format"] == {
        "type": "json_schema",
        "name": "answer",
        "schema": {},
        "strict": True,
        "description": "what",
    }
    assert body["text"]["verbosity"] == "low"
    assert body["include"] == [ENCRYPTED, "message.output_text.logprobs"]
    assert "x" not in body
    plain = write(user("q"), output_format=OutputFormat("json_object"))
    assert plain["text"] == {"format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("parameters", "param"),
    [
        (Parameters(stop=("x",)), "stop"),
        (Parameters(choices=2), "n"),
        (Parameters(extra={"modalities": ["text", "audio"]}), "modalities"),
        (Parameters(extra={"modalities": ["text", "image"]}), "modalities"),
        (Parameters(extra={"modalities": 5}), "modalities"),
        (Parameters(extra={"functions": [{}]}), "functions"),
        (Parameters(extra={"web_search_options": {"x": 1}}), "web_search_options"),
    ],
)
def test_what_this_wire_cannot_say_is_refused(parameters: Parameters, param: str) -> None:
    with pytest.raises(Refusal) as raised:
        write(user("q"), parameters=parameters)
    assert (raised.value.status, raised.value.param) == (400, param)


@pytest.mark.parametrize(
    ("part", "param"), [(Audio("aGk=", "wav"), "input_audio"), (File(file_id="f"), "file_id")]
)
def test_parts_this_wire_cannot_carry_are_refused(part: Part, param: str) -> None:
    with pytest.raises(Refusal) as raised:
        write(Turn("user", (part,)))
    assert (raised.value.status, raised.value.param) == (400, param)


def test_parameters_that_only_steer_are_left_out() -> None:
    body = write(user("q"), parameters=Parameters(seed=1, presence_penalty=0.5))
    assert body.keys() == {"model", "input", "store", "include"}


# --- forwarding ------------------------------------------------------------------------------


def prepare(*given: Any) -> list[Any]:
    body = {"model": "m", "input": list(given)}
    return list(UPSTREAM.prepare_pass_through(body, TARGET, is_stream=False)["input"])


def test_only_openais_own_state_is_forwarded_to_it() -> None:
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    foreign = responses_carry.seal(Carry("anthropic.thinking", "sig"))
    of_call = responses_carry.seal(Carry("gemini.thought", "sig"), call_id="c")
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    own = {**thought, "encrypted_content": "gAAA", "unknown": 1}
    compaction = {"type": "compaction", "encrypted_content": "gBBB"}
    assert prepare(
        thought,
        {**thought, "encrypted_content": foreign},
        {**thought, "encrypted_content": of_call},
        {**call, "encrypted_content": of_call, "unknown": 2},
        own,
        compaction,
        "not an object",
    ) == [{**call, "unknown": 2}, own, compaction, "not an object"]


def test_files_of_the_shared_account_are_not_reachable_by_id() -> None:
    content = [{"type": "input_file", "file_id": "file-1"}]
    for item, param in (
        ({"role": "user", "content": content}, "input[0].content[0].file_id"),
        (
            {"type": "function_call_output", "call_id": "c", "output": content},
            "input[0].output[0].file_id",
        ),
    ):
        with pytest.raises(Refusal) as raised:
            prepare(item)
        assert raised.value.param == param


def test_unknown_members_survive_forwarding() -> None:
    body = {"model": "m", "input": "x", "brand_new": {"a": 1}, "include": ["other"], "store": True}
    prepared = UPSTREAM.prepare_pass_through(body, PLAIN, is_stream=False)
    assert prepared == {**body, "model": "gpt-4o", "store": False}


def test_the_path_is_that_of_responses() -> None:
    assert UPSTREAM.path("m", is_stream=True) == UPSTREAM.path("m", is_stream=False) == "/responses"


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"previous_response_id": "resp_" + "x" * 196}, "previous_response_id"),
        ({"input": [{"type": "item_reference", "id": "x" * 201}]}, "input[0].id"),
        ({"input": [{"role": "user", "content": "Hi"}, {"id": "x" * 201}]}, "input[1].id"),
    ],
)
def test_an_id_that_nothing_can_be_kept_under_is_refused(change: Any, path: str) -> None:
    with pytest.raises(Refusal, match="maximum length 200, but got a string with length 201") as no:
        CLIENT.inspect({"model": "m", "input": "Hi", **change})
    assert (no.value.status, no.value.param) == (400, path)
