"""Refunds and disputes: money on its way back, and the credit that goes with it.

A refund is held first, so that it cannot be spent meanwhile; then Stripe is asked with a key stored
before the first try; then the hold is posted or released, by the answer, by a webhook or by
`ask_again`, whichever tells first. Only purchased credit that is still unspent can be refunded:
usage spends promotions first, then payments in the order they came. What leaves us without our
asking (refunds made at Stripe, disputes) is taken from the credit, and owed where it is spent.
Whatever goes back is not bought again: an automatic top-up that would is switched off.
"""

from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import Q, QuerySet, Sum

from billing import auto_top_up, grants, ledger, payments, stripe_api
from billing.models import LedgerAccount, Payment, Refund, Transfer
from billing.money import format_dollars
from orgs.models import User

log = structlog.get_logger(__name__)

Status = Refund.Status
ASK_AGAIN_AFTER = timedelta(minutes=5)
ASKED_AGAIN_AT_ONCE_MAX = 200
# Holds must have an end; a refund's is the provider's answer, which comes within days.
HOLD_LIFETIME = timedelta(days=365)
DONE, UNDONE = "succeeded", frozenset({"failed", "canceled"})


class UnableToRefund(Exception):
    """This much of the payment cannot be refunded; the message says why, for whoever asked."""


# --- Asking for one ----------------------------------------------------------------------------
def refundable_nanos(payment: Payment) -> int:
    """How much of the payment is unspent, not reserved, and not refunded or disputed."""
    return refundable_by_payment(payment.organization_id).get(payment.pk, 0)


def refundable_by_payment(organization_id: int) -> dict[int, int]:
    """Payment id -> what of it can be refunded now; payments with nothing are left out."""
    going = Sum("refunds__amount_nanos", filter=~Q(refunds__status=Status.FAILED), default=0)
    # The oldest payment is spent first: what is left belongs to the latest ones.
    latest_first = (
        Payment.objects.filter(
            organization_id=organization_id, status=Payment.Status.SUCCEEDED, disputed_at=None
        )
        .annotate(refunded=going)
        .order_by("-transfer_id")
        .values_list("pk", "amount_nanos", "refunded")
    )
    left = _purchased_nanos(organization_id)
    refundable = {}
    for pk, amount, refunded in latest_first.iterator(chunk_size=100):
        if left <= 0:
            break
        unspent = min(left, amount - refunded)
        left -= unspent
        if whole_cents := unspent - unspent % stripe_api.NANOS_PER_CENT:
            refundable[pk] = whole_cents
    return refundable


def _purchased_nanos(organization_id: int) -> int:
    """Credit that is neither promotional nor on its way back, as far as nobody has reserved it."""
    accounts = {
        account.kind: account
        for account in LedgerAccount.objects.filter(organization_id=organization_id)
    }
    if not accounts:
        return 0
    credit = accounts[LedgerAccount.Kind.CREDITS]
    leaving = accounts[LedgerAccount.Kind.PAYMENTS_CLEARING].credits_pending_nanos
    unspent = credit.posted_nanos - leaving - grants.remaining_nanos(organization_id)
    return max(0, min(unspent, credit.available_nanos))


def refunded_nanos(payment: Payment) -> int:
    """What has been refunded of the payment or is on its way."""
    return _sum_of(payment.refunds.exclude(status=Status.FAILED))


def _sum_of(found: "QuerySet[Refund]") -> int:
    total: int = found.aggregate(total=Sum("amount_nanos", default=0))["total"]
    return total


def request(
    payment: Payment, amount_nanos: int, *, key: str, reason: str, by: User | None, at: datetime
) -> Refund:
    """Hold the amount and remember the refund; `ask` comes next. The same key gives the same one.

    Raises UnableToRefund.
    """
    with transaction.atomic():
        payment = Payment.objects.select_for_update(no_key=True).get(pk=payment.pk)
        stored_key = f"refund:{payment.public_id}:{key}"
        earlier = Refund.objects.filter(idempotency_key=stored_key).first()
        if earlier is not None:
            if earlier.amount_nanos != amount_nanos:
                raise UnableToRefund(
                    "This form was sent with another amount before. Open it again."
                )
            return earlier
        ledger.lock_credit(payment.organization_id)
        _require_refundable(payment, amount_nanos)
        hold_id = ledger.hold(
            ledger.Hold(
                organization_id=payment.organization_id,
                amount_nanos=amount_nanos,
                idempotency_key=stored_key,
                created_at=at,
                expires_at=at + HOLD_LIFETIME,
                contra=LedgerAccount.Kind.PAYMENTS_CLEARING,
                code=Transfer.Code.REFUND,
                reason=f"refund of {payment.public_id}",
            )
        )
        auto_top_up.switch_off_if_low(payment.organization_id)
        return Refund.objects.create(
            payment=payment,
            amount_nanos=amount_nanos,
            hold_id=hold_id,
            idempotency_key=stored_key,
            reason=reason,
            requested_by=by,
            created_at=at,
        )


