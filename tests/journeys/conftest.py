"""The platform as a person starts it: `manage.py serve` with a data folder and port of its own."""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests import stripe_server
from tests.stripe_server import StripeServer

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent.parent
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_SECONDS_MAX = 90
REDIS_DATABASES = range(10, 16)  # Redis has sixteen, of which other tests use the first ten
STOP_SECONDS_MAX = 40


@dataclass(frozen=True)
class Platform:
    """A running platform, and how to talk to it."""

    port: int
    data_dir: Path
    environment: dict[str, str]
    facts: dict[str, Any]
    process: "subprocess.Popen[bytes]"

    def data_api(self, path: str, body: Any = None, *, token: str | None = None) -> httpx.Response:
        """POST to `/api/data/<path>` with the workspace token."""
        return httpx.post(
            f"{self.facts['api_url']}/api/data/{path}",
            content=json.dumps(body) if body is not None else b"",
            headers={
                "authorization": f"Bearer {token or self.facts['auth_token']}",
                "content-type": "application/json",
            },
            timeout=30,
        )

    def site(self, deploy_id: str, path: str, **request: Any) -> httpx.Response:
        """A request to the deployed site, whose name not every resolver knows."""
        method = request.pop("method", "GET")
        headers = {"host": f"{deploy_id}.localhost:{self.port}", **request.pop("headers", {})}
        url = f"http://127.0.0.1:{self.port}{path}"
        return httpx.request(method, url, headers=headers, timeout=60, **request)

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`python <arguments>` in the project, with the platform's environment."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def wait_for(condition: Callable[[], Any], *, seconds: float = 20, what: str = "it") -> Any:
    """The first true value of `condition`, asked ten times a second."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError(f"Waited {seconds} s for {what}.")


def _own_database() -> Iterator[str]:
    """A database for this run when PostgreSQL is used; "" for SQLite in the data folder."""
    url = os.environ.get("DATABASE_URL", "")
    if not url.startswith("postgres"):
        yield ""
        return
    import psycopg

    name = f"journey_{os.getpid()}"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield url.rsplit("/", 1)[0] + f"/{name}"
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _own_redis() -> Iterator[str]:
    """A Redis database that no other run here has, emptied; "" when Redis is not used.

    Platforms that share one take each other's tasks. A lock of this machine says who has which.
    """
    url = os.environ.get("REDIS_URL", "")
    if not url:
        yield ""
        return
    import redis

    for number in REDIS_DATABASES:
        path = Path(tempfile.gettempdir()) / f"aigateway-journeys-redis-{number}.lock"
        with path.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            own = f"{url.rsplit('/', 1)[0]}/{number}"
            with redis.Redis.from_url(own) as client:
                client.flushdb()
            yield own
            return
    raise RuntimeError(f"Redis has {len(REDIS_DATABASES)} databases for journeys; all are taken.")


@pytest.fixture(scope="session")
def own_database() -> Iterator[str]:
    yield from _own_database()


@pytest.fixture(scope="session")
def own_redis() -> Iterator[str]:
    yield from _own_redis()


@pytest.fixture(scope="session")
def stripe() -> Iterator[StripeServer]:
    """The payment provider that the platform asks."""
    with stripe_server.running() as server:
        yield server


@pytest.fixture(scope="package")
def platform(
    tmp_path_factory: pytest.TempPathFactory,
    own_database: str,
    own_redis: str,
    stripe: StripeServer,
) -> Iterator[Platform]:
    """One platform for all journeys; each deploys under a name of its own."""
    data_dir = tmp_path_factory.mktemp("platform")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "PORT": str(port),
        "DATA_DIR": str(data_dir),
        "PUBLIC_URL": f"http://localhost:{port}",
        "HOME": str(data_dir),
        "LOCAL_MODEL_THREADS": "1",  # other tests use the processors, too
        "STRIPE_API_KEY": stripe_server.API_KEY,
        "STRIPE_WEBHOOK_SECRET": stripe_server.WEBHOOK_SECRET,
        "STRIPE_API_BASE": stripe.url,
    }
    environment.pop("DATABASE_URL", None)
    environment["REDIS_URL"] = own_redis
    if own_database:
        environment["DATABASE_URL"] = own_database
    with (data_dir / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "manage.py", "serve"],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=log,
        )
    facts_path = data_dir / "dev.json"
    try:
        wait_for(
            lambda: facts_path.exists() or process.poll() is not None,
            seconds=START_SECONDS_MAX,
            what="the platform to start",
        )
        assert process.poll() is None, (data_dir / "serve.log").read_text()
        yield Platform(port, data_dir, environment, json.loads(facts_path.read_text()), process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=STOP_SECONDS_MAX)
        print((data_dir / "serve.log").read_text())


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    """Debian's Chromium. Imported here: most journeys need none."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium")
    assert path, "Chromium is missing: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGUMENTS)
        yield browser
        browser.close()
