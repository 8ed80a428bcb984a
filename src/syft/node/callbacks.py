"""Calls of a node's room to workers in its client's own process.

A node cannot dial its client, so these calls come down a session that the client has opened for
them, and their answers go up it. A node is a delegate of its client's, here as at other nodes.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue

from .. import limits, wire
from ..errors import LimitExceeded, NotPermitted, SyftError
from ..guard import Guard
from ..messages import Reply
from ..wire import Frame
from ..worker import failure_of
from ..workers import VirtualWorker, get_worker
from .channel import Channel
from .delegates import Delegate
from .records import Answered, Batch, size_of
from .room import answer_batch


class Callbacks:
    """Answers the calls of the node ``node`` to virtual workers, once it is given a channel to it."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._calls: SimpleQueue[tuple[str, list[Frame]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._waiting = 0  # bytes of what is in there
        self._delegates: dict[str, Delegate] = {}

    def start(self, channel: Channel) -> None:
        """Answer over ``channel``, whose calls come to :meth:`called`."""
        threading.Thread(target=self._serve, args=(channel,), name=f"calls of {self._node}", daemon=True).start()

    def called(self, worker: str, frames: list[Frame]) -> None:
        """Take an encoded batch for ``worker``, to be answered soon.

        Raises LimitExceeded: too much waits already. A node that keeps to the protocol waits for answers before.
        """
        size = size_of(frames)
        with self._lock:
            is_too_much = self._waiting > 0 and self._waiting + size > limits.ANSWER_BYTES
            if is_too_much or self._calls.qsize() >= limits.WAITING_CALLS:
                raise LimitExceeded("this node calls workers of yours faster than they answer", where=self._node)
            self._waiting += size
        self._calls.put((worker, frames))

    def close(self) -> None:
        """Answer no more."""
        self._calls.put(None)

    def _serve(self, channel: Channel) -> None:
        try:
            while (call := self._calls.get()) is not None:
                name, frames = call
                with self._lock:
                    self._waiting -= size_of(frames)
                batch = wire.decode(frames, Batch)
                try:
                    answered = self._answer(name, batch)
                except SyftError as error:  # that worker has been shut, or is none of this process
                    answered = Answered(batch.last, failure_of(error)) if batch.asks else None
                if answered is not None:
                    channel.request(Reply(name, answered.seq, answered.answer))
        except SyftError as error:  # the node is gone, or does not keep to the protocol
            channel.lose(error)
            channel.close()

    def _answer(self, name: str, batch: Batch) -> Answered | None:
        worker = get_worker(name)
        if not isinstance(worker, VirtualWorker):
            raise NotPermitted(f"{self._node} may use virtual workers of its client's process only", where=name)
        here = worker._worker
        known = self._delegates.get(name)
        if known is None or known.worker is not here:
            known = self._delegates[name] = Delegate(here, self._node, Guard(here.store, limits.ROOM_BYTES))
        return answer_batch(here, batch, delegate=known)
