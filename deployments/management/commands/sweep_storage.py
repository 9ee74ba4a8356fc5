"""`manage.py sweep_storage`: removes files of releases and bundles that no row accounts for."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from deployments import retention, storage


class Command(BaseCommand):
    """For hosts that serve sites and run no task worker; see docs/operations.md."""

    help = "Remove files on this host, and bundles, that no release or upload accounts for."

    def handle(self, *args: Any, **options: Any) -> None:
        """Sweep once and say how much was removed."""
        try:
            removed = retention.sweep(at=timezone.now())
        except storage.UnableToReachStore as error:
            raise CommandError(str(error)) from None
        self.stdout.write(f"Removed {removed} releases and bundles that nobody needs.")
