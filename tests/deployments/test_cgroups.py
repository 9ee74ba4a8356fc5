"""Control groups: real ones where this machine has them, and the layouts of others as files."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from deployments.runtime import cgroups
from deployments.runtime.cgroups import Cgroups, Group, Hierarchy, Limits, UnableToGroup
from tests.deployments.waiting import until

LIMITS = Limits(memory_bytes=64 << 20, tasks=10, processors=0.5)


@pytest.fixture
def own() -> Cgroups:
    try:
        return cgroups.find()
    except UnableToGroup as error:
        pytest.skip(str(error))


async def enter(group: Group, script: str) -> asyncio.subprocess.Process:
    """A shell in the group that runs the script."""
    join = 'for g in "$@"; do echo 0 > "$g"; done; '
    return await asyncio.create_subprocess_exec(
        "sh", "-c", join + script, "sh", *map(str, group.entrances)
    )


async def test_a_process_that_enters_a_group_is_limited_and_dies_with_it(own: Cgroups) -> None:
    group = own.make(LIMITS)
    process = await enter(group, "sleep 600 & wait")
    inside = group.folders[0] / "cgroup.procs"
    await until(lambda: len(inside.read_text().split()) == 2)
    await group.remove()
    assert await process.wait() == -9
    assert not any(folder.exists() for folder in group.folders)


async def test_a_process_over_the_memory_of_its_group_is_killed_and_the_group_says_so(
    own: Cgroups,
) -> None:
    if "memory" not in own.controllers:
        pytest.skip("no memory limits here")
    group = own.make(LIMITS)
    assert not group.ran_out_of_memory()
    process = await enter(group, f"exec {sys.executable} -c 'b\"x\" * (200 << 20)'")
    assert await process.wait() == -9
    assert group.ran_out_of_memory()
    await group.remove()


async def test_groups_of_a_killed_process_are_swept_and_those_of_living_ones_stay(
    own: Cgroups,
) -> None:
    living = own.make(LIMITS)
    dead = [tree.folder / f"{cgroups.PREFIX}{2**22 + 1}-1" for tree in own.hierarchies]
    for folder in dead:
        folder.mkdir()
    own.sweep()
    assert not any(folder.exists() for folder in dead)
    assert all(folder.exists() for folder in living.folders)
    await living.remove()


# --- Layouts ---------------------------------------------------------------------------------


def lay_out(root: Path, group: str, mounts: list[str]) -> Path:
    """A process's folder in /proc that says so."""
    proc = root / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(group)
    (proc / "mountinfo").write_text("".join(f"{mount}\n" for mount in mounts))
    return proc


def version_2(root: Path, *, path: str, processes: str, handed: str = "") -> Path:
    folder = root / "cg" / path
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
    (folder / "cgroup.subtree_control").write_text(handed)
    (folder / "cgroup.procs").write_text(processes)
    mount = f"30 20 0:26 / {root}/cg rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
    return lay_out(root, f"0::/{path}\n", [mount])


def test_version_2_limits_memory_swap_tasks_and_processors() -> None:
    tree = Hierarchy(2, Path("/"), ("memory", "pids", "cpu"))
    assert tree.settings(LIMITS) == {
        "memory.max": "67108864",
        "memory.swap.max": "0",
        "pids.max": "10",
        "cpu.max": "50000 100000",
    }


def test_version_2_hands_its_controllers_down_from_a_group_of_its_own(tmp_path: Path) -> None:
    proc = version_2(tmp_path, path="aig.service", processes=f"{os.getpid()}\n")
    folder = tmp_path / "cg/aig.service"
    (folder / cgroups.KEEPER).mkdir()
    # The files of a real group are the kernel's; here none appear, so no limits are found.
    with pytest.raises(UnableToGroup):
        cgroups.find(proc)
    assert (folder / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert (folder / cgroups.KEEPER / "cgroup.procs").read_text() == "0"


def test_version_2_leaves_a_group_that_others_share_alone(tmp_path: Path) -> None:
    proc = version_2(tmp_path, path="user.slice", processes=f"{os.getpid()}\n1\n")
    with pytest.raises(UnableToGroup, match="Delegate=yes"):
        cgroups.find(proc)
    assert (tmp_path / "cg/user.slice/cgroup.subtree_control").read_text() == ""


def test_a_machine_without_control_groups_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UnableToGroup, match="mount /sys/fs/cgroup writable"):
        cgroups.find(lay_out(tmp_path, "", []))


def test_running_out_of_memory_is_read_in_both_versions(tmp_path: Path) -> None:
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\n")
    assert Group([tmp_path]).ran_out_of_memory()
    (tmp_path / "memory.events").write_text("oom 1\noom_kill 0\n")
    assert not Group([tmp_path]).ran_out_of_memory()
