"""Payments: an organization buys credit with Checkout, and credit comes only with the money.

A `Payment` is remembered with its idempotency key before Stripe is asked, and credited once, in
one transaction with its ledger transfer, by whatever tells first that the money is there: a
webhook, or `reconcile`, which asks about payments that have waited for long. The amount is compared
with what was asked for; a difference is left to staff. Must not know HTTP requests.
"""

import hashlib
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import Q, QuerySet

from billing import ledger, stripe_api
from billing.models import Payment, PaymentCustomer
from billing.money import NANOS_PER_DOLLAR, format_dollars
from orgs.models import Organization, User

log = structlog.get_logger(__name__)

AMOUNT_NANOS_MIN = 5 * NANOS_PER_DOLLAR
AMOUNT_NANOS_MAX = 10_000 * NANOS_PER_DOLLAR
# Webhooks come within seconds; whoever waits longer is asked about.
ASK_AFTER = timedelta(minutes=10)
# A Checkout is open for 24 hours: https://docs.stripe.com/api/checkout/sessions/create
CHECKOUT_LIFETIME = timedelta(hours=24)
# Stripe forgets keys after 24 hours: https://docs.stripe.com/api/idempotent_requests
KEY_LIFETIME = timedelta(hours=23)
RECONCILED_AT_ONCE_MAX = 200

Kind = Payment.Kind
Status = Payment.Status


class UnableToTopUp(Exception):
    """The payment cannot be started; the message says why, for the person who asked."""


# --- Starting ----------------------------------------------------------------------------------
def start_checkout(
    organization: Organization,
    amount_nanos: int,
    *,
    key: str,
    saves_payment_method: bool,
    return_url: str,
    by: User | None,
    at: datetime,
) -> str:
    """The address at Stripe where a person pays; the same for the same `key`.

    Raises UnableToTopUp, and stripe_api's errors: nothing was paid then, and trying again with the
    same key is safe.
    """
    require_amount(amount_nanos)
    payment = _remember(organization, amount_nanos, key, saves_payment_method, by=by, at=at)
    if payment.status != Status.PENDING:
        raise UnableToTopUp("This payment is over. Open the page again to make another one.")
    if payment.checkout_url:
        return payment.checkout_url
    session = stripe_api.create_checkout(
        customer_id=customer_of(organization, at=at).provider_customer_id,
        amount_nanos=amount_nanos,
        description="Prepaid credit",
        reference=payment.public_id,
        saves_payment_method=saves_payment_method,
        success_url=return_url,
        cancel_url=return_url,
        idempotency_key=payment.idempotency_key,
    )
    Payment.objects.filter(pk=payment.pk).update(
        provider_session_id=session.id, checkout_url=session.url
    )
    return session.url


def require_amount(amount_nanos: int) -> None:
    """Raises UnableToTopUp unless it is an amount that may be bought at once."""
    if not AMOUNT_NANOS_MIN <= amount_nanos <= AMOUNT_NANOS_MAX:
        raise UnableToTopUp(
            f"Choose an amount from {format_dollars(AMOUNT_NANOS_MIN)} to "
            f"{format_dollars(AMOUNT_NANOS_MAX)}."
        )
    if amount_nanos % stripe_api.NANOS_PER_CENT:
        raise UnableToTopUp("Choose an amount in whole cents.")


def _remember(
    organization: Organization,
    amount_nanos: int,
    key: str,
    saves_payment_method: bool,
    *,
    by: User | None,
    at: datetime,
) -> Payment:
    """The payment of this key, made now if it is the first try."""
    payment, _ = Payment.objects.get_or_create(
        idempotency_key=f"checkout:{organization.pk}:{key}",
        defaults={
            "organization": organization,
            "kind": Kind.CHECKOUT,
            "amount_nanos": amount_nanos,
            "saves_payment_method": saves_payment_method,
            "created_by": by,
            "created_at": at,
        },
    )
    asked = (payment.amount_nanos, payment.saves_payment_method)
    if asked != (amount_nanos, saves_payment_method):
        raise UnableToTopUp("This form was sent with other values before. Open the page again.")
    return payment


def customer_of(organization: Organization, *, at: datetime) -> PaymentCustomer:
    """The organization as Stripe knows it; made there at its first payment."""
    known = PaymentCustomer.objects.filter(organization=organization).first()
    if known is not None:
        return known
    # The key says what it makes: another name within a day must not be refused as a reused key.
    digest = hashlib.sha256(organization.name.encode()).hexdigest()[:16]
    customer_id = stripe_api.create_customer(
        name=organization.name,
        reference=organization.public_id,
        idempotency_key=f"customer:{organization.public_id}:{digest}",
    )
    customer, _ = PaymentCustomer.objects.get_or_create(
        organization=organization,
        defaults={"provider_customer_id": customer_id, "created_at": at},
    )
    return customer


# --- Ending ------------------------------------------------------------------------------------
def credit(
    payment: Payment, *, amount_nanos: int | None, provider_payment_id: str, at: datetime
) -> str:
    """The money is there: give its credit, once; what became of it, in words.

    `amount_nanos` as Stripe says it, None when not in US dollars. One that differs from what was
    asked for is not credited but flagged for staff.
    """
    with transaction.atomic():
        payment = _locked(payment)
        if payment.status == Status.SUCCEEDED:
            return _credited_before(payment, provider_payment_id)
        if amount_nanos != payment.amount_nanos:
            received = "another currency" if amount_nanos is None else format_dollars(amount_nanos)
            payment.status = Status.REVIEW
            payment.attention = f"Received {received}, expected {_asked(payment)}."
            payment.provider_payment_id = payment.provider_payment_id or provider_payment_id or None
            payment.save()
            return payment.attention
        payment.transfer = ledger.top_up(
            payment.organization_id,
            payment.amount_nanos,
            reason=f"{payment.get_kind_display()} {payment.public_id}",
            idempotency_key=f"payment:{payment.public_id}",
            at=at,
        )
        payment.status = Status.SUCCEEDED
        payment.provider_payment_id = provider_payment_id or payment.provider_payment_id
        payment.completed_at = at
        payment.failure = ""
        payment.save()
        return f"Credited {_asked(payment)}."


