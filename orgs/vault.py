"""Encryption at rest for secrets that must be readable again (AES-256-GCM).

Owns the format `v1:<nonce><ciphertext>` in URL-safe base64. Every value is bound to its place by
`context` ("gateway.GatewayKey:<public id>:secret"), so a ciphertext copied to another row does not
decrypt. Must never log a value.
"""

import base64
import binascii
import hashlib
import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

VERSION = "v1:"
NONCE_BYTES = 12
TAG_BYTES = 16


class UnableToDecrypt(Exception):
    """The value was altered, moved to another row, or written under another VAULT_KEY."""


@lru_cache(maxsize=4)
def _cipher(key_text: str) -> AESGCM:
    return AESGCM(hashlib.blake2b(key_text.encode(), digest_size=32, person=b"aig-vault").digest())


def encrypt(text: str, *, context: str) -> str:
    """`text` encrypted for the place `context` names."""
    nonce = os.urandom(NONCE_BYTES)
    sealed = _cipher(settings.VAULT_KEY).encrypt(nonce, text.encode(), context.encode())
    return VERSION + base64.urlsafe_b64encode(nonce + sealed).decode()


def decrypt(sealed_text: str, *, context: str) -> str:
    """The text that `encrypt` was given. Raises UnableToDecrypt."""
    if not sealed_text.startswith(VERSION):
        raise UnableToDecrypt("Unknown format of an encrypted value.")
    raw = _unpack(sealed_text[len(VERSION) :])
    try:
        plain = _cipher(settings.VAULT_KEY).decrypt(
            raw[:NONCE_BYTES], raw[NONCE_BYTES:], context.encode()
        )
    except InvalidTag:
        raise UnableToDecrypt("An encrypted value cannot be read: was VAULT_KEY changed?") from None
    return plain.decode()


def _unpack(packed: str) -> bytes:
    """Nonce and ciphertext. Raises UnableToDecrypt for text that `encrypt` cannot have written."""
    try:
        raw = base64.urlsafe_b64decode(packed)
    except (binascii.Error, ValueError):
        raw = b""
    # Python's decoder skips what is not base64, so that many texts would mean the same value.
    is_canonical = base64.urlsafe_b64encode(raw).decode() == packed
    if not is_canonical or len(raw) < NONCE_BYTES + TAG_BYTES:
        raise UnableToDecrypt("An encrypted value is damaged.")
    return raw
