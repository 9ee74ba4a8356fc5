"""Runs the unpacking of an uploaded zip in a child process: started, waited for, killed, heard.

Owns how the child is shut in: no environment, no network and, where bubblewrap runs, no file but
the interpreter and the target folder. Must not know what a bundle means (layout.py) or where it
ends up (storage.py).
"""

import functools
import json
import logging
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, BinaryIO

from deployments import layout
from deployments.unpacking import Limits

logger = logging.getLogger(__name__)

PACKAGE = Path(__file__).resolve().parent
WALL_SECONDS_MAX = 120.0
PROBE_SECONDS_MAX = 10.0
# A manifest of a thousand routes with everything in it needs less than this.
ANSWER_BYTES_MAX = 64 * 1024 * 1024
START = "import sys; sys.path.append(sys.argv[1]); from deployments.unpacking import main; main()"
# How a process ends that was refused time, memory or a larger file.
KILLS = frozenset({signal.SIGKILL, signal.SIGXCPU, signal.SIGXFSZ, signal.SIGSEGV, signal.SIGABRT})
TOO_SLOW = "The bundle took too long to unpack; make it smaller."
TOO_LARGE = "The bundle took too long or needed too much memory to unpack; make it smaller."


class UnableToUnpack(Exception):
    """The bundle is refused, with what to change, or took more than it may."""


class ChildCrashed(Exception):
    """The child ended in a way nobody foresaw: the platform's fault, not the bundle's."""


def unpack(
    bundle: BinaryIO,
    into: Path,
    *,
    limits: Limits | None = None,
    seconds_max: float = WALL_SECONDS_MAX,
) -> layout.Layout:
    """Unpack the zip `bundle`, an open file, below the empty folder `into`; what it means.

    Blocking. Raises UnableToUnpack and ChildCrashed; `into` may then hold some files, and the
    caller removes it.
    """
    command = [
        *_bubblewrap(into),
        *(sys.executable, "-I", "-X", "utf8", "-c", START, str(PACKAGE.parent)),
        *(str(into), json.dumps(asdict(limits or Limits()))),
    ]
    bundle.seek(0)
    process = subprocess.Popen(  # noqa: S603 - our own command; the zip is only its input
        command,
        stdin=bundle,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={},
        cwd="/",
        start_new_session=True,
    )
    raw, is_late = _hear(process, seconds_max)
    if is_late:
        raise UnableToUnpack(TOO_SLOW)
    return _read(raw, process.returncode)


def _hear(process: subprocess.Popen[bytes], seconds_max: float) -> tuple[bytes, bool]:
    """What the child said, and whether it had to be killed for taking too long."""
    late = threading.Event()

    def kill() -> None:
        late.set()
        process.kill()

    timer = threading.Timer(seconds_max, kill)
    timer.start()
    try:
        with process:  # closes the pipe, then waits
            output: IO[bytes] | None = process.stdout
            raw = output.read(ANSWER_BYTES_MAX) if output else b""
    finally:
        timer.cancel()
    return raw, late.is_set()


def _read(raw: bytes, code: int) -> layout.Layout:
    """The answer as a layout. Raises UnableToUnpack, ChildCrashed."""
    try:
        answer: dict[str, Any] = json.loads(raw)
    except ValueError:
        answer = {}
    if "refusal" in answer:
        raise UnableToUnpack(answer["refusal"])
    if "manifest" in answer and code == 0:
        return layout.Layout(answer["manifest"], answer["environment"])
    # Bubblewrap tells of a signal as shells do, 128 higher.
    if -code in KILLS or code - 128 in KILLS:
        raise UnableToUnpack(TOO_LARGE)
    raise ChildCrashed(answer.get("crash", f"exit status {code}"))


# --- Bubblewrap ------------------------------------------------------------------------------

BUBBLEWRAP = (
    *("--unshare-all", "--die-with-parent", "--new-session"),
    *("--cap-drop", "ALL", "--chdir", "/"),
)
LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")


def _bubblewrap(into: Path) -> tuple[str, ...]:
    """The command that shuts the child in; empty where that cannot be done."""
    shut_in = _shut_in()
    return (*shut_in, "--bind", str(into), str(into), "--") if shut_in else ()


@functools.cache
def _shut_in() -> tuple[str, ...]:
    """Bubblewrap with the interpreter in it, if a child starts that way here; asked once."""
    program = shutil.which("bwrap")
    if program is None:
        return ()
    command = (program, *BUBBLEWRAP, *_read_only())
    try:
        subprocess.run(  # noqa: S603 - nothing of anybody's in it
            [*command, "--", sys.executable, "-I", "-c", ""],
            env={},
            check=True,
            capture_output=True,
            timeout=PROBE_SECONDS_MAX,
        )
    except (OSError, subprocess.SubprocessError) as error:
        logger.warning("Bundles are unpacked with limits but without bubblewrap: %s", error)
        return ()
    return command


def _read_only() -> list[str]:
    """Options that show the child its interpreter, libraries and this package, and nothing else."""
    options = []
    shown = dict.fromkeys([*LIBRARIES, sys.base_prefix, sys.prefix, str(PACKAGE)])
    for path in map(Path, shown):
        if path.parent == Path("/") and path.is_symlink():
            options += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            options += ["--ro-bind", str(path), str(path)]
    return options
