"""Every rule of every stand-in refuses what it is there for, as the service would say it."""

import copy
from typing import Any

import pytest

from gateway.dialects import UPSTREAM_DIALECTS
from gateway.standin import (
    KEY,
    schemas,
    signatures,
    strict_anthropic,
    strict_gemini,
    strict_openai,
    strict_responses,
)
from gateway.standin.rejections import Asked, Rejection, Rule, apply
from gateway.standin.signatures import Verdict

USER = {"role": "user", "content": "Hello."}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
CLOSED = {**SCHEMA, "required": ["city"], "additionalProperties": False}
HEADERS = {"anthropic-version": "2023-06-01"}


def refusal(rules: tuple[Rule, ...], body: dict[str, Any], model: str = "", **headers: str) -> Any:
    """Status and error of what the rules refuse."""
    asked = Asked({**HEADERS, **headers}, body, model or body.get("model", ""))
    with pytest.raises(Rejection) as caught:
        apply(rules, asked)
    return caught.value.status, caught.value.body["error"]


# --- Anthropic -------------------------------------------------------------------------------

CLAUDE = {"model": "claude-sonnet-4-5", "max_tokens": 2048, "messages": [USER]}
WEATHER = {"name": "get_weather", "input_schema": SCHEMA}
USE = {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Sunny."}
BUDGET = {"type": "enabled", "budget_tokens": 1024}
THOUGHT = {
    "type": "thinking",
    "thinking": "Hm.",
    "signature": signatures.sign(strict_anthropic.THINKING, "Hm."),
}


def said(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": list(blocks)}


def asked(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


LOOP = [USER, said(THOUGHT, USE), asked(RESULT)]
FORMAT = {"format": {"type": "json_schema", "schema": CLOSED}}
GOOD_CLAUDE: list[dict[str, Any]] = [
    CLAUDE,
    {**CLAUDE, "thinking": BUDGET, "messages": LOOP, "tools": [WEATHER]},
    {**CLAUDE, "output_config": FORMAT},
    {**CLAUDE, "temperature": 0.5, "stop_sequences": ["END"], "metadata": {"user_id": "u"}},
    {**CLAUDE, "tools": [WEATHER], "tool_choice": {"type": "tool", "name": "get_weather"}},
    {**CLAUDE, "messages": [USER, said(text("It is"))]},
    {**CLAUDE, "model": "claude-opus-5", "thinking": {"type": "adaptive"}, "max_tokens": 128_000},
]


@pytest.mark.parametrize("body", GOOD_CLAUDE)
def test_good_messages_are_let_through(body: dict[str, Any]) -> None:
    apply(strict_anthropic.RULES, Asked(HEADERS, body, body["model"]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_tokens": None}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": 0}, "greater than or equal to 1"),
        ({"max_tokens": 64_001}, "max_tokens: 64001 > 64000, which is the maximum"),
        ({"seed": 1}, "seed: Extra inputs are not permitted"),
        ({"messages": []}, "at least one message"),
        ({"messages": [USER, USER]}, "roles must alternate"),
        ({"messages": [{"role": "system", "content": "x"}, USER]}, "top-level `system`"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "'user' or 'assistant'"),
        ({"messages": [{"role": "user", "content": ""}]}, "must have non-empty content"),
        ({"messages": [asked(text(""))]}, "text content blocks must be non-empty"),
        ({"messages": [asked(text(" "))]}, "must contain non-whitespace text"),
        ({"system": [text("")]}, "system: text content blocks must be non-empty"),
        ({"messages": [asked({"type": "image_url"})]}, "does not match any of the expected"),
        ({"messages": [asked({**text("x"), "foo": 1})]}, "text.foo: Extra inputs"),
        ({"messages": [USER, said({**USE, "input": "{}"})]}, "should be a valid dictionary"),
        ({"messages": [USER, said({**USE, "id": "a:b"})]}, "String should match pattern"),
        ({"messages": [asked(RESULT)]}, "unexpected `tool_use_id` found"),
        ({"messages": [USER, said(USE), asked(text("x"))]}, "without `tool_result` blocks"),
        ({"messages": [USER, said(USE), asked(text("x"), RESULT)]}, "without `tool_result`"),
        ({"messages": [USER, said(USE)]}, "without `tool_result` blocks"),
        ({"messages": [USER, said(USE, USE), asked(RESULT)]}, "ids must be unique"),
        ({"messages": [USER, said(text("It is "))]}, "trailing whitespace"),
        ({"messages": [{"role": "user", "content": "x" * 900_000}]}, "prompt is too long"),
        ({"thinking": {**BUDGET, "budget_tokens": 1000}}, "greater than or equal to 1024"),
        ({"thinking": {**BUDGET, "budget_tokens": 2048}}, "must be greater than `thinking.budget"),
        ({"thinking": {"type": "adaptive"}}, "adaptive thinking is not supported"),
        ({"thinking": {"type": "on"}}, "does not match any of the expected tags"),
        ({"thinking": BUDGET, "temperature": 0.5}, "may only be set to 1"),
        ({"thinking": BUDGET, "top_k": 5}, "must be unset when thinking"),
        ({"temperature": 1.5}, "temperature: range: 0..1"),
        ({"temperature": 0.5, "top_p": 0.5}, "cannot both be specified"),
        ({"stop_sequences": [" "]}, "must contain non-whitespace"),
        ({"tools": [{"name": "a b", "input_schema": SCHEMA}]}, "String should match pattern"),
        ({"tools": [{"name": "a"}]}, "tools.0.custom.input_schema: Field required"),
        ({"tools": [{"name": "a", "input_schema": {}}]}, "input_schema.type: Input should be"),
        ({"tools": [{**WEATHER, "strict": True}]}, "explicitly set to false"),
        ({"tools": [WEATHER, WEATHER]}, "Tool names must be unique"),
        ({"tool_choice": {"type": "any"}}, "only be specified while providing `tools`"),
        ({"tool_choice": "auto"}, "valid dictionary"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "x"}}, "not found in"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "any"}, "thinking": BUDGET},
            "Thinking may not be enabled when tool_choice forces tool use.",
        ),
        ({"output_config": {"effort": "low"}}, "does not support the effort parameter"),
        (
            {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}},
            "'additionalProperties' must be explicitly set to false",
        ),
        (
            {
                "output_config": {
                    "format": {
                        "type": "json_schema",
                        "schema": {
                            **CLOSED,
                            "properties": {"city": {"type": "integer", "minimum": 1}},
                        },
                    }
                }
            },
            "For 'integer' type, property minimum is not supported",
        ),
        (
            {"messages": [USER, said({**THOUGHT, "signature": "abc"}, USE), asked(RESULT)]},
            "Invalid `signature` in `thinking` block",
        ),
        (
            {"messages": [USER, said({**THOUGHT, "thinking": "Other."}, USE), asked(RESULT)]},
            "cannot be modified",
        ),
        (
            {"messages": [USER, said({"type": "redacted_thinking", "data": "x"}, USE)]},
            "ids were found without",
        ),
        (
            {
                "messages": [
                    USER,
                    said({"type": "redacted_thinking", "data": "x"}, USE),
                    asked(RESULT),
                ]
            },
            "Invalid `data` in `redacted_thinking` block",
        ),
        (
            {"messages": [USER, said(USE), asked(RESULT)], "thinking": BUDGET},
            "Expected `thinking` or `redacted_thinking`, but found `tool_use`",
        ),
        (
            {"messages": [asked(*[{**text("x"), "cache_control": {"type": "ephemeral"}}] * 5)]},
            "A maximum of 4 blocks with cache_control",
        ),
    ],
)
def test_a_bad_message_is_refused(changes: dict[str, Any], words: str) -> None:
    status, error = refusal(strict_anthropic.RULES, {**CLAUDE, **changes})
    assert (status, error["type"]) == (400, "invalid_request_error")
    assert words in error["message"]


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ("claude-opus-5", {"temperature": 1}, "`temperature` is deprecated for this model."),
        ("claude-opus-5", {"thinking": BUDGET}, '"thinking.type.enabled" is not supported'),
        ("claude-opus-4-6", {"messages": [USER, said(text("a"))]}, "assistant message prefill"),
        ("claude-opus-4-6", {"output_config": {"effort": "xhigh"}}, "effort level 'xhigh'"),
        (
            "claude-fable-5",
            {"tools": [WEATHER], "tool_choice": {"type": "any"}},
            "forcing tool use is not supported",
        ),
    ],
)
def test_newer_claude_models_refuse_what_older_ones_took(
    model: str, changes: dict[str, Any], words: str
) -> None:
    status, error = refusal(strict_anthropic.RULES, {**CLAUDE, "model": model, **changes})
    assert status == 400
    assert words in error["message"]


