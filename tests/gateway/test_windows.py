"""Counting in this process: what is let in, what is given back, and when it starts again."""

import pytest

from gateway import windows
from gateway.windows import CONCURRENCY, REQUESTS, TOKENS, Exceeded, ScopeLimits, Windows

NOON = 1_800_000_000.0 - 1_800_000_000.0 % 60


def key(**limits: int) -> ScopeLimits:
    return ScopeLimits("key", 1, **limits)


def organization(**limits: int) -> ScopeLimits:
    return ScopeLimits("organization", 7, **limits)


def test_the_call_beyond_the_limit_is_refused_until_the_minute_is_over() -> None:
    counts = Windows()
    scopes = [key(requests_per_minute=2)]
    assert counts.take(scopes, 10, NOON) is None
    assert counts.take(scopes, 10, NOON + 1) is None
    refused = counts.take(scopes, 10, NOON + 45.5)
    assert refused == Exceeded(REQUESTS, "key", 2, 2, 1, 14.5)
    assert counts.take(scopes, 10, NOON + 45.5 + 14.5) is None


def test_what_one_scope_refuses_is_counted_in_none() -> None:
    counts = Windows()
    scopes = [key(requests_per_minute=100), organization(requests_per_minute=1)]
    assert counts.take(scopes, 1, NOON) is None
    refused = counts.take(scopes, 1, NOON)
    assert refused is not None
    assert refused.scope == "organization"
    assert counts.used(scopes[0], windows.minute_of(NOON)).requests == 1


def test_keys_of_one_organization_share_its_limit_and_not_their_own() -> None:
    counts = Windows()
    other = ScopeLimits("key", 2, requests_per_minute=1)
    whole = organization(requests_per_minute=2)
    assert counts.take([key(requests_per_minute=1), whole], 1, NOON) is None
    assert counts.take([other, whole], 1, NOON) is None
    refused = counts.take([ScopeLimits("key", 3), whole], 1, NOON)
    assert refused is not None
    assert refused.scope == "organization"


def test_tokens_are_reserved_and_trued_up_when_the_call_ends() -> None:
    counts = Windows()
    scopes = [key(tokens_per_minute=1000)]
    minute = windows.minute_of(NOON)
    assert counts.take(scopes, 800, NOON) is None
    refused = counts.take(scopes, 300, NOON)
    assert refused == Exceeded(TOKENS, "key", 1000, 800, 300, 60.0)
    counts.end(scopes, 100 - 800, minute)
    assert counts.used(scopes[0], minute).tokens == 100
    assert counts.take(scopes, 300, NOON) is None


def test_what_ends_in_a_later_minute_changes_nothing_there() -> None:
    counts = Windows()
    scopes = [key(tokens_per_minute=1000)]
    assert counts.take(scopes, 800, NOON) is None
    assert counts.take(scopes, 500, NOON + 60) is None
    counts.end(scopes, -700, windows.minute_of(NOON))
    assert counts.used(scopes[0], windows.minute_of(NOON + 60)).tokens == 500


def test_a_call_larger_than_the_limit_is_never_told_to_wait() -> None:
    refused = Windows().take([key(tokens_per_minute=1000)], 1001, NOON)
    assert refused is not None
    assert refused.retry_after_seconds is None


def test_calls_in_flight_count_until_they_end_however_long_they_take() -> None:
    counts = Windows()
    scopes = [key(concurrency=1)]
    assert counts.take(scopes, 1, NOON) is None
    refused = counts.take(scopes, 1, NOON + 3600)
    assert refused is not None
    assert (refused.kind, refused.limit, refused.used) == (CONCURRENCY, 1, 1)
    counts.end(scopes, 0, windows.minute_of(NOON))
    assert counts.take(scopes, 1, NOON + 3600) is None


def test_a_call_given_back_leaves_no_trace() -> None:
    counts = Windows()
    scopes = [key(requests_per_minute=1, tokens_per_minute=10, concurrency=1)]
    minute = windows.minute_of(NOON)
    for _ in range(3):
        assert counts.take(scopes, 10, NOON) is None
        counts.give_back(scopes, 10, minute)
    used = counts.used(scopes[0], minute)
    assert (used.requests, used.tokens, used.running) == (0, 0, 0)


def test_counters_of_the_past_make_room_but_not_those_of_calls_in_flight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(windows, "COUNTERS_MAX", 2)
    counts = Windows()
    busy = ScopeLimits("key", 1, concurrency=1)
    idle = ScopeLimits("key", 2, concurrency=1)
    assert counts.take([busy], 1, NOON) is None
    assert counts.take([idle], 1, NOON) is None
    counts.end([idle], 0, windows.minute_of(NOON))
    assert counts.take([ScopeLimits("key", 3)], 1, NOON + 60) is None
    assert len(counts._counters) == 2
    assert counts.take([busy], 1, NOON + 60) is not None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0ms"),
        (0.0001, "1ms"),
        (0.12, "120ms"),
        (1, "1s"),
        (1.5, "1.5s"),
        (59.9999, "1m0s"),
        (60, "1m0s"),
        (90.25, "1m30.25s"),
    ],
)
def test_durations_read_like_openais_and_never_promise_too_much(seconds: float, text: str) -> None:
    assert windows.format_duration(seconds) == text
