"""Responses that arrive while the function still writes them, with every driver."""

import gzip
import json

import pytest

from deployments.runtime.driver import Chunk, Done, Failure, Head, InvokeContext
from tests.deployments.drivers.subjects import GATE, Subject
from tests.deployments.functions import body_of, bytes_of, failure_of
from tests.deployments.waiting import until

pytestmark = pytest.mark.functions

WORDS = """
export const handler = awslambda.streamifyResponse(async (event, stream, context) => {
  stream = awslambda.HttpResponseStream.from(stream, {
    statusCode: 203, headers: {"Content-Type": "text/event-stream"}, cookies: ["a=1"],
  });
  for (const word of ["one", "two", "three"]) {
    stream.write(word);
    await new Promise((go) => setTimeout(go, 30));
  }
  stream.end();
});
"""
PLAIN_HEAD = Head(200, (("content-type", "application/octet-stream"),))


async def test_a_stream_has_the_head_it_was_given_and_its_data_in_order(subject: Subject) -> None:
    items = await subject.run(WORDS)
    assert items[0] == Head(203, (("content-type", "text/event-stream"), ("set-cookie", "a=1")))
    assert body_of(items) == "onetwothree"
    assert isinstance(items[-1], Done)


async def test_chunks_arrive_while_the_handler_still_runs(subject: Subject) -> None:
    spec = await subject.deploy(
        GATE + "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        "  stream.write('first'); await gate(); stream.end('last'); });"
    )
    received = []
    async for item in subject.driver.invoke(spec, b"{}", InvokeContext("r1")):
        received.append(item)
        if item == Chunk(b"first"):
            subject.open_gate(spec)
    assert received[:-1] == [PLAIN_HEAD, Chunk(b"first"), Chunk(b"last")]


async def test_a_prelude_alone_is_sent_before_there_is_data(subject: Subject) -> None:
    spec = await subject.deploy(
        GATE + "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        "  stream = awslambda.HttpResponseStream.from(stream, {statusCode: 202});"
        "  stream.write(''); await gate(); stream.end('late'); });"
    )
    received = []
    async for item in subject.driver.invoke(spec, b"{}", InvokeContext("r1")):
        received.append(item)
        if item == Head(202, ()):
            subject.open_gate(spec)
    assert received[0] == Head(202, ())
    assert body_of(received) == "late"


async def test_a_stream_without_data_still_has_its_head(subject: Subject) -> None:
    items = await subject.run(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " awslambda.HttpResponseStream.from(stream, {statusCode: 204}).end(); })"
    )
    assert items[0] == Head(204, ())
    assert body_of(items) == ""


async def test_a_stream_may_name_its_content_type_without_a_prelude(subject: Subject) -> None:
    items = await subject.run(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " stream.setContentType('text/plain'); stream.write('a'); stream.end('b'); })"
    )
    assert items[0] == Head(200, (("content-type", "text/plain"),))
    assert body_of(items) == "ab"


async def test_a_large_stream_is_whole(subject: Subject) -> None:
    items = await subject.run(
        "import {Readable} from 'node:stream'; import {pipeline} from 'node:stream/promises';"
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        "  const parts = Array.from({length: 100}, (_, i) => String(i % 10).repeat(100000));"
        "  await pipeline(Readable.from(parts), stream); })"
    )
    assert bytes_of(items) == b"".join(b"%d" % (i % 10) * 100_000 for i in range(100))


async def test_bytes_that_look_like_a_prelude_are_data(subject: Subject) -> None:
    items = await subject.run(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " stream = awslambda.HttpResponseStream.from(stream, {statusCode: 200});"
        " stream.write(Buffer.from('{}')); stream.write(Buffer.alloc(16)); stream.end('x'); })"
    )
    assert items[0] == Head(200, ())
    assert bytes_of(items) == b"{}" + bytes(16) + b"x"


async def test_a_stream_over_the_limit_fails(subject: Subject) -> None:
    items = await subject.run(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " for (let i = 0; i < 22 && !stream.destroyed; i++)"
        "   await new Promise((go) => stream.write(Buffer.alloc(1048576), go));"
        " stream.end(); })"
    )
    assert failure_of(items).kind == Failure.RESPONSE
    assert "larger than 20 MB" in failure_of(items).message


@pytest.mark.parametrize(
    ("prelude", "complaint"),
    [("{statusCode: 'x'}", "statusCode"), ("{statusCode: 200, headers: 'x'}", "headers")],
)
async def test_a_prelude_that_is_not_valid_is_explained(
    subject: Subject, prelude: str, complaint: str
) -> None:
    items = await subject.run(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        f" awslambda.HttpResponseStream.from(stream, {prelude}).end('x'); }})"
    )
    assert failure_of(items).kind == Failure.RESPONSE
    assert complaint in failure_of(items).message
    assert len(items) == 1


