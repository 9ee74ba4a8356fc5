"""One call of the AI API, from the key to the last byte: the only place that awaits a provider.

Reads like its recipe: authenticate, read, route, hold credit, call, pump, settle. Owns what each
way of ending means for the client and for the bill. Must know no wire format: dialects do.

The end of an answer (a stream's terminal frames, the last byte of a whole answer) is released only
once the settlement is durable, so a client that saw the end has been billed exactly.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from django.conf import settings

from billing import metering, pricing
from billing.calls import OUTPUT_SLICE_TOKENS
from billing.metering import Call, Ending, Meter, Opening, Served
from billing.models import UsageRecord
from billing.pricing import Usage
from gateway import attempts, memory, prompts, refusals, replays, routing, sse, state
from gateway.attempts import AttemptFailed
from gateway.authentication import authenticate
from gateway.breakers import Breakers
from gateway.catalog import CHAT, Candidate, Catalog
from gateway.dialects import CLIENT_DIALECTS, forwarded_headers, provider_errors
from gateway.dialects.base import (
    Inspection,
    Json,
    PassThrough,
    Reply,
    StreamEncoder,
    TruncatedStream,
    UnreadableAnswer,
)
from gateway.events import (
    Event,
    Failed,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    UsageReported,
)
from gateway.exchange import ClientGone, Exchange
from gateway.limits import Admission, Demand, Limiter
from gateway.prompts import PromptSize
from gateway.refusals import Refusal
from gateway.replays import Attempt, Replays
from gateway.snapshot import Caller, Snapshot, UnableToLoad
from gateway.store import Store
from gateway.translation import Translation
from gateway.upstream import Answer, Connections, UpstreamCut, UpstreamTimedOut
from orgs import failpoints

log = structlog.get_logger(__name__)

Status = UsageRecord.Status
Source = UsageRecord.Source

SETTLE_SECONDS_MAX = 10.0
# A report this many times above what the model can read or write is not believed.
UNBELIEVABLE_FACTOR = 4


@dataclass(slots=True)
class Services:
    """What a process needs to serve calls."""

    snapshot: Snapshot
    connections: Connections
    meter: Meter
    store: Store
    breakers: Breakers
    limiter: Limiter
    replays: Replays


@dataclass(frozen=True, slots=True)
class Ask:
    """Which endpoint a call came to: the client's dialect, and what the path says of the body."""

    dialect: str
    endpoint: str
    members: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Received:
    """A request that was read: whose it is, its bytes, and what they say."""

    caller: Caller
    key_id: int
    raw: bytes
    body: Json
    inspection: Inspection
    began_at: float


