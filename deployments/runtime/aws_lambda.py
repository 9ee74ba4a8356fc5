"""Runs functions on AWS Lambda: the driver behind FUNCTION_DRIVER=aws-lambda (ADR 0026).

Owns the way of one invocation: signed, sent, retried while Lambda has not begun, read as it comes.
Must not know how functions get there (aws_functions) or what answers mean (aws_answer).

Every function is invoked by InvokeWithResponseStream, which serves handlers that do not stream as
well. The call is made with aiohttp and signed and decoded by botocore, because boto3 would hold a
thread for as long as a visitor reads.
"""

import asyncio
import contextlib
import io
import itertools
import json
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor

import aiohttp
import yarl
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.eventstream import EventStreamBuffer, EventStreamMessage, ParserError
from botocore.exceptions import BotoCoreError

from deployments.runtime import events
from deployments.runtime.aws_answer import Answer
from deployments.runtime.aws_functions import Configuration, Functions
from deployments.runtime.driver import (
    Done,
    Event,
    Failed,
    Failure,
    FunctionSpec,
    InvokeContext,
    UnableToPrepare,
)
from deployments.runtime.log_queue import LineSink

logger = logging.getLogger(__name__)

PATH = "/2021-11-15/functions/{name}/response-streaming-invocations?Qualifier={alias}"
CONNECT_SECONDS = 5.0
GRACE_SECONDS = 2.0  # for the way, beyond what Lambda itself allows a run
RETRY_SECONDS = 0.1  # doubled, with jitter
ERROR_BYTES_MAX = 64 * 1024
WORKERS = 4  # functions prepared or removed at a time
# Errors of a call that got no answer, or only a part of one; and those of one that was never sent.
BROKEN = (aiohttp.ClientError, OSError, BotoCoreError, ParserError)
UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, BotoCoreError)
# Refusals after which the function has certainly not run.
NOT_RUN = frozenset(
    {
        "TooManyRequestsException",
        "ResourceConflictException",
        "ResourceNotReadyException",
        "EC2ThrottledException",
    }
)


