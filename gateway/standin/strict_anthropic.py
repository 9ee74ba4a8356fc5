"""What Anthropic's Messages API refuses, with its own status, type and words.

Facts: recorded errors and errors quoted in public issues; where the words of a rule were never
seen they follow the form of those that were. Rules are tried in the order of `RULES`.
"""

import re
import secrets
from collections.abc import Iterator
from typing import Any

from gateway.standin import KEY, models, schemas
from gateway.standin.rejections import Asked, Json, Rejection, is_number, is_whole, objects, unknown
from gateway.standin.signatures import Verdict, examine

THINKING = "anthropic.thinking"
REDACTED = "anthropic.redacted"
INVALID = "invalid_request_error"
# anthropic-python 2.12 sends the newest, other clients and the recordings the one before.
VERSIONS = ("2026-10-21", "2023-06-01", "2023-01-01")
TYPES_BY_STATUS = {
    400: (INVALID, "Error"),
    401: ("authentication_error", "invalid x-api-key"),
    402: ("billing_error", "Your credit balance is too low to access the Anthropic API."),
    403: ("permission_error", "Your API key does not have permission to use this resource."),
    404: ("not_found_error", "Not found"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: (
        "rate_limit_error",
        "This request would exceed your account's rate limit. Please try again later.",
    ),
    500: ("api_error", "Internal server error"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}
FIELDS = frozenset(
    (
        *("max_tokens", "messages", "model", "cache_control", "container", "diagnostics"),
        *("inference_geo", "metadata", "output_config", "service_tier", "speed"),
        *("stop_sequences", "stream", "system", "temperature", "thinking", "tool_choice"),
        *("tools", "top_k", "top_p", "user_profile_id", "workspace_id"),
    )
)
BETA_FIELDS = frozenset(("betas", "context_management", "mcp_servers", "output_format"))
COUNT_FIELDS = frozenset(
    (
        *("messages", "model", "cache_control", "output_config", "system", "thinking"),
        *("tool_choice", "tools"),
    )
)
BLOCK_FIELDS = {
    "text": ("type", "text", "cache_control", "citations"),
    "thinking": ("type", "thinking", "signature"),
    "redacted_thinking": ("type", "data"),
    "tool_use": ("type", "id", "name", "input", "cache_control", "caller"),
    "tool_result": ("type", "tool_use_id", "content", "is_error", "cache_control"),
    "image": ("type", "source", "cache_control"),
    "document": ("type", "source", "title", "context", "citations", "cache_control"),
}
# Blocks of tools that Anthropic runs itself; the stand-in makes none, clients may replay them.
HOSTED_BLOCKS = re.compile(
    r"server_tool_use|search_result|\w+_tool_result|container_upload|mcp_\w+"
)
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
BUDGET_MIN = 1024
CACHE_MARKS_MAX = 4
INPUT_TOKENS_MAX = 200_000
SCHEMA_WORDS_REFUSED = frozenset(
    (
        *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
        *("minLength", "maxLength", "maxItems", "uniqueItems", "minProperties", "maxProperties"),
    )
)


def error(status: int, message: str = "", retry_after: int | None = None) -> Rejection:
    """The answer Anthropic gives with this status."""
    kind, words = TYPES_BY_STATUS.get(status, TYPES_BY_STATUS[500 if status > 499 else 400])
    request_id = f"req_01{secrets.token_hex(11)}"
    headers = {"request-id": request_id}
    if retry_after is not None:
        headers["retry-after"] = str(retry_after)
    if status in (429, 529) or status >= 500:
        headers["x-should-retry"] = "true"
    body = {
        "type": "error",
        "error": {"type": kind, "message": message or words},
        "request_id": request_id,
    }
    return Rejection(status, body, headers)


def _refuse(message: str) -> Rejection:
    return error(400, message)


# --- who asks --------------------------------------------------------------------------------


def check_key(headers: dict[str, str], query_key: str) -> None:
    """Raises Rejection without the right key: in `x-api-key`, or bearer as newer SDKs send it."""
    key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
    if not key:
        raise error(401, "x-api-key header is required")
    if key != KEY:
        raise error(401)


def check_version(asked: Asked) -> None:
    """`anthropic-version` is required, and must be one there is."""
    version = asked.headers.get("anthropic-version")
    if version is None:
        raise _refuse("anthropic-version: header is required")
    if version not in VERSIONS:
        raise _refuse(f'anthropic-version: "{version}" is not a valid version')


# --- the body --------------------------------------------------------------------------------


def check_required(asked: Asked) -> None:
    """model, messages and max_tokens."""
    for name in ("max_tokens", "messages", "model"):
        if name not in asked.body:
            raise _refuse(f"{name}: Field required")


def check_required_to_count(asked: Asked) -> None:
    """Counting needs no max_tokens."""
    for name in ("messages", "model"):
        if name not in asked.body:
            raise _refuse(f"{name}: Field required")


def check_fields(asked: Asked) -> None:
    """Nothing that is not in the API; beta fields need their header."""
    known = FIELDS | BETA_FIELDS if asked.headers.get("anthropic-beta") else FIELDS
    for name in unknown(asked.body, known):
        raise _refuse(f"{name}: Extra inputs are not permitted")


def check_fields_to_count(asked: Asked) -> None:
    """Counting takes fewer."""
    known = COUNT_FIELDS | BETA_FIELDS if asked.headers.get("anthropic-beta") else COUNT_FIELDS
    for name in unknown(asked.body, known):
        raise _refuse(f"{name}: Extra inputs are not permitted")


def check_model(asked: Asked) -> None:
    """Models Anthropic does not have are 404."""
    if models.claude(asked.model) is None:
        raise error(404, f"model: {asked.model}")


def check_max_tokens(asked: Asked) -> None:
    """At least 1, at most what the model writes."""
    limit = asked.body["max_tokens"]
    if not is_whole(limit):
        raise _refuse("max_tokens: Input should be a valid integer")
    if limit < 1:
        raise _refuse("max_tokens: Input should be greater than or equal to 1")
    most = _claude(asked).output_tokens_max
    if limit > most:
        raise _refuse(
            f"max_tokens: {limit} > {most}, which is the maximum allowed number of output tokens "
            f"for {asked.model}"
        )


def check_length(asked: Asked) -> None:
    """The prompt must fit the context window; counted roughly, four bytes to a token."""
    tokens = len(str(asked.body["messages"])) // 4
    if tokens > INPUT_TOKENS_MAX:
        raise _refuse(f"prompt is too long: {tokens} tokens > {INPUT_TOKENS_MAX} maximum")


def check_stop_sequences(asked: Asked) -> None:
    """A list of texts that are not blank."""
    stops = asked.body.get("stop_sequences")
    if stops is None:
        return
    if not isinstance(stops, list):
        raise _refuse("stop_sequences: Input should be a valid list")
    if any(not isinstance(stop, str) or not stop.strip() for stop in stops):
        raise _refuse("stop_sequences: each stop sequence must contain non-whitespace")


# --- messages --------------------------------------------------------------------------------


def check_roles(asked: Asked) -> None:
    """user and assistant in turn; system messages only where the model takes them."""
    messages = asked.body["messages"]
    if not isinstance(messages, list):
        raise _refuse("messages: Input should be a valid list")
    if not messages:
        raise _refuse("messages: at least one message is required")
    before = ""
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role == "system" and not _claude(asked).takes_system_messages:
            raise _refuse(
                'messages: Unexpected role "system". The Messages API accepts a top-level '
                '`system` parameter, not "system" as an input message role.'
            )
        if role not in ("user", "assistant", "system"):
            raise _refuse(f"messages.{number}.role: Input should be 'user' or 'assistant'")
        if role == before and role != "system":
            raise _refuse(
                'messages: roles must alternate between "user" and "assistant", but found '
                f'multiple "{role}" roles in a row'
            )
        before = role


def check_blocks(asked: Asked) -> None:
    """Every block has a known type, its members, and nothing else."""
    for number, message in enumerate(asked.body["messages"]):
        content = message.get("content")
        if content is None:
            raise _refuse(f"messages.{number}.content: Field required")
        if not isinstance(content, str | list):
            raise _refuse(f"messages.{number}.content: Input should be a valid list")
        is_last = number == len(asked.body["messages"]) - 1
        if not content and not (is_last and message["role"] == "assistant"):
            raise _refuse(
                f"messages.{number}: all messages must have non-empty content except for the "
                "optional final assistant message"
            )
        for position, block in enumerate(content if isinstance(content, list) else ()):
            _check_block(block, f"messages.{number}.content.{position}")


def _check_block(block: Any, at: str) -> None:
    kind = block.get("type") if isinstance(block, dict) else None
    if not isinstance(kind, str):
        raise _refuse(f"{at}.type: Field required")
    if HOSTED_BLOCKS.fullmatch(kind) and kind not in BLOCK_FIELDS:
        return
    known = BLOCK_FIELDS.get(kind)
    if known is None:
        tags = ", ".join(f"'{name}'" for name in BLOCK_FIELDS)
        raise _refuse(
            f"{at}: Input tag '{kind}' found using 'type' does not match any of the expected "
            f"tags: {tags}"
        )
    for name in unknown(block, known):
        raise _refuse(f"{at}.{kind}.{name}: Extra inputs are not permitted")
    for name in REQUIRED_OF_BLOCKS[kind]:
        if name not in block:
            raise _refuse(f"{at}.{kind}.{name}: Field required")
    check = BLOCK_CHECKS.get(kind)
    if check:
        check(block, f"{at}.{kind}")


def _check_tool_use(block: Json, at: str) -> None:
    if not isinstance(block["input"], dict):
        raise _refuse(f"{at}.input: Input should be a valid dictionary")
    _check_id(block["id"], f"{at}.id")


def _check_id(value: Any, at: str) -> None:
    if not isinstance(value, str) or not CALL_ID.fullmatch(value):
        raise _refuse(f"{at}: String should match pattern '^[a-zA-Z0-9_-]+$'")


def _check_source(block: Json, at: str) -> None:
    source = block["source"]
    kind = source.get("type") if isinstance(source, dict) else None
    if kind not in ("base64", "url", "file", "text", "content"):
        raise _refuse(
            f"{at}.source: Input tag '{kind}' found using 'type' does not match any of the "
            "expected tags: 'base64', 'file', 'url'"
        )
    if block["type"] == "image" and kind == "base64" and source.get("media_type") not in IMAGES:
        names = ", ".join(f"'{name}'" for name in IMAGES)
        raise _refuse(f"{at}.source.base64.media_type: Input should be {names}")


REQUIRED_OF_BLOCKS = {
    "text": ("text",),
    "thinking": ("thinking", "signature"),
    "redacted_thinking": ("data",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
    "image": ("source",),
    "document": ("source",),
}
BLOCK_CHECKS = {
    "tool_use": _check_tool_use,
    "tool_result": lambda block, at: _check_id(block["tool_use_id"], f"{at}.tool_use_id"),
    "image": _check_source,
    "document": _check_source,
}


def check_text(asked: Asked) -> None:
    """No empty and no blank text anywhere."""
    for _, _, _, block in _blocks(asked.body):
        _check_text(block, "messages")
    system = asked.body.get("system")
    if not isinstance(system, str | list | None):
        raise _refuse("system: Input should be a valid list")
    for block in objects(system):
        _check_text(block, "system")


def _check_text(block: Json, at: str) -> None:
    if block.get("type") != "text":
        return
    if not block.get("text"):
        raise _refuse(f"{at}: text content blocks must be non-empty")
    if not str(block["text"]).strip():
        raise _refuse(f"{at}: text content blocks must contain non-whitespace text")


def check_prefill(asked: Asked) -> None:
    """A beginning of the answer: not for the newest models, and without trailing whitespace."""
    last = asked.body["messages"][-1]
    if last["role"] != "assistant":
        return
    if _claude(asked).is_adaptive:
        raise _refuse(
            "This model does not support assistant message prefill. The conversation must end "
            "with a user message."
        )
    texts = [block["text"] for block in _content(last) if block.get("type") == "text"]
    if texts and texts[-1] != texts[-1].rstrip():
        raise _refuse("messages: final assistant content cannot end with trailing whitespace")


def check_tool_results(asked: Asked) -> None:
    """Each tool_use is answered first thing in the next message, and nothing else is."""
    wanted: list[str] = []
    for number, message in enumerate(asked.body["messages"]):
        content = _content(message)
        results = [block for block in content if block.get("type") == "tool_result"]
        for position, block in enumerate(content):
            if block in results and block["tool_use_id"] not in wanted:
                raise _refuse(
                    f"messages.{number}.content.{position}: unexpected `tool_use_id` found in "
                    f"`tool_result` blocks: {block['tool_use_id']}. Each `tool_result` block must "
                    "have a corresponding `tool_use` block in the previous message."
                )
        first = content[: len(results)]
        answered = [block["tool_use_id"] for block in first if block in results]
        _require_answers(number - 1, wanted, answered)
        wanted = [block["id"] for block in content if block.get("type") == "tool_use"]
        if len(set(wanted)) < len(wanted):
            raise _refuse(f"messages.{number}: `tool_use` ids must be unique")
    _require_answers(len(asked.body["messages"]) - 1, wanted, [])


def _require_answers(number: int, wanted: list[str], answered: list[str]) -> None:
    missing = [call_id for call_id in wanted if call_id not in answered]
    if missing:
        raise _refuse(
            f"messages.{number}: `tool_use` ids were found without `tool_result` blocks "
            f"immediately after: {', '.join(missing)}. Each `tool_use` block must have a "
            "corresponding `tool_result` block in the next message."
        )


def check_cache_marks(asked: Asked) -> None:
    """At most four."""
    marks = str(asked.body).count("'cache_control': {")
    if marks > CACHE_MARKS_MAX:
        raise _refuse(
            f"A maximum of {CACHE_MARKS_MAX} blocks with cache_control may be provided. "
            f"Found {marks}."
        )


# --- thinking --------------------------------------------------------------------------------


def check_thinking(asked: Asked) -> None:
    """Which kind a model takes, and the budget's limits."""
    thinking = asked.body.get("thinking")
    if thinking is None:
        return
    kind = thinking.get("type") if isinstance(thinking, dict) else None
    if kind not in ("enabled", "adaptive", "disabled"):
        raise _refuse(
            f"thinking: Input tag '{kind}' found using 'type' does not match any of the expected "
            "tags: 'adaptive', 'disabled', 'enabled'"
        )
    claude = _claude(asked)
    if kind == "adaptive" and not claude.is_adaptive:
        raise _refuse("adaptive thinking is not supported on this model")
    if kind != "enabled":
        return
    if not claude.takes_budget:
        raise _refuse(
            '"thinking.type.enabled" is not supported for this model. Use '
            '"thinking.type.adaptive" and "output_config.effort" to control thinking behavior.'
        )
    _check_budget(thinking.get("budget_tokens"), asked.body.get("max_tokens"))


def _check_budget(budget: Any, most: Any) -> None:
    if not is_whole(budget):
        raise _refuse("thinking.enabled.budget_tokens: Field required")
    if budget < BUDGET_MIN:
        raise _refuse(
            "thinking.enabled.budget_tokens: Input should be greater than or equal to 1024"
        )
    if is_whole(most) and budget >= most:
        raise _refuse(
            "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our "
            "documentation at https://docs.claude.com/en/docs/build-with-claude/extended-thinking"
            "#max-tokens-and-context-window-size"
        )


def check_sampling(asked: Asked) -> None:
    """None on the newest models, 0 to 1, one of two, and the default only while thinking."""
    body, claude = asked.body, _claude(asked)
    given = [name for name in ("temperature", "top_p", "top_k") if body.get(name) is not None]
    for name in given:
        if not claude.samples:
            raise _refuse(f"`{name}` is deprecated for this model.")
        if not is_number(body[name]):
            raise _refuse(f"{name}: Input should be a valid number")
    for name in ("temperature", "top_p"):
        if name in given and not 0 <= body[name] <= 1:
            raise _refuse(f"{name}: range: 0..1")
    if "temperature" in given and "top_p" in given and claude.output_tokens_max >= 64_000:
        raise _refuse(
            "`temperature` and `top_p` cannot both be specified for this model. Please use only "
            "one."
        )
    if thinks(body) == "none":
        return
    if "temperature" in given and body["temperature"] != 1:
        raise _refuse(
            "`temperature` may only be set to 1 when thinking is enabled or in adaptive mode. "
            "Please consult our documentation at https://docs.claude.com/en/docs/build-with-claude"
            "/extended-thinking#important-considerations-when-using-extended-thinking'"
        )
    if "top_k" in given:
        raise _refuse("`top_k` must be unset when thinking is enabled.")


def check_effort(asked: Asked) -> None:
    """Only the levels the model has."""
    config = asked.body.get("output_config")
    effort = config.get("effort") if isinstance(config, dict) else None
    if effort is None:
        return
    efforts = _claude(asked).efforts
    if not efforts:
        raise _refuse("This model does not support the effort parameter.")
    if effort not in efforts:
        raise _refuse(
            f"This model does not support effort level '{effort}'. Supported levels: "
            f"{', '.join(efforts)}."
        )


def check_signatures(asked: Asked) -> None:
    """Thinking comes back with a signature of ours, and in the last answer as it was."""
    last = max((n for n, _, role, _ in _blocks(asked.body) if role == "assistant"), default=-1)
    for number, position, _, block in _blocks(asked.body):
        at = f"messages.{number}.content.{position}"
        if block.get("type") == "redacted_thinking":
            if examine(REDACTED, "", str(block["data"])) is not Verdict.INTACT:
                raise _refuse(f"{at}: Invalid `data` in `redacted_thinking` block")
        elif block.get("type") == "thinking":
            verdict = examine(THINKING, str(block["thinking"]), str(block["signature"]))
            if verdict is Verdict.ALTERED and number == last:
                raise _refuse(
                    f"{at}: `thinking` or `redacted_thinking` blocks in the latest assistant "
                    "message cannot be modified. These blocks must remain as they were in the "
                    "original response."
                )
            if verdict is not Verdict.INTACT:
                raise _refuse(f"{at}: Invalid `signature` in `thinking` block")


def check_thinking_leads(asked: Asked) -> None:
    """With a thinking budget, an answer in a tool loop begins with its thinking."""
    thinking = asked.body.get("thinking")
    if not isinstance(thinking, dict) or thinking["type"] != "enabled":
        return
    messages = asked.body["messages"]
    number = len(messages) - (1 if messages[-1]["role"] == "assistant" else 2)
    content = _content(messages[number]) if number >= 0 else []
    in_loop = any(block.get("type") == "tool_use" for block in content)
    if not in_loop or content[0].get("type") in ("thinking", "redacted_thinking"):
        return
    raise _refuse(
        f"messages.{number}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
        f"`{content[0].get('type')}`. When `thinking` is enabled, a final `assistant` message must "
        "start with a thinking block (preceeding the lastmost set of `tool_use` and `tool_result` "
        "blocks). We recommend you include thinking blocks from previous turns. To avoid this "
        "requirement, disable `thinking`."
    )


# --- tools and formats -----------------------------------------------------------------------


def check_tools(asked: Asked) -> None:
    """Names, schemas, and no name twice. Tools that Anthropic runs have a type of their own."""
    tools = asked.body.get("tools") or []
    names = []
    for number, tool in enumerate(tools):
        names.append(tool.get("name"))
        if tool.get("type", "custom") != "custom":
            continue
        at = f"tools.{number}.custom"
        if not isinstance(tool.get("name"), str) or not NAME.fullmatch(tool["name"]):
            raise _refuse(f"{at}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        schema = tool.get("input_schema")
        if not isinstance(schema, dict):
            raise _refuse(f"{at}.input_schema: Field required")
        if schema.get("type") != "object":
            raise _refuse(f"{at}.input_schema.type: Input should be 'object'")
        if tool.get("strict"):
            _check_schema(schema, at)
    if len(set(names)) < len(names):
        raise _refuse("tools: Tool names must be unique.")


def check_tool_choice(asked: Asked) -> None:
    """An object; with tools only; forced neither while thinking nor on every model."""
    choice = asked.body.get("tool_choice")
    if choice is None:
        return
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind not in ("auto", "any", "tool", "none"):
        raise _refuse("tool_choice: Input should be a valid dictionary or object to extract fields")
    names = [tool.get("name") for tool in objects(asked.body.get("tools"))]
    if not names:
        raise _refuse("tool_choice: `tool_choice` may only be specified while providing `tools`.")
    if kind == "tool" and choice.get("name") not in names:
        raise _refuse(f"Tool '{choice.get('name')}' not found in provided tools")
    if kind not in ("any", "tool"):
        return
    if thinks(asked.body) != "none":
        raise _refuse("Thinking may not be enabled when tool_choice forces tool use.")
    if not _claude(asked).can_be_forced:
        raise _refuse("tool_choice: forcing tool use is not supported for this model.")


def check_format(asked: Asked) -> None:
    """Structured output takes closed objects and no bounds."""
    config = asked.body.get("output_config")
    chosen = config.get("format") if isinstance(config, dict) else None
    if chosen is None:
        return
    if not isinstance(chosen, dict) or chosen.get("type") != "json_schema":
        raise _refuse("output_config.format.type: Input should be 'json_schema'")
    if not isinstance(chosen.get("schema"), dict):
        raise _refuse("output_config.format.schema: Field required")
    _check_schema(chosen["schema"], "output_config.format.schema")


def _check_schema(schema: Json, at: str) -> None:
    for _, inner in schemas.walk(schema):
        kind = inner.get("type")
        if schemas.is_object(inner) and inner.get("additionalProperties") is not False:
            raise _refuse(
                f"{at}: For 'object' type, 'additionalProperties' must be explicitly set to false"
            )
        refused = sorted(SCHEMA_WORDS_REFUSED & set(inner))
        if refused:
            verb = "property" if len(refused) == 1 else "properties"
            noun = "is" if len(refused) == 1 else "are"
            raise _refuse(
                f"{at}: For '{kind}' type, {verb} {', '.join(refused)} {noun} not supported"
            )


# --- reading ---------------------------------------------------------------------------------


def thinks(body: Json) -> str:
    """Whether thinking was asked for: `none`, `hidden` (signed, without text) or `shown`."""
    thinking = body.get("thinking")
    if not isinstance(thinking, dict) or thinking.get("type") not in ("enabled", "adaptive"):
        return "none"
    return "hidden" if thinking.get("display") == "omitted" else "shown"


def _claude(asked: Asked) -> models.Claude:
    found = models.claude(asked.model)
    if found is None:
        raise error(404, f"model: {asked.model}")
    return found


def _content(message: Json) -> list[Json]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return objects(content)


def _blocks(body: Json) -> Iterator[tuple[int, int, str, Json]]:
    """Every block with its message's number, its position and the role."""
    for number, message in enumerate(body["messages"]):
        for position, block in enumerate(_content(message)):
            yield number, position, message["role"], block


_OF_CONVERSATIONS = (
    check_model,
    check_roles,
    check_blocks,
    check_text,
    check_length,
    check_prefill,
    check_tool_results,
    check_cache_marks,
    check_tools,
    check_thinking,
    check_tool_choice,
    check_effort,
    check_format,
    check_signatures,
)
RULES = (
    check_version,
    check_required,
    check_fields,
    *_OF_CONVERSATIONS,
    check_max_tokens,
    check_stop_sequences,
    check_sampling,
    check_thinking_leads,
)
RULES_TO_COUNT = (
    check_version,
    check_required_to_count,
    check_fields_to_count,
    *_OF_CONVERSATIONS,
)