@dataclass(slots=True)
class Run:
    """What is known of one call while it runs; becomes its usage record."""

    caller: Caller
    translation: Translation
    candidate: Candidate
    call: Call
    admission: Admission
    reply: Reply
    began_at: float
    # What keeps the answer for whoever repeats the call, if its client may.
    attempt: Attempt | None = None
    status: str = Status.UPSTREAM_ERROR
    http_status: int = 502
    error_code: str = ""
    # Nobody may be shown the end of this call: its settlement may not survive a power loss.
    is_unconfirmed: bool = False
    relayed_tokens: int = 0
    reported_output: int | None = None
    model_served: str = ""
    upstream_request_id: str = ""
    first_token_at: float | None = None
    attempt_began_at: float = 0.0
    attempts: list[dict[str, Any]] = field(default_factory=list)
    recorder: memory.Recorder = field(default_factory=memory.Recorder)
    # How this stream tells its client of a failure, once it has begun.
    write_failure: Callable[[Refusal], bytes] | None = None

    @property
    def inspection(self) -> Inspection:
        """What the request asks for."""
        return self.translation.inspection

    def take(self, candidate: Candidate) -> None:
        """From now on this candidate serves the call, also if the process must stop."""
        self.candidate = candidate
        self.attempt_began_at = time.monotonic()
        self.call.serve(self._served())

    def relay(self, tokens: int) -> None:
        """Count what is about to be forwarded, before it is. Raises Refusal: credit has run out."""
        if self.first_token_at is None:
            self.first_token_at = time.monotonic()
        self.relayed_tokens += tokens
        if not self.call.relay(max(self.relayed_tokens, self.reported_output or 0)):
            self.finish(Status.CREDIT_CUT, 429, "insufficient_quota")
            raise refusals.out_of_credit(top_up_url(self.caller))

    def report(self, usage: Usage | None) -> None:
        """What the provider says was used so far, if it has said anything to be believed."""
        if usage is not None and self._is_believable(usage):
            self.reported_output = None if usage.is_doubtful else usage.whole_output
            self.call.report(usage)

    def _is_believable(self, reported: Usage) -> bool:
        candidate, inspection = self.candidate, self.inspection
        input_max = candidate.context_tokens_max * inspection.inputs
        output_max = max(candidate.output_tokens_max, 1) * inspection.choices
        return (
            reported.whole_input <= input_max * UNBELIEVABLE_FACTOR
            and reported.whole_output <= output_max * UNBELIEVABLE_FACTOR
        )

    def finish(self, status: str, http_status: int, error_code: str = "") -> None:
        """Name the ending."""
        self.status, self.http_status, self.error_code = status, http_status, error_code

    def time_out(self, outcome: str) -> Refusal:
        """The provider took too long after its answer had begun; what the client is told."""
        began_at = self.attempt_began_at
        attempts.note(self.attempts, self.candidate, outcome, began_at=began_at, detail=outcome)
        self.finish(Status.TIMEOUT, 504, "upstream_timeout")
        return refusals.upstream_timed_out()

    def ending(self) -> Ending:
        """The record's figures. A provider that reported nothing and sent nothing bills nothing."""
        is_whole = self.status == Status.FINISHED
        usage, source = self.call.usage(is_whole=is_whole)
        first = self.first_token_at
        return Ending(
            status=self.status,
            http_status=self.http_status,
            usage=usage,
            usage_source=source,
            model_served=self.model_served,
            upstream_request_id=self.upstream_request_id,
            error_code=self.error_code,
            attempts=tuple(self.attempts),
            duration_ms=round((time.monotonic() - self.began_at) * 1000),
            first_token_ms=None if first is None else round((first - self.began_at) * 1000),
            served=self._served(),
        )

    def _served(self) -> Served | None:
        """Who answered, if it was not the candidate the call was opened for."""
        opening, candidate = self.call.opening, self.candidate
        if candidate.price is None or candidate.price is opening.price:
            return None
        return Served(candidate.served_by, candidate.upstream_name, candidate.price)

    def require_confirmed(self) -> None:
        """Raises Refusal when the settlement could not be made durable, or not in time."""
        if self.is_unconfirmed:
            raise refusals.settlement_unconfirmed()

    async def settle(self) -> None:
        """Settle, and wait until it is durable. Returns at once the second time.

        The wait is bounded; what is awaited is only that the settlement becomes durable: it is
        written when the wait begins, and a cancelled request has settled, too. See
        `require_confirmed` for what did not become durable.
        """
        if self.is_unconfirmed:
            return
        ending = self.ending()
        if self.attempt is not None:
            self.attempt.is_billed = ending.usage.total > 0
        try:
            durable = self.call.settle(ending)
        finally:
            self.admission.end(ending)
        if durable.done() and durable.exception() is None:
            return
        try:
            async with asyncio.timeout(SETTLE_SECONDS_MAX):
                await durable
        except TimeoutError:
            log.error("settlement is late", request_id=self.call.opening.request_id)
            self.is_unconfirmed = True
        except metering.UnableToSettle:
            log.exception("settlement failed", request_id=self.call.opening.request_id)
            self.is_unconfirmed = True


async def serve_generation(
    exchange: Exchange, services: Services, call_id: uuid.UUID, ask: Ask
) -> None:
    """A request for a model's answer, in any dialect. Raises Refusal while nothing was sent."""
    began_at = time.monotonic()
    caller, key_id = await authenticate(exchange.headers, services.snapshot)
    failpoints.reach("web.after_key_check")
    raw = await exchange.read_body(settings.AI_BODY_BYTES_MAX)
    body = {**parse_object(raw), **ask.members}
    inspection = CLIENT_DIALECTS[ask.dialect].inspect(body)
    received = Received(caller, key_id, raw, body, inspection, began_at)
    if not exchange.header(replays.HEADER):
        await _generate(exchange, services, call_id, ask, received)
        return
    is_stream = inspection.is_stream
    async with replays.once(
        services.replays, exchange, caller, raw, is_stream=is_stream
    ) as attempt:
        if attempt is not None:
            await _generate(exchange, services, call_id, ask, received, attempt)


