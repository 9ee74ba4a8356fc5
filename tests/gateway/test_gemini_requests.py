"""Requests to Gemini models: what other wires' conversations become."""

import base64
import json
from collections.abc import Sequence
from typing import Any

import pytest
from google.genai import types

from gateway.dialects.base import Json, Target
from gateway.dialects.gemini import GeminiUpstream
from gateway.dialects.gemini_models import is_same, thinking_config
from gateway.dialects.gemini_schemas import to_gemini
from gateway.dialects.gemini_signatures import SENTINEL, pack
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
from gateway.standin import strict_gemini
from gateway.standin.rejections import Asked, apply

UPSTREAM = GeminiUpstream()
NEW, OLD = "gemini-3-flash-preview", "gemini-2.5-flash"
TOOL = Tool("add", "Adds.", {"type": "object", "properties": {"a": {"type": "integer"}}})
PIXEL = "data:image/png;base64,aW1hZ2U="
INLINE = {"inlineData": {"mimeType": "image/png", "data": "aW1hZ2U="}}


def user(*parts: Part) -> Turn:
    return Turn("user", parts)


def assistant(*parts: Part) -> Turn:
    return Turn("assistant", parts)


def answered(call_id: str, text: str, **members: Any) -> Turn:
    return Turn("tool", (ToolResult(call_id, (Text(text),), **members),))


def write(turns: Sequence[Turn], model: str = NEW, **members: Any) -> Json:
    """The body, after the provider's own SDK has found it well-formed."""
    request = GenerationRequest("asked-for", tuple(turns), **members)
    body = UPSTREAM.write_request(request, Target(model, 8192))
    assert json.loads(json.dumps(body)) == body
    types.GenerationConfig.model_validate(body.get("generationConfig", {}))
    for content in body["contents"]:
        types.Content.model_validate(content)
        assert content["parts"]
        assert content["role"] in ("user", "model")
    for tool in body.get("tools", []):
        types.Tool.model_validate(tool)
    types.ToolConfig.model_validate(body.get("toolConfig", {}))
    return body


def config(model: str = NEW, **parameters: Any) -> Json:
    body = write([user(Text("Hi"))], model, parameters=Parameters(**parameters))
    written: Json = body.get("generationConfig", {})
    return written


