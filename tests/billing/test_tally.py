"""Tallies: what calls came to by who served them, and how late the journal is booked."""

from dataclasses import replace

import pytest

from billing import pricing
from billing.calls import Served
from billing.models import PriceVersion
from billing.tally import DURATIONS_MS, Durations, Lag, Tally
from orgs.models import Organization
from tests import factories

OPENING = factories.make_opening(
    organization=Organization(pk=1),
    price=PriceVersion(pk=1, provider="local", model="smollm2-135m", rates={}),
)
ENDING = factories.make_ending(usage=pricing.Usage(input=10, cache_read=5, output=7))


def test_calls_are_summed_by_who_served_them_and_how_they_ended():
    tally = Tally()
    tally.add(OPENING, replace(ENDING, duration_ms=300, first_token_ms=90), 40)
    tally.add(OPENING, replace(ENDING, duration_ms=300, first_token_ms=None), 2)
    tally.add(OPENING, replace(ENDING, status="CLIENT_GONE"), 1)
    finished = tally.sums["local", OPENING.upstream_model, "FINISHED"]
    assert (finished.calls, finished.cost_nanos) == (2, 42)
    assert (finished.input_tokens, finished.output_tokens) == (30, 14)
    assert sum(finished.durations.counts) == 2
    assert sum(finished.first_tokens.counts) == 1, "the other call said nothing"
    assert tally.sums["local", OPENING.upstream_model, "CLIENT_GONE"].calls == 1


def test_a_call_counts_for_the_candidate_that_answered_and_its_failures_for_the_others():
    tally = Tally()
    attempts = ({"provider": "openai", "outcome": "upstream_timeout"},) * 2
    served = Served("azure", "gpt", OPENING.price)
    tally.add(OPENING, replace(ENDING, served=served, attempts=attempts), 1)
    assert list(tally.sums) == [("azure", "gpt", "FINISHED")]
    assert tally.failures == {("openai", "upstream_timeout"): 2}


@pytest.mark.parametrize(
    ("milliseconds", "place"),
    [(0, 0), (100, 0), (101, 1), (300_000, len(DURATIONS_MS) - 1), (300_001, len(DURATIONS_MS))],
)
def test_a_duration_falls_into_the_first_bucket_that_holds_it(milliseconds, place):
    durations = Durations()
    durations.add(milliseconds)
    assert durations.counts.index(1) == place
    assert durations.sum_ms == milliseconds


# --- lag --------------------------------------------------------------------------------------


def test_a_log_that_is_booked_has_no_lag():
    lag = Lag()
    lag.wrote(100, 1.0)
    assert lag.seconds(booked=100, written=100, now=9.0) == 0.0
    lag.wrote(200, 10.0)
    assert lag.seconds(booked=100, written=200, now=12.0) == 2.0, "not since before the pause"


def test_the_lag_is_that_of_the_oldest_settlement_that_waits():
    lag = Lag()
    for second in range(10):
        lag.wrote((second + 1) * 100, float(second))
    assert lag.seconds(booked=0, written=1000, now=10.0) == 10.0
    assert lag.seconds(booked=350, written=1000, now=10.0) == 7.0
    assert lag.seconds(booked=1000, written=1000, now=10.0) == 0.0


def test_settlements_between_two_marks_are_not_forgotten():
    """The log is marked once a second: what came right after the last mark waits, too."""
    lag = Lag()
    lag.wrote(100, 5.0)
    lag.wrote(200, 5.5)
    assert lag.seconds(booked=100, written=200, now=8.0) == 3.0, "a second too much at most"
    assert lag.seconds(booked=100, written=200, now=60.0) == 55.0
