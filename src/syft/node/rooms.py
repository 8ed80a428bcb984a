"""A room as the gate has it: batches in, answers out, in order; and its calls to workers elsewhere."""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

import msgspec

from .. import limits, wire
from ..errors import MalformedMessage, SyftError, WorkerShut
from ..messages import Description, Request, Tags
from ..worker import failure_of
from .bulk import ArrivingFrame, Forwarded
from .engines import Death, Engine, Order
from .records import (
    Answered,
    Batch,
    Frames,
    PacketSource,
    RawAnswered,
    SocketSource,
    header,
    peek_tag,
    read_head,
    read_record,
    send_piece,
    send_record,
    withdraw,
)
from .state import cpu_of

Receive = Callable[[Frames], None]

#: Why rooms end, and what their clients may be told of it. A client can have it depend on a value.
ENDINGS = {
    "crashed": "an operator made its process crash",
    "failed": "its process could not go on",
    "killed": "its process was killed, by the owner or because the machine had no memory left",
    "lost": "its process could not start, or is out of reach",
    "memory": "it took more memory than it may",
    "time": "it computed for longer than it may",
}


class Room:
    """One room. What comes out of it is not trusted.

    Args:
        calling: called with (worker's name, frames) of each batch for a worker elsewhere.
        died: called once, if it ends before it is closed.
        tells: called once, if it so ends, before anyone hears of it; tells whether its client hears why.

    Attributes:
        death: why it ended; None before that.
        ending: what its client is told then.
    """

    def __init__(
        self,
        engine: Engine,
        order: Order,
        calling: Callable[[str, Frames], None],
        died: Callable[[Room], None] = lambda room: None,
        tells: Callable[[Death], bool] = lambda death: True,
    ) -> None:
        self.worker = order.worker
        self.death: Death | None = None
        self.ending: WorkerShut | None = None
        self._calling, self._died, self._tells = calling, died, tells
        self._lock = threading.Lock()
        self._sending, self._answering = threading.Lock(), threading.Lock()  # of its batches, of its calls
        self._arriving: list[ArrivingFrame] = []
        self._numbers = itertools.count()  # of frames that are forwarded
        self._awaited: dict[tuple[str, int], deque[Receive]] = {}  # by who asked, and the number of the message
        self._closed = False
        self._cpu_seconds = 0.0
        self._process = engine.open_room(order)
        self.pid, self.place = self._process.pid, self._process.place
        self._caller = threading.Thread(target=self._listen_to_calls, name=f"calls at {self.worker}", daemon=True)
        self._caller.start()  # first, as the other waits for it when the room has ended, be that at once
        threading.Thread(target=self._listen, name=f"room at {self.worker}", daemon=True).start()

    def send(self, frames: Frames, last: int, receive: Receive | None, delegate: str = "") -> None:
        """Pass on a batch, whose last message is numbered ``last``; ``receive`` gets the answer if one is asked for.

        ``delegate``: whose batch it is, if not the client's. Waits while the room has enough to do.
        """
        with self._sending:
            with self._lock:
                ending = self.ending
                if ending is None and receive is not None:
                    self._awaited.setdefault((delegate, last), deque()).append(receive)
            if ending is None:
                with suppress(OSError):  # then _listen ends as well, and answers
                    send_record(self._process.batches, frames)
        if ending is not None and receive is not None:
            receive(failed(last, ending))

    @contextmanager
    def forward(self, source: PacketSource, lengths: Sequence[int], *, as_answer: bool = False) -> Iterator[Frames]:
        """Pass on frames as they come, ahead of the record that they are of, which is to be sent in the meantime.

        That goes by :meth:`send`; or, if ``as_answer``, by :meth:`answer_call`. Raises as the source does.
        """
        frames = [Forwarded(next(self._numbers), length) for length in lengths]
        try:
            for frame in frames:
                for piece in source.parts(len(frame)):
                    self._write(send_piece, frame, piece, as_answer=as_answer)
            yield frames
        finally:
            for frame in frames:
                self._write(withdraw, frame, as_answer=as_answer)

    def _write(self, write: Callable[..., None], *what: Any, as_answer: bool) -> None:
        """Write to one of its lines, if it has not ended: who listens is told."""
        with self._answering if as_answer else self._sending, suppress(OSError):
            write(self._process.calls if as_answer else self._process.batches, *what)

    def finish_answers(self) -> None:
        """Wait until what the room has begun to say is here; what does not come in time is lost."""
        for frame in self._arriving:
            frame.finish(limits.CONNECT_SECONDS)

    def ask(self, message: Request) -> Frames:
        """Ask it something on the gate's own account; return the encoded answer."""
        return self.ask_encoded(wire.encode(Batch(1, True, 0, [message])))

    def ask_encoded(self, frames: Frames) -> Frames:
        """As :meth:`ask`, with a batch of one message, the first."""
        answer: Future[Frames] = Future()
        self.send(frames, 1, answer.set_result)
        return answer.result()

    def answer_call(self, worker: str, frames: Frames) -> None:
        """Pass on the answer of a worker elsewhere."""
        self._write(send_record, [worker.encode(), *frames], as_answer=True)

    @property
    def died(self) -> bool:
        """Whether it ended before it was closed."""
        return self.death is not None and not self._closed

    def cpu_seconds(self) -> float:
        """Return the processor time of its process."""
        if self.death is None:
            self._cpu_seconds = max(self._cpu_seconds, cpu_of(self.pid))
        return self._cpu_seconds

    def close(self) -> None:
        """End the room's process."""
        self._closed = True
        self._kill()

    def _kill(self) -> None:
        with self._lock:
            if self.death is None:
                self._process.kill()

    def _listen(self) -> None:
        try:
            with suppress(EOFError, OSError, SyftError):
                source = SocketSource(self._process.batches)
                while True:
                    self._take_answer(source)
        finally:  # whatever it was, nobody waits for a room that is not heard any more
            self._kill()
            self._end()

    def _take_answer(self, source: SocketSource) -> None:
        """Hand on an answer; what is large of it while it still comes in. Raises as its source does."""
        first, *lengths = read_head(source)
        head = source.read(first)
        answered = wire.unpack(head, RawAnswered)
        with self._lock:
            key = answered.delegate, answered.seq
            if key not in self._awaited:
                raise MalformedMessage("the room answers what was not asked", where=self.worker)
            receive = self._awaited[key].popleft()
            if not self._awaited[key]:
                del self._awaited[key]
        if sum(lengths) <= limits.PACKET_BYTES:
            receive([head, *map(source.read, lengths)])
            return
        self._arriving = arriving = [ArrivingFrame(length) for length in lengths]
        try:
            receive([head, *arriving])
            for frame in arriving:
                while missing := frame.missing:
                    frame.note(source.read_into(missing[: limits.PACKET_BYTES]))
        finally:
            self._arriving = []
            for frame in arriving:
                frame.lose()

    def _listen_to_calls(self) -> None:
        with suppress(EOFError, OSError, SyftError, UnicodeDecodeError):
            source = SocketSource(self._process.calls)
            while True:
                name, *frames = read_record(source)
                if not frames:
                    raise MalformedMessage("the room calls and says nothing", where=self.worker)
                self._calling(bytes(name).decode(), frames)
        self._kill()

    def _end(self) -> None:
        """Answer whoever waits; then close what others might still be writing to, and say so."""
        death = self._process.death()
        is_told = not self._closed and self._tells(death)
        why = f" ({death.code}): {ENDINGS[death.code]}" if is_told else ""
        ending = WorkerShut(
            f"your room here has ended{why}", where=self.worker, mend="Connect again, and send the data again."
        )
        with self._lock:
            self.ending = ending
            self.death, self._cpu_seconds = death, max(death.cpu_seconds, self._cpu_seconds)
            awaited, self._awaited = self._awaited, {}
        for (_, last), receivers in awaited.items():
            for receive in receivers:
                receive(failed(last, ending))
        self._process.hang_up()
        self._caller.join()
        with self._sending, self._answering:
            self._process.close()
        if self.died:
            self._died(self)


def failed(last: int, error: SyftError) -> Frames:
    """Encode the answer that the ``last``-th message failed."""
    return wire.encode(Answered(last, failure_of(error)))


def raw_value(frames: Frames) -> tuple[msgspec.Raw, Tags, Description] | None:
    """Pick the still encoded value, and its labels, out of an encoded Value; None if the answer is another.

    Raises MalformedMessage.
    """
    answer = wire.unpack(header(frames), RawAnswered).answer
    if peek_tag(answer) != b"value":
        return None
    _, value, _, tags, description = wire.unpack(answer, tuple[str, msgspec.Raw, msgspec.Raw, Tags, Description])
    return value, tags, description
