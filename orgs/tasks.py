"""Celery tasks of orgs: webhooks. Parse, one domain call."""

from typing import Any

from celery import current_app, shared_task
from django.utils import timezone

from orgs import deliveries

# Deliveries handed out at once; the rest waits for the next beat.
DELIVERIES_PER_BEAT = 500


@shared_task(name="orgs.deliver_webhooks")
def deliver_webhooks(**_: Any) -> int:
    """Hand out every delivery whose time has come; how many. Beat calls it every few seconds."""
    due = list(deliveries.due(timezone.now()).values_list("pk", flat=True)[:DELIVERIES_PER_BEAT])
    for delivery_id in due:
        current_app.send_task("orgs.deliver_webhook", kwargs={"delivery_id": delivery_id})
    return len(due)


@shared_task(name="orgs.deliver_webhook")
def deliver_webhook(*, delivery_id: int, **_: Any) -> bool:
    """One attempt of one delivery; the row says when the next is due."""
    now = timezone.now()
    delivery = deliveries.claim(delivery_id, at=now)
    return delivery is not None and deliveries.attempt(delivery, at=now)


@shared_task(name="orgs.purge_webhook_deliveries")
def purge_webhook_deliveries(**_: Any) -> int:
    """Forget old deliveries; how many."""
    return deliveries.purge(timezone.now())
