"""Messages API requests, written for the provider. Part of `anthropic`.

Facts: platform.claude.com/docs/en/api/messages, and what each family of models takes
(`anthropic_models`). What the wire cannot say and would change the answer is refused by name; what
only tunes it (seed, penalties, logit_bias, service tiers) is left out. Pure.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from gateway import refusals
from gateway.dialects import anthropic_carries as carries
from gateway.dialects.anthropic_frames import read_arguments
from gateway.dialects.anthropic_models import Family, family, is_same_model
from gateway.dialects.base import Json, Target
from gateway.generation import (
    JSON_ONLY,
    TEXT_ALONE,
    Audio,
    File,
    GenerationRequest,
    Image,
    OutputFormat,
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

BUDGETS = {
    "minimal": 1_024,
    "low": 2_048,
    "medium": 10_000,
    "high": 16_384,
    "xhigh": 32_768,
    "max": 32_768,
}
BUDGET_MIN = 1_024
CALL_ID_PREFIX = "toolu_"
THOUGHTS = ("thinking", "redacted_thinking")
DATA_URL = re.compile(r"data:([^;,]*)((?:;[^;,]*)*),(.*)", re.DOTALL)
# Ids and names from other providers may hold more than this wire allows in them.
NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")
# What a chat client may ask for that changes the answer and that this wire has no word for.
REFUSED_EXTRAS = ("web_search_options", "functions", "function_call", "audio")


def write(request: GenerationRequest, target: Target) -> Json:
    """The body for `target`. Raises Refusal for what cannot be said."""
    _refuse_unspeakable(request)
    facts = family(target.model)
    system, turns = _split_system(request)
    messages = _write_messages(turns, target.model)
    _refuse_saying_nothing(turns, messages)
    thinking = _write_thinking(request, facts, messages)
    limit = min(facts.output_tokens_max, target.output_tokens_max or facts.output_tokens_max)
    most = _fit(request.parameters.output_tokens_max, thinking, limit)
    if _is_resting(thinking, facts):
        messages = _write_messages(_without_thoughts(turns), target.model)
    body: Json = {"model": target.model, "max_tokens": most, "messages": messages}
    if system:
        body["system"] = system[0] if len(system) == 1 else [_text_block(one) for one in system]
    if request.is_stream:
        body["stream"] = True
    body |= thinking
    body |= _write_tools(request, facts)
    if schema := _write_format(request.output_format, facts):
        body["output_config"] = {**body.get("output_config", {}), "format": schema}
    body |= _write_sampling(request, facts, is_thinking=_is_thinking(body))
    if request.parameters.stop:
        if any(not stop.strip() for stop in request.parameters.stop):
            raise refusals.unsupported_value(
                "stop", "This model does not stop at white space: use a text that has more."
            )
        body["stop_sequences"] = list(request.parameters.stop)
    user = request.parameters.user or request.parameters.extra.get("safety_identifier")
    if isinstance(user, str) and user:
        body["metadata"] = {"user_id": user}
    return body


def _refuse_unspeakable(request: GenerationRequest) -> None:
    parameters = request.parameters
    asked = {
        "n": parameters.choices > 1,
        "logprobs": parameters.logprobs or bool(parameters.top_logprobs),
        "modalities": parameters.extra.get("modalities") not in TEXT_ALONE,
        **{name: bool(parameters.extra.get(name)) for name in REFUSED_EXTRAS},
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise _not_offered(name)


def _refuse_saying_nothing(turns: list[Turn], messages: list[Json]) -> None:
    """The API takes no blank text; without the user's last word the model would go on with its own.

    Raises Refusal.
    """
    if turns[-1].role != "assistant" and (not messages or messages[-1]["role"] == "assistant"):
        raise refusals.unsupported_value(
            "messages", "The last of 'messages' says nothing, and this model takes no blank text."
        )


def _not_offered(name: str) -> refusals.Refusal:
    return refusals.unsupported_value(name, f"'{name}' is not offered by this model's provider.")


# --- thinking, limits, sampling --------------------------------------------------------------


def _write_thinking(request: GenerationRequest, facts: Family, messages: list[Json]) -> Json:
    """`thinking` and the effort for it. Nothing asked for: the model's own way."""
    effort = request.parameters.reasoning_effort
    if effort is None or facts.thinking == "none":
        return {}
    if effort != "none" and effort not in BUDGETS:
        known = ", ".join(f"'{name}'" for name in ("none", *BUDGETS))
        raise refusals.unsupported_value(
            "reasoning_effort",
            f"Invalid value: '{effort[:40]}'. Supported values are: {known}.",
        )
    is_forced = _is_forced(request.tool_choice)
    if facts.thinking == "adaptive":
        return _write_adaptive(effort, facts, is_forced=is_forced)
    is_prefilled = messages[-1]["role"] == "assistant"  # the API wants its thinking in it
    if effort == "none" or is_forced or is_prefilled or _is_loop_unsigned(messages):
        return {}
    return {"thinking": {"type": "enabled", "budget_tokens": BUDGETS[effort]}}


