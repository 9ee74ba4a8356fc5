"""Monthly statements, once closed. See `billing.models` for the rules and billing/statements.py."""

from typing import ClassVar

from django.db import models

from orgs.models import Organization


class Statement(models.Model):
    """What an organization was told of one month (UTC), for ever.

    `figures` is the whole statement as billing/statements.py makes it; `digest` is the SHA-256 of
    its canonical JSON, which contains the digest of the month before.
    """

    organization = models.ForeignKey(
        Organization, on_delete=models.PROTECT, related_name="statements"
    )
    month = models.DateField()
    figures = models.JSONField()
    digest = models.CharField(max_length=64)
    closed_at = models.DateTimeField()

    class Meta:
        ordering = ("-month",)
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["organization", "month"], name="billing_statement_once_per_month"
            ),
            models.CheckConstraint(
                name="billing_statement_month_starts_on_the_first",
                condition=models.Q(month__day=1),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.organization} {self.month:%Y-%m}"
