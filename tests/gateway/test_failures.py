"""A tool that failed: every provider's model is told so."""

from typing import Any

import pytest

from gateway.dialects import UPSTREAM_DIALECTS, failures
from gateway.dialects.base import Target
from gateway.generation import GenerationRequest, Image, Part, Text, ToolCall, ToolResult, Turn

PIXEL = Image("data:image/png;base64,aW1hZ2U=")


def told(wire: str, *parts: Any, is_error: bool = True) -> str:
    """What a provider is sent about a tool's answer."""
    turns = (
        Turn("user", (Text("Hi"),)),
        Turn("assistant", (ToolCall("c", "f", "{}"),)),
        Turn("tool", (ToolResult("c", parts, is_error),)),
    )
    body = UPSTREAM_DIALECTS[wire].write_request(
        GenerationRequest("m", turns), Target("claude-haiku-4-5", 100)
    )
    return str(body.get("messages") or body.get("input") or body.get("contents"))


@pytest.mark.parametrize("wire", list(UPSTREAM_DIALECTS))
@pytest.mark.parametrize("parts", [(), (Text("no such city"),), (PIXEL,)])
def test_that_a_tool_failed_reaches_every_provider(wire: str, parts: tuple[Part, ...]) -> None:
    assert "error" in told(wire, *parts).lower()
    assert "error" not in told(wire, *parts, is_error=False).lower()


def test_a_failure_is_said_once_and_before_everything_else() -> None:
    def spoken(*parts: Any) -> Any:
        return failures.spoken(ToolResult("c", parts, is_error=True))

    assert spoken(Text("no such city")) == (Text("Error: no such city"),)
    assert spoken(Text("error: no such city")) == (Text("error: no such city"),)
    assert spoken() == spoken(Text("")) == (Text("Error"),)
    assert spoken(PIXEL, Text("see")) == (Text("Error"), PIXEL, Text("see"))
    assert spoken(Text("a"), PIXEL) == (Text("Error: a"), PIXEL)
