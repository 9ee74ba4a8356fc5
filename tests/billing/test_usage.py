"""Usage as people read it: totals, groups, pages of calls, explained costs; one query each."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing import usage
from billing.pricing import Usage
from tests import factories

DAY = datetime(2026, 11, 1, 12, tzinfo=UTC)
START, END = DAY - timedelta(days=1), DAY + timedelta(days=9)
pytestmark = pytest.mark.django_db


@pytest.fixture
def call(organization):
    factories.make_credit(organization=organization)
    price = factories.make_price()

    def make(**fields):
        defaults = {"usage": Usage(input=1000, output=500), "started_at": DAY}
        return factories.make_call(organization=organization, price=price, **{**defaults, **fields})

    return make


def test_no_calls_are_totals_of_zero(organization):
    assert usage.summary(organization, START, END) == usage.Totals()


def test_totals_are_sums_over_calls(organization, call, django_assert_num_queries):
    call()
    call(usage=Usage(input=10, cache_read=20, cache_write=30, output=40, reasoning=5))
    with django_assert_num_queries(1):
        totals = usage.summary(organization, START, END)
    assert totals.calls == 2
    assert (totals.input_tokens, totals.output_tokens) == (1010, 540)
    assert (totals.cache_read_tokens, totals.cache_write_tokens) == (20, 30)
    assert totals.total_tokens == 1600
    assert totals.cost_nanos == 40_000 + 60 * 20 + 40 * 40


def test_a_period_contains_its_start_and_not_its_end(organization, call):
    call()
    assert usage.summary(organization, DAY, END).calls == 1
    assert usage.summary(organization, START, DAY).calls == 0


def test_one_deployments_usage_is_told_from_anothers(organization, call):
    call(deployment_id=1)
    call(deployment_id=2)
    assert usage.summary(organization, START, END, deployment_id=2).calls == 1


def test_another_organizations_usage_is_not_seen(other_organization, call):
    call()
    assert usage.summary(other_organization, START, END).calls == 0
    assert usage.calls(other_organization) == []
    assert usage.per_day(other_organization, START, END) == []


def test_days_are_listed_in_order(organization, call, django_assert_num_queries):
    call(started_at=DAY + timedelta(days=2))
    call()
    call()
    with django_assert_num_queries(1):
        days = usage.per_day(organization, START, END)
    assert [(row.day.isoformat(), row.totals.calls) for row in days] == [
        ("2026-11-01", 2),
        ("2026-11-03", 1),
    ]


def test_models_are_listed_dearest_first(organization, call, django_assert_num_queries):
    call(model="small", usage=Usage(input=1))
    call(model="large")
    with django_assert_num_queries(1):
        models = usage.per_model(organization, START, END)
    assert [row.model for row in models] == ["large", "small"]


def test_deployments_are_listed_dearest_first(organization, call, django_assert_num_queries):
    call(deployment_id=1, deploy_id="small-1", usage=Usage(input=1))
    call(deployment_id=2, deploy_id="large-2")
    with django_assert_num_queries(1):
        deployments = usage.per_deployment(organization, START, END)
    assert [(row.deployment_id, row.deploy_id) for row in deployments] == [
        (2, "large-2"),
        (1, "small-1"),
    ]


def test_calls_come_in_pages_latest_first(organization, call, django_assert_num_queries):
    made = [call(started_at=DAY + timedelta(seconds=number)) for number in range(5)]
    with django_assert_num_queries(1):
        page = usage.calls(organization, limit=2)
        assert [record.price_version.model for record in page] == ["smollm2-135m"] * 2
    rest = usage.calls(organization, before_call_id=page[-1].pk)
    assert [*page, *rest] == made[::-1]


def test_calls_are_found_by_what_they_were(organization, call):
    first = call(model="a", deployment_id=7)
    second = call(status="UPSTREAM_ERROR", usage=None)
    assert usage.calls(organization, model="a") == [first]
    assert usage.calls(organization, deployment_id=7) == [first]
    assert usage.calls(organization, status="UPSTREAM_ERROR") == [second]
    assert usage.calls(organization, request_id=second.request_id) == [second]


def test_a_cost_is_explained_line_by_line(call):
    explanation = usage.explain(call())
    assert [line.formula for line in explanation.lines] == [
        "1,000 input × $0.02 / 1M = $0.00002",
        "500 output × $0.04 / 1M = $0.00002",
    ]
    assert explanation.exact_dollars == Decimal("0.00004")
    assert explanation.cost_nanos == 40_000
    assert not explanation.is_rounded


def test_an_explanation_says_when_the_sum_was_rounded(organization):
    factories.make_credit(organization=organization)
    price = factories.make_price(input_nanos=2_500_000_400)
    record = factories.make_call(organization=organization, price=price, usage=Usage(input=1))
    explanation = usage.explain(record)
    assert explanation.lines[0].formula == "1 input × $2.5000004 / 1M = $0.0000025000004"
    assert explanation.is_rounded
    assert explanation.cost_nanos == 2500


def test_a_free_call_has_nothing_to_explain(call):
    assert usage.explain(call(usage=None)).lines == []
