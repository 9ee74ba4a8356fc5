"""Deployed sites over plain ASGI: `site_app` answers for `<deployId>.<apps domain>`.

Owns the way from a request to the active release's file or function, and the pages visitors see
when there is none. Visitors never see why a function failed: that is in the owner's log, under
the request id they are shown. Must not know how hosts map to deployments' ids.
"""

import asyncio
import contextlib
import json
import logging
import time
import uuid
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from html import escape
from typing import Any
from weakref import WeakKeyDictionary

from asgiref.sync import sync_to_async
from django.db import DatabaseError, close_old_connections

from deployments import confinement, cookies, releases, routing, serving, staticindex, storage
from deployments.models import Deployment, Release
from deployments.runtime import drivers, events
from deployments.runtime.driver import (
    Chunk,
    Done,
    Failed,
    Failure,
    FunctionSpec,
    Head,
    InvokeContext,
)
from orgs import vault

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = serving.Send

# Releases unpacked again at once, in threads of this process, when their files are missing here,
# and how long one whose bundle cannot be had is not asked for again.
RESTORES_MAX = 2
RESTORE_PAUSE_SECONDS = 10.0
RESTORE_FAILURES = (
    releases.UnableToRelease,
    storage.UnableToReachStore,
    confinement.ChildCrashed,
    OSError,
)
FRESH_SECONDS = 1.0  # how long a delete or an activation may go unnoticed
SITES_KEPT_MAX = 256
BODY_BYTES_MAX = 6 * 1024 * 1024
BODY_SECONDS_MAX = 60.0
FUNCTION_SECONDS_MAX = 30.0
ENCODED_SEPARATORS = (b"%2f", b"%5c", b"%00")


class UnableToServe(Exception):
    """The active release cannot be served; the message is for the operator's log."""


class _FilesMissing(Exception):
    """The active release was unpacked on another host, or its folder is lost."""

    def __init__(self, release: Release) -> None:
        super().__init__(release.public_id)
        self.release = release


@dataclass(frozen=True)
class Site:
    """The active release of a deployment, ready to serve."""

    release_id: str
    router: routing.Router
    files: serving.StaticFiles
    functions: dict[str, FunctionSpec]


@dataclass(frozen=True)
class _Known:
    """What was found for a deployment's id, and when (monotonic seconds)."""

    checked_at: float
    exists: bool
    site: Site | None


# --- Finding the release -----------------------------------------------------------------------


def _load(deploy_id: str, known: Site | None) -> tuple[bool, Site | None]:
    """Whether the deployment exists, and its active release (blocking).

    `known` is given back when it is still the active one. Raises UnableToServe, _FilesMissing,
    DatabaseError.
    """
    close_old_connections()
    deployment = (
        Deployment.objects.filter(deploy_id=deploy_id, deleted_at=None)
        .select_related("active_release")
        .first()
    )
    if deployment is None:
        return False, None
    release = deployment.active_release
    if release is None:
        return True, None
    if known is not None and known.release_id == release.public_id:
        return True, known
    return True, _build(deployment, release)


def _build(deployment: Deployment, release: Release) -> Site:
    folder = storage.release_folder(release)
    manifest = release.manifest
    try:
        files = serving.StaticFiles.read(
            folder, activated_at=release.activated_at or release.created_at
        )
    except staticindex.UnableToReadIndex:
        raise _FilesMissing(release) from None
    try:
        router = routing.Router(manifest.get("routes", []))
    except routing.UnableToRoute as error:
        raise UnableToServe(f"Release {release.public_id}: {error}") from None
    try:
        functions = {spec.function_name: spec for spec in releases.functions(release)}
    except vault.UnableToDecrypt as error:
        raise UnableToServe(f"Release {release.public_id}: {error}") from None
    return Site(release.public_id, router, files, functions)


