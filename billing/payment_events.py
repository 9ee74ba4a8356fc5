"""What Stripe tells us: each message is stored once, as it came, and handled once.

Handling is one transaction with the ledger and may come in any order, repeated, late: every handler
asks what is already known. A message about something that is not known yet (its payment is not
credited so far) is kept and handled when it is. Calls nobody: only tables change here.
"""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import transaction

from billing import auto_top_up, payments, refunds, stripe_api
from billing.models import Payment, PaymentEvent, Refund

log = structlog.get_logger(__name__)

WAITING_LIFETIME = timedelta(days=7)
HANDLED_AT_ONCE_MAX = 500


class _NotYet(Exception):
    """What the message speaks of is not known here so far."""


Handled = tuple[Payment | None, str]
NOT_OURS: Handled = (None, "Not about a payment of ours.")


def receive(event: stripe_api.Event, body: str, *, at: datetime) -> PaymentEvent:
    """Store a verified message and handle it, unless that was done before."""
    stored, _ = PaymentEvent.objects.get_or_create(
        provider_event_id=event.id,
        defaults={"type": event.type[:120], "payload": body, "received_at": at},
    )
    return handle(stored, event, at=at)


def handle(stored: PaymentEvent, event: stripe_api.Event, *, at: datetime) -> PaymentEvent:
    """Do what the message says, once; the message with its outcome."""
    with transaction.atomic():
        stored = PaymentEvent.objects.select_for_update(no_key=True).get(pk=stored.pk)
        if stored.processed_at is not None:
            return stored
        handler = HANDLERS.get(event.type)
        try:
            payment, outcome = handler(event.data, at) if handler else (None, "Of no interest.")
        except _NotYet as reason:
            stored.outcome = f"Waits: {reason}"[:300]
        else:
            stored.payment, stored.outcome, stored.processed_at = payment, outcome[:300], at
        stored.save()
    log.info("payment_event", type=event.type, id=event.id, outcome=stored.outcome)
    return stored


def handle_waiting(at: datetime) -> int:
    """Try messages again whose payment was not known; how many were handled.

    After a week nothing is expected to come any more: they are closed for staff to see.
    """
    unhandled = PaymentEvent.objects.filter(processed_at=None)
    unhandled.filter(received_at__lte=at - WAITING_LIFETIME).update(
        processed_at=at, outcome="Its payment never became known."
    )
    handled = 0
    for stored in unhandled.order_by("pk")[:HANDLED_AT_ONCE_MAX]:
        try:
            event = stripe_api.stored_event(stored.payload)
            handled += handle(stored, event, at=at).processed_at is not None
        except Exception:
            # A bug of ours about one message must not keep the others waiting.
            log.exception("payment_event_failed", id=stored.provider_event_id)
    return handled


# --- Payments ----------------------------------------------------------------------------------
def _checkout(data: Mapping[str, Any], at: datetime) -> Handled:
    """Completed says that the person has finished, not that the money is there."""
    session = stripe_api.session_of(data)
    payment = payments.find(reference=session.reference)
    if payment is None:
        return NOT_OURS
    if not session.is_paid:
        return payment, "Completed; the money is still on its way."
    return payment, payments.credit(
        payment, amount_nanos=session.amount_nanos, provider_payment_id=session.payment_id, at=at
    )


def _checkout_over(data: Mapping[str, Any], at: datetime) -> Handled:
    session = stripe_api.session_of(data)
    payment = payments.find(reference=session.reference)
    if payment is None:
        return NOT_OURS
    is_ended = payments.end(payment, Payment.Status.EXPIRED, at=at)
    return payment, "Not completed." if is_ended else "Ended before."


def _paid(data: Mapping[str, Any], at: datetime) -> Handled:
    intent = stripe_api.intent_of(data)
    payment = payments.find(reference=intent.reference, provider_payment_id=intent.id)
    if payment is None:
        return NOT_OURS
    if not intent.is_paid:
        return payment, f"Not paid: {intent.status}."
    if payment.kind in auto_top_up.OFF_SESSION:
        return payment, auto_top_up.apply(payment, intent, at=at)
    payments.save_payment_method(payment, intent.payment_method_id)
    return payment, payments.credit(
        payment, amount_nanos=intent.amount_nanos, provider_payment_id=intent.id, at=at
    )


