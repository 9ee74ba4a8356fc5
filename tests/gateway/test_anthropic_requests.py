"""Messages requests of clients: every refusal names what is wrong, and everything else is kept."""

from typing import Any

import pytest

from gateway.dialects import UPSTREAM_DIALECTS
from gateway.dialects.anthropic import AnthropicClient
from gateway.dialects.anthropic_carries import write_signature
from gateway.dialects.base import Inspection, Json, Target
from gateway.events import Carry
from gateway.generation import (
    File,
    GenerationRequest,
    Image,
    OutputFormat,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from gateway.refusals import Refusal

CLIENT = AnthropicClient()
BASE: Json = {
    "model": "m",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "Hi"}],
}
USER = Turn("user", (Text("Hi"),))
WEATHER = {"name": "weather", "input_schema": {"type": "object"}}


def read(**fields: Any) -> GenerationRequest:
    return CLIENT.read_request({**BASE, **fields})


def turns(*messages: Json, **fields: Any) -> tuple[Turn, ...]:
    return read(messages=list(messages), **fields).turns


def user(*blocks: Json) -> Json:
    return {"role": "user", "content": list(blocks)}


def assistant(*blocks: Json) -> Json:
    return {"role": "assistant", "content": list(blocks)}


# --- refusing --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": None}, "model: Field required"),
        ({"max_tokens": None}, "max_tokens: Field required"),
        ({"max_tokens": "9"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"messages": None}, "messages: Field required"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": {}}, "messages: Input should be a valid list"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean"),
    ],
)
def test_what_routing_needs_is_checked_first(fields: Json, message: str) -> None:
    with pytest.raises(Refusal) as refusal:
        CLIENT.inspect({**BASE, **fields})
    assert refusal.value.status == 400
    assert refusal.value.message == message
    assert refusal.value.param == message.split(":")[0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": ["Hi"]}, "messages.0: Input should be an object"),
        ({"messages": [{"content": "Hi"}]}, "messages.0.role: Field required"),
        (
            {"messages": [{"role": "tool", "content": "Hi"}]},
            "messages.0.role: Input should be 'user', 'assistant', 'system', not 'tool'",
        ),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        (
            {"messages": [{"role": "user", "content": 5}]},
            "messages.0.content: Input should be a valid list",
        ),
        (
            {"messages": [user({"text": "Hi"})]},
            "messages.0.content.0.type: Field required",
        ),
        (
            {"messages": [user({"type": "text"})]},
            "messages.0.content.0.text: Field required",
        ),
        (
            {"messages": [user({"type": "image", "source": {"type": "base64", "data": "x"}})]},
            "messages.0.content.0.source.media_type: Field required",
        ),
        (
            {"messages": [assistant({"type": "image", "source": {}})]},
            "messages.0.content.0.type: Input should be 'text', 'thinking', 'redacted_thinking', "
            "'tool_use', not 'image'",
        ),
        (
            {"messages": [assistant({"type": "tool_use", "id": "a", "name": "b"})]},
            "messages.0.content.0.input: Field required",
        ),
        (
            {"messages": [user({"type": "tool_result", "content": "x"})]},
            "messages.0.content.0.tool_use_id: Field required",
        ),
        (
            {"messages": [user({"type": "image", "source": {"type": "cd"}})]},
            "messages.0.content.0.source.type: Input should be 'base64', 'url', 'file', not 'cd'",
        ),
        ({"system": 5}, "system: Input should be a valid list"),
        ({"system": [{"type": "image"}]}, "system.0.type: Input should be 'text', not 'image'"),
        ({"temperature": "hot"}, "temperature: Input should be a valid number"),
        ({"stop_sequences": [1]}, "stop_sequences.0: Input should be a valid string"),
        ({"tools": [{"name": "a"}]}, "tools.0.input_schema: Field required"),
        ({"tool_choice": "auto"}, "tool_choice: Input should be an object"),
        (
            {"tool_choice": {"type": "some"}},
            "tool_choice.type: Input should be 'auto', 'any', 'tool', 'none', not 'some'",
        ),
        (
            {"output_config": {"format": {"type": "xml"}}},
            "output_config.format.type: Input should be 'json_schema', not 'xml'",
        ),
        (
            {"thinking": {"type": "deep"}},
            "thinking.type: Input should be 'enabled', 'adaptive', 'between_tools', 'disabled', "
            "not 'deep'",
        ),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens: Field required"),
        ({"metadata": {"user_id": 1}}, "metadata.user_id: Input should be a valid string"),
    ],
)
def test_a_refusal_names_the_path_of_what_is_wrong(fields: Json, message: str) -> None:
    with pytest.raises(Refusal) as refusal:
        read(**fields)
    assert (refusal.value.status, refusal.value.message) == (400, message)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"mcp_servers": [{"type": "url", "url": "https://x", "name": "x"}]}, "mcp_servers"),
        (
            {
                "messages": [
                    user({"type": "document", "source": {"type": "file", "file_id": "file_1"}})
                ]
            },
            "messages.0.content.0.source.file_id",
        ),
        (
            {
                "tools": [{"type": "web_search_20260318", "name": "web_search"}],
                "tool_choice": {"type": "any"},
            },
            "tool_choice",
        ),
        (
            {
                "tools": [{"type": "web_search_20260318", "name": "web_search"}, WEATHER],
                "tool_choice": {"type": "tool", "name": "web_search"},
            },
            "tool_choice",
        ),
    ],
)
def test_what_only_anthropic_can_do_is_refused_where_the_answer_needs_it(
    fields: Json, param: str
) -> None:
    with pytest.raises(Refusal) as refusal:
        read(**fields)
    assert (refusal.value.status, refusal.value.param) == (400, param)


