"""Facts about families of Gemini models that requests depend on. Pure; part of `gemini`.

Sources: ai.google.dev/gemini-api/docs/thinking, /thought-signatures, /function-calling and /openai,
and pydantic-ai's profile of Google's models (MIT), which was tested against the service.
"""

import re
from typing import Any

VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
# Names without a version (`gemini-flash-latest`) follow the newest family.
NEWEST = (99, 0)
# ai.google.dev/gemini-api/docs/openai: what Google's own endpoint makes of reasoning_effort.
BUDGETS = {
    "none": 0,
    "minimal": 1024,
    "low": 1024,
    "medium": 8192,
    "high": 24576,
    "xhigh": 24576,
    "max": 24576,
}
PRO_BUDGET_MIN = 128  # 2.5 Pro always thinks
LEVELS = {
    "none": "MINIMAL",
    "minimal": "MINIMAL",
    "low": "LOW",
    "medium": "MEDIUM",
    "high": "HIGH",
    "xhigh": "HIGH",
    "max": "HIGH",
}


def version_of(model: str) -> tuple[int, int]:
    """The family's version, such as (2, 5)."""
    match = VERSION.search(model)
    return (int(match[1]), int(match[2] or 0)) if match else NEWEST


def signs_thoughts(model: str) -> bool:
    """Whether the model insists on its thoughtSignature with the calls of the current turn."""
    return version_of(model) >= (3, 0)


def takes_images_in_results(model: str) -> bool:
    """Whether a functionResponse may hold images itself."""
    return version_of(model) >= (3, 0)


def formats_with_tools(model: str) -> bool:
    """Whether structured output and function tools may be asked for together."""
    return version_of(model) >= (3, 0)


def validates_calls(model: str) -> bool:
    """Whether the mode VALIDATED exists: calls are held to their declared schemas."""
    return version_of(model) >= (2, 5) and "image" not in model


def is_same(one: str, other: str) -> bool:
    """Whether two names may mean one model: a version suffix or an alias does not matter."""
    if not one or not other or "latest" in one or "latest" in other:
        return True
    return one.startswith(other) or other.startswith(one)


def thinking_config(model: str, effort: str | None) -> dict[str, Any] | None:
    """`thinkingConfig` for an effort of OpenAI's scale, None for the model's own choice.

    None where the model does not think. Raises KeyError for an effort that is not on the scale.
    """
    version = version_of(model)
    if version < (2, 5) or (version < (3, 0) and "image" in model):
        return None
    config: dict[str, Any] = {} if effort == "none" else {"includeThoughts": True}
    if effort is None:
        return config
    if version >= (3, 0):
        return {"thinkingLevel": _level(model, effort), **config}
    budget = BUDGETS[effort]
    return {"thinkingBudget": max(budget, PRO_BUDGET_MIN) if _is_pro(model) else budget, **config}


def _level(model: str, effort: str) -> str:
    """The nearest level the model has: thinking cannot be turned off from version 3 on."""
    level = LEVELS[effort]
    if level == "MINIMAL" and (_is_pro(model) or "gemini-3.7-flash" in model):
        return "LOW"
    if level == "MEDIUM" and "gemini-3-pro" in model:
        return "HIGH"
    return level


def _is_pro(model: str) -> bool:
    return "pro" in model and "flash" not in model