def _write_adaptive(effort: str, facts: Family, *, is_forced: bool) -> Json:
    """A tool that must be called leaves whether to think to the model: the API refuses both."""
    if effort == "none":
        if facts.can_rest:
            return {"thinking": {"type": "disabled"}}
        return {"output_config": {"effort": facts.efforts[0]}}
    spoken = {"minimal": "low", "xhigh": "xhigh" if "xhigh" in facts.efforts else "max"}
    written: Json = {"output_config": {"effort": spoken.get(effort, effort)}}
    if not is_forced:
        written["thinking"] = {"type": "adaptive", "display": "summarized"}
    return written


def _is_forced(choice: ToolChoice | None) -> bool:
    return choice is not None and choice.mode in ("required", "named")


def _is_loop_unsigned(messages: list[Json]) -> bool:
    """Whether the tool loop going on began without thinking: then it must end without.

    The API wants the assistant turn of such a loop to start with its signed thinking, which a
    client of another wire may have dropped, or another model never had.
    """
    for message in reversed(messages):
        content = message.get("content")
        blocks = content if isinstance(content, list) else ()
        kinds = [block.get("type") for block in blocks if isinstance(block, dict)]
        if message.get("role") == "user":
            if "tool_result" not in kinds:
                return False
        elif "tool_use" in kinds:
            return kinds[0] not in THOUGHTS
    return False


def _is_resting(thinking: Json, facts: Family) -> bool:
    """Whether the model will not think: then the API refuses the thinking of earlier turns."""
    kind = thinking.get("thinking", {}).get("type")
    return kind == "disabled" or (kind is None and facts.thinking != "adaptive")


def _without_thoughts(turns: list[Turn]) -> list[Turn]:
    return [
        replace(turn, parts=tuple(one for one in turn.parts if not isinstance(one, Reasoning)))
        for turn in turns
    ]


def _is_thinking(body: Json) -> bool:
    return body.get("thinking", {}).get("type") in ("enabled", "adaptive")


def _fit(asked: int | None, thinking: Json, limit: int) -> int:
    """`max_tokens`, which is required and holds the thinking too; shrinks a budget that is left

    without room for an answer.
    """
    config = thinking.get("thinking", {})
    budget = config.get("budget_tokens", 0)
    most = limit if asked is None else min(asked + budget, limit)
    if budget >= most:
        if most // 2 < BUDGET_MIN:
            del thinking["thinking"]
        else:
            config["budget_tokens"] = most // 2
    return most


def _write_sampling(request: GenerationRequest, facts: Family, *, is_thinking: bool) -> Json:
    """Temperature up to 1, or else top_p: newer models refuse both at once, the newest any."""
    if not facts.samples or is_thinking:
        return {}
    parameters = request.parameters
    sampling: Json = {}
    if parameters.temperature is not None:
        sampling["temperature"] = min(max(parameters.temperature, 0.0), 1.0)
    elif parameters.top_p is not None:
        sampling["top_p"] = parameters.top_p
    top_k = parameters.extra.get("top_k")
    if isinstance(top_k, int) and top_k > 0:
        sampling["top_k"] = top_k
    return sampling


# --- the conversation ------------------------------------------------------------------------