# --- what is kept ----------------------------------------------------------------------------


def test_an_inspection_knows_model_stream_and_limit() -> None:
    assert CLIENT.inspect({**BASE, "stream": True}) == Inspection("m", True, 100, wants_usage=True)
    assert CLIENT.expand(BASE, {}, []) is BASE


def test_the_system_is_a_turn_of_its_own_wherever_it_stands() -> None:
    marked = {"type": "text", "text": "Two.", "cache_control": {"type": "ephemeral"}}
    assert read(system="One.").turns == (Turn("system", (Text("One."),)), USER)
    assert read(system=[marked]).turns == (Turn("system", (Text("Two."),)), USER)
    assert read(system="").turns == (USER,)
    assert turns(user({"type": "text", "text": "Hi"}), {"role": "system", "content": "Be."}) == (
        USER,
        Turn("system", (Text("Be."),)),
    )


def test_results_become_turns_of_their_own_with_the_names_of_their_functions() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
    read_turns = turns(
        assistant({"type": "text", "text": "Let me see."}, call),
        user(
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sun", "is_error": True},
            {"type": "tool_result", "tool_use_id": "toolu_2"},
            {"type": "text", "text": "And?"},
        ),
    )
    assert read_turns == (
        Turn(
            "assistant",
            (Text("Let me see."), ToolCall("toolu_1", "weather", '{"city":"Oslo"}')),
        ),
        Turn("tool", (ToolResult("toolu_1", (Text("sun"),), is_error=True, name="weather"),)),
        Turn("tool", (ToolResult("toolu_2", ()),)),
        Turn("user", (Text("And?"),)),
    )


