"""What crosses between workers, counted in bytes as they are on the wire."""

from __future__ import annotations

from typing import Any, cast

from .. import wire
from ..messages import Answer, Failure, Get, Request
from ..transport import Transport
from ..worker import Worker, raise_failure


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
        return _Counted(self, worker)


class _Counted:
    def __init__(self, traffic: Traffic, worker: Worker) -> None:
        self._traffic, self._worker = traffic, worker

    def request(self, message: Request) -> Answer:
        request = wire.encode(message)
        frames = self._worker.handle_frames(request)
        self._traffic.bytes += sum(map(len, request)) + sum(map(len, frames))
        answer = wire.decode(frames, cast(Any, Answer))
        if isinstance(message, Get):
            asked = self._traffic.refused if isinstance(answer, Failure) else self._traffic.fetched
            asked.append((self._worker.id, message.id))
        if isinstance(answer, Failure):
            raise_failure(answer)
        return cast(Answer, answer)
