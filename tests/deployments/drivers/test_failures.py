"""Functions that fail: the kind of failure, what the log says, and that the next call works."""

import pytest

from deployments.runtime.driver import Failure
from tests.deployments.drivers.conftest import MakeSubject
from tests.deployments.drivers.subjects import Subject
from tests.deployments.functions import body_of, failure_of

pytestmark = pytest.mark.functions


async def test_an_error_in_the_handler_fails_and_is_logged_with_its_stack(
    subject: Subject,
) -> None:
    spec = await subject.deploy(
        "export const handler = async () => { throw new TypeError('no luck'); }"
    )
    items = await subject.invoke(spec, request_id="r7")
    assert len(items) == 1
    assert failure_of(items).kind == Failure.HANDLER
    await subject.flush()
    rows = [row for row in subject.lines.rows if "no luck" in row.message]
    assert {row.request_id for row in rows} == {"r7"}
    assert any(
        row.message.startswith("TypeError: no luck\n    at ") and "index.mjs" in row.message
        for row in rows
    )


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("export const handler = async () => { throw 'just text'; }", "just text"),
        ("export const handler = (e, c, done) => done(new Error('by callback'))", "by callback"),
        ("export const handler = (e, c) => c.fail(new Error('by context'))", "by context"),
        (
            "export const handler = () => new Promise(() => { Promise.reject(Error('lost')); })",
            "lost",
        ),
    ],
    ids=["text", "callback", "context.fail", "unhandled-rejection"],
)
async def test_every_way_to_fail_is_a_failure_of_the_handler(
    subject: Subject, code: str, complaint: str
) -> None:
    failed = failure_of(await subject.run(code))
    assert failed.kind == Failure.HANDLER
    assert complaint in failed.message


async def test_a_function_that_failed_once_answers_the_next_time(subject: Subject) -> None:
    spec = await subject.deploy(
        "export const handler = async (e) => { if (e.fail) throw new Error('once'); return 'ok'; }"
    )
    assert failure_of(await subject.invoke(spec, {"fail": True})).kind == Failure.HANDLER
    assert body_of(await subject.invoke(spec)) == "ok"


@pytest.mark.parametrize(
    ("entry", "code", "hint"),
    [
        ("index.mjs", "export const GET = 1, POST = 2", "handler"),
        ("index.mjs", "import 'left-pad'; export const handler = 1", "left-pad"),
        ("index.js", "require('left-pad')", "left-pad"),
        ("index.mjs", "export const handler = ;", "SyntaxError"),
        ("index.mjs", "throw new Error('no database')", "no database"),
        ("index.mjs", "process.exit(3)", "exit status 3"),
    ],
    ids=["no-handler", "import", "require", "syntax", "throws", "exits"],
)
async def test_a_function_that_cannot_load_says_why(
    subject: Subject, entry: str, code: str, hint: str
) -> None:
    failed = failure_of(await subject.run(code, entry=entry))
    assert failed.kind == Failure.INIT
    assert hint in failed.message
    await subject.flush()
    assert hint in subject.lines.text


async def test_a_function_that_loads_for_ever_is_stopped(make_subject: MakeSubject) -> None:
    subject = await make_subject(init_seconds=0.5, timeout_seconds=1)
    failed = failure_of(await subject.run("for (;;) {}"))
    assert failed.kind in (Failure.INIT, Failure.TIMEOUT)


@pytest.mark.parametrize("wait", ["for (;;) {}", "await new Promise(() => {});"])
async def test_a_handler_over_its_time_is_stopped_and_the_next_one_answers(
    make_subject: MakeSubject, wait: str
) -> None:
    subject = await make_subject(timeout_seconds=1)
    spec = await subject.deploy(
        f"export const handler = async (e) => {{ if (e.hang) {{ {wait} }} return 'ok'; }}"
    )
    failed = failure_of(await subject.invoke(spec, {"hang": True}))
    assert failed.kind == Failure.TIMEOUT
    await subject.flush()
    assert "Task timed out after 1.00 seconds" in subject.lines.text
    assert body_of(await subject.invoke(spec)) == "ok"


async def test_a_stream_over_its_time_fails_after_what_it_had_sent(
    make_subject: MakeSubject,
) -> None:
    subject = await make_subject(timeout_seconds=1)
    items = await subject.run(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " stream.write('begun'); await new Promise(() => {}); })"
    )
    assert len(items) == 3
    assert failure_of(items).kind == Failure.TIMEOUT


async def test_a_crash_fails_the_request_and_the_next_one_gets_a_new_instance(
    subject: Subject,
) -> None:
    spec = await subject.deploy(
        "let calls = 0; export const handler = async (e) => {"
        " if (e.crash) process.exit(7); return ++calls; }"
    )
    assert body_of(await subject.invoke(spec)) == "1"
    failed = failure_of(await subject.invoke(spec, {"crash": True}))
    assert failed.kind == Failure.CRASH
    assert "exit status 7" in failed.message
    assert body_of(await subject.invoke(spec)) == "1"


async def test_a_function_that_eats_its_memory_fails_as_a_crash(subject: Subject) -> None:
    spec = await subject.deploy(
        "export const handler = async () => {"
        " const all = []; for (;;) all.push(new Array(100000).fill(Math.random())); }",
        memory_mb=128,
    )
    assert failure_of(await subject.invoke(spec)).kind == Failure.CRASH