async def _generate(
    exchange: Exchange,
    services: Services,
    call_id: uuid.UUID,
    ask: Ask,
    received: Received,
    attempt: Attempt | None = None,
) -> None:
    """Carry out what was received."""
    dialect = CLIENT_DIALECTS[ask.dialect]
    caller, raw, body = received.caller, received.raw, received.body
    inspection = received.inspection
    catalog = await current_catalog(services)
    if ask.dialect == "openai_responses" and inspection.model not in catalog.by_name:
        raise refusals.unknown_model_of_response(inspection.model)
    candidates = routing.choose(
        catalog,
        inspection.model,
        capability=CHAT,
        chance=attempts.CHANCE,
        scopes=caller.limits_of(received.key_id),
    )
    expanded = await state.expand(services.store, caller, dialect, inspection, body)
    forwarded = forwarded_headers(ask.dialect, exchange.header)
    translation = Translation(dialect, inspection, expanded, forwarded)
    await state.restore(services.store, caller, translation, candidates)
    # What nobody can be asked is refused before credit is held.
    candidates, output_tokens_max, sent_bytes_max = _servable(translation, candidates)
    size = prompts.measure(max(len(raw), sent_bytes_max), dialect.media(expanded), expanded)
    asked = replace(inspection, output_tokens_max=output_tokens_max)
    opening = open_call(
        exchange, caller, received.key_id, candidates, asked, size, call_id, ask.endpoint
    )
    demand = _demand(ask.dialect, candidates, asked, size)
    admission, call = await admit_and_hold(exchange, services, caller, opening, demand)
    run = Run(
        caller=caller,
        translation=translation,
        candidate=candidates[0],
        call=call,
        admission=admission,
        reply=Reply(call_id.hex, int(time.time()), body),
        began_at=received.began_at,
        attempt=attempt,
    )
    try:
        await _run(exchange, services, candidates, run)
    finally:
        exchange.unwatch()
        await run.settle()


def _servable(
    translation: Translation, candidates: list[Candidate]
) -> tuple[list[Candidate], int | None, int]:
    """Candidates that can be asked this; the most any would be asked to write; the largest body.

    Thinking budgets may raise the limit that the client gave, and kept state what is sent. Raises
    the first one's Refusal when nobody can be asked.
    """
    servable: list[Candidate] = []
    limits: list[int] = []
    sent_bytes_max = 0
    refused: Refusal | None = None
    # The first is written last, because the body written last is the one that is kept.
    for candidate in reversed(candidates):
        try:
            sent_bytes_max = max(sent_bytes_max, len(translation.write(candidate)))
        except Refusal as refusal:
            refused = refusal
            continue
        servable.insert(0, candidate)
        if translation.output_tokens_max is not None:
            limits.append(translation.output_tokens_max)
    if not servable:
        assert refused is not None  # routing chooses at least one  # noqa: S101
        raise refused
    return servable, max(limits, default=None), sent_bytes_max


