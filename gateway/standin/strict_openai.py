"""What OpenAI's chat completions refuse, with its own status, code, parameter and words.

Facts: recorded errors and errors quoted in public issues. Also owns OpenAI's error body and the
checks that both of its wires share.
"""

import re
import secrets
from typing import Any

from gateway.standin import KEY, models, schemas
from gateway.standin.rejections import Asked, Json, Rejection, is_number, is_whole, objects, unknown

INVALID = "invalid_request_error"
SERVER_WORDS = (
    "The server had an error while processing your request. Sorry about that! You can retry your "
    "request, or contact us through our help center at help.openai.com if the error persists."
)
BY_STATUS: dict[int, tuple[str, str | None, str]] = {
    400: (INVALID, None, "Invalid request."),
    401: (INVALID, "invalid_api_key", "Incorrect API key provided."),
    403: (INVALID, None, "You are not allowed to make this request."),
    404: (INVALID, "model_not_found", "The model does not exist or you do not have access to it."),
    413: ("server_error", None, "Maximum content size limit exceeded"),
    429: (
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached for requests. Limit 60, Used 60, Requested 1. Please try again in 1s.",
    ),
    500: ("server_error", None, SERVER_WORDS),
    503: (
        "service_unavailable_error",
        "server_is_overloaded",
        "Our servers are currently overloaded. Please try again later.",
    ),
}
FIELDS = frozenset(
    (
        *("messages", "model", "audio", "frequency_penalty", "function_call", "functions"),
        *("logit_bias", "logprobs", "max_completion_tokens", "max_tokens", "metadata"),
        *("modalities", "moderation", "n", "parallel_tool_calls", "prediction"),
        *("presence_penalty", "prompt_cache_key", "prompt_cache_options"),
        *("prompt_cache_retention", "reasoning_effort", "response_format", "safety_identifier"),
        *("seed", "service_tier", "stop", "store", "stream", "stream_options", "temperature"),
        *("tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity"),
        "web_search_options",
    )
)
ROLES = ("system", "assistant", "user", "function", "tool", "developer")
MESSAGE_FIELDS = {
    "system": ("role", "content", "name"),
    "developer": ("role", "content", "name"),
    "user": ("role", "content", "name"),
    "tool": ("role", "content", "tool_call_id", "name"),
    "function": ("role", "content", "name"),
    "assistant": (
        *("role", "content", "name", "refusal", "audio", "tool_calls", "function_call"),
        "annotations",
    ),
}
PARTS = {
    "system": ("text",),
    "developer": ("text",),
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal"),
    "tool": ("text",),
}
NAME = re.compile(r"[a-zA-Z0-9_-]+")
NAME_CHARACTERS_MAX = 64
CALL_ID_CHARACTERS_MAX = 64
USER_CHARACTERS_MAX = 64
STOPS_MAX = 4
CHOICES_MAX = 128
# While it reasons a model does not sample.
SAMPLING = ("top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs")
RANGES = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
}
KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "messages": (list, "an array of objects"),
    "tools": (list, "an array of objects"),
    "stream": (bool, "a boolean"),
    "store": (bool, "a boolean"),
    "parallel_tool_calls": (bool, "a boolean"),
    "logprobs": (bool, "a boolean"),
    "n": (int, "an integer"),
    "seed": (int, "an integer"),
    "max_tokens": (int, "an integer"),
    "max_completion_tokens": (int, "an integer"),
    "max_output_tokens": (int, "an integer"),
    "top_logprobs": (int, "an integer"),
    "temperature": ((int, float), "a decimal"),
    "top_p": ((int, float), "a decimal"),
    "user": (str, "a string"),
    "instructions": (str, "a string"),
    "model": (str, "a string"),
}


def error(status: int, message: str = "", retry_after: int | None = None) -> Rejection:
    """The answer OpenAI gives with this status."""
    kind, code, words = BY_STATUS.get(status, BY_STATUS[500 if status > 499 else 400])
    found = rejection(status, message or words, code=code, kind=kind)
    if retry_after is not None:
        found.headers |= {"retry-after": str(retry_after)}
    return found


