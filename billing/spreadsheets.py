"""CSV that a spreadsheet shows and never runs. Pure text; must not know what the cells mean."""

import csv
import io
from collections.abc import Iterable, Sequence

# What makes a spreadsheet take text for a formula (OWASP, "CSV injection").
RUNS = ("=", "+", "-", "@", "\t", "\r")


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV. Text that would run as a formula is quoted; numbers stay numbers.

    Give amounts as int or Decimal: a negative one as text would be quoted.
    """
    text = io.StringIO()
    csv.writer(text).writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue()


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(RUNS) else cell
