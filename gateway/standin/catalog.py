"""The models the stand-ins list, each in its service's own shape."""

from gateway.standin.rejections import Json

CREATED_AT = 1_767_225_600  # 2026-01-01
OPENAI = (
    *("gpt-4o", "gpt-4o-mini", "gpt-5-mini", "gpt-5.2", "gpt-5.2-codex"),
    *("text-embedding-3-small", "text-embedding-3-large"),
)
ANTHROPIC = ("claude-sonnet-4-5", "claude-opus-4-5", "claude-haiku-4-5", "claude-opus-5")
GEMINI = ("gemini-3-flash-preview", "gemini-3-pro-preview", "gemini-2.5-flash")


def list_openai() -> Json:
    """`GET /v1/models` of OpenAI."""
    data = [
        {"id": name, "object": "model", "created": CREATED_AT, "owned_by": "system"}
        for name in OPENAI
    ]
    return {"object": "list", "data": data}


def list_anthropic() -> Json:
    """`GET /v1/models` of Anthropic."""
    data = [
        {
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": "2026-01-01T00:00:00Z",
        }
        for name in ANTHROPIC
    ]
    return {"data": data, "has_more": False, "first_id": ANTHROPIC[0], "last_id": ANTHROPIC[-1]}


def list_gemini() -> Json:
    """`GET /v1beta/models` of Gemini."""
    methods = ["generateContent", "countTokens"]
    return {
        "models": [
            {
                "name": f"models/{name}",
                "displayName": name,
                "inputTokenLimit": 1_048_576,
                "outputTokenLimit": 65_536,
                "supportedGenerationMethods": methods,
            }
            for name in GEMINI
        ]
    }
