"""Checks of payments and refunds against the transfers they name. See `billing.checks`."""

from collections import Counter

from django.db.models import F, Q, Sum

from billing.checks.books import Books, Report
from billing.models import Payment, Refund, Transfer
from billing.money import format_dollars

Phase = Transfer.Phase
Code = Transfer.Code
# How a refund's hold has ended by the time the refund has.
ENDS = {
    Refund.Status.REQUESTED.value: None,
    Refund.Status.SUCCEEDED.value: Phase.POST_PENDING.value,
    Refund.Status.FAILED.value: Phase.VOID_PENDING.value,
}


def payments_are_what_was_credited(books: Books, report: Report) -> None:
    """Whoever paid has got the credit, once and whole; nothing is bought without a payment."""
    payments = Payment.objects.filter(books.of_organization()).order_by()
    is_credited = Q(
        transfer__code=Code.TOPUP,
        transfer__phase=Phase.POSTED,
        transfer__organization=F("organization"),
        transfer__amount_nanos=F("amount_nanos"),
    )
    is_paid = Q(status=Payment.Status.SUCCEEDED) | Q(transfer__isnull=False)
    for payment in payments.filter(is_paid).exclude(is_credited):
        report.differences.append(
            f"Payment {payment.public_id} of {payment.amount_nanos} nano-dollars is not what its "
            "transfer has credited."
        )
    for transfer in books.transfers.filter(code=Code.TOPUP, payment__isnull=True):
        report.differences.append(
            f"Transfer {transfer.public_id} credits {transfer.amount_nanos} nano-dollars, and no "
            "payment names it."
        )
    paid = payments.filter(status=Payment.Status.SUCCEEDED)
    total = paid.aggregate(total=Sum("amount_nanos", default=0))["total"]
    report.figures.append(("Paid by customers", format_dollars(total)))


def refunds_are_what_was_sent_back(books: Books, report: Report) -> None:
    """A refund has moved its amount if it has succeeded, holds it under way, and else nothing."""
    sent = _sent_without_our_asking(books)
    refunded: Counter[Payment] = Counter()
    for refund in Refund.objects.filter(books.of_organization("payment__")).select_related(
        "payment", "hold"
    ):
        if refund.status != Refund.Status.FAILED:
            refunded[refund.payment] += refund.amount_nanos
        if refund.is_external:
            owner, key = refund.payment.organization_id, refund.idempotency_key
            is_right = sent.pop((owner, key), 0) == refund.amount_nanos
        else:
            is_right = _is_held(refund) and _end_of(refund) == ENDS[refund.status]
        if not is_right:
            report.differences.append(
                f"Refund {refund.public_id} of {refund.amount_nanos} nano-dollars "
                f"({refund.get_status_display().lower()}) is not what its transfers moved."
            )
    report.differences.extend(
        f"{amount} nano-dollars were sent back as {key!r}, and no refund says so."
        for (_, key), amount in sent.items()
    )
    report.differences.extend(
        f"Payment {payment.public_id} of {payment.amount_nanos} nano-dollars is refunded {total}."
        for payment, total in refunded.items()
        if total > payment.amount_nanos
    )
    for hold in books.transfers.filter(phase=Phase.PENDING, code=Code.REFUND, refund__isnull=True):
        report.differences.append(
            f"Transfer {hold.public_id} holds {hold.amount_nanos} nano-dollars for no refund."
        )
    report.figures.append(("Refunded", format_dollars(sum(refunded.values()))))


def _is_held(refund: Refund) -> bool:
    hold = refund.hold
    return hold is not None and (
        (hold.organization_id, hold.amount_nanos, hold.phase, hold.code)
        == (refund.payment.organization_id, refund.amount_nanos, Phase.PENDING, Code.REFUND)
    )


def _end_of(refund: Refund) -> str | None:
    """How the refund's hold has ended; "" when by less than the whole amount."""
    ended = Transfer.objects.filter(pending_transfer=refund.hold).first()
    if ended is None:
        return None
    return ended.phase if ended.amount_nanos == refund.amount_nanos else ""


def _sent_without_our_asking(books: Books) -> dict[tuple[int, str], int]:
    """Organization and key to what refunds made elsewhere took: from credit, and as a debt."""
    found: Counter[tuple[int, str]] = Counter()
    posted = books.transfers.filter(code=Code.REFUND, phase=Phase.POSTED)
    for owner, key, amount in posted.values_list(
        "organization_id", "idempotency_key", "amount_nanos"
    ):
        found[owner, key.removesuffix(":owed")] += amount
    return dict(found)
