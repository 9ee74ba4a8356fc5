"""Rollups are exact at any moment: merged or not, late or not, whoever inserted, whatever dies."""

import threading
from datetime import UTC, date, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing import checks, rollups, tasks, usage, usage_rows
from billing.journal import records
from billing.models import UsageRecord, UsageRollup
from billing.pricing import BUCKETS, Usage
from config.celery import app
from tests import factories

pytestmark = pytest.mark.django_db

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)
START, END = NOON - timedelta(days=3), NOON + timedelta(days=3)


@pytest.fixture
def price(db):
    return factories.make_price()


@pytest.fixture
def call(organization, price):
    factories.make_credit(organization=organization)

    def make(**fields):
        defaults = {"usage": Usage(input=1000, output=500), "started_at": NOON}
        return factories.make_call(organization=organization, price=price, **{**defaults, **fields})

    return make


def insert_free_calls(organization, price, moments):
    """Records of calls that cost nothing, in one statement, past the ledger."""
    openings = [
        factories.make_opening(organization=organization, price=price, started_at=moment)
        for moment in moments
    ]
    usage_rows.add(
        (records.settlement_of(opening, factories.make_ending(), 0), None) for opening in openings
    )


def stored():
    """Every rollup row without its id."""
    columns = ("period", "starts_at", "is_merged", *rollups.DIMENSIONS, *rollups.MEASURES)
    return sorted(UsageRollup.objects.values_list(*columns), key=str)


def test_a_rollup_has_every_column_of_tokens_that_a_record_has():
    def tokens(model):
        return {field.name for field in model._meta.get_fields() if field.name.endswith("_tokens")}

    assert tokens(UsageRollup) == tokens(UsageRecord) == set(rollups.TOKENS)


def test_every_column_of_a_record_reaches_its_hour_and_its_day(call):
    call(usage=Usage(*range(1, len(BUCKETS) + 1), reasoning=7))
    record = UsageRecord.objects.get()
    assert 0 not in {getattr(record, name) for name in rollups.TOKENS}
    rollups.merge_all()
    hour, day = UsageRollup.objects.order_by("-period")
    assert (hour.period, hour.starts_at) == ("HOUR", NOON)
    assert (day.period, day.starts_at) == ("DAY", NOON.replace(hour=0))
    for row in (hour, day):
        for name in (*rollups.DIMENSIONS, *rollups.TOKENS, "cost_nanos"):
            assert getattr(row, name) == getattr(record, name), name
        assert (row.calls, row.errors) == (1, 0)


def test_calls_that_failed_are_counted_and_calls_left_by_their_client_are_no_errors(call):
    for status in UsageRecord.Status:
        call(status=status, usage=None)
    rollups.merge_all()
    day = UsageRollup.objects.get(period="DAY")
    assert (day.calls, day.errors) == (len(UsageRecord.Status), len(UsageRecord.Status) - 2)


def test_a_call_counts_before_and_after_it_is_merged(organization, call):
    call()
    before = usage.summary(organization, START, END)
    assert before.calls == 1
    assert rollups.merge() == 1
    assert usage.summary(organization, START, END) == before


def test_merging_again_changes_nothing(call):
    call()
    call(started_at=NOON + timedelta(minutes=59))
    rollups.merge_all()
    merged = stored()
    assert len(merged) == 2
    assert tasks.merge_rollups(organization_id="from a later version") == 0
    assert stored() == merged


def test_a_late_call_is_added_to_the_hour_it_belongs_to(organization, call):
    call()
    rollups.merge_all()
    call(started_at=NOON + timedelta(minutes=30))
    rollups.merge_all()
    assert UsageRollup.objects.get(period="HOUR").calls == 2
    assert [row.totals.calls for row in usage.per_day(organization, START, END)] == [2]


def test_what_is_merged_at_once_is_limited_and_nothing_is_left(call):
    for _ in range(3):
        call()
    assert rollups.merge(parts_max=2) == 2
    assert UsageRollup.objects.get(period="DAY").calls == 2
    assert rollups.merge_all() == 1
    assert UsageRollup.objects.get(period="DAY").calls == 3


def test_an_insert_that_is_undone_leaves_no_part(organization, price):
    with transaction.atomic():
        insert_free_calls(organization, price, [NOON])
        transaction.set_rollback(True)
    assert not UsageRollup.objects.exists()


def test_a_record_that_is_there_already_adds_no_part(call):
    record = call()
    before = stored()
    columns = ",".join(usage_rows.COLUMNS)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO billing_usagerecord ({columns}) SELECT {columns} "
            "FROM billing_usagerecord WHERE true ON CONFLICT (call_id) DO NOTHING"
        )
    assert UsageRecord.objects.get() == record
    assert stored() == before


def test_one_statement_adds_one_part_per_hour(organization, price):
    if connection.vendor != "postgresql":
        pytest.skip("SQLite's triggers see one row at a time.")
    insert_free_calls(organization, price, [NOON] * 50 + [NOON - timedelta(hours=5)] * 20)
    assert sorted(UsageRollup.objects.values_list("calls", flat=True)) == [20, 50]


