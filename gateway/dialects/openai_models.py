"""What OpenAI's models refuse, by family: facts its two wires share. Pure.

Sources: platform.openai.com/docs/guides/reasoning ("sampling parameters are not supported") and
recorded refusals. A name that is not OpenAI's own is taken to accept everything: compatible servers
serve all kinds of models.
"""

import re

# `openai/gpt-5` is how routers name it.
REASONING = re.compile(r"(?:^|/)(?:o\d|gpt-(?:[5-9]|\d\d)(?!\S*-chat)|codex|computer-use)")
PLAIN = re.compile(r"(?:^|/)(?:chatgpt-|gpt-[34]|gpt-5\S*-chat)")
SAMPLING = frozenset(
    {"temperature", "top_p", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs"}
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


def refused_parameters(model: str, effort: str | None) -> frozenset[str]:
    """Names of parameters the model answers with a 400; none of them changes what is asked."""
    if reasons(model):
        return FOREIGN if effort == "none" else FOREIGN | SAMPLING
    return FOREIGN | {"reasoning_effort"} if PLAIN.search(model) else frozenset()
