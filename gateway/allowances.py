"""Limits as somebody set them: reading, setting, and which of them apply to a caller.

Owns the rows and what they mean together: every scope's limits apply at once, so a key cannot be
given more than its deployment, workspace or organization has. An organization's are the lower of
its own and staff's; staff's replace the platform's defaults. Must not know how calls are counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from billing import money
from deployments.models import Deployment
from gateway.models import GatewayKey, Limit
from gateway.windows import ScopeLimits
from orgs.models import Organization, Workspace

Scope = Limit.Scope
# Field of the row: field of ScopeLimits.
FIELDS = {
    "requests_per_minute": "requests_per_minute",
    "tokens_per_minute": "tokens_per_minute",
    "concurrency": "concurrency",
    "daily_budget_nanos": "daily_nanos",
    "monthly_budget_nanos": "monthly_nanos",
}

Values = Mapping[str, int | None]
NUMBER_MAX = 10**12
BUDGET_DOLLARS_MAX = 100_000_000


class UnableToReadBudget(ValueError):
    """The text is no positive amount of dollars. Says what to give instead."""


class ScopeNotFound(Exception):
    """The organization has no such key, deployment or workspace."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose limits are meant: `name` is what people know it by, within its organization."""

    organization: Organization
    scope: str
    scope_id: int
    name: str
    label: str


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
    found = [of_row(row) for row in narrower]
    return (*found, of_organization(organization_id, own, staff))


def _rows(deployment: Deployment, key_ids: Iterable[int]) -> "QuerySet[Limit]":
    workspace = deployment.workspace
    return Limit.objects.filter(
        Q(scope=Scope.KEY, scope_id__in=list(key_ids))
        | Q(scope=Scope.DEPLOYMENT, scope_id=deployment.pk)
        | Q(scope=Scope.WORKSPACE, scope_id=workspace.pk)
        | Q(scope__in=[Scope.ORGANIZATION, Scope.STAFF], scope_id=workspace.organization_id)
    )


def of_row(row: Limit) -> ScopeLimits:
    """What a row allows, as calls are checked against it."""
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


# --- whose -----------------------------------------------------------------------------------


def of_key(key: GatewayKey, organization: Organization) -> Subject:
    """The key as a subject of limits."""
    return Subject(organization, Scope.KEY, key.pk, key.public_id, f"{key.prefix}…")


def of_deployment(deployment: Deployment, organization: Organization) -> Subject:
    """The deployment as a subject of limits."""
    name = deployment.deploy_id
    return Subject(organization, Scope.DEPLOYMENT, deployment.pk, name, name)


def of_workspace(workspace: Workspace, organization: Organization) -> Subject:
    """The workspace as a subject of limits."""
    label = workspace.name
    return Subject(organization, Scope.WORKSPACE, workspace.pk, workspace.public_id, label)


def of_owner(organization: Organization) -> Subject:
    """The organization as a subject of the limits that its owners set."""
    name = organization.slug
    return Subject(organization, Scope.ORGANIZATION, organization.pk, name, organization.name)


def subjects(organization: Organization) -> list[Subject]:
    """The organization, then each workspace with its living deployments and their current keys."""
    found = [of_owner(organization)]
    workspaces = organization.workspaces.order_by("name")
    deployments = Deployment.objects.filter(workspace__in=workspaces, deleted_at=None)
    keys = {
        key.deployment_id: key
        for key in GatewayKey.objects.filter(
            deployment__in=deployments, revoked_at=None, expires_at=None
        )
    }
    for workspace in workspaces:
        found.append(of_workspace(workspace, organization))
        for deployment in deployments.order_by("deploy_id"):
            if deployment.workspace_id != workspace.pk:
                continue
            found.append(of_deployment(deployment, organization))
            if key := keys.get(deployment.pk):
                found.append(of_key(key, organization))
    return found


