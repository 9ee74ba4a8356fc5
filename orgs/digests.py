"""Digests of bearer secrets: HMAC-SHA256 under KEY_PEPPER, compared in constant time.

The secrets carry 256 random bits, so a slow password hash would add cost and no safety.
"""

import functools
import hashlib
import hmac

from django.conf import settings


def digest(secret: str) -> str:
    """64 hex characters; always over the whole secret, never a part of it."""
    keyed = _keyed(settings.KEY_PEPPER).copy()
    keyed.update(secret.encode())
    return keyed.hexdigest()


def matches(secret: str, expected_digest: str) -> bool:
    """Whether `secret` has this digest, in time that does not depend on where they differ."""
    return hmac.compare_digest(digest(secret), expected_digest)


@functools.lru_cache(maxsize=1)
def _keyed(pepper: str) -> hmac.HMAC:
    """The computation with the key in it, to be copied.

    `hmac.digest` would take twice as long, and let go of the interpreter's lock over it: a serving
    thread would wait for its next turn on every call.
    """
    return hmac.new(pepper.encode(), digestmod=hashlib.sha256)
