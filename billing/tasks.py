"""Celery tasks of billing. Tasks check and tidy; no call's money waits for one."""

from typing import Any

from celery import shared_task
from django.utils import timezone

from billing import metering


@shared_task(name="billing.release_expired_holds")
def release_expired_holds(**_: Any) -> int:
    """Give back what calls of dead processes still hold; how many holds."""
    return metering.release_expired_holds(timezone.now())