def rejection(
    status: int,
    message: str,
    *,
    code: str | None = None,
    param: str | None = None,
    kind: str = INVALID,
) -> Rejection:
    """Any of OpenAI's error answers."""
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Rejection(status, body, {"x-request-id": f"req_{secrets.token_hex(16)}"})


def refuse(message: str, param: str | None = None, code: str | None = None) -> Rejection:
    """A 400."""
    return rejection(400, message, code=code, param=param)


# --- who asks --------------------------------------------------------------------------------


def check_key(headers: dict[str, str], query_key: str) -> None:
    """Raises Rejection without the right bearer key."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        raise rejection(
            401,
            "You didn't provide an API key. You need to provide your API key in an Authorization "
            "header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY), or as the password "
            "field (with blank username) if you're accessing the API from your browser and are "
            "prompted for a username and password. You can obtain an API key from "
            "https://platform.openai.com/account/api-keys.",
        )
    if key != KEY:
        shown = key if len(key) < 12 else f"{key[:4]}{'*' * 8}{key[-4:]}"
        raise rejection(
            401,
            f"Incorrect API key provided: {shown}. You can find your API key at "
            "https://platform.openai.com/account/api-keys.",
            code="invalid_api_key",
        )


def check_length(asked: Asked) -> None:
    """The prompt must fit the context window; counted roughly, four bytes to a token."""
    tokens, most = len(str(asked.body["messages"])) // 4, models.openai_context(asked.model)
    if tokens > most:
        raise refuse(
            f"This model's maximum context length is {most} tokens. However, your messages "
            f"resulted in {tokens} tokens. Please reduce the length of the messages.",
            "messages",
            "context_length_exceeded",
        )


# --- shared by both wires --------------------------------------------------------------------


def check_kinds(asked: Asked) -> None:
    """JSON types of plain parameters."""
    for name, (kind, words) in KINDS.items():
        value = asked.body.get(name)
        is_wrong_boolean = isinstance(value, bool) and kind is not bool
        if value is not None and (not isinstance(value, kind) or is_wrong_boolean):
            raise refuse(
                f"Invalid type for '{name}': expected {words}, but got {_describe(value)} instead.",
                name,
                "invalid_type",
            )


def _describe(value: Any) -> str:
    names = {bool: "a boolean", int: "an integer", float: "a decimal", str: "a string"}
    return names.get(type(value), "an array" if isinstance(value, list) else "an object")


def check_ranges(asked: Asked) -> None:
    """Lowest and highest values."""
    for name, (low, high) in RANGES.items():
        value = asked.body.get(name)
        if not is_number(value) or low <= value <= high:
            continue
        is_low = value < low
        raise refuse(
            f"Invalid '{name}': decimal {'below minimum' if is_low else 'above maximum'} value. "
            f"Expected a value {'>=' if is_low else '<='} {low if is_low else high}, but got "
            f"{value} instead.",
            name,
            "decimal_below_min_value" if is_low else "decimal_above_max_value",
        )


def check_user(asked: Asked) -> None:
    """The end user's id is short."""
    user = asked.body.get("user")
    if isinstance(user, str) and len(user) > USER_CHARACTERS_MAX:
        raise too_long("user", USER_CHARACTERS_MAX, len(user))


def check_minimum(body: Json, name: str, least: int) -> None:
    """Raises Rejection for an integer below `least`."""
    value = body.get(name)
    if is_whole(value) and value < least:
        raise refuse(
            f"Invalid '{name}': integer below minimum value. Expected a value >= {least}, but got "
            f"{value} instead.",
            name,
            "integer_below_min_value",
        )


