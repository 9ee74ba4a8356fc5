"""The commands for a site's AI gateway key: show, provision, rotate, revoke.

A secret is printed only when it was asked for with --show-secret, and then alone on standard
output, so that it can be piped. Must know nothing of the wire.
"""

import json
from typing import Any

import click

from deployments.cli import shipping
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
    options_of_all_commands,
    take_own_options,
)

GRACE_SECONDS_MAX = 7 * 24 * 3600
SHOW_SECRET = click.option(
    "--show-secret", is_flag=True, help="Print the key itself, and nothing else, to be piped."
)


@main.group(invoke_without_command=True)
@JSON
@options_of_all_commands("own_")
@click.pass_context
def key(context: click.Context, /, as_json: bool, **own: str | None) -> None:
    """Show and change the site's gateway key.

    Alone, this shows the key without its secret.
    """
    take_own_options(context, own)
    if context.invoked_subcommand is None:
        context.invoke(show, as_json=as_json)


@key.command()
@JSON
@command
def show(options: Options, *, as_json: bool) -> None:
    """Show the key's beginning and when it was used."""
    terminal = Terminal()
    with connect(options) as client:
        answer = client.gateway(deploy_id_of(client, options))
    if as_json:
        terminal.json(json.dumps(answer))
    elif answer.get("exists"):
        used = answer.get("lastUsedAt")
        facts = {
            "Key": f"{answer.get('keyPrefix')}...",
            "Gateway": answer.get("baseUrl"),
            "Made at": local_time(answer["createdAt"]) if answer.get("createdAt") else "",
            "Last used": local_time(used) if used else "never",
        }
        terminal.facts("Gateway key", facts)
    else:
        terminal.result(f"There is no key yet. Make one: {how_to('key provision')}")


@key.command()
@SHOW_SECRET
@click.option("--redeploy", is_flag=True, help="If the key is new, give it to the app now.")
@JSON
@command
def provision(options: Options, *, show_secret: bool, redeploy: bool, as_json: bool) -> None:
    """Make the key, or find the one there is."""
    terminal = Terminal(quiet=as_json)
    with connect(options) as client:
        deploy_id = deploy_id_of(client, options)
        answer = client.provision(deploy_id)
        is_new = answer.get("isNew") is not False
        _warn(answer, terminal)
        if redeploy and is_new:
            terminal.say("Redeploying, so that the app has the key ...")
            shipping.redeploy(client, deploy_id)
    _print_key(answer, terminal, show_secret=show_secret, as_json=as_json)
    if is_new and not redeploy:
        terminal.say("The app has it from its next deploy on (--redeploy does that at once).")


@key.command()
@click.option(
    "--grace",
    "grace_seconds",
    type=click.IntRange(0, GRACE_SECONDS_MAX),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help="How long the old key goes on working.",
)
@click.option("--redeploy", is_flag=True, help="Give it to the app now.")
@SHOW_SECRET
@YES
@JSON
@command
def rotate(
    options: Options,
    *,
    grace_seconds: int,
    redeploy: bool,
    show_secret: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Replace the key. The app uses the old one until it is redeployed."""
    terminal = Terminal(quiet=as_json)
    with connect(options) as client:
        deploy_id = deploy_id_of(client, options)
        ends = f"works for {grace_seconds} s more" if grace_seconds else "stops working at once"
        confirm(f"Replace the key of {deploy_id}? The old one {ends}.", yes=yes)
        answer = client.rotate(deploy_id, grace_seconds=grace_seconds)
        _warn(answer, terminal)
        if redeploy:
            terminal.say("Redeploying, so that the app has the new key ...")
            shipping.redeploy(client, deploy_id)
    _print_key(answer, terminal, show_secret=show_secret, as_json=as_json)
    if not redeploy:
        terminal.say("The app has it from its next deploy on (--redeploy does that at once).")


@key.command()
@YES
@JSON
@command
def revoke(options: Options, *, yes: bool, as_json: bool) -> None:
    """Refuse the key from now on, everywhere within a second."""
    terminal = Terminal(quiet=as_json)
    with connect(options) as client:
        deploy_id = deploy_id_of(client, options)
        confirm(f"Revoke the key of {deploy_id}? Its app can call no model any more.", yes=yes)
        answer = client.revoke(deploy_id)
    if as_json:
        terminal.json(json.dumps(answer))
    else:
        terminal.result(f"Revoked. Make a new one: {how_to('key provision')}")


def _warn(answer: dict[str, Any], terminal: Terminal) -> None:
    warnings = answer.get("warnings")
    for warning in warnings if isinstance(warnings, list) else ():
        terminal.warn(str(warning))


def _print_key(
    answer: dict[str, Any], terminal: Terminal, *, show_secret: bool, as_json: bool
) -> None:
    """The secret alone, or everything but the secret. Raises Failure when there is no secret."""
    secret = str(answer.get("apiKey") or "")
    if show_secret and not as_json:
        if not secret:
            raise Failure("The server's answer has no key.")
        terminal.json(secret)
        return
    prefix = shipping.key_prefix(secret)
    if as_json:
        hidden = () if show_secret else ("apiKey",)
        shown = {name: value for name, value in answer.items() if name not in hidden}
        terminal.json(json.dumps({**shown, "keyPrefix": prefix}))
        return
    facts = {
        "Key": f"{prefix}...",
        "Gateway": answer.get("baseUrl"),
        "New": "yes" if answer.get("isNew") is not False else "no",
    }
    terminal.facts("Gateway key", facts)
