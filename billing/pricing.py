"""Prices applied to usage: pure integer arithmetic, rounded once per call, in one function.

A price is whole nano-dollars per million tokens, per bucket and tier. Owns which token buckets
there are. Must not know Django: the hot path calls this. Why not micro-dollars: 0.15 USD per
million tokens is 0.15 micro-dollars a token, so the scale must be finer than a token's price.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, mul
from typing import Any

TOKENS_PER_PRICE = 1_000_000
# An organization's margin is in hundredths of a percent of what the provider's price comes to.
BASIS_POINTS = 10_000
MARGIN_BASIS_POINTS_MAX = 10_000

# Every token of a call is in exactly one bucket, which has its own price and its own column of a
# usage record. `cache_write` is what is kept for five minutes, or for a time that is not told.
INPUT_BUCKETS = (
    "input",
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "audio_input",
    "audio_cache_read",
    "image_input",
)
OUTPUT_BUCKETS = ("output", "audio_output", "image_output")
BUCKETS = INPUT_BUCKETS + OUTPUT_BUCKETS
# Whose price applies to a bucket that has none, the nearest first; always of the same direction,
# so that the dearest price of a direction bounds every bucket of it.
FALLBACKS: Mapping[str, tuple[str, ...]] = {
    "cache_read": ("input",),
    "cache_write": ("input",),
    "cache_write_1h": ("cache_write", "input"),
    "audio_input": ("input",),
    "audio_cache_read": ("audio_input", "cache_read", "input"),
    "image_input": ("input",),
    "audio_output": ("output",),
    "image_output": ("output",),
}


class UnableToReadRates(ValueError):
    """Rates that no price can be made of; the message says which value, and what it must be."""


class UnpricedBucket(Exception):
    """Usage names a token bucket that the price does not cover."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call in the disjoint BUCKETS; `reasoning` is the part of `output` thought.

    `is_doubtful`: some number the provider gave cannot be a count, and was left out.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    cache_write_1h: int = 0
    audio_input: int = 0
    audio_cache_read: int = 0
    image_input: int = 0
    output: int = 0
    audio_output: int = 0
    image_output: int = 0
    reasoning: int = 0
    is_doubtful: bool = False

    @property
    def whole_input(self) -> int:
        """Every prompt token, cached or not: what providers choose price tiers by."""
        return sum(_input_counts(self))

    @property
    def whole_output(self) -> int:
        """Every token the model made, whatever it says, shows or keeps to itself."""
        return sum(_output_counts(self))

    @property
    def total(self) -> int:
        """All tokens."""
        return self.whole_input + self.whole_output

    @property
    def counts(self) -> tuple[int, ...]:
        """The tokens of each bucket, in the order of BUCKETS."""
        return _counts(self)


# What a call's record keeps of its usage, in the order of Usage's fields.
RECORDED = (*BUCKETS, "reasoning")


def recorded(counts: Iterable[int], *, is_doubtful: bool = False) -> Usage:
    """The usage whose RECORDED counts these are. Raises ValueError unless there is one of each."""
    named: dict[str, Any] = dict(zip(RECORDED, counts, strict=True))
    return Usage(**named, is_doubtful=is_doubtful)


_counts: "attrgetter[tuple[int, ...]]" = attrgetter(*BUCKETS)
_input_counts: "attrgetter[tuple[int, ...]]" = attrgetter(*INPUT_BUCKETS)
_output_counts: "attrgetter[tuple[int, ...]]" = attrgetter(*OUTPUT_BUCKETS)


