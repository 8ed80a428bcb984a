"""Forks the rooms on a machine of a cluster: as on the gate's own machine, but for the connections.

The actors of the rooms (:class:`.cluster_driver.Keeper`) connect to it, each for one room, which ends
when its actor does. The fork server ends with the last of them.
"""

from __future__ import annotations

import ctypes
import os
import selectors
import signal
import socket
import struct
import sys
from contextlib import suppress
from typing import NoReturn

import msgspec

from .. import limits
from . import cluster_tls
from .engines import Order
from .forkserver import live, use_no_terminal, warm_up
from .records import SocketSource, read_record
from .walls import Walls

_PR_SET_PDEATHSIG = 1


class Details(msgspec.Struct):
    """Where the gate is, by what to know it, and by what it knows this room."""

    host: str
    port: int
    token: bytes
    certificate: str


class RemoteForkServer:
    """Forks a room for each actor that connects to ``listener``, until there are none."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._walls = Walls()
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._rooms: dict[socket.socket, int] = {}  # by actor, a descriptor of the room's process

    def run(self) -> None:
        """Serve until the last actor has gone, or none has come."""
        patience: float = limits.CONNECT_SECONDS
        while ready := self._selector.select(None if self._rooms else patience):
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._open()
                    patience = 0
                elif key.fileobj == self._rooms.get(key.data):
                    self._ended(key.data)
                elif key.data in self._rooms:  # it is the actor, which has gone
                    self._selector.unregister(key.data)
                    signal.pidfd_send_signal(self._rooms[key.data], signal.SIGKILL)

    def _open(self) -> None:
        actor, _ = self._listener.accept()
        actor.settimeout(limits.CONNECT_SECONDS)
        _, uid, _ = struct.unpack("3i", actor.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        details = actor.recv(limits.CLUSTER_MESSAGE_BYTES) if uid == os.getuid() else b""
        if not details:
            actor.close()
            return
        forkserver, pid = os.getpid(), os.fork()
        if pid == 0:
            self._live(forkserver, msgspec.json.decode(details, type=Details))
        self._rooms[actor] = os.pidfd_open(pid)
        self._selector.register(actor, selectors.EVENT_READ, actor)
        self._selector.register(self._rooms[actor], selectors.EVENT_READ, actor)

    def _ended(self, actor: socket.socket) -> None:
        """The room of an actor has ended: tell it."""
        process = self._rooms.pop(actor)
        os.waitid(os.P_PIDFD, process, os.WEXITED)
        self._selector.unregister(process)
        os.close(process)
        with suppress(KeyError):  # the actor was the first to go
            self._selector.unregister(actor)
        with actor, suppress(OSError):
            actor.send(b".")

    def _live(self, forkserver: int, details: Details) -> NoReturn:
        """Connect to the gate, wait for an order, and be the room."""
        status = 1
        try:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() == forkserver:
                for file in (self._listener, *self._rooms):
                    file.close()
                batches, calls = cluster_tls.connect(details.host, details.port, details.token, details.certificate)
                (frame,) = read_record(SocketSource(batches, ahead=0))
                keep = [batches.fileno(), calls.fileno()]
                live(msgspec.msgpack.decode(frame, type=Order), self._walls, batches, calls, keep=keep)
        except EOFError:
            status = 0  # the gate does not need it
        except BaseException:
            sys.excepthook(*sys.exc_info())  # to Ray's log
            raise
        finally:
            os._exit(status)


def main(listener: socket.socket) -> None:
    """Be a fork server, in a process of its own, which Ray does not count to an actor and end with it."""
    if os.fork():
        return
    use_no_terminal()
    warm_up()
    RemoteForkServer(listener).run()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[2])))
