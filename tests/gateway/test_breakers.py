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
