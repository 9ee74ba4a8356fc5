"""Limits over several processes, through a real Redis that is also emptied, killed and broken."""

import asyncio
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.conf import settings as django_settings

from billing.metering import Ending
from billing.pricing import Usage
from gateway import sharing
from gateway.budgets import Budgets
from gateway.limits import Admission, Demand, Limiter
from gateway.refusals import Refusal
from gateway.snapshot import Caller, Snapshot
from gateway.windows import ScopeLimits
from tests import factories
from tests.gateway.conftest import until
from tests.gateway.redis_server import RedisServer
from tests.gateway.test_limits import early_in_a_minute

pytestmark = pytest.mark.skipif(
    shutil.which("redis-server") is None, reason="redis-server is not installed"
)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    server.start()
    yield server
    server.close()


@pytest.fixture
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take its time: what is tested here is not how fast it is."""
    monkeypatch.setattr(sharing, "ROUND_TRIP_SECONDS_MAX", 20)


@pytest.fixture
async def limiters(redis: RedisServer, _patience: None) -> AsyncIterator[list[Limiter]]:
    """Two, as of two processes."""
    both = [Limiter(Budgets(Snapshot()), redis.url), Limiter(Budgets(Snapshot()), redis.url)]
    yield both
    for limiter in both:
        await limiter.close()


def caller(**limits: int) -> Caller:
    scope = ScopeLimits("deployment", 5, **limits, is_shared=True)
    return Caller(5, "app-1", 1, 1, "acme", 0, (), (scope,))


class Call:
    """What the limiter reads of an opening."""

    def __init__(self) -> None:
        self.call_id = uuid4()
        self.key_id = 1
        self.hold_nanos = 1


async def admit(limiter: Limiter, who: Caller, *, tokens: int = 10) -> Admission:
    demand = Demand("openai_chat", tokens, 0)
    return await limiter.admit(who, Call(), demand)  # type: ignore[arg-type]


def used(tokens: int) -> Ending:
    return factories.make_ending(usage=Usage(input=tokens))


async def refused(limiter: Limiter, who: Caller, *, tokens: int = 10) -> Refusal:
    with pytest.raises(Refusal) as raised:
        await admit(limiter, who, tokens=tokens)
    return raised.value


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "not shared" in record.getMessage()]


# --- working together -------------------------------------------------------------------------


async def test_requests_are_counted_over_all_processes(limiters: list[Limiter]) -> None:
    await early_in_a_minute()
    who = caller(requests_per_minute=4)
    admitted = [await admit(limiters[number % 2], who) for number in range(4)]
    assert [one.headers["x-ratelimit-remaining-requests"] for one in admitted] == list("3210")
    refusal = await refused(limiters[0], who)
    assert refusal.extra == {"scope": "deployment", "limit": 4, "used": 4, "requested": 1}
    assert refusal.headers["x-ratelimit-remaining-requests"] == "0"


async def test_what_was_refused_does_not_count(limiters: list[Limiter], redis: RedisServer) -> None:
    await early_in_a_minute()
    who = caller(tokens_per_minute=100)
    await admit(limiters[0], who, tokens=60)
    assert (await refused(limiters[1], who, tokens=50)).extra["used"] == 60
    # Given back after the refusal: what fits is let in as soon as that has arrived.
    await until(lambda: _counted(redis, "tokens", 60))
    await admit(limiters[1], who, tokens=40)


async def _counted(redis: RedisServer, kind: str, value: int) -> bool:
    keys = redis.client.keys(f"*:{kind}:*")
    return [int(redis.client.get(key) or 0) for key in keys] == [value]


async def test_tokens_are_trued_up_for_everybody(
    limiters: list[Limiter], redis: RedisServer
) -> None:
    await early_in_a_minute()
    who = caller(tokens_per_minute=100)
    admission = await admit(limiters[0], who, tokens=90)
    await refused(limiters[1], who, tokens=50)
    await until(lambda: _counted(redis, "tokens", 90))
    admission.end(used(20))
    admission.end(used(20))
    await until(lambda: _counted(redis, "tokens", 20))
    assert (await admit(limiters[1], who, tokens=50)).headers["x-ratelimit-remaining-tokens"] == (
        "30"
    )


async def test_calls_at_once_are_counted_over_all_processes(
    limiters: list[Limiter], redis: RedisServer
) -> None:
    who = caller(concurrency=2)
    first = await admit(limiters[0], who)
    await admit(limiters[1], who)
    for limiter in limiters:
        # Two, or three for a moment: what a refused call took is given back after its refusal.
        assert (await refused(limiter, who)).extra["used"] in (2, 3)
    first.end(used(1))

    async def is_free() -> bool:
        return int(redis.client.zcard(redis.client.keys("*:running")[0])) == 1

    await until(is_free)
    await admit(limiters[1], who)


async def test_racing_processes_never_exceed_the_limit(limiters: list[Limiter]) -> None:
    await early_in_a_minute()
    who = caller(requests_per_minute=30, concurrency=25)
    results = await asyncio.gather(
        *(admit(limiters[number % 2], who) for number in range(100)), return_exceptions=True
    )
    assert {type(one) for one in results} == {Admission, Refusal}
    assert sum(isinstance(one, Admission) for one in results) <= 25


async def test_counts_leave_redis_by_themselves(
    limiters: list[Limiter], redis: RedisServer
) -> None:
    admission = await admit(
        limiters[0], caller(requests_per_minute=5, tokens_per_minute=50, concurrency=5)
    )
    admission.end(used(3))
    keys = redis.client.keys("*")
    assert len(keys) >= 2
    for key in keys:
        assert 0 < redis.client.ttl(key) <= sharing.KEY_SECONDS


async def test_defaults_of_the_platform_cost_no_round_trip(
    limiters: list[Limiter], redis: RedisServer
) -> None:
    scope = ScopeLimits("organization", 1, requests_per_minute=1000, is_shared=False)
    await admit(limiters[0], Caller(5, "app-1", 1, 1, "acme", 0, (), (scope,)))
    assert redis.client.keys("*") == []


KILLED = """
import asyncio, sys, django
django.setup()
from tests.gateway.test_sharing import admit, caller
from gateway.limits import Limiter
from gateway.budgets import Budgets
from gateway.snapshot import Snapshot
async def main():
    limiter = Limiter(Budgets(Snapshot()), sys.argv[1])
    await admit(limiter, caller(concurrency=1))
    print("in", flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
def other_process(redis: RedisServer) -> Iterator["subprocess.Popen[str]"]:
    """A process that has one call in flight."""
    other = subprocess.Popen(
        [sys.executable, "-c", KILLED, redis.url],
        env={
            "DJANGO_SETTINGS_MODULE": "config.settings",
            "KEY_PEPPER": django_settings.KEY_PEPPER,
            "PYTHONPATH": str(django_settings.BASE_DIR),
        },
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "in\n"
    yield other
    other.kill()
    other.wait()
    other.stdout.close()


@pytest.mark.usefixtures("_patience")
async def test_a_killed_process_leaves_no_slot_for_ever(
    redis: RedisServer,
    other_process: "subprocess.Popen[str]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limiter = Limiter(Budgets(Snapshot()), redis.url)
    assert (await refused(limiter, caller(concurrency=1))).extra["used"] == 1
    other_process.kill()
    other_process.wait()
    # As if SLOT_SECONDS had passed, in which nobody renewed the slot.
    later = time.time() + sharing.SLOT_SECONDS + 1
    monkeypatch.setattr("gateway.limits.time.time", lambda: later)
    await admit(limiter, caller(concurrency=1))
    await limiter.close()


@pytest.mark.usefixtures("_patience")
async def test_a_long_call_keeps_its_slot(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "RENEW_SECONDS", 0.05)
    limiter = Limiter(Budgets(Snapshot()), redis.url)
    await admit(limiter, caller(concurrency=1))
    name = redis.client.keys("*:running")[0]
    redis.client.zadd(name, dict.fromkeys(redis.client.zrange(name, 0, -1), 1))

    async def is_renewed() -> bool:
        scores = [score for _, score in redis.client.zrange(name, 0, -1, withscores=True)]
        return len(scores) == 1 and scores[0] > time.time()

    await until(is_renewed)
    await limiter.close()


# --- when Redis is of no help -----------------------------------------------------------------


async def test_without_redis_each_process_counts_alone_and_says_so_once(
    limiters: list[Limiter], redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await early_in_a_minute()
    redis.kill()
    with caplog.at_level(logging.WARNING):
        for limiter in limiters:
            who = caller(requests_per_minute=2)
            for _ in range(2):
                await admit(limiter, who)
            assert (await refused(limiter, who)).extra["used"] == 2
    assert len(warnings(caplog)) == len(limiters)


async def test_a_redis_that_came_back_is_used_again(
    limiters: list[Limiter], redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "RETRY_SECONDS", 0.05)
    who = caller(concurrency=100)
    await admit(limiters[0], who)
    redis.kill()
    await admit(limiters[0], who)
    redis.start()

    async def is_shared() -> bool:
        await admit(limiters[0], who)
        return bool(redis.client.keys("*:running"))

    await until(is_shared)


async def test_an_emptied_redis_changes_no_decision_of_a_process(
    limiters: list[Limiter], redis: RedisServer
) -> None:
    await early_in_a_minute()
    who = caller(requests_per_minute=2)
    for _ in range(2):
        await admit(limiters[0], who)
    redis.client.flushall()
    assert (await refused(limiters[0], who)).extra["used"] == 2


async def test_a_redis_that_hangs_holds_nobody_up(redis: RedisServer) -> None:
    limiter = Limiter(Budgets(Snapshot()), redis.url)
    who = caller(requests_per_minute=1000)
    await admit(limiter, who)
    redis.client.execute_command("CLIENT", "PAUSE", "60000", "ALL")
    for _ in range(50):
        await asyncio.wait_for(admit(limiter, who), timeout=10)
    await limiter.close()


async def test_wrong_types_under_our_keys_leave_the_process_to_count_alone(
    limiters: list[Limiter], redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    await early_in_a_minute()
    who = caller(requests_per_minute=3, concurrency=10)
    await admit(limiters[0], who)
    for key in redis.client.keys("*"):
        redis.client.delete(key)
        redis.client.lpush(key, "not ours")
    with caplog.at_level(logging.WARNING):
        await admit(limiters[0], who)
        await admit(limiters[0], who)
    assert (await refused(limiters[0], who)).extra["used"] == 3
    assert len(warnings(caplog)) == 1


async def test_a_call_that_is_cancelled_while_redis_thinks_counts_for_nothing(
    limiters: list[Limiter], redis: RedisServer
) -> None:
    limiter = limiters[0]
    who = caller(requests_per_minute=5, concurrency=1)
    await admit(limiter, who, tokens=1)
    redis.client.execute_command("CLIENT", "PAUSE", "2000", "ALL")
    waiting: Any = asyncio.ensure_future(admit(limiter, caller(requests_per_minute=5), tokens=1))
    await asyncio.sleep(0.05)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    counter = limiter.windows._counters[("deployment", 5)]
    assert (counter.requests, counter.running) == (1, 1)
