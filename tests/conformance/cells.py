"""The matrix: clients x models x features, and what a client hands back for one cell.

Owns the names that `docs/conformance.md` shows. Must know no client library.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from pydantic import BaseModel

# One model of each provider; the Codex one is served on another wire of OpenAI's.
MODELS = {
    "gpt-4o": "OpenAI, chat",
    "gpt-5.2-codex": "OpenAI, Responses",
    "claude-sonnet-4.5": "Anthropic",
    "gemini-3-flash": "Google",
    "smollm2-135m": "local",
}
FEATURES = {
    "text": "a whole answer",
    "stream": "an answer in pieces, with its reason for stopping",
    "usage": "tokens in and out, whole and streamed",
    "tools": "a tool loop of two steps",
    "tools, streamed": "the same as a stream",
    "parallel tools": "two calls in one step, both answered",
    "reasoning": "a tool loop while thinking; the provider gets its thoughts back unchanged",
    "structured": "an answer that fits a JSON schema",
    "image": "an image in the question",
    "length": "stopped by the limit on tokens",
    "broken stream": "an answer that fails, is cut or turns to garbage on the way is an error",
    "unknown model": "the client's own exception",
    "wrong key": "the client's own exception",
    "no credit": "the client's own exception",
    "disconnect": "leaving in the middle of a stream ends the call and bills it once",
}
# What some clients do by themselves.
EXTRAS = {
    "item references": "earlier items of a tool loop come back as ids alone",
    "store: false": "nothing is kept, everything comes back whole",
}
BLIND = "the model reads text only"
TOOLLESS = "the model calls no tools"
THOUGHTLESS = "the model does not reason"
RELIABLE = "a real model, which does not fail when told to"
# What no client can do with a model, and why.
MODEL_LIMITS = {
    "gpt-4o": {"reasoning": THOUGHTLESS},
    "smollm2-135m": {
        "tools": TOOLLESS,
        "tools, streamed": TOOLLESS,
        "parallel tools": TOOLLESS,
        "reasoning": THOUGHTLESS,
        "image": BLIND,
        "broken stream": RELIABLE,
        "item references": TOOLLESS,
        "store: false": TOOLLESS,
    },
}


@dataclass
class Answer:
    """What a client said of one answer, in neutral words."""

    text: str = ""
    pieces: int = 0
    finish: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    reasoning: str = ""
    references: int = 0


@dataclass(frozen=True)
class Gateway:
    """Where clients go. `url` is the gateway's without a version."""

    url: str
    key: str
    empty_key: str


@dataclass(frozen=True)
class Question:
    """One question in neutral words.

    `image` is a data: URL; `temperature` is given where the local model's answer must be certain.
    """

    model: str
    prompt: str
    image: str = ""
    tokens_max: int | None = None
    uses_tools: bool = False
    effort: str | None = None
    is_kept: bool = True
    temperature: float | None = None


class Client(Protocol):
    """One client library, used as its documentation does."""

    name: str
    package: str
    limits: dict[str, str]
    errors: dict[str, type[Exception]]
    length_word: str
    # Whether the library shows what a model thought; all must give it back.
    shows_reasoning: bool

    def __init__(self, gateway: Gateway, key: str | None = None) -> None: ...

    def ask(self, question: Question) -> Answer:
        """One whole answer."""
        ...

    def stream(self, question: Question) -> Answer:
        """One streamed answer, read to its end."""
        ...

    def loop(self, question: Question, *, is_stream: bool) -> list[Answer]:
        """Answers until the model calls no more tools; each call is answered by `weather`."""
        ...

    def parse(self, question: Question) -> Any:
        """An object with a `city` and a `celsius`, through the client's own parsing."""
        ...

    def leave(self, question: Question) -> None:
        """Hang up after the first text of a stream."""
        ...


class Weather(BaseModel):
    """The weather of a city."""

    # Not any text: the local model would not end one.
    city: Literal["Paris", "Rome"]
    celsius: int


def weather(city: str) -> str:
    """The tool that every client offers."""
    return f"It is sunny in {city}."


WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
