"""Background work of deployments. Each task makes one domain call.

Keyword-only, and `**kwargs` at the end, because publisher and worker are updated at different
times.
"""

from celery import shared_task
from django.utils import timezone

from deployments import deploying, logs, retention
from deployments.runtime import log_writer


@shared_task(name="deployments.redeploy")
def redeploy(*, release_id: str, **kwargs: object) -> None:
    """Publish a PENDING release; see deploying.redeploy."""
    deploying.finish_redeploy(release_id, at=timezone.now())


@shared_task(
    name="deployments.tidy_functions",
    autoretry_for=(Exception,),
    retry_backoff=60,
    max_retries=8,
)
def tidy_functions(*, deploy_id: str, **kwargs: object) -> None:
    """Remove functions that serve nobody any more from where the driver keeps them."""
    deploying.tidy_functions(deploy_id)


@shared_task(name="deployments.finish_pending")
def finish_pending(**kwargs: object) -> None:
    """See to releases that nobody works on any more."""
    deploying.finish_pending(at=timezone.now())


@shared_task(name="deployments.purge_logs")
def purge_logs(**kwargs: object) -> None:
    """Delete log lines past their retention."""
    logs.purge(at=timezone.now())


@shared_task(name="deployments.purge_log_deliveries")
def purge_log_deliveries(**kwargs: object) -> None:
    """Forget which batches of log lines were stored long ago."""
    log_writer.purge_deliveries(at=timezone.now())


@shared_task(name="deployments.purge_uploads")
def purge_uploads(**kwargs: object) -> None:
    """Forget unused upload URLs and leftovers of interrupted uploads."""
    retention.purge_uploads(at=timezone.now())


@shared_task(name="deployments.sweep_storage")
def sweep_storage(**kwargs: object) -> None:
    """Remove files that no row accounts for."""
    retention.sweep(at=timezone.now())
