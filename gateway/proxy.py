"""One call of the AI API, from the key to the last byte: the only place that awaits a provider.

Reads like its recipe: authenticate, read, route, hold credit, call, pump, settle. Owns what each
way of ending means for the client and for the bill. Must know no wire format: dialects do.

The end of an answer (a stream's terminal frames, the last byte of a whole answer) is released only
once the settlement is durable, so a client that saw the end has been billed exactly.
"""

import asyncio
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson
import structlog
from django.conf import settings

from billing import metering, pricing
from billing.metering import Call, Ending, Meter, Opening
from billing.models import UsageRecord
from billing.pricing import Usage
from gateway import refusals, routing, sse
from gateway.authentication import authenticate
from gateway.catalog import CHAT, Candidate
from gateway.dialects import CLIENT_DIALECTS, UPSTREAM_DIALECTS
from gateway.dialects.base import (
    ClientDialect,
    Inspection,
    Json,
    Reply,
    Target,
    TruncatedStream,
    UnreadableAnswer,
    UpstreamDialect,
)
from gateway.events import (
    Failed,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from gateway.exchange import ClientGone, Exchange
from gateway.refusals import Refusal
from gateway.snapshot import Caller, Snapshot, UnableToLoad
from gateway.upstream import (
    ERROR_BYTES_MAX,
    Answer,
    Connections,
    UnableToReach,
    UpstreamCut,
    UpstreamTimedOut,
)

log = structlog.get_logger(__name__)

Status = UsageRecord.Status
Source = UsageRecord.Source

SETTLE_SECONDS_MAX = 10.0
BYTES_PER_TOKEN = 4  # for estimates only, when a provider ended without reporting usage
IMAGE_TOKENS_MAX = 4096
INLINE_DATA = re.compile(rb"data:[a-zA-Z0-9.+/-]+;base64,[A-Za-z0-9+/=_-]+")


@dataclass(slots=True)
class Services:
    """What a process needs to serve calls."""

    snapshot: Snapshot
    connections: Connections
    meter: Meter


@dataclass(slots=True)
class Run:
    """What is known of one call while it runs; becomes its usage record."""

    candidate: Candidate
    inspection: Inspection
    call: Call
    reply: Reply
    input_tokens_estimate: int
    began_at: float
    status: str = Status.UPSTREAM_ERROR
    http_status: int = 502
    error_code: str = ""
    usage: Usage | None = None
    relayed_tokens: int = 0
    model_served: str = ""
    upstream_request_id: str = ""
    first_token_at: float | None = None
    # How this stream tells its client of a failure, once it has begun.
    write_failure: Callable[[Refusal], bytes] | None = None

    def relay(self, tokens: int) -> None:
        """Count what is about to be forwarded, before it is."""
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        self.relayed_tokens += tokens
        self.call.progress(self.usage or self._estimate())

    def finish(self, status: str, http_status: int, error_code: str = "") -> None:
        """Name the ending."""
        self.status, self.http_status, self.error_code = status, http_status, error_code

    def _estimate(self) -> Usage:
        limit = self.inspection.output_tokens_max or self.candidate.output_tokens_max
        limit *= self.inspection.choices
        return Usage(input=self.input_tokens_estimate, output=min(self.relayed_tokens, limit))

    def ending(self) -> Ending:
        """The record's figures. A provider that reported nothing and sent nothing bills nothing."""
        if self.usage is not None:
            is_whole = self.status == Status.FINISHED
            usage, source = self.usage, Source.PROVIDER if is_whole else Source.PROVIDER_PARTIAL
        elif self.relayed_tokens or self.status == Status.FINISHED:
            usage, source = self._estimate(), Source.ESTIMATED
        else:
            usage, source = Usage(), Source.NONE
        first = self.first_token_at
        return Ending(
            status=self.status,
            http_status=self.http_status,
            usage=usage,
            usage_source=source,
            model_served=self.model_served[:120],
            upstream_request_id=self.upstream_request_id[:200],
            error_code=self.error_code,
            duration_ms=round((time.monotonic() - self.began_at) * 1000),
            first_token_ms=None if first is None else round((first - self.began_at) * 1000),
        )

    async def settle(self) -> None:
        """Settle, and wait until it is durable. Returns at once the second time.

        The wait is bounded: with the database away the client gets its end, and the settlement
        stays queued. It is shielded: a cancelled request still settles.
        """
        try:
            async with asyncio.timeout(SETTLE_SECONDS_MAX):
                await asyncio.shield(self.call.settle(self.ending()))
        except TimeoutError:
            log.error("settlement is late", request_id=self.call.opening.request_id)
        except (metering.UnableToSettle, metering.BillingUnavailable):
            # Metering has logged the record it could not keep; the client still gets its end.
            log.exception("settlement failed", request_id=self.call.opening.request_id)


async def serve_chat(exchange: Exchange, services: Services, call_id: uuid.UUID) -> None:
    """`POST /chat/completions`. Raises Refusal as long as nothing was sent."""
    dialect = CLIENT_DIALECTS["openai_chat"]
    began_at = time.monotonic()
    caller, key_id = await authenticate(exchange.headers, services.snapshot)
    raw = await exchange.read_body(settings.AI_BODY_BYTES_MAX)
    body = parse_object(raw)
    inspection = dialect.inspect(body)
    try:
        catalog = await services.snapshot.catalog()
    except UnableToLoad:
        raise refusals.service_unavailable() from None
    candidate = routing.choose(catalog, inspection.model, endpoint=CHAT)
    request = _translate(dialect, body, inspection, candidate)
    input_tokens_max = count_input_tokens_max(raw)
    call = await _open(
        exchange, services.meter, caller, key_id, candidate, inspection, input_tokens_max, call_id
    )
    reply = Reply(call_id.hex, int(time.time()), body)
    estimate = max(input_tokens_max // BYTES_PER_TOKEN, 1)
    run = Run(candidate, inspection, call, reply, estimate, began_at)
    try:
        await _run(exchange, services.connections, dialect, run, request)
    finally:
        exchange.unwatch()
        await run.settle()


def parse_object(raw: bytes) -> Json:
    """The request body as a JSON object. Raises Refusal."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise refusals.invalid_json() from None
    if not isinstance(body, dict):
        raise refusals.invalid_json()
    return body


def count_input_tokens_max(raw: bytes) -> int:
    """An upper bound of the prompt's tokens without tokenizing: no token is shorter than a byte.

    Inline images and files are counted at the most an image costs, not by their base64 text.
    """
    if b";base64," not in raw:
        return len(raw)
    inline = [len(match.group()) for match in INLINE_DATA.finditer(raw)]
    return len(raw) - sum(inline) + len(inline) * IMAGE_TOKENS_MAX


def _translate(
    dialect: ClientDialect, body: Json, inspection: Inspection, candidate: Candidate
) -> bytes:
    """The provider's request body: the client's own when both speak the same dialect."""
    wire = UPSTREAM_DIALECTS[candidate.provider.dialect]
    target = Target(candidate.upstream_name, candidate.output_tokens_max)
    if _passes_through(dialect, candidate):
        prepared = wire.prepare_pass_through(body, target, is_stream=inspection.is_stream)
    else:
        prepared = wire.write_request(dialect.read_request(body), target)
    try:
        return orjson.dumps(prepared)
    except orjson.JSONEncodeError:  # reading allows four times the depth that writing does
        raise refusals.invalid_json() from None


def _passes_through(dialect: ClientDialect, candidate: Candidate) -> bool:
    return candidate.provider.forwards_bytes and dialect.name == candidate.provider.dialect


async def _open(
    exchange: Exchange,
    meter: Meter,
    caller: Caller,
    key_id: int,
    candidate: Candidate,
    inspection: Inspection,
    input_tokens_max: int,
    call_id: uuid.UUID,
) -> Call:
    """Hold the call's worst case. Raises Refusal when there is no credit or no ledger."""
    assert candidate.price is not None  # routing refuses unpriced models  # noqa: S101
    asked = inspection.output_tokens_max or candidate.output_tokens_max
    hold_nanos = pricing.worst_case_nanos(
        candidate.price,
        input_tokens_max=min(input_tokens_max, candidate.context_tokens_max),
        output_tokens_max=min(asked, candidate.output_tokens_max) * inspection.choices,
    )
    opening = Opening(
        call_id=call_id,
        organization_id=caller.organization_id,
        workspace_id=caller.workspace_id,
        deployment_id=caller.deployment_id,
        deploy_id=caller.deploy_id,
        key_id=key_id,
        request_id=exchange.request_id,
        endpoint="chat.completions",
        is_stream=inspection.is_stream,
        model_requested=inspection.model,
        provider=candidate.provider.name,
        upstream_model=candidate.upstream_name,
        price=candidate.price,
        hold_nanos=max(hold_nanos, 1),
        started_at=datetime.now(UTC),
    )
    try:
        return await meter.open(opening)
    except metering.UnableToHold as refused:
        top_up_url = f"{settings.PUBLIC_URL}/console/{caller.organization_slug}/"
        if refused.is_reserved:
            raise refusals.credit_reserved(top_up_url) from None
        raise refusals.out_of_credit(top_up_url) from None
    except metering.BillingUnavailable:
        raise refusals.billing_unavailable() from None


async def _run(
    exchange: Exchange,
    connections: Connections,
    dialect: ClientDialect,
    run: Run,
    request: bytes,
) -> None:
    """Call the provider and answer the client; names the ending in `run`, whatever it is."""
    try:
        await _call(exchange, connections, dialect, run, request)
    except Refusal as refusal:
        await _refuse(exchange, run, refusal)
    except UnableToReach as error:
        run.finish(Status.UPSTREAM_ERROR, 502, "upstream_unreachable")
        log.warning("provider unreachable", provider=run.candidate.provider.name, error=str(error))
        await _refuse(exchange, run, refusals.upstream_failed(retryable=True))
    except UpstreamTimedOut:
        run.finish(Status.TIMEOUT, 504, "upstream_timeout")
        await _refuse(exchange, run, refusals.upstream_timed_out())
    except (ClientGone, asyncio.CancelledError):
        run.finish(Status.CLIENT_GONE, 499, "client_gone")
        raise
    except (UpstreamCut, TruncatedStream) as error:
        if exchange.is_gone:  # we cut the provider's connection because the client left
            run.finish(Status.CLIENT_GONE, 499, "client_gone")
            raise ClientGone from error
        run.finish(Status.TRUNCATED, 502, "upstream_cut")
        await _refuse(exchange, run, refusals.upstream_failed(retryable=False))
    except (UnreadableAnswer, sse.MessageTooLong) as error:
        run.finish(Status.UPSTREAM_ERROR, 502, "upstream_unreadable")
        log.warning("provider's answer is unreadable", error=str(error))
        await _refuse(exchange, run, refusals.upstream_failed(retryable=False))
    except Exception:  # a bug of ours: whoever answers it has logged it
        run.finish(Status.CRASHED, 500, "internal_error")
        raise


async def _refuse(exchange: Exchange, run: Run, refusal: Refusal) -> None:
    """Tell the client: as an error answer before the stream began, inside the stream after."""
    await run.settle()
    if exchange.has_started and run.write_failure is not None:
        await exchange.end_stream(run.write_failure(refusal))
    else:
        raise refusal


async def _call(
    exchange: Exchange,
    connections: Connections,
    dialect: ClientDialect,
    run: Run,
    request: bytes,
) -> None:
    candidate, is_stream = run.candidate, run.inspection.is_stream
    assert candidate.upstream is not None  # routing chooses configured ones  # noqa: S101
    wire = UPSTREAM_DIALECTS[candidate.provider.dialect]
    path = wire.path(candidate.upstream_name, is_stream=is_stream)
    answer = await connections.send(candidate.upstream, path, request, is_stream=is_stream)
    async with answer:
        run.upstream_request_id = answer.headers.get("x-request-id", "")
        if answer.status >= 300:
            await _read_error(wire, run, answer)
        if not is_stream:
            await _answer(exchange, dialect, wire, run, answer)
            return
        exchange.watch(answer.close)
        await exchange.start_stream()
        if _passes_through(dialect, candidate):
            await _pump_bytes(exchange, wire, run, answer)
        else:
            await _pump_events(exchange, dialect, wire, run, answer)


async def _read_error(wire: UpstreamDialect, run: Run, answer: Answer) -> None:
    """Raise the provider's error as a Refusal, and note it."""
    body = await answer.read_start(ERROR_BYTES_MAX)
    secrets = [run.candidate.upstream.api_key] if run.candidate.upstream else []
    failure = wire.read_error(answer.status, answer.headers, body, secrets=secrets)
    status = Status.REFUSED if failure.refusal.status == 400 else Status.UPSTREAM_ERROR
    run.finish(status, failure.refusal.status, failure.refusal.code or "")
    log.warning(
        "provider refused", provider=run.candidate.provider.name, detail=failure.detail[:500]
    )
    raise failure.refusal


async def _answer(
    exchange: Exchange, dialect: ClientDialect, wire: UpstreamDialect, run: Run, answer: Answer
) -> None:
    """A whole answer. Read to its end even if the client left: the provider bills all of it."""
    raw = await answer.read()
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise UnreadableAnswer("The answer is not JSON.") from error
    if not isinstance(body, dict):
        raise UnreadableAnswer("The answer is not an object.")
    run.usage = wire.read_usage(body)
    run.model_served = str(body.get("model") or "")
    run.relayed_tokens = len(raw) // BYTES_PER_TOKEN
    if not _passes_through(dialect, run.candidate):
        writer = dialect.response_writer(run.inspection, run.reply)
        for event in wire.read_response(body):
            writer.add(event)
        raw = orjson.dumps(writer.finish())
    run.finish(Status.FINISHED, 200)
    await run.settle()
    await exchange.send_bytes(200, raw)


async def _pump_bytes(exchange: Exchange, wire: UpstreamDialect, run: Run, answer: Answer) -> None:
    """Same dialect on both sides: forward bytes, read usage on the way."""
    reader = wire.pass_through(run.inspection, run.reply)
    run.write_failure = reader.write_failure
    async for piece in answer.pieces():
        relayed_before = reader.relayed_messages
        forward = reader.feed(piece)
        run.usage, run.model_served = reader.usage, reader.model
        if forward:
            run.relay(reader.relayed_messages - relayed_before)
            await exchange.send_piece(forward)
        if reader.failure:
            _fail_inside(run, reader.failure)
    terminal = reader.close()
    run.finish(Status.FINISHED, 200)
    await run.settle()
    await exchange.end_stream(terminal)


async def _pump_events(
    exchange: Exchange,
    dialect: ClientDialect,
    wire: UpstreamDialect,
    run: Run,
    answer: Answer,
) -> None:
    """Different dialects: provider's bytes -> events -> client's bytes."""
    decoder = wire.stream_decoder()
    encoder = dialect.stream_encoder(run.inspection, run.reply)
    run.write_failure = encoder.write_failure
    async for piece in answer.pieces():
        forward = []
        tokens = 0
        for event in decoder.feed(piece):
            match event:
                case Started(model=model):
                    run.model_served = model
                case UsageReported(usage=usage):
                    run.usage = usage
                case TextDelta() | ReasoningDelta() | RefusalDelta() | ToolCallDelta():
                    tokens += 1
                case Failed(message=message):
                    _fail_inside(run, message)
            forward.append(encoder.write(event))
        if any(forward):
            run.relay(tokens)
            await exchange.send_piece(b"".join(forward))
    decoder.close()
    run.finish(Status.FINISHED, 200)
    await run.settle()
    await exchange.end_stream(encoder.write_end(run.usage or Usage()))


def _fail_inside(run: Run, message: str) -> None:
    """The provider reported an error inside a stream that had begun."""
    run.finish(Status.UPSTREAM_ERROR, 502, "upstream_error")
    log.warning(
        "provider failed inside a stream",
        provider=run.candidate.provider.name,
        detail=message[:500],
    )
    raise refusals.upstream_failed(retryable=False)
