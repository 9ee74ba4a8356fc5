"""Suspension: staff stop an organization's AI calls and deploys, and start them again.

Set in the admin (`Organization.suspended_at` and its reason, which members read in the console).
Owns what whoever is refused is told; the refusals themselves belong to each API. What runs goes on:
calls in flight end and are billed, deployed sites are served. Must not know keys or deployments.
"""

from datetime import datetime

from django.conf import settings
from django.db.models import Q

from orgs.models import Organization


def explain_to_caller() -> str:
    """What a refused call is told. Without the reason: it may reach visitors of a deployed app."""
    return f"This organization is suspended. Contact {settings.SUPPORT_CONTACT}."


def explain_to_member(organization: Organization) -> str:
    """What a suspended organization's members read in the console."""
    return (
        "AI calls and deploys are refused; deployed sites are still served. "
        f"Reason: {organization.suspension_reason} Contact {settings.SUPPORT_CONTACT}."
    )


def is_not(*, at: datetime) -> Q:
    """Condition of organizations that are not suspended at `at`."""
    return Q(suspended_at=None) | Q(suspended_at__gt=at)
