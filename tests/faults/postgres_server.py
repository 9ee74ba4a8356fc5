"""A PostgreSQL server of a test's own: one that may be killed, stopped, filled and forbidden."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

CONNECTIONS_MAX = 24


class PostgresServer:
    """A new cluster on a free loopback port, owned by a user that PostgreSQL agrees to run as."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._data = self._folder / "data"
        self._bin = max(Path("/usr/lib/postgresql").glob("*/bin"))
        self._as: list[str] = []
        if os.getuid() == 0:
            shutil.chown(self._folder, "postgres")
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    @property
    def url(self) -> str:
        """Its administrative database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Make the cluster and serve."""
        self._run("initdb", "-D", self._data, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8")
        self._start()

    def _start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c max_connections={CONNECTIONS_MAX}"
            f" -c unix_socket_directories={self._folder}"
        )
        log = self._folder / "log"
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "120", "-l", log, "-o", options, "start")

    def _run(self, program: str, *arguments: object) -> None:
        subprocess.run(
            [*self._as, str(self._bin / program), *map(str, arguments)],
            check=True,
            cwd=self._folder,
            timeout=180,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def restart_immediately(self) -> None:
        """As a crash: no backend finishes anything, the log is replayed."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "-t", "120", "stop")
        self._start()

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run an administrator's statement, even on a server that is read-only by default."""
        with self.connect() as connection:
            found = connection.execute(statement)
            return found.fetchall() if found.description else []

    def connect(self) -> "psycopg.Connection[tuple[object, ...]]":
        """A connection. Raises psycopg.OperationalError when there is none left."""
        return psycopg.connect(
            self.url,
            autocommit=True,
            connect_timeout=10,
            options="-c default_transaction_read_only=off",
            application_name="administrator",
        )

    def kill_backends(self) -> None:
        """End every connection but administrators'."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND application_name <> 'administrator'"
        )

    def set_read_only(self, *, is_on: bool) -> None:
        """Refuse, or take again, whatever changes anything."""
        value = "on" if is_on else "off"
        self.execute(f"ALTER SYSTEM SET default_transaction_read_only = {value}")
        self.execute("SELECT pg_reload_conf()")

    def take_every_connection(self) -> "list[psycopg.Connection[tuple[object, ...]]]":
        """Nobody else's connection survives, and none is left; close what is returned."""
        taken = [self.connect()]
        while True:
            taken[0].execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND application_name <> 'administrator'"
            )
            try:
                taken.append(self.connect())
            except psycopg.OperationalError:
                if len(taken) >= CONNECTIONS_MAX - 2:
                    return taken
                time.sleep(0.05)

    def stop_answering(self) -> None:
        """SIGSTOP of every process of the server."""
        self._signal(signal.SIGSTOP)

    def answer_again(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        main = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for process in (main, *map(int, children)):
            os.kill(process, number)

    def close(self) -> None:
        """End it, and remove the cluster."""
        if (self._data / "postmaster.pid").exists():
            self.answer_again()
            self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(self._folder, ignore_errors=True)
