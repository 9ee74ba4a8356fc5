"""What a request may not ask of a provider, wire by wire: tables and one check. Pure.

A client's own body goes to a provider that speaks its wire, fields we have never heard of included;
one that was written for a provider may hold some that its client's wire shares with the provider's.
Three kinds must not: what the provider bills outside tokens (hosted tools), what changes the price
of a token (service tiers), and what names things kept in our account there, which all tenants share
(files, caches, conversations). Each is a 400 that names the member.

Sources: platform.openai.com/docs/pricing, docs.anthropic.com/en/docs/about-claude/pricing,
ai.google.dev/gemini-api/docs/pricing.
"""

from collections.abc import Callable, Mapping
from typing import Any

from gateway import refusals
from gateway.dialects import kept_files
from gateway.dialects.base import Json

# Members whose presence (not null, not empty, not false) is refused.
REFUSED_MEMBERS: Mapping[str, frozenset[str]] = {
    "openai_chat": frozenset({"web_search_options"}),
    "openai_responses": frozenset({"background", "conversation", "prompt"}),
    "anthropic": frozenset({"container", "mcp_servers", "inference_geo"}),
    "gemini": frozenset({"cachedContent", "cached_content"}),
}
# Members that may only have these values: others change the price.
ALLOWED_VALUES: Mapping[str, Mapping[str, frozenset[Any]]] = {
    "openai_chat": {"service_tier": frozenset({"auto", "default"})},
    "openai_responses": {"service_tier": frozenset({"auto", "default"})},
    "anthropic": {
        "service_tier": frozenset({"auto", "standard_only"}),
        "speed": frozenset({"standard"}),
    },
    "gemini": {"serviceTier": frozenset({"standard"}), "service_tier": frozenset({"standard"})},
}
# Tools that the client runs itself and that cost tokens alone.
RESPONSES_TOOLS = frozenset(
    {
        "function",
        "custom",
        "namespace",
        "local_shell",
        "shell",
        "apply_patch",
        "tool_search",
        "computer",
        "computer_use_preview",
    }
)
# Items of the input that bring tools of their own.
TOOL_BRINGERS = frozenset({"additional_tools", "tool_search_output"})
ANTHROPIC_SERVER_TOOLS = ("web_search", "web_fetch", "code_execution", "advisor", "mcp")
GEMINI_TOOLS = frozenset({"functionDeclarations", "function_declarations"})


def refuse_unpriced(dialect: str, body: Json) -> None:
    """Raises Refusal (400) naming the first member this gateway cannot bill or keep apart."""
    for name in REFUSED_MEMBERS.get(dialect, ()):
        if body.get(name):
            raise _refused(name)
    for name, allowed in ALLOWED_VALUES.get(dialect, {}).items():
        value = body.get(name)
        if value is not None and (not isinstance(value, str) or value not in allowed):
            raise _refused(name)
    if path := next(kept_files.PATHS[dialect](body), "") if dialect in kept_files.PATHS else "":
        raise _refused(path)
    if dialect in TOOL_CHECKS:
        _refuse_hosted(dialect, body.get("tools"), "tools")
    if dialect == "openai_responses":
        items = body.get("input")
        for number, item in enumerate(items if isinstance(items, list) else ()):
            if isinstance(item, dict) and item.get("type") in TOOL_BRINGERS:
                _refuse_hosted(dialect, item.get("tools"), f"input[{number}].tools")


def _refuse_hosted(dialect: str, tools: Any, at: str) -> None:
    """Raises Refusal for a tool that its provider runs."""
    for number, tool in enumerate(tools if isinstance(tools, list) else ()):
        if isinstance(tool, dict) and (name := TOOL_CHECKS[dialect](tool)):
            raise _refused(f"{at}[{number}].{name}")


def _refused(name: str) -> refusals.Refusal:
    return refusals.unsupported_value(
        name,
        f"'{name}' is not offered here: the provider bills it outside tokens, or keeps it in an "
        "account that is shared.",
    )


def _hosted_responses_tool(tool: Json) -> str:
    if tool.get("type") not in RESPONSES_TOOLS:
        return "type"
    # A shell is the client's own machine, or a container at the provider that costs by the minute.
    environment = tool.get("environment")
    is_own = not isinstance(environment, dict) or environment.get("type") == "local"
    return "" if is_own else "environment"


def _hosted_anthropic_tool(tool: Json) -> str:
    kind = tool.get("type")
    is_hosted = isinstance(kind, str) and kind.startswith(ANTHROPIC_SERVER_TOOLS)
    return "type" if is_hosted else ""


def _hosted_gemini_tool(tool: Json) -> str:
    return next((name for name in tool if name not in GEMINI_TOOLS), "")


TOOL_CHECKS: Mapping[str, Callable[[Json], str]] = {
    "openai_responses": _hosted_responses_tool,
    "anthropic": _hosted_anthropic_tool,
    "gemini": _hosted_gemini_tool,
}
