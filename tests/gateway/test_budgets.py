"""Budgets: what counts as used, what is refused, and that only the database is believed."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from aiohttp import web
from asgiref.sync import sync_to_async
from django.db import connections
from django.utils import timezone

from billing import spending
from billing.models import PriceVersion, UsageRecord
from billing.pricing import Usage
from gateway import budgets
from gateway.app import GatewayApp
from gateway.budgets import Budgets, Figures, Spending
from gateway.models import Limit
from gateway.snapshot import Snapshot
from gateway.windows import ScopeLimits
from orgs.models import Organization
from tests import factories
from tests.gateway.conftest import ApiClient, Provider, Tenant, until
from tests.gateway.redis_server import RedisServer
from tests.gateway.test_limits import error_of, limit
from tests.gateway.test_proxy import COST_NANOS, balances, whole

TODAY = date(2026, 11, 25)
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
KEY = ScopeLimits("key", 1, daily_nanos=100, monthly_nanos=1000)
DOLLAR = 1_000_000_000


def known(day: int = 0, month: int = 0, *recorded: Any) -> Figures:
    return Figures(TODAY, {("key", 1): (day, month)}, frozenset(recorded))


@pytest.fixture
async def _closed_connections() -> AsyncIterator[None]:
    """For tests without the running API, which closes those of its threads and the loop's."""
    yield
    await sync_to_async(connections.close_all)()


# --- what counts ------------------------------------------------------------------------------


def test_a_call_in_flight_counts_at_its_worst_case_and_then_at_its_cost() -> None:
    known_here = Spending(known(day=50, month=50))
    known_here.reserve([KEY], 40)
    short = known_here.shortfall([KEY], 20, NOW)
    assert short is not None
    assert (short.period, short.used, short.reserved, short.limit) == ("daily", 50, 40, 100)
    known_here.reserve([KEY], -40)
    known_here.end(uuid4(), [KEY], 7, NOW)
    assert known_here.used(KEY, TODAY) == (57, 57)
    assert known_here.shortfall([KEY], 43, NOW) is None


def test_a_call_counts_until_it_is_recorded_and_then_not_twice() -> None:
    known_here = Spending(known())
    call, later = uuid4(), uuid4()
    known_here.end(call, [KEY], 7, NOW)
    known_here.end(later, [KEY], 5, NOW)
    assert set(known_here.waiting()) == {call, later}
    known_here.learn(known(7, 7, call))
    assert known_here.used(KEY, TODAY) == (12, 12)
    known_here.learn(known(12, 12, later))
    assert known_here.used(KEY, TODAY) == (12, 12)
    assert known_here.waiting() == ()


def test_at_midnight_the_day_starts_at_nothing_and_the_month_goes_on() -> None:
    known_here = Spending(known(day=100, month=500))
    known_here.end(uuid4(), [KEY], 7, NOW)
    tomorrow = NOW + timedelta(days=1)
    assert known_here.used(KEY, tomorrow.date()) == (0, 507)
    assert known_here.used(KEY, date(2026, 12, 1)) == (0, 0)
    assert known_here.shortfall([KEY], 100, tomorrow) is None


@pytest.mark.parametrize(
    ("at", "day_ends", "month_ends"),
    [
        ((2026, 11, 25, 12), (2026, 11, 26), (2026, 12, 1)),
        ((2026, 12, 31, 23, 59), (2027, 1, 1), (2027, 1, 1)),
        ((2028, 2, 28), (2028, 2, 29), (2028, 3, 1)),
    ],
)
def test_a_budget_says_when_it_starts_again(at: Any, day_ends: Any, month_ends: Any) -> None:
    moment = datetime(*at, tzinfo=UTC)
    assert spending.next_day(moment) == datetime(*day_ends, tzinfo=UTC)
    assert spending.next_month(moment) == datetime(*month_ends, tzinfo=UTC)


def test_calls_that_are_never_recorded_are_forgotten_after_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known_here = Spending(known())
    known_here.end(uuid4(), [KEY], 7, NOW)
    monkeypatch.setattr(budgets, "UNRECORDED_SECONDS_MAX", -1.0)
    known_here.learn(known())
    assert known_here.waiting() == ()
    assert known_here.used(KEY, TODAY) == (0, 0)


