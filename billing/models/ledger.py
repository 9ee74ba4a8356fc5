"""Where money sits and every movement of it. See `billing.models` for the rules."""

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q

from orgs import identifiers
from orgs.models import Organization


def transfer_id() -> str:
    """Default of `Transfer.public_id`."""
    return identifiers.public_id("tr", 16)


class LedgerAccount(models.Model):
    """Where amounts sit. Counters are sums over transfers, kept in the same transaction."""

    class Kind(models.TextChoices):
        CREDITS = "CREDITS", "Credits"
        USAGE_REVENUE = "USAGE_REVENUE", "Usage revenue"
        PROMOTIONS = "PROMOTIONS", "Promotions"
        PAYMENTS_CLEARING = "PAYMENTS_CLEARING", "Payments clearing"
        OVERAGE_RECEIVABLE = "OVERAGE_RECEIVABLE", "Overage receivable"
        CORRECTIONS = "CORRECTIONS", "Corrections"
        BREAKAGE = "BREAKAGE", "Breakage"

    # Every organization has its own contra accounts: one shared revenue row would make all tenants
    # queue for its lock.
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="ledger_accounts"
    )
    kind = models.CharField(max_length=24, choices=Kind)
    allows_overdraft = models.BooleanField(default=True)
    debits_pending_nanos = models.BigIntegerField(default=0)
    debits_posted_nanos = models.BigIntegerField(default=0)
    credits_pending_nanos = models.BigIntegerField(default=0)
    credits_posted_nanos = models.BigIntegerField(default=0)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "kind"], name="billing_account_one_per_kind"
            ),
            models.CheckConstraint(
                name="billing_account_counters_not_negative",
                condition=Q(debits_pending_nanos__gte=0)
                & Q(debits_posted_nanos__gte=0)
                & Q(credits_pending_nanos__gte=0)
                & Q(credits_posted_nanos__gte=0),
            ),
            models.CheckConstraint(
                name="billing_account_no_overdraft",
                condition=Q(allows_overdraft=True)
                | Q(credits_posted_nanos__gte=F("debits_posted_nanos") + F("debits_pending_nanos")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} of {self.organization}"

    @property
    def posted_nanos(self) -> int:
        """Credits minus debits, both posted: what the account holds, in nano-dollars."""
        return self.credits_posted_nanos - self.debits_posted_nanos

    @property
    def available_nanos(self) -> int:
        """What may still be spent: the posted balance minus amounts held for calls in flight."""
        return self.posted_nanos - self.debits_pending_nanos


class Transfer(models.Model):
    """One amount moved between two accounts, for ever."""

    class Phase(models.TextChoices):
        POSTED = "POSTED", "Posted"
        PENDING = "PENDING", "Held"
        POST_PENDING = "POST_PENDING", "Settled"
        VOID_PENDING = "VOID_PENDING", "Released"

    class Code(models.TextChoices):
        TOPUP = "TOPUP", "Top-up"
        USAGE = "USAGE", "Usage"
        PROMO = "PROMO", "Promotion"
        REFUND = "REFUND", "Refund"
        CORRECTION = "CORRECTION", "Correction"
        EXPIRY = "EXPIRY", "Expiry"
        OVERAGE = "OVERAGE", "Overage collected"
        DISPUTE = "DISPUTE", "Disputed payment"

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="transfers"
    )
    public_id = models.CharField(max_length=32, unique=True, default=transfer_id)
    debit_account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="+")
    credit_account = models.ForeignKey(LedgerAccount, on_delete=models.PROTECT, related_name="+")
    amount_nanos = models.BigIntegerField()
    phase = models.CharField(max_length=16, choices=Phase, default=Phase.POSTED)
    pending_transfer = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="resolutions"
    )
    code = models.CharField(max_length=16, choices=Code)
    # Names the intention, made before the first try. The fingerprint tells a retry (same
    # arguments) from a reuse of the key for something else.
    idempotency_key = models.CharField(max_length=120)
    fingerprint = models.CharField(max_length=64)
    reason = models.CharField(max_length=300, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, blank=True, related_name="+"
    )
    created_at = models.DateTimeField()
    # Only on holds: after this a hold whose call left no settlement may be released.
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes: ClassVar = [
            models.Index(
                fields=["expires_at"],
                name="billing_transfer_holds",
                condition=Q(phase="PENDING"),
            ),
            models.Index(fields=["organization", "-id"], name="billing_transfer_by_org"),
            # Usage is charged many times a second: the few other movements must be found among it.
            models.Index(
                fields=["organization", "created_at"],
                name="billing_transfer_not_usage",
                condition=~Q(code="USAGE"),
            ),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                name="billing_transfer_amount_positive", condition=Q(amount_nanos__gt=0)
            ),
            models.CheckConstraint(
                name="billing_transfer_two_accounts",
                condition=~Q(debit_account=F("credit_account")),
            ),
            models.CheckConstraint(
                name="billing_transfer_only_resolutions_name_a_hold",
                condition=Q(
                    phase__in=["POST_PENDING", "VOID_PENDING"], pending_transfer__isnull=False
                )
                | Q(phase__in=["POSTED", "PENDING"], pending_transfer__isnull=True),
            ),
            models.CheckConstraint(
                name="billing_transfer_only_holds_expire",
                condition=Q(phase="PENDING", expires_at__isnull=False)
                | (~Q(phase="PENDING") & Q(expires_at__isnull=True)),
            ),
            models.UniqueConstraint(
                fields=["pending_transfer"], name="billing_transfer_resolved_once"
            ),
            models.UniqueConstraint(
                fields=["organization", "idempotency_key"], name="billing_transfer_once_per_key"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.public_id} {self.get_code_display()}"
