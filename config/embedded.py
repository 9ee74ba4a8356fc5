"""Celery inside the web process, for one machine without a broker.

Owns the in-process worker and beat of embedded mode. With `REDIS_URL` set, workers are processes
of their own (`celery -A config worker -B`) and nothing starts here.
"""

import threading
from typing import Any

import structlog
from celery.beat import EmbeddedService
from celery.worker import WorkController
from django.conf import settings

from config.celery import app

READY_SECONDS_MAX = 10.0
log = structlog.get_logger(__name__)
_running: dict[str, Any] = {}


class _Worker(WorkController):
    """A worker that tells when it has subscribed: with a memory broker nothing waits for it."""

    def __init__(self, ready: threading.Event, **options: Any) -> None:
        self._ready = ready
        super().__init__(**options)

    def on_consumer_ready(self, consumer: Any) -> None:
        """Celery's hook: tasks are being taken from now on."""
        self._ready.set()


def start_tasks() -> None:
    """Start the worker and beat in threads, unless workers live elsewhere or run already."""
    if settings.REDIS_URL or _running:
        return
    ready = threading.Event()
    thread = threading.Thread(target=_work, args=(ready,), name="celery-worker", daemon=True)
    thread.start()
    if not ready.wait(timeout=READY_SECONDS_MAX):
        log.error("the task worker is not ready", waited_seconds=READY_SECONDS_MAX)
    beat: Any = EmbeddedService(
        app, thread=True, schedule_filename=str(settings.DATA_DIR / "beat-schedule")
    )
    beat.daemon = True
    beat.start()
    _running.update(thread=thread, beat=beat)


def _work(ready: threading.Event) -> None:
    """Make and run the worker in this thread: Celery closes the connections of its own thread."""
    worker = _Worker(
        ready,
        app=app,
        pool_cls="solo",
        concurrency=1,
        without_heartbeat=True,
        without_mingle=True,
        without_gossip=True,
        loglevel="WARNING",
    )
    _running["worker"] = worker
    worker.start()


def stop_tasks() -> None:
    """Stop both; a task that is running ends first."""
    if not _running:
        return
    _running["beat"].stop()
    if worker := _running.get("worker"):  # none, when it could not be made
        worker.should_stop = True
        worker.stop(in_sighandler=True)
    _running["thread"].join(timeout=10)
    _running.clear()
