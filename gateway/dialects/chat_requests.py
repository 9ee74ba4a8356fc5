"""Chat completion requests: read from a client, written to a provider. Part of `openai_chat`.

Facts: platform.openai.com/docs/api-reference/chat/create. Readers name the dotted path of what is
wrong; unknown fields are kept for a provider of the same wire and ignored by others. Pure.
"""

from collections.abc import Callable
from typing import Any

from gateway import refusals
from gateway.dialects import failures, openai_models
from gateway.dialects.base import Inspection, Json
from gateway.dialects.parameters import (
    objects,
    optional,
    optional_text,
    require,
    text,
    unknown_value,
)
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
    Role,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}
# Read into the request; everything else of a body travels in Parameters.extra.
READ_FIELDS = frozenset(
    (
        *("model", "messages", "stream", "stream_options", "tools", "tool_choice"),
        *("parallel_tool_calls", "response_format", "max_tokens", "max_completion_tokens"),
        *("temperature", "top_p", "stop", "n", "seed", "presence_penalty", "frequency_penalty"),
        *("logprobs", "top_logprobs", "reasoning_effort", "user"),
    )
)
CHOICES_MAX = 128
THOUGHT_SIGNATURE = "gemini.thought"


# --- inspecting ------------------------------------------------------------------------------


def inspect(body: Json) -> Inspection:
    """What pricing and routing need. Raises Refusal naming the parameter that is wrong."""
    model = text(body, "model")
    messages = require(body, "messages", list, "an array of objects")
    if not messages:
        raise refusals.unsupported_value(
            "messages",
            "Invalid 'messages': empty array. Expected an array with minimum length 1.",
        )
    options = optional(body, "stream_options", dict, "an object") or {}
    return Inspection(
        model=model,
        is_stream=bool(optional(body, "stream", bool, "a boolean")),
        output_tokens_max=_output_tokens_max(body),
        choices=_choices(body),
        wants_usage=bool(optional(options, "include_usage", bool, "a boolean", "stream_options")),
    )


def _output_tokens_max(body: Json) -> int | None:
    """The larger one when both names are used: which one a provider obeys differs."""
    limits = []
    for name in ("max_completion_tokens", "max_tokens"):
        value = optional(body, name, int, "an integer")
        if value is None:
            continue
        if value < 1:
            raise refusals.unsupported_value(
                name, f"Invalid '{name}': expected a value >= 1, but got {value} instead."
            )
        limits.append(value)
    return max(limits, default=None)


def _choices(body: Json) -> int:
    choices = optional(body, "n", int, "an integer")
    if choices is None:
        return 1
    if not 1 <= choices <= CHOICES_MAX:
        raise refusals.unsupported_value(
            "n",
            f"Invalid 'n': expected a value from 1 to {CHOICES_MAX}, but got {choices} instead.",
        )
    return int(choices)


# --- reading ---------------------------------------------------------------------------------


def read(body: Json) -> GenerationRequest:
    """The whole request. Raises Refusal."""
    inspection = inspect(body)
    tools, choice = _read_allowed(_read_tools(body), body.get("tool_choice"))
    return GenerationRequest(
        model=inspection.model,
        turns=tuple(
            _read_turn(message, f"messages[{number}]")
            for number, message in enumerate(body["messages"])
        ),
        is_stream=inspection.is_stream,
        tools=tools,
        tool_choice=_read_tool_choice(choice),
        output_format=_read_output_format(body),
        parameters=_read_parameters(body, inspection),
    )


def _read_parameters(body: Json, inspection: Inspection) -> Parameters:
    def number(name: str) -> float | None:
        value = optional(body, name, (int, float), "a number")
        return None if value is None else float(value)

    return Parameters(
        output_tokens_max=inspection.output_tokens_max,
        temperature=number("temperature"),
        top_p=number("top_p"),
        stop=_read_stop(body.get("stop")),
        choices=inspection.choices,
        seed=optional(body, "seed", int, "an integer"),
        presence_penalty=number("presence_penalty"),
        frequency_penalty=number("frequency_penalty"),
        logprobs=bool(optional(body, "logprobs", bool, "a boolean")),
        top_logprobs=optional(body, "top_logprobs", int, "an integer"),
        reasoning_effort=optional(body, "reasoning_effort", str, "a string"),
        parallel_tool_calls=optional(body, "parallel_tool_calls", bool, "a boolean"),
        user=optional(body, "user", str, "a string"),
        extra={name: value for name, value in body.items() if name not in READ_FIELDS},
    )


