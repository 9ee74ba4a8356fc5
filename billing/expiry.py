"""Expiry: taking back promotional credit whose time is over.

Only what no call in flight may need is taken; the rest when it is free again, so a lot may expire
in several transfers. Each names what had expired before, so that repeating one changes nothing.
"""

from datetime import datetime

from django.db import transaction

from billing import grants, ledger
from billing.models import CreditGrant, Transfer


def expire_lots(at: datetime) -> int:
    """Expire every lot whose time is over; the nano-dollars taken."""
    due = grants.open_lots().filter(expires_at__lte=at).values_list("pk", flat=True)
    taken = [expire_lot(pk, reason="promotion expired", at=at) for pk in list(due)]
    return sum(transfer.amount_nanos for transfer in taken if transfer is not None)


def expire_lot(lot_id: int, *, reason: str, at: datetime) -> Transfer | None:
    """Take what is left of a lot, as far as it is not reserved; None when nothing can be taken."""
    with transaction.atomic():
        lot = CreditGrant.objects.get(pk=lot_id)
        credit = ledger.lock_credit(lot.organization_id)
        lot.refresh_from_db()  # what it is now that nobody else can take from it
        amount = min(lot.remaining_nanos, credit.available_nanos)
        if amount <= 0:
            return None
        transfer = ledger.expire(
            lot.organization_id,
            amount,
            reason=reason,
            idempotency_key=f"expire:{lot.transfer_id}:{lot.expired_nanos}",
            at=at,
        )
        grants.record_expiry(lot, transfer)
        return transfer
