"""Money from and to customers through the payment provider. See `billing.models` for the rules.

These rows say how far a payment or refund is; the money itself moves by transfers, which they name.
What was asked for never changes (triggers), so that an answer can always be compared with it.
"""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from billing.models.ledger import Transfer
from orgs import identifiers
from orgs.models import Organization


def payment_id() -> str:
    """Default of `Payment.public_id`."""
    return identifiers.public_id("pay", 16)


def refund_id() -> str:
    """Default of `Refund.public_id`."""
    return identifiers.public_id("ref", 16)


class PaymentCustomer(models.Model):
    """An organization as the provider knows it, and the payment method it saved there."""

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, related_name="payment_customer"
    )
    provider_customer_id = models.CharField(max_length=120, unique=True)
    # Saved by the last Checkout that was asked to; "" when there is none.
    payment_method_id = models.CharField(max_length=120, blank=True)
    payment_method_label = models.CharField(max_length=80, blank=True)
    created_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.organization} at the payment provider"


class AutoTopUp(models.Model):
    """When and how an organization buys credit by itself."""

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, related_name="auto_top_up"
    )
    is_enabled = models.BooleanField(default=False)
    threshold_nanos = models.BigIntegerField()
    amount_nanos = models.BigIntegerField()
    monthly_cap_nanos = models.BigIntegerField()
    # Declines in a row; each doubles the time to the next try, the last one switches it off.
    declines = models.PositiveSmallIntegerField(default=0)
    next_try_at = models.DateTimeField(null=True, blank=True)
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    changed_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                name="billing_auto_top_up_amounts_make_sense",
                condition=Q(threshold_nanos__gt=0)
                & Q(amount_nanos__gt=0)
                & Q(monthly_cap_nanos__gte=F("amount_nanos")),
            ),
        ]

    def __str__(self) -> str:
        return f"Auto top-up of {self.organization}"


class AgentTopUp(models.Model):
    """Whether agents may buy an organization's credit with a workspace token, and how much."""

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, related_name="agent_top_up"
    )
    is_allowed = models.BooleanField(default=False)
    monthly_cap_nanos = models.BigIntegerField()
    changed_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    changed_at = models.DateTimeField()

    class Meta:
        constraints: ClassVar = [
            models.CheckConstraint(
                name="billing_agent_top_up_cap_positive", condition=Q(monthly_cap_nanos__gt=0)
            ),
        ]

    def __str__(self) -> str:
        return f"Agents' top-ups of {self.organization}"


class Payment(models.Model):
    """One purchase of credit: asked of the provider once, credited once."""

    class Kind(models.TextChoices):
        CHECKOUT = "CHECKOUT", "Checkout"
        AUTO = "AUTO", "Auto top-up"
        AGENT = "AGENT", "Top-up by an agent"

    class Status(models.TextChoices):
        PENDING = "PENDING", "Waiting for payment"
        SUCCEEDED = "SUCCEEDED", "Paid"
        FAILED = "FAILED", "Failed"
        EXPIRED = "EXPIRED", "Not completed"
        REVIEW = "REVIEW", "Under review"

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="payments"
    )
    public_id = models.CharField(max_length=32, unique=True, default=payment_id)
    kind = models.CharField(max_length=16, choices=Kind)
    status = models.CharField(max_length=16, choices=Status, default=Status.PENDING)
    amount_nanos = models.BigIntegerField()
    # Made before the provider is asked for the first time, and sent with every try.
    idempotency_key = models.CharField(max_length=120, unique=True)
    provider_session_id = models.CharField(max_length=255, unique=True, null=True, blank=True)
    provider_payment_id = models.CharField(max_length=255, unique=True, null=True, blank=True)
    # Where the person pays; only of Checkout.
    checkout_url = models.TextField(blank=True)
    saves_payment_method = models.BooleanField(default=False)
    # What the provider charges while nobody is there; of auto top-ups and those by agents.
    payment_method_id = models.CharField(max_length=120, blank=True)
    transfer = models.OneToOneField(
        Transfer, on_delete=models.PROTECT, null=True, blank=True, related_name="payment"
    )
    failure = models.CharField(max_length=300, blank=True)
    # Why staff should look; "" when nobody need.
    attention = models.CharField(max_length=300, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    completed_at = models.DateTimeField(null=True, blank=True)
    # When the provider was last asked how it stands.
    checked_at = models.DateTimeField(null=True, blank=True)
    # The customer's bank has taken the money back, until somebody decides.
    disputed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes: ClassVar = [
            models.Index(fields=["organization", "-id"], name="billing_payment_by_org"),
            models.Index(
                fields=["created_at"],
                name="billing_payment_pending",
                condition=Q(status="PENDING"),
            ),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                name="billing_payment_amount_positive", condition=Q(amount_nanos__gt=0)
            ),
            models.CheckConstraint(
                name="billing_payment_paid_means_credited",
                condition=Q(status="SUCCEEDED", transfer__isnull=False)
                | (~Q(status="SUCCEEDED") & Q(transfer__isnull=True)),
            ),
            models.UniqueConstraint(
                fields=["organization"],
                name="billing_payment_one_open_auto_top_up",
                condition=Q(kind="AUTO", status="PENDING"),
            ),
        ]

    def __str__(self) -> str:
        return self.public_id


class Refund(models.Model):
    """Money on its way back to a customer: held, asked of the provider, then posted or released."""

    class Status(models.TextChoices):
        REQUESTED = "REQUESTED", "Under way"
        SUCCEEDED = "SUCCEEDED", "Refunded"
        FAILED = "FAILED", "Failed"

    payment = models.ForeignKey(Payment, on_delete=models.PROTECT, related_name="refunds")
    public_id = models.CharField(max_length=32, unique=True, default=refund_id)
    status = models.CharField(max_length=16, choices=Status, default=Status.REQUESTED)
    amount_nanos = models.BigIntegerField()
    # Made at the provider by somebody, not asked for here: nothing was held for it.
    is_external = models.BooleanField(default=False)
    hold = models.OneToOneField(
        Transfer, on_delete=models.PROTECT, null=True, blank=True, related_name="refund"
    )
    idempotency_key = models.CharField(max_length=120, unique=True)
    provider_refund_id = models.CharField(max_length=255, unique=True, null=True, blank=True)
    reason = models.CharField(max_length=300, blank=True)
    failure = models.CharField(max_length=300, blank=True)
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    asked_at = models.DateTimeField(null=True, blank=True)
    completed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes: ClassVar = [
            models.Index(
                fields=["created_at"],
                name="billing_refund_under_way",
                condition=Q(status="REQUESTED"),
            ),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                name="billing_refund_amount_positive", condition=Q(amount_nanos__gt=0)
            ),
            models.CheckConstraint(
                name="billing_refund_is_held_for_or_external",
                condition=Q(is_external=True, hold__isnull=True)
                | Q(is_external=False, hold__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.public_id


class PaymentEvent(models.Model):
    """One message of the provider, kept as it came; handled once."""

    provider_event_id = models.CharField(max_length=255, unique=True)
    type = models.CharField(max_length=120)
    payload = models.TextField()
    payment = models.ForeignKey(
        Payment, on_delete=models.PROTECT, null=True, blank=True, related_name="events"
    )
    outcome = models.CharField(max_length=300, blank=True)
    received_at = models.DateTimeField()
    # Null: not handled yet, or it speaks of something that is not known yet.
    processed_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes: ClassVar = [
            models.Index(
                fields=["received_at"],
                name="billing_event_waiting",
                condition=Q(processed_at__isnull=True),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.type} {self.provider_event_id}"
