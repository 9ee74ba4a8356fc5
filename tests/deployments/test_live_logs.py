"""Live logs over a real server: who may watch, every line once, limits, and what ends it."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.test import Client
from django.utils import timezone
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection

from deployments import consumers, deploying, followers, logs
from deployments.models import Deployment
from orgs import tokens
from orgs.models import Membership, Organization, User, Workspace, WorkspaceToken
from tests import factories
from tests.deployments.live_server import AGENT_PATH, LiveServer, line, message, serve

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def deployment(transactional_db: None, workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace)


@pytest.fixture
def server(deployment: Deployment) -> Iterator[LiveServer]:
    with serve() as server:
        yield server


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumers, "LOOK_SECONDS", 0.2)


def write(deployment: Deployment, *messages: str, request_id: str = "", function: str = "") -> None:
    now = timezone.now()
    logs.append_many(
        [logs.LogLine(deployment.pk, function, request_id, message, now) for message in messages]
    )


def close_code(client: ClientConnection) -> int:
    """The code the server closes with, whatever it says before."""
    try:
        while True:
            client.recv(timeout=30)
    except ConnectionClosed as closed:
        return closed.rcvd.code if closed.rcvd else 1006


def page_of(deployment: Deployment) -> str:
    slug = deployment.workspace.organization.slug
    return f"/console/{slug}/deployments/{deployment.deploy_id}/live-logs/"


def as_member(server: LiveServer, user: User, path: str, **headers: str) -> ClientConnection:
    """A socket as a console page opens it."""
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    cookie = client.cookies[django_settings.SESSION_COOKIE_NAME].value
    sent = {
        "Origin": f"http://localhost:{server.port}",
        "Cookie": f"theme=dark; {django_settings.SESSION_COOKIE_NAME}={cookie}",
        **headers,
    }
    return server.open(path, **sent)


# --- Lines -------------------------------------------------------------------------------------


def test_an_agent_sees_the_last_lines_and_then_each_new_one(
    server: LiveServer, deployment: Deployment, token: str
) -> None:
    write(deployment, "a", "b", request_id="r1", function="chat")
    with server.as_agent(token, "?tail=1") as client:
        shown = message(client)
        assert shown.pop("id") == logs.newest_id(deployment.pk)
        assert shown.pop("timestamp").endswith("Z")
        assert shown == {"message": "b", "requestId": "r1", "functionName": "chat"}
        assert message(client)["lastId"] == logs.newest_id(deployment.pk)
        write(deployment, "c")
        assert line(client)["message"] == "c"


def test_going_on_after_an_id_repeats_and_loses_nothing(
    server: LiveServer, deployment: Deployment, token: str
) -> None:
    write(deployment, "a", "b")
    with server.as_agent(token, f"?id={deployment.prefix}&tail=9") as client:
        seen = [message(client), message(client)]
    write(deployment, "c", "d")
    with server.as_agent(token, f"?after={seen[-1]['id']}") as client:
        assert [line(client)["message"] for _ in range(2)] == ["c", "d"]


def test_only_the_lines_of_a_request_and_function_are_sent(
    server: LiveServer, deployment: Deployment, token: str
) -> None:
    with server.as_agent(token, "?requestId=r1&functionName=chat") as client:
        assert message(client)["lastId"] == 0
        write(deployment, "other request", request_id="r2", function="chat")
        write(deployment, "other function", request_id="r1", function="api")
        write(deployment, "wanted", request_id="r1", function="chat")
        assert line(client)["message"] == "wanted"


def test_lines_of_another_process_come_without_a_wake_up(
    server: LiveServer, deployment: Deployment, token: str, looks_often: None
) -> None:
    names = {**connection.settings_dict}
    code = (
        "import django; from django.conf import settings\n"
        f"settings.configure(DATABASES={{'default': {_plain(names)!r}}}, USE_TZ=True,"
        " INSTALLED_APPS=['django.contrib.auth', 'django.contrib.contenttypes', 'orgs',"
        " 'deployments'], AUTH_USER_MODEL='orgs.User')\n"
        "django.setup()\n"
        "from deployments import logs; from django.utils import timezone\n"
        f"logs.append({deployment.pk}, function_name='', request_id='', message='from afar',"
        " at=timezone.now())\n"
    )
    with server.as_agent(token) as client:
        message(client)
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        assert line(client)["message"] == "from afar"


def _plain(names: dict[str, Any]) -> dict[str, Any]:
    wanted = ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT")
    return {name: str(names[name]) for name in wanted}


def test_many_writers_and_readers_lose_and_repeat_nothing(
    server: LiveServer, deployment: Deployment, token: str
) -> None:
    written = [f"line {number}" for number in range(500)]
    with server.as_agent(token) as one, server.as_agent(token) as two:
        for client in (one, two):
            message(client)
        for start in range(0, 500, 25):
            write(deployment, *written[start : start + 25])
        for client in (one, two):
            assert [line(client)["message"] for _ in written] == written


def test_a_client_that_does_not_read_is_told_what_it_missed(
    server: LiveServer, deployment: Deployment, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(followers, "BATCH_MAX", 10)
    monkeypatch.setattr(followers, "BEHIND_MAX", 20)
    write(deployment, *(str(number) for number in range(100)))
    with server.as_agent(token, "?after=0") as client:
        assert message(client) == {"dropped": 80}
        assert [line(client)["message"] for _ in range(20)] == [str(n) for n in range(80, 100)]


def test_a_client_that_takes_nothing_is_left(
    server: LiveServer, deployment: Deployment, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "STALL_SECONDS_MAX", 0.3)
    write(deployment, *["x" * 15_000] * 1_000)
    raw = socket.create_connection(("127.0.0.1", server.port))
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.sendall(
        f"GET {AGENT_PATH}?tail=1000 HTTP/1.1\r\nHost: localhost:{server.port}\r\n"
        f"Authorization: Bearer {token}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    watching = consumers._watching
    assert watching is not None
    _wait_for(lambda: watching.places._taken)
    _wait_for(lambda: not watching.places._taken)
    raw.close()


def _wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_silence_is_filled_with_heartbeats_and_ends_after_a_while(
    server: LiveServer,
    deployment: Deployment,
    token: str,
    monkeypatch: pytest.MonkeyPatch,
    looks_often: None,
) -> None:
    monkeypatch.setattr(consumers, "HEARTBEAT_SECONDS", 0.1)
    with server.as_agent(token) as client:
        assert "heartbeat" in message(client)
        assert "heartbeat" in message(client)
        monkeypatch.setattr(consumers, "IDLE_SECONDS_MAX", 0.0)
        assert close_code(client) == consumers.IDLE


# --- Who may watch -------------------------------------------------------------------------------


def test_a_member_watches_from_the_console(
    server: LiveServer, deployment: Deployment, member: User
) -> None:
    with as_member(server, member, page_of(deployment)) as client:
        message(client)
        write(deployment, "hello")
        assert line(client)["message"] == "hello"


def test_an_outsider_is_told_the_same_as_where_there_is_nothing(
    server: LiveServer, deployment: Deployment, outsider: User, outsider_token: str, token: str
) -> None:
    own = page_of(deployment)
    for path in (own, own.replace(deployment.deploy_id, "nothing-0123456789")):
        with as_member(server, outsider, path) as client:
            assert close_code(client) == consumers.NOT_FOUND
    with server.as_agent(outsider_token, f"?id={deployment.deploy_id}") as client:
        assert close_code(client) == consumers.NOT_FOUND
    with server.as_agent(token, "?id=nothing") as client:
        assert close_code(client) == consumers.NOT_FOUND


def test_a_deployment_of_another_workspace_is_not_found(
    server: LiveServer, deployment: Deployment, organization: Organization
) -> None:
    second = factories.make_workspace(organization=organization, name="second")
    token = factories.make_token(workspace=second)
    with server.as_agent(token, f"?id={deployment.deploy_id}") as client:
        assert close_code(client) == consumers.NOT_FOUND


@pytest.mark.parametrize("authorization", ["", "Basic abc", "Bearer ", "Bearer wst_unknown"])
def test_without_a_valid_token_nobody_watches(server: LiveServer, authorization: str) -> None:
    headers = {"Authorization": authorization} if authorization else {}
    with server.open(AGENT_PATH, **headers) as client:
        assert close_code(client) == consumers.UNAUTHENTICATED


def test_a_token_in_the_url_and_a_session_count_for_nothing_there(
    server: LiveServer, deployment: Deployment, token: str, member: User
) -> None:
    with as_member(server, member, f"{AGENT_PATH}?token={token}") as client:
        assert close_code(client) == consumers.UNAUTHENTICATED
    with server.open(
        page_of(deployment),
        Origin=f"http://localhost:{server.port}",
        Authorization=f"Bearer {token}",
    ) as client:
        assert close_code(client) == consumers.UNAUTHENTICATED


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app-0123456789.localhost:{port}", "null", None]
)
def test_pages_of_other_origins_are_refused_before_the_handshake(
    server: LiveServer, deployment: Deployment, member: User, origin: str | None
) -> None:
    headers = {"Origin": origin.format(port=server.port)} if origin else {}
    client = Client()
    client.force_login(member, backend="django.contrib.auth.backends.ModelBackend")
    cookie = client.cookies[django_settings.SESSION_COOKIE_NAME].value
    with pytest.raises(InvalidStatus) as refused:
        server.open(
            page_of(deployment),
            Cookie=f"{django_settings.SESSION_COOKIE_NAME}={cookie}",
            **headers,
        )
    assert refused.value.response.status_code == 403


def test_deployed_sites_have_no_sockets(
    server: LiveServer, deployment: Deployment, token: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        server.open(
            AGENT_PATH,
            host=f"{deployment.deploy_id}.localhost",
            Authorization=f"Bearer {token}",
        )
    assert refused.value.response.status_code == 403


# --- What ends it ------------------------------------------------------------------------------


def test_deleting_the_deployment_ends_it(
    server: LiveServer, deployment: Deployment, token: str, member: User, looks_often: None
) -> None:
    with server.as_agent(token) as agent, as_member(server, member, page_of(deployment)) as person:
        message(agent), message(person)
        deploying.delete(deployment, at=timezone.now())
        assert close_code(agent) == close_code(person) == consumers.NOT_FOUND


def test_revoking_the_token_ends_it(
    server: LiveServer, deployment: Deployment, token: str, looks_often: None
) -> None:
    with server.as_agent(token) as client:
        message(client)
        tokens.revoke(WorkspaceToken.objects.get(), at=timezone.now())
        assert close_code(client) == consumers.UNAUTHENTICATED


def test_leaving_the_organization_and_logging_out_end_it(
    server: LiveServer, deployment: Deployment, owner: User, member: User, looks_often: None
) -> None:
    with (
        as_member(server, member, page_of(deployment)) as leaving,
        as_member(server, owner, page_of(deployment)) as logging_out,
    ):
        message(leaving), message(logging_out)
        Membership.objects.get(user=member).delete()
        owner.set_password("another one, changed elsewhere")
        owner.save()
        assert close_code(leaving) == consumers.NOT_FOUND
        assert close_code(logging_out) == consumers.UNAUTHENTICATED


def test_sockets_are_counted_per_caller_and_free_their_place(
    server: LiveServer, deployment: Deployment, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "SOCKETS_PER_CALLER_MAX", 1)
    with server.as_agent(token) as first:
        message(first)
        with server.as_agent(token) as second:
            assert close_code(second) == consumers.TOO_MANY
    watching = consumers._watching
    assert watching is not None
    _wait_for(lambda: not watching.places._taken)
    with server.as_agent(token) as third:
        assert "heartbeat" in message(third)


@pytest.mark.parametrize("query", ["?tail=-1", "?tail=1001", "?after=x", f"?after={'9' * 30}"])
def test_parameters_that_make_no_sense_are_refused_with_a_reason(
    server: LiveServer, token: str, query: str
) -> None:
    with server.as_agent(token, query) as client:
        with pytest.raises(ConnectionClosed) as closed:
            client.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == consumers.BAD_REQUEST
        assert "must be a whole number up to" in closed.value.rcvd.reason


def test_a_client_that_speaks_is_closed(
    server: LiveServer, deployment: Deployment, token: str
) -> None:
    with server.as_agent(token) as client:
        message(client)
        client.send(json.dumps({"subscribe": "everything"}))
        assert close_code(client) == consumers.BAD_REQUEST


def test_speaking_while_lines_come_ends_it_cleanly(
    server: LiveServer, deployment: Deployment, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    write(deployment, *["x" * 10_000] * 500)
    with server.as_agent(token, "?tail=1000") as client:
        line(client)
        client.send("one")
        client.send("two")
        assert close_code(client) == consumers.BAD_REQUEST
    watching = consumers._watching
    assert watching is not None
    _wait_for(lambda: not watching.places._taken)
    assert not caplog.records
