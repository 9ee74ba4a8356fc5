"""Postings: accounts and posted transfers, many at a time, in the caller's transaction.

One row per call would cost more than the call; these write many rows in one statement. Counters
change by increments, on rows that are locked in primary-key order, so that two batches cannot
deadlock. Must not know what is posted or why.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from billing import ledger, rows
from billing.models import LedgerAccount, Transfer
from orgs.identifiers import ALPHABET

TRANSFER_COLUMNS = (
    "organization_id",
    "public_id",
    "debit_account_id",
    "credit_account_id",
    "amount_nanos",
    "phase",
    "pending_transfer_id",
    "code",
    "idempotency_key",
    "fingerprint",
    "reason",
    "created_by_id",
    "created_at",
    "expires_at",
)
# A plain string: an enum member costs the database driver a slow path for every value.
POSTED = Transfer.Phase.POSTED.value
_LETTERS = bytes(ord(ALPHABET[number % len(ALPHABET)]) for number in range(256))


@dataclass(frozen=True, slots=True)
class LockedAccount:
    """An account whose row is locked, with its credit as it is; nano-dollars."""

    pk: int
    posted_nanos: int
    held_nanos: int

    @property
    def available_nanos(self) -> int:
        """What may still be spent or set aside."""
        return self.posted_nanos - self.held_nanos


@dataclass(frozen=True, slots=True)
class Posting:
    """One posted transfer to be written."""

    organization_id: int
    debit_account_id: int
    credit_account_id: int
    amount_nanos: int
    idempotency_key: str


def lock_accounts(organization_ids: Iterable[int]) -> dict[int, dict[str, LockedAccount]]:
    """The accounts of these organizations by kind, locked in primary-key order; made if missing.

    Whoever locks more than one organization's accounts must do it in one call.
    """
    wanted = set(organization_ids)
    found = _lock_existing(wanted)
    if any(
        len(found.get(organization_id, {})) < len(LedgerAccount.Kind) for organization_id in wanted
    ):
        for organization_id in wanted:
            ledger.open_accounts_of(organization_id)
        found = _lock_existing(wanted)
    return found


def _lock_existing(organization_ids: set[int]) -> dict[int, dict[str, LockedAccount]]:
    # SQLite's write transactions are alone from BEGIN IMMEDIATE on and need no row locks.
    # NO KEY: inserting a transfer takes a key share of its accounts, which must not wait.
    lock = "FOR NO KEY UPDATE" if connection.features.has_select_for_update else ""
    statement = (
        "SELECT organization_id, kind, id,"  # noqa: S608 - only placeholders are put in
        " credits_posted_nanos - debits_posted_nanos, debits_pending_nanos"
        " FROM billing_ledgeraccount"
        f" WHERE organization_id IN ({rows.placeholders(organization_ids)}) ORDER BY id {lock}"
    )
    found: dict[int, dict[str, LockedAccount]] = {}
    with connection.cursor() as cursor:
        cursor.execute(statement, list(organization_ids))
        for organization_id, kind, pk, posted, held in cursor.fetchall():
            found.setdefault(organization_id, {})[kind] = LockedAccount(pk, posted, held)
    return found


def insert_posted(
    postings: Sequence[Posting], *, code: str, at: datetime
) -> dict[tuple[int, str], int]:
    """Write posted transfers; their ids by organization and key. Counters are the caller's."""
    created_at = rows.datetime_for(at)
    public_ids = _transfer_ids(len(postings))
    values = [
        [
            item.organization_id, public_id, item.debit_account_id, item.credit_account_id,
            item.amount_nanos, POSTED, None, code, item.idempotency_key,
            ledger.fingerprint_of(
                item.debit_account_id, item.credit_account_id, item.amount_nanos, code, ""
            ),
            "", None, created_at, None,
        ]
        for item, public_id in zip(postings, public_ids, strict=True)
    ]  # fmt: skip
    returned = rows.insert(
        "billing_transfer",
        TRANSFER_COLUMNS,
        values,
        suffix="RETURNING id, organization_id, idempotency_key",
    )
    return {(organization_id, key): pk for pk, organization_id, key in returned}


COUNTERS = ("debits_pending", "debits_posted", "credits_pending", "credits_posted")


def change_counters(changes: Mapping[int, Mapping[str, int]]) -> None:
    """Add to counters of locked accounts (id -> counter of COUNTERS -> nano-dollars)."""
    if not changes:
        return
    values = ",".join(["(%s,%s,%s,%s,%s)"] * len(changes))
    statement = (
        "UPDATE billing_ledgeraccount AS account SET"  # noqa: S608 - only placeholders
        " debits_pending_nanos = account.debits_pending_nanos + delta.column2,"
        " debits_posted_nanos = account.debits_posted_nanos + delta.column3,"
        " credits_pending_nanos = account.credits_pending_nanos + delta.column4,"
        " credits_posted_nanos = account.credits_posted_nanos + delta.column5"
        f" FROM (VALUES {values}) AS delta"
        " WHERE account.id = delta.column1"
    )
    parameters = [
        value
        for pk in sorted(changes)
        for value in (pk, *(changes[pk].get(name, 0) for name in COUNTERS))
    ]
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)


def _transfer_ids(count: int) -> list[str]:
    """Public ids for a batch; one read of randomness for all (the ids are unique, not secret)."""
    letters = os.urandom(16 * count).translate(_LETTERS).decode()
    return [f"tr_{letters[start : start + 16]}" for start in range(0, 16 * count, 16)]