def refusal_of(turns: Sequence[Turn], model: str = NEW, **members: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        write(turns, model, **members)
    assert caught.value.status == 400
    return caught.value


# --- the conversation ------------------------------------------------------------------------


def test_the_model_is_in_the_path() -> None:
    assert UPSTREAM.path(NEW, is_stream=False) == f"/models/{NEW}:generateContent"
    path = UPSTREAM.path(f"models/{NEW}", is_stream=True)
    assert path == f"/models/{NEW}:streamGenerateContent?alt=sse"


def test_instructions_stand_apart_and_roles_are_user_and_model() -> None:
    body = write(
        [
            Turn("system", (Text("Be brief."),)),
            user(Text("Hi")),
            assistant(Text("Hello.")),
            Turn("system", (Text("In French."),)),
            user(Text("Bye")),
        ]
    )
    assert body == {
        "systemInstruction": {"parts": [{"text": "Be brief."}, {"text": "In French."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Hi"}]},
            {"role": "model", "parts": [{"text": "Hello."}]},
            {"role": "user", "parts": [{"text": "Bye"}]},
        ],
    }


def test_instructions_alone_become_what_the_user_says() -> None:
    body = write([Turn("system", (Text("Say hi."),))])
    assert body == {"contents": [{"role": "user", "parts": [{"text": "Say hi."}]}]}


def test_results_of_one_round_stand_together_in_the_order_of_their_calls() -> None:
    body = write(
        [
            user(Text("Hi")),
            assistant(Text(""), ToolCall("c1", "add", '{"a":1}'), ToolCall("c2", "sub", "")),
            answered("c2", "no", is_error=True),
            answered("c1", '{"sum": 2}'),
            user(Text("And?")),
        ]
    )
    _, calls, results, question = body["contents"]
    assert [part["functionCall"] for part in calls["parts"]] == [
        {"name": "add", "args": {"a": 1}, "id": "c1"},
        {"name": "sub", "args": {}, "id": "c2"},
    ]
    assert results == {
        "role": "user",
        "parts": [
            {"functionResponse": {"name": "add", "response": {"sum": 2}, "id": "c1"}},
            {"functionResponse": {"name": "sub", "response": {"error": "no"}, "id": "c2"}},
        ],
    }
    assert question["parts"] == [{"text": "And?"}]


def test_results_inside_a_users_turn_stand_apart_from_what_the_user_says() -> None:
    result = ToolResult("c1", (Text("2"),))
    turns = [user(Text("Hi")), assistant(ToolCall("c1", "add", "{}")), user(result, Text("And?"))]
    _, _, results, question = write(turns)["contents"]
    assert results["parts"][0]["functionResponse"]["response"] == {"result": 2}
    assert question["parts"] == [{"text": "And?"}]


def test_calls_of_turns_in_a_row_are_one_round() -> None:
    body = write(
        [
            user(Text("Hi")),
            assistant(Text("Let me see.")),
            assistant(ToolCall("c1", "add", "{}")),
            assistant(ToolCall("c2", "add", "{}")),
            answered("c1", "1"),
            answered("c2", "2"),
        ]
    )
    assert [len(content["parts"]) for content in body["contents"]] == [1, 3, 2]


@pytest.mark.parametrize(
    ("arguments", "args"),
    [("", {}), ('{"a": 1}', {"a": 1}), ("[1]", {"arguments": [1]}), ("{a", {"arguments": "{a"})],
)
def test_arguments_are_an_object_whatever_they_were(arguments: str, args: Json) -> None:
    body = write([user(Text("Hi")), assistant(ToolCall("c", "f", arguments)), answered("c", "")])
    assert body["contents"][1]["parts"][0]["functionCall"]["args"] == args


@pytest.mark.parametrize(
    ("text", "response"),
    [("sunny", {"result": "sunny"}), ("[1]", {"result": [1]}), ('{"a": 1}', {"a": 1})],
)
def test_a_result_is_an_object_whatever_it_was(text: str, response: Json) -> None:
    body = write([user(Text("Hi")), assistant(ToolCall("c", "f", "{}")), answered("c", text)])
    assert body["contents"][2]["parts"][0]["functionResponse"]["response"] == response


def test_a_result_names_its_function_or_is_refused() -> None:
    body = write([user(Text("Hi")), answered("c9", "1", name="add")])
    assert body["contents"][1]["parts"][0]["functionResponse"]["name"] == "add"
    refusal = refusal_of([user(Text("Hi")), answered("c9", "1")])
    assert refusal.param == "messages[1].tool_call_id"
    assert "c9" in refusal.message


# --- signatures ------------------------------------------------------------------------------


def signature(data: str, model: str = NEW, kind: str = "gemini.thought") -> Carry:
    return Carry(kind, data, model)


def signatures_of(body: Json) -> list[list[str | None]]:
    return [
        [part.get("thoughtSignature") for part in content["parts"]]
        for content in body["contents"]
        if content["role"] == "model"
    ]


def tool_loop(*carries: Carry | None) -> list[Turn]:
    """A first turn of the past, then one whose steps call two tools each."""
    turns = [
        user(Text("Before")),
        assistant(ToolCall("old", "add", "{}")),
        answered("old", "1"),
        assistant(Text("One.")),
        user(Text("Now")),
    ]
    for number, carry in enumerate(carries):
        first = ToolCall(f"{number}a", "add", "{}", carry)
        turns.append(assistant(first, ToolCall(f"{number}b", "add", "{}")))
        turns.extend([answered(f"{number}a", "1"), answered(f"{number}b", "1")])
    return turns


def test_a_signature_goes_back_into_its_part() -> None:
    turns = [*tool_loop(signature("QUE="), signature("QkI="))]
    turns += [assistant(Text("Done.", signature("Q0M="))), user(Text("Thanks"))]
    assert signatures_of(write(turns)) == [
        [None],
        [None],
        ["QUE=", None],
        ["QkI=", None],
        ["Q0M="],
    ]


def test_the_first_unsigned_call_of_each_step_of_the_current_turn_is_excused() -> None:
    body = write(tool_loop(signature("QUE="), None))
    assert signatures_of(body) == [[None], [None], ["QUE=", None], [SENTINEL, None]]
    assert signatures_of(write(tool_loop(None), OLD)) == [[None], [None], [None, None]]


@pytest.mark.parametrize("said", [(), ("And in Bonn?",), ("And in Bonn?", "Be quick.")])
def test_what_the_user_says_along_with_results_begins_no_turn(said: tuple[str, ...]) -> None:
    """The service takes contents of one role in a row for one, and so does its stand-in."""
    body = write([*tool_loop(None, None), *(user(Text(text)) for text in said)])
    assert signatures_of(body) == [[None], [None], [SENTINEL, None], [SENTINEL, None]]
    apply(strict_gemini.RULES, Asked({}, body, NEW))


def test_state_of_other_models_and_providers_is_not_put_back() -> None:
    foreign = signature("QUE=", kind="anthropic.thinking")
    other = signature("QUE=", "gemini-2.5-pro")
    assert signatures_of(write(tool_loop(foreign, other))) == [
        [None],
        [None],
        [SENTINEL, None],
        [SENTINEL, None],
    ]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gemini-3-flash", "gemini-3-flash-preview", True),
        ("gemini-flash-latest", "gemini-3.5-flash", True),
        ("", "gemini-3.5-flash", True),
        ("gemini-2.5-flash", "gemini-3-flash", False),
    ],
)
def test_names_of_one_model(one: str, other: str, same: bool) -> None:
    assert is_same(one, other) is is_same(other, one) is same


def test_only_thoughts_that_are_signed_go_back() -> None:
    kept = Reasoning("Hm.", signature("QUE="))
    turns = [user(Text("Hi")), assistant(Reasoning("Other."), kept, Text("Yes."))]
    assert write(turns)["contents"][1]["parts"] == [
        {"text": "Hm.", "thought": True, "thoughtSignature": "QUE="},
        {"text": "Yes."},
    ]


def test_an_empty_turn_of_the_model_is_left_out_and_a_refusal_is_what_it_said() -> None:
    turns = [user(Text("Hi")), assistant(), assistant(Text("")), user(Text("Hello?"))]
    assert [content["role"] for content in write(turns)["contents"]] == ["user", "user"]
    body = write([user(Text("Hi")), assistant(RefusalText("No.")), user(Text(""))])
    assert body["contents"][1]["parts"] == [{"text": "No."}]


# --- media -----------------------------------------------------------------------------------


def test_data_goes_inline() -> None:
    pdf = File(data_url="data:application/pdf;base64,cGRm", filename="a.pdf")
    bare = File(data_url="cGRm", filename="a.pdf")
    plain = File(data_url="data:,a%20b")
    body = write([user(Text("Look"), Image(PIXEL), pdf, bare, plain, Audio("d2F2", "wav"))])
    assert body["contents"][0]["parts"] == [
        {"text": "Look"},
        INLINE,
        {"inlineData": {"mimeType": "application/pdf", "data": "cGRm"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "cGRm"}},
        {"inlineData": {"mimeType": "text/plain", "data": base64.b64encode(b"a b").decode()}},
        {"inlineData": {"mimeType": "audio/wav", "data": "d2F2"}},
    ]


@pytest.mark.parametrize(
    "part",
    [
        Image("https://a.example/cat.png"),
        File(url="https://a.example/a.pdf"),
        File(file_id="file-1"),
        Image("data:image/png"),
        ToolCall("c", "f", "{}"),
    ],
)
def test_what_would_have_to_be_fetched_is_refused_by_name(part: Part) -> None:
    refusal = refusal_of([Turn("system", (Text("x"),)), user(Text("Look"), part)])
    assert refusal.param == "messages[1].content[1]"


def test_instructions_can_only_be_text() -> None:
    assert refusal_of([Turn("system", (Image(PIXEL),))]).param == "messages[0].content[0]"


def test_an_image_in_a_result_stands_inside_it_where_the_model_takes_that() -> None:
    result = ToolResult("c1", (Text("seen"), Image(PIXEL)))
    turns = [
        user(Text("Hi")),
        assistant(ToolCall("c1", "look", "{}"), ToolCall("c2", "add", "{}")),
        Turn("tool", (result,)),
        answered("c2", "1"),
    ]
    (inside, after) = write(turns)["contents"][2]["parts"]
    assert inside["functionResponse"]["parts"] == [INLINE]
    assert inside["functionResponse"]["response"] == {"result": "seen"}
    first, second, image = write(turns, OLD)["contents"][2]["parts"]
    assert "parts" not in first["functionResponse"]
    assert second == after
    assert image == INLINE


# --- tools -----------------------------------------------------------------------------------


def tool_body(*, model: str = NEW, tool: Tool = TOOL, choice: ToolChoice | None = None) -> Json:
    return write([user(Text("Hi"))], model, tools=(tool,), tool_choice=choice)


def test_tools_are_declared_with_their_json_schema() -> None:
    body = tool_body()
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "add", "description": "Adds.", "parametersJsonSchema": TOOL.schema}
            ]
        }
    ]
    assert "toolConfig" not in body
    (declaration,) = tool_body(tool=Tool("now"))["tools"][0]["functionDeclarations"]
    assert declaration == {"name": "now", "description": ""}


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (ToolChoice("auto"), {"mode": "AUTO"}),
        (ToolChoice("none"), {"mode": "NONE"}),
        (ToolChoice("required"), {"mode": "ANY"}),
        (ToolChoice("named", "add"), {"mode": "ANY", "allowedFunctionNames": ["add"]}),
    ],
)
def test_the_choice_of_tools(choice: ToolChoice, written: Json) -> None:
    assert tool_body(choice=choice)["toolConfig"] == {"functionCallingConfig": written}


