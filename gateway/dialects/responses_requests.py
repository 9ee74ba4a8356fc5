"""Responses requests from a client: inspected, expanded and read. Part of `openai_responses`.

Facts: platform.openai.com/docs/api-reference/responses/create. An input item with a role and no
type is a message; clients replay output items with members that say nothing to us, which are
ignored; an item of an unknown type is refused, because leaving it out would change the
conversation. Pure.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from gateway import refusals
from gateway.dialects import responses_tools
from gateway.dialects.base import KEPT_ID_CHARACTERS_MAX, Inspection, Json
from gateway.dialects.parameters import (
    objects,
    optional,
    optional_number,
    optional_text,
    require,
    text,
    unknown_value,
)
from gateway.dialects.responses_carry import Sealed, unseal
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
    ToolCall,
    ToolResult,
    Turn,
)

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
# Features that live on OpenAI's side of an account which here is shared by all organizations.
REFUSED_FIELDS = {
    "conversation": "Conversations are not kept here: use `previous_response_id`.",
    "background": "Responses are not made in the background here: use `stream`.",
    "prompt": "Stored prompts are not kept here: send `instructions` and `input`.",
}
# Under the names chat completions use, for providers of that wire.
EXTRA_FIELDS = ("service_tier", "prompt_cache_key", "prompt_cache_retention", "safety_identifier")
# What a provider did by itself with its own tools: records that no other provider can be given.
HOSTED_RECORDS = frozenset(
    (
        *("web_search_call", "file_search_call", "code_interpreter_call", "tool_search_call"),
        *("tool_search_output", "additional_tools", "mcp_list_tools", "mcp_call"),
        *("mcp_approval_request", "mcp_approval_response", "compaction_trigger"),
    )
)
# Parts of the conversation that only OpenAI's models understand.
OPENAI_ITEMS = frozenset(
    (
        *("compaction", "computer_call", "computer_call_output", "local_shell_call"),
        *("local_shell_call_output", "shell_call", "shell_call_output", "apply_patch_call"),
        *("apply_patch_call_output", "program", "program_output", "configuration_update"),
    )
)


# --- inspecting ------------------------------------------------------------------------------


def inspect(body: Json) -> Inspection:
    """What pricing, routing and the item store need. Raises Refusal."""
    model = text(body, "model")
    for name, message in REFUSED_FIELDS.items():
        if body.get(name):
            raise refusals.unsupported_parameter(name, message)
    items = require(body, "input", (str, list), "a string or an array of objects")
    store = optional(body, "store", bool, "a boolean")
    return Inspection(
        model=model,
        is_stream=bool(optional(body, "stream", bool, "a boolean")),
        output_tokens_max=_output_tokens_max(body),
        references=_references(items) if isinstance(items, list) else (),
        previous_id=_kept_id(optional_text(body, "previous_response_id"), "previous_response_id"),
        keeps_state=store is not False,
    )


def _output_tokens_max(body: Json) -> int | None:
    value = optional(body, "max_output_tokens", int, "an integer")
    if value is not None and value < 1:
        raise refusals.unsupported_value(
            "max_output_tokens",
            f"Invalid 'max_output_tokens': expected a value >= 1, but got {value} instead.",
        )
    return None if value is None else int(value)


def _references(items: list[Any]) -> tuple[str, ...]:
    """Ids of the items that are only named, and of those that came without a provider's state."""
    ids = [
        _kept_id(item["id"], f"input[{number}].id")
        for number, item in enumerate(items)
        if isinstance(item, dict)
        and isinstance(item.get("id"), str)
        and (_type_of(item) == "item_reference" or _lacks_state(item))
    ]
    return tuple(dict.fromkeys(ids))


def _kept_id(value: str, path: str) -> str:
    """An id that something may be kept under. Raises Refusal."""
    if len(value) > KEPT_ID_CHARACTERS_MAX:
        raise refusals.unsupported_value(
            path,
            f"Invalid '{path}': string too long. Expected a string with maximum length "
            f"{KEPT_ID_CHARACTERS_MAX}, but got a string with length {len(value)} instead.",
        )
    return value


