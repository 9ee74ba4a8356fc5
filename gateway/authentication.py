"""Authentication of the AI API: a gateway key in `Authorization: Bearer`, `x-api-key` or
`x-goog-api-key`.

Owns the order of checks: form first (no storage is touched for a malformed key), then the caller
from the snapshot, then a constant-time comparison of digests. Every failure is the same 401; that
its organization is suspended is told to whoever has a working key alone.
"""

import hmac
import time
from collections.abc import Iterable

from gateway import keys, refusals
from gateway.snapshot import Caller, Snapshot, UnableToLoad
from orgs import digests, suspension

KEY_BYTES_MAX = 512
# Anthropic's and Google's clients send the key there.
KEY_HEADERS = (b"x-api-key", b"x-goog-api-key")
# Compared with when the deployId is unknown, so that an unknown id costs what a wrong secret does.
NO_DIGEST = "0" * 64


async def authenticate(
    headers: Iterable[tuple[bytes, bytes]], snapshot: Snapshot
) -> tuple[Caller, int]:
    """The caller and the id of the key used. Raises Refusal (401, 403, 503)."""
    key, has_origin = _read_headers(headers)
    if not key:
        raise refusals.missing_key()
    deploy_id = keys.deploy_id_of(key)
    if deploy_id is None:
        raise refusals.wrong_key(key)
    digest = digests.digest(key)
    try:
        caller = await snapshot.caller(deploy_id)
        key_id = _matching_key(caller, digest)
        if key_id is None:  # made a moment ago, perhaps by another process
            caller = await snapshot.newest_caller(deploy_id)
            key_id = _matching_key(caller, digest)
    except UnableToLoad:
        raise refusals.service_unavailable() from None
    if caller is None or key_id is None:
        raise refusals.wrong_key(key)
    if has_origin:
        snapshot.mark_exposed(key_id)
        raise refusals.key_used_from_browser()
    if caller.is_suspended:
        raise refusals.organization_suspended(suspension.explain_to_caller())
    snapshot.touch(key_id)
    return caller, key_id


def _read_headers(headers: Iterable[tuple[bytes, bytes]]) -> tuple[str, bool]:
    """The key ("" without one) and whether an Origin header came: browsers send it, servers don't.

    Bearer wins over the other headers. Both are cut to a length no real key has.
    """
    bearer = api_key = b""
    has_origin = False
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            if scheme.lower() == b"bearer":
                bearer = credentials.strip()
        elif name in KEY_HEADERS:
            api_key = value.strip()
        elif name == b"origin":
            has_origin = True
    return (bearer or api_key)[:KEY_BYTES_MAX].decode("latin-1"), has_origin


def _matching_key(caller: Caller | None, digest: str) -> int | None:
    """The id of the caller's working key with this digest; every key is compared."""
    found = None
    candidates = caller.keys if caller else ()
    for key in candidates:
        is_alive = key.expires_at is None or key.expires_at > time.time()
        if hmac.compare_digest(key.digest, digest) and is_alive:
            found = key.key_id
    if not candidates:
        hmac.compare_digest(NO_DIGEST, digest)
    return found
