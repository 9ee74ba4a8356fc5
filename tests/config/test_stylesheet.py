"""The console's colours: text can be read on every ground it stands on, in light and in dark."""

import re
from pathlib import Path

import pytest
from django.conf import settings

CONTRAST_MIN = 4.5  # WCAG 2.2, 1.4.3, for text of the size that tables have
TEXTS = ("text", "muted", "faint")
GROUNDS = ("canvas", "surface", "sunken", "hover", "code")
STATES = ("ok", "warn", "bad")


def colours(scheme: str) -> dict[str, str]:
    css = (Path(settings.BASE_DIR) / "static" / "console" / "console.css").read_text()
    light, dark = css.split(":root {")[1:3]  # each begins with the names of one scheme
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", light.partition("}")[0]))
    if scheme == "dark":
        found |= dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", dark.partition("}")[0]))
    return found


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_every_ground(scheme: str) -> None:
    found = colours(scheme)
    pairs = [(text, ground) for text in TEXTS for ground in GROUNDS]
    pairs += [(state, f"{state}-soft") for state in STATES]
    pairs += [("accent-text", "accent-soft"), ("on-accent", "accent")]
    low = {pair: round(contrast(found[pair[0]], found[pair[1]]), 2) for pair in pairs}
    assert {pair: ratio for pair, ratio in low.items() if ratio < CONTRAST_MIN} == {}
