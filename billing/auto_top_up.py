"""Auto top-up: buying credit with the saved payment method when little is left.

One payment at a time per organization (the database refuses a second open one), remembered with its
key before Stripe is asked. After a decline the next try waits twice as long; after the last one it
switches itself off and tells the owners by e-mail. Owns charging the saved method while nobody is
there, for agents' top-ups (billing/agent_top_up.py), too.
"""

import uuid
from datetime import datetime, timedelta
from itertools import chain

import structlog
from django.conf import settings
from django.core.mail import send_mail
from django.db import IntegrityError, transaction
from django.db.models import F, Q, Sum

from billing import payments, stripe_api
from billing.models import AutoTopUp, LedgerAccount, Payment, PaymentCustomer
from billing.money import format_dollars
from orgs import suspension
from orgs.models import Membership, Organization, User

log = structlog.get_logger(__name__)

FIRST_RETRY_AFTER = timedelta(hours=1)
DECLINES_MAX = 4

Status = Payment.Status
Kind = Payment.Kind
# Charged without a person who could confirm.
OFF_SESSION = (Kind.AUTO, Kind.AGENT)


class UnableToConfigure(Exception):
    """These values make no automatic top-up; the message says why, for the person who chose."""


def configure(
    organization: Organization,
    *,
    is_enabled: bool,
    threshold_nanos: int,
    amount_nanos: int,
    monthly_cap_nanos: int,
    by: User,
    at: datetime,
) -> AutoTopUp:
    """Set it up anew; earlier declines are forgotten. Raises UnableToConfigure."""
    try:
        payments.require_amount(amount_nanos)
    except payments.UnableToTopUp as error:
        raise UnableToConfigure(str(error)) from None
    if threshold_nanos <= 0:
        raise UnableToConfigure("Choose a balance above zero at which to buy.")
    if monthly_cap_nanos < amount_nanos:
        raise UnableToConfigure("The monthly limit must allow at least one purchase.")
    if is_enabled and not saved_method_of(organization):
        raise UnableToConfigure("Top up once and save your payment method first.")
    setting, _ = AutoTopUp.objects.update_or_create(
        organization=organization,
        defaults={
            "is_enabled": is_enabled,
            "threshold_nanos": threshold_nanos,
            "amount_nanos": amount_nanos,
            "monthly_cap_nanos": monthly_cap_nanos,
            "declines": 0,
            "next_try_at": None,
            "changed_by": by,
            "changed_at": at,
        },
    )
    return setting


def saved_method_of(organization: Organization) -> PaymentCustomer | None:
    """The customer with its saved payment method, None without one."""
    return (
        PaymentCustomer.objects.filter(organization=organization)
        .exclude(payment_method_id="")
        .first()
    )


# --- Buying ------------------------------------------------------------------------------------
def buy_where_due(at: datetime) -> int:
    """Buy for every organization that has fallen below its threshold; how many purchases began."""
    # Whoever has saved a payment method has bought before, and so has accounts.
    low = AutoTopUp.objects.filter(
        Q(next_try_at=None) | Q(next_try_at__lte=at),
        # Whoever cannot spend is not charged.
        organization__in=Organization.objects.filter(suspension.is_not(at=at)),
        is_enabled=True,
        organization__ledger_accounts__kind=LedgerAccount.Kind.CREDITS,
        organization__ledger_accounts__credits_posted_nanos__lt=F("threshold_nanos")
        + F("organization__ledger_accounts__debits_posted_nanos"),
    ).values_list("organization_id", flat=True)
    started = [buy_if_low(organization_id, at=at) for organization_id in list(low)]
    return sum(payment is not None for payment in started)


def buy_if_low(organization_id: int, *, at: datetime) -> Payment | None:
    """Begin one purchase if the organization wants one now; None if not.

    What calls in flight have reserved is not spent yet, so it counts as there.
    """
    with transaction.atomic():
        setting = (
            AutoTopUp.objects.select_for_update(no_key=True)
            .filter(organization_id=organization_id)
            .first()
        )
        if setting is None or not _is_wanted(setting, at):
            return None
        customer = saved_method_of(setting.organization)
        if customer is None:
            AutoTopUp.objects.filter(pk=setting.pk).update(is_enabled=False)
            return None
        payment = _remember(setting, customer, at)
        if payment is not None and not _is_low(setting):
            # Another worker's was paid after we had looked; none can be while ours is open.
            transaction.set_rollback(True)
            return None
    if payment is not None:
        charge(payment, at=at)
    return payment