def check_name(name: Any, at: str) -> None:
    """Raises Rejection for a function name OpenAI does not take."""
    if not isinstance(name, str) or not name:
        raise missing(at)
    if not NAME.fullmatch(name):
        raise refuse(
            f"Invalid '{at}': string does not match pattern. Expected a string that matches the "
            "pattern '^[a-zA-Z0-9_-]+$'.",
            at,
            "invalid_value",
        )
    if len(name) > NAME_CHARACTERS_MAX:
        raise too_long(at, NAME_CHARACTERS_MAX, len(name))


def too_long(at: str, most: int, length: int) -> Rejection:
    """A text with too many characters."""
    return refuse(
        f"Invalid '{at}': string too long. Expected a string with maximum length {most}, but got "
        f"a string with length {length} instead.",
        at,
        "string_above_max_length",
    )


def missing(name: str) -> Rejection:
    """A required parameter is absent."""
    return refuse(f"Missing required parameter: '{name}'.", name, "missing_required_parameter")


def unknown_parameter(name: str) -> Rejection:
    """A parameter OpenAI does not have."""
    return refuse(f"Unknown parameter: '{name}'.", name, "unknown_parameter")


def wrong_value(value: Any, known: tuple[str, ...], at: str) -> Rejection:
    """A value that is none of the known ones."""
    *names, last = [f"'{name}'" for name in known]
    listed = f"{', '.join(names)}, and {last}" if names else last
    return refuse(f"Invalid value: '{value}'. Supported values are: {listed}.", at, "invalid_value")


def check_strict_schema(schema: Any, what: str, param: str, code: str | None) -> None:
    """Raises Rejection for a schema that `strict` does not allow."""
    if not isinstance(schema, dict) or not schemas.is_object(schema):
        raise refuse(
            f"Invalid schema for {what}: schema must be a JSON Schema of 'type: \"object\"', got "
            f"'type: \"{schema.get('type') if isinstance(schema, dict) else None}\"'.",
            param,
            code,
        )
    for path, inner in schemas.walk(schema):
        if not schemas.is_object(inner):
            continue
        context = "(" + ", ".join(f"'{step}'" for step in path) + ("," * (len(path) == 1)) + ")"
        where = f"Invalid schema for {what}: In context={context}"
        if inner.get("additionalProperties") is not False:
            raise refuse(
                f"{where}, 'additionalProperties' is required to be supplied and to be false.",
                param,
                code,
            )
        required = inner.get("required") or []
        for name in inner.get("properties") or {}:
            if name not in required:
                raise refuse(
                    f"{where}, 'required' is required to be supplied and to be an array including "
                    f"every key in properties. Missing '{name}'.",
                    param,
                    code,
                )


# --- chat completions ------------------------------------------------------------------------


def check_required(asked: Asked) -> None:
    """model and messages."""
    if not asked.body.get("model"):
        raise refuse("you must provide a model parameter")
    if asked.body.get("messages") is None:
        raise missing("messages")


def check_fields(asked: Asked) -> None:
    """Nothing OpenAI does not have."""
    names = unknown(asked.body, FIELDS)
    if names:
        plural = "s" if len(names) > 1 else ""
        raise refuse(f"Unrecognized request argument{plural} supplied: {', '.join(names)}")


def check_model(asked: Asked) -> None:
    """404 for a model OpenAI does not have, or has on Responses only."""
    if not models.knows_openai(asked.model):
        raise rejection(
            404,
            f"The model `{asked.model}` does not exist or you do not have access to it.",
            code="model_not_found",
        )
    if models.needs_responses(asked.model):
        raise rejection(
            404,
            "This model is only supported in v1/responses and not in v1/chat/completions.",
            param="model",
        )


def check_messages(asked: Asked) -> None:
    """Roles, their members, and their content."""
    messages = asked.body["messages"]
    if not messages:
        raise refuse(
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an "
            "empty array instead.",
            "messages",
            "empty_array",
        )
    for number, message in enumerate(messages):
        at = f"messages[{number}]"
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ROLES:
            raise wrong_value(role, ROLES, f"{at}.role")
        for name in unknown(message, MESSAGE_FIELDS[role]):
            raise unknown_parameter(f"{at}.{name}")
        if role == "system" and asked.model.startswith("o1-mini"):
            raise refuse(
                f"Unsupported value: '{at}.role' does not support 'system' with this model.",
                f"{at}.role",
                "unsupported_value",
            )
        _check_content(message, role, at)


