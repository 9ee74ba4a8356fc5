"""Circuit breakers: providers that fail are left alone for a while. Pure; time is an argument.

One breaker per provider credential and process. It opens after several failures in a row, or at
once when the provider says how long to wait (Retry-After); while open, its candidates are tried
last of all; after the wait one call may try, and the others go on as before until its answer is in.
"""

from collections.abc import Hashable
from dataclasses import dataclass

FAILURES_MAX = 5
COOL_DOWN_SECONDS = 10.0
WAIT_SECONDS_MAX = 120.0


@dataclass(slots=True)
class _Breaker:
    failures: int = 0
    open_until: float = 0.0
    is_probed: bool = False


class Breakers:
    """All breakers of a process, by whatever identifies a credential."""

    def __init__(self) -> None:
        self._breakers: dict[Hashable, _Breaker] = {}

    def seconds_left(self, name: Hashable, *, now: float) -> float:
        """How long the breaker stays open; 0 when calls may pass."""
        breaker = self._breakers.get(name)
        return max(breaker.open_until - now, 0.0) if breaker else 0.0

    def probe(self, name: Hashable, *, now: float) -> None:
        """A call is about to be made that may pass: the first one after a wait goes alone.

        Until it has succeeded or failed the breaker stays open for others; one that does neither,
        because its client left, keeps it so for a cool-down only.
        """
        breaker = self._breakers.get(name)
        if breaker and breaker.open_until:
            breaker.is_probed = True
            breaker.open_until = now + COOL_DOWN_SECONDS

    def succeeded(self, name: Hashable) -> None:
        """An answer came: forget failures."""
        self._breakers.pop(name, None)

    def failed(self, name: Hashable, *, now: float, retry_after_seconds: float = 0.0) -> None:
        """A call failed for a reason of the provider's. Opens the breaker when it is time to."""
        breaker = self._breakers.setdefault(name, _Breaker())
        breaker.failures += 1
        if retry_after_seconds > 0:
            breaker.open_until = now + min(retry_after_seconds, WAIT_SECONDS_MAX)
        elif breaker.failures >= FAILURES_MAX or breaker.is_probed:
            breaker.open_until = now + COOL_DOWN_SECONDS
