"""What each family of Claude models accepts: facts by model name. Part of `anthropic`. Pure.

Anthropic's wire is one, its models are not: they differ in how thinking is asked for, in whether
sampling parameters are refused with a 400, in what may be forced, and in how much they write.
Facts: platform.claude.com/docs (models overview, extended and adaptive thinking, effort, structured
outputs). A name that no family matches counts as a current model, which is what new names are.
"""

import re
from dataclasses import dataclass
from typing import Literal

DATE = re.compile(r"-(\d{8}|latest|0)$")
EFFORTS_2026_SPRING = ("low", "medium", "high", "max")
EFFORTS = ("low", "medium", "high", "xhigh", "max")


@dataclass(frozen=True, slots=True)
class Family:
    """Models that take the same requests.

    `thinking` is how it is asked for: with a budget of tokens, adaptively with an `effort`, or not
    at all. `can_rest` says that adaptive thinking may be switched off, `samples` that temperature,
    top_p and top_k are taken, `can_be_forced` that a tool may be required, `keeps_schemas` that
    structured output and strict tools are offered.
    """

    output_tokens_max: int
    thinking: Literal["none", "budget", "adaptive"]
    efforts: tuple[str, ...] = ()
    can_rest: bool = True
    samples: bool = True
    can_be_forced: bool = True
    keeps_schemas: bool = True


CURRENT = Family(128_000, "adaptive", EFFORTS, samples=False)
RESTLESS = Family(128_000, "adaptive", EFFORTS, can_rest=False, samples=False, can_be_forced=False)
SPRING_2026 = Family(128_000, "adaptive", EFFORTS_2026_SPRING)
AUTUMN_2025 = Family(64_000, "budget")
# The longest prefix that fits decides, so a dated or newer name falls to its family.
FAMILIES = {
    "claude-3": Family(4_096, "none", keeps_schemas=False),
    "claude-3-5": Family(8_192, "none", keeps_schemas=False),
    "claude-3-7": Family(64_000, "budget", keeps_schemas=False),
    "claude-sonnet-4": Family(64_000, "budget", keeps_schemas=False),
    "claude-opus-4": Family(32_000, "budget", keeps_schemas=False),
    "claude-opus-4-1": Family(32_000, "budget"),
    "claude-haiku-4-5": AUTUMN_2025,
    "claude-sonnet-4-5": AUTUMN_2025,
    "claude-opus-4-5": AUTUMN_2025,
    "claude-sonnet-4-6": SPRING_2026,
    "claude-opus-4-6": SPRING_2026,
    "claude-opus-4-7": CURRENT,
    "claude-opus-4-8": CURRENT,
    "claude-sonnet-5": CURRENT,
    "claude-opus-5": CURRENT,
    "claude-fable-5": RESTLESS,
    "claude-mythos-5": RESTLESS,
    "claude-mythos-preview": RESTLESS,
}


def family(model: str) -> Family:
    """The family of an upstream model name."""
    fitting = [prefix for prefix in FAMILIES if model.startswith(prefix)]
    return FAMILIES[max(fitting, key=len)] if fitting else CURRENT


def is_same_model(one: str, other: str) -> bool:
    """Whether two names mean one model: an alias has no date, or a name for the newest one."""
    return DATE.sub("", one) == DATE.sub("", other)