def _check_content(message: Json, role: str, at: str) -> None:
    content = message.get("content")
    if content is None:
        if role != "assistant" or not any(
            message.get(name) for name in ("tool_calls", "function_call", "refusal", "audio")
        ):
            raise refuse(
                "Invalid value for 'content': expected a string, got null.",
                f"{at.replace('[', '.[')}.content",
            )
        return
    if not isinstance(content, str | list):
        raise refuse(
            f"Invalid type for '{at}.content': expected one of a string or array of objects, but "
            f"got {_describe(content)} instead.",
            f"{at}.content",
            "invalid_type",
        )
    for position, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in PARTS.get(role, ("text",)):
            raise wrong_value(kind, PARTS.get(role, ("text",)), f"{at}.content[{position}].type")


def check_tool_calls(asked: Asked) -> None:
    """Each call is answered right after its message, and nothing else is."""
    waiting: list[str] = []
    caller = 0
    for number, message in enumerate(asked.body["messages"]):
        if message["role"] == "tool":
            if message.get("tool_call_id") not in waiting:
                raise refuse(
                    "Invalid parameter: messages with role 'tool' must be a response to a "
                    "preceeding message with 'tool_calls'.",
                    f"messages.[{number}].role",
                )
            waiting.remove(message["tool_call_id"])
            continue
        _require_answers(waiting, caller)
        calls = message.get("tool_calls") or []
        caller, waiting = number, [_read_call(call, number, n) for n, call in enumerate(calls)]
    _require_answers(waiting, caller)


def _require_answers(waiting: list[str], caller: int) -> None:
    if waiting:
        raise refuse(
            "An assistant message with 'tool_calls' must be followed by tool messages responding "
            "to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            + ", ".join(waiting),
            f"messages.[{caller + 1}].role",
        )


def _read_call(call: Json, number: int, position: int) -> str:
    at = f"messages[{number}].tool_calls[{position}]"
    call_id = call.get("id")
    if not isinstance(call_id, str) or not call_id:
        raise missing(f"{at}.id")
    if len(call_id) > CALL_ID_CHARACTERS_MAX:
        raise too_long(f"{at}.id", CALL_ID_CHARACTERS_MAX, len(call_id))
    for name in unknown(call, ("id", "type", "function", "custom")):
        raise unknown_parameter(f"{at}.{name}")
    if call.get("type") == "function":
        function = call.get("function") or {}
        check_name(function.get("name"), f"{at}.function.name")
        if not isinstance(function.get("arguments"), str):
            raise missing(f"{at}.function.arguments")
    return call_id


def check_limits(asked: Asked) -> None:
    """One name for the limit, the one the model takes."""
    body = asked.body
    if body.get("max_tokens") is not None:
        if models.openai_reasons(asked.model):
            raise refuse(
                "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                "'max_completion_tokens' instead.",
                "max_tokens",
                "unsupported_parameter",
            )
        if body.get("max_completion_tokens") is not None:
            raise refuse(
                "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not "
                "supported.",
                "max_tokens",
                "invalid_parameter_combination",
            )
    for name in ("max_tokens", "max_completion_tokens", "n"):
        check_minimum(body, name, 1)
    if is_whole(body.get("n")) and body["n"] > CHOICES_MAX:
        raise refuse(
            f"Invalid 'n': integer above maximum value. Expected a value <= {CHOICES_MAX}, but got "
            f"{body['n']} instead.",
            "n",
            "integer_above_max_value",
        )


