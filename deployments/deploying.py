"""Deploying: presigned upload, deploy, redeploy, roll back, delete.

Orchestrates the nouns around it; owns the upload token and the order of steps. Must not know who
asks (HTTP, console, task) and never waits for a task: work is enqueued by name, on commit.
"""

import logging
import secrets
from datetime import datetime, timedelta

from celery import current_app
from django.conf import settings
from django.core import signing
from django.db import transaction

from deployments import directory, environment, logs, releases, retention, storage
from deployments.models import Deployment, Release, Upload
from deployments.runtime import drivers
from orgs import failpoints

UPLOAD_SALT = "deployments.deploying:upload"
UPLOAD_PATH = "/api/data/uploads/"
# Longer than an unpacking may take, so that what still waits then has nobody who works on it.
PENDING_PATIENCE = timedelta(minutes=5)
PENDING_MAX = timedelta(hours=1)
PENDING_BATCH = 100
TIDY_SECONDS = 120  # requests that found the release before it was superseded are over by then


logger = logging.getLogger(__name__)


class UploadNotAllowed(Exception):
    """The upload token is forged, altered or expired, or its deployment is gone."""


class UploadAlreadyUsed(Exception):
    """A file was received under this token already."""


class TooManyUploads(Exception):
    """More upload URLs are waiting to be used than a deployment may have."""


class NothingToDeploy(Exception):
    """No file was received since the last deploy; the message says what to do."""


# --- Uploading -------------------------------------------------------------------------------


@transaction.atomic
def issue_upload(deployment: Deployment, *, at: datetime) -> str:
    """A URL that takes one PUT of one bundle for this deployment, for UPLOAD_SECONDS_MAX.

    Raises TooManyUploads when UPLOADS_OUTSTANDING_MAX wait to be used.
    """
    Deployment.objects.select_for_update().get(pk=deployment.pk)
    oldest = at - timedelta(seconds=settings.UPLOAD_SECONDS_MAX)
    waiting = Upload.objects.filter(
        deployment=deployment, status=Upload.Status.ISSUED, created_at__gt=oldest
    )
    if waiting.count() >= settings.UPLOADS_OUTSTANDING_MAX:
        raise TooManyUploads(
            f"{settings.UPLOADS_OUTSTANDING_MAX} upload URLs of {deployment.deploy_id} were not "
            f"used yet. Use one of them, or wait {settings.UPLOAD_SECONDS_MAX // 60} minutes for "
            "them to expire."
        )
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


# --- Deploying -------------------------------------------------------------------------------


def deploy(deployment: Deployment, *, at: datetime) -> Release:
    """Make the bundle received last the active release.

    Repeating the call without a new upload answers what became of the last one, so that a lost
    answer can be asked for again. Raises NothingToDeploy, and releases.UnableToRelease with the
    reason; the release that was active then stays active. storage.UnableToReachStore leaves the
    release PENDING: repeating the call goes on with it.
    """
    release = _release_to_publish(deployment)
    failpoints.reach("deploy.after_release_created")
    return _publish(release, at=at)


def _publish(release: Release, *, at: datetime) -> Release:
    """Publish, and put away what nobody needs any more, however it went."""
    try:
        return releases.publish(release, at=at)
    finally:
        retention.tidy(release.deployment)
        _tidy_later(release.deployment)
        failpoints.reach("deploy.after_tidied")


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
        _publish(release, at=at)
    except releases.UnableToRelease:
        return  # the reason is in `release.failure`, where people look; a retry changes nothing
    except storage.UnableToReachStore:
        logger.warning("Release %s waits for the store of bundles.", release)


def finish_pending(*, at: datetime) -> int:
    """See to releases that wait since PENDING_PATIENCE; how many.

    Their task was lost, or the process that made them was killed: each is handed to a task again,
    which goes on from what is there. After PENDING_MAX it is FAILED instead.
    """
    waiting = Release.objects.filter(
        status=Release.Status.PENDING, created_at__lt=at - PENDING_PATIENCE
    ).order_by("pk")[:PENDING_BATCH]
    for release in waiting:
        if release.created_at < at - PENDING_MAX:
            releases.give_up(release)
        else:
            _enqueue(release)
    return len(waiting)


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
    """Take the site down for good: its key dies with it, files, environment and logs are removed.

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
    logs.clear(deployment)
    transaction.on_commit(lambda: retention.remove_all(deployment), robust=True)
    transaction.on_commit(lambda: _tidy_later(deployment), robust=True)


# --- Functions kept elsewhere ----------------------------------------------------------------


def _tidy_later(deployment: Deployment) -> None:
    """Have functions that serve nobody any more removed from where the driver keeps them."""
    if drivers.keeps_functions():
        current_app.send_task(
            "deployments.tidy_functions",
            kwargs={"deploy_id": deployment.deploy_id},
            countdown=TIDY_SECONDS,
        )


def tidy_functions(deploy_id: str) -> None:
    """Remove the functions of a deleted deployment, or of releases that serve nobody any more.

    Raises the driver's errors: what is left is then removed when the task is tried again.
    """
    deployment = Deployment.objects.get(deploy_id=deploy_id)
    if deployment.deleted_at is not None:
        drivers.delete(deploy_id, releases.function_names(deployment.releases.all()))
        return
    needed = releases.function_names(releases.in_use(deployment))
    done = [spec for each in releases.done_with(deployment) for spec in releases.functions(each)]
    drivers.retire([spec for spec in done if spec.function_name in needed])
    drivers.delete(deploy_id, {spec.function_name for spec in done} - needed)
