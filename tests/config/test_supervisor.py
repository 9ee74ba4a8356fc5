"""Children: restarted when they die, stopped in order, never outliving their supervisor."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.conf import settings

from config import supervisor as supervisor_module
from config.supervisor import Child, Supervisor

# Notes its start and its end in a file; ends when its standard input does, or when told to.
PATIENT = """
import os, signal, sys
def note(text):
    with open(sys.argv[1], "a") as file:
        file.write(text + "\\n")
def end(*_):
    note(sys.argv[2] + " ends")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
note(sys.argv[2] + " starts")
while sys.stdin.buffer.read(1):
    pass
signal.pause() if "stubborn" in sys.argv[2] else end()
"""
STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
open(sys.argv[1], "a").write(sys.argv[2] + " starts\\n")
while True:
    time.sleep(1)
"""


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(supervisor_module, "RESTART_SECONDS_MIN", 0.02)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes"
    path.touch()
    return path


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def supervisor(said: list[str]) -> Iterator[Supervisor]:
    made = Supervisor(say=said.append)
    yield made
    made.stop()


def patient(notes: Path, name: str, code: str = PATIENT) -> Child:
    return Child(name, [sys.executable, "-c", code, str(notes), name])


def holds(path: Path, *lines: str) -> Callable[[], bool]:
    return lambda: set(lines) <= set(path.read_text().splitlines())


def wait_for(happened: Callable[[], bool], seconds_max: float = 10.0) -> None:
    deadline = time.monotonic() + seconds_max
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that nobody has waited for is dead all the same.
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_children_stop_in_reverse_order(supervisor: Supervisor, notes: Path) -> None:
    for name in ("first", "second", "third"):
        supervisor.add(patient(notes, name))
        assert supervisor.wait_until(holds(notes, f"{name} starts"), seconds_max=10)
    supervisor.stop()
    assert notes.read_text().splitlines()[3:] == ["third ends", "second ends", "first ends"]


def test_a_child_that_dies_is_started_again_and_waited_for_longer_each_time(
    supervisor: Supervisor, notes: Path, said: list[str]
) -> None:
    code = "import sys; open(sys.argv[1], 'a').write('start\\n'); sys.exit(3)"
    supervisor.add(patient(notes, "The worker", code))

    def four_starts() -> bool:
        return len(notes.read_text().splitlines()) >= 4

    assert supervisor.wait_until(four_starts, seconds_max=10)
    assert said[:3] == [
        f"The worker ended with code 3; starting it again in {wait} s."
        for wait in (0.02, 0.04, 0.08)
    ]


def test_the_others_go_on_while_one_is_waited_for(
    supervisor: Supervisor, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "RESTART_SECONDS_MIN", 30.0)
    steady = patient(notes, "steady")
    supervisor.add(steady)
    supervisor.add(Child("broken", [sys.executable, "-c", "pass"]))
    assert supervisor.wait_until(holds(notes, "steady starts"), seconds_max=10)
    assert steady.is_running()


def test_a_child_may_die_thousands_of_times(supervisor: Supervisor, said: list[str]) -> None:
    child = Child("broken", [sys.executable, "-c", "pass"])
    supervisor.add(child)
    assert child.process is not None
    child.process.wait(timeout=10)
    child.deaths = 100_000
    supervisor.wait_until(lambda: bool(said), seconds_max=10)
    assert said[0].endswith(f"in {min(0.02 * 2**10, 30.0):g} s.")


def test_a_child_that_ran_long_is_started_again_at_once(
    supervisor: Supervisor, said: list[str]
) -> None:
    child = Child("old", [sys.executable, "-c", "pass"])
    supervisor.add(child)
    child.deaths = 8
    child.started_at -= 3600
    supervisor.wait_until(lambda: bool(said), seconds_max=10)
    assert child.deaths == 1


def test_a_child_that_does_not_stop_is_killed(
    supervisor: Supervisor, notes: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "STOP_SECONDS_MAX", 0.2)
    child = patient(notes, "stubborn", STUBBORN)
    supervisor.add(child)
    assert supervisor.wait_until(holds(notes, "stubborn starts"), seconds_max=10)
    supervisor.stop()
    assert not child.is_running()
    assert said == ["stubborn did not stop; killing it."]


def test_waiting_ends_in_time(supervisor: Supervisor) -> None:
    assert supervisor.wait_until(lambda: False, seconds_max=0.05) is False


def test_a_signal_ends_waiting_and_running(supervisor: Supervisor) -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGHUP] = signal.getsignal(signal.SIGHUP)
    try:
        supervisor.take_signals()
        os.kill(os.getpid(), signal.SIGTERM)
        assert supervisor.wait_until(lambda: False, seconds_max=10) is False
        supervisor.run()
        assert supervisor.is_stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_children_get_their_environment_and_a_session_of_their_own(
    supervisor: Supervisor, notes: Path
) -> None:
    code = (
        "import os, sys; given = os.environ['X']; is_leader = os.getsid(0) == os.getpid();"
        "open(sys.argv[1], 'a').write(f'{given} {is_leader}\\n'); sys.stdin.read()"
    )
    child = patient(notes, "child", code)
    child.environment = {"X": "given"}
    supervisor.add(child)
    assert supervisor.wait_until(holds(notes, "given True"), seconds_max=10)


def test_a_child_may_get_nothing_but_what_it_is_given(
    supervisor: Supervisor, notes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_KEY", "of the platform")
    code = (
        "import os, sys; given = open('/proc/self/environ').read();"
        "open(sys.argv[1], 'a').write(f'[{given}] {os.getcwd()}\\n'); sys.stdin.read()"
    )
    child = patient(notes, "child", code)
    child.inherits_environment, child.folder = False, tmp_path
    supervisor.add(child)
    assert supervisor.wait_until(holds(notes, f"[] {tmp_path}"), seconds_max=10)


# A supervisor as a process of its own, with a child that only reads its standard input and one
# that uses what our processes use.
SUPERVISOR = """
import sys
from config.supervisor import Child, Supervisor
supervisor = Supervisor(say=print)
supervisor.take_signals()
for name, code in (("reads", sys.argv[2]), ("threads", sys.argv[3])):
    child = Child(name, [sys.executable, "-c", code, sys.argv[1], name])
    supervisor.add(child)
    print(child.process.pid, flush=True)
supervisor.run()
supervisor.stop()
"""
THREADS = """
import sys, time
from config.supervisor import end_with_supervisor
end_with_supervisor()
open(sys.argv[1], "a").write("threads starts\\n")
while True:
    time.sleep(1)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_child_outlives_its_supervisor(notes: Path, how: signal.Signals) -> None:
    command = [sys.executable, "-c", SUPERVISOR, str(notes), PATIENT, THREADS]
    with subprocess.Popen(
        command, cwd=settings.BASE_DIR, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        children = [int(process.stdout.readline()) for _ in range(2)]
        wait_for(holds(notes, "reads starts", "threads starts"))
        assert all(map(is_alive, children))
        process.send_signal(how)
        wait_for(lambda: not any(map(is_alive, children)))
        process.wait(timeout=10)