def test_strict_tools_are_held_to_their_schemas_where_the_model_can() -> None:
    strict = Tool("add", schema={"type": "object"}, strict=True)
    assert tool_body(tool=strict)["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
    assert "toolConfig" not in tool_body(tool=strict, model="gemini-2.0-flash")


def test_schemas_lose_what_the_service_refuses_and_keep_the_rest() -> None:
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "properties": {
            "kind": {"const": "a"},
            "const": {"type": ["string", "null"], "examples": ["x"]},
            "child": {"$ref": "#/$defs/Child", "description": "A child."},
            "list": {"type": "array", "items": {"anyOf": [{"const": 1}, True]}},
        },
        "$defs": {"Child": {"type": "object", "additionalProperties": {"const": 2}}},
        "additionalProperties": False,
        "required": ["kind"],
    }
    before = json.dumps(schema)
    assert to_gemini(schema) == {
        "type": "object",
        "properties": {
            "kind": {"enum": ["a"]},
            "const": {"type": ["string", "null"]},
            "child": {"$ref": "#/$defs/Child"},
            "list": {"type": "array", "items": {"anyOf": [{"enum": [1]}, True]}},
        },
        "$defs": {"Child": {"type": "object", "additionalProperties": {"enum": [2]}}},
        "additionalProperties": False,
        "required": ["kind"],
    }
    assert json.dumps(schema) == before


