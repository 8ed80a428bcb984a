"""The walls of a room: what its process gives up, for good, before it reads a byte from a stranger.

Some operators of torch can be made to corrupt memory, so a room is held as if its client ran machine
code in it. Rooms have the uid of the gate, so permissions of files and processes tell them apart from
nothing. What does, on Linux and without any privilege:

- Landlock: files can be read that torch and Python are made of, and no others; nothing listens or
  connects by TCP or by an abstract socket; no signal leaves the process.
- A seccomp filter: the kernel refuses the calls below, by which a process changes files, starts others,
  looks into them, makes sockets, or reaches parts of the kernel that no operator needs. It is a list of
  what is denied, as a list of what is allowed would break with each new libc; calls that are newer than
  the list are denied as well.
- Limits on memory, time and files; no capabilities; no descriptors but those named; no environment.

Where the kernel has no Landlock or no seccomp, the rest stands (:func:`standing`). Not hidden by any
of it: whether a path exists, and how large the file is; which processes run.
Sources: landlock(7), seccomp(2), Linux' Documentation/userspace-api.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import struct
import sysconfig
from collections.abc import Collection, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import torch

from .. import limits

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _call(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | None) -> int:
    """Call the kernel. Raises OSError."""
    result: int = _libc.syscall(
        ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments)
    )
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


# ---- Landlock --------------------------------------------------------------------------------

_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
#: What a version of Landlock can restrict: rights to files, to TCP ports, and what may not leave the process.
_HANDLED = (
    (1, (1 << 13) - 1, 0, 0),
    (2, 1 << 13, 0, 0),  # links and renames between folders
    (3, 1 << 14, 0, 0),  # truncation
    (4, 0, 0b11, 0),  # TCP bind and connect
    (5, 1 << 15, 0, 0),  # ioctl of devices
    (6, 0, 0, 0b11),  # abstract sockets, signals
)

#: What is read beside code: the loader's table, random numbers, and what a processor can do.
_READABLE_FILES = ("/etc/ld.so.cache", "/dev/null", "/dev/urandom", "/proc/cpuinfo", "/sys/devices/system/cpu")
_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")


def _landlock_version() -> int:
    try:
        return _call(_LANDLOCK_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    except OSError:
        return 0


def _readable() -> set[Path]:
    """Return where torch, Python and this package are, and nothing that an owner put beside them."""
    installed = {Path(str(module.__file__)).parents[1] for module in (torch, np, msgspec)}
    python = (Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
    return {*installed, *python, Path(__file__).parents[1], *map(Path, (*_LIBRARIES, *_READABLE_FILES))}


def _ruleset(version: int) -> int:
    """Return the descriptor of rules by which what is readable can be read, and nothing else done."""
    handled = [row[1:] for row in _HANDLED if row[0] <= version]
    attributes = struct.pack("=3Q", *map(sum, zip(*handled, strict=True)))
    ruleset = _call(
        _LANDLOCK_CREATE_RULESET, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0
    )
    for path in _readable():
        if path.exists():
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rights = _READ_FILE | (_READ_DIR if path.is_dir() else 0)
            rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, place), 12)
            _call(_LANDLOCK_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0)
            os.close(place)
    return ruleset


# ---- seccomp ---------------------------------------------------------------------------------


class _Numbers(NamedTuple):
    """Of a system call, by machine; None where it does not have it."""

    x86_64: int | None
    aarch64: int | None


class _If(NamedTuple):
    """Of a call's argument: ``argument & mask`` is ``value``, or with ``other`` is anything else."""

    argument: int
    mask: int
    value: int
    other: bool = False


_N = _Numbers

