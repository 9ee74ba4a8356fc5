"""The process is killed at every arrow of a deploy: the old release serves, a repeat succeeds."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.platform import ROOT, Platform

pytestmark = pytest.mark.faults

BEFORE_ACTIVATION = [
    "deploy.after_upload_arrived",
    "deploy.after_bundle_stored",
    "deploy.after_upload_received",
    "deploy.after_release_created",
    "deploy.after_unpacked",
    "deploy.after_placed",
    "deploy.after_sealed",
    "deploy.before_activated",
]
AFTER_ACTIVATION = ["deploy.after_activated", "deploy.in_removal", "deploy.after_tidied"]

COMMON = """
import asyncio, json
from datetime import timedelta
from pathlib import Path
from asgiref.sync import async_to_sync
from django.conf import settings
from django.utils import timezone
from deployments import deploying, releases, retention, sites, staticindex, storage, uploads
from deployments.models import Deployment, Release, Upload
from tests.deployments.zips import static_site

deployment = Deployment.objects.get()

def ask(app, scope, body, *more):
    sent = []
    waiting = [{"type": "http.request", "body": body}]
    async def receive():
        return waiting.pop() if waiting else await asyncio.Event().wait()
    async def send(message):
        sent.append(message)
    scope = {"type": "http", "query_string": b"", "headers": [], **scope}
    async_to_sync(app)(scope, receive, send, *more)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:]).decode()

def put(page):
    url = deploying.issue_upload(deployment, at=timezone.now())
    scope = {"method": "PUT", "path": "/" + url.split("/", 3)[3]}
    assert ask(uploads.upload_app, scope, static_site(page))[0] == 200

def deploy(page):
    put(page)
    deploying.deploy(deployment, at=timezone.now())

def served():
    scope = {"method": "GET", "path": "/", "raw_path": b"/"}
    return ask(sites.site_app, scope, b"", deployment.deploy_id)
"""
PREPARE = COMMON + "deploy('older'); deploy('old')"
DEPLOY = COMMON + "deploy('new')"
LOOK_AND_REPEAT = (
    COMMON
    + """
folders = [path for path in settings.RELEASES_DIR.iterdir() if not path.name.startswith(".")]
found = {
    "served": served(),
    "halves": [path.name for path in folders if not staticindex.is_written(path)],
    "active": Release.objects.filter(status=Release.Status.ACTIVE).count(),
}
try:
    deploying.deploy(deployment, at=timezone.now())
except deploying.NothingToDeploy:
    deploy("new")
sites.FRESH_SECONDS = 0
found["served_after"] = served()
later = timezone.now() + timedelta(days=2)
retention.purge_uploads(at=later)
retention.sweep(at=later)
rows = Release.objects.all()
names = {release.public_id for release in rows}
found["left"] = {
    "incoming": [path.name for path in Path(settings.INCOMING_DIR).glob("*")],
    "folders": [p.name for p in settings.RELEASES_DIR.iterdir() if p.name not in names],
    "bundles": sorted(set(storage.stored_bundles()) - {one.bundle_sha256 for one in rows}),
    "pending": rows.filter(status=Release.Status.PENDING).count(),
    "uploads": Upload.objects.exclude(status=Upload.Status.CONSUMED).count(),
}
found["bundles_kept"] = {one.bundle_sha256 for one in rows} <= set(storage.stored_bundles())
print(json.dumps(found))
"""
)
NOTHING = {"incoming": [], "folders": [], "bundles": [], "pending": 0, "uploads": 0}


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    """One for all places: each finds what the one before it made whole again."""
    # Port 9 answers nobody: a deploy asks no provider.
    platform = Platform(upstream_port=9, settings={"RELEASES_UNPACKED_MAX": "0"})
    platform.prepare()
    yield platform
    platform.close()


def deploy_and_die(platform: Platform, place: str) -> int:
    """The exit code of a process that deploys and is killed at `place`."""
    environment = {**platform.environment, "CRASH_AT": place}
    return subprocess.run(
        [sys.executable, "-c", "import django; django.setup()\n" + DEPLOY],
        cwd=ROOT,
        env={**environment, "DJANGO_SETTINGS_MODULE": "config.settings"},
        check=False,
        capture_output=True,
        timeout=120,
    ).returncode


@pytest.mark.parametrize("place", BEFORE_ACTIVATION + AFTER_ACTIVATION)
def test_killed_at_any_arrow_of_a_deploy_no_visitor_notices(platform: Platform, place: str) -> None:
    platform.python(PREPARE)
    assert deploy_and_die(platform, place) == -signal.SIGKILL
    found: dict[str, Any] = json.loads(platform.python(LOOK_AND_REPEAT).splitlines()[-1])
    page = "old" if place in BEFORE_ACTIVATION else "new"
    assert found["served"] == [200, page]
    assert found["halves"] == []
    assert found["active"] == 1
    assert found["served_after"] == [200, "new"]
    assert found["left"] == NOTHING
    assert found["bundles_kept"]
