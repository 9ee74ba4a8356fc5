"""What functions print is stored once, whoever stores it and whatever happens meanwhile."""

import uuid
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

from deployments.models import Deployment, LogDelivery, LogEntry
from deployments.runtime import log_queue, log_writer
from deployments.runtime.driver import FunctionSpec
from deployments.runtime.log_queue import Batch, Line, LogQueue
from deployments.runtime.log_writer import LogWriter
from orgs.models import Workspace
from tests import factories
from tests.deployments.waiting import until

SPEC = FunctionSpec(
    deployment_id=1,
    deploy_id="app-1",
    release_id="rel_1",
    function_name="api",
    folder=Path(),
    entry="index.mjs",
)


@pytest.fixture
def deployment(workspace: Workspace) -> Deployment:
    return factories.make_deployment(workspace=workspace)


def batch_of(*lines: tuple[int, str]) -> Batch:
    now = timezone.now()
    return Batch(
        str(uuid.uuid4()), tuple(Line(number, "api", "r1", text, now) for number, text in lines)
    )


def stored() -> list[str]:
    return list(LogEntry.objects.order_by("id").values_list("message", flat=True))


def test_a_batch_that_is_handed_out_twice_is_stored_once(deployment: Deployment) -> None:
    batch = batch_of((deployment.pk, "one"), (deployment.pk, "two"))
    log_writer.store(batch)
    log_writer.store(batch)
    assert stored() == ["one", "two"]


def test_lines_of_a_deployment_that_was_erased_hold_up_no_others(deployment: Deployment) -> None:
    log_writer.store(batch_of((deployment.pk + 1, "erased"), (deployment.pk, "kept")))
    assert stored() == ["kept"]


def test_deliveries_are_forgotten_after_a_day(deployment: Deployment) -> None:
    now = timezone.now()
    for hours in (1, 25):
        LogDelivery.objects.create(batch_id=uuid.uuid4(), stored_at=now - timedelta(hours=hours))
    assert log_writer.purge_deliveries(at=now) == 1
    assert LogDelivery.objects.count() == 1


class Store:
    """Stands where the database does, and may be away."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.messages: list[str] = []

    def __call__(self, batch: Batch) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.messages += [line.message for line in batch.lines]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_queue, "GATHER_SECONDS", 0.0)
    monkeypatch.setattr(log_writer, "RETRY_SECONDS", 0.01)


def add(queue: LogQueue, texts: Iterable[str]) -> None:
    for text in texts:
        queue.add(SPEC, "r1", text)


async def test_a_database_that_is_away_is_waited_for() -> None:
    queue, store = LogQueue(), Store(OperationalError("away"), OperationalError("still away"))
    writer = LogWriter(queue, store)
    add(queue, ["one"])
    await until(lambda: store.messages == ["one"])
    await writer.close()
    assert queue.waiting == 0


async def test_lines_that_can_never_be_stored_hold_up_no_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue, store = LogQueue(), Store(ValueError("no text"))
    writer = LogWriter(queue, store)
    add(queue, ["bad"])
    await until(lambda: not queue.waiting)
    add(queue, ["good"])
    await until(lambda: store.messages == ["good"])
    await writer.close()
    assert "Could not store 1 lines of function output." in caplog.text


async def test_closing_stores_what_waits() -> None:
    queue, store = LogQueue(), Store()
    writer = LogWriter(queue, store)
    add(queue, map(str, range(1200)))
    await writer.close()
    await writer.close()
    assert store.messages == [str(number) for number in range(1200)]


async def test_closing_does_not_wait_for_a_database_that_is_away() -> None:
    queue: Any = LogQueue()
    writer = LogWriter(queue, Store(*[OperationalError("away")] * 100))
    add(queue, ["one"])
    await writer.close()
    assert queue.waiting == 1
