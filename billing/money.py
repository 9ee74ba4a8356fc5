"""Money: whole nano-dollars (10^-9 USD) everywhere; dollars only where a person types or reads.

Pure. Refuses floats: binary fractions cannot hold cents, and one of them would spoil every sum.
"""

from decimal import ROUND_HALF_UP, Decimal, InvalidOperation

NANOS_PER_DOLLAR = 1_000_000_000


class LossyMoney(TypeError):
    """An amount was given in a form that cannot be exact."""


class UnableToReadMoney(ValueError):
    """The text is not an amount of dollars with at most nine decimals."""


def nanos_from_dollars(dollars: str | int | Decimal) -> int:
    """Dollars as typed ("25", "0.000000001", "$1,000") to nano-dollars.

    Raises LossyMoney for a float, UnableToReadMoney for text that is no exact amount.
    """
    if isinstance(dollars, float):
        raise LossyMoney("Give dollars as text or Decimal, never as float.")
    text = str(dollars).strip().removeprefix("$").replace(",", "").replace("_", "")
    try:
        nanos = Decimal(text) * NANOS_PER_DOLLAR
        whole = int(nanos)
    except (InvalidOperation, ValueError, OverflowError):
        raise UnableToReadMoney(f"{dollars!r} is not an amount of dollars.") from None
    if whole != nanos:
        raise UnableToReadMoney(f"{dollars!r} has more than nine decimals.")
    return whole


def dollars_from_nanos(nanos: int) -> Decimal:
    """Nano-dollars as exact dollars."""
    return Decimal(nanos) / NANOS_PER_DOLLAR


def format_dollars(nanos: int) -> str:
    """For people: two decimals from a dollar up, and enough digits to see anything smaller.

    `$25.00`, `$0.0042`, `$0.000000450`, `-$1.50`, `$0.00`.
    """
    sign = "-" if nanos < 0 else ""
    size = abs(nanos)
    if size == 0 or size >= NANOS_PER_DOLLAR:
        cents = (dollars_from_nanos(size)).quantize(Decimal("0.01"), ROUND_HALF_UP)
        return f"{sign}${cents:,}"
    text = f"{dollars_from_nanos(size):.9f}".rstrip("0")
    decimals = len(text.split(".")[1])
    return f"{sign}${text}" if decimals >= 2 else f"{sign}${text}{'0' * (2 - decimals)}"
