"""Typed readers for environment variables: parsing and its error messages; knows no setting."""

import contextlib
import os
import secrets
import tempfile
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


def seconds(name: str, default: float) -> float:
    """The variable as a time in seconds, above zero. Raises UnableToReadEnvironment."""
    raw = text(name)
    if not raw:
        return default
    try:
        value = float(raw)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise UnableToReadEnvironment(f"{name} must be a number of seconds, not {raw!r}.")
    return value


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
    Raises UnableToReadEnvironment when `NAME_FILE` points to nothing.
    """
    if value := text(name):
        return value
    if named := text(f"{name}_FILE"):
        try:
            return Path(named).read_text().strip()
        except OSError as error:
            raise UnableToReadEnvironment(
                f"{name}_FILE: {named} cannot be read ({error.strerror})."
            ) from None
    if not fallback_file.exists() and generate:
        _generate(fallback_file)
    return fallback_file.read_text().strip() if fallback_file.exists() else ""


def _generate(path: Path) -> None:
    """Write a new secret to `path`, unless another process is first; never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent)  # readable by its owner alone
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_urlsafe(48))
    # A link appears with its content; creating the file itself would show it empty for a moment.
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    Path(draft).unlink()
