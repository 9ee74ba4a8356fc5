"""What Gemini's generateContent refuses, with its own status and words.

Facts: recorded errors and errors quoted in public issues. Field names are compared in snake case,
because the service takes both spellings and its messages write that one.
"""

import re
from collections.abc import Iterable
from typing import Any

from gateway.standin import KEY, models
from gateway.standin.rejections import Asked, Json, Rejection, is_number, is_whole, objects
from gateway.standin.signatures import Verdict, examine

THOUGHT = "gemini.thought"
# Documented for history that another model made; SDKs send it as bytes, so in base64.
SENTINELS = ("skip_thought_signature_validator", "c2tpcF90aG91Z2h0X3NpZ25hdHVyZV92YWxpZGF0b3I=")
STATUSES = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: ("PERMISSION_DENIED", "The caller does not have permission"),
    404: ("NOT_FOUND", "Requested entity was not found."),
    413: ("INVALID_ARGUMENT", "Request payload size exceeds the limit."),
    429: ("RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."),
    500: ("INTERNAL", "An internal error has occurred. Please retry."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "The request timed out. Please try again."),
}
TYPE_BASE = "type.googleapis.com/google.rpc."
NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")
STOPS_MAX = 5
INPUT_TOKENS_MAX = 1_048_576
CHOICES_MAX = 8
SEED_MAX = 2**31 - 1
CAPITAL = re.compile(r"(?<!^)([A-Z])")

# The members of each message; a dict describes a member that is a message itself.
Shape = dict[str, Any]
SCHEMA: Shape = dict.fromkeys(
    (
        *("type", "format", "description", "nullable", "enum", "required", "min_items"),
        *("max_items", "min_length", "max_length", "min_properties", "max_properties", "minimum"),
        *("maximum", "pattern", "default", "example", "title", "property_ordering"),
    )
)
BLOB: Shape = dict.fromkeys(("mime_type", "data", "display_name"))
PART: Shape = {
    **dict.fromkeys(
        (
            *("text", "thought", "thought_signature", "executable_code", "video_metadata"),
            *("code_execution_result", "media_resolution", "part_metadata", "tool_call"),
            "tool_response",
        )
    ),
    "inline_data": BLOB,
    "file_data": dict.fromkeys(("mime_type", "file_uri", "display_name")),
    "function_call": dict.fromkeys(("id", "name", "args", "partial_args", "will_continue")),
    "function_response": dict.fromkeys(
        ("id", "name", "response", "parts", "will_continue", "scheduling")
    ),
}
DATA = frozenset(
    (
        *("text", "inline_data", "file_data", "function_call", "function_response"),
        *("executable_code", "code_execution_result", "tool_call", "tool_response"),
    )
)
CONTENT: Shape = {"parts": [PART], "role": None}
DECLARATION: Shape = {
    **dict.fromkeys(
        (
            *("name", "description", "behavior", "parameters_json_schema", "response"),
            "response_json_schema",
        )
    ),
    "parameters": "schema",
}
BODY: Shape = {
    **dict.fromkeys(("model", "cached_content", "service_tier", "store", "labels")),
    "contents": [CONTENT],
    "system_instruction": CONTENT,
    "tools": [
        {
            **dict.fromkeys(
                (
                    *("google_search", "google_search_retrieval", "code_execution", "url_context"),
                    *("computer_use", "file_search", "google_maps", "mcp_servers"),
                )
            ),
            "function_declarations": [DECLARATION],
        }
    ],
    "tool_config": {
        "function_calling_config": dict.fromkeys(
            ("mode", "allowed_function_names", "stream_function_call_arguments")
        ),
        "retrieval_config": None,
        "include_server_side_tool_invocations": None,
    },
    "safety_settings": [dict.fromkeys(("category", "threshold", "method"))],
    "generation_config": {
        **dict.fromkeys(
            (
                *("response_mime_type", "response_json_schema", "candidate_count"),
                *("max_output_tokens", "temperature", "top_p", "top_k", "seed", "stop_sequences"),
                *("presence_penalty", "frequency_penalty", "response_logprobs", "logprobs"),
                *("response_modalities", "speech_config", "media_resolution", "image_config"),
                *("enable_enhanced_civic_answers", "response_format"),
            )
        ),
        "response_schema": "schema",
        "thinking_config": dict.fromkeys(("include_thoughts", "thinking_budget", "thinking_level")),
    },
}


