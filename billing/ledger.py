"""The ledger: the only code that writes `LedgerAccount` and `Transfer`.

Every movement is one transfer of one positive amount from a debit to a credit account, and the
four counters of both accounts change in the same transaction, by increments, never by writing back
what was read. Accounts are locked and updated in primary-key order, so that two batches cannot
deadlock. The database is the referee (constraints and triggers); its refusals become domain errors
here, by constraint name, and no other module sees an IntegrityError.

Whatever gives credit first pays what the organization owes (`collect_overage`); whatever takes it
tells `billing.grants`, which knows the promotional part. Usage is posted for many calls at once
(billing/postings.py, billing/charges.py). Must not know what a call, a model, a price or a payment
provider is.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet

from billing import grants
from billing.models import LedgerAccount, Transfer
from billing.money import NANOS_PER_DOLLAR
from orgs.models import Organization, User

Kind = LedgerAccount.Kind
Phase = Transfer.Phase
Code = Transfer.Code


# A typing mistake must not come near the 64 bits (9.2 billion dollars) that a counter has.
AMOUNT_NANOS_MAX = 100_000_000 * NANOS_PER_DOLLAR


class UnableToDebit(Exception):
    """The organization's credit would fall below zero."""

    def __init__(self, *, available_nanos: int, held_nanos: int, needed_nanos: int) -> None:
        super().__init__(
            f"{needed_nanos} nano-dollars needed, {available_nanos} available, {held_nanos} held."
        )
        self.available_nanos = available_nanos
        self.held_nanos = held_nanos
        self.needed_nanos = needed_nanos


class UnableToHold(UnableToDebit):
    """Too little credit is available to hold this amount."""

    @property
    def is_reserved(self) -> bool:
        """Whether the credit exists but calls in flight hold it, so that waiting may help."""
        return self.held_nanos > 0 and self.available_nanos + self.held_nanos >= self.needed_nanos


class AlreadySettled(Exception):
    """The hold has been settled or released before; that can happen once."""


class KeyReused(Exception):
    """The idempotency key names an earlier transfer with other arguments."""


@dataclass(frozen=True, slots=True)
class Balance:
    """An organization's credit in nano-dollars; available = posted - held."""

    posted_nanos: int
    held_nanos: int
    available_nanos: int


@dataclass(frozen=True, slots=True)
class Hold:
    """An intention to reserve `amount_nanos` (> 0) of an organization's credit.

    `contra` is the account that gets what is settled, `code` says why: for a call by default.
    """

    organization_id: int
    amount_nanos: int
    idempotency_key: str
    created_at: datetime
    expires_at: datetime
    contra: str = Kind.USAGE_REVENUE
    code: str = Code.USAGE
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Settlement:
    """An intention to end a hold: post `cost_nanos` (0 or more) and return the rest.

    `hold_id` None (nothing was held, or the hold has expired): the whole cost is owed as overage.
    """

    organization_id: int
    hold_id: int | None
    held_nanos: int
    cost_nanos: int
    idempotency_key: str
    created_at: datetime
    reason: str = ""


# --- Accounts and balances ---------------------------------------------------------------------
def open_accounts(organization: Organization) -> dict[str, LedgerAccount]:
    """The organization's accounts by kind; missing ones are made. Only CREDITS has a floor."""
    return open_accounts_of(organization.pk)


def balance(organization: Organization) -> Balance:
    """What the organization has, what is held for calls in flight, and what it may still spend."""
    account = LedgerAccount.objects.filter(organization=organization, kind=Kind.CREDITS).first()
    if account is None:
        return Balance(0, 0, 0)
    return Balance(account.posted_nanos, account.debits_pending_nanos, account.available_nanos)


def open_accounts_of(organization_id: int) -> dict[str, LedgerAccount]:
    """See `open_accounts`."""
    accounts = _accounts(organization_id)
    if len(accounts) < len(Kind):
        LedgerAccount.objects.bulk_create(
            [
                LedgerAccount(
                    organization_id=organization_id,
                    kind=kind,
                    allows_overdraft=kind != Kind.CREDITS,
                )
                for kind in Kind
                if kind not in accounts
            ],
            ignore_conflicts=True,  # another process may open them at the same moment
        )
        accounts = _accounts(organization_id)
    return accounts


