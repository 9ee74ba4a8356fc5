"""That somebody compared a provider's export with our records, and what came of it."""

from typing import ClassVar

from django.db import models


class Reconciliation(models.Model):
    """One run of `manage.py reconcile_provider`; `result` has the rows that were off."""

    provider = models.CharField(max_length=40)
    file_name = models.CharField(max_length=255)
    file_sha256 = models.CharField(max_length=64)
    first_day = models.DateField()
    last_day = models.DateField()
    tolerance_percent = models.DecimalField(max_digits=7, decimal_places=3)
    rows_compared = models.PositiveIntegerField()
    rows_off = models.PositiveIntegerField()
    result = models.JSONField()
    ran_by = models.CharField(max_length=120)
    ran_at = models.DateTimeField()

    class Meta:
        ordering = ("-id",)
        constraints: ClassVar = [
            models.CheckConstraint(
                name="billing_reconciliation_off_among_compared",
                condition=models.Q(rows_off__lte=models.F("rows_compared")),
            )
        ]

    def __str__(self) -> str:
        return f"{self.provider} {self.first_day} to {self.last_day}"