def error(status: int, message: str = "", retry_after: int | None = None) -> Rejection:
    """The answer Google gives with this status; it says when to retry in the body only."""
    name, words = STATUSES.get(status, STATUSES[500 if status > 499 else 400])
    details: list[Json] = []
    if retry_after is not None:
        details = [{"@type": f"{TYPE_BASE}RetryInfo", "retryDelay": f"{retry_after}s"}]
    return _rejection(status, name, message or words, details)


def _rejection(status: int, name: str, message: str, details: list[Json]) -> Rejection:
    body: Json = {"error": {"code": status, "message": message, "status": name}}
    if details:
        body["error"]["details"] = details
    return Rejection(status, body)


def _refuse(message: str) -> Rejection:
    return error(400, message)


def _refuse_argument(path: str, message: str) -> Rejection:
    return _refuse(f"* GenerateContentRequest.{path}: {message}\n")


# --- who asks --------------------------------------------------------------------------------


def check_key(headers: dict[str, str], query_key: str) -> None:
    """Raises Rejection without the right key, which a wrong one makes a 400."""
    key = headers.get("x-goog-api-key") or query_key
    if not key:
        raise error(
            403,
            "Method doesn't allow unregistered callers (callers without established identity). "
            "Please use API Key or other form of API consumer identity to call this API.",
        )
    if key != KEY:
        message = "API key not valid. Please pass a valid API key."
        raise _rejection(
            400,
            "INVALID_ARGUMENT",
            message,
            [
                {
                    "@type": f"{TYPE_BASE}ErrorInfo",
                    "reason": "API_KEY_INVALID",
                    "domain": "googleapis.com",
                    "metadata": {"service": "generativelanguage.googleapis.com"},
                },
                {
                    "@type": f"{TYPE_BASE}LocalizedMessage",
                    "locale": "en-US",
                    "message": message,
                },
            ],
        )


def check_model(asked: Asked) -> None:
    """404 for a model Google does not have."""
    if not models.knows_gemini(asked.model):
        raise error(
            404,
            f"models/{asked.model} is not found for API version v1beta, or is not supported for "
            "generateContent. Call ModelService.ListModels to see the list of available models "
            "and their supported methods.",
        )


# --- names -----------------------------------------------------------------------------------


def snake(name: str) -> str:
    """A field's name as the service's messages write it."""
    return CAPITAL.sub(r"_\1", name).lower()


def field(holder: Any, name: str) -> Any:
    """A member by its snake-case name, in either spelling; None without one."""
    if not isinstance(holder, dict):
        return None
    if name in holder:
        return holder[name]
    head, *rest = name.split("_")
    return holder.get(head + "".join(word.capitalize() for word in rest))


def check_fields(asked: Asked) -> None:
    """Nothing the service does not have, at any depth; every unknown name is reported."""
    found = list(_unknown(asked.body, BODY, ""))
    if not found:
        return
    lines = [
        f'Invalid JSON payload received. Unknown name "{name}"'
        + (f" at '{path}'" if path else "")
        + ": Cannot find field."
        for path, name in found
    ]
    violations = [
        {"field": path, "description": line} for (path, _), line in zip(found, lines, strict=True)
    ]
    details = [{"@type": f"{TYPE_BASE}BadRequest", "fieldViolations": violations}]
    raise _rejection(400, "INVALID_ARGUMENT", "\n".join(lines), details)


