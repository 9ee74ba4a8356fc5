"""What is kept how long: uploads, bundles, releases and their working copies; and its removal.

Owns who needs a bundle: a release somebody may go back to, or an upload that waits for its deploy.
Must not know how files are kept (storage.py).
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice

from django.conf import settings
from django.db.models import Q, QuerySet

from deployments import releases, storage
from deployments.models import Deployment, Release, Upload

logger = logging.getLogger(__name__)

ISSUED_RETENTION = timedelta(days=1)
RECEIVED_RETENTION = timedelta(days=7)
# Younger ones may belong to an upload that is being noted this moment.
ORPHAN_AGE = timedelta(days=1)
SWEEP_BATCH = 500


def tidy(deployment: Deployment) -> None:
    """Keep what going back needs, by RELEASES_KEPT_MAX and RELEASES_UNPACKED_MAX; remove the rest.

    The active release and the one before it are always kept. Never raises for a store that is away:
    `sweep` comes back.
    """
    deployment.refresh_from_db(fields=["active_release"])
    needed = {deployment.active_release_id}
    with contextlib.suppress(releases.UnableToRollBack):
        needed.add(releases.previous(deployment).pk)
    passing = list(
        Release.objects.filter(deployment=deployment)
        .exclude(Q(pk__in=needed - {None}) | Q(status=Release.Status.PENDING))
        .order_by("-pk")
    )
    usable = [release for release in passing if release.activated_at is not None]
    others = [release for release in passing if release.activated_at is None]
    for release in usable[settings.RELEASES_UNPACKED_MAX :] + others:
        storage.remove_release(release)
    forgotten = usable[settings.RELEASES_KEPT_MAX :] + others[settings.RELEASES_KEPT_MAX :]
    gone = Release.objects.filter(pk__in=[release.pk for release in forgotten])
    gone.exclude(status=Release.Status.ACTIVE).delete()  # somebody may have just gone back to it
    hashes = {release.bundle_sha256 for release in passing}
    hashes |= set(_uploads_with_file(deployment).values_list("sha256", flat=True))
    forget_unused(hashes)


def remove_all(deployment: Deployment) -> None:
    """Remove a deleted deployment's files and uploads; bundles only if nobody else uses them."""
    own = list(Release.objects.filter(deployment=deployment))
    for release in own:
        storage.remove_release(release)
    hashes = {release.bundle_sha256 for release in own}
    hashes |= set(_uploads_with_file(deployment).values_list("sha256", flat=True))
    Upload.objects.filter(deployment=deployment).delete()
    forget_unused(hashes)


def _uploads_with_file(deployment: Deployment) -> QuerySet[Upload]:
    return Upload.objects.filter(deployment=deployment).exclude(sha256="")


def forget_unused(hashes: Iterable[str]) -> int:
    """Remove those of these bundles that nobody needs; how many.

    A store that is away keeps them until `sweep`.
    """
    unused = _unused(hashes)
    for count, sha256 in enumerate(unused):
        try:
            storage.remove_bundle(sha256)
        except storage.UnableToReachStore:
            logger.exception("Unused bundles could not be removed; a later sweep will.")
            return count
    return len(unused)


def _unused(hashes: Iterable[str]) -> list[str]:
    wanted = set(hashes)
    alive = Q(deployment__deleted_at=None)
    by_release = Release.objects.filter(alive, bundle_sha256__in=wanted).exclude(
        status=Release.Status.FAILED
    )
    by_upload = Upload.objects.filter(alive, sha256__in=wanted, status=Upload.Status.RECEIVED)
    used = set(by_release.values_list("bundle_sha256", flat=True))
    return sorted(wanted - used - set(by_upload.values_list("sha256", flat=True)))


def purge_uploads(*, at: datetime) -> int:
    """Forget upload URLs nobody used, old uploads and interrupted ones' files; how many in all."""
    issued = Q(status=Upload.Status.ISSUED, created_at__lt=at - ISSUED_RETENTION)
    old = Q(received_at__lt=at - RECEIVED_RETENTION)
    hashes = set(Upload.objects.filter(old).values_list("sha256", flat=True)) - {""}
    deleted, _ = Upload.objects.filter(issued | old).delete()
    forget_unused(hashes)
    return deleted + storage.remove_leftovers(at=at)


def sweep(*, at: datetime) -> int:
    """Remove files that no row accounts for, on this host and in the store; how many.

    Left by a process that was killed, or by a deployment deleted on another host. Raises
    storage.UnableToReachStore.
    """
    removed = 0
    for names in _batches(storage.unpacked_releases()):
        kept = Release.objects.filter(public_id__in=names, deployment__deleted_at=None)
        kept = kept.exclude(status=Release.Status.FAILED)
        for name in set(names) - set(kept.values_list("public_id", flat=True)):
            storage.remove_release_by_id(name)
            removed += 1
    for hashes in _batches(storage.stored_bundles()):
        old = [one for one in _unused(hashes) if storage.is_older(one, at - ORPHAN_AGE)]
        removed += forget_unused(old)
    return removed


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    """The names, SWEEP_BATCH at a time: databases limit the length of a list."""
    left = iter(names)
    while batch := list(islice(left, SWEEP_BATCH)):
        yield batch
