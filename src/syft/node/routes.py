"""The ways from a client's room to workers elsewhere: other nodes, and workers in the client's process.

A room's call is a release like any other: it is judged by the policies of all private data that
entered the room before it goes on, and its answer brings the policies of what it is made of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import Protocol

import msgspec
from msgspec.structs import replace

from .. import limits, wire
from ..errors import LimitExceeded, MalformedMessage, Misuse, NotPermitted, SendNotPermitted, SyftError, WorkerNotFound
from ..messages import Called, Introduce
from .audit import Entry
from .channel import Carrier
from .connection import Connection
from .link import Link
from .records import Answered, Frames, RawAnswered, RawBatch, header
from .release import Decision, Movement, Policy, Release, ToCaller, ToWorker, judge
from .rooms import Room
from .state import NodeState


class Tenancy(Protocol):
    """What its routes ask of a tenancy."""

    client: str
    name: str
    entered: frozenset[Policy]
    room: Room

    def enter(self, policies: Iterable[Policy]) -> None:
        """Data of these policies is about to enter the room. Raises LimitExceeded, NotPermitted."""

    def write(self, entry: Entry) -> None:
        """Write down what is no release. Raises AuditFailed."""

    def refusal(self, error: SyftError, last: int) -> Frames:
        """Return the answer that the ``last``-th message failed."""


class Routes:
    """All ways out of one room.

    Args:
        dial: connects to a worker, by name and address.
        call_client: sends a record down a session of the client's, by the client's name and the session's token.
    """

    def __init__(
        self,
        tenancy: Tenancy,
        state: NodeState,
        dial: Callable[[str, str], Connection],
        call_client: Callable[[str, str, Frames], None],
    ) -> None:
        self._tenancy, self._state, self._dial, self._call_client = tenancy, state, dial, call_client
        self._lock = threading.Lock()
        self._peers: dict[str, Introduce] = {}
        self._routes: dict[str, _Route] = {}
        self._told: dict[str, tuple[frozenset[Policy], Decision]] = {}
        self._closed = False

    def address_of(self, worker: str, told: str) -> str:
        """Return where to dial a worker, which the client was ``told`` to be there.

        Raises NotPermitted: it is none of the owner's peers, who reads of it in the log; Misuse: that is no
        address; AuditFailed.
        """
        try:
            return self._state.address_of(worker, told)
        except NotPermitted as refused:
            now, tenancy = datetime.now(UTC), self._tenancy
            tenancy.write(Entry(now, tenancy.client, "dial", False, refused.what, tenancy.name, to=worker))
            raise

    def introduce(self, message: Introduce) -> None:
        """Remember how to reach a worker elsewhere for this room, also anew after its way was lost.

        Whether it is a node or in the client's process is said once, since what goes there is judged by it.
        Raises Misuse, LimitExceeded; as :meth:`address_of` does.
        """
        where = self._state.owner
        if message.address:
            message = replace(message, address=self.address_of(message.worker, message.address))
        with self._lock:
            if message.worker not in self._peers and len(self._peers) >= limits.DELEGATES:
                raise LimitExceeded(f"a room reaches {limits.DELEGATES} workers elsewhere", where=where)
            known = self._peers.get(message.worker, message)
            if bool(known.address) != bool(message.address):
                raise Misuse(
                    f"this node has been told where {message.worker!r} is",
                    where=where,
                    mend=f"Connect to {where} anew.",
                )
            self._peers[message.worker] = message
            route = self._routes.get(message.worker)
            if route is not None and route.is_lost:
                del self._routes[message.worker]

    def call(self, worker: str, frames: Frames) -> None:
        """Send the room's batch on to a worker elsewhere, with the policies of what it may be made of."""
        batch = wire.unpack(header(frames), RawBatch)
        route = self._routes.get(worker) or _Route(self._tenancy, worker)
        try:
            peer = self._find(worker)
            self._routes[worker] = route  # only now: a room can name any number of others
            batch.policies = tuple(self._permit(peer))
            if route.carrier is None:
                route.carrier = self._open(peer, route)
                if self._closed:  # meanwhile, by who may not have seen it
                    route.close()
        except SyftError as error:
            route.lose(error)
        route.send(batch, frames)

    def take_reply(self, worker: str, frames: Frames) -> None:
        """Pass on the client's answer to a call. Raises MalformedMessage: nothing was asked."""
        route = self._routes.get(worker)
        if route is None or worker not in self._peers or self._peers[worker].address:
            raise MalformedMessage("an answer to what was not asked", where=self._state.owner)
        route.arrived(frames)

    def lose(self, token: str, error: SyftError) -> None:
        """The session of this token has ended: workers to whom it leads are out of reach."""
        for peer in list(self._peers.values()):
            if not peer.address and peer.token == token and peer.worker in self._routes:
                self._routes[peer.worker].lose(error)

    def close(self) -> None:
        """Hang up, on all of them at the same time: each may take a while to say goodbye."""
        self._closed = True
        with ThreadPoolExecutor(limits.DELEGATES) as pool:
            list(pool.map(_Route.close, list(self._routes.values())))

    def _find(self, worker: str) -> Introduce:
        peer = self._peers.get(worker)
        if peer is None:
            raise WorkerNotFound(
                f"{self._state.owner} has not been told where {worker!r} is",
                where=self._state.owner,
                mend="Connect to it, and send the pointer itself.",
            )
        return peer

    def _permit(self, peer: Introduce) -> frozenset[Policy]:
        """Judge whether the room may talk to ``peer``; write it down once for all that entered so far.

        Return the policies that go with what it says; a worker in the client's process is the client.
        Raises SendNotPermitted, AuditFailed.
        """
        entered = self._tenancy.entered
        if not entered:
            return entered
        before, decision = self._told.get(peer.worker, (None, None))
        if decision is None or before != entered:
            decision = self._judge(peer, entered)
            self._told[peer.worker] = entered, decision
        if not decision.allowed:
            raise SendNotPermitted(
                f"what is in this room may not go to {peer.worker}: {decision.reason}",
                where=self._state.owner,
                mend="Compute with the two in rooms apart: connect once more.",
            )
        return entered if peer.address else frozenset()

    def _judge(self, peer: Introduce, entered: frozenset[Policy]) -> Decision:
        """Raises AuditFailed."""
        client, room = self._tenancy.client, self._tenancy.name
        release: Release = ToWorker(0, peer.worker, Movement.OPEN) if peer.address else ToCaller(0)
        decision = judge(release, client, room, entered)
        now, why = datetime.now(UTC), decision.reason
        entry = Entry(now, client, "call", decision.allowed, why, room, to=peer.worker, policies=decision.policies)
        self._tenancy.write(entry)
        return decision

    def _open(self, peer: Introduce, route: _Route) -> Carrier:
        """Raises WorkerShut."""
        if peer.address:
            link = Link(peer.address, partial(self._dial, peer.worker, peer.address), peer.token)
            link.listen(route.arrived, route.lose, lambda: self._state.limits.room_bytes)
            return link
        client = self._tenancy.client
        return _CallsOfClient(peer.worker, lambda frames: self._call_client(client, peer.token, frames))


