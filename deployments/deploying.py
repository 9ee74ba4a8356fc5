"""Deploying: presigned upload, deploy, redeploy, roll back, delete.

Orchestrates the nouns around it; owns the upload token and the order of steps. Must not know who
asks (HTTP, console, task) and never waits for a task: work is enqueued by name, on commit.
"""

import secrets
from datetime import datetime, timedelta

from celery import current_app
from django.conf import settings
from django.core import signing
from django.db import transaction

from deployments import directory, environment, releases, storage
from deployments.models import Deployment, Release, Upload
from deployments.runtime import drivers

UPLOAD_SALT = "deployments.deploying:upload"
UPLOAD_PATH = "/api/data/uploads/"
ISSUED_RETENTION = timedelta(days=1)
TIDY_SECONDS = 120  # requests that found the release before it was superseded are over by then


class UploadNotAllowed(Exception):
    """The upload token is forged, altered or expired, or its deployment is gone."""


class UploadAlreadyUsed(Exception):
    """A file was received under this token already."""


class NothingToDeploy(Exception):
    """No file was received since the last deploy; the message says what to do."""


# --- Uploading -------------------------------------------------------------------------------


def issue_upload(deployment: Deployment) -> str:
    """A URL that takes one PUT of one bundle for this deployment, for UPLOAD_SECONDS_MAX."""
    upload = Upload.objects.create(deployment=deployment, nonce=secrets.token_urlsafe(32))
    token = signing.dumps(
        {"deployment": deployment.deploy_id, "nonce": upload.nonce}, salt=UPLOAD_SALT
    )
    return f"{settings.PUBLIC_URL}{UPLOAD_PATH}{token}"


def expect_upload(token: str) -> Upload:
    """The upload `token` allows. Raises UploadNotAllowed, UploadAlreadyUsed."""
    try:
        claims = signing.loads(token, salt=UPLOAD_SALT, max_age=settings.UPLOAD_SECONDS_MAX)
    except signing.SignatureExpired:
        raise UploadNotAllowed(
            "This upload URL has expired; ask for a new one with get-upload-url."
        ) from None
    except signing.BadSignature:
        raise UploadNotAllowed("This upload URL is not valid.") from None
    upload = Upload.objects.filter(
        nonce=claims["nonce"],
        deployment__deploy_id=claims["deployment"],
        deployment__deleted_at=None,
    ).first()
    if upload is None:
        raise UploadNotAllowed("This upload URL belongs to a deployment that was deleted.")
    if upload.status != Upload.Status.ISSUED:
        raise _used()
    return upload


def receive(upload: Upload, bundle: storage.StoredBundle, *, at: datetime) -> None:
    """Note that the bundle arrived; the token is spent. Raises UploadAlreadyUsed."""
    changed = Upload.objects.filter(pk=upload.pk, status=Upload.Status.ISSUED).update(
        status=Upload.Status.RECEIVED,
        sha256=bundle.sha256,
        size_bytes=bundle.size_bytes,
        received_at=at,
    )
    if not changed:
        raise _used()


def _used() -> UploadAlreadyUsed:
    return UploadAlreadyUsed(
        "This upload URL was used already; ask for a new one with get-upload-url."
    )


def purge_uploads(*, at: datetime) -> int:
    """Forget upload URLs nobody used, and files of interrupted uploads; how many in all."""
    deleted, _ = Upload.objects.filter(
        status=Upload.Status.ISSUED, created_at__lt=at - ISSUED_RETENTION
    ).delete()
    return deleted + storage.remove_leftovers(at=at)


# --- Deploying -------------------------------------------------------------------------------


def deploy(deployment: Deployment, *, at: datetime) -> Release:
    """Make the bundle received last the active release.

    Repeating the call without a new upload answers what became of the last one, so that a lost
    answer can be asked for again. Raises NothingToDeploy, and releases.UnableToRelease with the
    reason; the release that was active then stays active.
    """
    release = _release_to_publish(deployment)
    try:
        return releases.publish(release, at=at)
    finally:
        _tidy_later(deployment)


@transaction.atomic
def _release_to_publish(deployment: Deployment) -> Release:
    if Deployment.objects.select_for_update().get(pk=deployment.pk).deleted_at is not None:
        raise directory.DeploymentNotFound
    received = Upload.objects.filter(deployment=deployment, status=Upload.Status.RECEIVED)
    upload = received.order_by("-received_at", "-pk").first()
    if upload is None:
        return _release_of_last_upload(deployment)
    release = releases.create(deployment, bundle_sha256=upload.sha256)
    # Older ones too: a later deploy without an upload must not go back to them.
    received.update(status=Upload.Status.CONSUMED)
    return release


