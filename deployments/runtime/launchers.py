"""Which launcher runs functions on this machine, and whether it may.

Owns the meaning of `auto`, and that a launcher that should isolate proves it before it runs
anything. Imports no Django: the function host has none.
"""

import shutil

from deployments.runtime import isolation
from deployments.runtime.driver import Launcher
from deployments.runtime.local_bwrap import LocalBwrap
from deployments.runtime.local_plain import LocalPlain

AUTO = "auto"
LAUNCHERS: dict[str, type[Launcher]] = {LocalBwrap.name: LocalBwrap, LocalPlain.name: LocalPlain}
"""Launchers by the name FUNCTION_DRIVER has for them."""

INSTALL = (
    "bubblewrap is not installed, so functions cannot be isolated. Install it "
    "(Debian, Ubuntu: apt install bubblewrap; Fedora: dnf install bubblewrap), or set "
    "FUNCTION_DRIVER=local-plain to run them without isolation."
)


class UnableToChoose(Exception):
    """No launcher may run functions here; the message is for the operator."""


def choose(name: str, *, allow_plain: bool) -> Launcher:
    """The launcher `name` stands for; `auto` isolates where bubblewrap is installed.

    Without bubblewrap, `auto` is `local-plain` if `allow_plain`: on a laptop, where people run
    their own code. Raises UnableToChoose.
    """
    if name == AUTO:
        name = _best(allow_plain=allow_plain)
    if name not in LAUNCHERS:
        raise UnableToChoose(
            f"FUNCTION_DRIVER={name!r} is unknown; choose one of: "
            f"{', '.join([AUTO, *LAUNCHERS])}, aws-lambda."
        )
    return LAUNCHERS[name]()


def _best(*, allow_plain: bool) -> str:
    if can_isolate():
        return LocalBwrap.name
    if allow_plain:
        return LocalPlain.name
    raise UnableToChoose(INSTALL)


def can_isolate() -> bool:
    """Whether bubblewrap is installed; whether it works is what `prove` finds out."""
    return shutil.which("bwrap") is not None


async def prove(launcher: Launcher) -> None:
    """Have a launcher that should isolate show that it does. Raises UnableToChoose."""
    if not launcher.has_own_network:
        return
    try:
        isolation.require(await isolation.verify(launcher))
    except isolation.NotIsolated as error:
        raise UnableToChoose(str(error)) from None
