"""A running platform with stand-ins for providers, keys with and without credit, the report."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import report
from tests.conformance.cells import Gateway
from tests.journeys.conftest import ROOT, START_SECONDS_MAX, STOP_SECONDS_MAX, wait_for

MAKE_KEYS = """
from django.core.management import call_command
from django.utils import timezone
from gateway import provisioning
from tests import factories
for dollars in ("25", ""):
    workspace = factories.make_workspace()
    if dollars:
        slug = workspace.organization.slug
        call_command("grant_credit", slug, dollars, reason="Conformance", key="conformance")
    deployment = factories.make_deployment(workspace=workspace)
    made = provisioning.provision(workspace, deployment.deploy_id, at=timezone.now())
    print("KEY", made.secret)
"""


@dataclass(frozen=True)
class Running:
    """A platform under test."""

    gateway: Gateway
    data_dir: Path

    def records(self, where: str = "1", *values: Any) -> list[dict[str, Any]]:
        """Usage records, oldest first, straight from the platform's database."""
        connection = sqlite3.connect(f"file:{self.data_dir / 'db.sqlite3'}?mode=ro", uri=True)
        try:
            connection.row_factory = sqlite3.Row
            query = f"SELECT * FROM billing_usagerecord WHERE {where} ORDER BY call_id"
            return [dict(row) for row in connection.execute(query, values)]
        finally:
            connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`manage.py serve` with stand-ins, in a data folder of its own, on SQLite."""
    data_dir = tmp_path_factory.mktemp("conformance")
    port = _free_port()
    environment = {name: value for name, value in os.environ.items() if "_URL" not in name}
    environment |= {
        "PORT": str(port),
        "DATA_DIR": str(data_dir),
        # Whoever saw the end of an answer finds its record in the database.
        "BILLING_BARRIER": "database",
        "PUBLIC_URL": f"http://localhost:{port}",
        "HOME": str(data_dir),
    }
    log_path, facts_path = data_dir / "serve.log", data_dir / "dev.json"
    with log_path.open("wb") as log:
        command = [sys.executable, "manage.py", "serve"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        wait_for(
            lambda: facts_path.exists() or process.poll() is not None,
            seconds=START_SECONDS_MAX,
            what="the platform to start",
        )
        assert process.poll() is None, log_path.read_text()
        url = f"http://127.0.0.1:{port}/api/ai"
        yield Running(Gateway(url, *_make_keys(environment)), data_dir)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=STOP_SECONDS_MAX)
        print(log_path.read_text())


def _make_keys(environment: dict[str, str]) -> tuple[str, str]:
    """A key of an organization with credit, and one of an organization that never had any."""
    made = subprocess.run(
        [sys.executable, "manage.py", "shell", "-v0", "-c", MAKE_KEYS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    keys = [line.removeprefix("KEY ") for line in made.stdout.splitlines() if "KEY " in line]
    assert len(keys) == 2, made.stderr
    return keys[0], keys[1]


@pytest.fixture(scope="session")
def gateway(running: Running) -> Gateway:
    return running.gateway


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Iterator[Callable[..., None]]:
    """Says what the report shows for this test's cell, if the test passes."""
    cells: list[tuple[Any, ...]] = []
    yield lambda *cell: cells.append(cell)
    outcome = getattr(request.node, "outcome_of_call", None)
    for cell in cells:
        report.note(*cell, is_passed=outcome == "passed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: Any) -> Any:
    outcome = yield
    if call.when == "call":
        item.outcome_of_call = outcome.outcome  # type: ignore[attr-defined]
    return outcome


def pytest_ignore_collect(config: pytest.Config) -> bool | None:
    """Importing every client takes seconds: only for runs that ask for them."""
    marks = config.option.markexpr
    is_asked_for = "conformance" in marks and "not conformance" not in marks
    return None if is_asked_for or any("conformance" in one for one in config.args) else True


def pytest_sessionfinish() -> None:
    report.write_if_whole()
