"""OpenAI's `/v1/embeddings` as the stand-in answers it: strict checks, the local model's vectors.

Facts: platform.openai.com/docs/api-reference/embeddings/create. The vectors are the local model's
own, made longer with zeros to the size that OpenAI's model has (which changes no similarity), or
shortened and brought to length one again where `dimensions` asks for it, as OpenAI does. Pure.
"""

import base64
import math
import struct
from collections.abc import Sequence
from typing import TypeGuard

from gateway.standin.rejections import Asked, Json, is_whole, unknown
from gateway.standin.strict_openai import rejection

FIELDS = frozenset(("input", "model", "dimensions", "encoding_format", "user"))
DIMENSIONS = {
    "text-embedding-3-small": 1_536,
    "text-embedding-3-large": 3_072,
    "text-embedding-ada-002": 1_536,
}
# Models whose vectors cannot be shortened.
FIXED = frozenset(("text-embedding-ada-002",))
INPUTS_MAX = 2_048
TOKENS_MAX = 8_192
# The local model takes 512 tokens at once, and no token is shorter than a byte.
PIECE_BYTES_MAX = 480
Vector = Sequence[float]


# --- what is refused -------------------------------------------------------------------------


def check_fields(asked: Asked) -> None:
    """Rule: no member that OpenAI does not know, and a model that embeds."""
    for name in unknown(asked.body, FIELDS):
        raise rejection(400, f"Unrecognized request argument supplied: {name}")
    for name in ("input", "model"):
        if asked.body.get(name) is None:
            raise rejection(400, f"Missing required parameter: '{name}'.", param=name)
    if asked.model not in DIMENSIONS:
        message = f"The model `{asked.model}` does not exist or you do not have access to it."
        raise rejection(404, message, code="model_not_found")


def check_format(asked: Asked) -> None:
    """Rule: numbers or base64, in a size that the model has."""
    encoding = asked.body.get("encoding_format", "float")
    if encoding not in ("float", "base64"):
        message = f"Invalid value: '{encoding}'. Supported values are: 'float' and 'base64'."
        raise rejection(400, message, code="invalid_value", param="encoding_format")
    dimensions = asked.body.get("dimensions")
    if dimensions is None:
        return
    if asked.model in FIXED:
        raise rejection(400, "This model does not support specifying dimensions.")
    if not is_whole(dimensions) or not 1 <= dimensions <= DIMENSIONS[asked.model]:
        message = f"Invalid value for 'dimensions' = {dimensions}. Must be less than or equal to "
        raise rejection(400, f"{message}{DIMENSIONS[asked.model]}.", param="dimensions")


def check_input(asked: Asked) -> None:
    """Rule: one to so many texts or lists of token numbers, none of them empty or too long."""
    given = asked.body["input"]
    if isinstance(given, list) and len(given) > INPUTS_MAX and not _is_tokens(given):
        message = f"Invalid 'input': array too long. Expected at most {INPUTS_MAX} items."
        raise rejection(400, message, code="array_above_max_length", param="input")
    inputs = _inputs(given)
    if not inputs:
        raise rejection(400, "'$.input' is invalid. Please check the API reference.")
    for one in inputs:
        tokens = _count_tokens_min(one)
        if not tokens:
            raise rejection(400, "'$.input' is invalid. Please check the API reference.")
        if tokens > TOKENS_MAX:
            message = (
                f"This model's maximum context length is {TOKENS_MAX} tokens, however you "
                f"requested {tokens} tokens. Please reduce your prompt."
            )
            raise rejection(400, message)


RULES = (check_fields, check_format, check_input)


def _is_tokens(given: object) -> TypeGuard[list[int]]:
    return isinstance(given, list) and bool(given) and all(is_whole(one) for one in given)


def _count_tokens_min(one: object) -> int:
    """About how many tokens an input has, taking words for four bytes; 0 for none, or no input."""
    if isinstance(one, str):
        return -(-len(one.encode("utf-8", errors="replace")) // 4)
    return len(one) if _is_tokens(one) else 0


def _inputs(given: object) -> list[object]:
    if isinstance(given, str) or _is_tokens(given):
        return [given]
    return list(given) if isinstance(given, list) else []


# --- what is embedded ------------------------------------------------------------------------


def read_texts(body: Json) -> list[str]:
    """The texts of a checked request. Token numbers mean nothing to another model: as words."""
    return [
        one if isinstance(one, str) else " ".join(str(number) for number in one)
        for one in _inputs(body["input"])
        if isinstance(one, str | list)
    ]


def split(text: str) -> list[str]:
    """A text in pieces that the local model can take; at least one."""
    raw = text.encode("utf-8", errors="replace")
    pieces = [
        raw[start : start + PIECE_BYTES_MAX].decode("utf-8", errors="ignore")
        for start in range(0, len(raw), PIECE_BYTES_MAX)
    ]
    return [piece for piece in pieces if piece] or [" "]


def join(vectors: Sequence[Vector]) -> list[float]:
    """The direction of a text from those of its pieces: their mean, of length one."""
    return _to_length_one([sum(numbers) for numbers in zip(*vectors, strict=True)])


def fit(vector: Vector, size: int) -> list[float]:
    """The vector in this many dimensions, of length one."""
    return _to_length_one([*vector[:size], *([0.0] * (size - len(vector)))])


def _to_length_one(vector: Vector) -> list[float]:
    length = math.sqrt(sum(number * number for number in vector)) or 1.0
    return [number / length for number in vector]


# --- what is answered ------------------------------------------------------------------------


def write(asked: Asked, vectors: Sequence[Vector], tokens: int) -> Json:
    """The answer; `tokens` is what the local model counted."""
    size = asked.body.get("dimensions") or DIMENSIONS[asked.model]
    is_base64 = asked.body.get("encoding_format") == "base64"
    data = [
        {
            "object": "embedding",
            "index": number,
            "embedding": _pack(fit(vector, size)) if is_base64 else fit(vector, size),
        }
        for number, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": asked.model, "usage": usage}


def _pack(vector: Vector) -> str:
    """OpenAI's base64: 32-bit floats, little end first."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
