"""Providers: who answers, as rows of facts. Pure; must know no wire format and no secret.

Adding a provider whose dialect exists is one row here and, per model, one ModelRoute in the admin.
"""

from dataclasses import dataclass
from enum import Enum


class AuthStyle(Enum):
    """How a provider wants its key."""

    BEARER = "bearer"  # Authorization: Bearer <key>
    X_API_KEY = "x-api-key"  # x-api-key: <key>
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Provider:
    """One upstream service. `base_url` has no trailing slash; "" means it must be configured."""

    name: str
    label: str
    dialect: str
    base_url: str
    auth: AuthStyle
    needs_key: bool = True
    # Whether a client of the same dialect gets this provider's bytes as they are; if not, they go
    # through the event vocabulary, which leaves out what only this server says.
    forwards_bytes: bool = True


# OpenAI's own address, and the OpenAI-compatible addresses Anthropic and Google publish:
# docs.anthropic.com/en/api/openai-sdk and ai.google.dev/gemini-api/docs/openai.
PROVIDERS: dict[str, Provider] = {
    row.name: row
    for row in (
        Provider("openai", "OpenAI", "openai_chat", "https://api.openai.com/v1", AuthStyle.BEARER),
        Provider(
            "anthropic",
            "Anthropic",
            "openai_chat",
            "https://api.anthropic.com/v1",
            AuthStyle.BEARER,
        ),
        Provider(
            "google",
            "Google",
            "openai_chat",
            "https://generativelanguage.googleapis.com/v1beta/openai",
            AuthStyle.BEARER,
        ),
        Provider(
            "local",
            "Local model",
            "openai_chat",
            "",
            AuthStyle.NONE,
            needs_key=False,
            forwards_bytes=False,
        ),
    )
}