def _unknown(value: Any, shape: Any, at: str) -> Iterable[tuple[str, str]]:
    """Paths and names of members the shape does not have."""
    if shape == "schema":
        yield from _unknown_of_schema(value, at)
    elif isinstance(shape, list):
        for number, item in enumerate(value if isinstance(value, list) else [value]):
            yield from _unknown(item, shape[0], f"{at}[{number}]")
    elif isinstance(shape, dict) and isinstance(value, dict):
        for name, member in value.items():
            key = snake(name)
            if key not in shape:
                yield at, name
            elif shape[key] is not None:
                yield from _unknown(member, shape[key], f"{at}.{key}" if at else key)


def _unknown_of_schema(schema: Any, at: str) -> Iterable[tuple[str, str]]:
    if not isinstance(schema, dict):
        return
    for name, member in schema.items():
        key = snake(name)
        if key == "properties" and isinstance(member, dict):
            for number, inner in enumerate(member.values()):
                yield from _unknown_of_schema(inner, f"{at}.properties[{number}].value")
        elif key == "items":
            yield from _unknown_of_schema(member, f"{at}.items")
        elif key == "any_of":
            for number, inner in enumerate(member if isinstance(member, list) else ()):
                yield from _unknown_of_schema(inner, f"{at}.any_of[{number}]")
        elif key not in SCHEMA:
            yield at, name


def check_schema_types(asked: Asked) -> None:
    """A schema in the service's own form has one type."""
    for path, schema in _own_schemas(asked.body):
        if isinstance(schema.get("type"), list):
            raise _refuse(
                f"Invalid JSON payload received. Unknown name \"type\" at '{path}': Proto field is "
                "not repeating, cannot start list."
            )


def _own_schemas(body: Json) -> Iterable[tuple[str, Json]]:
    stack: list[tuple[str, Any]] = [
        (f"tools[{n}].function_declarations[{m}].parameters", field(declaration, "parameters"))
        for n, m, declaration in _declarations(body)
    ]
    config = field(body, "generation_config")
    stack.append(("generation_config.response_schema", field(config, "response_schema")))
    while stack:
        path, schema = stack.pop()
        if not isinstance(schema, dict):
            continue
        yield path, schema
        inner = list((schema.get("properties") or {}).values())
        stack += [(f"{path}.properties[{n}].value", item) for n, item in enumerate(inner)]
        stack.append((f"{path}.items", schema.get("items")))


def _declarations(body: Json) -> list[tuple[int, int, Json]]:
    return [
        (number, position, declaration)
        for number, tool in enumerate(objects(body.get("tools")))
        for position, declaration in enumerate(objects(field(tool, "function_declarations")))
    ]


# --- contents --------------------------------------------------------------------------------


def check_contents(asked: Asked) -> None:
    """At least one content; roles; parts with data."""
    contents = asked.body.get("contents")
    if not contents:
        raise _refuse_argument("contents", "contents is not specified")
    allowed: tuple[str, ...] = ("user", "model", "function")
    if models.gemini_version(asked.model) >= (3, 5):
        allowed = ("user", "model")
    for number, content in enumerate(objects(contents)):
        if content.get("role") not in (None, *allowed):
            raise _refuse("Please use a valid role: user, model.")
        at = f"contents[{number}].parts"
        if not content.get("parts"):
            raise _refuse_argument(at, "contents.parts must not be empty.")
        for position, part in enumerate(objects(content["parts"])):
            if not DATA & {snake(name) for name in part}:
                raise _refuse_argument(
                    f"{at}[{position}].data",
                    "required oneof field 'data' must have one initialized field",
                )
            _check_functions(part, f"{at}[{position}]")


def check_length(asked: Asked) -> None:
    """The prompt must fit the context window; counted roughly, four bytes to a token."""
    tokens = len(str(asked.body["contents"])) // 4
    if tokens > INPUT_TOKENS_MAX:
        raise _refuse(
            f"The input token count ({tokens}) exceeds the maximum number of tokens allowed "
            f"({INPUT_TOKENS_MAX})."
        )


