"""Runs functions in sandboxes: bubblewrap around Node.js, one sandbox per instance.

Owns what an instance may see and use: namespaces, user id, file system, system calls, limits. A
sandbox holds nothing but its function's process tree and ends with it; `isolation.py` proves what
is promised here. Must not know what functions are asked (the pool's) nor what is at the other end
of their sockets.

As root, every instance runs as a user id of its own, which owns nothing on this machine; bubblewrap
itself works as root, so that releases may lie below folders that only root may enter. As another
user, functions share that user's id inside a user namespace.
"""

import asyncio
import contextlib
import json
import logging
import os
import platform
import random
import shutil
import signal
import socket
import stat
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from deployments.runtime import cgroups, runtime_tree, seccomp
from deployments.runtime.driver import MEBIBYTE, FunctionSpec, Place, UnableToLaunch
from deployments.runtime.local_plain import environment_of, node_arguments

logger = logging.getLogger(__name__)

CODE = "/var/task"
SOCKETS = "/run/aig"
HOME = "/tmp"  # noqa: S108 - the sandbox's own
INSIDE_UID = 1000  # where functions have no user id of their own
# Above what systemd gives to containers and users (systemd.io/UIDS-GIDS), below 2^31.
UIDS = range(1_900_000_000, 1_900_004_096)

# No terminals: with them bubblewrap nests user namespaces, and low ports belong to the outer one.
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
STREAMS = (
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
)

TMP_BYTES_MAX = 64 * MEBIBYTE
FILE_BYTES_MAX = 64 * MEBIBYTE
OPEN_FILES_MAX = 1024
TASKS_MAX = 128  # processes and threads; Node itself has about 12
PROCESSORS_MAX = 1.0
# Without control groups the limit is on private memory reserved; V8 reserves 512 MB for code alone.
DATA_HEADROOM_BYTES = 640 * MEBIBYTE
PRIVILEGED_PORTS = 1024

# Joins the control groups named before `--` by writing to them, then becomes the rest, without the
# variables that shells make.
JOIN = (
    'while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; '
    'shift; exec /usr/bin/env -i "$@"'
)


@dataclass
class Sandbox:
    """What is kept for one instance outside of it."""

    uid: int
    reservation: socket.socket | None = None
    group: cgroups.Group | None = None


class LocalBwrap:
    """The launcher behind FUNCTION_DRIVER=local-bwrap."""

    name = "local-bwrap"
    warning = ""
    has_own_network = True

    def __init__(self) -> None:
        self._sandboxes: dict[Path, Sandbox] = {}
        self._groups: cgroups.Cgroups | None = None
        self._is_ready = False
        self._getting_ready = threading.Lock()

    @property
    def has_own_users(self) -> bool:
        """Whether every instance has a user id of its own: this process is root."""
        return os.geteuid() == 0

    @property
    def limited_by_groups(self) -> frozenset[str]:
        """What control groups limit here; known once an instance was launched."""
        return self._groups.controllers if self._groups else frozenset()

    async def launch(self, spec: FunctionSpec, place: Place) -> asyncio.subprocess.Process:
        """See Launcher."""
        await asyncio.to_thread(self._get_ready)
        sandbox = Sandbox(INSIDE_UID)
        self._sandboxes[place.sockets] = sandbox
        try:
            if self.has_own_users:
                _require_readable(spec.folder)
                sandbox.uid, sandbox.reservation = _reserve_uid()
                _hand_over(place.sockets, sandbox.uid)
            if self._groups is not None:
                sandbox.group = self._groups.make(_group_limits(spec))
            return await self._start(spec, place, sandbox)
        except BaseException:
            await self._free(place)
            raise

    async def ended(self, spec: FunctionSpec, place: Place, exit_status: int) -> str:
        """See Launcher."""
        sandbox = self._sandboxes.get(place.sockets)
        was_short = sandbox is not None and sandbox.group and sandbox.group.ran_out_of_memory()
        await self._free(place)
        if was_short:
            return f"killed, because it used more than its memory limit of {spec.memory_mb} MB"
        return _ending(spec, exit_status)

    async def _free(self, place: Place) -> None:
        sandbox = self._sandboxes.pop(place.sockets, None)
        if sandbox is None:
            return
        if sandbox.group is not None:
            await sandbox.group.remove()
        if sandbox.reservation is not None:
            sandbox.reservation.close()

    def _get_ready(self) -> None:
        """Once per launcher: find the control groups, and sweep those of killed processes."""
        with self._getting_ready:
            if self._is_ready:
                return
            try:
                self._groups = cgroups.find()
                self._groups.sweep()
            except cgroups.UnableToGroup as error:
                logger.warning("%s Functions are limited by rlimits alone.", error)
            self._is_ready = True

    async def _start(
        self, spec: FunctionSpec, place: Place, sandbox: Sandbox
    ) -> asyncio.subprocess.Process:
        command = Command(spec, place, sandbox, self.has_own_users, self.limited_by_groups)
        with contextlib.ExitStack() as files:
            arguments = await asyncio.to_thread(command.arguments, files)
            return await asyncio.create_subprocess_exec(
                *arguments,
                pass_fds=command.handles,
                cwd="/",
                env={},  # bubblewrap is process 1 of the sandbox: its environment could be read
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )


