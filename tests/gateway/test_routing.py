"""Choosing who serves a model, and the words for not being able to."""

import random

import pytest

from billing.pricing import Price
from gateway import routing
from gateway.catalog import CHAT, EMBEDDINGS, Candidate, Catalog
from gateway.credentials import Upstream
from gateway.providers import PROVIDERS
from gateway.refusals import Refusal
from gateway.windows import ScopeLimits

PRICE = Price(1, {"input": ((0, 1),), "output": ((0, 1),)})


def candidate(
    provider: str = "openai",
    *,
    name: str = "m",
    endpoints: tuple[str, ...] = (CHAT,),
    configured: bool = True,
    priced: bool = True,
    position: int = 0,
    weight: int = 1,
    public_name: str = "m",
    aliases: tuple[str, ...] = (),
) -> Candidate:
    row = PROVIDERS[provider]
    return Candidate(
        public_name=public_name,
        provider=row,
        upstream=Upstream(row, "https://up.example", "k") if configured else None,
        upstream_name=name,
        dialects=row.dialects,
        position=position,
        weight=weight,
        price=PRICE if priced else None,
        context_tokens_max=8,
        output_tokens_max=8,
        capabilities=frozenset(endpoints),
        created_at=1,
        aliases=aliases,
    )


def choose(
    *rows: Candidate, model: str = "m", endpoint: str = CHAT, seed: int = 0
) -> list[Candidate]:
    chance = random.Random(seed)
    return routing.choose(Catalog({"m": rows}), model, capability=endpoint, chance=chance)


def refused(*rows: Candidate, model: str = "m", endpoint: str = CHAT) -> Refusal:
    with pytest.raises(Refusal) as raised:
        choose(*rows, model=model, endpoint=endpoint)
    return raised.value


def test_the_first_that_can_serve_does() -> None:
    rows = (
        candidate(name="wrong endpoint", endpoints=(EMBEDDINGS,)),
        candidate("anthropic", name="no credential", configured=False),
        candidate(name="no price", priced=False),
        candidate("local", name="this one"),
        candidate(name="never reached"),
    )
    assert choose(*rows)[0].upstream_name == "this one"


def test_positions_come_before_chance() -> None:
    rows = (candidate(name="second", position=1, weight=1000), candidate(name="first"))
    for seed in range(20):
        assert [row.upstream_name for row in choose(*rows, seed=seed)] == ["first", "second"]


def test_of_one_position_the_heavier_comes_first_more_often() -> None:
    rows = (candidate(name="light", weight=1), candidate(name="heavy", weight=9))
    firsts = [choose(*rows, seed=seed)[0].upstream_name for seed in range(1000)]
    assert 850 < firsts.count("heavy") < 950


@pytest.mark.parametrize("model", ["", "M", "m ", "other", "x" * 10_000])
def test_an_unknown_model_is_a_404(model: str) -> None:
    refusal = refused(candidate(), model=model)
    assert (refusal.status, refusal.code) == (404, "model_not_found")
    assert len(refusal.message) < 300


def test_a_model_of_another_endpoint_says_which() -> None:
    refusal = refused(candidate(endpoints=(EMBEDDINGS,)))
    assert (refusal.status, refusal.code, refusal.param) == (400, "unsupported_endpoint", "model")
    assert "/v1/embeddings" in refusal.message


def test_a_model_without_a_credential_says_how_to_add_one() -> None:
    refusal = refused(candidate("google", configured=False))
    assert (refusal.status, refusal.code) == (503, "provider_not_configured")
    assert "PROVIDER_GOOGLE_API_KEY" in refusal.message
    assert refusal.headers["x-should-retry"] == "false"


def test_a_model_without_a_price_is_not_called() -> None:
    refusal = refused(candidate(priced=False))
    assert (refusal.status, refusal.code) == (503, "model_not_priced")


# --- which models may be used -------------------------------------------------------------------


def confined(*lists: set[str], scope: str = "key") -> ScopeLimits:
    return ScopeLimits(scope, 1, model_lists=tuple(frozenset(names) for names in lists))


BIG = candidate(public_name="big", aliases=("best", "large"))
SMALL = candidate(public_name="small", aliases=("best",))
CATALOG = Catalog({"big": (BIG,), "small": (SMALL,), "large": (BIG,), "best": (BIG, SMALL)})


@pytest.mark.parametrize(
    ("model", "scopes", "found"),
    [
        ("big", [], ["big"]),
        ("big", [confined()], ["big"]),
        ("big", [confined({"big"}), confined({"small", "big"})], ["big"]),
        ("large", [confined({"big"})], ["big"]),
        ("big", [confined({"large"})], ["big"]),  # as it was called when the list was made
        ("best", [confined({"small"})], ["small"]),
        ("best", [confined({"small", "big"})], ["big", "small"]),
    ],
)
def test_models_are_found_as_far_as_every_scope_permits(
    model: str, scopes: list[ScopeLimits], found: list[str]
) -> None:
    assert [row.public_name for row in routing.find(CATALOG, model, scopes)] == found


@pytest.mark.parametrize(
    ("scopes", "refusing"),
    [
        ([confined({"small"})], "key"),
        ([confined(), confined({"gone"}, scope="workspace")], "workspace"),
        ([confined({"big"}, {"small"}, scope="organization")], "organization"),
    ],
)
def test_a_model_that_a_scope_does_not_permit_is_a_403_naming_the_scope(
    scopes: list[ScopeLimits], refusing: str
) -> None:
    with pytest.raises(Refusal) as raised:
        routing.find(CATALOG, "big", scopes)
    refusal = raised.value
    assert (refusal.status, refusal.code, refusal.param) == (403, "model_not_allowed", "model")
    assert f"this {refusing} may use" in refusal.message
    assert refusal.extra == {"scope": refusing}


def test_only_permitted_models_are_listed() -> None:
    assert [row.public_name for row in routing.listed(CATALOG, [])] == ["big", "small"]
    assert routing.listed(CATALOG, [confined({"small"}), confined()]) == [SMALL]
    assert routing.listed(CATALOG, [confined({"small"}), confined({"big"})]) == []