# fmt: off
#: Calls that are refused, with EPERM.
_DENIED: Final = {
    # other programs, processes, threads
    "execve": _N(59, 221), "execveat": _N(322, 281), "fork": _N(57, None), "vfork": _N(58, None),
    "clone": _N(56, 220),
    # sockets; those that a room has are connected
    "socket": _N(41, 198), "socketpair": _N(53, 199), "connect": _N(42, 203), "bind": _N(49, 200),
    "listen": _N(50, 201), "accept": _N(43, 202), "accept4": _N(288, 242),
    # looking into other processes of the same uid
    "ptrace": _N(101, 117), "process_vm_readv": _N(310, 270), "process_vm_writev": _N(311, 271),
    "process_madvise": _N(440, 440), "process_mrelease": _N(448, 448), "kcmp": _N(312, 272),
    "pidfd_open": _N(434, 434), "pidfd_getfd": _N(438, 438), "pidfd_send_signal": _N(424, 424),
    # signals to them; abort() ends the room without
    "kill": _N(62, 129), "tkill": _N(200, 130), "tgkill": _N(234, 131),
    "rt_sigqueueinfo": _N(129, 138), "rt_tgsigqueueinfo": _N(297, 240),
    # slowing them down
    "setpriority": _N(141, 140), "ioprio_set": _N(251, 30), "sched_setparam": _N(142, 118),
    "sched_setscheduler": _N(144, 119), "sched_setattr": _N(314, 274), "sched_setaffinity": _N(203, 122),
    "migrate_pages": _N(256, 238), "move_pages": _N(279, 239), "sync": _N(162, 81), "syncfs": _N(306, 267),
    # taking memory that cannot be swapped out, locks of files that others wait for, the place in a session
    "mlock": _N(149, 228), "mlock2": _N(325, 284), "mlockall": _N(151, 230), "flock": _N(73, 32),
    "setsid": _N(112, 157), "setpgid": _N(109, 154),
    # memory shared with them by name, and queues; files without a name
    "shmget": _N(29, 194), "shmat": _N(30, 196), "shmctl": _N(31, 195), "msgget": _N(68, 186),
    "msgsnd": _N(69, 189), "msgrcv": _N(70, 188), "msgctl": _N(71, 187), "semget": _N(64, 190),
    "semop": _N(65, 193), "semctl": _N(66, 191), "semtimedop": _N(220, 192), "mq_open": _N(240, 180),
    "mq_unlink": _N(241, 181), "memfd_create": _N(319, 279), "memfd_secret": _N(447, 447),
    # changes of files, of which Landlock knows some only
    "creat": _N(85, None), "truncate": _N(76, 45), "ftruncate": _N(77, 46), "fallocate": _N(285, 47),
    "rename": _N(82, None), "renameat": _N(264, 38), "renameat2": _N(316, 276), "unlink": _N(87, None),
    "unlinkat": _N(263, 35), "rmdir": _N(84, None), "mkdir": _N(83, None), "mkdirat": _N(258, 34),
    "mknod": _N(133, None), "mknodat": _N(259, 33), "link": _N(86, None), "linkat": _N(265, 37),
    "symlink": _N(88, None), "symlinkat": _N(266, 36), "chmod": _N(90, None), "fchmod": _N(91, 52),
    "fchmodat": _N(268, 53), "fchmodat2": _N(452, 452), "chown": _N(92, None), "lchown": _N(94, None),
    "fchown": _N(93, 55), "fchownat": _N(260, 54), "setxattr": _N(188, 5), "lsetxattr": _N(189, 6),
    "fsetxattr": _N(190, 7), "removexattr": _N(197, 14), "lremovexattr": _N(198, 15), "fremovexattr": _N(199, 16),
    "utime": _N(132, None), "utimes": _N(235, None), "futimesat": _N(261, None), "utimensat": _N(280, 88),
    # watching files without opening them
    "inotify_init": _N(253, None), "inotify_init1": _N(294, 26), "inotify_add_watch": _N(254, 27),
    "fanotify_init": _N(300, 262), "fanotify_mark": _N(301, 263),
    "name_to_handle_at": _N(303, 264), "open_by_handle_at": _N(304, 265),
    # parts of the kernel that no operator needs, and in which holes were found
    "io_uring_setup": _N(425, 425), "io_uring_enter": _N(426, 426), "io_uring_register": _N(427, 427),
    "io_setup": _N(206, 0), "io_submit": _N(209, 2), "bpf": _N(321, 280), "perf_event_open": _N(298, 241),
    "userfaultfd": _N(323, 282), "keyctl": _N(250, 219), "add_key": _N(248, 217), "request_key": _N(249, 218),
    "vmsplice": _N(278, 75), "tee": _N(276, 77), "splice": _N(275, 76), "remap_file_pages": _N(216, 234),
    "modify_ldt": _N(154, None), "personality": _N(135, 92), "lookup_dcookie": _N(212, 18),
    "seccomp": _N(317, 277), "ioctl": _N(16, 29),
    # namespaces and mounts, in which an unprivileged process has privileges
    "unshare": _N(272, 97), "setns": _N(308, 268), "mount": _N(165, 40), "umount2": _N(166, 39),
    "pivot_root": _N(155, 41), "chroot": _N(161, 51), "move_mount": _N(429, 429), "open_tree": _N(428, 428),
    "fsopen": _N(430, 430), "fsconfig": _N(431, 431), "fsmount": _N(432, 432), "fspick": _N(433, 433),
    "mount_setattr": _N(442, 442), "swapon": _N(167, 224), "swapoff": _N(168, 225),
    "quotactl": _N(179, 60), "quotactl_fd": _N(443, 443),
    # the machine itself
    "acct": _N(163, 89), "syslog": _N(103, 116), "reboot": _N(169, 142), "sethostname": _N(170, 161),
    "setdomainname": _N(171, 162), "settimeofday": _N(164, 170), "clock_settime": _N(227, 112),
    "adjtimex": _N(159, 171), "clock_adjtime": _N(305, 266), "init_module": _N(175, 105),
    "finit_module": _N(313, 273), "delete_module": _N(176, 106), "kexec_load": _N(246, 104),
    "kexec_file_load": _N(320, 294), "iopl": _N(172, None), "ioperm": _N(173, None), "vhangup": _N(153, 58),
}
#: Calls whose flags stand in memory, where no filter sees them: with ENOSYS, libc takes the older ones.
_MISSING: Final = {"clone3": _N(435, 435), "openat2": _N(437, 437)}

