"""Files that a request names instead of holding: where each wire has them. Pure.

A provider keeps them in its account, which here is shared by all organizations: whoever knows an id
could read what another one's call left there. Malformed parts are the provider's to refuse.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gateway.dialects.base import Json

GOOGLES = "generativelanguage.googleapis.com"


def in_chat(body: Json) -> Iterator[str]:
    """Dotted paths of file ids in a chat completion request."""
    for at, message in _objects(body.get("messages"), "messages[{}]"):
        for path, part in _objects(message.get("content"), at + ".content[{}]"):
            file = part.get("file")
            if isinstance(file, dict) and file.get("file_id"):
                yield f"{path}.file.file_id"


def in_anthropic(body: Json) -> Iterator[str]:
    """Of a Messages request: in messages and in what tools answered."""
    for at, message in _objects(body.get("messages"), "messages.{}"):
        for path, block in _objects(message.get("content"), at + ".content.{}"):
            yield from _of_block(path, block)
            for inner_path, inner in _objects(block.get("content"), path + ".content.{}"):
                yield from _of_block(inner_path, inner)


def _of_block(path: str, block: Json) -> Iterator[str]:
    source = block.get("source")
    if isinstance(source, dict) and source.get("file_id"):
        yield f"{path}.source.file_id"
    if block.get("file_id"):
        yield f"{path}.file_id"


def in_gemini(body: Json) -> Iterator[str]:
    """Of a generateContent request: URIs of files that were uploaded to Google."""
    for at, content in _objects(body.get("contents"), "contents[{}]"):
        for path, part in _objects(content.get("parts"), at + ".parts[{}]"):
            for name, uri_name in (("fileData", "fileUri"), ("file_data", "file_uri")):
                file = part.get(name)
                uri = file.get(uri_name) if isinstance(file, dict) else None
                if isinstance(uri, str) and _is_kept(uri):
                    yield f"{path}.{name}.{uri_name}"


def _is_kept(uri: str) -> bool:
    return not uri.startswith(("https://", "http://")) or GOOGLES in uri


def _objects(items: Any, at: str) -> Iterator[tuple[str, Json]]:
    """The objects of a list, each with its path."""
    for number, item in enumerate(items if isinstance(items, list) else ()):
        if isinstance(item, dict):
            yield at.format(number), item


PATHS: Mapping[str, Callable[[Json], Iterator[str]]] = {
    "openai_chat": in_chat,
    "anthropic": in_anthropic,
    "gemini": in_gemini,
}
