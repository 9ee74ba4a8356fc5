"""Filters of every console page: times, durations, counts and form fields. Money is billing's."""

from datetime import datetime

from django import template
from django.forms import BoundField
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()


def _relative(at: datetime, now: datetime) -> str:
    """How long ago, short enough for a table cell; a date once it is more than a month."""
    seconds = (now - at).total_seconds()
    if seconds < 5:
        return "just now" if seconds > -5 else f"{at:%d %b %Y %H:%M} UTC"
    for limit, unit_seconds, unit in (
        (60, 1, "s"),
        (3600, 60, "m"),
        (86_400, 3600, "h"),
        (30 * 86_400, 86_400, "d"),
    ):
        if seconds < limit:
            return f"{int(seconds // unit_seconds)}{unit} ago"
    return f"{at:%d %b %Y}"


@register.filter
def ago(at: datetime | None) -> str | SafeString:
    """A moment as `3m ago`, with the exact time in UTC as its title; "Never" for None."""
    if at is None:
        return "Never"
    return format_html(
        '<time datetime="{}" title="{}" data-relative>{}</time>',
        at.isoformat(timespec="milliseconds"),
        f"{at:%d %b %Y, %H:%M:%S} UTC",
        _relative(at, timezone.now()),
    )


@register.filter
def milliseconds(value: int | None) -> str:
    """A duration for people: `840 ms`, `2.41 s`, `3 m 05 s`; a dash for None."""
    if value is None:
        return "–"
    if value < 1000:
        return f"{value} ms"
    if value < 60_000:
        return f"{value / 1000:.2f} s"
    return f"{value // 60_000} m {value % 60_000 // 1000:02d} s"


@register.filter
def count(value: int | None) -> str:
    """A whole number with separators: `1,204,500`."""
    return f"{value or 0:,}"


@register.filter
def compact(value: int | None) -> str:
    """A whole number in at most five characters: `940`, `12.4K`, `3.1M`."""
    number = value or 0
    for size, suffix in ((1_000_000_000, "B"), (1_000_000, "M"), (10_000, "K")):
        if number >= size:
            unit = 1000 if suffix == "K" else size
            return f"{number / unit:.1f}".removesuffix(".0") + suffix
    return f"{number:,}"


@register.filter
def as_input(field: BoundField) -> SafeString:
    """A form field as one of our inputs, tied to its error message when it has one."""
    attributes: dict[str, str | bool] = {"class": "input"}
    if field.errors:
        attributes["aria-invalid"] = "true"
        attributes["aria-describedby"] = f"{field.id_for_label}_error"
    return field.as_widget(attrs=attributes)
