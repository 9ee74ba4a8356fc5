"""Money is whole nano-dollars; text becomes money exactly or not at all."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing import money


@pytest.mark.parametrize(
    ("typed", "nanos"),
    [
        ("25", 25_000_000_000),
        ("$1,000", 1_000_000_000_000),
        ("0.000000001", 1),
        (" 0.15 ", 150_000_000),
        ("-3.5", -3_500_000_000),
        (7, 7_000_000_000),
        (Decimal("0.02"), 20_000_000),
    ],
)
def test_dollars_as_typed_become_nanos(typed, nanos):
    assert money.nanos_from_dollars(typed) == nanos


def test_a_float_is_refused_because_it_cannot_hold_cents():
    with pytest.raises(money.LossyMoney):
        money.nanos_from_dollars(0.1)


@pytest.mark.parametrize("typed", ["", "ten", "1.2.3", "NaN", "Infinity", "0.0000000001"])
def test_what_is_no_exact_amount_is_refused(typed):
    with pytest.raises(money.UnableToReadMoney):
        money.nanos_from_dollars(typed)


@given(st.integers(min_value=-(10**18), max_value=10**18))
def test_dollars_and_nanos_are_the_same_amount(nanos):
    assert money.nanos_from_dollars(money.dollars_from_nanos(nanos)) == nanos


@pytest.mark.parametrize(
    ("nanos", "text"),
    [
        (25_000_000_000, "$25.00"),
        (0, "$0.00"),
        (4_200_000, "$0.0042"),
        (450, "$0.00000045"),
        (500_000_000, "$0.50"),
        (-1_500_000_000, "-$1.50"),
        (1_234_567_890_000, "$1,234.57"),
    ],
)
def test_amounts_are_printed_for_people(nanos, text):
    assert money.format_dollars(nanos) == text