def _type_of(item: Json) -> str:
    """The item's type; OpenAI lets messages and references go without one."""
    kind = item.get("type")
    if kind is None:
        return "message" if "role" in item else "item_reference" if "id" in item else ""
    return str(kind)


def _lacks_state(item: Json) -> bool:
    return _type_of(item) in ("reasoning", "function_call") and not item.get("encrypted_content")


# --- expanding -------------------------------------------------------------------------------


def expand(body: Json, items: Mapping[str, Json], previous: Sequence[Json]) -> Json:
    """The body as a client without memory of ours would have sent it. Raises Refusal.

    References become the items they name, items without their state get it back, and the turns
    before come first. A referenced item that is not among `items` is refused.
    """
    asked = body["input"]
    own = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    whole = [_resolve(item, items) for item in (*previous, *own)]
    expanded = {name: value for name, value in body.items() if name != "previous_response_id"}
    if not previous and isinstance(asked, str):
        return expanded
    return {**expanded, "input": whole}


def _resolve(item: Any, items: Mapping[str, Json]) -> Any:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str):
        return item
    stored = items.get(item["id"])
    if _type_of(item) == "item_reference":
        if stored is None:
            raise refusals.item_not_found(item["id"])
        return stored
    if stored and _lacks_state(item) and stored.get("encrypted_content"):
        return {**item, "encrypted_content": stored["encrypted_content"]}
    return item


# --- reading ---------------------------------------------------------------------------------


def read(body: Json) -> GenerationRequest:
    """The whole request. Raises Refusal."""
    inspection = inspect(body)
    tools = responses_tools.read_tools(body)
    return GenerationRequest(
        model=inspection.model,
        turns=_Conversation(body).turns(),
        is_stream=inspection.is_stream,
        tools=tools,
        tool_choice=responses_tools.read_tool_choice(body, tools),
        output_format=_read_output_format(body),
        parameters=_read_parameters(body, inspection),
    )


def _read_parameters(body: Json, inspection: Inspection) -> Parameters:
    reasoning = optional(body, "reasoning", dict, "an object") or {}
    wording = optional(body, "text", dict, "an object") or {}
    include = optional(body, "include", list, "an array of strings") or []
    top_logprobs = optional(body, "top_logprobs", int, "an integer")
    optional(body, "metadata", dict, "an object")
    extra = {name: body[name] for name in EXTRA_FIELDS if body.get(name) is not None}
    if verbosity := optional_text(wording, "verbosity", "text"):
        extra["verbosity"] = verbosity
    summary = reasoning.get("summary") or reasoning.get("generate_summary")
    return Parameters(
        output_tokens_max=inspection.output_tokens_max,
        temperature=optional_number(body, "temperature"),
        top_p=optional_number(body, "top_p"),
        logprobs=bool(top_logprobs) or "message.output_text.logprobs" in include,
        top_logprobs=top_logprobs or None,
        reasoning_effort=optional(reasoning, "effort", str, "a string", "reasoning"),
        reasoning_summary=summary if isinstance(summary, str) else None,
        parallel_tool_calls=optional(body, "parallel_tool_calls", bool, "a boolean"),
        user=optional(body, "user", str, "a string"),
        extra=extra,
    )


def _read_output_format(body: Json) -> OutputFormat | None:
    wording = optional(body, "text", dict, "an object") or {}
    chosen = optional(wording, "format", dict, "an object", "text")
    if chosen is None:
        return None
    at = "text.format"
    kind = text(chosen, "type", at)
    if kind == "text":
        return None
    if kind == "json_object":
        return OutputFormat("json_object")
    if kind != "json_schema":
        raise unknown_value(f"{at}.type", kind, ("text", "json_object", "json_schema"))
    return OutputFormat(
        "json_schema",
        name=text(chosen, "name", at),
        schema=require(chosen, "schema", dict, "an object", at),
        strict=optional(chosen, "strict", bool, "a boolean", at),
        description=optional_text(chosen, "description", at),
    )


