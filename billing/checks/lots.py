"""Checks of promotional credit: lots against their uses and the balance. See `billing.checks`."""

from django.db.models import Q, Sum

from billing.checks.books import Books, Report
from billing.models import GrantUse, LedgerAccount, Transfer
from billing.money import format_dollars
from orgs.models import Organization


def lots_are_what_was_taken(books: Books, report: Report) -> None:
    """What a lot has spent and lost is the sum of its uses."""
    uses = GrantUse.objects.filter(grant__in=books.lots).order_by()
    expiry = Q(transfer__code=Transfer.Code.EXPIRY)
    used, expired = (
        dict(
            uses.filter(rows)
            .values("grant_id")
            .annotate(total=Sum("amount_nanos"))
            .values_list("grant_id", "total")
        )
        for rows in (~expiry, expiry)
    )
    for lot in books.lots:
        for name, stored, summed in (
            ("used", lot.used_nanos, used.get(lot.pk, 0)),
            ("expired", lot.expired_nanos, expired.get(lot.pk, 0)),
        ):
            if stored != summed:
                report.differences.append(
                    f"{lot.organization.slug}: grant {lot.pk} has {name} {stored}, its uses sum to "
                    f"{summed} (difference {stored - summed})."
                )


def lots_lie_in_the_balance(books: Books, report: Report) -> None:
    """Promotional credit is part of the balance that no refund is taking."""
    left: dict[int, int] = {}
    for lot in books.lots:
        left[lot.organization_id] = left.get(lot.organization_id, 0) + lot.remaining_nanos
    room: dict[int, int] = {}
    for account in books.accounts:
        if account.kind == LedgerAccount.Kind.CREDITS:
            room[account.organization_id] = (
                room.get(account.organization_id, 0) + account.posted_nanos
            )
        if account.kind == LedgerAccount.Kind.PAYMENTS_CLEARING:
            room[account.organization_id] = (
                room.get(account.organization_id, 0) - account.credits_pending_nanos
            )
    for organization in Organization.objects.filter(pk__in=left):
        if left[organization.pk] > room.get(organization.pk, 0):
            report.differences.append(
                f"{organization.slug}: {left[organization.pk]} nano-dollars of promotions are "
                f"unspent, the balance holds {room.get(organization.pk, 0)}."
            )
    report.figures.append(("Unspent promotions", format_dollars(sum(left.values()))))
