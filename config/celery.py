"""The Celery application: finds tasks in every app, takes its settings from Django's.

Owns the beat schedule. Tasks carry ids and keyword arguments only, because publisher and worker
are deployed at different times.
"""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

app = Celery("aigateway")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.conf.beat_schedule = {
    "reclaim-leases": {"task": "billing.reclaim_leases", "schedule": 300.0},
    "expire-grants": {"task": "billing.expire_grants", "schedule": 60.0},
    "collect-overage": {"task": "billing.collect_overage", "schedule": 300.0},
    "close-statements": {"task": "billing.close_statements", "schedule": 3600.0},
    "merge-rollups": {"task": "billing.merge_rollups", "schedule": 60.0},
    "reconcile-payments": {"task": "billing.reconcile_payments", "schedule": 120.0},
    "buy-credit": {"task": "billing.buy_credit", "schedule": 60.0},
    "raise-alerts": {"task": "gateway.raise_alerts", "schedule": 60.0},
    "deliver-webhooks": {"task": "orgs.deliver_webhooks", "schedule": 15.0},
    "purge-webhook-deliveries": {"task": "orgs.purge_webhook_deliveries", "schedule": 3600.0},
    "purge-stored-items": {"task": "gateway.purge_stored_items", "schedule": 3600.0},
    "purge-idempotent-requests": {
        "task": "gateway.purge_idempotent_requests",
        "schedule": 3600.0,
    },
    "finish-pending-releases": {"task": "deployments.finish_pending", "schedule": 60.0},
    "purge-logs": {"task": "deployments.purge_logs", "schedule": 3600.0},
    "purge-log-deliveries": {"task": "deployments.purge_log_deliveries", "schedule": 3600.0},
    "purge-uploads": {"task": "deployments.purge_uploads", "schedule": 3600.0},
    "sweep-storage": {"task": "deployments.sweep_storage", "schedule": 86400.0},
}
