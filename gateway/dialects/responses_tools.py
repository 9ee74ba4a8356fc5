"""The tools of a Responses request as functions any provider can be given. Pure.

Tools in a `namespace` (Codex) become functions of their own, and a call of one goes back with its
namespace. Custom tools (free text against a grammar) and those a provider runs itself (web search,
code interpreter, ...) exist on OpenAI's wire only: other providers are not told of them.
Facts: platform.openai.com/docs/api-reference/responses/create, `tools` and `tool_choice`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gateway import refusals
from gateway.dialects import parameters
from gateway.dialects.base import Json
from gateway.generation import Tool, ToolChoice

MODES = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class Function:
    """A function tool: under which name the provider knows it, and where it comes from."""

    flat_name: str
    name: str
    namespace: str
    tool: Json
    at: str


def functions(body: Json) -> list[Function]:
    """The request's function tools, those of namespaces included; names are unique.

    Raises Refusal for tools that are not objects.
    """
    found: list[Function] = []
    taken: set[str] = set()
    for tool, namespace, at in _walk(body):
        name = parameters.text(tool, "name", at)
        flat_name = name
        if namespace and name in taken:
            flat_name = f"{namespace}__{name}"
        taken.add(flat_name)
        found.append(Function(flat_name, name, namespace, tool, at))
    return found


def _walk(body: Json) -> Iterator[tuple[Json, str, str]]:
    """Function tools with their namespace and path; plain ones first, so that they keep a name."""
    tools = [
        (tool, f"tools[{number}]") for number, tool in enumerate(parameters.objects(body, "tools"))
    ]
    for tool, at in tools:
        if parameters.text(tool, "type", at) == "function":
            yield tool, "", at
    for tool, at in tools:
        if tool["type"] != "namespace":
            continue
        namespace = parameters.text(tool, "name", at)
        for number, inner in enumerate(parameters.objects(tool, "tools", at)):
            if inner.get("type") == "function":
                yield inner, namespace, f"{at}.tools[{number}]"


def read_tools(body: Json) -> tuple[Tool, ...]:
    """The functions as tools, those that `allowed_tools` leaves out excepted. Raises Refusal."""
    allowed = _allowed_names(body.get("tool_choice"))
    return tuple(
        Tool(
            name=function.flat_name,
            description=parameters.optional_text(function.tool, "description", function.at),
            schema=parameters.optional(function.tool, "parameters", dict, "an object", function.at),
            strict=parameters.optional(function.tool, "strict", bool, "a boolean", function.at),
        )
        for function in functions(body)
        if allowed is None or function.name in allowed
    )


def _allowed_names(choice: Any) -> set[str] | None:
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return None
    allowed = parameters.objects(choice, "tools", "tool_choice")
    return {str(tool.get("name")) for tool in allowed if tool.get("type") == "function"}


def read_tool_choice(body: Json, tools: tuple[Tool, ...]) -> ToolChoice | None:
    """Which tool to call; None when there is nothing to choose from.

    Raises Refusal for a choice that only OpenAI could obey.
    """
    choice = body.get("tool_choice")
    if choice is None:
        return None
    if isinstance(choice, str):
        return _read_mode(choice, "tool_choice", tools)
    if not isinstance(choice, dict):
        raise refusals.wrong_type(
            "tool_choice", "'auto', 'none', 'required' or an object naming a tool", choice
        )
    kind = parameters.text(choice, "type", "tool_choice")
    if kind == "allowed_tools":
        mode = parameters.text(choice, "mode", "tool_choice")
        return _read_mode(mode, "tool_choice.mode", tools)
    if kind != "function":
        raise refusals.unsupported_value(
            "tool_choice",
            f"Tools of type '{kind[: parameters.ECHO_CHARACTERS_MAX]}' are not available with "
            "this model: choose a function.",
        )
    name = parameters.text(choice, "name", "tool_choice")
    namespace = parameters.optional_text(choice, "namespace", "tool_choice")
    return ToolChoice("named", flat_name(functions(body), name, namespace))


def _read_mode(mode: str, path: str, tools: tuple[Tool, ...]) -> ToolChoice | None:
    if mode == "auto":
        return ToolChoice("auto") if tools else None
    if mode == "none":
        return ToolChoice("none") if tools else None
    if mode != "required":
        raise parameters.unknown_value(path, mode, MODES)
    if not tools:
        raise refusals.unsupported_value(
            path,
            "A tool call is required, but none of the tools is a function: this model can call "
            "functions only.",
        )
    return ToolChoice("required")


def flat_name(known: list[Function], name: str, namespace: str) -> str:
    """The name under which a provider knows a function of the client's."""
    for function in known:
        if function.name == name and function.namespace == namespace:
            return function.flat_name
    return name


def write_tool(tool: Json) -> Json:
    """A tool as the response repeats it: strict readers want every key of a function."""
    if tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": None, **tool}
