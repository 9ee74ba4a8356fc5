"""A conversation goes on with another provider's model: its strict stand-in takes what is sent.

Clients send an answer back as they got it, whatever we put into it for the model that gave it.
"""

from typing import Any

import orjson
import pytest

from billing.pricing import Usage
from gateway.dialects import CLIENT_DIALECTS, UPSTREAM_DIALECTS
from gateway.dialects.base import Inspection, Json, Reply, Target
from gateway.dialects.gemini_signatures import SENTINEL
from gateway.events import (
    Carry,
    ChoiceFinished,
    Ended,
    Event,
    FinishReason,
    ReasoningDelta,
    ReasoningEnded,
    Started,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    UsageReported,
)
from gateway.standin import strict_anthropic, strict_gemini, strict_openai, strict_responses
from gateway.standin.rejections import Asked, apply
from gateway.standin.signatures import OPENAI_PREFIX, sign

THOUGHT = "Let me see."
CLAUDE, GEMINI = "claude-sonnet-4-5", "gemini-3-flash-preview"
HEADERS = {"anthropic-version": "2023-06-01"}


def thinking(model: str, carry: Carry | None, on_call: Carry | None = None) -> list[Event]:
    """An answer that thinks, says something and calls a tool."""
    return [
        Started("a", model),
        ReasoningDelta(THOUGHT, is_summary=carry is not None),
        ReasoningEnded(carry),
        TextDelta("A moment."),
        ToolCallStarted(0, "call_1", "weather", carry=on_call),
        ToolCallDelta(0, '{"city":"Bonn"}'),
        ChoiceFinished(FinishReason.TOOL_CALLS),
        UsageReported(Usage(input=1, output=1)),
        Ended(),
    ]


ANSWERS = {
    "claude": thinking(
        CLAUDE, Carry("anthropic.thinking", sign("anthropic.thinking", THOUGHT), CLAUDE)
    ),
    "gemini": thinking(
        GEMINI, None, Carry("gemini.thought", sign("gemini.thought", GEMINI), GEMINI)
    ),
    "openai": thinking(
        "gpt-5", Carry("openai.encrypted", OPENAI_PREFIX + sign("openai.encrypted", ""), "gpt-5")
    ),
    "compatible": thinking("deepseek", None),
    "thoughtless": [
        Started("a", "gpt-4o"),
        TextDelta("A moment."),
        ToolCallStarted(0, "call_1", "weather"),
        ToolCallDelta(0, '{"city":"Bonn"}'),
        ChoiceFinished(FinishReason.TOOL_CALLS),
        Ended(),
    ],
}
TARGETS: dict[str, tuple[str, Target, Any]] = {
    "claude": ("anthropic", Target(CLAUDE, 64_000), strict_anthropic.RULES),
    "gemini": ("gemini", Target(GEMINI, 65_536), strict_gemini.RULES),
    "openai chat": ("openai_chat", Target("gpt-4o", 16_384), strict_openai.RULES),
    "openai responses": ("openai_responses", Target("gpt-5", 128_000), strict_responses.RULES),
}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}


def answer(client: str, made_by: str) -> Any:
    """The answer as a client of this wire got it."""
    body: Json = {"input": "Hi"}
    if client == "gemini":
        body = {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
    writer = CLIENT_DIALECTS[client].response_writer(
        Inspection("m", False, 100), Reply("a" * 32, 1, body)
    )
    for event in ANSWERS[made_by]:
        writer.add(event)
    return orjson.loads(orjson.dumps(writer.finish()))


def chat(made_by: str) -> Json:
    said = answer("openai_chat", made_by)["choices"][0]["message"]
    return {
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}],
        "messages": [
            {"role": "user", "content": "Hi"},
            said,
            {"role": "tool", "tool_call_id": "call_1", "content": "Sun"},
        ],
    }


def responses(made_by: str) -> Json:
    said = answer("openai_responses", made_by)["output"]
    return {
        "store": False,
        "tools": [{"type": "function", "name": "weather", "parameters": SCHEMA}],
        "input": [
            {"role": "user", "content": "Hi"},
            *said,
            {"type": "function_call_output", "call_id": "call_1", "output": "Sun"},
        ],
    }


def anthropic(made_by: str) -> Json:
    said = answer("anthropic", made_by)["content"]
    result = {"type": "tool_result", "tool_use_id": "call_1", "content": "Sun"}
    return {
        "max_tokens": 4_096,
        "thinking": {"type": "enabled", "budget_tokens": 1_024},
        "tools": [{"name": "weather", "input_schema": SCHEMA}],
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": said},
            {"role": "user", "content": [result, {"type": "text", "text": "And tomorrow?"}]},
        ],
    }


def gemini(made_by: str) -> Json:
    said = answer("gemini", made_by)["candidates"][0]["content"]
    result = {"functionResponse": {"name": "weather", "response": {"result": "Sun"}}}
    return {
        "tools": [{"functionDeclarations": [{"name": "weather", "parametersJsonSchema": SCHEMA}]}],
        "contents": [
            {"role": "user", "parts": [{"text": "Hi"}]},
            said,
            {"role": "user", "parts": [result]},
        ],
    }


