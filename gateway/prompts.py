"""How many tokens a prompt can have at most, and about how many it has, without a tokenizer. Pure.

Text: no token is shorter than a byte, and JSON's own signs stand for what providers wrap messages
in. Images: what one can cost at the provider (`providers.Provider`). Recordings: by their seconds,
as many as their bytes can hold. Documents, videos and remote files: the model's whole window, since
compression hides any amount of text, and no provider's own limit per document (100 pages of up to
4,600 tokens at Anthropic, 1,000 of up to 1,120 at Google, none at OpenAI) is below its windows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway.dialects.media import Kind, Medium
from gateway.providers import Provider

# Members whose presence makes a provider add words of its own.
EXPLAINED = (
    *("tools", "functions", "response_format", "text", "output_format", "output_config"),
    *("generationConfig", "generation_config"),
)
# What providers add to a conversation that the body's JSON does not already outweigh.
WRAPPING_TOKENS = 50
# The least that four base64 characters, three bytes, can be of sound: no speech codec in use goes
# below 4,000 bits a second.
AUDIO_BYTES_PER_SECOND_MIN = 500
# For estimates only: where a provider ended without reporting usage, and for limits.
BYTES_PER_TOKEN = 4
IMAGE_TOKENS_TYPICAL = 1_000
AUDIO_BYTES_PER_SECOND_TYPICAL = 8_000
DOCUMENT_BYTES_PER_TOKEN = 40
DOCUMENT_TOKENS_REMOTE = 5_000


@dataclass(frozen=True, slots=True)
class PromptSize:
    """What is known of a prompt's size: bytes without media's payload, and the media.

    `is_explained`: it has tools or an output format, which providers explain to the model.
    """

    text_bytes: int
    media: tuple[Medium, ...] = ()
    is_explained: bool = False

    def tokens_max(self, provider: Provider, model: str, window: int) -> int:
        """An upper bound of its tokens at this provider's model, which reads `window` at most."""
        if any(medium.kind is Kind.DOCUMENT for medium in self.media):
            return window
        tokens = self.text_bytes + WRAPPING_TOKENS
        if self.is_explained:
            tokens += provider.explanation_tokens_max
        for medium in self.media:
            if medium.kind is Kind.IMAGE:
                tokens += provider.image_tokens_max(model)
            else:
                seconds = -(-_bytes(medium) // AUDIO_BYTES_PER_SECOND_MIN)
                tokens += seconds * provider.audio_tokens_per_second
        return min(tokens, window)

    def tokens_estimate(self) -> int:
        """About how many tokens it has, at least one."""
        tokens = self.text_bytes // BYTES_PER_TOKEN + sum(map(_estimate, self.media))
        return max(tokens, 1)


def measure(body_bytes: int, media: list[Medium], body: Mapping[str, Any]) -> PromptSize:
    """The size of a request of so many bytes, its media's payload among them."""
    payload = sum(medium.payload for medium in media)
    is_explained = not body.keys().isdisjoint(EXPLAINED)
    return PromptSize(max(body_bytes - payload, 0), tuple(media), is_explained)


def _bytes(medium: Medium) -> int:
    """How many bytes its base64 stands for."""
    return -(-medium.payload * 3 // 4)


def _estimate(medium: Medium) -> int:
    if medium.kind is Kind.IMAGE:
        return IMAGE_TOKENS_TYPICAL
    if medium.kind is Kind.AUDIO:
        return _bytes(medium) * 32 // AUDIO_BYTES_PER_SECOND_TYPICAL
    return _bytes(medium) // DOCUMENT_BYTES_PER_TOKEN if medium.payload else DOCUMENT_TOKENS_REMOTE