def _require_refundable(payment: Payment, amount_nanos: int) -> None:
    if amount_nanos <= 0 or amount_nanos % stripe_api.NANOS_PER_CENT:
        raise UnableToRefund("Give an amount above zero in whole cents.")
    if amount_nanos > (most := refundable_nanos(payment)):
        raise UnableToRefund(
            f"{format_dollars(most)} of this payment is unspent and can be refunded now."
        )


def ask(refund: Refund, *, at: datetime) -> None:
    """Ask Stripe for the refund and do what its answer says; no answer leaves it under way."""
    Refund.objects.filter(pk=refund.pk).update(asked_at=at)
    payment_id = refund.payment.provider_payment_id or ""
    try:
        state = _found_at_stripe(refund, at) or stripe_api.refund(
            payment_id=payment_id,
            amount_nanos=refund.amount_nanos,
            reference=refund.public_id,
            idempotency_key=refund.idempotency_key,
        )
    except (stripe_api.UnableToReachStripe, stripe_api.PaymentsNotConfigured) as error:
        log.warning("refund_waits", refund=refund.public_id, error=str(error))
    except stripe_api.StripeRefused as error:
        fail(refund, error.message, at=at)
    else:
        apply(refund, state, at=at)


def _found_at_stripe(refund: Refund, at: datetime) -> stripe_api.RefundState | None:
    """What an earlier try has made, when Stripe may have forgotten its key."""
    if at - refund.created_at < payments.KEY_LIFETIME:
        return None
    made = stripe_api.refunds_of(refund.payment.provider_payment_id or "")
    return next((state for state in made if state.reference == refund.public_id), None)


def ask_again(at: datetime) -> int:
    """Ask for every refund that has waited for an answer; how many are still under way."""
    stuck = Refund.objects.filter(
        status=Status.REQUESTED, created_at__lte=at - ASK_AGAIN_AFTER
    ).select_related("payment")
    for refund in stuck.order_by("asked_at")[:ASKED_AGAIN_AT_ONCE_MAX]:
        ask(refund, at=at)
    return stuck.count()


# --- Ending it ---------------------------------------------------------------------------------
def apply(refund: Refund, state: stripe_api.RefundState, *, at: datetime) -> str:
    """Do what Stripe says about the refund; what became of it, in words."""
    Refund.objects.filter(pk=refund.pk, provider_refund_id=None).update(provider_refund_id=state.id)
    if state.status in UNDONE:
        return fail(refund, state.failure or "Stripe could not send it.", at=at)
    if state.status != DONE:
        return "Under way."
    if state.amount_nanos != refund.amount_nanos:
        payments.flag(
            refund.payment, f"The refund {refund.public_id} has another amount at Stripe."
        )
        return refund.payment.attention
    return complete(refund, at=at)


def complete(refund: Refund, *, at: datetime) -> str:
    """The money has left: post the hold, once."""
    with transaction.atomic():
        refund = _locked(refund)
        if refund.status != Status.REQUESTED:
            return "Ended before."
        ledger.settle(_ending(refund, cost_nanos=refund.amount_nanos, at=at))
        _end(refund, Status.SUCCEEDED, at=at)
    return f"Refunded {format_dollars(refund.amount_nanos)}."


def fail(refund: Refund, failure: str, *, at: datetime) -> str:
    """The money stays: release the hold, once. After a success, staff must look."""
    with transaction.atomic():
        refund = _locked(refund)
        if refund.status == Status.SUCCEEDED:
            payments.flag(
                refund.payment,
                f"The refund {refund.public_id} came back after it was done; correct the credit.",
            )
            return refund.payment.attention
        if refund.status == Status.REQUESTED:
            ledger.settle(_ending(refund, cost_nanos=0, at=at))
            refund.failure = failure[:300]
            _end(refund, Status.FAILED, at=at)
    return f"Refund failed: {failure}"


def _locked(refund: Refund) -> Refund:
    return (
        Refund.objects.select_for_update(no_key=True, of=("self",))
        .select_related("payment")
        .get(pk=refund.pk)
    )


