"""`docs/conformance.md`, written by a run of the whole matrix.

Owns what was seen in this run and how it is shown: nothing of a run but its outcome, so that two
runs of the same code write the same page.
"""

from dataclasses import dataclass, field

from tests.conformance.cells import EXTRAS, FEATURES, MODELS
from tests.journeys.conftest import ROOT

PAGE = ROOT / "docs" / "conformance.md"
HEAD = """# Conformance

Real clients against a running gateway, over HTTP, one model of each provider. Written by
`make test-conformance`: every *yes* below is a test that passed in that run. Providers are the
stand-ins, which refuse what the real services refuse; the local model is real.
"""


@dataclass
class Seen:
    """One client in this run: cells by (model, feature); a text is why there is none."""

    version: str
    cells: dict[tuple[str, str], str] = field(default_factory=dict)


_seen: dict[str, Seen] = {}
_expected: set[str] = set()


def expect(clients: list[str]) -> None:
    """A page is written only if all of these were seen, whole."""
    _expected.update(clients)


def note(client: str, version: str, model: str, feature: str, why: str, *, is_passed: bool) -> None:
    """One cell. `why` says why it does not apply, "" if it does."""
    cell = why or ("yes" if is_passed else "no")
    _seen.setdefault(client, Seen(version)).cells[model, feature] = cell


def write_if_whole() -> None:
    """Write the page, unless only some of the matrix ran or something in it failed."""
    wanted = {(model, feature) for model in MODELS for feature in FEATURES}
    if not _expected or set(_seen) != _expected:
        return
    if any(wanted - set(seen.cells) or "no" in seen.cells.values() for seen in _seen.values()):
        return
    PAGE.write_text(_render())


def _render() -> str:
    lines = [HEAD, "| feature | what is shown |", "| --- | --- |"]
    lines += [f"| {name} | {what} |" for name, what in (FEATURES | EXTRAS).items()]
    for client in sorted(_seen):
        lines += ["", *_render_client(client, _seen[client])]
    return "\n".join(lines) + "\n"


def _render_client(client: str, seen: Seen) -> list[str]:
    reasons: list[str] = []
    rows = []
    known = {feature for _, feature in seen.cells}
    for feature in [name for name in FEATURES | EXTRAS if name in known]:
        marks = [_mark(seen.cells[model, feature], reasons) for model in MODELS]
        rows.append(f"| {feature} | {' | '.join(marks)} |")
    notes = [f"{number}. {reason}" for number, reason in enumerate(reasons, 1)]
    library, _, way = client.partition(", ")
    return [
        f"## {library} {seen.version}{', ' if way else ''}{way}",
        "",
        f"| | {' | '.join(f'{model} ({where})' for model, where in MODELS.items())} |",
        f"| --- |{' --- |' * len(MODELS)}",
        *rows,
        *(["", "Not applicable because:", "", *notes] if notes else []),
    ]


def _mark(cell: str, reasons: list[str]) -> str:
    if cell == "yes":
        return cell
    if cell not in reasons:
        reasons.append(cell)
    return f"n/a ({reasons.index(cell) + 1})"
