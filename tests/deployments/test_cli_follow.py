"""`logs --follow` against the platform itself: by websocket, once each, over lost connections."""

import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as serve_socket

from deployments import consumers, deploying, logs
from deployments.cli import live
from deployments.cli import logs as command
from deployments.cli.client import RefusedByServer, UnableToReachServer
from deployments.cli.configuration import Server
from deployments.models import Deployment, Release
from orgs.models import Workspace
from tests import factories
from tests.deployments.cli_server import ProtocolServer, run
from tests.deployments.live_server import LiveServer, serve
from tests.deployments.waiting import hear_ctrl_c

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def deployment(transactional_db: None, workspace: Workspace) -> Deployment:
    deployment = factories.make_deployment(workspace=workspace)
    Release.objects.update(mode=Release.Mode.SSR)
    return deployment


@pytest.fixture
def platform(deployment: Deployment) -> Iterator[LiveServer]:
    with serve() as server:
        yield server


def write(deployment: Deployment, *messages: str, request_id: str = "") -> None:
    now = timezone.now()
    logs.append_many(
        [logs.LogLine(deployment.pk, "chat", request_id, message, now) for message in messages]
    )


@contextmanager
def following(
    platform: LiveServer, token: str, home: Path, *arguments: str
) -> Iterator["subprocess.Popen[str]"]:
    """The client as a person runs it, ended by Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-m", "deployments.cli", "logs", "-f", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "API_URL": f"http://localhost:{platform.port}",
            "AUTH_TOKEN": token,
            "HOME": str(home),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_ctrl_c,
    )
    try:
        yield process
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.communicate()


def read(process: "subprocess.Popen[str]", count: int) -> list[str]:
    """The messages of the next `count` lines, without their time."""
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n")[25:] for _ in range(count)]


def test_lines_are_shown_as_they_are_printed(
    platform: LiveServer, deployment: Deployment, token: str, tmp_path: Path
) -> None:
    write(deployment, "before 1", "before 2")
    with following(platform, token, tmp_path) as process:
        assert read(process, 2) == ["before 1", "before 2"]
        write(deployment, "after 1")
        assert read(process, 1) == ["after 1"]
        watching = consumers._watching
        assert watching is not None
        assert watching.places._taken[f"deployment:{deployment.pk}"] == 1
        write(deployment, "after 2")
        assert read(process, 1) == ["after 2"]


def test_only_lines_of_one_request_are_followed(
    platform: LiveServer, deployment: Deployment, token: str, tmp_path: Path
) -> None:
    write(deployment, "other", request_id="r2")
    write(deployment, "wanted 1", request_id="r1")
    with following(platform, token, tmp_path, "--request", "r1") as process:
        assert read(process, 1) == ["wanted 1"]
        write(deployment, "other", request_id="r2")
        write(deployment, "wanted 2", request_id="r1")
        assert read(process, 1) == ["wanted 2"]


def test_a_site_that_is_deleted_ends_it_with_a_reason(
    platform: LiveServer, deployment: Deployment, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "LOOK_SECONDS", 0.2)
    position = live.Position(site=None, after=0)
    lines = live.follow(
        Server(f"http://localhost:{platform.port}", token, "test"), position, on_lost=print
    )
    write(deployment, "hello")
    assert next(lines)["message"] == "hello"
    deploying.delete(deployment, at=timezone.now())
    with pytest.raises(RefusedByServer, match="404 No such deployment"):
        next(lines)


# --- Connections that end, over a socket server of the test's own ------------------------------


@contextmanager
def sockets(*handlers: Any) -> Iterator[tuple[Server, list[str]]]:
    """A server whose connections are handled by these in turn; the paths that were asked for.

    After the last one it refuses handshakes.
    """
    paths: list[str] = []

    def admit(connection: ServerConnection, request: Request) -> Response | None:
        if len(paths) == len(handlers):
            return connection.respond(503, "Stopping.")
        paths.append(request.path)
        return None

    def handle(connection: ServerConnection) -> None:
        handlers[len(paths) - 1](connection)

    with serve_socket(handle, "127.0.0.1", 0, process_request=admit) as server:
        port = server.socket.getsockname()[1]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield Server(f"http://127.0.0.1:{port}", "wst_test", "test"), paths
        finally:
            server.shutdown()
            thread.join()


def test_after_a_lost_connection_it_goes_on_where_it_was() -> None:
    def first(connection: ServerConnection) -> None:
        connection.send('{"heartbeat": "now", "lastId": 5}')
        connection.send('{"id": 7, "message": "a"}')
        connection.close(1012)

    def second(connection: ServerConnection) -> None:
        connection.send('{"heartbeat": "now", "lastId": 9}')
        connection.close(4408)

    def third(connection: ServerConnection) -> None:
        connection.send('{"dropped": 3}')
        connection.send('{"id": 12, "message": "b"}')
        connection.close(4401, "This workspace token is not valid.")

    lost: list[bool] = []
    with sockets(first, second, third) as (server, paths):
        position = live.Position("shop", 4, request_id="r 1")
        lines = live.follow(
            server, position, on_lost=lambda: lost.append(True), pause=lambda seconds: None
        )
        assert next(lines)["message"] == "a"
        assert next(lines) == {"dropped": 3}
        assert next(lines)["message"] == "b"
        with pytest.raises(RefusedByServer, match="401 This workspace token is not valid"):
            next(lines)
    assert [path.partition("?")[2] for path in paths] == [
        f"id=shop&after={after}&requestId=r+1" for after in (4, 7, 9)
    ]
    assert len(lost) == 2


def test_a_connection_that_stays_away_is_given_up() -> None:
    with sockets(lambda connection: connection.close(1012)) as (server, paths):
        clock = itertools.count(0, 200)
        lines = live.follow(
            server,
            live.Position(None, 0),
            on_lost=lambda: None,
            pause=lambda seconds: None,
            clock=lambda: float(next(clock)),
        )
        with pytest.raises(UnableToReachServer, match="was lost and does not come back"):
            next(lines)
    assert len(paths) == 1


def test_a_server_without_the_websocket_is_asked_again_and_again(
    server: ProtocolServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that speaks of ids, but answers a handshake as any other request."""

    def answer(request: Any) -> tuple[int, Any]:
        number = len(server.calls("/api/data/aws/get-logs"))
        rows = [{"id": 1, "timestamp": 1_769_860_800, "message": f"line {number}"}]
        return 200, {"entries": rows, "hasMore": False, "lastId": number}

    server.answers["/api/data/aws/get-logs"] = answer

    def interrupt_after_three_polls(seconds: float) -> None:
        if len(server.calls("/api/data/aws/get-logs")) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupt_after_three_polls)
    result = run(server, "logs", "-f")
    assert result.exit_code == 0, result.output
    assert [line[25:] for line in result.stdout.splitlines()] == ["line 1", "line 2", "line 3"]
