"""What the hot path knows without asking the database: callers by deployId, and the catalog.

Owns freshness: an entry is used as it is for half a second, renewed in the background until it is
a second old, and never used after that. So a revoked key, a deleted deployment or a changed price
takes effect on every process within one second, however the change was made. The database is asked
in threads of its own; must never be waited for by a call whose entries are fresh.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from django.db import DatabaseError, close_old_connections, connections

from deployments.models import Deployment
from gateway import catalog
from gateway.models import GatewayKey
from orgs.models import Organization

RENEW_AFTER_SECONDS = 0.5
REFUSE_AFTER_SECONDS = 1.0
LOAD_SECONDS_MAX = 5.0
CALLERS_MAX = 10_000
TOUCH_EVERY_SECONDS = 10.0

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
    """Who speaks with a key: ids for records, and the deployment's working keys."""

    deployment_id: int
    deploy_id: str
    workspace_id: int
    organization_id: int
    organization_slug: str
    keys: tuple[KeyFacts, ...]


@dataclass(slots=True)
class _Entry(Generic[Value]):
    """A loaded value and the time its load began."""

    value: Value
    loaded_at: float
    renewal: "asyncio.Future[None] | None" = field(default=None)


class Snapshot:
    """The in-process copy, one per process and event loop."""

    def __init__(self) -> None:
        self._callers: OrderedDict[str, _Entry[Caller | None]] = OrderedDict()
        self._catalog: dict[str, _Entry[catalog.Catalog]] = {}
        self._loads: dict[str, asyncio.Future[Any]] = {}
        self._touched: OrderedDict[int, float] = OrderedDict()
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="snapshot")

    def close(self) -> None:
        """End the threads and their connections."""
        for _ in range(2):
            self._threads.submit(connections.close_all)
        self._threads.shutdown(wait=True)

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

    async def catalog(self) -> catalog.Catalog:
        """All models. Raises UnableToLoad."""
        entry = self._catalog.get("")
        if entry is None or time.monotonic() - entry.loaded_at >= RENEW_AFTER_SECONDS:
            entry = await self._fresh(
                self._catalog, "", lambda: catalog.load(at=datetime.now(UTC))
            )
        return entry.value

    def touch(self, key_id: int) -> None:
        """Remember that a key was used; written to the database at most every ten seconds."""
        now = time.monotonic()
        if now - self._touched.get(key_id, 0.0) < TOUCH_EVERY_SECONDS:
            return
        self._touched[key_id] = now
        self._touched.move_to_end(key_id)
        while len(self._touched) > CALLERS_MAX:
            self._touched.popitem(last=False)
        self._threads.submit(_write, {"last_used_at": datetime.now(UTC)}, key_id)

    def mark_exposed(self, key_id: int) -> None:
        """Remember that a browser sent this key, so that the console can warn its owner."""
        self._threads.submit(_write, {"exposed_at": datetime.now(UTC)}, key_id)

    async def _fresh(
        self, entries: "MutableMapping[str, _Entry[Value]]", name: str, load: Callable[[], Value]
    ) -> "_Entry[Value]":
        """The entry, renewed: in the background while it may still be used, else before."""
        entry = entries.get(name)
        age = time.monotonic() - entry.loaded_at if entry else REFUSE_AFTER_SECONDS
        if entry is not None and age < REFUSE_AFTER_SECONDS:
            if entry.renewal is None or entry.renewal.done():
                entry.renewal = asyncio.ensure_future(self._renew(entries, name, load))
            return entry
        return await self._load(entries, name, load)

    async def _renew(
        self, entries: "MutableMapping[str, _Entry[Value]]", name: str, load: Callable[[], Value]
    ) -> None:
        try:
            await self._load(entries, name, load)
        except UnableToLoad:
            return  # the next caller waits for the database and gets the error itself

    async def _load(
        self, entries: "MutableMapping[str, _Entry[Value]]", name: str, load: Callable[[], Value]
    ) -> "_Entry[Value]":
        """Load once, however many wait for it. The entry's age counts from before the query."""
        began_at = time.monotonic()
        loading = f"{id(entries)}:{name}"
        future = self._loads.get(loading)
        if future is None:
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(self._threads, _guarded, load)
            future.add_done_callback(lambda _: self._loads.pop(loading, None))
            self._loads[loading] = future
        try:
            async with asyncio.timeout(LOAD_SECONDS_MAX):
                value = await asyncio.shield(future)
        except (DatabaseError, TimeoutError) as error:
            raise UnableToLoad from error
        entry: _Entry[Value] = _Entry(value, began_at)
        entries[name] = entry
        return entry


def _guarded(load: Callable[[], Value]) -> Value:
    """Run in one of the threads: connections that died or aged are replaced first."""
    close_old_connections()
    return load()


def _write(fields: dict[str, datetime], key_id: int) -> None:
    close_old_connections()
    GatewayKey.objects.filter(pk=key_id).update(**fields)


def load_caller(deploy_id: str) -> Caller | None:
    """The caller as the database knows it; None for unknown, deleted or suspended."""
    deployment = (
        Deployment.objects.select_related("workspace__organization")
        .filter(deploy_id=deploy_id, deleted_at=None)
        .first()
    )
    if deployment is None:
        return None
    organization = deployment.workspace.organization
    if organization.status != Organization.Status.ACTIVE:
        return None
    keys = GatewayKey.objects.filter(deployment=deployment, revoked_at=None)
    return Caller(
        deployment_id=deployment.pk,
        deploy_id=deploy_id,
        workspace_id=deployment.workspace_id,
        organization_id=organization.pk,
        organization_slug=organization.slug,
        keys=tuple(
            KeyFacts(key.pk, key.digest, key.expires_at.timestamp() if key.expires_at else None)
            for key in keys
        ),
    )