def _split_system(request: GenerationRequest) -> tuple[list[str], list[Turn]]:
    """The instructions before the conversation, and the conversation."""
    turns = list(request.turns)
    system: list[str] = []
    while turns and turns[0].role == "system":
        parts = turns.pop(0).parts
        system += [part.text for part in parts if isinstance(part, Text) and part.text.strip()]
    if not turns:  # the API wants a message
        turns, system = [Turn("user", tuple(Text(text) for text in system))], []
    if request.output_format is not None and request.output_format.kind == "json_object":
        system.append(JSON_ONLY)
    return system, turns


def _write_messages(turns: Iterable[Turn], model: str) -> list[Json]:
    """Messages whose roles alternate, tool results first in theirs."""
    written: list[Json] = []
    for turn in turns:
        role = "assistant" if turn.role == "assistant" else "user"
        _add(written, role, [one for part in turn.parts for one in _write_part(part, turn, model)])
    messages: list[Json] = []
    for message in written:
        _add(messages, message["role"], _without_last_thoughts(message["content"]))
    for message in messages:
        message["content"].sort(key=_order)
    _trim_prefill(messages)
    return messages


def _add(messages: list[Json], role: str, blocks: list[Json]) -> None:
    """Add a message, or to the last one where it is of the same role; nothing for no blocks."""
    if blocks and messages and messages[-1]["role"] == role:
        messages[-1]["content"] += blocks
    elif blocks:
        messages.append({"role": role, "content": blocks})


def _without_last_thoughts(blocks: list[Json]) -> list[Json]:
    """The API refuses a message that ends in thinking, as an answer does that was cut in it."""
    kept = list(blocks)
    while kept and kept[-1]["type"] in THOUGHTS:
        kept.pop()
    return kept


def _order(block: Json) -> int:
    return 0 if block["type"] == "tool_result" else 1


def _trim_prefill(messages: list[Json]) -> None:
    """The API refuses a last assistant message that ends in white space."""
    if messages and messages[-1]["role"] == "assistant":
        last = messages[-1]["content"][-1]
        if last["type"] == "text":
            last["text"] = last["text"].rstrip()
            if not last["text"]:
                messages[-1]["content"].pop()
        if not messages[-1]["content"]:
            messages.pop()


def _write_part(part: Part, turn: Turn, model: str) -> list[Json]:
    """The blocks for one part: none for empty text and other models' thoughts."""
    match part:
        case Text(text=text) | RefusalText(text=text):
            if not text.strip():  # the API refuses blank text
                return []
            # Instructions later than the first message.
            return [_text_block(f"<system>{text}</system>" if turn.role == "system" else text)]
        case Reasoning():
            return _write_reasoning(part, model)
        case ToolCall(call_id=call_id, name=name, arguments=arguments):
            call = {"type": "tool_use", "id": _id(call_id), "name": name}
            return [{**call, "input": read_arguments(arguments)}]
        case ToolResult():
            return [_write_result(part, turn, model)]
        case Image():
            return [_write_image(part)]
        case File():
            return [_write_file(part)]
        case Audio():
            raise _not_offered("input_audio")


def _text_block(text: str) -> Json:
    return {"type": "text", "text": text}


def _id(call_id: str) -> str:
    return NOT_IN_IDS.sub("_", call_id)


def _write_reasoning(part: Reasoning, model: str) -> list[Json]:
    """Signed thinking goes back byte for byte, to the model that signed it and to no other."""
    carry = part.carry
    if carry is None or (carry.model and not is_same_model(carry.model, model)):
        return []
    match carry.kind:
        case carries.THINKING:
            return [{"type": "thinking", "thinking": part.text, "signature": carry.data}]
        case carries.REDACTED:
            return [{"type": "redacted_thinking", "data": carry.data}]
    return []


def _write_result(part: ToolResult, turn: Turn, model: str) -> Json:
    block: Json = {"type": "tool_result", "tool_use_id": _id(part.call_id)}
    content = [block for inner in part.parts for block in _write_part(inner, turn, model)]
    if content:
        block["content"] = content
    if part.is_error:
        block["is_error"] = True
    return block


def _write_image(part: Image) -> Json:
    if not part.url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    media_type, data = _read_data_url(part.url, "image_url")
    return _image_block(media_type, data)


def _image_block(media_type: str, data: str) -> Json:
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"type": "image", "source": source}


