"""Every test of this folder runs once with each driver."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from deployments.runtime.local_bwrap import LocalBwrap
from tests.deployments.drivers.subjects import SUBJECTS, Options, Subject
from tests.deployments.fake_lambda import ACCESS_KEY, SECRET_KEY
from tests.deployments.sandboxes import needs_bwrap


@pytest.fixture(autouse=True)
def _credentials_of_the_fake_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)


MakeSubject = Callable[..., Awaitable[Subject]]


MARKS = {LocalBwrap.name: needs_bwrap}


@pytest.fixture(params=[pytest.param(name, marks=MARKS.get(name, ())) for name in SUBJECTS])
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
