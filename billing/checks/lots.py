"""Checks of promotional credit: lots against their uses and the balance. See `billing.checks`."""

from django.db.models import F, Q, Sum

from billing.checks.books import Books, Report
from billing.models import GrantUse, LedgerAccount, Transfer
from billing.money import format_dollars
from orgs.models import Organization


def lots_are_of_their_promotions(books: Books, report: Report) -> None:
    """Every promotion has its lot, of its amount, in its organization."""
    is_right = Q(
        transfer__code=Transfer.Code.PROMO,
        transfer__phase=Transfer.Phase.POSTED,
        transfer__organization=F("organization"),
        transfer__amount_nanos=F("amount_nanos"),
    )
    report.differences.extend(
        f"{lot.organization.slug}: grant {lot.pk} of {lot.amount_nanos} nano-dollars is not what "
        "its transfer has given."
        for lot in books.lots.exclude(is_right)
    )
    report.differences.extend(
        f"Transfer {transfer.public_id} gives a promotion of {transfer.amount_nanos} nano-dollars, "
        "and no grant says what became of it."
        for transfer in books.transfers.filter(code=Transfer.Code.PROMO, credit_grant__isnull=True)
    )


def uses_are_of_their_transfers(books: Books, report: Report) -> None:
    """Whatever used a lot took credit of its organization, and as much at least."""
    uses = GrantUse.objects.filter(grant__in=books.lots).order_by()
    is_right = Q(
        transfer__organization=F("grant__organization"),
        transfer__debit_account__kind=LedgerAccount.Kind.CREDITS,
        transfer__phase__in=[Transfer.Phase.POSTED, Transfer.Phase.POST_PENDING],
    )
    report.differences.extend(
        f"Grant {use.grant_id}: {use.amount_nanos} nano-dollars are used by transfer "
        f"{use.transfer.public_id}, which takes no credit of its organization."
        for use in uses.exclude(is_right).select_related("transfer")
    )
    above = (
        uses.values("transfer__public_id", "transfer__amount_nanos")
        .annotate(total=Sum("amount_nanos"))
        .filter(total__gt=F("transfer__amount_nanos"))
    )
    report.differences.extend(
        f"Transfer {row['transfer__public_id']} took {row['transfer__amount_nanos']} nano-dollars, "
        f"{row['total']} of them from grants."
        for row in above
    )


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
