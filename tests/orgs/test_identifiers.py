"""Public ids and random secrets: their form and their randomness."""

import re

from orgs import identifiers


def test_a_public_id_says_what_it_is_and_uses_no_look_alikes() -> None:
    made = identifiers.public_id("org")
    assert re.fullmatch(r"org_[23456789bcdfghjkmnpqrstvwxyz]{12}", made)
    assert not set(identifiers.ALPHABET) & set("aeiou01l")
    assert len(set(identifiers.ALPHABET)) == len(identifiers.ALPHABET)


def test_secrets_have_one_length_and_never_repeat() -> None:
    made = {identifiers.random_secret() for _ in range(2_000)}
    assert len(made) == 2_000
    assert all(re.fullmatch(r"[0-9A-Za-z]{43}", secret) for secret in made)


def test_a_secret_has_room_for_all_its_bytes() -> None:
    assert 62**43 >= 2**256
    assert len(identifiers.random_secret(16)) == 22
    assert 62**22 >= 2**128


def test_every_place_of_a_secret_but_the_last_takes_every_character() -> None:
    """The last holds what is left of 256 bits; the others must not be skewed to few characters."""
    made = [identifiers.random_secret() for _ in range(3_000)]
    for place in range(42):
        assert len({secret[place] for secret in made}) == 62
