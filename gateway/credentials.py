"""Where each provider is and what we authenticate with: the admin's row, else the environment.

Secrets leave here only inside `Upstream`, whose repr hides them.
"""

from dataclasses import dataclass, field

import structlog
from django.conf import settings

from gateway.models import ProviderCredential
from gateway.providers import PROVIDERS, AuthStyle, Provider
from orgs import vault

# What stand-ins take for a key: they run on loopback and cost nothing.
STANDIN_KEY = "stand-in"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Upstream:
    """A provider that can be called: its facts, address without trailing slash, and key."""

    provider: Provider
    base_url: str
    api_key: str = field(repr=False)
    # A local server that speaks the provider's wire and answers with the local model.
    is_standin: bool = False

    def headers(self) -> dict[str, str]:
        """The headers this provider wants, its authentication among them."""
        headers = dict(self.provider.headers)
        if self.api_key and self.provider.auth is AuthStyle.BEARER:
            headers["authorization"] = f"Bearer {self.api_key}"
        elif self.api_key and self.provider.auth is not AuthStyle.NONE:
            headers[self.provider.auth.value] = self.api_key
        return headers


def _context(public_id: str) -> str:
    return f"gateway.ProviderCredential:{public_id}:api_key"


def seal_api_key(credential: ProviderCredential, api_key: str) -> None:
    """Put `api_key` into the unsaved `credential`, encrypted, with a hint to recognise it by."""
    credential.api_key_sealed = vault.encrypt(api_key, context=_context(credential.public_id))
    credential.api_key_hint = api_key[-4:] if len(api_key) >= 12 else ""


def configured() -> dict[str, Upstream]:
    """Every provider that can be called now, by name.

    A credential that cannot be decrypted takes its own provider away, not the others; nor is the
    environment's used in its place, which staff meant to replace.
    """
    rows = {row.provider: row for row in ProviderCredential.objects.filter(is_active=True)}
    found = {}
    for name, provider in PROVIDERS.items():
        try:
            upstream = (
                _from_row(provider, rows.get(name))
                or _from_environment(provider)
                or _standin(provider)
            )
        except vault.UnableToDecrypt as error:
            log.error("a credential is unreadable", provider=name, reason=str(error))
            continue
        if upstream is not None:
            found[name] = upstream
    return found


def _from_row(provider: Provider, row: ProviderCredential | None) -> Upstream | None:
    if row is None:
        return None
    sealed = row.api_key_sealed
    api_key = vault.decrypt(sealed, context=_context(row.public_id)) if sealed else ""
    return _usable(provider, row.base_url or provider.base_url, api_key)


def _from_environment(provider: Provider) -> Upstream | None:
    given = settings.PROVIDER_ENVIRONMENT.get(provider.name, {})
    return _usable(provider, given.get("base_url") or provider.base_url, given.get("api_key", ""))


def _usable(provider: Provider, base_url: str, api_key: str) -> Upstream | None:
    if not base_url or (provider.needs_key and not api_key):
        return None
    return Upstream(provider, base_url.rstrip("/"), api_key)


def _standin(provider: Provider) -> Upstream | None:
    """The stand-in for a provider without a key, when one runs (`STANDIN_URL`)."""
    if not settings.STANDIN_URL or not provider.needs_key:
        return None
    version = "v1beta" if "gemini" in provider.dialects else "v1"
    return Upstream(provider, f"{settings.STANDIN_URL}/{version}", STANDIN_KEY, is_standin=True)
