"""Messages API requests, read from a client. Part of `anthropic`.

Facts: platform.claude.com/docs/en/api/messages. Readers name the dotted path of what is wrong, as
Anthropic does (`messages.0.content.1.text: Field required`). What only Anthropic can do is left out
where an answer without it is still an answer (cache marks, its own tools and their results in the
history) and refused where it is not. Pure.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from gateway import refusals
from gateway.dialects import anthropic_carries as carries
from gateway.dialects.base import Inspection, Json
from gateway.events import Carry
from gateway.generation import (
    File,
    GenerationRequest,
    Image,
    OutputFormat,
    Parameters,
    Part,
    Reasoning,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

KINDS: dict[type, str] = {
    str: "a valid string",
    int: "a valid integer",
    float: "a valid number",
    bool: "a valid boolean",
    list: "a valid list",
    dict: "an object",
}
# Thinking budgets as efforts: the largest budget each one stands for.
EFFORT_BUDGETS = (("low", 2_048), ("medium", 10_000))
ECHO_CHARACTERS_MAX = 120


# --- reading fields --------------------------------------------------------------------------


def _optional(holder: Mapping[str, Any], name: str, kind: type, at: str = "") -> Any:
    value = holder.get(name)
    if value is None:
        return None
    accepted = (int, float) if kind is float else kind
    # True is an int to Python and a boolean to JSON.
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise refusals.invalid_field(
            _path(at, name), f"Input should be {KINDS[kind]}", code="invalid_type"
        )
    return value


def _require(holder: Mapping[str, Any], name: str, kind: type, at: str = "") -> Any:
    if holder.get(name) is None:
        raise refusals.invalid_field(
            _path(at, name), "Field required", code="missing_required_parameter"
        )
    return _optional(holder, name, kind, at)


def _path(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name


def _items(holder: Mapping[str, Any], name: str, at: str = "") -> list[tuple[Json, str]]:
    """The objects of an optional list, each with its path."""
    path = _path(at, name)
    found = []
    for number, item in enumerate(_optional(holder, name, list, at) or ()):
        if not isinstance(item, dict):
            raise refusals.invalid_field(
                f"{path}.{number}", "Input should be an object", code="invalid_type"
            )
        found.append((item, f"{path}.{number}"))
    return found


def _unknown(path: str, value: str, known: Any) -> refusals.Refusal:
    expected = ", ".join(f"'{name}'" for name in known)
    return refusals.invalid_field(
        path, f"Input should be {expected}, not '{value[:ECHO_CHARACTERS_MAX]}'"
    )


# --- inspecting ------------------------------------------------------------------------------


def inspect(body: Json) -> Inspection:
    """What pricing and routing need. Raises Refusal naming the field that is wrong."""
    model = _require(body, "model", str)
    output_tokens_max = _require(body, "max_tokens", int)
    if output_tokens_max < 1:
        raise refusals.invalid_field("max_tokens", "Input should be greater than or equal to 1")
    if not _require(body, "messages", list):
        raise refusals.invalid_field("messages", "at least one message is required")
    return Inspection(
        model=model,
        is_stream=bool(_optional(body, "stream", bool)),
        output_tokens_max=output_tokens_max,
        wants_usage=True,
    )


# --- reading ---------------------------------------------------------------------------------


def read(body: Json) -> GenerationRequest:
    """The whole request. Raises Refusal."""
    inspection = inspect(body)
    if body.get("mcp_servers"):
        raise refusals.invalid_field(
            "mcp_servers", "This model's provider cannot call MCP servers; call them yourself."
        )
    tools = _read_tools(body)
    turns = (*_read_system(body), *_read_messages(body))
    return GenerationRequest(
        model=inspection.model,
        turns=turns,
        is_stream=inspection.is_stream,
        tools=tools,
        tool_choice=_read_tool_choice(body, tools),
        output_format=_read_output_format(body),
        parameters=_read_parameters(body, inspection),
        is_begun=bool(turns) and turns[-1].role == "assistant",
    )


def _read_system(body: Json) -> tuple[Turn, ...]:
    parts = _read_content(body, "system", "", ("text",))
    return (Turn("system", parts),) if parts else ()


def _read_messages(body: Json) -> list[Turn]:
    turns: list[Turn] = []
    names: dict[str, str] = {}
    for message, at in _items(body, "messages"):
        role = _require(message, "role", str, at)
        if role not in ROLE_BLOCKS:
            raise _unknown(f"{at}.role", role, ROLE_BLOCKS)
        if message.get("content") is None:
            _require(message, "content", list, at)
        parts = _read_content(message, "content", at, ROLE_BLOCKS[role])
        if role == "user":
            turns.extend(_user_turns(parts, names))
            continue
        parts = _attach_carries(parts)
        names.update({part.call_id: part.name for part in parts if isinstance(part, ToolCall)})
        if parts:
            turns.append(Turn("system" if role == "system" else "assistant", parts))
    return turns


def _user_turns(parts: tuple[Part, ...], names: Mapping[str, str]) -> list[Turn]:
    """Tool results as turns of their own, before what the user says with them."""
    turns = [
        Turn("tool", (replace(part, name=names.get(part.call_id, "")),))
        for part in parts
        if isinstance(part, ToolResult)
    ]
    said = tuple(part for part in parts if not isinstance(part, ToolResult))
    return [*turns, Turn("user", said)] if said else turns


def _attach_carries(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """The parts with sealed state put back on the text before it and the call after it."""
    attached: list[Part] = []
    pending: Carry | None = None
    for part in parts:
        seal = part.item_id if isinstance(part, Reasoning) else ""
        carry = part.carry if isinstance(part, Reasoning) else None
        if seal == carries.CALL:
            pending = carry
        elif seal == carries.TEXT:
            if attached and isinstance(attached[-1], Text):
                attached[-1] = replace(attached[-1], carry=carry)
        elif isinstance(part, ToolCall):
            attached.append(replace(part, carry=pending))
            pending = None
        else:
            attached.append(part)
    return tuple(attached)


# --- content ---------------------------------------------------------------------------------


def _read_content(holder: Json, name: str, at: str, kinds: tuple[str, ...]) -> tuple[Part, ...]:
    """A string, or blocks of these kinds."""
    content = holder.get(name)
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return tuple(
        part for block, path in _items(holder, name, at) for part in _read_block(block, path, kinds)
    )


def _read_block(block: Json, at: str, kinds: tuple[str, ...]) -> tuple[Part, ...]:
    kind = _require(block, "type", str, at)
    if kind in kinds:
        return BLOCK_READERS[kind](block, at)
    # What Anthropic's own tools did on earlier turns: nobody else can read it.
    if kind in PROVIDER_BLOCKS or (kind.endswith("_tool_result") and kind != "tool_result"):
        return ()
    raise _unknown(f"{at}.type", kind, kinds)


def _read_text(block: Json, at: str) -> tuple[Part, ...]:
    text = _require(block, "text", str, at)
    return (Text(text),) if text else ()


def _read_image(block: Json, at: str) -> tuple[Part, ...]:
    source, at = _require(block, "source", dict, at), f"{at}.source"
    match _require(source, "type", str, at):
        case "base64":
            return (Image(_data_url(source, at)),)
        case "url":
            return (Image(_require(source, "url", str, at)),)
        case "file":
            raise _file_id(at)
        case other:
            raise _unknown(f"{at}.type", other, ("base64", "url", "file"))


def _data_url(source: Json, at: str) -> str:
    media_type = _require(source, "media_type", str, at)
    return f"data:{media_type};base64,{_require(source, 'data', str, at)}"


def _file_id(at: str) -> refusals.Refusal:
    return refusals.invalid_field(
        f"{at}.file_id", "Files kept at Anthropic cannot be read by this model. Send the data."
    )


def _read_document(block: Json, at: str) -> tuple[Part, ...]:
    title = _optional(block, "title", str, at) or ""
    source, at = _require(block, "source", dict, at), f"{at}.source"
    match _require(source, "type", str, at):
        case "base64":
            return (File(data_url=_data_url(source, at), filename=title or "document.pdf"),)
        case "url":
            return (File(url=_require(source, "url", str, at), filename=title),)
        case "text":
            return (Text(_titled(title, _require(source, "data", str, at))),)
        case "content":
            parts = _read_content(source, "content", at, ("text", "image"))
            return (Text(title), *parts) if title else parts
        case "file":
            raise _file_id(at)
        case other:
            raise _unknown(f"{at}.type", other, ("base64", "url", "text", "content", "file"))


def _titled(title: str, text: str) -> str:
    return f"{title}\n\n{text}" if title else text


def _read_search_result(block: Json, at: str) -> tuple[Part, ...]:
    head = f"{_require(block, 'title', str, at)}\n{_require(block, 'source', str, at)}"
    return (Text(head), *_read_content(block, "content", at, ("text",)))


def _read_thinking(block: Json, at: str) -> tuple[Part, ...]:
    carry, place = carries.read_signature(_optional(block, "signature", str, at) or "")
    text = _optional(block, "thinking", str, at) or ""
    if place == carries.REASONING:
        return (Reasoning(text, carry, is_summary=True),)
    # Its place travels in `item_id` until `_attach_carries` has put the carry there.
    return (Reasoning(text, carry, item_id=place),)


def _read_redacted(block: Json, at: str) -> tuple[Part, ...]:
    return (Reasoning("", Carry(carries.REDACTED, _require(block, "data", str, at))),)


def _read_tool_use(block: Json, at: str) -> tuple[Part, ...]:
    call_id, name = _require(block, "id", str, at), _require(block, "name", str, at)
    arguments = orjson.dumps(_require(block, "input", dict, at)).decode()
    return (ToolCall(call_id, name, arguments),)


def _read_tool_result(block: Json, at: str) -> tuple[Part, ...]:
    call_id = _require(block, "tool_use_id", str, at)
    kinds = ("text", "image", "document", "search_result")
    parts = _read_content(block, "content", at, kinds)
    said = tuple(part for part in parts if isinstance(part, Text | Image | File))
    return (ToolResult(call_id, said, bool(_optional(block, "is_error", bool, at))),)


BLOCK_READERS: dict[str, Callable[[Json, str], tuple[Part, ...]]] = {
    "text": _read_text,
    "image": _read_image,
    "document": _read_document,
    "search_result": _read_search_result,
    "thinking": _read_thinking,
    "redacted_thinking": _read_redacted,
    "tool_use": _read_tool_use,
    "tool_result": _read_tool_result,
}
ROLE_BLOCKS = {
    "user": ("text", "image", "document", "search_result", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
    "system": ("text",),
}
PROVIDER_BLOCKS = frozenset(
    (
        *("server_tool_use", "mcp_tool_use", "container_upload", "compaction", "fallback"),
        *("tool_reference", "browser_state"),
    )
)


# --- tools, format, parameters ---------------------------------------------------------------


def _read_tools(body: Json) -> tuple[Tool, ...]:
    """The client's own tools; those that Anthropic runs or defines are not offered elsewhere."""
    return tuple(
        Tool(
            name=_require(tool, "name", str, at),
            description=_optional(tool, "description", str, at) or "",
            schema=_require(tool, "input_schema", dict, at),
            strict=_optional(tool, "strict", bool, at),
        )
        for tool, at in _items(body, "tools")
        if (_optional(tool, "type", str, at) or "custom") == "custom"
    )


