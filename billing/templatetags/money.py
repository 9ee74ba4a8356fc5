"""The ways templates print money: amounts that are charged, and exact parts of a bill."""

from decimal import Decimal

from django import template

from billing import money

register = template.Library()


SHORT_DIGITS = 3
CENT_NANOS = money.NANOS_PER_DOLLAR // 100


@register.filter
def dollars(nanos: int | None, form: str = "exact") -> str:
    """Nano-dollars as `$25.00` or `$0.00792585`; an unknown amount as a dash.

    `form="short"` is for lists and headlines, whose exact amount is a click away: four decimals
    from a cent up, three significant digits below (`$0.0252`, `$0.00793`). `form="precise"` is for
    columns that must add up: every digit, at least two decimals (`-$12.0042`).
    """
    if nanos is None:
        return "–"
    if form == "precise":
        return ("-$" if nanos < 0 else "$") + plain(money.dollars_from_nanos(abs(nanos)))
    if form == "short" and 0 < abs(nanos) < money.NANOS_PER_DOLLAR:
        kept = 5 if abs(nanos) >= CENT_NANOS else len(str(abs(nanos))) - SHORT_DIGITS
        nanos = int(round(Decimal(nanos), -max(kept, 0)))
    return money.format_dollars(nanos)


@register.filter
def plain(dollars: Decimal) -> str:
    """Exact dollars with every digit and at least two decimals, without exponent or sign."""
    whole, _, decimals = f"{dollars:,.19f}".rstrip("0").partition(".")
    return f"{whole}.{decimals:0<2}"
