"""Statements add up, to the ledger and to themselves, and a closed one never changes."""

import csv
import hashlib
import io
import json
from datetime import UTC, date, datetime, timedelta

import pytest
from django.db import IntegrityError, connection, transaction
from django.urls import reverse

from billing import checks, expiry, ledger, statements, tasks, usage_rows
from billing.journal import records
from billing.models import LedgerAccount, Statement, Transfer
from billing.pricing import Usage
from config.celery import app
from tests import factories
from tests.immutability import without_triggers

pytestmark = pytest.mark.django_db

OCTOBER, NOVEMBER, DECEMBER = date(2025, 10, 1), date(2025, 11, 1), date(2025, 12, 1)
CLOSING = datetime(2025, 11, 3, tzinfo=UTC)  # October is closed from this moment on
DOLLAR = 1_000_000_000
# 1,000 input and 500 output tokens at $0.02 and $0.04 per million.
USAGE, COST = Usage(input=1000, output=500), 40_000


def at(month, day, hour=12):
    return datetime(2025, month, day, hour, tzinfo=UTC)


@pytest.fixture
def price(db):
    return factories.make_price()


@pytest.fixture
def call(organization, price):
    def make(moment, **fields):
        return factories.make_call(
            organization=organization,
            price=price,
            **{"usage": USAGE, "started_at": moment, **fields},
        )

    return make


@pytest.fixture
def october(organization, call):
    """Credit, a correction and three calls in October, one of them at its last second."""
    ledger.grant(organization, 5 * DOLLAR, reason="hello", idempotency_key="g", at=at(10, 2))
    ledger.correct(organization, -DOLLAR, reason="typo", idempotency_key="c", at=at(10, 3))
    call(at(10, 4))
    call(at(10, 4), model="other", deployment_id=2, deploy_id="=evil()")
    call(datetime(2025, 10, 31, 23, 59, 59, tzinfo=UTC))


def lines(figures):
    return [(line.code, line.amount_nanos, line.count, line.late_month) for line in figures.lines]


def in_ledger(organization):
    """Credit minus what is owed, by the ledger's own counters."""
    accounts = LedgerAccount.objects.filter(organization=organization, kind__in=statements.OURS)
    return sum(account.posted_nanos for account in accounts)


def figures_of(organization, month):
    return statements.statement(organization, month, at(12, 31))[0]


def test_a_month_opens_moves_and_closes_as_the_ledger_does(organization, october):
    figures, is_closed = statements.statement(organization, OCTOBER, at(10, 31, 23))
    assert not is_closed
    assert figures.opening_nanos == 0
    assert lines(figures) == [
        ("PROMO", 5 * DOLLAR, 1, None),
        ("CORRECTION", -DOLLAR, 1, None),
        ("USAGE", -3 * COST, 3, None),
    ]
    assert figures.closing_nanos == 4 * DOLLAR - 3 * COST == in_ledger(organization)


def test_every_breakdown_sums_to_the_usage_line(organization, october):
    figures = figures_of(organization, OCTOBER)
    for section in statements.BREAKDOWNS:
        rows = getattr(figures, section)
        assert sum(row.cost_nanos for row in rows) == figures.used_nanos == 3 * COST
        assert sum(row.calls for row in rows) == 3
        assert sum(row.tokens for row in rows) == 4500
    assert [row.name for row in figures.days] == ["2025-10-04", "2025-10-31"]
    assert {row.name for row in figures.models} == {"smollm2-135m", "other"}


def test_every_kind_of_transfer_that_changes_the_balance_has_a_line():
    assert {Transfer.Code.OVERAGE, *statements.LABELS} == set(Transfer.Code)


def test_the_next_month_opens_where_the_last_one_closed(organization, october, call):
    call(at(12, 1))
    assert figures_of(organization, NOVEMBER).opening_nanos == 4 * DOLLAR - 3 * COST
    assert lines(figures_of(organization, NOVEMBER)) == []
    december = figures_of(organization, DECEMBER)
    assert lines(december) == [("USAGE", -COST, 1, None)]
    assert december.closing_nanos == in_ledger(organization)