def find(organization: Organization, scope: str, name: str) -> Subject:
    """The subject called `name` (public id, deploy id or slug). Raises ScopeNotFound."""
    if scope in (Scope.ORGANIZATION, Scope.STAFF):
        if name not in ("", organization.slug):
            raise ScopeNotFound
        return Subject(organization, scope, organization.pk, organization.slug, organization.name)
    if scope == Scope.WORKSPACE:
        workspace = organization.workspaces.filter(public_id=name).first()
        if workspace is not None:
            return of_workspace(workspace, organization)
    elif scope == Scope.DEPLOYMENT:
        deployment = Deployment.objects.filter(
            workspace__organization=organization, deploy_id=name, deleted_at=None
        ).first()
        if deployment is not None:
            return of_deployment(deployment, organization)
    elif scope == Scope.KEY:
        key = GatewayKey.objects.filter(
            deployment__workspace__organization=organization, public_id=name, revoked_at=None
        ).first()
        if key is not None:
            return of_key(key, organization)
    raise ScopeNotFound


def budget_from_dollars(text: str | int) -> int:
    """A budget as typed or sent ("25", "0.50"), in nano-dollars. Raises UnableToReadBudget."""
    try:
        nanos = money.nanos_from_dollars(text)
    except money.UnableToReadMoney:
        raise UnableToReadBudget("Give an amount of dollars, such as 25 or 0.50.") from None
    if not 0 < nanos <= BUDGET_DOLLARS_MAX * money.NANOS_PER_DOLLAR:
        raise UnableToReadBudget(f"Give more than 0 and at most {BUDGET_DOLLARS_MAX:,} dollars.")
    return nanos


# --- setting ---------------------------------------------------------------------------------


def read(subject: Subject) -> Limit | None:
    """What is set for the subject itself; None when nothing is."""
    return Limit.objects.filter(scope=subject.scope, scope_id=subject.scope_id).first()


def read_all(organization: Organization) -> dict[tuple[str, int], Limit]:
    """Every row of the organization, by scope and id."""
    return {(row.scope, row.scope_id): row for row in organization.limits.all()}


@transaction.atomic
def change(subject: Subject, values: Values) -> Limit | None:
    """Set the limits named in `values` (None: no limit) and leave the others as they are.

    A row without any limit is removed. The database refuses what is not positive.
    """
    row, _ = Limit.objects.select_for_update().get_or_create(
        scope=subject.scope,
        scope_id=subject.scope_id,
        defaults={"organization": subject.organization},
    )
    for name in FIELDS:
        if name in values:
            setattr(row, name, values[name])
    if all(getattr(row, name) is None for name in FIELDS):
        row.delete()
        return None
    row.save()
    return row


def carry_over(replaced: Iterable[int], key: GatewayKey) -> None:
    """Give a new key the limits of the one it replaces, so that rotating lifts none."""
    row = Limit.objects.filter(scope=Scope.KEY, scope_id__in=list(replaced)).last()
    if row is not None:
        row.pk, row.scope_id = None, key.pk
        row.save(force_insert=True)


def effective(scopes: Sequence[ScopeLimits]) -> dict[str, int | None]:
    """The lowest of each limit over all scopes, by the row's field names; None for no limit."""
    lowest: dict[str, int | None] = {}
    for name, field in FIELDS.items():
        values = [value for one in scopes if (value := getattr(one, field)) is not None]
        lowest[name] = min(values, default=None)
    return lowest


def of_scopes(deployment: Deployment, key: GatewayKey | None) -> dict[str, Values | None]:
    """What applies to each scope of a deployment's calls, by scope and field name; None: no key.

    The organization's is what its owners, staff and the platform allow together, and `effective`
    the lowest of all.
    """
    scopes = for_caller(deployment, [] if key is None else [key.pk])
    by_scope = {one.scope: _values(one) for one in scopes}
    nothing: Values = dict.fromkeys(FIELDS)
    return {
        "key": None if key is None else by_scope.get("key", nothing),
        "deployment": by_scope.get("deployment", nothing),
        "workspace": by_scope.get("workspace", nothing),
        "organization": by_scope["organization"],
        "effective": effective(scopes),
    }


def _values(scope: ScopeLimits) -> dict[str, int | None]:
    return {name: getattr(scope, field) for name, field in FIELDS.items()}
