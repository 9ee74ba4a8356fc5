"""Limits as somebody set them: reading, setting, and which of them apply to a caller.

Owns the rows and what they mean together: every scope's limits apply at once, so a key cannot be
given more than its deployment, workspace or organization has. An organization's are the lower of
its own and staff's; staff's replace the platform's defaults. Must not know how calls are counted.
"""

from collections.abc import Iterable

from django.conf import settings
from django.db.models import Q, QuerySet

from deployments.models import Deployment
from gateway.models import Limit
from gateway.windows import ScopeLimits

Scope = Limit.Scope
# Field of the row: field of ScopeLimits.
FIELDS = {
    "requests_per_minute": "requests_per_minute",
    "tokens_per_minute": "tokens_per_minute",
    "concurrency": "concurrency",
    "daily_budget_nanos": "daily_nanos",
    "monthly_budget_nanos": "monthly_nanos",
}


def for_caller(deployment: Deployment, key_ids: Iterable[int]) -> tuple[ScopeLimits, ...]:
    """The limits of a deployment's calls, those of each of its keys among them; narrowest first.

    The deployment must come with its workspace.
    """
    organization_id = deployment.workspace.organization_id
    rows = {
        (row.scope, row.scope_id): row
        for row in _rows(deployment, key_ids).filter(organization_id=organization_id)
    }
    own = rows.pop((Scope.ORGANIZATION, organization_id), None)
    staff = rows.pop((Scope.STAFF, organization_id), None)
    narrower = sorted(rows.values(), key=lambda row: list(Scope).index(Scope(row.scope)))
    found = [_of_row(row) for row in narrower]
    return (*found, of_organization(organization_id, own, staff))


def _rows(deployment: Deployment, key_ids: Iterable[int]) -> "QuerySet[Limit]":
    workspace = deployment.workspace
    return Limit.objects.filter(
        Q(scope=Scope.KEY, scope_id__in=list(key_ids))
        | Q(scope=Scope.DEPLOYMENT, scope_id=deployment.pk)
        | Q(scope=Scope.WORKSPACE, scope_id=workspace.pk)
        | Q(scope__in=[Scope.ORGANIZATION, Scope.STAFF], scope_id=workspace.organization_id)
    )


def _of_row(row: Limit) -> ScopeLimits:
    values = {field: getattr(row, name) for name, field in FIELDS.items()}
    return ScopeLimits(row.scope.lower(), row.scope_id, **values, is_shared=True)


def of_organization(organization_id: int, own: Limit | None, staff: Limit | None) -> ScopeLimits:
    """What an organization may use in all: the lower of its own limits and what it is given."""
    values: dict[str, int | None] = {}
    for name, field in FIELDS.items():
        given = getattr(staff, name, None) or default_of(name)
        set_by_owner = getattr(own, name, None)
        known = [value for value in (given, set_by_owner) if value is not None]
        values[field] = min(known, default=None)
    # The platform's defaults guard each process; what somebody set is counted over all of them.
    is_shared = own is not None or staff is not None
    return ScopeLimits("organization", organization_id, **values, is_shared=is_shared)


def default_of(name: str) -> int | None:
    """The platform's default for an organization; None for no limit."""
    value: int = settings.LIMIT_DEFAULTS.get(name, 0)
    return value or None
