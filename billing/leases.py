"""Leases in the database: credit set aside for a process to spend by itself.

Grants and returns are absolute totals, so an answer that was lost on the way, or a request made
twice, changes nothing. What is set aside counts against the organization's credit at once
(`debits_pending` of its account), so leases never add up to more than there is. The holder's side
is billing/journal/lease.py. Must not know calls.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import F, QuerySet

from billing import postings
from billing.models import Journal, Lease, LedgerAccount
from orgs import failpoints

# A grant is at least what was asked for, and up to this part of what is available: it shrinks
# with the credit, so that near zero none of it lies idle in one process.
SHARE = 8
# So often a silent journal is looked at before its leases are taken back.
LOOKS = 12
RECALL_CHANNEL = "billing_recall"


class LeaseLost(Exception):
    """The journal's leases were taken back, because its host was silent for too long."""


@dataclass(frozen=True, slots=True)
class Granted:
    """What the lease amounts to, and the organization's credit afterwards; nano-dollars.

    `booked_nanos` is what the holder's calls have been charged so far, `beyond_nanos` the part of
    it that the lease did not pay.
    """

    granted_nanos: int
    booked_nanos: int
    beyond_nanos: int
    posted_nanos: int
    available_nanos: int


def register(journal: str, *, host: str, at: datetime) -> None:
    """Make the journal known. Repeating it changes nothing."""
    Journal.objects.get_or_create(
        name=journal, defaults={"host": host, "created_at": at, "renewed_at": at}
    )


def grant(journal: str, organization_id: int, *, needed_nanos: int) -> Granted:
    """Set aside credit for the journal's process: `needed_nanos`, or a share if that is more.

    With too little available, all of it; other processes are then asked to give back what they
    do not use. Raises LeaseLost.
    """
    with transaction.atomic():
        accounts = postings.lock_accounts([organization_id])[organization_id]
        credit = accounts[LedgerAccount.Kind.CREDITS]
        lease = _lease(journal, organization_id)
        available = credit.available_nanos
        amount = max(0, min(max(needed_nanos, available // SHARE), available))
        if amount:
            _reserve(accounts, amount)
            Lease.objects.filter(pk=lease.pk).update(granted_nanos=F("granted_nanos") + amount)
        if amount < needed_nanos:
            _ask_others(organization_id)
        failpoints.reach("lease.before_commit")
    failpoints.reach("lease.after_commit")
    return Granted(
        granted_nanos=lease.granted_nanos + amount,
        booked_nanos=lease.used_nanos + lease.beyond_nanos,
        beyond_nanos=lease.beyond_nanos,
        posted_nanos=credit.posted_nanos,
        available_nanos=available - amount,
    )


def look(journal: str, organization_id: int) -> Lease | None:
    """The lease as it is, for a holder that has lost an answer; None when there is none."""
    return Lease.objects.filter(journal_id=journal, organization_id=organization_id).first()


def give_back(journal: str, organization_id: int, *, returned_nanos: int) -> None:
    """Return credit so that `returned_nanos` have been returned in all. Raises LeaseLost."""
    with transaction.atomic():
        accounts = postings.lock_accounts([organization_id])[organization_id]
        lease = _lease(journal, organization_id)
        # Never more than is outstanding, whatever the holder believes.
        amount = min(returned_nanos - lease.returned_nanos, lease.outstanding_nanos)
        if amount > 0:
            Lease.objects.filter(pk=lease.pk).update(returned_nanos=F("returned_nanos") + amount)
            _reserve(accounts, -amount)


def renew(journal: str, *, at: datetime) -> None:
    """Say that the journal's process lives. Raises LeaseLost."""
    renewed = Journal.objects.filter(name=journal, reclaimed_at=None).update(
        renewed_at=at, looks_in_vain=0
    )
    if not renewed:
        raise LeaseLost(journal)


def close(journal: str) -> int:
    """Return everything outstanding of a journal whose process is gone; nano-dollars."""
    total = 0
    for lease in Lease.objects.filter(journal_id=journal).order_by("organization_id"):
        with transaction.atomic():
            accounts = postings.lock_accounts([lease.organization_id])[lease.organization_id]
            lease = _lease(journal, lease.organization_id, is_holder=False)
            amount = lease.outstanding_nanos
            if amount:
                _reserve(accounts, -amount)
                Lease.objects.filter(pk=lease.pk).update(
                    returned_nanos=F("returned_nanos") + amount
                )
            total += amount
    return total


def reclaim(at: datetime, *, silent_for: timedelta) -> list[str]:
    """Take back the leases of journals whose host has been silent that long; their names.

    `silent_for` must be longer than a process serves without renewing, plus the longest call: then
    nobody can be spending what is taken back. What such a host ingests later is still charged.

    To be called often: silence is counted in looks, each a part of `silent_for` after the one
    before, so that a clock that jumps, or is not that of the host, takes nothing from the living.
    """
    names = []
    lent_to = _running().filter(leases__isnull=False).values_list("name", flat=True).distinct()
    for name in list(lent_to.order_by("name")):
        with transaction.atomic():
            journal = _running().select_for_update().filter(name=name).first()
            if journal is None or not _looks_again(journal, at, silent_for / LOOKS):
                continue
            journal.looks_in_vain += 1
            journal.looked_at = at
            if journal.looks_in_vain > LOOKS:
                journal.reclaimed_at = at
                close(name)
                names.append(name)
            journal.save(update_fields=["looks_in_vain", "looked_at", "reclaimed_at"])
    return names


def _running() -> "QuerySet[Journal]":
    return Journal.objects.filter(closed_at=None, reclaimed_at=None)


def _looks_again(journal: Journal, at: datetime, pause: timedelta) -> bool:
    """Whether the last look is long enough ago, or seems to be still to come."""
    last = journal.looked_at
    # Who calls this is not exact to the second.
    return last is None or at < last or at - last >= pause * 0.9


def _lease(journal: str, organization_id: int, *, is_holder: bool = True) -> Lease:
    """The lease, locked; made if missing. Accounts are always locked before leases."""
    if is_holder and Journal.objects.filter(name=journal, reclaimed_at__isnull=False).exists():
        raise LeaseLost(journal)
    Lease.objects.bulk_create(
        [Lease(journal_id=journal, organization_id=organization_id)], ignore_conflicts=True
    )
    return Lease.objects.select_for_update(no_key=True).get(
        journal_id=journal, organization_id=organization_id
    )


def _reserve(accounts: dict[str, postings.LockedAccount], amount_nanos: int) -> None:
    """Set aside (or, negative, give back) credit, on both sides of the entry to come."""
    postings.change_counters(
        {
            accounts[LedgerAccount.Kind.CREDITS].pk: {"debits_pending": amount_nanos},
            accounts[LedgerAccount.Kind.USAGE_REVENUE].pk: {"credits_pending": amount_nanos},
        }
    )


def _ask_others(organization_id: int) -> None:
    """Tell processes that hold unused credit of this organization to return it (PostgreSQL).

    SQLite serves one process, which has nobody to ask.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify(%s, %s)", [RECALL_CHANNEL, str(organization_id)])