def _check_functions(part: Json, at: str) -> None:
    for kind, member in (("function_call", "args"), ("function_response", "response")):
        function = field(part, kind)
        if function is None:
            continue
        if not function.get("name"):
            raise _refuse_argument(f"{at}.{kind}.name", "[FIELD_REQUIRED]")
        if not isinstance(function.get(member), dict | None):
            raise _refuse(
                f"Invalid value at '{at}.{kind}.{member}' "
                f'(type.googleapis.com/google.protobuf.Struct), "{function[member]}"'
            )


def check_function_turns(asked: Asked) -> None:
    """Calls follow a user turn; as many responses follow calls as there were, and nothing else.

    Contents of one role in a row are one turn: google-genai's own chats send a streamed turn as
    one content for each piece that came.
    """
    before: Json | None = None
    for content in _join_turns(objects(asked.body["contents"])):
        calls, responses = _count(content, "function_call"), _count(content, "function_response")
        called = _count(before, "function_call")
        if calls and (before is None or before.get("role") == "model"):
            raise _refuse(
                "Please ensure that function call turn comes immediately after a user turn or "
                "after a function response turn."
            )
        if responses and not called:
            raise _refuse(
                "Please ensure that function response turn comes immediately after a function "
                "call turn."
            )
        if called and responses != called:
            raise _refuse(
                "Please ensure that the number of function response parts is equal to the number "
                "of function call parts of the function call turn."
            )
        before = content


def _join_turns(contents: list[Json]) -> list[Json]:
    turns: list[Json] = []
    for content in contents:
        role, parts = content.get("role") or "user", objects(content.get("parts"))
        if turns and turns[-1]["role"] == role:
            turns[-1]["parts"] = [*turns[-1]["parts"], *parts]
        else:
            turns.append({"role": role, "parts": parts})
    return turns


def _count(content: Json | None, kind: str) -> int:
    parts = objects(content.get("parts")) if content else []
    return sum(field(part, kind) is not None for part in parts)


def check_thought_signatures(asked: Asked) -> None:
    """From Gemini 3 on the first call of every step of the current turn is signed, by us."""
    if models.gemini_version(asked.model) < (3, 0):
        return
    contents = _join_turns(objects(asked.body["contents"]))
    for number in range(_turn_begin(contents), len(contents)):
        calls = [
            part
            for part in objects(contents[number].get("parts"))
            if field(part, "function_call") is not None
        ]
        if not calls or contents[number].get("role") != "model":
            continue
        signature = field(calls[0], "thought_signature")
        if not signature:
            name = field(calls[0], "function_call")["name"]
            raise _refuse(
                "Function call is missing a thought_signature in functionCall parts. This is "
                "required for tools to work correctly, and missing thought_signature may lead to "
                "degraded model performance. Additional data, function call "
                f"`default_api:{name}` , position {number + 1}. Please refer to "
                "https://ai.google.dev/gemini-api/docs/thought-signatures for more details."
            )
        verdict = examine(THOUGHT, asked.model, str(signature))
        if signature not in SENTINELS and verdict is not Verdict.INTACT:
            raise _refuse("Corrupted thought signature.")


def _turn_begin(contents: list[Json]) -> int:
    """Where the current turn begins: at the last user content that is no tool's response."""
    for number in range(len(contents) - 1, -1, -1):
        content = contents[number]
        if content.get("role") != "model" and not _count(content, "function_response"):
            return number
    return 0


# --- tools and configuration -----------------------------------------------------------------


def check_tools(asked: Asked) -> None:
    """Names, one schema each, no name twice, and a configuration that names them."""
    names: list[str] = []
    for number, position, declaration in _declarations(asked.body):
        at = f"tools[{number}].function_declarations[{position}]"
        name = declaration.get("name")
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise _refuse_argument(
                f"{at}.name",
                "Invalid function name. Must start with a letter or an underscore. Must be "
                "alphanumeric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:), or dashes "
                "(-), with a maximum length of 64.",
            )
        if name in names:
            raise _refuse(f"Duplicate function declaration found: {name}")
        names.append(name)
        if field(declaration, "parameters") and field(declaration, "parameters_json_schema"):
            raise _refuse_argument(
                at, "only one of parameters and parameters_json_schema may be set."
            )
    _check_calling(asked.body, names)


