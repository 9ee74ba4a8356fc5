"""Usage summed by hour and day. See `billing.models` for the rules and billing/rollups.py."""

from typing import ClassVar

from django.db import models
from django.db.models import Q

from billing.models.usage import UsageRecord
from orgs.models import Organization


class UsageRollup(models.Model):
    """Sums over the usage records that share an hour (or a day, UTC) and everything else here.

    Every statement that inserts usage records adds parts of its own (`is_merged` false, hours
    only) through a trigger, in the same transaction; `billing.rollups` merges parts into the one
    row per hour and day. Merged rows and parts together are exact at any moment. Tokens as in
    UsageRecord; `errors` are the calls that neither finished nor were left by their client.
    """

    class Period(models.TextChoices):
        HOUR = "HOUR", "Hour"
        DAY = "DAY", "Day"

    period = models.CharField(max_length=4, choices=Period)
    starts_at = models.DateTimeField()
    is_merged = models.BooleanField()
    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="usage_rollups", db_index=False
    )
    workspace_id = models.BigIntegerField()
    deployment_id = models.BigIntegerField()
    deploy_id = models.CharField(max_length=63)
    key_id = models.BigIntegerField()
    model_requested = models.CharField(max_length=120)
    model_served = models.CharField(max_length=120, blank=True)
    provider = models.CharField(max_length=40)
    upstream_model = models.CharField(max_length=120)
    usage_source = models.CharField(max_length=20, choices=UsageRecord.Source)
    calls = models.BigIntegerField()
    errors = models.BigIntegerField()
    input_tokens = models.BigIntegerField()
    cache_read_tokens = models.BigIntegerField()
    cache_write_tokens = models.BigIntegerField()
    cache_write_1h_tokens = models.BigIntegerField()
    audio_input_tokens = models.BigIntegerField()
    audio_cache_read_tokens = models.BigIntegerField()
    image_input_tokens = models.BigIntegerField()
    output_tokens = models.BigIntegerField()
    audio_output_tokens = models.BigIntegerField()
    image_output_tokens = models.BigIntegerField()
    reasoning_tokens = models.BigIntegerField()
    cost_nanos = models.BigIntegerField()

    class Meta:
        ordering = ("-starts_at", "id")
        indexes: ClassVar = [
            models.Index(
                fields=["organization", "period", "starts_at"], name="billing_rollup_by_time"
            ),
            models.Index(fields=["id"], name="billing_rollup_parts", condition=Q(is_merged=False)),
            # Reading days wants their parts without walking through all their merged hours.
            models.Index(
                fields=["organization", "starts_at"],
                name="billing_rollup_parts_by_time",
                condition=Q(is_merged=False),
            ),
        ]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=[
                    "organization",
                    "starts_at",
                    "period",
                    "workspace_id",
                    "deployment_id",
                    "deploy_id",
                    "key_id",
                    "model_requested",
                    "model_served",
                    "provider",
                    "upstream_model",
                    "usage_source",
                ],
                condition=Q(is_merged=True),
                name="billing_rollup_once_per_bucket",
            ),
            models.CheckConstraint(
                name="billing_rollup_days_are_merged",
                condition=Q(is_merged=True) | Q(period="HOUR"),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model_requested} {self.starts_at:%Y-%m-%d %H:%M} ({self.period})"
