"""What the hot path knows without asking the database: callers by deployId, and the catalog.

Owns freshness: an entry is used as it is for half a second, renewed in the background until it is
a second old, and not used after that while the database answers. So a revoked key, a deleted
deployment, a suspended organization or a changed price takes effect on every process within one
second, however the change was made. While the database is away, which is where such a change would
be made, what it said last counts for up to a minute, so that calls go on (ADR 0028). It is asked in
threads of its own; must never be waited for by a call whose entries are fresh.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import structlog
from django.db import Error as DatabaseFailure
from django.db import InterfaceError, OperationalError, close_old_connections
from django.db.models import Q
from django.utils import timezone

from billing import terms
from deployments.models import Deployment
from gateway import allowances, catalog
from gateway.models import GatewayKey
from gateway.windows import ScopeLimits
from orgs.threads import DatabaseThreads

RENEW_AFTER_SECONDS = 0.5
REFUSE_AFTER_SECONDS = 1.0
AWAY_SECONDS_MAX = 60.0
# How long the database counts as away once it was seen to be: longer than LOAD_SECONDS_MAX.
SEEN_AWAY_SECONDS = 10.0
# A key that matches nothing known may be new: then the database is asked, at most so often.
ASK_AGAIN_AFTER_SECONDS = 0.1
LOAD_SECONDS_MAX = 5.0
# Loads that wait for a database thread; more means that the database hangs.
LOADS_MAX = 1_000
CALLERS_MAX = 10_000
TOUCH_EVERY_SECONDS = 10.0
THREADS = 2

log = structlog.get_logger(__name__)

Value = TypeVar("Value")


class UnableToLoad(Exception):
    """The database did not answer in time: nobody can be authenticated."""


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """One working key: digest (hex) and when it ends (epoch seconds, None for never)."""

    key_id: int
    digest: str
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who speaks with a key: ids for records, its margin, keys and limits."""

    deployment_id: int
    deploy_id: str
    workspace_id: int
    organization_id: int
    organization_slug: str
    margin_basis_points: int
    keys: tuple[KeyFacts, ...]
    # Of the deployment's calls, narrowest scope first; those of scope "key" are of one key each.
    limits: tuple[ScopeLimits, ...] = ()
    is_suspended: bool = False

    def limits_of(self, key_id: int) -> list[ScopeLimits]:
        """Those that apply to calls with this key, narrowest scope first."""
        return [one for one in self.limits if one.scope != "key" or one.scope_id == key_id]


@dataclass(slots=True)
class _Entry(Generic[Value]):
    """A loaded value and the time its load began."""

    value: Value
    loaded_at: float
    renewal: "asyncio.Future[None] | None" = field(default=None)


@dataclass(frozen=True, slots=True)
class _Load:
    """A load under way and the time it was asked for, before any of its queries."""

    future: "asyncio.Future[Any]"
    began_at: float


