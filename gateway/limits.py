"""Whether a call may be made now: limits of its key, deployment, workspace and organization.

Owns the decision and what clients read of it: `x-ratelimit-*` headers on every answer, and the 429
that names the limit or the budget. A call is admitted once, before credit is held for it, and its
admission ends once, when the call is settled. In-process arithmetic, and one round trip to Redis
for callers whose limits are shared. Must know no wire format: refusals are written by dialects.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from django.conf import settings

from billing import metering, money
from billing.metering import Ending, Opening
from gateway import refusals, windows
from gateway.budgets import Budgets, Shortfall, Spending
from gateway.refusals import Refusal
from gateway.sharing import SharedWindows
from gateway.snapshot import Caller, UnableToLoad
from gateway.windows import CONCURRENCY, TOKENS, Counter, Exceeded, ScopeLimits, Windows

# Reserved for an answer whose client set no limit; trued up when the call ends.
OUTPUT_TOKENS_GUESS = 1_024
ANTHROPIC = "anthropic"
NAMES = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "concurrency": "concurrent requests",
}


@dataclass(frozen=True, slots=True)
class Demand:
    """What a call asks for: an estimate of its input, the most each answer may have (None: unsaid).

    `choices` is how many answers. `dialect` tells whose headers its client reads.
    """

    dialect: str
    input_tokens: int
    output_tokens_max: int | None
    choices: int = 1


class Admission:
    """A call that was let in; ends once, whatever ends the call."""

    __slots__ = (
        "_budgeted",
        "_ended",
        "_limiter",
        "_minute",
        "_opening",
        "_scopes",
        "_shared",
        "_spending",
        "headers",
        "is_counted_everywhere",
        "tokens",
    )

    def __init__(
        self,
        limiter: "Limiter",
        opening: Opening,
        scopes: Sequence[ScopeLimits],
        tokens: int,
        minute: int,
        spending: Spending | None,
    ) -> None:
        """Made by `Limiter.admit`."""
        self.headers: dict[str, str] = {}
        self._limiter = limiter
        self._opening = opening
        self._scopes = scopes
        self.tokens = tokens
        self._minute = minute
        self._shared: Sequence[ScopeLimits] = ()
        self.is_counted_everywhere = False
        self._ended = False
        self._spending = spending
        self._budgeted = [limits for limits in scopes if limits.has_budget]
        if spending is not None:
            spending.reserve(self._budgeted, opening.hold_nanos)

    def end(self, ending: Ending) -> None:
        """The call is over: the tokens and the money it reserved are trued up."""
        if self._ended:
            return
        self._ended = True
        opening = self._opening
        more = ending.usage.total - self.tokens
        self._limiter.windows.end(self._scopes, more, self._minute)
        self._tell_others(requests=0, tokens=more)
        if self._spending is not None:
            cost = metering.cost_nanos(opening, ending)
            self._spending.reserve(self._budgeted, -opening.hold_nanos)
            self._spending.end(opening.call_id, self._budgeted, cost, opening.started_at)

    def give_back(self) -> None:
        """The call was not made after all: as if it had never been let in."""
        if self._ended:
            return
        self._ended = True
        self._limiter.windows.give_back(self._scopes, self.tokens, self._minute)
        self._tell_others(requests=-1, tokens=-self.tokens)
        if self._spending is not None:
            self._spending.reserve(self._budgeted, -self._opening.hold_nanos)

    def _tell_others(self, *, requests: int, tokens: int) -> None:
        shared = self._limiter.shared
        if not self._shared or shared is None:
            return
        if not self.is_counted_everywhere:  # nobody knows what arrived: take nothing off
            requests = tokens = 0
        shared.note(
            self._opening.call_id.hex,
            self._shared,
            requests=requests,
            tokens=tokens,
            minute=self._minute,
        )

    async def share(self, now: float) -> list[tuple[ScopeLimits, Counter]]:
        """Count the call over all processes; what they have used, nothing without Redis."""
        shared = self._limiter.shared
        if shared is None:
            return []
        self._shared = [limits for limits in self._scopes if limits.is_shared and _counts(limits)]
        if not self._shared:
            return []
        counters = await shared.take(self._opening.call_id.hex, self._shared, self.tokens, now)
        if counters is None:
            return []
        self.is_counted_everywhere = True
        return list(zip(self._shared, counters, strict=True))


def _counts(limits: ScopeLimits) -> bool:
    """Whether anything but money is limited."""
    return (
        limits.requests_per_minute is not None
        or limits.tokens_per_minute is not None
        or limits.concurrency is not None
    )


class Limiter:
    """Admits calls; one per process and event loop."""

    def __init__(self, budgets: Budgets, redis_url: str = "") -> None:
        """Without an address of a Redis, this process counts alone."""
        self.windows = Windows()
        self._budgets = budgets
        self.shared = SharedWindows(redis_url) if redis_url else None

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self.shared is not None:
            await self.shared.close()

    async def admit(self, caller: Caller, opening: Opening, demand: Demand) -> Admission:
        """Let the call in. Raises Refusal: 429 naming the limit or budget that does not cover it.

        Raises Refusal (503), too, when it is not known what a budgeted organization has spent.
        """
        scopes = caller.limits_of(opening.key_id)
        spending = await self._spending_of(caller, scopes)
        # Nothing awaits from here until the call is counted: checking and counting are one.
        now = time.time()
        admission = self._admit_here(opening, demand, scopes, spending, caller, now)
        try:
            everywhere = await admission.share(now)
        except BaseException:
            admission.give_back()
            raise
        tokens = admission.tokens
        for limits, counter in everywhere:
            before = Counter(
                counter.minute, counter.requests - 1, counter.tokens - tokens, counter.running - 1
            )
            if refused := windows.exceeded(limits, before, tokens, now):
                admission.give_back()
                raise self._refusal(refused, scopes, demand, now)
        admission.headers = self._headers(scopes, everywhere, demand.dialect, now)
        return admission

    async def _spending_of(self, caller: Caller, scopes: Sequence[ScopeLimits]) -> Spending | None:
        """What the organization has spent; None when none of the scopes has a budget."""
        if not any(limits.has_budget for limits in scopes):
            return None
        try:
            return await self._budgets.of(caller.organization_id)
        except UnableToLoad:
            raise refusals.service_unavailable() from None

    def _admit_here(
        self,
        opening: Opening,
        demand: Demand,
        scopes: Sequence[ScopeLimits],
        spending: Spending | None,
        caller: Caller,
        now: float,
    ) -> Admission:
        """Check and count in this process alone. Raises Refusal."""
        if spending is not None:
            at = datetime.fromtimestamp(now, UTC)
            budgeted = [limits for limits in scopes if limits.has_budget]
            if short := spending.shortfall(budgeted, opening.hold_nanos, at):
                raise _over_budget(short, caller)
        tokens = _reserved_tokens(scopes, demand)
        if refused := self.windows.take(scopes, tokens, now):
            raise self._refusal(refused, scopes, demand, now)
        return Admission(self, opening, scopes, tokens, windows.minute_of(now), spending)

    def _refusal(
        self, refused: Exceeded, scopes: Sequence[ScopeLimits], demand: Demand, now: float
    ) -> Refusal:
        headers = self._headers(scopes, [], demand.dialect, now)
        if refused.kind != CONCURRENCY:
            left = max(refused.limit - refused.used, 0)
            headers |= _header_values(refused.kind, refused.limit, left, demand.dialect, now)
        error_type = TOKENS if refused.kind == TOKENS else "requests"
        what = f"{NAMES[refused.kind]} of this {refused.scope}"
        facts = {
            "scope": refused.scope,
            "limit": refused.limit,
            "used": refused.used,
            "requested": refused.requested,
        }
        if refused.retry_after_seconds is None:
            return refusals.too_large_for_limit(error_type, what, facts, headers)
        milliseconds = math.ceil(refused.retry_after_seconds * 1000)
        headers["retry-after"] = str(math.ceil(milliseconds / 1000))
        headers["retry-after-ms"] = str(milliseconds)
        wait = windows.format_duration(refused.retry_after_seconds)
        return refusals.rate_limited(error_type, what, facts, headers, wait)

    def _headers(
        self,
        scopes: Sequence[ScopeLimits],
        everywhere: Sequence[tuple[ScopeLimits, Counter]],
        dialect: str,
        now: float,
    ) -> dict[str, str]:
        """Limit, remaining and reset of the scope with the least left, per kind that is limited."""
        minute = windows.minute_of(now)
        shared = {limits.scope: counter for limits, counter in everywhere}
        tightest: dict[str, tuple[int, int]] = {}
        for limits in scopes:
            here = self.windows.used(limits, minute)
            there = shared.get(limits.scope, here)
            for kind, limit, used in (
                ("requests", limits.requests_per_minute, max(here.requests, there.requests)),
                ("tokens", limits.tokens_per_minute, max(here.tokens, there.tokens)),
            ):
                if limit is not None:
                    left = (max(limit - used, 0), limit)
                    tightest[kind] = min(tightest.get(kind, left), left)
        headers: dict[str, str] = {}
        for kind, (remaining, limit) in tightest.items():
            headers |= _header_values(kind, limit, remaining, dialect, now)
        return headers


def _over_budget(short: Shortfall, caller: Caller) -> Refusal:
    """What a budget's shortfall means: no for good, or until calls in flight have ended."""
    facts = {
        "scope": short.limits.scope,
        "period": short.period,
        "limit": money.format_dollars(short.limit),
        "used": money.format_dollars(short.used),
        "requested": money.format_dollars(short.wanted),
        "resets_at": short.resets_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "limits_url": f"{settings.PUBLIC_URL}/console/{caller.organization_slug}/limits/",
    }
    what = f"{short.period} budget of this {short.limits.scope}"
    if short.used >= short.limit:
        return refusals.budget_spent(what, facts)
    if short.used + short.wanted > short.limit:
        return refusals.budget_too_small(what, facts)
    return refusals.budget_reserved(what, facts)


