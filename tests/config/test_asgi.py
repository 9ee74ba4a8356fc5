"""Which part of the platform answers: by host, then by path; and its start and end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from config import asgi, embedded, garbage
from config.asgi import Platform
from tests import factories
from tests.config.asking import Message, Seen, request


class Parts:
    """Stand-ins that say who was asked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        monkeypatch.setattr(asgi.sites, "site_app", self._part("site"))
        monkeypatch.setattr(asgi.uploads, "upload_app", self._part("upload"))
        monkeypatch.setattr(asgi, "_django", self._part("django"))
        monkeypatch.setattr(asgi.GatewayApp, "__call__", self._gateway)

    def _part(self, name: str) -> Any:
        async def part(_: Any, __: Any, send: Any, *more: str) -> None:
            self.asked.append(":".join([name, *more]))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        return part

    async def _gateway(self, *arguments: Any) -> None:
        await self._part("ai")(*arguments[-3:])


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Parts:
    settings.APPS_DOMAIN = "apps.example"
    settings.PUBLIC_URL = "https://console.example"
    return Parts(monkeypatch)


@pytest.mark.parametrize(
    ("host", "path", "part"),
    [
        ("console.example", "/", "django"),
        ("console.example:8000", "/api/data/aigateway/info", "django"),
        ("console.example", "/api/ai/v1/models", "ai"),
        ("console.example", "/api/ai/", "ai"),
        ("console.example", "/api/ai", "django"),
        ("console.example", "/api/aix/v1", "django"),
        ("console.example", "/api/data/uploads/token", "upload"),
        ("app-1.apps.example", "/", "site:app-1"),
        ("APP-1.Apps.Example:8000", "/", "site:app-1"),
        ("app-1.apps.example", "/api/ai/v1/models", "site:app-1"),
        ("app-1.apps.example", "/api/data/uploads/token", "site:app-1"),
        ("app-1.apps.example", "/admin/", "site:app-1"),
        ("app-1.apps.example", "/health", "site:app-1"),
        ("a.b.apps.example", "/", "django"),
        ("apps.example", "/", "django"),
        ("apps.example.evil.example", "/", "django"),
        ("xapps.example", "/", "django"),
    ],
)
async def test_host_and_path_decide_who_answers(
    parts: Parts, host: str, path: str, part: str
) -> None:
    assert (await request(Platform(), path, host=host)).status == 200
    assert parts.asked == [part]


async def test_the_console_stays_itself_below_the_apps_domain(parts: Parts, settings: Any) -> None:
    settings.PUBLIC_URL = "https://console.apps.example"
    settings.ALLOWED_HOSTS = ["console.apps.example", "admin.apps.example"]
    for host in ("console.apps.example", "Console.Apps.Example:443", "admin.apps.example"):
        await request(Platform(), host=host)
    await request(Platform(), host="app-1.apps.example")
    assert parts.asked == ["django", "django", "django", "site:app-1"]


async def test_a_process_for_the_ai_api_serves_nothing_else(parts: Parts) -> None:
    platform = Platform(serves_only_the_ai_api=True)
    for host in ("console.example", "app-1.apps.example"):
        for path in ("/", "/api/ai/v1/models", "/admin/", "/api/data/uploads/x"):
            await request(platform, path, host=host)
    assert set(parts.asked) == {"ai"}
    assert (await request(platform, "/health")).body == b'{"status":"ok"}'


@pytest.mark.parametrize(
    ("path", "host"), [("//x", "console.example"), ("/a%2fb", "app-1.apps.example"), ("/", None)]
)
async def test_a_bad_head_reaches_no_part(parts: Parts, path: str, host: str | None) -> None:
    assert (await request(Platform(), path, host=host)).status == 400
    assert parts.asked == []


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("app-1.apps.example", "/"),
        ("app-1.apps.example", "/api/data/deployments/live-logs"),
        ("evil.example", "/api/data/deployments/live-logs"),
        ("console.example", "/elsewhere"),
        ("console.example", "//api/data/deployments/live-logs"),
    ],
)
async def test_sockets_are_refused_before_the_handshake_where_there_are_none(
    parts: Parts, settings: Any, host: str, path: str
) -> None:
    settings.ALLOWED_HOSTS = ["console.example"]
    assert await handshake(Platform(), host, path) == [{"type": "websocket.close", "code": 4404}]


