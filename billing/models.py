"""Ledger, prices and usage: rows that are added and never edited.

An organization's credit is money we owe it in service: a liability, credit-normal. Every movement
is one `Transfer` of one amount from a debit account to a credit account, so double entry holds by
construction. A call's worst case is held (PENDING) before it is sent and settled afterwards
(POST_PENDING for what it cost, VOID_PENDING when it cost nothing); the hold itself never changes.

Invariants are held by the database (constraints here, triggers in migrations), so that code which
bypasses `billing.ledger` is refused too. Only `billing.ledger` writes accounts and transfers.
Must know nothing of deployments or the gateway: usage records carry plain ids of those.
"""

import uuid
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


class PriceVersion(models.Model):
    """What one model of one provider costs from a moment on. Immutable; a change is a new row.

    `rates` maps a token bucket (`input`, `cache_read`, `cache_write`, `output`, ...) to tiers
    `[{"from_input_tokens": 0, "nanos_per_million": 2500000000}, ...]`, ascending; the tier is
    chosen by the call's whole input. See billing/pricing.py.
    """

    provider = models.CharField(max_length=40)
    model = models.CharField(max_length=120)
    effective_at = models.DateTimeField()
    rates = models.JSONField()
    source = models.CharField(max_length=120)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("provider", "model", "-effective_at")
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["provider", "model", "effective_at"], name="billing_price_version_unique"
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider}/{self.model} from {self.effective_at:%Y-%m-%d}"


class UsageRecord(models.Model):
    """One call of the AI API: what was asked, what was used, what it cost and why. Immutable.

    Token buckets are disjoint (their sum is what the provider counted), except `reasoning_tokens`,
    which is the part of `output_tokens` spent on reasoning.
    """

    class Status(models.TextChoices):
        FINISHED = "FINISHED", "Finished"
        CLIENT_GONE = "CLIENT_GONE", "Client disconnected"
        UPSTREAM_ERROR = "UPSTREAM_ERROR", "Provider error"
        TRUNCATED = "TRUNCATED", "Cut off by the provider"
        TIMEOUT = "TIMEOUT", "Timed out"
        REFUSED = "REFUSED", "Request refused by the provider"
        CRASHED = "CRASHED", "Interrupted"

    class Source(models.TextChoices):
        PROVIDER = "PROVIDER", "Reported by the provider"
        PROVIDER_PARTIAL = "PROVIDER_PARTIAL", "Last report before the end"
        ESTIMATED = "ESTIMATED", "Estimated from what was relayed"
        NONE = "NONE", "Nothing was used"

    # 48 bits of milliseconds (order), then process epoch and counter (uniqueness).
    call_id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="usage_records"
    )
    workspace_id = models.BigIntegerField()
    deployment_id = models.BigIntegerField()
    deploy_id = models.CharField(max_length=63)
    key_id = models.BigIntegerField()
    request_id = models.CharField(max_length=64, unique=True)
    endpoint = models.CharField(max_length=40)
    is_stream = models.BooleanField(default=False)
    model_requested = models.CharField(max_length=120)
    model_served = models.CharField(max_length=120, blank=True)
    provider = models.CharField(max_length=40)
    upstream_model = models.CharField(max_length=120)
    upstream_request_id = models.CharField(max_length=200, blank=True)
    status = models.CharField(max_length=20, choices=Status)
    http_status = models.PositiveSmallIntegerField()
    error_code = models.CharField(max_length=64, blank=True)
    attempts = models.JSONField(default=list)
    usage_source = models.CharField(max_length=20, choices=Source)
    input_tokens = models.BigIntegerField(default=0)
    cache_read_tokens = models.BigIntegerField(default=0)
    cache_write_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    price_version = models.ForeignKey(PriceVersion, on_delete=models.PROTECT, related_name="+")
    cost_nanos = models.BigIntegerField()
    held_nanos = models.BigIntegerField()
    # Null when the call cost nothing: its hold was released, no credit moved.
    transfer = models.ForeignKey(
        Transfer, on_delete=models.PROTECT, null=True, blank=True, related_name="usage_records"
    )
    started_at = models.DateTimeField()
    duration_ms = models.PositiveIntegerField()
    first_token_ms = models.PositiveIntegerField(null=True, blank=True)

    class Meta:
        ordering = ("-call_id",)
        indexes: ClassVar = [
            models.Index(fields=["organization", "-call_id"], name="billing_usage_by_org"),
            models.Index(
                fields=["organization", "deployment_id", "-call_id"],
                name="billing_usage_by_deployment",
            ),
            models.Index(fields=["organization", "started_at"], name="billing_usage_by_time"),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                name="billing_usage_not_negative",
                condition=Q(cost_nanos__gte=0)
                & Q(held_nanos__gte=0)
                & Q(input_tokens__gte=0)
                & Q(cache_read_tokens__gte=0)
                & Q(cache_write_tokens__gte=0)
                & Q(output_tokens__gte=0)
                & Q(reasoning_tokens__gte=0),
            ),
            models.CheckConstraint(
                name="billing_usage_cost_has_a_transfer",
                condition=Q(cost_nanos=0) | Q(transfer__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return self.request_id

    @property
    def total_tokens(self) -> int:
        """All tokens of the call; reasoning is already inside output."""
        return (
            self.input_tokens
            + self.cache_read_tokens
            + self.cache_write_tokens
            + self.output_tokens
        )
