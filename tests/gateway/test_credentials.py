"""Where providers are called: the admin's row before the environment, and nothing half-way."""

from typing import Any

import pytest

from gateway import credentials
from gateway.credentials import Upstream
from gateway.models import ProviderCredential
from gateway.providers import PROVIDERS

NOTHING = {name: {"base_url": "", "api_key": ""} for name in PROVIDERS}


@pytest.fixture(autouse=True)
def _empty_environment(settings: Any, db: None) -> None:
    settings.PROVIDER_ENVIRONMENT = {name: dict(given) for name, given in NOTHING.items()}


def add(
    provider: str, api_key: str = "sk-from-the-admin-0001", **fields: Any
) -> ProviderCredential:
    credential = ProviderCredential(provider=provider, name="Main", **fields)
    if api_key:
        credentials.seal_api_key(credential, api_key)
    credential.save()
    return credential


def test_without_credentials_no_provider_can_be_called() -> None:
    assert credentials.configured() == {}


def test_the_environment_is_enough(settings: Any) -> None:
    settings.PROVIDER_ENVIRONMENT["openai"]["api_key"] = "sk-from-the-environment"
    upstream = credentials.configured()["openai"]
    assert upstream.base_url == "https://api.openai.com/v1"
    assert upstream.headers() == {"authorization": "Bearer sk-from-the-environment"}


def test_the_admins_credential_wins_over_the_environment(settings: Any) -> None:
    settings.PROVIDER_ENVIRONMENT["openai"] = {
        "base_url": "https://environment.example/v1",
        "api_key": "sk-from-the-environment",
    }
    row = add("openai", base_url="https://admin.example/v1/")
    upstream = credentials.configured()["openai"]
    assert upstream.api_key == "sk-from-the-admin-0001"
    assert upstream.base_url == "https://admin.example/v1"
    assert row.api_key_hint == "0001"
    row.is_active = False
    row.save()
    assert credentials.configured()["openai"].api_key == "sk-from-the-environment"


def test_the_local_model_needs_an_address_and_no_key(settings: Any) -> None:
    settings.PROVIDER_ENVIRONMENT["local"]["base_url"] = "http://127.0.0.1:8100/v1"
    upstream = credentials.configured()["local"]
    assert upstream.headers() == {}


def test_a_key_is_stored_sealed_and_shows_nowhere() -> None:
    row = add("anthropic")
    kept = str(ProviderCredential.objects.filter(pk=row.pk).values().get())
    assert "from-the-admin" not in kept
    upstream = credentials.configured()["anthropic"]
    assert "from-the-admin" not in repr(upstream) + str(row) + repr(row)


def test_a_short_key_gives_no_hint() -> None:
    assert add("openai", api_key="short-key").api_key_hint == ""


def test_one_unreadable_credential_takes_only_its_provider_away(settings: Any) -> None:
    settings.PROVIDER_ENVIRONMENT["anthropic"]["api_key"] = "sk-ant-0123456789"
    settings.PROVIDER_ENVIRONMENT["openai"]["api_key"] = "sk-from-the-environment"
    row = add("openai")
    other = add("google")
    row.api_key_sealed = other.api_key_sealed  # as if copied from another row
    row.save()
    assert set(credentials.configured()) == {"anthropic", "google"}


def test_headers_follow_the_provider() -> None:
    def headers(provider: str) -> dict[str, str]:
        return Upstream(PROVIDERS[provider], "https://api.example", "sk-1").headers()

    assert headers("openai") == {"authorization": "Bearer sk-1"}
    assert headers("anthropic") == {"x-api-key": "sk-1", "anthropic-version": "2023-06-01"}
    assert headers("google") == {"x-goog-api-key": "sk-1"}


def test_a_stand_in_takes_the_place_of_a_provider_without_a_key(settings: Any) -> None:
    settings.STANDIN_URL = "http://127.0.0.1:9"
    settings.PROVIDER_ENVIRONMENT = {"openai": {"base_url": "", "api_key": "sk-real"}}
    configured = credentials.configured()
    assert not configured["openai"].is_standin
    assert configured["anthropic"].is_standin
    assert configured["anthropic"].base_url == "http://127.0.0.1:9/v1"
    assert configured["google"].base_url == "http://127.0.0.1:9/v1beta"
    assert "local" not in configured, "the local model is real or absent"
