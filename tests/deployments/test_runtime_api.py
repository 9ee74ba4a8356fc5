"""The Runtime API's wire, spoken by hand over its socket."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest

from deployments.runtime.api import VERSION, RuntimeApi
from deployments.runtime.driver import Chunk, Done, Event, Failed, Failure, Head, InvokeContext
from deployments.runtime.events import INTEGRATION_RESPONSE
from deployments.runtime.invocation import BUFFERED_EVENTS_MAX, Invocation
from tests.deployments.waiting import until

STREAMING = {
    "Lambda-Runtime-Function-Response-Mode": "streaming",
    "Content-Type": INTEGRATION_RESPONSE,
}


@pytest.fixture
async def api() -> AsyncIterator[RuntimeApi]:
    with TemporaryDirectory() as folder:
        api = RuntimeApi(Path(folder) / "api.sock")
        await api.start()
        yield api
        await api.close()


@pytest.fixture
async def runtime(api: RuntimeApi) -> AsyncIterator[aiohttp.ClientSession]:
    """A client in the place of a function's process."""
    connector = aiohttp.UnixConnector(str(api.socket_path))
    async with aiohttp.ClientSession(f"http://api{VERSION}/", connector=connector) as session:
        yield session


@pytest.fixture
def invocation(api: RuntimeApi) -> Invocation:
    invocation = Invocation(b'{"a":1}', InvokeContext("r1", 30), cold=True)
    api.deliver(invocation)
    return invocation


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
        await asyncio.sleep(0)


async def events_of(invocation: Invocation) -> list[Event]:
    seen = []
    while not isinstance(item := await invocation.get(), Done | Failed):
        seen.append(item)
    return [*seen, item]


async def test_next_waits_for_an_invocation_and_carries_its_limits(
    api: RuntimeApi, runtime: aiohttp.ClientSession
) -> None:
    waiting = asyncio.create_task(runtime.get("invocation/next"))
    await api.ready.wait()
    invocation = Invocation(b'{"a":1}', InvokeContext("r1", 30), cold=True)
    api.deliver(invocation)
    answer = await waiting
    assert await answer.read() == b'{"a":1}'
    assert answer.headers["Lambda-Runtime-Aws-Request-Id"] == "r1"
    assert answer.headers["Lambda-Runtime-Deadline-Ms"] == str(invocation.deadline_ms)
    assert invocation.delivered
    assert not api.ready.is_set()


async def test_a_buffered_response_is_whole(
    runtime: aiohttp.ClientSession, invocation: Invocation
) -> None:
    answer = await runtime.post("invocation/r1/response", data=b'{"statusCode": 200, "body": "hi"}')
    assert answer.status == 202
    assert (await events_of(invocation))[:-1] == [Head(200, (), 2), Chunk(b"hi")]


async def test_the_head_of_a_stream_may_come_in_pieces(
    runtime: aiohttp.ClientSession, invocation: Invocation
) -> None:
    body = pieces(b'{"status', b'Code": 201}\0\0\0', b"\0\0\0\0\0on", b"e", b"two\0\0\0\0\0\0\0\0")
    answer = await runtime.post("invocation/r1/response", data=body, headers=STREAMING)
    assert answer.status == 202
    head, *chunks, done = await events_of(invocation)
    assert head == Head(201, ())
    assert b"".join(chunk.data for chunk in chunks) == b"onetwo\0\0\0\0\0\0\0\0"
    assert isinstance(done, Done)


@pytest.mark.parametrize(
    "body", [b"", b'{"statusCode": 200}', b"x" * 70_000, b"nonsense" + bytes(8), b"[]" + bytes(8)]
)
async def test_a_stream_without_a_proper_head_fails(
    runtime: aiohttp.ClientSession, invocation: Invocation, body: bytes
) -> None:
    await runtime.post("invocation/r1/response", data=pieces(body), headers=STREAMING)
    (failed,) = await events_of(invocation)
    assert isinstance(failed, Failed)
    assert failed.kind == Failure.RESPONSE


async def test_a_slow_reader_holds_the_function_back(
    runtime: aiohttp.ClientSession, invocation: Invocation
) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        yield b"{}" + bytes(8)
        for _ in range(200):
            taken += 1
            yield b"x" * 65536

    posting = asyncio.create_task(
        runtime.post("invocation/r1/response", data=endless(), headers=STREAMING)
    )
    await until(lambda: len(invocation._events) == BUFFERED_EVENTS_MAX)
    await asyncio.sleep(0.2)
    assert taken < 100
    items = await events_of(invocation)
    assert sum(len(item.data) for item in items if isinstance(item, Chunk)) == 200 * 65536
    assert (await posting).status == 202


async def test_another_invocations_id_is_refused(
    runtime: aiohttp.ClientSession, invocation: Invocation
) -> None:
    for path in ("invocation/other/response", "invocation/other/error"):
        assert (await runtime.post(path, data=b"{}")).status == 400
    assert invocation.outcome is None


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (
            b'{"errorType": "E", "errorMessage": "m", "stackTrace": ["E: m", " at x"]}',
            "E: m\n at x",
        ),
        (b'{"errorType": "E", "errorMessage": "m", "stackTrace": [" at x"]}', "E: m\n at x"),
        (b'{"errorType": "E", "errorMessage": "m"}', "E: m"),
        (b"not json", "not json"),
    ],
)
async def test_a_reported_error_is_the_failure(
    runtime: aiohttp.ClientSession, invocation: Invocation, report: bytes, message: str
) -> None:
    await runtime.post("invocation/r1/error", data=report)
    assert await events_of(invocation) == [Failed(Failure.HANDLER, message)]


async def test_an_error_at_the_start_is_kept_for_who_waits(
    api: RuntimeApi, runtime: aiohttp.ClientSession
) -> None:
    body: Any = b'{"errorType": "E", "errorMessage": "m"}'
    await runtime.post("init/error", data=body)
    assert await api.init_error == "E: m"


async def test_closing_ends_the_wait_of_a_process_that_is_gone(api: RuntimeApi) -> None:
    before = asyncio.all_tasks()
    connector = aiohttp.UnixConnector(str(api.socket_path))
    async with aiohttp.ClientSession(connector=connector) as process:
        asking = asyncio.create_task(process.get(f"http://api{VERSION}/invocation/next"))
        await api.ready.wait()
        asking.cancel()
    await api.close()
    await until(lambda: not asyncio.all_tasks() - before)
