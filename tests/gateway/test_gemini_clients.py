"""Clients that speak Gemini's wire to any model: what they ask, and what they hear."""

import base64
import json
import pickle
import re
from typing import Any

import pytest
from google.genai.types import Content, GenerateContentResponse

from billing.pricing import Usage
from gateway import refusals, sse
from gateway.dialects import UPSTREAM_DIALECTS
from gateway.dialects.base import Inspection, Json, Reply, Target, UnreadableAnswer
from gateway.dialects.gemini import GeminiClient, GeminiUpstream
from gateway.dialects.gemini_schemas import from_openapi
from gateway.dialects.gemini_signatures import NOT_GEMINIS, SENTINEL, Signed, pack, unpack
from gateway.events import (
    AudioDelta,
    Carry,
    ChoiceFinished,
    CitationAdded,
    Ended,
    Event,
    Failed,
    FinishReason,
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
from gateway.generation import (
    Audio,
    File,
    GenerationRequest,
    Image,
    OutputFormat,
    Parameters,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from gateway.refusals import Refusal
from tests.recordings import ALL, Recording, of_folder

CLIENT = GeminiClient()
UPSTREAM = GeminiUpstream()
SEED = "0123456789abcdef" * 2
INSPECTION = Inspection("asked-for", True, None, 1, True)
SILENT = Reply(SEED, 7, {})
SHOWING = Reply(SEED, 7, {"generation_config": {"thinking_config": {"include_thoughts": True}}})
THINKING = Carry("anthropic.thinking", "c2ln+/", "claude")
REDACTED = Carry("anthropic.redacted", "ZGF0YQ==", "claude")
USAGE = Usage(input=10, cache_read=5, cache_write=2, output=9, reasoning=4)
# Where the recordings of the other wires are.
FOLDERS = {
    "openai_chat": list(ALL),
    "anthropic": of_folder("anthropic"),
    "openai_responses": of_folder("openai-responses"),
}


def ask(**members: Any) -> Json:
    return {
        "model": "m",
        "stream": False,
        "contents": [{"role": "user", "parts": [{"text": "Hi"}]}],
        **members,
    }


def read(**members: Any) -> GenerationRequest:
    body = ask(**members)
    before = pickle.dumps(body)
    request = CLIENT.read_request(body)
    assert pickle.dumps(body) == before
    return request


def config(**members: Any) -> Parameters:
    return read(generationConfig=members).parameters


def refusal_of(**members: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(**members)
    assert caught.value.status == 400
    return caught.value


def turns_of(*contents: Json) -> tuple[Turn, ...]:
    for content in contents:
        Content.model_validate(content)
    return read(contents=list(contents)).turns


def content(role: str, *parts: Json) -> Json:
    return {"role": role, "parts": list(parts)}


# --- what they ask ---------------------------------------------------------------------------

RECORDED = [one for one in of_folder("gemini") if one.request is not None]


@pytest.mark.parametrize("recording", [pytest.param(one, id=one.name) for one in RECORDED])
def test_a_recorded_request_read_and_written_means_the_same(recording: Recording) -> None:
    recorded = recording.request
    assert recorded is not None
    match = re.search(r"models/([^:]+):", recording.content["url"])
    assert match
    target = Target(match[1], 10**6)
    body = {**recorded, "model": "alias", "stream": False}
    if excuse := inexpressible(body):
        with pytest.raises(Refusal) as caught:
            UPSTREAM.write_request(CLIENT.read_request(body), target)
        assert excuse in str(caught.value.param)
        return
    written = UPSTREAM.write_request(CLIENT.read_request(body), target)
    assert [meaning(one) for one in written["contents"]] == [
        meaning(one) for one in body["contents"]
    ]
    assert settings_of(written) == settings_of(body)
    assert names_of(written) == names_of(body)


def inexpressible(body: Json) -> str:
    """The part of the name of what these requests ask that is Google's alone."""
    if "cachedContent" in body:
        return "cachedContent"
    tools = [name for tool in body.get("tools", []) for name in tool]
    others = [name for name in tools if name != "functionDeclarations"]
    if others:
        return others[0]
    text = json.dumps(body)
    # Google fetches these itself; the gateway does not let it.
    return "messages" if '"file_data"' in text or '"fileData"' in text else ""


def meaning(one: Json) -> Json:
    parts: list[Any] = []
    for part in one["parts"]:
        part = camel(part)
        signature = part.get("thoughtSignature", "").replace(SENTINEL, "")
        if call := part.get("functionCall"):
            parts.append((call["name"], call.get("args") or {}, signature))
        elif result := part.get("functionResponse"):
            media = [camel(inner) for inner in result.get("parts", [])]
            parts.append((result["name"], unwrap(result["response"]), len(media)))
        elif not part.get("thought"):
            parts.append((part.get("text"), bool(part.get("inlineData")), signature))
    return {"role": one["role"], "parts": parts}


def unwrap(response: Json) -> Any:
    return response["result"] if set(response) == {"result"} else response


def camel(part: Json) -> Json:
    names = {
        "function_call": "functionCall",
        "function_response": "functionResponse",
        "thought_signature": "thoughtSignature",
        "inline_data": "inlineData",
    }
    return {names.get(name, name): value for name, value in part.items()}


def settings_of(body: Json) -> Json:
    known = ("temperature", "topP", "maxOutputTokens", "stopSequences", "responseMimeType")
    settings = body.get("generationConfig", {})
    return {name: settings[name] for name in known if name in settings}


def names_of(body: Json) -> tuple[list[str], str]:
    calling = body.get("toolConfig", {}).get("functionCallingConfig", {})
    allowed = calling.get("allowedFunctionNames")
    declared = [one for tool in body.get("tools", []) for one in tool["functionDeclarations"]]
    tools = [one["name"] for one in declared if not allowed or one["name"] in allowed]
    system = body.get("systemInstruction", {"parts": []})
    return tools, "".join(part["text"] for part in system["parts"])


def test_what_is_known_before_a_request_is_read() -> None:
    body = ask(generationConfig={"maxOutputTokens": 50, "candidateCount": 2}, stream=True)
    assert CLIENT.inspect(body) == Inspection("m", True, 50, 2, True)
    assert CLIENT.inspect({**body, "model": "models/m"}).model == "m"
    assert CLIENT.expand(body, {}, []) is body


def test_snake_case_is_taken_too() -> None:
    request = read(
        system_instruction={"parts": [{"text": "Be brief."}]},
        generation_config={"max_output_tokens": 5, "top_p": 0.5, "stop_sequences": ["x"]},
        tools=[{"function_declarations": [{"name": "f", "parameters_json_schema": {"a": 1}}]}],
        tool_config={"function_calling_config": {"mode": "ANY", "allowed_function_names": ["f"]}},
    )
    assert request.turns[0] == Turn("system", (Text("Be brief."),))
    assert request.parameters == Parameters(output_tokens_max=5, top_p=0.5, stop=("x",))
    assert request.tools == (Tool("f", schema={"a": 1}),)
    assert request.tool_choice == ToolChoice("named", "f")


def test_instructions_may_be_a_string() -> None:
    assert read(systemInstruction="Be brief.").turns[0] == Turn("system", (Text("Be brief."),))
    assert len(read(systemInstruction={"parts": []}).turns) == 1


def test_calls_and_results_without_ids_find_each_other_by_name() -> None:
    call = {"functionCall": {"name": "add", "args": {"a": 1}}}
    result = {"functionResponse": {"name": "add", "response": {"result": "2"}}}
    other = {"functionResponse": {"name": "sub", "response": {"error": "no"}}}
    question, calls, first, second, third, end = turns_of(
        content("user", {"text": "Hi"}),
        content("model", call, call, {"functionCall": {"name": "sub"}}),
        content("user", result, other, result, {"text": "And?"}),
    )
    assert question.role == "user"
    one, two, three = [part for part in calls.parts if isinstance(part, ToolCall)]
    assert len({one.call_id, two.call_id, three.call_id}) == 3
    assert one.arguments == '{"a":1}'
    assert first.parts == (ToolResult(one.call_id, (Text("2"),), name="add"),)
    assert second.parts == (ToolResult(three.call_id, (Text("no"),), True, "sub"),)
    assert third.parts == (ToolResult(two.call_id, (Text("2"),), name="add"),)
    assert end == Turn("user", (Text("And?"),))


def test_ids_that_came_are_kept() -> None:
    _, calls, result = turns_of(
        content("user", {"text": "Hi"}),
        content("model", {"functionCall": {"name": "f", "id": "c1"}}),
        content("function", {"functionResponse": {"name": "f", "id": "c1", "response": {"a": 1}}}),
    )
    assert calls.parts == (ToolCall("c1", "f", "{}"),)
    assert result == Turn("tool", (ToolResult("c1", (Text('{"a":1}'),), name="f"),))


def test_pieces_of_a_stream_that_a_client_kept_apart_are_joined() -> None:
    _, turn = turns_of(
        content("user", {"text": "Hi"}),
        content(
            "model",
            {"text": "Hm", "thought": True},
            {"text": "m.", "thought": True},
            {"text": "Yes"},
            {"text": "."},
            {"text": "", "thoughtSignature": "QUE="},
        ),
    )
    signed = Text("Yes.", Carry("gemini.thought", "QUE="))
    assert turn.parts == (Reasoning("Hmm."), signed)


def test_media_are_read() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "aW1n"}}
    audio = {"inline_data": {"mime_type": "audio/wav", "data": "d2F2"}}
    pdf = {"inlineData": {"mimeType": "application/pdf", "data": "cGRm"}}
    linked = {"fileData": {"mimeType": "image/png", "fileUri": "https://a.example/cat.png"}}
    paper = {"fileData": {"mimeType": "application/pdf", "fileUri": "https://a.example/a.pdf"}}
    (turn,) = turns_of(content("user", image, audio, pdf, linked, paper))
    assert turn.parts == (
        Image("data:image/png;base64,aW1n"),
        Audio("d2F2", "wav"),
        File(data_url="data:application/pdf;base64,cGRm"),
        Image("https://a.example/cat.png"),
        File(url="https://a.example/a.pdf"),
    )


def test_an_image_inside_a_result_is_read() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "aW1n"}}
    response = {"name": "f", "id": "c", "response": {"output": "seen"}, "parts": [image]}
    _, turn = turns_of(
        content("model", {"functionCall": {"name": "f", "id": "c"}}),
        content("user", {"functionResponse": response}),
    )
    seen = (Text("seen"), Image("data:image/png;base64,aW1n"))
    assert turn.parts == (ToolResult("c", seen, name="f"),)