_PR_SET_NAME = 15
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_TMPFILE & ~os.O_DIRECTORY
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY = 8, 10, 15, 1024, 1026
_ANY = 0xFFFFFFFF
#: Calls that are refused, with EPERM, if one of the conditions holds.
_DENIED_IF: Final = {
    "open": (_N(2, None), (_If(1, _WRITING, 0, other=True),)),
    "openat": (_N(257, 56), (_If(2, _WRITING, 0, other=True),)),
    "prctl": (_N(157, 167), (_If(0, _ANY, _PR_SET_NAME, other=True),)),  # above all: dumpable, death signal
    "prlimit64": (_N(302, 261), (_If(0, _ANY, 0, other=True),)),  # of another process
    # signals to another process, as news of a descriptor
    "fcntl": (_N(72, 25), tuple(_If(1, _ANY, n) for n in (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE, _F_NOTIFY))),
}
# fmt: on

_NEWEST_KNOWN = 456  # of the calls that these lists were made from; also what x86_64's second ABI has are above
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_CAPSET = {"x86_64": 126, "aarch64": 91}

_LOAD, _AND, _EQUAL, _GREATER, _RETURN = 0x20, 0x54, 0x15, 0x25, 0x06  # BPF instructions, on 32 bits
_KILL, _ALLOW, _EPERM, _ENOSYS = 0x80000000, 0x7FFF0000, 0x00050001, 0x00050026  # SECCOMP_RET_*
_AT_NUMBER, _AT_ARCH, _AT_ARGUMENTS = 0, 4, 16  # in struct seccomp_data; of an argument, its lower half
_SET_MODE_FILTER, _GET_ACTION_AVAIL = 1, 2


def _instruction(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)