# --- what the database says -------------------------------------------------------------------


@pytest.fixture
def price(db: None) -> PriceVersion:
    return factories.make_price(input_nanos=1_000_000, output_nanos=1_000_000)


def spend(
    organization: Organization, price: PriceVersion, nanos: int, at: datetime, **ids: Any
) -> UsageRecord:
    """A recorded call that cost so many nano-dollars: one a token."""
    return factories.make_call(
        organization=organization, price=price, usage=Usage(input=nanos), started_at=at, **ids
    )


def test_spending_is_summed_by_scope_over_the_day_and_the_month(
    organization: Organization, other_organization: Organization, price: PriceVersion
) -> None:
    for one in (organization, other_organization):
        factories.make_credit(organization=one)
    for deployment_id, nanos, at in (
        (11, 1, NOW),
        (12, 10, NOW.replace(hour=0)),
        (11, 100, NOW - timedelta(days=1)),
        (11, 1000, NOW.replace(day=1, hour=0)),
        (11, 10_000, NOW - timedelta(days=30)),
        (11, 100_000, NOW + timedelta(days=30)),
    ):
        spend(organization, price, nanos, at, deployment_id=deployment_id)
    spend(other_organization, price, 7, NOW, deployment_id=11)
    assert budgets.by_scope(organization.pk, NOW) == {
        ("key", 1): (11, 1111),
        ("deployment", 11): (1, 1101),
        ("deployment", 12): (10, 10),
        ("workspace", 1): (11, 1111),
        ("organization", organization.pk): (11, 1111),
    }


def test_recorded_calls_are_told_from_others(
    organization: Organization, price: PriceVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spending, "IDS_PER_QUERY", 2)
    factories.make_credit(organization=organization)
    calls = {spend(organization, price, 1, NOW).pk for _ in range(3)}
    assert spending.recorded([*calls, uuid4()]) == calls
    assert spending.recorded([]) == set()


@pytest.mark.usefixtures("_closed_connections")
async def test_reading_is_two_queries_whatever_was_used(
    transactional_db: None, django_assert_num_queries: Any
) -> None:
    def read() -> None:
        organization = factories.make_organization()
        with django_assert_num_queries(2):
            budgets.load(organization.pk, [uuid4()])

    await sync_to_async(read)()


# --- what clients meet ------------------------------------------------------------------------


