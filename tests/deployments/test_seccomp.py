"""The filter of system calls, run by a small machine of our own for every processor."""

import errno
from collections.abc import Sequence

import pytest

from deployments.runtime import isolation, seccomp
from deployments.runtime.seccomp import ALLOW, KILL_PROCESS, Instruction

MACHINES = ("x86_64", "aarch64")
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE = {"x86_64": 56, "aarch64": 220}
SOCKET = {"x86_64": 41, "aarch64": 198}
IOCTL = {"x86_64": 16, "aarch64": 29}
EXECVE = {"x86_64": 59, "aarch64": 221}
PTRACE = {"x86_64": 101, "aarch64": 117}


def run(program: Sequence[Instruction], arch: int, number: int, arguments: Sequence[int]) -> int:
    """What classic BPF answers for a call (linux/filter.h): only what filters use."""
    words = {0: number, 4: arch}
    words |= {16 + 8 * index: value & 0xFFFFFFFF for index, value in enumerate(arguments)}
    at, loaded = 0, 0
    while True:
        step = program[at]
        at += 1
        if step.code == 0x06:
            return step.operand
        if step.code == 0x20:
            loaded = words.get(step.operand, 0)
            continue
        test = {
            0x15: loaded == step.operand,
            0x25: loaded > step.operand,
            0x35: loaded >= step.operand,
            0x45: bool(loaded & step.operand),
        }[step.code]
        at += step.if_true if test else step.if_false


def answer(machine: str, number: int, *arguments: int, arch: int | None = None) -> int:
    """0 for allowed, else the error number, or the whole answer for a kill."""
    value = run(seccomp.instructions(machine), arch or ARCH[machine], number, arguments)
    if value == ALLOW:
        return 0
    return value if value == KILL_PROCESS else value & 0xFFFF


@pytest.mark.parametrize("machine", MACHINES)
def test_programs_and_threads_are_allowed_but_not_new_namespaces(machine: str) -> None:
    threads = 0x003D0F00  # what the C library asks for a thread
    assert answer(machine, EXECVE[machine]) == 0
    assert answer(machine, CLONE[machine], threads) == 0
    for namespace in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x40000000):
        assert answer(machine, CLONE[machine], threads | namespace) == errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("family", "protocol", "expected"),
    [
        (1, 0, 0),
        (2, 0, 0),
        (10, 0, 0),
        (16, 0, 0),  # which interfaces are there
        (16, 9, errno.EAFNOSUPPORT),  # audit
        (17, 0, errno.EAFNOSUPPORT),  # packets
        (38, 0, errno.EAFNOSUPPORT),  # cryptography in the kernel
        (40, 0, errno.EAFNOSUPPORT),  # the hypervisor
    ],
)
def test_sockets_are_for_unix_and_the_internet(
    machine: str, family: int, protocol: int, expected: int
) -> None:
    assert answer(machine, SOCKET[machine], family, 1, protocol) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_nobody_types_into_a_terminal(machine: str) -> None:
    assert answer(machine, IOCTL[machine], 0, 0x5412) == errno.EPERM
    assert answer(machine, IOCTL[machine], 0, 0x541C) == errno.EPERM
    assert answer(machine, IOCTL[machine], 0, 0x5401) == 0


@pytest.mark.parametrize("machine", MACHINES)
def test_calls_that_the_list_does_not_know_are_refused(machine: str) -> None:
    assert answer(machine, PTRACE[machine]) == errno.EPERM
    assert answer(machine, 435) == errno.ENOSYS  # clone3: libraries fall back to clone
    assert answer(machine, 463) == errno.ENOSYS
    assert answer(machine, 100_000) == errno.ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_another_machines_calls_kill(machine: str) -> None:
    i386 = 0x40000003
    assert answer(machine, EXECVE[machine], arch=i386) == KILL_PROCESS


def test_x32_calls_are_refused() -> None:
    assert answer("x86_64", 0x40000000 | 1) == errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
def test_what_the_self_test_expects_refused_is_not_on_the_list(machine: str) -> None:
    by_kernel = {"setuid 0", "setgid 0", "setgroups", "raw socket"}  # for want of capabilities
    for call in isolation.REFUSED:
        number = call.x86_64 if machine == "x86_64" else call.aarch64
        is_refused = answer(machine, number, *call.arguments) in (
            errno.EPERM,
            errno.ENOSYS,
            errno.EAFNOSUPPORT,
        )
        assert is_refused == (call.name not in by_kernel), call.name


def test_an_unknown_machine_is_refused_with_a_way_out() -> None:
    with pytest.raises(seccomp.UnableToFilter, match="cannot be isolated on riscv64"):
        seccomp.program("riscv64")


def test_a_program_fits_the_kernels_limit() -> None:
    assert all(len(seccomp.instructions(machine)) <= 4096 for machine in MACHINES)
    assert len(seccomp.program("x86_64")) == 8 * len(seccomp.instructions("x86_64"))
