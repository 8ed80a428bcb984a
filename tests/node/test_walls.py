"""What a stranger who runs machine code in a room cannot do; and that operators can do all that they need."""

from __future__ import annotations

import errno
import json
import platform
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import syft as sy
from bench.processes import children
from syft.cli import app
from syft.node import walls
from syft.node.local import LocalNode

from ..helpers import written_memory
from . import intruder

pytestmark = pytest.mark.in_process

#: What is refused, as expressions over the names of ``intruder`` and of ``values``.
REFUSED = {
    # files
    "read a key": "open(key).read()",
    "read a key by libc": "check(libc.open(key.encode(), os.O_RDONLY))",
    "read data": "open(data).read()",
    "read the users": "open('/etc/passwd').read()",
    "read by a handle of the folder": "os.open('key.pem', os.O_RDONLY, dir_fd=os.open(folder, os.O_PATH))",
    "list a folder": "os.listdir(folder)",
    "list the processes": "os.listdir('/proc')",
    "read its own first environment": "open('/proc/self/environ').read()",
    "read another's environment": "open(f'/proc/{victim}/environ').read()",
    "read another's memory by a file": "open(f'/proc/{victim}/mem', 'rb').fileno()",
    "write a file": "open(data, 'w').close()",
    "append to a file": "open(data, 'a').close()",
    "create a file": "open(folder + '/new', 'w').close()",
    "create a file without a name": "os.open(folder, os.O_TMPFILE | os.O_RDWR)",
    "write to a device": "os.open('/dev/null', os.O_WRONLY)",
    "write where code is": "os.open(code, os.O_RDWR)",
    "truncate": "os.truncate(data, 0)",
    "change a mode": "os.chmod(key, 0o644)",
    "change an owner": "os.chown(key, os.getuid(), os.getgid())",
    "change times": "os.utime(key)",
    "rename": "os.rename(data, data)",
    "remove": "os.unlink(folder + '/spare')",
    "make a folder": "os.mkdir(folder + '/sub')",
    "make a link": "os.link(key, folder + '/link')",
    "make a symbolic link": "os.symlink(key, folder + '/symlink')",
    "make a pipe with a name": "os.mkfifo(folder + '/fifo')",
    "watch a folder": "check(libc.inotify_add_watch(check(libc.inotify_init()), folder.encode(), 0xFFF))",
    "make a file in memory": "os.memfd_create('x')",
    # the network
    "connect": "socket.create_connection(('127.0.0.1', port)).close()",
    "listen": "socket.create_server(('127.0.0.1', 0)).close()",
    "send a datagram": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "connect to a socket of this machine": "socket.socket(socket.AF_UNIX).connect(folder + '/socket')",
    "make an abstract socket": "socket.socket(socket.AF_UNIX).bind('\\0syft walls')",
    "make a pair of sockets": "[s.close() for s in socket.socketpair()]",
    # programs and processes
    "become another program": "os.execv('/bin/true', ['true'])",
    "start another program": "os.posix_spawn('/bin/true', ['true'], {})",
    "fork": "os.fork() or os._exit(0)",
    "signal another": "os.kill(victim, 0)",
    "signal a group": "os.killpg(os.getpgid(victim), 0)",
    "signal the parent": "os.kill(os.getppid(), 0)",
    "signal a thread of another": "check(libc.tgkill(victim, victim, 0))",
    "take hold of another": "os.pidfd_open(victim)",
    "have another signalled": "fcntl.fcntl(kept, fcntl.F_SETOWN, victim)",
    "have another signalled by a socket": "ioctl(kept.fileno(), 0x8901, victim)",  # FIOSETOWN
    "trace another": "trace(victim)",
    "read another's memory": "check(libc.process_vm_readv(victim, bytes(16), 0, bytes(16), 0, 0))",
    "write another's memory": "check(libc.process_vm_writev(victim, bytes(16), 0, bytes(16), 0, 0))",
    "limit another": "resource.prlimit(victim, resource.RLIMIT_CORE, (0, 0))",
    "slow another down": "os.setpriority(os.PRIO_PROCESS, victim, 19)",
    "bind another to a processor": "os.sched_setaffinity(victim, os.sched_getaffinity(victim))",
    "have all disks written": "check(libc.syncfs(os.open(code, os.O_RDONLY)))",
    "keep memory from others": "check(libc.mlockall(1))",
    "keep pages from others": "check(libc.mlock(ctypes.create_string_buffer(16), 16))",
    "lock a file": "fcntl.flock(os.open(code, os.O_RDONLY), fcntl.LOCK_SH)",
    "leave the session": "os.setsid() and None",
    "leave the group": "os.setpgid(0, 0)",
    "share memory by a number": "check(libc.shmget(0, 4096, 0o1600))",
    "make a queue": "check(libc.msgget(0, 0o1600))",
    # the kernel
    "make a namespace": "check(libc.unshare(0x10000000))",  # CLONE_NEWUSER
    "mount": "(check(libc.mount(b'none', folder.encode(), b'tmpfs', 0, None)), libc.umount2(folder.encode(), 2))",
    "change the root": "os.chroot(folder)",
    "change the personality": "check(libc.personality(0xFFFFFFFF))",
    "io_uring": "check(libc.syscall(425, 1, ctypes.create_string_buffer(120)))",
    "keys": "check(libc.syscall(dict(x86_64=250, aarch64=219)[os.uname().machine], 0, -3, 0))",
    # the walls
    "be looked into again": "check(libc.prctl(4, 1, 0, 0, 0))",
    "outlive the fork server": "check(libc.prctl(1, 0, 0, 0, 0))",
    "have all descriptors there are": "[os.open('/dev/null', os.O_RDONLY) for _ in range(300)] and None",
    "have all memory there is": "mmap.mmap(-1, 9 << 30) and None",
}
REFUSALS = (errno.EPERM, errno.EACCES, errno.EMFILE, errno.ENOMEM)