def test_schemas_of_the_openapi_kind_become_json_schema() -> None:
    assert from_openapi(
        {
            "type": "OBJECT",
            "properties": {
                "name": {"type": "STRING", "nullable": True, "max_length": "5"},
                "type": {"type": "STRING", "enum": ["a"], "nullable": True},
                "list": {"type": "ARRAY", "items": {"type": "INTEGER"}, "minItems": "1"},
                "any": {"any_of": [{"type": "NUMBER"}], "nullable": True},
                "free": {"type": "TYPE_UNSPECIFIED", "example": 1},
            },
            "propertyOrdering": ["name"],
            "required": ["name"],
        }
    ) == {
        "type": "object",
        "properties": {
            "name": {"type": ["string", "null"], "maxLength": 5},
            "type": {"type": ["string", "null"], "enum": ["a", None]},
            "list": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
            "any": {"anyOf": [{"type": "number"}, {"type": "null"}]},
            "free": {},
        },
        "required": ["name"],
    }


def test_structured_output_is_read_in_both_forms() -> None:
    schema = {"type": "OBJECT"}
    read_form = OutputFormat("json_schema", "response", {"type": "object"})
    json_type = {"responseMimeType": "application/json"}
    forms = [
        ({}, None),
        ({"responseMimeType": "text/plain"}, None),
        (json_type, OutputFormat("json_object")),
        ({**json_type, "responseSchema": schema}, read_form),
        ({**json_type, "responseJsonSchema": {"type": "object"}}, read_form),
    ]
    for asked, form in forms:
        assert read(generationConfig=asked).output_format == form


