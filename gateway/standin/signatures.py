"""State the stand-ins want back: signatures they recognise as theirs, and whether text was changed.

Real ones are opaque to everybody but their service, and these are, too. The key is no secret: it
only has to make a signature that nobody produces by accident, and survive a restart.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
from enum import Enum

KEY = b"gateway.standin"
NONCE_BYTES = 12
MAC_BYTES = 24
# How OpenAI's own encrypted content begins; nothing depends on it but people's eyes.
OPENAI_PREFIX = "gAAAAA"


class Verdict(Enum):
    """What is to be said of a signature that came back."""

    INTACT = "intact"
    ALTERED = "altered"  # the signature is ours, what it signs is not what it was
    FOREIGN = "foreign"


def sign(kind: str, content: str) -> str:
    """A new signature over `content`, as base64; `kind` keeps those of different uses apart."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    raw = nonce + _mac(kind, nonce) + _mac(kind, nonce + content.encode())
    return base64.b64encode(raw).decode()


def examine(kind: str, content: str, signature: str) -> Verdict:
    """Whether `signature` is one of ours, over this content. Both base64 alphabets are read."""
    try:
        standard = signature.replace("-", "+").replace("_", "/")
        raw = base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        return Verdict.FOREIGN
    nonce, origin = raw[:NONCE_BYTES], raw[NONCE_BYTES : NONCE_BYTES + MAC_BYTES]
    if len(raw) != NONCE_BYTES + 2 * MAC_BYTES or not hmac.compare_digest(
        origin, _mac(kind, nonce)
    ):
        return Verdict.FOREIGN
    expected = _mac(kind, nonce + content.encode())
    if hmac.compare_digest(raw[NONCE_BYTES + MAC_BYTES :], expected):
        return Verdict.INTACT
    return Verdict.ALTERED


def _mac(kind: str, data: bytes) -> bytes:
    return hmac.digest(KEY, kind.encode() + b"\0" + data, hashlib.sha384)[:MAC_BYTES]