#: What is given, and what comes of it.
GIVEN = {
    "operators": ("operators()", 64.0**3),
    "random numbers": ("len(open('/dev/urandom', 'rb').read(4))", 4),
    "imports of what was not needed yet": ("__import__('torch._refs.linalg').__name__", "torch"),
    "no threads": ("start_a_thread()", errno.EPERM),
    "files that are passed": ("passed_file(kept)", "Passed"),
    "what was kept, and nothing else": ("open_descriptors()", 5),
    "no capabilities": ("capabilities()", [0] * 6),
    "no environment": ("[dict(os.environ), libc.getenv(b'HOME')]", [{}, None]),
    "no call that is newer than the walls": ("check(libc.syscall(1000))", {"errno": errno.ENOSYS}),
    "no call whose flags nobody sees": (
        "check(libc.syscall(437, -100, key.encode(), bytes(24), 24))",
        {"errno": errno.ENOSYS},
    ),
}


#: Ways to make the call getpid that x86_64 has beside its own.
OTHER_CONVENTIONS = {
    "32 bits": "machine_code(bytes.fromhex('b814000000cd80c3'))",  # mov eax, 20; int 0x80; ret
    "x32": "check(libc.syscall(0x40000000 + 39))",
} if platform.machine() == "x86_64" else {}  # fmt: skip


@pytest.fixture(scope="module")
def values(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, object]]:
    """An owner's files, something that listens, and a process of the owner's."""
    folder = tmp_path_factory.mktemp("owner")
    for name in ("key.pem", "data.csv", "spare"):
        (folder / name).write_text("secret")
    listening, local = socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX)
    local.bind(str(folder / "socket"))
    local.listen()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim, listening, local:
        yield {
            "folder": str(folder),
            "key": str(folder / "key.pem"),
            "data": str(folder / "data.csv"),
            "code": torch.__file__,
            "port": listening.getsockname()[1],
            "victim": victim.pid,
        }
        victim.kill()


@pytest.fixture(scope="module")
def outcomes(values: dict[str, object]) -> dict[str, dict[str, object]]:
    """How attempts end behind walls, and how those that are refused end without."""
    given = {name: code for name, (code, _) in GIVEN.items()}
    attempts = {"behind": {**REFUSED, **given, **OTHER_CONVENTIONS}, "outside": REFUSED}
    ended = subprocess.run(
        [sys.executable, intruder.__file__],
        input=json.dumps((attempts, values)),
        capture_output=True,
        text=True,
        check=True,
    )
    read: dict[str, dict[str, object]] = json.loads(ended.stdout)
    return read


@pytest.mark.parametrize("name", REFUSED)
def test_a_room_cannot(name: str, outcomes: dict[str, dict[str, object]]) -> None:
    assert outcomes["behind"][name] in [{"errno": number} for number in REFUSALS]
    if outcomes["outside"][name] == outcomes["behind"][name]:
        pytest.skip("nobody can on this machine")


@pytest.mark.parametrize("name", GIVEN)
def test_a_room_has(name: str, outcomes: dict[str, dict[str, object]]) -> None:
    assert outcomes["behind"][name] == GIVEN[name][1]


# ---- machine code, and the program that the kernel runs ----


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the machine code is x86_64's")
def test_calls_by_another_convention_are_no_way_out(outcomes: dict[str, dict[str, object]]) -> None:
    assert outcomes["behind"]["x32"] == {"errno": errno.ENOSYS}
    assert outcomes["behind"]["32 bits"] == {"signal": -signal.SIGSYS}


