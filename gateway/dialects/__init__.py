"""Dialects: wire formats, one file each, pure. Bytes and values in, values and bytes out.

A dialect may play two roles: client side (read a request, write an answer) and upstream side
(write a request, read an answer). It must not know who hosts it, the clock or the network.
"""

from collections.abc import Callable

from gateway.dialects import (
    anthropic,
    anthropic_betas,
    gemini,
    openai_chat,
    openai_responses,
)
from gateway.dialects.base import ClientDialect, UpstreamDialect

CLIENT_DIALECTS: dict[str, ClientDialect] = {
    dialect.name: dialect
    for dialect in (
        openai_chat.ChatClient(),
        openai_responses.ResponsesClient(),
        anthropic.AnthropicClient(),
        gemini.GeminiClient(),
    )
}
UPSTREAM_DIALECTS: dict[str, UpstreamDialect] = {
    dialect.name: dialect
    for dialect in (
        openai_chat.ChatUpstream(),
        openai_responses.ResponsesUpstream(),
        anthropic.AnthropicUpstream(),
        gemini.GeminiUpstream(),
    )
}
# Headers of a client that a provider of the same dialect needs, and what may go on of each.
_FORWARDED: dict[str, dict[str, Callable[[str], str]]] = {
    "anthropic": {anthropic_betas.HEADER: anthropic_betas.permitted},
}


def forwarded_headers(dialect: str, header: Callable[[bytes], bytes]) -> dict[str, str]:
    """What goes on to a provider of the client's own dialect; `header` finds one by its name."""
    wanted = _FORWARDED.get(dialect, {})
    given = {name: may(header(name.encode()).decode("latin-1")) for name, may in wanted.items()}
    return {name: value for name, value in given.items() if value}