def _accounts(organization_id: int) -> dict[str, LedgerAccount]:
    found = LedgerAccount.objects.filter(organization_id=organization_id)
    return {account.kind: account for account in found}


# --- Single posted transfers -------------------------------------------------------------------
def grant(
    organization: Organization,
    amount_nanos: int,
    *,
    reason: str,
    idempotency_key: str,
    created_by: User | None = None,
    expires_at: datetime | None = None,
    at: datetime,
) -> Transfer:
    """Give promotional credit, until `expires_at` if given. The same key and arguments again
    return the first transfer.

    Raises KeyReused; ValueError unless the amount is above zero and plausible and the expiry is
    later than `at`.
    """
    if expires_at is not None and expires_at <= at:
        raise ValueError("Give an expiry that is still to come.")
    return _post(
        _Entry(
            organization_id=organization.pk,
            debit=Kind.PROMOTIONS,
            credit=Kind.CREDITS,
            amount_nanos=amount_nanos,
            code=Code.PROMO,
            reason=reason,
            idempotency_key=idempotency_key,
            created_by=created_by,
            at=at,
            terms=f"until {expires_at.isoformat()}" if expires_at else "",
        ),
        also=lambda transfer: grants.open_lot(transfer, expires_at=expires_at),
    )


def correct(
    organization: Organization,
    amount_nanos: int,
    *,
    reason: str,
    idempotency_key: str,
    created_by: User | None = None,
    at: datetime,
) -> Transfer:
    """Put a mistake right: a positive amount adds credit, a negative one takes it away.

    Promotional credit is taken last: to end a grant, expire it. Raises UnableToDebit when more
    would be taken than is available, KeyReused, ValueError for 0.
    """
    debit, credit = Kind.CORRECTIONS, Kind.CREDITS
    if amount_nanos < 0:
        debit, credit = credit, debit
    return _post(
        _Entry(
            organization_id=organization.pk,
            debit=debit,
            credit=credit,
            amount_nanos=abs(amount_nanos),
            code=Code.CORRECTION,
            reason=reason,
            idempotency_key=idempotency_key,
            created_by=created_by,
            at=at,
        ),
        also=_trim_lots if amount_nanos < 0 else None,
    )


def top_up(
    organization_id: int, amount_nanos: int, *, reason: str, idempotency_key: str, at: datetime
) -> Transfer:
    """Credit that was paid for. Raises KeyReused, ValueError."""
    return _post(
        _Entry(
            organization_id=organization_id,
            debit=Kind.PAYMENTS_CLEARING,
            credit=Kind.CREDITS,
            amount_nanos=amount_nanos,
            code=Code.TOPUP,
            reason=reason,
            idempotency_key=idempotency_key,
            at=at,
        )
    )


def take_back(
    organization_id: int,
    amount_nanos: int,
    *,
    code: str,
    reason: str,
    idempotency_key: str,
    at: datetime,
) -> list[Transfer]:
    """A payment has left us again without our asking: take its credit, and owe what is spent.

    What is not available is owed as overage and collected from the credit that arrives next. The
    same key again changes nothing. Raises KeyReused, ValueError.
    """
    with transaction.atomic():
        available = lock_credit(organization_id).available_nanos
        keys = (idempotency_key, f"{idempotency_key}:owed")
        earlier = list(
            Transfer.objects.filter(organization_id=organization_id, idempotency_key__in=keys)
        )
        if earlier:
            return earlier
        taken = min(available, amount_nanos)
        parts = [
            (Kind.CREDITS, taken, keys[0], _trim_lots),
            (Kind.OVERAGE_RECEIVABLE, amount_nanos - taken, keys[1], None),
        ]
        return [
            _post(
                _Entry(
                    organization_id=organization_id,
                    debit=debit,
                    credit=Kind.PAYMENTS_CLEARING,
                    amount_nanos=amount,
                    code=code,
                    reason=reason,
                    idempotency_key=key,
                    at=at,
                ),
                also=also,
            )
            for debit, amount, key, also in parts
            if amount
        ]


