"""The commands for a site's environment: list, set, unset.

Values go to the server and are never printed. Must know nothing of the wire.
"""

import json
from pathlib import Path
from typing import Any

import click

from deployments import variables
from deployments.cli import shipping
from deployments.cli.client import Client
from deployments.cli.display import Terminal
from deployments.cli.group import (
    JSON,
    Failure,
    Options,
    command,
    connect,
    how_to,
    main,
    options_of_all_commands,
    take_own_options,
)

FILE_BYTES_MAX = 1024 * 1024
REDEPLOY = click.option("--redeploy", is_flag=True, help="Apply it now, and wait until it is live.")


@main.group(invoke_without_command=True)
@JSON
@options_of_all_commands("own_")
@click.pass_context
def env(context: click.Context, /, as_json: bool, **own: str | None) -> None:
    """List and change the site's variables.

    They are those of its next deploy. Alone, this lists them.
    """
    take_own_options(context, own)
    if context.invoked_subcommand is None:
        context.invoke(list_variables, as_json=as_json)


@env.command("list")
@JSON
@command
def list_variables(options: Options, *, as_json: bool) -> None:
    """List the variables, their values masked, and who set each."""
    terminal = Terminal()
    with connect(options) as client:
        answer = client.environment(options.site)
    if as_json:
        terminal.json(json.dumps(answer))
        return
    values, sources = answer.get("environment") or {}, answer.get("sources") or {}
    facts = {name: f"{value}  ({sources.get(name, 'user')})" for name, value in values.items()}
    for name in answer.get("bundle") or []:
        facts.setdefault(name, "(.env.production of the bundle)")
    if facts:
        terminal.facts("Environment of the next deploy", facts)
    else:
        terminal.result(f"No variables are set. Set one: {how_to('env set NAME=VALUE')}")


@env.command("set")
@click.argument("assignments", nargs=-1, metavar="NAME=VALUE...")
@click.option(
    "--file",
    "file",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Also set what this .env file says; - is standard input, which no history keeps.",
)
@REDEPLOY
@JSON
@command
def set_variables(
    options: Options,
    assignments: tuple[str, ...],
    *,
    file: Path | None,
    redeploy: bool,
    as_json: bool,
) -> None:
    """Set variables.

    NAME=VALUE wins over the file.
    """
    changes = {**(_from_file(file) if file else {}), **dict(map(_assignment, assignments))}
    if not changes:
        raise click.UsageError("Give NAME=VALUE, or --file with a .env file.")
    _change(options, dict(changes), redeploy=redeploy, as_json=as_json)


@env.command("unset")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@REDEPLOY
@JSON
@command
def unset_variables(
    options: Options, names: tuple[str, ...], *, redeploy: bool, as_json: bool
) -> None:
    """Remove variables.

    What the gateway or the bundle sets under the same name comes back.
    """
    _change(options, dict.fromkeys(names), redeploy=redeploy, as_json=as_json)


def _assignment(text: str) -> tuple[str, str]:
    """(name, value) of `NAME=VALUE`. Raises click.UsageError that does not repeat the value."""
    name, equals, value = text.partition("=")
    if not equals:
        raise click.UsageError("Write each variable as NAME=VALUE; one argument has no `=`.")
    try:
        variables.check_name(name)
        variables.check_value(name, value)
    except variables.UnableToUseVariable as error:
        raise click.UsageError(str(error)) from None
    return name, value


def _from_file(path: Path) -> dict[str, str]:
    """What a .env file sets, read as the server reads `.env.production`. Raises Failure."""
    try:
        with click.open_file(str(path), encoding="utf-8") as file:
            text = file.read(FILE_BYTES_MAX + 1)
        if len(text) > FILE_BYTES_MAX:
            raise Failure(f"{path} is larger than {FILE_BYTES_MAX:,} bytes: that is no .env file.")
        return variables.read_environment_file(text)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise Failure(f"{path} cannot be read: {reason}.") from None
    except variables.UnableToReadEnvironmentFile as error:
        raise Failure(str(error).replace(".env.production", str(path), 1)) from None


def _change(
    options: Options, changes: dict[str, str | None], *, redeploy: bool, as_json: bool
) -> None:
    terminal = Terminal(quiet=as_json)
    with connect(options) as client:
        answer = client.update_environment(options.site, changes, redeploy=redeploy)
        if redeploy:
            _wait(client, answer, terminal)
    if as_json:
        terminal.json(json.dumps(answer))
        return
    names = ", ".join(map(str, answer.get("environment") or [])) or "none"
    terminal.result(f"Set for {answer.get('deployId')}: {names}.")
    if redeploy:
        terminal.result("Live.")
    else:
        terminal.say("It takes effect with the next deploy; --redeploy applies it now.")


def _wait(client: Client, answer: dict[str, Any], terminal: Terminal) -> None:
    """Until the release with the new environment answers requests."""
    release_id, deploy_id = answer.get("releaseId"), answer.get("deployId")
    if release_id and deploy_id:
        terminal.say(f"Redeploying as {release_id} ...")
        shipping.await_release(client, str(deploy_id), str(release_id))
