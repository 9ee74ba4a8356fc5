"""Gateway keys: their form, issuing, revoking, rotating.

Owns the form `aig_<deployId>_<43 random base62><6 check>`: the check characters let a mistyped key
be refused, and a leaked one be found, without asking the database. Only the digest serves to
verify; the encrypted text exists so that provisioning again can answer the same key.
"""

import re
import zlib
from datetime import datetime

from django.db import transaction

from deployments.models import Deployment
from gateway import allowances
from gateway.models import GatewayKey
from orgs import digests, identifiers, vault

KEY_PATTERN = re.compile(
    r"aig_([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)_([A-Za-z0-9]{43})([A-Za-z0-9]{6})", re.ASCII
)
PREFIX_SECRET_CHARACTERS = 4


def _check_characters(body: str) -> str:
    number = zlib.crc32(body.encode())
    characters = []
    for _ in range(6):
        number, remainder = divmod(number, 62)
        characters.append(identifiers.BASE62[remainder])
    return "".join(characters)


def deploy_id_of(key: str) -> str | None:
    """The deployId a well-formed key names; None for anything else. Touches no storage."""
    match = KEY_PATTERN.fullmatch(key)
    if match is None:
        return None
    deploy_id, secret, check = match.groups()
    return deploy_id if _check_characters(f"{deploy_id}_{secret}") == check else None


def _new_text(deploy_id: str) -> str:
    body = f"{deploy_id}_{identifiers.random_secret()}"
    return f"aig_{body}{_check_characters(body)}"


def _context(public_id: str) -> str:
    return f"gateway.GatewayKey:{public_id}:secret"


def current(deployment: Deployment) -> GatewayKey | None:
    """The key that `provision` answers: neither revoked nor on its way out."""
    return GatewayKey.objects.filter(
        deployment=deployment, revoked_at=None, expires_at=None
    ).first()


def reveal(key: GatewayKey) -> str:
    """The key's text. Raises orgs.vault.UnableToDecrypt."""
    return vault.decrypt(key.secret_sealed, context=_context(key.public_id))


def issue(deployment: Deployment, *, at: datetime) -> tuple[GatewayKey, str]:
    """A new key and its text. The database refuses a second current key of one deployment."""
    text = _new_text(deployment.deploy_id)
    key = GatewayKey(
        deployment=deployment,
        prefix=text[: len(f"aig_{deployment.deploy_id}_") + PREFIX_SECRET_CHARACTERS],
        digest=digests.digest(text),
        created_at=at,
    )
    key.secret_sealed = vault.encrypt(text, context=_context(key.public_id))
    key.save()
    return key, text


def revoke_all(deployment: Deployment, *, at: datetime) -> int:
    """Refuse every key of the deployment from now on; how many were still working."""
    return GatewayKey.objects.filter(deployment=deployment, revoked_at=None).update(revoked_at=at)


@transaction.atomic
def rotate(
    deployment: Deployment, *, expires_at: datetime | None, at: datetime
) -> tuple[GatewayKey, str]:
    """A new key; the one before works until `expires_at`, or not at all when that is None."""
    replaced = GatewayKey.objects.filter(deployment=deployment, revoked_at=None, expires_at=None)
    replaced_ids = list(replaced.values_list("pk", flat=True))
    if expires_at is None:
        replaced.update(revoked_at=at)
    else:
        replaced.update(expires_at=expires_at)
    key, text = issue(deployment, at=at)
    allowances.carry_over(replaced_ids, key)
    return key, text
