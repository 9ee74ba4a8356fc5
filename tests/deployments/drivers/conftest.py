"""Every test of this folder runs once with each driver."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.deployments.drivers.subjects import SUBJECTS, Options, Subject

MakeSubject = Callable[..., Awaitable[Subject]]


@pytest.fixture(params=SUBJECTS)
async def make_subject(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[MakeSubject]:
    """A function (**Options fields) -> the driver under test with these options."""
    async with AsyncExitStack() as stack:

        async def make(**options: Any) -> Subject:
            build = SUBJECTS[request.param]
            return await stack.enter_async_context(build(tmp_path, Options(**options)))

        yield make


@pytest.fixture
async def subject(make_subject: MakeSubject) -> Subject:
    return await make_subject()
