"""Promotional credit in lots: what is left of each grant, and what used it.

Lots lie inside an organization's one CREDITS account: they say which part of its balance is
promotional and until when. See `billing.models` for the rules.
"""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from billing.models.ledger import Transfer
from orgs.models import Organization


class CreditGrant(models.Model):
    """One lot of promotional credit. Only the two counters change, and they only grow (trigger)."""

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="credit_grants"
    )
    transfer = models.OneToOneField(Transfer, on_delete=models.PROTECT, related_name="credit_grant")
    amount_nanos = models.BigIntegerField()
    used_nanos = models.BigIntegerField(default=0)
    expired_nanos = models.BigIntegerField(default=0)
    # Null: never. Afterwards the rest is taken away, as soon as no call in flight may need it.
    expires_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        indexes: ClassVar = [
            models.Index(
                fields=["organization", "expires_at"],
                name="billing_grant_open",
                condition=Q(amount_nanos__gt=F("used_nanos") + F("expired_nanos")),
            ),
        ]
        constraints: ClassVar = [
            models.CheckConstraint(
                name="billing_grant_amount_positive", condition=Q(amount_nanos__gt=0)
            ),
            models.CheckConstraint(
                name="billing_grant_spent_within_amount",
                condition=Q(used_nanos__gte=0)
                & Q(expired_nanos__gte=0)
                & Q(amount_nanos__gte=F("used_nanos") + F("expired_nanos")),
            ),
        ]

    def __str__(self) -> str:
        return f"Grant {self.transfer_id} of {self.organization}"

    @property
    def remaining_nanos(self) -> int:
        """What is left of the lot."""
        return self.amount_nanos - self.used_nanos - self.expired_nanos


class GrantUse(models.Model):
    """How much of a lot one transfer took: usage, expiry or a correction. Immutable."""

    grant = models.ForeignKey(CreditGrant, on_delete=models.PROTECT, related_name="uses")
    transfer = models.ForeignKey(Transfer, on_delete=models.PROTECT, related_name="grant_uses")
    amount_nanos = models.BigIntegerField()

    class Meta:
        ordering = ("-id",)
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["grant", "transfer"], name="billing_grant_use_once_per_transfer"
            ),
            models.CheckConstraint(
                name="billing_grant_use_amount_positive", condition=Q(amount_nanos__gt=0)
            ),
        ]

    def __str__(self) -> str:
        return f"{self.amount_nanos} of grant {self.grant_id} by transfer {self.transfer_id}"
