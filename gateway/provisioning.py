"""Provisioning: giving a deployment its key, and putting the key into its environment.

Owns which variables are injected. A value the user set wins; the answer then names it, because the
app bypasses the gateway. Must not know how environments are stored.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction

from deployments import directory, environment
from deployments.models import Deployment
from gateway import keys
from gateway.models import GatewayKey
from orgs import vault
from orgs.models import Workspace

KEY_VARIABLE = "OPENAI_API_KEY"
URL_VARIABLE = "OPENAI_BASE_URL"
VARIABLES = (KEY_VARIABLE, URL_VARIABLE)


class UnableToRevealKey(Exception):
    """The deployment has a key whose text cannot be decrypted. Says what to do."""


@dataclass(frozen=True, slots=True)
class Provisioned:
    """A deployment's key. `secret` is the whole text; never log or store it."""

    deployment: Deployment
    key: GatewayKey
    secret: str = field(repr=False)
    is_new: bool
    overridden: tuple[str, ...]


def base_url() -> str:
    """The address of the AI API without its version."""
    return f"{settings.PUBLIC_URL}/api/ai"


def provision(workspace: Workspace, deploy_id: str | None = None, *, at: datetime) -> Provisioned:
    """The deployment's key, made if it has none. Safe to retry: the same key comes back.

    Raises deployments.directory.DeploymentNotFound, UnableToRevealKey.
    """
    deployment = directory.require_deployed(workspace, deploy_id)
    if (key := keys.current(deployment)) is not None:
        return _existing(deployment, key)
    with transaction.atomic():
        _take_turns(deployment)
        # Somebody else may have provisioned while we waited: their key is the key.
        if (key := keys.current(deployment)) is not None:
            return _existing(deployment, key)
        key, secret = keys.issue(deployment, at=at)
        _inject(deployment, secret)
    return _provisioned(deployment, key, secret, is_new=True)


def rotate(
    workspace: Workspace, deploy_id: str | None = None, *, grace_seconds: int = 0, at: datetime
) -> Provisioned:
    """A new key; the old one works for `grace_seconds` more. Raises DeploymentNotFound."""
    deployment = directory.require_deployed(workspace, deploy_id)
    expires_at = at + timedelta(seconds=grace_seconds) if grace_seconds else None
    with transaction.atomic():
        _take_turns(deployment)
        key, secret = keys.rotate(deployment, expires_at=expires_at, at=at)
        _inject(deployment, secret)
    return _provisioned(deployment, key, secret, is_new=True)


def revoke(workspace: Workspace, deploy_id: str | None = None, *, at: datetime) -> Deployment:
    """Refuse every key of the deployment; every process does so within a second.

    Raises DeploymentNotFound. Revoking twice is not an error.
    """
    deployment = directory.require_deployed(workspace, deploy_id)
    with transaction.atomic():
        _take_turns(deployment)
        keys.revoke_all(deployment, at=at)
        environment.withdraw(deployment, list(VARIABLES))
    return deployment


def _take_turns(deployment: Deployment) -> None:
    """One change of a deployment's keys at a time: key and environment must tell the same.

    Raises DeploymentNotFound when the deployment was deleted meanwhile.
    """
    locked = Deployment.objects.select_for_update().filter(pk=deployment.pk, deleted_at=None)
    if locked.first() is None:
        raise directory.DeploymentNotFound


def _existing(deployment: Deployment, key: GatewayKey) -> Provisioned:
    try:
        secret = keys.reveal(key)
    except vault.UnableToDecrypt:
        raise UnableToRevealKey(
            "The key's text cannot be read any more, because the platform's VAULT_KEY is not the "
            "one it was stored under. Calls with it still work; rotate to get a new one."
        ) from None
    return _provisioned(deployment, key, secret, is_new=False)


def _inject(deployment: Deployment, secret: str) -> None:
    environment.inject(deployment, {KEY_VARIABLE: secret, URL_VARIABLE: f"{base_url()}/v1"})


def _provisioned(
    deployment: Deployment, key: GatewayKey, secret: str, *, is_new: bool
) -> Provisioned:
    overridden = environment.overridden_names(deployment, list(VARIABLES))
    return Provisioned(deployment, key, secret, is_new, tuple(overridden))
