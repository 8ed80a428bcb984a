"""Requests that wait for the owner's yes or no, by hand.

A request keeps the value as it was when it was made: the caller can write anything into the object
afterwards, so a yes is for the value kept and for nothing else. The node adds and withdraws requests;
the owner answers them from another process. Both only add lines to one journal.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

import msgspec

from .. import limits
from ..errors import AuditFailed, LimitExceeded, Misuse
from .journal import Journal, sync_folder
from .release import Approval


class State(StrEnum):
    """Where a request stands. Denied and withdrawn are final; what was approved may be denied later."""

    OPEN = "open"
    APPROVED = "approved"
    DENIED = "denied"
    WITHDRAWN = "withdrawn"


_NEXT = {State.OPEN: set(State) - {State.OPEN}, State.APPROVED: {State.DENIED, State.WITHDRAWN}}


class Request(msgspec.Struct, frozen=True, tag="request"):
    """A client asks to get ``object`` of ``room``: a tensor of this dtype and shape, from this data."""

    id: str
    time: datetime
    client: str
    room: str
    object: int
    dtype: str
    shape: tuple[int, ...]
    policies: tuple[str, ...]
    reason: str


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """The request ``id`` is ``state`` now; ``note`` is for its client."""

    id: str
    time: datetime
    state: State
    note: str = ""


class Standing(msgspec.Struct, frozen=True):
    """A request, where it stands, and the last answer's note."""

    request: Request
    state: State = State.OPEN
    note: str = ""


class Requests:
    """The requests to ``owner``, kept in ``folder``. Methods may be called from any thread and process."""

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder, self._owner = folder, owner
        self._journal: Journal[Request | Answer] = Journal(
            folder / "requests.jsonl", msgspec.json.Decoder(Request | Answer)
        )
        self._standings: dict[str, Standing] = {}
        self._read_to = 0
        self._gone: set[str] = set()  # rooms whose requests have to be withdrawn
        self._lock = threading.RLock()

    def all(self) -> list[Standing]:
        """Return all requests, oldest first. Raises AuditFailed."""
        with self._lock:
            lines, self._read_to = self._journal.read_on(self._read_to)
            for line in lines:
                self._take(line)
            return list(self._standings.values())

    def open(self) -> list[Standing]:
        """Return those that wait for an answer, oldest first. Raises AuditFailed."""
        return [standing for standing in self.all() if standing.state is State.OPEN]

    def find(self, id: str) -> Standing:
        """Return one request. Raises Misuse: there is none of that id."""
        with self._lock:
            self.all()
            if id not in self._standings:
                raise Misuse(f"there is no request {id!r}", where=self._owner, mend="To list them: syft requests")
            return self._standings[id]

    def _take(self, line: Request | Answer) -> None:
        if isinstance(line, Request):
            self._standings.setdefault(line.id, Standing(line))
        elif (standing := self._standings.get(line.id)) and line.state in _NEXT.get(standing.state, ()):
            self._standings[line.id] = Standing(standing.request, line.state, line.note)

    # ---- the node's side ----

    def ask(
        self,
        client: str,
        room: str,
        object: int,
        *,
        dtype: str,
        shape: tuple[int, ...],
        policies: Iterable[str],
        reason: str,
        value: bytes,
    ) -> Request:
        """Add a request, with its ``value`` in whatever encoding.

        Raises LimitExceeded: a reason or value too large, or too many open requests of this client;
        AuditFailed: it cannot be written.
        """
        if len(reason) > limits.MAX_REASON_LENGTH or len(value) > limits.MAX_REQUEST_BYTES:
            raise LimitExceeded(
                f"a request takes a reason of {limits.MAX_REASON_LENGTH} characters and a value of "
                f"{limits.MAX_REQUEST_BYTES} bytes, not {len(reason)} and {len(value)}",
                where=self._owner,
                mend="Ask for less, such as a mean.",
            )
        with self._lock:
            if sum(standing.request.client == client for standing in self.open()) >= limits.MAX_OPEN_REQUESTS:
                raise LimitExceeded(
                    f"{limits.MAX_OPEN_REQUESTS} requests of {client} wait for an answer",
                    where=self._owner,
                    mend="Wait for the owner's answers.",
                )
            request = Request(
                secrets.token_hex(6), datetime.now(UTC), client, room, object, dtype, shape, tuple(policies), reason
            )
            self._keep(request.id, value)
            try:
                self._journal.append(request, lasting=True)
            except AuditFailed:
                self._forget(self._value(request.id))
                raise
            return request

    def approvals(self, client: str, room: str) -> list[Approval]:
        """Return what the owner said yes to in this room, oldest first. Raises AuditFailed."""
        return [
            Approval(standing.request.id, self._owner, client, room, standing.request.object)
            for standing in self.all()
            if standing.state is State.APPROVED and (standing.request.client, standing.request.room) == (client, room)
        ]

    def value(self, id: str) -> bytes:
        """Return the value kept with a request that is open or approved. Raises Misuse, AuditFailed."""
        standing = self.find(id)
        if standing.state not in _NEXT:
            raise Misuse(f"the request {id} is {standing.state} and its value is gone", where=self._owner)
        try:
            return self._value(id).read_bytes()
        except OSError as error:
            raise AuditFailed(f"{self._value(id)}: {error.strerror}", mend="Ask again.") from error

    def withdraw(self, room: str) -> None:
        """End all requests of a room that is gone, and forget their values.

        Raises AuditFailed; then the next call, for whichever room, does it.
        """
        with self._lock:
            self._gone.add(room)
            for standing in self.all():
                if standing.request.room in self._gone and standing.state in _NEXT:
                    self._answer(standing.request.id, State.WITHDRAWN, "its room is gone")
            self._gone.clear()

    def sweep(self) -> None:
        """End all requests of a node that was killed, whose rooms are gone, and delete every value that is left.

        For the node, once, before it serves: what it deletes may be a request in the making.
        """
        for standing in self.all():
            if standing.state in _NEXT:
                self._answer(standing.request.id, State.WITHDRAWN, "the node was started anew")
        for path in self._folder.glob("*.value"):
            self._forget(path)

    # ---- the owner's side ----

    def approve(self, id: str, note: str = "") -> Standing:
        """Say yes. Raises Misuse: there is no such request, or it has been answered; AuditFailed."""
        return self._answer(id, State.APPROVED, note)

    def deny(self, id: str, note: str = "") -> Standing:
        """Say no, for good; also after a yes. Raises as :meth:`approve` does."""
        return self._answer(id, State.DENIED, note)

    def _answer(self, id: str, state: State, note: str) -> Standing:
        with self._lock:
            before = self.find(id)
            if state not in _NEXT.get(before.state, ()):
                raise Misuse(f"the request {id} is {before.state} already", where=self._owner)
            self._journal.append(Answer(id, datetime.now(UTC), state, note), lasting=True)
            standing = self.find(id)
        if standing.state not in _NEXT:
            self._forget(self._value(id))
        return standing

    # ---- values ----

    def _value(self, id: str) -> Path:
        return self._folder / f"{id}.value"

    def _keep(self, id: str, value: bytes) -> None:
        path = self._value(id)
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(value)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._folder)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise AuditFailed(f"{path}: {error.strerror}", mend="Make room on the disk.") from error

    def _forget(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise AuditFailed(f"{path}: {error.strerror}", mend="Delete it by hand.") from error
