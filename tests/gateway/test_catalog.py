"""The catalog: what is seeded, what staff changed, and what callers are offered."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from billing.models import PriceVersion
from gateway import catalog
from gateway.endpoints import describe_model
from gateway.models import ModelRoute
from tests import factories

NOW = timezone.now()


@pytest.fixture(autouse=True)
def _providers(settings: Any, db: None) -> None:
    settings.PROVIDER_ENVIRONMENT = {
        "openai": {"base_url": "", "api_key": "sk-0123456789"},
        "local": {"base_url": "http://127.0.0.1:9/v1", "api_key": ""},
    }


def test_the_day_one_models_are_seeded_with_prices() -> None:
    added = catalog.seed(at=NOW)
    assert {route.public_name for route in added} == {
        "gpt-4o",
        "gpt-5.2-codex",
        "gemini-3-flash",
        "gemini-3-pro",
        "claude-sonnet-4.5",
        "claude-opus-4.5",
        "smollm2-135m",
        "text-embedding-3-small",
        "text-embedding-3-large",
    }
    models = catalog.load(at=timezone.now()).models()
    assert [model.public_name for model in models] == sorted(row.public_name for row in added)
    assert not [model.public_name for model in models if model.price is None]
    for model in models:
        writes = "chat" in model.capabilities
        assert (model.output_tokens_max > 0) is writes
        assert model.output_tokens_max <= model.context_tokens_max


def test_seeding_again_changes_nothing() -> None:
    catalog.seed(at=NOW)
    before = list(ModelRoute.objects.order_by("pk").values())
    prices = list(PriceVersion.objects.order_by("pk").values())
    assert catalog.seed(at=NOW + timedelta(days=1)) == []
    assert list(ModelRoute.objects.order_by("pk").values()) == before
    assert list(PriceVersion.objects.order_by("pk").values()) == prices


def test_seeding_keeps_what_staff_changed() -> None:
    catalog.seed(at=NOW)
    ModelRoute.objects.filter(public_name="gpt-4o").update(
        is_active=False, aliases=["best"], output_tokens_max=10
    )
    catalog.seed(at=NOW)
    route = ModelRoute.objects.get(public_name="gpt-4o")
    assert (route.is_active, route.aliases, route.output_tokens_max) == (False, ["best"], 10)


def test_an_inactive_route_is_hidden_with_its_aliases() -> None:
    catalog.seed(at=NOW)
    ModelRoute.objects.filter(public_name="gemini-3-pro").update(is_active=False)
    loaded = catalog.load(at=NOW)
    assert "gemini-3-pro" not in loaded.by_name
    assert "gemini-3-pro-preview" not in loaded.by_name
    assert "gemini-3-flash-preview" in loaded.by_name


def test_an_alias_leads_to_the_same_candidate_and_is_not_listed() -> None:
    catalog.seed(at=NOW)
    loaded = catalog.load(at=NOW)
    alias, named = (
        loaded.by_name["claude-sonnet-4-5"],
        loaded.by_name["claude-sonnet-4.5"],
    )
    assert alias == named
    assert "claude-sonnet-4-5" not in [model.public_name for model in loaded.models()]


def test_several_routes_of_a_name_come_in_their_order() -> None:
    second = factories.make_route(public_name="m", provider="local", upstream_name="second")
    first = factories.make_route(public_name="m", provider="openai", upstream_name="first")
    ModelRoute.objects.filter(pk=second.pk).update(position=1)
    third = factories.make_route(public_name="m", provider="openai", upstream_name="third")
    ModelRoute.objects.filter(pk=third.pk).update(position=1, weight=0)
    names = [row.upstream_name for row in catalog.load(at=NOW).by_name["m"]]
    assert names == [first.upstream_name, "second", "third"]


def test_any_number_of_models_is_read_with_three_queries(
    django_assert_num_queries: Any,
) -> None:
    """Routes, prices and credentials: every process does it twice a second."""
    catalog.seed(at=NOW)
    with django_assert_num_queries(3):
        loaded = catalog.load(at=NOW)
    assert len(loaded.models()) == len(catalog.DAY_ONE)
    assert all(one.price for one in loaded.models())


def test_a_price_of_the_future_does_not_count_yet() -> None:
    factories.make_route(public_name="gpt-4o", provider="openai")
    price = factories.make_price(provider="openai", model="gpt-4o")
    (now,) = catalog.load(at=price.effective_at).by_name["gpt-4o"]
    (before,) = catalog.load(at=price.effective_at - timedelta(seconds=1)).by_name["gpt-4o"]
    assert now.price is not None
    assert before.price is None


@pytest.mark.parametrize(
    "rates",
    [
        {},
        {"input": [{"from_input_tokens": 0, "nanos_per_million": 1}]},
        {"input": [], "output": []},
        {"input": [{"nanos_per_million": 1}], "output": []},
        {"input": 5, "output": 5},
        [],
    ],
)
def test_a_price_that_cannot_bill_a_call_is_none_and_spares_the_others(rates: Any) -> None:
    factories.make_route(public_name="gpt-4o", provider="openai")
    factories.make_route()
    factories.make_price()
    PriceVersion.objects.create(
        provider="openai",
        model="gpt-4o",
        effective_at=NOW,
        rates=rates,
        source="test",
        created_at=NOW,
    )
    loaded = catalog.load(at=NOW)
    assert loaded.by_name["gpt-4o"][0].price is None
    assert loaded.by_name["smollm2-135m"][0].price is not None


def test_a_route_of_a_provider_that_is_gone_spares_the_others() -> None:
    factories.make_route(public_name="old", provider="retired")
    factories.make_route()
    loaded = catalog.load(at=NOW)
    assert set(loaded.by_name) == {"smollm2-135m"}


def test_a_stand_in_is_named_as_one_and_costs_what_the_local_model_does(settings: Any) -> None:
    settings.STANDIN_URL = "http://127.0.0.1:9"
    settings.PROVIDER_ENVIRONMENT = {}
    catalog.seed(at=NOW)
    (served,) = catalog.load(at=timezone.now()).by_name["claude-opus-4.5"]
    assert (served.is_standin, served.served_by) == (True, "anthropic-standin")
    assert served.price is not None
    assert served.price.nanos_per_million("output", 0) == 40_000_000
    assert describe_model(served, 0)["status"] == "stand_in"