async def test_a_spent_budget_refuses_for_good_and_says_why(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    assert (await api.chat()).status == 200
    await limit(tenant, daily_budget_nanos=COST_NANOS)

    await until(lambda: knows_a_budget(api))
    answer = await api.chat()
    error = error_of(answer)
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    assert error["message"].startswith("You exceeded your current quota, please check your plan")
    assert "The daily budget of this deployment is used up: Limit $0.00008," in error["message"]
    assert (error["scope"], error["period"]) == ("deployment", "daily")
    assert (error["limit"], error["used"]) == ("$0.00008", "$0.00008")
    resets_at = datetime.fromisoformat(error["resets_at"])
    assert timedelta(0) < resets_at - timezone.now() <= timedelta(days=1)
    assert error["limits_url"].endswith(f"/console/{tenant.organization.slug}/limits/")
    assert answer.headers["x-should-retry"] == "false"
    assert "retry-after" not in answer.headers


async def test_a_call_that_may_cost_more_than_is_left_is_not_made(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await limit(tenant, Limit.Scope.ORGANIZATION, monthly_budget_nanos=1_000_000)
    answer = await api.chat(max_completion_tokens=10_000)
    error = error_of(answer)
    assert error["message"].startswith("The rest of the monthly budget of this organization")
    assert answer.headers["x-should-retry"] == "false"
    assert provider.requests == []
    provider.handler = whole()
    assert (await api.chat(max_completion_tokens=10)).status == 200


async def test_calls_at_once_do_not_overshoot_together(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    provider.handler = whole()
    worst_case = await _worst_case(api, tenant)
    await limit(tenant, Limit.Scope.WORKSPACE, daily_budget_nanos=COST_NANOS + 2 * worst_case)
    go = asyncio.Event()
    answers = whole()

    async def handler(request: web.Request) -> web.Response:
        await go.wait()
        response: web.Response = await answers(request)
        return response

    provider.handler = handler
    provider.requests.clear()
    await until(lambda: knows_a_budget(api))
    waiting = [asyncio.ensure_future(api.chat()) for _ in range(8)]

    async def are_answered() -> bool:
        return sum(one.done() for one in waiting) == 6

    await until(are_answered)
    refused = [one.result() for one in waiting if one.done()]
    assert {answer.json["error"]["code"] for answer in refused} == {"budget_reserved"}
    assert {answer.headers["retry-after"] for answer in refused} == {"2"}
    assert {answer.headers["x-should-retry"] for answer in refused} == {"true"}
    go.set()
    assert [answer.status for answer in await asyncio.gather(*waiting)].count(200) == 2


async def _worst_case(api: ApiClient, tenant: Tenant) -> int:
    """What is held for one call of the test client."""
    assert (await api.chat()).status == 200
    record = await UsageRecord.objects.aget(organization=tenant.organization)
    return record.held_nanos


async def knows_a_budget(api: ApiClient) -> bool:
    """Whether this process knows by now that the client has one."""
    services = api._app._services
    assert services is not None
    caller = await services.snapshot.caller(api.key.removeprefix("aig_").rpartition("_")[0])
    assert caller is not None
    return any(limits.has_budget for limits in caller.limits)


async def test_a_call_refused_by_a_budget_holds_no_credit(api: ApiClient, tenant: Tenant) -> None:
    await limit(tenant, Limit.Scope.KEY, daily_budget_nanos=1)
    assert (await api.chat()).status == 429
    assert await balances(tenant) == (0, 0)


async def test_what_other_processes_spent_counts_within_a_second(
    api: ApiClient, provider: Provider, tenant: Tenant
) -> None:
    await limit(tenant, daily_budget_nanos=DOLLAR)
    provider.handler = whole()
    assert (await api.chat()).status == 200
    price = await PriceVersion.objects.aget(model="gpt-4o")
    await sync_to_async(factories.make_call)(
        organization=tenant.organization,
        price=price,
        usage=Usage(output=100_000),
        deployment_id=tenant.deployment.pk,
        deploy_id=tenant.deployment.deploy_id,
    )

    async def is_refused() -> bool:
        return (await api.chat()).status == 429

    await until(is_refused)


@pytest.mark.usefixtures("_closed_connections")
async def test_emptying_redis_changes_no_figure_of_money(
    provider: Provider, tenant: Tenant, settings: Any, tmp_path: Any
) -> None:
    redis = RedisServer(tmp_path)
    await asyncio.to_thread(redis.start)
    settings.REDIS_URL = redis.url
    settings.PROVIDER_ENVIRONMENT = {
        "openai": {"base_url": provider.base_url, "api_key": "sk-provider-secret-0123456789"}
    }
    await limit(tenant, requests_per_minute=1000, daily_budget_nanos=DOLLAR)
    app = GatewayApp()
    await app.start()
    try:
        api = ApiClient(app, tenant.key)
        provider.handler = whole()
        for number in range(6):
            assert (await api.chat()).status == 200
            if number % 2:
                await asyncio.to_thread(redis.client.flushall)
        assert await balances(tenant) == (6 * COST_NANOS, 0)
        assert app._services is not None
        deployment = ("deployment", tenant.deployment.pk)

        async def is_counted_once() -> bool:
            assert app._services is not None
            await app._services.limiter._budgets.of(tenant.organization.pk)
            known_here = app._services.limiter._budgets._known[tenant.organization.pk]
            scope = ScopeLimits(*deployment, daily_nanos=DOLLAR)
            return known_here.used(scope, timezone.now().date())[0] == 6 * COST_NANOS

        await until(is_counted_once)
    finally:
        await app.stop()
        redis.close()


async def test_organizations_nobody_asks_about_make_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budgets, "ORGANIZATIONS_MAX", 2)
    monkeypatch.setattr(budgets, "load", lambda organization_id, _: known())
    snapshot = Snapshot()
    all_of_them = Budgets(snapshot)
    for organization_id in range(4):
        await all_of_them.of(organization_id)
    assert list(all_of_them._known) == [2, 3]
    await asyncio.to_thread(snapshot.close)
