"""Live logs over a websocket: who may watch, how much at once, and the messages.

Owns the wire (docs/live-logs.md) and its limits. Lines are read from the database by id, never
taken from the wake-up, so none is lost or doubled; what a client does not take stays there, and a
client too far behind is told how many lines were dropped. The database is asked in threads.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.http import Http404
from django.utils import timezone
from rest_framework.utils.encoders import JSONEncoder

from deployments import directory, followers, logs, serializers, wakeups
from deployments.models import Deployment
from orgs import access, tokens
from orgs.threads import DatabaseThreads, UnableToAsk

logger = logging.getLogger(__name__)

SOCKETS_MAX = 300  # in one process
SOCKETS_PER_DEPLOYMENT_MAX = 50
SOCKETS_PER_CALLER_MAX = 10
LOOK_SECONDS = 4.0  # without a wake-up; access is checked as often
HEARTBEAT_SECONDS = 15.0
STALL_SECONDS_MAX = 30.0  # a client that takes nothing for so long is gone
IDLE_SECONDS_MAX = 3600.0  # without a line to send
DATABASE_SECONDS_MAX = 10.0
THREADS = 4

BAD_REQUEST, UNAUTHENTICATED, FORBIDDEN = 4400, 4401, 4403
NOT_FOUND, IDLE, TOO_MANY = 4404, 4408, 4429
FAILED, TRY_LATER = 1011, 1013
NOT_FOUND_REASON = "No such deployment."


class UnableToWatch(Exception):
    """The socket is closed with this code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Watched:
    """A caller, named for counting, and the deployment they may watch."""

    caller: str
    deployment_id: int