class AwsLambda:
    """A FunctionDriver. Instances are Lambda's affair: scaling, idling and isolation."""

    name = "aws-lambda"

    def __init__(self, configuration: Configuration, sink: LineSink) -> None:
        """`sink` gets what functions print and what Lambda says about their runs."""
        self.configuration = configuration
        self._sink = sink
        self._functions = Functions(configuration)
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(configuration.connections)
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="aws-lambda")
        self._preparing: dict[tuple[str, str], asyncio.Future[None]] = {}

    # --- Invoking ----------------------------------------------------------------------------

    async def invoke(
        self, spec: FunctionSpec, event: bytes, context: InvokeContext
    ) -> AsyncGenerator[Event]:
        """See FunctionDriver. Closing early drops the connection; Lambda lets the run go on."""
        began = time.monotonic()
        answer: Answer | None = None
        outcome: Done | Failed | None = None
        try:
            async with self._slot(), self._response(spec, event, context) as response:
                answer = Answer(response.headers.get("X-Amzn-Remapped-Content-Type", ""))
                items = _items(response, answer, _run_seconds(context, self.configuration))
                async with contextlib.aclosing(items):
                    async for item in items:
                        if isinstance(item, Failed):
                            outcome = item
                        else:
                            yield item
        except events.UnableToAnswer as error:
            outcome = Failed(Failure.RESPONSE, str(error))
        except _Refused as refusal:
            outcome = Failed(refusal.kind, str(refusal))
        except BROKEN as error:
            outcome = _failed_on_the_way(error, context)
        if outcome is None:
            cold = answer is not None and answer.log.cold
            outcome = Done(int((time.monotonic() - began) * 1000), cold)
        self._write_log(spec, context, answer, outcome)
        yield outcome

    def _write_log(
        self,
        spec: FunctionSpec,
        context: InvokeContext,
        answer: Answer | None,
        outcome: Done | Failed,
    ) -> None:
        for line in answer.log.lines if answer else ():
            self._sink.add(spec, context.request_id, line)
        if isinstance(outcome, Failed):
            self._sink.add(spec, context.request_id, outcome.message)

    @contextlib.asynccontextmanager
    async def _slot(self) -> AsyncIterator[None]:
        """One of this process's connections. Raises _Refused when none gets free in time."""
        seconds = self.configuration.wait_seconds
        try:
            async with asyncio.timeout(seconds):
                await self._slots.acquire()
        except TimeoutError:
            raise _Refused(
                Failure.THROTTLED,
                f"{self.configuration.connections} requests were running already and none ended "
                f"within {seconds:.0f} seconds: the request was refused.",
            ) from None
        try:
            yield
        finally:
            self._slots.release()

    @contextlib.asynccontextmanager
    async def _response(
        self, spec: FunctionSpec, event: bytes, context: InvokeContext
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response of a run that has begun. Raises _Refused and what BROKEN lists."""
        deadline = time.monotonic() + self.configuration.wait_seconds
        is_missing = False
        for attempt in itertools.count():
            response = await self._send(spec, event, context)
            try:
                if response.status == 200:
                    yield response
                    return
                refusal = await _refusal(response)
            finally:
                response.close()  # drops the connection unless everything was read
            if refusal.is_missing and not is_missing:
                is_missing = True
                await self._put_there(spec)
                continue
            pause = RETRY_SECONDS * 2**attempt * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
            if not refusal.may_retry or time.monotonic() + pause > deadline:
                raise refusal
            await asyncio.sleep(pause)

    async def _put_there(self, spec: FunctionSpec) -> None:
        """Prepare a release that is not on Lambda: made with another driver, or removed there.

        Once for all who ask for it. Raises _Refused.
        """
        preparing = self._preparing.get(spec.key)
        if preparing is None:
            preparing = self._preparing[spec.key] = asyncio.ensure_future(self.prepare(spec))
            preparing.add_done_callback(lambda _: self._preparing.pop(spec.key, None))
        try:
            await asyncio.shield(preparing)
        except UnableToPrepare as error:
            raise _Refused(Failure.PLATFORM, str(error)) from None

    async def _send(
        self, spec: FunctionSpec, event: bytes, context: InvokeContext
    ) -> aiohttp.ClientResponse:
        path = PATH.format(name=self._functions.name_of(spec), alias=spec.release_id)
        url = self._functions.endpoint_url + path
        headers = await asyncio.to_thread(self._sign, url, event)
        return await self._client().post(
            yarl.URL(url, encoded=True),
            data=io.BytesIO(event),  # aiohttp sends it piece by piece
            headers=headers,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(
                total=None,
                sock_connect=CONNECT_SECONDS,
                # Lambda answers when the handler does, and itself ends a run that takes longer.
                sock_read=_run_seconds(context, self.configuration),
            ),
        )

    def _sign(self, url: str, event: bytes) -> dict[str, str]:
        """Headers with the signature. May ask AWS for credentials."""
        credentials = self._functions.credentials()
        if credentials is None:
            raise _Refused(
                Failure.PLATFORM, "The platform has no AWS credentials: see docs/functions.md."
            )
        request = AWSRequest(
            method="POST",
            url=url,
            data=event,
            headers={"Content-Type": "application/json", "X-Amz-Log-Type": "Tail"},
        )
        SigV4Auth(credentials, "lambda", self.configuration.region).add_auth(request)
        return dict(request.headers)

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),  # _slot is the limit
                auto_decompress=False,
            )
        return self._session

    # --- Functions ---------------------------------------------------------------------------

    async def prepare(self, spec: FunctionSpec) -> None:
        """See FunctionDriver."""
        await self._work(self._functions.prepare, spec)

    async def retire(self, spec: FunctionSpec) -> None:
        """See FunctionDriver. Raises botocore's errors: the caller may try again."""
        await self._work(self._functions.retire, spec)

    async def delete(self, deploy_id: str, function_names: Collection[str]) -> None:
        """See FunctionDriver. Raises botocore's errors: the caller may try again."""
        await self._work(self._functions.delete, deploy_id, function_names)

    async def _work(self, work: Callable[..., None], *arguments: object) -> None:
        """Do it in a thread of the driver's own: it may take minutes."""
        await asyncio.get_running_loop().run_in_executor(self._workers, work, *arguments)

    async def close(self) -> None:
        """See FunctionDriver. Runs go on at Lambda; nobody reads their answers any more."""
        if self._session is not None:
            await self._session.close()
        self._workers.shutdown(wait=False, cancel_futures=True)


class _Refused(Exception):
    """Lambda did not take the invocation; `is_missing`: it does not know the release."""

    def __init__(
        self, kind: Failure, message: str, *, may_retry: bool = False, is_missing: bool = False
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.may_retry = may_retry
        self.is_missing = is_missing


def _run_seconds(context: InvokeContext, configuration: Configuration) -> float:
    return context.timeout_seconds + configuration.init_seconds + GRACE_SECONDS


async def _refusal(response: aiohttp.ClientResponse) -> _Refused:
    """Why Lambda did not take the invocation."""
    code = response.headers.get("X-Amzn-ErrorType", "").partition(":")[0] or str(response.status)
    raw = await response.content.read(ERROR_BYTES_MAX)
    if code in NOT_RUN or response.status == 429:
        return _Refused(Failure.THROTTLED, f"AWS Lambda is busy ({code}).", may_retry=True)
    if code == "ResourceNotFoundException":
        return _Refused(Failure.PLATFORM, "AWS Lambda lost the function.", is_missing=True)
    if response.status == 413:
        text = "The request is larger than AWS Lambda takes: 6 MB with its headers, as JSON."
        return _Refused(Failure.PLATFORM, text)
    logger.error("AWS Lambda refused an invocation (%s): %s", code, raw.decode("utf-8", "replace"))
    return _Refused(Failure.PLATFORM, f"AWS Lambda refused the request ({code}).")


def _failed_on_the_way(error: Exception, context: InvokeContext) -> Failed:
    name = type(error).__name__
    if isinstance(error, UNSENT):
        return Failed(Failure.UNAVAILABLE, f"AWS Lambda could not be reached ({name}).")
    if isinstance(error, TimeoutError):
        text = f"Task timed out after {context.timeout_seconds:.2f} seconds"
        return Failed(Failure.TIMEOUT, text)
    text = f"The connection to AWS Lambda broke off ({name}); the function may have run."
    return Failed(Failure.PLATFORM, text)


async def _items(
    response: aiohttp.ClientResponse, answer: Answer, seconds: float
) -> AsyncGenerator[Event]:
    """Head, Chunks and Failed of a response. Raises UnableToAnswer, TimeoutError, _Refused."""
    async with contextlib.aclosing(_messages(response, seconds)) as messages:
        async for message in messages:
            kind = message.headers.get(":event-type")
            if message.headers.get(":message-type") != "event":
                raise _Refused(Failure.PLATFORM, f"AWS Lambda broke the answer off ({kind}).")
            if kind == "PayloadChunk":
                for piece in answer.feed(message.payload):
                    yield piece
            elif kind == "InvokeComplete":
                for item in answer.complete(json.loads(message.payload or b"{}")):
                    yield item
                await _finish(response)
                return
    raise _Refused(Failure.PLATFORM, "The answer of AWS Lambda broke off.")


async def _finish(response: aiohttp.ClientResponse) -> None:
    """Read to the very end, so that the connection can be used again."""
    with contextlib.suppress(TimeoutError, aiohttp.ClientError):
        async with asyncio.timeout(GRACE_SECONDS):
            while await response.content.readany():
                pass


async def _messages(
    response: aiohttp.ClientResponse, seconds: float
) -> AsyncGenerator[EventStreamMessage]:
    """The frames of a response as they come, all within `seconds`. Raises TimeoutError."""
    deadline = asyncio.get_running_loop().time() + seconds
    buffer = EventStreamBuffer()
    while True:
        async with asyncio.timeout_at(deadline):
            data = await response.content.readany()
        if not data:
            return
        buffer.add_data(data)
        for message in buffer:
            yield message
