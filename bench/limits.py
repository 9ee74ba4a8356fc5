"""What admitting a call costs: CPU of this process per call, alone and through Redis.

    python -m bench.limits [calls]

Uses REDIS_URL, or 127.0.0.1:6379/15 when that is not set; without a Redis there, the second half
is left out. Exit code 1 when the budget of the in-process path is exceeded.
"""

import asyncio
import os
import sys
import time
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError

BUDGET_MICROS = 40  # two scopes, admission and end together
REDIS_URL = os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/15"


async def measure(title: str, redis_url: str, limits: int, calls: int, in_flight: int) -> float:
    from billing import pricing
    from billing.metering import Ending
    from gateway.budgets import Budgets
    from gateway.limits import Demand, Limiter
    from gateway.snapshot import Caller, Snapshot
    from gateway.windows import ScopeLimits

    class Opening:
        call_id = uuid4()
        key_id = 1
        hold_nanos = 1_000_000

    huge = {"requests_per_minute": 10**9, "tokens_per_minute": 10**12, "concurrency": 10**6}
    names = ("key", "deployment", "workspace", "organization")[-limits:]
    scopes = tuple(ScopeLimits(name, 1, **huge, is_shared=bool(redis_url)) for name in names)
    caller = Caller(
        deployment_id=1,
        deploy_id="app",
        workspace_id=1,
        organization_id=1,
        organization_slug="acme",
        margin_basis_points=0,
        keys=(),
        limits=scopes,
    )
    demand = Demand("openai_chat", 100, 200)
    usage = pricing.Usage(input=100, output=50)
    ending = Ending("FINISHED", 200, usage, "PROVIDER")
    limiter = Limiter(Budgets(Snapshot()), redis_url)

    async def work(number: int) -> None:
        for _ in range(number):
            opening = Opening()
            opening.call_id = uuid4()
            admission = await limiter.admit(caller, opening, demand)  # type: ignore[arg-type]
            admission.end(ending)
            if redis_url:
                await asyncio.sleep(0)

    # Measure only what really is limited, and in Redis where that is what the title says.
    admission = await limiter.admit(caller, Opening(), demand)  # type: ignore[arg-type]
    assert admission.headers["x-ratelimit-limit-tokens"] == str(10**12), admission.headers
    assert bool(admission.is_counted_everywhere) == bool(redis_url)
    await work(100)
    began_at, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work(calls // in_flight) for _ in range(in_flight)))
    micros = (time.process_time() - cpu) / calls * 1e6
    took = (time.perf_counter() - began_at) / calls * 1e6
    await limiter.close()
    print(f"{title:44} {micros:6.1f} us CPU/call, {took:6.1f} us elapsed, {in_flight} in flight")
    return micros


def redis_answers() -> bool:
    """Whether there is a Redis to measure with."""
    try:
        return bool(Redis.from_url(REDIS_URL, socket_timeout=2).ping())
    except RedisError:
        print(f"no Redis answers at {REDIS_URL}: measured alone only")
        return False


def main() -> None:
    """Measure, print, judge."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    import django

    django.setup()
    from gateway import sharing

    # A busy machine may be slow; what is measured is CPU, and only with Redis answering.
    sharing.ROUND_TRIP_SECONDS_MAX = 10
    calls = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    asyncio.run(measure("alone, one scope", "", 1, calls, 1))
    micros = asyncio.run(measure("alone, two scopes", "", 2, calls, 1))
    asyncio.run(measure("alone, four scopes", "", 4, calls, 1))
    for scopes in (1, 4) if redis_answers() else ():
        asyncio.run(measure(f"Redis, {scopes} shared", REDIS_URL, scopes, calls // 4, 16))
    print(f"budget of two scopes alone: {BUDGET_MICROS} us")
    sys.exit(0 if micros <= BUDGET_MICROS else 1)


if __name__ == "__main__":
    main()