class Places:
    """How many sockets watch in this process: in all, per deployment and per caller."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, watched: Watched) -> Iterator[None]:
        """A place while the block runs. Raises UnableToWatch when there is none."""
        places = (
            ("all", SOCKETS_MAX),
            (f"deployment:{watched.deployment_id}", SOCKETS_PER_DEPLOYMENT_MAX),
            (watched.caller, SOCKETS_PER_CALLER_MAX),
        )
        for name, limit in places:
            if self._taken[name] >= limit:
                raise UnableToWatch(TOO_MANY, "Too many live views are open. Close one of them.")
        self._taken.update(name for name, _ in places)
        try:
            yield
        finally:
            for name, _ in places:
                self._taken[name] -= 1
                if not self._taken[name]:
                    del self._taken[name]


class Watching:
    """What the sockets of a process share."""

    def __init__(self, wakes: wakeups.Wakeups) -> None:
        self.wakeups = wakes
        self.places = Places()
        self.threads = DatabaseThreads(THREADS, "live-logs")


_watching: Watching | None = None


async def startup() -> None:
    """Let sockets in. They are refused before."""
    global _watching
    _watching = Watching(await wakeups.start())


async def shutdown() -> None:
    """Let no more sockets in, and end the threads. Safe to call twice."""
    global _watching
    await wakeups.stop()
    watching, _watching = _watching, None
    if watching is not None:
        await asyncio.to_thread(watching.threads.close)


class LiveLogs(AsyncWebsocketConsumer):
    """One socket. A subclass says who watches, and what."""

    channel_layer_alias = None  # wake-ups come to the process, not to each socket

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI entry point; ends when the client leaves, or was left because it took nothing."""
        self._pump: asyncio.Task[None] | None = None
        self._is_ended = False
        self._given_up = asyncio.Event()
        serving = asyncio.ensure_future(super().__call__(scope, receive, send))
        giving_up = asyncio.ensure_future(self._given_up.wait())
        try:
            await asyncio.wait({serving, giving_up}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                await serving
        finally:
            leftover = [task for task in (serving, giving_up, self._pump) if task is not None]
            for task in leftover:
                task.cancel()
            await asyncio.gather(*leftover, return_exceptions=True)

    async def connect(self) -> None:
        """Accept the handshake, so that a refusal's code reaches the client, and begin."""
        if not self._may_come_from_here():
            await self.close(FORBIDDEN)  # before it was accepted: HTTP 403
            return
        await self.accept()
        self._pump = asyncio.create_task(self._run())

    async def receive(self, text_data: Any = None, bytes_data: Any = None) -> None:
        """There is nothing to say: what to watch stands in the URL."""
        if self._pump is not None:
            self._pump.cancel()  # nothing may be sent after the end
        await self._end(BAD_REQUEST, "This socket takes no messages.")

    def find(self) -> Watched:
        """Who watches what, if they still may. Raises UnableToWatch."""
        raise NotImplementedError

    def _may_come_from_here(self) -> bool:
        """Whether the handshake's Origin, if any, is this platform's own."""
        origin = _header(self.scope, b"origin")
        return origin is None or _is_own_origin(origin, _header(self.scope, b"host") or "")

    async def _run(self) -> None:
        try:
            await self._end(*await self._end_of_watch())
        except OSError:  # the client left, or took nothing (TimeoutError is one)
            self._given_up.set()

    async def _end(self, code: int, reason: str) -> None:
        """Close the socket, once. Raises OSError."""
        if not self._is_ended:
            self._is_ended = True
            async with asyncio.timeout(STALL_SECONDS_MAX):
                await self.close(code, reason)

    async def _end_of_watch(self) -> tuple[int, str]:
        """Watch until something ends it: the code and reason to close with. Raises OSError."""
        try:
            await self._watch()
        except UnableToWatch as refusal:
            return refusal.code, refusal.reason
        except UnableToAsk:
            return TRY_LATER, "The database does not answer. Try again later."
        except OSError:
            raise
        except Exception:
            logger.exception("A live view failed.")
        return FAILED, "The live view failed. Connect again."

    async def _watch(self) -> None:
        watching = _watching
        if watching is None:
            raise UnableToWatch(TRY_LATER, "The platform is starting or stopping.")
        only, after_id, tail = _asked(self.scope["query_string"])
        watched: Watched = await self._ask(watching, self.find)

        def begin() -> followers.Follower:
            if after_id is not None:
                return followers.from_id(watched.deployment_id, only=only, after_id=after_id)
            return followers.from_tail(watched.deployment_id, only=only, lines=tail)

        with (
            watching.places.one(watched),
            watching.wakeups.watching(watched.deployment_id) as woken,
        ):
            await self._follow(watching, watched, await self._ask(watching, begin), woken)

    async def _follow(
        self,
        watching: Watching,
        watched: Watched,
        follower: followers.Follower,
        woken: asyncio.Event,
    ) -> None:
        """Send what is new until something ends it, by an exception."""
        checked_at = lines_at = time.monotonic()
        told_at = -HEARTBEAT_SECONDS  # the first one says that nothing older is coming
        while True:
            woken.clear()
            batch = await self._ask(watching, follower.read)
            if batch.dropped:
                await self._tell({"dropped": batch.dropped})
            for entry in batch.entries:
                await self._tell(serializers.describe_log_entry(entry))
            now = time.monotonic()
            if batch.entries:
                lines_at = now
            if batch.is_last and now - told_at >= HEARTBEAT_SECONDS:
                await self._tell({"heartbeat": datetime.now(UTC), "lastId": follower.position})
                told_at = now
            if now - lines_at >= IDLE_SECONDS_MAX:
                raise UnableToWatch(IDLE, "Nothing was printed for an hour. Connect again.")
            if now - checked_at >= LOOK_SECONDS:
                await self._check(watching, watched)
                checked_at = now
            if batch.is_last:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_SECONDS):
                        await woken.wait()

    async def _check(self, watching: Watching, watched: Watched) -> None:
        """The caller may still watch this deployment. Raises UnableToWatch."""
        if await self._ask(watching, self.find) != watched:
            raise UnableToWatch(NOT_FOUND, NOT_FOUND_REASON)

    async def _ask(self, watching: Watching, work: Any) -> Any:
        return await watching.threads.ask(work, seconds_max=DATABASE_SECONDS_MAX)

    async def _tell(self, message: dict[str, Any]) -> None:
        """Send one message; waits while the client takes none. Raises TimeoutError."""
        async with asyncio.timeout(STALL_SECONDS_MAX):
            await self.send(text_data=json.dumps(message, cls=JSONEncoder))