def test_the_database_refuses_a_second_row_of_an_hour(call):
    call()
    rollups.merge_all()
    row = UsageRollup.objects.get(period="HOUR")
    row.pk = None
    with pytest.raises(IntegrityError), transaction.atomic():
        row.save(force_insert=True)


def test_the_database_refuses_a_day_that_is_not_merged(call):
    call()
    with pytest.raises(IntegrityError, match="billing_rollup_days_are_merged"):
        UsageRollup.objects.update(period="DAY")


def test_merging_is_on_the_schedule():
    scheduled = {entry["task"] for entry in app.conf.beat_schedule.values()}
    assert tasks.merge_rollups.name in scheduled


# --- Reading a period ----------------------------------------------------------------------------
MOMENTS = st.integers(0, 4 * 24 * 60).map(lambda minutes: START + timedelta(minutes=minutes))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    moments=st.lists(MOMENTS, max_size=6),
    merged=st.integers(0, 6),
    bounds=st.tuples(MOMENTS, MOMENTS).map(sorted),
)
def test_any_period_has_the_calls_that_started_in_it(organization, price, moments, merged, bounds):
    start, end = bounds
    with transaction.atomic():
        insert_free_calls(organization, price, moments[:merged] or [START])
        rollups.merge_all()
        insert_free_calls(organization, price, moments[merged:] or [END])
        records = UsageRecord.objects.filter(started_at__gte=start, started_at__lt=end)
        assert usage.summary(organization, start, end).calls == records.count()
        days = {row.day: row.totals.calls for row in usage.per_day(organization, start, end)}
        assert days == _counted(records)
        transaction.set_rollback(True)


def _counted(records):
    days = [record.started_at.date() for record in records]
    return {day: days.count(day) for day in days}


def test_whole_hours_are_read_without_looking_at_a_call(
    organization, call, django_assert_num_queries
):
    call()
    with django_assert_num_queries(1) as queries:
        usage.summary(organization, START, usage.hour_after(END))
    assert "billing_usagerecord" not in queries.captured_queries[0]["sql"]


# --- Putting right -------------------------------------------------------------------------------
def test_a_wrong_rollup_is_named_and_rebuilt(organization, call, capsys):
    call()
    rollups.merge_all()
    right = stored()
    UsageRollup.objects.filter(period="HOUR").update(output_tokens=501)
    UsageRollup.objects.filter(period="DAY").delete()
    found = checks.verify().differences
    assert [text.partition(" UTC is off by ")[2].partition(".")[0] for text in found] == [
        "output_tokens +1",
        "calls -1, input_tokens -1000, output_tokens -500, cost_nanos -40000",
    ]
    call_command("rebuild_rollups", "--from", "2026-11-02", "--to", "2026-11-02")
    assert "Rebuilt 1 day(s) of 1 organization(s)" in capsys.readouterr().out
    assert checks.verify().is_clean
    assert stored() == right


def test_rebuilding_touches_no_other_day_and_no_other_organization(organization, call):
    call()
    call(started_at=NOON + timedelta(days=1))
    rollups.merge_all()
    before = stored()
    UsageRollup.objects.update(calls=9)
    rollups.rebuild(organization, date(2026, 11, 2))
    rollups.rebuild(factories.make_organization(), date(2026, 11, 3))
    assert sorted(UsageRollup.objects.values_list("starts_at__day", "calls")) == [
        (2, 1),
        (2, 1),
        (3, 9),
        (3, 9),
    ]
    call_command("rebuild_rollups")
    assert stored() == before


def test_rollups_without_records_are_removed(organization, call):
    call()
    rollups.merge_all()
    UsageRollup.objects.update(starts_at=NOON.replace(day=5))
    call_command("rebuild_rollups", "--organization", organization.slug)
    assert {row.starts_at.day for row in UsageRollup.objects.all()} == {2}


def test_the_command_says_what_it_does_not_understand(db):
    with pytest.raises(CommandError, match=r"'yesterday' is not a date like 2026-01-31\."):
        call_command("rebuild_rollups", "--from", "yesterday")
    call_command("rebuild_rollups")  # nothing was ever used: nothing to do


def test_the_command_knows_only_organizations_that_exist(call):
    call()
    with pytest.raises(CommandError, match="No organization has the slug 'nobody'"):
        call_command("rebuild_rollups", "--organization", "nobody")


# --- Many at once --------------------------------------------------------------------------------
def in_threads(*functions):
    """Run each in its own thread and connection; raise what any of them raised."""
    failures = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.django_db(transaction=True)
def test_inserting_merging_and_rebuilding_at_once_loses_and_doubles_nothing():
    organization, price = factories.make_organization(), factories.make_price()
    inserted = threading.Event()

    def insert():
        try:
            for number in range(60):
                insert_free_calls(organization, price, [NOON + timedelta(minutes=number)] * 5)
        finally:
            inserted.set()

    def merge():
        while not inserted.is_set():
            rollups.merge(parts_max=7)

    def rebuild():
        while not inserted.is_set():
            rollups.rebuild(organization, NOON.date())

    in_threads(insert, merge, merge, rebuild)
    assert usage.summary(organization, START, END).calls == 300
    assert checks.verify().is_clean
    rollups.merge_all()
    assert UsageRollup.objects.filter(period="DAY").get().calls == 300
    assert checks.verify().is_clean
