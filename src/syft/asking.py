"""A request to the owner of a node for a value, as its client has it."""

from __future__ import annotations

import html
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Protocol, cast

import torch

from . import limits
from .errors import MalformedMessage, printable
from .messages import Asked, Collect, Inquire, State, Value, Withdraw


class Node(Protocol):
    """The worker whose owner was asked."""

    id: str
    request: Callable[..., Any]


class Request:
    """What ``ptr.request(reason=...)`` gives: the owner is asked for the value as it was then.

    It outlives the connection: ``bob.requests()`` gives yours again, whenever you have connected anew.

    Attributes:
        id: its name, by which the owner answers.
        reason: what you said.
        time: when it was made.
    """

    def __init__(self, node: Node, standing: tuple[str, str, str, State, str]) -> None:
        self._node = node
        self.id, made, self.reason, self._state, self._note = standing
        try:
            self.time = datetime.fromisoformat(made)
        except ValueError as error:
            raise MalformedMessage(f"a request was made at no time: {error}", where=node.id) from error

    @property
    def state(self) -> State:
        """Where it stands, asked of the node: open, approved, denied or withdrawn. Raises WorkerShut."""
        return self._look()._state

    @property
    def note(self) -> str:
        """What the owner said with the answer. Raises WorkerShut."""
        return printable(self._look()._note)

    def wait(self, timeout: float | None = None) -> State:
        """Wait until the owner has answered, at most ``timeout`` seconds; return where it stands. Raises WorkerShut."""
        until = float("inf") if timeout is None else time.monotonic() + timeout
        while self.state is State.OPEN and (left := until - time.monotonic()) > 0:
            time.sleep(min(limits.REQUEST_SECONDS, left))
        return self._state

    def get(self) -> torch.Tensor:
        """Return the value that was asked for, as it was then; again and again, while the request is kept.

        Raises GetNotPermitted: the owner has not said yes, or does not let you use the data any more; WorkerShut.
        """
        return cast(torch.Tensor, cast(Value, self._node.request(Collect(self.id))).value)

    def withdraw(self) -> None:
        """Take the request back: the node forgets the value. Raises Misuse: it has ended already; WorkerShut."""
        self._node.request(Withdraw(self.id))
        self._look()

    def _look(self) -> Request:
        """Ask the node, unless the answer is final."""
        if self._state in (State.OPEN, State.APPROVED):
            (standing,) = cast(Asked, self._node.request(Inquire(self.id))).requests
            self._state, self._note = standing[3:]
        return self

    def __repr__(self) -> str:
        note = f": {printable(self._note)!r}" if self._note else ""
        what = f"{printable(self.id)} to {self._node.id}, {self.reason!r}"
        return f"<Request {what}: {self._state} when last looked at{note}>"

    def _repr_html_(self) -> str:
        rows = {"request": self.id, "to": self._node.id, "asked": f"{self.time:%Y-%m-%d %H:%M:%S} UTC"}
        rows |= {"reason": self.reason, "when last looked at": self._state, "note": self._note}
        cells = (f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in rows.items() if text)
        return f"<table>{''.join(cells)}</table>"
