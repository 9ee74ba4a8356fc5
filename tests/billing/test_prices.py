"""Prices: exact conversion from the bundled data, versions by time, seeding, and the command."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone
from genai_prices.types import ModelPrice, Tier, TieredPrices

from billing import prices, pricing
from billing.models import PriceVersion
from tests import factories

AT = datetime(2026, 11, 1, tzinfo=UTC)
CATALOG = [
    ("openai", "gpt-4o"),
    ("openai", "gpt-5.2-codex"),
    ("anthropic", "claude-sonnet-4-5"),
    ("anthropic", "claude-opus-4-5"),
    ("google", "gemini-3-flash-preview"),
    ("google", "gemini-3-pro-preview"),
    ("local", "smollm2-135m"),
]
pytestmark = pytest.mark.django_db


def flat(nanos):
    return [{"from_input_tokens": 0, "nanos_per_million": nanos}]


def test_a_flat_vendor_price_is_converted_exactly():
    quote = prices.import_from_genai_prices("openai", "gpt-4o", AT)
    assert quote.rates == {
        "input": flat(2_500_000_000),
        "cache_read": flat(1_250_000_000),
        "output": flat(10_000_000_000),
    }
    assert quote.source.startswith("genai-prices ")
    assert quote.source.endswith(" gpt-4o")


def test_a_tiered_vendor_price_keeps_its_tiers():
    rates = prices.import_from_genai_prices("anthropic", "claude-sonnet-4-5", AT).rates
    assert rates["input"] == [
        {"from_input_tokens": 0, "nanos_per_million": 3_000_000_000},
        {"from_input_tokens": 200_000, "nanos_per_million": 6_000_000_000},
    ]
    assert rates["cache_write"][1]["nanos_per_million"] == 7_500_000_000


def test_anthropic_charges_twice_the_input_for_an_hour_and_a_quarter_more_for_five_minutes():
    rates = prices.import_from_genai_prices("anthropic", "claude-opus-4-5", AT).rates
    assert rates["input"] == flat(5_000_000_000)
    assert rates["cache_write"] == flat(6_250_000_000)
    assert rates["cache_write_1h"] == flat(10_000_000_000)


def test_spoken_and_drawn_tokens_have_prices_of_their_own():
    rates = prices.import_from_genai_prices("google", "gemini-3-flash-preview", AT).rates
    assert rates["audio_input"] == flat(1_000_000_000)
    assert rates["audio_cache_read"] == flat(100_000_000)
    rates = prices.import_from_genai_prices("google", "gemini-2.5-flash-image", AT).rates
    assert rates["image_output"] == flat(30_000_000_000)
    rates = prices.import_from_genai_prices("openai", "gpt-audio", AT).rates
    assert rates["audio_output"] == flat(64_000_000_000)


def test_every_bucket_of_usage_has_a_name_in_the_price_data():
    assert tuple(prices.NAMES) == pricing.BUCKETS


def test_a_price_of_nothing_is_a_price():
    rates = prices._rates(
        "x/y", ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), cache_read_mtok=Decimal(0))
    )
    assert rates["cache_read"] == flat(0)


def test_a_model_that_prices_tokens_no_bucket_counts_is_refused():
    price = ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1), input_video_mtok=Decimal(12))
    with pytest.raises(prices.UnableToPrice, match="input_video_mtok"):
        prices._rates("x/y", price)


def test_the_librarys_own_rules_say_which_entry_a_name_means():
    quote = prices.import_from_genai_prices("openai", "gpt-5.2-codex", AT)
    assert quote.source.endswith(" gpt-5.2")
    assert quote.model == "gpt-5.2-codex"


def test_our_own_model_has_the_platforms_price():
    quote = prices.quote("local", "smollm2-135m", AT)
    assert quote.rates == {"input": flat(20_000_000), "output": flat(40_000_000)}
    assert quote.source == "platform"


def test_every_model_of_the_catalog_has_a_price():
    assert len(prices.seed(CATALOG, AT)) == len(CATALOG)


@pytest.mark.parametrize(
    ("provider", "model"), [("openai", "gpt-nope"), ("nobody", "gpt-4o"), ("local", "other")]
)
def test_an_unknown_model_is_refused_by_name(provider, model):
    with pytest.raises(prices.UnableToPrice, match=f"{provider}/{model}"):
        prices.quote(provider, model, AT)


def test_a_price_finer_than_the_scale_is_refused_not_rounded():
    with pytest.raises(prices.UnableToPrice, match="nine decimals"):
        prices._rates("x/y", ModelPrice(input_mtok=Decimal("1e-10"), output_mtok=Decimal(1)))


def test_a_model_without_an_output_price_is_refused():
    with pytest.raises(prices.UnableToPrice, match="no price for output"):
        prices._rates("x/y", ModelPrice(input_mtok=Decimal(1)))


def test_tiers_are_steps_from_zero():
    price = TieredPrices(base=Decimal(1), tiers=[Tier(start=128_000, price=Decimal("1.5"))])
    assert prices._tiers("x/y", price) == [
        {"from_input_tokens": 0, "nanos_per_million": 10**9},
        {"from_input_tokens": 128_000, "nanos_per_million": 1_500_000_000},
    ]


def test_seeding_again_adds_nothing():
    prices.seed(CATALOG, AT)
    assert prices.seed(CATALOG, AT + timedelta(days=1)) == []


def test_a_changed_price_is_a_new_version_and_the_old_one_stays():
    old = factories.make_price(provider="openai", model="gpt-4o", input_nanos=1)
    now = timezone.now()
    [added] = prices.seed([("openai", "gpt-4o")], now)
    assert prices.current("openai", "gpt-4o", now) == added
    assert prices.current("openai", "gpt-4o", now - timedelta(hours=1)) == old
    assert prices.current("openai", "gpt-4o", now - timedelta(days=9)) is None


def test_the_command_shows_what_changes_and_adds_it(capsys):
    factories.make_price(provider="openai", model="gpt-4o", input_nanos=2_000_000_000)
    call_command("update_prices", "openai/gpt-4o", "--yes")
    shown = capsys.readouterr().out
    assert "$2.00  ->  $2.50" in shown
    assert "Added 1 price version" in shown


def test_the_command_asks_and_no_means_no(monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", lambda _: "n")
    call_command("update_prices", "openai/gpt-4o")
    assert "Nothing changed" in capsys.readouterr().out
    assert not PriceVersion.objects.exists()


def test_the_command_leaves_prices_set_by_hand_alone(capsys):
    factories.make_price(provider="openai", model="gpt-4o", input_nanos=1)
    call_command("update_prices", "--yes")
    assert "Every price is current" in capsys.readouterr().out


def test_the_command_refuses_what_is_no_model():
    with pytest.raises(CommandError, match="PROVIDER/MODEL"):
        call_command("update_prices", "gpt-4o")
    with pytest.raises(CommandError, match="does not know"):
        call_command("update_prices", "openai/gpt-nope")
