"""From the bytes of a zip to a release, the way uploads.py and the data API go."""

from django.utils import timezone

from deployments import deploying, storage
from deployments.models import Deployment, Release, Upload


def keep(bundle: bytes) -> storage.StoredBundle:
    """The zip in the store, as after a PUT."""
    with storage.Incoming() as incoming:
        incoming.write(bundle)
        return incoming.keep()


def upload(deployment: Deployment, bundle: bytes) -> Upload:
    """A received upload of the zip."""
    token = deploying.issue_upload(deployment, at=timezone.now()).rpartition("/")[2]
    expected = deploying.expect_upload(token)
    deploying.receive(expected, keep(bundle), at=timezone.now())
    return expected


def deploy(deployment: Deployment, bundle: bytes) -> Release:
    """The zip uploaded and deployed. Raises releases.UnableToRelease."""
    upload(deployment, bundle)
    return deploying.deploy(deployment, at=timezone.now())