def _check_calling(body: Json, names: list[str]) -> None:
    config = field(field(body, "tool_config"), "function_calling_config") or {}
    mode = str(config.get("mode") or "AUTO").upper()
    if mode not in ("AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED"):
        raise _refuse(
            "Invalid value at 'tool_config.function_calling_config.mode' "
            f"(type.googleapis.com/google.ai.generativelanguage.v1beta.FunctionCallingConfig.Mode)"
            f', "{mode}"'
        )
    allowed = field(config, "allowed_function_names") or []
    if allowed and mode not in ("ANY", "VALIDATED"):
        raise _refuse(
            "Function calling config is set without function_declarations mode ANY: "
            "allowed_function_names should only be set when the mode is ANY or VALIDATED."
        )
    if mode == "ANY" and not names:
        raise _refuse("Function calling mode is ANY but no function declarations are provided.")
    for name in allowed:
        if name not in names:
            raise _refuse(
                f"allowed_function_names contains '{name}', which is not a declared function."
            )


def check_config(asked: Asked) -> None:
    """Ranges, and structured output with its media type."""
    config = field(asked.body, "generation_config") or {}
    for name, low, high in (
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("candidate_count", 1, CHOICES_MAX),
        ("max_output_tokens", 1, 2**31),
        ("seed", -SEED_MAX - 1, SEED_MAX),
    ):
        value = field(config, name)
        if value is not None and not (is_number(value) and low <= value <= high):
            raise _refuse_argument(
                f"generation_config.{name}", f"must be in the range [{low}, {high}]."
            )
    if len(field(config, "stop_sequences") or ()) > STOPS_MAX:
        raise _refuse_argument(
            "generation_config.stop_sequences", f"must have at most {STOPS_MAX} items."
        )
    _check_format(asked, config)


def _check_format(asked: Asked, config: Json) -> None:
    media_type = field(config, "response_mime_type")
    has_schema = field(config, "response_schema") or field(config, "response_json_schema")
    if has_schema and media_type not in ("application/json", "text/x.enum"):
        raise _refuse(
            "Response schema is only supported with response_mime_type application/json or "
            "text/x.enum."
        )
    is_old = models.gemini_version(asked.model) < (3, 0)
    if is_old and media_type == "application/json" and _declarations(asked.body):
        raise _refuse(
            "Function calling with a response mime type: 'application/json' is unsupported"
        )


def check_thinking(asked: Asked) -> None:
    """A level or a budget, whichever the family has."""
    config = field(field(asked.body, "generation_config"), "thinking_config")
    if not isinstance(config, dict):
        return
    level, budget = field(config, "thinking_level"), field(config, "thinking_budget")
    version, is_pro = models.gemini_version(asked.model), models.gemini_is_pro(asked.model)
    if level is not None and budget is not None:
        raise _refuse("You can only set only one of thinking budget and thinking level.")
    if version < (2, 5):
        raise _refuse("Thinking is not supported for this model.")
    if level is not None:
        if version < (3, 0):
            raise _refuse("Thinking level is not supported for this model.")
        if str(level).upper() == "MINIMAL" and is_pro:
            raise _refuse(
                f"Thinking level {str(level).upper()} is not supported for this model. Please "
                "retry with other thinking level."
            )
    if is_whole(budget) and budget == 0 and is_pro:
        raise _refuse("Budget 0 is invalid. This model only works in thinking mode.")


def thinks(asked: Asked) -> str:
    """Whether thoughts were asked for: `none` or `shown`."""
    config = field(field(asked.body, "generation_config"), "thinking_config")
    return "shown" if field(config, "include_thoughts") else "none"


RULES = (
    check_fields,
    check_model,
    check_schema_types,
    check_contents,
    check_length,
    check_function_turns,
    check_tools,
    check_config,
    check_thinking,
    check_thought_signatures,
)
