"""The recordings in this folder, sorted by what they are; README.md names their sources."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

FOLDER = Path(__file__).parent
# Wires whose own tests read their folder; everything else is the chat wire's, or every wire's.
WIRES_APART = ("anthropic", "gemini", "openai-responses")
# What tells an answer, on each wire; Anthropic's and Google's token counts have the last two.
ANSWER_MEMBERS = (
    *("choices", "content", "output", "candidates", "promptFeedback"),
    *("input_tokens", "totalTokens"),
)
Kind = Literal["client_request", "stream", "answer", "error"]


@dataclass(frozen=True)
class Recording:
    """One exchange; `name` is its path below this folder, without `.json`."""

    name: str
    kind: Kind
    content: dict[str, Any]

    @property
    def stream(self) -> bytes:
        """The raw event stream."""
        return str(self.content["response_text"]).encode()

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON body of a whole answer or of an error."""
        return dict(self.content["response"])

    @property
    def request(self) -> dict[str, Any] | None:
        """What the client asked, where that was recorded."""
        body: dict[str, Any] | None = self.content.get("body") or self.content.get("request")
        return body

    @property
    def headers(self) -> dict[str, str]:
        """Response headers, names in lower case, first values."""
        recorded = self.content.get("response_headers", {})
        return {
            name.lower(): value if isinstance(value, str) else value[0]
            for name, value in recorded.items()
        }


def read(path: Path) -> Recording:
    """One file. Raises ValueError for one that is no known kind of recording."""
    content = json.loads(path.read_text())
    name = str(path.relative_to(FOLDER).with_suffix(""))
    return Recording(name, _kind(content, name), content)


def _kind(content: dict[str, Any], name: str) -> Kind:
    if "body" in content:
        return "client_request"
    if "response_text" in content:
        return "stream"
    response = content.get("response")
    if isinstance(response, dict) and not response.keys().isdisjoint(ANSWER_MEMBERS):
        return "answer"
    if isinstance(response, list) or (
        isinstance(response, dict) and ("error" in response or "_message_only" in response)
    ):
        return "error"
    raise ValueError(f"{name} is no known kind of recording.")


def of_folder(folder: str) -> list[Recording]:
    """All recordings below one folder, in the order of their names."""
    return [read(path) for path in sorted((FOLDER / folder).rglob("*.json"))]


ALL = tuple(
    recording
    for folder in sorted(FOLDER.iterdir())
    if folder.is_dir() and folder.name not in WIRES_APART
    for recording in of_folder(folder.name)
)


def of_kind(kind: Kind) -> list[Recording]:
    """The recordings of one kind."""
    return [recording for recording in ALL if recording.kind == kind]
