"""What validation tells: one mistake, how much it weighs, where it is, and what to do.

Must know nothing of bundles.
"""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How much a finding weighs."""

    ERROR = "error"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One mistake: what is wrong where (`path` may be empty), and what to do (`hint`)."""

    level: Level
    path: str
    message: str
    hint: str = ""


def error(path: str, message: str, hint: str = "") -> Finding:
    """A mistake that stops a deploy."""
    return Finding(Level.ERROR, path, message, hint)


def warning(path: str, message: str, hint: str = "") -> Finding:
    """A guess worth a look."""
    return Finding(Level.WARNING, path, message, hint)
