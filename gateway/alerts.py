"""Alerts: telling owners that a budget or the credit runs out, at 50, 80 and 100 %, once each.

Owns what is noticed and what is said. Noticing compares what usage records say with the limits of
every scope; a row per scope, period and threshold, unique in the database, makes it safe to repeat
and to run twice at once. Must not decide whether a call is made, nor know how webhooks travel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from smtplib import SMTPException

import structlog
from django.conf import settings
from django.core.mail import send_mail
from django.db.models import Q, QuerySet

from billing import money, spending
from gateway import allowances, budgets
from gateway.models import Alert, Limit
from orgs import deliveries, suspension
from orgs.models import Membership, Organization

THRESHOLDS = (50, 80, 100)
# Budgets change when calls are recorded: organizations without any for so long are not looked at.
ACTIVE_FOR = timedelta(hours=2)
# Letters that could not be sent in so long are given up.
TOLD_WITHIN = timedelta(days=1)
SHOWN = 10

Period = Alert.Period
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Measure:
    """How much is used of one budget, or of the credit; nano-dollars."""

    scope: str
    scope_id: int
    name: str
    period: str
    starts_at: datetime
    used: int
    limit: int


def notice(*, at: datetime) -> int:
    """Note every threshold that was passed since last time; how many. `at` in UTC."""
    active = spending.organizations_since(at - ACTIVE_FOR)
    organizations = Organization.objects.filter(suspension.is_not(at=at), pk__in=active)
    return sum(notice_of(organization, at=at) for organization in organizations)


def notice_of(organization: Organization, *, at: datetime) -> int:
    """The same for one organization."""
    noticed = 0
    for measure in _measures(organization, at):
        reached = [one for one in THRESHOLDS if measure.used * 100 >= one * measure.limit]
        known = set(_known(organization, measure).values_list("threshold_percent", flat=True))
        new = [one for one in reached if one not in known]
        Alert.objects.bulk_create(
            [
                Alert(
                    **_of(organization, measure),
                    name=measure.name,
                    threshold_percent=threshold,
                    used_nanos=measure.used,
                    limit_nanos=measure.limit,
                    created_at=at,
                    # Who passed two at once hears of the higher one.
                    is_told=threshold == max(reached),
                )
                for threshold in new
            ],
            ignore_conflicts=True,
        )
        noticed += len(new)
    return noticed


def _of(organization: Organization, measure: Measure) -> dict[str, object]:
    return {
        "organization": organization,
        "scope": measure.scope,
        "scope_id": measure.scope_id,
        "period": measure.period,
        "starts_at": measure.starts_at,
    }


def _known(organization: Organization, measure: Measure) -> "QuerySet[Alert]":
    """What was noticed of this very budget; the credit has no amount that stays."""
    found = Alert.objects.filter(**_of(organization, measure))
    return found if measure.period == Period.CREDIT else found.filter(limit_nanos=measure.limit)


def _measures(organization: Organization, at: datetime) -> Iterator[Measure]:
    """Every budget of the organization's scopes, and its credit since the last top-up."""
    rows = allowances.read_all(organization)
    if any(row.daily_budget_nanos or row.monthly_budget_nanos for row in rows.values()):
        spent = budgets.by_scope(organization.pk, at)
        for subject in allowances.subjects(organization):
            row = rows.get((subject.scope, subject.scope_id))
            if subject.scope == Limit.Scope.ORGANIZATION:
                staff = rows.get((Limit.Scope.STAFF, subject.scope_id))
                limits = allowances.of_organization(subject.scope_id, row, staff)
            elif row is None:
                continue
            else:
                limits = allowances.of_row(row)
            day, month = spent.get((limits.scope, limits.scope_id), (0, 0))
            for period, starts_at, used, limit in (
                (Period.DAY, spending.day_of(at), day, limits.daily_nanos),
                (Period.MONTH, spending.month_of(at), month, limits.monthly_nanos),
            ):
                if limit is not None:
                    name = f"{limits.scope} {subject.label}"
                    yield Measure(
                        subject.scope, subject.scope_id, name, period, starts_at, used, limit
                    )
    credit = spending.since_top_up(organization, at)
    if credit is not None and credit.had_nanos > 0:
        yield Measure(
            scope=Limit.Scope.ORGANIZATION,
            scope_id=organization.pk,
            name=f"organization {organization.name}",
            period=Period.CREDIT,
            starts_at=credit.since,
            used=credit.used_nanos,
            limit=credit.had_nanos,
        )