def parse_object(raw: bytes) -> Json:
    """The request body as a JSON object. Raises Refusal."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise refusals.invalid_json() from None
    if not isinstance(body, dict):
        raise refusals.invalid_json()
    return body


async def current_catalog(services: Services) -> Catalog:
    """The catalog. Raises Refusal when the database is away."""
    try:
        return await services.snapshot.catalog()
    except UnableToLoad:
        raise refusals.service_unavailable() from None


def _demand(
    dialect: str, candidates: list[Candidate], asked: Inspection, size: PromptSize
) -> Demand:
    """What the call asks of its limits: nobody writes more than its model can."""
    output_tokens_max = asked.output_tokens_max
    if output_tokens_max is not None:
        possible = max(candidate.output_tokens_max for candidate in candidates)
        output_tokens_max = min(output_tokens_max, possible)
    return Demand(dialect, size.tokens_estimate(), output_tokens_max, asked.choices)


def open_call(
    exchange: Exchange,
    caller: Caller,
    key_id: int,
    candidates: list[Candidate],
    inspection: Inspection,
    size: PromptSize,
    call_id: uuid.UUID,
    endpoint: str,
) -> Opening:
    """The call as metering knows it: held for the dearest of the candidates that may serve it."""
    first = candidates[0]
    assert first.price is not None  # routing refuses unpriced models  # noqa: S101
    inputs = [_input_tokens_max(row, inspection, size) for row in candidates]
    outputs = [_output_tokens_max(row, inspection) for row in candidates]
    margin = caller.margin_basis_points
    worst = [_worst_case(*each, margin) for each in zip(candidates, inputs, outputs, strict=True)]
    starts, slices = [], []
    if inspection.is_stream:  # what is sent as a stream can be paid as it comes
        for row, input_max in zip(candidates, inputs, strict=True):
            start = _worst_case(row, input_max, 0, margin)
            starts.append(start)
            slices.append(_worst_case(row, input_max, OUTPUT_SLICE_TOKENS, margin) - start)
    return Opening(
        call_id=call_id,
        organization_id=caller.organization_id,
        workspace_id=caller.workspace_id,
        deployment_id=caller.deployment_id,
        deploy_id=caller.deploy_id,
        key_id=key_id,
        request_id=exchange.request_id,
        endpoint=endpoint,
        is_stream=inspection.is_stream,
        model_requested=inspection.model,
        provider=first.served_by,
        upstream_model=first.upstream_name,
        price=first.price,
        margin_basis_points=caller.margin_basis_points,
        hold_nanos=max(worst),
        started_at=datetime.now(UTC),
        input_tokens_estimate=size.tokens_estimate(),
        output_tokens_max=max(outputs),
        input_nanos=max(starts, default=0),
        slice_nanos=max(slices, default=0),
    )


def _input_tokens_max(candidate: Candidate, inspection: Inspection, size: PromptSize) -> int:
    """The most tokens the prompt can be with this candidate, over all inputs."""
    window = candidate.context_tokens_max * inspection.inputs
    return size.tokens_max(candidate.provider, candidate.upstream_name, window)


def _output_tokens_max(candidate: Candidate, inspection: Inspection) -> int:
    """The most tokens this candidate may write for the call, over all choices."""
    asked = inspection.output_tokens_max or candidate.output_tokens_max
    return min(asked, candidate.output_tokens_max) * inspection.choices


def _worst_case(
    candidate: Candidate, input_tokens_max: int, output_tokens_max: int, margin_basis_points: int
) -> int:
    """The most so many tokens can cost with this candidate, in nano-dollars, at least one."""
    assert candidate.price is not None  # routing refuses unpriced models  # noqa: S101
    nanos = pricing.worst_case_nanos(
        candidate.price,
        input_tokens_max=input_tokens_max,
        output_tokens_max=output_tokens_max,
        margin_basis_points=margin_basis_points,
    )
    return max(nanos, 1)


async def admit_and_hold(
    exchange: Exchange, services: Services, caller: Caller, opening: Opening, demand: Demand
) -> tuple[Admission, Call]:
    """Let the call in and hold its worst case, both or neither. Raises Refusal."""
    admission = await services.limiter.admit(caller, opening, demand)
    exchange.answer_headers = admission.headers
    try:
        return admission, await hold(services.meter, caller, opening)
    except BaseException:
        admission.give_back()
        raise


def top_up_url(caller: Caller) -> str:
    """Where people of the caller's organization add credit."""
    return f"{settings.PUBLIC_URL}/console/{caller.organization_slug}/"


async def hold(meter: Meter, caller: Caller, opening: Opening) -> Call:
    """Hold the call's worst case. Raises Refusal when there is no credit or no ledger."""
    try:
        return await meter.open(opening)
    except metering.UnableToHold as refused:
        if refused.is_reserved:
            raise refusals.credit_reserved(top_up_url(caller)) from None
        raise refusals.out_of_credit(top_up_url(caller)) from None
    except metering.BillingUnavailable:
        raise refusals.billing_unavailable() from None


async def _run(
    exchange: Exchange, services: Services, candidates: list[Candidate], run: Run
) -> None:
    """Call a provider and answer the client; names the ending in `run`, whatever it is."""
    try:
        await _call(exchange, services, candidates, run)
    except AttemptFailed as failed:
        run.finish(failed.status, failed.refusal.status, failed.code)
        await _refuse(exchange, run, failed.refusal)
    except Refusal as refusal:
        await _refuse(exchange, run, refusal)
    except UpstreamTimedOut as error:
        await _refuse(exchange, run, run.time_out(error.outcome))
    except (ClientGone, asyncio.CancelledError):
        run.finish(Status.CLIENT_GONE, 499, "client_gone")
        raise
    except (UpstreamCut, TruncatedStream) as error:
        if exchange.is_gone:  # we cut the provider's connection because the client left
            run.finish(Status.CLIENT_GONE, 499, "client_gone")
            raise ClientGone from error
        run.finish(Status.TRUNCATED, 502, "upstream_cut")
        await _refuse(exchange, run, refusals.upstream_failed(retryable=False))
    except (UnreadableAnswer, sse.MessageTooLong, sse.UnreadableMessage) as error:
        run.finish(Status.UPSTREAM_ERROR, 502, "upstream_unreadable")
        log.warning("provider's answer is unreadable", error=str(error))
        await _refuse(exchange, run, refusals.upstream_failed(retryable=False))
    except Exception:  # a bug of ours: whoever answers it has logged it
        run.finish(Status.CRASHED, 500, "internal_error")
        raise


