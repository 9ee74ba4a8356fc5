"""What the database knows of journals: how far each is ingested, what it may spend, what was bad.

See billing/journal for the files, billing/leases.py and billing/ingest.py for who writes these.
"""

from typing import ClassVar

from django.db import models
from django.db.models import F, Q

from orgs.models import Organization


class Journal(models.Model):
    """One serving process's journal; `position` moves in the transaction that books up to it."""

    name = models.CharField(max_length=120, primary_key=True)
    host = models.CharField(max_length=80)
    position = models.BigIntegerField(default=0)
    created_at = models.DateTimeField()
    renewed_at = models.DateTimeField()
    # Everything in it is booked, its process is gone and its leases are returned.
    closed_at = models.DateTimeField(null=True, blank=True)
    # Its host was silent for too long: its leases were taken back, its records are still awaited.
    reclaimed_at = models.DateTimeField(null=True, blank=True)
    # How often it was found not renewed since it was looked at before, and when that was.
    looks_in_vain = models.PositiveSmallIntegerField(default=0)
    looked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ("-created_at",)
        constraints: ClassVar = [
            models.CheckConstraint(
                name="billing_journal_position_not_negative", condition=Q(position__gte=0)
            )
        ]

    def __str__(self) -> str:
        return self.name


class Lease(models.Model):
    """Credit of one organization that one journal's process may spend without asking.

    Totals since the process began; they only grow. Outstanding = granted - returned - used, which
    is part of what the organization's account shows as held.
    """

    journal = models.ForeignKey(Journal, on_delete=models.PROTECT, related_name="leases")
    organization = models.ForeignKey(Organization, on_delete=models.PROTECT, related_name="leases")
    granted_nanos = models.BigIntegerField(default=0)
    returned_nanos = models.BigIntegerField(default=0)
    used_nanos = models.BigIntegerField(default=0)
    # What calls of the process cost above that: taken from other credit, or owed.
    beyond_nanos = models.BigIntegerField(default=0)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["journal", "organization"], name="billing_lease_one_per_journal"
            ),
            models.CheckConstraint(
                name="billing_lease_within_its_grant",
                condition=Q(returned_nanos__gte=0)
                & Q(used_nanos__gte=0)
                & Q(beyond_nanos__gte=0)
                & Q(granted_nanos__gte=F("returned_nanos") + F("used_nanos")),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.journal_id} of {self.organization}"

    @property
    def outstanding_nanos(self) -> int:
        """What the process may still spend, as far as the database knows."""
        return self.granted_nanos - self.returned_nanos - self.used_nanos


class DeadLetter(models.Model):
    """Bytes of a journal that could not be booked, kept whole, with the reason."""

    journal = models.ForeignKey(Journal, on_delete=models.PROTECT, related_name="dead_letters")
    position = models.BigIntegerField()
    raw = models.BinaryField()
    reason = models.CharField(max_length=300)
    # As far as they could be read.
    organization_id = models.BigIntegerField(null=True, blank=True)
    cost_nanos = models.BigIntegerField(default=0)
    created_at = models.DateTimeField()
    # What was done about it, once somebody has.
    resolved_at = models.DateTimeField(null=True, blank=True)
    resolution = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["journal", "position"], name="billing_dead_letter_once")
        ]

    def __str__(self) -> str:
        return f"{self.journal_id} at {self.position}"
