"""The seccomp filter of functions: which system calls they may make at all.

An allow-list, compiled to the classic BPF that `bwrap --seccomp` loads (seccomp(2), struct
sock_filter of linux/filter.h). What Node.js and ordinary programs need is allowed, as in the
default profile of Docker (moby, profiles/seccomp/default_linux.go); everything else fails with
EPERM, and calls newer than this list with ENOSYS, so that libraries fall back to older ones. Pure:
no process is started here.
"""

import errno
import struct
from dataclasses import dataclass

# name:x86_64:aarch64, from the kernel's arch/x86/entry/syscalls/syscall_64.tbl and
# include/uapi/asm-generic/unistd.h
_ALLOWED = """
accept:43:202 accept4:288:242 access:21:- alarm:37:- arch_prctl:158:- bind:49:200 brk:12:214
capget:125:90 capset:126:91 chdir:80:49 chmod:90:- chown:92:- clock_getres:229:114
clock_gettime:228:113 clock_nanosleep:230:115 close:3:57 close_range:436:436 connect:42:203
copy_file_range:326:285 creat:85:- dup:32:23 dup2:33:- dup3:292:24 epoll_create:213:-
epoll_create1:291:20 epoll_ctl:233:21 epoll_pwait:281:22 epoll_pwait2:441:441 epoll_wait:232:-
eventfd:284:- eventfd2:290:19 execve:59:221 execveat:322:281 exit:60:93 exit_group:231:94
faccessat:269:48 faccessat2:439:439 fadvise64:221:223 fallocate:285:47 fchdir:81:50 fchmod:91:52
fchmodat:268:53 fchmodat2:452:452 fchown:93:55 fchownat:260:54 fcntl:72:25 fdatasync:75:83
fgetxattr:193:10 flistxattr:196:13 flock:73:32 fork:57:- fremovexattr:199:16 fsetxattr:190:7
fstat:5:80 fstatfs:138:44 fsync:74:82 ftruncate:77:46 futex:202:98 futex_requeue:456:456
futex_wait:455:455 futex_waitv:449:449 futex_wake:454:454 get_robust_list:274:100 getcpu:309:168
getcwd:79:17 getdents:78:- getdents64:217:61 getegid:108:177 geteuid:107:175 getgid:104:176
getgroups:115:158 getitimer:36:102 getpeername:52:205 getpgid:121:155 getpgrp:111:-
getpid:39:172 getppid:110:173 getpriority:140:141 getrandom:318:278 getresgid:120:150
getresuid:118:148 getrlimit:97:163 getrusage:98:165 getsid:124:156 getsockname:51:204
getsockopt:55:209 gettid:186:178 gettimeofday:96:169 getuid:102:174 getxattr:191:8
inotify_add_watch:254:27 inotify_init:253:- inotify_init1:294:26 inotify_rm_watch:255:28
ioprio_get:252:31 ioprio_set:251:30 kill:62:129 lchown:94:- lgetxattr:192:9 link:86:-
linkat:265:37 listen:50:201 listxattr:194:11 llistxattr:195:12 lremovexattr:198:15 lseek:8:62
lsetxattr:189:6 lstat:6:- madvise:28:233 membarrier:324:283 memfd_create:319:279 mincore:27:232
mkdir:83:- mkdirat:258:34 mlock:149:228 mlock2:325:284 mlockall:151:230 mmap:9:222
mprotect:10:226 mremap:25:216 mseal:462:462 msync:26:227 munlock:150:229 munlockall:152:231
munmap:11:215 nanosleep:35:101 newfstatat:262:79 open:2:- openat:257:56 openat2:437:437
pause:34:- pidfd_open:434:434 pidfd_send_signal:424:424 pipe:22:- pipe2:293:59
pkey_alloc:330:289 pkey_free:331:290 pkey_mprotect:329:288 poll:7:- ppoll:271:73 prctl:157:167
pread64:17:67 preadv:295:69 preadv2:327:286 prlimit64:302:261 pselect6:270:72 pwrite64:18:68
pwritev:296:70 pwritev2:328:287 read:0:63 readahead:187:213 readlink:89:- readlinkat:267:78
readv:19:65 recvfrom:45:207 recvmmsg:299:243 recvmsg:47:212 removexattr:197:14 rename:82:-
renameat:264:38 renameat2:316:276 restart_syscall:219:128 rmdir:84:- rseq:334:293
rt_sigaction:13:134 rt_sigpending:127:136 rt_sigprocmask:14:135 rt_sigqueueinfo:129:138
rt_sigreturn:15:139 rt_sigsuspend:130:133 rt_sigtimedwait:128:137 rt_tgsigqueueinfo:297:240
sched_get_priority_max:146:125 sched_get_priority_min:147:126 sched_getaffinity:204:123
sched_getattr:315:275 sched_getparam:143:121 sched_getscheduler:145:120
sched_rr_get_interval:148:127 sched_setaffinity:203:122 sched_setattr:314:274
sched_setparam:142:118 sched_setscheduler:144:119 sched_yield:24:124 select:23:- sendfile:40:71
sendmmsg:307:269 sendmsg:46:211 sendto:44:206 set_robust_list:273:99 set_tid_address:218:96
setfsgid:123:152 setfsuid:122:151 setgid:106:144 setgroups:116:159 setitimer:38:103
setpgid:109:154 setpriority:141:140 setregid:114:143 setresgid:119:149 setresuid:117:147
setreuid:113:145 setrlimit:160:164 setsid:112:157 setsockopt:54:208 setuid:105:146
setxattr:188:5 shutdown:48:210 sigaltstack:131:132 signalfd:282:- signalfd4:289:74 splice:275:76
stat:4:- statfs:137:43 statx:332:291 symlink:88:- symlinkat:266:36 sync:162:81
sync_file_range:277:84 syncfs:306:267 sysinfo:99:179 tee:276:77 tgkill:234:131 time:201:-
timer_create:222:107 timer_delete:226:111 timer_getoverrun:225:109 timer_gettime:224:108
timer_settime:223:110 timerfd_create:283:85 timerfd_gettime:287:87 timerfd_settime:286:86
times:100:153 tkill:200:130 truncate:76:45 umask:95:166 uname:63:160 unlink:87:- unlinkat:263:35
utime:132:- utimensat:280:88 utimes:235:- vfork:58:- vmsplice:278:75 wait4:61:260 waitid:247:95
write:1:64 writev:20:66
"""
_NEWEST = 462  # mseal, of Linux 6.10: numbers above are new calls, the same on both machines

