"""Proves, before functions run, that a launcher keeps them apart from this machine.

Starts a function that tries to get out (probe.py) and compares what it reached with what is
promised. Whoever runs functions calls `verify` first and refuses to run any when a row fails: a
kernel, a container or a policy that takes one layer away is noticed at the start, not in an
incident. Must not know the pool, nor any tenant.
"""

import asyncio
import base64
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.runtime import probe, system_calls
from deployments.runtime.driver import MEBIBYTE, Launcher, Place, UnableToLaunch
from deployments.runtime.local_bwrap import (
    CODE,
    SOCKETS,
    TASKS_MAX,
    TMP_BYTES_MAX,
    UIDS,
    LocalBwrap,
    environment_inside,
)
from deployments.runtime.probe import Bait
from deployments.runtime.system_calls import Call

TASKS_TRIED = 200
PIECES_TRIED = 25
PIECE_MB = 16
FOLDERS = ("/", "/dev", "/dev/shm", "/etc", "/proc/sys/kernel", "/run", "/usr/bin", "/var")  # noqa: S108

REMEDY = (
    "Functions need Linux, bubblewrap and util-linux. In Docker the container needs "
    "--cap-add SYS_ADMIN, --security-opt seccomp=unconfined and --security-opt "
    "apparmor=unconfined. Without root on Ubuntu 23.10 or newer, set "
    "kernel.apparmor_restrict_unprivileged_userns=0 or load a profile for bwrap. "
    "`manage.py check_isolation` shows every row."
)

_NEW_USER = 0x10000000  # CLONE_NEWUSER
_PACKET, _INET, _VSOCK, _ALG, _NETLINK, _RAW = 17, 2, 40, 38, 16, 3
# Arguments do no harm where the call is not refused.
REFUSED = (
    Call("unshare", 272, 97, (_NEW_USER,)),
    Call("setns", 308, 268, (-1, 0)),
    Call("clone3", 435, 435),
    Call("mount", 165, 40),
    Call("umount2", 166, 39),
    Call("pivot_root", 155, 41),
    Call("chroot", 161, 51),
    Call("fsopen", 430, 430),
    Call("open_tree", 428, 428),
    Call("move_mount", 429, 429),
    Call("mknodat", 259, 33, (-1,)),
    Call("ptrace", 101, 117, (16, 1)),
    Call("process_vm_readv", 310, 270, (1,)),
    Call("pidfd_getfd", 438, 438, (-1,)),
    Call("kcmp", 312, 272, (1, 1)),
    Call("bpf", 321, 280),
    Call("perf_event_open", 298, 241, (0, -1, -1, -1)),
    Call("userfaultfd", 323, 282, (-1,)),
    Call("io_uring_setup", 425, 425, (1,)),
    Call("keyctl", 250, 219, (0, -3)),
    Call("add_key", 248, 217),
    Call("open_by_handle_at", 304, 265, (-1,)),
    Call("init_module", 175, 105),
    Call("reboot", 169, 142),
    Call("swapon", 167, 224),
    Call("clock_settime", 227, 112),
    Call("sethostname", 170, 161, (0, -1)),
    Call("personality", 135, 92, (0x0400000,)),
    Call("setuid 0", 105, 146, (0,)),
    Call("setgid 0", 106, 144, (0,)),
    Call("setgroups", 116, 159, (0,)),
    Call("packet socket", 41, 198, (_PACKET, _RAW, 0)),
    Call("raw socket", 41, 198, (_INET, _RAW, 1)),
    Call("vsock socket", 41, 198, (_VSOCK, 1, 0)),
    Call("crypto socket", 41, 198, (_ALG, 5, 0)),
    Call("netlink socket", 41, 198, (_NETLINK, _RAW, 9)),
)
_REFUSALS = {-1, -38, -97}  # EPERM, ENOSYS, EAFNOSUPPORT
_NO_SUCH_USER = -22  # EINVAL: in a user namespace without root there is nobody to become


