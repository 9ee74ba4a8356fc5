"""The commands for a site's releases: list them, and go back to one.

Must know nothing of the wire.
"""

import json
from typing import Any

import click

from deployments.cli.client import Client
from deployments.cli.display import Terminal, local_time
from deployments.cli.group import (
    JSON,
    YES,
    Failure,
    Options,
    command,
    confirm,
    connect,
    deploy_id_of,
    how_to,
    main,
)

OFFERED_MAX = 10


@main.command()
@JSON
@command
def releases(options: Options, *, as_json: bool) -> None:
    """List the site's releases, newest first."""
    terminal = Terminal()
    with connect(options) as client:
        rows = client.releases(deploy_id_of(client, options))
    if as_json:
        terminal.json(json.dumps({"releases": rows}))
    elif rows:
        terminal.table(
            ("Release", "Status", "Mode", "Made", "Bundle"), [_cells(row) for row in rows]
        )
    else:
        terminal.result(f"Nothing was released here yet. Start with: {how_to('deploy <folder>')}")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    status = str(row.get("status") or "")
    if row.get("failure"):
        status = f"{status}: {row['failure']}"
    made = local_time(row["createdAt"])[:16] if row.get("createdAt") else ""
    bundle = str(row.get("bundleSha256") or "")[:10]
    return (str(row.get("releaseId") or ""), status, str(row.get("mode") or ""), made, bundle)


@main.command()
@click.argument("release", required=False)
@YES
@JSON
@command
def rollback(options: Options, release: str | None, *, yes: bool, as_json: bool) -> None:
    """Make an earlier release live again.

    It comes back as it was, with the environment it had.

    Without RELEASE you pick from a list; with --yes it is the one before the live one.
    """
    terminal = Terminal(quiet=as_json)
    with connect(options) as client:
        deploy_id = deploy_id_of(client, options)
        if release is None:
            release = _pick(client, deploy_id, terminal, yes=yes)
        confirm(f"Make {release} of {deploy_id} live?", yes=yes)
        answer = client.roll_back(deploy_id, release)
    if as_json:
        terminal.json(json.dumps(answer))
        return
    facts = {"URL": answer.get("url"), "Release": answer.get("releaseId") or release}
    terminal.facts("Rolled back", facts)


def _pick(client: Client, deploy_id: str, terminal: Terminal, *, yes: bool) -> str:
    """The release somebody chose, or the latest that can be gone back to."""
    earlier = _earlier(client.releases(deploy_id))
    if not earlier:
        raise Failure("There is no earlier release to go back to.")
    if yes:
        return str(earlier[0].get("releaseId"))
    offered = earlier[:OFFERED_MAX]
    for number, row in enumerate(offered, 1):
        name, _, mode, made, bundle = _cells(row)
        terminal.note(f"{number:>3}  {name}  {made}  {mode}  bundle {bundle}")
    chosen = click.prompt(
        "Which one", type=click.IntRange(1, len(offered)), default=1, err=True, show_choices=False
    )
    return str(offered[chosen - 1].get("releaseId"))


def _earlier(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Releases that were live and are no more: those older than the live one first."""
    live = next((place for place, row in enumerate(rows) if row.get("status") == "active"), 0)
    return [
        row
        for row in (*rows[live:], *rows[:live])
        if row.get("status") == "superseded" and row.get("activatedAt")
    ]
