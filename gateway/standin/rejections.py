"""How the stand-ins say no: one exception that is a whole HTTP answer, and what rules look at."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

Json = dict[str, Any]


class Rejection(Exception):
    """A refusal as the real service would send it."""

    def __init__(self, status: int, body: Json, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it arrived. `headers` has lower-case names; `model` is the URL's or body's."""

    headers: Mapping[str, str]
    body: Json
    model: str
    is_stream: bool = False


# Raises Rejection when the request breaks it. A wire's rules are tried in the order of its table.
Rule = Callable[[Asked], None]


def apply(rules: Iterable[Rule], asked: Asked) -> None:
    """Try every rule. Raises Rejection for the first that is broken."""
    for rule in rules:
        rule(asked)


def unknown(holder: Mapping[str, Any], known: Iterable[str]) -> list[str]:
    """The names a holder has beyond the known ones, in its own order."""
    names = frozenset(known)
    return [name for name in holder if name not in names]


def objects(value: Any) -> list[Json]:
    """The objects of a list; nothing for anything else."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def is_number(value: Any) -> TypeGuard[float]:
    """Whether JSON calls it a number: true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether it is an integer."""
    return isinstance(value, int) and not isinstance(value, bool)
