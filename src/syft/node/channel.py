"""A channel: the transport to a worker in another process. Messages go in batches, and are not waited for.

A batch leaves when something has to wait for an answer, when enough messages have gathered, or after
a moment. While nothing waits for an answer batches grow, and so do the moments while messages come:
each wakes threads and processes, which costs most where many clients share the processors. What an
operator will give is known beforehand, from metadata alone.
"""

from __future__ import annotations

import os
import secrets
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from types import CodeType
from typing import Any, Protocol, cast

import msgspec
import torch

from .. import limits, wire
from ..errors import CallSite, LimitExceeded, MalformedMessage, SyftError, WorkerShut
from ..messages import Answer, Called, Collect, Done, Failure, Get, Placed, Put, Ran, Release, Request, Run, Seed
from ..operators import BY_NAME
from ..outline import Outlines
from ..wire import Frame, Meta, Reference
from ..worker import error_of
from .answers import check_answer
from .records import FOR_THE_GATE, Answered, Frames, RawBatch
from .turns import here

#: What nobody waits for: the answer is Done. (A Retain is waited for: another worker is going to use the
#: object, and must not come before what made it.)
_UNASKED = (Release, Seed)


#: Where a call was made: code and instruction, which a line can be found from; or the number of a message.
Place = tuple[CodeType, int] | int

_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(limits.__file__).parent))


