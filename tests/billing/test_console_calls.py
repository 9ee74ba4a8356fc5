"""Calls in the console: list, filters, paging, live refresh, export, and one call explained."""

import csv
import io
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections
from django.test import AsyncClient, Client
from django.utils import timezone

from billing.models import PriceVersion, UsageRecord
from billing.pricing import Usage
from billing.templatetags.charts import spend_chart
from billing.templatetags.money import dollars, plain
from billing.usage import DayTotals, Totals
from billing.views import calls as views
from orgs.models import Organization, User
from tests import factories

HTMX = {"HX-Request": "true"}


@pytest.fixture
def price(db: None) -> PriceVersion:
    return factories.make_price()


@pytest.fixture
def calls(organization: Organization, price: PriceVersion) -> list[UsageRecord]:
    """Three calls: two of one app, one of another that failed."""
    factories.make_credit(organization=organization)
    return [
        factories.make_call(
            organization=organization,
            price=price,
            usage=Usage(input=1000, output=50),
            deployment_id=number,
            deploy_id=f"{name}-0000000001",
            model=model,
            status=status,
        )
        for number, name, model, status in (
            (1, "chat", "gpt-4o", UsageRecord.Status.FINISHED),
            (1, "chat", "smollm2-135m", UsageRecord.Status.FINISHED),
            (2, "search", "gpt-4o", UsageRecord.Status.UPSTREAM_ERROR),
        )
    ]


def _calls(organization: Organization, query: str = "") -> str:
    return f"/console/{organization.slug}/calls/{query}"


def _listed(response: Any, calls: list[UsageRecord]) -> list[int]:
    """Which of `calls` the page lists, by position."""
    text = response.content.decode()
    return [n for n, call in enumerate(calls) if f"/calls/{call.request_id}/" in text]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [0, 1, 2]),
        ("?model=gpt-4o", [0, 2]),
        ("?status=UPSTREAM_ERROR", [2]),
        ("?deployment=chat-0000000001", [0, 1]),
        ("?deployment=chat-0000000001&model=gpt-4o", [0]),
        ("?model=no-such-model", []),
        ("?deployment=no-such-app", []),
    ],
)
def test_filters_narrow_the_list(
    query: str,
    expected: list[int],
    organization: Organization,
    calls: list[UsageRecord],
    owner_client: Client,
) -> None:
    assert _listed(owner_client.get(_calls(organization, query)), calls) == expected


def test_a_request_id_finds_its_call(
    organization: Organization, calls: list[UsageRecord], owner_client: Client
) -> None:
    response = owner_client.get(_calls(organization, f"?request_id={calls[1].request_id}"))
    assert _listed(response, calls) == [1]


def test_a_filter_without_matches_says_so(
    organization: Organization, calls: list[UsageRecord], owner_client: Client
) -> None:
    text = owner_client.get(_calls(organization, "?model=nothing")).content.decode()
    assert "No calls match" in text


def test_without_calls_the_page_says_how_to_make_one(
    organization: Organization, owner_client: Client
) -> None:
    text = owner_client.get(_calls(organization)).content.decode()
    assert "No calls yet" in text
    assert "/api/ai/v1/models" in text


def test_older_calls_are_a_page_away_and_new_ones_shift_nothing(
    organization: Organization,
    price: PriceVersion,
    calls: list[UsageRecord],
    owner_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "CALLS_PER_PAGE", 2)
    first = owner_client.get(_calls(organization))
    assert _listed(first, calls) == [1, 2]
    older = first.context["older"]
    calls.append(factories.make_call(organization=organization, price=price))
    second = owner_client.get(_calls(organization, f"?before={older}"))
    assert _listed(second, calls) == [0]
    assert "data-live" not in second.content.decode()


@pytest.mark.parametrize("before", ["nonsense", "1", "%00"])
def test_a_page_that_cannot_be_is_not_found(
    before: str, organization: Organization, owner_client: Client
) -> None:
    assert owner_client.get(_calls(organization, f"?before={before}")).status_code == 404


def test_the_list_refreshes_only_when_there_is_something_new(
    organization: Organization, price: PriceVersion, calls: list[UsageRecord], owner_client: Client
) -> None:
    newest = calls[2].call_id.hex
    url = _calls(organization, f"?newest={newest}")
    assert owner_client.get(url, headers=HTMX).status_code == 204
    calls.append(factories.make_call(organization=organization, price=price))
    refreshed = owner_client.get(url, headers=HTMX)
    text = refreshed.content.decode()
    assert _listed(refreshed, calls) == [0, 1, 2, 3]
    assert text.count("is-new") == 1
    assert "<html" not in text


