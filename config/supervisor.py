"""Runs the platform's processes in the foreground: starts, watches, restarts and stops them.

Owns process handling and nothing else: which processes there are is said by who calls it. Children
get sessions of their own (Ctrl-C reaches only us, so they stop in order) and a pipe as standard
input, whose end tells them that we died.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

STOP_SECONDS_MAX = 25.0
KILL_SECONDS_MAX = 5.0
RESTART_SECONDS_MIN = 0.5
RESTART_SECONDS_MAX = 30.0
POLL_SECONDS = 0.2


@dataclass(slots=True)
class Child:
    """One process: its command line, its environment, and how often it died."""

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    inherits_environment: bool = True  # else `environment` is all it gets
    folder: Path | None = None  # where it starts, if not here
    process: "subprocess.Popen[bytes] | None" = None
    deaths: int = 0
    restart_at: float = 0.0
    started_at: float = 0.0

    def start(self) -> None:
        """Start the process."""
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603 - our own command lines
            self.command,
            cwd=self.folder,
            env={**(os.environ if self.inherits_environment else {}), **self.environment},
            stdin=subprocess.PIPE,
            start_new_session=True,
        )

    def restart(self) -> None:
        """Start the process again, after it ended."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        self.start()

    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self.process is not None and self.process.poll() is None


def end_with_supervisor() -> None:
    """Called in a child: end this process, as if told to, when its supervisor is gone."""
    threading.Thread(target=_wait_for_end_of_input, daemon=True).start()


def _wait_for_end_of_input() -> None:
    # os.read, not sys.stdin: a daemon thread inside a buffered read breaks the interpreter's exit.
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


class Supervisor:
    """Keeps children running until a signal or `stop`."""

    def __init__(self, *, say: Callable[[str], None]) -> None:
        self._children: list[Child] = []
        self._say = say
        self._is_stopping = False

    def take_signals(self) -> None:
        """From now on SIGINT, SIGTERM and SIGHUP ask for an orderly end."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def add(self, child: Child) -> None:
        """Start `child` and keep it running."""
        self._children.append(child)
        child.start()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._is_stopping = True

    @property
    def is_stopping(self) -> bool:
        """Whether a signal asked for the end."""
        return self._is_stopping

    def wait_until(self, is_ready: Callable[[], bool], *, seconds_max: float) -> bool:
        """Watch children until `is_ready()`; False when stopped or out of time first."""
        deadline = time.monotonic() + seconds_max
        while not self._is_stopping and time.monotonic() < deadline:
            if is_ready():
                return True
            self._watch()
            time.sleep(POLL_SECONDS / 2)
        return False

    def run(self) -> None:
        """Watch children until a signal comes."""
        while not self._is_stopping:
            self._watch()
            time.sleep(POLL_SECONDS)

    def _watch(self) -> None:
        """Restart what died, waiting longer each time it dies soon after its start."""
        now = time.monotonic()
        for child in self._children:
            if child.is_running():
                continue
            if child.restart_at == 0.0:
                was_short = now - child.started_at < RESTART_SECONDS_MAX
                child.deaths = child.deaths + 1 if was_short else 1
                # Capped before it is raised: a child may die thousands of times.
                wait = min(
                    RESTART_SECONDS_MIN * 2 ** min(child.deaths - 1, 10), RESTART_SECONDS_MAX
                )
                child.restart_at = now + wait
                code = child.process.returncode if child.process else None
                self._say(f"{child.name} ended with code {code}; starting it again in {wait:g} s.")
            elif now >= child.restart_at:
                child.restart_at = 0.0
                child.restart()

    def stop(self) -> None:
        """Stop children in reverse order of starting; kill what does not end in time."""
        for child in reversed(self._children):
            if child.is_running():
                self._end(child)

    def _end(self, child: Child) -> None:
        process = child.process
        assert process is not None  # noqa: S101
        if process.stdin is not None:
            process.stdin.close()
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._say(f"{child.name} did not stop; killing it.")
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):  # stuck in the kernel: go on
                process.wait(timeout=KILL_SECONDS_MAX)
