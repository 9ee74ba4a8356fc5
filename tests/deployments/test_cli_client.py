"""The client's wire: how refusals read, what is repeated, and what is never sent along."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.cli.client import Client, RefusedByServer, UnableToReachServer, message_of
from deployments.cli.configuration import Server
from tests.deployments.cli_server import DEPLOY_ID, TOKEN, Answer, ProtocolServer, Received, serve

SITE_PATH = "/api/data/aws/get-deployment"
DEPLOY_PATH = "/api/data/aws/deploy"


@pytest.fixture
def server() -> Iterator[ProtocolServer]:
    with serve() as protocol:
        yield protocol


@pytest.fixture
def pauses() -> list[float]:
    return []


@pytest.fixture
def client(server: ProtocolServer, pauses: list[float]) -> Iterator[Client]:
    with Client(Server(server.url, TOKEN, "test"), pause=pauses.append) as connected:
        yield connected


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('{"error": {"code": "x", "message": "Deploy first."}}', "Deploy first."),
        ('{"error": "Deploy first."}', "Deploy first."),
        ('{"message": "Deploy first."}', "Deploy first."),
        ('{"detail": "Deploy first."}', "Deploy first."),
        ("Deploy first.", "Deploy first."),
        ('{"other": 1}', '{"other": 1}'),
        ("", "Not Found"),
        ("<!DOCTYPE html><title>nginx</title>", "(the answer is an HTML page, not"),
    ],
)
def test_a_refusal_says_what_the_body_says(body: str, message: str) -> None:
    assert message_of(body.encode(), status=404).startswith(message)


def test_a_long_refusal_is_shortened() -> None:
    assert len(message_of(b"x" * 10_000, status=500)) < 700


@pytest.mark.parametrize(
    ("status", "hint"), [(401, "token"), (404, "--id"), (413, "larger"), (400, "")]
)
def test_refusals_carry_their_status_and_a_hint(
    server: ProtocolServer, client: Client, status: int, hint: str
) -> None:
    server.answers[SITE_PATH] = (status, {"error": {"message": "No."}})
    with pytest.raises(RefusedByServer) as caught:
        client.site(None)
    assert str(caught.value) == f"{status} No."
    assert hint in caught.value.hint


def test_calls_carry_the_token_and_json(server: ProtocolServer, client: Client) -> None:
    client.site(None)
    client.site("shop")
    first, second = server.calls(SITE_PATH)
    assert first.headers["authorization"] == f"Bearer {TOKEN}"
    assert first.headers["content-type"] == "application/json"
    assert (first.json, second.json) == ({}, {"id": "shop"})


def test_the_upload_carries_its_length_and_no_token(
    server: ProtocolServer, client: Client, tmp_path: Path
) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(b"z" * 200_000)
    sent: list[int] = []
    client.upload(f"{server.url}/uploads/signed", path, on_progress=sent.append)
    (request,) = server.received
    assert request.method == "PUT"
    assert "authorization" not in request.headers
    assert request.headers["content-type"] == "application/zip"
    assert request.headers["content-length"] == "200000"
    assert "transfer-encoding" not in request.headers
    assert request.body == b"z" * 200_000
    assert sum(sent) == 200_000


def test_reading_is_tried_again_when_the_server_is_busy(
    server: ProtocolServer, client: Client, pauses: list[float]
) -> None:
    answers = iter([(503, "busy"), (502, "bad"), (200, {"exists": False})])
    server.answers[SITE_PATH] = lambda request: next(answers)
    assert client.site(None) == {"exists": False}
    assert len(server.received) == 3
    assert len(pauses) == 2


def test_deploying_is_never_repeated(server: ProtocolServer, client: Client) -> None:
    server.answers[DEPLOY_PATH] = (503, "busy")
    with pytest.raises(RefusedByServer, match="503 busy"):
        client.deploy(DEPLOY_ID)
    assert len(server.received) == 1


def test_a_redirect_is_not_followed(server: ProtocolServer, client: Client) -> None:
    server.answers[SITE_PATH] = (302, "elsewhere")
    with pytest.raises(RefusedByServer, match="302 elsewhere"):
        client.site(None)


def test_an_answer_that_is_no_json_object_is_told(server: ProtocolServer, client: Client) -> None:
    for answer in ("<html>", "[1]"):
        server.answers[SITE_PATH] = (200, answer)
        with pytest.raises(UnableToReachServer, match="did not answer with a JSON object"):
            client.site(None)


def test_an_answer_without_the_upload_address_is_told(
    server: ProtocolServer, client: Client
) -> None:
    server.answers["/api/data/aws/get-upload-url"] = (200, {"deployId": DEPLOY_ID})
    with pytest.raises(UnableToReachServer, match="no `uploadUrl`"):
        client.upload_url(None)


def test_a_server_that_is_not_there_is_tried_three_times_and_named(pauses: list[float]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
    with (
        Client(Server(url, TOKEN, "test"), pause=pauses.append) as client,
        pytest.raises(UnableToReachServer, match=f"Cannot reach {url}"),
    ):
        client.deploy(DEPLOY_ID)
    assert len(pauses) == 2


@pytest.mark.parametrize("url", ["ftp://host/x", "http://[", "relative"])
def test_an_unusable_upload_address_is_told(client: Client, tmp_path: Path, url: str) -> None:
    path = tmp_path / "bundle.zip"
    path.write_bytes(b"z")
    with pytest.raises(UnableToReachServer):
        client.upload(url, path, on_progress=lambda done: None)


def test_an_upload_refused_half_way_shows_the_refusal(
    server: ProtocolServer, client: Client, tmp_path: Path
) -> None:
    def refuse(request: Received) -> Answer:
        return 413, json.dumps({"error": {"message": "At most 100 MiB."}})

    server.answers["/uploads/signed"] = refuse
    path = tmp_path / "bundle.zip"
    path.write_bytes(b"z" * 1000)
    with pytest.raises(RefusedByServer, match="413 At most 100 MiB"):
        client.upload(f"{server.url}/uploads/signed", path, on_progress=lambda done: None)


def test_a_server_on_this_machine_is_reached_past_a_proxy(
    server: ProtocolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Client(Server(server.url, TOKEN, "test")) as client:
        assert client.site(None)["exists"] is True
