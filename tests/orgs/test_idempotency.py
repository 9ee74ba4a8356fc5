"""Requests carried out once: who may, what is kept, and what the database decides."""

import threading
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from orgs import idempotency
from orgs.idempotency import Answer, Claim
from orgs.models import IdempotentRequest, Organization

NOW = timezone.now()
LEASE = timedelta(minutes=20)
ANSWER = Answer(200, b'{"secret": "answer"}')


@pytest.fixture
def claim(organization: Organization) -> Any:
    def make(
        key: str = "k",
        fingerprint: str = "f",
        *,
        at: datetime = NOW,
        scope: str = "s",
        owner: Organization = organization,
        **attempt: Any,
    ) -> Claim | Answer:
        return idempotency.claim(owner.pk, scope, key, fingerprint, lease=LEASE, at=at, **attempt)

    return make


def test_the_first_claims_and_the_next_get_its_answer(claim: Any) -> None:
    first = claim()
    assert isinstance(first, Claim)
    assert idempotency.keep(first, ANSWER)
    assert claim() == ANSWER
    assert claim() == ANSWER


def test_while_the_first_runs_the_next_is_told_to_ask_again(claim: Any) -> None:
    claim()
    with pytest.raises(idempotency.StillInProgress) as caught:
        claim(at=NOW + LEASE - timedelta(seconds=1))
    assert caught.value.wait_seconds > 0


@pytest.mark.parametrize("is_ended", [False, True])
def test_a_key_names_one_request(claim: Any, is_ended: bool) -> None:
    first = claim()
    if is_ended:
        idempotency.keep(first, ANSWER)
    with pytest.raises(idempotency.KeyReused, match="another request"):
        claim(fingerprint="other")


def test_a_released_key_is_as_new(claim: Any) -> None:
    idempotency.release(claim())
    assert isinstance(claim(fingerprint="other"), Claim)


def test_a_claim_whose_process_died_lapses(claim: Any) -> None:
    dead = claim()
    alive = claim(at=NOW + LEASE)
    assert isinstance(alive, Claim)
    # Should the first be alive after all, it may neither answer for the second nor undo it.
    assert not idempotency.keep(dead, Answer(200, b"{}"))
    idempotency.release(dead)
    assert idempotency.keep(alive, ANSWER)
    assert claim(at=NOW + LEASE) == ANSWER


def test_whoever_repeats_what_was_carried_out_without_an_answer_is_told(claim: Any) -> None:
    claim(reference="req_1")
    asked: list[str] = []

    def carried_out_at(reference: str) -> datetime:
        asked.append(reference)
        return NOW + timedelta(seconds=30)

    # The answer of an attempt that has only just ended may still be on its way.
    with pytest.raises(idempotency.StillInProgress):
        claim(at=NOW + timedelta(seconds=60), carried_out_at=carried_out_at)
    for later in (timedelta(seconds=90), LEASE, LEASE * 2):
        with pytest.raises(idempotency.AnswerLost, match=r"\(req_1\), but its answer was lost"):
            claim(at=NOW + later, reference="req_2", carried_out_at=carried_out_at)
    assert set(asked) == {"req_1"}


def test_what_was_carried_out_at_the_very_end_of_a_lease_is_not_done_again(claim: Any) -> None:
    claim(reference="req_1")
    with pytest.raises(idempotency.AnswerLost):
        claim(at=NOW + LEASE, carried_out_at=lambda _: NOW + LEASE)


def test_an_attempt_that_came_to_nothing_is_taken_over_under_a_new_reference(claim: Any) -> None:
    claim(reference="req_1")
    assert isinstance(claim(at=NOW + LEASE, reference="req_2"), Claim)
    with pytest.raises(idempotency.AnswerLost, match="req_2"):
        claim(at=NOW + LEASE * 2, carried_out_at=lambda _: NOW + LEASE)


def test_after_a_day_a_key_is_new_and_purged(claim: Any) -> None:
    idempotency.keep(claim(), ANSWER)
    later = NOW + idempotency.LIFETIME
    assert idempotency.purge(at=later - timedelta(seconds=1)) == 0
    assert isinstance(claim(fingerprint="other", at=later), Claim)
    assert idempotency.purge(at=later + idempotency.LIFETIME) == 1
    assert not IdempotentRequest.objects.exists()


def test_keys_of_others_mean_nothing(claim: Any, other_organization: Organization) -> None:
    idempotency.keep(claim(), ANSWER)
    assert isinstance(claim(scope="other"), Claim)
    assert isinstance(claim(owner=other_organization), Claim)


def test_neither_key_nor_answer_can_be_read_in_the_database(claim: Any) -> None:
    idempotency.keep(claim("order-1234"), ANSWER)
    row = IdempotentRequest.objects.values().get()
    assert "order-1234" not in str(row)
    assert "answer" not in str(row["answer_sealed"])


def test_an_answer_copied_to_another_row_is_not_read(claim: Any) -> None:
    idempotency.keep(claim("one"), ANSWER)
    idempotency.keep(claim("two"), Answer(200, b'{"other": 1}'))
    one, two = IdempotentRequest.objects.order_by("pk")
    IdempotentRequest.objects.filter(pk=two.pk).update(answer_sealed=one.answer_sealed)
    with pytest.raises(idempotency.AnswerNotKept):
        claim("two")


def test_an_answer_too_large_is_not_kept_and_the_request_not_repeated(
    claim: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "ANSWER_BYTES_MAX", len(ANSWER.body) - 1)
    idempotency.keep(claim(), ANSWER)
    with pytest.raises(idempotency.AnswerNotKept, match="too large"):
        claim()


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "\x00", "k" * 256])
def test_a_key_is_visible_ascii_and_short(claim: Any, key: str) -> None:
    with pytest.raises(idempotency.InvalidKey, match="visible ASCII"):
        claim(key)
    assert isinstance(claim("k" * 255), Claim)


def test_fingerprints_tell_where_a_part_ends() -> None:
    assert idempotency.fingerprint(b"ab", b"c") != idempotency.fingerprint(b"a", b"bc")


def test_the_database_refuses_a_second_row_for_a_key(claim: Any) -> None:
    claim()
    row = IdempotentRequest.objects.get()
    row.pk = None
    with (
        pytest.raises(IntegrityError, match=r"orgs_idempotent_request_once|key_digest"),
        transaction.atomic(),
    ):
        row.save(force_insert=True)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("at", [NOW, NOW + LEASE])
def test_of_many_at_once_one_claims(claim: Any, at: datetime) -> None:
    if at > NOW:
        claim()  # and dies: they race to take it over
    claimed: list[Claim | Answer] = []
    refused: list[Exception] = []
    barrier = threading.Barrier(12)

    def race() -> None:
        barrier.wait()
        try:
            claimed.append(claim(at=at))
        except idempotency.StillInProgress as error:
            refused.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=race) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(claimed), len(refused)) == (1, 11)
    assert IdempotentRequest.objects.count() == 1
