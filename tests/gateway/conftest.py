"""A running AI API in the test's own event loop, and a provider that answers by a script.

The provider is a real HTTP server on loopback; the API is called through its ASGI interface by a
small driver that sees every message, because HTTP clients merge the pieces of a stream.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import override_settings

from billing import ledger
from deployments.models import Deployment
from gateway import exchange, keys
from gateway.app import GatewayApp
from orgs.models import Organization, Workspace
from tests import factories
from tests.gateway import served as serving
from tests.gateway.served import Served, Upstream

DOLLAR = 1_000_000_000
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Provider:
    """A provider on loopback; `handler` decides what it answers, `requests` what it was asked."""

    base_url: str = ""
    handler: Handler | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    cut: asyncio.Event = field(default_factory=asyncio.Event)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(json.loads(await request.read()))
        self.headers.append(dict(request.headers))
        self.asked.set()
        assert self.handler is not None
        try:
            return await self.handler(request)
        except (ConnectionResetError, asyncio.CancelledError):
            self.cut.set()
            raise


@dataclass
class Answer:
    """What a client saw."""

    status: int
    headers: dict[str, str]
    pieces: list[bytes]

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def messages(self) -> list[str]:
        """The data of every server-sent event."""
        return [block.removeprefix("data: ") for block in self.body.decode().split("\n\n") if block]


async def until(happened: Callable[[], Awaitable[bool]], *, seconds_max: float = 5) -> None:
    """Wait for something that another thread or process does."""
    async with asyncio.timeout(seconds_max):
        while not await happened():  # noqa: ASYNC110 - nobody there could set an event
            await asyncio.sleep(0.02)


CALL_FIELDS = ("key", "headers", "hang_up_after", "hang_up_when", "writes_at_once")


class ApiClient:
    """Calls the AI API through ASGI."""

    def __init__(self, app: GatewayApp, key: str) -> None:
        self._app = app
        self.key = key

    async def call(
        self,
        path: str,
        body: Any = None,
        *,
        method: str = "POST",
        key: str | None = None,
        headers: dict[str, str] | None = None,
        hang_up_after: int | None = None,
        hang_up_when: asyncio.Event | None = None,
        raw: bytes | None = None,
        query: bytes = b"",
        writes_at_once: bool = True,
    ) -> Answer:
        """One request; the connection closes after so many body pieces, or when that happens.

        `writes_at_once`: as our own server does, which offers a stream more than ASGI demands.
        """
        sent = {"content-type": "application/json", **(headers or {})}
        if (key if key is not None else self.key) != "":
            sent.setdefault("authorization", f"Bearer {key if key is not None else self.key}")
        scope = {
            "type": "http",
            "method": method,
            "path": f"/api/ai/v1{path}" if not path.startswith("/api") else path,
            "query_string": query,
            "headers": [(name.lower().encode(), value.encode()) for name, value in sent.items()],
            "extensions": {exchange.WRITE: {"write": lambda piece: write(piece)}}
            if writes_at_once
            else {},
        }
        content = raw if raw is not None else (json.dumps(body).encode() if body else b"")
        answer = Answer(0, {}, [])
        gone = asyncio.Event()
        incoming = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if incoming:
                return incoming.pop(0)
            await (hang_up_when or gone).wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answer.status = message["status"]
                answer.headers = {k.decode(): v.decode() for k, v in message["headers"]}
                return
            if message.get("body"):
                write(message["body"])

        def write(piece: bytes) -> bool:
            answer.pieces.append(piece)
            if hang_up_after is not None and len(answer.pieces) >= hang_up_after:
                gone.set()
            return True

        await self._app(scope, receive, send)
        return answer

    async def chat(self, **fields: Any) -> Answer:
        """A chat completion of gpt-4o with one short message."""
        known = {k: fields.pop(k) for k in CALL_FIELDS if k in fields}
        body = {
            "model": "gpt-4o",
            "messages": [{"role": "user", "content": "Hello"}],
            "max_completion_tokens": 100,
            **fields,
        }
        return await self.call("/chat/completions", body, **known)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """A provider at a loopback address; set its `handler`."""
    provider = Provider()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", provider.serve)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    provider.base_url = f"http://127.0.0.1:{port}/v1"
    yield provider
    await runner.cleanup()


@dataclass
class Tenant:
    """An organization with credit and a deployed app that has a key."""

    organization: Organization
    workspace: Workspace
    deployment: Deployment
    key: str


def make_tenant(*, dollars: int = 5) -> Tenant:
    from django.utils import timezone

    organization = factories.make_organization()
    workspace = factories.make_workspace(organization=organization)
    deployment = factories.make_deployment(workspace=workspace)
    if dollars:
        ledger.grant(
            organization,
            dollars * DOLLAR,
            reason="test",
            idempotency_key="grant",
            at=timezone.now(),
        )
    _, key = keys.issue(deployment, at=timezone.now())
    return Tenant(organization, workspace, deployment, key)


@pytest.fixture
def catalog(transactional_db: None) -> None:
    """gpt-4o at OpenAI's price, and a model without a price."""
    factories.make_route(public_name="gpt-4o", provider="openai")
    factories.make_price(
        provider="openai",
        model="gpt-4o",
        input_nanos=2_500_000_000,
        output_nanos=10_000_000_000,
    )
    factories.make_route(public_name="unpriced", provider="openai")
    factories.make_route(public_name="claude-sonnet-4.5", provider="anthropic")


@pytest.fixture
def tenant(catalog: None) -> Tenant:
    return make_tenant()


@pytest.fixture
async def app(
    transactional_db: None, settings: Any, provider: Provider
) -> AsyncIterator[GatewayApp]:
    """The AI API, started, with OpenAI at the scripted provider."""
    settings.PROVIDER_ENVIRONMENT = {
        "openai": {"base_url": provider.base_url, "api_key": "sk-provider-secret-0123456789"},
        "local": {"base_url": provider.base_url, "api_key": ""},
    }
    application = GatewayApp()
    await application.start()
    yield application
    await application.stop()
    await sync_to_async(connections.close_all)()


def shorten(app: GatewayApp, **seconds: float) -> None:
    """Make the app wait less for its providers: `connect`, `first_byte`, `idle`, `total`."""
    assert app._services is not None
    connections = app._services.connections
    connections.limits = replace(connections.limits, **seconds)


@pytest.fixture
def api(app: GatewayApp, tenant: Tenant) -> ApiClient:
    return ApiClient(app, tenant.key)


@pytest.fixture(scope="module")
def served(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The AI API behind a real server for the tests of a module, whose data they share.

    Not for modules with tests that ask for a database of their own.
    """
    with (
        django_db_blocker.unblock(),
        serving.database(),
        override_settings(
            JOURNAL_DIR=tmp_path_factory.mktemp("journal"),
            JOURNAL_SEGMENT_BYTES=1024 * 1024,
            JOURNAL_SLOTS=128,
            BILLING_BARRIER="database",
        ),
        serving.serve(Upstream()) as running,
        serving.configured(running.upstream.port),
    ):
        yield running