def latest(organization: Organization) -> "QuerySet[Alert]":
    """What the organization was told last, newest first."""
    return Alert.objects.filter(organization=organization, is_told=True)[:SHOWN]


# --- telling ---------------------------------------------------------------------------------


def tell(*, at: datetime) -> None:
    """Send what has not been sent; what fails is tried again next time, for a day."""
    untold = Alert.objects.filter(
        Q(emailed_at=None) | Q(queued_at=None), is_told=True, created_at__gt=at - TOLD_WITHIN
    ).select_related("organization")
    for alert in untold:
        if alert.queued_at is None:
            _queue(alert, at)
        if alert.emailed_at is None:
            _email(alert, at)


def _queue(alert: Alert, at: datetime) -> None:
    """To the organization's webhook, if it has one; a second time is the same event."""
    deliveries.queue(
        alert.organization,
        event_id=f"evt_alert_{alert.pk}",
        kind="credit.threshold" if alert.period == Period.CREDIT else "budget.threshold",
        data={
            "organization": alert.organization.slug,
            "scope": alert.scope.lower(),
            "name": alert.name,
            "period": alert.period.lower(),
            "starts_at": alert.starts_at.isoformat(),
            "threshold_percent": alert.threshold_percent,
            "used_usd": format(money.dollars_from_nanos(alert.used_nanos), "f"),
            "limit_usd": format(money.dollars_from_nanos(alert.limit_nanos), "f"),
        },
        at=at,
    )
    Alert.objects.filter(pk=alert.pk).update(queued_at=at)


def _email(alert: Alert, at: datetime) -> None:
    """To the owners. Claimed before it is sent: two beats at once must not send it twice."""
    if not Alert.objects.filter(pk=alert.pk, emailed_at=None).update(emailed_at=at):
        return
    owners = Membership.objects.filter(
        organization=alert.organization, role=Membership.Role.OWNER, user__is_active=True
    )
    missed = False
    for user_id, address in owners.exclude(user_id__in=alert.emailed_to).values_list(
        "user_id", "user__email"
    ):
        try:
            send_mail(_subject(alert), _letter(alert), None, [address])
        except (SMTPException, OSError):
            missed = True
            log.exception("an alert could not be e-mailed", alert_id=alert.pk)
        else:
            alert.emailed_to.append(user_id)
    if missed:
        # Whoever has it gets no second one because of another owner's address.
        Alert.objects.filter(pk=alert.pk).update(emailed_at=None, emailed_to=alert.emailed_to)


def _subject(alert: Alert) -> str:
    what = f"{alert.get_period_display().lower()} of {alert.name}"
    # A header has one line.
    return " ".join(f"{alert.threshold_percent} % of the {what} is used".split())


def _letter(alert: Alert) -> str:
    used, limit = (money.format_dollars(n) for n in (alert.used_nanos, alert.limit_nanos))
    console = f"{settings.PUBLIC_URL}/console/{alert.organization.slug}/"
    if alert.period == Period.CREDIT:
        what = f"{used} of the {limit} of credit since the last top-up is used."
        then = "Without credit, calls are refused with insufficient_quota."
        link = console
    else:
        what = f"{used} of the {alert.get_period_display().lower()} of {limit} is used."
        then = "Calls that it does not cover are refused with insufficient_quota."
        link = f"{console}limits/"
    return f"{alert.organization.name}: {alert.name}\n\n{what} {then}\n\n{link}\n"
