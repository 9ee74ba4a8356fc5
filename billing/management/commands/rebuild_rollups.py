"""`manage.py rebuild_rollups`: sums usage up again from the records, day by day."""

from datetime import date, timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import rollups
from orgs.models import Organization

BAR_WIDTH = 40


class Command(BaseCommand):
    help = (
        "Replace rollups of usage by sums over the usage records. Safe while calls are served, and "
        "to repeat; without dates, all days that have usage."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--from", dest="first", type=_day, metavar="YYYY-MM-DD", help="First day, UTC."
        )
        parser.add_argument(
            "--to", dest="last", type=_day, metavar="YYYY-MM-DD", help="Last day, included."
        )
        parser.add_argument("--organization", metavar="SLUG", help="This organization's only.")

    def handle(
        self,
        *args: Any,
        first: date | None,
        last: date | None,
        organization: str | None,
        **options: Any,
    ) -> None:
        used = rollups.days_used()
        if used is None:
            self.stdout.write("There is no usage.")
            return
        first, last = max(first or used[0], used[0]), min(last or used[1], used[1])
        organizations = _organizations(organization)
        days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
        for number, day in enumerate(days, start=1):
            for owner in organizations:
                rollups.rebuild(owner, day)
            self._show_progress(number, len(days), day)
        self.stdout.write(
            f"Rebuilt {len(days)} day(s) of {len(organizations)} organization(s) from the records."
        )

    def _show_progress(self, number: int, count: int, day: date) -> None:
        """A bar that redraws itself on a terminal; nothing where output is kept."""
        if not self.stderr.isatty():
            return
        filled = BAR_WIDTH * number // count
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        self.stderr.write(f"\r[{bar}] {number}/{count} {day}", ending="\n" * (number == count))
        self.stderr.flush()


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r} is not a date like 2026-01-31.") from None


def _organizations(slug: str | None) -> list[Organization]:
    found = Organization.objects.order_by("id")
    if slug is None:
        return list(found)
    chosen = list(found.filter(slug=slug))
    if not chosen:
        raise CommandError(f"No organization has the slug {slug!r}.")
    return chosen
