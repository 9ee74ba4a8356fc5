"""`manage.py serve`: the whole platform on one machine, in the foreground (`make run`).

Owns the order of a start: lock the data folder, migrate, seed, start the local model, the
function host and the web process, say where everything is. How processes are run is
config/supervisor.py's business.
"""

import asyncio
import fcntl
import os
import socket
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import httpx
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from config import demo
from config.supervisor import Child, Supervisor
from deployments.runtime import drivers
from deployments.runtime.host_client import HostDriver, UnableToReachHost

READY_SECONDS_MAX = 60.0


class Command(BaseCommand):
    """Run everything embedded, for one machine: PORT and DATA_DIR choose where."""

    help = "Run the whole platform on this machine, in the foreground."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Start, say where everything is, and watch until Ctrl-C."""
        began_at = time.monotonic()
        with self._lock(Path(settings.DATA_DIR)):
            self._require_free_port()
            self._run(began_at)

    def _run(self, began_at: float) -> None:
        facts = Path(settings.DATA_DIR) / "dev.json"
        facts.unlink(missing_ok=True)
        supervisor = Supervisor(say=self._say)
        supervisor.take_signals()
        try:
            seeded = self._start(supervisor)
            if self._is_answering(supervisor):
                demo.write_private(facts, _facts(seeded))
                self._announce(seeded, time.monotonic() - began_at)
                supervisor.run()
            elif not supervisor.is_stopping:
                raise CommandError("The platform did not start; its messages are above.")
        finally:
            facts.unlink(missing_ok=True)
            self._say("Stopping.")
            supervisor.stop()

    def _start(self, supervisor: Supervisor) -> demo.Demo:
        """Start every process; the local model loads while the database is prepared."""
        web_environment = {"DATA_DIR": str(settings.DATA_DIR)}
        local_url = settings.PROVIDER_ENVIRONMENT["local"]["base_url"]
        if not local_url:
            port = _free_port()
            local_url = f"http://127.0.0.1:{port}/v1"
            self._say("Loading the local model.")
            supervisor.add(_local_model(port))
            web_environment["PROVIDER_LOCAL_BASE_URL"] = local_url
        if settings.STANDINS:
            port = _free_port()
            self._say("Starting stand-ins for providers without a key.")
            supervisor.add(_standins(port, local_url))
            web_environment["STANDIN_URL"] = f"http://127.0.0.1:{port}"
        self._say("Preparing the database.")
        call_command("migrate", verbosity=0, interactive=False)
        seeded = demo.seed(at=timezone.now(), say=self._say)
        if not drivers.keeps_functions():
            supervisor.add(_function_host())
        self._say("Starting the web process.")
        supervisor.add(_web(web_environment))
        if settings.REDIS_URL:
            supervisor.add(_task_worker(web_environment))
        return seeded

    def _is_answering(self, supervisor: Supervisor) -> bool:
        with httpx.Client(timeout=2.0, trust_env=False) as client:

            def answers() -> bool:
                try:
                    url = f"http://127.0.0.1:{settings.PORT}/health"
                    return client.get(url, headers={"host": "localhost"}).status_code == 200
                except httpx.HTTPError:
                    return False

            return supervisor.wait_until(answers, seconds_max=READY_SECONDS_MAX)

    def _say(self, text: str) -> None:
        self.stdout.write(f"  {text}")
        self.stdout.flush()

    def _lock(self, data: Path) -> IO[str]:
        """One platform per data folder; the kernel drops the lock with the process."""
        data.mkdir(parents=True, exist_ok=True)
        lock = (data / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise CommandError(
                f"The platform already runs with the data folder {data}. Stop it first, or give "
                "this one its own: DATA_DIR=.data2 PORT=8001 make run"
            ) from None
        return lock

    def _require_free_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", settings.PORT))
            except PermissionError:
                raise CommandError(
                    f"Port {settings.PORT} may not be opened by this user. Choose one above 1023: "
                    "PORT=8000 make run"
                ) from None
            except OSError:
                raise CommandError(
                    f"Port {settings.PORT} is in use. Choose another: "
                    f"PORT={settings.PORT + 1} make run"
                ) from None

    def _announce(self, seeded: demo.Demo, seconds: float) -> None:
        url = settings.PUBLIC_URL
        self.stdout.write(
            f"""
  Ready in {seconds:.1f} s. Ctrl-C stops everything.

  Console   {url}/
            {seeded.email}  {seeded.password}
  Admin     {url}/admin/        Data API  {url}/api/data/docs

  For agents and the command line:

    export API_URL={url} AUTH_TOKEN={seeded.auth_token}

  A first answer, streamed from the local model:

    curl -N {url}/api/ai/v1/chat/completions \\
      -H 'Authorization: Bearer {seeded.gateway_key}' \\
      -H 'Content-Type: application/json' \\
      -d '{{"model": "smollm2-135m", "stream": true,
           "messages": [{{"role": "user", "content": "Tell me about the sea."}}]}}'

  Deploy the example chat app from a second terminal: make demo