def _credited_before(payment: Payment, provider_payment_id: str) -> str:
    known = payment.provider_payment_id
    if provider_payment_id and known and known != provider_payment_id:
        flag(payment, f"Paid a second time ({provider_payment_id}); refund it at Stripe.")
        return payment.attention
    if provider_payment_id and not known:
        Payment.objects.filter(pk=payment.pk).update(provider_payment_id=provider_payment_id)
    return "Credited before."


def note_failure(payment: Payment, failure: str) -> None:
    """A try to pay has failed; the person may try again while the Checkout is open."""
    Payment.objects.filter(pk=payment.pk, status=Status.PENDING).update(failure=failure[:300])


def end(payment: Payment, status: str, *, failure: str = "", at: datetime) -> bool:
    """Nothing was paid and nothing will be; False when the payment had ended before."""
    changes = {"status": status, "completed_at": at}
    if failure:
        changes["failure"] = failure[:300]
    waiting = Payment.objects.filter(pk=payment.pk, status=Status.PENDING)
    return waiting.update(**changes) == 1


def flag(payment: Payment, text: str) -> None:
    """Ask staff to look."""
    payment.attention = text[:300]
    Payment.objects.filter(pk=payment.pk).update(attention=payment.attention)


def save_payment_method(payment: Payment, payment_method_id: str) -> None:
    """Keep what a Checkout was asked to keep, for automatic top-ups."""
    if payment.saves_payment_method and payment_method_id:
        PaymentCustomer.objects.filter(organization_id=payment.organization_id).exclude(
            payment_method_id=payment_method_id
        ).update(payment_method_id=payment_method_id, payment_method_label="")


def _locked(payment: Payment) -> Payment:
    """The row as it is, alone until the transaction ends."""
    return Payment.objects.select_for_update(no_key=True).get(pk=payment.pk)


def _asked(payment: Payment) -> str:
    return format_dollars(payment.amount_nanos)


# --- Finding and reconciling -------------------------------------------------------------------
def find(*, reference: str, provider_payment_id: str = "") -> Payment | None:
    """The payment of our public id, else the one that Stripe knows by this id."""
    wanted = Q(pk__in=[])
    if provider_payment_id:
        wanted |= Q(provider_payment_id=provider_payment_id)
    if reference:
        wanted |= Q(public_id=reference)
    found = list(Payment.objects.filter(wanted)[:2])
    return next((payment for payment in found if payment.public_id == reference), None) or (
        found[0] if found else None
    )


def waiting(kind: str, *, at: datetime) -> "QuerySet[Payment]":
    """Payments that have waited so long that Stripe should be asked about them."""
    since = at - ASK_AFTER
    return (
        Payment.objects.filter(kind=kind, status=Status.PENDING, created_at__lte=since)
        .filter(Q(checked_at=None) | Q(checked_at__lte=since))
        .order_by("checked_at", "pk")[:RECONCILED_AT_ONCE_MAX]
    )


def reconcile(at: datetime) -> int:
    """Ask about every Checkout that waits, so that a lost webhook loses nothing; how many ended.

    Stops when Stripe does not answer; the rest is asked about next time.
    """
    ended = 0
    for payment in waiting(Kind.CHECKOUT, at=at):
        try:
            ended += _reconcile_checkout(payment, at)
        except (stripe_api.UnableToReachStripe, stripe_api.PaymentsNotConfigured) as error:
            log.warning("payments_not_reconciled", error=str(error))
            break
        except stripe_api.StripeRefused as error:
            flag(payment, f"Stripe does not tell how it stands: {error.code}.")
        Payment.objects.filter(pk=payment.pk).update(checked_at=at)
    return ended


def _reconcile_checkout(payment: Payment, at: datetime) -> bool:
    """Whether it has ended."""
    if not payment.provider_session_id:
        # The person never got an address to pay at.
        is_over = payment.created_at <= at - CHECKOUT_LIFETIME
        return is_over and end(payment, Status.EXPIRED, at=at)
    session = stripe_api.retrieve_checkout(payment.provider_session_id)
    if session.is_paid:
        credit(
            payment,
            amount_nanos=session.amount_nanos,
            provider_payment_id=session.payment_id,
            at=at,
        )
        if payment.saves_payment_method and session.payment_id:
            intent = stripe_api.retrieve_intent(session.payment_id)
            save_payment_method(payment, intent.payment_method_id)
        return True
    return not session.is_open and end(payment, Status.EXPIRED, at=at)


def label_payment_methods() -> int:
    """Ask what newly saved payment methods are called; how many."""
    nameless = PaymentCustomer.objects.filter(payment_method_label="").exclude(payment_method_id="")
    labelled = 0
    for customer in nameless[:RECONCILED_AT_ONCE_MAX]:
        try:
            label = stripe_api.describe_payment_method(customer.payment_method_id)
        except (stripe_api.UnableToReachStripe, stripe_api.PaymentsNotConfigured):
            break
        except stripe_api.StripeRefused:
            label = "saved payment method"
        PaymentCustomer.objects.filter(
            pk=customer.pk, payment_method_id=customer.payment_method_id
        ).update(payment_method_label=label[:80])
        labelled += 1
    return labelled
