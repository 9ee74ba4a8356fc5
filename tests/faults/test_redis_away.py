"""Redis dies, is emptied, stands still, holds nonsense: no number in billing changes."""

import asyncio
import socket

import pytest
from redis.exceptions import RedisError

from tests.faults.client import Clients
from tests.faults.platform import Platform, wait_for
from tests.faults.story import calls_around, every_call_ended_and_is_booked
from tests.gateway.redis_server import RedisServer

pytestmark = pytest.mark.faults

# A limit that somebody set is counted in Redis, by every call.
LIMIT = """
from gateway.models import Limit
from orgs.models import Organization
organization = Organization.objects.get(slug="demo")
Limit.objects.create(organization=organization, scope="ORGANIZATION", scope_id=organization.pk,
                     requests_per_minute=10_000, concurrency=1_000)
"""


@pytest.fixture
def redis(tmp_path):
    redis = RedisServer(tmp_path)
    redis.start()
    yield redis
    redis.close()


@pytest.fixture
def platform(upstream, redis):
    upstream.generated.clear()
    platform = Platform(upstream.port, {"REDIS_URL": redis.url})
    platform.prepare()
    platform.python(LIMIT)
    yield platform
    platform.close()


def restart_empty(redis: RedisServer) -> None:
    redis.kill()
    redis.start()


def empty(redis: RedisServer) -> None:
    assert redis.client.dbsize() > 0
    redis.client.flushall()


def pause(redis: RedisServer) -> None:
    redis.client.client_pause(60_000)


def sleep(redis: RedisServer) -> None:
    """As while somebody's slow command runs: nobody gets an answer."""
    with socket.create_connection(("127.0.0.1", redis.port)) as asking:
        asking.sendall(b"DEBUG SLEEP 60\r\n")
    wait_for(lambda: hangs(redis), what="Redis to sleep")


def hangs(redis: RedisServer) -> bool:
    """Whether it leaves a question without an answer."""
    try:
        with socket.create_connection(("127.0.0.1", redis.port), timeout=1) as asking:
            asking.sendall(b"PING\r\n")
            return not asking.recv(64)
    except TimeoutError:
        return True
    except ConnectionError:  # there is none
        return False


def hold_nonsense(redis: RedisServer) -> None:
    keys = redis.client.keys()
    assert keys
    for key in keys:
        is_list = redis.client.type(key) == b"list"
        redis.client.delete(key)
        if is_list:
            redis.client.set(key, b"nonsense")
        else:
            redis.client.rpush(key, b"nonsense")


FAULTS = {
    "killed": RedisServer.kill,
    "restarted without data": restart_empty,
    "emptied": empty,
    "paused": pause,
    "asleep": sleep,
    "full of nonsense": hold_nonsense,
}
# For a minute, longer than anybody here waits: calls go on without it.
HANGS = ("paused", "asleep")


@pytest.mark.parametrize("fault", FAULTS)
def test_calls_go_on_and_no_number_changes(platform, upstream, redis, fault):
    _, port = platform.start_web()
    clients = Clients(platform.key, [port])
    asyncio.run(calls_around(clients, lambda: FAULTS[fault](redis), lambda: None))
    assert hangs(redis) == (fault in HANGS)
    if fault == "killed":
        with pytest.raises(RedisError):
            redis.client.ping()
        redis.start()  # whoever ends gracefully, and whoever books, may look for it
    every_call_ended_and_is_booked(platform, upstream, clients)
