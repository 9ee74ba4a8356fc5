"""Choosing who serves a model, and the words for not being able to."""

import pytest

from billing.pricing import Price
from gateway import routing
from gateway.catalog import CHAT, RESPONSES, Candidate, Catalog
from gateway.credentials import Upstream
from gateway.providers import PROVIDERS
from gateway.refusals import Refusal

PRICE = Price(1, {"input": ((0, 1),), "output": ((0, 1),)})


def candidate(
    provider: str = "openai",
    *,
    name: str = "m",
    endpoints: tuple[str, ...] = (CHAT,),
    configured: bool = True,
    priced: bool = True,
) -> Candidate:
    row = PROVIDERS[provider]
    return Candidate(
        public_name="m",
        provider=row,
        upstream=Upstream(row, "https://up.example", "k") if configured else None,
        upstream_name=name,
        price=PRICE if priced else None,
        context_tokens_max=8,
        output_tokens_max=8,
        capabilities=frozenset(endpoints),
        created_at=1,
    )


def choose(*rows: Candidate, model: str = "m", endpoint: str = CHAT) -> Candidate:
    return routing.choose(Catalog({"m": rows}), model, endpoint=endpoint)


def refused(*rows: Candidate, model: str = "m", endpoint: str = CHAT) -> Refusal:
    with pytest.raises(Refusal) as raised:
        choose(*rows, model=model, endpoint=endpoint)
    return raised.value


def test_the_first_that_can_serve_does() -> None:
    rows = (
        candidate(name="wrong endpoint", endpoints=(RESPONSES,)),
        candidate("anthropic", name="no credential", configured=False),
        candidate(name="no price", priced=False),
        candidate("local", name="this one"),
        candidate(name="never reached"),
    )
    assert choose(*rows).upstream_name == "this one"


@pytest.mark.parametrize("model", ["", "M", "m ", "other", "x" * 10_000])
def test_an_unknown_model_is_a_404(model: str) -> None:
    refusal = refused(candidate(), model=model)
    assert (refusal.status, refusal.code) == (404, "model_not_found")
    assert len(refusal.message) < 300


def test_a_model_of_another_endpoint_says_which() -> None:
    refusal = refused(candidate(endpoints=(RESPONSES,)))
    assert (refusal.status, refusal.code, refusal.param) == (400, "unsupported_endpoint", "model")
    assert "/v1/responses" in refusal.message


def test_a_model_without_a_credential_says_how_to_add_one() -> None:
    refusal = refused(candidate("google", configured=False))
    assert (refusal.status, refusal.code) == (503, "provider_not_configured")
    assert "PROVIDER_GOOGLE_API_KEY" in refusal.message
    assert refusal.headers["x-should-retry"] == "false"


def test_a_model_without_a_price_is_not_called() -> None:
    refusal = refused(candidate(priced=False))
    assert (refusal.status, refusal.code) == (503, "model_not_priced")
