"""Responses requests to a provider: written from ours, or a client's own made fit to forward.

Part of `openai_responses`. The provider's account is shared by all organizations, so nothing is
kept there: `store` is false always, references are resolved before, and reasoning comes back
encrypted so that our own store can replay it. Pure.
"""

from typing import Any

from gateway import refusals
from gateway.dialects import failures, openai_models, responses_requests
from gateway.dialects.base import Json, Target
from gateway.dialects.responses_carry import OPENAI, unseal
from gateway.generation import (
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

ENCRYPTED = "reasoning.encrypted_content"
LOGPROBS = "message.output_text.logprobs"
# Members that mean the same on both of OpenAI's wires.
SAME_FIELDS = ("service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier")
# Of chat completions: what would change the answer and has no counterpart here.
REFUSED_EXTRAS = ("functions", "function_call", "web_search_options", "prediction")


# --- forwarding ------------------------------------------------------------------------------


def prepare(body: Json, target: Target) -> Json:
    """A client's own body for the provider. Raises Refusal for files by id."""
    prepared = {**body, "model": target.model, "store": False}
    prepared.pop("previous_response_id", None)
    include = _include(target, logprobs=False)
    asked = body.get("include")
    known = asked if isinstance(asked, list) else []
    if added := [name for name in include if name not in known]:
        prepared["include"] = [*known, *added]
    items = body.get("input")
    if isinstance(items, list):
        fit = (_prepare_item(item, f"input[{number}]") for number, item in enumerate(items))
        prepared["input"] = [item for item in fit if item is not None]
    return prepared


def _include(target: Target, *, logprobs: bool) -> list[str]:
    # OpenAI refuses this for models that do not reason.
    encrypted = [ENCRYPTED] if openai_models.reasons(target.model) else []
    return [*encrypted, LOGPROBS] if logprobs else encrypted


def _prepare_item(item: Any, at: str) -> Any:
    """The item as OpenAI takes it; None for reasoning it could not read."""
    if not isinstance(item, dict):
        return item
    for name in ("content", "output"):
        parts = item.get(name)
        for number, part in enumerate(parts if isinstance(parts, list) else ()):
            if isinstance(part, dict):
                responses_requests.refuse_file_id(part, f"{at}.{name}[{number}]")
    encrypted = item.get("encrypted_content")
    if item.get("type") == "reasoning":
        sealed = unseal(encrypted) if isinstance(encrypted, str) and encrypted else None
        if sealed is None or sealed.call_id or sealed.carry.kind != OPENAI:
            return None
        return {**item, "encrypted_content": sealed.carry.data}
    if encrypted is not None and item.get("type") != "compaction":
        return {name: value for name, value in item.items() if name != "encrypted_content"}
    return item


# --- writing ---------------------------------------------------------------------------------


def write(request: GenerationRequest, target: Target) -> Json:
    """The body for a provider. Raises Refusal for what this wire cannot express.

    Penalties, seed and logit_bias steer without changing what was asked for: they are left out.
    """
    _refuse_inexpressible(request)
    openai_models.refuse_begun(request, target.model)
    parameters = request.parameters
    body: Json = {
        "model": target.model,
        "input": [
            item
            for turn in openai_models.with_json_named(request, target.model)
            for item in _write_turn(turn)
        ],
        "store": False,
    }
    effort = openai_models.effort(target.model, parameters.reasoning_effort)
    refused = openai_models.refused_parameters(target.model, effort)
    reasoning = {"effort": effort, "summary": parameters.reasoning_summary}
    limit = parameters.output_tokens_max
    optional = {
        "stream": request.is_stream or None,
        "include": _include(target, logprobs=parameters.logprobs) or None,
        "tools": [_write_tool(tool) for tool in request.tools] or None,
        "tool_choice": _write_tool_choice(request.tool_choice) if request.tools else None,
        "parallel_tool_calls": parameters.parallel_tool_calls,
        "text": _write_text(request) or None,
        "reasoning": {name: value for name, value in reasoning.items() if value} or None,
        "max_output_tokens": limit and max(limit, openai_models.RESPONSES_TOKENS_MIN),
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "top_logprobs": parameters.top_logprobs,
        "user": openai_models.user(parameters.user),
        **{name: parameters.extra.get(name) for name in SAME_FIELDS},
    }
    if "reasoning_effort" in refused:
        optional["reasoning"] = None
    body.update(
        {
            name: value
            for name, value in optional.items()
            if value is not None and name not in refused
        }
    )
    return body


def _refuse_inexpressible(request: GenerationRequest) -> None:
    parameters = request.parameters
    if parameters.stop:
        raise refusals.unsupported_parameter("stop", "This model cannot stop at given texts.")
    if parameters.choices > 1:
        raise refusals.unsupported_parameter("n", "This model gives one answer per request.")
    if parameters.extra.get("modalities") not in TEXT_ALONE:
        raise refusals.unsupported_parameter("modalities", "This model answers in text alone.")
    for name in REFUSED_EXTRAS:
        if parameters.extra.get(name):
            raise refusals.unsupported_parameter(name, f"This model does not take `{name}`.")


def _write_text(request: GenerationRequest) -> Json:
    text: Json = {}
    if request.output_format:
        text["format"] = _write_output_format(request.output_format)
    if verbosity := request.parameters.extra.get("verbosity"):
        text["verbosity"] = verbosity
    return text


def _write_output_format(output: OutputFormat) -> Json:
    if output.kind == "json_object":
        return {"type": "json_object"}
    written: Json = {
        "type": "json_schema",
        "name": output.name or "answer",
        "schema": output.schema if output.schema is not None else {},
    }
    if output.strict is not None:
        written["strict"] = output.strict
    if output.description:
        written["description"] = output.description
    return written


def _write_tool(tool: Tool) -> Json:
    """A function. Absent `strict` means true on this wire, so it is written always."""
    schema = {"type": "object", "properties": {}} if tool.schema is None else tool.schema
    written: Json = {
        "type": "function",
        "name": tool.name,
        "parameters": schema,
        "strict": bool(tool.strict),
    }
    if tool.description:
        written["description"] = tool.description
    return written


def _write_tool_choice(choice: ToolChoice | None) -> str | Json | None:
    if choice is None:
        return None
    return {"type": "function", "name": choice.name} if choice.mode == "named" else choice.mode


def _write_turn(turn: Turn) -> list[Json]:
    if turn.role == "assistant":
        return _write_assistant(turn.parts)
    if turn.role == "tool":
        return [_write_result(part) for part in turn.parts if isinstance(part, ToolResult)]
    if all(isinstance(part, Text) for part in turn.parts):
        texts = [part.text for part in turn.parts if isinstance(part, Text)]
        if len(texts) == 1:
            return [{"role": turn.role, "content": texts[0]}]
    return [{"role": turn.role, "content": [_write_part(part) for part in turn.parts]}]


def _write_assistant(parts: tuple[Part, ...]) -> list[Json]:
    """Items in order. OpenAI refuses reasoning without the item that followed it."""
    items: list[Json] = []
    thoughts: list[Json] = []
    for part in parts:
        if isinstance(part, Reasoning):
            thoughts.extend(_write_reasoning(part))
            continue
        items.extend(thoughts)
        thoughts.clear()
        items.append(_write_own(part))
    return items


def _write_own(part: Part) -> Json:
    """A part of the model's own turn; an image it made, this wire takes from a user only."""
    match part:
        case Text(text=text):
            return {"role": "assistant", "content": text}
        case RefusalText(text=text):
            return {"role": "assistant", "content": [{"type": "refusal", "refusal": text}]}
        case ToolCall():
            return {
                "type": "function_call",
                "call_id": part.call_id,
                "name": part.name,
                "arguments": part.arguments,
            }
        case _:
            return {"role": "user", "content": [_write_part(part)]}


def _write_reasoning(part: Reasoning) -> list[Json]:
    """OpenAI's own reasoning only: whatever model made it, its account can read it."""
    if part.carry is None or part.carry.kind != OPENAI:
        return []
    summary = [{"type": "summary_text", "text": part.text}] if part.is_summary else []
    item: Json = {"type": "reasoning", "summary": summary, "encrypted_content": part.carry.data}
    if part.item_id:
        item["id"] = part.item_id
    return [item]


def _write_result(result: ToolResult) -> Json:
    """What a tool answered: text where it is nothing else, since every server takes that."""
    output: str | list[Json]
    parts = failures.spoken(result)
    if all(isinstance(part, Text) for part in parts):
        output = "".join(part.text for part in parts if isinstance(part, Text))
    else:
        output = [_write_part(part) for part in parts]
    return {"type": "function_call_output", "call_id": result.call_id, "output": output}


def _write_part(part: Part) -> Json:
    match part:
        case Text(text=text):
            return {"type": "input_text", "text": text}
        case Image(url=url, detail=detail):
            return {"type": "input_image", "image_url": url, "detail": detail or "auto"}
        case File(file_id=file_id) if file_id:
            raise refusals.unsupported_parameter(
                "file_id", "Files are not kept here: send the data itself or its URL."
            )
        case File(data_url=data, filename=filename, url=url):
            named = {"filename": filename or "file"} if data else {}
            source = {"file_data": data} if data else {"file_url": url}
            return {"type": "input_file", **named, **source}
        case Audio():
            raise refusals.unsupported_parameter("input_audio", "This model does not take audio.")
        case _:
            raise AssertionError(f"{type(part).__name__} is not content.")
