"""Serving processes that may be killed, over a database of their own, and what is in the books."""

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg

ROOT = Path(__file__).resolve().parent.parent.parent
Process = subprocess.Popen[bytes]
# On a machine that does much else, too.
START_SECONDS_MAX = 240

SEED = """
import json
from django.core.management import call_command
from django.utils import timezone
from config import demo
call_command("migrate", verbosity=0)
seeded = demo.seed(at=timezone.now(), say=lambda text: None)
from billing.models import PriceVersion
print(json.dumps({"key": seeded.gateway_key}))
"""

# Books what is there with every process gone, and says what the books then hold.
SETTLE = """
import json, time
from django.conf import settings
from django.utils import timezone
from billing import checks, ledger
from billing.ingest import Ingester
from billing.models import Journal, UsageRecord
from orgs.models import Organization
began_at = time.perf_counter()
ingester = Ingester(settings.JOURNAL_DIR, host="here")
ingester.ingest(timezone.now())
took = time.perf_counter() - began_at
organization = Organization.objects.get(slug="demo")
balance = ledger.balance(organization)
print(json.dumps({
    "records": [
        {
            "request_id": record.request_id,
            "status": record.status,
            "source": record.usage_source,
            "input": record.input_tokens,
            "output": record.output_tokens,
            "cost": record.cost_nanos,
        }
        for record in UsageRecord.objects.all()
    ],
    "differences": checks.verify().differences,
    "posted": balance.posted_nanos,
    "held": balance.held_nanos,
    "owed": ledger.owed_nanos(organization.pk),
    "open_journals": Journal.objects.filter(closed_at=None).count(),
    "directories": len(list(settings.JOURNAL_DIR.glob("*"))),
    "seconds": took,
}))
"""


@dataclass(frozen=True)
class Books:
    """What the database holds when every process is gone and everything is booked."""

    records: list[dict[str, Any]]
    differences: list[str]
    posted: int
    held: int
    owed: int
    open_journals: int
    directories: int
    seconds: float

    @property
    def by_request(self) -> dict[str, dict[str, Any]]:
        """Records by request id."""
        return {record["request_id"]: record for record in self.records}


@dataclass
class Platform:
    """A data folder, a database and the processes that serve from them."""

    upstream_port: int
    settings: dict[str, str] = field(default_factory=dict)
    data: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="faults-")))
    key: str = ""
    # Where its database is made; else where DATABASE_URL says.
    server_url: str = ""
    database: str = ""
    processes: list["Process"] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What every process of this platform is told."""
        inherited = {k: v for k, v in os.environ.items() if k != "CRASH_AT"}
        return {
            **inherited,
            "DATA_DIR": str(self.data),
            "DATABASE_URL": self.database,
            "REDIS_URL": "",
            "JOURNAL_SLOTS": "512",
            "JOURNAL_SEGMENT_BYTES": str(4 * 1024 * 1024),
            "PROVIDER_OPENAI_BASE_URL": f"http://127.0.0.1:{self.upstream_port}/v1",
            "PROVIDER_OPENAI_API_KEY": "sk-faults",
            "STANDINS": "off",
            **self.settings,
        }

    def prepare(self) -> None:
        """A migrated and seeded database: made once for each server, then copied."""
        url = self.server_url or os.environ.get("DATABASE_URL", "")
        if not url.startswith("postgres"):
            url = ""
        if url not in _models:
            model = Platform(self.upstream_port)
            model._make_database(url)
            model.key = json.loads(model.python(SEED).splitlines()[-1])["key"]
            _models[url] = model
            atexit.register(model.close)
        model = _models[url]
        shutil.copytree(model.data, self.data, dirs_exist_ok=True)
        self.key = model.key
        self._make_database(url, template=model.database.rpartition("/")[2])

    def _make_database(self, url: str, *, template: str = "template1") -> None:
        """On PostgreSQL a copy of the template; SQLite's file lies in the data folder."""
        if not url:
            self.database = f"sqlite:///{self.data / 'db.sqlite3'}"
            return
        name = f"faults_{os.getpid()}_{time.time_ns() % 10**9}"
        _admin(url, f"CREATE DATABASE {name} TEMPLATE {template}")
        self.database = f"{url.rpartition('/')[0]}/{name}"

    def python(self, code: str, *, seconds_max: int = 240) -> str:
        """Run code in the platform's Django; its output."""
        done = subprocess.run(
            [sys.executable, "-c", "import django; django.setup()\n" + code],
            cwd=ROOT,
            env={**self.environment, "DJANGO_SETTINGS_MODULE": "config.settings"},
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds_max,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start_web(self, *, crash_at: str = "", **settings: str) -> tuple["Process", int]:
        """A serving process, ready to answer, and its port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {**self.environment, "PORT": str(port), **settings}
        if crash_at:
            environment["CRASH_AT"] = crash_at
        process = self._start(["-m", "tests.faults.web", str(port)], environment)
        url = f"http://127.0.0.1:{port}/health"

        def answers() -> bool:
            assert process.poll() is None, "The web process did not start."
            try:
                return httpx.get(url, timeout=2, trust_env=False).status_code == 200
            except httpx.HTTPError:
                return False

        wait_for(answers, seconds=START_SECONDS_MAX, what="the web process")
        return process, port

    def start_ingester(self, *, crash_at: str = "") -> "Process":
        """`manage.py ingest_usage`."""
        environment = {**self.environment}
        if crash_at:
            environment["CRASH_AT"] = crash_at
        return self._start(["manage.py", "ingest_usage"], environment)

    def _start(self, arguments: list[str], environment: dict[str, str]) -> "Process":
        log = (self.data / f"process-{len(self.processes)}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        log.close()
        self.processes.append(process)
        return process

    def settle(self) -> Books:
        """End every process that is left, gently; book everything; what the books hold."""
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return Books(**json.loads(self.python(SETTLE).splitlines()[-1]))

    def close(self) -> None:
        """Leave nothing behind."""
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        if self.database.startswith("postgres"):
            base, _, name = self.database.rpartition("/")
            # A server of a test's own may have ended before.
            with suppress(psycopg.OperationalError):
                _admin(f"{base}/postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        shutil.rmtree(self.data, ignore_errors=True)

    def logs(self) -> str:
        """The last lines of every process, for a failure's message."""
        return "\n".join(
            f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}"
            for path in sorted(self.data.glob("process-*.log"))
        )


# By server ("" is SQLite): what every platform of this process begins as.
_models: dict[str, Platform] = {}


def wait_for(condition: Callable[[], bool], *, seconds: float = 60, what: str = "it") -> None:
    """Until `condition` is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"Waited {seconds} s for {what}."
        time.sleep(0.05)


def _admin(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
        connection.execute(statement)