@pytest.mark.parametrize(
    ("media_type", "name"),
    [
        ("audio/mpeg", "mp3"),
        ("audio/x-wav", "wav"),
        ("audio/wav", "wav"),
        ("audio/L16;rate=1", "L16"),
    ],
)
def test_sound_has_the_name_that_other_wires_know(media_type: str, name: str) -> None:
    part = {"inlineData": {"mimeType": media_type, "data": "d2F2"}}
    (turn,) = read(contents=[{"role": "user", "parts": [part]}]).turns
    assert turn.parts == (Audio("d2F2", name),)


def test_an_instruction_that_is_no_text_is_refused() -> None:
    image = {"inlineData": {"mimeType": "image/png", "data": "aW1hZ2U="}}
    with pytest.raises(Refusal) as refusal:
        read(systemInstruction={"parts": [{"text": "Look."}, image]})
    assert refusal.value.param == "systemInstruction.parts[1]"


def test_parameters_are_read() -> None:
    assert config(
        temperature=1,
        topP=0.9,
        topK=40,
        seed=7,
        presencePenalty=0.1,
        frequencyPenalty=0.2,
        responseLogprobs=True,
        logprobs=3,
        responseModalities=["TEXT", "IMAGE"],
        mediaResolution="MEDIA_RESOLUTION_LOW",
    ) == Parameters(
        temperature=1.0,
        top_p=0.9,
        seed=7,
        presence_penalty=0.1,
        frequency_penalty=0.2,
        logprobs=True,
        top_logprobs=3,
        extra={"top_k": 40, "modalities": ["text", "image"]},
    )
    assert config(responseModalities=["TEXT"]) == Parameters()