# --- parameters ------------------------------------------------------------------------------


def test_parameters_have_names_of_their_own() -> None:
    assert config(
        output_tokens_max=100,
        temperature=0.5,
        top_p=0.9,
        stop=("a", "b"),
        choices=2,
        seed=2**40 + 5,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logprobs=True,
        top_logprobs=3,
        user="u",
        parallel_tool_calls=False,
        extra={"top_k": 40, "metadata": {"a": "b"}, "logit_bias": {}, "service_tier": "flex"},
    ) == {
        "maxOutputTokens": 100,
        "temperature": 0.5,
        "topP": 0.9,
        "topK": 40,
        "stopSequences": ["a", "b"],
        "candidateCount": 2,
        "seed": 5,
        "presencePenalty": 0.1,
        "frequencyPenalty": 0.2,
        "responseLogprobs": True,
        "logprobs": 3,
    }
    assert config() == {}
    assert config(output_tokens_max=10_000)["maxOutputTokens"] == 8192


@pytest.mark.parametrize(
    ("model", "effort", "thinking"),
    [
        (NEW, "none", {"thinkingLevel": "MINIMAL"}),
        (NEW, "minimal", {"thinkingLevel": "MINIMAL", "includeThoughts": True}),
        (NEW, "medium", {"thinkingLevel": "MEDIUM", "includeThoughts": True}),
        (NEW, "max", {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-3-pro-preview", "none", {"thinkingLevel": "LOW"}),
        ("gemini-3-pro-preview", "medium", {"thinkingLevel": "HIGH", "includeThoughts": True}),
        ("gemini-3.7-flash", "minimal", {"thinkingLevel": "LOW", "includeThoughts": True}),
        ("gemini-flash-latest", "low", {"thinkingLevel": "LOW", "includeThoughts": True}),
        (OLD, "none", {"thinkingBudget": 0}),
        (OLD, "high", {"thinkingBudget": 24576, "includeThoughts": True}),
        ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
        ("gemini-2.5-flash-image", "high", None),
        ("gemini-2.0-flash", "high", None),
    ],
)
def test_effort_is_a_level_or_a_budget(model: str, effort: str, thinking: Json | None) -> None:
    assert thinking_config(model, effort) == thinking
    assert config(model, reasoning_effort=effort).get("thinkingConfig") == thinking


def test_thoughts_are_asked_for_by_those_who_want_a_summary() -> None:
    assert config(reasoning_summary="auto")["thinkingConfig"] == {"includeThoughts": True}
    assert "thinkingConfig" not in config("gemini-2.0-flash", reasoning_summary="auto")


def test_structured_output() -> None:
    schema = {"type": "object", "$schema": "x", "properties": {}}
    form = OutputFormat("json_schema", "answer", schema)
    body = write([user(Text("Hi"))], output_format=form)
    assert body["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object", "properties": {}},
    }
    body = write([user(Text("Hi"))], output_format=OutputFormat("json_object"))
    assert body["generationConfig"] == {"responseMimeType": "application/json"}
    assert write([user(Text("Hi"))], output_format=form, tools=(TOOL,))["tools"]
    refusal = refusal_of([user(Text("Hi"))], OLD, output_format=form, tools=(TOOL,))
    assert refusal.param == "response_format"


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"web_search_options": {"a": 1}}, "web_search_options"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"modalities": ["text", "audio"], "audio": {"voice": "alloy"}}, "audio"),
    ],
)
def test_what_changes_the_answer_and_cannot_be_said_is_refused(extra: Json, param: str) -> None:
    refusal = refusal_of([user(Text("Hi"))], parameters=Parameters(extra=extra))
    assert refusal.param == param