async def test_a_process_for_the_ai_api_has_no_sockets(parts: Parts, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["console.example"]
    platform = Platform(serves_only_the_ai_api=True)
    sent = await handshake(platform, "console.example", "/api/data/deployments/live-logs")
    assert sent == [{"type": "websocket.close", "code": 4404}]


async def handshake(platform: Platform, host: str, path: str) -> list[Message]:
    """What is answered to a websocket's handshake."""
    sent: list[Message] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", host.encode())],
    }
    await platform(scope, receive, send)
    return sent


# --- Django behind it -------------------------------------------------------------------------


@pytest.fixture
async def token(transactional_db: None) -> AsyncIterator[str]:
    def make() -> str:
        workspace = factories.make_workspace()
        factories.make_deployment(workspace=workspace)
        return factories.make_token(workspace=workspace)

    yield await sync_to_async(make)()
    await sync_to_async(connections.close_all)()


async def info(token: str, *body: bytes, **headers: str) -> Seen:
    return await request(
        Platform(),
        "/api/data/aigateway/info",
        method="POST",
        body=body,
        authorization=f"Bearer {token}",
        content_type="application/json",
        **headers,
    )


async def test_a_body_for_django_may_come_in_pieces(token: str) -> None:
    assert (await info(token, b"{", b"}")).status == 200
    assert (await info(token, b"{", b"}", content_length="2")).status == 200
    assert (await info(token, b"")).status == 200


async def test_a_body_for_django_is_limited_declared_or_not(token: str, settings: Any) -> None:
    settings.API_BODY_BYTES_MAX = 1000
    piece = b" " * 400
    for declared in ({"content_length": "1200"}, {"content_length": "5"}, {}):
        seen = await info(token, piece, piece, piece, **declared)
        assert seen.status == 413
        assert seen.error["code"] == "request_too_large"
        assert "1000 bytes" in seen.error["message"]
        assert seen.headers[b"connection"] == b"close"
    assert (await info(token, b"{}" + piece, piece)).status == 200


async def test_a_body_for_django_that_stops_arriving_is_given_up(
    monkeypatch: pytest.MonkeyPatch, parts: Parts
) -> None:
    async def reading(_: Any, receive: Any, __: Any) -> None:
        while True:
            await receive()

    monkeypatch.setattr(asgi, "_django", reading)
    monkeypatch.setattr(asgi.edge, "BODY_SECONDS_MAX", 0.05)

    async def silent() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    sent: list[Message] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": []}
    await asgi._serve_django(scope, silent, send)
    assert sent[0]["status"] == 408


async def test_a_host_nobody_knows_is_refused_by_django(token: str) -> None:
    assert (await request(Platform(), "/", host="evil.example")).status == 400


# --- start and end ----------------------------------------------------------------------------


async def live(platform: Platform, *types: str) -> list[Message]:
    """Send the lifespan messages; what was answered."""
    incoming = [{"type": f"lifespan.{name}"} for name in types]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await platform({"type": "lifespan"}, receive, send)
    return sent


async def test_start_and_end_are_answered(
    transactional_db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(embedded, "start_tasks", lambda: order.append("tasks start"))
    monkeypatch.setattr(embedded, "stop_tasks", lambda: order.append("tasks stop"))
    stop = asgi.GatewayApp.stop

    async def noted(self: asgi.GatewayApp) -> None:
        order.append("ai stop")
        await stop(self)

    monkeypatch.setattr(asgi.GatewayApp, "stop", noted)
    monkeypatch.setattr(garbage, "collect_rarely", lambda: order.append("collect rarely"))
    sent = await live(Platform(), "startup", "shutdown")
    await sync_to_async(connections.close_all)()
    assert [message["type"] for message in sent] == [
        "lifespan.startup.complete",
        "lifespan.shutdown.complete",
    ]
    # Settling comes first: whoever stops us does not wait for ever.
    assert order == ["tasks start", "collect rarely", "ai stop", "tasks stop"]


@pytest.mark.parametrize("name", ["KEY_PEPPER", "VAULT_KEY", "SECRET_KEY"])
async def test_without_a_secret_nothing_is_served(settings: Any, name: str) -> None:
    setattr(settings, name, "")
    incoming = [{"type": "lifespan.startup"}]
    sent: list[Message] = []

    async def receive() -> Message:
        return incoming.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    with pytest.raises(asgi.UnableToServe, match=name):
        await Platform()({"type": "lifespan"}, receive, send)
    assert sent[0]["type"] == "lifespan.startup.failed"
    assert name in sent[0]["message"]
