"""What OpenAI's models refuse, by family: facts its two wires share. Pure.

Sources: platform.openai.com/docs/guides/reasoning ("sampling parameters are not supported") and
recorded refusals. A name that is not OpenAI's own is taken to accept everything: compatible servers
serve all kinds of models.
"""

import hashlib
import re

from gateway import refusals
from gateway.generation import JSON_ONLY, GenerationRequest, Text, Turn

# `openai/gpt-5` is how routers name it.
REASONING = re.compile(r"(?:^|/)(?:o\d|gpt-(?:[5-9]|\d\d)(?!\S*-chat)|codex|computer-use)")
PLAIN = re.compile(r"(?:^|/)(?:chatgpt-|gpt-[34]|gpt-5\S*-chat)")
SAMPLING = frozenset(
    {"temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs"}
)
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
USER_CHARACTERS_MAX = 64
SCALE = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
# The efforts a model has, by the first pattern that fits its name: "Unsupported value: 'none' is
# not supported with the 'gpt-5.1-codex' model. Supported values are: 'low', 'medium', and 'high'."
# Names that no pattern fits take the whole scale.
EFFORTS = (
    (re.compile(r"gpt-5\.[2-9]\S*-codex|codex-max"), ("low", "medium", "high", "xhigh")),
    (re.compile(r"codex"), ("low", "medium", "high")),
    (re.compile(r"gpt-5(?:-mini|-nano)?(?:-\d{4}|$)"), ("minimal", "low", "medium", "high")),
    (re.compile(r"gpt-5\.1(?:-\d{4}|$)"), ("none", "low", "medium", "high")),
    (re.compile(r"gpt-5\.[2-5](?:-mini|-nano)?(?:-\d{4}|$)"), ("none", *SCALE[2:6])),
    (re.compile(r"(?:^|/)o\d"), ("low", "medium", "high")),
)
# Of other wires; servers that are compatible with OpenAI's take it.
FOREIGN = frozenset({"top_k"})
# "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16".
RESPONSES_TOKENS_MIN = 16


def reasons(model: str) -> bool:
    """Whether the model is one of OpenAI's that reason."""
    return REASONING.search(model) is not None


def is_openai(model: str) -> bool:
    """Whether the name is one of OpenAI's."""
    return reasons(model) or PLAIN.search(model) is not None


def refuse_begun(request: GenerationRequest, model: str) -> None:
    """Raises Refusal: these models begin anew where an answer was begun for them."""
    if request.is_begun and is_openai(model):
        raise refusals.unsupported_value(
            "messages",
            "This model does not go on with an answer that was begun for it: the last of "
            "'messages' must be the user's.",
        )


def with_json_named(request: GenerationRequest, model: str) -> tuple[Turn, ...]:
    """The turns, led by an instruction where JSON is wanted and nobody has said so.

    "'messages' must contain the word 'json' in some form, to use 'response_format' of type
    'json_object'": clients of other wires need not know.
    """
    output = request.output_format
    if output is None or output.kind != "json_object" or not is_openai(model):
        return request.turns
    texts = (part.text for turn in request.turns for part in turn.parts if isinstance(part, Text))
    if any("json" in text.lower() for text in texts):
        return request.turns
    return (Turn("system", (Text(JSON_ONLY),)), *request.turns)


def effort(model: str, asked: str | None) -> str | None:
    """The effort that the model has for the one asked for: the next above, or else its highest."""
    known = next((names for pattern, names in EFFORTS if pattern.search(model)), SCALE)
    if asked is None or asked not in SCALE or asked in known:
        return asked
    above = (name for name in known if SCALE.index(name) > SCALE.index(asked))
    return next(above, known[-1])


def user(given: str | None) -> str | None:
    """The end user's id, which OpenAI takes up to a length: a longer one as its digest.

    "Invalid 'user': string too long. Expected a string with maximum length 64": Claude Code's are
    of 150 characters and more.
    """
    if given is None or len(given) <= USER_CHARACTERS_MAX:
        return given
    return hashlib.sha256(given.encode()).hexdigest()


def refused_parameters(model: str, effort: str | None) -> frozenset[str]:
    """Names of parameters the model answers with a 400; none of them changes what is asked."""
    if reasons(model):
        return FOREIGN if effort == "none" else FOREIGN | SAMPLING
    return FOREIGN | {"reasoning_effort"} if PLAIN.search(model) else frozenset()