def _read_data_url(url: str, name: str) -> tuple[str, str]:
    """Media type and base64 data."""
    match = DATA_URL.fullmatch(url)
    if match is None or ";base64" not in match.group(2):
        raise refusals.unsupported_value(
            name, f"Invalid '{name}': expected a URL of the form 'data:<media type>;base64,<data>'."
        )
    return match.group(1), match.group(3)


def _write_file(part: File) -> Json:
    """PDF and plain text as documents, pictures as images."""
    if part.url:
        source: Json = {"type": "url", "url": part.url}
        return _document(source, part.filename)
    if not part.data_url:
        raise refusals.unsupported_value(
            "file_id", "Files kept at another provider cannot be read by this model. Send the data."
        )
    media_type, data = _read_data_url(part.data_url, "file_data")
    if media_type.startswith("image/"):
        return _image_block(media_type, data)
    if media_type.startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": _decode_text(data)}
        return _document(source, part.filename)
    if media_type != "application/pdf":
        raise refusals.unsupported_value(
            "file_data", f"This model reads PDF, text and images, not '{media_type[:80]}'."
        )
    return _document({"type": "base64", "media_type": media_type, "data": data}, part.filename)


def _document(source: Json, title: str) -> Json:
    block: Json = {"type": "document", "source": source}
    if title:
        block["title"] = title
    return block


def _decode_text(data: str) -> str:
    try:
        return base64.b64decode(data).decode(errors="replace")
    except (ValueError, binascii.Error):
        raise refusals.unsupported_value(
            "file_data", "Invalid 'file_data': its data is not base64."
        ) from None


# --- a client's own body ---------------------------------------------------------------------


def clean(body: Json) -> Json:
    """A client's own body without the thoughts of other providers' models, which are refused.

    A tool loop that another model began has no thinking of Claude's to begin with, so that it goes
    on without.
    """
    messages = body.get("messages")
    if not isinstance(messages, list):
        return body
    cleaned = body
    if any(map(_has_foreign, messages)):
        kept = [one for message in messages for one in _without_foreign(message)]
        cleaned = {**body, "messages": kept}
    thinking = body.get("thinking")
    if isinstance(thinking, dict) and thinking.get("type") == "enabled":
        turns = [message for message in cleaned["messages"] if isinstance(message, dict)]
        if _is_loop_foreign(turns) and _is_loop_unsigned(turns):
            cleaned = {name: value for name, value in cleaned.items() if name != "thinking"}
    return cleaned


def _is_loop_foreign(messages: list[Json]) -> bool:
    """Whether calls of the last answer are none of Claude's, by their ids."""
    answers = (one.get("content") for one in reversed(messages) if one.get("role") == "assistant")
    blocks = next(answers, None)
    calls = [
        str(block.get("id"))
        for block in (blocks if isinstance(blocks, list) else ())
        if isinstance(block, dict) and block.get("type") == "tool_use"
    ]
    return bool(calls) and not any(call_id.startswith(CALL_ID_PREFIX) for call_id in calls)


def _has_foreign(message: Any) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    return isinstance(content, list) and any(
        isinstance(block, dict) and carries.is_foreign(block) for block in content
    )


def _without_foreign(message: Any) -> list[Any]:
    """The message as Claude may have said it; none for one that was nothing but such thoughts."""
    if not _has_foreign(message):
        return [message]
    blocks = message["content"]
    own = [one for one in blocks if not (isinstance(one, dict) and carries.is_foreign(one))]
    return [{**message, "content": own}] if own else []


# --- tools -----------------------------------------------------------------------------------


def _write_tools(request: GenerationRequest, facts: Family) -> Json:
    if not request.tools:
        return {}
    written: Json = {"tools": [_write_tool(tool, facts) for tool in request.tools]}
    choice = _write_choice(request.tool_choice, facts)
    # There is no other place to say it: the choice stays what it is without one.
    if request.parameters.parallel_tool_calls is False:
        choice = choice or {"type": "auto"}
        if choice["type"] != "none":
            choice["disable_parallel_tool_use"] = True
    if choice:
        written["tool_choice"] = choice
    return written


def _write_tool(tool: Tool, facts: Family) -> Json:
    schema: Json = {"type": "object", "properties": {}, **(tool.schema or {})}
    written: Json = {"name": tool.name}
    if tool.description:
        written["description"] = tool.description
    if tool.strict and facts.keeps_schemas and not _is_open(schema):
        return {**written, "input_schema": sanitize(schema), "strict": True}
    return {**written, "input_schema": schema}


