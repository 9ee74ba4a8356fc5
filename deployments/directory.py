"""Which deployment a caller means, and where it lives.

Owns naming: prefixes, deploy ids, addresses, the workspace's default. Every look-up takes the
workspace, so that a foreign deployment is indistinguishable from none.
"""

import re
import secrets
from collections.abc import Collection
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils.text import slugify

from deployments.models import Deployment
from orgs.models import Workspace

PREFIX_CHARACTERS_MAX = 52  # with "-" and ten hex digits a DNS label of 63
PREFIX_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,50}[a-z0-9])?", re.ASCII)
DEPLOY_ID_PATTERN = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,51})-[0-9a-f]{10}", re.ASCII)
FALLBACK_PREFIX = "app"


class DeploymentNotFound(Exception):
    """The workspace has no such deployment, or has deployed nothing yet. Says what to do."""

    def __init__(self) -> None:
        super().__init__("No deployment found. Deploy your app first, then provision a key.")


class TooManyDeployments(Exception):
    """The workspace has as many deployments as it may have."""


class UnableToNameDeployment(Exception):
    """The wanted prefix cannot be part of an address."""


def all_of(workspace: Workspace) -> QuerySet[Deployment]:
    """The workspace's deployments that are not deleted, newest first."""
    return Deployment.objects.filter(workspace=workspace, deleted_at=None).select_related(
        "active_release"
    )


def deleted_among(deploy_ids: Collection[str]) -> set[str]:
    """Which of these ids belong to no deployment that is not deleted."""
    alive = Deployment.objects.filter(deploy_id__in=deploy_ids, deleted_at=None)
    return set(deploy_ids) - set(alive.values_list("deploy_id", flat=True))


def find(workspace: Workspace, deploy_id: str | None = None) -> Deployment:
    """The workspace's deployment with this deploy id or prefix; its default when None.

    Raises DeploymentNotFound, for foreign and deleted ones too.
    """
    if deploy_id is None:
        found = all_of(workspace).filter(is_default=True).first()
    else:
        # Both may match when one site's prefix is another's whole id: the id is the exact name.
        matches = all_of(workspace).filter(Q(deploy_id=deploy_id) | Q(prefix=deploy_id))
        found = max(matches, key=lambda one: one.deploy_id == deploy_id, default=None)
    if found is None:
        raise DeploymentNotFound
    return found


def require_deployed(workspace: Workspace, deploy_id: str | None = None) -> Deployment:
    """Like `find`, and something has been deployed there. Raises DeploymentNotFound."""
    deployment = find(workspace, deploy_id)
    if deployment.deployed_at is None:
        raise DeploymentNotFound
    return deployment


def find_or_create(workspace: Workspace, name: str | None = None) -> Deployment:
    """The deployment `find` finds, or a new one with prefix `name`; the first is the default.

    Without a name: the default deployment, made from the workspace's name if need be. Raises
    UnableToNameDeployment, DeploymentNotFound for a full deploy id that is not the workspace's, and
    TooManyDeployments.
    """
    if name is not None:
        _check_prefix(name)
    with transaction.atomic():
        # One creator at a time per workspace, so that two first uploads share one deployment.
        Workspace.objects.select_for_update().get(pk=workspace.pk)
        try:
            return find(workspace, name)
        except DeploymentNotFound:
            if name is not None and DEPLOY_ID_PATTERN.fullmatch(name):
                raise
        if all_of(workspace).count() >= settings.DEPLOYMENTS_PER_WORKSPACE_MAX:
            raise TooManyDeployments(
                f"This workspace has {settings.DEPLOYMENTS_PER_WORKSPACE_MAX} deployments, as many "
                "as it may have. Delete one you no longer need, or deploy to one that exists."
            )
        prefix = name if name is not None else _default_prefix(workspace)
        return Deployment.objects.create(
            workspace=workspace,
            prefix=prefix,
            deploy_id=f"{prefix}-{secrets.token_hex(5)}",
            is_default=not all_of(workspace).filter(is_default=True).exists(),
        )


def _check_prefix(name: str) -> None:
    if DEPLOY_ID_PATTERN.fullmatch(name):
        return
    if not PREFIX_PATTERN.fullmatch(name):
        raise UnableToNameDeployment(
            f"Use 1 to {PREFIX_CHARACTERS_MAX} lower-case letters, digits and hyphens, neither "
            "starting nor ending with a hyphen."
        )


def _default_prefix(workspace: Workspace) -> str:
    """A free prefix that reminds of the workspace's name."""
    slug = slugify(workspace.name).replace("_", "-")[:40].strip("-")
    base = slug if PREFIX_PATTERN.fullmatch(slug) else FALLBACK_PREFIX
    taken = set(all_of(workspace).values_list("prefix", flat=True))
    candidates = [base, *(f"{base}-{number}" for number in range(2, len(taken) + 2))]
    return next(candidate for candidate in candidates if candidate not in taken)


def host_of(deployment: Deployment) -> str:
    """The host name the deployed site answers to, without port."""
    return f"{deployment.deploy_id}.{settings.APPS_DOMAIN}"


def url_of(deployment: Deployment) -> str:
    """The site's address: scheme and port of PUBLIC_URL, host below APPS_DOMAIN, no slash."""
    public = urlsplit(settings.PUBLIC_URL)
    port = f":{public.port}" if public.port else ""
    return f"{public.scheme}://{host_of(deployment)}{port}"
