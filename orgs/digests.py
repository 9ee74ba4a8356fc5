"""Digests of bearer secrets: HMAC-SHA256 under KEY_PEPPER, compared in constant time.

The secrets carry 256 random bits, so a slow password hash would add cost and no safety.
"""

import hashlib
import hmac

from django.conf import settings


def digest(secret: str) -> str:
    """64 hex characters; always over the whole secret, never a part of it."""
    return hmac.digest(settings.KEY_PEPPER.encode(), secret.encode(), hashlib.sha256).hex()


def matches(secret: str, expected_digest: str) -> bool:
    """Whether `secret` has this digest, in time that does not depend on where they differ."""
    return hmac.compare_digest(digest(secret), expected_digest)
