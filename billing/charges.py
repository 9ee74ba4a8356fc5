"""Charges: what calls cost, posted to the ledger many at a time.

One transfer per organization and batch of ingested calls, covered first by the lease of the
process that served them, then by what the organization has besides, and owed as overage beyond
that: never lost, never an overdraft. Runs inside its caller's transaction. Must not know calls.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from django.db import connection

from billing import grants, postings, rows
from billing.models import LedgerAccount, Transfer
from billing.postings import LockedAccount

CREDITS = LedgerAccount.Kind.CREDITS.value
REVENUE = LedgerAccount.Kind.USAGE_REVENUE.value
OVERAGE = LedgerAccount.Kind.OVERAGE_RECEIVABLE.value


@dataclass(frozen=True, slots=True)
class Posted:
    """How an organization's charge was posted: ids of its transfers, and what each moved.

    `transfer_id` is the one that usage records name: from credit, if there was any.
    """

    transfer_id: int
    credit_nanos: int
    overage_nanos: int


@dataclass(slots=True)
class _Lease:
    pk: int
    outstanding_nanos: int


@dataclass(frozen=True, slots=True)
class _Split:
    """One cost, by what pays for it."""

    leased: int
    free: int
    overage: int

    @property
    def credit(self) -> int:
        return self.leased + self.free

    @property
    def beyond(self) -> int:
        return self.free + self.overage


def post(costs: Mapping[int, int], *, journal: str, key: str, at: datetime) -> dict[int, Posted]:
    """Charge organizations (id -> nano-dollars above zero) for calls of one journal.

    `key` names the batch: the ledger refuses the same batch twice. Accounts are locked in
    primary-key order, before leases.
    """
    if not costs:
        return {}
    accounts = postings.lock_accounts(costs)
    leases = _lock_leases(journal, list(costs))
    splits = {
        organization_id: _split(cost, accounts[organization_id], leases.get(organization_id))
        for organization_id, cost in costs.items()
    }
    ids = postings.insert_posted(
        [
            transfer
            for organization_id, split in splits.items()
            for transfer in _transfers(organization_id, split, accounts[organization_id], key)
        ],
        code=Transfer.Code.USAGE.value,
        at=at,
    )
    _count(splits, accounts)
    _use_leases(leases, splits)
    grants.consume(
        [
            grants.Charge(organization_id, ids[organization_id, key], split.credit, at)
            for organization_id, split in splits.items()
            if split.credit
        ]
    )
    return {
        organization_id: Posted(
            ids.get((organization_id, key)) or ids[organization_id, _overage_key(key)],
            split.credit,
            split.overage,
        )
        for organization_id, split in splits.items()
    }


def _split(cost: int, accounts: Mapping[str, LockedAccount], lease: _Lease | None) -> _Split:
    leased = min(cost, lease.outstanding_nanos if lease else 0)
    free = min(cost - leased, max(0, accounts[CREDITS].available_nanos))
    return _Split(leased, free, cost - leased - free)


def _transfers(
    organization_id: int, split: _Split, accounts: Mapping[str, LockedAccount], key: str
) -> list[postings.Posting]:
    revenue = accounts[REVENUE].pk
    found = []
    if split.credit:
        found.append(
            postings.Posting(organization_id, accounts[CREDITS].pk, revenue, split.credit, key)
        )
    if split.overage:
        found.append(
            postings.Posting(
                organization_id, accounts[OVERAGE].pk, revenue, split.overage, _overage_key(key)
            )
        )
    return found


def _overage_key(key: str) -> str:
    return f"{key}:over"


def _lock_leases(journal: str, organization_ids: list[int]) -> dict[int, _Lease]:
    lock = "FOR NO KEY UPDATE" if connection.features.has_select_for_update else ""
    statement = (
        "SELECT organization_id, id, granted_nanos - returned_nanos - used_nanos"  # noqa: S608
        " FROM billing_lease WHERE journal_id = %s"
        f" AND organization_id IN ({rows.placeholders(organization_ids)}) ORDER BY id {lock}"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [journal, *organization_ids])
        return {row[0]: _Lease(row[1], row[2]) for row in cursor.fetchall()}


def _count(
    splits: Mapping[int, _Split], accounts: Mapping[int, Mapping[str, LockedAccount]]
) -> None:
    changes = {}
    for organization_id, split in splits.items():
        own = accounts[organization_id]
        changes[own[CREDITS].pk] = {
            "debits_pending": -split.leased,
            "debits_posted": split.credit,
        }
        changes[own[REVENUE].pk] = {
            "credits_pending": -split.leased,
            "credits_posted": split.credit + split.overage,
        }
        if split.overage:
            changes[own[OVERAGE].pk] = {"debits_posted": split.overage}
    postings.change_counters(changes)


def _use_leases(leases: Mapping[int, _Lease], splits: Mapping[int, _Split]) -> None:
    used = [
        (lease.pk, splits[organization_id].leased, splits[organization_id].beyond)
        for organization_id, lease in sorted(leases.items())
    ]
    if not used:
        return
    statement = (
        "UPDATE billing_lease AS lease SET used_nanos = lease.used_nanos + used.column2,"  # noqa: S608
        " beyond_nanos = lease.beyond_nanos + used.column3"
        f" FROM (VALUES {','.join(['(%s,%s,%s)'] * len(used))}) AS used"
        " WHERE lease.id = used.column1"
    )
    with connection.cursor() as cursor:
        cursor.execute(statement, [value for row in used for value in row])
