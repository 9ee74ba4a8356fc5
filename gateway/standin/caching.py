"""The services' prompt caches, imitated: what of a prompt was written or read, in tokens.

Anthropic caches what is marked, OpenAI and Google any long prompt that begins as an earlier one.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import orjson

from gateway import prompts
from gateway.dialects import CLIENT_DIALECTS
from gateway.standin.rejections import Asked, Json

BYTES_PER_TOKEN = 4
PREFIXES_MAX = 1_000
AUTOMATIC_TOKENS_MIN = 1_024
HISTORY = ("messages", "input", "contents")
STABLE = ("system", "instructions", "systemInstruction", "tools")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Tokens of one prompt in disjoint buckets."""

    input: int
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0


class Cache:
    """Prefixes seen lately, by their digest."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def count(self, asked: Asked, dialect: str) -> Prompt:
        """The tokens of this prompt; what is cached now is read next time."""
        prefix = _prefix(asked.body)
        whole = count_tokens(asked.body, dialect)
        cached = len(prefix) // BYTES_PER_TOKEN
        is_marked = dialect == "anthropic" and b'"cache_control":{' in prefix
        if not (is_marked or (dialect != "anthropic" and cached >= AUTOMATIC_TOKENS_MIN)):
            return Prompt(whole)
        cached = min(cached, whole - 1)
        digest = hashlib.blake2b(asked.model.encode() + b"\0" + prefix).digest()
        is_hit = digest in self._seen
        self._seen[digest] = None
        self._seen.move_to_end(digest)
        while len(self._seen) > PREFIXES_MAX:
            self._seen.popitem(last=False)
        if is_hit:
            return Prompt(whole - cached, cache_read=cached)
        # Only Anthropic asks money for writing.
        if not is_marked:
            return Prompt(whole)
        if b'"ttl":"1h"' in prefix:
            return Prompt(whole - cached, cache_write_1h=cached)
        return Prompt(whole - cached, cache_write=cached)


def count_tokens(body: Json, dialect: str) -> int:
    """The tokens of a whole prompt: four bytes to one, media by what they are."""
    told = {name: body[name] for name in (*STABLE, *HISTORY) if name in body}
    media = CLIENT_DIALECTS[dialect].media(body)
    return prompts.measure(len(orjson.dumps(told)), media, body).tokens_estimate()


def _prefix(body: Json) -> bytes:
    """What stays the same from one turn to the next: all but the last message."""
    stable = [body.get(name) for name in STABLE]
    history: list[Any] = next(
        (body[name] for name in HISTORY if isinstance(body.get(name), list)), []
    )
    if not any(stable) and len(history) == 1:
        return orjson.dumps(history)
    return orjson.dumps([*stable, history[:-1]])
