"""Control groups: the hard limits of an instance's memory, processes and processor time.

Owns where groups are made (below this process's own), version 1 and version 2 of the kernel's
interface (Documentation/admin-guide/cgroup-v1, cgroup-v2.rst), and their removal. Groups are named
after the process that made them, so that those of a killed one are found and swept. Where no
group can be made, `find` says why; the launcher then does without.
"""

import asyncio
import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PREFIX = "aig-"
KEEPER = "aig-host"  # version 2: processes may not stay in a group that has groups with limits
CONTROLLERS = ("memory", "pids", "cpu")
PERIOD_MICROSECONDS = 100_000
REMOVE_SECONDS_MAX = 5.0

_numbers = itertools.count(1)


class UnableToGroup(Exception):
    """No control group can be made here; the message is for the operator."""


@dataclass(frozen=True)
class Limits:
    """What the processes of a group may use together."""

    memory_bytes: int
    tasks: int  # processes and threads
    processors: float


@dataclass(frozen=True)
class Hierarchy:
    """A tree of groups, and the group of this process in it, in which others are made."""

    version: int
    folder: Path
    controllers: tuple[str, ...]

    def settings(self, limits: Limits) -> dict[str, str]:
        """File name -> value, for a group in this tree; those of swap are not on every kernel."""
        quota = int(limits.processors * PERIOD_MICROSECONDS)
        values = {
            (1, "memory"): {
                "memory.limit_in_bytes": f"{limits.memory_bytes}",
                "memory.memsw.limit_in_bytes": f"{limits.memory_bytes}",
            },
            (1, "pids"): {"pids.max": f"{limits.tasks}"},
            (1, "cpu"): {
                "cpu.cfs_period_us": f"{PERIOD_MICROSECONDS}",
                "cpu.cfs_quota_us": f"{quota}",
            },
            (2, "memory"): {"memory.max": f"{limits.memory_bytes}", "memory.swap.max": "0"},
            (2, "pids"): {"pids.max": f"{limits.tasks}"},
            (2, "cpu"): {"cpu.max": f"{quota} {PERIOD_MICROSECONDS}"},
        }
        settings: dict[str, str] = {}
        for controller in self.controllers:
            settings |= values[self.version, controller]
        return settings


