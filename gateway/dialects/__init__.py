"""Dialects: wire formats, one file each, pure. Bytes and values in, values and bytes out.

A dialect may play two roles: client side (read a request, write an answer) and upstream side
(write a request, read an answer). It must not know who hosts it, the clock or the network.
"""

from gateway.dialects import anthropic, gemini, openai_chat, openai_responses
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
