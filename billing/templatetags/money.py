"""The ways templates print money: amounts that are charged, and exact parts of a bill."""

from decimal import Decimal

from django import template

from billing import money

register = template.Library()


@register.filter
def dollars(nanos: int | None) -> str:
    """Nano-dollars as `$25.00` or `$0.0042`; an unknown amount as a dash."""
    return "–" if nanos is None else money.format_dollars(nanos)


@register.filter
def plain(dollars: Decimal) -> str:
    """Exact dollars with every digit and at least two decimals, without exponent or sign."""
    whole, _, decimals = f"{dollars:,.15f}".rstrip("0").partition(".")
    return f"{whole}.{decimals:0<2}"