def test_every_field_anthropic_requires_is_required() -> None:
    for name in ("model", "messages", "max_tokens"):
        body = {key: value for key, value in CLAUDE.items() if key != name}
        assert refusal(strict_anthropic.RULES, body)[1]["message"] == f"{name}: Field required"


def test_the_version_of_the_messages_api_must_be_named() -> None:
    rules, claude = strict_anthropic.RULES, CLAUDE["model"]
    for headers, words in (({}, "header is required"), ({"anthropic-version": "1"}, "not a valid")):
        with pytest.raises(Rejection) as caught:
            apply(rules, Asked(headers, CLAUDE, str(claude)))
        assert words in caught.value.body["error"]["message"]


def test_a_model_anthropic_does_not_have_is_not_found() -> None:
    body = {**CLAUDE, "model": "claude-sonnet-9000"}
    expected = {"type": "not_found_error", "message": "model: claude-sonnet-9000"}
    assert refusal(strict_anthropic.RULES, body) == (404, expected)


def test_beta_fields_need_the_beta_header() -> None:
    body = {**CLAUDE, "mcp_servers": []}
    assert "Extra inputs" in refusal(strict_anthropic.RULES, body)[1]["message"]
    headers = {**HEADERS, "anthropic-beta": "mcp-client-2025-11-20"}
    apply(strict_anthropic.RULES, Asked(headers, body, "claude-sonnet-4-5"))


