"""Trying candidates until one answers: retries, fallback and circuit breakers.

Only before the first byte has gone to the client, and only for causes that another try may cure: a
refused connection, a provider's 5xx, 429 or overload. A stream that stays silent may go to another
candidate, never again to the same: nothing was delivered and the client is billed once, for the
answer it gets, but the silent provider may still be working. Every attempt is noted for the usage
record.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Any, Protocol

import structlog
from django.conf import settings

from billing.models import UsageRecord
from gateway import refusals
from gateway.breakers import Breakers
from gateway.catalog import Candidate
from gateway.dialects.base import UpstreamDialect
from gateway.refusals import Refusal
from gateway.upstream import (
    CONNECT_TIMEOUT,
    ERROR_BYTES_MAX,
    FIRST_BYTE_TIMEOUT,
    Answer,
    Connections,
    ConnectTimedOut,
    UnableToReach,
    UpstreamCut,
    UpstreamTimedOut,
)

log = structlog.get_logger(__name__)

# Load balancing, not secrets.
CHANCE = random.Random()  # noqa: S311
ATTEMPTS_MAX = 3
PAUSE_SECONDS = 0.2

Status = UsageRecord.Status


class AttemptFailed(Exception):
    """A provider did not answer. `refusal` is what the client sees if nobody else does.

    `code` goes to the call's record, `outcome` to the attempt's note. `is_retryable`: another try
    may cure it; `is_elsewhere_only`: but not one with the same candidate.
    """

    def __init__(
        self,
        refusal: Refusal,
        *,
        is_retryable: bool,
        status: str,
        code: str,
        detail: str,
        outcome: str = "",
        is_elsewhere_only: bool = False,
    ) -> None:
        super().__init__(detail)
        self.refusal = refusal
        self.is_retryable = is_retryable
        self.is_elsewhere_only = is_elsewhere_only
        self.status = status
        self.code = code
        self.outcome = outcome or code or status


class Written(Protocol):
    """A request that can be written for a candidate; Translation is one."""

    def write(self, candidate: Candidate) -> bytes:
        """The provider's request body. Raises Refusal."""
        ...

    def wire(self, candidate: Candidate) -> UpstreamDialect:
        """The dialect this candidate is called in."""
        ...

    def headers(self, candidate: Candidate) -> Mapping[str, str]:
        """Headers of the client's that go with the body."""
        ...


async def send(
    connections: Connections,
    translation: Written,
    candidate: Candidate,
    path: str,
    *,
    is_stream: bool,
    deadline: float,
) -> Answer:
    """Ask one candidate; its answer, whose status is good.

    A stream has begun, too, unless it is silent for longer than a client should be kept waiting.
    Raises AttemptFailed, and Refusal for what cannot be asked of it.
    """
    assert candidate.upstream is not None  # routing chooses configured ones  # noqa: S101
    body = translation.write(candidate)
    try:
        answer = await connections.send(
            candidate.upstream,
            path,
            body,
            is_stream=is_stream,
            deadline=deadline,
            headers=translation.headers(candidate),
        )
        if answer.status >= 300:
            async with answer:
                raise await _read_failure(translation, candidate, answer)
        if is_stream:
            await _hear(answer)
    except UpstreamTimedOut as error:
        raise AttemptFailed(
            refusals.upstream_timed_out(),
            is_retryable=error.outcome == FIRST_BYTE_TIMEOUT,
            is_elsewhere_only=True,
            status=Status.TIMEOUT,
            code="upstream_timeout",
            detail=str(error),
            outcome=error.outcome,
        ) from error
    except ConnectTimedOut as error:
        raise AttemptFailed(
            refusals.upstream_timed_out(is_dispatched=False),
            is_retryable=True,
            status=Status.TIMEOUT,
            code="upstream_timeout",
            detail=str(error),
            outcome=CONNECT_TIMEOUT,
        ) from error
    except (UnableToReach, UpstreamCut) as error:
        code = "upstream_unreachable" if isinstance(error, UnableToReach) else "upstream_cut"
        raise AttemptFailed(
            refusals.upstream_failed(retryable=True),
            is_retryable=True,
            status=Status.UPSTREAM_ERROR,
            code=code,
            detail=str(error),
        ) from error
    return answer


