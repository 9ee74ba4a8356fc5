"""Promotional credit: which part of an organization's balance is promotional, and what used it.

The balance is one (CREDITS); a lot says how much of it came from one grant and until when it may
be spent. Usage takes from lots first, those that expire earliest first, then from other credit.
Writes `CreditGrant` and `GrantUse` only; must not know the ledger, which calls it after every
transfer that gives or takes credit.

Whoever takes credit holds the row of the CREDITS account in the same transaction (charging it
locks it), so lots of one organization are never changed by two transactions at once. A lot counts
until its expiry is posted: credit that was reserved before may still be paid from it after.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from django.db import connection
from django.db.models import F, QuerySet, Sum

from billing import rows
from billing.models import CreditGrant, GrantUse, Transfer

# Three parameters a lot; SQLite takes 32,766 in one statement.
LOTS_PER_STATEMENT_MAX = 5_000


@dataclass(frozen=True, slots=True)
class Charge:
    """An amount (> 0) that the transfer `transfer_id` has taken from CREDITS, as usage."""

    organization_id: int
    transfer_id: int
    amount_nanos: int
    at: datetime


def end_of(day: date) -> datetime:
    """When a promotion that may be spent on `day` (UTC) for the last time expires."""
    return datetime.combine(day + timedelta(days=1), time.min, UTC)


def open_lot(transfer: Transfer, *, expires_at: datetime | None) -> CreditGrant:
    """The lot of a promotion just posted."""
    return CreditGrant.objects.create(
        organization_id=transfer.organization_id,
        transfer=transfer,
        amount_nanos=transfer.amount_nanos,
        expires_at=expires_at,
        created_at=transfer.created_at,
    )


def open_lots() -> "QuerySet[CreditGrant]":
    """Lots with something left, in the order they are spent."""
    return CreditGrant.objects.filter(
        amount_nanos__gt=F("used_nanos") + F("expired_nanos")
    ).order_by(F("expires_at").asc(nulls_last=True), "id")


def remaining_nanos(organization_id: int) -> int:
    """How much of the organization's posted credit is promotional."""
    left = F("amount_nanos") - F("used_nanos") - F("expired_nanos")
    total = open_lots().filter(organization_id=organization_id).aggregate(total=Sum(left))["total"]
    return total or 0


def consume(charges: Sequence[Charge]) -> None:
    """Pay what has been charged from lots, as far as they reach; the rest was other credit.

    Called in the transaction that charged it, once for each charge. One query when none of these
    organizations has an open lot.
    """
    organization_ids = {charge.organization_id for charge in charges}
    lots = _lots_of(organization_ids) if charges else {}
    if not lots:
        return
    uses: list[GrantUse] = []
    for charge in charges:
        uses += _take(lots.get(charge.organization_id, []), charge.transfer_id, charge.amount_nanos)
    _record(uses)


def trim(transfer: Transfer, *, keep_nanos: int) -> None:
    """After `transfer` took credit that is not promotional first: lots hold at most `keep_nanos`.

    What they held above it is what the transfer took from them.
    """
    lots = _lots_of([transfer.organization_id]).get(transfer.organization_id, [])
    excess = sum(lot.left_nanos for lot in lots) - keep_nanos
    if excess > 0:
        _record(_take(lots, transfer.pk, excess))


def record_expiry(lot: CreditGrant, transfer: Transfer) -> None:
    """`transfer` took its whole amount from the lot because its time is over."""
    GrantUse.objects.create(grant=lot, transfer=transfer, amount_nanos=transfer.amount_nanos)
    CreditGrant.objects.filter(pk=lot.pk).update(
        expired_nanos=F("expired_nanos") + transfer.amount_nanos
    )


@dataclass(slots=True)
class _Lot:
    """An open lot while a batch takes from it."""

    pk: int
    left_nanos: int


def _lots_of(organization_ids: Collection[int]) -> dict[int, list[_Lot]]:
    """Organization -> its open lots in the order they are spent; see `open_lots`.

    In SQL: for each batch of calls, having Django write it takes longer than the database does.
    """
    statement = (
        "SELECT organization_id, id, amount_nanos - used_nanos - expired_nanos"  # noqa: S608
        " FROM billing_creditgrant WHERE amount_nanos > used_nanos + expired_nanos"
        f" AND organization_id IN ({rows.placeholders(organization_ids)})"
        " ORDER BY expires_at ASC NULLS LAST, id"
    )
    lots: dict[int, list[_Lot]] = {}
    with connection.cursor() as cursor:
        cursor.execute(statement, list(organization_ids))
        for organization_id, pk, left in cursor.fetchall():
            lots.setdefault(organization_id, []).append(_Lot(pk, left))
    return lots


def _take(lots: list[_Lot], transfer_id: int, amount_nanos: int) -> list[GrantUse]:
    """Take up to the amount from lots in turn; they remember it for the charges that follow."""
    uses = []
    for lot in lots:
        taken = min(lot.left_nanos, amount_nanos)
        if taken:
            uses.append(GrantUse(grant_id=lot.pk, transfer_id=transfer_id, amount_nanos=taken))
            lot.left_nanos -= taken
            amount_nanos -= taken
        if not amount_nanos:
            break
    return uses


def _record(uses: list[GrantUse]) -> None:
    """Write the uses and count them in their lots."""
    GrantUse.objects.bulk_create(uses)
    used: dict[int, int] = {}
    for use in uses:
        used[use.grant_id] = used.get(use.grant_id, 0) + use.amount_nanos
    changes = sorted(used.items())
    for start in range(0, len(changes), LOTS_PER_STATEMENT_MAX):
        part = changes[start : start + LOTS_PER_STATEMENT_MAX]
        values = ",".join(["(%s,%s)"] * len(part))
        statement = (
            "UPDATE billing_creditgrant AS lot"  # noqa: S608 - only placeholders
            " SET used_nanos = lot.used_nanos + taken.column2"
            f" FROM (VALUES {values}) AS taken WHERE lot.id = taken.column1"
        )
        with connection.cursor() as cursor:
            cursor.execute(statement, [value for change in part for value in change])