# --- OpenAI chat -----------------------------------------------------------------------------

GPT = {"model": "gpt-4o", "messages": [USER]}
REASONER = {**GPT, "model": "gpt-5-mini"}
FUNCTION = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
STRICT = {"type": "function", "function": {**FUNCTION["function"], "strict": True}}  # type: ignore[dict-item]
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "get_weather", "arguments": "{}"},
}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
ANSWERED = {"role": "tool", "tool_call_id": "call_1", "content": "Sunny."}


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    wanted = {"name": "city", "schema": schema, "strict": True}
    return {"type": "json_schema", "json_schema": wanted}


@pytest.mark.parametrize(
    "body",
    [
        GPT,
        {**GPT, "messages": [USER, CALLING, ANSWERED], "tools": [FUNCTION]},
        {**GPT, "response_format": json_schema(CLOSED), "max_tokens": 5, "temperature": 2},
        {**REASONER, "max_completion_tokens": 5, "reasoning_effort": "low", "temperature": 1},
        {**GPT, "model": "gpt-5.2", "temperature": 0.2},
        {**GPT, "stream": True, "stream_options": {"include_usage": True}, "n": 2},
    ],
)
def test_good_chat_requests_are_let_through(body: dict[str, Any]) -> None:
    apply(strict_openai.RULES, Asked({}, body, body["model"]))


