"""The command that shows a site's log, and goes on showing it.

Owns that every line is shown once: with the websocket by its id, with polls by counting, because
the protocol's entries have no id. Must know nothing of the wire.
"""

import json
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import click

from deployments.cli import live
from deployments.cli.client import Client
from deployments.cli.display import Terminal
from deployments.cli.group import Options, command, connect, main

LOG_MINUTES_MAX = 480
LOG_MINUTES = 60
FOLLOW_SECONDS = 2.0
# A poll asks for the latest minute or so; what it shows again is recognised and left out.
FOLLOW_MINUTES = 2


@dataclass(frozen=True)
class Wanted:
    """Which lines: of one site, and perhaps of one request or function."""

    site: str | None
    request_id: str
    function_name: str


@main.command()
@click.option(
    "--minutes",
    type=click.IntRange(1, LOG_MINUTES_MAX),
    default=LOG_MINUTES,
    show_default=True,
    help="How far to look back.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on showing new lines until Ctrl-C.")
@click.option("--request", "request_id", default="", help="Only lines of this request id.")
@click.option("--function", "function_name", default="", help="Only lines of this function.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object for each line.")
@command
def logs(
    options: Options,
    *,
    minutes: int,
    follow: bool,
    request_id: str,
    function_name: str,
    as_json: bool,
) -> None:
    """Show what the site's functions printed, in local time."""
    terminal = Terminal(quiet=as_json)
    wanted = Wanted(options.site, request_id, function_name)
    with connect(options) as client:
        reader = _Poll(client, wanted, terminal, as_json=as_json)
        if not reader.show(minutes=minutes) and not follow:
            terminal.say(f"Nothing was printed in the last {minutes} minutes.")
        try:
            if follow:
                _follow(client, reader, wanted, terminal)
        except KeyboardInterrupt:
            return


def _follow(client: Client, reader: "_Poll", wanted: Wanted, terminal: Terminal) -> None:
    """Show what is new, by websocket where the server has one, else by polls. Never returns."""
    is_live_offered = True
    while True:
        if is_live_offered and reader.last_id is not None:
            position = live.Position(
                wanted.site, reader.last_id, wanted.request_id, wanted.function_name
            )
            try:
                for message in live.follow(
                    client.server,
                    position,
                    on_lost=lambda: terminal.say("Connection lost. Trying again ..."),
                ):
                    reader.print(message)
            except live.LiveNotOffered:
                is_live_offered = False
        time.sleep(FOLLOW_SECONDS)
        reader.show(minutes=FOLLOW_MINUTES)


class _Poll:
    """Shows each entry once, although polls overlap.

    An app may print the same line twice in one millisecond: so equal entries are counted, and of
    each poll only those beyond the count are shown. `last_id` is where a websocket goes on, if the
    server said so.
    """

    def __init__(
        self, client: Client, wanted: Wanted, terminal: Terminal, *, as_json: bool
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._terminal = terminal
        self._as_json = as_json
        self._shown: Counter[tuple[str, str]] = Counter()
        self._notice = ""
        self.last_id: int | None = None

    def show(self, *, minutes: int) -> bool:
        """Ask once and show what is new. Returns whether there was anything to show."""
        answer = self._client.logs(
            self._wanted.site,
            minutes=minutes,
            request_id=self._wanted.request_id,
            function_name=self._wanted.function_name,
        )
        entries = answer.get("entries")
        if not isinstance(entries, list):
            return self._show_notice(str(answer.get("message") or "The server has no log."))
        counted: Counter[tuple[str, str]] = Counter()
        is_any_shown = False
        for entry in entries:
            if not isinstance(entry, dict):
                continue
            identity = (str(entry.get("timestamp")), str(entry.get("message", "")))
            counted[identity] += 1
            if counted[identity] > self._shown[identity]:
                self.print(entry)
                is_any_shown = True
        # Only what the latest poll covered can come again.
        self._shown = counted | Counter({key: self._shown[key] for key in counted})
        if answer.get("hasMore"):
            self._terminal.say("There are more lines than these; ask for fewer --minutes.")
        last_id = answer.get("lastId")
        self.last_id = last_id if isinstance(last_id, int) else None
        return is_any_shown

    def print(self, entry: dict[str, Any]) -> None:
        """One line, or that lines were left out."""
        if "dropped" in entry:
            self._terminal.warn(f"{entry['dropped']} lines were skipped: too many at once.")
        elif self._as_json:
            self._terminal.json(json.dumps(entry))
        else:
            self._terminal.log(entry.get("timestamp"), str(entry.get("message", "")))

    def _show_notice(self, notice: str) -> bool:
        if notice != self._notice:
            if self._as_json:
                self._terminal.json(json.dumps({"message": notice}))
            else:
                self._terminal.result(notice)
        self._notice = notice
        return True
