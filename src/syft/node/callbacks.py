"""Calls of a node's room to workers in its client's own process.

A node cannot dial its client, so these calls come down a session that the client has opened for
them, and their answers go up it. A node may use what its client pointed it to, and what it made of
that, and nothing else.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from weakref import WeakKeyDictionary

import torch

from .. import limits, wire
from ..errors import NotPermitted, SyftError
from ..guard import Guard
from ..messages import Get, Put, Release, Reply, Request, Retain, Retire, Run
from ..operators import BY_NAME
from ..wire import Frame, Reference
from ..worker import Worker, failure_of, refs
from ..workers import VirtualWorker, get_worker
from .channel import Channel
from .records import Answered, Batch
from .room import answer_batch

#: What reads, or makes room for, more of the memory behind a tensor than it shows.
_REACHING = ("aten::as_strided", "aten::resize_", "aten::set_")


class _Grant:
    """What a node may use at one worker, and what checks its operators there."""

    def __init__(self, worker: Worker) -> None:
        self.ids: set[int] = set()
        self._guard = Guard(worker.store, limits.ROOM_BYTES)

    def check(self, worker: Worker, message: Run) -> None:
        """Hold an operator to what a room would hold it to. Raises SyftError."""
        if message.operator.startswith(_REACHING):
            raise NotPermitted(f"a node may not run {message.operator} in its client's process", where=worker.id)
        kwargs = {name: worker.resolved(value) for name, value in message.kwargs.items()}
        self._guard.permit(BY_NAME[message.operator], worker.resolved(message.args), kwargs)


class Callbacks:
    """Answers the calls of the node ``node`` to virtual workers, once it is given a channel to it."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._calls: SimpleQueue[tuple[str, list[Frame]] | None] = SimpleQueue()
        # Of workers themselves: another that has the name of one which is gone has granted nothing.
        self._grants: WeakKeyDictionary[Worker, _Grant] = WeakKeyDictionary()

    def start(self, channel: Channel) -> None:
        """Answer over ``channel``, whose calls come to :meth:`called`."""
        threading.Thread(target=self._serve, args=(channel,), name=f"calls of {self._node}", daemon=True).start()

    def grant(self, worker: str, id: int) -> None:
        """Let the node use an object of a worker that is in this process. Raises WorkerNotFound."""
        here = get_worker(worker)
        if isinstance(here, VirtualWorker):
            if here._worker not in self._grants:
                self._grants[here._worker] = _Grant(here._worker)
            self._grants[here._worker].ids.add(id)

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
                    last = batch.first + len(batch.messages) - 1
                    answered = Answered(last, failure_of(error)) if batch.asks else None
                if answered is not None:
                    channel.request(Reply(name, answered.seq, answered.answer))
        except SyftError as error:  # the node is gone, or does not keep to the protocol
            channel.lose(error)
            channel.close()

    def _answer(self, name: str, batch: Batch) -> Answered | None:
        worker = get_worker(name)
        if not isinstance(worker, VirtualWorker) or worker._worker not in self._grants:
            raise self._refusal(name)
        here, grant = worker._worker, self._grants[worker._worker]
        granted = grant.ids

        def permit(message: Request) -> None:
            used, made = self._named_by(name, message)
            if not granted.issuperset(used) or any(id in here.store.objects and id not in granted for id in made):
                raise self._refusal(name)
            granted.update(made)
            if isinstance(message, Run):
                grant.check(here, message)

        answered = answer_batch(here, batch, permit=permit)
        self._forget(here, granted, batch)
        return answered

    def _named_by(self, worker: str, message: Request) -> tuple[list[int], tuple[int, ...]]:
        """Return the objects that a message uses, and those it makes. Raises NotPermitted."""
        match message:
            case Run():
                return [ref.id for ref in refs([message.args, *message.kwargs.values()])], message.results
            case Put(value=torch.Tensor()):
                return [], (message.id,)
            case Put(value=Reference() as reference) if reference.worker == self._node:
                return [], (message.id,)
            case Get():
                return [message.id], () if message.take_as is None else (message.take_as,)
            case Retain():
                return [message.id], ()
            case Retire():
                return list(message.ids), message.take_as
            case Release():
                return list(message.ids), ()
        raise self._refusal(worker)

    def _forget(self, worker: Worker, granted: set[int], batch: Batch) -> None:
        released = {id for message in batch.messages if isinstance(message, Release) for id in message.ids}
        granted.difference_update(released - worker.store.objects.keys())

    def _refusal(self, worker: str) -> NotPermitted:
        return NotPermitted(
            f"{self._node} may use what it was pointed to at {worker}, and what it makes of that, and nothing else",
            where=worker,
        )