def test_the_export_holds_every_selected_call_exactly(
    organization: Organization, calls: list[UsageRecord], owner_client: Client
) -> None:
    response = owner_client.get(_calls(organization, "export.csv?model=gpt-4o"))
    assert response["Content-Type"].startswith("text/csv")
    text = b"".join(response).decode()  # type: ignore[arg-type]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["request_id"] for row in rows] == [calls[2].request_id, calls[0].request_id]
    assert rows[1]["cost_dollars"] == "0.000022000"
    assert rows[1]["input_tokens"] == "1000"


def test_the_export_is_bounded(
    organization: Organization,
    calls: list[UsageRecord],
    owner_client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(views, "EXPORT_ROWS_MAX", 2)
    monkeypatch.setattr(views, "EXPORT_ROWS_PER_QUERY", 1)
    response = owner_client.get(_calls(organization, "export.csv"))
    assert len(b"".join(response).splitlines()) == 3  # type: ignore[arg-type]


def test_the_export_never_holds_a_formula(
    organization: Organization, price: PriceVersion, owner_client: Client
) -> None:
    factories.make_credit(organization=organization)
    factories.make_call(organization=organization, price=price, model="=SUM(A1:A9)")
    text = b"".join(owner_client.get(_calls(organization, "export.csv"))).decode()  # type: ignore[arg-type]
    assert "'=SUM(A1:A9)" in text


@pytest.mark.django_db(transaction=True)
async def test_the_export_streams_under_asgi(
    organization: Organization, calls: list[UsageRecord], owner: User
) -> None:
    client = AsyncClient()
    await client.aforce_login(owner, backend="django.contrib.auth.backends.ModelBackend")
    response = await client.get(_calls(organization, "export.csv"))
    pieces = [piece async for piece in response]
    # Views ran in asgiref's thread, whose connection would outlive the test database.
    await sync_to_async(connections.close_all)()
    assert len(b"".join(pieces).splitlines()) == 4


def test_a_call_is_explained_to_the_last_digit(
    organization: Organization, calls: list[UsageRecord], owner_client: Client
) -> None:
    call = calls[0]
    text = owner_client.get(_calls(organization, f"{call.request_id}/")).content.decode()
    assert "$0.00002" in text  # 1,000 input tokens at $0.02 per million
    assert "$0.000002" in text  # 50 output tokens at $0.04 per million
    assert "$0.000022" in text
    assert f"Price version {call.price_version_id}" in text
    assert call.transfer is not None
    assert call.transfer.public_id in text


def test_a_call_that_cost_nothing_moved_no_credit(
    organization: Organization, price: PriceVersion, owner_client: Client
) -> None:
    factories.make_credit(organization=organization)
    call = factories.make_call(organization=organization, price=price)
    text = owner_client.get(_calls(organization, f"{call.request_id}/")).content.decode()
    assert "no credit moved" in text
    assert "Nothing was used" in text


@pytest.mark.parametrize(
    ("nanos", "exact", "short"),
    [
        (25_000_000_000, "$25.00", "$25.00"),
        (987_329_380, "$0.98732938", "$0.9873"),
        (7_925_850, "$0.00792585", "$0.00793"),
        (450, "$0.00000045", "$0.00000045"),
        (1, "$0.000000001", "$0.000000001"),
        (0, "$0.00", "$0.00"),
        (999_999_999, "$0.999999999", "$1.00"),
        (-7_925_850, "-$0.00792585", "-$0.00793"),
        (None, "–", "–"),
    ],
)
def test_money_is_exact_unless_asked_to_be_short(nanos: int | None, exact: str, short: str) -> None:
    assert dollars(nanos) == exact
    assert dollars(nanos, "short") == short


def test_parts_of_a_bill_keep_every_digit() -> None:
    assert plain(Decimal("0.000000000020000")) == "0.00000000002"
    assert plain(Decimal(2)) == "2.00"
    assert plain(Decimal("1234.5")) == "1,234.50"


def test_the_chart_has_a_bar_for_every_day() -> None:
    today = timezone.now().date()
    rows = [DayTotals(today, Totals(calls=3, cost_nanos=1_250_000_000))]
    context = spend_chart(rows, today.replace(day=1), today)
    assert len(context["bars"]) == today.day
    assert context["bars"][-1].label.endswith("$1.25, 3 calls")
    assert [bar.height for bar in context["bars"][:-1]] == [0.0] * (today.day - 1)
    assert context["grid"][-1].label == "$1.50"