@pytest.mark.parametrize(
    ("thinking", "effort", "summary"),
    [
        ({"thinkingLevel": "HIGH"}, "high", None),
        ({"thinkingLevel": "THINKING_LEVEL_UNSPECIFIED"}, None, None),
        ({"thinkingBudget": 0}, "none", None),
        ({"thinkingBudget": 128}, "minimal", None),
        ({"thinkingBudget": 2048, "includeThoughts": True}, "low", "auto"),
        ({"thinkingBudget": 8192}, "medium", None),
        ({"thinkingBudget": 32768}, "high", None),
        ({"thinkingBudget": -1, "includeThoughts": True}, None, "auto"),
        ({}, None, None),
    ],
)
def test_thinking_is_an_effort(thinking: Json, effort: str | None, summary: str | None) -> None:
    parameters = config(thinkingConfig=thinking)
    assert (parameters.reasoning_effort, parameters.reasoning_summary) == (effort, summary)


TOOLS = [{"functionDeclarations": [{"name": "a"}, {"name": "b", "parameters": {"type": "OBJECT"}}]}]


@pytest.mark.parametrize(
    ("calling", "choice", "names"),
    [
        ({}, None, "ab"),
        ({"mode": "AUTO"}, ToolChoice("auto"), "ab"),
        ({"mode": "VALIDATED"}, ToolChoice("auto"), "ab"),
        ({"mode": "NONE"}, ToolChoice("none"), "ab"),
        ({"mode": "ANY"}, ToolChoice("required"), "ab"),
        ({"mode": "ANY", "allowedFunctionNames": ["b"]}, ToolChoice("named", "b"), "ab"),
        ({"mode": "ANY", "allowedFunctionNames": ["a", "b"]}, ToolChoice("required"), "ab"),
        ({"mode": "VALIDATED", "allowedFunctionNames": ["a"]}, ToolChoice("auto"), "a"),
    ],
)
def test_the_choice_of_tools_is_read(calling: Json, choice: ToolChoice | None, names: str) -> None:
    request = read(tools=TOOLS, toolConfig={"functionCallingConfig": calling})
    assert request.tool_choice == choice
    assert "".join(tool.name for tool in request.tools) == names


