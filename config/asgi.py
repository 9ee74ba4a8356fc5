"""The ASGI applications: which part of the platform answers a request, by host and path.

`application` is everything in one process; `gateway` serves the AI API alone, for a process of its
own behind a proxy. Owns routing and the lifespan; decides nothing about a request itself.
"""

import asyncio
import os
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.core.asgi import get_asgi_application

_django = get_asgi_application()

from channels.routing import URLRouter  # noqa: E402
from django.conf import settings  # noqa: E402
from django.http.request import validate_host  # noqa: E402
from django.urls import re_path  # noqa: E402

from config import checks, edge, embedded, garbage, metrics  # noqa: E402
from config.edge import Receive, Scope, Send  # noqa: E402
from deployments import consumers, sites, socket_urls, uploads  # noqa: E402
from gateway.app import GatewayApp  # noqa: E402

AI_PREFIX = "/api/ai/"
UPLOAD_PREFIX = "/api/data/uploads/"


class UnableToServe(Exception):
    """The platform is not set up to serve; the message says what is missing."""


class Platform:
    """Routes requests and runs the lifespan of what needs one."""

    def __init__(self, *, serves_only_the_ai_api: bool = False) -> None:
        self._only_ai = serves_only_the_ai_api
        self._ai = GatewayApp()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry point."""
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "websocket":
            await self._serve_socket(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if refusal := edge.refusal_for(scope):
            await edge.send_refusal(send, *refusal)
            return
        deploy_id = None if self._only_ai else _deploy_id_of(edge.host_of(scope))
        if deploy_id is not None:
            await sites.site_app(scope, receive, send, deploy_id)
        elif scope["path"] == "/health":
            await edge.send_health(send)
        elif scope["path"] == metrics.PATH:
            await metrics.send_metrics(scope, send)
        elif self._only_ai or scope["path"].startswith(AI_PREFIX):
            await self._ai(scope, receive, send)
        elif scope["path"].startswith(UPLOAD_PREFIX):
            await uploads.upload_app(scope, receive, send)
        else:
            await _serve_django(scope, receive, send)

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The platform's own sockets; deployed sites have none."""
        if self._only_ai or edge.refusal_for(scope) or not _is_own_host(edge.host_of(scope)):
            await _refuse_socket(scope, receive, send)
        else:
            await _sockets(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._start(send)
            elif message["type"] == "lifespan.shutdown":
                await self._stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _start(self, send: Send) -> None:
        try:
            _require_secrets()
            await self._ai.start()
            if not self._only_ai:
                await consumers.startup()
                await sites.start()
                if settings.EMBEDDED:
                    embedded.start_tasks()
            garbage.collect_rarely()
        except Exception as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        await send({"type": "lifespan.startup.complete"})

    async def _stop(self) -> None:
        """Settle calls first: whoever stops us waits only so long."""
        try:
            await self._ai.stop()
        finally:
            try:
                if not self._only_ai:
                    await consumers.shutdown()
                    await sites.shutdown()
            finally:
                await asyncio.to_thread(embedded.stop_tasks)


def _require_secrets() -> None:
    """Serve nobody without secrets: an empty KEY_PEPPER would make digests that anybody can make.

    Servers other than `manage.py` run no system checks. Raises UnableToServe.
    """
    if problems := checks.secrets_are_set():
        raise UnableToServe(" ".join(f"{problem.msg} {problem.hint}" for problem in problems))


def _deploy_id_of(host: str) -> str | None:
    """The deployId when `host` is `<deployId>.<apps domain>`, else None.

    The platform's own hosts may lie below the apps domain, too, and stay its own.
    """
    name, _, domain = host.partition(".")
    if domain != settings.APPS_DOMAIN.lower() or not name:
        return None
    is_ours = host == urlsplit(settings.PUBLIC_URL).hostname or host in settings.ALLOWED_HOSTS
    return None if is_ours else name


def _is_own_host(host: str) -> bool:
    """Whether the platform itself, not a deployed site, is asked under this host."""
    return _deploy_id_of(host) is None and validate_host(host, settings.ALLOWED_HOSTS)


async def _refuse_socket(scope: Scope, receive: Receive, send: Send) -> None:
    """End a handshake before it is accepted, which the client sees as HTTP 403."""
    await send({"type": "websocket.close", "code": 4404})


async def _serve_django(scope: Scope, receive: Receive, send: Send) -> None:
    limit = settings.API_BODY_BYTES_MAX
    too_large = (413, f"The body may have at most {limit} bytes.", "request_too_large")
    too_slow = (408, "The request body did not arrive in time.", "request_timeout")
    if edge.declared_too_large(scope, limit):
        await edge.send_refusal(send, *too_large)
        return
    try:
        await _django(scope, edge.limited(receive, limit), send)  # type: ignore[arg-type]
    except edge.BodyTooLarge:
        await edge.send_refusal(send, *too_large)
    except edge.BodyTooSlow:
        await edge.send_refusal(send, *too_slow)


_sockets: Any = URLRouter([*socket_urls.urlpatterns, re_path("", _refuse_socket)])  # type: ignore[arg-type]
application: Any = Platform()
gateway: Any = Platform(serves_only_the_ai_api=True)
