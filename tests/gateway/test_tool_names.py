"""Functions may have any name a client's wire allows, whoever the provider is."""

from typing import Any

import pytest

from gateway.dialects import UPSTREAM_DIALECTS, tool_names
from gateway.dialects.base import Target
from gateway.events import TextDelta, ToolCallStarted
from gateway.generation import (
    GenerationRequest,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from gateway.standin import strict_anthropic, strict_gemini, strict_openai, strict_responses
from gateway.standin.rejections import Asked, apply

LONG = "mcp__" + "a" * 90
NAMES = ("weather.get", LONG, LONG + "b", "1st", "plain")
TARGETS: dict[str, tuple[Target, Any]] = {
    "openai_chat": (Target("gpt-4o", 16_384), strict_openai.RULES),
    "openai_responses": (Target("gpt-5", 128_000), strict_responses.RULES),
    "anthropic": (Target("claude-sonnet-4-5", 64_000), strict_anthropic.RULES),
    "gemini": (Target("gemini-3-flash-preview", 65_536), strict_gemini.RULES),
}


def request(*names: str) -> GenerationRequest:
    """A request that declares, forces and has called functions of these names."""
    calls = tuple(ToolCall(f"c{number}", name, "{}") for number, name in enumerate(names))
    results = tuple(
        Turn("tool", (ToolResult(f"c{number}", (Text("1"),), name=name),))
        for number, name in enumerate(names)
    )
    return GenerationRequest(
        "m",
        (Turn("user", (Text("Hi"),)), Turn("assistant", calls), *results),
        tools=tuple(Tool(name) for name in names),
        tool_choice=ToolChoice("named", names[0]),
    )


@pytest.mark.parametrize("wire", list(TARGETS))
def test_every_name_is_told_in_one_the_provider_takes_and_comes_back_as_it_was(wire: str) -> None:
    dialect, (target, rules) = UPSTREAM_DIALECTS[wire], TARGETS[wire]
    fitted, given = tool_names.fit(request(*NAMES), dialect.tool_name)
    body = dialect.write_request(fitted, target)
    apply(rules, Asked({"anthropic-version": "2023-06-01"}, body, target.model))
    told = [tool.name for tool in fitted.tools]
    assert len(set(told)) == len(NAMES)
    assert fitted.tool_choice == ToolChoice("named", told[0])
    back = [tool_names.restore(ToolCallStarted(0, "c", name), given) for name in told]
    assert [event.name for event in back if isinstance(event, ToolCallStarted)] == list(NAMES)


def test_names_that_fit_are_left_alone() -> None:
    asked = request("weather.get", "plain")
    fitted, given = tool_names.fit(asked, UPSTREAM_DIALECTS["gemini"].tool_name)
    assert fitted is asked
    assert given == {}
    assert tool_names.restore(TextDelta("x"), {"x": "y"}) == TextDelta("x")


def test_a_new_name_is_nobody_elses() -> None:
    """The wrong name's plain spelling is another function's."""
    names = ("a.b", "a_b", "a:b")
    fitted, given = tool_names.fit(request(*names), UPSTREAM_DIALECTS["openai_chat"].tool_name)
    told = [tool.name for tool in fitted.tools]
    assert told[1] == "a_b"
    assert len(set(told)) == 3
    assert [given.get(name, name) for name in told] == list(names)
