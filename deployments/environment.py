"""The environment of a deployment: what users and the gateway set, and what a release gets.

Owns precedence (platform < gateway < `.env.production` < user), encryption of values and the
snapshot a release keeps. Must not know what a gateway key is: it is handed names and values.
"""

import json
from collections.abc import Iterable

from django.db import transaction
from django.utils import timezone

from deployments import directory, variables
from deployments.models import Deployment, EnvironmentVariable, Release
from orgs import vault

Source = EnvironmentVariable.Source
# Shown of a value in `masked`; shorter values show nothing.
MASK_SHOWN = 2
MASK_LENGTH_MIN = 8


def _context(deployment: Deployment, name: str, source: str) -> str:
    return f"deployments.EnvironmentVariable:{deployment.deploy_id}:{source}:{name}"


def _snapshot_context(release: Release) -> str:
    return f"deployments.Release:{release.public_id}:environment"


def _values(deployment: Deployment, source: str) -> dict[str, str]:
    rows = EnvironmentVariable.objects.filter(deployment=deployment, source=source)
    return {
        row.name: vault.decrypt(row.value_sealed, context=_context(deployment, row.name, source))
        for row in rows
    }


def _set(deployment: Deployment, source: str, values: dict[str, str]) -> None:
    for name, value in values.items():
        EnvironmentVariable.objects.update_or_create(
            deployment=deployment,
            name=name,
            source=source,
            defaults={
                "value_sealed": vault.encrypt(value, context=_context(deployment, name, source)),
                "updated_at": timezone.now(),
            },
        )


@transaction.atomic
def update(deployment: Deployment, changes: dict[str, str | None]) -> list[str]:
    """Merge `changes` into what the user set; None removes a name. All names set afterwards.

    Takes effect on the next deploy or redeploy. Names the gateway injected stay: removing the
    user's value uncovers them again. Raises variables.UnableToUseVariable, changing nothing.
    """
    Deployment.objects.select_for_update().get(pk=deployment.pk)
    for name, value in changes.items():
        variables.check_name(name)
        if value is not None:
            variables.check_value(name, value)
    mine = EnvironmentVariable.objects.filter(deployment=deployment, source=Source.USER)
    removed = {name for name, value in changes.items() if value is None}
    kept = set(mine.values_list("name", flat=True)) - removed
    variables.check_count(len(kept | (changes.keys() - removed)))
    mine.filter(name__in=removed).delete()
    _set(
        deployment,
        Source.USER,
        {name: value for name, value in changes.items() if value is not None},
    )
    return names(deployment)


@transaction.atomic
def inject(deployment: Deployment, values: dict[str, str]) -> None:
    """Set the gateway's own variables for the deployment's next deploy; the user's win over them.

    Raises variables.UnableToUseVariable.
    """
    for name, value in values.items():
        variables.check_name(name)
        variables.check_value(name, value)
    _set(deployment, Source.GATEWAY, values)


def withdraw(deployment: Deployment, injected_names: Iterable[str]) -> None:
    """Remove variables the gateway injected; what the user set under these names stays."""
    EnvironmentVariable.objects.filter(
        deployment=deployment, source=Source.GATEWAY, name__in=list(injected_names)
    ).delete()


def clear(deployment: Deployment) -> None:
    """Forget every variable, and what releases kept of them: the deployment is being deleted."""
    EnvironmentVariable.objects.filter(deployment=deployment).delete()
    Release.objects.filter(deployment=deployment).update(environment_sealed="")


def names(deployment: Deployment) -> list[str]:
    """All names set for the next deploy, by the user or the gateway, sorted."""
    rows = EnvironmentVariable.objects.filter(deployment=deployment)
    return sorted(set(rows.values_list("name", flat=True)))


def bundle_names(deployment: Deployment) -> list[str]:
    """Names the active release's `.env.production` sets; none before the first deploy."""
    release = deployment.active_release
    return list(release.manifest.get("bundle_environment", [])) if release else []


def overridden_names(deployment: Deployment, injected_names: Iterable[str]) -> list[str]:
    """Which of these names the app sets itself, by update-env or `.env.production`, sorted."""
    wanted = set(injected_names)
    by_user = EnvironmentVariable.objects.filter(
        deployment=deployment, source=Source.USER, name__in=wanted
    ).values_list("name", flat=True)
    return sorted(set(by_user) | (wanted & set(bundle_names(deployment))))


def platform_defaults(deployment: Deployment) -> dict[str, str]:
    """What every function finds in its environment unless something sets it otherwise."""
    return {
        "NODE_ENV": "production",
        "DEPLOY_ID": deployment.deploy_id,
        "DEPLOY_URL": directory.url_of(deployment),
    }


def final_environment(deployment: Deployment, bundle_environment: dict[str, str]) -> dict[str, str]:
    """The environment of a release made now: defaults < gateway < bundle < user.

    Raises variables.UnableToUseVariable when it is too large for a process.
    """
    values = (
        platform_defaults(deployment)
        | _values(deployment, Source.GATEWAY)
        | bundle_environment
        | _values(deployment, Source.USER)
    )
    variables.check_total(values)
    return values


def seal_snapshot(release: Release, values: dict[str, str]) -> str:
    """`values` as `Release.environment_sealed` keeps them, readable for this release only."""
    return vault.encrypt(json.dumps(values), context=_snapshot_context(release))


def open_snapshot(release: Release) -> dict[str, str]:
    """The environment `release` was made with; empty when it has none (deleted, never built)."""
    if not release.environment_sealed:
        return {}
    text = vault.decrypt(release.environment_sealed, context=_snapshot_context(release))
    values: dict[str, str] = json.loads(text)
    return values


def mask(value: str) -> str:
    """`value` as it may be shown: enough to recognise, too little to use."""
    return f"{value[:MASK_SHOWN]}…" if len(value) >= MASK_LENGTH_MIN else "••••"


def masked(deployment: Deployment) -> dict[str, tuple[str, str]]:
    """By name, sorted: the masked value for the next deploy and its source, USER before GATEWAY."""
    shown = {
        name: (mask(value), str(source))
        for source in (Source.GATEWAY, Source.USER)
        for name, value in _values(deployment, source).items()
    }
    return dict(sorted(shown.items()))
