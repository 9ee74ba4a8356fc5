"""What an organization has spent today and this month (UTC), by workspace, deployment and key.

Read for budgets and their alerts: by index, over rollups and call ids, never a scan of usage.
Must not know what a budget is, nor what the ids name.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from uuid import UUID

from django.db.models import Q, Sum

from billing import rollups, usage
from billing.models import Transfer, UsageRecord, UsageRollup
from orgs.models import Organization

# Ids of one statement: SQLite takes 32,766 parameters.
IDS_PER_QUERY = 5_000


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent with one key of one deployment, in nano-dollars, the day within the month."""

    workspace_id: int
    deployment_id: int
    key_id: int
    day_nanos: int
    month_nanos: int


def day_of(at: datetime) -> datetime:
    """When the day (UTC) that `at` is in began; `at` in UTC."""
    return at.replace(hour=0, minute=0, second=0, microsecond=0)


def month_of(at: datetime) -> datetime:
    """When the month (UTC) that `at` is in began; `at` in UTC."""
    return day_of(at).replace(day=1)


def next_day(at: datetime) -> datetime:
    """When the day (UTC) that `at` is in ends."""
    return day_of(at) + timedelta(days=1)


def next_month(at: datetime) -> datetime:
    """When the month (UTC) that `at` is in ends."""
    return month_of(month_of(at) + timedelta(days=31))


def in_month(organization_id: int, at: datetime) -> list[Spent]:
    """Spending in the month of `at`, and on its day, by calls begun in them; one query."""
    month, day = month_of(at), day_of(at)
    whole_days = rollups.Spans(days=(month, next_month(at)), hours=(), edges=())
    found = (
        UsageRollup.objects.filter(rollups.in_spans(whole_days), organization_id=organization_id)
        .order_by()
        .values("workspace_id", "deployment_id", "key_id")
        .annotate(
            month_nanos=Sum("cost_nanos"),
            day_nanos=Sum("cost_nanos", filter=Q(starts_at__gte=day), default=0),
        )
    )
    return [Spent(**row) for row in found]


@dataclass(frozen=True, slots=True)
class CreditUse:
    """How much of the credit there was after the last top-up has been used, in nano-dollars."""

    since: datetime
    had_nanos: int
    used_nanos: int


def since_top_up(organization: Organization, at: datetime) -> CreditUse | None:
    """Use of credit since the last top-up or grant; None when there never was one."""
    latest = (
        Transfer.objects.filter(
            organization=organization, code__in=[Transfer.Code.TOPUP, Transfer.Code.PROMO]
        )
        .order_by("-pk")
        .first()
    )
    if latest is None:
        return None
    used = usage.summary(organization, latest.created_at, rollups.hour_after(at)).cost_nanos
    left = max(usage.balance(organization).posted_nanos, 0)
    return CreditUse(latest.created_at, left + used, used)


def organizations_since(at: datetime) -> list[int]:
    """Organizations with calls that began since the hour of `at`."""
    hour = at.replace(minute=0, second=0, microsecond=0)
    found = UsageRollup.objects.filter(period=rollups.HOUR, starts_at__gte=hour)
    return list(found.order_by().values_list("organization_id", flat=True).distinct())


def recorded(call_ids: Iterable[UUID]) -> set[UUID]:
    """Which of these calls have a usage record, and so are counted by whoever sums after this."""
    return {call_id for some in _chunks(call_ids) for call_id in _known(some)}


def _known(call_ids: list[UUID]) -> Iterable[UUID]:
    return UsageRecord.objects.filter(pk__in=call_ids).values_list("pk", flat=True)


def _chunks(call_ids: Iterable[UUID]) -> Iterator[list[UUID]]:
    rest = iter(call_ids)
    while some := list(islice(rest, IDS_PER_QUERY)):
        yield some
