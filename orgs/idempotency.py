"""Requests that are carried out once: one `Idempotency-Key`, one attempt, one kept answer.

Whoever carries a request out claims its key first, keeps the answer before giving it, or releases
the claim when nothing came of it. The database's unique constraint decides between any number of
claims at once. A claim whose process died lapses with its lease, which must outlast the longest
request. A claim may name what its attempt is known by elsewhere: whoever repeats the request is
then told that it was carried out and its answer lost, instead of carrying it out twice. Keys are of
a scope (a deployment, a workspace) within an organization; they and what they name are kept for a
day, answers encrypted. Must know no HTTP and no money.
"""

import hashlib
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db.models import QuerySet

from orgs import vault
from orgs.models import IdempotentRequest

log = structlog.get_logger(__name__)

LIFETIME = timedelta(hours=24)
KEY = re.compile(r"[!-~]{1,255}")
ANSWER_BYTES_MAX = 8 * 1024 * 1024
# An answer is kept within seconds of the end of its request, or never.
KEPT_WITHIN = timedelta(minutes=1)


class UnableToClaim(Exception):
    """Base of the reasons why a request must not be carried out now; the message is for people."""


class InvalidKey(UnableToClaim):
    """The key is empty, too long, or not of visible ASCII characters alone."""


class KeyReused(UnableToClaim):
    """The key names an earlier request that was another one."""


class StillInProgress(UnableToClaim):
    """The first attempt has not ended; `wait_seconds` says when to ask again."""

    def __init__(self, message: str, wait_seconds: int) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


class AnswerNotKept(UnableToClaim):
    """The request was carried out, but its answer was too large to keep, or cannot be read."""


class AnswerLost(UnableToClaim):
    """The request was carried out as `reference`; whoever did died before keeping its answer."""

    def __init__(self, reference: str) -> None:
        super().__init__(
            f"The request with this Idempotency-Key was carried out ({reference}), but its answer "
            "was lost. Use a new key to carry it out again."
        )
        self.reference = reference


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to carry a request out, until its lease ends."""

    row_id: int
    lease: uuid.UUID
    context: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered; `body` is JSON."""

    status: int
    body: bytes


def fingerprint(*parts: bytes) -> str:
    """A digest that tells one request from another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _unknown(_: str) -> datetime | None:
    return None


def claim(
    organization_id: int,
    scope: str,
    key: str,
    request_fingerprint: str,
    *,
    lease: timedelta,
    at: datetime,
    reference: str = "",
    carried_out_at: Callable[[str], datetime | None] = _unknown,
) -> Claim | Answer:
    """The claim to carry the request out as `reference`, or the answer that it was given.

    `carried_out_at` says of an earlier attempt's reference when it was carried out for good, None
    if it was not; asked only of attempts without an answer. Raises UnableToClaim: InvalidKey,
    KeyReused, StillInProgress, AnswerNotKept, AnswerLost.
    """
    if not KEY.fullmatch(key):
        raise InvalidKey("An Idempotency-Key has 1 to 255 visible ASCII characters, none a space.")
    key_digest = fingerprint(key.encode())
    context = f"orgs.IdempotentRequest:{organization_id}:{scope}:{key_digest}"
    fresh = {
        "fingerprint": request_fingerprint,
        "lease": uuid.uuid4(),
        "leased_until": at + lease,
        "reference": reference,
        "status": None,
        "answer_sealed": "",
        "created_at": at,
        "expires_at": at + LIFETIME,
    }
    row, is_new = IdempotentRequest.objects.get_or_create(
        organization_id=organization_id, scope=scope, key_digest=key_digest, defaults=fresh
    )
    if is_new:
        return Claim(row.pk, row.lease, context)
    if row.expires_at > at:
        _check_same(row, request_fingerprint)
        if row.status is not None:
            return _kept(row, context)
        _check_not_lost(row, carried_out_at, at)
        if row.leased_until > at:
            raise _in_progress()
    # Its process died, or its day is over: whoever is first takes it over.
    taken = IdempotentRequest.objects.filter(pk=row.pk, lease=row.lease, status=row.status)
    if not taken.update(**fresh):
        raise _in_progress()
    return Claim(row.pk, fresh["lease"], context)  # type: ignore[arg-type]


def _check_same(row: IdempotentRequest, request_fingerprint: str) -> None:
    if row.fingerprint != request_fingerprint:
        raise KeyReused(
            "This Idempotency-Key was used for another request. Use a new key for every request, "
            "and the same key only to repeat the same request."
        )


def _check_not_lost(
    row: IdempotentRequest, carried_out_at: Callable[[str], datetime | None], at: datetime
) -> None:
    ended_at = carried_out_at(row.reference) if row.reference else None
    if ended_at is not None and (row.leased_until <= at or ended_at + KEPT_WITHIN <= at):
        raise AnswerLost(row.reference)


def _in_progress() -> StillInProgress:
    return StillInProgress(
        "A request with this Idempotency-Key is in progress. Ask again for its answer.", 2
    )


def _kept(row: IdempotentRequest, context: str) -> Answer:
    assert row.status is not None  # the caller has looked  # noqa: S101
    try:
        body = vault.decrypt(row.answer_sealed, context=context)
    except vault.UnableToDecrypt as error:
        if row.answer_sealed:
            log.warning("a kept answer is unreadable", reason=str(error))
        raise AnswerNotKept(
            "The request with this Idempotency-Key was carried out, but its answer was too large "
            "to keep. Use a new key to carry it out again."
        ) from None
    return Answer(row.status, body.encode())


def keep(claimed: Claim, answer: Answer) -> bool:
    """Keep the answer for whoever repeats the request; False when the lease was lost meanwhile.

    One too large leaves only the fact that the request was carried out.
    """
    is_small = len(answer.body) <= ANSWER_BYTES_MAX
    sealed = vault.encrypt(answer.body.decode(), context=claimed.context) if is_small else ""
    changed = _own(claimed).update(status=answer.status, answer_sealed=sealed)
    if not changed:
        log.error("a request outlived its claim", row_id=claimed.row_id)
    return bool(changed)


def release(claimed: Claim) -> None:
    """Nothing came of the request: the next one with its key is the first."""
    _own(claimed).delete()


def _own(claimed: Claim) -> "QuerySet[IdempotentRequest]":
    return IdempotentRequest.objects.filter(pk=claimed.row_id, lease=claimed.lease, status=None)


def purge(*, at: datetime) -> int:
    """Forget requests whose day is over; how many."""
    return IdempotentRequest.objects.filter(expires_at__lte=at).delete()[0]
