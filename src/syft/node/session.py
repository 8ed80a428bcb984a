"""A session: one client program's, or a delegate's, a worker elsewhere that runs a chain's operators for the client.

Its batches go on to the room, the room's answers come back, and both are kept until the other side
has them, so that a connection may drop in between and nothing is lost or run twice.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

from .. import limits, wire
from ..errors import LimitExceeded, MalformedMessage, NotPermitted, SyftError, WorkerShut
from ..messages import Done, Get, Retire, Search
from ..wire import Frame, Id, Name
from .connection import Outbox
from .counts import Counts
from .records import FOR_THE_GATE, Answered, Batch, Frames, PacketSource, RawBatch, header, peek_tag, size_of
from .release import Movement, ShapeToCaller, ToCaller, ToWorker
from .tenancy import ANSWERS, Tenancy, with_policies

_log = logging.getLogger(__name__)

#: What a connection sends; an error is what ends the session.
Stream = Outbox[Frames]

#: Messages that go to the room as they are.
_FOR_THE_ROOM = ANSWERS.keys()

#: Of those, after which the room no longer has what it had.
_TAKING = {b"retire", b"clear"}


class Gate(Protocol):
    """What a session asks of its gate."""

    counts: Counts

    def answer(self, session: Session, last: int, message: Any) -> None:
        """Answer the ``last``-th message of the session, which is not for the room."""

    def approved(self, request: str, last: int) -> Frames:
        """Return, as the answer to the ``last``-th message, a value that the owner let out by hand."""


class Session:
    """The batches of one caller into a room, and the answers that have not yet arrived."""

    def __init__(self, caller: str, tenancy: Tenancy, gate: Gate) -> None:
        self.caller, self.tenancy = caller, tenancy
        self._gate = gate
        self._turn = threading.Lock()  # one batch after another, whichever connection it comes by
        self._lock = threading.Lock()
        self._read = threading.Condition(self._lock)
        self.accepted = 0
        self._answers: deque[Frames] = deque()
        self._forgotten = 0  # answers that the caller has received, and that are no longer kept
        self._unread = 0  # bytes of answers that wait for the connection
        self._kept = 0  # bytes of all that are kept
        self._stream: Stream = Outbox(lambda frames: False)
        self._grace: threading.Timer | None = None
        self._ending: SyftError | None = None

    def attach(self, received: int, at_once: Callable[[Frames], bool], ended: Callable[[], None]) -> Stream:
        """Take over for a new connection, whose caller has ``received`` answers; give its stream of records.

        Raises SyftError: the session has ended.
        """
        with self._lock:
            if self._ending is not None:
                raise self._ending.again()
            if self._grace is not None:
                self._grace.cancel()
            self._stream.end()  # the old connection's, if one is left
            self._stream = Outbox(at_once, ended)
            self._forget(received)
            self._unread = sum(map(size_of, self._answers))
            for frames in self._answers:
                self._stream.put(frames)
            self._read.notify_all()
            return self._stream

    def detach(self, stream: Stream, seconds: float, end: Callable[[], None]) -> None:
        """The connection of ``stream`` is gone: call ``end`` after the grace period, unless the caller comes back."""

        def expire() -> None:
            if self.finish(away(self.tenancy.room.worker), stream):
                end()

        with self._lock:
            if stream is not self._stream or self._ending is not None:
                return
            self._grace = threading.Timer(seconds, expire)
            self._grace.daemon = True
            try:
                self._grace.start()
                return
            except RuntimeError as error:  # with no room for another thread there is none to end it later
                _log.error("%s cannot be waited for: %s", self.caller, error)
        expire()

    def finish(self, ending: SyftError | None, stream: Stream | None = None) -> bool:
        """End the session, if ``stream`` is still its stream; tell whether this did it. The caller hears ``ending``."""
        with self._lock:
            if self._ending is not None or (stream is not None and stream is not self._stream):
                return False
            self._ending = ending or away(self.tenancy.room.worker)
            if self._grace is not None:
                self._grace.cancel()
            self._stream.end(ending)
            self._read.notify_all()
            return True

    def await_ending(self, seconds: float) -> SyftError | None:
        """Return what ended the session, waiting for so long."""
        with self._lock:
            self._read.wait_for(lambda: self._ending is not None, seconds)
            return self._ending

    def forward(self, head: Frame, source: PacketSource, lengths: Sequence[int]) -> AbstractContextManager[Frames]:
        """Have the large frames of a batch go to the room as they come; :meth:`accept` it in the meantime.

        Raises as the source does, and as :meth:`.tenancy.Tenancy.enter`.
        """
        batch = wire.unpack(head, RawBatch)
        if self.caller != self.tenancy.client:
            self.tenancy.enter(batch.policies)  # before any of what they are for
        is_reply = [peek_tag(message) for message in batch.messages] == [b"reply"]
        return self.tenancy.room.forward(source, lengths, as_answer=is_reply)

    def accept(self, frames: Frames) -> bool:
        """Take a batch, unless it was taken before; tell whether more will come.

        Raises MalformedMessage; LimitExceeded; SyftError: the session has ended.
        """
        batch = wire.unpack(header(frames), RawBatch)
        with self._lock:
            if self._ending is not None:
                raise self._ending.again()
            self._forget(batch.received)
            if len(self._answers) > limits.KEPT_ANSWERS:  # of the gate's own, which do not wait
                raise LimitExceeded(
                    f"{limits.KEPT_ANSWERS} answers have been sent, and you do not say that they have arrived",
                    where=self.tenancy.room.worker,
                )
        if not batch.messages:
            return not batch.asks
        last = batch.first + len(batch.messages) - 1
        with self._turn:
            if last > self.accepted:
                if self.accepted and batch.first != self.accepted + 1:
                    raise MalformedMessage("a batch is missing", where=self.tenancy.room.worker)
                self.accepted = last
                self._gate.counts.took(len(batch.messages), size_of(frames))
                self._pass_on(batch, frames, last)
        return True

    def _pass_on(self, batch: RawBatch, frames: Frames, last: int) -> None:
        is_delegates = self.caller != self.tenancy.client
        if is_delegates:  # a client's own has no policies
            self.tenancy.enter(batch.policies)
            batch.policies, batch.delegate = (), self.caller
            frames = [msgspec.msgpack.encode(batch), *frames[1:]]
        elif batch.delegate:
            raise MalformedMessage("a client's own batch names a delegate", where=self.tenancy.room.worker)
        self.tenancy.bring_in(header(frames))
        tags = [peek_tag(message) for message in batch.messages]
        kinds = set(tags)
        if kinds <= _FOR_THE_ROOM:
            if kinds & _TAKING:
                self._offer_anew(batch, tags)
            self._to_room(batch, frames, last, tags[-1])
        elif is_delegates:
            raise NotPermitted("that is for the client itself to ask", where=self.tenancy.room.worker)
        elif tags == [b"reply"]:
            self._take_reply(batch, frames, last)
        else:
            message = wire.decode([header(frames)], Batch).messages[-1]
            if len(batch.messages) > 1 or not batch.asks or not isinstance(message, FOR_THE_GATE):
                raise MalformedMessage("a node does not take such a message", where=self.tenancy.room.worker)
            self._gate.answer(self, last, message)

    def _offer_anew(self, batch: RawBatch, tags: list[bytes]) -> None:
        for message, tag in zip(batch.messages, tags, strict=True):
            if tag in _TAKING:
                self.tenancy.offer_anew(wire.unpack(message, Retire).ids if tag == b"retire" else None)

    def _take_reply(self, batch: RawBatch, frames: Frames, last: int) -> None:
        """Give the room the answer to a call."""
        _, worker, seq, answer = wire.unpack(batch.messages[0], tuple[str, Name, Id, msgspec.Raw])
        self.tenancy.routes.take_reply(worker, [msgspec.msgpack.encode((seq, answer)), *frames[1:]])
        self.answer(wire.encode(Answered(last, Done())))

    def _to_room(self, batch: RawBatch, frames: Frames, last: int, asked: bytes) -> None:
        """Give a batch to the room, and of its answer to the caller what may leave."""
        tenancy = self.tenancy
        if not batch.asks:
            tenancy.room.send(frames, last, None)
        elif asked == b"get":
            self._get(batch, frames, last)
        else:
            query = wire.unpack(batch.messages[-1], Search).query if asked == b"search" else ()

            def receive(answer: Frames) -> None:
                self._answer_in_time(tenancy.let_out(asked, ShapeToCaller(), answer, last, query))

            tenancy.room.send(frames, last, receive, batch.delegate)

    def _get(self, batch: RawBatch, frames: Frames, last: int) -> None:
        """As ``_to_room``, for a batch that ends in a Get: what is refused has not been taken."""
        tenancy, message = self.tenancy, wire.unpack(batch.messages[-1], Get)
        is_client = self.caller == tenancy.client
        release = ToCaller(message.id) if is_client else ToWorker(message.id, self.caller, Movement.OPEN)

        def receive(answer: Frames) -> None:
            answer = tenancy.let_out(b"get", release, answer, last)
            self._answer_in_time(answer if is_client else with_policies(answer, tenancy.entered))

        instead: list[msgspec.Raw] = []
        try:
            decision = tenancy.permit(release)
            if message.take_as is not None:
                tenancy.offer_anew([message.id])
            if not decision.request:
                tenancy.room.send(frames, last, receive, batch.delegate)
                return
            if self._kept > limits.KEPT_BYTES:
                raise LimitExceeded(
                    "what you have been answered has yet to arrive",
                    where=tenancy.room.worker,
                    mend="Get one value after another.",
                )
            answer = self._gate.approved(decision.request, last)
            if message.take_as is not None:
                instead.append(_retire(message.id, message.take_as))
        except SyftError as error:
            answer = tenancy.refusal(error, last)
        batch.messages[-1:] = instead
        batch.asks = False
        tenancy.room.send([msgspec.msgpack.encode(batch), *frames[1:]], last, None)
        self.answer(answer)

    def answer(self, frames: Frames) -> None:
        """Send an answer, and keep it until the caller has it."""
        with self._lock:
            self._answers.append(frames)
            self._kept += size_of(frames)
            if not self._stream.put(frames):
                self._unread += size_of(frames)

    def read(self, stream: Stream, frames: Frames) -> None:
        """The connection of ``stream`` has taken an answer."""
        with self._lock:
            if stream is self._stream:
                self._unread -= size_of(frames)
                self._read.notify_all()

    def _answer_in_time(self, frames: Frames) -> None:
        """As :meth:`answer`; the room waits for a caller who reads, or says so, slower than it answers.

        With the room its client waits, so that a delegate has to read in time.
        """
        is_client = self.caller == self.tenancy.client
        if not self.wait_for_caller(None if is_client else limits.DELEGATE_SECONDS):
            late = f"you have not taken your answers for {limits.DELEGATE_SECONDS} seconds"
            self.finish(LimitExceeded(late, where=self.tenancy.room.worker))
        self.answer(frames)

    def wait_for_caller(self, seconds: float | None = None) -> bool:
        """Wait until the caller has had most answers, or the session has ended; never where it is listened to.

        Tells whether that was so within so many seconds.
        """
        with self._lock:
            return self._read.wait_for(lambda: self._is_in_time() or self._ending is not None, seconds)

    def _is_in_time(self) -> bool:
        few = len(self._answers) < limits.KEPT_ANSWERS
        return few and self._unread <= limits.UNREAD_BYTES and self._kept <= limits.KEPT_BYTES

    def _forget(self, received: int) -> None:
        while self._forgotten < received and self._answers:
            self._kept -= size_of(self._answers.popleft())
            self._forgotten += 1
        self._read.notify_all()


def away(worker: str) -> WorkerShut:
    """Return what somebody is told whose session is not there."""
    return WorkerShut(
        "your room here has ended: you left, or were away for longer than it is kept, or the node was started anew",
        where=worker,
        mend="Connect again, and send the data again.",
    )


def _retire(id: int, take_as: int) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(Retire((id,), (take_as,), "it was taken home by a get")))
