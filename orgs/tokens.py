"""Workspace tokens: issue, verify, revoke.

Owns the form `wst_<43 base62 characters>`. Must never store or log the secret itself.
"""

import re
from datetime import datetime, timedelta

from orgs import digests, identifiers
from orgs.models import Workspace, WorkspaceToken

TOKEN_PATTERN = re.compile(r"wst_[A-Za-z0-9]{43}", re.ASCII)
# `last_used_at` is for people; writing it on every call would make each read a write.
LAST_USED_RESOLUTION = timedelta(minutes=1)


class UnableToAuthenticate(Exception):
    """The token is missing, malformed, unknown, expired or revoked; which one stays a secret."""


def issue(workspace: Workspace, *, name: str) -> tuple[WorkspaceToken, str]:
    """A new token of the workspace and its secret text, which cannot be shown again."""
    secret = f"wst_{identifiers.random_secret()}"
    token = WorkspaceToken.objects.create(
        workspace=workspace, name=name, prefix=secret[:8], digest=digests.digest(secret)
    )
    return token, secret


def verify(secret: str, *, at: datetime) -> WorkspaceToken:
    """The usable token with this secret, workspace and organization loaded.

    Raises UnableToAuthenticate. The look-up is by digest: parameterised, and of fixed form.
    """
    if not TOKEN_PATTERN.fullmatch(secret):
        raise UnableToAuthenticate
    token = (
        WorkspaceToken.objects.select_related("workspace__organization")
        .filter(digest=digests.digest(secret))
        .first()
    )
    if token is None or not token.is_usable(at=at):
        raise UnableToAuthenticate
    if token.last_used_at is None or at - token.last_used_at > LAST_USED_RESOLUTION:
        WorkspaceToken.objects.filter(pk=token.pk).update(last_used_at=at)
    return token


def revoke(token: WorkspaceToken, *, at: datetime) -> None:
    """Refuse the token from now on; revoking twice keeps the first time."""
    WorkspaceToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=at)
