"""The fork server: a warm process, with torch imported and nothing else, that rooms are forked from.

It is forked itself before any key is read, so that no room inherits one.
The gate asks it for a room by sending it the room's end of a socket.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from types import ModuleType
from typing import Any, NamedTuple, NoReturn

import msgspec
import torch

from .. import limits, outline
from ..errors import WorkerShut
from . import room
from .engines import Death, Order
from .records import Line
from .walls import Walls, forget_environment

_FAILED, _OUT_OF_MEMORY = 1, 2  # exit codes of rooms


class Reaped(NamedTuple):
    """How a process ended: with which exit code, or by which signal, -n; and its processor time."""

    code: int
    cpu_seconds: float


def _reason(code: int, *, is_out_of_time: bool) -> tuple[str, str]:
    """Return why a room ended, as :class:`.engines.Death` has it."""
    if code >= 0:
        return "memory" if code == _OUT_OF_MEMORY else "failed", f"exit code {code}"
    details = f"signal {-code}: {signal.strsignal(-code)}"
    if is_out_of_time and code in (-signal.SIGKILL, -signal.SIGXCPU):
        return "time", details
    return "killed" if code in (-signal.SIGKILL, -signal.SIGTERM) else "crashed", details


class Forked:
    """A room's process that was forked here; see :class:`.engines.Process`. Raises OSError: too many files are open."""

    def __init__(
        self, pid: int, batches: socket.socket, calls: socket.socket, order: Order, reap: Callable[[int], Reaped | None]
    ) -> None:
        self.pid, self.batches, self.calls = pid, batches, calls
        self._order, self._reap = order, reap
        self.place = f"process {pid}"
        self._descriptor = os.pidfd_open(pid)

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def hang_up(self) -> None:
        """End both connections."""
        for connection in (self.batches, self.calls):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def death(self) -> Death:
        """Tell why it ended."""
        end = select.poll()
        end.register(self._descriptor)
        end.poll(1000 * limits.CONNECT_SECONDS)
        try:
            reaped = self._reap(self.pid)
        except OSError:
            return Death("lost", "the process that starts rooms has ended")
        if reaped is None:
            return Death("lost", "it was killed and does not end")
        code, cpu_seconds = reaped
        return Death(*_reason(code, is_out_of_time=cpu_seconds >= self._order.cpu_seconds - 1), cpu_seconds)

    def close(self) -> None:
        """Close both connections, and forget the process."""
        self.batches.close()
        self.calls.close()
        os.close(self._descriptor)