def _is_wanted(setting: AutoTopUp, at: datetime) -> bool:
    if not setting.is_enabled or (setting.next_try_at and setting.next_try_at > at):
        return False
    if setting.organization.is_suspended(at=at):
        return False
    return _is_low(setting) and (
        spent_this_month_nanos(setting.organization_id, at) + setting.amount_nanos
        <= setting.monthly_cap_nanos
    )


def _is_low(setting: AutoTopUp) -> bool:
    credit = LedgerAccount.objects.filter(
        organization_id=setting.organization_id, kind=LedgerAccount.Kind.CREDITS
    ).first()
    return (credit.posted_nanos if credit else 0) < setting.threshold_nanos


def switch_off_if_low(organization_id: int) -> bool:
    """Money goes back: what that takes below the threshold is not bought again at once.

    Whether it was switched off; an owner switches it on again.
    """
    setting = AutoTopUp.objects.filter(organization_id=organization_id, is_enabled=True).first()
    if setting is None:
        return False
    accounts = {
        account.kind: account
        for account in LedgerAccount.objects.filter(organization_id=organization_id)
    }
    leaving = accounts[LedgerAccount.Kind.PAYMENTS_CLEARING].credits_pending_nanos
    left = accounts[LedgerAccount.Kind.CREDITS].posted_nanos - leaving
    if left >= setting.threshold_nanos:
        return False
    AutoTopUp.objects.filter(pk=setting.pk).update(is_enabled=False)
    log.info("auto_top_up_switched_off", organization=organization_id, left_nanos=left)
    return True


def spent_this_month_nanos(organization_id: int, at: datetime, *, kind: str = Kind.AUTO) -> int:
    """What top-ups of this kind have bought, or may still, since the month (UTC) began."""
    first = at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    bought = Payment.objects.filter(
        organization_id=organization_id,
        kind=kind,
        status__in=[Status.PENDING, Status.SUCCEEDED, Status.REVIEW],
        created_at__gte=first,
    )
    return bought.aggregate(total=Sum("amount_nanos"))["total"] or 0


def _remember(setting: AutoTopUp, customer: PaymentCustomer, at: datetime) -> Payment | None:
    """The payment to ask for; None while another one is open."""
    try:
        with transaction.atomic():
            return Payment.objects.create(
                organization_id=setting.organization_id,
                kind=Kind.AUTO,
                amount_nanos=setting.amount_nanos,
                payment_method_id=customer.payment_method_id,
                idempotency_key=f"auto:{setting.organization_id}:{uuid.uuid4().hex}",
                created_at=at,
            )
    except IntegrityError:
        return None


def charge(payment: Payment, *, at: datetime) -> None:
    """Ask Stripe to charge the saved payment method; no answer leaves the payment waiting."""
    customer = PaymentCustomer.objects.get(organization_id=payment.organization_id)
    try:
        intent = stripe_api.charge_saved_method(
            customer_id=customer.provider_customer_id,
            payment_method_id=payment.payment_method_id,
            amount_nanos=payment.amount_nanos,
            reference=payment.public_id,
            idempotency_key=payment.idempotency_key,
        )
    except (stripe_api.UnableToReachStripe, stripe_api.PaymentsNotConfigured) as error:
        log.warning("top_up_waits", payment=payment.public_id, error=str(error))
    except stripe_api.StripeRefused as error:
        decline(payment, error.message, at=at)
    else:
        apply(payment, intent, at=at)


def reconcile(at: datetime) -> int:
    """Ask about payments off session that wait, with their own keys; how many were asked about."""
    asked = 0
    for payment in chain.from_iterable(payments.waiting(kind, at=at) for kind in OFF_SESSION):
        Payment.objects.filter(pk=payment.pk).update(checked_at=at)
        if payment.provider_payment_id:
            _look(payment, at)
        elif at - payment.created_at < payments.KEY_LIFETIME:
            charge(payment, at=at)
        else:
            # Asking again might charge twice now.
            payments.end(payment, Status.REVIEW, at=at)
            payments.flag(payment, "Stripe never answered; look there whether it was charged.")
        asked += 1
    return asked