def _release_of_last_upload(deployment: Deployment) -> Release:
    upload = Upload.objects.filter(deployment=deployment).order_by("-pk").first()
    release = releases.latest(deployment)
    if (
        upload is not None
        and upload.status == Upload.Status.CONSUMED
        and release is not None
        and release.bundle_sha256 == upload.sha256
        and release.status != Release.Status.SUPERSEDED
    ):
        return release
    raise NothingToDeploy(
        "No new bundle was uploaded. Call get-upload-url, PUT your zip to its uploadUrl, then "
        "deploy."
    )


def redeploy(deployment: Deployment) -> Release:
    """Ask for the active release's bundle to be released again with the environment of now.

    The PENDING release is answered at once; a task publishes it. Raises
    directory.DeploymentNotFound when nothing is deployed.
    """
    active = deployment.active_release
    if active is None:
        raise directory.DeploymentNotFound
    with transaction.atomic():
        release = releases.create(deployment, bundle_sha256=active.bundle_sha256)
        transaction.on_commit(lambda: _enqueue(release))
    return release


def _enqueue(release: Release) -> None:
    current_app.send_task("deployments.redeploy", kwargs={"release_id": release.public_id})


def finish_redeploy(release_id: str, *, at: datetime) -> None:
    """Publish the PENDING release `redeploy` answered. A failure is kept with the release."""
    release = Release.objects.filter(public_id=release_id).first()
    if release is None:
        return
    try:
        releases.publish(release, at=at)
    except releases.UnableToRelease:
        pass  # the reason is in `release.failure`, where people look; a retry changes nothing
    finally:
        _tidy_later(release.deployment)


def update_environment(
    deployment: Deployment, changes: dict[str, str | None], *, and_redeploy: bool
) -> tuple[list[str], Release | None]:
    """Merge `changes` into the environment; the names then set, and the release if redeployed.

    Raises variables.UnableToUseVariable and directory.DeploymentNotFound, changing nothing.
    """
    with transaction.atomic():
        names = environment.update(deployment, changes)
        return names, redeploy(deployment) if and_redeploy else None


def roll_back(deployment: Deployment, release_id: str | None, *, at: datetime) -> Release:
    """Activate an earlier release, by default the one before the active one.

    Raises releases.ReleaseNotFound, UnableToRollBack, UnableToRelease.
    """
    if release_id is None:
        release = releases.previous(deployment)
    else:
        release = releases.find(deployment, release_id)
    active = releases.activate(release, at=at)
    _tidy_later(deployment)
    return active


@transaction.atomic
def delete(deployment: Deployment, *, at: datetime) -> None:
    """Take the site down for good: its key dies with it, environment and files are removed.

    The row stays, because billing records outlive it. Deleting twice keeps the first time.
    """
    deployment = Deployment.objects.select_for_update().get(pk=deployment.pk)
    if deployment.deleted_at is not None:
        return
    deployment.deleted_at = at
    deployment.active_release = None
    deployment.save(update_fields=["deleted_at", "active_release"])
    own = Release.objects.filter(deployment=deployment)
    own.filter(status=Release.Status.ACTIVE).update(status=Release.Status.SUPERSEDED)
    own.filter(status=Release.Status.PENDING).update(
        status=Release.Status.FAILED, failure=releases.DELETED_FAILURE
    )
    environment.clear(deployment)
    transaction.on_commit(lambda: _remove_files(deployment), robust=True)
    transaction.on_commit(lambda: _tidy_later(deployment, seconds=0), robust=True)


def _remove_files(deployment: Deployment) -> None:
    """Files of a deleted deployment; bundles only when no living deployment has the same one."""
    own_releases = list(Release.objects.filter(deployment=deployment))
    for release in own_releases:
        storage.remove_release(release)
    uploads = Upload.objects.filter(deployment=deployment).exclude(sha256="")
    hashes = {release.bundle_sha256 for release in own_releases}
    for sha256 in hashes | set(uploads.values_list("sha256", flat=True)):
        if not _is_used(sha256):
            storage.remove_bundle(sha256)


def _is_used(sha256: str) -> bool:
    alive = {"deployment__deleted_at": None}
    return (
        Release.objects.filter(bundle_sha256=sha256, **alive).exists()
        or Upload.objects.filter(sha256=sha256, **alive).exists()
    )


# --- Functions kept elsewhere ----------------------------------------------------------------


def _tidy_later(deployment: Deployment, *, seconds: int = TIDY_SECONDS) -> None:
    """Have functions that serve nobody any more removed from where the driver keeps them."""
    if drivers.keeps_functions():
        current_app.send_task(
            "deployments.tidy_functions",
            kwargs={"deploy_id": deployment.deploy_id},
            countdown=seconds,
        )


def tidy_functions(deploy_id: str) -> None:
    """Remove the functions of a deleted deployment, or of releases that serve nobody any more.

    Raises the driver's errors: what is left is then removed when the task is tried again.
    """
    deployment = Deployment.objects.get(deploy_id=deploy_id)
    if deployment.deleted_at is not None:
        drivers.delete(deploy_id, releases.function_names(deployment))
        return
    drivers.retire(
        [spec for release in releases.done_with(deployment) for spec in releases.functions(release)]
    )
