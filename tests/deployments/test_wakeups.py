"""Hints of new lines: within a process, between processes, from threads, with the layer away."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments import wakeups
from deployments.wakeups import Wakeups
from tests.gateway.redis_server import RedisServer

SECONDS_MAX = 20.0


@pytest.fixture(autouse=True)
def _joins_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeups, "REJOIN_SECONDS", 0.2)


@pytest.fixture
def redis(tmp_path: Path, settings: Any) -> Iterator[RedisServer]:
    """The channel layer's Redis."""
    server = RedisServer(tmp_path)
    server.start()
    use_redis(settings, server.url)
    yield server
    server.close()


def use_redis(settings: Any, url: str) -> None:
    backend = "channels_redis.core.RedisChannelLayer"
    settings.CHANNEL_LAYERS = {"default": {"BACKEND": backend, "CONFIG": {"hosts": [url]}}}


@pytest.fixture
async def here() -> AsyncIterator[Wakeups]:
    made = Wakeups()
    yield made
    await made.close()


@pytest.fixture
async def elsewhere() -> AsyncIterator[Wakeups]:
    made = Wakeups()
    yield made
    await made.close()


async def announced_until_heard(source: Wakeups, event: asyncio.Event, deployment_id: int) -> None:
    """A group takes a moment to be joined, so what is announced before is not heard."""
    async with asyncio.timeout(SECONDS_MAX):
        while not event.is_set():
            source.announce([deployment_id])
            await asyncio.sleep(0.05)


async def test_watchers_hear_of_their_own_deployment_from_any_thread(here: Wakeups) -> None:
    with here.watching(1) as one, here.watching(1) as same, here.watching(2) as other:
        await asyncio.to_thread(here.announce, [1, 3])
        async with asyncio.timeout(SECONDS_MAX):
            await one.wait()
            await same.wait()
        assert not other.is_set()
    assert not here._watchers


async def test_other_processes_hear_it_through_the_channel_layer(
    redis: RedisServer, here: Wakeups, elsewhere: Wakeups
) -> None:
    with elsewhere.watching(7) as event:
        await announced_until_heard(here, event, 7)


async def test_a_flushed_redis_is_joined_again(
    redis: RedisServer, here: Wakeups, elsewhere: Wakeups
) -> None:
    with elsewhere.watching(7) as event:
        await announced_until_heard(here, event, 7)
        redis.client.flushall()
        event.clear()
        await announced_until_heard(here, event, 7)


async def test_a_layer_that_is_away_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(wakeups, "RETRY_SECONDS", 0.05)
    use_redis(settings, "redis://127.0.0.1:1/0")
    here = Wakeups()
    try:
        with here.watching(1) as event:
            for _ in range(3):
                event.clear()
                here.announce([1])
                async with asyncio.timeout(SECONDS_MAX):
                    await event.wait()
                await asyncio.sleep(0.1)
        assert not any(task.done() for task in here._tasks)
    finally:
        await here.close()


async def test_a_process_that_does_not_serve_tells_nobody() -> None:
    wakeups.announce([1])
    await wakeups.start()
    await wakeups.stop()
    await wakeups.stop()
    wakeups.announce([1])