class ForkServer:
    """The gate's side: start it once, before threads; then :meth:`open_room`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.collect()
        gc.freeze()  # what either side's collector writes to is no longer shared with the other
        self._pid = os.fork()
        if self._pid == 0:
            self._orders.close()
            _be(_run, theirs)
        theirs.close()
        self.end = os.pidfd_open(self._pid)

    def ready(self) -> None:
        """Nothing: orders wait for it."""

    def open_room(self, order: Order) -> Forked:
        """Fork a room. Raises WorkerShut."""
        try:
            with ExitStack() as ours, ExitStack() as theirs:
                batches, its_batches = _pair(ours, theirs)
                calls, its_calls = _pair(ours, theirs)
                with self._lock:
                    fds = [its_batches.fileno(), its_calls.fileno()]
                    socket.send_fds(self._orders, [msgspec.msgpack.encode(order)], fds)
                    pid = int.from_bytes(self._orders.recv(8), "big")
                if not pid:
                    raise ProcessLookupError("no process for it")
                try:
                    room = Forked(pid, batches, calls, order, self._reap)
                except OSError:
                    self._reap(pid)
                    raise
                ours.pop_all()
                return room
        except OSError as error:
            raise WorkerShut(
                f"this node cannot open a room: {error}", where=order.worker, mend="Tell its owner, or try again later."
            ) from error

    def _reap(self, pid: int) -> Reaped | None:
        """Ask how a room's process ended; None if it has not. It is forgotten, now or when it ends.

        Raises OSError: there is no fork server.
        """
        with self._lock:
            self._orders.send(msgspec.msgpack.encode(pid))
            answer = self._orders.recv(64)
        if not answer:
            raise ConnectionResetError
        return msgspec.msgpack.decode(answer, type=Reaped | None)

    def close(self) -> None:
        """Let the fork server end, and with it every room."""
        self._orders.close()
        os.close(self.end)
        os.waitpid(self._pid, 0)


def _pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
    mine, its = socket.socketpair()
    for end in (mine, its):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.ROOM_SOCKET_BYTES)
    return ours.enter_context(mine), theirs.enter_context(its)


def _run(orders: socket.socket) -> None:
    """Get ready, and serve until the gate hangs up, be it in the middle of an answer."""
    for number in (signal.SIGINT, signal.SIGHUP):  # of a terminal, and the gate's to handle
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who ended, and how, is kept until the gate asks
    use_no_terminal()
    warm_up()
    with suppress(ConnectionError):
        _serve(orders, Walls())


def _serve(orders: socket.socket, walls: Walls) -> None:
    """Fork a room for each order, and tell how they ended."""
    late: list[int] = []  # rooms that had not ended when the gate asked how they did
    while True:
        data, fds, _, _ = socket.recv_fds(orders, limits.ORDER_BYTES, 2)
        if not data:
            return
        late = [pid for pid in late if _reaped(pid) is None]
        order = msgspec.msgpack.decode(data, type=Order | int)
        if isinstance(order, int):
            reaped = _reaped(order)
            if reaped is None:
                late.append(order)
            orders.send(msgspec.msgpack.encode(reaped))
            continue
        pid = _fork() if len(fds) == 2 else -1  # fewer: as many files as may be are open
        if pid == 0:
            sockets = [socket.socket(fileno=fd) for fd in fds]
            live(order, walls, *sockets, keep=fds)
        for fd in fds:
            os.close(fd)
        orders.send(max(pid, 0).to_bytes(8, "big"))


def _fork() -> int:
    """As os.fork; -1 if the machine has no room for another process."""
    try:
        return os.fork()
    except OSError:
        return -1


def _reaped(pid: int) -> Reaped | None:
    """Forget a process that has ended, and tell how it did; None if it has not."""
    ended, status, usage = os.wait4(pid, os.WNOHANG)
    return Reaped(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime) if ended else None


def warm_up() -> None:
    """Import now what rooms will need, and forget what they must not know.

    Functions that torch runs on ``meta`` tensors would import its compiler, which takes a second and
    70 MB, only to have it leave them alone. Rooms compile nothing; they get one that can do just that.
    """
    compiler = ModuleType("torch._dynamo")
    vars(compiler)["disable"] = lambda function, *args, **kwargs: function
    sys.modules[compiler.__name__] = compiler
    torch.set_num_threads(1)
    outline.warm()
    forget_environment()


def use_no_terminal() -> None:
    """Read nothing and print nowhere, whatever the node's own input and output are."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1):
        os.dup2(null, standard)
    os.close(null)


def _be(work: Callable[..., None], *arguments: Any) -> NoReturn:
    """Do what this process is for, and end it, whatever that raises."""
    code = _FAILED
    try:
        work(*arguments)
        code = 0
    except BaseException as error:
        code = _OUT_OF_MEMORY if isinstance(error, MemoryError) else _FAILED
        sys.excepthook(*sys.exc_info())  # to the owner's log
        raise
    finally:
        os._exit(code)


def live(order: Order, walls: Walls, batches: Line, calls: Line, *, keep: Collection[int]) -> NoReturn:
    """Be a room, behind walls; ``keep`` are the descriptors of its sockets. What raises ends the room, and only it."""
    _be(_live, order, walls, batches, calls, keep)


def _live(order: Order, walls: Walls, batches: Line, calls: Line, keep: Collection[int]) -> None:
    walls.put_up(order.memory, order.cpu_seconds, keep={0, 1, 2, *keep})
    torch.seed()
    with suppress(ConnectionError):
        room.live(order.worker, order.objects, batches, calls, order.bytes)