def _read_stop(stop: Any) -> tuple[str, ...]:
    if stop is None:
        return ()
    if isinstance(stop, str):
        return (stop,)
    if not isinstance(stop, list):
        raise refusals.wrong_type("stop", "a string or an array of strings", stop)
    for number, item in enumerate(stop):
        if not isinstance(item, str):
            raise refusals.wrong_type(f"stop[{number}]", "a string", item)
    return tuple(stop)


def _read_turn(message: Any, at: str) -> Turn:
    if not isinstance(message, dict):
        raise refusals.wrong_type(at, "an object", message)
    role_name = text(message, "role", at)
    role = ROLES.get(role_name)
    if role is None:
        raise unknown_value(f"{at}.role", role_name, ROLES)
    name = optional_text(message, "name", at)
    if role == "tool":
        return Turn(role, (_read_tool_result(message, at),), name)
    parts = _read_content(message.get("content"), f"{at}.content")
    if role == "assistant":
        return Turn(role, _assistant_parts(message, parts, at), name)
    if message.get("content") is None:
        raise refusals.missing_parameter(f"{at}.content")
    if not parts:
        raise refusals.unsupported_value(
            f"{at}.content",
            f"Invalid '{at}.content': empty array. Expected an array with minimum length 1.",
        )
    return Turn(role, parts, name)


def _read_tool_result(message: Json, at: str) -> ToolResult:
    """A tool's answer; one of the retired role `function` is known by its function's name."""
    known_by = "name" if message["role"] == "function" else "tool_call_id"
    call_id = text(message, known_by, at)
    parts: list[Text | Image] = []
    for number, part in enumerate(_read_content(message.get("content"), f"{at}.content")):
        if not isinstance(part, Text | Image):
            kind = message["content"][number]["type"]
            raise unknown_value(f"{at}.content[{number}].type", kind, ("text", "image_url"))
        parts.append(part)
    return ToolResult(call_id, tuple(parts))


def _assistant_parts(message: Json, parts: tuple[Part, ...], at: str) -> tuple[Part, ...]:
    """Reasoning first, as providers that want it back require; tool calls last."""
    before: tuple[Part, ...] = ()
    for field in ("reasoning_content", "reasoning"):
        if reasoning := optional(message, field, str, "a string", at):
            before = (Reasoning(reasoning),)
            break
    parts = parts or _read_spoken(message, at)
    if refusal := optional(message, "refusal", str, "a string", at):
        parts = (*parts, RefusalText(refusal))
    calls = optional(message, "tool_calls", list, "an array of objects", at) or []
    return (
        *before,
        *parts,
        *(_read_tool_call(call, f"{at}.tool_calls[{number}]") for number, call in enumerate(calls)),
        *_read_function_call(message, at),
    )


def _read_spoken(message: Json, at: str) -> tuple[Part, ...]:
    """What the model said aloud on an earlier turn: its words, if the client kept them."""
    audio = optional(message, "audio", dict, "an object", at)
    if audio is None:
        return ()
    if words := optional_text(audio, "transcript", f"{at}.audio"):
        return (Text(words),)
    raise refusals.unsupported_value(
        f"{at}.audio",
        f"'{at}.audio': what was spoken is kept by the provider that spoke, and this model is not "
        "its own. Send the transcript.",
    )


def _read_function_call(message: Json, at: str) -> tuple[Part, ...]:
    """The retired single call, which has no id: its result names the function, and so does it."""
    function = optional(message, "function_call", dict, "an object", at)
    if function is None:
        return ()
    name = text(function, "name", f"{at}.function_call")
    return (ToolCall(name, name, _read_arguments(function, f"{at}.function_call")),)


def _read_arguments(function: Json, at: str) -> str:
    return optional(function, "arguments", str, "a string", at) or "{}"