@pytest.mark.parametrize(
    ("body", "words", "param", "code"),
    [
        ({**GPT, "foo": 1}, "Unrecognized request argument supplied: foo", None, None),
        ({**GPT, "foo": 1, "bar": 2}, "arguments supplied: foo, bar", None, None),
        ({"messages": [USER]}, "you must provide a model parameter", None, None),
        ({"model": "gpt-4o"}, "'messages'", "messages", "missing_required_parameter"),
        ({**GPT, "messages": []}, "empty array", "messages", "empty_array"),
        ({**GPT, "stream": "yes"}, "expected a boolean", "stream", "invalid_type"),
        ({**GPT, "temperature": True}, "expected a decimal", "temperature", "invalid_type"),
        (
            {**GPT, "messages": [{"role": "bot", "content": "x"}]},
            "Invalid value: 'bot'",
            "messages[0].role",
            "invalid_value",
        ),
        (
            {**GPT, "messages": [{**USER, "reasoning_content": "x"}]},
            "Unknown parameter",
            "messages[0].reasoning_content",
            "unknown_parameter",
        ),
        (
            {**GPT, "messages": [{"role": "user", "content": None}]},
            "expected a string, got null",
            "messages.[0].content",
            None,
        ),
        (
            {**GPT, "messages": [{"role": "user", "content": [{"type": "input_text"}]}]},
            "Invalid value: 'input_text'",
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            {**GPT, "messages": [USER, ANSWERED]},
            "must be a response to a preceeding message",
            "messages.[1].role",
            None,
        ),
        (
            {**GPT, "messages": [USER, CALLING, USER]},
            "did not have response messages: call_1",
            "messages.[2].role",
            None,
        ),
        (
            {**GPT, "messages": [USER, {**CALLING, "tool_calls": [{**CALL, "id": "c" * 65}]}]},
            "string too long",
            "messages[1].tool_calls[0].id",
            "string_above_max_length",
        ),
        (
            {**GPT, "messages": [USER, {**CALLING, "tool_calls": [{**CALL, "extra_content": 1}]}]},
            "Unknown parameter",
            "messages[1].tool_calls[0].extra_content",
            "unknown_parameter",
        ),
        (
            {**REASONER, "max_tokens": 5},
            "max_completion_tokens",
            "max_tokens",
            "unsupported_parameter",
        ),
        (
            {**GPT, "max_tokens": 5, "max_completion_tokens": 5},
            "at the same time",
            "max_tokens",
            "invalid_parameter_combination",
        ),
        ({**GPT, "max_tokens": 0}, "below minimum", "max_tokens", "integer_below_min_value"),
        ({**GPT, "n": 129}, "above maximum", "n", "integer_above_max_value"),
        ({**REASONER, "temperature": 0.5}, "Only the default", "temperature", "unsupported_value"),
        ({**REASONER, "top_p": 0.5}, "not supported with", "top_p", "unsupported_parameter"),
        ({**GPT, "reasoning_effort": "low"}, "supplied: reasoning_effort", None, None),
        ({**GPT, "temperature": 3}, "above maximum", "temperature", "decimal_above_max_value"),
        ({**GPT, "user": "u" * 65}, "maximum length 64", "user", "string_above_max_length"),
        ({**GPT, "stream_options": {}}, "only allowed when 'stream'", "stream_options", None),
        ({**GPT, "top_logprobs": 2}, "only allowed when 'logprobs'", "top_logprobs", None),
        ({**GPT, "stop": ["a"] * 5}, "array too long", "stop", "array_above_max_length"),
        ({**GPT, "tool_choice": "auto"}, "only allowed when 'tools'", "tool_choice", None),
        ({**GPT, "parallel_tool_calls": True}, "when 'tools'", "parallel_tool_calls", None),
        ({**GPT, "web_search_options": {}}, "Web search options", "web_search_options", None),
        (
            {**GPT, "tools": [{"type": "function", "name": "x"}]},
            "'tools[0].function'",
            "tools[0].function",
            "missing_required_parameter",
        ),
        (
            {**GPT, "tools": [{"type": "function", "function": {"name": "a b"}}]},
            "does not match pattern",
            "tools[0].function.name",
            "invalid_value",
        ),
        (
            {**GPT, "tools": [STRICT]},
            "In context=(), 'additionalProperties'",
            "tools[0].function.parameters",
            "invalid_function_parameters",
        ),
        (
            {
                **GPT,
                "tools": [FUNCTION],
                "tool_choice": {"type": "function", "function": {"name": "x"}},
            },
            "not found in 'tools'",
            "tool_choice",
            None,
        ),
        (
            {**GPT, "response_format": json_schema({**CLOSED, "required": []})},
            "Missing 'city'",
            "response_format",
            None,
        ),
        (
            {**GPT, "response_format": {"type": "json_object"}},
            "must contain the word 'json'",
            "messages",
            None,
        ),
        (
            {**GPT, "messages": [{**USER, "content": "x" * 600_000}]},
            "maximum context length is 128000",
            "messages",
            "context_length_exceeded",
        ),
    ],
)
def test_a_bad_chat_request_is_refused(
    body: dict[str, Any], words: str, param: str | None, code: str | None
) -> None:
    status, error = refusal(strict_openai.RULES, body)
    assert status == 400
    assert words in error["message"]
    assert error == {
        "message": error["message"],
        "type": "invalid_request_error",
        "param": param,
        "code": code,
    }