def _filter(machine: str) -> bytes:
    """Compile the lists to the program that the kernel runs at each call."""
    column = _Numbers._fields.index(machine)

    def parts() -> Iterator[bytes]:
        yield _instruction(_LOAD, _AT_ARCH)
        yield _instruction(_EQUAL, _AUDIT_ARCH[machine], if_true=1) + _instruction(_RETURN, _KILL)
        yield _instruction(_LOAD, _AT_NUMBER)
        yield _instruction(_GREATER, _NEWEST_KNOWN, if_false=1) + _instruction(_RETURN, _ENOSYS)
        for calls, answer in ((_MISSING, _ENOSYS), (_DENIED, _EPERM)):
            for numbers in calls.values():
                number = numbers[column]
                if number is not None:
                    yield _instruction(_EQUAL, number, if_false=1) + _instruction(_RETURN, answer)
        for numbers, conditions in _DENIED_IF.values():
            number = numbers[column]
            if number is not None:
                body = b"".join(map(_refused_if, conditions)) + _instruction(_RETURN, _ALLOW)
                yield _instruction(_EQUAL, number, if_false=len(body) // 8) + body
        yield _instruction(_RETURN, _ALLOW)

    return b"".join(parts())


def _refused_if(condition: _If) -> bytes:
    return (
        _instruction(_LOAD, _AT_ARGUMENTS + 8 * condition.argument)
        + _instruction(_AND, condition.mask)
        + _instruction(_EQUAL, condition.value, if_true=condition.other, if_false=not condition.other)
        + _instruction(_RETURN, _EPERM)
    )


def _has_seccomp() -> bool:
    if platform.machine() not in _SECCOMP:
        return False
    action = ctypes.create_string_buffer(struct.pack("=I", _EPERM & 0xFFFF0000), 4)
    try:
        return _call(_SECCOMP[platform.machine()], _GET_ACTION_AVAIL, 0, action) == 0
    except OSError:
        return False


# ---- all together ----------------------------------------------------------------------------

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522


def standing() -> tuple[str, ...]:
    """Say which walls the rooms of this machine have, and which the kernel does not give."""
    version = _landlock_version()
    return (
        f"Landlock {version}" if version else "NO Landlock: a room can read what the node can",
        "seccomp" if _has_seccomp() else "NO seccomp: a room can reach the network and other processes",
        "limits",
    )


def forget_environment() -> None:
    """Overwrite the environment that this process was started with, which may hold an owner's passwords."""
    values = [value for value in vars(os.environ)["_data"].values() if len(value) > 1]  # Python shares shorter ones
    for value in values:
        ctypes.memset(id(value) + bytes.__basicsize__ - 1, 0, len(value))
    os.environ.clear()
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])  # env_start, env_end of proc_pid_stat(5)
    ctypes.memset(start, 0, end - start)


class Walls:
    """Made once, they are put up around any number of processes that are forked afterwards."""

    def __init__(self) -> None:
        version = _landlock_version()
        self._ruleset = _ruleset(version) if version else None
        self._filter = _filter(platform.machine()) if _has_seccomp() else b""

    def put_up(self, memory: int, cpu_seconds: int, keep: Collection[int]) -> None:
        """Put them up around this process; they cannot be taken down.

        Args:
            memory: address space in bytes.
            cpu_seconds: processor time.
            keep: descriptors that stay open.

        Raises:
            OSError: a wall does not stand that the kernel has.
            RuntimeError: there is a second thread, which Landlock would leave out. Fork first.
        """
        if len(list(Path("/proc/self/task").iterdir())) > 1:
            raise RuntimeError("walls go up around a process that has one thread only: fork first")
        if self._ruleset is not None:
            keep = {*keep, self._ruleset}
        _close_all_but(keep)
        bounds = {
            resource.RLIMIT_AS: memory,
            resource.RLIMIT_CPU: cpu_seconds,
            resource.RLIMIT_NOFILE: limits.ROOM_FILES,
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_FSIZE: 0,
        }
        for kind, bound in bounds.items():
            resource.setrlimit(kind, (bound, bound))
        for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_DUMPABLE, 0), (_PR_SET_NO_NEW_PRIVS, 1)):
            _libc.prctl(option, *map(ctypes.c_long, (value, 0, 0, 0)))
        machine = platform.machine()
        if machine in _CAPSET:
            _drop_capabilities(_CAPSET[machine])
        if self._ruleset is not None:
            _call(_LANDLOCK_RESTRICT_SELF, self._ruleset, 0)
            os.close(self._ruleset)
        if self._filter:
            _install(self._filter, _SECCOMP[machine])


def _close_all_but(keep: Collection[int]) -> None:
    for below, kept in pairwise((-1, *sorted(keep), os.sysconf("SC_OPEN_MAX"))):
        if kept - below > 1:  # an empty range that ends at 0 would be all of them
            os.closerange(below + 1, kept)


def _drop_capabilities(capset: int) -> None:
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), 8)
    _call(capset, header, ctypes.create_string_buffer(24))


def _install(program: bytes, seccomp: int) -> None:
    instructions = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    _call(seccomp, _SET_MODE_FILTER, 0, ctypes.create_string_buffer(described, len(described)))