# linux/audit.h
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# The calls whose arguments matter, by machine.
_CHECKED = {
    "x86_64": {"clone": 56, "socket": 41, "socketpair": 53, "ioctl": 16, "personality": 135},
    "aarch64": {"clone": 220, "socket": 198, "socketpair": 199, "ioctl": 29, "personality": 92},
}
_CLONE3 = 435  # its flags lie in memory, where a filter cannot look; libraries fall back to clone
_X32_BIT = 0x40000000

# linux/seccomp.h
ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

# linux/sched.h: any CLONE_NEW*
_NAMESPACES = 0x7E020000
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0  # os.networkInterfaces() asks it; it may change nothing without capabilities
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # typing into somebody's terminal
_PERSONALITIES = (0, 0xFFFFFFFF)  # Linux itself, and asking which

# linux/bpf_common.h: instructions on the 32-bit words of struct seccomp_data
_LOAD, _RETURN, _EQUAL, _ABOVE, _AT_LEAST, _ANY_BIT = 0x20, 0x06, 0x15, 0x25, 0x35, 0x45
_NR, _ARCH, _ARGUMENTS = 0, 4, 16


class UnableToFilter(Exception):
    """No list of system calls for this machine; the message is for the operator."""


@dataclass(frozen=True)
class Instruction:
    """One of struct sock_filter: jumps count the instructions to skip."""

    code: int
    operand: int
    if_true: int = 0
    if_false: int = 0

    @property
    def packed(self) -> bytes:
        """As the kernel reads it."""
        return struct.pack("=HBBI", self.code, self.if_true, self.if_false, self.operand)