@dataclass(frozen=True)
class Finding:
    """One promise: what was expected, what the probe saw, and whether the promise holds."""

    row: str
    expected: str
    seen: str
    ok: bool


class NotIsolated(Exception):
    """Functions must not run here; the message says which promises fail and what to do."""


def require(findings: list[Finding]) -> None:
    """Raises NotIsolated unless every promise holds."""
    rows = [
        f"{each.row} (expected {each.expected}, saw {each.seen})"
        for each in findings
        if not each.ok
    ]
    if rows:
        raise NotIsolated(
            f"Functions are not isolated on this machine, so none will run: {'; '.join(rows)}. "
            f"{REMEDY}"
        )


async def verify(launcher: Launcher) -> list[Finding]:
    """Every promise, tried by real functions of `launcher`. Takes about a second.

    A launcher that cannot start the probe gives one finding, which says what it printed.
    """
    with tempfile.TemporaryDirectory(prefix="aig-") as folder:
        try:
            async with probe.lay_bait(Path(folder)) as bait:
                findings = await _look(launcher, bait)
                started, pieces = await asyncio.gather(
                    probe.run(launcher, bait, "multiply", most=TASKS_TRIED),
                    probe.run(launcher, bait, "remember", pieces=PIECES_TRIED),
                )
                return [*findings, _tasks(started), _memory(pieces)]
        except (UnableToLaunch, OSError, TimeoutError) as error:
            return [Finding("functions start", "an answer", str(error) or repr(error), False)]


async def _look(launcher: Launcher, bait: Bait) -> list[Finding]:
    """What one probe sees, and what is left when it is killed."""
    async with asyncio.timeout(probe.SECONDS_MAX), probe.start(launcher, bait, "look") as prober:
        seen = await prober.ask(
            "look",
            files=[str(bait.secret), "/etc/shadow", str(bait.tenant)],
            sockets=[str(bait.socket), bait.abstract_socket],
            port=bait.port,
            pid=os.getpid(),
            folders=[*FOLDERS, CODE, SOCKETS, str(bait.folder)],
            room=2 * TMP_BYTES_MAX,
            calls=probe.program_of(REFUSED),
        )
        if seen is None:
            raise UnableToLaunch("The probe failed.")
        await prober.ask("scatter")
        scattered = probe.processes_with(bait.token)
        users = {probe.user_of(pid) for pid in scattered}
        expected = environment_inside(prober.spec, Place(bait.folder, bait.folder))
    left = probe.processes_with(bait.token)
    probe.end_processes_with(bait.token)
    return [
        *_files(seen),
        *_network(seen),
        *_processes(seen, bait),
        _environment(seen["environment"], expected),
        *_privileges(seen),
        _user(launcher, users),
        Finding(
            "ends as a whole",
            "2 detached processes, none after the kill",
            f"{len(scattered)}, {len(left) or 'none'} after the kill",
            len(scattered) == 2 and not left,
        ),
    ]


def _refused(row: str, attempt: dict[str, Any]) -> Finding:
    return Finding(row, "an error", _text(attempt), "error" in attempt)


def _text(attempt: dict[str, Any]) -> str:
    return str(attempt.get("error", attempt.get("seen")))


def _files(seen: dict[str, Any]) -> Iterator[Finding]:
    secret, shadow, tenant = seen["files"]
    yield _refused("cannot read a file of the host", secret)
    yield _refused("cannot read the host's /etc/shadow", shadow)
    yield _refused("cannot read another tenant's code", tenant)
    places = [*seen["writable"], *(["its temporary folder"] if seen["temporary"] else [])]
    yield Finding(
        "writes nowhere but in its temporary folder",
        "its temporary folder",
        ", ".join(places) or "nowhere",
        places == ["its temporary folder"],
    )
    room = seen["room"].get("seen", 0)
    yield Finding(
        "its temporary folder is limited",
        f"at most {TMP_BYTES_MAX // MEBIBYTE} MB",
        f"{room // MEBIBYTE} MB" if room else _text(seen["room"]),
        0 < room <= TMP_BYTES_MAX,
    )