def _read_tool_choice(body: Json, tools: tuple[Tool, ...]) -> ToolChoice | None:
    choice = _optional(body, "tool_choice", dict)
    if choice is None:
        return None
    kind = _require(choice, "type", str, "tool_choice")
    name = _require(choice, "name", str, "tool_choice") if kind == "tool" else ""
    if (kind == "any" and not tools) or (name and name not in {tool.name for tool in tools}):
        raise refusals.invalid_field(
            "tool_choice", "It requires a tool that is not among the `tools` this model can use."
        )
    match kind:
        case "auto" | "none":
            return ToolChoice(kind)
        case "any":
            return ToolChoice("required")
        case "tool":
            return ToolChoice("named", name)
    raise _unknown("tool_choice.type", kind, ("auto", "any", "tool", "none"))


def _read_output_format(body: Json) -> OutputFormat | None:
    config = _optional(body, "output_config", dict) or {}
    at = "output_config.format" if config.get("format") else "output_format"
    chosen = _optional(config, "format", dict, "output_config") or _optional(
        body, "output_format", dict
    )
    if chosen is None:
        return None
    kind = _require(chosen, "type", str, at)
    if kind != "json_schema":
        raise _unknown(f"{at}.type", kind, ("json_schema",))
    schema = _require(chosen, "schema", dict, at)
    return OutputFormat("json_schema", name="answer", schema=schema, strict=True)


