"""Stores what functions print: from the queue of output into the deployments' logs.

Runs in processes that have the database, any number of them side by side. Owns that a batch is
stored once, whoever was killed between storing and acknowledging it, and that a database that is
away holds no function and no event loop.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from django.db import (
    IntegrityError,
    InterfaceError,
    OperationalError,
    connections,
    transaction,
)

from deployments import logs
from deployments.models import Deployment, LogDelivery
from deployments.runtime.log_queue import Batch, LogSource

logger = logging.getLogger(__name__)

POLL_SECONDS = 20.0
RETRY_SECONDS = 1.0
DELIVERY_RETENTION = timedelta(days=1)
LAST_SECONDS_MAX = 3.0  # for what is left when the process stops


def store(batch: Batch) -> None:
    """Store the batch's lines, unless that happened already; blocking. Raises DatabaseError."""
    known = set(
        Deployment.objects.filter(pk__in={line.deployment_id for line in batch.lines}).values_list(
            "pk", flat=True
        )
    )
    lines = [
        logs.LogLine(
            deployment_id=line.deployment_id,
            function_name=line.function_name,
            request_id=line.request_id,
            message=line.message,
            at=line.at,
        )
        for line in batch.lines
        if line.deployment_id in known  # the row of one that was erased is gone
    ]
    with transaction.atomic():
        try:
            with transaction.atomic():
                LogDelivery.objects.create(batch_id=batch.id)
        except IntegrityError:
            return  # stored by somebody whose acknowledgement got lost
        logs.append_many(lines)


def purge_deliveries(*, at: datetime) -> int:
    """Forget which batches were stored long ago: no queue hands these out again; how many."""
    return LogDelivery.objects.filter(stored_at__lt=at - DELIVERY_RETENTION).delete()[0]


class LogWriter:
    """Takes batches from a source and stores them, until it is closed."""

    def __init__(self, source: LogSource, write: Callable[[Batch], None] = store) -> None:
        self._source = source
        self._write = write
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="function-logs")
        self._working = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while True:
            if not await self._move(POLL_SECONDS):
                await asyncio.sleep(RETRY_SECONDS)

    async def _move(self, wait_seconds: float) -> bool:
        """Store the next batch, if one comes; False when it could not be stored."""
        batch = await self._source.take(wait_seconds)
        if batch is None:
            return True
        # To its end even when this process stops meanwhile: half a batch is never stored.
        storing = asyncio.get_running_loop().run_in_executor(self._thread, self._store, batch)
        try:
            is_stored = await asyncio.shield(storing)
        except asyncio.CancelledError:
            await self._finish(batch, is_stored=await storing)
            raise
        await self._finish(batch, is_stored=is_stored)
        return is_stored

    async def _finish(self, batch: Batch, *, is_stored: bool) -> None:
        if is_stored:
            await self._source.acknowledge(batch)
        else:
            await self._source.give_back(batch)

    def _store(self, batch: Batch) -> bool:
        try:
            self._write(batch)
        except (OperationalError, InterfaceError):
            logger.exception("Could not store %d lines of function output yet.", len(batch.lines))
            connections.close_all()
            return False
        except Exception:
            # The same lines would fail again, and hold up all that come after them.
            logger.exception("Could not store %d lines of function output.", len(batch.lines))
            connections.close_all()
        return True

    async def close(self) -> None:
        """Store what waits and end the thread. Safe to call twice."""
        if self._working.done():
            return
        self._working.cancel()
        await asyncio.gather(self._working, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SECONDS_MAX):
                await self._store_rest()
        await asyncio.get_running_loop().run_in_executor(self._thread, connections.close_all)
        self._thread.shutdown()

    async def _store_rest(self) -> None:
        while True:
            batch = await self._source.take(0)
            if batch is None:
                return
            loop = asyncio.get_running_loop()
            is_stored = await loop.run_in_executor(self._thread, self._store, batch)
            await self._finish(batch, is_stored=is_stored)
            if not is_stored:
                return
