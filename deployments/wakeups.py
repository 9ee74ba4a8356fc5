"""Hints that a deployment has new log lines, from whoever wrote them to whoever watches.

A hint and nothing more: it may come late, twice or never (no Redis, a flushed one, a process that
does not serve), so watchers read the database by id and look there now and then anyway. Owns the
channel layer's group and this process's watchers; must not know what a line is.
"""

import asyncio
import contextlib
import logging
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from channels import DEFAULT_CHANNEL_LAYER
from channels.layers import channel_layers

logger = logging.getLogger(__name__)

GROUP = "live-logs"
LAYER_SECONDS_MAX = 5.0  # for one exchange with the channel layer
REJOIN_SECONDS = 30.0  # a flushed Redis has forgotten who is in the group
RETRY_SECONDS = 5.0
CANCEL_SECONDS = 0.5


class Wakeups:
    """Watchers of one process, on one event loop, and the tasks that connect it with others."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        # One of its own: a layer receives on one event loop only.
        self._layer: Any = channel_layers.make_backend(DEFAULT_CHANNEL_LAYER)
        self._name = uuid.uuid4().hex
        self._watchers: dict[int, set[asyncio.Event]] = defaultdict(set)
        self._unsent: set[int] = set()
        self._has_unsent = asyncio.Event()
        self._is_closing = False
        self._tasks = [
            asyncio.create_task(self._for_ever(work)) for work in (self._listen, self._tell)
        ]

    async def close(self) -> None:
        """End the tasks; watchers hear nothing from now on."""
        self._is_closing = True
        running = set(self._tasks)
        while running:
            # Again and again: channels-redis may turn a cancellation into an error of its own.
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=CANCEL_SECONDS)
        if close := getattr(self._layer, "close_pools", None):  # the one in memory has no pools
            await close()

    def announce(self, deployment_ids: Iterable[int]) -> None:
        """Wake this process's watchers and tell other processes. From any thread; never waits."""
        ids = set(deployment_ids)
        # A loop that has just been closed has no watchers left to miss anything.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._announce, ids)

    def _announce(self, deployment_ids: set[int]) -> None:
        self._wake(deployment_ids)
        self._unsent |= deployment_ids
        self._has_unsent.set()

    def _wake(self, deployment_ids: Iterable[int]) -> None:
        for deployment_id in deployment_ids:
            for event in self._watchers.get(deployment_id, ()):
                event.set()

    @contextlib.contextmanager
    def watching(self, deployment_id: int) -> Iterator[asyncio.Event]:
        """An event that is set when the deployment may have new lines; clear it before looking."""
        event = asyncio.Event()
        self._watchers[deployment_id].add(event)
        try:
            yield event
        finally:
            self._watchers[deployment_id].discard(event)
            if not self._watchers[deployment_id]:
                del self._watchers[deployment_id]

    async def _for_ever(self, work: Any) -> None:
        """Repeat `work`; a channel layer that is away is asked again after a while."""
        while not self._is_closing:
            try:
                await work()
            except Exception as error:
                logger.warning("The channel layer does not answer (%s).", type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS)

    async def _tell(self) -> None:
        """Send the ids that gathered since the last time as one message."""
        await self._has_unsent.wait()
        ids, self._unsent = self._unsent, set()
        self._has_unsent.clear()
        message = {"type": "lines", "sender": self._name, "deployments": sorted(ids)}
        async with asyncio.timeout(LAYER_SECONDS_MAX):
            await self._layer.group_send(GROUP, message)

    async def _listen(self) -> None:
        """Pass on what other processes announce."""
        channel = await self._layer.new_channel()
        while True:
            async with asyncio.timeout(LAYER_SECONDS_MAX):
                await self._layer.group_add(GROUP, channel)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REJOIN_SECONDS):
                    while True:
                        message = await self._layer.receive(channel)
                        if message["sender"] != self._name:
                            self._wake(message["deployments"])


_current: Wakeups | None = None


async def start() -> Wakeups:
    """Begin to pass on announcements in the running loop; once in a process at a time."""
    global _current
    _current = Wakeups()
    return _current


async def stop() -> None:
    """End what `start` began. Safe to call twice."""
    global _current
    current, _current = _current, None
    if current is not None:
        await current.close()


def announce(deployment_ids: Iterable[int]) -> None:
    """Say that these deployments have new lines; in a process that does not serve, nothing."""
    if _current is not None:
        _current.announce(deployment_ids)
