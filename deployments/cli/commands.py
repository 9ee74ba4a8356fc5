"""The commands: parse, act through the other modules, answer with an exit code.

Owns flags and exit codes: 0 done, 1 refused or failed, 2 wrong usage (a missing server or token is
one). Must know nothing of the wire or of what makes a bundle correct.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click

from deployments.cli import shipping, validation
from deployments.cli.bundle import Bundle, UnableToReadBundle, open_bundle
from deployments.cli.client import Client, RefusedByServer, UnableToReachServer
from deployments.cli.configuration import UnableToFindServer, find_server
from deployments.cli.display import Terminal, local_time

EXIT_FAILED = 1
EXIT_USAGE = 2
LOG_MINUTES_MAX = 480
LOG_MINUTES = 60
FOLLOW_SECONDS = 2.0
# A poll asks for the latest minute or so; what it shows again is recognised and left out.
FOLLOW_MINUTES = 2

Parameters = ParamSpec("Parameters")


@dataclass(frozen=True)
class Options:
    """Flags of the group, for every command."""

    api_url: str | None
    api_token: str | None
    site: str | None


class Failure(Exception):
    """Ends a command with exit code 1 after a message."""


def _options_of_all_commands(
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
@_options_of_all_commands("")
@click.pass_context
def main(
    context: click.Context, api_url: str | None, api_token: str | None, site: str | None
) -> None:
    """Deploy apps, and look after what is deployed.

    The server is taken from ~/.rebyte.ai/auth.json if it is there, else from REBYTE_API_URL and
    REBYTE_API_TOKEN, else from API_URL and AUTH_TOKEN.
    """
    context.obj = Options(api_url=api_url, api_token=api_token, site=site)


def _command(
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
        with _failures_as_exit_codes(as_json=bool(kwargs.get("as_json"))):
            act(replace(options, **given), *args, **kwargs)

    return _options_of_all_commands("own_")(click.pass_context(run))


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


def _client(options: Options) -> Client:
    server = find_server(
        api_url=options.api_url,
        api_token=options.api_token,
        environ=os.environ,
        home=Path.home(),
    )
    return Client(server)


# deploy and validate

_PATH = click.argument("path", default=".", type=click.Path(path_type=Path))
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object as the answer.")


@main.command()
@_PATH
@click.option("--provision", is_flag=True, help="Also give the app its AI gateway key.")
@click.option("--no-validate", is_flag=True, help="Send it even if it seems to have mistakes.")
@_JSON
@_command
def deploy(
    options: Options, path: Path, *, provision: bool, no_validate: bool, as_json: bool
) -> None:
    """Deploy a folder with a config.json (or a .zip of one) and print its address."""
    terminal = Terminal(quiet=as_json)
    with _client(options) as client:
        bundle = open_bundle(path)
        if not no_validate:
            _require_valid(bundle, terminal)
        terminal.say(f"Server: {client.server.url} (from {client.server.origin})")
        shipped = shipping.ship(client, bundle, options.site, terminal)
        if provision:
            key = shipping.provision(client, shipped.deploy_id, terminal)
            shipped = replace(shipped, key=key)
    if as_json:
        terminal.json(json.dumps(shipped.as_json()))
    else:
        _show_shipped(shipped, terminal)


def _require_valid(bundle: Bundle, terminal: Terminal) -> None:
    findings = validation.check(bundle)
    terminal.findings(findings)
    if validation.has_errors(findings):
        raise Failure("Nothing was sent. Correct the errors, or send it anyway with --no-validate.")


def _show_shipped(shipped: shipping.Shipped, terminal: Terminal) -> None:
    facts: dict[str, object] = {
        "URL": shipped.url,
        "Deploy id": shipped.deploy_id,
        "Status": shipped.status,
    }
    if shipped.key is not None:
        facts["Gateway key"] = f"{shipped.key.prefix}..."
        facts["Gateway"] = shipped.key.base_url
    terminal.facts("Deployed", facts)


@main.command()
@_PATH
@_command
def validate(options: Options, path: Path) -> None:
    """Look for the usual mistakes, without a server."""
    terminal = Terminal()
    bundle = open_bundle(path)
    findings = validation.check(bundle)
    terminal.findings(findings)
    if validation.has_errors(findings):
        raise Failure(f"{path} is not ready to be deployed.")
    terminal.result(f"{path} looks right: {len(bundle.sizes)} files, {bundle.total_bytes:,} bytes.")


# info, logs, delete


@main.command()
@_JSON
@_command
def info(options: Options, *, as_json: bool) -> None:
    """Show the site, and its gateway key without the secret."""
    terminal = Terminal()
    with _client(options) as client:
        site = client.site(options.site)
        gateway = _gateway(client, site)
    if as_json:
        terminal.json(json.dumps({**site, "gateway": gateway} if gateway else site))
        return
    if not site.get("exists"):
        terminal.result("Nothing is deployed here yet. Start with: deploy <folder>")
        return
    _show_site(site, gateway, terminal)


def _gateway(client: Client, site: dict[str, Any]) -> dict[str, Any] | None:
    """Facts of the key; None where the server has no AI gateway, which is a 404."""
    deploy_id = site.get("deployId")
    if not site.get("exists") or not isinstance(deploy_id, str):
        return None
    try:
        return client.gateway(deploy_id)
    except RefusedByServer as error:
        if error.status == 404:
            return None
        raise


def _show_site(site: dict[str, Any], gateway: dict[str, Any] | None, terminal: Terminal) -> None:
    facts: dict[str, object] = {
        "URL": site.get("url"),
        "Deploy id": site.get("deployId"),
        "Status": site.get("status"),
        "Mode": site.get("mode"),
        "Deployed at": _local(site.get("deployedAt")),
        "Last deploy failed": site.get("failure"),
    }
    if gateway and gateway.get("exists"):
        facts["Gateway key"] = f"{gateway.get('keyPrefix')}..."
        facts["Gateway"] = gateway.get("baseUrl")
        facts["Key made at"] = _local(gateway.get("createdAt"))
        facts["Key last used"] = _local(gateway.get("lastUsedAt")) or "never"
    elif gateway is not None:
        facts["Gateway key"] = "none yet; make one with: deploy --provision"
    terminal.facts("Site", facts)


def _local(timestamp: object) -> str:
    return local_time(timestamp) if timestamp else ""


@main.command()
@click.option(
    "--minutes",
    type=click.IntRange(1, LOG_MINUTES_MAX),
    default=LOG_MINUTES,
    show_default=True,
    help="How far to look back.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on showing new lines until Ctrl-C.")
@_command
def logs(options: Options, *, minutes: int, follow: bool) -> None:
    """Show what the site's functions printed, in local time."""
    terminal = Terminal()
    with _client(options) as client:
        reader = _LogReader(client, options.site, terminal)
        if not reader.show(minutes=minutes) and not follow:
            terminal.say(f"Nothing was printed in the last {minutes} minutes.")
        try:
            while follow:
                time.sleep(FOLLOW_SECONDS)
                reader.show(minutes=FOLLOW_MINUTES)
        except KeyboardInterrupt:
            return


