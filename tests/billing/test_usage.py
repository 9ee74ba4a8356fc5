"""Usage as people read it: totals, groups, pages of calls, explained costs; one query each."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from billing import pricing, usage
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
    call(usage=Usage(*range(1, 11), reasoning=5))
    with django_assert_num_queries(1):
        totals = usage.summary(organization, START, END)
    assert totals.calls == 2
    assert totals.usage == Usage(1001, 2, 3, 4, 5, 6, 7, 508, 9, 10, reasoning=5)
    assert totals.total_tokens == 1555
    assert totals.cost_nanos == 40_000 + 28 * 20 + 27 * 40


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


def test_an_explanation_shows_the_margin_and_ends_in_the_cost(organization):
    factories.make_credit(organization=organization)
    record = factories.make_call(
        organization=organization,
        price=factories.make_price(input_nanos=2_500_000_000, output_nanos=10_000_000_000),
        usage=Usage(input=1001, audio_output=500),
        margin_basis_points=250,
    )
    explanation = usage.explain(record)
    assert [line.formula for line in explanation.lines] == [
        "1,001 input × $2.50 / 1M = $0.0025025",
        "500 audio output × $10 / 1M = $0.005",
    ]
    assert record.cost_nanos == 7_690_063  # 7,502,500 and 2.5 %: 7,690,062.5
    assert explanation.formula == (
        "($0.0025025 + $0.005) × (1 + 2.5 %) = $0.0076900625, rounded to the nano-dollar"
        " = $0.007690063"
    )


def test_a_bill_without_margin_or_rounding_is_a_plain_sum(call):
    assert usage.explain(call()).formula == "$0.00002 + $0.00002 = $0.00004"


def test_counts_show_what_was_used_and_the_plain_buckets():
    assert usage.described_counts(Usage(image_input=3)) == [
        ("input", 0),
        ("cached input", 0),
        ("image input", 3),
        ("output", 0),
    ]
    assert set(usage.BUCKET_LABELS) == set(pricing.BUCKETS)


def test_a_free_call_has_nothing_to_explain(call):
    assert usage.explain(call(usage=None)).lines == []
