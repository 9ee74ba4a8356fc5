"""Releases: made from a bundle, activated by moving one pointer, rolled back the same way.

Owns the states PENDING, ACTIVE, SUPERSEDED and FAILED. A release that cannot be made is marked
FAILED with the reason and the one before keeps serving. Must not know where bundles come from or
how a release is served; functions are handed to the driver before the release goes live.
"""

import contextlib
from collections.abc import Iterable
from datetime import datetime

from django.db import transaction
from django.db.models import Q, QuerySet

from deployments import confinement, environment, layout, storage, variables
from deployments.models import Deployment, Release
from deployments.runtime import drivers
from deployments.runtime.driver import FunctionSpec, UnableToPrepare
from orgs import failpoints

PLATFORM_FAILURE = "The platform could not unpack the bundle. Upload it again and deploy."
ABANDONED_FAILURE = "The release could not be finished for an hour. Upload it again and deploy."
DELETED_FAILURE = "The deployment was deleted."
FAILURE_CHARACTERS_MAX = 500


class UnableToRelease(Exception):
    """The bundle cannot become a release; the message says what to change."""


class ReleaseNotFound(Exception):
    """The deployment has no such release."""


class UnableToRollBack(Exception):
    """The release was never live, or there is none to go back to."""


def create(deployment: Deployment, *, bundle_sha256: str) -> Release:
    """A PENDING release of the deployment from a stored bundle; `publish` makes it live."""
    return Release.objects.create(deployment=deployment, bundle_sha256=bundle_sha256)


def publish(release: Release, *, at: datetime) -> Release:
    """Check, unpack and activate a PENDING release; one that was published stays as it is.

    The environment is the one of this moment. When a newer release went live in the meantime, this
    one is SUPERSEDED at once. Safe to repeat after a crash. Raises UnableToRelease for a FAILED
    release, or having marked it so; the release that was active stays active. Raises
    storage.UnableToReachStore, and the release stays PENDING.
    """
    release = Release.objects.select_related("deployment").get(pk=release.pk)
    if release.status == Release.Status.PENDING:
        try:
            release = _seal(release, _unpack(release))
            failpoints.reach("deploy.after_sealed")
            _prepare(release)
            release = _go_live(release, at=at)
            failpoints.reach("deploy.after_activated")
        except storage.UnableToReachStore:
            raise  # it stays PENDING: the next try finds the store again
        except UnableToRelease as error:
            _fail(release, str(error))
            raise
        except Exception:
            _fail(release, PLATFORM_FAILURE)
            raise
    if release.status == Release.Status.FAILED:
        raise UnableToRelease(release.failure)
    return release


def _unpack(release: Release) -> layout.Layout:
    """The release's files in place, and what they mean. Raises UnableToRelease."""
    try:
        with storage.open_bundle(release.bundle_sha256) as bundle, storage.unpacking() as folder:
            unpacked = confinement.unpack(bundle, folder)
            failpoints.reach("deploy.after_unpacked")
            storage.place_release(folder, release)
            failpoints.reach("deploy.after_placed")
    except (confinement.UnableToUnpack, storage.UnableToOpenBundle) as error:
        raise UnableToRelease(str(error)) from None
    return unpacked


def give_up(release: Release) -> None:
    """Mark a release FAILED that could not be finished for long; one that was finished stays."""
    _fail(release, ABANDONED_FAILURE)


def _fail(release: Release, reason: str) -> None:
    changed = Release.objects.filter(pk=release.pk, status=Release.Status.PENDING).update(
        status=Release.Status.FAILED, failure=reason[:FAILURE_CHARACTERS_MAX]
    )
    if changed:  # otherwise another process finished it, and the files are in use
        storage.remove_release(release)


def _seal(release: Release, unpacked: layout.Layout) -> Release:
    """Keep with the release what it consists of, unless another process has finished it."""
    with transaction.atomic():
        deployment, release = _locked(release)
        if release.status == Release.Status.PENDING:
            release.manifest = unpacked.manifest
            release.mode = unpacked.mode
            release.environment_sealed = environment.seal_snapshot(
                release, _environment(deployment, unpacked)
            )
            release.save()
        return release


def _prepare(release: Release) -> None:
    """Have the driver take the release's functions. Raises UnableToRelease."""
    try:
        drivers.prepare(functions(release))
    except (UnableToPrepare, drivers.UnableToRun) as error:
        raise UnableToRelease(str(error)) from None


def _go_live(release: Release, *, at: datetime) -> Release:
    """Activate, unless another process finished or overtook this release."""
    with transaction.atomic():
        deployment, release = _locked(release)
        if release.status != Release.Status.PENDING:
            return release
        if _is_overtaken(release):
            release.status = Release.Status.SUPERSEDED
            release.save()
        else:
            _point_at(deployment, release, at=at)
        failpoints.reach("deploy.before_activated")
        return release