class Command:
    """How one sandbox is started: a chain of programs, each of which becomes the next.

    `sh` joins the control groups, `prlimit` sets limits, `bwrap` makes the sandbox, and in it
    `setpriv` gives up root (or `prlimit` counts processes) before Node starts.
    """

    def __init__(
        self,
        spec: FunctionSpec,
        place: Place,
        sandbox: Sandbox,
        has_own_user: bool,
        limited_by_groups: frozenset[str],
    ) -> None:
        self.spec = spec
        self.place = place
        self.sandbox = sandbox
        self.has_own_user = has_own_user
        self.limited_by_groups = limited_by_groups
        self.handles: list[int] = []
        self._binds_low_ports = any(bridge.port < PRIVILEGED_PORTS for bridge in place.bridges)

    def arguments(self, files: contextlib.ExitStack) -> list[str]:
        """The whole command line. It tells nothing of the function: that is in `handles`.

        The handles are open until `files` ends. Raises UnableToLaunch.
        """
        bwrap = shutil.which("bwrap")
        prlimit = shutil.which("prlimit")
        if bwrap is None or prlimit is None:
            raise UnableToLaunch(
                "Install bubblewrap and util-linux (apt install bubblewrap util-linux): functions "
                "run in sandboxes made by 'bwrap'."
            )
        tree = runtime_tree.tree(("setpriv",) if self.has_own_user else ("prlimit",))
        try:
            filter_program = seccomp.program(platform.machine())
        except seccomp.UnableToFilter as error:
            raise UnableToLaunch(str(error)) from None
        options = [*self._isolation(), *self._file_system(tree, files), *self._environment()]
        group = self.sandbox.group
        return [
            *("/bin/sh", "-c", JOIN, "sh"),
            *(str(path) for path in (group.entrances if group else [])),
            *("--", prlimit, *self._limits(), "--", bwrap),
            *("--args", self._handle(_packed(options), files)),
            *("--seccomp", self._handle(filter_program, files)),
            *("--", *self._last_step(tree), "--"),
            *(runtime_tree.NODE, *node_arguments(self.spec), runtime_tree.BOOTSTRAP_INSIDE),
        ]

    def _isolation(self) -> list[str]:
        """Namespaces, and the capabilities that `setpriv` still needs."""
        options = [
            *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"),
            *("--unshare-cgroup-try", "--die-with-parent", "--new-session"),
            *("--hostname", "function", "--cap-drop", "ALL"),
        ]
        if not self.has_own_user:
            uid = str(self.sandbox.uid)
            options += ["--unshare-user", "--uid", uid, "--gid", uid]
        kept = ["CAP_SETUID", "CAP_SETGID", "CAP_SETPCAP"] if self.has_own_user else []
        if self._binds_low_ports:
            kept.append("CAP_NET_BIND_SERVICE")
        return options + [word for name in kept for word in ("--cap-add", name)]

    def _file_system(self, tree: runtime_tree.Tree, files: contextlib.ExitStack) -> list[str]:
        """Everything read-only but /tmp. Folders are made first, so that all may enter them."""
        etc = runtime_tree.etc_files(
            self.sandbox.uid, (bridge.host for bridge in self.place.bridges)
        )
        folders = [*tree.folders, *runtime_tree.parents_of([CODE, SOCKETS, *etc])]
        options: list[str] = []
        for folder in sorted(set(folders)):
            options += ["--perms", "0755", "--dir", folder]
        for here, inside in tree.files:
            options += ["--ro-bind", here, inside]
        for path, content in etc.items():
            options += ["--perms", "0644", "--file", self._handle(content.encode(), files), path]
        return [
            *options,
            *("--proc", "/proc", "--perms", "0755", "--dir", "/dev"),
            *_flat("--dev-bind", ((device, device) for device in DEVICES)),
            *_flat("--symlink", STREAMS),
            *("--perms", "1777", "--size", str(TMP_BYTES_MAX), "--tmpfs", HOME),
            *("--ro-bind", str(self.spec.folder), CODE),
            *("--ro-bind", str(self.place.sockets), SOCKETS),
            *("--remount-ro", "/", "--chdir", CODE),
        ]

    def _environment(self) -> list[str]:
        environment = environment_inside(self.spec, self.place)
        return ["--clearenv", *_flat("--setenv", environment.items())]

    def _limits(self) -> list[str]:
        """Options of prlimit(1). The number of processes counts per user id."""
        limits = [
            "--core=0",
            f"--nofile={OPEN_FILES_MAX}",
            f"--fsize={FILE_BYTES_MAX}",
        ]
        if self.has_own_user:
            limits.append(f"--nproc={TASKS_MAX}")
        if "memory" not in self.limited_by_groups:
            limits.append(f"--data={self.spec.memory_mb * MEBIBYTE + DATA_HEADROOM_BYTES}")
        return limits

    def _last_step(self, tree: runtime_tree.Tree) -> list[str]:
        if not self.has_own_user:
            return [tree.program("prlimit"), f"--nproc={TASKS_MAX}"]
        uid = str(self.sandbox.uid)
        capabilities = "-all,+net_bind_service" if self._binds_low_ports else "-all"
        return [
            *(tree.program("setpriv"), "--reuid", uid, "--regid", uid, "--clear-groups"),
            *(f"--inh-caps={capabilities}", f"--ambient-caps={capabilities}"),
            *(f"--bounding-set={capabilities}", "--no-new-privs"),
        ]

    def _handle(self, content: bytes, files: contextlib.ExitStack) -> str:
        """The number of a file handle from which `content` can be read once."""
        handle = os.memfd_create("aig")
        files.callback(os.close, handle)
        os.write(handle, content)
        os.lseek(handle, 0, os.SEEK_SET)
        self.handles.append(handle)
        return str(handle)


