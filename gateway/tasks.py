"""Celery tasks of the gateway: parse, one domain call."""

from typing import Any

from celery import shared_task
from django.utils import timezone

from gateway import store


@shared_task(name="gateway.purge_stored_items")
def purge_stored_items(**_: Any) -> None:
    """Forget what was kept for clients and has expired."""
    store.purge(at=timezone.now())
