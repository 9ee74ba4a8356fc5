"""generateContent requests as clients send them, read. Part of `gemini`. Pure.

Facts: ai.google.dev/api/generate-content and google-genai's types. Field names come in camelCase or
snake_case, both of which Google's JSON takes. Calls and results need no id: results then belong to
the calls before them in order of the function's name. Safety settings, labels and the like mean
nothing to other providers and are accepted; what changes the answer is refused by name.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import orjson

from gateway import refusals
from gateway.dialects import gemini_schemas, gemini_signatures
from gateway.dialects.base import Inspection, Json
from gateway.generation import (
    Audio,
    File,
    GenerationRequest,
    Image,
    OutputFormat,
    Parameters,
    Part,
    Reasoning,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

CANDIDATES_MAX = 8
ROLES: dict[str, Role] = {"user": "user", "model": "assistant", "function": "user"}
MODES = {"AUTO": "auto", "VALIDATED": "auto", "ANY": "required", "NONE": "none"}
# The upper ends of what a budget of thinking tokens is called on OpenAI's scale.
BUDGET_EFFORTS = ((0, "none"), (512, "minimal"), (4096, "low"), (16384, "medium"))
# How other wires call what answers tools gave: the value of one such member is the answer.
RESULT_NAMES = ("result", "output")
# OpenAI's names for sound, where they are not the media type's.
AUDIO_FORMATS = {"mpeg": "mp3", "x-wav": "wav", "wave": "wav", "vnd.wave": "wav"}
CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")


@lru_cache(maxsize=256)
def _snake(name: str) -> str:
    return CAPITAL.sub(lambda match: "_" + match[1].lower(), name)


@dataclass(frozen=True, slots=True)
class Node:
    """An object of the body and its dotted path, which errors name."""

    value: Json
    at: str = ""

    def path(self, name: str) -> str:
        """The dotted path of a member."""
        return f"{self.at}.{name}" if self.at else name

    def raw(self, name: str) -> Any:
        """A member by its camelCase name, also if it was sent in snake_case; None if absent."""
        value = self.value.get(name)
        return self.value.get(_snake(name)) if value is None else value

    def get(self, name: str, kind: type | tuple[type, ...], words: str) -> Any:
        """A member of this type, None if absent. Raises Refusal."""
        value = self.raw(name)
        if value is None:
            return None
        # True is an int to Python and a boolean to JSON.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise refusals.wrong_type(self.path(name), words, value)
        return value

    def text(self, name: str) -> str:
        """A string, "" if absent."""
        return str(self.get(name, str, "a string") or "")

    def require(self, name: str) -> str:
        """A string that must be there."""
        if not self.text(name):
            raise refusals.missing_parameter(self.path(name))
        return self.text(name)

    def integer(self, name: str) -> int | None:
        """An integer, None if absent."""
        value: int | None = self.get(name, int, "an integer")
        return value

    def number(self, name: str) -> float | None:
        """A number, None if absent."""
        value = self.get(name, (int, float), "a number")
        return None if value is None else float(value)

    def node(self, name: str) -> "Node":
        """An object, empty if absent."""
        return Node(self.get(name, dict, "an object") or {}, self.path(name))

    def nodes(self, name: str) -> list["Node"]:
        """The objects of an array, none if absent."""
        items = self.get(name, list, "an array of objects") or []
        for number, item in enumerate(items):
            if not isinstance(item, dict):
                raise refusals.wrong_type(f"{self.path(name)}[{number}]", "an object", item)
        return [Node(item, f"{self.path(name)}[{number}]") for number, item in enumerate(items)]

    def texts(self, name: str) -> tuple[str, ...]:
        """The strings of an array, none if absent."""
        items = self.get(name, list, "an array of strings") or []
        for number, item in enumerate(items):
            if not isinstance(item, str):
                raise refusals.wrong_type(f"{self.path(name)}[{number}]", "a string", item)
        return tuple(items)


# --- inspecting ------------------------------------------------------------------------------


def inspect(body: Json) -> Inspection:
    """What pricing and routing need. Raises Refusal naming the parameter that is wrong."""
    root = Node(body)
    if not root.nodes("contents"):
        raise refusals.missing_parameter("contents")
    config = root.node("generationConfig")
    return Inspection(
        model=root.require("model").removeprefix("models/"),
        is_stream=bool(body.get("stream")),
        output_tokens_max=_at_least_one(config, "maxOutputTokens"),
        choices=_choices(config),
        wants_usage=True,
    )


def _at_least_one(config: Node, name: str) -> int | None:
    value = config.integer(name)
    if value is not None and value < 1:
        path = config.path(name)
        raise refusals.unsupported_value(
            path, f"Invalid '{path}': expected a value >= 1, but got {value} instead."
        )
    return value


def _choices(config: Node) -> int:
    value = _at_least_one(config, "candidateCount")
    if value is not None and value > CANDIDATES_MAX:
        path = config.path("candidateCount")
        raise refusals.unsupported_value(
            path,
            f"Invalid '{path}': expected a value from 1 to {CANDIDATES_MAX}, but got {value} "
            "instead.",
        )
    return value or 1


# --- reading ---------------------------------------------------------------------------------


def read(body: Json) -> GenerationRequest:
    """The whole request. Raises Refusal."""
    inspection = inspect(body)
    root = Node(body)
    if root.raw("cachedContent"):
        raise refusals.unsupported_value(
            "cachedContent",
            "Cached content lives with Google and cannot be used with this model: send the content "
            "itself.",
        )
    conversation = Conversation()
    conversation.read(root.nodes("contents"))
    tools, choice = _read_tool_config(root.node("toolConfig"), _read_tools(root))
    config = root.node("generationConfig")
    return GenerationRequest(
        model=inspection.model,
        turns=(*_read_system(root), *conversation.turns),
        is_stream=inspection.is_stream,
        tools=tools,
        tool_choice=choice,
        output_format=_read_format(config),
        parameters=_read_parameters(config, inspection),
    )


def _read_system(root: Node) -> tuple[Turn, ...]:
    """The system instruction: a content, or as some send it, a string."""
    instruction = root.raw("systemInstruction")
    if instruction is None:
        return ()
    if isinstance(instruction, str):
        return (Turn("system", (Text(instruction),)),) if instruction else ()
    parts = root.node("systemInstruction").nodes("parts")
    for part in parts:
        if part.raw("text") is None:
            raise refusals.unsupported_value(
                part.at, f"'{part.at}': instructions of this model can only be text."
            )
    texts = tuple(Text(part.text("text")) for part in parts)
    return (Turn("system", texts),) if texts else ()


class Conversation:
    """Reads contents into turns; gives calls without an id one, and finds it for their results."""

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self._waiting: list[ToolCall] = []
        self._calls = 0

    def read(self, contents: list[Node]) -> None:
        """All contents. Raises Refusal.

        google-genai keeps every message of a stream as a content of its own: those of the model
        that follow each other are one turn.
        """
        for role, group in groupby(contents, _read_role):
            if role == "assistant":
                self._read_own([part for content in group for part in content.nodes("parts")])
            else:
                for content in group:
                    self._read_users(content.nodes("parts"))

    def _read_users(self, nodes: list[Node]) -> None:
        """A user's content: a turn for each tool's answer, then one for everything else."""
        rest: list[Part] = []
        for node in nodes:
            if node.raw("functionResponse") is not None:
                self.turns.append(Turn("tool", (self._read_result(node),)))
            else:
                rest.append(_read_content(node))
        if rest:
            self.turns.append(Turn("user", tuple(rest)))

    def _read_own(self, nodes: list[Node]) -> None:
        """The model's content. Pieces of a stream that its client kept apart are joined again."""
        self._waiting = []
        parts: list[Part] = []
        for node in nodes:
            signed = gemini_signatures.unpack(node.text("thoughtSignature"))
            parts.extend(signed.before)
            if node.raw("thought") is True:
                part: Part = Reasoning(node.text("text"), signed.own)
            elif node.raw("functionCall") is not None:
                part = replace(self._read_call(node.node("functionCall")), carry=signed.own)
            else:
                part = _read_content(node)
                if isinstance(part, Text):
                    part = replace(part, carry=signed.own)
            _append(parts, part)
        kept = tuple(part for part in parts if part not in (Text(""), Reasoning("")))
        if kept:
            self.turns.append(Turn("assistant", kept))

    def _read_call(self, node: Node) -> ToolCall:
        arguments = node.get("args", dict, "an object") or {}
        call_id = node.text("id")
        name, text = node.require("name"), orjson.dumps(arguments).decode()
        self._calls += 1
        if not call_id:
            digest = hashlib.sha256(f"{self._calls}\n{name}\n{text}".encode()).hexdigest()
            call_id = f"call_{digest[:24]}"
        call = ToolCall(call_id, name, text)
        self._waiting.append(call)
        return call

    def _read_result(self, part: Node) -> ToolResult:
        node = part.node("functionResponse")
        name = node.require("name")
        call_id = node.text("id")
        for call in self._waiting:
            if call.call_id == call_id if call_id else call.name == name:
                self._waiting.remove(call)
                call_id = call.call_id
                break
        if not call_id:
            raise refusals.unsupported_value(
                part.path("functionResponse"),
                f"No function call before it is still without a response named '{name[:80]}'.",
            )
        text, is_error = _read_response(node.get("response", dict, "an object") or {})
        media = tuple(_read_content(inner) for inner in node.nodes("parts"))
        kept = tuple(one for one in media if isinstance(one, Text | Image | File))
        return ToolResult(call_id, (Text(text), *kept), is_error, name)