def _environment(deployment: Deployment, unpacked: layout.Layout) -> dict[str, str]:
    try:
        return environment.final_environment(deployment, unpacked.environment)
    except variables.UnableToUseVariable as error:
        raise UnableToRelease(str(error)) from None


def _locked(release: Release) -> tuple[Deployment, Release]:
    """The deployment, locked, and the release as it is now. Raises UnableToRelease if deleted."""
    deployment = Deployment.objects.select_for_update().get(pk=release.deployment_id)
    if deployment.deleted_at is not None:
        storage.remove_release(release)
        raise UnableToRelease(DELETED_FAILURE)
    return deployment, Release.objects.get(pk=release.pk)


def _is_overtaken(release: Release) -> bool:
    return Release.objects.filter(
        deployment_id=release.deployment_id, pk__gt=release.pk, activated_at__isnull=False
    ).exists()


def _point_at(deployment: Deployment, release: Release, *, at: datetime) -> None:
    """Make `release` the active one; inside the transaction that holds the deployment's lock."""
    Release.objects.filter(deployment=deployment, status=Release.Status.ACTIVE).exclude(
        pk=release.pk
    ).update(status=Release.Status.SUPERSEDED)
    release.status = Release.Status.ACTIVE
    release.activated_at = at
    release.save()
    deployment.active_release = release
    deployment.deployed_at = at
    deployment.save(update_fields=["active_release", "deployed_at"])


def activate(release: Release, *, at: datetime) -> Release:
    """Make a release that was live before the active one again, with the environment it had.

    Raises UnableToRollBack for one that never was live; UnableToRelease when its bundle is gone,
    storage.UnableToReachStore when it cannot be had right now.
    """
    if release.activated_at is None or not release.environment_sealed:
        raise UnableToRollBack(
            f"Release {release.public_id} was never live; deploy again instead of rolling back."
        )
    if not storage.is_placed(release):
        restore(release)
    _prepare(release)
    with transaction.atomic():
        deployment, release = _locked(release)
        if deployment.active_release_id != release.pk:
            _point_at(deployment, release, at=at)
    return release


def restore(release: Release) -> None:
    """Bring the files of a release back from its bundle (blocking; no database).

    Raises UnableToRelease, storage.UnableToReachStore.
    """
    _unpack(release)


def functions(release: Release) -> list[FunctionSpec]:
    """The functions of a release that was unpacked, as drivers take them.

    Raises vault.UnableToDecrypt when its environment cannot be read.
    """
    values = environment.open_snapshot(release)
    folder = storage.release_folder(release)
    return [
        FunctionSpec(
            deployment_id=release.deployment_id,
            deploy_id=release.deployment.deploy_id,
            release_id=release.public_id,
            function_name=name,
            folder=folder / function["folder"],
            entry=function["entry"],
            environment=values,
        )
        for name, function in release.manifest.get("functions", {}).items()
    ]


def function_names(found: Iterable[Release]) -> set[str]:
    """Names of the functions these releases have."""
    return {name for release in found for name in release.manifest.get("functions", {})}


def in_use(deployment: Deployment) -> QuerySet[Release]:
    """The active release, the one to go back to first, and those that are being made."""
    kept = Q(pk=deployment.active_release_id) | Q(status=Release.Status.PENDING)
    with contextlib.suppress(UnableToRollBack):
        kept |= Q(pk=previous(deployment).pk)
    return Release.objects.filter(kept, deployment=deployment)


def done_with(deployment: Deployment, *, limit: int = 10) -> list[Release]:
    """The newest of the other releases."""
    others = Release.objects.filter(deployment=deployment).exclude(pk__in=in_use(deployment))
    return list(others.select_related("deployment").order_by("-pk")[:limit])


def find(deployment: Deployment, public_id: str) -> Release:
    """The deployment's release with this id. Raises ReleaseNotFound."""
    release = Release.objects.filter(deployment=deployment, public_id=public_id).first()
    if release is None:
        raise ReleaseNotFound(f"No release {public_id} of {deployment.deploy_id}.")
    return release


def previous(deployment: Deployment) -> Release:
    """The newest release before the active one that was live. Raises UnableToRollBack."""
    release = (
        Release.objects.filter(
            deployment=deployment,
            pk__lt=deployment.active_release_id or 0,
            activated_at__isnull=False,
        )
        .order_by("-pk")
        .first()
    )
    if release is None:
        raise UnableToRollBack("There is no earlier release to roll back to.")
    return release


def recent(deployment: Deployment, *, limit: int = 50) -> list[Release]:
    """The deployment's releases, newest first."""
    return list(Release.objects.filter(deployment=deployment).order_by("-pk")[:limit])


def latest(deployment: Deployment) -> Release | None:
    """The release made last, whatever became of it."""
    return Release.objects.filter(deployment=deployment).order_by("-pk").first()