def _ending(refund: Refund, *, cost_nanos: int, at: datetime) -> ledger.Settlement:
    return ledger.Settlement(
        organization_id=refund.payment.organization_id,
        hold_id=refund.hold_id,
        held_nanos=refund.amount_nanos,
        cost_nanos=cost_nanos,
        idempotency_key=f"{refund.idempotency_key}:end",
        created_at=at,
        reason=f"refund of {refund.payment.public_id}",
    )


def _end(refund: Refund, status: str, *, at: datetime) -> None:
    refund.status = status
    refund.completed_at = at
    refund.save()


# --- What leaves without our asking ------------------------------------------------------------
def may_contain_ours(payment: Payment, total_nanos: int) -> bool:
    """Whether it is not known yet if a total told by Stripe contains a refund asked for here.

    One whose answer is still awaited may be in it, or may fail because somebody was faster there:
    then its credit would come back although the money is gone.
    """
    going = payment.refunds.exclude(status=Status.FAILED)
    unanswered = going.filter(status=Status.REQUESTED, provider_refund_id=None)
    sure = refunded_nanos(payment) - _sum_of(unanswered)
    return sure < total_nanos and unanswered.exists()


def note_total(payment: Payment, total_nanos: int, *, at: datetime) -> str:
    """Stripe says how much of the payment is refunded: what we do not know of was done there."""
    with transaction.atomic():
        payment = Payment.objects.select_for_update(no_key=True).get(pk=payment.pk)
        known = refunded_nanos(payment)
        unknown = min(total_nanos, payment.amount_nanos) - known
        if unknown <= 0:
            return "Known."
        refund = Refund.objects.create(
            payment=payment,
            status=Status.SUCCEEDED,
            amount_nanos=unknown,
            is_external=True,
            idempotency_key=f"external:{payment.public_id}:{known}",
            reason="made at Stripe",
            created_at=at,
            completed_at=at,
        )
        ledger.take_back(
            payment.organization_id,
            unknown,
            code=Transfer.Code.REFUND,
            reason=f"refund of {payment.public_id} made at Stripe",
            idempotency_key=refund.idempotency_key,
            at=at,
        )
        auto_top_up.switch_off_if_low(payment.organization_id)
        payments.flag(payment, f"{format_dollars(unknown)} was refunded at Stripe, not here.")
        return payment.attention


def open_dispute(payment: Payment, dispute_id: str, amount_nanos: int, *, at: datetime) -> str:
    """The customer's bank has taken the money back: the credit goes with it."""
    key = f"dispute:{dispute_id}"
    with transaction.atomic():
        payment = Payment.objects.select_for_update(no_key=True).get(pk=payment.pk)
        if _taken(payment, key).exists():
            return "Known."
        ledger.take_back(
            payment.organization_id,
            amount_nanos,
            code=Transfer.Code.DISPUTE,
            reason=f"dispute of {payment.public_id}",
            idempotency_key=key,
            at=at,
        )
        auto_top_up.switch_off_if_low(payment.organization_id)
        Payment.objects.filter(pk=payment.pk, disputed_at=None).update(disputed_at=at)
        payments.flag(payment, f"{format_dollars(amount_nanos)} is disputed ({dispute_id}).")
        return payment.attention


def close_dispute(payment: Payment, dispute_id: str, *, is_won: bool, at: datetime) -> str:
    """The bank has decided: for us, then the credit comes back."""
    if not is_won:
        return "The dispute was lost; nothing changes."
    with transaction.atomic():
        payment = Payment.objects.select_for_update(no_key=True).get(pk=payment.pk)
        taken = _taken(payment, f"dispute:{dispute_id}").aggregate(total=Sum("amount_nanos"))[
            "total"
        ]
        if not taken:
            return "The dispute is not known."
        ledger.give_again(
            payment.organization_id,
            taken,
            reason=f"dispute of {payment.public_id} won",
            idempotency_key=f"dispute:{dispute_id}:won",
            at=at,
        )
        Payment.objects.filter(pk=payment.pk).update(disputed_at=None)
        payments.flag(payment, f"The dispute {dispute_id} was won.")
        return payment.attention


def _taken(payment: Payment, key: str) -> "QuerySet[Transfer]":
    """What the dispute of this key has taken: credit, and what was owed."""
    return Transfer.objects.filter(
        organization_id=payment.organization_id,
        code=Transfer.Code.DISPUTE,
        idempotency_key__in=[key, f"{key}:owed"],
    )
