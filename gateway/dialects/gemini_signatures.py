"""`thoughtSignature`: Gemini's own, and other providers' state dressed as one. Part of `gemini`.

Facts: ai.google.dev/gemini-api/docs/thought-signatures. Gemini's clients return signatures with
their parts and never look inside; so what Anthropic or OpenAI want back on the next turn travels as
one, too: base64 of `gw1.` and a JSON list. SDKs decode the field to bytes and may send it back in
the URL-safe alphabet. Pure.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from gateway.events import Carry
from gateway.generation import Reasoning

GEMINI = "gemini.thought"
# Documented for history that another model made.
SENTINEL = "skip_thought_signature_validator"
MARK = b"gw1."
MARK_ON_THE_WIRE = "Z3cxL"  # how base64 of MARK begins
# On a call that another provider's model made: there is nothing to carry but that.
NOT_GEMINIS = base64.b64encode(MARK + b"[]").decode()


@dataclass(frozen=True, slots=True)
class Signed:
    """What a signature carries: reasoning that came before its part, and the part's own state."""

    before: tuple[Reasoning, ...] = ()
    own: Carry | None = None


def is_foreign(signature: str) -> bool:
    """Whether another provider's state is dressed as this signature."""
    return signature.startswith(MARK_ON_THE_WIRE)


def pack(before: Sequence[Reasoning], own: Carry | None) -> str:
    """A signature for a part; "" when there is nothing to carry."""
    if not before and own is None:
        return ""
    if not before and own is not None and own.kind == GEMINI:
        return own.data
    entries = [_entry(block.carry, block) for block in before]
    if own is not None:
        entries.append(_entry(own, None))
    return base64.b64encode(MARK + orjson.dumps(entries)).decode()


def _entry(carry: Carry | None, block: Reasoning | None) -> dict[str, Any]:
    entry: dict[str, Any] = {}
    if carry is not None:
        entry = {"kind": carry.kind, "data": carry.data, "model": carry.model}
    if block is not None:
        entry |= {"text": block.text, "summary": block.is_summary}
    return entry


def unpack(signature: str) -> Signed:
    """What a client's signature carries; nothing for one that was damaged on its way."""
    if not signature:
        return Signed()
    if not is_foreign(signature):
        return Signed(own=Carry(GEMINI, signature))
    try:
        raw = base64.b64decode(signature.replace("-", "+").replace("_", "/"), validate=True)
        entries = orjson.loads(raw.removeprefix(MARK))
        return _read(entries)
    except (binascii.Error, orjson.JSONDecodeError, ValueError, TypeError, KeyError):
        return Signed()


def _read(entries: list[dict[str, Any]]) -> Signed:
    """The entries of a packed signature. Raises TypeError, KeyError for anything else."""
    before: list[Reasoning] = []
    own: Carry | None = None
    for entry in entries:
        carry = None
        if "kind" in entry:
            carry = Carry(str(entry["kind"]), str(entry["data"]), str(entry["model"]))
        if "text" in entry:
            block = Reasoning(str(entry["text"]), carry, is_summary=bool(entry["summary"]))
            before.append(block)
        else:
            own = carry
    return Signed(tuple(before), own)
