"""The order of the calls that bring an app on-line: upload, deploy, key, redeploy.

Owns the sequence and the waiting; must know nothing of flags. What happens is told to a `Narrator`,
so that a terminal, a log and a test can each show it in their own way.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from deployments.cli.bundle import Bundle, as_zip
from deployments.cli.client import Client, UnableToReachServer

ACTIVATION_SECONDS_MAX = 120.0
POLL_SECONDS = 0.5
UPLOAD_TRIES_MAX = 3


class UnableToActivate(Exception):
    """The redeploy failed, or was not done in time."""


class Narrator(Protocol):
    """Shows what is going on."""

    def say(self, text: str) -> None:
        """One line."""

    def warn(self, text: str) -> None:
        """One line that must not be overlooked."""

    def progress(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A step of `total` bytes; the callable takes the bytes done since its last call."""


@dataclass(frozen=True)
class Key:
    """A site's gateway key without its secret. `is_new` means it was made just now.

    `warnings` are the server's, for instance that the app's own variables bypass the gateway.
    """

    prefix: str
    base_url: str
    is_new: bool
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shipped:
    """What a deploy came to."""

    deploy_id: str
    url: str
    status: str
    key: Key | None = None

    def as_json(self) -> dict[str, Any]:
        """The same for machines, in the protocol's spelling."""
        answer: dict[str, Any] = {
            "deployId": self.deploy_id,
            "url": self.url,
            "status": self.status,
        }
        if self.key is not None:
            answer["gateway"] = {
                "keyPrefix": self.key.prefix,
                "baseUrl": self.key.base_url,
                "isNew": self.key.is_new,
                "warnings": list(self.key.warnings),
            }
        return answer


def ship(client: Client, bundle: Bundle, site: str | None, narrator: Narrator) -> Shipped:
    """Zip, upload and release a bundle at the site with this prefix (None: the default one).

    Raises what `Client` and `as_zip` raise.
    """
    with ExitStack() as stack:
        with narrator.progress("Packing", bundle.total_bytes) as advance:
            path = stack.enter_context(as_zip(bundle, on_progress=advance))
        deploy_id = _upload(client, path, site, narrator)
    narrator.say(f"Deploying {deploy_id} ...")
    answer = client.deploy(deploy_id)
    return Shipped(
        deploy_id=str(answer.get("deployId") or deploy_id),
        url=str(answer.get("url") or ""),
        status=str(answer.get("status") or ""),
    )


def _upload(client: Client, path: Path, site: str | None, narrator: Narrator) -> str:
    """The deployId of the site that the zip was uploaded for.

    An upload that broke off may be repeated: each try gets a URL of its own, and nothing is
    deployed before one is complete.
    """
    for tries_left in reversed(range(UPLOAD_TRIES_MAX)):
        deploy_id, upload_url = client.upload_url(site)
        try:
            with narrator.progress("Uploading", path.stat().st_size) as advance:
                client.upload(upload_url, path, on_progress=advance)
            return deploy_id
        except UnableToReachServer as error:
            if not tries_left:
                raise
            narrator.warn(f"The upload broke off. Trying again. {error}")
    raise AssertionError("unreachable: the last try returns or raises")


def provision(client: Client, deploy_id: str, narrator: Narrator) -> Key:
    """Give the site its gateway key, and redeploy it when the key is a new one.

    A key that was there before the deploy is already in the release just made. Returns when the
    release with the key answers requests. Raises UnableToActivate and what `Client` raises.
    """
    answer = client.provision(deploy_id)
    warnings = answer.get("warnings")
    key = Key(
        prefix=key_prefix(str(answer.get("apiKey") or "")),
        base_url=str(answer.get("baseUrl") or ""),
        is_new=answer.get("isNew") is not False,
        warnings=tuple(map(str, warnings)) if isinstance(warnings, list) else (),
    )
    for warning in key.warnings:
        narrator.warn(warning)
    if key.is_new:
        narrator.say(f"Gateway key {key.prefix}... made. Redeploying, so that the app has it ...")
        redeploy(client, deploy_id)
    else:
        narrator.say(f"Gateway key {key.prefix}... is in place.")
    return key


def redeploy(
    client: Client,
    deploy_id: str,
    *,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Release the current bundle again and wait until that release is the active one.

    Raises UnableToActivate when it fails or takes longer than ACTIVATION_SECONDS_MAX.
    """
    await_release(client, deploy_id, client.redeploy(deploy_id), pause=pause, clock=clock)


def await_release(
    client: Client,
    deploy_id: str,
    release_id: str,
    *,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until a release that is being made is the active one. Raises UnableToActivate."""
    deadline = clock() + ACTIVATION_SECONDS_MAX
    while clock() < deadline:
        if any(_is_released(row, release_id) for row in client.releases(deploy_id)):
            return
        pause(POLL_SECONDS)
    raise UnableToActivate(
        f"Release {release_id} of {deploy_id} was not active after {ACTIVATION_SECONDS_MAX:.0f} s. "
        "It may still become so: look at `info`, and at the server's own log."
    )


def _is_released(row: dict[str, Any], release_id: str) -> bool:
    """Whether this is the release and it answers requests. Raises UnableToActivate if it failed."""
    if row.get("releaseId") != release_id:
        return False
    if row.get("status") == "failed":
        raise UnableToActivate(f"The redeploy failed: {row.get('failure') or 'no reason given'}")
    # A later deploy may replace the release before it is seen active; it was so in between.
    return row.get("status") in ("active", "superseded")


def key_prefix(secret: str) -> str:
    """The part of a key that may be shown: `aig_<deployId>`; of another form, nothing."""
    parts = secret.split("_", 2)
    return "_".join(parts[:2]) if len(parts) == 3 and parts[0] == "aig" else "(hidden)"
