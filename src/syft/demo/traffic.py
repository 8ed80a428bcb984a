"""What crosses between workers, counted in bytes as they are on the wire."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import GetNotPermitted
from ..messages import Answer, Get, Request
from ..transport import Encoded, Transport
from ..wire import Frame
from ..worker import Worker


class Traffic:
    """Counts all bytes of all messages, requests and answers, and notes which objects were asked for.

    Attributes:
        bytes: so far, to and from all workers together; a move between two workers counts once.
        fetched: (worker, object id) of each value that a worker gave to the caller.
        refused: the same of each that it would not give.
    """

    def __init__(self) -> None:
        self.bytes = 0
        self.fetched: list[tuple[str, int]] = []
        self.refused: list[tuple[str, int]] = []

    def to(self, worker: Worker) -> Transport:
        """Return a transport to ``worker``, through frames of bytes, whose traffic is counted here."""
        return _Counted(worker, self)


class _Counted(Encoded):
    def __init__(self, worker: Worker, traffic: Traffic) -> None:
        super().__init__(worker)
        self._worker, self._traffic = worker, traffic
        self._handle_frames = self._handle_counted

    def _handle_counted(self, frames: Sequence[Frame]) -> list[Frame]:
        answer = self._worker.handle_frames(frames)
        self._traffic.bytes += sum(len(frame) for frame in (*frames, *answer))
        return answer

    def request(self, message: Request) -> Answer:
        if not isinstance(message, Get):
            return super().request(message)
        asked = (self._worker.id, message.id)
        try:
            answer = super().request(message)
        except GetNotPermitted:
            self._traffic.refused.append(asked)
            raise
        self._traffic.fetched.append(asked)
        return answer
