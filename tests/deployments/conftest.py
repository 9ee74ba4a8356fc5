"""What tests of deployments share: a server for the client, and an end for functions."""

from collections.abc import AsyncIterator, Iterator
from functools import cache
from pathlib import Path

import botocore.loaders
import pytest
from asgiref.sync import sync_to_async
from django.db import connections

from deployments import sites
from tests.deployments.cli_server import ProtocolServer, serve


@pytest.fixture(autouse=True, scope="session")
def _descriptions_of_aws_are_read_once() -> Iterator[None]:
    """A process makes one client of each service; tests, dozens, each from megabytes of JSON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.loaders, "create_loader", cache(botocore.loaders.create_loader))
        yield


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProtocolServer]:
    """A server of the protocol; nobody's own configuration is found."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with serve() as protocol:
        yield protocol


@pytest.fixture
async def functions_end(db: None) -> AsyncIterator[None]:
    """Afterwards no function runs, and threads hold no connections."""
    yield
    await sites.shutdown()
    await sync_to_async(connections.close_all)()
