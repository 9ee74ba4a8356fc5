"""Celery tasks of the gateway: parse, one domain call."""

from typing import Any

from celery import shared_task
from django.utils import timezone

from gateway import alerts, store
from orgs import idempotency


@shared_task(name="gateway.purge_stored_items")
def purge_stored_items(**_: Any) -> None:
    """Forget what was kept for clients and has expired."""
    store.purge(at=timezone.now())


@shared_task(name="gateway.purge_idempotent_requests")
def purge_idempotent_requests(**_: Any) -> int:
    """Forget requests with an Idempotency-Key whose day is over; how many."""
    return idempotency.purge(at=timezone.now())


@shared_task(name="gateway.raise_alerts")
def raise_alerts(**_: Any) -> int:
    """Notice budgets and credit that run out, and tell owners; how many were noticed."""
    now = timezone.now()
    noticed = alerts.notice(at=now)
    alerts.tell(at=now)
    return noticed
