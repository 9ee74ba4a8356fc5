"""Checks of closed statements: unchanged, chained, adding up. See `billing.checks`."""

from collections.abc import Iterator

from django.db.models import Max

from billing import statements
from billing.checks.books import Books, Report
from billing.models import Statement


def statements_are_unchanged(books: Books, report: Report) -> None:
    """Each has its digest and the one before's, opens where that closed, and adds up."""
    found = Statement.objects.select_related("organization").order_by("organization_id", "month")
    if books.organization is not None:
        found = found.filter(organization=books.organization)
    latest = set(
        found.values("organization")
        .annotate(pk_max=Max("pk"))
        .values_list("pk_max", flat=True)
        .order_by()
    )
    before: Statement | None = None
    count = 0
    for row in found.iterator(chunk_size=500):
        count += 1
        if before is not None and before.organization_id != row.organization_id:
            before = None
        if row.pk in latest:
            report.differences.extend(_unlike_the_books(row))
        report.differences.extend(
            f"{row.organization.slug}: the statement of {row.month:%Y-%m} {problem}."
            for problem in _problems(row, before)
        )
        before = row
    report.figures.append(("Closed statements", f"{count:,}"))


def _unlike_the_books(row: Statement) -> Iterator[str]:
    """What the latest statement has said so far and the books, which only grow, do not contain."""
    stated = statements.Figures.from_json(row.figures).stated
    known = statements.known_until_end_of(row.organization, row.month)
    for code in sorted({*stated, *known}):
        for month in sorted({*stated.get(code, {}), *known.get(code, {})}):
            amount, count = stated.get(code, {}).get(month, (0, 0))
            amount_now, count_now = known.get(code, {}).get(month, (0, 0))
            # What arrived since is a line of the next statement.
            if count_now < count or (count_now == count and amount_now != amount):
                yield (
                    f"{row.organization.slug}: the statement of {row.month:%Y-%m} says {amount} "
                    f"nano-dollars ({count}) of {code} in {month}, the books have {amount_now} "
                    f"({count_now})."
                )


def _problems(row: Statement, before: Statement | None) -> list[str]:
    figures = statements.Figures.from_json(row.figures)
    opening = before.figures["closing_nanos"] if before else 0
    moved = sum(line.amount_nanos for line in figures.lines)
    claims = (
        (statements.digest_of(row.figures) == row.digest, "does not have its digest"),
        (
            figures.previous_digest == (before.digest if before else ""),
            "does not follow the one before it",
        ),
        (figures.opening_nanos == opening, f"opens at {figures.opening_nanos}, not at {opening}"),
        (
            sum(line[0] for said in figures.stated.values() for line in said.values())
            == figures.closing_nanos,
            "closes at another amount than all that was stated",
        ),
        (
            figures.opening_nanos + moved == figures.closing_nanos,
            f"closes at {figures.closing_nanos}, not at {figures.opening_nanos + moved}",
        ),
    )
    return [problem for holds, problem in claims if not holds]