def _read_role(content: Node) -> Role:
    name = content.text("role") or "user"
    if name not in ROLES:
        raise refusals.unsupported_value(
            content.path("role"),
            f"Invalid value: '{name[:40]}'. Please use a valid role: user, model.",
        )
    return ROLES[name]


def _append(parts: list[Part], part: Part) -> None:
    """Add a part, joined to the one before where both are pieces of the same text."""
    last = parts[-1] if parts else None
    if isinstance(last, Text) and isinstance(part, Text) and last.carry is None:
        parts[-1] = Text(last.text + part.text, part.carry)
    elif isinstance(last, Reasoning) and isinstance(part, Reasoning) and last.carry is None:
        parts[-1] = Reasoning(last.text + part.text, part.carry)
    else:
        parts.append(part)


def _read_response(response: Json) -> tuple[str, bool]:
    """What a function answered, as text, and whether it was an error."""
    if set(response) == {"error"}:
        return _as_text(response["error"]), True
    if len(response) == 1 and (name := next(iter(response))) in RESULT_NAMES:
        return _as_text(response[name]), False
    return _as_text(response), False


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


# --- parts -----------------------------------------------------------------------------------


def _read_content(part: Node) -> Part:
    """A part that is content. Raises Refusal for one that other providers cannot be given."""
    for name, reader in PART_READERS.items():
        if part.raw(name) is not None:
            return reader(part)
    kinds = ", ".join(f"'{name}'" for name in (*PART_READERS, "functionCall", "functionResponse"))
    raise refusals.unsupported_value(
        part.at, f"'{part.at}': this model takes parts with one of {kinds}."
    )


