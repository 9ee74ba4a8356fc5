"""Places at which a test may kill this process: one at every arrow of the money and the deploy
protocol.

`CRASH_AT=<name>[:<n>]` in the environment kills the process with SIGKILL when it comes to that
place for the n-th time (default the first); without it, a place costs a comparison. Production
never sets it. Must know nothing else.
"""

import os
import signal


def _armed() -> tuple[str, int] | None:
    name, _, count = os.environ.get("CRASH_AT", "").partition(":")
    return (name, int(count or 1)) if name else None


_target = _armed()
_visits = 0


def reach(name: str) -> None:
    """The protocol is at the place called `name`."""
    global _visits
    if _target is None or _target[0] != name:
        return
    _visits += 1
    if _visits == _target[1]:
        os.kill(os.getpid(), signal.SIGKILL)
