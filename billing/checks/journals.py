"""Checks of what is between the serving processes and the books. See `billing.checks`.

Journals on other hosts cannot be looked into: what the database knows of them is checked.
"""

from django.db.models import F, Q, Sum

from billing.checks.books import Books, Report
from billing.models import DeadLetter, Journal, Lease
from billing.money import format_dollars

OUTSTANDING = F("granted_nanos") - F("returned_nanos") - F("used_nanos")


def outstanding_leases() -> dict[int, int]:
    """What the leases of each organization still hold, in nano-dollars."""
    sums = Lease.objects.values("organization_id").annotate(total=Sum(OUTSTANDING))
    return dict(sums.values_list("organization_id", "total"))


def closed_journals_hold_nothing(books: Books, report: Report) -> None:
    """A closed or reclaimed journal has returned all its leases; with none open, nothing is held

    (I5).
    """
    is_over = Q(journal__closed_at__isnull=False) | Q(journal__reclaimed_at__isnull=False)
    for lease in Lease.objects.filter(
        is_over, granted_nanos__gt=F("returned_nanos") + F("used_nanos")
    ).select_related("organization"):
        report.differences.append(
            f"The closed journal {lease.journal_id} still holds {lease.outstanding_nanos} "
            f"nano-dollars of {lease.organization.slug}."
        )
    running = Journal.objects.filter(closed_at=None)
    report.figures.append(("Open journals", f"{running.count():,}"))
    report.figures.append(("Leased to them", format_dollars(sum(outstanding_leases().values()))))


def nothing_is_unbooked(books: Books, report: Report) -> None:
    """Records that could not be booked are a named difference, with their sum (I8)."""
    letters = DeadLetter.objects.filter(resolved_at=None).order_by("id")
    for letter in letters[:20]:
        report.differences.append(
            f"A record of journal {letter.journal_id} at {letter.position} is not booked "
            f"({letter.cost_nanos} nano-dollars): {letter.reason}"
        )
    count = letters.count()
    total = letters.aggregate(total=Sum("cost_nanos", default=0))["total"]
    report.figures.append(("Not booked", f"{count:,}, {format_dollars(total)}"))
