"""Prices applied to usage: pure integer arithmetic, rounded once per call, in one function.

A price is whole nano-dollars per million tokens, per bucket and tier. Must not know Django: the
hot path calls this. Why not micro-dollars: 0.15 USD per million tokens is 0.15 micro-dollars a
token, so the scale must be finer than a token's price.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TOKENS_PER_PRICE = 1_000_000


class UnpricedBucket(Exception):
    """Usage names a token bucket that the price does not cover."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call in disjoint buckets; `reasoning` is the part of `output` spent thinking.

    `input` excludes what was read from or written to a provider's cache.
    """

    input: int = 0
    cache_read: int = 0
    cache_write: int = 0
    output: int = 0
    reasoning: int = 0

    @property
    def whole_input(self) -> int:
        """Every prompt token, cached or not: what providers choose price tiers by."""
        return self.input + self.cache_read + self.cache_write

    @property
    def total(self) -> int:
        """All tokens."""
        return self.whole_input + self.output


@dataclass(frozen=True, slots=True)
class Price:
    """A price version as the hot path holds it. `tiers[bucket]`: ((from_input_tokens, nanos), ...)

    ascending, starting at 0; nanos are nano-dollars per million tokens.
    """

    version_id: int
    tiers: Mapping[str, tuple[tuple[int, int], ...]]

    @classmethod
    def from_rates(cls, version_id: int, rates: Mapping[str, list[dict[str, Any]]]) -> "Price":
        """From `PriceVersion.rates`."""
        return cls(
            version_id,
            {
                bucket: tuple(
                    (int(tier["from_input_tokens"]), int(tier["nanos_per_million"]))
                    for tier in sorted(tiers, key=lambda tier: int(tier["from_input_tokens"]))
                )
                for bucket, tiers in rates.items()
            },
        )

    def nanos_per_million(self, bucket: str, whole_input: int) -> int:
        """The rate of `bucket` for a call with this much input.

        A cache bucket without a price of its own costs what plain input costs.
        Raises UnpricedBucket.
        """
        tiers = self.tiers.get(bucket)
        if tiers is None and bucket in ("cache_read", "cache_write"):
            tiers = self.tiers.get("input")
        if not tiers:
            raise UnpricedBucket(bucket)
        rate = tiers[0][1]
        for from_tokens, nanos in tiers:
            if whole_input > from_tokens:
                rate = nanos
        return rate


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
        for bucket, tokens in (
            ("input", usage.input),
            ("cache_read", usage.cache_read),
            ("cache_write", usage.cache_write),
            ("output", usage.output),
        )
        if tokens
    ]


def cost_nanos(price: Price, usage: Usage) -> int:
    """What the call costs in nano-dollars, rounded half up: the only rounding there is."""
    exact = sum(line.tokens * line.nanos_per_million for line in bill_lines(price, usage))
    return (exact + TOKENS_PER_PRICE // 2) // TOKENS_PER_PRICE


def worst_case_nanos(price: Price, *, input_tokens_max: int, output_tokens_max: int) -> int:
    """An upper bound of the cost: all input at its dearest bucket and tier, all output written."""

    def dearest(*buckets: str) -> int:
        return max(nanos for bucket in buckets for _, nanos in price.tiers.get(bucket, ((0, 0),)))

    exact = input_tokens_max * dearest("input", "cache_write", "cache_read")
    exact += output_tokens_max * dearest("output")
    return -(-exact // TOKENS_PER_PRICE)
