"""Bundles in a folder and in a real S3 server on loopback: the same for whoever uses them."""

import os
from collections.abc import Iterator
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import boto3
import pytest
from django.core.files.storage import storages
from django.core.management import call_command
from django.utils import timezone
from moto.server import ThreadedMotoServer

from config import bundle_store
from deployments import deploying, releases, retention, storage, tasks
from deployments.models import Deployment, Release, Upload
from orgs.models import Workspace
from tests import factories
from tests.deployments.releasing import deploy, keep, upload
from tests.deployments.zips import static_site

LARGE = static_site(**{"static/noise.bin": os.urandom(20 * 1024 * 1024)})


@pytest.fixture(scope="module")
def s3_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def bucket(s3_url: str, monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Any]:
    """An empty bucket in which bundles are kept from now on."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-the-test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-the-test")
    bucket = boto3.resource("s3", endpoint_url=s3_url, region_name="us-east-1").Bucket("bundles")
    bucket.create()
    url = f"s3://bundles/kept/here?endpoint={s3_url}&region=us-east-1"
    entry = bundle_store.backend(url, Path("unused"))
    settings.STORAGES = {**settings.STORAGES, "bundles": entry}
    yield bucket
    bucket.objects.all().delete()
    bucket.delete()


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> str:
    if request.param == "s3":
        request.getfixturevalue("bucket")
    return str(request.param)


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace, deployed=False)


def test_what_is_kept_comes_back_under_its_content(store: str, settings: Any) -> None:
    for content in (b"small", LARGE):
        kept = keep(content)
        assert kept.size_bytes == len(content)
        with storage.open_bundle(kept.sha256) as bundle:
            assert bundle.read() == content
    assert keep(LARGE).sha256 in set(storage.stored_bundles())
    assert len(list(storage.stored_bundles())) == 2
    assert os.listdir(settings.INCOMING_DIR) == []


def test_a_bundle_can_be_read_by_a_child_through_its_descriptor(store: str) -> None:
    kept = keep(LARGE)
    with storage.open_bundle(kept.sha256) as bundle:
        assert os.fstat(bundle.fileno()).st_size == len(LARGE)


def test_a_removed_bundle_is_gone_and_may_be_removed_again(store: str) -> None:
    kept = keep(b"content")
    for _ in range(2):
        storage.remove_bundle(kept.sha256)
    with pytest.raises(storage.UnableToOpenBundle, match="upload it again"):
        storage.open_bundle(kept.sha256)
    assert list(storage.stored_bundles()) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A" * 64, "a" * 63])
def test_only_digests_name_bundles(store: str, name: str, db: None) -> None:
    with pytest.raises(storage.UnableToOpenBundle):
        storage.open_bundle(name)


def test_a_release_is_made_rolled_back_and_brought_back(store: str, deployment: Deployment) -> None:
    first = deploy(deployment, static_site("one"))
    deploy(deployment, static_site("two"))
    storage.remove_release(first)
    deployment.refresh_from_db()
    deploying.roll_back(deployment, None, at=timezone.now())
    page = storage.release_folder(first) / "static" / "index.html"
    assert page.read_text() == "one"


def test_bundles_lie_below_the_prefix_and_are_not_public(bucket: Any) -> None:
    kept = keep(b"content")
    (found,) = bucket.objects.all()
    assert found.key == f"kept/here/{kept.sha256[:2]}/{kept.sha256}.zip"
    grants = found.Object().Acl().grants
    assert not any("AllUsers" in grant["Grantee"].get("URI", "") for grant in grants)


def test_files_of_a_folder_are_for_this_user_alone(settings: Any) -> None:
    kept = keep(b"content")
    path = Path(storages["bundles"].path(f"{kept.sha256[:2]}/{kept.sha256}.zip"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_an_upload_to_s3_stays_within_a_part_of_memory(bucket: Any) -> None:
    """What boto3 may hold at once: one part, sent by one thread."""
    transfer = storages["bundles"].transfer_config
    assert transfer.use_threads is False
    assert transfer.multipart_chunksize == 8 * 1024 * 1024


def test_a_store_that_is_away_leaves_the_release_pending_and_a_repeat_finishes_it(
    bucket: Any, deployment: Deployment, settings: Any
) -> None:
    upload(deployment, static_site())
    reachable = settings.STORAGES
    away = bundle_store.backend("s3://bundles?endpoint=http://127.0.0.1:9", Path("unused"))
    settings.STORAGES = {**reachable, "bundles": away}
    with pytest.raises(storage.UnableToReachStore, match="Try again"):
        deploying.deploy(deployment, at=timezone.now())
    pending = releases.latest(deployment)
    assert pending is not None
    assert pending.status == Release.Status.PENDING
    settings.STORAGES = reachable
    assert deploying.deploy(deployment, at=timezone.now()) == pending
    pending.refresh_from_db()
    assert pending.status == Release.Status.ACTIVE


# --- Retention ---------------------------------------------------------------------------------


def is_kept(sha256: str) -> bool:
    return sha256 in set(storage.stored_bundles())


def test_a_refused_bundle_is_not_kept(store: str, deployment: Deployment) -> None:
    with pytest.raises(releases.UnableToRelease):
        deploy(deployment, b"PK\x03\x04 junk")
    assert list(storage.stored_bundles()) == []


def test_old_releases_are_packed_away_and_come_back_when_needed(
    deployment: Deployment, settings: Any
) -> None:
    settings.RELEASES_UNPACKED_MAX = 1
    made = [deploy(deployment, static_site(page)) for page in "abcde"]
    unpacked = [storage.is_placed(release) for release in made]
    # The active one, the one before it, and one more.
    assert unpacked == [False, False, True, True, True]
    deployment.refresh_from_db()
    deploying.roll_back(deployment, made[0].public_id, at=timezone.now())
    page = storage.release_folder(made[0]) / "static" / "index.html"
    assert page.read_text() == "a"


def test_releases_beyond_those_kept_are_forgotten_with_their_bundles(
    deployment: Deployment, settings: Any
) -> None:
    settings.RELEASES_KEPT_MAX = settings.RELEASES_UNPACKED_MAX = 1
    made = [deploy(deployment, static_site(page)) for page in "abcd"]
    deployment.refresh_from_db()
    deploying.roll_back(deployment, made[1].public_id, at=timezone.now())
    made.append(deploy(deployment, static_site("e")))
    left = set(deployment.releases.values_list("pk", flat=True))
    assert made[0].pk not in left
    assert made[-1].pk in left
    assert not is_kept(made[0].bundle_sha256)
    assert not storage.is_placed(made[0])
    assert is_kept(made[-1].bundle_sha256)
    deployment.refresh_from_db()
    deploying.roll_back(deployment, None, at=timezone.now())


def test_an_old_active_release_is_kept_whatever_failed_since(
    deployment: Deployment, settings: Any
) -> None:
    settings.RELEASES_KEPT_MAX = settings.RELEASES_UNPACKED_MAX = 1
    live = deploy(deployment, static_site())
    for _ in range(4):
        with pytest.raises(releases.UnableToRelease):
            deploy(deployment, b"PK\x03\x04 junk")
    deployment.refresh_from_db()
    assert deployment.active_release == live
    assert storage.is_placed(live)
    assert is_kept(live.bundle_sha256)
    assert deployment.releases.count() == 2


def test_an_upload_nobody_deployed_is_forgotten_after_a_week(deployment: Deployment) -> None:
    received = upload(deployment, static_site())
    sha256 = Upload.objects.get(pk=received.pk).sha256
    retention.purge_uploads(at=timezone.now() + timedelta(days=6))
    assert is_kept(sha256)
    retention.purge_uploads(at=timezone.now() + timedelta(days=8))
    assert not is_kept(sha256)


def test_files_without_a_row_are_swept_and_others_stay(
    store: str, deployment: Deployment, settings: Any
) -> None:
    live = deploy(deployment, static_site())
    orphan = keep(b"of a process that was killed")
    gone = factories.make_deployment(
        workspace=deployment.workspace, prefix="gone", is_default=False, deployed=False
    )
    elsewhere = deploy(gone, static_site("of a deployment deleted on another host"))
    Deployment.objects.filter(pk=gone.pk).update(deleted_at=timezone.now())
    tasks.sweep_storage.apply().get()
    assert is_kept(orphan.sha256), "it may belong to an upload of this moment"
    assert not storage.is_placed(elsewhere)
    assert storage.is_placed(live)
    retention.sweep(at=timezone.now() + timedelta(days=2))
    assert list(storage.stored_bundles()) == [live.bundle_sha256]


def test_a_host_without_a_worker_sweeps_by_command(deployment: Deployment) -> None:
    release = deploy(deployment, static_site())
    Release.objects.filter(pk=release.pk).update(status=Release.Status.FAILED)
    said = StringIO()
    call_command("sweep_storage", stdout=said)
    assert not storage.is_placed(release)
    assert "Removed 1 " in said.getvalue()


def test_a_workspace_has_room_for_so_many_deployments(
    agent: Any, deployment: Deployment, settings: Any
) -> None:
    settings.DEPLOYMENTS_PER_WORKSPACE_MAX = 2
    assert agent("deployments/get-upload-url", {"id": "second"}).status_code == 200
    refused = agent("deployments/get-upload-url", {"id": "third"})
    assert refused.status_code == 409
    assert refused.json()["error"]["code"] == "too_many_deployments"
    assert "Delete one" in refused.json()["error"]["message"]
    assert agent("deployments/get-upload-url", {"id": "second"}).status_code == 200


def test_too_many_unused_urls_are_refused_over_http(agent: Any, settings: Any) -> None:
    settings.UPLOADS_OUTSTANDING_MAX = 1
    assert agent("deployments/get-upload-url", {}).status_code == 200
    refused = agent("deployments/get-upload-url", {})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_uploads")