def test_a_codex_model_is_not_served_on_chat_completions() -> None:
    status, error = refusal(strict_openai.RULES, {**GPT, "model": "gpt-5.2-codex"})
    assert status == 404
    assert "only supported in v1/responses" in error["message"]


# --- OpenAI Responses ------------------------------------------------------------------------

ASK = {"model": "gpt-5-mini", "input": "Hello."}
ENCRYPTED = signatures.OPENAI_PREFIX + signatures.sign(strict_responses.ENCRYPTED, "")
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": ENCRYPTED}
ITEM_CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "get_weather",
    "arguments": "{}",
}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "Sunny."}


@pytest.mark.parametrize(
    "body",
    [
        ASK,
        {**ASK, "input": [USER, REASONING, ITEM_CALL, OUTPUT]},
        {**ASK, "previous_response_id": "resp_1", "input": [OUTPUT]},
        {**ASK, "reasoning": {"effort": "low"}, "include": ["reasoning.encrypted_content"]},
    ],
)
def test_good_responses_requests_are_let_through(body: dict[str, Any]) -> None:
    apply(strict_responses.RULES, Asked({}, body, body["model"]))


@pytest.mark.parametrize(
    ("changes", "words", "param", "code"),
    [
        ({"messages": []}, "Unknown parameter: 'messages'.", "messages", "unknown_parameter"),
        ({"input": None}, 'One of "input"', "input", "missing_required_parameter"),
        ({"input": {}}, "Invalid type for 'input'", "input", "invalid_type"),
        ({"model": "gpt-9"}, "'gpt-9' does not exist", "model", "model_not_found"),
        ({"input": [{"type": "foo"}]}, "Invalid value: 'foo'", "input[0].type", "invalid_value"),
        (
            {"input": [{**ITEM_CALL, "id": "call_1"}, OUTPUT]},
            "begins with 'fc'",
            "input[0].id",
            "invalid_value",
        ),
        ({"input": [{"role": "tool", "content": ""}]}, "'tool'", "input[0]", "invalid_value"),
        (
            {"input": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            "Invalid value: 'text'",
            "input[0].content[0]",
            "invalid_value",
        ),
        (
            {"input": [{"role": "assistant", "content": [{"type": "input_text", "text": "x"}]}]},
            "'output_text', and 'refusal'",
            "input[0].content[0]",
            "invalid_value",
        ),
        ({"input": [USER, ITEM_CALL]}, "No tool output found for function call", "input", None),
        ({"input": [USER, OUTPUT]}, "No tool call found for function call output", "input", None),
        ({"input": [USER, REASONING]}, "without its required following item", "input", None),
        (
            {"input": [USER, REASONING, {"role": "assistant", "content": "x"}, USER]},
            "without its required following item",
            "input",
            None,
        ),
        (
            {"input": [USER, {**REASONING, "encrypted_content": "gAAAAAx"}, ITEM_CALL, OUTPUT]},
            "could not be verified",
            None,
            "invalid_encrypted_content",
        ),
        (
            {"max_output_tokens": 1},
            "Expected a value >= 16",
            "max_output_tokens",
            "integer_below_min_value",
        ),
        ({"temperature": 0.5}, "'temperature'", "temperature", "unsupported_parameter"),
        (
            {"model": "gpt-4o", "reasoning": {"effort": "low"}},
            "'reasoning.effort' is not supported",
            "reasoning.effort",
            "unsupported_parameter",
        ),
        (
            {
                "model": "gpt-4o",
                "reasoning": {"summary": "auto"},
                "include": ["reasoning.encrypted_content"],
            },
            "Encrypted content is not supported",
            "include",
            None,
        ),
        ({"include": ["foo"]}, "Invalid value: 'foo'", "include[0]", "invalid_value"),
        (
            {"tools": [{"type": "function", "function": {"name": "x"}}]},
            "'tools[0].name'",
            "tools[0].name",
            "missing_required_parameter",
        ),
        (
            {"tools": [{"type": "function", "name": "x", "parameters": SCHEMA, "strict": True}]},
            "'additionalProperties'",
            "tools[0].parameters",
            "invalid_function_parameters",
        ),
        ({"tool_choice": "required"}, "must be specified with 'tools'", "tool_choice", None),
        (
            {"tool_choice": {"type": "function", "name": "x"}},
            "not found in 'tools'",
            "tool_choice",
            None,
        ),
        (
            {"text": {"format": {"type": "json_schema", "schema": CLOSED}}},
            "'text.format.name'",
            "text.format.name",
            "missing_required_parameter",
        ),
        (
            {"text": {"format": {"type": "json_object"}}},
            "must contain the word 'json'",
            "input",
            None,
        ),
        (
            {
                "text": {
                    "format": {
                        "type": "json_schema",
                        "name": "x",
                        "schema": SCHEMA,
                        "strict": True,
                    }
                }
            },
            "Invalid schema for response_format 'x'",
            "text.format.schema",
            "invalid_json_schema",
        ),
    ],
)
def test_a_bad_responses_request_is_refused(
    changes: dict[str, Any], words: str, param: str | None, code: str | None
) -> None:
    status, error = refusal(strict_responses.RULES, {**ASK, **changes})
    assert status == 400
    assert words in error["message"]
    assert (error["param"], error["code"]) == (param, code)


# --- Gemini ----------------------------------------------------------------------------------

HELLO = {"role": "user", "parts": [{"text": "Hello."}]}
ASK_GEMINI = {"contents": [HELLO]}
SIGNED = {
    "functionCall": {"name": "get_weather", "args": {}},
    "thoughtSignature": signatures.sign(strict_gemini.THOUGHT, "gemini-3-flash-preview"),
}
UNSIGNED = {"functionCall": {"name": "get_weather", "args": {}}}
RESPONDED = {
    "role": "user",
    "parts": [{"functionResponse": {"name": "get_weather", "response": {"result": "Sunny."}}}],
}
EMPTY = {"text": ""}


def model(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "model", "parts": list(parts)}


def declare(**members: Any) -> list[dict[str, Any]]:
    return [{"functionDeclarations": [{"name": "get_weather", **members}]}]


@pytest.mark.parametrize(
    "body",
    [
        ASK_GEMINI,
        {"contents": [HELLO, model(SIGNED), RESPONDED], "tools": declare()},
        # Only the first of parallel calls is signed.
        {
            "contents": [
                HELLO,
                model(SIGNED, UNSIGNED),
                {"role": "user", "parts": RESPONDED["parts"] * 2},  # type: ignore[operator]
            ]
        },
        # Earlier turns are not looked at.
        {"contents": [HELLO, model(UNSIGNED), RESPONDED, model({"text": "Sunny."}), HELLO]},
        # As google-genai's chats keep a turn that was streamed.
        {"contents": [HELLO, model({"text": "Wait."}), model(SIGNED), model(EMPTY), RESPONDED]},
        {
            "contents": [
                HELLO,
                model({**UNSIGNED, "thoughtSignature": "skip_thought_signature_validator"}),
                RESPONDED,
            ]
        },
        {
            **ASK_GEMINI,
            "generation_config": {
                "response_mime_type": "application/json",
                "responseJsonSchema": {"$schema": "x", **CLOSED},
            },
            "tools": declare(parametersJsonSchema={"$schema": "x", **CLOSED}),
        },
    ],
)
def test_good_gemini_requests_are_let_through(body: dict[str, Any]) -> None:
    apply(strict_gemini.RULES, Asked({}, body, "gemini-3-flash-preview"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"messages": []}, 'Unknown name "messages": Cannot find field.'),
        ({"generationConfig": {"n": 1}}, "Unknown name \"n\" at 'generation_config'"),
        (
            {"tools": declare(parameters={"type": "object", "additionalProperties": False})},
            'Unknown name "additionalProperties" at '
            "'tools[0].function_declarations[0].parameters'",
        ),
        (
            {"tools": declare(parameters={"type": ["string", "null"]})},
            "Proto field is not repeating",
        ),
        ({"contents": []}, "contents is not specified"),
        ({"contents": [{"role": "assistant", "parts": [{"text": "x"}]}]}, "use a valid role"),
        ({"contents": [{"role": "user", "parts": []}]}, "contents.parts must not be empty"),
        ({"contents": [{"role": "user", "parts": [{"thought": True}]}]}, "required oneof field"),
        (
            {"contents": [HELLO, model({"functionCall": {"name": "x", "args": "{}"}})]},
            "type.googleapis.com/google.protobuf.Struct",
        ),
        ({"contents": [HELLO, model({"functionCall": {"args": {}}})]}, "[FIELD_REQUIRED]"),
        ({"contents": [model(SIGNED), RESPONDED]}, "immediately after a user turn"),
        ({"contents": [HELLO, RESPONDED]}, "immediately after a function call turn"),
        (
            {"contents": [HELLO, model(SIGNED, UNSIGNED), RESPONDED]},
            "number of function response parts is equal",
        ),
        (
            {"contents": [HELLO, model(UNSIGNED), RESPONDED]},
            "Function call is missing a thought_signature in functionCall parts. This is required",
        ),
        (
            {
                "contents": [
                    HELLO,
                    model(SIGNED),
                    RESPONDED,
                    model(UNSIGNED),
                    RESPONDED,
                ]
            },
            "`default_api:get_weather` , position 4",
        ),
        (
            {"contents": [HELLO, model({**SIGNED, "thoughtSignature": "abcd"}), RESPONDED]},
            "Corrupted thought signature.",
        ),
        ({"tools": declare(name="1x")}, "Invalid function name"),
        ({"tools": declare() * 2}, "Duplicate function declaration found: get_weather"),
        (
            {"tools": declare(parameters=SCHEMA, parametersJsonSchema=SCHEMA)},
            "only one of parameters",
        ),
        ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "no function declarations"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "required"}}}, "Invalid value at"),
        (
            {
                "tools": declare(),
                "toolConfig": {"functionCallingConfig": {"allowedFunctionNames": ["get_weather"]}},
            },
            "only be set when the mode is ANY",
        ),
        (
            {
                "tools": declare(),
                "toolConfig": {
                    "functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["x"]}
                },
            },
            "not a declared function",
        ),
        ({"generationConfig": {"temperature": 3}}, "must be in the range [0, 2]"),
        ({"generationConfig": {"seed": 2**40}}, "generation_config.seed"),
        ({"generationConfig": {"stopSequences": ["x"] * 6}}, "at most 5"),
        ({"generationConfig": {"responseJsonSchema": CLOSED}}, "only supported with response_mime"),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "thinkingBudget": 1}}},
            "only set only one",
        ),
    ],
)
def test_a_bad_gemini_request_is_refused(changes: dict[str, Any], words: str) -> None:
    body = {**copy.deepcopy(ASK_GEMINI), **changes}
    status, error = refusal(strict_gemini.RULES, body, "gemini-3-flash-preview")
    assert (status, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    assert words in error["message"]


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("gemini-2.5-flash", {"thinkingLevel": "LOW"}, "level is not supported"),
        ("gemini-2.0-flash", {"includeThoughts": True}, "Thinking is not supported"),
        ("gemini-3-pro-preview", {"thinkingLevel": "MINIMAL"}, "MINIMAL is not supported"),
        ("gemini-2.5-pro", {"thinkingBudget": 0}, "only works in thinking mode"),
    ],
)
def test_each_gemini_family_thinks_in_its_own_way(
    name: str, config: dict[str, Any], words: str
) -> None:
    body = {**ASK_GEMINI, "generationConfig": {"thinkingConfig": config}}
    assert words in refusal(strict_gemini.RULES, body, name)[1]["message"]


