"""Secrets that static files would publish.

Owns the patterns of keys; a finding shows the beginning of a secret and its place, never the rest.
"""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from deployments.cli.bundle import Bundle
from deployments.cli.findings import Finding, error, warning

STATIC_TEXT_BYTES_MAX = 5 * 1024 * 1024
STATIC_TEXT_SUFFIXES = frozenset(
    {".html", ".htm", ".js", ".mjs", ".cjs", ".css", ".json", ".map", ".txt", ".svg", ".xml", ".md"}
)
# Gateway keys, and provider keys of the `sk-` family. The second also fits CSS class names such as
# `sk-folding-cube-animation`, hence the digit and the capital letter asked of it below.
GATEWAY_KEY = re.compile(r"(?<![\w-])aig_[a-z0-9-]+_[\w-]{20,}")
PROVIDER_KEY = re.compile(r"(?<![\w-])sk-[\w-]{20,}")
# Google's keys; some of them, such as Firebase's, are meant to be public.
GOOGLE_KEY = re.compile(r"(?<![\w-])AIza[\w-]{35}(?![\w-])")


def check(bundle: Bundle) -> Iterator[Finding]:
    """Every finding in static/. Raises UnableToReadBundle."""
    for name in bundle.below("static/"):
        path = PurePosixPath(name)
        if path.name == ".env" or path.name.startswith(".env."):
            yield error(name, "would be public.", "Everything in static/ can be downloaded.")
        elif path.suffix.lower() in STATIC_TEXT_SUFFIXES:
            yield from _check_secrets_in(name, bundle.text(name, limit=STATIC_TEXT_BYTES_MAX))


def _check_secrets_in(name: str, text: str) -> Iterator[Finding]:
    """At most one finding a file: it shows the beginning of the secret and its line only."""
    for pattern, kind in ((GATEWAY_KEY, "a gateway key"), (PROVIDER_KEY, "an API key")):
        for match in pattern.finditer(text):
            secret = match.group(0)
            if pattern is PROVIDER_KEY and not _looks_random(secret.removeprefix("sk-")):
                continue
            yield error(
                _place(name, text, match),
                f"PUBLISHES A SECRET: it contains what looks like {kind} ({secret[:8]}...), and "
                "everybody can read static/.",
                "Call the model from a function, where the key is in process.env.OPENAI_API_KEY, "
                "and revoke this key if it was ever published.",
            )
            return
    if found := GOOGLE_KEY.search(text):
        yield warning(
            _place(name, text, found),
            f"contains a Google API key ({found.group(0)[:8]}...), and static/ is public.",
            "Fine for Firebase or Maps with restrictions; a key for Gemini belongs in a function.",
        )


def _place(name: str, text: str, match: re.Match[str]) -> str:
    line = text.count("\n", 0, match.start()) + 1
    return f"{name}:{line}"


def _looks_random(text: str) -> bool:
    return bool(re.search(r"\d", text) and re.search(r"[A-Z]", text) and re.search(r"[a-z]", text))
