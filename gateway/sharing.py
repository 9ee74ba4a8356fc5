"""Counts over all processes, in Redis: one round trip per call, and never a reason to fail one.

Owns the keys and what becomes of them: counts of a minute expire after it, a call in flight is a
member of a sorted set that its process renews, so that a killed process leaves no slot behind for
longer than SLOT_SECONDS. Redis only helps: when it is away, slow, emptied or holds something else
under our keys, `take` answers None and the process's own windows decide. Must know no money.

While one round trip is under way the next calls gather and share one: a single connection, in
order, so that what was given back is free before the next call asks.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.windows import WINDOW_SECONDS, Counter, ScopeLimits, minute_of
from orgs import digests

ROUND_TRIP_SECONDS_MAX = 0.1
# After a failure Redis is left alone for so long: a call must not wait for it each time.
RETRY_SECONDS = 2.0
WARN_EVERY_SECONDS = 60.0
SLOT_SECONDS = 60.0
RENEW_SECONDS = 20.0
KEY_SECONDS = 2 * WINDOW_SECONDS
# Calls that share a round trip, and calls that may wait for one; beyond it they count alone.
TOGETHER_MAX = 200
QUEUE_MAX = 5_000

log = structlog.get_logger(__name__)

Command = tuple[Any, ...]
Answers = list[Any] | None


@dataclass(frozen=True, slots=True)
class _Errand:
    """Commands to send together, and who waits for their answers."""

    commands: list[Command]
    answers: "asyncio.Future[Answers] | None"


class SharedWindows:
    """The counters all processes share; one object per process and event loop."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(
            url,
            # One limit for a whole round trip, below: a timer for every reply costs more than it.
            socket_timeout=None,
            socket_connect_timeout=ROUND_TRIP_SECONDS_MAX,
            # A command tried twice would count twice.
            retry=Retry(NoBackoff(), 0),
        )
        # Two installations may share one Redis.
        self._prefix = f"aig:{digests.digest('limits')[:8]}"
        self._slots: dict[str, tuple[str, ...]] = {}
        self._queue: deque[_Errand] = deque()
        self._sender: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._away_until = 0.0
        self._silent_until = 0.0

    async def close(self) -> None:
        """Send what is queued, within a moment, and close the connection."""
        if self._renewal is not None:
            self._renewal.cancel()
        if self._sender is not None:
            await asyncio.wait([self._sender], timeout=2 * ROUND_TRIP_SECONDS_MAX)
            self._sender.cancel()
        with contextlib.suppress(RedisError, OSError):
            await self._redis.aclose()

    async def take(
        self, call: str, scopes: Sequence[ScopeLimits], tokens: int, now: float
    ) -> list[Counter] | None:
        """Count one call in every scope and answer what each has used, this call included.

        `call` names the call's slots. None when Redis cannot be used now. Cancelling it may leave
        the call counted; its slots are free once it is noted as ended.
        """
        if time.monotonic() < self._away_until or len(self._queue) >= QUEUE_MAX:
            return None
        self._hold_slots(call, scopes)
        minute = minute_of(now)
        commands = [
            command for limits in scopes for command in self._count(call, limits, tokens, now)
        ]
        waiting: asyncio.Future[Answers] = asyncio.get_running_loop().create_future()
        self._send(_Errand(commands, waiting))
        answers = await waiting
        if answers is None:
            return None
        found = iter(answers)
        return [_read(found, limits, minute) for limits in scopes]

    def note(
        self, call: str, scopes: Sequence[ScopeLimits], *, requests: int, tokens: int, minute: int
    ) -> None:
        """The call ended: free its slots and add to the counts of its minute, without waiting."""
        self._slots.pop(call, None)
        is_current = minute_of(time.time()) == minute
        commands: list[Command] = []
        for limits in scopes:
            for kind, limit, amount in _amounts(limits, requests, tokens):
                if limit is not None and amount and is_current:
                    commands += self._add(limits, kind, minute, amount)
            if limits.concurrency is not None:
                commands.append(("ZREM", self._running(limits), call))
        # What cannot be told is forgotten: counts and slots expire by themselves.
        if commands and time.monotonic() >= self._away_until and len(self._queue) < QUEUE_MAX:
            self._send(_Errand(commands, None))

    # --- commands ----------------------------------------------------------------------------

    def _count(self, call: str, limits: ScopeLimits, tokens: int, now: float) -> Iterator[Command]:
        """One scope's commands; `_read` reads their answers."""
        for kind, limit, amount in _amounts(limits, 1, tokens):
            if limit is not None:
                yield from self._add(limits, kind, minute_of(now), amount)
        if limits.concurrency is not None:
            name = self._running(limits)
            yield ("ZREMRANGEBYSCORE", name, "-inf", now)
            yield ("ZADD", name, now + SLOT_SECONDS, call)
            yield ("ZCARD", name)
            yield ("EXPIRE", name, KEY_SECONDS)

    def _add(self, limits: ScopeLimits, kind: str, minute: int, amount: int) -> list[Command]:
        name = f"{self._prefix}:{limits.scope}:{limits.scope_id}:{kind}:{minute}"
        return [("INCRBY", name, amount), ("EXPIRE", name, KEY_SECONDS)]

    def _running(self, limits: ScopeLimits) -> str:
        return f"{self._prefix}:{limits.scope}:{limits.scope_id}:running"

    # --- slots -------------------------------------------------------------------------------

    def _hold_slots(self, call: str, scopes: Sequence[ScopeLimits]) -> None:
        names = tuple(self._running(one) for one in scopes if one.concurrency is not None)
        if names:
            self._slots[call] = names
            if self._renewal is None:
                self._renewal = asyncio.get_running_loop().create_task(self._renew_slots())

    async def _renew_slots(self) -> None:
        """Keep the slots of calls in flight from expiring, for as long as this process lives."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            if time.monotonic() < self._away_until:
                continue
            expires_at = time.time() + SLOT_SECONDS
            for call, names in self._slots.items():
                commands: list[Command] = []
                for name in names:
                    commands += [("ZADD", name, expires_at, call), ("EXPIRE", name, KEY_SECONDS)]
                self._send(_Errand(commands, None))

    # --- the connection ----------------------------------------------------------------------

    def _send(self, errand: _Errand) -> None:
        self._queue.append(errand)
        if self._sender is None or self._sender.done():
            self._sender = asyncio.get_running_loop().create_task(self._send_queued())

    async def _send_queued(self) -> None:
        """Send what is queued, so much at a time, until nothing is."""
        while self._queue:
            number = min(len(self._queue), TOGETHER_MAX)
            together = [self._queue.popleft() for _ in range(number)]
            answers = await self._execute([one for each in together for one in each.commands])
            start = 0
            for errand in together:
                end = start + len(errand.commands)
                self._answer(errand, None if answers is None else answers[start:end])
                start = end
            if answers is None:  # whoever waits for the next try would wait in vain
                while self._queue:
                    self._answer(self._queue.popleft(), None)

    def _answer(self, errand: _Errand, answers: Answers) -> None:
        wrong = next((one for one in answers or () if isinstance(one, Exception)), None)
        if wrong is not None:  # something else lies under one of our keys
            self._warn(wrong)
            answers = None
        if errand.answers is not None and not errand.answers.done():
            errand.answers.set_result(answers)

    async def _execute(self, commands: list[Command]) -> Answers:
        """The answers in order, None when Redis cannot be used: then it is left alone a while."""
        pipeline: Any = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        try:
            async with asyncio.timeout(ROUND_TRIP_SECONDS_MAX):
                answers: list[Any] = await pipeline.execute(raise_on_error=False)
                return answers
        except (RedisError, OSError, TimeoutError) as error:
            self._away_until = time.monotonic() + RETRY_SECONDS
            self._warn(error)
            return None

    def _warn(self, error: Exception) -> None:
        """Say once a minute, not once a call, that this process decides alone."""
        if time.monotonic() < self._silent_until:
            return
        self._silent_until = time.monotonic() + WARN_EVERY_SECONDS
        log.warning(
            "limits are not shared: Redis cannot be used, this process counts alone",
            error=f"{type(error).__name__}: {error}"[:200],
        )


def _amounts(
    limits: ScopeLimits, requests: int, tokens: int
) -> tuple[tuple[str, int | None, int], ...]:
    return (
        ("requests", limits.requests_per_minute, requests),
        ("tokens", limits.tokens_per_minute, tokens),
    )


def _read(answers: Iterator[Any], limits: ScopeLimits, minute: int) -> Counter:
    """What one scope has used, from the answers to the commands of `_count`."""
    counter = Counter(minute)
    if limits.requests_per_minute is not None:
        counter.requests, _ = int(next(answers)), next(answers)
    if limits.tokens_per_minute is not None:
        counter.tokens, _ = int(next(answers)), next(answers)
    if limits.concurrency is not None:
        _, _, counter.running, _ = (int(next(answers)) for _ in range(4))
    return counter
