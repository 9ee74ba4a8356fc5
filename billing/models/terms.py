"""What was agreed with an organization about its prices. See `billing.models` for the rules."""

from typing import ClassVar

from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import Q

from billing import pricing
from orgs.models import Organization


class OrganizationTerms(models.Model):
    """An organization's margin; no row means none. Calls take it within a second of its change.

    Records keep the margin they were billed with, so a change is never backdated. Staff change it
    in the admin, whose history says who, when, from what to what.
    """

    organization = models.OneToOneField(
        Organization, on_delete=models.PROTECT, primary_key=True, related_name="terms"
    )
    margin_basis_points = models.PositiveIntegerField(
        "margin, in basis points",
        default=0,
        validators=[MaxValueValidator(pricing.MARGIN_BASIS_POINTS_MAX)],
        help_text="Hundredths of a percent on top of what the provider charges: 250 is 2.5 %.",
    )

    class Meta:
        verbose_name_plural = "organization terms"
        constraints: ClassVar = [
            models.CheckConstraint(
                name="billing_terms_margin_is_sane",
                condition=Q(
                    margin_basis_points__gte=0,
                    margin_basis_points__lte=pricing.MARGIN_BASIS_POINTS_MAX,
                ),
            )
        ]

    def __str__(self) -> str:
        return f"Terms of {self.organization}"