@dataclass(frozen=True, slots=True)
class Price:
    """A price version as the hot path holds it. `tiers[bucket]`: ((from_input_tokens, nanos), ...)

    ascending, starting at 0; nanos are nano-dollars per million tokens.
    """

    version_id: int
    tiers: Mapping[str, tuple[tuple[int, int], ...]]
    # (from_input_tokens, dearest input, dearest output) of each step, for worst cases.
    ceilings: tuple[tuple[int, int, int], ...] = field(init=False, compare=False, repr=False)
    # The rates of BUCKETS where every call has the same ones, as with most models; else None.
    flat: tuple[int, ...] | None = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        steps = sorted({start for tiers in self.tiers.values() for start, _ in tiers} | {0})
        ceilings = tuple(
            (start, self._dearest(INPUT_BUCKETS, start), self._dearest(OUTPUT_BUCKETS, start))
            for start in steps
        )
        object.__setattr__(self, "ceilings", ceilings)
        object.__setattr__(self, "flat", self._flat_rates())

    def _flat_rates(self) -> tuple[int, ...] | None:
        if any(len(tiers) > 1 for tiers in self.tiers.values()):
            return None
        try:
            return tuple(self.nanos_per_million(bucket, 0) for bucket in BUCKETS)
        except UnpricedBucket:
            return None

    def _dearest(self, buckets: tuple[str, ...], from_tokens: int) -> int:
        """The dearest rate of these buckets that begins at exactly this much input."""
        rates = (
            nanos
            for bucket in buckets
            for start, nanos in self.tiers.get(bucket, ())
            if start == from_tokens
        )
        return max(rates, default=0)

    @classmethod
    def from_rates(cls, version_id: int, rates: Mapping[str, list[dict[str, Any]]]) -> "Price":
        """From `PriceVersion.rates`. Raises UnableToReadRates."""
        return cls(version_id, {bucket: _tiers(bucket, tiers) for bucket, tiers in rates.items()})

    def nanos_per_million(self, bucket: str, whole_input: int) -> int:
        """The rate of `bucket` for a call with this much input; see FALLBACKS.

        Raises UnpricedBucket.
        """
        tiers = self.tiers.get(bucket)
        if not tiers:
            others = (self.tiers.get(other) for other in FALLBACKS.get(bucket, ()))
            tiers = next((other for other in others if other), None)
        if not tiers:
            raise UnpricedBucket(bucket)
        rate = tiers[0][1]
        for from_tokens, nanos in tiers:
            if whole_input > from_tokens:
                rate = nanos
        return rate


def _tiers(bucket: str, tiers: list[dict[str, Any]]) -> tuple[tuple[int, int], ...]:
    """Ascending; a float is refused, not cut off, and so is a rate below zero."""

    def whole(value: Any) -> int:
        if type(value) is not int or value < 0:
            raise UnableToReadRates(f"{bucket}: {value!r} is not a whole number, 0 or more.")
        return value

    return tuple(
        sorted(
            (whole(tier.get("from_input_tokens")), whole(tier.get("nanos_per_million")))
            for tier in tiers
        )
    )


@dataclass(frozen=True, slots=True)
class BillLine:
    """One bucket of a bill: `tokens` x `nanos_per_million` / 1,000,000."""

    bucket: str
    tokens: int
    nanos_per_million: int


def bill_lines(price: Price, usage: Usage) -> list[BillLine]:
    """The buckets that were used, with the rates that applied. Raises UnpricedBucket."""
    whole_input = usage.whole_input
    return [
        BillLine(bucket, tokens, price.nanos_per_million(bucket, whole_input))
        for bucket, tokens in zip(BUCKETS, usage.counts, strict=True)
        if tokens
    ]


def cost_nanos(price: Price, usage: Usage, margin_basis_points: int) -> int:
    """What the call costs in nano-dollars, rounded half up: the only rounding there is.

    The sum of tokens x rates, and the margin on top of the whole sum. Raises UnpricedBucket.
    """
    return cost_of_counts(price, usage.counts, margin_basis_points)


def cost_of_counts(price: Price, counts: Sequence[int], margin_basis_points: int) -> int:
    """The same of a usage's `counts`, for who has no more of it than those."""
    exact = 0
    if price.flat is not None:  # takes half the time
        exact += sum(map(mul, counts, price.flat))
    else:
        whole_input = sum(counts[: len(INPUT_BUCKETS)])
        for bucket, tokens in zip(BUCKETS, counts, strict=True):
            if tokens:
                exact += tokens * price.nanos_per_million(bucket, whole_input)
    exact *= BASIS_POINTS + margin_basis_points
    scale = TOKENS_PER_PRICE * BASIS_POINTS
    return (exact + scale // 2) // scale


def worst_case_nanos(
    price: Price, *, input_tokens_max: int, output_tokens_max: int, margin_basis_points: int
) -> int:
    """An upper bound of the cost: all input and all output at their dearest bucket and tier.

    Tiers that begin above this much input cannot apply.
    """

    dearest_input = dearest_output = 0
    for from_tokens, nanos_in, nanos_out in price.ceilings:
        if from_tokens == 0 or from_tokens < input_tokens_max:
            dearest_input = max(dearest_input, nanos_in)
            dearest_output = max(dearest_output, nanos_out)
    exact = input_tokens_max * dearest_input + output_tokens_max * dearest_output
    exact *= BASIS_POINTS + margin_basis_points
    return -(-exact // (TOKENS_PER_PRICE * BASIS_POINTS))
