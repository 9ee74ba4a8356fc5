"""Encryption at rest: what is altered, moved or written under another key does not decrypt."""

import base64
from typing import Any

import pytest

from orgs import vault

CONTEXT = "gateway.GatewayKey:key_1:secret"


@pytest.mark.parametrize("text", ["", "a", "sk-provider-0123456789", "schlüssel ☃", "x" * 10_000])
def test_what_was_encrypted_comes_back(text: str) -> None:
    sealed = vault.encrypt(text, context=CONTEXT)
    assert vault.decrypt(sealed, context=CONTEXT) == text
    assert len(text) < 8 or text not in sealed


def test_the_same_text_never_looks_the_same() -> None:
    assert vault.encrypt("secret", context=CONTEXT) != vault.encrypt("secret", context=CONTEXT)


@pytest.mark.parametrize(
    "place",
    [
        "gateway.GatewayKey:key_2:secret",
        "gateway.GatewayKey:key_1:other",
        "gateway.ProviderCredential:key_1:secret",
        "",
    ],
)
def test_a_ciphertext_moved_to_another_place_does_not_decrypt(place: str) -> None:
    sealed = vault.encrypt("secret", context=CONTEXT)
    with pytest.raises(vault.UnableToDecrypt):
        vault.decrypt(sealed, context=place)


def test_no_altered_character_goes_unnoticed() -> None:
    sealed = vault.encrypt("secret", context=CONTEXT)
    for index, character in enumerate(sealed):
        altered = sealed[:index] + ("A" if character != "A" else "B") + sealed[index + 1 :]
        with pytest.raises(vault.UnableToDecrypt):
            vault.decrypt(altered, context=CONTEXT)


def test_no_cut_or_longer_text_goes_unnoticed() -> None:
    sealed = vault.encrypt("secret", context=CONTEXT)
    for damaged in [sealed[:length] for length in range(len(sealed))]:
        with pytest.raises(vault.UnableToDecrypt):
            vault.decrypt(damaged, context=CONTEXT)
    for more in ("A", "AAAA", "=", "\n", "!", "é"):
        with pytest.raises(vault.UnableToDecrypt):
            vault.decrypt(sealed + more, context=CONTEXT)


@pytest.mark.parametrize(
    "text",
    [
        "secret in the clear",
        "v2:" + base64.urlsafe_b64encode(bytes(40)).decode(),
        "v1:",
        "v1:A",
        "v1:not base64 at all",
        "v1:ünicode",
    ],
)
def test_what_was_never_encrypted_is_refused_in_one_way(text: str) -> None:
    with pytest.raises(vault.UnableToDecrypt):
        vault.decrypt(text, context=CONTEXT)


def test_another_vault_key_reads_nothing_and_the_error_names_the_cause(settings: Any) -> None:
    sealed = vault.encrypt("secret", context=CONTEXT)
    settings.VAULT_KEY = "another key"
    with pytest.raises(vault.UnableToDecrypt, match="VAULT_KEY") as raised:
        vault.decrypt(sealed, context=CONTEXT)
    assert "secret" not in str(raised.value)