class _CallsOfClient:
    """Carries a room's batches for one worker to the client's process."""

    def __init__(self, worker: str, call: Callable[[Frames], None]) -> None:
        self._worker, self._call = worker, call

    def send(self, last: int, frames: Frames) -> None:
        called = Called(self._worker, bytes(header(frames)))
        self._call([*wire.encode(Answered(0, called)), *frames[1:]])

    def acknowledge(self, last: int) -> None:
        """The session keeps what has not arrived."""

    def close(self) -> None:
        """The session is the client's to end."""


class _Route:
    """A room's way to one worker elsewhere. Once a batch is lost so is the way: every question gets the error."""

    def __init__(self, tenancy: Tenancy, worker: str) -> None:
        self._tenancy, self._worker = tenancy, worker
        self._lock = threading.Lock()
        self._asked: set[int] = set()
        self._error: SyftError | None = None
        self.carrier: Carrier | None = None

    @property
    def is_lost(self) -> bool:
        return self._error is not None

    def send(self, batch: RawBatch, frames: Frames) -> None:
        """Send a batch, or answer it with the error."""
        last = batch.first + len(batch.messages) - 1
        with self._lock:
            error = self._error
            if error is None and batch.asks:
                self._asked.add(last)
        if error is None and self.carrier is not None:
            self.carrier.send(last, [msgspec.msgpack.encode(batch), *frames[1:]])
        elif error is not None and batch.asks:
            self._answer(self._tenancy.refusal(error, last))

    def arrived(self, frames: Frames) -> None:
        """Pass on an answer, with whose data it brings. Raises MalformedMessage."""
        answered = wire.unpack(header(frames), RawAnswered)
        with self._lock:
            if answered.seq not in self._asked:
                raise MalformedMessage("an answer to what was not asked", where=self._worker)
            self._asked.remove(answered.seq)
        self._tenancy.enter(answered.policies)
        if self.carrier is not None:
            self.carrier.acknowledge(answered.seq)
        self._answer(frames)

    def lose(self, error: SyftError) -> None:
        """The way is lost, for good."""
        with self._lock:
            self._error = self._error or error
            asked, self._asked = sorted(self._asked), set()
        for last in asked:
            self._answer(self._tenancy.refusal(error, last))

    def close(self) -> None:
        """Hang up."""
        if self.carrier is not None:
            self.carrier.close()

    def _answer(self, frames: Frames) -> None:
        self._tenancy.room.answer_call(self._worker, frames)
