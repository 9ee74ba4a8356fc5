"""Console pages of statements: the months there are, and one month to read, print or take along."""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from billing import money, statements
from billing.spreadsheets import csv_text
from orgs.context import ConsoleRequest, member_page


@require_GET
@member_page
def statement_list(request: ConsoleRequest) -> HttpResponse:
    """Every month since the first movement, latest first."""
    now = timezone.now()
    closed = statements.closed_months(request.organization)
    months = [
        (month, f"{month:%Y-%m}", month in closed)
        for month in statements.months(request.organization, now)
    ]
    return render(request, "billing/statement_list.html", {"months": months})


def _statement(request: ConsoleRequest, month: str) -> tuple[statements.Figures, bool]:
    """The statement named in the address. Raises Http404."""
    try:
        first = date.fromisoformat(f"{month}-01")
        return statements.statement(request.organization, first, timezone.now())
    except (ValueError, statements.NoSuchMonth):
        raise Http404("No such statement.") from None


@require_GET
@member_page
def statement_detail(request: ConsoleRequest, month: str) -> HttpResponse:
    """One month: how the balance moved, and what was used."""
    figures, is_closed = _statement(request, month)
    context: dict[str, Any] = {
        "figures": figures,
        "is_closed": is_closed,
        "digest": statements.digest_of(figures.to_json()) if is_closed else "",
    }
    return render(request, "billing/statement_detail.html", context)


@require_GET
@member_page
def statement_export(request: ConsoleRequest, month: str) -> HttpResponse:
    """The same as CSV: one section after the other, amounts in dollars to the nano-dollar."""
    figures, is_closed = _statement(request, month)
    name = f"statement-{request.organization.slug}-{figures.month}.csv"
    return HttpResponse(
        csv_text(_rows(figures, is_closed=is_closed)),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@require_GET
@member_page
def statement_json(request: ConsoleRequest, month: str) -> HttpResponse:
    """The same as the canonical JSON whose SHA-256 is the fingerprint; amounts in nano-dollars."""
    figures, _ = _statement(request, month)
    name = f"statement-{request.organization.slug}-{figures.month}.json"
    return HttpResponse(
        statements.canonical_json(figures.to_json()),
        content_type="application/json",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _rows(figures: statements.Figures, *, is_closed: bool) -> Iterator[list[object]]:
    yield ["section", "name", "count", "tokens", "amount_dollars"]
    yield ["statement", "closed" if is_closed else "open", "", "", ""]
    yield ["balance", "Opening balance", "", "", _dollars(figures.opening_nanos)]
    for line in figures.lines:
        yield ["balance", line.label, line.count, "", _dollars(line.amount_nanos)]
    yield ["balance", "Closing balance", "", "", _dollars(figures.closing_nanos)]
    for section in statements.BREAKDOWNS:
        for row in getattr(figures, section):
            yield [f"usage by {section}", row.name, row.calls, row.tokens, _dollars(row.cost_nanos)]


def _dollars(nanos: int) -> Decimal:
    """All nine decimals, so that the column adds up."""
    return money.dollars_from_nanos(nanos).quantize(Decimal("0.000000001"))