def _look(payment: Payment, at: datetime) -> None:
    try:
        intent = stripe_api.retrieve_intent(payment.provider_payment_id or "")
    except (stripe_api.UnableToReachStripe, stripe_api.PaymentsNotConfigured) as error:
        log.warning("payments_not_reconciled", error=str(error))
    except stripe_api.StripeRefused as error:
        payments.flag(payment, f"Stripe does not tell how it stands: {error.code}.")
    else:
        apply(payment, intent, at=at)


# --- Ending ------------------------------------------------------------------------------------
def apply(payment: Payment, intent: stripe_api.Intent, *, at: datetime) -> str:
    """Do what Stripe says about the payment; what became of it, in words."""
    Payment.objects.filter(pk=payment.pk, provider_payment_id=None).update(
        provider_payment_id=intent.id
    )
    if intent.is_paid:
        outcome = payments.credit(
            payment, amount_nanos=intent.amount_nanos, provider_payment_id=intent.id, at=at
        )
        if payment.kind == Kind.AUTO:
            AutoTopUp.objects.filter(organization_id=payment.organization_id).update(
                declines=0, next_try_at=None
            )
        return outcome
    if intent.is_processing:
        return "The bank has not decided yet."
    if intent.status == "requires_action":
        _cancel(payment, intent)
        return decline(payment, "The bank wants its customer to confirm.", at=at)
    return decline(payment, intent.failure or "The payment was declined.", at=at)


def _cancel(payment: Payment, intent: stripe_api.Intent) -> None:
    """Nobody is there to confirm it, and nobody shall later, when it is no longer wanted."""
    try:
        stripe_api.cancel_intent(intent.id, idempotency_key=f"{payment.idempotency_key}:cancel")
    except (stripe_api.UnableToReachStripe, stripe_api.StripeRefused) as error:
        log.warning("payment_not_cancelled", payment=payment.public_id, error=str(error))


def decline(payment: Payment, failure: str, *, at: datetime) -> str:
    """The payment failed.

    An automatic one is tried again later, or no more when that has failed too often.
    """
    with transaction.atomic():
        # In the order of `buy_if_low`: the setting, then payments.
        setting = None
        if payment.kind == Kind.AUTO:
            setting = (
                AutoTopUp.objects.select_for_update(no_key=True)
                .filter(organization_id=payment.organization_id)
                .first()
            )
        if not payments.end(payment, Status.FAILED, failure=failure, at=at):
            return "Ended before."
        if setting is None:
            return failure
        setting.declines += 1
        setting.is_enabled = setting.is_enabled and setting.declines < DECLINES_MAX
        setting.next_try_at = at + FIRST_RETRY_AFTER * 2 ** (setting.declines - 1)
        setting.save()
        if setting.declines >= DECLINES_MAX:
            transaction.on_commit(lambda: _tell_owners(payment, failure))
    return failure


def _tell_owners(payment: Payment, failure: str) -> None:
    """E-mail that it is switched off; a mail that cannot be sent undoes nothing."""
    organization = payment.organization
    owners = Membership.objects.filter(organization=organization, role=Membership.Role.OWNER)
    addresses = list(owners.values_list("user__email", flat=True))
    if not addresses:
        return
    text = (
        f"Automatic top-ups of {format_dollars(payment.amount_nanos)} for {organization.name} were "
        f"declined {DECLINES_MAX} times in a row and are now switched off.\n\n"
        f"The last answer was: {failure}\n\n"
        "Calls are refused when the credit is used up. Top up with another payment method and "
        f"switch it on again:\n{settings.PUBLIC_URL}/console/{organization.slug}/credit/\n"
    )
    try:
        send_mail(f"Automatic top-up of {organization.name} is switched off", text, None, addresses)
    except OSError as error:
        log.error("mail_not_sent", about="auto top-up", error=str(error))
