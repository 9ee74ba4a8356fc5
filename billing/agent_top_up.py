"""Top-ups by agents: credit bought with a workspace token and the saved payment method.

Owns whether that is allowed: never, until an owner or staff switch it on with a monthly limit. The
purchase is remembered with the agent's own key before Stripe is asked, so that one key is one
payment for ever, whatever is lost on the way. Must not know HTTP requests.
"""

import hashlib
from datetime import datetime, timedelta

from django.db import transaction

from billing import auto_top_up, payments
from billing.models import AgentTopUp, Payment, PaymentCustomer
from billing.money import format_dollars
from orgs.models import Organization, User, Workspace

# A payment method that was declined so often is left alone for a while: banks count, too.
DECLINES_MAX = 3
DECLINES_WITHIN = timedelta(hours=1)

Status = Payment.Status


class UnableToConfigure(Exception):
    """These values make no sense; the message says why, for the person who chose."""


class NotAllowed(Exception):
    """The organization's agents may not buy credit."""


class UnableToBuy(Exception):
    """Allowed, but not this: no saved payment method, one that is declined again and again, or more
    than is left of the month's limit."""


class KeyReused(Exception):
    """The key named a purchase of another amount."""


def configure(
    organization: Organization,
    *,
    is_allowed: bool,
    monthly_cap_nanos: int,
    by: User | None,
    at: datetime,
) -> AgentTopUp:
    """Allow or forbid it. Raises UnableToConfigure."""
    if monthly_cap_nanos < payments.AMOUNT_NANOS_MIN:
        least = format_dollars(payments.AMOUNT_NANOS_MIN)
        raise UnableToConfigure(f"The monthly limit must be at least {least}, the least to buy.")
    setting, _ = AgentTopUp.objects.update_or_create(
        organization=organization,
        defaults={
            "is_allowed": is_allowed,
            "monthly_cap_nanos": monthly_cap_nanos,
            "changed_by": by,
            "changed_at": at,
        },
    )
    return setting


def setting_of(organization: Organization) -> AgentTopUp | None:
    """What was chosen; None when nobody has chosen yet, so it is not allowed."""
    return AgentTopUp.objects.filter(organization=organization).first()


def spent_this_month_nanos(organization_id: int, at: datetime) -> int:
    """What agents have bought, or may still, since the month (UTC) began."""
    return auto_top_up.spent_this_month_nanos(organization_id, at, kind=Payment.Kind.AGENT)


def buy(workspace: Workspace, amount_nanos: int, *, key: str, at: datetime) -> Payment:
    """Charge the saved payment method, once for each `key` of the workspace; how that stands.

    A payment that Stripe has not answered is asked for again, with its own key. Raises
    payments.UnableToTopUp for an amount that cannot be bought, NotAllowed, UnableToBuy, KeyReused.
    """
    payments.require_amount(amount_nanos)
    digest = hashlib.sha256(key.encode()).hexdigest()
    name = f"agent:{workspace.pk}:{digest}"
    with transaction.atomic():
        # Purchases of an organization take turns, so that together they stay within the limit.
        setting = (
            AgentTopUp.objects.select_for_update(no_key=True)
            .filter(organization_id=workspace.organization_id, is_allowed=True)
            .first()
        )
        payment = Payment.objects.filter(idempotency_key=name).first()
        if payment is None:
            payment = _remember(setting, amount_nanos, name, at)
    if payment.amount_nanos != amount_nanos:
        raise KeyReused
    is_unanswered = payment.status == Status.PENDING and not payment.provider_payment_id
    if setting is not None and is_unanswered and at - payment.created_at < payments.KEY_LIFETIME:
        auto_top_up.charge(payment, at=at)
        payment.refresh_from_db()
    return payment


def _remember(setting: AgentTopUp | None, amount_nanos: int, name: str, at: datetime) -> Payment:
    """The payment to ask for. Raises NotAllowed, UnableToBuy."""
    if setting is None:
        raise NotAllowed
    customer = auto_top_up.saved_method_of(setting.organization)
    if customer is None:
        raise UnableToBuy(
            "No payment method is saved. An owner saves one with a top-up in the console."
        )
    declined = Payment.objects.filter(
        payment_method_id=customer.payment_method_id,
        organization_id=setting.organization_id,
        kind=Payment.Kind.AGENT,
        status=Status.FAILED,
        created_at__gt=at - DECLINES_WITHIN,
    )
    if declined.count() >= DECLINES_MAX:
        raise UnableToBuy(
            f"The saved payment method was declined {DECLINES_MAX} times within an hour. Wait for "
            "an hour, or have an owner save another one."
        )
    spent = spent_this_month_nanos(setting.organization_id, at)
    if spent + amount_nanos > setting.monthly_cap_nanos:
        raise UnableToBuy(
            f"Agents may buy {format_dollars(setting.monthly_cap_nanos)} of credit a month (UTC); "
            f"{format_dollars(spent)} of it is bought or under way."
        )
    return _create(setting, customer, amount_nanos, name, at)


def _create(
    setting: AgentTopUp, customer: PaymentCustomer, amount_nanos: int, name: str, at: datetime
) -> Payment:
    return Payment.objects.create(
        organization_id=setting.organization_id,
        kind=Payment.Kind.AGENT,
        amount_nanos=amount_nanos,
        payment_method_id=customer.payment_method_id,
        idempotency_key=name,
        created_at=at,
    )
