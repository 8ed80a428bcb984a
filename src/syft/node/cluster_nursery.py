"""The process of a room on a cluster: made ready before there is a client, and then a room as any other.

What it needs to know to find the gate comes by its standard input, not its arguments, which other
users of the machine can read.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

import msgspec
import torch

from .. import outline
from . import lines
from .engines import Order
from .envelopes import SocketSource, read_record
from .nursery import live, use_no_terminal
from .walls import Walls, forget_environment

_PR_SET_PDEATHSIG = 1


class Details(msgspec.Struct):
    """Where the gate is, by what to know it, and by what it knows this room."""

    host: str
    port: int
    token: bytes
    certificate: str


def main(keeper: int) -> None:
    """Wait for an order, and be the room."""
    _end_with(keeper)
    details = msgspec.json.decode(sys.stdin.buffer.read(), type=Details)
    use_no_terminal()
    torch.set_num_threads(1)
    outline.warm()
    forget_environment()
    warm = os.getpid()
    if os.fork():  # walls go up around a process of one thread, and this one's libraries have started some
        os.wait()
        return
    _end_with(warm)
    batches, calls = lines.connect(details.host, details.port, details.token, details.certificate)
    try:
        (frame,) = read_record(SocketSource(batches))
    except (EOFError, OSError):
        return  # it was not needed
    keep = [connection.fileno() for line in (batches, calls) for connection in line.both]
    live(msgspec.msgpack.decode(frame, type=Order), Walls(), batches, calls, keep=keep)


def _end_with(parent: int) -> None:
    """Have the kernel end this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit()  # it has ended already


if __name__ == "__main__":
    main(int(sys.argv[1]))
