"""Requests that wait for the owner's yes or no, by hand.

A request keeps the value as it was when it was made: the caller can write anything into the object
afterwards, so a yes is for the value kept and for nothing else. It outlives the client's room, for
``limits.REQUEST_DAYS``. The node adds and withdraws requests; the owner answers them from another
process. Both only add lines to one journal; the node takes out what is over and old.
"""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import torch

from .. import limits, wire
from ..errors import AuditFailed, LimitExceeded, Misuse, SyftError
from ..messages import State, Value
from .journal import Journal, Place, sync_folder
from .records import Answered, PacketSource, pack, read_record
from .release import Approval, Policy

_NEXT = {State.OPEN: set(State) - {State.OPEN}, State.APPROVED: {State.DENIED, State.WITHDRAWN}}


class Request(msgspec.Struct, frozen=True, tag="request"):
    """A client asks to get ``object`` of ``room``: a tensor of this dtype and shape, kept in so many bytes.

    ``policies`` are those of all private data that had entered the room.
    """

    id: str
    time: datetime
    client: str
    room: str
    object: int
    dtype: str
    shape: tuple[int, ...]
    size: int
    policies: tuple[Policy, ...]
    reason: str

    @property
    def data(self) -> str:
        """Name the data that it may be made of."""
        return ", ".join(sorted({policy.name for policy in self.policies}))


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

    @property
    def is_kept(self) -> bool:
        """Tell whether its value is: it is open, or approved."""
        return self.state in _NEXT