def test_gemini_2_takes_calls_without_signature_and_no_format_with_tools() -> None:
    body: dict[str, Any] = {"contents": [HELLO, model(UNSIGNED), RESPONDED], "tools": declare()}
    apply(strict_gemini.RULES, Asked({}, body, "gemini-2.5-flash"))
    body["generationConfig"] = {"responseMimeType": "application/json"}
    error = refusal(strict_gemini.RULES, body, "gemini-2.5-flash")[1]
    assert "'application/json' is unsupported" in error["message"]


def test_a_signature_of_another_model_is_refused_by_gemini() -> None:
    body = {"contents": [HELLO, model(SIGNED), RESPONDED]}
    error = refusal(strict_gemini.RULES, body, "gemini-3-pro-preview")[1]
    assert error["message"] == "Corrupted thought signature."


# --- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("check", "headers", "status"),
    [
        (strict_openai.check_key, {}, 401),
        (strict_openai.check_key, {"authorization": "Bearer sk-wrong-0123456789"}, 401),
        (strict_openai.check_key, {"x-api-key": KEY}, 401),
        (strict_anthropic.check_key, {}, 401),
        (strict_anthropic.check_key, {"x-api-key": "wrong"}, 401),
        (strict_gemini.check_key, {}, 403),
        (strict_gemini.check_key, {"x-goog-api-key": "wrong"}, 400),
    ],
)
def test_a_missing_or_wrong_key_is_refused_as_each_service_does(
    check: Any, headers: dict[str, str], status: int
) -> None:
    with pytest.raises(Rejection) as caught:
        check(headers, "")
    assert caught.value.status == status
    assert "0123456789" not in str(caught.value.body)


