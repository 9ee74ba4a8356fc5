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


PROVIDERS: dict[str, Provider] = {
    row.name: row
    for row in (
        Provider(
            "openai",
            "OpenAI",
            ("openai_chat", "openai_responses"),
            "https://api.openai.com/v1",
            AuthStyle.BEARER,
        ),
        # docs.anthropic.com/en/api/versioning: this is the only version there is.
        Provider(
            "anthropic",
            "Anthropic",
            ("anthropic",),
            "https://api.anthropic.com/v1",
            AuthStyle.X_API_KEY,
            headers=(("anthropic-version", "2023-06-01"),),
        ),
        # ai.google.dev/gemini-api/docs/api-key
        Provider(
            "google",
            "Google",
            ("gemini",),
            "https://generativelanguage.googleapis.com/v1beta",
            AuthStyle.X_GOOG_API_KEY,
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
