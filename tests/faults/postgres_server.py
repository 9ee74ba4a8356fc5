"""A PostgreSQL server of a test's own: one that may be killed, stopped, filled and forbidden."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psycopg

CONNECTIONS_MAX = 24


class PostgresServer:
    """A new cluster on a free loopback port, owned by a user that PostgreSQL agrees to run as."""

    def __init__(self, *, disk_megabytes: int = 0) -> None:
        """With `disk_megabytes`, its data lie on a file system of that size."""
        self._disk_megabytes = disk_megabytes
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._data = self._folder / "data"
        self._bin = max(Path("/usr/lib/postgresql").glob("*/bin"))
        self._as: list[str] = []
        self._privileged = ["sudo", "-n"]
        if os.getuid() == 0:
            self._privileged = []
            shutil.chown(self._folder, "postgres")
            self._as = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups"]

    @property
    def url(self) -> str:
        """Its administrative database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Make the cluster and serve."""
        if self._disk_megabytes:
            self._mount()
        how = ("-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--wal-segsize=1")
        self._run("initdb", "-D", self._data, *how)
        self._start()

    def _mount(self) -> None:
        self._data.mkdir(mode=0o700)
        owner = pwd.getpwnam("postgres") if self._as else pwd.getpwuid(os.getuid())
        options = f"size={self._disk_megabytes}m,uid={owner.pw_uid},gid={owner.pw_gid},mode=700"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self._data)]
        subprocess.run([*self._privileged, *command], check=True)

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
        self.crash()
        self.start_again()

    def crash(self) -> None:
        """No backend finishes anything, and nobody listens any more."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "-t", "120", "stop")

    def start_again(self) -> None:
        """Replay the log, and serve."""
        self._start()

    def fill_disk(self) -> None:
        """Not a byte is left; the server has noticed."""
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(64 * 1024)):
                pass
        # Until neither a table nor the log can grow. It may well panic over that.
        for number in range(1_000):
            try:
                self.execute(
                    f"CREATE TABLE ballast_{number} AS SELECT repeat('x', 1000)"
                    " FROM generate_series(1, 1000)"
                )
            except psycopg.Error:
                return
        raise AssertionError("PostgreSQL still finds space on its disk.")

    def empty_disk(self) -> None:
        """What an operator does then: make room, and start the server if it has given up."""
        self._ballast.unlink()
        if not self._is_running():
            self._start()

    @property
    def _ballast(self) -> Path:
        return self._data / "ballast"

    def _is_running(self) -> bool:
        command = [*self._as, str(self._bin / "pg_ctl"), "-D", str(self._data), "status"]
        return subprocess.run(command, cwd=self._folder, check=False).returncode == 0

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
        if self._disk_megabytes:
            subprocess.run([*self._privileged, "umount", str(self._data)], check=True)
        shutil.rmtree(self._folder, ignore_errors=True)