REQUESTS = {
    "openai_chat": chat,
    "openai_responses": responses,
    "anthropic": anthropic,
    "gemini": gemini,
}


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("made_by", list(ANSWERS))
@pytest.mark.parametrize("client", list(REQUESTS))
def test_what_one_model_said_another_providers_model_is_told(
    client: str, made_by: str, target: str
) -> None:
    wire, upstream, rules = TARGETS[target]
    body = {"model": "m", **REQUESTS[client](made_by)}
    dialect = UPSTREAM_DIALECTS[wire]
    if client == wire:
        sent = dialect.prepare_pass_through(body, upstream, is_stream=False)
    else:
        sent = dialect.write_request(CLIENT_DIALECTS[client].read_request(body), upstream)
    sent = orjson.loads(orjson.dumps(sent))
    apply(rules, Asked(HEADERS, sent, upstream.model))
    assert "A moment." in str(sent)
    assert "Bonn" in str(sent)
    assert "Sun" in str(sent)


@pytest.mark.parametrize(
    ("client", "asked"),
    [
        ("openai_responses", {"reasoning": {"effort": "low"}}),
        ("anthropic", {}),
        ("gemini", {"generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW"}}}),
    ],
)
def test_a_model_gets_its_own_state_back(client: str, asked: Json) -> None:
    """On wires that have a place for it; chat completions are helped by the store."""
    wire, upstream, _ = TARGETS["claude"]
    body = {"model": "m", **REQUESTS[client]("claude"), **asked}
    dialect = UPSTREAM_DIALECTS[wire]
    if client == wire:
        sent = dialect.prepare_pass_through(body, upstream, is_stream=False)
    else:
        sent = dialect.write_request(CLIENT_DIALECTS[client].read_request(body), upstream)
    blocks = [block["type"] for block in sent["messages"][1]["content"]]
    assert blocks == ["thinking", "text", "tool_use"]
    assert sent["thinking"]["type"] == "enabled"


@pytest.mark.parametrize("client", ["openai_chat", "openai_responses", "anthropic"])
def test_a_signature_goes_to_the_model_that_made_it_and_to_no_sibling(client: str) -> None:
    """Also where the client of chat completions kept what stands beside its calls."""
    body = {"model": "m", **REQUESTS[client]("gemini")}
    request = CLIENT_DIALECTS[client].read_request(body)
    signed: dict[str, list[str]] = {}
    for model in (GEMINI, "gemini-3-pro-preview"):
        target = Target(model, 65_536)
        sent = UPSTREAM_DIALECTS["gemini"].write_request(request, target)
        apply(strict_gemini.RULES, Asked(HEADERS, orjson.loads(orjson.dumps(sent)), model))
        parts = [part for content in sent["contents"] for part in content["parts"]]
        signed[model] = [one["thoughtSignature"] for one in parts if "functionCall" in one]
    assert signed.pop(GEMINI) != [SENTINEL]
    assert list(signed.values()) == [[SENTINEL]]


@pytest.mark.parametrize("odd", ["text", None, 7, {"role": "assistant"}, {"content": "x"}])
def test_nonsense_beside_another_models_thoughts_is_the_providers_to_refuse(odd: Any) -> None:
    foreign = {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}
    thinking = {"type": "enabled", "budget_tokens": 1024}
    body = {"model": "m", "messages": [odd, foreign], "thinking": thinking}
    target = Target(CLAUDE, 1)
    sent = UPSTREAM_DIALECTS["anthropic"].prepare_pass_through(body, target, is_stream=False)
    assert sent["messages"] == [odd]
    chat = {"model": "m", "messages": [odd, {**foreign, "tool_calls": [odd], "images": []}]}
    sent = UPSTREAM_DIALECTS["openai_chat"].prepare_pass_through(
        chat, Target("gpt-4o", 1), is_stream=False
    )
    assert sent["messages"] == [odd, {**foreign, "tool_calls": [odd]}]


def test_a_loop_of_claudes_own_is_forwarded_as_its_client_sent_it() -> None:
    """Thinking that its client lost is for the provider to miss."""
    body = {"model": "m", **anthropic("thoughtless")}
    call = body["messages"][1]["content"][1]
    for call_id, thinks in (("call_1", False), ("toolu_1", True)):
        call["id"] = call_id
        sent = UPSTREAM_DIALECTS["anthropic"].prepare_pass_through(
            body, Target(CLAUDE, 1), is_stream=False
        )
        assert ("thinking" in sent) is thinks


def test_what_belongs_to_no_other_model_is_forwarded_as_it_is() -> None:
    body = {"model": "m", "messages": [{"role": "assistant", "content": [{"type": "text"}]}]}
    sent = UPSTREAM_DIALECTS["anthropic"].prepare_pass_through(
        body, Target(CLAUDE, 1), is_stream=False
    )
    assert sent["messages"] is body["messages"]
    thought = {"role": "assistant", "content": "x", "reasoning_content": "y"}
    body = {"model": "m", "messages": [thought]}
    for model, kept in (("deepseek-chat", True), ("gpt-4o", False)):
        sent = UPSTREAM_DIALECTS["openai_chat"].prepare_pass_through(
            body, Target(model, 1), is_stream=False
        )
        assert ("reasoning_content" in sent["messages"][0]) is kept
