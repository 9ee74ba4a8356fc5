"""Sandboxes in tests: where they run, as whom, and what they must leave behind (nothing)."""

import asyncio
import multiprocessing
import os
import shutil
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

needs_bwrap = pytest.mark.skipif(
    not sys.platform.startswith("linux") or shutil.which("bwrap") is None,
    reason="needs Linux and bubblewrap",
)
ORDINARY_UID = 54_321


def as_ordinary_user(work: Callable[[], Awaitable[Any]]) -> Any:
    """What `work` answers in a process of a user who is not root and owns nothing."""
    context = multiprocessing.get_context("fork")
    answers = context.Queue()

    def become_and_run() -> None:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(ORDINARY_UID)
            os.setuid(ORDINARY_UID)
        answers.put(asyncio.run(work()))

    process = context.Process(target=become_and_run)
    process.start()
    try:
        return answers.get(timeout=60)
    finally:
        process.join(5)
        process.kill()
