"""System checks of the platform: what would be wrong in production fails here, with a hint."""

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.core.exceptions import ImproperlyConfigured

from deployments.runtime import launchers


@register(Tags.security)
def secrets_are_set(**_: Any) -> list[CheckMessage]:
    """All three secrets exist and differ."""
    values = {name: _secret(name) for name in ("SECRET_KEY", "KEY_PEPPER", "VAULT_KEY")}
    missing = [name for name, value in values.items() if not value]
    if missing:
        return [
            Error(
                f"{', '.join(missing)} must be set.",
                hint="Give each its own 32 random bytes; see docs/configuration.md.",
                id="config.E001",
            )
        ]
    if len(set(values.values())) < len(values):
        return [
            Error(
                "SECRET_KEY, KEY_PEPPER and VAULT_KEY must differ.",
                hint="One leaked value would open everything else too.",
                id="config.E002",
            )
        ]
    return []


def _secret(name: str) -> str:
    """The setting's value; Django itself refuses to give an empty SECRET_KEY."""
    try:
        return str(getattr(settings, name))
    except ImproperlyConfigured:
        return ""


@register(Tags.security, deploy=True)
def deployed_sites_have_their_own_domain(**_: Any) -> list[CheckMessage]:
    """Sites run other people's code: sharing the console's domain would share its cookies."""
    console, sites = urlsplit(settings.PUBLIC_URL).hostname or "", settings.APPS_DOMAIN
    parent = console.partition(".")[2]
    is_related = f".{console}".endswith(f".{sites}") or f".{sites}".endswith(f".{console}")
    # Siblings such as console.example.com and apps.example.com, but not two domains below .com.
    are_siblings = "." in parent and f".{sites}".endswith(f".{parent}")
    if is_related or are_siblings:
        return [
            Warning(
                f"Deployed sites ({sites}) share a domain with the console ({console}).",
                hint="Set APPS_DOMAIN to a different registrable domain.",
                id="config.W001",
            )
        ]
    return []


@register(Tags.security, deploy=True)
def functions_are_isolated(**_: Any) -> list[CheckMessage]:
    """The plain driver runs functions as this very user."""
    if settings.FUNCTION_DRIVER == "local-plain":
        return [
            Warning(
                "Functions run without isolation (FUNCTION_DRIVER=local-plain).",
                hint="Only deploy code you trust, or use an isolating driver.",
                id="config.W002",
            )
        ]
    return []


@register()
def aws_lambda_is_set_up(**_: Any) -> list[CheckMessage]:
    """The driver cannot create functions without a region and a role."""
    missing = [name for name in ("region", "role") if not settings.AWS_LAMBDA[name]]
    if settings.FUNCTION_DRIVER != "aws-lambda" or not missing:
        return []
    names = " and ".join(f"AWS_LAMBDA_{name.upper()}" for name in missing)
    return [
        Error(
            f"FUNCTION_DRIVER=aws-lambda needs {names}.",
            hint="Name the region functions run in and the role they run as: docs/functions.md.",
            id="config.E003",
        )
    ]


@register(Tags.security)
def functions_can_be_isolated(**_: Any) -> list[CheckMessage]:
    """In production no function runs without isolation unless somebody asked for that."""
    driver = settings.FUNCTION_DRIVER
    if driver not in ("auto", "local-bwrap") or launchers.can_isolate():
        return []
    if settings.EMBEDDED and driver == "auto":
        return []
    return [
        Error(
            "bubblewrap is not installed, so deployed functions are refused.",
            hint="Install it (Debian, Ubuntu: apt install bubblewrap util-linux; Fedora: dnf "
            "install bubblewrap util-linux) where the function host runs; see docs/functions.md.",
            id="config.E004",
        )
    ]


@register(Tags.security, deploy=True)
def payments_can_be_confirmed(**_: Any) -> list[CheckMessage]:
    """Credit can be bought, but Stripe's messages about it are refused."""
    if settings.STRIPE_API_KEY and not settings.STRIPE_WEBHOOK_SECRET.strip():
        return [
            Warning(
                "STRIPE_API_KEY is set and STRIPE_WEBHOOK_SECRET is not.",
                hint="Payments are credited ten minutes late, refunds and disputes made at Stripe "
                "are not seen at all. Set the signing secret of the webhook endpoint.",
                id="config.W003",
            )
        ]
    return []
