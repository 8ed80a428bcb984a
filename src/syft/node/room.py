"""A room: the process in which one client's objects are, and its operators run.

It has nothing but that: no keys, no network, no other client's bytes. It reads batches from the
gate's socket, one after another, and answers what is asked.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

import torch

from .. import limits, wire
from ..errors import IdInUse, LimitExceeded, SyftError
from ..guard import Guard
from ..messages import Answer, Put, Request, Run
from ..operators import BY_NAME
from ..transport import InProcess
from ..worker import Worker, encodable, failure_of, written_by
from ..workers import BaseWorker, become_local_worker, get_worker
from .channel import Channel
from .delegates import Delegate
from .records import Answered, Batch, Frames, SocketSource, send_record

#: Operators run below autograd, which is the caller's, and below what has a view keep the object that it is of.
_VIEWS = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)


def live(
    worker: str, objects: int, batches: socket.socket, calls: socket.socket, quota: int = limits.ROOM_BYTES
) -> None:
    """Answer batches until the gate hangs up; reach workers elsewhere by calls to the gate.

    At most ``objects`` objects, which take ``quota`` bytes together.
    """
    room = Worker(worker, get_worker)
    room.guard = Guard(room.store, quota)
    delegates: dict[str, Delegate] = {}
    become_local_worker(BaseWorker(worker, InProcess(room)), _Peers(calls).open)
    source = SocketSource(batches, files=True)
    with torch._C._AutoDispatchBelowAutograd(), torch._C._ExcludeDispatchKeyGuard(_VIEWS):
        while True:
            try:
                frames = source.read_record_with_files()
            except EOFError:
                return
            batch = wire.decode(frames, Batch)
            if batch.delegate and batch.delegate not in delegates:
                delegates[batch.delegate] = Delegate(room, batch.delegate, room.guard)
            answered = answer_batch(room, batch, objects, delegates.get(batch.delegate))
            if answered is not None:
                send_record(batches, _encoded(answered))


def _encoded(answered: Answered) -> list[wire.Frame]:
    """Encode an answer; one that cannot be becomes a failure."""
    try:
        return wire.encode(answered)
    except SyftError as error:
        return wire.encode(Answered(answered.seq, failure_of(error)))


class _Now:
    """What a room is doing."""

    message = 0  # by its number in the batches of who asks


_now = _Now()


class _Peers:
    """Workers elsewhere, each over a channel that the gate carries on."""

    def __init__(self, calls: socket.socket) -> None:
        self._calls = calls
        self._lock = threading.Lock()
        self._channels: dict[str, Channel] = {}
        threading.Thread(target=self._listen, name="answers to calls", daemon=True).start()

    def open(self, name: str) -> BaseWorker:
        """Return the worker ``name``, whom the gate will find or refuse when it is called."""
        carrier = _Caller(name, self._calls, self._lock)
        channel = self._channels[name] = Channel(name, carrier, asked_at=lambda: _now.message)
        return BaseWorker(name, channel)

    def _listen(self) -> None:
        source = SocketSource(self._calls, files=True)
        with suppress(EOFError, OSError):
            while True:
                name, *frames = source.read_record_with_files()
                channel = self._channels[bytes(name).decode()]
                try:
                    channel.arrived(frames)
                except SyftError as error:  # that worker does not keep to the protocol
                    channel.lose(error)


class _Caller:
    """Carries batches for one worker to the gate."""

    def __init__(self, name: str, calls: socket.socket, lock: threading.Lock) -> None:
        self._name, self._calls, self._lock = name, calls, lock

    def send(self, last: int, frames: Frames) -> None:
        with self._lock:
            send_record(self._calls, [self._name.encode(), *frames])

    def acknowledge(self, last: int) -> None:
        """The socket to the gate does not drop."""

    def close(self) -> None:
        """The socket serves the other workers as well."""


def answer_batch(
    room: Worker,
    batch: Batch,
    objects: int = limits.ROOM_OBJECTS,
    delegate: Delegate | None = None,
) -> Answered | None:
    """Handle all messages of a batch; return the answer to the last if it is asked for.

    Once there are as many ``objects``, nothing that makes more is run; nor is what a ``delegate`` may not ask for.
    A message that fails leaves its error in the place of what it would have made or written.
    """
    answer: Answer | None = None
    for number, message in enumerate(batch.messages, batch.first):
        _now.message = number
        if delegate is not None and (refusal := delegate.refusal(message)) is not None:
            refusal.asked_at = number
            answer = failure_of(refusal)
            continue
        try:
            wire.check_closed(message)
            if len(room.store.objects) >= objects and _makes_more(message):
                raise LimitExceeded(
                    f"a room takes {objects} objects", where=room.id, mend="Let go of pointers that you do not use."
                )
            if delegate is not None:
                delegate.check(message)
            answer = room.handle(message)
            if delegate is not None:
                delegate.let_use(answer)
        except SyftError as error:
            error.asked_at = error.asked_at or number
            answer = failure_of(error)
            if not isinstance(error, IdInUse):  # what has that id is another's
                for id in _touched(message):
                    room.store.fail(id, error)
        if delegate is not None:
            delegate.note(message)
    if answer is None or not batch.asks:
        return None
    return Answered(batch.first + len(batch.messages) - 1, encodable(answer))


def _makes_more(message: Request) -> bool:
    return isinstance(message, Put) or (isinstance(message, Run) and bool(message.results))


def _touched(message: Request) -> list[int]:
    """Name what a message would have made or written."""
    if isinstance(message, Put):
        return [message.id]
    if isinstance(message, Run):
        written = written_by(BY_NAME[message.operator], message) if message.operator in BY_NAME else []
        return [*message.results, *written]
    return []