def test_what_is_owed_lowers_the_balance_once_and_its_collection_moves_nothing(organization, price):
    ledger.grant(organization, 100, reason="little", idempotency_key="g", at=at(10, 1))
    settlement = ledger.Settlement(organization.pk, None, 0, COST, "s", at(10, 2))
    transfer = ledger.settle(settlement)
    opening = factories.make_opening(organization=organization, price=price, started_at=at(10, 2))
    ending = factories.make_ending(usage=USAGE)
    usage_rows.add([(records.settlement_of(opening, ending, COST), transfer)])
    owing = figures_of(organization, OCTOBER)
    assert owing.closing_nanos == 100 - COST == in_ledger(organization)
    ledger.grant(organization, DOLLAR, reason="more", idempotency_key="g2", at=at(10, 5))
    ledger.collect_overage(organization.pk, at=at(10, 6))
    paid = figures_of(organization, OCTOBER)
    assert [line.code for line in paid.lines] == ["PROMO", "USAGE"]
    assert paid.closing_nanos == DOLLAR + 100 - COST == in_ledger(organization)


def test_expired_credit_is_a_line(organization, call):
    ledger.grant(
        organization,
        DOLLAR,
        reason="short",
        idempotency_key="g",
        at=at(10, 1),
        expires_at=at(10, 20),
    )
    call(at(10, 2))
    expiry.expire_lots(at(10, 21))
    figures = figures_of(organization, OCTOBER)
    assert lines(figures) == [
        ("PROMO", DOLLAR, 1, None),
        ("EXPIRY", COST - DOLLAR, 1, None),
        ("USAGE", -COST, 1, None),
    ]
    assert figures.closing_nanos == 0 == in_ledger(organization)


# --- Closing -------------------------------------------------------------------------------------
def test_a_month_is_closed_when_its_last_calls_had_time_to_arrive(organization, october):
    assert statements.close_due(organization, CLOSING - timedelta(seconds=1)) == []
    (closed,) = statements.close_due(organization, CLOSING)
    assert (closed.month, closed.closed_at) == (OCTOBER, CLOSING)
    assert statements.statement(organization, OCTOBER, CLOSING)[1]
    assert statements.close_due(organization, CLOSING) == []


def test_late_usage_is_a_named_line_of_the_next_statement_and_of_no_other(
    organization, october, call
):
    statements.close_due(organization, CLOSING)
    before = figures_of(organization, OCTOBER)
    call(at(10, 31))
    call(at(11, 1))
    assert figures_of(organization, OCTOBER) == before
    november = figures_of(organization, NOVEMBER)
    assert lines(november) == [("USAGE", -COST, 1, None), ("USAGE", -COST, 1, "2025-10")]
    assert november.lines[1].label == "Usage of October 2025, recorded after its statement"
    assert november.used_nanos == COST
    assert november.closing_nanos == in_ledger(organization)
    statements.close_due(organization, at(12, 5))
    call(at(10, 30))
    assert lines(figures_of(organization, NOVEMBER)) == lines(november)
    assert lines(figures_of(organization, DECEMBER)) == [("USAGE", -COST, 1, "2025-10")]
    assert figures_of(organization, DECEMBER).closing_nanos == in_ledger(organization)


def test_usage_before_the_first_statement_is_late_too(organization, october, call):
    statements.close_due(organization, CLOSING)
    call(at(9, 1))
    assert statements.months(organization, at(11, 5)) == [NOVEMBER, OCTOBER]
    assert lines(figures_of(organization, NOVEMBER)) == [("USAGE", -COST, 1, "2025-09")]


def test_months_that_nobody_closed_are_closed_in_turn(organization, october):
    assert tasks.close_statements(unknown="from a later version") >= 3
    months = list(Statement.objects.order_by("month").values_list("month", flat=True))
    assert months[:3] == [OCTOBER, NOVEMBER, DECEMBER]
    assert checks.verify().is_clean
    assert tasks.close_statements() == 0


def test_a_statement_that_cannot_be_closed_holds_up_nobody_elses(
    organization, october, other_organization
):
    (first,) = statements.close_due(organization, CLOSING)
    with without_triggers(connection):
        Statement.objects.filter(pk=first.pk).update(figures={})
    ledger.grant(other_organization, 5, reason="x", idempotency_key="x", at=at(10, 9))
    assert statements.close_all_due(CLOSING + timedelta(days=30)) == 2
    assert Statement.objects.filter(organization=other_organization).count() == 2


