"""Typed readers for environment variables. Owns parsing and its error messages; knows no setting."""

import os
from pathlib import Path


class UnableToReadEnvironment(Exception):
    """A variable is set to something that cannot be read as what it must be."""


def text(name: str, default: str = "") -> str:
    """The variable as text, stripped; `default` when unset or empty."""
    return os.environ.get(name, "").strip() or default


def integer(name: str, default: int) -> int:
    """The variable as a whole number. Raises UnableToReadEnvironment when it is not one."""
    raw = text(name)
    if not raw:
        return default
    try:
        return int(raw)
    except ValueError:
        raise UnableToReadEnvironment(f"{name} must be a whole number, not {raw!r}.") from None


def flag(name: str, *, default: bool) -> bool:
    """The variable as a boolean: 1/true/yes/on or 0/false/no/off, in any case."""
    raw = text(name).lower()
    if not raw:
        return default
    if raw in {"1", "true", "yes", "on"}:
        return True
    if raw in {"0", "false", "no", "off"}:
        return False
    raise UnableToReadEnvironment(f"{name} must be true or false, not {raw!r}.")


def names(name: str, default: str = "") -> list[str]:
    """A comma-separated list, blanks dropped."""
    return [part.strip() for part in text(name, default).split(",") if part.strip()]


def secret(name: str, *, fallback_file: Path, generate: bool) -> str:
    """A secret from `NAME`, or from the file `NAME_FILE` points to, or from `fallback_file`.

    With `generate`, a missing fallback file is created (mode 0600, 48 random bytes), so that a
    laptop needs no set-up and keeps its secrets between starts. Returns "" when nothing is found.
    """
    if value := text(name):
        return value
    path = Path(text(f"{name}_FILE")) if text(f"{name}_FILE") else fallback_file
    if path.exists():
        return path.read_text().strip()
    if not generate:
        return ""
    import secrets

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:  # another process was first; its value is the one to use
        return path.read_text().strip()
    value = secrets.token_urlsafe(48)
    with os.fdopen(handle, "w") as file:
        file.write(value)
    return value