def give_again(
    organization_id: int, amount_nanos: int, *, reason: str, idempotency_key: str, at: datetime
) -> Transfer:
    """A disputed payment was decided for us: its credit comes back.

    Raises KeyReused, ValueError.
    """
    return _post(
        _Entry(
            organization_id=organization_id,
            debit=Kind.PAYMENTS_CLEARING,
            credit=Kind.CREDITS,
            amount_nanos=amount_nanos,
            code=Code.DISPUTE,
            reason=reason,
            idempotency_key=idempotency_key,
            at=at,
        )
    )


def expire(
    organization_id: int, amount_nanos: int, *, reason: str, idempotency_key: str, at: datetime
) -> Transfer:
    """Take promotional credit whose time is over; which lot it was is the caller's to record.

    Raises UnableToDebit, KeyReused, ValueError.
    """
    return _post(
        _Entry(
            organization_id=organization_id,
            debit=Kind.CREDITS,
            credit=Kind.BREAKAGE,
            amount_nanos=amount_nanos,
            code=Code.EXPIRY,
            reason=reason,
            idempotency_key=idempotency_key,
            at=at,
        )
    )


def owed_nanos(organization_id: int) -> int:
    """What the organization owes for calls that cost more than could be taken from its credit."""
    account = LedgerAccount.objects.filter(
        organization_id=organization_id, kind=Kind.OVERAGE_RECEIVABLE
    ).first()
    return 0 if account is None else max(0, -account.posted_nanos)


def collect_overage(organization_id: int, *, at: datetime) -> Transfer | None:
    """Pay what is owed from available credit, as far as it goes; None when there is nothing to do.

    Everything that gives credit does this in the same transaction.
    """
    with transaction.atomic():
        credit = lock_credit(organization_id)
        owed = owed_nanos(organization_id)
        amount = min(owed, credit.available_nanos)
        if amount <= 0:
            return None
        accounts = open_accounts_of(organization_id)
        paid_before = accounts[Kind.OVERAGE_RECEIVABLE].credits_posted_nanos
        return _post(
            _Entry(
                organization_id=organization_id,
                debit=Kind.CREDITS,
                credit=Kind.OVERAGE_RECEIVABLE,
                amount_nanos=amount,
                code=Code.OVERAGE,
                reason="usage above the credit of its time",
                # What was paid before only grows: the same debt is not paid twice.
                idempotency_key=f"overage:{paid_before}",
                at=at,
            ),
            also=_consume_lots,
        )


def collect_overage_of_all(*, at: datetime) -> int:
    """Collect wherever something is owed and credit is available; the nano-dollars collected.

    Credit also becomes available when a hold ends, which collects nothing by itself.
    """
    owing = LedgerAccount.objects.filter(
        kind=Kind.OVERAGE_RECEIVABLE, debits_posted_nanos__gt=F("credits_posted_nanos")
    ).values_list("organization_id", flat=True)
    collected = [collect_overage(organization_id, at=at) for organization_id in list(owing)]
    return sum(transfer.amount_nanos for transfer in collected if transfer is not None)


def lock_credit(organization_id: int) -> LedgerAccount:
    """The organization's CREDITS account, locked until the transaction ends, as it is now.

    Every movement of credit takes this lock first, so that whoever holds it decides alone.
    """
    accounts = open_accounts_of(organization_id)
    return LedgerAccount.objects.select_for_update(no_key=True).get(pk=accounts[Kind.CREDITS].pk)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """One transfer to write. `terms`: what else tells this intention from another one."""

    organization_id: int
    debit: str
    credit: str
    amount_nanos: int
    code: str
    reason: str
    idempotency_key: str
    at: datetime
    created_by: User | None = None
    terms: str = ""
    phase: str = Phase.POSTED
    pending: Transfer | None = None
    expires_at: datetime | None = None

    @property
    def fingerprint(self) -> str:
        terms = [self.terms] if self.terms else []
        if self.phase != Phase.POSTED:
            terms += [self.phase, str(self.pending.pk) if self.pending else ""]
        return fingerprint_of(
            self.debit, self.credit, self.amount_nanos, self.code, self.reason, *terms
        )

    def changes(self, side: str) -> dict[str, int]:
        """What it adds to the counters of its debit or credit account (`side`)."""
        pending, posted = f"{side}s_pending_nanos", f"{side}s_posted_nanos"
        if self.phase == Phase.PENDING:
            return {pending: self.amount_nanos}
        released = {} if self.pending is None else {pending: -self.pending.amount_nanos}
        return (
            released if self.phase == Phase.VOID_PENDING else released | {posted: self.amount_nanos}
        )