class _Conversation:
    """The input as turns: what the assistant did in a row is one turn, whatever items it took."""

    def __init__(self, body: Json) -> None:
        self._functions = responses_tools.functions(body)
        self._turns: list[Turn] = []
        self._assistant: list[Part] = []
        self._signatures: dict[str, Carry] = {}
        if instructions := optional_text(body, "instructions"):
            self._turns.append(Turn("system", (Text(instructions),)))
        asked = body["input"]
        if isinstance(asked, str):
            self._turns.append(Turn("user", (Text(asked),)))
        else:
            for number, item in enumerate(asked):
                self._read_item(item, f"input[{number}]")

    def turns(self) -> tuple[Turn, ...]:
        """Every turn."""
        self._end_assistant()
        if not self._turns:
            raise refusals.unsupported_value(
                "input", "Invalid 'input': empty array. Expected an array with minimum length 1."
            )
        return tuple(self._turns)

    def _end_assistant(self) -> None:
        if self._assistant:
            self._turns.append(Turn("assistant", tuple(self._assistant)))
            self._assistant = []

    def _read_item(self, item: Any, at: str) -> None:
        if not isinstance(item, dict):
            raise refusals.wrong_type(at, "an object", item)
        kind = _type_of(item)
        reader = ITEM_READERS.get(kind)
        if reader is not None:
            reader(self, item, at)
        elif kind not in HOSTED_RECORDS:
            raise _unreadable_item(kind, at)

    def message(self, item: Json, at: str) -> None:
        """A message of any role; the assistant's joins its turn."""
        role_name = text(item, "role", at)
        role = ROLES.get(role_name)
        if role is None:
            raise unknown_value(f"{at}.role", role_name, ROLES)
        parts = _read_content(item, "content", at)
        if role == "assistant":
            self._assistant.extend(_signed(parts, item))
            return
        self._end_assistant()
        if not parts:
            raise refusals.missing_parameter(f"{at}.content")
        self._turns.append(Turn(role, parts))

    def reasoning(self, item: Json, at: str) -> None:
        """A thought, and what its provider wants back; the state of a call waits for the call."""
        summary = _texts(item, "summary", at)
        raw = _texts(item, "content", at)
        sealed = _unseal(item, at)
        carry = sealed.carry if sealed else None
        if sealed and sealed.call_id:
            self._signatures[sealed.call_id] = sealed.carry
            carry = None
        if summary or raw or carry:
            item_id = optional_text(item, "id", at)
            self._assistant.append(
                Reasoning(raw or summary, carry, item_id, is_summary=not raw and bool(summary))
            )

    def function_call(self, item: Json, at: str) -> None:
        """A call, under the name its function has for the provider."""
        call_id, name = text(item, "call_id", at), text(item, "name", at)
        sealed = _unseal(item, at)
        name = responses_tools.flat_name(
            self._functions, name, optional_text(item, "namespace", at)
        )
        carry = sealed.carry if sealed else self._signatures.get(call_id)
        arguments = optional_text(item, "arguments", at) or "{}"
        self._assistant.append(ToolCall(call_id, name, arguments, carry))

    def custom_call(self, item: Json, at: str) -> None:
        """A call of a free-text tool, as other providers can be told of it."""
        arguments = orjson.dumps({"input": optional_text(item, "input", at)}).decode()
        name = text(item, "name", at)
        self._assistant.append(ToolCall(text(item, "call_id", at), name, arguments))

    def call_output(self, item: Json, at: str) -> None:
        """What a tool answered: text, or parts with images and files."""
        self._end_assistant()
        parts: list[Text | Image | File] = []
        for number, part in enumerate(_read_content(item, "output", at)):
            if not isinstance(part, Text | Image | File):
                path = f"{at}.output[{number}].type"
                known = ("input_text", "input_image", "input_file")
                raise unknown_value(path, item["output"][number]["type"], known)
            parts.append(part)
        result = ToolResult(text(item, "call_id", at), tuple(parts))
        self._turns.append(Turn("tool", (result,)))

    def image_made(self, item: Json, at: str) -> None:
        """An image the model made; one that was never finished is not there."""
        if data := optional_text(item, "result", at):
            media_type = optional_text(item, "output_format", at) or "png"
            self._assistant.append(Image(f"data:image/{media_type};base64,{data}"))

    def reference(self, item: Json, at: str) -> None:
        """References have been replaced; this one names nothing."""
        raise refusals.item_not_found(text(item, "id", at))


ITEM_READERS: dict[str, Callable[[_Conversation, Json, str], None]] = {
    "message": _Conversation.message,
    "reasoning": _Conversation.reasoning,
    "function_call": _Conversation.function_call,
    "function_call_output": _Conversation.call_output,
    "custom_tool_call": _Conversation.custom_call,
    "custom_tool_call_output": _Conversation.call_output,
    "image_generation_call": _Conversation.image_made,
    "item_reference": _Conversation.reference,
}


def _unreadable_item(kind: str, at: str) -> refusals.Refusal:
    if not kind:
        return refusals.missing_parameter(f"{at}.type")
    if kind in OPENAI_ITEMS:
        return refusals.unsupported_value(
            f"{at}.type", f"Items of type '{kind}' can be given to OpenAI's own models only."
        )
    return unknown_value(f"{at}.type", kind, ITEM_READERS)


def _unseal(item: Json, at: str) -> Sealed | None:
    encrypted = optional_text(item, "encrypted_content", at)
    return unseal(encrypted) if encrypted else None


def _signed(parts: tuple[Part, ...], item: Json) -> tuple[Part, ...]:
    """An earlier text with the state its provider put on it."""
    encrypted = item.get("encrypted_content")
    sealed = unseal(encrypted) if isinstance(encrypted, str) and encrypted else None
    if sealed is None or not parts or not isinstance(parts[-1], Text):
        return parts
    return (*parts[:-1], Text(parts[-1].text, sealed.carry))


def _texts(item: Json, name: str, at: str) -> str:
    """The texts of a summary or of raw reasoning, its parts apart."""
    return "\n\n".join(optional_text(part, "text", at) for part in objects(item, name, at))


# --- parts -----------------------------------------------------------------------------------


def _read_content(item: Json, name: str, at: str) -> tuple[Part, ...]:
    """Content that is a string or parts; parts that are empty say nothing."""
    content = optional(item, name, (str, list), "a string or an array of objects", at)
    if content is None:
        raise refusals.missing_parameter(f"{at}.{name}")
    if isinstance(content, str):
        return (Text(content),)
    return tuple(
        _read_part(part, f"{at}.{name}[{number}]")
        for number, part in enumerate(objects(item, name, at))
    )


def _read_part(part: Json, at: str) -> Part:
    kind = text(part, "type", at)
    reader = PART_READERS.get(kind)
    if reader is None:
        raise unknown_value(f"{at}.type", kind, PART_READERS)
    return reader(part, at)


def refuse_file_id(part: Json, at: str) -> None:
    """Files live in the provider's account, which all organizations share. Raises Refusal."""
    if part.get("file_id"):
        raise refusals.unsupported_parameter(
            f"{at}.file_id", "Files are not kept here: send the data itself or its URL."
        )


def _read_image(part: Json, at: str) -> Image:
    refuse_file_id(part, at)
    return Image(text(part, "image_url", at), optional_text(part, "detail", at))


def _read_file(part: Json, at: str) -> File:
    refuse_file_id(part, at)
    data, url = optional_text(part, "file_data", at), optional_text(part, "file_url", at)
    if not data and not url:
        raise refusals.missing_parameter(f"{at}.file_data")
    return File(data_url=data, filename=optional_text(part, "filename", at), url=url)


def _read_audio(part: Json, at: str) -> Audio:
    audio = require(part, "input_audio", dict, "an object", at)
    at = f"{at}.input_audio"
    return Audio(text(audio, "data", at), text(audio, "format", at))


def _read_text(part: Json, at: str) -> Text:
    return Text(str(require(part, "text", str, "a string", at)))


PART_READERS: dict[str, Callable[[Json, str], Part]] = {
    "input_text": _read_text,
    "output_text": _read_text,
    "text": _read_text,
    "summary_text": _read_text,
    "input_image": _read_image,
    "input_file": _read_file,
    "input_audio": _read_audio,
    "refusal": lambda part, at: RefusalText(text(part, "refusal", at)),
}
