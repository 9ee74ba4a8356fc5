"""What is kept for clients between calls: responses, their items, and state that clients drop.

Rows belong to an organization, are encrypted, expire, and are limited in size. Saved before the
end of an answer is released, so that the next turn finds them on any process; `store: false`
saves nothing. Asked from the event loop, served by database threads of its own. Must know no wire.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import orjson
import structlog
from django.utils import timezone

from gateway.dialects.base import KEPT_ID_CHARACTERS_MAX
from gateway.models import StoredItem
from orgs import vault
from orgs.threads import DatabaseThreads, UnableToAsk

log = structlog.get_logger(__name__)

LIFETIME = timedelta(days=30)
# What a conversation says is kept for so long after its last turn, give or take this.
RENEWED_BEFORE = timedelta(days=1)
ITEM_BYTES_MAX = 24 * 1024 * 1024  # a request's body, and the answer
ITEMS_MAX = 1_000  # of one look-up
SECONDS_MAX = 5.0
THREADS = 2
QUEUE_MAX = 200  # of what waits for a thread or is in one

Kind = StoredItem.Kind
T = TypeVar("T")


class UnableToUseStore(Exception):
    """The database did not answer in time, or too much waits for it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to keep: `payload` is JSON. `previous_id`: the response that this one continues."""

    kind: str
    item_id: str
    payload: Any
    previous_id: str = ""


class Store:
    """The store of one process."""

    def __init__(self) -> None:
        self._threads = DatabaseThreads(THREADS, "store", queue_max=QUEUE_MAX)

    def close(self) -> None:
        """End the threads and their connections."""
        self._threads.close()

    async def load(self, organization_id: int, kind: str, ids: Iterable[str]) -> dict[str, Any]:
        """Payloads of the organization's rows with these ids. Raises UnableToUseStore."""
        wanted = list(dict.fromkeys(ids))[:ITEMS_MAX]
        if not wanted:
            return {}
        return await self.run(load_rows, organization_id, kind, wanted)

    async def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """What `work` returns, done in one of the store's threads. Raises UnableToUseStore."""
        try:
            return await self._threads.ask(work, *arguments, seconds_max=SECONDS_MAX)
        except UnableToAsk as error:
            raise UnableToUseStore(str(error)) from error


def _context(organization_id: int, kind: str, item_id: str) -> str:
    return f"gateway.StoredItem:{organization_id}:{kind}:{item_id}"


def load_rows(organization_id: int, kind: str, ids: list[str]) -> dict[str, Any]:
    """The rows that exist, have not expired and can be decrypted."""
    found = StoredItem.objects.filter(
        organization_id=organization_id, kind=kind, item_id__in=ids, expires_at__gt=timezone.now()
    )
    payloads = {}
    for row in found:
        context = _context(organization_id, kind, row.item_id)
        try:
            text = vault.decrypt(row.payload_sealed, context=context)
        except vault.UnableToDecrypt as error:  # its key was replaced: as good as expired
            log.warning("a kept item is unreadable", kind=kind, reason=str(error))
            continue
        payloads[row.item_id] = orjson.loads(text)
    return payloads


def save_rows(organization_id: int, rows: list[Row]) -> None:
    """Insert or replace, in one statement; one too large or too deep is left out."""
    now = timezone.now()
    stored = []
    # One statement may not touch a row twice (PostgreSQL refuses all of it): the last one counts.
    for row in {(row.kind, row.item_id): row for row in rows}.values():
        if len(row.item_id) > KEPT_ID_CHARACTERS_MAX:  # a provider's; it would cost all the others
            log.warning("an item's id is too long to be kept", kind=row.kind)
            continue
        try:
            text = orjson.dumps(row.payload)
        except orjson.JSONEncodeError:  # nested deeper than can be written
            log.warning("an item could not be kept", kind=row.kind)
            continue
        if len(text) > ITEM_BYTES_MAX:
            continue
        sealed = vault.encrypt(
            text.decode(), context=_context(organization_id, row.kind, row.item_id)
        )
        stored.append(
            StoredItem(
                organization_id=organization_id,
                kind=row.kind,
                item_id=row.item_id,
                previous_id=row.previous_id,
                payload_sealed=sealed,
                created_at=now,
                expires_at=now + LIFETIME,
            )
        )
    StoredItem.objects.bulk_create(
        stored,
        update_conflicts=True,
        unique_fields=["organization", "kind", "item_id"],
        update_fields=["previous_id", "payload_sealed", "created_at", "expires_at"],
    )


def purge(*, at: datetime) -> int:
    """Delete what has expired; how many rows."""
    return StoredItem.objects.filter(expires_at__lte=at).delete()[0]