def calling_line() -> Place:
    """Return the place in the user's program, outside of torch and of syft, that is being run."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_LIBRARIES):
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


class Carrier(Protocol):
    """Carries encoded batches to a worker, in order."""

    def send(self, last: int, frames: Frames) -> None:
        """Send a batch, whose last message is the ``last``-th of all."""

    def acknowledge(self, last: int) -> None:
        """All messages up to the ``last``-th have arrived."""

    def close(self) -> None: ...


class _Window:
    """How far who calls at one depth is ahead of the answers."""

    def __init__(self) -> None:
        self.weight = 0  # of messages since the mark
        self.mark: Future[Answer] | None = None  # the last answer asked for only so as not to run too far ahead
        self.behind: Future[Answer] | None = None  # the one before, which has to be there before more is sent


class Channel:
    """A transport over a carrier, whose answers are to be given to :meth:`arrived`.

    Args:
        where: the worker's name.
        most: bytes of tensors in one message.
        called: takes calls, by worker, that come where an answer might.
        wait: waits for an answer, in threads that serve nobody.
        is_timed: what gathers is sent after a moment; otherwise :meth:`flush` is to be called.
    """

    def __init__(
        self,
        where: str,
        carrier: Carrier,
        *,
        most: int = limits.ROOM_BYTES,
        called: Callable[[str, list[Frame]], None] | None = None,
        wait: Callable[[Future[Answer]], Answer] = Future.result,
        is_timed: bool = True,
    ) -> None:
        self._where, self._carrier, self._most = where, carrier, min(most, limits.MAX_FRAME_BYTES)
        self._most_gathered = min(most, limits.MAX_HEADER_BYTES)  # bytes of a batch of several messages
        self._called, self._wait = called, wait
        self._places: list[tuple[int, Place]] = [(0, 0)] * limits.PLACES_OF_CALLS
        self._outlines = Outlines()
        self._lock = threading.RLock()
        self._pending: list[msgspec.Raw] = []
        self._memories: list[Frame] = []
        self._gathered = 0  # bytes of both
        self._released: deque[int] = deque()
        self._sent = secrets.randbits(48)  # no two channels to a room give messages the same numbers
        self._asked_last = self._sent  # for what came after it nobody waits
        self._received = self._gets = 0
        self._asked: dict[int, Future[Answer]] = {}
        self._depth = self._least_depth = here.depth  # of what gathers; of all that was sent
        self._window = _Window()
        self._windows = {self._depth: self._window}
        self._awake: SimpleQueue[None] = SimpleQueue()  # unlike an event's, its lock can be had in a finalizer
        self._is_awake = False
        self._lost: SyftError | None = None
        _channels.add(self)
        if is_timed:
            threading.Thread(target=self._flush_in_time, name=f"batches for {where}", daemon=True).start()

    # ---- as a transport ----

    def run(self, message: Run, args: Sequence[Any], kwargs: dict[str, Any] | None) -> Sequence[Any]:
        operator = BY_NAME[message.operator]
        outputs = self._outlines.of(operator, args, kwargs)
        if outputs is None or not (message.results or operator.written):  # or its error would be nobody's
            return cast(Ran, self._ask(message)).outputs
        self._post(message)
        return outputs

    def put_new(self, message: Put) -> Placed:
        self._post(message)
        return Placed(_placed(message.value))

    def request(self, message: Request) -> Answer:
        if isinstance(message, _UNASKED):
            self._post(message)
            return Done()
        answer = self._ask(message)
        if isinstance(message, Put) and isinstance(answer, Done):  # a node that may not tell what is known here
            return Placed(_placed(message.value))
        return answer

    def release(self, id: int) -> None:
        if self._lost is None:
            self._released.append(id)  # finalizers run at any moment, also within the methods of this class
            self._wake()

    def close(self) -> None:
        """Hang up."""
        self.lose(WorkerShut("you have left this worker", where=self._where, mend="Connect again: sy.connect(...)"))
        self._carrier.close()

    # ---- sending ----

    def _post(self, message: Request) -> None:
        with self._lock:
            if self._lost is not None:
                raise self._lost.again()
            depth = here.depth
            if depth != self._depth:
                self._go_to(depth)
            window = self._window  # flushing may go to that of another depth
            large = self._append(message)
            number = self._sent + len(self._pending)
            self._places[number % limits.PLACES_OF_CALLS] = number, here.message if depth else calling_line()
            if large or len(self._pending) >= self._batch_messages():
                self._flush()
            elif len(self._pending) == 1:
                self._wake()
            behind, window.behind = window.behind, None
        if behind is not None:
            (here.wait or self._wait)(behind)

    def _ask(self, message: Request) -> Answer:
        future: Future[Answer] = Future()
        brings_tensors = isinstance(message, (Get, Collect))
        with self._lock:
            if self._lost is not None:
                raise self._lost.again()
            if isinstance(message, FOR_THE_GATE):
                self._flush()
            else:
                self._append_released()
                if here.depth != self._depth:
                    self._go_to(here.depth)
            self._append(message)
            self._gets += brings_tensors
            self._send(future)
            self._asked_last = self._sent
        try:
            answer = (here.wait or self._wait)(future)
        finally:
            with self._lock:
                self._gets -= brings_tensors
        if isinstance(answer, Failure):
            raise error_of(answer, self._place_of(answer.asked_at))
        check_answer(message, answer, self._where)
        return answer

    def _place_of(self, number: int) -> CallSite | int:
        """Return where the message of this number was asked for, if that is still known."""
        known, place = self._places[number % limits.PLACES_OF_CALLS]
        if known != number:
            return 0
        if isinstance(place, int):
            return place
        code, instruction = place
        lines = (line for start, end, line in code.co_lines() if start <= instruction < end and line)
        return CallSite(code.co_filename, next(lines, code.co_firstlineno), code.co_name)

    def _batch_messages(self) -> int:
        """Return how many messages go as one: so few that the worker, who starts with the first, is not far behind."""
        share = (self._sent - self._asked_last) // limits.BATCH_SHARE
        return max(limits.BATCH_MESSAGES, min(share, limits.MOST_BATCH_MESSAGES))

    def _flush(self) -> None:
        """Send what has gathered."""
        self._append_released()
        if self._pending:
            self._send(None)

    def _append_released(self) -> None:
        released = tuple(self._released.popleft() for _ in range(len(self._released)))
        if released:
            if self._depth != self._least_depth:  # else they might come before what was to use the objects
                self._go_to(self._least_depth)
            self._append(Release(released))

    def _go_to(self, depth: int) -> None:
        """What is sent from here on is called at this depth, as all of a batch is. Raises LimitExceeded."""
        if depth > limits.CHAIN_HOPS:
            raise LimitExceeded(
                f"a chain leads from worker to worker {limits.CHAIN_HOPS} times at most",
                where=self._where,
                mend="Bring pointers home with get().",
            )
        if self._pending:
            self._send(None)
        self._depth, self._least_depth = depth, min(depth, self._least_depth)
        self._window = self._windows.setdefault(depth, _Window())

    def _append(self, message: Request) -> bool:
        """Encode a message now: its caller learns at once what cannot be, and may change its tensors after.

        Tells whether it is large: then it is not copied, and has to be sent before the caller goes on.
        """
        before = len(self._memories)
        encoded = wire.encode_part(message, self._memories, self._permit)
        memories = self._memories[before:]
        size = sum(map(len, memories))
        gathered = self._gathered + len(encoded) + size
        if gathered > self._most_gathered or len(self._memories) >= limits.MAX_FRAMES:
            del self._memories[before:]
            if self._pending:  # the two do not go as one
                self._send(None)
                return self._append(message)
            wire.check_sizes((encoded, *memories))
            self._memories = memories
        self._gathered = gathered
        self._pending.append(msgspec.Raw(encoded))
        weight = size // limits.WINDOW_MESSAGE_BYTES
        if memories and not weight:
            self._memories[before:] = map(bytes, memories)
        self._window.weight += 1 + weight
        return weight > 0

    def _permit(self, size: int) -> None:
        """Refuse a message with so many bytes of tensors, if those are too many, before they are encoded."""
        if size > self._most:
            raise LimitExceeded(
                f"{size} bytes are more than this worker takes at one time, {self._most}",
                where=self._where,
                mend="Send parts, or ask its owner for a larger room_bytes.",
            )

    def _send(self, future: Future[Answer] | None) -> None:
        window = self._window
        if window.weight >= limits.WINDOW_MESSAGES:
            window.weight = 0
            if future is None:
                future = Future()
                self._append(Release(()))  # its answer, unlike an operator's, tells nothing of any object
            window.behind, window.mark = window.mark, future
        batch = RawBatch(self._sent + 1, future is not None, self._received, self._pending, depth=self._depth)
        frames = [msgspec.msgpack.encode(batch), *self._memories]
        self._sent += len(self._pending)
        self._pending, self._memories, self._gathered = [], [], 0
        if future is not None:
            self._asked[self._sent] = future
        self._carrier.send(self._sent, frames)

    def flush(self) -> None:
        """Send what has gathered."""
        with self._lock:
            if self._lost is None:
                self._flush()

    def _wake(self) -> None:
        """Have what gathers sent soon."""
        if not self._is_awake:
            self._is_awake = True
            self._awake.put(None)

    def _flush_in_time(self) -> None:
        """Send what has gathered after a moment; while more comes, after longer and longer ones."""
        while self._lost is None:
            self._awake.get()
            before, pause = -1, limits.BATCH_SECONDS
            while (gathered := self._sent + len(self._pending)) != before:
                before = gathered
                time.sleep(pause)
                pause = min(2 * pause, limits.MOST_BATCH_SECONDS)
                self.flush()
            self._is_awake = False
            self.flush()  # what came before that could be seen

    # ---- receiving ----

    def expects(self) -> int:
        """Tell how many bytes of tensors the next answer may have: none unless some are asked for, or calls come."""
        return limits.ANSWER_BYTES if self._gets or self._called is not None else 0

    def arrived(self, frames: list[Frame]) -> None:
        """Take an encoded answer. Raises MalformedMessage."""
        answered = wire.decode(frames, Answered)
        wire.check_closed(answered.answer)
        with self._lock:
            self._received += 1
        if self._called is not None and isinstance(answered.answer, Called):
            self._called(answered.answer.worker, [answered.answer.batch, *frames[1:]])
            return
        with self._lock:
            if self._lost is not None:  # who asked has been told; the carrier may have a goodbye to say yet
                return
            future = self._asked.pop(answered.seq, None)
        if future is None:
            raise MalformedMessage("an answer to what was not asked", where=self._where)
        self._carrier.acknowledge(answered.seq)
        future.set_result(answered.answer)

    def lose(self, error: SyftError) -> None:
        """The worker is out of reach, for good: whoever waits, and all who ask from now on, get the error."""
        with self._lock:
            self._lost = self._lost or error
            asked, self._asked = self._asked, {}
            self._pending, self._memories = [], []
            self._released.clear()
        self._awake.put(None)
        for future in asked.values():
            future.set_exception(error.again())

    def disown(self) -> None:
        """Let it go in a child that was forked, whoever held its lock: none of its threads is there."""
        self._lock, self._asked = threading.RLock(), {}
        self.lose(
            WorkerShut(
                "this process was forked from the one that you connected in, and has none of its connections",
                where=self._where,
                mend="Connect again here: sy.connect(...)",
            )
        )


_channels: weakref.WeakSet[Channel] = weakref.WeakSet()


def _disown_all() -> None:
    for channel in list(_channels):
        channel.disown()


os.register_at_fork(after_in_child=_disown_all)


def _placed(value: Any) -> Meta:
    """What a value's metadata is once it has crossed: dense, in its own memory order."""
    if isinstance(value, Reference):
        return value.meta
    if value.layout is not torch.strided:
        return Meta.of(value)
    return Meta.of(torch.empty_like(value, device="meta"))