def check_reasoning(asked: Asked) -> None:
    """Reasoning models do not sample; others do not reason."""
    body = asked.body
    effort = body.get("reasoning_effort")
    if effort is not None and not models.openai_reasons(asked.model):
        raise refuse("Unrecognized request argument supplied: reasoning_effort")
    if not models.openai_is_reasoning(asked.model, effort):
        return
    temperature = body.get("temperature")
    if temperature not in (None, 1):
        raise refuse(
            f"Unsupported value: 'temperature' does not support {temperature} with this model. "
            "Only the default (1) value is supported.",
            "temperature",
            "unsupported_value",
        )
    for name in SAMPLING:
        if body.get(name) not in (None, False, 0, 1 if name == "top_p" else None):
            raise refuse(
                f"Unsupported parameter: '{name}' is not supported with this model.",
                name,
                "unsupported_parameter",
            )


def check_search(asked: Asked) -> None:
    """Web search needs a model made for it."""
    if asked.body.get("web_search_options") is not None and "search" not in asked.model:
        raise refuse("Web search options not supported with this model.", "web_search_options")


def check_combinations(asked: Asked) -> None:
    """Parameters that need another one."""
    body = asked.body
    if body.get("stream_options") is not None and not body.get("stream"):
        raise refuse(
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            "stream_options",
        )
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise refuse(
            "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.",
            "top_logprobs",
        )
    stop = body.get("stop")
    if isinstance(stop, list) and len(stop) > STOPS_MAX:
        raise refuse(
            f"Invalid 'stop': array too long. Expected an array with maximum length {STOPS_MAX}, "
            f"but got an array with length {len(stop)} instead.",
            "stop",
            "array_above_max_length",
        )


def check_tools(asked: Asked) -> None:
    """Names, strict schemas, and a choice that exists."""
    names = []
    for number, tool in enumerate(objects(asked.body.get("tools"))):
        at = f"tools[{number}]"
        if tool.get("type") not in ("function", "custom"):
            raise wrong_value(tool.get("type"), ("function", "custom"), f"{at}.type")
        function = tool.get(tool["type"])
        if not isinstance(function, dict):
            raise missing(f"{at}.{tool['type']}")
        check_name(function.get("name"), f"{at}.function.name")
        names.append(function["name"])
        if function.get("strict"):
            check_strict_schema(
                function.get("parameters"),
                f"function '{function['name']}'",
                f"{at}.function.parameters",
                "invalid_function_parameters",
            )
    _check_tool_choice(asked.body, names)


def _check_tool_choice(body: Json, names: list[str]) -> None:
    for name in ("tool_choice", "parallel_tool_calls"):
        if body.get(name) is not None and not names and body[name] != "none":
            raise refuse(
                f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified.",
                name,
            )
    choice = body.get("tool_choice")
    if isinstance(choice, str) and choice not in ("none", "auto", "required"):
        raise wrong_value(choice, ("none", "auto", "required"), "tool_choice")
    function = choice.get("function") if isinstance(choice, dict) else None
    if isinstance(function, dict) and function.get("name") not in names:
        raise refuse("Tool choice 'function' not found in 'tools' parameter.", "tool_choice")


def check_format(asked: Asked) -> None:
    """Structured output: a name, a closed schema, and the word json for plain JSON."""
    chosen = asked.body.get("response_format")
    if chosen is None:
        return
    kind = chosen.get("type") if isinstance(chosen, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise wrong_value(kind, ("json_object", "json_schema", "text"), "response_format.type")
    if kind == "json_object" and "json" not in str(asked.body["messages"]).lower():
        raise refuse(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of "
            "type 'json_object'.",
            "messages",
        )
    if kind == "json_schema":
        schema = chosen.get("json_schema")
        if not isinstance(schema, dict):
            raise missing("response_format.json_schema")
        check_name(schema.get("name"), "response_format.json_schema.name")
        if schema.get("strict"):
            check_strict_schema(
                schema.get("schema"),
                f"response_format '{schema['name']}'",
                "response_format",
                None,
            )


RULES = (
    check_required,
    check_kinds,
    check_fields,
    check_model,
    check_messages,
    check_tool_calls,
    check_length,
    check_ranges,
    check_user,
    check_limits,
    check_reasoning,
    check_search,
    check_combinations,
    check_tools,
    check_format,
)
