"""State of other providers inside an Anthropic conversation. Part of `anthropic`.

Anthropic's clients must return the signature of every thinking block unchanged, which makes it the
one place where another provider's state survives a turn. Ours begin with `gw1.`, which no real
signature does (they are base64 of a message whose first bytes never read so). Pure.
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.events import Carry

THINKING = "anthropic.thinking"
REDACTED = "anthropic.redacted"
PREFIX = "gw1."
# What a sealed carry belongs to: the block's own thoughts, the text before it, the call after it.
REASONING, TEXT, CALL = "r", "t", "c"


def write_signature(carry: Carry, place: str) -> str:
    """A signature that brings `carry` back: Anthropic's own as it is, any other sealed."""
    if carry.kind == THINKING and place == REASONING:
        return carry.data
    sealed = orjson.dumps([carry.kind, carry.data, carry.model, place])
    return PREFIX + base64.urlsafe_b64encode(sealed).decode()


def is_foreign(block: Mapping[str, Any]) -> bool:
    """Whether a block holds another provider's thoughts, which no Claude model can check."""
    if block.get("type") != "thinking":
        return False
    signature = block.get("signature")
    return not signature or (isinstance(signature, str) and signature.startswith(PREFIX))


def read_signature(signature: str) -> tuple[Carry | None, str]:
    """The carry in a signature and what it belongs to; no carry where there is none."""
    if not signature:
        return None, REASONING
    if not signature.startswith(PREFIX):
        return Carry(THINKING, signature), REASONING
    try:
        sealed = orjson.loads(base64.urlsafe_b64decode(signature.removeprefix(PREFIX)))
    except (ValueError, binascii.Error):
        return None, REASONING
    if not (isinstance(sealed, list) and [type(item) for item in sealed] == [str] * 4):
        return None, REASONING
    kind, data, model, place = sealed
    return Carry(kind, data, model), place
