"""`manage.py check_isolation`: whether functions on this machine would be isolated, row by row."""

import asyncio
import sys
from typing import Any

from django.core.management.base import BaseCommand

from deployments.runtime import isolation
from deployments.runtime.local_bwrap import LocalBwrap


class Command(BaseCommand):
    help = (
        "Start a function that tries to leave its sandbox (FUNCTION_DRIVER=local-bwrap) and show "
        "what it reached. Exit status 1 if anything it should not."
    )

    # It must be possible to ask before anything else of the platform is set up.
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        findings = asyncio.run(isolation.verify(LocalBwrap()))
        width = max(len(each.row) for each in findings)
        for each in findings:
            mark = self.style.SUCCESS("holds") if each.ok else self.style.ERROR("FAILS")
            expected = "" if each.ok else f" (expected {each.expected})"
            self.stdout.write(f"{mark}  {each.row:<{width}}  {each.seen}{expected}")
        if not all(each.ok for each in findings):
            self.stderr.write(isolation.REMEDY)
            sys.exit(1)
        self.stdout.write(self.style.SUCCESS("Functions are isolated on this machine."))
