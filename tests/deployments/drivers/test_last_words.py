"""What a stream's function wrote before its process ended arrives, and then how it ended."""

import pytest

from deployments.runtime.driver import Chunk, Failure
from tests.deployments.drivers.subjects import Subject
from tests.deployments.functions import failure_of

pytestmark = pytest.mark.functions

SLEEP = "await new Promise((go) => setTimeout(go, 50));"


@pytest.mark.parametrize(
    ("code", "written"),
    [
        ("stream.write('one'); process.exit(3);", b"one"),
        (f"stream.write('one'); {SLEEP} stream.write('two'); process.exit(3);", b"onetwo"),
        ("await new Promise((go) => stream.write('one', go)); process.exit(3);", b"one"),
        ("stream.write('x'.repeat(100_000)); process.exit(3);", b"x" * 100_000),
        ("process.exit(3);", b""),
    ],
    ids=["at-once", "second-write", "after-its-callback", "large", "nothing"],
)
async def test_what_was_written_before_an_exit_arrives(
    subject: Subject, code: str, written: bytes
) -> None:
    if "last-words" in subject.differs:
        pytest.skip("its own runtime decides")
    items = await subject.run(
        f"export const handler = awslambda.streamifyResponse(async (event, stream) => {{ {code} }})"
    )
    assert failure_of(items).kind == Failure.CRASH
    assert "exit status 3" in failure_of(items).message
    assert b"".join(each.data for each in items if isinstance(each, Chunk)) == written


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("setTimeout(() => { stream.write('two'); throw new Error('late'); }, 50);", "late"),
        (f"{SLEEP} stream.write('two'); Promise.reject(new Error('lost'));", "lost"),
    ],
    ids=["error", "rejection"],
)
async def test_what_was_written_before_an_uncaught_error_arrives(
    subject: Subject, code: str, message: str
) -> None:
    if "last-words" in subject.differs:
        pytest.skip("its own runtime decides")
    items = await subject.run(
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        f" stream.write('one'); {code} await new Promise(() => {{}}); }})"
    )
    assert message in failure_of(items).message
    written = b"".join(each.data for each in items if isinstance(each, Chunk))
    assert written == b"onetwo"
