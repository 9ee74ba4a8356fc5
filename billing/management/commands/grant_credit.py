"""`manage.py grant_credit ORG AMOUNT --reason ...`: gives promotional credit to an organization."""

from datetime import date
from typing import Any
from uuid import uuid4

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db.models import Q
from django.utils import timezone

from billing import grants, ledger
from billing.money import UnableToReadMoney, format_dollars, nanos_from_dollars
from orgs.models import Organization


class Command(BaseCommand):
    help = "Give an organization promotional credit and print its new balance."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("org", metavar="ORG", help="Slug or public id (org_...).")
        parser.add_argument("amount", metavar="AMOUNT", help="Dollars, for example 25 or 0.50.")
        parser.add_argument("--reason", required=True, help="Why; kept with the transfer.")
        parser.add_argument(
            "--expires",
            metavar="DATE",
            type=date.fromisoformat,
            help="Last day (UTC) on which it may be spent, for example 2030-12-31.",
        )
        parser.add_argument(
            "--key", help="Idempotency key: repeating the command with it grants once."
        )

    def handle(
        self,
        *args: Any,
        org: str,
        amount: str,
        reason: str,
        key: str | None,
        expires: date | None,
        **options: Any,
    ) -> None:
        organization = Organization.objects.filter(Q(slug=org) | Q(public_id=org)).first()
        if organization is None:
            raise CommandError(f"No organization has the slug or public id {org!r}.")
        try:
            transfer = ledger.grant(
                organization,
                nanos_from_dollars(amount),
                reason=reason,
                idempotency_key=f"grant:{key or uuid4().hex}",
                expires_at=None if expires is None else grants.end_of(expires),
                at=timezone.now(),
            )
        except (UnableToReadMoney, ledger.KeyReused, ValueError) as error:
            raise CommandError(f"Nothing granted: {error}") from error
        available = format_dollars(ledger.balance(organization).available_nanos)
        self.stdout.write(
            f"Granted {format_dollars(transfer.amount_nanos)} to {organization.slug} "
            f"({transfer.public_id}). Available now: {available}."
        )