def _read_parameters(body: Json, inspection: Inspection) -> Parameters:
    choice = _optional(body, "tool_choice", dict) or {}
    metadata = _optional(body, "metadata", dict) or {}
    one_by_one = _optional(choice, "disable_parallel_tool_use", bool, "tool_choice")
    top_k = _optional(body, "top_k", int)
    return Parameters(
        output_tokens_max=inspection.output_tokens_max,
        temperature=_optional(body, "temperature", float),
        top_p=_optional(body, "top_p", float),
        stop=_read_stop(body),
        reasoning_effort=_read_effort(body),
        reasoning_summary=_read_summary(body),
        parallel_tool_calls=None if one_by_one is None else not one_by_one,
        user=_optional(metadata, "user_id", str, "metadata"),
        extra={} if top_k is None else {"top_k": top_k},
    )


def _read_stop(body: Json) -> tuple[str, ...]:
    stop = _optional(body, "stop_sequences", list) or []
    for number, item in enumerate(stop):
        if not isinstance(item, str):
            raise refusals.invalid_field(
                f"stop_sequences.{number}", "Input should be a valid string", code="invalid_type"
            )
    return tuple(stop)


def _read_effort(body: Json) -> str | None:
    """How much to think: an effort as it is, a budget as the effort it stands for."""
    config = _optional(body, "output_config", dict) or {}
    effort: str | None = _optional(config, "effort", str, "output_config")
    thinking = _optional(body, "thinking", dict)
    if thinking is None:
        return effort
    match _require(thinking, "type", str, "thinking"):
        case "disabled":
            return "none"
        case "enabled":
            budget = _require(thinking, "budget_tokens", int, "thinking")
            fitting = [name for name, most in EFFORT_BUDGETS if budget <= most]
            return effort or (fitting[0] if fitting else "high")
        case "adaptive" | "between_tools":
            return effort or "high"  # Anthropic's own default
        case other:
            known = ("enabled", "adaptive", "between_tools", "disabled")
            raise _unknown("thinking.type", other, known)


def _read_summary(body: Json) -> str | None:
    """Thinking that was asked for is shown, unless it is to be left out."""
    thinking = _optional(body, "thinking", dict) or {}
    is_shown = thinking.get("type", "disabled") != "disabled"
    return "auto" if is_shown and thinking.get("display") != "omitted" else None