def _read_tool_call(call: Any, at: str) -> ToolCall:
    if not isinstance(call, dict):
        raise refusals.wrong_type(at, "an object", call)
    function = require(call, "function", dict, "an object", at)
    return ToolCall(
        text(call, "id", at),
        text(function, "name", f"{at}.function"),
        _read_arguments(function, f"{at}.function"),
        _read_signature(call.get("extra_content")),
    )


def _read_signature(extra: Any) -> Carry | None:
    """A Gemini signature where Google's own endpoint puts it, if the client kept it."""
    signature = _member(extra, "google", "thought_signature")
    model = _member(extra, "gateway", "model")
    return Carry(THOUGHT_SIGNATURE, signature, model) if signature else None


def _member(extra: Any, holder: str, name: str) -> str:
    held = extra.get(holder) if isinstance(extra, dict) else None
    value = held.get(name) if isinstance(held, dict) else None
    return value if isinstance(value, str) else ""


def _read_content(content: Any, at: str) -> tuple[Part, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (Text(content),)
    if not isinstance(content, list):
        raise refusals.wrong_type(at, "a string or an array of objects", content)
    return tuple(_read_part(part, f"{at}[{number}]") for number, part in enumerate(content))


def _read_part(part: Any, at: str) -> Part:
    if not isinstance(part, dict):
        raise refusals.wrong_type(at, "an object", part)
    kind = text(part, "type", at)
    reader = PART_READERS.get(kind)
    if reader is None:
        raise unknown_value(f"{at}.type", kind, PART_READERS)
    return reader(part, at)


def _read_image(part: Json, at: str) -> Image:
    image = require(part, "image_url", dict, "an object", at)
    return Image(
        text(image, "url", f"{at}.image_url"),
        optional_text(image, "detail", f"{at}.image_url"),
    )


def _read_file(part: Json, at: str) -> File:
    file = require(part, "file", dict, "an object", at)
    return File(
        data_url=optional_text(file, "file_data", f"{at}.file"),
        file_id=optional_text(file, "file_id", f"{at}.file"),
        filename=optional_text(file, "filename", f"{at}.file"),
    )


def _read_audio(part: Json, at: str) -> Audio:
    audio = require(part, "input_audio", dict, "an object", at)
    return Audio(
        text(audio, "data", f"{at}.input_audio"),
        text(audio, "format", f"{at}.input_audio"),
    )


PART_READERS: dict[str, Callable[[Json, str], Part]] = {
    "text": lambda part, at: Text(text(part, "text", at)),
    "image_url": _read_image,
    "file": _read_file,
    "input_audio": _read_audio,
    "refusal": lambda part, at: RefusalText(text(part, "refusal", at)),
}


def _read_tools(body: Json) -> tuple[Tool, ...]:
    tools = optional(body, "tools", list, "an array of objects") or []
    return tuple(_read_tool(tool, f"tools[{number}]") for number, tool in enumerate(tools))


def _read_tool(tool: Any, at: str) -> Tool:
    if not isinstance(tool, dict):
        raise refusals.wrong_type(at, "an object", tool)
    kind = optional(tool, "type", str, "a string", at) or "function"
    if kind != "function":
        raise unknown_value(f"{at}.type", kind, ("function",))
    function = require(tool, "function", dict, "an object", at)
    at = f"{at}.function"
    return Tool(
        name=text(function, "name", at),
        description=optional_text(function, "description", at),
        schema=optional(function, "parameters", dict, "an object", at),
        strict=optional(function, "strict", bool, "a boolean", at),
    )


def _read_allowed(tools: tuple[Tool, ...], choice: Any) -> tuple[tuple[Tool, ...], Any]:
    """The tools that `allowed_tools` leaves, and the mode to choose among them."""
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return tools, choice
    allowed = require(choice, "allowed_tools", dict, "an object", "tool_choice")
    at = "tool_choice.allowed_tools"
    mode = text(allowed, "mode", at)
    if mode not in ("auto", "required"):
        raise unknown_value(f"{at}.mode", mode, ("auto", "required"))
    names = [
        text(require(tool, "function", dict, "an object", path), "name", f"{path}.function")
        for number, tool in enumerate(objects(allowed, "tools", at))
        for path in [f"{at}.tools[{number}]"]
    ]
    left = tuple(tool for tool in tools if tool.name in names)
    if mode == "required" and not left:
        raise refusals.unsupported_value(f"{at}.tools", "None of these is among the 'tools'.")
    return left, mode


def _read_tool_choice(choice: Any) -> ToolChoice | None:
    if choice is None:
        return None
    if choice in ("auto", "none", "required"):
        return ToolChoice(choice)
    if isinstance(choice, str):
        raise unknown_value("tool_choice", choice, ("none", "auto", "required"))
    if isinstance(choice, dict) and isinstance(choice.get("function"), dict):
        name = text(choice["function"], "name", "tool_choice.function")
        return ToolChoice("named", name)
    raise refusals.wrong_type(
        "tool_choice", "'auto', 'none', 'required' or an object naming a function", choice
    )


def _read_output_format(body: Json) -> OutputFormat | None:
    chosen = optional(body, "response_format", dict, "an object")
    if chosen is None:
        return None
    kind = text(chosen, "type", "response_format")
    if kind == "text":
        return None
    if kind == "json_object":
        return OutputFormat("json_object")
    if kind != "json_schema":
        known = ("text", "json_object", "json_schema")
        raise unknown_value("response_format.type", kind, known)
    at = "response_format.json_schema"
    schema = require(chosen, "json_schema", dict, "an object", "response_format")
    return OutputFormat(
        "json_schema",
        name=text(schema, "name", at),
        schema=optional(schema, "schema", dict, "an object", at),
        strict=optional(schema, "strict", bool, "a boolean", at),
        description=optional_text(schema, "description", at),
    )


# --- a client's own body ---------------------------------------------------------------------

# What answers of other models hold in this gateway's chat completions beyond OpenAI's own members.
# Clients send messages back as they got them, and OpenAI refuses members it does not know.
OWN_MEMBERS = frozenset({"reasoning_content", "images"})


def clean(body: Json, upstream_model: str) -> Json:
    """A client's own body without what only other models' answers have, for a model of OpenAI's."""
    messages = body["messages"]
    if not openai_models.is_openai(upstream_model) or not any(map(_has_foreign, messages)):
        return body
    return {**body, "messages": [_without_foreign(message) for message in messages]}


def _has_foreign(message: Any) -> bool:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return False
    return not OWN_MEMBERS.isdisjoint(message) or any(
        isinstance(call, dict) and "extra_content" in call for call in _calls_of(message)
    )


def _calls_of(message: Json) -> list[Any]:
    calls = message.get("tool_calls")
    return calls if isinstance(calls, list) else []


def _without_foreign(message: Any) -> Any:
    if not _has_foreign(message):
        return message
    kept = {name: value for name, value in message.items() if name not in OWN_MEMBERS}
    if calls := _calls_of(message):
        kept["tool_calls"] = [
            {name: value for name, value in call.items() if name != "extra_content"}
            if isinstance(call, dict)
            else call
            for call in calls
        ]
    return kept


# --- writing ---------------------------------------------------------------------------------


def write(request: GenerationRequest, upstream_model: str) -> Json:
    """The body for a provider that speaks chat completions; usage is always asked for."""
    openai_models.refuse_begun(request, upstream_model)
    parameters = request.parameters
    effort = openai_models.effort(upstream_model, parameters.reasoning_effort)
    refused = openai_models.refused_parameters(upstream_model, effort)
    if parameters.logprobs and "logprobs" in refused:
        raise refusals.unsupported_value("logprobs", "'logprobs' is not offered by this model.")
    body: Json = {
        **{name: value for name, value in parameters.extra.items() if name not in refused},
        "model": upstream_model,
        "messages": _write_turns(
            openai_models.with_json_named(request, upstream_model),
            is_openai=openai_models.is_openai(upstream_model),
        ),
    }
    if request.is_stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    if request.tools:
        body["tools"] = [_write_tool(tool) for tool in request.tools]
    if request.tool_choice and request.tools:
        body["tool_choice"] = _write_tool_choice(request.tool_choice)
    if request.output_format:
        body["response_format"] = _write_output_format(request.output_format)
    optional = {
        "max_completion_tokens": parameters.output_tokens_max,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "stop": list(parameters.stop) or None,
        "n": parameters.choices if parameters.choices > 1 else None,
        "seed": parameters.seed,
        "presence_penalty": parameters.presence_penalty,
        "frequency_penalty": parameters.frequency_penalty,
        "logprobs": parameters.logprobs or None,
        "top_logprobs": parameters.top_logprobs,
        "reasoning_effort": effort,
        "parallel_tool_calls": parameters.parallel_tool_calls,
        "user": openai_models.user(parameters.user),
    }
    if not request.tools:  # "'parallel_tool_calls' is only allowed when 'tools' are specified."
        refused |= {"parallel_tool_calls"}
    body.update(
        {
            name: value
            for name, value in optional.items()
            if value is not None and name not in refused
        }
    )
    return body


def _write_turns(turns: tuple[Turn, ...], *, is_openai: bool) -> list[Json]:
    """The messages. Images of tool results follow them as the user's: a tool can only say text."""
    messages: list[Json] = []
    images: list[Part] = []
    for turn in turns:
        if turn.role != "tool" and images:
            messages.append({"role": "user", "content": _write_content(tuple(images))})
            images = []
        message = _write_turn(turn)
        if is_openai:
            message.pop("reasoning_content", None)  # OpenAI has no such field
        messages.append(message)
        images += [part for part in _result_parts(turn) if not isinstance(part, Text)]
    if images:
        messages.append({"role": "user", "content": _write_content(tuple(images))})
    return messages


def _result_parts(turn: Turn) -> tuple[Part, ...]:
    results = (part for part in turn.parts if isinstance(part, ToolResult))
    return next(map(failures.spoken, results), ())


def _write_turn(turn: Turn) -> Json:
    message: Json = {"role": turn.role}
    if turn.name:
        message["name"] = turn.name
    if turn.role == "tool":
        result = next(part for part in turn.parts if isinstance(part, ToolResult))
        message["tool_call_id"] = result.call_id
        message["content"] = _write_content(
            tuple(part for part in failures.spoken(result) if isinstance(part, Text))
        )
        return message
    content = tuple(part for part in turn.parts if not isinstance(part, ToolCall | Reasoning))
    message["content"] = _write_content(content) if content else None
    reasoning = "".join(part.text for part in turn.parts if isinstance(part, Reasoning))
    if reasoning:
        message["reasoning_content"] = reasoning
    calls = [part for part in turn.parts if isinstance(part, ToolCall)]
    if calls:
        message["tool_calls"] = [
            {
                "id": call.call_id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return message


def _write_content(parts: tuple[Part, ...]) -> str | list[Json]:
    """One text as a string, which every compatible server takes; anything else as parts."""
    if all(isinstance(part, Text) for part in parts) and len(parts) <= 1:
        return "".join(part.text for part in parts if isinstance(part, Text))
    return [_write_part(part) for part in parts]


def _write_part(part: Part) -> Json:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case RefusalText(text=text):
            return {"type": "refusal", "refusal": text}
        case Image(url=url, detail=detail):
            return {"type": "image_url", "image_url": _filled({"url": url, "detail": detail})}
        case Audio(data=data, format=format_):
            return {"type": "input_audio", "input_audio": {"data": data, "format": format_}}
        case File(data_url=data, file_id=file_id, filename=filename):
            if not (data or file_id):
                raise refusals.unsupported_value(
                    "messages", "This model's provider takes files as data, not by URL."
                )
            file = _filled({"file_data": data, "file_id": file_id, "filename": filename})
            return {"type": "file", "file": file}
        case _:
            raise AssertionError(f"{type(part).__name__} is not content.")


def _filled(fields: Json) -> Json:
    return {name: value for name, value in fields.items() if value not in ("", None)}


def _write_tool(tool: Tool) -> Json:
    function: Json = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.schema is not None:
        function["parameters"] = tool.schema
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _write_tool_choice(choice: ToolChoice) -> str | Json:
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _write_output_format(output: OutputFormat) -> Json:
    if output.kind == "json_object":
        return {"type": "json_object"}
    schema = _filled({"name": output.name, "description": output.description})
    if output.schema is not None:
        schema["schema"] = output.schema
    if output.strict is not None:
        schema["strict"] = output.strict
    return {"type": "json_schema", "json_schema": schema}