class AgentLogs(LiveLogs):
    """Watches with a workspace token; `?id=` names the deployment, as in the data API."""

    def find(self) -> Watched:
        """The workspace's deployment. Raises UnableToWatch."""
        scheme, _, secret = (_header(self.scope, b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            raise UnableToWatch(UNAUTHENTICATED, "Send your workspace token as a Bearer token.")
        try:
            token = tokens.verify(secret.strip(), at=timezone.now())
            name = _parameters(self.scope["query_string"]).get("id")
            deployment = directory.find(token.workspace, name)
        except tokens.UnableToAuthenticate:
            raise UnableToWatch(UNAUTHENTICATED, "This workspace token is not valid.") from None
        except directory.DeploymentNotFound:
            raise UnableToWatch(NOT_FOUND, NOT_FOUND_REASON) from None
        return Watched(f"token:{token.pk}", deployment.pk)


class MemberLogs(LiveLogs):
    """Watches with the session of a member, from a page of the console only."""

    def _may_come_from_here(self) -> bool:
        return _header(self.scope, b"origin") is not None and super()._may_come_from_here()

    def find(self) -> Watched:
        """The organization's deployment. Raises UnableToWatch."""
        named = self.scope["url_route"]["kwargs"]
        user = access.user_of_session(self._session_key())
        if user is None:
            raise UnableToWatch(UNAUTHENTICATED, "Log in again.")
        try:
            organization = access.organization_for(user, named["organization"])
            deployment = Deployment.objects.get(
                workspace__organization=organization,
                deploy_id=named["deploy_id"],
                deleted_at=None,
            )
        except (Http404, Deployment.DoesNotExist):
            raise UnableToWatch(NOT_FOUND, NOT_FOUND_REASON) from None
        return Watched(f"user:{user.pk}", deployment.pk)

    def _session_key(self) -> str:
        cookies = SimpleCookie()
        with contextlib.suppress(CookieError):
            cookies.load(_header(self.scope, b"cookie") or "")
        found = cookies.get(settings.SESSION_COOKIE_NAME)
        return found.value if found else ""


def _header(scope: Any, name: bytes) -> str | None:
    """The header's value, None when it is not there exactly once."""
    values = [value for known, value in scope["headers"] if known == name]
    return values[0].decode("latin-1") if len(values) == 1 else None


def _is_own_origin(origin: str, host: str) -> bool:
    """Whether a page of this origin is the platform's: deployed sites live on hosts of their own.

    `host` was checked against ALLOWED_HOSTS. The scheme is not compared: behind a proxy that ends
    TLS the handshake does not tell it.
    """
    parts = urlsplit(origin)
    own = {_without_default_port(host), _without_default_port(urlsplit(settings.PUBLIC_URL).netloc)}
    return parts.scheme in ("http", "https") and _without_default_port(parts.netloc) in own


def _without_default_port(netloc: str) -> str:
    return netloc.lower().removesuffix(":80").removesuffix(":443")


def _parameters(query: bytes) -> dict[str, str]:
    return dict(parse_qsl(query.decode("latin-1"), max_num_fields=20))


def _asked(query: bytes) -> tuple[logs.LineFilter, int | None, int]:
    """The filter, the id to go on after, and how many lines to begin with. Raises UnableToWatch."""
    try:
        given = _parameters(query)
    except ValueError:
        raise UnableToWatch(BAD_REQUEST, "Too many parameters.") from None
    only = logs.LineFilter(given.get("requestId", "")[:64], given.get("functionName", "")[:200])
    after_id = _number(given, "after", 2**63 - 1) if "after" in given else None
    return only, after_id, _number(given, "tail", followers.TAIL_MAX)


def _number(given: dict[str, str], name: str, largest: int) -> int:
    text = given.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= largest):
        raise UnableToWatch(BAD_REQUEST, f"{name} must be a whole number up to {largest}.")
    return int(text)