def test_an_unknown_effort_is_refused() -> None:
    refusal = refusal_of([user(Text("Hi"))], parameters=Parameters(reasoning_effort="huge"))
    assert refusal.param == "reasoning_effort"


def test_modalities() -> None:
    assert config(extra={"modalities": ["text"]}) == {}
    written = config(extra={"modalities": ["text", "image"]})
    assert written == {"responseModalities": ["TEXT", "IMAGE"]}


# --- a client's own body ---------------------------------------------------------------------


def test_a_clients_own_body_goes_through_without_what_the_gateway_put_in() -> None:
    body = {
        "model": "alias",
        "stream": True,
        "contents": [{"role": "user", "parts": [{"text": "Hi", "tomorrow": 1}]}],
        "tomorrow": {"model": "theirs"},
    }
    before = json.dumps(body)
    prepared = UPSTREAM.prepare_pass_through(body, Target(NEW, 100), is_stream=True)
    assert prepared == {"contents": body["contents"], "tomorrow": {"model": "theirs"}}
    assert json.dumps(body) == before
    for odd in ("x", [1], [{"parts": "x"}], [{"parts": [1]}]):
        prepared = UPSTREAM.prepare_pass_through({"contents": odd}, Target(NEW, 1), is_stream=False)
        assert prepared == {"contents": odd}


def test_other_providers_state_does_not_reach_google() -> None:
    packed = pack((), Carry("anthropic.thinking", "sig", "claude"))
    parts = [
        {"functionCall": {"name": "f"}, "thought_signature": packed},
        {"text": "x", "thoughtSignature": packed},
        {"text": "y", "thoughtSignature": "QUE="},
    ]
    body = {"contents": [{"role": "model", "parts": parts}]}
    prepared = UPSTREAM.prepare_pass_through(body, Target(NEW, 1), is_stream=False)
    assert prepared["contents"][0]["parts"] == [
        {"functionCall": {"name": "f"}, "thoughtSignature": SENTINEL},
        {"text": "x"},
        {"text": "y", "thoughtSignature": "QUE="},
    ]