def test_pictures_and_documents_are_kept_in_every_form() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    plain = {"type": "text", "media_type": "text/plain", "data": "Facts."}
    parts = [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
        {"type": "document", "source": pdf, "title": "a.pdf"},
        {"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}},
        {"type": "document", "source": plain, "title": "facts"},
        {
            "type": "document",
            "source": {"type": "content", "content": [{"type": "text", "text": "Inside."}]},
        },
        {
            "type": "search_result",
            "title": "Found",
            "source": "https://example.org",
            "content": [{"type": "text", "text": "It."}],
        },
    ]
    read_parts = (
        Image("data:image/png;base64,iVBO"),
        Image("https://example.org/a.png"),
        File(data_url="data:application/pdf;base64,JVBERi0=", filename="a.pdf"),
        File(url="https://example.org/a.pdf"),
        Text("facts\n\nFacts."),
        Text("Inside."),
        Text("Found\nhttps://example.org"),
        Text("It."),
    )
    assert turns(user(*parts)) == (Turn("user", read_parts),)
    result = {"type": "tool_result", "tool_use_id": "a", "content": parts[:2]}
    assert turns(user(result)) == (Turn("tool", (ToolResult("a", read_parts[:2]),)),)


def test_thinking_is_kept_with_its_signature_byte_for_byte() -> None:
    blocks = (
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln+/=="},
        {"type": "redacted_thinking", "data": "ZGF0"},
        {"type": "thinking", "thinking": "unsigned", "signature": ""},
    )
    assert turns(assistant(*blocks)) == (
        Turn(
            "assistant",
            (
                Reasoning("Hm.", Carry("anthropic.thinking", "c2ln+/=="), is_summary=True),
                Reasoning("", Carry("anthropic.redacted", "ZGF0")),
                Reasoning("unsigned", is_summary=True),
            ),
        ),
    )


@pytest.mark.parametrize("signature", ["gw1.", "gw1.e30=", "gw1.%%%", "gw1.WzFd"])
def test_a_damaged_seal_costs_its_state_and_nothing_else(signature: str) -> None:
    block = {"type": "thinking", "thinking": "Hm.", "signature": signature}
    assert turns(assistant(block)) == (Turn("assistant", (Reasoning("Hm.", is_summary=True),)),)


def test_state_of_other_providers_returns_to_where_it_belongs() -> None:
    thought, text, call = (Carry("gemini.thought", data, "gemini-3") for data in "abc")

    def sealed(carry: Carry, place: str) -> Json:
        signature = write_signature(carry, place)
        return {"type": "thinking", "thinking": "", "signature": signature}

    blocks = (
        sealed(thought, "r"),
        {"type": "text", "text": "Hi"},
        sealed(text, "t"),
        sealed(call, "c"),
        {"type": "tool_use", "id": "a", "name": "weather", "input": {}},
        {"type": "tool_use", "id": "b", "name": "weather", "input": {}},
    )
    assert turns(assistant(*blocks)) == (
        Turn(
            "assistant",
            (
                Reasoning("", thought, is_summary=True),
                Text("Hi", text),
                ToolCall("a", "weather", "{}", call),
                ToolCall("b", "weather", "{}"),
            ),
        ),
    )


def test_what_anthropics_own_tools_did_is_left_out_of_the_history() -> None:
    assert turns(
        assistant(
            {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
            {"type": "web_search_tool_result", "tool_use_id": "s", "content": []},
            {"type": "text", "text": "Found it.", "citations": [{"type": "char_location"}]},
        )
    ) == (Turn("assistant", (Text("Found it."),)),)


def test_tools_are_kept_but_for_anthropics_own() -> None:
    custom = {**WEATHER, "type": "custom", "description": "Tells it.", "strict": True}
    tools = [custom, {"type": "bash_20250124", "name": "bash"}, WEATHER]
    assert read(tools=tools).tools == (
        Tool("weather", "Tells it.", {"type": "object"}, strict=True),
        Tool("weather", "", {"type": "object"}),
    )


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "weather"}, ToolChoice("named", "weather")),
    ],
)
def test_choices_of_tools_are_kept(choice: Json, kept: ToolChoice) -> None:
    assert read(tools=[WEATHER], tool_choice=choice).tool_choice == kept


def test_parameters_are_kept() -> None:
    parameters = read(
        temperature=1,
        top_p=0.5,
        top_k=5,
        stop_sequences=["a"],
        metadata={"user_id": "u"},
        tools=[WEATHER],
        tool_choice={"type": "auto", "disable_parallel_tool_use": True},
        cache_control={"type": "ephemeral"},
        service_tier="auto",
    ).parameters
    assert (parameters.output_tokens_max, parameters.temperature) == (100, 1)
    assert (parameters.top_p, parameters.stop, parameters.user) == (0.5, ("a",), "u")
    assert parameters.parallel_tool_calls is False
    assert parameters.extra == {"top_k": 5}
    assert read().parameters.extra == {}
    assert read().parameters.parallel_tool_calls is None


@pytest.mark.parametrize(
    ("fields", "effort", "summary"),
    [
        ({}, None, None),
        ({"output_config": {"effort": "max"}}, "max", None),
        ({"thinking": {"type": "disabled"}}, "none", None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low", "auto"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10000}}, "medium", "auto"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10001}}, "high", "auto"),
        ({"thinking": {"type": "adaptive"}}, "high", "auto"),
        ({"thinking": {"type": "adaptive", "display": "omitted"}}, "high", None),
        (
            {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
            "low",
            "auto",
        ),
    ],
)
def test_thinking_is_kept_as_an_effort(
    fields: Json, effort: str | None, summary: str | None
) -> None:
    parameters = read(**fields).parameters
    assert (parameters.reasoning_effort, parameters.reasoning_summary) == (effort, summary)


def test_an_output_schema_is_kept_under_both_its_names() -> None:
    chosen = {"type": "json_schema", "schema": {"type": "object"}}
    kept = OutputFormat("json_schema", "answer", {"type": "object"}, strict=True)
    assert read(output_config={"format": chosen}).output_format == kept
    assert read(output_format=chosen).output_format == kept
    assert read().output_format is None


def test_a_request_reaches_a_chat_provider_with_its_tool_loop() -> None:
    call = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "sun"}
    request = read(
        system="Be brief.",
        tools=[WEATHER],
        messages=[user({"type": "text", "text": "Hi"}), assistant(call), user(result)],
    )
    written = UPSTREAM_DIALECTS["openai_chat"].write_request(request, Target("gpt", 0))
    assert [message["role"] for message in written["messages"]] == [
        *("system", "user", "assistant", "tool")
    ]
    assert written["messages"][3]["tool_call_id"] == "toolu_1"
    assert written["max_completion_tokens"] == 100