def test_what_means_nothing_elsewhere_is_accepted() -> None:
    request = read(safetySettings=[{"category": "X"}], labels={"a": "b"}, serviceTier="flex")
    assert request.parameters == Parameters()


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"contents": []}, "contents"),
        ({"contents": "Hi"}, "contents"),
        ({"contents": ["Hi"]}, "contents[0]"),
        ({"contents": [{"role": "system", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": [{}]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"executableCode": {}}]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"text": 1}]}]}, "contents[0].parts[0].text"),
        (
            {"contents": [{"parts": [{"fileData": {"fileUri": "gs://a/b"}}]}]},
            "contents[0].parts[0].fileData.fileUri",
        ),
        (
            {"contents": [{"parts": [{"functionResponse": {"name": "f"}}]}]},
            "contents[0].parts[0].functionResponse",
        ),
        (
            {"contents": [{"role": "model", "parts": [{"functionCall": {}}]}]},
            "contents[0].parts[0].functionCall.name",
        ),
        ({"cachedContent": "cachedContents/1"}, "cachedContent"),
        ({"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name"),
        (
            {"toolConfig": {"functionCallingConfig": {"mode": "SOME"}}},
            "toolConfig.functionCallingConfig.mode",
        ),
        ({"generationConfig": []}, "generationConfig"),
        ({"generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"candidateCount": 9}}, "generationConfig.candidateCount"),
        ({"generationConfig": {"temperature": True}}, "generationConfig.temperature"),
        ({"generationConfig": {"stopSequences": [1]}}, "generationConfig.stopSequences[0]"),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "responseMimeType"),
        ({"generationConfig": {"responseModalities": ["AUDIO"]}}, "responseModalities"),
    ],
)
def test_what_is_wrong_is_named(members: Json, param: str) -> None:
    assert str(refusal_of(**members).param).endswith(param)


# --- what they hear --------------------------------------------------------------------------


def stream(*events: Event, reply: Reply = SILENT) -> list[Json]:
    """The objects of a stream, after Google's SDK has read every one."""
    encoder = CLIENT.stream_encoder(INSPECTION, reply)
    written = b"".join(encoder.write(event) for event in events) + encoder.write_end(USAGE)
    assert written.count(b"\r\n\r\n") == written.count(b"data: ")
    objects = [json.loads(message.data) for message in sse.Decoder().feed(written)]
    for one in objects:
        GenerateContentResponse.model_validate(one)
    return objects


def answer(*events: Event, reply: Reply = SILENT) -> Json:
    writer = CLIENT.response_writer(INSPECTION, reply)
    for event in events:
        writer.add(event)
    written = writer.finish()
    GenerateContentResponse.model_validate(written)
    return written


def parts_of(*objects: Json, choice: int = 0) -> list[Json]:
    return [
        part
        for one in objects
        for candidate in one["candidates"]
        if candidate["index"] == choice
        for part in candidate.get("content", {}).get("parts", [])
    ]


def call(index: int, name: str, *pieces: str, carry: Carry | None = None) -> list[Event]:
    started = ToolCallStarted(index, f"c{index}", name, carry=carry)
    return [started, *(ToolCallDelta(index, piece) for piece in pieces)]


STOP = ChoiceFinished(FinishReason.STOP)
CALLED = ChoiceFinished(FinishReason.TOOL_CALLS)


def test_a_stream_of_text() -> None:
    objects = stream(
        Started("theirs", "gpt"),
        TextDelta("Hel"),
        TextDelta("lo"),
        UsageReported(USAGE),
        STOP,
        Ended(),
    )
    tail = {"modelVersion": "gpt", "responseId": SEED}
    assert objects == [
        {"candidates": [{"content": content("model", {"text": "Hel"}), "index": 0}], **tail},
        {"candidates": [{"content": content("model", {"text": "lo"}), "index": 0}], **tail},
        {
            "candidates": [
                {"content": content("model", {"text": ""}), "finishReason": "STOP", "index": 0}
            ],
            "usageMetadata": {
                "promptTokenCount": 17,
                "cachedContentTokenCount": 5,
                "candidatesTokenCount": 5,
                "thoughtsTokenCount": 4,
                "totalTokenCount": 26,
            },
            **tail,
        },
    ]


def test_the_end_comes_with_the_end_of_the_call_and_with_its_usage() -> None:
    encoder = CLIENT.stream_encoder(INSPECTION, SILENT)
    assert encoder.write(Started("r", "m")) == b""
    assert encoder.write(ChoiceFinished(FinishReason.LENGTH)) == b""
    assert encoder.write(UsageReported(USAGE)) + encoder.write(Ended()) == b""
    assert b'"MAX_TOKENS"' in encoder.write_end(USAGE)
    assert encoder.result() is None
    assert stream()[0]["candidates"][0]["finishReason"] == "STOP"


@pytest.mark.parametrize(
    ("reason", "native"),
    [
        (FinishReason.STOP, "STOP"),
        (FinishReason.TOOL_CALLS, "STOP"),
        (FinishReason.LENGTH, "MAX_TOKENS"),
        (FinishReason.CONTENT_FILTER, "SAFETY"),
    ],
)
def test_reasons_to_stop(reason: FinishReason, native: str) -> None:
    events = [TextDelta("x"), ChoiceFinished(reason)]
    assert stream(*events)[-1]["candidates"][0]["finishReason"] == native
    assert answer(*events)["candidates"][0]["finishReason"] == native


def test_calls_come_whole_however_their_arguments_came() -> None:
    events = [
        TextDelta("Let me see."),
        ToolCallStarted(0, "c0", "add"),
        ToolCallStarted(1, "c1", "now"),
        ToolCallDelta(0, '{"a":'),
        ToolCallDelta(1, ""),
        ToolCallDelta(0, "1}"),
        CALLED,
    ]
    parts = [
        {"text": "Let me see."},
        {
            "functionCall": {"name": "add", "args": {"a": 1}, "id": "c0"},
            "thoughtSignature": NOT_GEMINIS,
        },
        {"functionCall": {"name": "now", "args": {}, "id": "c1"}},
    ]
    assert parts_of(*stream(*events)[:-1]) == parts
    assert parts_of(answer(*events)) == parts


def test_a_call_whose_arguments_are_interrupted_is_whole_nevertheless() -> None:
    """Some servers say something in between."""
    events = [
        ToolCallStarted(0, "c0", "add"),
        ToolCallDelta(0, '{"a":'),
        TextDelta("Adding."),
        ToolCallDelta(0, "1}"),
        TextDelta(" Done."),
        ToolCallDelta(0, " "),
        CALLED,
    ]
    for parts in (parts_of(*stream(*events)[:-1]), parts_of(answer(*events))):
        called = [part["functionCall"]["args"] for part in parts if "functionCall" in part]
        assert called == [{"a": 1}]
        assert "".join(part.get("text", "") for part in parts) == "Adding. Done."


def test_text_after_a_call_comes_after_it() -> None:
    events = [*call(0, "f", "{}"), TextDelta("So."), CALLED]
    assert [next(iter(part)) for part in parts_of(answer(*events))] == ["functionCall", "text"]


def test_a_call_that_was_cut_is_not_made() -> None:
    events = [*call(0, "f", "{}"), *call(1, "g", '{"a'), ChoiceFinished(FinishReason.LENGTH)]
    assert [part["functionCall"]["name"] for part in parts_of(answer(*events))] == ["f"]


@pytest.mark.parametrize("arguments", ['{"a', "[1]", "null"])
def test_arguments_that_are_no_object_are_no_answer(arguments: str) -> None:
    events = [*call(0, "f", arguments), CALLED]
    with pytest.raises(UnreadableAnswer):
        answer(*events)
    with pytest.raises(UnreadableAnswer):
        stream(*events)


def test_candidates_are_kept_apart() -> None:
    events = [
        TextDelta("a", 0),
        TextDelta("b", 1),
        ChoiceFinished(FinishReason.STOP, 0),
        ChoiceFinished(FinishReason.LENGTH, 1),
    ]
    ending = stream(*events)[-1]["candidates"]
    assert [(one["index"], one["finishReason"]) for one in ending] == [
        (0, "STOP"),
        (1, "MAX_TOKENS"),
    ]
    whole = answer(*events)
    assert parts_of(whole, choice=1) == [{"text": "b"}]
    assert len(whole["candidates"]) == 2


def test_thoughts_are_shown_to_those_who_asked() -> None:
    events = [ReasoningDelta("Hm"), ReasoningDelta("m."), ReasoningEnded(), TextDelta("Yes."), STOP]
    assert parts_of(answer(*events)) == [{"text": "Yes."}]
    assert parts_of(*stream(*events)[:-1]) == [{"text": "Yes."}]
    shown = [{"text": "Hmm.", "thought": True}, {"text": "Yes."}]
    assert parts_of(answer(*events, reply=SHOWING)) == shown


def test_a_refusal_is_text() -> None:
    events = [RefusalDelta("No."), ChoiceFinished(FinishReason.CONTENT_FILTER)]
    assert parts_of(answer(*events)) == [{"text": "No."}]


def test_an_answer_of_nothing_still_has_a_candidate() -> None:
    assert parts_of(answer()) == [{"text": ""}]
    assert "usageMetadata" not in answer()
    assert answer(UsageReported(USAGE))["usageMetadata"]["totalTokenCount"] == 26


def test_spoken_answers_sources_and_probabilities() -> None:
    token = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}
    events = [
        TextDelta("ä x", logprobs=(token,)),
        CitationAdded("https://a.example", "A", 2, 3, "x"),
        CitationAdded("https://b.example"),
        AudioDelta("d2F2", "hi"),
        STOP,
    ]
    for candidate in (answer(*events)["candidates"][0], stream(*events)[-1]["candidates"][0]):
        grounding = candidate["groundingMetadata"]
        assert len(grounding["groundingChunks"]) == 2
        assert grounding["groundingSupports"] == [
            {
                "segment": {"startIndex": 3, "endIndex": 4, "text": "x"},
                "groundingChunkIndices": [0],
            }
        ]
    chosen = [{"token": "x", "logProbability": -0.5}]
    assert answer(*events)["candidates"][0]["logprobsResult"]["chosenCandidates"] == chosen
    assert stream(*events)[0]["candidates"][0]["logprobsResult"]["chosenCandidates"] == chosen


# --- state of other providers ----------------------------------------------------------------


def through_the_sdk(parts: list[Json]) -> Json:
    """What google-genai sends back of what it was given: signatures in the URL-safe alphabet."""
    kept = Content.model_validate(content("model", *parts))
    return dict(kept.model_dump(mode="json", by_alias=True, exclude_none=True))


@pytest.mark.parametrize("reply", [SILENT, SHOWING], ids=["silent", "showing"])
@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
def test_thinking_of_other_providers_comes_back(reply: Reply, is_stream: bool) -> None:
    events = [
        ReasoningEnded(REDACTED),
        ReasoningDelta("H?>"),
        ReasoningDelta("m~."),
        ReasoningEnded(THINKING),
        *call(0, "f", "{}"),
        *call(1, "g", "{}"),
        CALLED,
    ]
    write = stream if is_stream else lambda *some, reply: [answer(*some, reply=reply)]
    history = through_the_sdk(parts_of(*write(*events, reply=reply)))
    _, turn = read(contents=[content("user", {"text": "Hi"}), history]).turns
    assert turn.parts == (
        Reasoning("", REDACTED),
        Reasoning("H?>m~.", THINKING),
        ToolCall("c0", "f", "{}"),
        ToolCall("c1", "g", "{}"),
    )


def test_thinking_without_anything_after_it_comes_back() -> None:
    events = [TextDelta("Yes."), ReasoningDelta("Hm."), ReasoningEnded(THINKING), STOP]
    history = through_the_sdk(parts_of(*stream(*events)))
    _, turn = read(contents=[content("user", {"text": "Hi"}), history]).turns
    assert turn.parts == (Text("Yes."), Reasoning("Hm.", THINKING))


def test_geminis_own_signatures_stay_as_they_are() -> None:
    own = Carry("gemini.thought", "QUE+/w==", "gemini-3-flash")
    events = [*call(0, "f", "{}", carry=own), TextDelta("Yes."), TextSigned(own), STOP]
    parts = parts_of(*stream(*events)[:-1])
    assert [part.get("thoughtSignature") for part in parts] == ["QUE+/w==", None, "QUE+/w=="]
    assert unpack("QUE+/w==") == Signed(own=Carry("gemini.thought", "QUE+/w=="))


def test_a_signature_may_carry_both() -> None:
    own = Carry("gemini.thought", "QUE=", "m")
    before = (Reasoning("Hm.", THINKING, is_summary=True), Reasoning("", None))
    packed = pack(before, own)
    assert base64.b64decode(packed).startswith(b"gw1.")
    assert unpack(packed) == Signed(before, own)
    assert unpack(packed.replace("+", "-").replace("/", "_")) == Signed(before, own)
    assert pack((), None) == ""
    assert unpack("") == Signed()


@pytest.mark.parametrize("raw", [b"gw1.", b"gw1.{", b"gw1.1", b'gw1.[{"kind":1}]', b"gw1.[1]"])
def test_a_damaged_signature_carries_nothing(raw: bytes) -> None:
    assert unpack(base64.b64encode(raw).decode()) == Signed()
    assert unpack("Z3cxL!") == Signed()


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("refusal", "status"),
    [
        (refusals.invalid_json(), "INVALID_ARGUMENT"),
        (refusals.missing_key(), "UNAUTHENTICATED"),
        (refusals.unknown_model("x"), "NOT_FOUND"),
        (refusals.body_too_large(1, 2), "INVALID_ARGUMENT"),
        (refusals.out_of_credit("https://a.example"), "RESOURCE_EXHAUSTED"),
        (refusals.internal("r"), "INTERNAL"),
        (refusals.upstream_failed(retryable=True), "UNAVAILABLE"),
        (refusals.upstream_overloaded(7), "UNAVAILABLE"),
        (refusals.upstream_timed_out(), "DEADLINE_EXCEEDED"),
    ],
)
def test_a_refusal_is_googles_error(refusal: Refusal, status: str) -> None:
    error = CLIENT.write_refusal(refusal, "req-1")["error"]
    assert (error["code"], error["message"]) == (refusal.status, refusal.message)
    assert error["status"] == status
    kinds = {one["@type"].rpartition(".")[2]: one for one in error["details"]}
    assert kinds["RequestInfo"]["requestId"] == "req-1"
    assert kinds["ErrorInfo"]["reason"] == (refusal.code or refusal.error_type).upper()
    if "retry-after" in refusal.headers:
        assert kinds["RetryInfo"]["retryDelay"] == f"{refusal.headers['retry-after']}s"


def test_a_failure_inside_a_stream_begins_with_error() -> None:
    refusal = refusals.upstream_failed(retryable=False)
    encoder = CLIENT.stream_encoder(INSPECTION, SILENT)
    reader = UPSTREAM.pass_through(INSPECTION, SILENT)
    for written in (encoder.write_failure(refusal), reader.write_failure(refusal)):
        assert written.startswith(b'data: {"error":{"code":502,')
        assert written.endswith(b"}\r\n\r\n")


def test_the_parameter_that_is_wrong_is_said() -> None:
    error = CLIENT.write_refusal(refusals.missing_parameter("contents"), "r")["error"]
    assert error["details"][0]["metadata"] == {"param": "contents"}


# --- answers of every other wire -------------------------------------------------------------


def others(kind: str) -> list[Any]:
    return [
        pytest.param(name, one, id=one.name)
        for name in sorted(UPSTREAM_DIALECTS.keys() & FOLDERS.keys())
        for one in FOLDERS[name]
        if one.kind == kind
    ]


def check_against(events: list[Event], objects: list[Json]) -> None:
    said = [e for e in events if isinstance(e, TextDelta | RefusalDelta) and e.choice == 0]
    texts = [
        part["text"] for part in parts_of(*objects) if "text" in part and "thought" not in part
    ]
    assert "".join(texts) == "".join(event.text for event in said)
    ids = [e.call_id for e in events if isinstance(e, ToolCallStarted) and e.choice == 0]
    calls = [part["functionCall"] for part in parts_of(*objects) if "functionCall" in part]
    assert [one["id"] for one in calls] == ids


@pytest.mark.parametrize(("dialect", "recording"), others("stream"))
def test_a_stream_of_another_wire_is_heard_in_full(dialect: str, recording: Recording) -> None:
    events = UPSTREAM_DIALECTS[dialect].stream_decoder().feed(recording.stream)
    if any(isinstance(event, Failed) for event in events):
        return
    if "/uncertain/" in recording.name and "spliced" in recording.name:
        with pytest.raises(UnreadableAnswer):  # a call that another message cut in two
            stream(*events)
        return
    check_against(events, stream(*events))


@pytest.mark.parametrize(("dialect", "recording"), others("answer"))
def test_an_answer_of_another_wire_is_heard_in_full(dialect: str, recording: Recording) -> None:
    if recording.answer.keys() & {"input_tokens", "totalTokens"}:
        return
    events = list(UPSTREAM_DIALECTS[dialect].read_response(recording.answer))
    check_against(events, [answer(*events)])