def test_statements_are_closed_on_schedule():
    assert "billing.close_statements" in {row["task"] for row in app.conf.beat_schedule.values()}


def test_the_database_refuses_to_change_or_remove_a_closed_statement(organization, october):
    statements.close_due(organization, CLOSING)
    with pytest.raises(IntegrityError, match="never edited"), transaction.atomic():
        Statement.objects.update(digest="0" * 64)
    with (
        pytest.raises(IntegrityError, match="never edited"),
        transaction.atomic(),
        connection.cursor() as cursor,
    ):
        cursor.execute("DELETE FROM billing_statement")


def test_the_database_refuses_a_second_statement_of_a_month(organization, october):
    (closed,) = statements.close_due(organization, CLOSING)
    closed.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        closed.save(force_insert=True)


def test_a_tampered_statement_is_named(organization, october):
    statements.close_due(organization, at(12, 5))
    assert checks.verify().is_clean
    row = Statement.objects.get(month=OCTOBER)
    row.figures["lines"][0]["amount_nanos"] += 1
    with without_triggers(connection):
        row.save()
    found = [text.partition(": ")[2] for text in checks.verify(organization).differences]
    assert found == [
        "the statement of 2025-10 does not have its digest.",
        "the statement of 2025-10 closes at 3999880000, not at 3999880001.",
    ]
    row.digest = statements.digest_of(row.figures)
    with without_triggers(connection):
        row.save()
    assert any("2025-11 does not follow" in text for text in checks.verify().differences)


# --- Pages ---------------------------------------------------------------------------------------
def address(organization, name="statement-detail", month="2025-10"):
    arguments = [organization.slug] if name == "statement-list" else [organization.slug, month]
    return reverse(f"billing:{name}", args=arguments)


PAGES = ("statement-list", "statement-detail", "statement-export", "statement-json")


@pytest.mark.parametrize("name", PAGES)
def test_members_read_statements_and_outsiders_learn_of_none(
    organization, october, owner_client, member_client, outsider_client, client, name
):
    url = address(organization, name)
    assert owner_client.get(url).status_code == 200
    assert member_client.get(url).status_code == 200
    assert outsider_client.get(url).status_code == 404
    assert client.get(url).status_code == 302


def test_the_page_shows_every_digit_and_no_other_organizations_figures(
    organization, other_organization, october, owner_client, outsider_client
):
    page = owner_client.get(address(organization)).content.decode()
    assert "$3.99988" in page
    assert "-$0.00012" in page
    assert "Corrections" in page
    assert "so far" in page
    assert outsider_client.get(address(other_organization)).status_code == 404  # has none


def test_a_closed_page_shows_the_fingerprint_of_the_json(organization, october, owner_client):
    statements.close_due(organization, CLOSING)
    downloaded = owner_client.get(address(organization, "statement-json")).content
    digest = hashlib.sha256(downloaded).hexdigest()
    assert digest == Statement.objects.get().digest
    assert digest in owner_client.get(address(organization)).content.decode()
    assert json.loads(downloaded)["closing_nanos"] == 4 * DOLLAR - 3 * COST


def test_the_csv_adds_up_and_runs_no_formula(organization, october, owner_client):
    text = owner_client.get(address(organization, "statement-export")).content.decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    nanos = {
        row["name"]: round(float(row["amount_dollars"]) * DOLLAR)
        for row in rows
        if row["section"] == "balance"
    }
    closing = nanos.pop("Closing balance")
    assert sum(nanos.values()) == closing == 4 * DOLLAR - 3 * COST
    assert nanos["Usage"] == -3 * COST
    names = {row["name"] for row in rows if row["section"] == "usage by deployments"}
    assert names == {"app-0000000001", "'=evil()"}


@pytest.mark.parametrize("month", ["2025-13", "nonsense", "2025-09", "9999-12", "2025-10-01"])
def test_a_month_without_a_statement_is_not_found(organization, october, owner_client, month):
    assert owner_client.get(address(organization, month=month)).status_code == 404


def test_an_organization_without_anything_has_an_empty_list(organization, owner_client):
    page = owner_client.get(address(organization, "statement-list")).content.decode()
    assert "No statements yet" in page
