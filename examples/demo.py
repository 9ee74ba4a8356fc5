"""`make demo`: the chat example, deployed with the platform's own client and given its key.

Reads the address and token that `make run` leaves in `$DATA_DIR/dev.json`. Knows nothing of the
platform's inside: everything goes over HTTP, as it does for any user of the client.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for `python examples/demo.py`, whose own folder comes first

from deployments.cli import shipping  # noqa: E402
from deployments.cli.bundle import UnableToReadBundle, open_bundle  # noqa: E402
from deployments.cli.client import Client, RefusedByServer, UnableToReachServer  # noqa: E402
from deployments.cli.configuration import Server  # noqa: E402
from deployments.cli.display import Terminal  # noqa: E402

APP = ROOT / "examples" / "chat-app"
SITE = "chat"  # a site of its own: the demo must not replace the workspace's default app
NOT_RUNNING = "Start the platform first: make run"


def main() -> int:
    """Deploy, provision, redeploy, print where to look. Returns the exit code."""
    terminal = Terminal()
    try:
        notes = read_notes()
        client = Client(server_of(notes))
        client.site(SITE)  # does it answer at all?
    except (KeyError, OSError, ValueError, UnableToReachServer) as error:
        terminal.fail(NOT_RUNNING, f"({describe(error)})")
        return 1
    except RefusedByServer as error:
        terminal.fail(str(error), "dev.json may be of another run; restart it: make run")
        return 1
    try:
        with client:
            shipped = deploy(client, terminal)
    except RefusedByServer as error:
        terminal.fail(str(error), error.hint)
        return 1
    except (UnableToReachServer, UnableToReadBundle, shipping.UnableToActivate) as error:
        terminal.fail(str(error))
        return 1
    terminal.facts(
        "The chat is on-line",
        {
            "Open": shipped.url,
            "Gateway key": f"{shipped.key.prefix}..." if shipped.key else None,
            "Console": notes.get("console_url"),
            "Log in as": f"{notes.get('email')} / {notes.get('password')}",
        },
    )
    return 0


def read_notes() -> dict[str, Any]:
    """What the running platform wrote down: `api_url, auth_token, console_url, email, password`.

    Raises OSError or ValueError when there is no such file or it is not what it should be.
    """
    folder = Path(os.environ.get("DATA_DIR") or ROOT / ".data")
    notes = json.loads((folder / "dev.json").read_text(encoding="utf-8"))
    if not isinstance(notes, dict):
        raise ValueError("dev.json is not a JSON object")
    return notes


def server_of(notes: dict[str, Any]) -> Server:
    """The server to deploy to. Raises KeyError when the notes lack it."""
    url = str(notes["api_url"]).rstrip("/")
    return Server(url, str(notes["auth_token"]), "dev.json")


def deploy(client: Client, terminal: Terminal) -> shipping.Shipped:
    """The app, on-line with its key; raises what the client raises."""
    shipped = shipping.ship(client, open_bundle(APP), SITE, terminal)
    key = shipping.provision(client, shipped.deploy_id, terminal)
    return replace(shipped, key=key)


def describe(error: Exception) -> str:
    """Why the platform seems not to run, in a few words."""
    if isinstance(error, FileNotFoundError):
        return f"there is no {error.filename}"
    if isinstance(error, KeyError):
        return f"dev.json has no {error}"
    return str(error)


if __name__ == "__main__":
    raise SystemExit(main())