async def _refuse(exchange: Exchange, run: Run, refusal: Refusal) -> None:
    """Tell the client: as an error answer before the stream began, inside the stream after."""
    run.http_status = run.translation.dialect.status_of(refusal)
    await run.settle()
    if exchange.has_started and run.write_failure is not None:
        await exchange.end_stream(run.write_failure(refusal))
    else:
        raise refusal


async def _call(
    exchange: Exchange, services: Services, candidates: list[Candidate], run: Run
) -> None:
    is_stream = run.inspection.is_stream
    deadline = services.connections.new_deadline()

    async def attempt(candidate: Candidate) -> Answer:
        run.take(candidate)
        failpoints.reach("web.before_request")
        path = run.translation.wire(candidate).path(candidate.upstream_name, is_stream=is_stream)
        return await attempts.send(
            *(services.connections, run.translation, candidate, path),
            is_stream=is_stream,
            deadline=deadline,
        )

    if is_stream:
        exchange.watch(_canceller())
    try:
        answer = await attempts.first_answer(attempt, candidates, services.breakers, run.attempts)
    except asyncio.CancelledError:
        if exchange.is_gone:
            raise ClientGone from None
        raise
    async with answer:
        failpoints.reach("web.after_headers")
        run.upstream_request_id = answer.headers.get("x-request-id", "")
        if not is_stream:
            await _answer(exchange, services.store, run, answer)
            return
        exchange.watch(answer.close)
        ping = run.translation.dialect.ping
        await exchange.start_stream(
            ping=ping,
            ping_seconds=settings.STREAM_PING_SECONDS,
            stall_seconds=settings.CLIENT_STALL_SECONDS,
        )
        if run.translation.passes_through(run.candidate):
            await _pump_bytes(exchange, services.store, run, answer)
        else:
            await _pump_events(exchange, services.store, run, answer)