class _Directory:
    """Sites by deployment id, looked up at most once a second each."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[_Known]] = {}
        self._restores = asyncio.Semaphore(RESTORES_MAX)
        self._restore_failed_at: OrderedDict[str, float] = OrderedDict()  # by release

    async def find(self, deploy_id: str) -> _Known:
        """What is known now. Raises UnableToServe, DatabaseError."""
        known = self._known.get(deploy_id)
        if known is not None and time.monotonic() - known.checked_at < FRESH_SECONDS:
            self._known.move_to_end(deploy_id)
            return known
        lookup = self._lookups.get(deploy_id)
        if lookup is None:
            lookup = asyncio.create_task(self._look_up(deploy_id, known))
            self._lookups[deploy_id] = lookup
            lookup.add_done_callback(lambda _: self._lookups.pop(deploy_id, None))
        return await asyncio.shield(lookup)

    async def _look_up(self, deploy_id: str, known: _Known | None) -> _Known:
        checked_at = time.monotonic()
        try:
            exists, site = await self._load(deploy_id, known.site if known else None)
        except DatabaseError:
            if known is None or known.site is None:
                raise
            logger.exception("The database is away: %s is served as last known.", deploy_id)
            exists, site = True, known.site
        found = _Known(checked_at, exists, site)
        self._known[deploy_id] = found
        self._known.move_to_end(deploy_id)
        while len(self._known) > SITES_KEPT_MAX:
            self._known.popitem(last=False)
        return found

    async def _load(self, deploy_id: str, known: Site | None) -> tuple[bool, Site | None]:
        """As `_load`, with the release's files brought back from its bundle if need be, once."""
        try:
            return await sync_to_async(_load)(deploy_id, known)
        except _FilesMissing as missing:
            await self._restore(missing.release)
        try:
            return await sync_to_async(_load)(deploy_id, known)
        except _FilesMissing as missing:
            raise UnableToServe(
                f"The files of release {missing.release} were lost again."
            ) from None

    async def _restore(self, release: Release) -> None:
        """Unpack the release again, in a thread of its own. Raises UnableToServe."""
        failed_at = self._restore_failed_at.get(release.public_id)
        if failed_at is not None and time.monotonic() - failed_at < RESTORE_PAUSE_SECONDS:
            raise UnableToServe(f"The files of release {release} could not be brought back.")
        logger.warning("Release %s has no files here: unpacking its bundle again.", release)
        try:
            async with self._restores:
                await asyncio.to_thread(releases.restore, release)
        except RESTORE_FAILURES as error:
            self._restore_failed_at[release.public_id] = time.monotonic()
            while len(self._restore_failed_at) > SITES_KEPT_MAX:
                self._restore_failed_at.popitem(last=False)
            raise UnableToServe(f"The files of release {release}: {error}") from error


_directories: WeakKeyDictionary[asyncio.AbstractEventLoop, _Directory] = WeakKeyDictionary()


def _directory() -> _Directory:
    return _directories.setdefault(asyncio.get_running_loop(), _Directory())