def _network(seen: dict[str, Any]) -> Iterator[Finding]:
    socket, abstract_socket = seen["sockets"]
    yield _refused("cannot use another's socket", socket)
    yield _refused("cannot use an abstract socket of the host", abstract_socket)
    yield _refused("cannot connect to the host's loopback", seen["loopback"])
    interfaces = seen["interfaces"].get("seen")
    yield Finding("has no network", "lo", _text(seen["interfaces"]), interfaces == ["lo"])


def _processes(seen: dict[str, Any], bait: Bait) -> Iterator[Finding]:
    names = set(seen["processes"]["names"])
    strangers = names - {"bwrap", "node", "MainThread", "calls"}
    yield Finding("sees no process of the host", "its own", ", ".join(sorted(names)), not strangers)
    # Inside, the service's number may be one of the sandbox's own processes.
    is_own = seen["signal"].get("seen") == "own" and not strangers
    yield Finding(
        "cannot signal the service",
        "an error",
        _text(seen["signal"]),
        is_own or "error" in seen["signal"],
    )
    others = ", ".join(f"process {pid}" for pid in seen["processes"]["environments"])
    yield Finding("reads nobody's environment", "none", others or "none", not others)
    tells = bait.token in seen["command"].get("seen", "")
    yield Finding(
        "process 1 tells no variable", "none", "a variable" if tells else "none", not tells
    )


def _environment(seen: dict[str, str], given: dict[str, str]) -> Finding:
    """The bootstrap takes its own variables away."""
    expected = {name: value for name, value in given.items() if not name.startswith("AIG_")}
    differing = sorted(
        name for name in expected.keys() | seen.keys() if expected.get(name) != seen.get(name)
    )
    return Finding(
        "environment exactly as given",
        f"{len(expected)} variables",
        f"differs in {', '.join(differing)}" if differing else f"{len(seen)} variables",
        not differing,
    )


def _privileges(seen: dict[str, Any]) -> Iterator[Finding]:
    expected = "0000000000000000, 1, 2"
    state = f"{seen['capabilities']}, {seen['privileges']}, {seen['filter']}"
    yield Finding("capabilities, no new ones, filter", expected, state, state == expected)
    output = base64.b64decode(seen["answers"].get("seen", ""))
    answers = system_calls.answers(output, REFUSED)
    allowed = [call.name for call in REFUSED if not _is_refusal(call, answers.get(call.name))]
    yield Finding(
        "system calls refused",
        f"{len(REFUSED)}",
        f"all but {', '.join(allowed)}" if allowed else f"{len(REFUSED)}",
        not allowed,
    )


def _is_refusal(call: Call, answer: int | None) -> bool:
    is_about_users = call.name in ("setuid 0", "setgid 0")
    return answer in _REFUSALS or (is_about_users and answer == _NO_SUCH_USER)


def _user(launcher: Launcher, users: set[int]) -> Finding:
    seen = ", ".join(str(uid) for uid in sorted(users)) or "nobody"
    if isinstance(launcher, LocalBwrap) and not launcher.has_own_users:
        return Finding("a user id of its own", "not available without root", seen, True)
    is_own = bool(users) and users <= set(UIDS)
    return Finding("a user id of its own", f"{UIDS.start} or more", seen, is_own)


def _tasks(started: int | None) -> Finding:
    seen = "no answer" if started is None else f"{started}"
    is_limited = started is not None and started < TASKS_MAX
    return Finding("processes are limited", f"fewer than {TASKS_MAX}", seen, is_limited)


def _memory(pieces: int | None) -> Finding:
    return Finding(
        f"memory is limited to {probe.MEMORY_MB} MB",
        f"no {PIECES_TRIED * PIECE_MB} MB",
        "refused" if pieces is None else f"{pieces * PIECE_MB} MB",
        pieces is None,
    )
