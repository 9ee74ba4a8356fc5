"""Circuit breakers: when they open, for how long, and what closes them."""

from gateway.breakers import COOL_DOWN_SECONDS, FAILURES_MAX, WAIT_SECONDS_MAX, Breakers


def test_a_breaker_opens_after_several_failures_in_a_row_and_lets_one_try_after_the_wait() -> None:
    breakers = Breakers()
    for _ in range(FAILURES_MAX - 1):
        breakers.failed("a", now=100.0)
    assert breakers.seconds_left("a", now=100.0) == 0
    breakers.failed("a", now=100.0)
    assert breakers.seconds_left("a", now=100.0) == COOL_DOWN_SECONDS
    assert breakers.seconds_left("a", now=100.0 + COOL_DOWN_SECONDS) == 0


def test_an_answer_forgets_failures() -> None:
    breakers = Breakers()
    for _ in range(FAILURES_MAX - 1):
        breakers.failed("a", now=1.0)
    breakers.succeeded("a")
    breakers.failed("a", now=1.0)
    assert breakers.seconds_left("a", now=1.0) == 0


def test_a_provider_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    breakers = Breakers()
    breakers.failed("a", now=10.0, retry_after_seconds=30)
    assert breakers.seconds_left("a", now=15.0) == 25
    breakers.failed("a", now=10.0, retry_after_seconds=1e9)
    assert breakers.seconds_left("a", now=10.0) == WAIT_SECONDS_MAX


def test_breakers_know_their_providers_apart() -> None:
    breakers = Breakers()
    breakers.failed("a", now=10.0, retry_after_seconds=30)
    assert breakers.seconds_left("b", now=10.0) == 0


def opened() -> Breakers:
    breakers = Breakers()
    breakers.failed("a", now=0.0, retry_after_seconds=30)
    return breakers


def test_after_the_wait_one_call_goes_alone() -> None:
    breakers = opened()
    assert breakers.seconds_left("a", now=30.0) == 0
    breakers.probe("a", now=30.0)
    assert breakers.seconds_left("a", now=30.0) == COOL_DOWN_SECONDS
    breakers.succeeded("a")
    assert breakers.seconds_left("a", now=30.0) == 0


def test_a_probe_that_fails_opens_the_breaker_again() -> None:
    breakers = opened()
    breakers.probe("a", now=30.0)
    breakers.failed("a", now=38.0)
    assert breakers.seconds_left("a", now=45.0) == 3.0


def test_a_probe_that_is_left_is_made_again_after_a_cool_down() -> None:
    breakers = opened()
    breakers.probe("a", now=30.0)
    assert breakers.seconds_left("a", now=30.0 + COOL_DOWN_SECONDS) == 0


def test_calls_to_a_provider_that_was_never_left_alone_are_no_probes() -> None:
    breakers = Breakers()
    breakers.failed("a", now=1.0)
    breakers.probe("a", now=2.0)
    breakers.probe("b", now=2.0)
    assert breakers.seconds_left("a", now=2.0) == 0
    assert breakers.seconds_left("b", now=2.0) == 0
