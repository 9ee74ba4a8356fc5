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


def in_force(at):
    return prices.in_force(at).get(("openai", "gpt-4o"))


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
    old = factories.make_price(
        provider="openai", model="gpt-4o", input_nanos=10**9, output_nanos=10**10
    )
    now = timezone.now()
    [added] = prices.seed([("openai", "gpt-4o")], now)
    assert in_force(now) == added
    assert in_force(now - timedelta(hours=1)) == old
    assert in_force(now - timedelta(days=9)) is None


def test_the_command_shows_what_changes_and_adds_it(capsys):
    factories.make_price(
        provider="openai", model="gpt-4o", input_nanos=2_000_000_000, output_nanos=10**10
    )
    call_command("update_prices", "openai/gpt-4o", "--yes")
    shown = capsys.readouterr().out
    assert "$2.00  ->  $2.50  +25.0 %" in shown
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


# --- Careful updates -----------------------------------------------------------------------------
def quoted(monkeypatch, rates):
    """Let the source say this of openai/gpt-4o."""
    monkeypatch.setattr(
        prices,
        "quote",
        lambda provider, model, at: prices.Quote(provider, model, rates, "platform"),
    )


def test_a_version_is_planned_and_takes_over_at_its_moment(capsys):
    old = factories.make_price(
        provider="openai", model="gpt-4o", input_nanos=2_000_000_000, output_nanos=10**10
    )
    at = (timezone.now() + timedelta(days=3)).replace(microsecond=0)
    call_command("update_prices", "openai/gpt-4o", "--yes", "--effective-at", at.isoformat())
    assert in_force(at - timedelta(seconds=1)) == old
    planned = in_force(at)
    assert (planned.effective_at, planned.rates["input"]) == (at, flat(2_500_000_000))
    assert planned.created_at < at
    capsys.readouterr()
    call_command("update_prices", "openai/gpt-4o", "--yes")  # and again from now on
    assert f"until {at:%Y-%m-%d %H:%M}, when a planned version follows" in capsys.readouterr().out


def test_the_past_is_not_repriced():
    with pytest.raises(CommandError, match="is over: a price cannot change the past"):
        call_command("update_prices", "openai/gpt-4o", "--effective-at", "2020-01-01")
    with pytest.raises(CommandError, match="'soon' is not a time like"):
        call_command("update_prices", "openai/gpt-4o", "--effective-at", "soon")


def test_two_versions_cannot_begin_at_once():
    at = timezone.now()
    factories.make_price(provider="openai", model="gpt-4o")
    changes = prices.compare([("openai", "gpt-4o")], at)
    prices.adopt(changes, at, allows_surprises=True)
    with pytest.raises(prices.UnableToPrice, match="has a version from"):
        prices.adopt(changes, at, allows_surprises=True)


@pytest.mark.parametrize("after", [0, 199_999_999, 20_000_000_001])
def test_a_price_that_looks_like_a_mistake_needs_a_word(monkeypatch, capsys, after):
    old = factories.make_price(provider="openai", model="gpt-4o", input_nanos=2_000_000_000)
    quoted(monkeypatch, {"input": flat(after), "output": flat(40_000_000)})
    with pytest.raises(CommandError, match=f"input goes from 2000000000 to {after} nano-dollars"):
        call_command("update_prices", "openai/gpt-4o", "--yes")
    assert PriceVersion.objects.get() == old
    call_command("update_prices", "openai/gpt-4o", "--yes", "--allow-surprises")
    assert PriceVersion.objects.count() == 2


@pytest.mark.parametrize("after", [200_000_000, 20_000_000_000])
def test_up_to_ten_times_is_no_surprise(monkeypatch, after):
    factories.make_price(provider="openai", model="gpt-4o", input_nanos=2_000_000_000)
    quoted(monkeypatch, {"input": flat(after), "output": flat(40_000_000)})
    call_command("update_prices", "openai/gpt-4o", "--yes")
    assert PriceVersion.objects.count() == 2


def test_a_new_model_that_costs_nothing_is_a_surprise(monkeypatch):
    quoted(monkeypatch, {"input": flat(0), "output": flat(0)})
    with pytest.raises(CommandError, match="openai/gpt-4o: everything is free"):
        call_command("update_prices", "openai/gpt-4o", "--yes")


def test_the_difference_is_shown_per_bucket_and_tier_to_the_last_digit(monkeypatch, capsys):
    factories.make_price(
        provider="openai", model="gpt-4o", input_nanos=2_500_000_001, output_nanos=10_000_000_000
    )
    tiers = [
        {"from_input_tokens": 0, "nanos_per_million": 2_500_000_000},
        {"from_input_tokens": 200_000, "nanos_per_million": 5_000_000_000},
    ]
    cached = flat(1_250_000_000)
    quoted(monkeypatch, {"input": tiers, "cache_read": cached, "output": flat(10_000_000_000)})
    call_command("update_prices", "openai/gpt-4o", "--yes")
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert shown[1:5] == [
        "input $2.500000001 -> $2.50 -0.0 %",
        "input above 200,000 $2.500000001 -> $5.00 +100.0 %",
        # It had no price of its own, and cost what plain input costs.
        "cache read $2.500000001 -> $1.25 -50.0 %",
        "output $10.00 -> $10.00",
    ]


@pytest.mark.parametrize("value", [2.5, "2", True, -1, None])
def test_rates_are_whole_numbers_or_refused(value):
    for rates in (flat(value), [{"from_input_tokens": value, "nanos_per_million": 1}]):
        with pytest.raises(pricing.UnableToReadRates, match="is not a whole number, 0 or more"):
            pricing.Price.from_rates(1, {"input": rates})
