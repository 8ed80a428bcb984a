"""A room: the process in which one client's objects are, and its operators run.

It has nothing but that: no keys, no network, no other client's bytes, and one thread. It reads batches
from the gate's socket and answers what is asked.
"""

from __future__ import annotations

import select
from concurrent.futures import Future
from contextlib import suppress

import torch
from msgspec.structs import replace

from .. import limits, wire
from ..errors import IdInUse, LimitExceeded, SyftError
from ..guard import Guard
from ..messages import Answer, Put, Request, Retain, Run
from ..operators import BY_NAME
from ..transport import InProcess
from ..worker import Worker, encodable, failure_of, written_by
from ..workers import BaseWorker, become_local_worker, get_worker
from .channel import Channel
from .delegates import Delegate
from .records import Answered, Batch, Frames, FromGate, Line, send_record
from .turns import Turns, here

#: Operators run below autograd, which is the caller's, and below what has a view keep the object that it is of.
_VIEWS = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView)


def live(worker: str, objects: int, batches: Line, calls: Line, quota: int = limits.ROOM_BYTES) -> None:
    """Answer batches until the gate hangs up; reach workers elsewhere by calls to the gate.

    At most ``objects`` objects, which take ``quota`` bytes together.
    """
    with (
        torch._C._AutoDispatchBelowAutograd(),
        torch._C._ExcludeDispatchKeyGuard(_VIEWS),
        suppress(EOFError),
    ):
        _Room(worker, objects, batches, calls, quota).serve()


class _Room:
    """Does what it is asked, on one thread.

    While it waits for a worker elsewhere it goes on with what is called deeper along the chain: that worker, or
    one that it waits for, may call it.
    """

    def __init__(self, worker: str, objects: int, batches: Line, calls: Line, quota: int) -> None:
        self._worker = Worker(worker, get_worker)
        self._guard = self._worker.guard = Guard(self._worker.store, quota)
        self._objects, self._gate, self._calls = objects, batches, calls
        self._batches, self._answers = FromGate(batches), FromGate(calls)
        self._delegates: dict[str, Delegate] = {}
        self._channels: dict[str, Channel] = {}
        self._turns: Turns[Batch] = Turns()
        here.wait = self._wait
        become_local_worker(BaseWorker(worker, InProcess(self._worker)), self._open)

    def serve(self) -> None:
        """Answer until the gate hangs up. Raises EOFError: it has."""
        while True:
            self._receive()
            self._go_on()

    def _open(self, name: str) -> BaseWorker:
        """Return the worker ``name`` elsewhere, whom the gate will find or refuse when it is called."""
        carrier = _Caller(name, self._calls)
        channel = Channel(name, carrier, is_timed=False)
        self._channels[name] = channel
        return BaseWorker(name, channel)

    def _receive(self) -> None:
        """Take the next answer of a worker elsewhere, or else the next batch; or a piece. Raises EOFError."""
        sources = [self._answers, self._batches]
        ready = [source for source in sources if source.is_ahead] or select.select(sources, [], [])[0]
        if self._answers not in ready:
            if (record := self._batches.read()) is not None:
                batch = wire.decode(record, Batch)
                self._turns.add(batch.depth, batch)
            return
        if (record := self._answers.read()) is None:
            return
        name, *frames = record
        channel = self._channels[bytes(name).decode()]
        try:
            channel.arrived(frames)
        except SyftError as error:  # that worker does not keep to the protocol
            channel.lose(error)

    def _wait(self, answer: Future[Answer]) -> Answer:
        """Wait for an answer of a worker elsewhere."""
        self._flush()
        while not answer.done():
            self._receive()
            self._go_on()
        return answer.result()

    def _go_on(self) -> None:
        """Handle what has come, as far as it may begin."""
        while (batch := self._turns.begin()) is not None:
            answered = answer_batch(self._worker, batch, self._objects, self._delegate(batch.delegate))
            self._turns.end()
            if answered is not None:
                send_record(self._gate, _encoded(answered))
            self._flush()

    def _delegate(self, name: str) -> Delegate | None:
        if name and name not in self._delegates:
            self._delegates[name] = Delegate(self._worker, name, self._guard)
        return self._delegates.get(name)

    def _flush(self) -> None:
        """Send what has gathered for workers elsewhere."""
        for channel in list(self._channels.values()):
            channel.flush()


def _encoded(answered: Answered) -> list[wire.Frame]:
    """Encode an answer; one that cannot be becomes a failure."""
    try:
        return wire.encode(answered)
    except SyftError as error:
        return wire.encode(replace(answered, answer=failure_of(error)))


class _Caller:
    """Carries batches for one worker to the gate."""

    def __init__(self, name: str, calls: Line) -> None:
        self._name, self._calls = name, calls

    def send(self, last: int, frames: Frames) -> None:
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

    Once there are as many ``objects``, nothing that makes more is run; nor is what a ``delegate`` may not ask for;
    nor are more workers pointed to any than may be delegates.
    A message that fails leaves its error in the place of what it would have made or written.
    """
    answer: Answer | None = None
    grants = room.store.grants
    for number, message in enumerate(batch.messages, batch.first):
        here.message = number
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
            if isinstance(message, Retain) and message.to not in ("", *grants) and len(grants) >= limits.DELEGATES:
                raise LimitExceeded(f"{limits.DELEGATES} workers have been pointed to objects here", where=room.id)
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
    return Answered(batch.last, encodable(answer), delegate=batch.delegate)


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
