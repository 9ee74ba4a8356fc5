"""What models cost and what every call used. See `billing.models` for the rules."""

import uuid
from typing import Any, ClassVar

from django.db import models
from django.db.models import Q

from billing import pricing
from billing.models.ledger import Transfer
from orgs.models import Organization


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

    One column per bucket of `pricing.BUCKETS`, disjoint (their sum is what the provider counted);
    `reasoning_tokens` is the part of `output_tokens` spent on reasoning.
    """

    class Status(models.TextChoices):
        FINISHED = "FINISHED", "Finished"
        CLIENT_GONE = "CLIENT_GONE", "Client disconnected"
        UPSTREAM_ERROR = "UPSTREAM_ERROR", "Provider error"
        TRUNCATED = "TRUNCATED", "Cut off by the provider"
        TIMEOUT = "TIMEOUT", "Timed out"
        REFUSED = "REFUSED", "Request refused by the provider"
        CREDIT_CUT = "CREDIT_CUT", "Credit ran out"
        CRASHED = "CRASHED", "Interrupted"

    class Source(models.TextChoices):
        PROVIDER = "PROVIDER", "Reported by the provider"
        PROVIDER_PARTIAL = "PROVIDER_PARTIAL", "Last report before the end"
        ESTIMATED = "ESTIMATED", "Estimated from what was relayed"
        NONE = "NONE", "Nothing was used"

    # 48 bits of milliseconds (order), then process epoch and counter (uniqueness).
    call_id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    # No index of its own: three below begin with it, and every index costs each call something.
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="usage_records", db_index=False
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
    cache_write_1h_tokens = models.BigIntegerField(default=0)
    audio_input_tokens = models.BigIntegerField(default=0)
    audio_cache_read_tokens = models.BigIntegerField(default=0)
    image_input_tokens = models.BigIntegerField(default=0)
    output_tokens = models.BigIntegerField(default=0)
    audio_output_tokens = models.BigIntegerField(default=0)
    image_output_tokens = models.BigIntegerField(default=0)
    reasoning_tokens = models.BigIntegerField(default=0)
    # Nobody looks for the calls of a price, and no price is ever deleted.
    price_version = models.ForeignKey(
        PriceVersion, on_delete=models.PROTECT, related_name="+", db_index=False
    )
    # What the organization paid on top of the price, in hundredths of a percent.
    margin_basis_points = models.PositiveIntegerField(default=0)
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
                condition=Q(
                    cost_nanos__gte=0,
                    held_nanos__gte=0,
                    reasoning_tokens__gte=0,
                    **{f"{bucket}_tokens__gte": 0 for bucket in pricing.BUCKETS},
                ),
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
        return self.usage.total

    @property
    def usage(self) -> pricing.Usage:
        """The quantities as pricing takes them."""
        return usage_of(self)


def usage_of(row: Any) -> pricing.Usage:
    """The quantities of a record, or of any row with its columns of tokens."""
    return pricing.Usage(
        reasoning=row.reasoning_tokens,
        **{bucket: getattr(row, f"{bucket}_tokens") for bucket in pricing.BUCKETS},
    )
