"""Runs attempts as a stranger with machine code in a room would: each in a process of its own, with walls or without.

A program: its input is JSON, the attempts ``behind`` walls and ``outside``, by name, and values by name; so
is its output, how each ended. An attempt is an expression over the names below and those of the values.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import resource
import socket
import sys

import torch

from syft import outline
from syft.node.walls import Walls, forget_environment

MEMORY, CPU_SECONDS = 8 << 30, 60
libc = ctypes.CDLL(None, use_errno=True)
libc.getenv.restype = ctypes.c_char_p


def check(result: int) -> int:
    """Raise the error of a call of libc's that failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def ioctl(descriptor: int, command: int, value: int) -> None:
    check(libc.ioctl(descriptor, ctypes.c_ulong(command), ctypes.byref(ctypes.c_int(value))))


def trace(process: int) -> None:
    seize, detach = 0x4206, 17
    check(libc.ptrace(seize, process, None, None))
    libc.ptrace(detach, process, None, None)


def machine_code(code: bytes) -> int:
    memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(code)
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()


def passed_file(connection: socket.socket) -> str:
    _, (file,), _, _ = socket.recv_fds(connection, 1, 1)
    with mmap.mmap(file, 0) as memory:
        memory[0:1] = b"P"
        return memory[:6].decode()


def start_a_thread() -> int:
    return int(
        libc.pthread_create(ctypes.byref(ctypes.c_ulong()), None, ctypes.cast(libc.pause, ctypes.c_void_p), None)
    )


def capabilities() -> list[int]:
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    check(libc.capget(header, data))
    return list(data)


def open_descriptors() -> int:
    return sum(1 for n in range(resource.getrlimit(resource.RLIMIT_NOFILE)[0]) if _is_open(n))


def _is_open(descriptor: int) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def operators() -> float:
    """Run what reads files at its first call: convolution, FFT, decompositions, operators on meta tensors."""
    torch.nn.functional.conv2d(torch.ones(1, 8, 32, 32), torch.ones(8, 8, 3, 3))
    torch.linalg.svd(torch.fft.fft(torch.eye(4)))
    torch.sparse.mm(torch.eye(3).to_sparse(), torch.eye(3))
    torch.nn.functional.gelu(torch.ones(2, device="meta"))
    return (torch.ones(64, 64) @ torch.ones(64, 64)).sum().item()


def main() -> None:
    attempts, values = json.load(sys.stdin)
    torch.set_num_threads(1)
    outline.warm()  # as the fork server does: some of what torch imports then writes files
    forget_environment()
    walls = Walls()
    around = {"behind": walls, "outside": None}
    outcomes = {
        place: {name: _attempt(around[place], code, values) for name, code in codes.items()}
        for place, codes in attempts.items()
    }
    print(json.dumps(outcomes))


def _attempt(walls: Walls | None, code: str, values: dict[str, object]) -> object:
    result, theirs = socket.socketpair()
    ours, kept = socket.socketpair()
    file = os.memfd_create("passed")
    os.write(file, b"passed")
    socket.send_fds(ours, [b"x"], [file])
    pid = os.fork()
    if pid == 0:
        try:
            if walls is not None:
                walls.put_up(MEMORY, CPU_SECONDS, {0, 1, 2, kept.fileno(), theirs.fileno()})
            outcome = eval(code, {**globals(), **values, "kept": kept})
        except OSError as error:
            outcome = {"errno": error.errno}
        except MemoryError:
            outcome = {"errno": "memory"}
        theirs.sendall(
            json.dumps(outcome if isinstance(outcome, (dict, bool, int, float, str, list)) else None).encode()
        )
        os._exit(0)
    theirs.close()
    kept.close()
    ours.close()
    os.close(file)
    outcome = result.makefile().read()
    _, status = os.waitpid(pid, 0)
    return json.loads(outcome) if outcome else {"signal": os.waitstatus_to_exitcode(status)}


if __name__ == "__main__":
    main()
