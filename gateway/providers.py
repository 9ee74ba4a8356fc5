"""Providers: who answers, as rows of facts. Pure; must know no wire format and no secret.

Adding a provider whose dialect exists is one row here and, per model, one ModelRoute in the admin.
"""

from dataclasses import dataclass
from enum import Enum


class AuthStyle(Enum):
    """How a provider wants its key."""

    BEARER = "bearer"  # Authorization: Bearer <key>
    X_API_KEY = "x-api-key"  # x-api-key: <key>
    X_GOOG_API_KEY = "x-goog-api-key"  # x-goog-api-key: <key>
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Provider:
    """One upstream service. `base_url` has no trailing slash; "" means it must be configured.

    `dialects`: the wires it speaks, its own first; a client that speaks one of them is forwarded
    in it. `headers` go with every request.
    """

    name: str
    label: str
    dialects: tuple[str, ...]
    base_url: str
    auth: AuthStyle
    needs_key: bool = True
    # Whether a client of the same dialect gets this provider's bytes as they are; if not, they go
    # through the event vocabulary, which leaves out what only this server says.
    forwards_bytes: bool = True
    headers: tuple[tuple[str, str], ...] = ()
    # The most tokens an image is counted as, by the longest beginning of a model's name; "" is any.
    image_tokens: tuple[tuple[str, int], ...] = (("", 4_096),)
    audio_tokens_per_second: int = 32
    # The most it adds to a prompt to explain tools or a format, beyond what the client says.
    explanation_tokens_max: int = 500

    def image_tokens_max(self, model: str) -> int:
        """The most tokens one image in a prompt of this model is counted as."""
        fitting = (row for row in self.image_tokens if model.startswith(row[0]))
        return max(fitting, key=lambda row: len(row[0]))[1]


PROVIDERS: dict[str, Provider] = {
    row.name: row
    for row in (
        Provider(
            "openai",
            "OpenAI",
            ("openai_chat", "openai_responses"),
            "https://api.openai.com/v1",
            AuthStyle.BEARER,
            # platform.openai.com/docs/guides/images-vision#calculating-costs: tiles of 512 pixels
            # after scaling to 768 x 2,048, at most eight (85 + 8 x 170; mini: 2,833 + 8 x 5,667);
            # newer models: up to 10,000 patches times up to 2.46.
            image_tokens=(("", 24_600), ("gpt-4o", 1_445), ("gpt-4o-mini", 48_169)),
            # platform.openai.com/docs/guides/realtime-costs: one token for 100 ms of input.
            audio_tokens_per_second=10,
        ),
        # docs.anthropic.com/en/api/versioning: this is the only version there is.
        Provider(
            "anthropic",
            "Anthropic",
            ("anthropic",),
            "https://api.anthropic.com/v1",
            AuthStyle.X_API_KEY,
            headers=(("anthropic-version", "2023-06-01"),),
            # platform.claude.com/docs/en/build-with-claude/vision: scaled down to about 1,600
            # tokens, by the models with high resolution to 4,784.
            image_tokens=(("", 4_784),),
            # platform.claude.com/docs/en/agents-and-tools/tool-use/overview#pricing: up to 804 for
            # the system prompt, 735 for computer use, 700 for the editor, 245 for bash.
            explanation_tokens_max=3_000,
        ),
        # ai.google.dev/gemini-api/docs/api-key
        Provider(
            "google",
            "Google",
            ("gemini",),
            "https://generativelanguage.googleapis.com/v1beta",
            AuthStyle.X_GOOG_API_KEY,
            # ai.google.dev/gemini-api/docs/media-resolution: 2,240 at the highest resolution of
            # Gemini 3; before it 258 for each tile of 768 pixels, here for 7,680 x 7,680.
            image_tokens=(("", 25_800), ("gemini-3", 2_240)),
            # ai.google.dev/gemini-api/docs/audio: 32 tokens for each second.
            audio_tokens_per_second=32,
        ),
        Provider(
            "local",
            "Local model",
            ("openai_chat",),
            "",
            AuthStyle.NONE,
            needs_key=False,
            forwards_bytes=False,
        ),
    )
}