@dataclass
class Group:
    """The group of one instance, in every tree."""

    folders: list[Path] = field(default_factory=list)

    @property
    def entrances(self) -> list[Path]:
        """Files: a process that writes 0 into each is in the group, with all it starts."""
        return [folder / "cgroup.procs" for folder in self.folders]

    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed a process of the group for its memory."""
        for folder in self.folders:
            for name in ("memory.events", "memory.oom_control"):
                with contextlib.suppress(OSError):
                    rows = dict(row.split() for row in (folder / name).read_text().splitlines())
                    if int(rows.get("oom_kill", 0)) > 0:
                        return True
        return False

    async def remove(self) -> None:
        """Kill what is left in the group and remove it, once the kernel has let go."""
        ends = time.monotonic() + REMOVE_SECONDS_MAX
        # The kernel tells nobody when a version 1 group becomes empty.
        while not _remove(self.folders) and time.monotonic() < ends:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@dataclass(frozen=True)
class Cgroups:
    """Where this process makes groups."""

    hierarchies: tuple[Hierarchy, ...]

    @property
    def controllers(self) -> frozenset[str]:
        """What the groups limit: some of CONTROLLERS."""
        return frozenset(name for tree in self.hierarchies for name in tree.controllers)

    def make(self, limits: Limits) -> Group:
        """A new group with limits. Raises OSError."""
        name = _name()
        group = Group()
        try:
            for tree in self.hierarchies:
                folder = tree.folder / name
                folder.mkdir()
                group.folders.append(folder)
                for file, value in tree.settings(limits).items():
                    if _is_required(file) or (folder / file).exists():
                        (folder / file).write_text(value)
        except OSError:
            _remove(group.folders)
            raise
        return group

    def sweep(self) -> None:
        """Remove the groups of processes that are gone: they were killed."""
        for tree in self.hierarchies:
            for folder in tree.folder.glob(f"{PREFIX}*-*"):
                owner = folder.name.removeprefix(PREFIX).partition("-")[0]
                if owner.isdigit() and not Path("/proc", owner).exists():
                    _remove([folder])


def _name() -> str:
    return f"{PREFIX}{os.getpid()}-{next(_numbers):x}"


def find(proc: Path = Path("/proc/self")) -> Cgroups:
    """Where this process may make groups that limit memory and more. Raises UnableToGroup.

    `proc` is the process's folder in /proc.
    """
    wanted = list(CONTROLLERS)
    trees = []
    for tree in _own_groups(proc):
        controllers = tuple(name for name in tree.controllers if name in wanted)
        usable = Hierarchy(tree.version, tree.folder, controllers)
        if controllers and (ready := _ready(usable)):
            trees.append(ready)
            wanted = [name for name in wanted if name not in ready.controllers]
    if not trees:
        raise UnableToGroup(
            "No control group can be made here: run as root, or as a systemd service with "
            "Delegate=yes; in a container, mount /sys/fs/cgroup writable."
        )
    return Cgroups(tuple(trees))


def _ready(tree: Hierarchy) -> Hierarchy | None:
    """The tree, once a group with its limits can be made in it; None when it cannot."""
    try:
        if tree.version == 2:
            tree = _delegate(tree)
        trial = tree.folder / _name()
        trial.mkdir()
        names = tree.settings(Limits(0, 0, 0))
        is_limited = all((trial / name).exists() for name in names if _is_required(name))
        trial.rmdir()
    except OSError:
        return None
    return tree if is_limited else None


def _is_required(file: str) -> bool:
    """Whether a kernel without this file cannot hold the limits."""
    return "swap" not in file and "memsw" not in file


def _delegate(tree: Hierarchy) -> Hierarchy:
    """Version 2: hand the controllers down to the groups below. Raises OSError.

    Possible only for a group without processes of its own, so this process moves into a group
    beside those it makes; it may not take others with it.
    """
    if tree.folder.name == KEEPER:
        return Hierarchy(2, tree.folder.parent, tree.controllers)
    handed = (tree.folder / "cgroup.subtree_control").read_text().split()
    if not set(tree.controllers) <= set(handed):
        inmates = (tree.folder / "cgroup.procs").read_text().split()
        if inmates != [str(os.getpid())]:
            raise PermissionError("the group is shared with other processes")
        (tree.folder / KEEPER).mkdir(exist_ok=True)
        (tree.folder / KEEPER / "cgroup.procs").write_text("0")
        orders = " ".join(f"+{name}" for name in tree.controllers)
        (tree.folder / "cgroup.subtree_control").write_text(orders)
    return tree


def _own_groups(proc: Path) -> Iterator[Hierarchy]:
    """The groups of the process, version 1 first: it has the controllers where both are there."""
    places = _mounts(proc)
    version_2 = None
    for line in (proc / "cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        place = places.get(frozenset(names.split(",")) if names else frozenset())
        if place is None:
            continue
        mounted_at, root = place
        folder = mounted_at / os.path.relpath(path, root)
        if names:
            yield Hierarchy(1, folder, tuple(names.split(",")))
        else:
            with contextlib.suppress(OSError):
                controllers = (folder / "cgroup.controllers").read_text().split()
                version_2 = Hierarchy(2, folder, tuple(controllers))
    if version_2 is not None:
        yield version_2


def _mounts(proc: Path) -> dict[frozenset[str], tuple[Path, str]]:
    """Controllers of a version 1 tree (none: version 2) -> where it is mounted, and from where.

    Lines of mountinfo: proc_pid_mountinfo(5).
    """
    mounts = {}
    for line in (proc / "mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, mounted_at = before.split()[3:5]
        kind, _, options = after.split()
        if kind == "cgroup2":
            mounts[frozenset[str]()] = (Path(mounted_at), root)
        elif kind == "cgroup":
            known = frozenset(options.split(",")) - {"rw", "ro", "xattr"}
            mounts[known] = (Path(mounted_at), root)
    return mounts


def _remove(folders: list[Path]) -> bool:
    """Kill what is left in the groups; whether they are gone."""
    gone = True
    for folder in folders:
        with contextlib.suppress(OSError):
            for pid in (folder / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        try:
            folder.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            gone = False
    return gone
