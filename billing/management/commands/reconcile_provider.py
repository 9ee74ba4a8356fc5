"""`manage.py reconcile_provider PROVIDER FILE`: a provider's usage export beside our records."""

import getpass
import hashlib
import json
import sys
from datetime import date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing import exports, reconciliation
from billing.money import format_dollars

FILE_BYTES_MAX = 200 * 1024 * 1024
# Google's days are those of its headquarters; the others count in UTC.
ZONES = {"google": "America/Los_Angeles"}


class Command(BaseCommand):
    help = (
        "Compare a provider's usage export with our records, per model and day. Exit status 1 when "
        "anything differs by more than the tolerance."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("provider", metavar="PROVIDER", help="openai, anthropic, google, ...")
        parser.add_argument("file", metavar="FILE", type=Path)
        parser.add_argument("--from", dest="first", type=_day, metavar="YYYY-MM-DD")
        parser.add_argument("--to", dest="last", type=_day, metavar="YYYY-MM-DD", help="Included.")
        parser.add_argument(
            "--format",
            choices=exports.FORMATS,
            help="By default the provider's own; csv needs --column.",
        )
        parser.add_argument(
            "--column",
            action="append",
            default=[],
            metavar="NAME=HEADER",
            help="With --format csv: day, model, calls, cost, or a kind of token: "
            + ", ".join(exports.QUANTITIES),
        )
        parser.add_argument("--timezone", help="Of the export's days; by default the provider's.")
        parser.add_argument("--tolerance", default="1", metavar="PERCENT")
        parser.add_argument("--json", action="store_true", help="Print JSON instead of a table.")

    def handle(self, *args: Any, provider: str, file: Path, **options: Any) -> None:
        form = options["format"] or (provider if provider in exports.FORMATS else "csv")
        data = _data(file)
        try:
            export = exports.read(
                data.decode("utf-8-sig"),
                form,
                columns=_columns(form, options["column"]),
                models=reconciliation.known_models(provider),
            )
        except UnicodeDecodeError as error:
            raise CommandError(f"{file}: byte {error.start} is not UTF-8.") from error
        except exports.UnableToReadExport as error:
            raise CommandError(f"{file}: {error}") from error
        if not export.rows:
            raise CommandError(f"{file}: there is no row of usage in it.")
        first = options["first"] or min(row.first for row in export.rows)
        last = options["last"] or max(row.last for row in export.rows)
        if first > last:
            raise CommandError(f"There is no day from {first} to {last}.")
        comparison = reconciliation.compare(
            provider,
            export,
            first=first,
            last=last,
            zone=_zone(options["timezone"] or ZONES.get(form, "UTC"), first),
            tolerance_percent=_percent(options["tolerance"]),
        )
        reconciliation.record(
            comparison,
            provider,
            file_name=file.name,
            file_sha256=hashlib.sha256(data).hexdigest(),
            ran_by=getpass.getuser(),
            at=timezone.now(),
        )
        (self._print_json if options["json"] else self._print_table)(comparison)
        if comparison.off:
            sys.exit(1)

    def _print_json(self, comparison: reconciliation.Comparison) -> None:
        shown = {
            "from": comparison.first.isoformat(),
            "to": comparison.last.isoformat(),
            "tolerancePercent": str(comparison.tolerance_percent),
            "lines": [reconciliation.describe(line) for line in comparison.lines],
            "off": [reconciliation.describe(line) for line in comparison.off],
            "notes": comparison.notes,
        }
        self.stdout.write(json.dumps(shown, indent=2))

    def _print_table(self, comparison: reconciliation.Comparison) -> None:
        rows = [("", "days", "model", "what", "ours", "theirs", "differs by")]
        for line in comparison.lines:
            is_off = line.percent > comparison.tolerance_percent
            days = str(line.first) if line.first == line.last else f"{line.first}–{line.last}"
            rows.append(
                (
                    "*" if is_off else " ",
                    days,
                    line.model,
                    line.quantity.replace("_", " "),
                    _amount(line, line.ours),
                    _amount(line, line.theirs),
                    f"{line.percent.normalize():f} %" if line.percent else "",
                )
            )
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            left = [cell.ljust(width) for cell, width in zip(row[:4], widths[:4], strict=True)]
            right = [cell.rjust(width) for cell, width in zip(row[4:], widths[4:], strict=True)]
            self.stdout.write("  ".join([*left, *right]).rstrip())
        for note in comparison.notes:
            self.stdout.write(note)
        if comparison.off:
            self.stderr.write(
                self.style.ERROR(
                    f"{len(comparison.off)} of {len(comparison.lines)} amounts differ by more than "
                    f"{comparison.tolerance_percent.normalize():f} %."
                )
            )
        else:
            self.stdout.write(self.style.SUCCESS("Our records agree with the provider's."))


def _amount(line: reconciliation.Difference, value: int | None) -> str:
    if value is None:
        return "none"
    return format_dollars(value) if line.quantity == exports.COST else f"{value:,}"


def _data(file: Path) -> bytes:
    try:
        if file.stat().st_size > FILE_BYTES_MAX:
            raise CommandError(f"{file} is larger than {FILE_BYTES_MAX // 1024**2} MB: split it.")
        return file.read_bytes()
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from error


def _columns(form: str, given: list[str]) -> dict[str, str]:
    """Amount or key to header. Raises CommandError."""
    pairs = (text.partition("=") for text in given)
    columns = {name: header for name, _, header in pairs}
    if form != "csv":
        if columns:
            raise CommandError("--column belongs to --format csv.")
        return {}
    known = {"day", "model", exports.CALLS, exports.COST, *exports.QUANTITIES}
    for name, header in columns.items():
        if name not in known or not header:
            raise CommandError(f"--column {name}={header}: give one of {', '.join(sorted(known))}.")
    if not {"day", "model"} < columns.keys():
        raise CommandError(
            "--format csv needs --column day=..., --column model=... and at least one amount."
        )
    return columns


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is not a date like 2026-01-31.") from None


def _zone(name: str, day: date) -> ZoneInfo:
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        raise CommandError(f"{name!r} is no time zone like America/Los_Angeles.") from None
    offset = datetime.combine(day, time(), zone).utcoffset() or timedelta()
    if offset % timedelta(hours=1):
        raise CommandError(
            f"Days of {name} begin within an hour of UTC; usage is kept by the hour."
        )
    return zone


def _percent(text: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation:
        value = Decimal(-1)
    if not 0 <= value <= 1000:
        raise CommandError(f"--tolerance {text}: give a percentage like 1 or 0.5.")
    return value.quantize(Decimal("0.001"))