@pytest.mark.parametrize(
    ("module", "dialect"),
    [
        (strict_openai, "openai_chat"),
        (strict_anthropic, "anthropic"),
        (strict_gemini, "gemini"),
    ],
)
def test_every_scripted_error_reads_as_a_provider_s_error(module: Any, dialect: str) -> None:
    for status in (400, 401, 403, 404, 413, 429, 500, 503, 529, 418, 599):
        rejection = module.error(status, "", 7)
        failure = UPSTREAM_DIALECTS[dialect].read_error(
            rejection.status, rejection.headers, str(rejection.body).encode(), secrets=[KEY]
        )
        assert rejection.status == status
        assert failure.is_retryable == (status == 429 or status >= 500) or status in (401, 403)


# --- signatures and schemas ------------------------------------------------------------------


def test_a_signature_tells_intact_altered_and_foreign_apart() -> None:
    signature = signatures.sign("kind", "content")
    url_safe = signature.replace("+", "-").replace("/", "_")
    assert signatures.examine("kind", "content", signature) is Verdict.INTACT
    assert signatures.examine("kind", "content", url_safe) is Verdict.INTACT
    assert signatures.examine("kind", "other", signature) is Verdict.ALTERED
    assert signatures.examine("other", "content", signature) is Verdict.FOREIGN
    assert signatures.examine("kind", "content", "no base64!") is Verdict.FOREIGN
    assert signatures.examine("kind", "content", "") is Verdict.FOREIGN


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 12, "maxLength": 14},
        {"type": "string", "format": "date"},
        {"type": "string", "enum": ["b", "a"]},
        {"type": ["null", "integer"], "minimum": 3, "multipleOf": 5},
        {"type": "integer", "exclusiveMinimum": 4},
        {"type": "number", "maximum": -1.5},
        {"type": "array", "minItems": 2, "items": {"type": "boolean"}},
        {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        {"allOf": [{"required": ["a"], "properties": {"a": {"const": 1}}}, SCHEMA]},
        {"$ref": "#/$defs/node", "$defs": {"node": {**CLOSED, "title": "x"}}},
        {
            "type": "object",
            "required": ["next"],
            "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        },
        {},
    ],
)
def test_the_smallest_instance_of_a_schema_is_valid(schema: dict[str, Any]) -> None:
    import jsonschema

    jsonschema.validate(schemas.make_instance(schema), schema)
