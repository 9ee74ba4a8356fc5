"""Presigned uploads over the ASGI application itself."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core import signing
from django.utils import timezone

from deployments import deploying, storage, uploads
from deployments.models import Deployment, Upload
from orgs.models import Workspace
from tests import factories
from tests.deployments.zips import static_site

# Each database call of the application ends by closing stale connections, as in production.
pytestmark = pytest.mark.django_db(transaction=True)
BUNDLE = static_site()


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace, deployed=False)


@pytest.fixture
def url(deployment: Deployment) -> str:
    return deploying.issue_upload(deployment, at=timezone.now())


def path_of(url: str) -> str:
    return "/" + url.split("/", 3)[3]


async def _silence() -> Any:
    await asyncio.Event().wait()


def pieces_of(body: Iterable[bytes]) -> list[dict[str, Any]]:
    pieces = [{"type": "http.request", "body": piece, "more_body": True} for piece in body]
    return [*pieces, {"type": "http.request", "body": b"", "more_body": False}]


def put(
    path: str,
    messages: list[dict[str, Any]],
    *,
    method: str = "PUT",
    headers: dict[str, str] | None = None,
    at_end: Callable[[], Awaitable[Any]] = _silence,
) -> tuple[int, dict[str, Any], dict[str, str]] | None:
    """Status, body and headers of the answer; None when there is none."""
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    waiting = list(messages)
    sent: list[Any] = []

    async def receive() -> Any:
        return waiting.pop(0) if waiting else await at_end()

    async def send(message: Any) -> None:
        sent.append(message)

    async_to_sync(uploads.upload_app)(scope, receive, send)
    if not sent:
        return None
    start, end = sent
    answered = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], json.loads(end["body"]), answered


def put_whole(url: str, body: bytes = BUNDLE, **options: Any) -> tuple[int, str]:
    """Status and error code of one PUT of `body`."""
    answer = put(path_of(url), pieces_of([body]), **options)
    assert answer is not None
    status, content, headers = answer
    assert not any(name.startswith("access-control") for name in headers)
    if status >= 400:
        assert headers["connection"] == "close"
        assert content["error"]["message"]
    return status, content.get("error", {}).get("code", "")


def incoming_files(settings: Any) -> list[Path]:
    return list(Path(settings.INCOMING_DIR).glob("*"))


def test_a_bundle_arrives_in_pieces_and_is_kept_by_content(
    url: str, deployment: Deployment, settings: Any
) -> None:
    assert url.startswith(f"{settings.PUBLIC_URL}/api/data/uploads/")
    answer = put(path_of(url), pieces_of(BUNDLE[i : i + 7] for i in range(0, len(BUNDLE), 7)))
    assert answer is not None
    assert answer[:2] == (200, {"received": True, "bytes": len(BUNDLE)})
    upload = Upload.objects.get()
    assert (upload.status, upload.deployment) == (Upload.Status.RECEIVED, deployment)
    assert upload.sha256 == hashlib.sha256(BUNDLE).hexdigest()
    assert upload.size_bytes == len(BUNDLE)
    with storage.open_bundle(upload.sha256) as file:
        assert file.read() == BUNDLE
    assert incoming_files(settings) == []


def test_a_url_works_once(url: str) -> None:
    assert put_whole(url) == (200, "")
    assert put_whole(url) == (409, "upload_already_used")


def test_of_two_uploads_at_once_one_is_received(url: str) -> None:
    first = deploying.expect_upload(url.rpartition("/")[2])
    second = deploying.expect_upload(url.rpartition("/")[2])
    bundle = storage.StoredBundle(sha256="0" * 64, size_bytes=1)
    deploying.receive(first, bundle, at=timezone.now())
    with pytest.raises(deploying.UploadAlreadyUsed):
        deploying.receive(second, bundle, at=timezone.now())


def test_an_expired_url_is_refused(url: str, settings: Any) -> None:
    settings.UPLOAD_SECONDS_MAX = -1
    assert put_whole(url) == (403, "upload_not_allowed")


@pytest.mark.parametrize("token", ["", "x", "a:b:c", "../../etc/passwd"])
def test_forged_tokens_are_refused(token: str, db: None) -> None:
    assert put_whole(f"http://h/api/data/uploads/{token}") == (403, "upload_not_allowed")


def test_a_token_signed_for_another_purpose_is_refused(deployment: Deployment, url: str) -> None:
    nonce = Upload.objects.get().nonce
    token = signing.dumps({"deployment": deployment.deploy_id, "nonce": nonce}, salt="other")
    assert put_whole(f"http://h/api/data/uploads/{token}") == (403, "upload_not_allowed")


def test_a_deleted_deployment_takes_no_upload(url: str, deployment: Deployment) -> None:
    deploying.delete(deployment, at=timezone.now() + timedelta(seconds=1))
    assert put_whole(url) == (403, "upload_not_allowed")


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_other_methods_are_refused(method: str, url: str) -> None:
    answer = put(path_of(url), [], method=method)
    assert answer is not None
    assert answer[0] == 405
    assert answer[2]["allow"] == "PUT"


def test_a_declared_size_over_the_limit_is_refused_before_the_body(url: str, settings: Any) -> None:
    settings.UPLOAD_BYTES_MAX = 1000
    answer = put(path_of(url), [], headers={"content-length": "1001"})
    assert answer is not None
    assert answer[0] == 413
    assert Upload.objects.get().status == Upload.Status.ISSUED


def test_bytes_are_counted_whatever_was_declared(url: str, settings: Any) -> None:
    settings.UPLOAD_BYTES_MAX = 1000
    body = [BUNDLE[:4] + b"x" * 600, b"x" * 600]
    for headers in ({}, {"content-length": "10"}):
        answer = put(path_of(url), pieces_of(body), headers=headers)
        assert answer is not None
        assert answer[0] == 413
    assert incoming_files(settings) == []


def test_a_length_that_is_no_number_is_refused(url: str) -> None:
    assert put_whole(url, headers={"content-length": "-1"}) == (400, "invalid_request")


def test_an_empty_body_is_refused_and_the_url_still_works(url: str) -> None:
    assert put_whole(url, b"") == (400, "empty_upload")
    assert put_whole(url) == (200, "")


@pytest.mark.parametrize(
    "sent",
    [
        "application/zip",
        "Application/ZIP",
        "application/x-zip-compressed",
        "application/octet-stream; charset=binary",
        None,
    ],
)
def test_what_clients_call_a_zip_is_taken(url: str, sent: str | None) -> None:
    assert put_whole(url, headers={"content-type": sent} if sent else {}) == (200, "")


@pytest.mark.parametrize(
    "sent",
    ["multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/html", "zip"],
)
def test_other_types_are_refused_by_name_and_the_url_still_works(url: str, sent: str) -> None:
    answer = put(path_of(url), [], headers={"content-type": sent})
    assert answer is not None
    status, content, _ = answer
    assert (status, content["error"]["code"]) == (415, "unsupported_media_type")
    assert sent in content["error"]["message"]
    assert "application/zip" in content["error"]["message"]
    assert put_whole(url) == (200, "")


@pytest.mark.parametrize("body", [b"<!doctype html>", b"PK", b"PK\x01\x02" * 9, b"\x1f\x8b" * 99])
def test_a_body_that_does_not_begin_like_a_zip_is_refused(
    url: str, body: bytes, settings: Any
) -> None:
    assert put_whole(url, body) == (400, "not_a_zip")
    assert incoming_files(settings) == []
    assert list(storage.stored_bundles()) == []
    assert put_whole(url) == (200, "")


def test_a_body_that_is_no_zip_is_refused_before_it_is_whole(url: str) -> None:
    answer = put(path_of(url), pieces_of([b"<", b"!doc", b"type"])[:2])
    assert answer is not None
    assert answer[0] == 400


def test_a_store_that_is_away_is_said_and_the_url_still_works(url: str, settings: Any) -> None:
    Path(settings.INCOMING_DIR).parent.touch()  # a file where the folder should be
    answer = put(path_of(url), pieces_of([BUNDLE]))
    assert answer is not None
    status, content, headers = answer
    assert (status, content["error"]["code"]) == (503, "storage_unavailable")
    assert headers["retry-after"] == "5"
    Path(settings.INCOMING_DIR).parent.unlink()
    assert put_whole(url) == (200, "")


def test_unused_urls_of_a_deployment_are_limited(deployment: Deployment, settings: Any) -> None:
    settings.UPLOADS_OUTSTANDING_MAX = 2
    now = timezone.now()
    first = deploying.issue_upload(deployment, at=now)
    deploying.issue_upload(deployment, at=now)
    with pytest.raises(deploying.TooManyUploads, match="wait 10 minutes"):
        deploying.issue_upload(deployment, at=now)
    assert put_whole(first) == (200, "")
    deploying.issue_upload(deployment, at=now)
    deploying.issue_upload(deployment, at=now + timedelta(minutes=11))


def test_silence_in_the_middle_ends_the_upload(
    url: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "IDLE_SECONDS_MAX", 0.01)
    answer = put(path_of(url), pieces_of([b"x"])[:1])
    assert answer is not None
    assert answer[0] == 408
    assert incoming_files(settings) == []


def test_a_client_that_goes_away_leaves_nothing(url: str, settings: Any) -> None:
    messages = [*pieces_of([b"x"])[:1], {"type": "http.disconnect"}]
    assert put(path_of(url), messages) is None
    assert incoming_files(settings) == []
    assert Upload.objects.get().status == Upload.Status.ISSUED


def test_the_same_content_is_kept_once(url: str, deployment: Deployment, settings: Any) -> None:
    put_whole(url)
    put_whole(deploying.issue_upload(deployment, at=timezone.now()))
    assert len(list(storage.stored_bundles())) == 1
