"""The server that tests of the client talk to."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deployments.cli_server import ProtocolServer, serve


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ProtocolServer]:
    """A server of the protocol; nobody's own configuration is found."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    with serve() as protocol:
        yield protocol
