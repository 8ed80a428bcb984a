"""Calls of a node's room to workers in its client's own process.

A node cannot dial its client, so these calls come down a session that the client has opened for
them, and their answers go up it. A node is a delegate of its client's, here as at other nodes.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from enum import Enum, auto
from queue import SimpleQueue
from typing import NamedTuple

from .. import limits, wire
from ..errors import LimitExceeded, NotPermitted, SyftError
from ..guard import Guard
from ..messages import Answer, Reply
from ..wire import Frame
from ..worker import failure_of
from ..workers import VirtualWorker, get_worker
from .channel import Channel
from .delegates import Delegate
from .records import Answered, Batch, size_of
from .room import answer_batch
from .turns import Turns, here


class _Call(NamedTuple):
    worker: str
    batch: Batch
    size: int


class _Event(Enum):
    """What else than a call may come."""

    ANSWERED = auto()
    CLOSED = auto()


class Callbacks:
    """Answers the calls of the node ``node`` to virtual workers, once it is given a channel to it.

    On one thread: while that waits for an answer of a node it goes on with calls from deeper along the chain.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._events: SimpleQueue[_Call | _Event] = SimpleQueue()
        self._turns: Turns[_Call] = Turns()
        self._lock = threading.Lock()
        self._waiting = self._waiting_bytes = 0  # calls that have yet to begin
        self._delegates: dict[str, Delegate] = {}

    def start(self, channel: Channel) -> None:
        """Answer over ``channel``, whose calls come to :meth:`called`."""
        threading.Thread(target=self._serve, args=(channel,), name=f"calls of {self._node}", daemon=True).start()

    def called(self, worker: str, frames: list[Frame]) -> None:
        """Take an encoded batch for ``worker``, to be answered soon.

        Raises LimitExceeded: too much waits already. A node that keeps to the protocol waits for answers before.
        MalformedMessage.
        """
        size = size_of(frames)
        with self._lock:
            is_too_much = self._waiting > 0 and self._waiting_bytes + size > limits.ANSWER_BYTES
            if is_too_much or self._waiting >= limits.WAITING_CALLS:
                raise LimitExceeded("this node calls workers of yours faster than they answer", where=self._node)
            self._waiting += 1
            self._waiting_bytes += size
        self._events.put(_Call(worker, wire.decode(frames, Batch), size))

    def close(self) -> None:
        """Answer no more."""
        self._events.put(_Event.CLOSED)

    def _serve(self, channel: Channel) -> None:
        self._channel, here.wait = channel, self._wait
        while self._receive():
            self._go_on()

    def _wait(self, answer: Future[Answer]) -> Answer:
        answer.add_done_callback(lambda _: self._events.put(_Event.ANSWERED))
        while not answer.done():
            if not self._receive():
                self.close()  # for whoever serves the call that this is for
                break
            self._go_on()
        return answer.result()

    def _receive(self) -> bool:
        """Wait until something comes; tell whether more may."""
        event = self._events.get()
        if isinstance(event, _Call):
            self._turns.add(event.batch.depth, event)
        return event is not _Event.CLOSED

    def _go_on(self) -> None:
        """Answer what has come, as far as it may begin."""
        while (call := self._turns.begin()) is not None:
            with self._lock:
                self._waiting -= 1
                self._waiting_bytes -= call.size
            try:
                self._reply(call.worker, call.batch)
            except SyftError as error:  # the node is gone
                self._channel.lose(error)
                self._channel.close()
                self.close()
            self._turns.end()

    def _reply(self, worker: str, batch: Batch) -> None:
        """Raises WorkerShut."""
        try:
            answered = self._answer(worker, batch)
        except SyftError as error:  # that worker has been shut, or is none of this process
            answered = Answered(batch.last, failure_of(error)) if batch.asks else None
        if answered is not None:
            self._channel.request(Reply(worker, answered.seq, answered.answer))

    def _answer(self, name: str, batch: Batch) -> Answered | None:
        worker = get_worker(name)
        if not isinstance(worker, VirtualWorker):
            raise NotPermitted(f"{self._node} may use virtual workers of its client's process only", where=name)
        room = worker._worker
        known = self._delegates.get(name)
        if known is None or known.worker is not room:
            known = self._delegates[name] = Delegate(room, self._node, Guard(room.store, limits.ROOM_BYTES))
        return answer_batch(room, batch, delegate=known)