"""
        )
        if settings.STANDINS:
            self._say(
                "Note: providers without a key are stood in for by the local model, at its price. "
                "STANDINS=off turns that off."
            )
        self._say(_about_functions())
        self.stdout.flush()


def _facts(seeded: demo.Demo) -> dict[str, Any]:
    """What scripts read from dev.json."""
    known = asdict(seeded)
    return {
        "api_url": settings.PUBLIC_URL,
        "auth_token": known["auth_token"],
        "console_url": f"{settings.PUBLIC_URL}/",
        "email": known["email"],
        "password": known["password"],
        "pid": os.getpid(),
    }


def _local_model(port: int) -> Child:
    command = [sys.executable, "-m", "gateway.localmodel", "--port", str(port)]
    command += ["--threads", str(settings.LOCAL_MODEL_THREADS)]
    return Child("The local model", command)


def _standins(port: int, local_url: str) -> Child:
    command = [sys.executable, "-m", "gateway.standin", "--port", str(port)]
    return Child("The stand-ins", [*command, "--model-url", local_url])


def _web(environment: dict[str, str]) -> Child:
    command = [sys.executable, "-m", "config.web", "--supervised", "--port", str(settings.PORT)]
    return Child("The web process", command, environment)


def _function_host() -> Child:
    """Functions, in a process that has nothing of ours: its environment is empty."""
    command = [sys.executable, "-m", "deployments.runtime.host", "--supervised"]
    command += ["--socket", str(settings.FUNCTION_HOST_SOCKET)]
    command += ["--folder", str(settings.RUNTIME_DIR), "--driver", settings.FUNCTION_DRIVER]
    command += ["--gateway-url", settings.PUBLIC_URL, "--egress", settings.FUNCTION_EGRESS]
    command += ["--gateway-address", settings.FUNCTION_GATEWAY_ADDRESS]
    if settings.EMBEDDED:
        command.append("--allow-plain")
    return Child("The function host", command, inherits_environment=False, folder=settings.BASE_DIR)


def _about_functions() -> str:
    """How functions run, as their host tells, if they have one."""
    if drivers.keeps_functions():
        return f"Functions: {settings.FUNCTION_DRIVER}."
    try:
        health = asyncio.run(HostDriver(settings.FUNCTION_HOST_SOCKET).health())
    except UnableToReachHost as error:
        return f"Note: functions do not run. {error}"
    if health.refusal:
        return f"Note: functions are refused. {health.refusal}"
    return f"Note: {health.warning}" if health.warning else f"Functions: {health.driver}."


def _task_worker(environment: dict[str, str]) -> Child:
    schedule = str(Path(settings.DATA_DIR) / "beat-schedule")
    command = [sys.executable, "-m", "config.worker", "--schedule", schedule]
    return Child("The task worker", command, environment)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
