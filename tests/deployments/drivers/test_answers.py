"""What a function is given and what becomes of its answer, with every driver."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from deployments.runtime import events
from deployments.runtime.driver import Failure, Head, InvokeContext
from tests.deployments.drivers.subjects import Subject
from tests.deployments.functions import body_of, bytes_of, failure_of

pytestmark = pytest.mark.functions

ECHO = "export const handler = async (event) => ({statusCode: 200, body: JSON.stringify(event)})"


@pytest.mark.parametrize(
    ("entry", "code", "files"),
    [
        ("index.mjs", "export const handler = async (e) => ({statusCode: 201, body: e.name})", {}),
        ("index.js", "exports.handler = async (e) => ({statusCode: 201, body: e.name})", {}),
        (
            "index.cjs",
            "module.exports = {handler: async (e) => ({statusCode: 201, body: e.name})}",
            {},
        ),
        (
            "index.js",
            "exports.handler = (e, c, cb) => cb(null, {statusCode: 201, body: e.name})",
            {},
        ),
        ("index.js", "exports.handler = (e, c) => c.succeed({statusCode: 201, body: e.name})", {}),
        ("index.js", "exports.handler = (e) => ({statusCode: 201, body: e.name})", {}),
        (
            "index.js",
            "export const handler = async (e) => ({statusCode: 201, body: e.name})",
            {"package.json": '{"type": "module"}'},
        ),
        (
            "index.mjs",
            "import {reply} from './lib/reply.mjs'; export const handler = async (e) => reply(e)",
            {"lib/reply.mjs": "export const reply = (e) => ({statusCode: 201, body: e.name})"},
        ),
    ],
    ids=[
        "esm",
        "commonjs",
        "cjs",
        "callback",
        "context.succeed",
        "synchronous",
        "package-type-module",
        "several-files",
    ],
)
async def test_every_style_of_handler_answers(
    subject: Subject, entry: str, code: str, files: dict[str, str]
) -> None:
    items = await subject.run(code, {"name": "Zoë"}, entry=entry, files=files)
    assert items[0] == Head(201, (), 4)
    assert body_of(items) == "Zoë"


@pytest.mark.parametrize(
    ("value", "body"),
    [
        ("'plain text'", "plain text"),
        ("({hello: 'Zoë'})", '{"hello": "Zoë"}'),
        ("[1, 2]", "[1, 2]"),
        ("42", "42"),
        ("null", "null"),
        ("undefined", "null"),
        ("({body: 'no status'})", '{"body": "no status"}'),
    ],
)
async def test_a_value_without_a_status_is_the_body_of_a_200(
    subject: Subject, value: str, body: str
) -> None:
    items = await subject.run(f"export const handler = async () => {value}")
    assert items[0] == Head(200, (("content-type", "application/json"),), len(body.encode()))
    assert body_of(items) == body


async def test_headers_of_one_and_several_values_and_cookies_arrive(subject: Subject) -> None:
    items = await subject.run(
        "export const handler = async () => ({statusCode: 302,"
        " headers: {'Location': '/next', 'X-Count': 7, 'X-Flag': true, 'Connection': 'close'},"
        " multiValueHeaders: {'X-Many': ['a', 'b']}, cookies: ['a=1; Path=/', 'b=2']})"
    )
    assert items[0] == Head(
        302,
        (
            ("location", "/next"),
            ("x-count", "7"),
            ("x-flag", "true"),
            ("x-many", "a"),
            ("x-many", "b"),
            ("set-cookie", "a=1; Path=/"),
            ("set-cookie", "b=2"),
        ),
        0,
    )
    assert body_of(items) == ""


async def test_a_base64_body_arrives_as_bytes(subject: Subject) -> None:
    items = await subject.run(
        "export const handler = async () => ({statusCode: 200, isBase64Encoded: true,"
        " headers: {'content-type': 'image/png'},"
        " body: Buffer.from([0, 255, 10, 128]).toString('base64')})"
    )
    assert items[0] == Head(200, (("content-type", "image/png"),), 4)
    assert bytes_of(items) == b"\x00\xff\n\x80"


async def test_a_function_reads_its_request_in_either_version_of_the_event(
    subject: Subject,
) -> None:
    request = events.Request(
        method="POST",
        raw_path="/a%20b",
        query="q=1&q=2&empty=",
        headers=[("host", "app-1.localhost"), ("cookie", "theme=dark; lang=de"), ("x-a", "ü")],
        body="Grüße".encode(),
        scheme="https",
        host="app-1.localhost",
        client="192.0.2.1",
        protocol="HTTP/1.1",
    )
    sent = events.event_of(request, request_id="r1", at=datetime.now(UTC))
    spec = await subject.deploy(ECHO)
    items = [item async for item in subject.driver.invoke(spec, sent, InvokeContext("r1"))]
    seen = json.loads(body_of(items))
    assert seen == json.loads(sent)
    assert (seen["httpMethod"], seen["path"]) == ("POST", "/a%20b")  # version 1.0
    assert (seen["version"], seen["rawPath"]) == ("2.0", "/a%20b")
    assert seen["requestContext"]["http"]["method"] == "POST"
    assert seen["body"] == "Grüße"


async def test_a_binary_body_is_given_as_base64(subject: Subject) -> None:
    request = events.Request(
        "PUT", "/", "", [], b"\xff\x00", "https", "app-1.localhost", "192.0.2.1", "HTTP/1.1"
    )
    sent = events.event_of(request, request_id="r1", at=datetime.now(UTC))
    spec = await subject.deploy(
        "export const handler = async (e) => [...Buffer.from(e.body, 'base64'), e.isBase64Encoded]"
    )
    items = [item async for item in subject.driver.invoke(spec, sent, InvokeContext("r1"))]
    assert json.loads(body_of(items)) == [255, 0, True]


async def test_a_large_request_arrives_whole(subject: Subject) -> None:
    spec = await subject.deploy(
        "export const handler = async (e) => `${e.body.length} ${e.body.slice(-3)}`"
    )
    assert body_of(await subject.invoke(spec, {"body": "x" * 4_000_000 + "end"})) == "4000003 end"


async def test_the_context_has_the_members_lambda_documents(subject: Subject) -> None:
    spec = await subject.deploy(
        "export const handler = async (e, c) => ({...c, left: c.getRemainingTimeInMillis()})"
    )
    context = json.loads(body_of(await subject.invoke(spec, request_id="abc")))
    assert 0 < context.pop("left") <= 30_000
    assert {name: type(value) for name, value in context.items()} == {
        "awsRequestId": str,
        "callbackWaitsForEmptyEventLoop": bool,
        "functionName": str,
        "functionVersion": str,
        "invokedFunctionArn": str,
        "logGroupName": str,
        "logStreamName": str,
        "memoryLimitInMB": str,
    }
    assert context["memoryLimitInMB"] == "1024"
    assert context["functionName"] in context["invokedFunctionArn"]
    assert context["logGroupName"] == f"/aws/lambda/{context['functionName']}"
    assert "app-1" in context["functionName"]
    if "request-id" not in subject.differs:
        assert context["awsRequestId"] == "abc"


async def test_the_environment_is_the_releases_and_lambdas_own(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://secret")
    environment = {"OPENAI_API_KEY": "aig_x", "TZ": "Europe/Vienna", "EMPTY": "", "UML": "ü=1\n2"}
    spec = await subject.deploy(
        "export const handler = async () => process.env", environment=environment, memory_mb=512
    )
    seen: dict[str, Any] = json.loads(body_of(await subject.invoke(spec)))
    assert {name: seen.get(name) for name in environment} == environment
    assert seen["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"] == "512"
    assert seen["_HANDLER"] == "index.handler"
    assert seen["AWS_EXECUTION_ENV"].startswith("AWS_Lambda_nodejs")
    assert "LAMBDA_TASK_ROOT" in seen
    assert "DATABASE_URL" not in seen
    assert not [name for name in seen if name.startswith(("AIG_", "DJANGO"))]


async def test_an_answer_just_below_the_limit_arrives_whole(subject: Subject) -> None:
    items = await subject.run("export const handler = async () => 'x'.repeat(6 * 1024 * 1024 - 2)")
    assert len(bytes_of(items)) == 6 * 1024 * 1024 - 2


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("({statusCode: 'many'})", "statusCode must be a number"),
        ("({statusCode: 99})", "statusCode must be a number"),
        ("({statusCode: 200, headers: [1]})", "headers must be an object"),
        ("({statusCode: 200, body: '*', isBase64Encoded: true})", "body is not base64"),
        ("'x'.repeat(6 * 1024 * 1024 + 1)", "larger than 6 MB"),
    ],
)
async def test_an_answer_that_cannot_be_sent_is_explained(
    subject: Subject, answer: str, complaint: str
) -> None:
    failed = failure_of(await subject.run(f"export const handler = async () => {answer}"))
    assert failed.kind == Failure.RESPONSE
    assert complaint in failed.message
