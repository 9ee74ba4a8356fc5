"""A tiny program that makes given system calls and tells what the kernel answered.

JavaScript cannot make system calls of its choice; a function that brings a native program can. The
self-test of isolation sends this one. Pure: it only builds the file (elf(5), syscall(2)).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

_LOADED_AT = 0x400000
_HEADERS_BYTES = 64 + 56  # of the file, and of its one segment
_RECORD = struct.Struct("<7q")  # number, six arguments; the number is replaced by the answer
_ELF_MACHINE = {"x86_64": 62, "aarch64": 183}


@dataclass(frozen=True)
class Call:
    """A system call: its numbers, and whole-number arguments."""

    name: str
    x86_64: int
    aarch64: int
    arguments: tuple[int, ...] = ()

    def record(self, machine: str) -> bytes:
        """As the program's table holds it."""
        number = self.x86_64 if machine == "x86_64" else self.aarch64
        return _RECORD.pack(number, *self.arguments, *[0] * (6 - len(self.arguments)))


# Waits for ever.
PAUSE = Call("ppoll", 271, 73)


def program(machine: str, calls: Sequence[Call]) -> bytes:
    """An executable for Linux on `machine` that makes the calls and prints the table."""
    table = b"".join(call.record(machine) for call in calls)
    code = _x86_64(len(calls)) if machine == "x86_64" else _aarch64(len(calls))
    size = _HEADERS_BYTES + len(code) + len(table)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(2, _ELF_MACHINE[machine], 1, _LOADED_AT + _HEADERS_BYTES, 64, 0, 0),
        *(64, 56, 1, 0, 0, 0),
    )
    readable_writable_executable = 7
    segment = struct.pack(
        "<IIQQQQQQ", 1, readable_writable_executable, 0, _LOADED_AT, _LOADED_AT, size, size, 4096
    )
    return header + segment + code + table


def answers(output: bytes, calls: Sequence[Call]) -> dict[str, int]:
    """Call -> what the kernel answered: negative, an error number."""
    rows = _RECORD.iter_unpack(output[: len(output) // _RECORD.size * _RECORD.size])
    return {call.name: row[0] for call, row in zip(calls, rows, strict=False)}


def _x86_64(count: int) -> bytes:
    loop = bytes.fromhex(
        "488b03 488b7b08 488b7310 488b5318 4c8b5320 4c8b4328 4c8b4b30"  # rax rdi rsi rdx r10 r8 r9
        "0f05 488903 4883c338 41ffcc"  # syscall; store; next record; count down
    )
    loop += bytes([0x75, 0x100 - len(loop) - 2])  # jnz loop
    leave = bytes.fromhex("b83c000000 31ff 0f05")  # exit(0)
    show = bytes.fromhex("b801000000 bf01000000")  # write(1, table, size)
    rest = b"\xba" + struct.pack("<I", count * _RECORD.size) + b"\x0f\x05" + leave
    show += b"\x48\x8d\x35" + struct.pack("<i", len(rest)) + rest
    begin = b"\x41\xbc" + struct.pack("<I", count)
    # lea rbx, [rip + distance to the table]
    return b"\x48\x8d\x1d" + struct.pack("<i", len(begin + loop + show)) + begin + loop + show


def _aarch64(count: int) -> bytes:
    supervisor_call = 0xD4000001
    words = [
        _adr(19, 20 * 4),  # x19: the table, behind these 20 instructions
        _movz(20, count),
        0xF9400268,  # ldr x8, [x19]
        0xA9408660,  # ldp x0, x1, [x19, #8]
        0xA9418E62,  # ldp x2, x3, [x19, #24]
        0xA9429664,  # ldp x4, x5, [x19, #40]
        supervisor_call,
        0xF8038660 & ~0x3F000 | 56 << 12,  # str x0, [x19], #56
        0xF1000694,  # subs x20, x20, #1
        0x54000001 | (-7 & 0x7FFFF) << 5,  # b.ne to the ldr x8
        _movz(8, 64),  # write(1, table, size)
        _movz(0, 1),
        _adr(1, (20 - 12) * 4),
        _movz(2, count * _RECORD.size),
        supervisor_call,
        _movz(8, 93),  # exit(0)
        _movz(0, 0),
        supervisor_call,
        0xD503201F,  # nop: the table stays aligned
        0xD503201F,
    ]
    return struct.pack(f"<{len(words)}I", *words)


def _movz(register: int, value: int) -> int:
    return 0xD2800000 | value << 5 | register


def _adr(register: int, distance: int) -> int:
    return 0x10000000 | (distance >> 2) << 5 | register