CHOICES = {"auto": "auto", "none": "none", "required": "any", "named": "tool"}


def _write_choice(choice: ToolChoice | None, facts: Family) -> Json:
    if choice is None:
        return {}
    if _is_forced(choice) and not facts.can_be_forced:
        raise refusals.unsupported_value(
            "tool_choice", "This model cannot be forced to use a tool; use 'auto'."
        )
    written: Json = {"type": CHOICES[choice.mode]}
    if choice.mode == "named":
        written["name"] = choice.name
    return written


# --- structured output -----------------------------------------------------------------------


def _write_format(output: OutputFormat | None, facts: Family) -> Json | None:
    if output is None or output.kind == "json_object":
        return None
    if not facts.keeps_schemas:
        raise refusals.unsupported_value(
            "response_format",
            "This model cannot keep to a JSON schema. Use a newer model, or a tool.",
        )
    if output.schema is None:
        raise refusals.missing_parameter("response_format.json_schema.schema")
    if _is_open(output.schema):
        raise refusals.unsupported_value(
            "response_format",
            "This model cannot answer with an object whose names are not in its schema: name them "
            "under 'properties', or take an array of names and values.",
        )
    return {"type": "json_schema", "schema": sanitize(output.schema)}


# JSON Schema that structured output compiles; everything else is told in the description.
KEPT = frozenset(
    (
        *("type", "enum", "const", "default", "title", "description", "required", "$ref"),
        *("additionalProperties",),
    )
)
KEPT_FORMATS = frozenset(
    (
        *("date-time", "time", "date", "duration", "email", "hostname", "uri"),
        *("ipv4", "ipv6", "uuid"),
    )
)
DROPPED = frozenset(("$schema", "$id", "$comment", "examples", "not"))


def _is_open(schema: Any) -> bool:
    """Whether it wants an object with names of the model's choice, which could only be empty."""
    if not isinstance(schema, Mapping):
        return False
    rest = schema.get("additionalProperties")
    if schema.get("type") == "object" and rest is not False:
        if "patternProperties" in schema or "properties" not in schema:
            return True
        if isinstance(rest, Mapping) and rest:
            return True
    named = [schema.get(name) for name in ("properties", "$defs", "definitions")]
    listed = [schema.get(name) for name in ("anyOf", "oneOf", "allOf")]
    return any(
        _is_open(inner)
        for inner in (
            schema.get("items"),
            *(one for group in named if isinstance(group, Mapping) for one in group.values()),
            *(one for group in listed if isinstance(group, list) for one in group),
        )
    )


def sanitize(schema: Mapping[str, Any]) -> Json:
    """A schema without what structured output refuses; what is dropped moves to descriptions."""
    clean: Json = {}
    hints: list[str] = []
    for name, value in schema.items():
        if name in KEPT:
            clean[name] = value
        elif name in SCHEMA_MEMBERS:
            clean["anyOf" if name == "oneOf" else name] = SCHEMA_MEMBERS[name](value)
        elif name == "format" and value in KEPT_FORMATS:
            clean[name] = value
        elif name not in DROPPED:
            hints.append(f"{name}: {value}")
    if schema.get("type") == "object" or "properties" in schema:
        clean["additionalProperties"] = False
    if hints:
        clean["description"] = "\n".join([*_lines(schema.get("description")), *hints])
    return clean


def _lines(description: Any) -> list[str]:
    return [description] if isinstance(description, str) and description else []


def _sanitize_any(value: Any) -> Any:
    return sanitize(value) if isinstance(value, Mapping) else value


def _sanitize_named(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: _sanitize_any(schema) for name, schema in value.items()}


def _sanitize_list(value: Any) -> Any:
    return [_sanitize_any(schema) for schema in value] if isinstance(value, list) else value


SCHEMA_MEMBERS: dict[str, Callable[[Any], Any]] = {
    "properties": _sanitize_named,
    "$defs": _sanitize_named,
    "definitions": _sanitize_named,
    "items": _sanitize_any,
    "anyOf": _sanitize_list,
    "oneOf": _sanitize_list,
    "allOf": _sanitize_list,
}
