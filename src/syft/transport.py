"""How messages get to a worker and answers back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from msgspec.structs import replace

from . import wire
from .messages import Answer, Failure, Placed, Put, Ran, Release, Request, Run, Value
from .worker import Worker, error_of


class Transport(Protocol):
    """Carries requests to one worker.

    Requests are handled one at a time and in the order in which they were made. A tensor that
    crosses shares no memory with its origin.
    """

    def request(self, message: Request) -> Answer:
        """Deliver a request and return its answer. Raises the SyftError that the worker raised."""

    def put_new(self, message: Put) -> Placed:
        """Deliver a tensor whose id nobody has had; an error may come later, from what uses the object."""

    def run(self, message: Run, args: Sequence[Any], kwargs: dict[str, Any] | None) -> Sequence[Any]:
        """Deliver an operator; return the metadata of its results. ``args``, ``kwargs``: those of the call."""

    def release(self, id: int) -> None:
        """Deliver the release of one object, sooner or later; never raises."""


class InProcess:
    """To a worker in this process. Nothing is encoded; a tensor that crosses is copied once."""

    def __init__(self, worker: Worker) -> None:
        self._handle = worker.handle
        self.release = worker.store.release

    def put_new(self, message: Put) -> Placed:
        return cast(Placed, self.request(message))

    def run(self, message: Run, args: Sequence[Any], kwargs: dict[str, Any] | None) -> Sequence[Any]:
        return cast(Ran, self._handle(message)).outputs

    def request(self, message: Request) -> Answer:
        if type(message) is Put:
            message = replace(message, value=_copied(message.value))
        answer = self._handle(message)
        if type(answer) is Value:
            answer = replace(answer, value=_copied(answer.value))
        return answer


class Encoded:
    """To a worker in this process, through frames of bytes, as between processes."""

    def __init__(self, worker: Worker) -> None:
        self._handle_frames = worker.handle_frames

    def request(self, message: Request) -> Answer:
        frames = self._handle_frames(wire.encode(message))
        answer: Answer = wire.decode(frames, cast(Any, Answer))
        if isinstance(answer, Failure):
            raise error_of(answer)
        return answer

    def put_new(self, message: Put) -> Placed:
        return cast(Placed, self.request(message))

    def run(self, message: Run, args: Sequence[Any], kwargs: dict[str, Any] | None) -> Sequence[Any]:
        return cast(Ran, self.request(message)).outputs

    def release(self, id: int) -> None:
        self._handle_frames(wire.encode(Release((id,))))


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value
