"""The group of commands: what all of them share.

Owns the flags every command takes, where the server comes from, and exit codes: 0 done, 1 refused
or failed, 2 wrong usage (a missing server or token is one). Must know nothing of what a command
does.
"""

import json
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec

import click

from deployments.cli import shipping
from deployments.cli.bundle import UnableToReadBundle
from deployments.cli.client import Client, RefusedByServer, UnableToReachServer
from deployments.cli.configuration import UnableToFindServer, find_server
from deployments.cli.display import Terminal

EXIT_FAILED = 1
EXIT_USAGE = 2

Parameters = ParamSpec("Parameters")


@dataclass(frozen=True)
class Options:
    """Flags of the group, for every command."""

    api_url: str | None
    api_token: str | None
    site: str | None


class Failure(Exception):
    """Ends a command with exit code 1 after a message."""


def options_of_all_commands(
    prefix: str,
) -> Callable[[Callable[Parameters, None]], Callable[Parameters, None]]:
    """The options that the group and each command take, named with this prefix."""

    def decorate(function: Callable[Parameters, None]) -> Callable[Parameters, None]:
        for flag, name, metavar, text in (
            ("--id", "site", "PREFIX", "Which site; without it the default one."),
            ("--api-token", "api_token", "TOKEN", "Workspace token; better set in a variable."),
            ("--api-url", "api_url", "URL", "Address of the platform."),
        ):
            function = click.option(flag, f"{prefix}{name}", metavar=metavar, help=text)(function)
        return function

    return decorate


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@options_of_all_commands("")
@click.pass_context
def main(
    context: click.Context, api_url: str | None, api_token: str | None, site: str | None
) -> None:
    """Deploy apps, and look after what is deployed.

    The server is taken from ~/.rebyte.ai/auth.json if it is there, else from REBYTE_API_URL and
    REBYTE_API_TOKEN, else from API_URL and AUTH_TOKEN.
    """
    context.obj = Options(api_url=api_url, api_token=api_token, site=site)


def command(
    act: Callable[Concatenate[Options, Parameters], None],
) -> Callable[Parameters, None]:
    """A command that gets the group's options, and whose failures become exit codes.

    The options may stand before or after the command's name; after it they win.
    """

    @wraps(act)
    def run(context: click.Context, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        options: Options = context.obj
        own = {name: kwargs.pop(f"own_{name}") for name in ("api_url", "api_token", "site")}
        given = {name: value for name, value in own.items() if isinstance(value, str)}
        context.obj = replace(options, **given)
        with _failures_as_exit_codes(as_json=bool(kwargs.get("as_json"))):
            act(context.obj, *args, **kwargs)

    return options_of_all_commands("own_")(click.pass_context(run))


@contextmanager
def _failures_as_exit_codes(*, as_json: bool) -> Iterator[None]:
    try:
        yield
    except UnableToFindServer as error:
        _exit(EXIT_USAGE, str(error), as_json=as_json)
    except RefusedByServer as error:
        _exit(EXIT_FAILED, str(error), as_json=as_json, hint=error.hint, status=error.status)
    except (
        Failure,
        UnableToReadBundle,
        UnableToReachServer,
        shipping.UnableToActivate,
    ) as error:
        _exit(EXIT_FAILED, str(error), as_json=as_json)


def _exit(
    code: int, message: str, *, as_json: bool, hint: str = "", status: int | None = None
) -> None:
    terminal = Terminal()
    if as_json:
        terminal.json(json.dumps({"error": {"status": status, "message": message, "hint": hint}}))
    else:
        terminal.fail(message, hint)
    raise SystemExit(code)


def connect(options: Options) -> Client:
    """A client of the server that is meant. Raises UnableToFindServer."""
    server = find_server(
        api_url=options.api_url,
        api_token=options.api_token,
        environ=os.environ,
        home=Path.home(),
    )
    return Client(server)


def take_own_options(context: click.Context, own: dict[str, str | None]) -> None:
    """Let the options that a group of commands got itself win, for the commands in it."""
    given = {name.removeprefix("own_"): value for name, value in own.items() if value is not None}
    context.obj = replace(context.obj, **given)


JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object as the answer.")
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask.")


def confirm(question: str, *, yes: bool) -> None:
    """Ask on standard error. Raises click.Abort on a no."""
    if yes:
        return
    click.confirm(question, abort=True, err=True)


def how_to(arguments: str) -> str:
    """What to type for this: the program as it was called, these arguments, and the same site."""
    context = click.get_current_context()
    site = f" --id {shlex.quote(context.obj.site)}" if context.obj.site else ""
    return f"{context.find_root().info_name} {arguments}{site}"


def deploy_id_of(client: Client, options: Options) -> str:
    """The deployId of the site that is meant. Raises Failure when there is none."""
    site = client.site(options.site)
    if not site.get("exists"):
        raise Failure(f"There is no such site yet. Deploy it first: {how_to('deploy <folder>')}")
    return str(site.get("deployId") or "")
