"""From an uploaded bundle to a live release, and back; what fails leaves the old one serving."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from config.celery import app
from deployments import deploying, directory, environment, logs, releases, retention, storage, tasks
from deployments.models import Deployment, LogEntry, Release, Upload
from orgs.models import Workspace
from tests import factories
from tests.deployments.releasing import deploy, keep, upload
from tests.deployments.zips import function_site, make_zip, static_site

NOW = timezone.now()


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace, deployed=False)


def test_a_deploy_unpacks_and_activates(deployment: Deployment, settings: Any) -> None:
    environment.update(deployment, {"A": "user"})
    release = deploy(deployment, function_site(**{".env.production": "A=bundle\nB=bundle\n"}))
    deployment.refresh_from_db()
    assert deployment.active_release == release
    assert deployment.deployed_at is not None
    assert (release.status, release.mode) == (Release.Status.ACTIVE, Release.Mode.SSR)
    assert release.manifest["functions"] == {
        "default": {"folder": "functions/default.func", "entry": "index.js"}
    }
    folder = Path(settings.RELEASES_DIR) / release.public_id
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".platform", "config.json", "functions"]
    snapshot = environment.open_snapshot(release)
    assert (snapshot["A"], snapshot["B"]) == ("user", "bundle")
    assert "bundle" not in release.environment_sealed
    assert list(folder.parent.iterdir()) == [folder]


def test_a_newer_deploy_supersedes_the_older(deployment: Deployment) -> None:
    first = deploy(deployment, static_site("one"))
    second = deploy(deployment, static_site("two"))
    first.refresh_from_db()
    deployment.refresh_from_db()
    assert first.status == Release.Status.SUPERSEDED
    assert deployment.active_release == second


@pytest.mark.parametrize(
    ("bundle", "problem"),
    [
        (b"not a zip", "not a readable zip"),
        (make_zip({"static/index.html": "x"}), "no config.json"),
        (make_zip({"../x": "x"}), "'../x'"),
    ],
)
def test_a_failed_deploy_leaves_the_old_release_active(
    bundle: bytes, problem: str, deployment: Deployment, settings: Any
) -> None:
    live = deploy(deployment, static_site())
    with pytest.raises(releases.UnableToRelease, match=problem):
        deploy(deployment, bundle)
    deployment.refresh_from_db()
    live.refresh_from_db()
    failed = releases.latest(deployment)
    assert failed is not None
    assert deployment.active_release == live
    assert live.status == Release.Status.ACTIVE
    assert failed.status == Release.Status.FAILED
    assert problem in failed.failure
    assert [path.name for path in Path(settings.RELEASES_DIR).iterdir()] == [live.public_id]


def test_a_repeated_deploy_answers_the_same_again(deployment: Deployment) -> None:
    release = deploy(deployment, static_site())
    assert deploying.deploy(deployment, at=NOW).pk == release.pk
    with pytest.raises(releases.UnableToRelease, match="not a readable zip"):
        deploy(deployment, b"junk")
    with pytest.raises(releases.UnableToRelease, match="not a readable zip"):
        deploying.deploy(deployment, at=NOW)
    assert deployment.releases.count() == 2


def test_a_deploy_interrupted_halfway_is_finished_by_repeating_it(deployment: Deployment) -> None:
    received = upload(deployment, static_site())
    Upload.objects.filter(pk=received.pk).update(status=Upload.Status.CONSUMED)
    bundle = Upload.objects.get(pk=received.pk).sha256
    pending = releases.create(deployment, bundle_sha256=bundle)
    with storage.unpacking() as folder:  # the files are in place already, the row is not
        (folder / "config.json").touch()
        storage.place_release(folder, pending)
    release = deploying.deploy(deployment, at=NOW)
    assert release.pk == pending.pk
    assert release.status == Release.Status.ACTIVE


def test_deploying_without_an_upload_says_what_to_do(deployment: Deployment) -> None:
    with pytest.raises(deploying.NothingToDeploy, match="get-upload-url"):
        deploying.deploy(deployment, at=NOW)
    deploy(deployment, static_site())
    deploying.issue_upload(deployment, at=timezone.now())  # asked for, never filled
    with pytest.raises(deploying.NothingToDeploy):
        deploying.deploy(deployment, at=NOW)


def test_of_two_uploads_the_later_is_deployed_and_the_earlier_forgotten(
    deployment: Deployment,
) -> None:
    upload(deployment, static_site("one"))
    later = upload(deployment, static_site("two"))
    later.refresh_from_db()
    assert deploying.deploy(deployment, at=NOW).bundle_sha256 == later.sha256
    assert not Upload.objects.filter(status=Upload.Status.RECEIVED).exists()


def test_a_redeploy_takes_the_environment_of_now(
    deployment: Deployment, django_capture_on_commit_callbacks: Any
) -> None:
    first = deploy(deployment, function_site(**{".env.production": "B=bundle\n"}))
    deployment.refresh_from_db()
    environment.update(deployment, {"A": "new"})
    with django_capture_on_commit_callbacks(execute=True) as callbacks:
        pending = deploying.redeploy(deployment)
    assert len(callbacks) == 1
    assert pending.status == Release.Status.PENDING
    tasks.redeploy.apply(kwargs={"release_id": pending.public_id, "later": 1}).get()
    pending.refresh_from_db()
    deployment.refresh_from_db()
    assert deployment.active_release == pending
    assert pending.bundle_sha256 == first.bundle_sha256
    snapshot = environment.open_snapshot(pending)
    assert (snapshot["A"], snapshot["B"]) == ("new", "bundle")
    assert "A" not in environment.open_snapshot(Release.objects.get(pk=first.pk))


def test_a_redeploy_task_delivered_twice_changes_nothing_more(deployment: Deployment) -> None:
    deploy(deployment, static_site())
    deployment.refresh_from_db()
    pending = deploying.redeploy(deployment)
    for _ in range(2):
        tasks.redeploy.apply(kwargs={"release_id": pending.public_id}).get()
    assert deployment.releases.filter(status=Release.Status.ACTIVE).count() == 1


def test_a_late_redeploy_does_not_bring_an_old_bundle_back(deployment: Deployment) -> None:
    deploy(deployment, static_site("old"))
    deployment.refresh_from_db()
    pending = deploying.redeploy(deployment)
    newer = deploy(deployment, static_site("new"))
    tasks.redeploy.apply(kwargs={"release_id": pending.public_id}).get()
    deployment.refresh_from_db()
    pending.refresh_from_db()
    assert deployment.active_release == newer
    assert pending.status == Release.Status.SUPERSEDED


def test_a_redeploy_whose_task_was_lost_is_handed_to_a_task_again(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(deployment, static_site())
    deployment.refresh_from_db()
    pending = deploying.redeploy(deployment)
    sent: list[Any] = []
    monkeypatch.setattr(
        deploying.current_app, "send_task", lambda name, **options: sent.append((name, options))
    )
    assert deploying.finish_pending(at=timezone.now() + timedelta(minutes=4)) == 0
    assert deploying.finish_pending(at=timezone.now() + timedelta(minutes=6)) == 1
    ((name, options),) = sent
    assert name == tasks.redeploy.name
    tasks.redeploy.apply(kwargs=options["kwargs"]).get()
    deployment.refresh_from_db()
    assert deployment.active_release == pending
    tasks.finish_pending.apply().get()
    assert deploying.finish_pending(at=timezone.now() + timedelta(minutes=6)) == 0


def test_a_release_that_nobody_can_finish_fails_after_an_hour(deployment: Deployment) -> None:
    live = deploy(deployment, static_site())
    deployment.refresh_from_db()
    pending = deploying.redeploy(deployment)
    assert deploying.finish_pending(at=timezone.now() + timedelta(minutes=61)) == 1
    pending.refresh_from_db()
    deployment.refresh_from_db()
    assert (pending.status, pending.failure) == (Release.Status.FAILED, releases.ABANDONED_FAILURE)
    assert deployment.active_release == live


def test_beat_sees_to_pending_releases_and_leftovers() -> None:
    """The schedule, which embedded mode runs as well, names tasks that exist."""
    scheduled = {entry["task"] for entry in app.conf.beat_schedule.values()}
    own = {
        tasks.finish_pending.name,
        tasks.purge_uploads.name,
        tasks.sweep_storage.name,
        tasks.purge_logs.name,
    }
    assert own <= scheduled
    assert own <= set(app.tasks)


def test_a_redeploy_whose_bundle_is_gone_fails_with_the_reason(deployment: Deployment) -> None:
    live = deploy(deployment, static_site())
    deployment.refresh_from_db()
    pending = deploying.redeploy(deployment)
    storage.remove_bundle(live.bundle_sha256)
    tasks.redeploy.apply(kwargs={"release_id": pending.public_id}).get()
    pending.refresh_from_db()
    deployment.refresh_from_db()
    assert "upload it again" in pending.failure
    assert deployment.active_release == live


def test_rolling_back_activates_the_release_before(deployment: Deployment) -> None:
    first, second, third = (deploy(deployment, static_site(page)) for page in "abc")
    deployment.refresh_from_db()
    assert deploying.roll_back(deployment, None, at=NOW) == second
    deployment.refresh_from_db()
    assert deployment.active_release == second
    assert deploying.roll_back(deployment, None, at=NOW) == first
    deployment.refresh_from_db()
    with pytest.raises(releases.UnableToRollBack):
        deploying.roll_back(deployment, None, at=NOW)
    deploying.roll_back(deployment, third.public_id, at=NOW)
    deployment.refresh_from_db()
    assert deployment.active_release == third
    assert deployment.releases.filter(status=Release.Status.ACTIVE).count() == 1


def test_rolling_back_unpacks_again_when_the_files_are_gone(deployment: Deployment) -> None:
    first = deploy(deployment, static_site("a"))
    deploy(deployment, static_site("b"))
    deployment.refresh_from_db()
    storage.remove_release(first)
    deploying.roll_back(deployment, None, at=NOW)
    assert (storage.release_folder(first) / "static/index.html").read_text() == "a"


def test_a_release_that_was_never_live_cannot_be_rolled_back_to(deployment: Deployment) -> None:
    deploy(deployment, static_site())
    deployment.refresh_from_db()
    with pytest.raises(releases.UnableToRelease):
        deploy(deployment, b"junk")
    failed = releases.latest(deployment)
    assert failed is not None
    with pytest.raises(releases.UnableToRollBack, match="never live"):
        deploying.roll_back(deployment, failed.public_id, at=NOW)


def test_releases_of_other_deployments_are_not_found(
    deployment: Deployment, other_workspace: Workspace
) -> None:
    foreign = factories.make_deployment(workspace=other_workspace).active_release
    assert foreign is not None
    with pytest.raises(releases.ReleaseNotFound):
        deploying.roll_back(deployment, foreign.public_id, at=NOW)


def test_deleting_removes_files_environment_and_the_address(
    deployment: Deployment, settings: Any, django_capture_on_commit_callbacks: Any
) -> None:
    environment.update(deployment, {"A": "secret"})
    release = deploy(deployment, static_site())
    with django_capture_on_commit_callbacks(execute=True):
        deploying.delete(deployment, at=NOW)
    with django_capture_on_commit_callbacks(execute=True):
        deploying.delete(deployment, at=NOW + timedelta(hours=1))
    deployment.refresh_from_db()
    release.refresh_from_db()
    assert deployment.deleted_at == NOW
    assert deployment.active_release is None
    assert release.environment_sealed == ""
    assert environment.names(deployment) == []
    assert not storage.release_folder(release).exists()
    with pytest.raises(storage.UnableToOpenBundle):
        storage.open_bundle(release.bundle_sha256)
    with pytest.raises(directory.DeploymentNotFound):
        deploying.deploy(deployment, at=NOW)


def test_deleting_removes_uploads_and_logs(
    deployment: Deployment, django_capture_on_commit_callbacks: Any
) -> None:
    deploy(deployment, static_site())
    waiting = upload(deployment, static_site("never deployed"))
    url = deploying.issue_upload(deployment, at=NOW)
    logs.append(deployment.pk, function_name="f", request_id="r", message="private", at=NOW)
    with django_capture_on_commit_callbacks(execute=True):
        deploying.delete(deployment, at=NOW)
    assert not LogEntry.objects.exists()
    assert not Upload.objects.filter(pk=waiting.pk).exists()
    assert list(storage.stored_bundles()) == []
    with pytest.raises(deploying.UploadNotAllowed, match="deleted"):
        deploying.expect_upload(url.rpartition("/")[2])


def test_deleting_keeps_a_bundle_that_another_deployment_uses(
    deployment: Deployment, other_workspace: Workspace, django_capture_on_commit_callbacks: Any
) -> None:
    release = deploy(deployment, static_site())
    deploy(factories.make_deployment(workspace=other_workspace), static_site())
    with django_capture_on_commit_callbacks(execute=True):
        deploying.delete(deployment, at=NOW)
    storage.open_bundle(release.bundle_sha256).close()


def test_a_deployment_deleted_while_its_release_is_made_stays_deleted(
    deployment: Deployment,
) -> None:
    bundle = keep(static_site())
    pending = releases.create(deployment, bundle_sha256=bundle.sha256)
    Deployment.objects.filter(pk=deployment.pk).update(deleted_at=NOW)
    with pytest.raises(releases.UnableToRelease, match="deleted"):
        releases.publish(pending, at=NOW)
    assert not storage.release_folder(pending).exists()


def test_the_platforms_own_failure_marks_the_release_failed(
    deployment: Deployment, settings: Any, tmp_path: Path
) -> None:
    bundle = keep(static_site())
    pending = releases.create(deployment, bundle_sha256=bundle.sha256)
    settings.RELEASES_DIR = tmp_path / "file"
    settings.RELEASES_DIR.touch()  # no folder can be made here
    with pytest.raises(FileExistsError):
        releases.publish(pending, at=NOW)
    pending.refresh_from_db()
    assert (pending.status, pending.failure) == (Release.Status.FAILED, releases.PLATFORM_FAILURE)


def test_leftovers_of_interrupted_work_are_removed(deployment: Deployment, settings: Any) -> None:
    deploying.issue_upload(deployment, at=timezone.now())
    leftover = Path(settings.INCOMING_DIR) / "x.zip"
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    half = Path(settings.RELEASES_DIR) / ".unpacking-x"
    half.mkdir(parents=True)
    assert retention.purge_uploads(at=timezone.now()) == 0
    assert retention.purge_uploads(at=timezone.now() + timedelta(days=2)) == 3
    tasks.purge_uploads.apply().get()
    assert not leftover.exists()
    assert not half.exists()