def _header_values(
    kind: str, limit: int, remaining: int, dialect: str, now: float
) -> dict[str, str]:
    """OpenAI's three headers of one kind, and Anthropic's for its own clients.

    platform.openai.com/docs/guides/rate-limits, docs.anthropic.com/en/api/rate-limits: resets are a
    duration there, a time (RFC 3339) here.
    """
    left = windows.seconds_left(now)
    headers = {
        f"x-ratelimit-limit-{kind}": str(limit),
        f"x-ratelimit-remaining-{kind}": str(remaining),
        f"x-ratelimit-reset-{kind}": windows.format_duration(left),
    }
    if dialect == ANTHROPIC:
        reset_at = datetime.fromtimestamp(math.ceil(now + left), UTC)
        headers |= {
            f"anthropic-ratelimit-{kind}-limit": str(limit),
            f"anthropic-ratelimit-{kind}-remaining": str(remaining),
            f"anthropic-ratelimit-{kind}-reset": reset_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
    return headers


def _reserved_tokens(scopes: Sequence[ScopeLimits], demand: Demand) -> int:
    """Tokens to reserve: what was asked for, or a guess that no limit is too small for."""
    if demand.output_tokens_max is not None:
        return demand.input_tokens + demand.output_tokens_max * demand.choices
    limit = min((one.tokens_per_minute for one in scopes if one.tokens_per_minute), default=None)
    guessed = demand.input_tokens + OUTPUT_TOKENS_GUESS
    return guessed if limit is None else max(min(guessed, limit), demand.input_tokens)
