"""Images, audio and files in a request's body, wire by wire: where they stand and what they are.

A prompt's size is its bytes, except for media, which providers count by other rules than the
length of their base64. Only what stands where a wire has a place for media is one: a string that
merely looks like base64, or an object that looks like an image inside a tool's arguments, is text.
Looks at strings' beginnings and lengths alone, so that a body of megabytes costs what its objects
do. Malformed parts are skipped: whoever reads the request refuses them. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

Json = dict[str, Any]
HEADER_CHARACTERS_MAX = 256
# What counts as its text does, however it is packed.
TEXTS = ("application/json", "application/xml", "application/javascript", "application/x-ndjson")
# Formats that take a known minimum of bytes for a second, silence included; FLAC, Opus and AAC
# squeeze silence to next to nothing.
STEADY_AUDIO = ("mp3", "mpeg", "mpga", "wav", "wave", "x-wav", "pcm16", "l16")
TEXT_PARTS = ("text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal")


class Kind(Enum):
    """By which rule providers count it."""

    IMAGE = "image"
    AUDIO = "audio"
    DOCUMENT = "document"  # a PDF, a video, whatever else: it may fill the model's window


@dataclass(frozen=True, slots=True)
class Medium:
    """One image, recording or document; `payload` is how many characters of base64 it takes.

    A payload of 0: the body only says where it is.
    """

    kind: Kind
    payload: int = 0


def in_chat(body: Json) -> list[Medium]:
    """Of a chat completion request."""
    return [
        medium
        for message in _objects(body.get("messages"))
        for medium in (
            # What the model said on an earlier turn, kept by its provider.
            *([Medium(Kind.DOCUMENT)] if isinstance(message.get("audio"), dict) else ()),
            *_in_openai_parts(message.get("content")),
        )
    ]


def in_responses(body: Json) -> list[Medium]:
    """Of a Responses request: in messages and in what tools answered."""
    return [
        medium
        for item in _objects(body.get("input"))
        for medium in (
            *_in_openai_parts(item.get("content")),
            *_in_openai_parts(item.get("output")),
            *_of(_from_base64(item.get("result"), Kind.IMAGE, is_wanted=_is_drawn(item))),
        )
    ]


def in_anthropic(body: Json) -> list[Medium]:
    """Of a Messages request: in messages, in what tools answered, and inside documents."""
    found: list[Medium] = []
    left = [message.get("content") for message in _objects(body.get("messages"))]
    while left:
        for block in _objects(left.pop()):
            match block.get("type"):
                case "image":
                    found += _of(_from_source(block.get("source"), Kind.IMAGE))
                case "document":
                    found += _of(_from_source(block.get("source"), Kind.DOCUMENT))
                    left.append(_object(block.get("source")).get("content"))
                case "tool_result":
                    left.append(block.get("content"))
    return found


def in_gemini(body: Json) -> list[Medium]:
    """Of a generateContent request: in contents and in what functions answered."""
    found: list[Medium] = []
    instruction = _either(body, "systemInstruction", "system_instruction")
    contents = [*_objects(body.get("contents")), _object(instruction)]
    left: list[Any] = [content.get("parts") for content in contents]
    while left:
        for part in _objects(left.pop()):
            inline = _object(_either(part, "inlineData", "inline_data"))
            named = _object(_either(part, "fileData", "file_data"))
            if isinstance(data := inline.get("data"), str):
                media_type = _either(inline, "mimeType", "mime_type")
                found += _of(_classified(media_type, len(data)))
            if named:
                found += _of(_classified(_either(named, "mimeType", "mime_type"), 0))
            answer = _object(_either(part, "functionResponse", "function_response"))
            left.append(answer.get("parts"))
    return found


# --- OpenAI's two wires ----------------------------------------------------------------------


def _in_openai_parts(parts: Any) -> Iterator[Medium]:
    """Of a list of content parts, or of the one picture that a computer tool answers with."""
    for part in _objects([parts] if isinstance(parts, dict) else parts):
        match part.get("type"):
            case "image_url" | "input_image" | "computer_screenshot":
                image = part.get("image_url")
                url = image.get("url") if isinstance(image, dict) else image
                yield from _of(_from_url(url, Kind.IMAGE))
            case "file":
                yield from _of(_from_file(_object(part.get("file"))))
            case "input_file":
                yield from _of(_from_file(part))
            case "input_audio":
                audio = _object(part.get("input_audio"))
                media_type = f"audio/{audio.get('format')}"
                if isinstance(data := audio.get("data"), str):
                    yield from _of(_classified(media_type, len(data)))
            case str() as unknown if unknown not in TEXT_PARTS:
                yield Medium(Kind.DOCUMENT)  # may be anything, and goes on as it is


def _from_file(file: Json) -> Medium | None:
    data = file.get("file_data")
    return _from_url(data, Kind.DOCUMENT) if data else Medium(Kind.DOCUMENT)


def _is_drawn(item: Json) -> bool:
    return item.get("type") == "image_generation_call"


def _from_base64(data: Any, kind: Kind, *, is_wanted: bool) -> Medium | None:
    return Medium(kind, len(data)) if is_wanted and isinstance(data, str) else None


# --- what all share --------------------------------------------------------------------------


def _from_source(source: Any, kind: Kind) -> Medium | None:
    """Anthropic's `source`: base64 with its type, or the place of it. Text counts as text."""
    source = _object(source)
    match source.get("type"):
        case "base64" if isinstance(data := source.get("data"), str):
            return _classified(source.get("media_type"), len(data))
        case "url" | "file":
            return Medium(kind)
    return None


def _from_url(url: Any, kind: Kind) -> Medium | None:
    """A data: URL by its own type; any other URL, and base64 without a type, as `kind`."""
    if not isinstance(url, str):
        return None
    if not url.startswith("data:"):
        is_place = url.startswith(("http://", "https://")) or kind is Kind.IMAGE
        return Medium(kind, 0 if is_place else len(url))
    comma = url.find(",", 0, HEADER_CHARACTERS_MAX)
    if comma < 0:
        return None
    return _classified(url[len("data:") : comma].partition(";")[0], len(url) - comma - 1)


def _classified(media_type: Any, payload: int) -> Medium | None:
    """By its media type; None for text, whose tokens are bounded by its bytes."""
    media_type = media_type.lower() if isinstance(media_type, str) else ""
    family, _, name = media_type.partition(";")[0].strip().partition("/")
    if family == "image" and name != "svg+xml":
        return Medium(Kind.IMAGE, payload)
    if payload and (family == "text" or f"{family}/{name}" in TEXTS):
        return None
    if payload and family == "audio" and name in STEADY_AUDIO:
        return Medium(Kind.AUDIO, payload)
    return Medium(Kind.DOCUMENT, payload)


def _of(medium: Medium | None) -> tuple[Medium, ...]:
    return () if medium is None else (medium,)


def _either(holder: Json, name: str, other: str) -> Any:
    return holder.get(name, holder.get(other))


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Json]:
    """The objects of a list; one alone is a list of one."""
    if isinstance(value, dict):
        return [value]
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
