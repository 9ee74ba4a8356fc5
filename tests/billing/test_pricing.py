"""Prices times quantities, rounded once: examples, tiers, and properties with random prices."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import pricing
from billing.pricing import Price, Usage


def flat(**nanos: int) -> Price:
    return Price(1, {bucket: ((0, rate),) for bucket, rate in nanos.items()})


TIERED = Price(
    1,
    {
        "input": ((0, 3_000_000_000), (200_000, 6_000_000_000)),
        "cache_read": ((0, 300_000_000), (200_000, 600_000_000)),
        "output": ((0, 15_000_000_000), (200_000, 22_500_000_000)),
    },
)
tokens = st.integers(min_value=0, max_value=3_000_000)
usages = st.builds(Usage, **dict.fromkeys(pricing.BUCKETS, tokens))
margins = st.integers(min_value=0, max_value=pricing.MARGIN_BASIS_POINTS_MAX)
rates = st.integers(min_value=0, max_value=10**12)
tiers = st.lists(
    st.tuples(st.integers(min_value=1, max_value=4_000_000), rates), max_size=2, unique_by=min
).map(lambda more: ((0, 1_000_000), *sorted(more)))
# Every price has the plain buckets, and any of the others, each with tiers of its own.
prices = st.fixed_dictionaries(
    {"input": tiers, "output": tiers},
    optional=dict.fromkeys(set(pricing.BUCKETS) - {"input", "output"}, tiers),
).map(lambda tiers: Price(1, tiers))


def test_every_bucket_is_counted_once():
    assert tuple(Usage.__dataclass_fields__)[: len(pricing.BUCKETS)] == pricing.BUCKETS
    usage = Usage(*range(1, len(pricing.BUCKETS) + 1))
    assert usage.counts == tuple(range(1, len(pricing.BUCKETS) + 1))
    assert usage.total == sum(usage.counts)


def test_every_bucket_falls_back_on_one_of_its_direction():
    for buckets, plain in ((pricing.INPUT_BUCKETS, "input"), (pricing.OUTPUT_BUCKETS, "output")):
        for bucket in set(buckets) - {plain}:
            assert pricing.FALLBACKS[bucket][-1] == plain
            assert set(pricing.FALLBACKS[bucket]) <= set(buckets)


def test_a_call_costs_its_tokens_times_their_rates():
    # 1,000 x $2.50 / 1M + 500 x $10 / 1M = $0.0025 + $0.005
    price = flat(input=2_500_000_000, output=10_000_000_000)
    assert pricing.cost_nanos(price, Usage(input=1000, output=500), 0) == 7_500_000


def test_cached_input_has_its_own_rate():
    price = flat(input=2_500_000_000, cache_read=1_250_000_000, output=0)
    assert pricing.cost_nanos(price, Usage(input=400, cache_read=600), 0) == 1_000_000 + 750_000


def test_a_cache_bucket_without_a_rate_costs_what_input_costs():
    price = flat(input=1_000_000, output=0)
    assert pricing.cost_nanos(price, Usage(cache_write=7, cache_read=3), 0) == 10


def test_a_bucket_without_a_rate_costs_what_the_nearest_one_does_and_never_nothing():
    price = flat(input=1_000_000, cache_write=2_000_000, audio_input=3_000_000, output=4_000_000)
    usage = Usage(cache_write_1h=1, audio_cache_read=10, image_input=100, image_output=1000)
    assert pricing.cost_nanos(price, usage, 0) == 2 + 10 * 3 + 100 * 1 + 1000 * 4


def test_a_margin_is_on_top_of_the_whole_sum_and_rounded_with_it():
    # 3 x 400,000 millionths of a nano-dollar and 25 % more: 1.5, of which half is rounded up.
    price = flat(input=400_000, output=0)
    assert pricing.cost_nanos(price, Usage(input=3), 0) == 1
    assert pricing.cost_nanos(price, Usage(input=3), 2_500) == 2


def test_reasoning_is_part_of_output_and_not_charged_twice():
    price = flat(input=0, output=1_000_000)
    assert pricing.cost_nanos(price, Usage(output=10, reasoning=8), 0) == 10


@pytest.mark.parametrize(("whole_input", "rate"), [(200_000, 3), (200_001, 6)])
def test_the_tier_is_chosen_by_the_whole_input_and_applies_to_all_of_it(whole_input, rate):
    usage = Usage(input=whole_input - 1000, cache_read=1000)
    expected = (whole_input - 1000) * rate * 1000 + 1000 * rate * 100
    assert pricing.cost_nanos(TIERED, usage, 0) == expected


def test_output_is_charged_by_the_tier_of_the_input():
    assert pricing.cost_nanos(TIERED, Usage(input=200_001, output=1), 0) == (
        200_001 * 6_000 + 22_500
    )


@pytest.mark.parametrize(("rate", "nanos"), [(499_999, 0), (500_000, 1), (1_499_999, 1)])
def test_rounding_is_half_up(rate, nanos):
    assert pricing.cost_nanos(flat(input=rate, output=0), Usage(input=1), 0) == nanos


def test_rounding_happens_once_and_not_per_bucket():
    price = flat(input=400_000, cache_read=400_000, output=400_000)
    assert pricing.cost_nanos(price, Usage(input=1, cache_read=1, output=1), 0) == 1


def test_usage_without_a_price_is_refused_not_free():
    with pytest.raises(pricing.UnpricedBucket):
        pricing.cost_nanos(flat(input=1), Usage(output=1), 0)


@pytest.mark.parametrize("bucket", pricing.BUCKETS)
def test_a_tier_that_never_applies_changes_no_cost(bucket):
    price = flat(input=2_500_000, output=10_000_000, cache_read=1_250_000, audio_output=7_000_000)
    tiered = Price(1, {**price.tiers, "input": ((0, 2_500_000), (10**9, 1))})
    assert price.flat
    assert tiered.flat is None
    usage = Usage(**{bucket: 1_000})
    assert pricing.cost_nanos(price, usage, 25) == pricing.cost_nanos(tiered, usage, 25)


@given(price=prices, usage=usages, margin=margins)
def test_the_cost_is_the_exact_sum_rounded_to_the_nearest_nano(price, usage, margin):
    exact = sum(
        (
            Fraction(line.tokens * line.nanos_per_million, 1_000_000)
            for line in pricing.bill_lines(price, usage)
        ),
        Fraction(0),
    )
    exact *= 1 + Fraction(margin, 10_000)
    cost = pricing.cost_nanos(price, usage, margin)
    assert isinstance(cost, int)
    assert -Fraction(1, 2) <= exact - cost < Fraction(1, 2) or exact - cost == -Fraction(1, 2)


@given(price=prices | st.just(TIERED), usage=usages, margin=margins, spare=tokens)
def test_no_call_within_its_limits_costs_more_than_the_worst_case(price, usage, margin, spare):
    worst = pricing.worst_case_nanos(
        price,
        input_tokens_max=usage.whole_input + spare,
        output_tokens_max=usage.whole_output + spare,
        margin_basis_points=margin,
    )
    assert pricing.cost_nanos(price, usage, margin) <= worst


@given(price=prices, usage=usages)
def test_a_price_survives_being_stored(price, usage):
    stored = {
        bucket: [{"from_input_tokens": start, "nanos_per_million": nanos} for start, nanos in tiers]
        for bucket, tiers in price.tiers.items()
    }
    assert Price.from_rates(1, stored) == price
