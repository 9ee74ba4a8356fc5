"""Which models the stand-ins know, and what their families accept.

Facts: the services' model lists and recorded traffic. Written apart from the dialects' own tables
on purpose: where the two disagree a test fails.
"""

import re
from dataclasses import dataclass

OPENAI = re.compile(
    r"(gpt-3\.5-turbo|gpt-4|gpt-4-turbo|gpt-4o|gpt-4\.1|gpt-5(\.\d)?|o1|o3|o4)"
    r"(-(mini|nano|pro|codex|max|chat|sol|search|vision|preview|latest))*(-\d{4}-\d{2}-\d{2}|-\d{4})?"
)
OPENAI_REASONS = re.compile(r"o\d|gpt-5(?!.*-chat)")
# From gpt-5.1 to 5.4 the main line does not reason unless asked to, and samples while it does not.
OPENAI_RESTS = re.compile(r"gpt-5\.[1-4]")
OPENAI_RESPONSES_ONLY = re.compile(r"-codex|gpt-5(\.\d)?-pro|o\d-pro")
ANTHROPIC = re.compile(
    r"claude-((opus|sonnet|haiku|fable|mythos)-\d(-\d)?|3(-[57])?-(opus|sonnet|haiku)"
    r"|mythos-preview)(-\d{8}|-0|-latest)?"
)
ANTHROPIC_VERSION = re.compile(r"claude-(opus|sonnet|haiku|fable|mythos)-(\d)(?:-(\d)(?!\d))?")
GEMINI = re.compile(
    r"gemini-(\d(\.\d)?-)?(pro|flash|flash-lite|flash-8b)"
    r"(-(preview|exp|image|latest|\d{3}|\d\d-\d\d(\d\d)?))*"
)
GEMINI_VERSION = re.compile(r"gemini-(\d)(?:\.(\d))?")
ALL_EFFORTS = ("high", "low", "max", "medium", "xhigh")
EFFORTS_2026_SPRING = ("high", "low", "max", "medium")


@dataclass(frozen=True, slots=True)
class Claude:
    """What a Claude model accepts. `efforts` is empty where effort is unknown."""

    output_tokens_max: int
    takes_budget: bool
    is_adaptive: bool = False
    efforts: tuple[str, ...] = ()
    samples: bool = True
    takes_system_messages: bool = False
    can_be_forced: bool = True


def knows_openai(model: str) -> bool:
    """Whether OpenAI serves a model of this name."""
    return OPENAI.fullmatch(model) is not None


def openai_reasons(model: str) -> bool:
    """Whether the model takes `reasoning` at all."""
    return OPENAI_REASONS.match(model) is not None


def openai_is_reasoning(model: str, effort: str | None) -> bool:
    """Whether the model will reason with this effort (None: not said)."""
    if not openai_reasons(model) or effort == "none":
        return False
    return effort is not None or not OPENAI_RESTS.match(model)


def openai_context(model: str) -> int:
    """The most tokens a prompt may have."""
    if "gpt-4.1" in model:
        return 1_047_576
    return 272_000 if openai_reasons(model) else 128_000


def needs_responses(model: str) -> bool:
    """Whether OpenAI serves the model on Responses only."""
    return OPENAI_RESPONSES_ONLY.search(model) is not None


def claude(model: str) -> Claude | None:
    """What a Claude model accepts; None for a name Anthropic does not know."""
    if not ANTHROPIC.fullmatch(model):
        return None
    match = ANTHROPIC_VERSION.match(model)
    if match is None:
        if "mythos" in model:
            return Claude(128_000, False, True, ALL_EFFORTS, samples=False, can_be_forced=False)
        return Claude(64_000 if "3-7" in model else 8_192, "3-7" in model)
    family, version = match[1], (int(match[2]), int(match[3] or 0))
    if family in ("fable", "mythos"):
        return Claude(128_000, False, True, ALL_EFFORTS, False, True, can_be_forced=False)
    if version >= (4, 7):
        return Claude(128_000, False, True, ALL_EFFORTS, False, takes_system_messages=True)
    if version >= (4, 6):
        return Claude(128_000, True, True, EFFORTS_2026_SPRING)
    if family == "opus" and version < (4, 5):
        return Claude(32_000, True)
    efforts = ("high", "low", "medium") if (family, version) == ("opus", (4, 5)) else ()
    return Claude(64_000, True, efforts=efforts)


def knows_gemini(model: str) -> bool:
    """Whether Google serves a model of this name."""
    return GEMINI.fullmatch(model) is not None


def gemini_version(model: str) -> tuple[int, int]:
    """The family's version; names without one (`gemini-flash-latest`) follow the newest."""
    match = GEMINI_VERSION.match(model)
    return (int(match[1]), int(match[2] or 0)) if match else (9, 0)


def gemini_is_pro(model: str) -> bool:
    """Whether it is the large model of its family."""
    return "pro" in model
