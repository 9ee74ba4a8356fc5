"""Price versions: what each model of each provider costs from a moment on.

Vendors' prices come from the data bundled with the `genai-prices` package (github.com/pydantic/
genai-prices; its network update is never used: a price must not change without a person asking).
Prices of the platform's own models are set here. A price is never edited: a change is a new
version, for calls admitted from its moment on; a call in flight keeps the one it was admitted
with. Must not know routes or public model names, which belong to the gateway.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import genai_prices
from django.db import transaction
from django.db.models import Exists, OuterRef
from genai_prices import data_snapshot
from genai_prices.types import ModelPrice, TieredPrices

from billing.models import PriceVersion
from billing.money import UnableToReadMoney, nanos_from_dollars
from billing.pricing import BUCKETS, Price, UnpricedBucket

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


# A price that falls to nothing or moves by more than this is a mistake until somebody says no.
SURPRISING_FACTOR = 10


class UnableToPrice(Exception):
    """No usable price is known for the model; the message names it and says why."""


class SurprisingPrice(Exception):
    """A change that looks like a mistake in the source; the message names model and tokens."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one kind of token costs on both sides, in calls with more input than `above`.

    Nano-dollars per million tokens; a kind without a price of its own has its fallback's.
    None: no price at all.
    """

    bucket: str
    above: int
    before: int | None
    after: int | None

    @property
    def is_change(self) -> bool:
        """Whether the two differ."""
        return self.before != self.after

    @property
    def is_surprising(self) -> bool:
        """Whether it falls to nothing, loses its price, or moves by more than a factor."""
        if not self.before:
            return False
        if not self.after:
            return True
        low, high = sorted((self.before, self.after))
        return high > low * SURPRISING_FACTOR


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

    @property
    def steps(self) -> list[Step]:
        """Every kind of token and tier that either side prices, whether it differs or not."""
        old = Price.from_rates(0, self.before.rates if self.before else {})
        new = Price.from_rates(0, self.quote.rates)
        found = []
        for bucket in BUCKETS:
            own = [*old.tiers.get(bucket, ()), *new.tiers.get(bucket, ())]
            found += [
                Step(bucket, above, _rate(old, bucket, above), _rate(new, bucket, above))
                for above in sorted({start for start, _ in own})
            ]
        return found

    @property
    def surprises(self) -> list[str]:
        """What looks like a mistake, in words; a new model that costs nothing is one, too."""
        name = f"{self.quote.provider}/{self.quote.model}"
        found = [
            f"{name}: {step.bucket} goes from {step.before} to {step.after} nano-dollars per "
            "million tokens"
            for step in self.steps
            if step.is_surprising
        ]
        if self.before is None and all(step.after == 0 for step in self.steps):
            found.append(f"{name}: everything is free")
        return found


def in_force(at: datetime) -> dict[tuple[str, str], PriceVersion]:
    """The version in force at a moment of every (provider, model) that has a price then."""
    newer = PriceVersion.objects.filter(
        provider=OuterRef("provider"),
        model=OuterRef("model"),
        effective_at__gt=OuterRef("effective_at"),
        effective_at__lte=at,
    )
    rows = PriceVersion.objects.filter(~Exists(newer), effective_at__lte=at)
    return {(row.provider, row.model): row for row in rows}


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
    known = in_force(at)
    return [
        Change(quote(provider, model, at), known.get((provider, model)))
        for provider, model in models
    ]


def adopt(
    changes: Iterable[Change],
    at: datetime,
    *,
    now: datetime | None = None,
    allows_surprises: bool = False,
) -> list[PriceVersion]:
    """Add a version, valid from `at`, for every change whose rates differ; the versions added.

    All or none. `now` is when it was decided, by default `at`. Raises SurprisingPrice unless
    `allows_surprises`, and UnableToPrice when a version from this very moment exists.
    """
    wanted = [change for change in changes if change.is_new]
    if not allows_surprises and (found := [text for row in wanted for text in row.surprises]):
        raise SurprisingPrice("; ".join(found))
    for change in wanted:
        quote = change.quote
        if PriceVersion.objects.filter(
            provider=quote.provider, model=quote.model, effective_at=at
        ).exists():
            raise UnableToPrice(f"{quote.provider}/{quote.model} has a version from {at} already.")
    with transaction.atomic():
        return [
            PriceVersion.objects.create(
                provider=change.quote.provider,
                model=change.quote.model,
                effective_at=at,
                rates=change.quote.rates,
                source=change.quote.source,
                created_at=now or at,
            )
            for change in wanted
        ]


def superseded_by(change: Change, at: datetime) -> PriceVersion | None:
    """A version that is planned already and would end one from `at`; the next of them."""
    return (
        PriceVersion.objects.filter(
            provider=change.quote.provider, model=change.quote.model, effective_at__gt=at
        )
        .order_by("effective_at")
        .first()
    )


def seed(models: Iterable[tuple[str, str]], at: datetime) -> list[PriceVersion]:
    """Make sure each (provider, upstream model) has its source's price; the versions added.

    Repeating it adds nothing. Raises UnableToPrice, SurprisingPrice.
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


def _rate(price: Price, bucket: str, above: int) -> int | None:
    try:
        return price.nanos_per_million(bucket, above + 1)
    except UnpricedBucket:
        return None


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