def program(machine: str) -> bytes:
    """The filter for `machine` (as `uname -m` says). Raises UnableToFilter."""
    return b"".join(each.packed for each in instructions(machine))


def instructions(machine: str) -> list[Instruction]:
    """The filter, instruction by instruction. Raises UnableToFilter."""
    if machine not in _AUDIT_ARCH:
        raise UnableToFilter(
            f"Functions cannot be isolated on {machine}: the list of system calls knows "
            f"{' and '.join(_AUDIT_ARCH)}. Run them elsewhere, for example with AWS Lambda."
        )
    steps = [
        Instruction(_LOAD, _ARCH),
        Instruction(_EQUAL, _AUDIT_ARCH[machine], 1, 0),
        Instruction(_RETURN, KILL_PROCESS),
        Instruction(_LOAD, _NR),
    ]
    if machine == "x86_64":
        steps += _when(_AT_LEAST, _X32_BIT, [_refuse(errno.EPERM)])
    for first, last in _ranges(machine):
        steps += [
            Instruction(_AT_LEAST, first, 0, 2),
            Instruction(_ABOVE, last, 1, 0),
            Instruction(_RETURN, ALLOW),
        ]
    for name, check in _checks().items():
        steps += _when(_EQUAL, _CHECKED[machine][name], check)
    steps += _when(_EQUAL, _CLONE3, [_refuse(errno.ENOSYS)])
    steps += _when(_ABOVE, _NEWEST, [_refuse(errno.ENOSYS)])
    return [*steps, _refuse(errno.EPERM)]


def _checks() -> dict[str, list[Instruction]]:
    """What decides about a call by its arguments."""
    no_family = _refuse(errno.EAFNOSUPPORT)
    allow = Instruction(_RETURN, ALLOW)
    return {
        "clone": [_argument(0), *_when(_ANY_BIT, _NAMESPACES, [_refuse(errno.EPERM)]), allow],
        "socket": [
            _argument(0),
            *_allow_any(_AF_UNIX, _AF_INET, _AF_INET6),
            *_when(_EQUAL, _AF_NETLINK, [_argument(2), *_allow_any(_NETLINK_ROUTE), no_family]),
            no_family,
        ],
        "socketpair": [_argument(0), *_allow_any(_AF_UNIX), no_family],
        "ioctl": [
            _argument(1),
            *_when(_EQUAL, _TIOCSTI, [_refuse(errno.EPERM)]),
            *_when(_EQUAL, _TIOCLINUX, [_refuse(errno.EPERM)]),
            allow,
        ],
        "personality": [_argument(0), *_allow_any(*_PERSONALITIES), _refuse(errno.EPERM)],
    }


def _argument(index: int) -> Instruction:
    """Load the low half of an argument; both machines are little-endian."""
    return Instruction(_LOAD, _ARGUMENTS + 8 * index)


def _refuse(error: int) -> Instruction:
    return Instruction(_RETURN, _ERRNO | error)


def _when(test: int, operand: int, then: list[Instruction]) -> list[Instruction]:
    """`then`, which must end in returns, if the loaded word passes the test."""
    return [Instruction(test, operand, 0, len(then)), *then]


def _allow_any(*values: int) -> list[Instruction]:
    return [
        step for value in values for step in _when(_EQUAL, value, [Instruction(_RETURN, ALLOW)])
    ]


def _ranges(machine: str) -> list[tuple[int, int]]:
    """The allowed numbers as (first, last), ascending."""
    column = list(_AUDIT_ARCH).index(machine) + 1
    fields = [row.split(":") for row in _ALLOWED.split()]
    numbers = sorted(int(field[column]) for field in fields if field[column] != "-")
    ranges: list[tuple[int, int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges
