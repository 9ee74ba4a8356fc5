"""What OpenAI's Responses refuse, with its own status, code, parameter and words.

Facts: recorded errors and errors quoted in public issues. What a request refers to by id is
checked in memory.py, which knows what was kept.
"""

import itertools
from typing import Any

from gateway.standin import models
from gateway.standin.rejections import Asked, Json, objects, unknown
from gateway.standin.signatures import OPENAI_PREFIX, Verdict, examine
from gateway.standin.strict_openai import (
    check_kinds,
    check_minimum,
    check_name,
    check_ranges,
    check_strict_schema,
    check_user,
    missing,
    refuse,
    unknown_parameter,
    wrong_value,
)

ENCRYPTED = "openai.encrypted"
FIELDS = frozenset(
    (
        *("access_programs", "background", "background_options", "context_management"),
        *("conversation", "image", "include", "input", "instructions", "max_output_tokens"),
        *("max_tool_calls", "metadata", "model", "moderation", "parallel_tool_calls"),
        *("previous_response_id", "prompt", "prompt_cache_key", "prompt_cache_options"),
        *("prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store"),
        *("stream", "stream_options", "temperature", "text", "tool_choice", "tools"),
        *("top_logprobs", "top_p", "truncation", "user", "client_metadata"),
    )
)
INCLUDES = (
    *("reasoning.encrypted_content", "message.output_text.logprobs", "web_search_call.results"),
    *("web_search_call.action.sources", "file_search_call.results"),
    *("code_interpreter_call.outputs", "message.input_image.image_url"),
    "computer_call_output.output.image_url",
)
ROLES = ("assistant", "system", "developer", "user")
INPUT_PARTS = ("input_text", "input_image", "input_file", "input_audio")
OUTPUT_PARTS = ("output_text", "refusal")
ITEMS = (
    *("message", "reasoning", "function_call", "function_call_output", "item_reference"),
    *("custom_tool_call", "custom_tool_call_output", "compaction", "web_search_call"),
    *("file_search_call", "code_interpreter_call", "image_generation_call", "computer_call"),
    *("computer_call_output", "local_shell_call", "local_shell_call_output", "mcp_call"),
    *("mcp_list_tools", "mcp_approval_request", "mcp_approval_response", "shell_call"),
    *("shell_call_output", "apply_patch_call", "apply_patch_call_output", "tool_search_call"),
    *("tool_search_output",),
)
TOOLS = (
    *("function", "custom", "namespace", "web_search", "web_search_preview", "file_search"),
    *("code_interpreter", "image_generation", "mcp", "local_shell", "shell", "apply_patch"),
    *("computer_use_preview", "tool_search"),
)
ID_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}
OUTPUT_TOKENS_MIN = 16


def check_required(asked: Asked) -> None:
    """model, and something to answer."""
    if not asked.body.get("model"):
        raise missing("model")
    if all(
        asked.body.get(name) is None
        for name in ("input", "previous_response_id", "prompt", "conversation")
    ):
        raise refuse(
            "One of \"input\" or \"previous_response_id\" or 'prompt' or 'conversation' must be "
            "provided.",
            "input",
            "missing_required_parameter",
        )


def check_fields(asked: Asked) -> None:
    """Nothing OpenAI does not have."""
    for name in unknown(asked.body, FIELDS):
        raise unknown_parameter(name)


def check_model(asked: Asked) -> None:
    """400 here, unlike chat completions."""
    if not models.knows_openai(asked.model):
        raise refuse(
            f"The requested model '{asked.model}' does not exist.", "model", "model_not_found"
        )


def check_input(asked: Asked) -> None:
    """Items: types, ids, roles and the parts each role may have."""
    given = asked.body.get("input")
    if isinstance(given, str | None):
        return
    if not isinstance(given, list):
        raise refuse(
            "Invalid type for 'input': expected one of a string or array of input items, but got "
            "an object instead.",
            "input",
            "invalid_type",
        )
    for number, item in enumerate(given):
        at = f"input[{number}]"
        kind = kind_of(item)
        if kind not in ITEMS:
            raise wrong_value(kind, ITEMS, f"{at}.type")
        _check_id(item, kind, at)
        if kind == "message":
            _check_message(item, at)
        for name in REQUIRED_OF_ITEMS.get(kind, ()):
            if item.get(name) is None:
                raise missing(f"{at}.{name}")


REQUIRED_OF_ITEMS = {
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "reasoning": ("summary",),
    "item_reference": ("id",),
}


def kind_of(item: Any) -> str:
    """An item's type; one with a role needs none."""
    if not isinstance(item, dict):
        return type(item).__name__
    return str(item.get("type") or ("message" if "role" in item else None))


def _check_id(item: Json, kind: str, at: str) -> None:
    prefix = ID_PREFIXES.get(kind)
    given = item.get("id")
    if prefix and isinstance(given, str) and not given.startswith(prefix):
        raise refuse(
            f"Invalid '{at}.id': '{given}'. Expected an ID that begins with '{prefix}'.",
            f"{at}.id",
            "invalid_value",
        )


def _check_message(item: Json, at: str) -> None:
    role = item.get("role")
    if role not in ROLES:
        raise wrong_value(role, ROLES, at)
    content = item.get("content")
    if content is None:
        raise missing(f"{at}.content")
    known = OUTPUT_PARTS if role == "assistant" else INPUT_PARTS
    for position, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in known:
            raise wrong_value(kind, known, f"{at}.content[{position}]")


def check_calls(asked: Asked) -> None:
    """Calls and their outputs belong together; earlier responses may hold the call."""
    items = objects(asked.body.get("input"))
    if asked.body.get("previous_response_id") or asked.body.get("conversation"):
        return
    called = [item["call_id"] for item in items if kind_of(item) == "function_call"]
    answered = [item["call_id"] for item in items if kind_of(item) == "function_call_output"]
    for call_id in called:
        if call_id not in answered:
            raise refuse(f"No tool output found for function call {call_id}.", "input")
    refers = any(kind_of(item) == "item_reference" for item in items)
    for call_id in answered:
        if call_id not in called and not refers:
            raise refuse(
                f"No tool call found for function call output with call_id {call_id}.", "input"
            )


def check_following(asked: Asked) -> None:
    """Reasoning is followed by what the model made of it."""
    items = objects(asked.body.get("input"))
    for item, after in itertools.zip_longest(items, items[1:]):
        if kind_of(item) != "reasoning":
            continue
        if not _follows(after, is_stored=asked.body.get("store") is not False and "id" in item):
            raise refuse(
                f"Item '{item.get('id')}' of type 'reasoning' was provided without its required "
                "following item.",
                "input",
            )


def _follows(item: Json | None, *, is_stored: bool) -> bool:
    """Whether this item may be what reasoning led to. Stored messages are known by their id."""
    if item is None:
        return False
    kind = kind_of(item)
    if kind == "message":
        return item.get("role") == "assistant" and (not is_stored or "id" in item)
    return not kind.endswith("_output")


def check_encrypted(asked: Asked) -> None:
    """Encrypted content is the stand-in's own."""
    for item in objects(asked.body.get("input")):
        content = item.get("encrypted_content")
        if kind_of(item) != "reasoning" or content is None:
            continue
        sealed = str(content)
        verdict = examine(ENCRYPTED, "", sealed.removeprefix(OPENAI_PREFIX))
        if verdict is not Verdict.INTACT or not sealed.startswith(OPENAI_PREFIX):
            raise refuse(
                f"The encrypted content for item {item.get('id')} could not be verified. Reason: "
                "Encrypted content could not be decrypted or parsed.",
                None,
                "invalid_encrypted_content",
            )


def check_length(asked: Asked) -> None:
    """The prompt must fit the context window; counted roughly, four bytes to a token."""
    if len(str(asked.body.get("input"))) // 4 > models.openai_context(asked.model):
        raise refuse(
            "Your input exceeds the context window of this model. Please adjust your input and "
            "try again.",
            "input",
            "context_length_exceeded",
        )


def check_limits(asked: Asked) -> None:
    """At least 16 tokens."""
    check_minimum(asked.body, "max_output_tokens", OUTPUT_TOKENS_MIN)


def check_reasoning(asked: Asked) -> None:
    """Reasoning models do not sample; others do not reason."""
    body = asked.body
    chosen = body.get("reasoning")
    effort = chosen.get("effort") if isinstance(chosen, dict) else None
    if not models.openai_reasons(asked.model):
        if effort is not None:
            raise _unsupported("reasoning.effort")
        if "reasoning.encrypted_content" in (body.get("include") or ()) and chosen is not None:
            raise refuse("Encrypted content is not supported with this model.", "include")
        return
    if not models.openai_is_reasoning(asked.model, effort):
        return
    for name in ("temperature", "top_p"):
        if body.get(name) not in (None, 1):
            raise _unsupported(name)


def _unsupported(name: str) -> Exception:
    return refuse(
        f"Unsupported parameter: '{name}' is not supported with this model.",
        name,
        "unsupported_parameter",
    )


def check_include(asked: Asked) -> None:
    """Known names only."""
    for number, name in enumerate(asked.body.get("include") or ()):
        if name not in INCLUDES:
            raise wrong_value(name, INCLUDES, f"include[{number}]")


def check_tools(asked: Asked) -> None:
    """Flat functions with a name, strict schemas, and a choice that exists."""
    names = []
    for number, tool in enumerate(objects(asked.body.get("tools"))):
        at = f"tools[{number}]"
        kind = tool.get("type")
        if kind not in TOOLS:
            raise wrong_value(kind, TOOLS, f"{at}.type")
        if kind not in ("function", "custom", "namespace"):
            continue
        check_name(tool.get("name"), f"{at}.name")
        names.append(tool["name"])
        if kind == "function" and tool.get("strict"):
            check_strict_schema(
                tool.get("parameters"),
                f"function '{tool['name']}'",
                f"{at}.parameters",
                "invalid_function_parameters",
            )
    choice = asked.body.get("tool_choice")
    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        raise wrong_value(choice, ("none", "auto", "required"), "tool_choice")
    if choice == "required" and not asked.body.get("tools"):
        raise refuse(
            "Tool choice 'required' must be specified with 'tools' parameter.", "tool_choice"
        )
    if (
        isinstance(choice, dict)
        and choice.get("type") == "function"
        and choice.get("name") not in names
    ):
        raise refuse("Tool choice 'function' not found in 'tools' parameter.", "tool_choice")


def check_format(asked: Asked) -> None:
    """Structured output: a name, a closed schema, and the word json for plain JSON."""
    text = asked.body.get("text")
    chosen = text.get("format") if isinstance(text, dict) else None
    if chosen is None:
        return
    kind = chosen.get("type") if isinstance(chosen, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise wrong_value(kind, ("json_object", "json_schema", "text"), "text.format.type")
    if kind == "json_object" and "json" not in str(asked.body.get("input")).lower():
        raise refuse(
            "Response input messages must contain the word 'json' in some form to use "
            "'text.format' of type 'json_object'.",
            "input",
        )
    if kind == "json_schema":
        check_name(chosen.get("name"), "text.format.name")
        if chosen.get("schema") is None:
            raise missing("text.format.schema")
        if chosen.get("strict"):
            check_strict_schema(
                chosen["schema"],
                f"response_format '{chosen['name']}'",
                "text.format.schema",
                "invalid_json_schema",
            )


RULES = (
    check_required,
    check_kinds,
    check_fields,
    check_model,
    check_input,
    check_calls,
    check_following,
    check_encrypted,
    check_length,
    check_ranges,
    check_user,
    check_limits,
    check_reasoning,
    check_include,
    check_tools,
    check_format,
)
