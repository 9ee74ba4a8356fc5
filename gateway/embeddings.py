"""`POST /embeddings`: OpenAI's shape, forwarded to a provider that has it; billed like any call.

Facts: platform.openai.com/docs/api-reference/embeddings/create. Nothing is translated: only
providers that speak OpenAI's wire offer such models. An embedding is not generated text, so there
is no stream, no output to bill and no state to keep.
"""

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from django.conf import settings

from gateway import attempts, refusals, replays, routing
from gateway.attempts import AttemptFailed
from gateway.authentication import authenticate
from gateway.catalog import EMBEDDINGS, Candidate
from gateway.dialects import CLIENT_DIALECTS, UPSTREAM_DIALECTS
from gateway.dialects.base import Inspection, Json, Reply, UnreadableAnswer, UpstreamDialect
from gateway.exchange import Exchange
from gateway.limits import Demand
from gateway.prompts import PromptSize
from gateway.proxy import (
    Received,
    Run,
    Services,
    Status,
    admit_and_hold,
    current_catalog,
    open_call,
    parse_object,
)
from gateway.replays import Attempt
from gateway.translation import Translation, write_json
from gateway.upstream import Answer, UpstreamCut, UpstreamTimedOut

WIRE = "openai_chat"


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A client's request, with the model's name as its provider knows it."""

    body: Json

    def write(self, candidate: Candidate) -> bytes:
        """See attempts.Written."""
        return write_json({**self.body, "model": candidate.upstream_name})

    def wire(self, candidate: Candidate) -> UpstreamDialect:
        """See attempts.Written: errors read as OpenAI's."""
        return UPSTREAM_DIALECTS[WIRE]

    def headers(self, candidate: Candidate) -> Mapping[str, str]:
        """See attempts.Written: none."""
        return {}


def inspect(body: Json) -> Inspection:
    """What pricing and routing need. Raises Refusal naming the parameter that is wrong."""
    for name in ("model", "input"):
        if body.get(name) is None:
            raise refusals.missing_parameter(name)
    if not isinstance(body["model"], str):
        raise refusals.wrong_type("model", "a string", body["model"])
    if not isinstance(body["input"], str | list) or not body["input"]:
        expected = "a string or an array that is not empty"
        raise refusals.wrong_type("input", expected, body["input"])
    # A list of numbers is one text in tokens; any other list is so many texts.
    is_batch = isinstance(body["input"], list) and not isinstance(body["input"][0], int)
    return Inspection(
        model=body["model"],
        is_stream=False,
        output_tokens_max=None,
        inputs=len(body["input"]) if is_batch else 1,
    )


async def serve_embeddings(exchange: Exchange, services: Services, call_id: uuid.UUID) -> None:
    """Embed texts. Raises Refusal as long as nothing was sent."""
    began_at = time.monotonic()
    caller, key_id = await authenticate(exchange.headers, services.snapshot)
    raw = await exchange.read_body(settings.AI_BODY_BYTES_MAX)
    body = parse_object(raw)
    received = Received(caller, key_id, raw, body, inspect(body), began_at)
    if not exchange.header(replays.HEADER):
        await _embed(exchange, services, call_id, received)
        return
    async with replays.once(services.replays, exchange, caller, raw, is_stream=False) as attempt:
        if attempt is not None:
            await _embed(exchange, services, call_id, received, attempt)


async def _embed(
    exchange: Exchange,
    services: Services,
    call_id: uuid.UUID,
    received: Received,
    attempt: Attempt | None = None,
) -> None:
    """Carry out what was received."""
    caller, inspection = received.caller, received.inspection
    candidates = routing.choose(
        await current_catalog(services),
        inspection.model,
        capability=EMBEDDINGS,
        chance=attempts.CHANCE,
        scopes=caller.limits_of(received.key_id),
    )
    size = PromptSize(len(received.raw))
    opening = open_call(
        exchange, caller, received.key_id, candidates, inspection, size, call_id, "embeddings"
    )
    demand = Demand(WIRE, size.tokens_estimate(), output_tokens_max=0)
    admission, call = await admit_and_hold(exchange, services, caller, opening, demand)
    run = Run(
        caller=caller,
        translation=Translation(CLIENT_DIALECTS[WIRE], inspection, received.body),
        candidate=candidates[0],
        call=call,
        admission=admission,
        reply=Reply(call_id.hex, int(time.time()), received.body),
        began_at=received.began_at,
        attempt=attempt,
    )
    try:
        answer = await _ask(services, candidates, run, EmbeddingRequest(received.body))
    finally:
        await run.settle()
    run.require_confirmed()
    await exchange.send_bytes(200, answer)


async def _ask(
    services: Services, candidates: list[Candidate], run: Run, request: EmbeddingRequest
) -> bytes:
    """The provider's answer as it is; names the ending in `run`. Raises Refusal."""

    deadline = services.connections.new_deadline()

    async def attempt(candidate: Candidate) -> Answer:
        run.take(candidate)
        return await attempts.send(
            *(services.connections, request, candidate, "/embeddings"),
            is_stream=False,
            deadline=deadline,
        )

    try:
        answer = await attempts.first_answer(attempt, candidates, services.breakers, run.attempts)
        async with answer:
            raw = await answer.read()
        _read_usage(run, raw)
    except AttemptFailed as failed:
        run.finish(failed.status, failed.refusal.status, failed.code)
        raise failed.refusal from None
    except UpstreamTimedOut as error:
        raise run.time_out(error.outcome) from None
    except UpstreamCut:
        run.finish(Status.TRUNCATED, 502, "upstream_cut")
        raise refusals.upstream_failed(retryable=False) from None
    except UnreadableAnswer:
        run.finish(Status.UPSTREAM_ERROR, 502, "upstream_unreadable")
        raise refusals.upstream_failed(retryable=False) from None
    run.finish(Status.FINISHED, 200)
    return raw


def _read_usage(run: Run, raw: bytes) -> None:
    """Note what the answer reports. Raises UnreadableAnswer."""
    try:
        body: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise UnreadableAnswer("The answer is not JSON.") from error
    if not isinstance(body, dict) or not isinstance(body.get("data"), list):
        raise UnreadableAnswer("The answer has no embeddings.")
    run.report(UPSTREAM_DIALECTS[WIRE].read_usage(body))
    run.model_served = str(body.get("model") or "")
