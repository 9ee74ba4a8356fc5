"""Price versions: what each model of each provider costs from a moment on.

Vendors' prices come from the data bundled with the `genai-prices` package (github.com/pydantic/
genai-prices; its network update is never used: a price must not change without a person asking).
Prices of the platform's own models are set here. A price is never edited: a change is a new
version. Must not know routes or public model names, which belong to the gateway.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import genai_prices
from genai_prices import data_snapshot
from genai_prices.types import ModelPrice, TieredPrices

from billing.models import PriceVersion
from billing.money import UnableToReadMoney, nanos_from_dollars

Rates = dict[str, list[dict[str, int]]]

# Our token bucket -> the names of its price per million tokens in dollars, the exact one first.
# Anthropic's price of writing for an hour is theirs, too: twice plain input, where five minutes
# cost 1.25 times (docs.anthropic.com/en/docs/build-with-claude/prompt-caching).
NAMES = {
    "input": ("input_mtok",),
    "cache_read": ("cache_read_mtok",),
    "cache_write": ("cache_write_5m_mtok", "cache_write_mtok"),
    "cache_write_1h": ("cache_write_1h_mtok",),
    "audio_input": ("input_audio_mtok",),
    "audio_cache_read": ("cache_audio_read_mtok",),
    "image_input": ("input_image_mtok",),
    "output": ("output_mtok",),
    "audio_output": ("output_audio_mtok",),
    "image_output": ("output_image_mtok",),
}
# (provider, model) -> dollars per million tokens, for models that no vendor prices.
PLATFORM_DOLLARS = {("local", "smollm2-135m"): {"input": "0.02", "output": "0.04"}}


class UnableToPrice(Exception):
    """No usable price is known for the model; the message names it and says why."""


@dataclass(frozen=True, slots=True)
class Quote:
    """What a source says a model costs; `rates` as in PriceVersion."""

    provider: str
    model: str
    rates: Rates
    source: str


@dataclass(frozen=True, slots=True)
class Change:
    """A quote beside the version in force (None: the model has no price yet)."""

    quote: Quote
    before: PriceVersion | None

    @property
    def is_new(self) -> bool:
        """Whether the rates differ, so that a version has to be added."""
        return self.before is None or self.before.rates != self.quote.rates


def current(provider: str, model: str, at: datetime) -> PriceVersion | None:
    """The version in force at a moment; None when the model has no price then."""
    return (
        PriceVersion.objects.filter(provider=provider, model=model, effective_at__lte=at)
        .order_by("-effective_at")
        .first()
    )


def import_from_genai_prices(provider: str, model: str, at: datetime) -> Quote:
    """The standard price of a vendor's model at a moment. Raises UnableToPrice.

    The package's own rules say which of its entries a model name means (`gpt-5.2-codex` is its
    `gpt-5.2`), and which of dated or time-of-day prices is valid. Batch and priority prices are
    not taken: the gateway buys neither.
    """
    snapshot = data_snapshot.get_snapshot()
    try:
        _, entry = snapshot.find_provider_model(model, None, provider, None)
    except LookupError:
        raise UnableToPrice(
            f"genai-prices {genai_prices.__version__} does not know {provider}/{model}."
        ) from None
    source = f"genai-prices {genai_prices.__version__} {entry.id}"
    return Quote(provider, model, _rates(f"{provider}/{model}", entry.get_prices(at)), source)


def quote(provider: str, model: str, at: datetime) -> Quote:
    """What the model costs by its source: the platform's own table, else genai-prices.

    Raises UnableToPrice.
    """
    dollars = PLATFORM_DOLLARS.get((provider, model))
    if dollars is None:
        return import_from_genai_prices(provider, model, at)
    rates = {bucket: [_tier(0, nanos_from_dollars(price))] for bucket, price in dollars.items()}
    return Quote(provider, model, rates, "platform")


def compare(models: Iterable[tuple[str, str]], at: datetime) -> list[Change]:
    """Each (provider, upstream model) with its quote and the version in force.

    Raises UnableToPrice for a model that no source knows.
    """
    return [
        Change(quote(provider, model, at), current(provider, model, at))
        for provider, model in models
    ]


def adopt(changes: Iterable[Change], at: datetime) -> list[PriceVersion]:
    """Add a version, valid from `at`, for every change whose rates differ; the versions added."""
    return [
        PriceVersion.objects.create(
            provider=change.quote.provider,
            model=change.quote.model,
            effective_at=at,
            rates=change.quote.rates,
            source=change.quote.source,
            created_at=at,
        )
        for change in changes
        if change.is_new
    ]


def seed(models: Iterable[tuple[str, str]], at: datetime) -> list[PriceVersion]:
    """Make sure each (provider, upstream model) has its source's price; the versions added.

    Repeating it adds nothing. Raises UnableToPrice.
    """
    return adopt(compare(models, at), at)


def sourced_models() -> list[tuple[str, str]]:
    """Models whose latest price came from a source, not from a person who set it in the admin."""
    latest: dict[tuple[str, str], str] = {}
    for version in PriceVersion.objects.order_by("effective_at"):
        latest[version.provider, version.model] = version.source
    return sorted(
        model
        for model, source in latest.items()
        if source == "platform" or source.startswith("genai-prices ")
    )


def _rates(name: str, prices: ModelPrice) -> Rates:
    _refuse_uncounted(name, prices)
    priced = {key: price for key, price in vars(prices).items() if price is not None}
    rates = {
        bucket: _tiers(name, next(priced[key] for key in keys if key in priced))
        for bucket, keys in NAMES.items()
        if not priced.keys().isdisjoint(keys)
    }
    if "embedding" in name:
        rates.setdefault("output", [_tier(0, 0)])  # such a model writes no tokens
    if missing := {"input", "output"} - rates.keys():
        raise UnableToPrice(f"{name} has no price for {' and '.join(sorted(missing))} tokens.")
    return rates


def _refuse_uncounted(name: str, prices: ModelPrice) -> None:
    """A price of tokens that no bucket counts would be billed as something else. Raises."""
    known = {key for keys in NAMES.values() for key in keys}
    uncounted = sorted(
        key
        for key, price in vars(prices).items()
        if price is not None and key.endswith("_mtok") and key not in known
    )
    if uncounted:
        raise UnableToPrice(f"{name} prices tokens not counted here: {', '.join(uncounted)}.")


def _tiers(name: str, price: Decimal | TieredPrices) -> list[dict[str, int]]:
    """Both sides mean the same: a tier applies to all tokens of a call with more input than it."""
    steps: list[tuple[int, Any]] = (
        [(0, price.base), *((tier.start, tier.price) for tier in price.tiers)]
        if isinstance(price, TieredPrices)
        else [(0, price)]
    )
    try:
        return [_tier(start, nanos_from_dollars(dollars)) for start, dollars in steps]
    except UnableToReadMoney as error:
        raise UnableToPrice(f"{name}: {error}") from None


def _tier(start: int, nanos: int) -> dict[str, int]:
    return {"from_input_tokens": start, "nanos_per_million": nanos}