def _read_inline(part: Node) -> Part:
    inline = part.node("inlineData")
    media_type, data = inline.require("mimeType"), inline.require("data")
    if media_type.startswith("audio/"):
        name = media_type.removeprefix("audio/").partition(";")[0].strip()
        return Audio(data, AUDIO_FORMATS.get(name, name))
    url = f"data:{media_type};base64,{data}"
    if media_type.startswith("image/"):
        return Image(url)
    return File(data_url=url, filename=inline.text("displayName"))


def _read_file(part: Node) -> Part:
    """A file by URL; one that was uploaded to Google is out of other providers' reach."""
    file = part.node("fileData")
    uri = file.require("fileUri")
    if not uri.startswith(("https://", "http://")) or "generativelanguage.googleapis.com" in uri:
        raise refusals.unsupported_value(
            file.path("fileUri"),
            "Files uploaded to Google cannot be read by this model: send them as 'inlineData'.",
        )
    if file.text("mimeType").startswith("image/"):
        return Image(uri)
    return File(url=uri, filename=file.text("displayName"))


PART_READERS: dict[str, Callable[[Node], Part]] = {
    "text": lambda part: Text(part.text("text")),
    "inlineData": _read_inline,
    "fileData": _read_file,
}


# --- tools and parameters --------------------------------------------------------------------


