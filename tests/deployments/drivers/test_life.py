"""Instances, releases and concurrency, as far as a visitor or owner can see them."""

import asyncio
import json
from dataclasses import replace

import pytest

from deployments.runtime.driver import Chunk, Done, Event, Failure, FunctionSpec, InvokeContext
from tests.deployments.drivers.conftest import MakeSubject
from tests.deployments.drivers.subjects import GATE, Subject
from tests.deployments.functions import body_of, failure_of

pytestmark = pytest.mark.functions

COUNT = "let n = 0; export const handler = async () => ++n"
WAITING = (
    GATE + "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
    "  if (event.wait) { stream.write('begun '); await gate(); } stream.end('done'); });"
)


def is_cold(items: list[Event]) -> bool:
    assert isinstance(items[-1], Done), items
    return items[-1].cold


async def test_a_warm_instance_is_used_again_and_says_so(subject: Subject) -> None:
    spec = await subject.deploy(COUNT)
    first, second = await subject.invoke(spec), await subject.invoke(spec)
    assert (body_of(first), body_of(second)) == ("1", "2")
    assert (is_cold(first), is_cold(second)) == (True, False)


async def test_a_new_release_runs_its_own_code_and_environment(subject: Subject) -> None:
    code = "export const handler = async () => `{} ${{process.env.COLOUR}} ${{++n}}`; let n = 0;"
    old = await subject.deploy(code.format("old"), environment={"COLOUR": "red"})
    assert body_of(await subject.invoke(old)) == "old red 1"
    new = await subject.deploy(
        code.format("new"), release_id="rel_2", environment={"COLOUR": "blue"}
    )
    assert body_of(await subject.invoke(new)) == "new blue 1"
    # Requests that were on their way when the release changed still get their own.
    assert body_of(await subject.invoke(old)).startswith("old red ")


async def test_a_release_of_the_same_code_takes_its_own_environment(subject: Subject) -> None:
    code = "export const handler = async () => process.env.COLOUR"
    old = await subject.deploy(code, environment={"COLOUR": "red"})
    new = await subject.deploy(code, release_id="rel_2", environment={"COLOUR": "blue"})
    answers = [body_of(await subject.invoke(spec)) for spec in (old, new, old)]
    assert answers == ["red", "blue", "red"]


async def test_deployments_share_no_instance(subject: Subject) -> None:
    mine = await subject.deploy(COUNT)
    theirs = replace(mine, deployment_id=2, deploy_id="app-2", release_id="rel_2")
    await subject.driver.prepare(theirs)
    assert [body_of(await subject.invoke(spec)) for spec in (mine, theirs)] == ["1", "1"]


async def test_preparing_again_changes_nothing(subject: Subject) -> None:
    spec = await subject.deploy(COUNT)
    await subject.driver.prepare(spec)
    assert body_of(await subject.invoke(spec)) == "1"
    await subject.driver.prepare(spec)
    assert body_of(await subject.invoke(spec)) == "2"


async def test_a_retired_release_can_be_gone_back_to(subject: Subject) -> None:
    old = await subject.deploy(COUNT)
    assert body_of(await subject.invoke(old)) == "1"
    new = await subject.deploy("export const handler = async () => 'new'", release_id="rel_2")
    await subject.driver.retire(old)
    assert body_of(await subject.invoke(new)) == "new"
    await subject.driver.prepare(old)
    assert body_of(await subject.invoke(old)) == "1"


async def test_a_deleted_deployment_can_be_deleted_again(subject: Subject) -> None:
    spec = await subject.deploy(COUNT)
    await subject.invoke(spec)
    await subject.driver.delete(spec.deploy_id, [spec.function_name])
    await subject.driver.delete(spec.deploy_id, [spec.function_name, "never-there"])
    await subject.driver.prepare(spec)
    assert body_of(await subject.invoke(spec)) == "1"


async def test_requests_at_once_run_at_once_each_in_an_instance_of_its_own(
    subject: Subject,
) -> None:
    spec = await subject.deploy(WAITING)
    begun = asyncio.Semaphore(0)
    running = [asyncio.create_task(_run_and_tell(subject, spec, begun)) for _ in range(3)]
    for _ in running:
        await begun.acquire()
    subject.open_gate(spec)
    assert [body_of(items) for items in await asyncio.gather(*running)] == ["begun done"] * 3


async def _run_and_tell(
    subject: Subject, spec: FunctionSpec, begun: asyncio.Semaphore
) -> list[Event]:
    items = []
    event = json.dumps({"wait": True}).encode()
    async for item in subject.driver.invoke(spec, event, InvokeContext("r1")):
        items.append(item)
        if item == Chunk(b"begun "):
            begun.release()
    return items


async def test_requests_over_the_concurrency_of_a_deployment_are_refused(
    make_subject: MakeSubject,
) -> None:
    subject = await make_subject(concurrency=1, wait_seconds=0.1)
    spec = await subject.deploy(WAITING)
    begun = asyncio.Semaphore(0)
    first = asyncio.create_task(_run_and_tell(subject, spec, begun))
    await begun.acquire()
    refused = failure_of(await subject.invoke(spec))
    assert refused.kind == Failure.THROTTLED
    subject.open_gate(spec)
    assert body_of(await first) == "begun done"
    assert body_of(await subject.invoke(spec)) == "done"


async def test_a_request_that_is_cancelled_leaves_the_function_usable(subject: Subject) -> None:
    spec = await subject.deploy(WAITING)
    begun = asyncio.Semaphore(0)
    running = asyncio.create_task(_run_and_tell(subject, spec, begun))
    await begun.acquire()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    subject.open_gate(spec)
    assert body_of(await subject.invoke(spec)) == "done"


async def test_a_reader_that_takes_its_time_gets_everything(subject: Subject) -> None:
    """Back-pressure: far more than any buffer between function and reader holds."""
    spec = await subject.deploy(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " for (let i = 0; i < 100; i++)"
        "   await new Promise((go) => stream.write(Buffer.alloc(65536, 97 + i % 26), go));"
        " stream.end(); })"
    )
    received = 0
    async for item in subject.driver.invoke(spec, b"{}", InvokeContext("r1")):
        if isinstance(item, Chunk):
            received += len(item.data)
            await asyncio.sleep(0.001)
    assert received == 100 * 65536
