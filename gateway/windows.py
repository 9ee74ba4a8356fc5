"""Counting against limits, in this process: requests and tokens per minute, calls at once.

Windows are minutes of the clock (UTC): every scope's counts restart together, so that the time to
the reset is exact. A burst around the turn of a minute may be up to twice the limit. Pure
arithmetic, microseconds per call: no clock of its own, no network, no Django.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

WINDOW_SECONDS = 60
# Nobody knows when a call in flight will end: ask again after this long.
CONCURRENCY_RETRY_SECONDS = 1.0
# Counters kept; those of earlier minutes without calls in flight are dropped beyond it.
COUNTERS_MAX = 20_000

REQUESTS, TOKENS, CONCURRENCY = "requests", "tokens", "concurrency"


@dataclass(frozen=True, slots=True)
class ScopeLimits:
    """What one scope allows; None means no limit. Budgets are nano-dollars per day and month (UTC).

    `scope` is key, deployment, workspace or organization, `scope_id` its primary key. `is_shared`
    says that somebody set it: then it is counted over all processes, if they have a Redis.
    """

    scope: str
    scope_id: int
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrency: int | None = None
    daily_nanos: int | None = None
    monthly_nanos: int | None = None
    is_shared: bool = False
    # Models that the scope's calls are confined to, by name: one must be in each of these.
    model_lists: tuple[frozenset[str], ...] = ()

    @property
    def has_budget(self) -> bool:
        """Whether money is limited here."""
        return self.daily_nanos is not None or self.monthly_nanos is not None

    def permits(self, names: Collection[str]) -> bool:
        """Whether a model that has these names, its public one and its aliases, may be used."""
        return all(not allowed.isdisjoint(names) for allowed in self.model_lists)


@dataclass(slots=True)
class Counter:
    """What one scope has used: in its minute, and right now. Used includes what is reserved."""

    minute: int
    requests: int = 0
    tokens: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class Exceeded:
    """The limit that refuses a call. `retry_after_seconds` is None when waiting cannot help."""

    kind: str
    scope: str
    limit: int
    used: int
    requested: int
    retry_after_seconds: float | None


def minute_of(now: float) -> int:
    """The number of the minute that `now` (epoch seconds) is in."""
    return int(now // WINDOW_SECONDS)


def seconds_left(now: float) -> float:
    """How long the minute that `now` (epoch seconds) is in still lasts."""
    return WINDOW_SECONDS - now % WINDOW_SECONDS


def exceeded(limits: ScopeLimits, counter: Counter, tokens: int, now: float) -> Exceeded | None:
    """The limit that one more call of so many tokens would exceed, on top of `counter`."""
    left = seconds_left(now)
    for kind, limit, used, wanted, wait in (
        (
            CONCURRENCY,
            limits.concurrency,
            counter.running,
            1,
            CONCURRENCY_RETRY_SECONDS,
        ),
        (REQUESTS, limits.requests_per_minute, counter.requests, 1, left),
        (TOKENS, limits.tokens_per_minute, counter.tokens, tokens, left),
    ):
        if limit is not None and used + wanted > limit:
            after = wait if wanted <= limit else None
            return Exceeded(kind, limits.scope, limit, used, wanted, after)
    return None


class Windows:
    """The counters of one process. Nothing here awaits, so that checking and counting are one."""

    def __init__(self) -> None:
        self._counters: dict[tuple[str, int], Counter] = {}

    def take(self, scopes: Sequence[ScopeLimits], tokens: int, now: float) -> Exceeded | None:
        """Count one call of so many tokens in every scope, or in none: then the limit it exceeds.

        `now` is epoch seconds.
        """
        minute = minute_of(now)
        counters = [self._counter(limits, minute) for limits in scopes]
        for limits, counter in zip(scopes, counters, strict=True):
            if refused := exceeded(limits, counter, tokens, now):
                return refused
        for counter in counters:
            counter.requests += 1
            counter.tokens += tokens
            counter.running += 1
        return None

    def give_back(self, scopes: Iterable[ScopeLimits], tokens: int, minute: int) -> None:
        """Undo `take`: the call was not made."""
        for limits in scopes:
            counter = self._counters.get((limits.scope, limits.scope_id))
            if counter is None:
                continue
            counter.running = max(counter.running - 1, 0)
            if counter.minute == minute:
                counter.requests = max(counter.requests - 1, 0)
                counter.tokens = max(counter.tokens - tokens, 0)

    def end(self, scopes: Iterable[ScopeLimits], tokens_more: int, minute: int) -> None:
        """The call ended and used `tokens_more` than it reserved (less: below zero).

        Tokens belong to the minute in which they were reserved; a minute that is over needs none.
        """
        for limits in scopes:
            counter = self._counters.get((limits.scope, limits.scope_id))
            if counter is None:
                continue
            counter.running = max(counter.running - 1, 0)
            if counter.minute == minute:
                counter.tokens = max(counter.tokens + tokens_more, 0)

    def used(self, limits: ScopeLimits, minute: int) -> Counter:
        """What the scope has used in that minute."""
        return self._counter(limits, minute)

    def _counter(self, limits: ScopeLimits, minute: int) -> Counter:
        name = (limits.scope, limits.scope_id)
        counter = self._counters.get(name)
        if counter is None:
            if len(self._counters) >= COUNTERS_MAX:
                self._drop_idle(minute)
            counter = self._counters[name] = Counter(minute)
        elif counter.minute != minute:
            counter.minute, counter.requests, counter.tokens = minute, 0, 0
        return counter

    def _drop_idle(self, minute: int) -> None:
        self._counters = {
            name: counter
            for name, counter in self._counters.items()
            if counter.running or counter.minute == minute
        }


def format_duration(seconds: float) -> str:
    """A duration as OpenAI's headers write it: `120ms`, `1.5s`, `6m0s`; never less than it is."""
    milliseconds = math.ceil(max(seconds, 0) * 1000)
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, milliseconds = divmod(milliseconds, 60_000)
    text = f"{milliseconds / 1000:.3f}".rstrip("0").rstrip(".")
    return f"{minutes}m{text}s" if minutes else f"{text}s"
