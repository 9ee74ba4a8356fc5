"""Ids shown to the outside: a prefix that says what it is, then random base32 text.

Pure; must not touch the database.
"""

import secrets

# Crockford-like: no vowels or look-alikes, so that ids spell no words and survive being read aloud.
ALPHABET = "23456789bcdfghjkmnpqrstvwxyz"
BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def public_id(prefix: str, length: int = 12) -> str:
    """A new random id such as `org_7kq2m9xw3c4d`; 12 characters carry 57 bits."""
    return f"{prefix}_{''.join(secrets.choice(ALPHABET) for _ in range(length))}"


def random_secret(bytes_count: int = 32) -> str:
    """`bytes_count` random bytes as base62 text of fixed length (43 characters for 32 bytes)."""
    length = -(-bytes_count * 8 * 1000 // 5954)  # log2(62) = 5.954
    number = int.from_bytes(secrets.token_bytes(bytes_count), "big")
    digits = []
    for _ in range(length):
        number, remainder = divmod(number, 62)
        digits.append(BASE62[remainder])
    return "".join(digits)
