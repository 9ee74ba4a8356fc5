"""`manage.py verify_ledger`: prints the figures of the books; exit 1 when anything differs."""

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from billing import checks
from orgs.models import Organization


class Command(BaseCommand):
    help = "Check that balances, transfers, usage and prices agree. Exit status 1 if they do not."

    # The books must be checkable when something else of the platform is broken.
    requires_system_checks = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", metavar="SLUG", help="Check one organization only.")

    def handle(self, *args: Any, organization: str | None, **options: Any) -> None:
        report = checks.verify(_organization(organization))
        width = max(len(label) for label, _ in report.figures)
        for label, value in report.figures:
            self.stdout.write(f"{label:<{width}}  {value}")
        for difference in report.differences:
            self.stderr.write(self.style.ERROR(f"DIFFERENCE  {difference}"))
        if not report.is_clean:
            self.stderr.write(f"{len(report.differences)} difference(s).")
            sys.exit(1)
        self.stdout.write(self.style.SUCCESS("The ledger is exact."))


def _organization(slug: str | None) -> Organization | None:
    if slug is None:
        return None
    found = Organization.objects.filter(slug=slug).first()
    if found is None:
        raise CommandError(f"No organization has the slug {slug!r}.")
    return found