def _post(entry: _Entry, *, also: Callable[[Transfer], object] | None = None) -> Transfer:
    """One transfer of any phase, or the one that this key made before.

    `also(transfer)` runs in the same transaction, when the transfer is new.
    """
    if not 0 < entry.amount_nanos <= AMOUNT_NANOS_MAX:
        raise ValueError("Give an amount above zero and up to 100,000,000 dollars.")
    first = _replayed(entry)
    if first is not None:
        return first
    accounts = open_accounts_of(entry.organization_id)
    try:
        with transaction.atomic():
            transfer = _write(entry, accounts)
            if also is not None:
                also(transfer)
            if entry.credit == Kind.CREDITS:
                collect_overage(entry.organization_id, at=entry.at)
    except IntegrityError as error:
        return _explain_post(error, entry)
    return transfer


def _write(entry: _Entry, accounts: dict[str, LedgerAccount]) -> Transfer:
    """The row, whose constraints know the intention, then both counters in primary-key order."""
    transfer = Transfer.objects.create(
        organization_id=entry.organization_id,
        debit_account=accounts[entry.debit],
        credit_account=accounts[entry.credit],
        amount_nanos=entry.amount_nanos,
        phase=entry.phase,
        pending_transfer=entry.pending,
        code=entry.code,
        idempotency_key=entry.idempotency_key,
        fingerprint=entry.fingerprint,
        reason=entry.reason,
        created_by=entry.created_by,
        created_at=entry.at,
        expires_at=entry.expires_at,
    )
    _count_changes(
        {
            accounts[entry.debit].pk: entry.changes("debit"),
            accounts[entry.credit].pk: entry.changes("credit"),
        }
    )
    return transfer


def _count_changes(changes: dict[int, dict[str, int]]) -> None:
    for account_id in sorted(changes):
        LedgerAccount.objects.filter(pk=account_id).update(
            **{field: F(field) + amount for field, amount in changes[account_id].items()}
        )


def _consume_lots(transfer: Transfer) -> None:
    """The transfer paid for usage: promotional credit first."""
    grants.consume(
        [
            grants.Charge(
                transfer.organization_id, transfer.pk, transfer.amount_nanos, transfer.created_at
            )
        ]
    )


def _trim_lots(transfer: Transfer) -> None:
    """The transfer took credit for something else: promotional credit last."""
    accounts = _accounts(transfer.organization_id)
    clearing = accounts[Kind.PAYMENTS_CLEARING]
    # What is held for a refund leaves to the customer: no lot can lie in it.
    keep = accounts[Kind.CREDITS].posted_nanos - clearing.credits_pending_nanos
    grants.trim(transfer, keep_nanos=keep)


def _explain_post(error: IntegrityError, entry: _Entry) -> Transfer:
    """The first transfer when another process used the key just now, else a domain error."""
    constraint = _constraint_of(error)
    if constraint == "billing_transfer_resolved_once":
        raise AlreadySettled("The hold was settled or released before.") from error
    if constraint in ("billing_transfer_once_per_key", "billing_account_no_overdraft"):
        first = _replayed(entry)
        if first is not None:
            return first
    if constraint == "billing_account_no_overdraft":
        credit = _accounts(entry.organization_id)[Kind.CREDITS]
        raise UnableToDebit(
            available_nanos=credit.available_nanos,
            held_nanos=credit.debits_pending_nanos,
            needed_nanos=entry.amount_nanos,
        ) from error
    raise error


def _replayed(entry: _Entry) -> Transfer | None:
    key = entry.idempotency_key
    first = Transfer.objects.filter(
        organization_id=entry.organization_id, idempotency_key=key
    ).first()
    if first is not None and first.fingerprint != entry.fingerprint:
        raise KeyReused(f"The key {key!r} was used for another transfer ({first.public_id}).")
    return first


