"""Lines wait in a bounded queue, and each batch is stored by one taker."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from deployments.runtime import log_queue
from deployments.runtime.driver import FunctionSpec
from deployments.runtime.log_queue import Batch, LogQueue

SPEC = FunctionSpec(
    deployment_id=1,
    deploy_id="app-1",
    release_id="rel_1",
    function_name="api",
    folder=Path(),
    entry="index.mjs",
)


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_queue, "GATHER_SECONDS", 0.0)


def messages(batch: Batch | None) -> list[str]:
    assert batch is not None
    return [line.message for line in batch.lines]


async def test_lines_come_out_in_order_and_are_gone_once_acknowledged() -> None:
    queue = LogQueue()
    for text in ("one", "two"):
        queue.add(SPEC, "r1", text)
    batch = await queue.take(1)
    assert messages(batch) == ["one", "two"]
    assert queue.waiting == 2
    assert batch is not None
    await queue.acknowledge(batch)
    assert queue.waiting == 0
    assert await queue.take(0) is None


async def test_a_taker_waits_for_lines() -> None:
    queue = LogQueue()
    taking = asyncio.create_task(queue.take(10))
    await asyncio.sleep(0)
    queue.add(SPEC, "r1", "late")
    assert messages(await taking) == ["late"]


async def test_of_two_takers_one_gets_the_line() -> None:
    queue = LogQueue()
    takers = [asyncio.create_task(queue.take(0.2)) for _ in range(2)]
    await asyncio.sleep(0)
    queue.add(SPEC, "r1", "once")
    taken = [batch for batch in await asyncio.gather(*takers) if batch is not None]
    assert [messages(batch) for batch in taken] == [["once"]]


async def test_a_batch_that_comes_back_is_handed_out_as_it_was_before_newer_lines() -> None:
    queue = LogQueue()
    queue.add(SPEC, "r1", "first")
    batch = await queue.take(1)
    assert batch is not None
    queue.add(SPEC, "r1", "second")
    await queue.give_back(batch)
    assert await queue.take(1) == batch
    assert messages(await queue.take(1)) == ["second"]


async def test_what_was_acknowledged_does_not_come_back() -> None:
    queue = LogQueue()
    queue.add(SPEC, "r1", "once")
    batch = await queue.take(1)
    assert batch is not None
    await queue.acknowledge(batch)
    await queue.give_back(batch)
    assert await queue.take(0) is None


@pytest.mark.parametrize(("limit", "value"), [("LINES_WAITING_MAX", 3), ("BYTES_WAITING_MAX", 12)])
async def test_what_does_not_fit_is_counted_in_the_log_it_is_missing_from(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: Any
) -> None:
    monkeypatch.setattr(log_queue, limit, value)
    queue = LogQueue()
    for text in ("aaaa", "bbbb", "cccc", "dddd", "eeee"):
        queue.add(SPEC, "r1", text)
    kept = await queue.take(1)
    assert messages(kept) == ["aaaa", "bbbb", "cccc"]
    assert queue.dropped_total == 2
    assert kept is not None
    await queue.acknowledge(kept)
    notice = await queue.take(1)
    assert messages(notice) == [
        "2 lines of output were dropped here: they could not be stored in time."
    ]
    assert notice is not None
    assert (notice.lines[0].deployment_id, notice.lines[0].function_name) == (1, "api")
