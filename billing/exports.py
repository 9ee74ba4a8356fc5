"""Providers' own usage exports as rows that can be compared with ours. Pure: text in, rows out.

Columns and fields, as found in:
- OpenAI, usage API and the dashboard's CSV export (one row per bucket of time, project and model):
  platform.openai.com/docs/api-reference/usage/completions_object. `input_tokens` includes cached,
  audio and image tokens; a report that is not grouped by model has `model` null.
- Anthropic, Admin API: platform.claude.com/docs/en/api/admin-api/usage-cost/
  get-messages-usage-report. Buckets are disjoint; it tells no number of calls.
- Google Cloud, Billing, cost table as CSV: cloud.google.com/billing/docs/how-to/cost-table. A few
  lines about the invoice come first; then one row per SKU and period, whose description names the
  model and the kind of token in words; days are those of Los Angeles.

Must not know our records. A bad file is refused whole: half of it would look like a difference.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from billing.money import NANOS_PER_DOLLAR
from billing.pricing import BUCKETS, INPUT_BUCKETS, OUTPUT_BUCKETS

# What a provider may tell -> the sum of ours that it means.
QUANTITIES: Mapping[str, tuple[str, ...]] = {
    **{bucket: (bucket,) for bucket in BUCKETS},
    "all_input": INPUT_BUCKETS,
    "all_output": OUTPUT_BUCKETS,
    "all_cached": ("cache_read", "audio_cache_read"),
    "all_audio_input": ("audio_input", "audio_cache_read"),
}
CALLS, COST = "calls", "cost"
# What a column of ours could hold.
COUNT_MAX = 2**63 - 1
OPENAI_FIELDS = {
    "num_model_requests": CALLS,
    "input_tokens": "all_input",
    "input_cached_tokens": "all_cached",
    "input_audio_tokens": "all_audio_input",
    "output_tokens": "all_output",
    "output_audio_tokens": "audio_output",
}
ANTHROPIC_FIELDS = {
    "uncached_input_tokens": "input",
    "cache_read_input_tokens": "cache_read",
    "output_tokens": "output",
}
ANTHROPIC_CACHE_FIELDS = {
    "ephemeral_5m_input_tokens": "cache_write",
    "ephemeral_1h_input_tokens": "cache_write_1h",
}
GOOGLE_SERVICES = ("gemini api", "generative language api", "vertex ai")
GOOGLE_HEADER = "SKU description"


class UnableToReadExport(ValueError):
    """The file is no export of this form; the message names line and column, or the JSON path."""


@dataclass(frozen=True, slots=True)
class ExportRow:
    """What the provider says of one model from `first` to `last` (days, both included).

    `amounts` holds what it tells of QUANTITIES, CALLS and COST (nano-dollars).
    """

    first: date
    last: date
    model: str
    amounts: Mapping[str, int]


@dataclass(slots=True)
class Export:
    """A file's rows, and what was left out of them and why."""

    rows: list[ExportRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


# --- Values ------------------------------------------------------------------------------------
def _count(text: object, where: str) -> int:
    """A whole number that is not negative. Raises UnableToReadExport."""
    try:
        value = Decimal(str(text).replace(",", "").strip())
        # Before it is made an int: 1E999999 would be a number of a million digits.
        is_count = not isinstance(text, bool) and 0 <= value <= COUNT_MAX
        whole = int(value) if is_count else -1
    except (InvalidOperation, ValueError, OverflowError):
        whole = -1
    if whole < 0 or whole != value:
        raise UnableToReadExport(f"{where}: {text!r} is not a whole number.")
    return whole


def _nanos(text: str, where: str) -> int:
    """Dollars, whatever their decimals, to the nearest nano-dollar. Raises UnableToReadExport."""
    try:
        value = Decimal(text.replace(",", "").replace("$", "").strip()) * NANOS_PER_DOLLAR
        if abs(value) <= COUNT_MAX:
            return int(value.to_integral_value())
    except (InvalidOperation, ValueError, OverflowError):
        pass
    raise UnableToReadExport(f"{where}: {text!r} is not an amount of dollars.") from None


def _told(name: str, text: str, where: str) -> int:
    return _nanos(text, where) if name == COST else _count(text, where)


def _day(value: object, where: str) -> date:
    """The day (UTC) of a date, a time, or seconds since 1970. Raises UnableToReadExport."""
    text = str(value).strip()
    try:
        if re.fullmatch(r"\d{9,11}", text):
            return datetime.fromtimestamp(int(text), UTC).date()
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            return date.fromisoformat(text)
        at = datetime.fromisoformat(text)
        return (at.astimezone(UTC) if at.tzinfo else at).date()
    except (ValueError, OverflowError, OSError):
        raise UnableToReadExport(f"{where}: {value!r} is not a date like 2026-01-31.") from None


# --- JSON --------------------------------------------------------------------------------------
def _buckets(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and bucket of a page `{"data": [...]}` or a list of pages, all pages present."""
    try:
        pages = json.loads(text)
    except json.JSONDecodeError as error:
        raise UnableToReadExport(
            f"line {error.lineno}, column {error.colno}: {error.msg}."
        ) from None
    except (RecursionError, ValueError) as error:  # nested too deep; a number of too many digits
        raise UnableToReadExport(f"The file cannot be read as JSON: {error}.") from None
    is_list = isinstance(pages, list)
    pages = pages if is_list else [pages]
    for number, page in enumerate(pages):
        path = f"[{number}].data" if is_list else "data"
        if not isinstance(page, dict) or not isinstance(page.get("data"), list):
            raise UnableToReadExport(f"{path}: there is no list of buckets.")
        for index, bucket in enumerate(page["data"]):
            if not isinstance(bucket, dict) or not isinstance(bucket.get("results"), list):
                raise UnableToReadExport(f"{path}[{index}].results: there is no list of results.")
            yield f"{path}[{index}]", bucket
    if pages and pages[-1].get("has_more"):
        raise UnableToReadExport("has_more: further pages exist; give all of them in one list.")


def _json_rows(
    text: str, start: str, read: Callable[[dict[str, Any], str], dict[str, int]]
) -> Iterator[ExportRow]:
    """One row per result, with the day its bucket starts on."""
    for path, bucket in _buckets(text):
        day = _day(bucket.get(start), f"{path}.{start}")
        for index, result in enumerate(bucket["results"]):
            where = f"{path}.results[{index}]"
            if not isinstance(result, dict) or not result.get("model"):
                raise UnableToReadExport(f"{where}.model: missing; export it grouped by model.")
            yield ExportRow(day, day, str(result["model"]), read(result, where))


def _given(source: dict[str, Any], names: Mapping[str, str], where: str) -> dict[str, int]:
    """The amounts of the fields that are there; a missing or null one is not told, not zero."""
    return {
        quantity: _count(source[name], f"{where}.{name}")
        for name, quantity in names.items()
        if source.get(name) is not None
    }


def _anthropic_result(result: dict[str, Any], where: str) -> dict[str, int]:
    writes = result.get("cache_creation") or {}
    if not isinstance(writes, dict):
        raise UnableToReadExport(f"{where}.cache_creation: is no object.")
    return {
        **_given(result, ANTHROPIC_FIELDS, where),
        **_given(writes, ANTHROPIC_CACHE_FIELDS, f"{where}.cache_creation"),
    }


def _read_openai(text: str) -> Export:
    if text.lstrip()[:1] in ("{", "["):
        read = _json_rows(text, "start_time", lambda row, at: _given(row, OPENAI_FIELDS, at))
        return Export(list(read))
    return read_csv(text, {"day": "start_time", "model": "model"}, optional=OPENAI_FIELDS)


def _read_anthropic(text: str) -> Export:
    return Export(list(_json_rows(text, "starting_at", _anthropic_result)))


# --- CSV ---------------------------------------------------------------------------------------
def _table(text: str, *, header_has: str = "") -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and cells by column. With `header_has` the header is the first line with that."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    try:
        for cells in reader:
            if header is None:
                if not header_has or header_has in cells:
                    header = [cell.strip().removeprefix("\ufeff") for cell in cells]
                    _require_different(header, reader.line_num)
                    yield reader.line_num, dict.fromkeys(header, "")
            elif any(cell.strip() for cell in cells):
                if len(cells) != len(header):
                    raise UnableToReadExport(
                        f"line {reader.line_num}: {len(cells)} columns, the header has "
                        f"{len(header)}."
                    )
                yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UnableToReadExport(f"line {reader.line_num}: {error}.") from None
    if header is None:
        raise UnableToReadExport(f"line 1: there is no header with {header_has or 'columns'!r}.")


def _require_different(header: list[str], line: int) -> None:
    """Of two columns with one name nobody could say which is meant. Raises UnableToReadExport."""
    if twice := [name for name in header if name and header.count(name) > 1]:
        raise UnableToReadExport(f"line {line}: there are two columns {twice[0]!r}.")


def read_csv(
    text: str, columns: Mapping[str, str], *, optional: Mapping[str, str] | None = None
) -> Export:
    """A CSV by its column names: `columns` maps "day", "model" and amounts to headers.

    `optional` maps headers that may be missing to their amounts. Raises UnableToReadExport.
    """
    lines = _table(text)
    line, header = next(lines)
    for name, column in columns.items():
        if column not in header:
            raise UnableToReadExport(
                f"line {line}: there is no column {column!r} for {name}. "
                f"There are: {', '.join(header)}."
            )
    amounts = {column: name for name, column in columns.items() if name not in ("day", "model")}
    amounts |= {column: name for column, name in (optional or {}).items() if column in header}
    export = Export()
    for line, cells in lines:
        day = _day(cells[columns["day"]], f"line {line}, column {columns['day']}")
        told = {
            name: _told(name, cells[column], f"line {line}, column {column}")
            for column, name in amounts.items()
            if cells[column].strip()
        }
        # A bucket of time without use is a row without a model.
        if not cells[columns["model"]].strip():
            if any(told.values()):
                raise UnableToReadExport(
                    f"line {line}, column {columns['model']}: missing; export it grouped by model."
                )
            continue
        export.rows.append(ExportRow(day, day, cells[columns["model"]].strip(), told))
    return export


def _read_google(text: str, models: Iterable[str]) -> Export:
    """Rows of the Gemini API; a SKU that names no model of `models` keeps its own text as name."""
    export = Export()
    is_in_dollars = re.search(r"^\W*Currency,\W*USD\b", text, re.M) is not None
    if not is_in_dollars:
        export.notes.append("Costs are not compared: the export is not in US dollars.")
    lines = _table(text, header_has=GOOGLE_HEADER)
    line, header = next(lines)
    cost = next((name for name in header if re.fullmatch(r"Unrounded cost \(\$\)", name, re.I)), "")
    needed = (GOOGLE_HEADER, "Service description", "Usage start date", "Usage end date")
    if missing := [name for name in (*needed, "Usage amount") if name not in header]:
        raise UnableToReadExport(f"line {line}: there is no column {missing[0]!r}.")
    known = {_words(model): model for model in models}
    others = 0
    for line, cells in lines:
        if cells["Service description"].strip().lower() not in GOOGLE_SERVICES:
            others += 1
            continue
        first, last = (_day(cells[name], f"line {line}, column {name}") for name in needed[2:])
        if last < first:
            raise UnableToReadExport(f"line {line}: it ends on {last}, before it begins.")
        model, quantity = _of_sku(cells[GOOGLE_HEADER], known)
        told = {quantity: _count(cells["Usage amount"], f"line {line}, column Usage amount")}
        if is_in_dollars and cost:
            told[COST] = _nanos(cells[cost], f"line {line}, column {cost}")
        export.rows.append(ExportRow(first, last, model, told))
    if others:
        export.notes.append(f"{others} row(s) of other services were left out.")
    return export


def _of_sku(description: str, known: Mapping[str, str]) -> tuple[str, str]:
    """Model and bucket that a SKU's description means; the longest model name in it wins."""
    words = f" {_words(description)} "
    named = [name for name in known if f" {name} " in words]
    model = known[max(named, key=len)] if named else description.strip()
    return model, _kind_of(words)


def _kind_of(words: str) -> str:
    medium = next((name for name in ("audio", "image") if f" {name} " in words), "")
    if " output " in words or " response " in words:
        return f"{medium}_output" if medium else "output"
    if " cached " in words or " caching " in words:
        return "audio_cache_read" if medium == "audio" else "cache_read"
    return f"{medium}_input" if medium else "input"


def _words(text: str) -> str:
    """Letters and numbers of a name, so that `gemini-2.5-flash` is `Gemini 2.5 Flash`."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower()))


FORMATS = ("openai", "anthropic", "google", "csv")


def read(
    text: str, form: str, *, columns: Mapping[str, str] | None = None, models: Iterable[str] = ()
) -> Export:
    """An export of one of FORMATS. `columns` are those of "csv", `models` those "google" may name.

    Raises UnableToReadExport.
    """
    if form == "openai":
        return _read_openai(text)
    if form == "anthropic":
        return _read_anthropic(text)
    if form == "google":
        return _read_google(text, models)
    return read_csv(text, columns or {})
