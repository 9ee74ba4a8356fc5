"""Which file or function answers a path. Owns the meaning of a manifest's `routes`.

Pure: paths and names in, a decision out; what exists on disk comes in as a lookup. The patterns
are the deployed app's own, so they run in an engine that can be stopped (`regex`, not `re`): a
pattern that backtracks for ever may not hold the server.
"""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import quote

import regex

PATH_CHARACTERS_MAX = 2048
MATCHING_SECONDS_MAX = 0.1
NOT_FOUND_PAGE = "404.html"
FUNCTIONS = "/functions/"
STATIC = "/static/"


class UnableToRoute(Exception):
    """The path cannot be matched: it is too long, or a pattern is invalid or takes too long."""


class Kind(StrEnum):
    """What answers."""

    STATIC = "static"
    FUNCTION = "function"
    REDIRECT = "redirect"
    NOT_FOUND = "not_found"


@dataclass(frozen=True)
class Match:
    """The decision. `target` is a file path below `static/`, a function name, or empty.

    `headers` were accumulated from header routes on the way. A NOT_FOUND with a target serves
    that file (the app's own 404.html) with status 404.
    """

    kind: Kind
    target: str = ""
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class _Route:
    pattern: "regex.Pattern[str] | None"  # None: the filesystem
    destination: str
    status: int | None
    headers: tuple[tuple[str, str], ...]


def _compile(route: Mapping[str, Any]) -> _Route:
    if route.get("handle") == "filesystem":
        return _Route(None, "", None, ())
    source = str(route.get("src", ""))
    try:
        pattern = regex.compile(source)
    except (regex.error, RecursionError, OverflowError) as error:
        raise UnableToRoute(f"The route pattern {source!r} is invalid: {error}.") from None
    headers = tuple((str(name).lower(), str(value)) for name, value in _items(route, "headers"))
    return _Route(pattern, str(route.get("dest") or ""), route.get("status"), headers)


def _items(route: Mapping[str, Any], name: str) -> list[tuple[Any, Any]]:
    value = route.get(name)
    return list(value.items()) if isinstance(value, Mapping) else []


def _expand(text: str, found: "regex.Match[str]", *, quoted: bool = False) -> str:
    """`text` with `$1` to `$9` replaced by what the pattern captured, percent-encoded or not."""

    def captured(reference: "re.Match[str]") -> str:
        number = int(reference.group(1))
        value = str(found.group(number) or "") if number <= found.re.groups else ""
        return quote(value) if quoted else value

    return re.sub(r"\$([1-9])", captured, text)


def file_for(path: str, is_file: Callable[[str], bool]) -> str | None:
    """The static file a path names: itself, or the `index.html` of the folder; None without."""
    name = path.strip("/") if path.endswith("/") else path.removeprefix("/")
    index = f"{name}/index.html".removeprefix("/")
    candidates = (index,) if path.endswith("/") else (name, index)
    return next((candidate for candidate in candidates if candidate and is_file(candidate)), None)


class Router:
    """The compiled routes of one release; made once, used for every request."""

    def __init__(self, routes: Sequence[Mapping[str, Any]]) -> None:
        """Raises UnableToRoute when a pattern is invalid."""
        self._routes = [_compile(route) for route in routes]

    def match(self, path: str, is_file: Callable[[str], bool]) -> Match:
        """What answers `path` (percent-decoded, from its first slash, without a query).

        `is_file` tells whether a path below `static/` is a file. Raises UnableToRoute.
        """
        if len(path) > PATH_CHARACTERS_MAX:
            raise UnableToRoute(f"The path is longer than {PATH_CHARACTERS_MAX} characters.")
        headers: dict[str, str] = {}
        deadline = time.monotonic() + MATCHING_SECONDS_MAX
        for route in self._routes:
            match = _try(route, path, is_file, headers, deadline)
            if match is not None:
                return match
        target = NOT_FOUND_PAGE if is_file(NOT_FOUND_PAGE) else ""
        return Match(Kind.NOT_FOUND, target, 404, tuple(headers.items()))


def _try(
    route: _Route,
    path: str,
    is_file: Callable[[str], bool],
    headers: dict[str, str],
    deadline: float,
) -> Match | None:
    if route.pattern is None:
        file = file_for(path, is_file)
        return Match(Kind.STATIC, file, 200, tuple(headers.items())) if file else None
    found = _fullmatch(route.pattern, path, deadline)
    if found is None:
        return None
    headers.update((name, _expand(value, found, quoted=True)) for name, value in route.headers)
    if route.destination:
        return _arrive(_expand(route.destination, found), route.status, is_file, headers)
    if route.status and "location" in headers:
        return Match(Kind.REDIRECT, "", route.status, tuple(headers.items()))
    return None


def _fullmatch(
    pattern: "regex.Pattern[str]", path: str, deadline: float
) -> "regex.Match[str] | None":
    try:
        return pattern.fullmatch(path, timeout=max(deadline - time.monotonic(), 0.001))
    except TimeoutError:
        raise UnableToRoute(
            f"The route pattern {pattern.pattern!r} takes too long to match this path: simplify it."
        ) from None


def _arrive(
    destination: str, status: int | None, is_file: Callable[[str], bool], headers: dict[str, str]
) -> Match | None:
    """The match at a route's destination; None when its file does not exist."""
    accumulated = tuple(headers.items())
    if destination.startswith(FUNCTIONS):
        return Match(Kind.FUNCTION, destination[len(FUNCTIONS) :], status or 200, accumulated)
    if not destination.startswith(STATIC):
        return None
    file = file_for("/" + destination[len(STATIC) :], is_file)
    return Match(Kind.STATIC, file, status or 200, accumulated) if file else None
