"""Responses that continue one another: each kept with its own turn and a link to the one before.

Owns how such a chain is walked, kept alive and forgotten. A turn is kept once, however many
responses continue it. Runs in the store's threads. Must know no wire: a turn is
`{"input": [items], "response": {"output": [items], ...}, "belongings": [[kind, id], ...]}`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction
from django.utils import timezone

from gateway import store
from gateway.models import StoredItem
from gateway.store import Kind

# Of one conversation, in turns and in characters of sealed text.
TURNS_MAX = 1_000
CHARACTERS_MAX = 32 * 1024 * 1024
TURN_KINDS = (Kind.RESPONSE, Kind.FORGOTTEN)
# The newest must be a response somebody may name; those before it may have been deleted since.
WALK = """
WITH RECURSIVE chain (item_id, previous_id, characters, depth) AS (
    SELECT item_id, previous_id, LENGTH(payload_sealed), 1 FROM gateway_storeditem
    WHERE organization_id = %(organization)s AND kind = 'RESPONSE' AND item_id = %(newest)s
        AND expires_at > %(now)s
    UNION ALL
    SELECT turn.item_id, turn.previous_id, LENGTH(turn.payload_sealed), chain.depth + 1
    FROM gateway_storeditem turn JOIN chain ON turn.item_id = chain.previous_id
    WHERE turn.organization_id = %(organization)s AND turn.kind IN ('RESPONSE', 'FORGOTTEN')
        AND turn.expires_at > %(now)s AND chain.previous_id <> '' AND chain.depth < %(turns)s
)
SELECT item_id, previous_id, characters FROM chain ORDER BY depth
"""


class UnableToFind(Exception):
    """A response of the chain is not kept (any more)."""

    def __init__(self, response_id: str) -> None:
        super().__init__(response_id)
        self.response_id = response_id


class TooLong(Exception):
    """The chain has more turns, or more in them, than are put before one model."""


@dataclass(frozen=True, slots=True)
class _Link:
    item_id: str
    previous_id: str
    characters: int


def turns(organization_id: int, response_id: str) -> list[dict[str, Any]]:
    """The turns of the organization's conversation that ends with this response, oldest first.

    Two queries, however long it is. Raises UnableToFind, TooLong.
    """
    links = _walk(organization_id, response_id)
    if not links:
        raise UnableToFind(response_id)
    if sum(link.characters for link in links) > CHARACTERS_MAX:
        raise TooLong
    if missing := links[-1].previous_id:
        raise TooLong if len(links) == TURNS_MAX else UnableToFind(missing)
    ids = [link.item_id for link in links]
    found: dict[str, Any] = {}
    for kind in TURN_KINDS:
        wanted = [item_id for item_id in ids if item_id not in found]
        found |= store.load_rows(organization_id, kind, wanted) if wanted else {}
    for item_id in ids:
        if item_id not in found:  # its key was replaced
            raise UnableToFind(item_id)
    return [found[item_id] for item_id in reversed(ids)]


def _walk(organization_id: int, response_id: str) -> list[_Link]:
    """The chain's links, newest first."""
    now = connection.ops.adapt_datetimefield_value(timezone.now())
    known: dict[str, Any] = {
        "organization": organization_id,
        "newest": response_id,
        "now": now,
        "turns": TURNS_MAX,
    }
    with connection.cursor() as cursor:
        cursor.execute(WALK, known)
        return [_Link(*row) for row in cursor.fetchall()]


def items(conversation: Sequence[dict[str, Any]]) -> list[Any]:
    """What was said in these turns, in order."""
    return [item for turn in conversation for item in (*turn["input"], *turn["response"]["output"])]


def save(organization_id: int, rows: list[store.Row]) -> None:
    """Keep rows; what a response among them continues is kept as long as it is."""
    store.save_rows(organization_id, rows)
    now = timezone.now()
    for row in rows:
        if not row.previous_id:
            continue
        ids = [link.item_id for link in _walk(organization_id, row.previous_id)]
        # Once a day is enough, and spares writing the whole chain at every turn.
        StoredItem.objects.filter(
            organization_id=organization_id,
            kind__in=TURN_KINDS,
            item_id__in=ids,
            expires_at__lt=now + store.LIFETIME - store.RENEWED_BEFORE,
        ).update(expires_at=now + store.LIFETIME)


def forget(organization_id: int, response_id: str) -> bool:
    """Delete a response, its items, and the state of its tool calls; whether it was there.

    Where a later response continues it, its turn stays as part of that one's history, and goes with
    the last response that needs it. Nobody can name or read it any more.
    """
    with transaction.atomic():
        row = _find(organization_id, Kind.RESPONSE, response_id)
        if row is None:
            return False
        payload = store.load_rows(organization_id, Kind.RESPONSE, [response_id]).get(response_id)
        if payload is not None and _is_continued(row):
            _hide(row, payload)
            return True
        _remove(row, payload)
        while row.previous_id:
            before = _find(organization_id, Kind.FORGOTTEN, row.previous_id)
            if before is None or _is_continued(before):
                break
            found = store.load_rows(organization_id, Kind.FORGOTTEN, [before.item_id])
            _remove(before, found.get(before.item_id))
            row = before
        return True


def _find(organization_id: int, kind: str, item_id: str) -> StoredItem | None:
    return StoredItem.objects.filter(
        organization_id=organization_id,
        kind=kind,
        item_id=item_id,
        expires_at__gt=timezone.now(),
    ).first()


def _is_continued(row: StoredItem) -> bool:
    return StoredItem.objects.filter(
        organization_id=row.organization_id, kind__in=TURN_KINDS, previous_id=row.item_id
    ).exists()


def _hide(row: StoredItem, payload: dict[str, Any]) -> None:
    """Keep of a response only its turn, and the state of its tool calls, under another kind."""
    belongings = payload.get("belongings", [])
    turn = {
        "input": payload["input"],
        "response": {"output": payload["response"]["output"]},
        "belongings": [pair for pair in belongings if pair[0] == Kind.TOOL_CALL],
    }
    _remove_belongings(row, [pair for pair in belongings if pair[0] != Kind.TOOL_CALL])
    row.delete()
    hidden = store.Row(Kind.FORGOTTEN, row.item_id, turn, row.previous_id)
    store.save_rows(row.organization_id, [hidden])


def _remove(row: StoredItem, payload: dict[str, Any] | None) -> None:
    _remove_belongings(row, (payload or {}).get("belongings", []))
    row.delete()


def _remove_belongings(row: StoredItem, belongings: Sequence[Sequence[str]]) -> None:
    for kind in (Kind.ITEM, Kind.TOOL_CALL):
        ids = [item_id for of_kind, item_id in belongings if of_kind == kind]
        if ids:
            StoredItem.objects.filter(
                organization_id=row.organization_id, kind=kind, item_id__in=ids
            ).delete()
