"""How things look in a terminal, and in a file or pipe that is none.

Owns colours, bars and tables. Results go to standard output, everything else to standard error, so
that a script can read the one and a person the other. Text from servers and apps is shown without
its control characters: a log line must not be able to move the cursor or set a window title.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from deployments.cli.findings import Finding, Level

CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Numbers below this are seconds, above it milliseconds; the border is the year 5138 and 1973.
MILLISECONDS_FROM = 1e11
STYLES = {Level.ERROR: "bold red", Level.WARNING: "yellow"}


def clean(text: str) -> str:
    """The text without control characters; tabs and line feeds stay."""
    return CONTROL_CHARACTERS.sub("", text.replace("\r\n", "\n"))


def local_time(timestamp: object) -> str:
    """A log's timestamp in local time, `2026-01-31 13:05:09.123`.

    Accepts ISO 8601 text and Unix time in seconds or milliseconds; anything else is shown as is.
    """
    moment: datetime | None = None
    try:
        if isinstance(timestamp, int | float):
            seconds = timestamp / 1000 if timestamp > MILLISECONDS_FROM else timestamp
            moment = datetime.fromtimestamp(seconds, tz=UTC)
        elif isinstance(timestamp, str):
            moment = datetime.fromisoformat(timestamp)
    except (ValueError, OverflowError, OSError):
        moment = None
    if moment is None:
        return clean(str(timestamp))
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"


class Terminal:
    """The two streams of one command; a `shipping.Narrator`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._out = Console(markup=False, highlight=False, emoji=False, soft_wrap=True)
        self._notes = Console(
            stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True
        )

    def result(self, text: str) -> None:
        """A line of the answer, on standard output."""
        self._out.print(clean(text))

    def json(self, text: str) -> None:
        """An answer for machines, byte for byte."""
        self._out.out(text, highlight=False)

    def facts(self, title: str, rows: Mapping[str, object]) -> None:
        """Names and values under a title; rows without a value are left out.

        A long value is the terminal's to wrap: a command in it must be copied as one line.
        """
        shown = {name: value for name, value in rows.items() if value not in (None, "")}
        width = max(map(len, shown), default=0)
        self._out.print(Text(title, style="italic"))
        for name, value in shown.items():
            line = Text(f"{name:{width}}  ", style="dim")
            line.append(clean(str(value)), style="default")
            self._out.print(line, soft_wrap=True)

    def table(self, titles: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Rows under titles, on standard output."""
        table = Table(*titles, box=None, pad_edge=False, header_style="dim")
        for row in rows:
            table.add_row(*(Text(clean(cell)) for cell in row))
        self._out.print(table)

    def log(self, timestamp: object, message: str) -> None:
        """A line of a log."""
        line = Text(local_time(timestamp), style="dim")
        line.append("  ").append(clean(message).rstrip("\n"), style="default")
        self._out.print(line)

    def say(self, text: str) -> None:
        """A line about what is going on, on standard error."""
        if not self._quiet:
            self._notes.print(clean(text), style="dim")

    def note(self, text: str) -> None:
        """A line that a question refers to, on standard error, however quiet."""
        self._notes.print(clean(text))

    def warn(self, text: str) -> None:
        """A line that must not be overlooked, on standard error."""
        line = Text("warning: ", style=STYLES[Level.WARNING])
        self._notes.print(line.append(clean(text), style="default"))

    def fail(self, text: str, hint: str = "") -> None:
        """What went wrong, and what to do about it."""
        self._notes.print(Text("Error: ", style="bold red").append(clean(text), style="default"))
        if hint:
            self._notes.print(clean(hint))

    def findings(self, findings: Iterable[Finding]) -> None:
        """One block for each finding."""
        for finding in findings:
            line = Text(f"{finding.level.value}: ", style=STYLES[finding.level])
            line.append(clean(f"{finding.path} {finding.message}".strip()), style="default")
            self._notes.print(line)
            if finding.hint:
                self._notes.print(f"    {clean(finding.hint)}", style="dim")

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[[int], None]]:
        """A bar of bytes, speed and time left; two plain lines where there is no terminal."""
        if self._quiet:
            yield lambda done: None
            return
        if not self._notes.is_terminal:
            self.say(f"{label} {_bytes(total)} ...")
            yield lambda done: None
            self.say(f"{label} done.")
            return
        bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=self._notes,
        )
        with bar:
            task = bar.add_task(label, total=total)
            yield lambda done: bar.advance(task, done)


def _bytes(size: int) -> str:
    if size < 1024:
        return f"{size} bytes"
    if size < 1024 * 1024:
        return f"{size / 1024:.1f} KiB"
    return f"{size / 1024 / 1024:.1f} MiB"
