"""Reading a client's JSON: typed members by name, and refusals that name the dotted path. Pure.

Shared by the dialects' request readers. `at` is the path of the holder, "" for the body itself.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from gateway import refusals

ECHO_CHARACTERS_MAX = 120


def join(at: str, name: str) -> str:
    """The dotted path of a member."""
    return f"{at}.{name}" if at else name


def optional(
    holder: Mapping[str, Any], name: str, kind: type | tuple[type, ...], words: str, at: str = ""
) -> Any:
    """The member, None when it is absent or null. Raises Refusal when it is not a `kind`."""
    value = holder.get(name)
    if value is None:
        return None
    # True is an int to Python and a boolean to JSON.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise refusals.wrong_type(join(at, name), words, value)
    return value


def require(
    holder: Mapping[str, Any], name: str, kind: type | tuple[type, ...], words: str, at: str = ""
) -> Any:
    """The member. Raises Refusal when it is absent, null, or not a `kind`."""
    if holder.get(name) is None:
        raise refusals.missing_parameter(join(at, name))
    return optional(holder, name, kind, words, at)


def text(holder: Mapping[str, Any], name: str, at: str = "") -> str:
    """A required string. Raises Refusal."""
    return str(require(holder, name, str, "a string", at))


def optional_text(holder: Mapping[str, Any], name: str, at: str = "") -> str:
    """A string, "" when it is absent or null. Raises Refusal."""
    return optional(holder, name, str, "a string", at) or ""


def optional_number(holder: Mapping[str, Any], name: str, at: str = "") -> float | None:
    """A number or None. Raises Refusal."""
    value = optional(holder, name, (int, float), "a number", at)
    return None if value is None else float(value)


def objects(holder: Mapping[str, Any], name: str, at: str = "") -> list[dict[str, Any]]:
    """A list of objects, empty when it is absent or null. Raises Refusal naming the wrong one."""
    values = optional(holder, name, list, "an array of objects", at) or []
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise refusals.wrong_type(f"{join(at, name)}[{number}]", "an object", value)
    return list(values)


def unknown_value(path: str, value: str, known: Iterable[str]) -> refusals.Refusal:
    """The refusal of a value that is none of the known ones."""
    names = ", ".join(f"'{name}'" for name in known)
    return refusals.unsupported_value(
        path, f"Invalid value: '{value[:ECHO_CHARACTERS_MAX]}'. Supported values are: {names}."
    )
