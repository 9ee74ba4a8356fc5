"""The spend page: how fast credit goes and on what; its CSV; nobody else's figures."""

import csv
import io
import re
from datetime import timedelta

import pytest
from django.urls import reverse
from django.utils import timezone

from billing import usage
from billing.models import UsageRecord, UsageRollup
from billing.pricing import Usage
from billing.views import spend
from tests import factories

pytestmark = pytest.mark.django_db

DOLLAR = 1_000_000_000


@pytest.fixture
def now():
    """Noon of today, so that some hours more or less stay within the day."""
    return timezone.now().replace(hour=12, minute=0, second=0, microsecond=0)


@pytest.fixture
def call(organization, now):
    """A call on a day so long ago; a million input tokens cost a dollar."""
    factories.make_credit(organization=organization, nanos=10 * DOLLAR)
    price = factories.make_price(input_nanos=DOLLAR)

    def make(days_ago=0, dollars="1", **fields):
        return factories.make_call(
            organization=organization,
            price=price,
            usage=Usage(input=round(float(dollars) * 1_000_000)),
            started_at=now - timedelta(days=days_ago),
            hold_nanos=2 * DOLLAR,
            **fields,
        )

    return make


def page(client, organization, name="spend", **query):
    return client.get(reverse(f"billing:{name}", args=[organization.slug]), query)


def test_members_see_spend_and_outsiders_learn_of_nothing(
    organization, call, owner_client, member_client, outsider_client, client
):
    call()
    for name in ("spend", "spend-export"):
        assert page(owner_client, organization, name).status_code == 200
        assert page(member_client, organization, name).status_code == 200
        assert page(outsider_client, organization, name).status_code == 404
        assert page(client, organization, name).status_code == 302


def test_without_calls_the_page_says_so(organization, owner_client):
    shown = page(owner_client, organization).content.decode()
    assert "Nothing spent" in shown
    assert "Nothing is being spent" in shown


def test_spend_is_shown_per_model_and_per_deployment(organization, call, owner_client):
    call(days_ago=1, dollars="1.5", model="large")
    call(model="small", deployment_id=2, deploy_id="other-2")
    call(days_ago=40, model="ancient")
    shown = page(owner_client, organization).content.decode()
    assert "$2.50" in shown
    assert re.search(r"large.*\$1\.50.*small.*\$1\.00", shown, re.S)
    assert re.search(r"other-2.*60\.0%|60\.0%.*other-2", shown, re.S)
    assert "ancient" not in shown
    assert "ancient" in page(owner_client, organization, days="90").content.decode()


def test_all_figures_of_the_page_are_of_the_same_calls_while_others_go_on(
    organization, call, owner_client, monkeypatch
):
    read = usage.per_day_model_deployment

    def read_and_go_on(*arguments):
        found = read(*arguments)
        call(model="late", dollars="3")
        return found

    call(model="small")
    monkeypatch.setattr(usage, "per_day_model_deployment", read_and_go_on)
    shown = page(owner_client, organization).context
    assert [name for name, _ in shown["models"]] == ["small"]
    assert [totals for _, totals in shown["deployments"]] == [shown["total"]]
    assert shown["total"].cost_nanos == DOLLAR


def test_the_chart_has_a_colour_per_model_or_per_deployment(organization, call, owner_client):
    call(model="large")
    call(model="small", dollars="0.5")
    by_model = page(owner_client, organization).content.decode()
    assert by_model.count('<rect class="series-0"') == by_model.count('<rect class="series-1"') == 1
    assert ": large $1.00, small $0.50</title>" in by_model
    by_deployment = page(owner_client, organization, by="deployment").content.decode()
    assert '<rect class="series-1"' not in by_deployment
    assert ": app-0000000001 $1.50</title>" in by_deployment


def test_more_names_than_colours_share_the_last_one(organization, call, owner_client):
    for number in range(spend.SERIES_MAX + 2):
        call(model=f"model-{number}", dollars=f"{1 - number / 10}")
    shown = page(owner_client, organization).content.decode()
    legend = shown[shown.index('aria-label="Colours"') :]
    assert legend.count('<li class="series-') == spend.SERIES_MAX
    assert re.search(r'series-5">Others <span class="amount">\$1\.20', legend)


def test_estimated_calls_are_counted(organization, call, owner_client):
    call()
    assert "estimated" not in page(owner_client, organization).content.decode()
    UsageRollup.objects.update(usage_source=UsageRecord.Source.ESTIMATED)
    assert "1 call, 1 estimated" in page(owner_client, organization).content.decode()


@pytest.mark.parametrize("query", [{"days": "0"}, {"days": "x"}, {"by": "evil"}, {"days": "９"}])
def test_what_cannot_be_chosen_is_the_usual_view(organization, call, owner_client, query):
    call()
    shown = page(owner_client, organization, **query).content.decode()
    assert 'value="30" selected' in shown


def test_the_csv_adds_up_and_runs_no_formula(organization, call, owner_client):
    call(model="=cmd()")
    call(days_ago=1, dollars="0.25")
    call(days_ago=1, dollars="0.25")
    answer = page(owner_client, organization, "spend-export", days="7")
    assert answer["Content-Disposition"].startswith(
        f'attachment; filename="spend-{organization.slug}'
    )
    rows = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [(row["model"], row["calls"], row["cost_dollars"]) for row in rows] == [
        ("smollm2-135m", "2", "0.500000000"),
        ("'=cmd()", "1", "1.000000000"),
    ]


# --- Burn rate -----------------------------------------------------------------------------------
def test_credit_lasts_as_long_as_it_does_at_the_weeks_rate(organization, call, now):
    call(days_ago=30, dollars="0")
    for days_ago in range(6):
        call(days_ago=days_ago, dollars="0.5")
    burn = usage.burn(organization, now)
    assert burn.nanos_per_day == 3 * DOLLAR // 7
    assert burn.days_left == 16  # 7 dollars at 3 per 7 days
    assert burn.lasts_until == now.date() + timedelta(days=16)


def test_a_young_organizations_rate_is_not_thinned_by_days_before_it(organization, call, now):
    call(days_ago=1)
    assert usage.burn(organization, now).nanos_per_day == DOLLAR // 2


def test_who_spends_nothing_has_no_last_day(organization, now):
    factories.make_credit(organization=organization)
    assert usage.burn(organization, now) == usage.Burn(0, None, None)


def test_credit_for_years_names_no_day(organization, call, now):
    call(dollars="0.001")
    burn = usage.burn(organization, now)
    assert burn.days_left == 9999
    assert burn.lasts_until is None


def test_many_deployments_are_behind_a_click(organization, call, owner_client):
    for number in range(spend.SHARES_SHOWN + 2):
        call(dollars="0.1", deployment_id=number + 1, deploy_id=f"app{number}-0000000001")
    shown = page(owner_client, organization).content.decode()
    first, more, rest = shown.partition("<summary>2 more</summary>")
    assert more
    assert "deployment=app0-0000000001" in first
    assert rest.count("?deployment=") == 2