def environment_inside(spec: FunctionSpec, place: Place) -> dict[str, str]:
    """Everything the process sees when it starts, with the paths it has inside."""
    inside = environment_of(
        replace(spec, folder=Path(CODE)), replace(place, sockets=Path(SOCKETS), home=Path(HOME))
    )
    inside |= {"PWD": CODE}  # bubblewrap sets it, as AWS Lambda does
    if place.bridges:
        inside["AIG_BRIDGES"] = json.dumps(
            [
                {"host": each.host, "port": each.port, "socket": f"{SOCKETS}/{each.socket}"}
                for each in place.bridges
            ]
        )
    return inside


def _packed(options: list[str]) -> bytes:
    """The options as `bwrap --args` reads them, each ended by a NUL.

    Raises UnableToLaunch for a NUL inside of one: what follows would be an option of its own.
    """
    try:
        words = [os.fsencode(option) for option in options]
    except UnicodeEncodeError:
        raise UnableToLaunch("A variable of the function is not valid Unicode.") from None
    if any(b"\0" in word for word in words):
        raise UnableToLaunch("A variable of the function contains a NUL character.")
    return b"".join(word + b"\0" for word in words)


def _flat(option: str, pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [word for name, value in pairs for word in (option, name, value)]


def _group_limits(spec: FunctionSpec) -> cgroups.Limits:
    """Files in /tmp count as memory, so there is room for both."""
    return cgroups.Limits(
        memory_bytes=spec.memory_mb * MEBIBYTE + TMP_BYTES_MAX,
        tasks=TASKS_MAX,
        processors=PROCESSORS_MAX,
    )


def _reserve_uid() -> tuple[int, socket.socket]:
    """A user id no instance on this machine has, and what reserves it until it is closed.

    Reserved by binding an abstract socket address: the kernel gives it back whatever ends this
    process. Chosen at random, so that none is used again soon. Raises UnableToLaunch.
    """
    first = random.randrange(len(UIDS))  # noqa: S311 - no secret
    for uid in (*UIDS[first:], *UIDS[:first]):
        reservation = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            reservation.bind(f"\0aig-function-uid-{uid}")
        except OSError:
            reservation.close()
            continue
        return uid, reservation
    raise UnableToLaunch(f"All {len(UIDS)} user ids of functions are in use.")


def _require_readable(folder: Path) -> None:
    """The instance's user owns nothing, so what it runs must be for everybody to read."""
    everybody = stat.S_IROTH | stat.S_IXOTH
    if folder.stat().st_mode & everybody != everybody:
        raise UnableToLaunch(f"The folder of the function must be readable by all: {folder}")


def _hand_over(folder: Path, uid: int) -> None:
    """Let the instance's user, and nobody else's, enter its folder of sockets and use them."""
    for path in (folder, *folder.iterdir()):
        os.chown(path, uid, uid, follow_symlinks=False)


def _ending(spec: FunctionSpec, exit_status: int) -> str:
    """bubblewrap says 128 + n when signal n ended the function, as a shell does."""
    number = -exit_status if exit_status < 0 else exit_status - 128
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"exit status {exit_status}"
    limit = f" (memory limit {spec.memory_mb} MB)"
    return f"killed by {name}" + (limit if number in (signal.SIGABRT, signal.SIGKILL) else "")
