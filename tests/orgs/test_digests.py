"""Digests of secrets: over the whole secret, and worthless without the pepper."""

from typing import Any

from orgs import digests


def test_a_digest_is_64_hex_characters_of_the_whole_secret() -> None:
    secret = "wst_" + "a" * 43
    digest = digests.digest(secret)
    assert len(digest) == 64
    assert int(digest, 16) >= 0
    assert digests.digest(secret) == digest
    # Not of a part: gateways have been broken by caches keyed by a key's first characters.
    assert digests.digest(secret[:-1] + "b") != digest
    assert digests.digest("b" + secret[1:]) != digest


def test_a_digest_matches_its_secret_only() -> None:
    digest = digests.digest("one")
    assert digests.matches("one", digest)
    assert not digests.matches("two", digest)
    assert not digests.matches("one", digest[:-1])
    assert not digests.matches("one", "")


def test_another_pepper_makes_other_digests(settings: Any) -> None:
    before = digests.digest("one")
    settings.KEY_PEPPER = "another"
    assert digests.digest("one") != before
    assert not digests.matches("one", before)