class _LogReader:
    """Shows each entry once, although polls overlap.

    Entries have no id, and an app may print the same line twice in one millisecond: so equal
    entries are counted, and of each poll only those beyond the count are shown.
    """

    def __init__(self, client: Client, site: str | None, terminal: Terminal) -> None:
        self._client = client
        self._site = site
        self._terminal = terminal
        self._shown: Counter[tuple[str, str]] = Counter()
        self._notice = ""

    def show(self, *, minutes: int) -> bool:
        """Ask once and show what is new. Returns whether there was anything to show."""
        answer = self._client.logs(self._site, minutes=minutes)
        entries = answer.get("entries")
        if not isinstance(entries, list):
            return self._show_notice(str(answer.get("message") or "The server has no log."))
        counted: Counter[tuple[str, str]] = Counter()
        is_any_shown = False
        for entry in entries:
            if not isinstance(entry, dict):
                continue
            timestamp, message = entry.get("timestamp"), str(entry.get("message", ""))
            identity = (str(timestamp), message)
            counted[identity] += 1
            if counted[identity] > self._shown[identity]:
                self._terminal.log(timestamp, message)
                is_any_shown = True
        # Only what the latest poll covered can come again.
        self._shown = counted | Counter({key: self._shown[key] for key in counted})
        if answer.get("hasMore"):
            self._terminal.say("There are more lines than these; ask for fewer --minutes.")
        return is_any_shown

    def _show_notice(self, notice: str) -> bool:
        if notice != self._notice:
            self._terminal.result(notice)
        self._notice = notice
        return True


@main.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_command
def delete(options: Options, *, yes: bool) -> None:
    """Delete the site; its gateway key stops working with it."""
    terminal = Terminal()
    with _client(options) as client:
        site = client.site(options.site)
        if not site.get("exists"):
            raise Failure("There is no such site, so nothing was deleted.")
        if not yes:
            question = f"Delete {site.get('deployId')} ({site.get('url')})?"
            click.confirm(question, abort=True, err=True)
        terminal.result(str(client.delete(options.site).get("message") or "Deleted."))
