"""`manage.py ingest_usage`: make journals durable and book them; supervised, one per host."""

import signal
import socket
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from billing.sidecar import Sidecar

STOP_SECONDS_MAX = 30.0


class Command(BaseCommand):
    """Runs until SIGTERM or Ctrl-C. It may die at any moment: the next one goes on."""

    help = "Book what the journals of this host's web processes hold, as it comes."

    def handle(self, *args: Any, **options: Any) -> None:
        """Run, and end with everything booked that is there."""
        sidecar = Sidecar(settings.JOURNAL_DIR, host=socket.gethostname()[:60])
        signal.signal(signal.SIGTERM, _interrupt)
        sidecar.start()
        self.stdout.write(f"Booking journals in {settings.JOURNAL_DIR}.")
        try:
            sidecar.wait()
        except KeyboardInterrupt:
            self.stdout.write("Stopping.")
        finally:
            sidecar.stop(STOP_SECONDS_MAX)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
