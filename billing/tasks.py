"""Celery tasks of billing. Tasks check and tidy; no call's money waits for one."""

from typing import Any

from celery import shared_task
from django.utils import timezone

from billing import (
    auto_top_up,
    expiry,
    ledger,
    metering,
    payment_events,
    payments,
    refunds,
    rollups,
    statements,
)


@shared_task(name="billing.reclaim_leases")
def reclaim_leases(**_: Any) -> list[str]:
    """Take back the credit of hosts that have vanished; the names of their journals."""
    return metering.reclaim_leases(timezone.now())


@shared_task(name="billing.expire_grants")
def expire_grants(**_: Any) -> int:
    """Take back promotional credit whose time is over; nano-dollars."""
    return expiry.expire_lots(timezone.now())


@shared_task(name="billing.collect_overage")
def collect_overage(**_: Any) -> int:
    """Pay what is owed from credit that has become available; nano-dollars."""
    return ledger.collect_overage_of_all(at=timezone.now())


@shared_task(name="billing.merge_rollups", time_limit=300, soft_time_limit=270)
def merge_rollups(**_: Any) -> int:
    """Merge parts of rollups into hours and days; how many parts. Stopped half-way it goes on."""
    return rollups.merge_all()


@shared_task(name="billing.close_statements", time_limit=900, soft_time_limit=870)
def close_statements(**_: Any) -> int:
    """Close the statements of months that are over; how many. Repeating it closes none twice."""
    return statements.close_all_due(timezone.now())


@shared_task(name="billing.reconcile_payments")
def reconcile_payments(**_: Any) -> None:
    """Ask Stripe about everything that waits for it, and handle messages that came too early."""
    now = timezone.now()
    payments.reconcile(now)
    auto_top_up.reconcile(now)
    payment_events.handle_waiting(now)
    refunds.ask_again(now)
    payments.label_payment_methods()


@shared_task(name="billing.buy_credit")
def buy_credit(**_: Any) -> int:
    """Begin automatic top-ups where little credit is left; how many."""
    return auto_top_up.buy_where_due(timezone.now())
