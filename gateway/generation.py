"""The one request type between dialects: what is asked of a model, as frozen values.

Client dialects read their wire into this, upstream dialects write their wire from it. Pure values.
A parameter that only one wire has travels in `Parameters.extra`, for a dialect that knows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.events import Carry

# Says to a model what the output format `json_object` asks of it.
JSON_ONLY = "Answer with one valid JSON object and nothing else."
# What `modalities` may say, in a request's extra, where the answer is to be text.
TEXT_ALONE: tuple[Any, ...] = (None, [], ["text"])
Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text; `carry` is state the provider put on its own earlier text."""

    text: str
    carry: Carry | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """An image by URL (https or data:); `detail` is OpenAI's low/high/auto or ""."""

    url: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class File:
    """A file as data: URL, by https URL, or by the provider's own id."""

    data_url: str = ""
    file_id: str = ""
    filename: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Audio:
    """Base64 audio and its format (wav, mp3)."""

    data: str
    format: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """One block of what the model thought on an earlier turn, with what its provider wants back.

    `item_id` is the id under which a Responses client knows it.
    """

    text: str
    carry: Carry | None = None
    item_id: str = ""
    is_summary: bool = False


@dataclass(frozen=True, slots=True)
class RefusalText:
    """A refusal the model gave on an earlier turn."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the model made on an earlier turn; `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str
    carry: Carry | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a tool answered. `name` is the function's, when the wire says it."""

    call_id: str
    parts: tuple["Text | Image | File", ...]
    is_error: bool = False
    name: str = ""


Part = Text | Image | File | Audio | Reasoning | RefusalText | ToolCall | ToolResult


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of the conversation. The developer role is `system` for every provider."""

    role: Role
    parts: tuple[Part, ...]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call; `schema` is JSON Schema or None."""

    name: str
    description: str = ""
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`auto`, `none`, `required`, or `named` with the function's name."""

    mode: Literal["auto", "none", "required", "named"]
    name: str = ""


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """Structured output: `json_object`, or `json_schema` with its schema."""

    kind: Literal["json_object", "json_schema"]
    name: str = ""
    schema: Mapping[str, Any] | None = None
    strict: bool | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Parameters:
    """How to generate. None means: not asked for."""

    output_tokens_max: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    choices: int = 1
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    reasoning_effort: str | None = None
    reasoning_summary: str | None = None
    parallel_tool_calls: bool | None = None
    user: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Everything a provider needs to know about one call.

    `is_begun`: the answer is to go on from the last turn, which the client began in the model's
    name (Anthropic's prefill).
    """

    model: str
    turns: tuple[Turn, ...]
    is_stream: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    output_format: OutputFormat | None = None
    parameters: Parameters = field(default_factory=Parameters)
    is_begun: bool = False
