"""Calls of the AI API with an `Idempotency-Key`: sent and billed once, answered as often as asked.

Owns what the header means here: whose key it is (a deployment's), which answers are kept (those
that were billed), and what the client is told otherwise, also of a call that was billed and whose
answer is lost. Asked from the event loop, served by database threads of its own, which nobody
without the header waits for. Must know no wire.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import structlog
from django.conf import settings
from django.utils import timezone

from billing import usage
from gateway import refusals
from gateway.exchange import Exchange
from gateway.refusals import Refusal
from gateway.snapshot import Caller
from orgs import idempotency
from orgs.idempotency import Answer, Claim
from orgs.threads import DatabaseThreads, UnableToAsk

log = structlog.get_logger(__name__)

HEADER = b"idempotency-key"
REPLAYED = {"idempotent-replayed": "true"}
SECONDS_MAX = 5.0
THREADS = 2
# Beyond the longest call: reading it, settling it, and clocks that differ.
LEASE_SPARE = timedelta(minutes=5)


class Replays:
    """The way of one process to claims and kept answers."""

    def __init__(self) -> None:
        self._threads = DatabaseThreads(THREADS, "replays")

    def close(self) -> None:
        """End the threads and their connections."""
        self._threads.close()

    async def run(self, work: Any, *arguments: Any, **named: Any) -> Any:
        """A function of `orgs.idempotency`, in a thread. Raises UnableToAsk."""
        return await self._threads.ask(partial(work, *arguments, **named), seconds_max=SECONDS_MAX)


class Attempt:
    """One claimed call on its way to an answer; `is_billed` once it has cost something."""

    def __init__(self, replays: Replays, claimed: Claim) -> None:
        self.is_billed = False
        self._replays = replays
        self._claimed = claimed
        self._is_ended = False

    async def answered(self, status: int, body: bytes) -> None:
        """Before the client gets its answer: keep it, or forget a failure that cost nothing.

        A database that is away keeps no answer from the client: the claim lapses then.
        """
        if self._is_ended:
            return
        self._is_ended = True
        is_kept = status < 400 or self.is_billed
        try:
            if is_kept:
                await self._replays.run(idempotency.keep, self._claimed, Answer(status, body))
            else:
                await self._replays.run(idempotency.release, self._claimed)
        except UnableToAsk:
            log.exception("an answer could not be kept for its key")

    async def abandoned(self) -> None:
        """No answer will come: unless it was billed, the next request is the first."""
        if self._is_ended or self.is_billed:
            return
        await self.answered(499, b"")


@asynccontextmanager
async def once(
    replays: Replays, exchange: Exchange, caller: Caller, raw: bytes, *, is_stream: bool
) -> AsyncIterator[Attempt | None]:
    """The attempt to carry the call out; None when what was kept has answered it already.

    Whatever the exchange answers as a whole, also later, goes through the attempt. Raises Refusal.
    """
    attempt = await _begin(replays, exchange, caller, raw, is_stream=is_stream)
    try:
        yield attempt
    except Refusal:
        raise  # it becomes the answer
    except BaseException:
        if attempt is not None:
            await asyncio.shield(attempt.abandoned())
        raise


async def _begin(
    replays: Replays, exchange: Exchange, caller: Caller, raw: bytes, *, is_stream: bool
) -> Attempt | None:
    if is_stream:
        raise refusals.stream_with_idempotency_key()
    try:
        found = await replays.run(
            idempotency.claim,
            caller.organization_id,
            f"deployment:{caller.deployment_id}",
            exchange.header(HEADER).decode("latin-1"),
            idempotency.fingerprint(exchange.path.encode(), raw),
            lease=timedelta(seconds=settings.PROVIDER_SECONDS_MAX["total"]) + LEASE_SPARE,
            at=timezone.now(),
            reference=exchange.request_id,
            carried_out_at=usage.billed_at,
        )
    except idempotency.UnableToClaim as error:
        raise _refused(error) from None
    except UnableToAsk:
        raise refusals.service_unavailable() from None
    if isinstance(found, Answer):
        await exchange.send_bytes(found.status, found.body, REPLAYED)
        return None
    attempt = Attempt(replays, found)
    exchange.on_answer = attempt.answered
    return attempt


def _refused(error: idempotency.UnableToClaim) -> Refusal:
    match error:
        case idempotency.KeyReused():
            return refusals.idempotency_key_reused(str(error))
        case idempotency.StillInProgress(wait_seconds=wait_seconds):
            return refusals.idempotency_in_progress(str(error), wait_seconds)
        case idempotency.AnswerNotKept():
            return refusals.idempotent_answer_not_kept(str(error))
        case idempotency.AnswerLost(reference=request_id):
            return refusals.idempotent_answer_lost(request_id)
    return refusals.idempotency_key_invalid(str(error))