class Snapshot:
    """The in-process copy, one per process and event loop."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, _Entry[Caller | None]] = OrderedDict()
        self._catalog: dict[str, _Entry[catalog.Catalog]] = {}
        self._figures: OrderedDict[str, _Entry[Any]] = OrderedDict()
        self._loads: dict[str, _Load] = {}
        self._loads_under_way = 0
        self._seen_away_at: float | None = None
        self._touched: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._threads = DatabaseThreads(THREADS, "snapshot")

    def close(self) -> None:
        """End the threads and their connections."""
        self._threads.close()

    async def caller(self, deploy_id: str) -> Caller | None:
        """The living deployment with this id and its keys; None when there is none.

        Raises UnableToLoad.
        """
        entry = self._callers.get(deploy_id)
        if entry is not None and time.monotonic() - entry.loaded_at < RENEW_AFTER_SECONDS:
            return entry.value
        entry = await self._fresh(self._callers, deploy_id, lambda: load_caller(deploy_id))
        self._callers.move_to_end(deploy_id)
        while len(self._callers) > CALLERS_MAX:
            self._callers.popitem(last=False)
        return entry.value

    async def newest_caller(self, deploy_id: str) -> Caller | None:
        """Like `caller`, and a tenth of a second old at most: a key works once it was answered.

        Raises UnableToLoad.
        """
        entry = self._callers.get(deploy_id)
        if entry is None or time.monotonic() - entry.loaded_at >= ASK_AGAIN_AFTER_SECONDS:
            entry = await self._load(self._callers, deploy_id, lambda: load_caller(deploy_id))
        return entry.value

    async def catalog(self) -> catalog.Catalog:
        """All models. Raises UnableToLoad."""
        entry = self._catalog.get("")
        if entry is None or time.monotonic() - entry.loaded_at >= RENEW_AFTER_SECONDS:
            entry = await self._fresh(self._catalog, "", lambda: catalog.load(at=datetime.now(UTC)))
        return entry.value

    async def figures(self, organization_id: int, load: Callable[[], Value]) -> Value:
        """What `load` reads of an organization, for which this is asked with one kind of `load`.

        Raises UnableToLoad.
        """
        name = str(organization_id)
        entry = self._figures.get(name)
        if entry is None or time.monotonic() - entry.loaded_at >= RENEW_AFTER_SECONDS:
            entry = await self._fresh(self._figures, name, load)
            self._figures.move_to_end(name)
            while len(self._figures) > CALLERS_MAX:
                self._figures.popitem(last=False)
        value: Value = entry.value
        return value

    def touch(self, key_id: int) -> None:
        """Remember that a key was used; written to the database at most every ten seconds."""
        self._note("last_used_at", key_id)

    def mark_exposed(self, key_id: int) -> None:
        """Remember that a browser sent this key, so that the console can warn its owner."""
        self._note("exposed_at", key_id)

    def _note(self, name: str, key_id: int) -> None:
        """Write the time into the key's field `name`, unless that was done a moment ago."""
        now = time.monotonic()
        written_at = self._touched.get((name, key_id))
        if written_at is not None and now - written_at < TOUCH_EVERY_SECONDS:
            return
        self._touched[name, key_id] = now
        self._touched.move_to_end((name, key_id))
        while len(self._touched) > CALLERS_MAX:
            self._touched.popitem(last=False)
        self._threads.submit(_write, name, key_id)

    async def _fresh(
        self, entries: "MutableMapping[str, _Entry[Value]]", name: str, load: Callable[[], Value]
    ) -> "_Entry[Value]":
        """The entry, renewed: in the background while it may still be used, else before."""
        entry = entries.get(name)
        if entry is not None and self._may_be_used(entry):
            if entry.renewal is None or entry.renewal.done():
                entry.renewal = asyncio.ensure_future(self._renew(entries, name, load))
            return entry
        try:
            return await self._load(entries, name, load)
        except UnableToLoad:
            if entry is None or not self._may_be_used(entry):
                raise
            return entry

    def _may_be_used(self, entry: "_Entry[Any]") -> bool:
        now = time.monotonic()
        seen_at = self._seen_away_at
        is_away = seen_at is not None and now - seen_at < SEEN_AWAY_SECONDS
        return now - entry.loaded_at < (AWAY_SECONDS_MAX if is_away else REFUSE_AFTER_SECONDS)

    async def _renew(
        self, entries: "MutableMapping[str, _Entry[Value]]", name: str, load: Callable[[], Value]
    ) -> None:
        try:
            await self._load(entries, name, load)
        except UnableToLoad:
            return  # said to whoever cannot do without
        except Exception:
            log.exception("a snapshot could not be renewed")

    async def _load(
        self, entries: "MutableMapping[str, _Entry[Value]]", name: str, load: Callable[[], Value]
    ) -> "_Entry[Value]":
        """Load once, however many wait for it. The entry's age counts from before the query."""
        loading = self._loading(f"{id(entries)}:{name}", load)
        try:
            async with asyncio.timeout(LOAD_SECONDS_MAX):
                value = await asyncio.shield(loading.future)
        except (DatabaseFailure, TimeoutError) as error:
            if isinstance(error, OperationalError | InterfaceError | TimeoutError):
                self._seen_away_at = time.monotonic()
            raise UnableToLoad from error
        self._seen_away_at = None
        known = entries.get(name)
        entry: _Entry[Value] = _Entry(value, loading.began_at)
        # A load that a slow database answered late must not replace one that began after it.
        if known is None or known.loaded_at <= loading.began_at:
            entries[name] = entry
        return entry

    def _loading(self, name: str, load: Callable[[], Any]) -> _Load:
        """The load of this name under way, or a new one. Raises UnableToLoad when too many wait.

        A load asked for more than a second ago may have read the database before a revocation
        that must count by now, so nobody joins it any more.
        """
        now = time.monotonic()
        loading = self._loads.get(name)
        if loading is not None and now - loading.began_at < REFUSE_AFTER_SECONDS:
            return loading
        if self._loads_under_way >= LOADS_MAX:
            # Of a hanging database nothing else is heard any more. One that answers has many
            # callers: then a flood of them must not keep a revoked key alive.
            if self._seen_away_at is not None:
                self._seen_away_at = now
            raise UnableToLoad
        self._loads_under_way += 1
        future = asyncio.get_running_loop().run_in_executor(self._threads, _guarded, load)
        loading = _Load(future, now)
        self._loads[name] = loading
        future.add_done_callback(lambda _: self._forget(name, loading))
        return loading

    def _forget(self, name: str, loading: _Load) -> None:
        self._loads_under_way -= 1
        if self._loads.get(name) is loading:
            del self._loads[name]
        # Everybody who waited may have given up: then nobody else looks at its failure.
        if not loading.future.cancelled():
            loading.future.exception()


def _guarded(load: Callable[[], Value]) -> Value:
    """Run in one of the threads: connections that died or aged are replaced first."""
    close_old_connections()
    return load()


def _write(name: str, key_id: int) -> None:
    try:
        close_old_connections()
        GatewayKey.objects.filter(pk=key_id).update(**{name: timezone.now()})
    except DatabaseFailure:
        log.exception("a key's use could not be noted", field=name, key_id=key_id)


def load_caller(deploy_id: str) -> Caller | None:
    """The caller as the database knows it; None for unknown or deleted."""
    deployment = (
        Deployment.objects.select_related("workspace__organization__terms")
        .filter(deploy_id=deploy_id, deleted_at=None)
        .first()
    )
    if deployment is None:
        return None
    organization = deployment.workspace.organization
    keys = list(
        GatewayKey.objects.filter(
            Q(expires_at=None) | Q(expires_at__gt=timezone.now()),
            deployment=deployment,
            revoked_at=None,
        )
    )
    return Caller(
        deployment_id=deployment.pk,
        deploy_id=deploy_id,
        workspace_id=deployment.workspace_id,
        organization_id=organization.pk,
        organization_slug=organization.slug,
        margin_basis_points=terms.margin_basis_points(organization),
        keys=tuple(
            KeyFacts(key.pk, key.digest, key.expires_at.timestamp() if key.expires_at else None)
            for key in keys
        ),
        limits=allowances.for_caller(deployment, [key.pk for key in keys]),
        is_suspended=organization.is_suspended(at=timezone.now()),
    )
