"""State of other providers inside `encrypted_content`: how Responses clients bring it back.

Clients of this wire replay a reasoning item's `encrypted_content` unchanged and never look inside,
so that is where a signature travels. OpenAI's own (`gAAAA...`) stays as it is. Pure.
"""

import base64
import binascii
from dataclasses import dataclass

import orjson

from gateway.events import Carry

OPENAI = "openai.encrypted"
PREFIX = "gw1."


@dataclass(frozen=True, slots=True)
class Sealed:
    """A carry, and the id of the tool call it belongs to ("" when it belongs to the reasoning)."""

    carry: Carry
    call_id: str = ""


def seal(carry: Carry, *, call_id: str = "") -> str:
    """The `encrypted_content` for a carry."""
    if carry.kind == OPENAI and not call_id:
        return carry.data
    content = {"kind": carry.kind, "data": carry.data, "model": carry.model, "call_id": call_id}
    return PREFIX + base64.urlsafe_b64encode(orjson.dumps(content)).decode().rstrip("=")


def unseal(text: str) -> Sealed | None:
    """What an `encrypted_content` holds; None for one of ours that has been damaged."""
    if not text.startswith(PREFIX):
        return Sealed(Carry(OPENAI, text))
    encoded = text.removeprefix(PREFIX)
    try:
        content = orjson.loads(
            base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        )
        members = [content[name] for name in ("kind", "data", "model", "call_id")]
    except (binascii.Error, ValueError, KeyError, TypeError):
        return None
    if not all(isinstance(member, str) for member in members):
        return None
    kind, data, model, call_id = members
    return Sealed(Carry(kind, data, model), call_id)