# --- Holds and settlements ---------------------------------------------------------------------
def hold(intention: Hold) -> int:
    """Reserve credit now; the hold's id. Repeating the same intention returns the first id.

    Raises UnableToHold, KeyReused.
    """
    try:
        transfer = _post(
            _Entry(
                organization_id=intention.organization_id,
                debit=Kind.CREDITS,
                credit=intention.contra,
                amount_nanos=intention.amount_nanos,
                code=intention.code,
                reason=intention.reason,
                idempotency_key=intention.idempotency_key,
                at=intention.created_at,
                phase=Phase.PENDING,
                expires_at=intention.expires_at,
            )
        )
    except UnableToDebit as error:
        raise UnableToHold(
            available_nanos=error.available_nanos,
            held_nanos=error.held_nanos,
            needed_nanos=error.needed_nanos,
        ) from error
    return transfer.pk


def settle(intention: Settlement) -> int | None:
    """End a hold now; id of the transfer that charged the cost, None when it was 0.

    Raises AlreadySettled when the hold was ended under another key, KeyReused.
    """
    with transaction.atomic():
        charged, posted = None, 0
        if intention.hold_id is not None:
            held = Transfer.objects.select_related("credit_account").get(pk=intention.hold_id)
            posted = min(intention.cost_nanos, held.amount_nanos)
            ended = _resolve(held, posted, intention)
            charged = ended.pk if posted else None
        if over := intention.cost_nanos - posted:
            owed = _owe(over, intention)
            charged = charged or owed.pk
        return charged


def _owe(amount_nanos: int, intention: Settlement) -> Transfer:
    """What a call cost above its hold."""
    return _post(
        _Entry(
            organization_id=intention.organization_id,
            debit=Kind.OVERAGE_RECEIVABLE,
            credit=Kind.USAGE_REVENUE,
            amount_nanos=amount_nanos,
            code=Code.USAGE,
            reason=intention.reason,
            idempotency_key=_overage_key(intention.idempotency_key),
            at=intention.created_at,
        )
    )


def _resolve(held: Transfer, posted_nanos: int, intention: Settlement) -> Transfer:
    """Post so much of the hold, the rest returns; void it when that is nothing."""
    is_usage = held.code == Code.USAGE and posted_nanos > 0
    return _post(
        _Entry(
            organization_id=held.organization_id,
            debit=Kind.CREDITS,
            credit=held.credit_account.kind,
            amount_nanos=posted_nanos or held.amount_nanos,
            code=held.code,
            reason=intention.reason,
            idempotency_key=intention.idempotency_key,
            at=intention.created_at,
            phase=Phase.POST_PENDING if posted_nanos else Phase.VOID_PENDING,
            pending=held,
        ),
        also=_consume_lots if is_usage else None,
    )


def release(transfer: Transfer, *, reason: str, at: datetime) -> None:
    """Give back everything `transfer` holds. Raises AlreadySettled."""
    settle(
        Settlement(
            organization_id=transfer.organization_id,
            hold_id=transfer.pk,
            held_nanos=transfer.amount_nanos,
            cost_nanos=0,
            idempotency_key=f"release:{transfer.pk}",
            created_at=at,
            reason=reason,
        )
    )


def open_holds() -> QuerySet[Transfer]:
    """Holds that are neither settled nor released, of organizations that have any."""
    return Transfer.objects.filter(
        phase=Phase.PENDING,
        resolutions__isnull=True,
        debit_account__debits_pending_nanos__gt=0,
    )


def _overage_key(key: str) -> str:
    return f"{key}:over"


def fingerprint_of(*arguments: object) -> str:
    """Tells a retry of an intention from another one under the same key."""
    return hashlib.sha256("\x1f".join(map(str, arguments)).encode()).hexdigest()


# SQLite names columns, not the unique constraint, in its message.
_SQLITE_UNIQUE = {
    "billing_transfer.pending_transfer_id": "billing_transfer_resolved_once",
    "billing_transfer.organization_id, billing_transfer.idempotency_key": (
        "billing_transfer_once_per_key"
    ),
}


def _constraint_of(error: IntegrityError) -> str:
    """Name of the constraint that refused, "" if unknown; both databases."""
    diagnostic = getattr(error.__cause__, "diag", None)
    if diagnostic is not None:
        return diagnostic.constraint_name or ""
    kind, _, subject = str(error).partition(" constraint failed: ")
    if kind == "UNIQUE":
        return _SQLITE_UNIQUE.get(subject, "")
    return subject