async def test_a_stream_that_fails_half_way_ends_as_failed(subject: Subject) -> None:
    items = await subject.run(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " stream.write('half'); await new Promise((go) => setTimeout(go, 200));"
        " throw new Error('broken pipe dream'); })"
    )
    assert Chunk(b"half") in items
    assert failure_of(items).kind == Failure.HANDLER
    assert "broken pipe dream" in failure_of(items).message
    await subject.flush()
    assert "broken pipe dream" in subject.lines.text


async def test_a_stream_that_fails_before_its_first_byte_has_no_head(subject: Subject) -> None:
    items = await subject.run(
        "export const handler = awslambda.streamifyResponse(async () => {"
        " throw new RangeError('nothing yet'); })"
    )
    assert len(items) == 1
    assert failure_of(items).kind == Failure.HANDLER
    assert "nothing yet" in failure_of(items).message


async def test_a_stream_whose_process_dies_ends_as_failed(subject: Subject) -> None:
    items = await subject.run(
        "export const handler = awslambda.streamifyResponse(async (e, stream) => {"
        " stream.write('half'); setTimeout(() => process.exit(1), 200);"
        " await new Promise(() => {}); })"
    )
    assert Chunk(b"half") in items
    # The connection breaks with the process: whichever is noticed first.
    assert failure_of(items).kind in (Failure.CRASH, Failure.HANDLER)


async def test_a_stream_nobody_reads_any_more_is_closed_and_the_function_goes_on(
    subject: Subject,
) -> None:
    spec = await subject.deploy(
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        "  if (event.short) { stream.end('short'); return; }"
        "  stream.on('close', () => console.log('the stream was closed'));"
        "  for (let i = 0; i < 200 && !stream.destroyed; i++) {"
        "    stream.write('x'); await new Promise((go) => setTimeout(go, 5)); } stream.end(); });"
    )
    items = subject.driver.invoke(spec, b"{}", InvokeContext("r1"))
    async for item in items:
        if isinstance(item, Chunk):
            break
    await items.aclose()
    assert body_of(await subject.invoke(spec, {"short": True})) == "short"
    if "early-close" not in subject.differs:
        await until(lambda: "the stream was closed" in subject.lines.text)


# How OpenNext's wrapper aws-lambda-streaming answers: the head by hand, after two line ends, then a
# compressing stream that is piped into Lambda's.
OPEN_NEXT = """
import zlib from 'node:zlib';
export const handler = awslambda.streamifyResponse(async (event, responseStream) => {
  const isZipped = event.headers['accept-encoding'] === 'gzip';
  let body = responseStream;
  if (isZipped) {
    body = zlib.createGzip({flush: zlib.constants.Z_SYNC_FLUSH});
    body.pipe(responseStream);
  }
  responseStream.cork();
  responseStream.setContentType('application/vnd.awslambda.http-integration-response');
  responseStream.write('\\n\\n');
  responseStream.write(JSON.stringify({statusCode: 200, cookies: ['seen=1'],
    headers: {'content-type': 'text/html', 'content-encoding': isZipped ? 'gzip' : 'identity'}}));
  responseStream.write(new Uint8Array(8));
  for (let i = responseStream.writableCorked; i > 0; i--) responseStream.uncork();
  for (const part of ['<html>', '<p>streamed</p>', '</html>']) {
    body.write(part);
    await new Promise((go) => setTimeout(go, 5));
  }
  await new Promise((finished) => body.end(finished));
});
"""


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_the_answers_of_opennexts_streaming_wrapper_arrive(
    subject: Subject, encoding: str
) -> None:
    spec = await subject.deploy(OPEN_NEXT)
    items = await subject.invoke(spec, {"headers": {"accept-encoding": encoding}})
    assert items[0] == Head(
        200,
        (("content-type", "text/html"), ("content-encoding", encoding), ("set-cookie", "seen=1")),
    )
    body = bytes_of(items)
    page = gzip.decompress(body) if encoding == "gzip" else body
    assert page == b"<html><p>streamed</p></html>"


async def test_a_chat_stream_in_server_sent_events_passes_unchanged(subject: Subject) -> None:
    """The shape an AI app has: JSON in, one event per token out, an end marker."""
    spec = await subject.deploy(
        "export const handler = awslambda.streamifyResponse(async (event, stream) => {"
        "  const {prompt} = JSON.parse(event.body);"
        "  stream = awslambda.HttpResponseStream.from(stream, {statusCode: 200,"
        "    headers: {'content-type': 'text/event-stream', 'cache-control': 'no-cache'}});"
        "  for (const word of prompt.split(' '))"
        "    stream.write(`data: ${JSON.stringify({delta: word})}\\n\\n`);"
        "  stream.end('data: [DONE]\\n\\n'); });"
    )
    items = await subject.invoke(spec, {"body": json.dumps({"prompt": "Hallo schöne Welt"})})
    events = body_of(items).split("\n\n")
    assert [json.loads(each.removeprefix("data: "))["delta"] for each in events[:3]] == [
        "Hallo",
        "schöne",
        "Welt",
    ]
    assert events[3:] == ["data: [DONE]", ""]
