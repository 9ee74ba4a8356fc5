"""Limits as somebody set them: reading, setting, and which of them apply to a caller.

Owns the rows and what they mean together: every scope's limits apply at once, so a key cannot be
given more than its deployment, workspace or organization has. An organization's are the lower of
its own and staff's; staff's replace the platform's defaults. Must not know how calls are counted.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from billing import money
from deployments.models import Deployment
from gateway import catalog
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

# By the names in FIELDS numbers, None for no limit; `allowed_models` a list, None for all models.
Values = Mapping[str, int | list[str] | None]
NUMBER_MAX = 10**12
MODELS_MAX = 200
MODEL_NAME_MAX = 120
UNKNOWN_MODELS_SHOWN, MODELS_SHOWN = 3, 20
BUDGET_DOLLARS_MAX = 100_000_000


class UnableToReadBudget(ValueError):
    """The text is no positive amount of dollars. Says what to give instead."""


class UnableToAllowModels(ValueError):
    """No such models are offered. Says which names were meant, perhaps."""


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
    return ScopeLimits(
        row.scope.lower(),
        row.scope_id,
        **values,
        is_shared=_has_numbers(row),
        model_lists=_model_lists(row),
    )


def _has_numbers(row: Limit | None) -> bool:
    return any(getattr(row, name, None) is not None for name in FIELDS)


def _model_lists(*rows: Limit | None) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(row.allowed_models) for row in rows if row and row.allowed_models)


def of_organization(organization_id: int, own: Limit | None, staff: Limit | None) -> ScopeLimits:
    """What an organization may use in all: the lower of its own limits and what it is given."""
    values: dict[str, int | None] = {}
    for name, field in FIELDS.items():
        given = getattr(staff, name, None) or default_of(name)
        set_by_owner = getattr(own, name, None)
        known = [value for value in (given, set_by_owner) if value is not None]
        values[field] = min(known, default=None)
    # The platform's defaults guard each process; what somebody set is counted over all of them.
    is_shared = _has_numbers(own) or _has_numbers(staff)
    return ScopeLimits(
        "organization",
        organization_id,
        **values,
        is_shared=is_shared,
        model_lists=_model_lists(own, staff),
    )


def default_of(name: str) -> int | None:
    """The platform's default for an organization; None for no limit."""
    value: int = settings.LIMIT_DEFAULTS.get(name, 0)
    return value or None


# --- models ----------------------------------------------------------------------------------


def permitted_models(scopes: Sequence[ScopeLimits]) -> list[str]:
    """The models there are that every scope permits, by public name."""
    return [
        name
        for name, aliases in catalog.names().items()
        if all(one.permits((name, *aliases)) for one in scopes)
    ]


def models_of(scope: ScopeLimits) -> list[str] | None:
    """The models a scope is confined to, gone ones among them; None for all.

    Of an organization that both its owners and staff have confined: what both permit.
    """
    if len(scope.model_lists) > 1:
        return permitted_models([scope])
    return sorted(scope.model_lists[0]) if scope.model_lists else None


def resolve_models(names: Iterable[str], *, known: Collection[str] = ()) -> list[str]:
    """Public names of the models called by `names` (public or alias), in order, each once.

    Names in `known` are taken as they are: what is set already may stay when its model is gone.
    Raises UnableToAllowModels naming what is like the names that nothing has.
    """
    offered = catalog.names()
    meant = {alias: name for name, aliases in offered.items() for alias in aliases}
    meant |= {name: name for name in (*known, *offered)}
    wanted = list(names)
    if unknown := [name for name in wanted if name not in meant]:
        raise UnableToAllowModels(
            " ".join(_unknown_model(name, meant) for name in unknown[:UNKNOWN_MODELS_SHOWN])
        )
    return sorted({meant[name] for name in wanted})


def _unknown_model(name: str, known: Iterable[str]) -> str:
    """What to say of a name that no model has."""
    like = get_close_matches(name.lower(), known)
    hint = f"Did you mean {' or '.join(like)}?" if like else _some_of(sorted(known))
    return f"There is no model `{name[:MODEL_NAME_MAX]}`. {hint}"


def _some_of(names: Sequence[str]) -> str:
    more = ", …" if len(names) > MODELS_SHOWN else ""
    return f"The models are {', '.join(names[:MODELS_SHOWN])}{more}."


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
    living = Deployment.objects.filter(workspace__in=workspaces, deleted_at=None)
    keys = {
        key.deployment_id: key
        for key in GatewayKey.objects.filter(
            deployment__in=living, revoked_at=None, expires_at=None
        )
    }
    deployments: dict[int, list[Deployment]] = {}
    for deployment in living.order_by("deploy_id"):
        deployments.setdefault(deployment.workspace_id, []).append(deployment)
    for workspace in workspaces:
        found.append(of_workspace(workspace, organization))
        for deployment in deployments.get(workspace.pk, ()):
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

    A row without any limit is removed. The database refuses what is not positive. Raises
    UnableToAllowModels.
    """
    row, _ = Limit.objects.select_for_update().get_or_create(
        scope=subject.scope,
        scope_id=subject.scope_id,
        defaults={"organization": subject.organization},
    )
    for name in FIELDS:
        if name in values:
            setattr(row, name, values[name])
    if "allowed_models" in values:
        wanted = values["allowed_models"]
        names = wanted if isinstance(wanted, list) else []
        row.allowed_models = resolve_models(names, known=row.allowed_models)
    if not _has_numbers(row) and not row.allowed_models:
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


def effective(scopes: Sequence[ScopeLimits]) -> Values:
    """The lowest of each limit over all scopes, by the row's field names; None for no limit.

    Of models, those there are that every scope permits.
    """
    lowest: dict[str, int | list[str] | None] = {}
    for name, field in FIELDS.items():
        values = [value for one in scopes if (value := getattr(one, field)) is not None]
        lowest[name] = min(values, default=None)
    is_confined = any(one.model_lists for one in scopes)
    lowest["allowed_models"] = permitted_models(scopes) if is_confined else None
    return lowest


def of_scopes(deployment: Deployment, key: GatewayKey | None) -> dict[str, Values | None]:
    """What applies to each scope of a deployment's calls, by scope and field name; None: no key.

    The organization's is what its owners, staff and the platform allow together, and `effective`
    the lowest of all.
    """
    scopes = for_caller(deployment, [] if key is None else [key.pk])
    by_scope = {one.scope: _values(one) for one in scopes}
    nothing: Values = dict.fromkeys((*FIELDS, "allowed_models"))
    return {
        "key": None if key is None else by_scope.get("key", nothing),
        "deployment": by_scope.get("deployment", nothing),
        "workspace": by_scope.get("workspace", nothing),
        "organization": by_scope["organization"],
        "effective": effective(scopes),
    }


def _values(scope: ScopeLimits) -> Values:
    numbers = {name: getattr(scope, field) for name, field in FIELDS.items()}
    return {**numbers, "allowed_models": models_of(scope)}


def usable_models(deployment: Deployment, key: GatewayKey | None) -> list[str]:
    """The models there are that calls of the deployment may use, with this key if it has one."""
    return permitted_models(for_caller(deployment, [] if key is None else [key.pk]))