class Requests:
    """The requests to ``owner``, kept in ``folder``. Methods may be called from any thread and process."""

    def __init__(self, folder: Path, owner: str) -> None:
        self._folder, self._owner = folder, owner
        self._journal: Journal[Request | Answer] = Journal(
            folder / "requests.jsonl", msgspec.json.Decoder(Request | Answer)
        )
        self._standings: dict[str, Standing] = {}
        self._approved: dict[tuple[str, str], dict[str, Approval]] = {}  # by client and room, then by request
        self._read_to = Place()
        self._lock = threading.Lock()  # of what has been read: it never waits for a disk to write
        self._writing = threading.RLock()

    def all(self) -> list[Standing]:
        """Return all requests, oldest first. Raises AuditFailed."""
        with self._lock:
            self._read_on()
            return list(self._standings.values())

    def _read_on(self) -> None:
        lines, place = self._journal.read_on(self._read_to)
        if place.head != self._read_to.head:  # it has been shortened
            self._standings.clear()
            self._approved.clear()
        self._read_to = place
        for line in lines:
            self._take(line)

    def open(self) -> list[Standing]:
        """Return those that wait for an answer, oldest first. Raises AuditFailed."""
        return [standing for standing in self.all() if standing.state is State.OPEN]

    def find(self, id: str) -> Standing:
        """Return one request. Raises Misuse: there is none of that id."""
        with self._lock:
            self._read_on()
            if id not in self._standings:
                raise Misuse(f"there is no request {id!r}", where=self._owner, mend="To list them: syft requests")
            return self._standings[id]

    def _take(self, line: Request | Answer) -> None:
        if isinstance(line, Request):
            self._standings.setdefault(line.id, Standing(line))
        elif (standing := self._standings.get(line.id)) and line.state in _NEXT.get(standing.state, ()):
            self._standings[line.id] = Standing(standing.request, line.state, line.note)
            request = standing.request
            of_room = self._approved.setdefault((request.client, request.room), {})
            of_room.pop(request.id, None)
            if line.state is State.APPROVED:
                of_room[request.id] = Approval(request.id, self._owner, request.client, request.room, request.object)

    # ---- the node's side ----

    def ask(
        self,
        client: str,
        room: str,
        object: int,
        *,
        dtype: str,
        shape: tuple[int, ...],
        policies: Iterable[Policy],
        reason: str,
        value: bytes,
    ) -> Request:
        """Add a request, with its ``value``, which :func:`encoded` gives.

        Raises LimitExceeded: a reason or value too large, too many requests of this client, or too large values
        of all; AuditFailed: it cannot be written.
        """
        if len(reason) > limits.MAX_REASON_LENGTH or len(value) > limits.MAX_REQUEST_BYTES:
            raise LimitExceeded(
                f"a request takes a reason of {limits.MAX_REASON_LENGTH} characters and a value of "
                f"{limits.MAX_REQUEST_BYTES} bytes, not {len(reason)} and {len(value)}",
                where=self._owner,
                mend="Ask for less, such as a mean.",
            )
        with self._writing:
            self._check_space(client, len(value))
            self._shorten()
            id, now = secrets.token_hex(6), datetime.now(UTC)
            request = Request(id, now, client, room, object, dtype, shape, len(value), tuple(policies), reason)
            self._keep(request.id, value)
            try:
                self._journal.append(request, lasting=True)
            except AuditFailed:
                self._forget(self._value(request.id))
                raise
            return request

    def _check_space(self, client: str, size: int) -> None:
        """Raise LimitExceeded if one more request of ``client`` is too many, or ``size`` more bytes too much."""
        mine = self.of(client)
        kept = sum(standing.is_kept for standing in mine)
        held = sum(standing.request.size for standing in self.all() if standing.is_kept)
        if kept >= limits.MAX_OPEN_REQUESTS:
            raise LimitExceeded(
                f"{kept} requests of {client} are kept here",
                where=self._owner,
                mend="Take back what you do not need any more: worker.requests()[0].withdraw().",
            )
        if len(mine) >= limits.MAX_REQUESTS:
            raise LimitExceeded(
                f"{client} has made {len(mine)} requests in {limits.REQUEST_DAYS} days",
                where=self._owner,
                mend="Ask later, for more at one time.",
            )
        if held + size > limits.MAX_REQUESTS_BYTES:
            raise LimitExceeded(
                "there is no space for the values of more requests", where=self._owner, mend="Ask later, or for less."
            )

    def of(self, client: str) -> list[Standing]:
        """Return the requests of ``client`` in the last ``limits.REQUEST_DAYS``, oldest first. Raises AuditFailed."""
        self._expire()
        return [s for s in self.all() if s.request.client == client and not _is_old(s.request)]

    def find_of(self, client: str, id: str) -> Standing:
        """Return one request of ``client``. Raises Misuse: it has none of that id; AuditFailed."""
        for standing in self.of(client):
            if standing.request.id == id:
                return standing
        raise Misuse(f"you have no request {id!r} here", where=self._owner, mend="To list yours: worker.requests().")

    def approvals(self, client: str, room: str) -> list[Approval]:
        """Return what the owner said yes to in this room, oldest first. Raises AuditFailed."""
        with self._lock:
            self._read_on()
            return list(self._approved.get((client, room), {}).values())

    def value(self, id: str) -> bytes:
        """Return the value kept with a request that is open or approved. Raises Misuse, AuditFailed."""
        self._expire()
        standing = self.find(id)
        if not standing.is_kept:
            raise Misuse(f"the request {id} is {standing.state} and its value is gone", where=self._owner)
        try:
            return self._value(id).read_bytes()
        except OSError as error:
            raise AuditFailed(f"{self._value(id)}: {error.strerror}", mend="Ask again.") from error

    def withdraw(self, id: str) -> None:
        """End a request, as its client wishes. Raises Misuse: it has ended already; AuditFailed."""
        self._answer(id, State.WITHDRAWN, "")

    def _expire(self) -> None:
        """End requests that are too old. Raises AuditFailed."""
        for standing in self.all():
            if standing.is_kept and _is_old(standing.request):
                with self._writing:
                    if self.find(standing.request.id).is_kept:  # still: others end it at the same moment
                        self._answer(standing.request.id, State.WITHDRAWN, f"kept for {limits.REQUEST_DAYS} days")

    def sweep(self) -> None:
        """End requests that are too old or whose value is gone, and delete values of no request that is kept.

        For the node, once, before it serves: what it deletes may be a request in the making. Raises AuditFailed.
        """
        self._expire()
        values = {path.stem: path for path in self._folder.glob("*.value")}
        for standing in self.all():
            if standing.is_kept and values.pop(standing.request.id, None) is None:
                self._answer(standing.request.id, State.WITHDRAWN, "its value is lost")
        for path in values.values():
            self._forget(path)
        self._shorten()

    def _shorten(self) -> None:
        """Forget what is over and too old to be listed, once that is most of all requests. Raises AuditFailed."""
        standings = self.all()
        over = {s.request.id for s in standings if not s.is_kept and _is_old(s.request)}
        if 2 * len(over) > len(standings):
            self._journal.shorten(lambda line: line.id not in over)

    # ---- the owner's side ----

    def approve(self, id: str, note: str = "") -> Standing:
        """Say yes. Raises Misuse: there is no such request, or it has been answered; AuditFailed."""
        return self._answer(id, State.APPROVED, note)

    def deny(self, id: str, note: str = "") -> Standing:
        """Say no, for good; also after a yes. Raises as :meth:`approve` does."""
        return self._answer(id, State.DENIED, note)

    def tensor(self, id: str) -> torch.Tensor:
        """Return the value kept with a request, for its owner to look at. Raises as :meth:`value`."""
        return tensor_in(self.value(id), self._owner)

    def _answer(self, id: str, state: State, note: str) -> Standing:
        if len(note) > limits.MAX_NOTE_LENGTH:
            raise LimitExceeded(f"a note has {limits.MAX_NOTE_LENGTH} characters at most, not {len(note)}")
        with self._writing:
            before = self.find(id)
            if state not in _NEXT.get(before.state, ()):
                raise Misuse(f"the request {id} is {before.state} already", where=self._owner)
            self._journal.append(Answer(id, datetime.now(UTC), state, note), lasting=True)
            standing = self.find(id)
        if not standing.is_kept:
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


def _is_old(request: Request) -> bool:
    return request.time < datetime.now(UTC) - timedelta(days=limits.REQUEST_DAYS)


def tensor_in(record: bytes, where: str) -> torch.Tensor:
    """Read the value out of a record that is an answer. Raises Misuse: it is no dense tensor."""
    refusal = Misuse(
        "only a dense tensor can be asked for", where=where, mend="x.to_dense(); or ask where the tensor itself is."
    )
    try:
        answer = wire.decode(read_record(PacketSource(iter([record]))), Answered).answer
    except (SyftError, EOFError) as error:
        raise refusal from error
    value = answer.value if isinstance(answer, Value) else None
    if type(value) is not torch.Tensor or value.layout is not torch.strided:
        raise refusal
    return value


def encoded(tensor: torch.Tensor) -> bytes:
    """Encode a tensor as the record of an answer that says no more than its dtype, its shape and its elements."""
    plain = tensor.clone(memory_format=torch.contiguous_format)  # strides of dimensions of length 1 could say more
    return b"".join(pack(wire.encode(Answered(0, Value(plain)))))
