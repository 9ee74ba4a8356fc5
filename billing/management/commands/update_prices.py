"""`manage.py update_prices`: compares prices in force with their sources and adds new versions."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from billing import prices, pricing
from billing.money import format_dollars


class Command(BaseCommand):
    help = (
        "Show what the bundled price data would change and, once confirmed, add the versions. "
        "Models whose price was set by hand are left alone."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "models",
            nargs="*",
            metavar="PROVIDER/MODEL",
            help="Models to price; by default every model that has a price from a source.",
        )
        parser.add_argument("--yes", action="store_true", help="Do not ask.")

    def handle(self, *args: Any, models: list[str], yes: bool, **options: Any) -> None:
        now = timezone.now()
        wanted = [_model(text) for text in models] or prices.sourced_models()
        try:
            changes = prices.compare(wanted, now)
        except prices.UnableToPrice as error:
            raise CommandError(str(error)) from error
        for change in changes:
            self._show(change)
        count = sum(change.is_new for change in changes)
        if not count:
            self.stdout.write("Every price is current.")
            return
        if not yes and input(f"Add {count} price version(s)? [y/N] ").strip().lower() != "y":
            self.stdout.write("Nothing changed.")
            return
        self.stdout.write(f"Added {len(prices.adopt(changes, now))} price version(s).")

    def _show(self, change: prices.Change) -> None:
        quote = change.quote
        name = f"{quote.provider}/{quote.model}"
        if not change.is_new:
            self.stdout.write(f"  {name}: unchanged")
            return
        self.stdout.write(f"* {name} ({quote.source})")
        before = change.before.rates if change.before else {}
        for bucket in pricing.BUCKETS:
            old, new = _text(before.get(bucket)), _text(quote.rates.get(bucket))
            if (old, new) != ("none", "none"):
                self.stdout.write(f"    {bucket:<18}{old:>24}  ->  {new}")


def _model(text: str) -> tuple[str, str]:
    provider, slash, model = text.partition("/")
    if not (provider and slash and model):
        raise CommandError(f"{text!r} is not of the form PROVIDER/MODEL.")
    return provider, model


def _text(tiers: list[dict[str, int]] | None) -> str:
    """Dollars per million tokens; further tiers with the input they start above."""
    if not tiers:
        return "none"
    first, *more = tiers
    return format_dollars(first["nanos_per_million"]) + "".join(
        f", {format_dollars(tier['nanos_per_million'])} above {tier['from_input_tokens']:,}"
        for tier in more
    )
