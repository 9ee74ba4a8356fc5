"""The commands for a site itself: deploy, validate, info, delete.

Must know nothing of the wire or of what makes a bundle correct.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from deployments.cli import shipping, validation
from deployments.cli.bundle import Bundle, open_bundle
from deployments.cli.client import Client, RefusedByServer
from deployments.cli.display import Terminal, local_time
from deployments.cli.findings import Finding
from deployments.cli.group import (
    EXIT_FAILED,
    JSON,
    YES,
    Failure,
    Options,
    command,
    confirm,
    connect,
    how_to,
    main,
)

# deploy and validate

_PATH = click.argument("path", default=".", type=click.Path(path_type=Path))


@main.command()
@_PATH
@click.option("--provision", is_flag=True, help="Also give the app its AI gateway key.")
@click.option("--no-validate", is_flag=True, help="Send it even if it seems to have mistakes.")
@JSON
@command
def deploy(
    options: Options, path: Path, *, provision: bool, no_validate: bool, as_json: bool
) -> None:
    """Deploy a folder or .zip, and print its address.

    The folder has config.json, and static/, functions/ or both in it.
    """
    terminal = Terminal(quiet=as_json)
    with connect(options) as client:
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
@JSON
@command
def validate(options: Options, path: Path, *, as_json: bool) -> None:
    """Look for the usual mistakes, without a server."""
    terminal = Terminal()
    bundle = open_bundle(path)
    findings = validation.check(bundle)
    is_valid = not validation.has_errors(findings)
    if as_json:
        terminal.json(json.dumps(_as_json(bundle, findings, is_valid=is_valid)))
        raise SystemExit(0 if is_valid else EXIT_FAILED)
    terminal.findings(findings)
    if not is_valid:
        raise Failure(f"{path} is not ready to be deployed.")
    terminal.result(f"{path} looks right: {len(bundle.sizes)} files, {bundle.total_bytes:,} bytes.")


def _as_json(bundle: Bundle, findings: list[Finding], *, is_valid: bool) -> dict[str, Any]:
    return {
        "valid": is_valid,
        "files": len(bundle.sizes),
        "bytes": bundle.total_bytes,
        "findings": [{**asdict(finding), "level": finding.level.value} for finding in findings],
    }


# info and delete


@main.command()
@JSON
@command
def info(options: Options, *, as_json: bool) -> None:
    """Show the site, and its gateway key without the secret."""
    terminal = Terminal()
    with connect(options) as client:
        site = client.site(options.site)
        gateway = _gateway(client, site)
    if as_json:
        terminal.json(json.dumps({**site, "gateway": gateway} if gateway else site))
        return
    if not site.get("exists"):
        terminal.result(f"Nothing is deployed here yet. Start with: {how_to('deploy <folder>')}")
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
        facts["Gateway key"] = f"none yet; make one: {how_to('key provision --redeploy')}"
    terminal.facts("Site", facts)


def _local(timestamp: object) -> str:
    return local_time(timestamp) if timestamp else ""


@main.command()
@YES
@JSON
@command
def delete(options: Options, *, yes: bool, as_json: bool) -> None:
    """Delete the site.

    Its gateway key stops working with it.
    """
    terminal = Terminal()
    with connect(options) as client:
        site = client.site(options.site)
        if not site.get("exists"):
            raise Failure("There is no such site, so nothing was deleted.")
        confirm(f"Delete {site.get('deployId')} ({site.get('url')})?", yes=yes)
        answer = client.delete(options.site)
    if as_json:
        terminal.json(json.dumps(answer))
    else:
        terminal.result(str(answer.get("message") or "Deleted."))
