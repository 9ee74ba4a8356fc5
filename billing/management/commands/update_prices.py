"""`manage.py update_prices`: compares prices in force with their sources and adds new versions."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing import money, prices


class Command(BaseCommand):
    help = (
        "Show what the bundled price data would change and, once confirmed, add the versions. "
        "Models whose price was set by hand are left alone, calls in flight keep their price."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "models",
            nargs="*",
            metavar="PROVIDER/MODEL",
            help="Models to price; by default every model that has a price from a source.",
        )
        parser.add_argument(
            "--effective-at",
            type=_moment,
            metavar="TIME",
            help="From when on, like 2026-02-01 or 2026-02-01T12:00:00+00:00; by default now. "
            "Compared with the prices in force then.",
        )
        parser.add_argument(
            "--allow-surprises",
            action="store_true",
            help=f"Also take a price that falls to 0 or moves by more than "
            f"{prices.SURPRISING_FACTOR} times.",
        )
        parser.add_argument("--yes", action="store_true", help="Do not ask.")

    def handle(
        self,
        *args: Any,
        models: list[str],
        effective_at: datetime | None,
        allow_surprises: bool,
        yes: bool,
        **options: Any,
    ) -> None:
        now = timezone.now()
        at = effective_at or now
        if at < now:
            raise CommandError(f"--effective-at {at} is over: a price cannot change the past.")
        wanted = [_model(text) for text in models] or prices.sourced_models()
        try:
            changes = prices.compare(wanted, at)
            self._show(changes, at)
            count = sum(change.is_new for change in changes)
            if not count:
                self.stdout.write("Every price is current.")
                return
            if not yes and not _confirmed(f"Add {count} price version(s) from {at:%Y-%m-%d %H:%M}"):
                self.stdout.write("Nothing changed.")
                return
            added = prices.adopt(changes, at, now=now, allows_surprises=allow_surprises)
        except prices.SurprisingPrice as error:
            raise CommandError(
                f"Nothing changed: {error}. If that is right, say --allow-surprises."
            ) from error
        except prices.UnableToPrice as error:
            raise CommandError(str(error)) from error
        self.stdout.write(f"Added {len(added)} price version(s).")

    def _show(self, changes: list[prices.Change], at: datetime) -> None:
        for change in changes:
            name = f"{change.quote.provider}/{change.quote.model}"
            if not change.is_new:
                self.stdout.write(f"  {name}: unchanged")
                continue
            self.stdout.write(f"* {name} ({change.quote.source})")
            for step in change.steps:
                self._show_step(step)
            if later := prices.superseded_by(change, at):
                self.stdout.write(
                    f"    until {later.effective_at:%Y-%m-%d %H:%M}, when a planned version follows"
                )

    def _show_step(self, step: prices.Step) -> None:
        what = step.bucket.replace("_", " ")
        if step.above:
            what += f" above {step.above:,}"
        line = f"    {what:<28}{_dollars(step.before):>14}  ->  {_dollars(step.after)}"
        if step.is_change:
            line += f"  {_percent(step)}"
        self.stdout.write(self.style.ERROR(f"{line}  !") if step.is_surprising else line.rstrip())


def _confirmed(question: str) -> bool:
    return input(f"{question}? [y/N] ").strip().lower() == "y"


def _model(text: str) -> tuple[str, str]:
    provider, slash, model = text.partition("/")
    if not (provider and slash and model):
        raise CommandError(f"{text!r} is not of the form PROVIDER/MODEL.")
    return provider, model


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is not a time like 2026-02-01T12:00:00+00:00.") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _dollars(nanos: int | None) -> str:
    """Dollars per million tokens, every digit."""
    if nanos is None:
        return "none"
    whole, _, decimals = f"{money.dollars_from_nanos(nanos):,.9f}".rstrip("0").partition(".")
    return f"${whole}.{decimals:0<2}"


def _percent(step: prices.Step) -> str:
    if not step.before or step.after is None:
        return ""
    change = Decimal(100) * (step.after - step.before) / step.before
    return f"{change.quantize(Decimal('0.1')):+f} %"