def _read_tools(root: Node) -> tuple[Tool, ...]:
    tools: list[Tool] = []
    for holder in root.nodes("tools"):
        for name in holder.value:
            if _snake(name) != "function_declarations":
                raise refusals.unsupported_value(
                    holder.path(name),
                    f"'{name}' is a tool of Google's that this model cannot use: only "
                    "'functionDeclarations' are offered.",
                )
        tools.extend(_read_tool(node) for node in holder.nodes("functionDeclarations"))
    return tuple(tools)


def _read_tool(node: Node) -> Tool:
    schema = node.get("parametersJsonSchema", dict, "an object")
    if schema is None and node.raw("parameters") is not None:
        schema = gemini_schemas.from_openapi(node.node("parameters").value)
    return Tool(node.require("name"), node.text("description"), schema)


def _read_tool_config(
    config: Node, tools: tuple[Tool, ...]
) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """The tools that may be called, and how the model is to choose."""
    calling = config.node("functionCallingConfig")
    mode_name = calling.text("mode") or "AUTO"
    mode = MODES.get(mode_name)
    if mode is None:
        names = ", ".join(f"'{name}'" for name in MODES)
        raise refusals.unsupported_value(
            calling.path("mode"),
            f"Invalid value: '{mode_name[:40]}'. Supported values are: {names}.",
        )
    allowed = calling.texts("allowedFunctionNames")
    if len(allowed) == 1 and mode == "required":
        return tools, ToolChoice("named", allowed[0])
    if allowed:
        tools = tuple(tool for tool in tools if tool.name in allowed)
    if not tools or not calling.value:
        return tools, None
    return tools, ToolChoice(mode)  # type: ignore[arg-type]


def _read_format(config: Node) -> OutputFormat | None:
    media_type = config.text("responseMimeType")
    schema = config.get("responseJsonSchema", dict, "an object")
    if schema is None and config.raw("responseSchema") is not None:
        schema = gemini_schemas.from_openapi(config.node("responseSchema").value)
    if media_type in ("", "text/plain") and schema is None:
        return None
    if media_type != "application/json":
        raise refusals.unsupported_value(
            config.path("responseMimeType"),
            "This model answers in 'text/plain' or, with or without a schema, 'application/json'.",
        )
    if schema is None:
        return OutputFormat("json_object")
    return OutputFormat("json_schema", "response", schema)


def _read_parameters(config: Node, inspection: Inspection) -> Parameters:
    extra: Json = {}
    if (top_k := config.number("topK")) is not None:
        extra["top_k"] = int(top_k)
    if modalities := _read_modalities(config):
        extra["modalities"] = modalities
    thinking = config.node("thinkingConfig")
    return Parameters(
        output_tokens_max=inspection.output_tokens_max,
        temperature=config.number("temperature"),
        top_p=config.number("topP"),
        stop=config.texts("stopSequences"),
        choices=inspection.choices,
        seed=config.integer("seed"),
        presence_penalty=config.number("presencePenalty"),
        frequency_penalty=config.number("frequencyPenalty"),
        logprobs=bool(config.get("responseLogprobs", bool, "a boolean")),
        top_logprobs=config.integer("logprobs"),
        reasoning_effort=_read_effort(thinking),
        reasoning_summary="auto" if thinking.raw("includeThoughts") else None,
        extra=extra,
    )


def _read_modalities(config: Node) -> list[str] | None:
    """OpenAI's names for what the answer may consist of; text alone needs no word."""
    asked = [name.lower() for name in config.texts("responseModalities")]
    for name in asked:
        if name not in ("text", "image"):
            raise refusals.unsupported_value(
                config.path("responseModalities"),
                f"'{name[:40].upper()}' is not among the modalities this model answers in.",
            )
    return asked if "image" in asked else None


def _read_effort(thinking: Node) -> str | None:
    """OpenAI's scale for a level, or for a budget in tokens; -1 leaves it to the model."""
    level = thinking.text("thinkingLevel").lower()
    if level and level != "thinking_level_unspecified":
        return level
    budget = thinking.integer("thinkingBudget")
    if budget is None or budget < 0:
        return None
    return next((effort for most, effort in BUDGET_EFFORTS if budget <= most), "high")


def wants_thoughts(body: Json) -> bool:
    """Whether the client wants to read what the model thought."""
    try:
        thinking = Node(body).node("generationConfig").node("thinkingConfig")
        return bool(thinking.raw("includeThoughts"))
    except refusals.Refusal:
        return False