async def _hear(answer: Answer) -> None:
    """Wait for a stream's first byte: until it came, failing still has a status of its own.

    Not longer than the time between two pings: then the client's answer begins with one.
    """
    try:
        await answer.hear(seconds_max=settings.STREAM_PING_SECONDS)
    except BaseException:
        answer.close()
        raise


async def _read_failure(
    translation: Written, candidate: Candidate, answer: Answer
) -> AttemptFailed:
    body = await answer.read_start(ERROR_BYTES_MAX)
    secrets = [candidate.upstream.api_key] if candidate.upstream else []
    failure = translation.wire(candidate).read_error(
        answer.status, answer.headers, body, secrets=secrets
    )
    status = Status.REFUSED if failure.refusal.status == 400 else Status.UPSTREAM_ERROR
    return AttemptFailed(
        failure.refusal,
        is_retryable=failure.is_retryable,
        status=status,
        code=failure.refusal.code or "",
        detail=failure.detail,
    )


async def first_answer(
    attempt: Callable[[Candidate], Awaitable[Answer]],
    candidates: list[Candidate],
    breakers: Breakers,
    noted: list[dict[str, Any]],
) -> Answer:
    """The first good answer of `attempt` over the candidates; what went wrong goes to `noted`.

    Raises the last AttemptFailed when nobody answered, and whatever else `attempt` raises.
    """
    plan = _plan(candidates, breakers)
    for number, candidate in enumerate(plan, start=1):
        began_at = time.monotonic()
        try:
            answer = await attempt(candidate)
        except AttemptFailed as failed:
            note(noted, candidate, failed.outcome, began_at=began_at, detail=str(failed))
            if failed.is_retryable:
                wait = _retry_after_seconds(failed.refusal)
                breakers.failed(_name(candidate), now=began_at, retry_after_seconds=wait)
            is_last = number == len(plan)
            if is_last or not failed.is_retryable or _must_not_repeat(plan, number, failed):
                raise
            if plan[number] is candidate:
                await asyncio.sleep(PAUSE_SECONDS)
        else:
            breakers.succeeded(_name(candidate))
            return answer
    raise AssertionError("A plan has at least one candidate.")


def _plan(candidates: list[Candidate], breakers: Breakers) -> list[Candidate]:
    """Who is tried, in order: those whose breaker is open last; a lone candidate twice."""
    now = time.monotonic()
    ordered = sorted(candidates, key=lambda row: breakers.seconds_left(_name(row), now=now) > 0)
    if breakers.seconds_left(_name(ordered[0]), now=now) == 0:
        breakers.probe(_name(ordered[0]), now=now)
    return ordered[:ATTEMPTS_MAX] if len(ordered) > 1 else ordered * 2


def _must_not_repeat(plan: list[Candidate], number: int, failed: AttemptFailed) -> bool:
    """Whether the next try is the same candidate, which is at work or said when to come back."""
    is_same = plan[number] is plan[number - 1]
    return is_same and (failed.is_elsewhere_only or _retry_after_seconds(failed.refusal) > 0)


def _retry_after_seconds(refusal: Refusal) -> float:
    return float(refusal.headers.get("retry-after", 0))


def _name(candidate: Candidate) -> Hashable:
    return candidate.provider.name, candidate.upstream.base_url if candidate.upstream else ""


def note(
    noted: list[dict[str, Any]],
    candidate: Candidate,
    outcome: str,
    *,
    began_at: float,
    detail: str,
) -> None:
    """Add to `noted` how an attempt failed that began at this time of the monotonic clock."""
    noted.append(
        {
            "provider": candidate.served_by,
            "model": candidate.upstream_name,
            "outcome": outcome,
            "duration_ms": round((time.monotonic() - began_at) * 1000),
        }
    )
    log.warning(
        "provider did not answer",
        provider=candidate.provider.name,
        model=candidate.upstream_name,
        detail=detail[:500],
    )