# --- Pages for visitors ------------------------------------------------------------------------

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:20vh auto;max-width:32rem;padding:0 1rem;
color:#222;background:#fff}}h1{{font-size:1.4rem}}p{{color:#555}}
@media(prefers-color-scheme:dark){{body{{color:#eee;background:#111}}p{{color:#aaa}}}}</style>
<h1>{title}</h1><p>{text}</p>
"""
FAILURE_STATUS = {
    Failure.TIMEOUT: 504,
    Failure.THROTTLED: 503,
    Failure.UNAVAILABLE: 503,
    Failure.PLATFORM: 500,
}
FAILURE_TEXT = {
    Failure.INIT: "The site's function could not start.",
    Failure.TIMEOUT: "The site's function took too long.",
    Failure.CRASH: "The site's function crashed.",
    Failure.HANDLER: "The site's function failed.",
    Failure.RESPONSE: "The site's function gave an answer that cannot be sent.",
    Failure.THROTTLED: "The site is handling too many requests. Try again in a moment.",
    Failure.UNAVAILABLE: "Functions are not available right now. Try again in a moment.",
    Failure.PLATFORM: "The site's function could not be run.",
}


async def _page(send: Send, status: int, title: str, text: str, *headers: tuple[str, str]) -> None:
    page = PAGE.format(title=escape(title), text=escape(text)).encode()
    base = (
        ("content-type", "text/html; charset=utf-8"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
    )
    await serving.respond(send, status, (*base, *headers), page)


async def _refuse(send: Send, status: int, code: str, message: str, request_id: str) -> None:
    """A refusal as JSON, with the id under which the owner finds the reason."""
    error = {"code": code, "message": message, "requestId": request_id}
    headers = [
        ("content-type", "application/json"),
        ("cache-control", "no-store"),
        ("x-request-id", request_id),
    ]
    if status == 503:
        headers.append(("retry-after", "1"))
    await serving.respond(send, status, headers, json.dumps({"error": error}).encode())


# --- Answering ---------------------------------------------------------------------------------


async def site_app(scope: Scope, receive: Receive, send: Send, deploy_id: str) -> None:
    """ASGI entry for one deployment's address. `deploy_id` comes from the Host, lower case."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        return
    try:
        known = await _directory().find(deploy_id)
    except (UnableToServe, DatabaseError):
        logger.exception("The site %s cannot be served.", deploy_id)
        text = "Something on the server is out of order. Try again in a moment."
        await _page(send, 503, "This site is not available right now", text, ("retry-after", "5"))
        return
    if not known.exists:
        await _page(send, 404, "No site here", "There is no site at this address. Check the link.")
    elif known.site is None:
        text = "This site exists, but nothing has been deployed to it yet."
        await _page(send, 503, "Nothing deployed yet", text, ("retry-after", "5"))
    else:
        await _answer(scope, receive, send, known.site)


async def _answer(scope: Scope, receive: Receive, send: Send, site: Site) -> None:
    path = scope["path"] or "/"
    raw_path = _raw_path(scope)
    has_hidden_separator = any(each in raw_path.lower() for each in ENCODED_SEPARATORS)

    def is_file(name: str) -> bool:
        return not has_hidden_separator and name in site.files

    try:
        match = site.router.match(path, is_file)
        match = replace(match, headers=tuple(cookies.for_own_host(match.headers)))
    except routing.UnableToRoute as error:
        logger.warning("Release %s: %s", site.release_id, error)
        await _page(send, 414, "This address cannot be matched", str(error))
        return
    if match.kind is routing.Kind.FUNCTION:
        await _answer_by_function(scope, receive, send, site, match)
    elif match.kind is routing.Kind.REDIRECT:
        await serving.respond(send, match.status, _with_query(match.headers, scope))
    elif match.target:
        request = serving.FileRequest(scope["method"], dict(_request_headers(scope)))
        await serving.serve_file(
            send,
            site.files,
            match.target,
            request,
            status=match.status,
            extra_headers=match.headers,
        )
    else:
        text = "This site has no page at this address."
        await _page(send, 404, "Page not found", text, *match.headers)


def _with_query(headers: Iterable[tuple[str, str]], scope: Scope) -> list[tuple[str, str]]:
    """A redirect's headers, with the request's query where the target has none of its own.

    A target never becomes the address of another host by a capture that begins with a slash.
    """
    query = scope["query_string"].decode("latin-1")
    passed = []
    for name, value in headers:
        if name == "location":
            if value.startswith("//"):
                value = "/" + value.lstrip("/")
            if query and "?" not in value:
                target, mark, fragment = value.partition("#")
                value = f"{target}?{query}{mark}{fragment}"
        passed.append((name, value))
    return passed


def _raw_path(scope: Scope) -> bytes:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0]


def _request_headers(scope: Scope) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]


class _BodyRefused(Exception):
    """The request's body is not taken."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


async def _read_body(receive: Receive) -> bytes | None:
    """The request's body; None when the visitor left meanwhile. Raises _BodyRefused."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                body += message.get("body", b"")
                if len(body) > BODY_BYTES_MAX:
                    text = "The request's body is larger than 6 MB: upload it in parts."
                    raise _BodyRefused(413, "body_too_large", text)
                if not message.get("more_body"):
                    return bytes(body)
    except TimeoutError:
        raise _BodyRefused(408, "body_too_slow", "The request's body did not arrive.") from None


async def _answer_by_function(
    scope: Scope, receive: Receive, send: Send, site: Site, match: routing.Match
) -> None:
    request_id = str(uuid.uuid4())
    spec = site.functions.get(match.target)
    if spec is None:
        text = f"This site has no function called '{match.target}'."
        await _refuse(send, 404, "function_not_found", text, request_id)
        return
    try:
        body = await _read_body(receive)
    except _BodyRefused as refusal:
        await _refuse(send, refusal.status, refusal.code, refusal.message, request_id)
        return
    if body is None:
        return
    event = events.event_of(
        _function_request(scope, body), request_id=request_id, at=datetime.now(UTC)
    )
    answer = _FunctionAnswer(send, match, request_id, is_head=scope["method"] == "HEAD")
    await _unless_disconnected(receive, answer.run(spec, event))


def _function_request(scope: Scope, body: bytes) -> events.Request:
    headers = cookies.of_the_site(_request_headers(scope))
    client = scope.get("client")
    return events.Request(
        method=scope["method"],
        raw_path=_raw_path(scope).decode("latin-1"),
        query=scope["query_string"].decode("latin-1"),
        headers=headers,
        body=body,
        scheme=scope.get("scheme", "http"),
        host=dict(headers).get("host", ""),
        client=client[0] if client else "",
        protocol=f"HTTP/{scope.get('http_version', '1.1')}",
    )


class _FunctionAnswer:
    """Sends an invocation's events to the visitor as they come."""

    def __init__(self, send: Send, match: routing.Match, request_id: str, *, is_head: bool) -> None:
        self._send = send
        self._match = match
        self._request_id = request_id
        self._is_head = is_head
        self._has_body = True
        self._has_started = False

    async def run(self, spec: FunctionSpec, event: bytes) -> None:
        """Invoke and answer. A stream that fails half way is left incomplete: it must show."""
        context = InvokeContext(self._request_id, FUNCTION_SECONDS_MAX)
        async with contextlib.aclosing(drivers.current().invoke(spec, event, context)) as items:
            async for item in items:
                match item:
                    case Head():
                        await self._start(item)
                    case Chunk(data=data) if self._has_body:
                        await self._send(
                            {"type": "http.response.body", "body": data, "more_body": True}
                        )
                    case Done():
                        await self._send({"type": "http.response.body", "body": b""})
                    case Failed(kind=kind) if not self._has_started:
                        await self._fail(kind)

    async def _start(self, head: Head) -> None:
        self._has_started = True
        self._has_body = not self._is_head and head.status not in (204, 304)
        names = {name for name, _ in head.headers}
        headers = [pair for pair in self._match.headers if pair[0] not in names]
        headers += cookies.for_own_host(head.headers)
        if head.length is not None and head.status not in (204, 304):
            headers.append(("content-length", str(head.length)))
        if "x-request-id" not in names:
            headers.append(("x-request-id", self._request_id))
        await self._send(
            {
                "type": "http.response.start",
                "status": head.status,
                "headers": serving.encode_headers(headers),
            }
        )

    async def _fail(self, kind: Failure) -> None:
        status = FAILURE_STATUS.get(kind, 502)
        text = f"{FAILURE_TEXT[kind]} Its owner finds the reason in the log, by the request id."
        await _refuse(self._send, status, f"function_{kind}", text, self._request_id)


async def _unless_disconnected(receive: Receive, work: Coroutine[Any, Any, None]) -> None:
    """Do the work, but stop when the visitor leaves."""
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)
    if not working.cancelled():
        working.result()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def start() -> None:
    """Get ready to run functions; for the server's lifespan."""
    drivers.start()


async def shutdown() -> None:
    """Let go of functions and store what they printed last; for the server's lifespan."""
    await drivers.shutdown()
