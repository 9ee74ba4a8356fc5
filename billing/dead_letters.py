"""Dead letters: records of journals that could not be booked, until somebody has dealt with them.

The bytes and the reason never change; what was done about them is added once.
"""

from datetime import datetime

from billing.models import DeadLetter


class AlreadyResolved(Exception):
    """Somebody has dealt with it before."""


def resolve(letter: DeadLetter, *, resolution: str, at: datetime) -> None:
    """Say what was done about it; `verify_ledger` names it no more. Raises AlreadyResolved."""
    unresolved = DeadLetter.objects.filter(pk=letter.pk, resolved_at=None)
    if not unresolved.update(resolved_at=at, resolution=resolution[:300]):
        raise AlreadyResolved