def _canceller() -> Callable[[], None]:
    """Cancels the task that asks for it: whoever waits for a provider has nothing to close yet."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - inside a coroutine there is one

    def cancel() -> None:
        task.cancel()

    return cancel


async def _answer(exchange: Exchange, store: Store, run: Run, answer: Answer) -> None:
    """A whole answer. Read to its end even if the client left: the provider bills all of it."""
    raw = await answer.read()
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise UnreadableAnswer("The answer is not JSON.") from error
    if not isinstance(body, dict):
        raise UnreadableAnswer("The answer is not an object.")
    wire = run.translation.wire(run.candidate)
    run.report(wire.read_usage(body))
    run.model_served = str(body.get("model") or body.get("modelVersion") or "")
    reported = run.reported_output
    run.relay(len(raw) // prompts.BYTES_PER_TOKEN if reported is None else reported)
    if run.translation.passes_through(run.candidate):
        result = wire.amend(body, run.inspection)
    else:
        result = _translate_answer(run, wire.read_response(body))
    if result is not body:
        raw = orjson.dumps(result)
    run.finish(Status.FINISHED, 200)
    await _settle_and_keep(store, run, result)
    failpoints.reach("web.after_barrier")
    await exchange.send_bytes(200, raw)
    failpoints.reach("web.after_last_frame")


def _translate_answer(run: Run, events: Any) -> Json:
    writer = run.translation.dialect.response_writer(run.inspection, run.reply)
    for event in events:
        if run.translation.leaves_out(event):
            continue
        asked = run.translation.as_asked(event, run.candidate)
        stamped = memory.stamp(asked, run.candidate.upstream_name)
        if isinstance(stamped, Failed):
            _fail_inside(run, stamped.message)
        run.recorder.add(stamped)
        writer.add(stamped)
    return writer.finish()


async def _pump_bytes(exchange: Exchange, store: Store, run: Run, answer: Answer) -> None:
    """Same dialect on both sides: forward bytes, read usage on the way."""
    reader = run.translation.wire(run.candidate).pass_through(run.inspection, run.reply)
    run.write_failure = reader.write_failure

    def take(piece: bytes) -> bool:
        relayed_before = reader.relayed_pieces
        forward = reader.feed(piece)
        run.report(reader.usage)
        run.model_served = reader.model
        if forward and not _forward(exchange, run, forward, reader.relayed_pieces - relayed_before):
            return False
        return not reader.failure

    while await answer.deliver(take):
        await exchange.drain()
        if reader.failure:
            _fail_inside(run, reader.failure)
    await _end_stream(exchange, store, run, reader, reader.close())


async def _pump_events(exchange: Exchange, store: Store, run: Run, answer: Answer) -> None:
    """Different dialects: provider's bytes -> events -> client's bytes."""
    decoder = run.translation.wire(run.candidate).stream_decoder()
    encoder = run.translation.dialect.stream_encoder(run.inspection, run.reply)
    run.write_failure = encoder.write_failure
    per_token = run.translation.wire(run.candidate).characters_per_token

    def take(piece: bytes) -> bool:
        return _forward_events(exchange, run, encoder, decoder.feed(piece), per_token)

    while await answer.deliver(take):
        await exchange.drain()
    if not _forward_events(exchange, run, encoder, decoder.close(), per_token):
        await exchange.drain()
    terminal = encoder.write_end(run.call.usage(is_whole=True)[0])
    await _end_stream(exchange, store, run, encoder, terminal)


def _forward_events(
    exchange: Exchange, run: Run, encoder: StreamEncoder, events: list[Event], per_token: int
) -> bool:
    """Write some events to the client, each message in one piece; whether it keeps up.

    `per_token`: see UpstreamDialect.characters_per_token.
    """
    forward = []
    tokens = 0
    for event in events:
        if type(event) is TextDelta:  # nearly all of them, and without any state
            tokens += _tokens_in(event.text, per_token)
            forward.append(encoder.write(event))
            continue
        if run.translation.leaves_out(event):
            continue
        match event:
            case Started(model=model):
                run.model_served = model
            case UsageReported(usage=usage):
                run.report(usage)
            case ReasoningDelta(text=text) | RefusalDelta(text=text):
                tokens += _tokens_in(text, per_token)
            case ToolCallDelta(json_piece=text):
                tokens += _tokens_in(text, per_token)
            case Failed(message=message):
                _fail_inside(run, message)
        asked = run.translation.as_asked(event, run.candidate)
        stamped = memory.stamp(asked, run.candidate.upstream_name)
        run.recorder.add(stamped)
        forward.append(encoder.write(stamped))
    written = b"".join(forward)
    return not written or _forward(exchange, run, written, tokens)


def _forward(exchange: Exchange, run: Run, messages: bytes, tokens: int) -> bool:
    """Write whole messages to the client, so many tokens of output in them; whether it keeps up."""
    run.relay(tokens)
    keeps_up = exchange.write_piece(messages)
    failpoints.reach("web.after_chunk_sent")
    return keeps_up


def _tokens_in(text: str, per_token: int) -> int:
    """How many tokens a piece of output has at least."""
    return max(1, len(text) // per_token) if per_token else 1


async def _end_stream(
    exchange: Exchange, store: Store, run: Run, writer: PassThrough | StreamEncoder, terminal: bytes
) -> None:
    """The end: kept and settled first, then released."""
    run.finish(Status.FINISHED, 200)
    await _settle_and_keep(store, run, writer.result())
    failpoints.reach("web.after_barrier")
    await exchange.end_stream(terminal)
    failpoints.reach("web.after_last_frame")


async def _settle_and_keep(store: Store, run: Run, result: Json | None) -> None:
    """What must be durable before the client sees the end. Raises Refusal if it cannot be."""
    rows = state.rows_to_keep(run.translation, run.reply.body, run.recorder, result)
    if rows:
        await asyncio.gather(run.settle(), state.keep(store, run.caller, rows))
    else:
        await run.settle()
    run.require_confirmed()


def _fail_inside(run: Run, message: str) -> None:
    """The provider reported an error inside a stream that had begun."""
    run.finish(Status.UPSTREAM_ERROR, 502, "upstream_error")
    upstream = run.candidate.upstream
    log.warning(
        "provider failed inside a stream",
        provider=run.candidate.provider.name,
        detail=provider_errors.scrub(message, [upstream.api_key] if upstream else []),
    )
    raise refusals.upstream_failed(retryable=False)