def _not_paid(data: Mapping[str, Any], at: datetime) -> Handled:
    intent = stripe_api.intent_of(data)
    payment = payments.find(reference=intent.reference, provider_payment_id=intent.id)
    if payment is None:
        return NOT_OURS
    failure = intent.failure or "The payment was declined."
    if payment.kind in auto_top_up.OFF_SESSION:
        return payment, auto_top_up.decline(payment, failure, at=at)
    payments.note_failure(payment, failure)
    return payment, failure


# --- Money on its way back ---------------------------------------------------------------------
def _credited(provider_payment_id: str, reference: str = "") -> Payment:
    """The payment, once its credit is given. Raises _NotYet."""
    payment = payments.find(reference=reference, provider_payment_id=provider_payment_id)
    if payment is None:
        raise _NotYet(f"no payment {provider_payment_id or 'named'} is known.")
    if payment.status != Payment.Status.SUCCEEDED:
        raise _NotYet(f"{payment.public_id} is not credited.")
    return payment


def _charge_refunded(data: Mapping[str, Any], at: datetime) -> Handled:
    """Says how much of a payment is refunded by now, whoever asked for it."""
    payment = _credited(stripe_api.payment_id_of(data))
    total = stripe_api.nanos_of(data, "amount_refunded")
    if total is None:
        payments.flag(payment, "A refund in another currency was made at Stripe.")
        return payment, payment.attention
    if refunds.may_contain_ours(payment, total):
        raise _NotYet(f"whether it contains a refund of ours of {payment.public_id} is not known.")
    return payment, refunds.note_total(payment, total, at=at)


def _refund(data: Mapping[str, Any], at: datetime) -> Handled:
    """A refund of ours; of others the total that comes with the charge tells."""
    state = stripe_api.refund_of(data)
    refund = (
        Refund.objects.filter(public_id=state.reference).select_related("payment").first()
        if state.reference
        else Refund.objects.filter(provider_refund_id=state.id).select_related("payment").first()
    )
    if refund is None:
        return _refund_elsewhere(state)
    return refund.payment, refunds.apply(refund, state, at=at)


def _refund_elsewhere(state: stripe_api.RefundState) -> Handled:
    """One that was made at Stripe: its credit was taken, and is not given again by itself."""
    payment = payments.find(reference="", provider_payment_id=state.payment_id)
    if payment is None or state.status not in refunds.UNDONE:
        return NOT_OURS
    payments.flag(payment, f"A refund made at Stripe failed ({state.id}); correct the credit.")
    return payment, payment.attention


def _dispute_opened(data: Mapping[str, Any], at: datetime) -> Handled:
    payment = _credited(stripe_api.payment_id_of(data))
    if stripe_api.is_inquiry(data):
        payments.flag(payment, f"The bank asks about it; nothing is taken yet ({data['id']}).")
        return payment, payment.attention
    amount = stripe_api.nanos_of(data, "amount")
    if amount is None:
        payments.flag(payment, f"Disputed in another currency ({data['id']}).")
        return payment, payment.attention
    return payment, refunds.open_dispute(payment, str(data["id"]), amount, at=at)


def _dispute_closed(data: Mapping[str, Any], at: datetime) -> Handled:
    payment = _credited(stripe_api.payment_id_of(data))
    if stripe_api.is_inquiry(data):
        payments.flag(
            payment, f"The bank's question is answered; nothing was taken ({data['id']})."
        )
        return payment, payment.attention
    if payment.disputed_at is None:
        raise _NotYet(f"the dispute of {payment.public_id} is not known.")
    is_won = data.get("status") == "won"
    return payment, refunds.close_dispute(payment, str(data["id"]), is_won=is_won, at=at)


HANDLERS: dict[str, Callable[[Mapping[str, Any], datetime], Handled]] = {
    "checkout.session.completed": _checkout,
    "checkout.session.async_payment_succeeded": _checkout,
    "checkout.session.async_payment_failed": _checkout_over,
    "checkout.session.expired": _checkout_over,
    "payment_intent.succeeded": _paid,
    "payment_intent.payment_failed": _not_paid,
    "charge.refunded": _charge_refunded,
    "refund.updated": _refund,
    "refund.failed": _refund,
    "charge.refund.updated": _refund,
    "charge.dispute.created": _dispute_opened,
    # What began as a question of the bank may become a dispute.
    "charge.dispute.funds_withdrawn": _dispute_opened,
    "charge.dispute.closed": _dispute_closed,
}
