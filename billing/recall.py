"""Recall: how a process hears that another one needs credit it holds and does not use.

PostgreSQL's NOTIFY, sent in the transaction that could not grant enough (billing/leases.py), heard
on a connection of its own in the event loop. A hint only: a message that is lost costs a wait,
never money, and idle credit goes back by itself after seconds. With SQLite there is one process
and nothing to hear.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import psycopg
import structlog
from django.db import connection

from billing.leases import RECALL_CHANNEL

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0
CONNECT_SECONDS_MAX = 5


class RecallListener:
    """Listens from `start` to `stop`, whatever becomes of the connection."""

    def __init__(self, on_recall: Callable[[int], None]) -> None:
        """`on_recall(organization_id)` is called in the running loop."""
        self._on_recall = on_recall
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, where there is something to hear."""
        if connection.vendor == "postgresql":
            self._task = asyncio.ensure_future(self._listen(_parameters()))

    def stop(self) -> None:
        """End."""
        if self._task is not None:
            self._task.cancel()

    async def _listen(self, parameters: dict[str, Any]) -> None:
        while True:
            try:
                await self._hear(parameters)
            except psycopg.Error as error:
                log.warning("recalls of credit are not heard", error=str(error))
            await asyncio.sleep(RETRY_SECONDS)

    async def _hear(self, parameters: dict[str, Any]) -> None:
        listening = await psycopg.AsyncConnection.connect(**parameters, autocommit=True)
        async with listening:
            await listening.execute(f"LISTEN {RECALL_CHANNEL}")
            async for notice in listening.notifies():
                if notice.payload.isdigit():
                    self._on_recall(int(notice.payload))


def _parameters() -> dict[str, Any]:
    """How Django connects, without what belongs to its own cursors."""
    given = connection.get_connection_params()
    names = ("host", "port", "dbname", "user", "password", "sslmode", "options")
    found = {name: given[name] for name in names if given.get(name)}
    return {**found, "connect_timeout": CONNECT_SECONDS_MAX}
