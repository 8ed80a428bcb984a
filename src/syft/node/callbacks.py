"""Calls of a node's room to workers in its client's own process.

A node cannot dial its client, so these calls come down a session that the client has opened for
them, and their answers go up it. A node is a delegate of its client's, here as at other nodes.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue

from .. import limits, wire
from ..errors import NotPermitted, SyftError
from ..guard import Guard
from ..messages import Reply
from ..wire import Frame
from ..worker import failure_of
from ..workers import VirtualWorker, get_worker
from .channel import Channel
from .delegates import Delegate
from .records import Answered, Batch
from .room import answer_batch


class Callbacks:
    """Answers the calls of the node ``node`` to virtual workers, once it is given a channel to it."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._calls: SimpleQueue[tuple[str, list[Frame]] | None] = SimpleQueue()
        self._delegates: dict[str, Delegate] = {}

    def start(self, channel: Channel) -> None:
        """Answer over ``channel``, whose calls come to :meth:`called`."""
        threading.Thread(target=self._serve, args=(channel,), name=f"calls of {self._node}", daemon=True).start()

    def called(self, worker: str, frames: list[Frame]) -> None:
        """Take an encoded batch for ``worker``, to be answered soon."""
        self._calls.put((worker, frames))

    def close(self) -> None:
        """Answer no more."""
        self._calls.put(None)

    def _serve(self, channel: Channel) -> None:
        try:
            while (call := self._calls.get()) is not None:
                name, frames = call
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
