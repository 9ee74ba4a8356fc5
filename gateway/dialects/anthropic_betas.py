"""Which of Anthropic's beta features a client may turn on, by the header its SDKs send. Pure.

Claude Code and the SDKs' `beta` members put fields into the body that are refused without their
name in `anthropic-beta`. What changes a call's price, lets it write more than was held for, lets
another model answer, or reaches what the account keeps for all of its users stays out: fast mode,
a context of a million tokens, longer outputs, fallbacks, files, skills, code execution.
"""

import re

HEADER = "anthropic-beta"
LENGTH_MAX = 1_000
# anthropic.types.AnthropicBetaParam, and what Claude Code sends; dates are versions of a feature.
FEATURES = frozenset(
    (
        *("advanced-tool-use", "cache-diagnosis", "claude-code", "computer-use"),
        *("context-management", "dev-full-thinking", "effort", "extended-cache-ttl"),
        *("fine-grained-tool-streaming", "inline-tools", "interleaved-thinking"),
        *("mid-conversation-output-config", "mid-conversation-system-clear-at"),
        *("mid-conversation-tool-changes", "model-context-window-exceeded", "pdfs"),
        *("prompt-caching", "structured-outputs", "task-budgets", "thinking-binding-controls"),
        *("thinking-display-updates", "thinking-token-count", "token-efficient-tools"),
        "tool-search-tool",
    )
)
BETA = re.compile(r"([a-z0-9-]+?)-(\d{4}-\d{2}-\d{2}|\d{8})")


def permitted(value: str) -> str:
    """What may go on to Anthropic of the header's comma-separated names; "" for none."""
    names = [name.strip() for name in value[:LENGTH_MAX].split(",")]
    found = ((name, BETA.fullmatch(name)) for name in names)
    return ",".join(name for name, match in found if match and match[1] in FEATURES)