def run_filter(program: bytes, arch: int, number: int, arguments: tuple[int, ...] = (0, 0, 0)) -> int:
    """Run a filter as the kernel does; a plain reading of its documentation."""
    data = struct.pack("<IIQ6Q", number, arch, 0, *arguments, *[0] * (6 - len(arguments)))
    instructions = list(struct.iter_unpack("<HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, if_true, if_false, k = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x15:
            at += if_true if accumulator == k else if_false
        elif code == 0x25:
            at += if_true if accumulator > k else if_false
        else:
            assert code == 0x06
            return k


ALLOW, EPERM, ENOSYS, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS, 0x80000000
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}
#: (call, arguments, answer), of both machines
BY_ARGUMENTS = [
    ("openat", (0, 0, 0o2000000), ALLOW),  # O_CLOEXEC
    ("openat", (0, 0, 0o2000001), EPERM),
    ("openat", (0, 0, 0o2), EPERM),
    ("openat", (0, 0, 0o100), EPERM),
    ("openat", (0, 0, 0o1000), EPERM),
    ("openat", (0, 0, 0o20000000), EPERM),
    ("prctl", (15,), ALLOW),
    ("prctl", (4, 1), EPERM),
    ("prlimit64", (0, 7), ALLOW),
    ("prlimit64", (77, 7), EPERM),
    ("fcntl", (3, 1), ALLOW),
    *(("fcntl", (3, command), EPERM) for command in (8, 10, 15, 1024, 1026)),
]


@pytest.mark.parametrize("machine", ARCH)
def test_the_filter_of_each_machine_does_what_its_lists_say(machine: str) -> None:
    program, arch = walls._filter(machine), ARCH[machine]
    answers = {n: run_filter(program, arch, n) for n in range(600)}
    by_list = {getattr(numbers, machine): EPERM for numbers in walls._DENIED.values()}
    by_list |= {getattr(numbers, machine): ENOSYS for numbers in walls._MISSING.values()}
    conditional = {getattr(numbers, machine) for numbers, _ in walls._DENIED_IF.values()}
    newest = walls._NEWEST_KNOWN
    for n in answers.keys() - conditional:
        assert answers[n] == by_list.get(n, ALLOW if n <= newest else ENOSYS), n
    for name, arguments, answer in BY_ARGUMENTS:
        number = getattr(walls._DENIED_IF[name][0], machine)
        assert run_filter(program, arch, number, arguments) == answer, (name, arguments)
    for other in {*ARCH.values(), 0x40000003} - {arch}:
        assert {run_filter(program, other, n) for n in range(600)} == {KILL}


@pytest.mark.parametrize("machine", HEADERS)
def test_the_numbers_are_those_of_linux(machine: str) -> None:
    if not HEADERS[machine].exists():
        pytest.skip("the headers of Linux are not installed")
    text = HEADERS[machine].read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)\b", text)}
    table = {**walls._DENIED, **walls._MISSING, **{name: numbers for name, (numbers, _) in walls._DENIED_IF.items()}}
    named = {name: getattr(numbers, machine) for name, numbers in table.items()}
    assert {name: number for name, number in named.items() if name in known and number != known[name]} == {}
    assert [name for name, number in named.items() if number is None and name in known] == []


# ---- a room of a node ----


def test_what_rooms_are_forked_from_has_no_secrets(
    start: Callable[..., LocalNode], authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYFT_TEST_PASSWORD", "of-the-environment")
    (tmp_path / "data.csv").write_text("x\n1\n")
    config = tmp_path / "walled.toml"
    config.write_text('[[data]]\nname = "d"\npath = "data.csv"\ndescription = "of-the-config"\nuse = ["*"]\n')
    node = start("walled", config)
    sy.connect(node.address, certs=authority / "me").search()  # then it is forked, and ready
    (forkserver,) = children(node.process.pid)
    key = (authority / "walled" / "key.pem").read_bytes().splitlines()[1]
    for secret in (b"of-the-environment", b"of-the-config", key):
        assert not any(secret in part for part in written_memory(forkserver)), secret


def test_the_owner_is_told_which_walls_stand(
    start: Callable[..., LocalNode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "told.toml"
    config.touch()
    shown = CliRunner().invoke(app, ["status", "--config", str(start("told", config).config)])
    assert f"walls of rooms: {', '.join(walls.standing())}" in shown.output
    monkeypatch.setattr(walls, "_landlock_version", lambda: 0)
    monkeypatch.setattr(walls, "_has_seccomp", lambda: False)
    assert [wall.split(":")[0] for wall in walls.standing()] == ["NO Landlock", "NO seccomp", "limits"]


def test_walls_go_up_around_one_thread_only() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with pytest.raises(RuntimeError, match="fork first"):
        walls.Walls().put_up(2**40, 2**20, ())
    done.set()
    thread.join()
