"""The gate of a node: network, identity, and whose rooms there are. It runs no operator for anyone.

It reads of a batch only what kinds of messages are in it, and the one that asks. What may leave a
room is decided in :mod:`syft.node.tenancy`.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any

from .. import limits, wire
from ..errors import AuditFailed, LimitExceeded, MalformedMessage, Misuse, NotPermitted, SyftError, WorkerShut
from ..messages import (
    Ask,
    Asked,
    Collect,
    Delegate,
    Delegated,
    Done,
    Expect,
    Get,
    Give,
    Inquire,
    Introduce,
    Withdraw,
)
from ..wire import DTYPE_NAMES
from .audit import Entry
from .connection import Connection
from .counts import Counts
from .deliveries import Deliveries
from .engines import Engine
from .listener import Listener
from .records import (
    Answered,
    Delivery,
    Frames,
    Opening,
    PacketSource,
    Welcome,
    check_tensors,
    numbered,
    pack,
    peek_tag,
    read_head,
    read_record,
    size_of,
)
from .release import ToCaller
from .requests import Standing, encoded, tensor_in
from .rooms import Room, failed, raw_value
from .session import Session, Stream, away
from .state import NodeState
from .tenancy import Tenancy

_log = logging.getLogger(__name__)


class Gate:
    """What a node does for each caller: who goes on with a session, and what other nodes deliver.

    Args:
        worker: its name.
        dial: connects to another node, by name and address.
        engine: has its rooms.
    """

    def __init__(self, worker: str, dial: Callable[[str, str], Connection], engine: Engine, state: NodeState) -> None:
        self._worker, self._dial, self._engine, self._state = worker, dial, engine, state
        self.counts = Counts()
        self._limits = state.limits
        self._tenancies: list[Tenancy] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._sessions: dict[tuple[str, str], Session] = {}
        self._opening: dict[tuple[str, str], Future[Session]] = {}  # sessions whose rooms are being opened
        self._delegates: dict[tuple[str, str], Tenancy] = {}
        self._deliveries = Deliveries(
            worker,
            state.limits.room_bytes,
            self._dial,
            self.counts,
            lambda sender: self._note_refusal(sender, "ticket", "no client expects this delivery"),
        )

    def close(self) -> None:
        """End every room."""
        with self._lock:
            self._closed.set()
            sessions, tenancies = list(self._sessions.values()), list(self._tenancies)
        for session in sessions:
            session.finish(WorkerShut("the owner of this node has stopped it", where=self._worker))
        with ThreadPoolExecutor(self._limits.clients) as pool:  # each may take its time to say goodbye to others
            list(pool.map(Tenancy.close, tenancies))
        self._deliveries.close()

    def present(self) -> tuple[int, list[Tenancy]]:
        """Return how many sessions there are, and all clients' rooms."""
        with self._lock:
            return len(self._sessions), list(self._tenancies)

    # ---- sessions ----

    def serve(self, connection: Connection, listener: Listener) -> None:
        """Serve a caller, until one of the two hangs up."""
        source = PacketSource(connection)
        with suppress(EOFError, OSError):  # it was cut off, or the caller has left
            try:
                opening, lengths = _read_opening(source)
                listener.settle(connection)
                if isinstance(opening, Opening):
                    self._converse(connection, source, opening)
                    return
                while isinstance(opening, Delivery):
                    connection.send_record(self._receive(connection, source, opening, lengths))
                    listener.unsettle(connection)
                    opening, lengths = _read_opening(source)
                    listener.settle(connection)
            except SyftError as error:
                connection.end(str(error))
                connection.drain()
            except RuntimeError as error:  # there is no room for another thread; when the caller is back there may be
                _log.error("%s cannot be served: %s", connection.peer, error)
        connection.close()

    def _converse(self, connection: Connection, source: PacketSource, opening: Opening) -> None:
        """Go on with a session, or begin one, and send its answers. Raises OSError; SyftError: the caller may not."""
        caller = connection.peer
        session = self._session(caller, opening)
        stream = session.attach(opening.received, partial(self._send_at_once, connection), connection.hurry)
        welcome = Welcome(session.accepted, self._limits.grace_seconds, self._limits.room_bytes)
        listening = threading.Thread(
            target=self._listen,
            args=(connection, source, session, opening.session, stream),
            name=f"session of {caller}",
            daemon=True,
        )
        try:
            listening.start()
        except RuntimeError:
            self._detach(session, opening.session, stream)
            raise
        with suppress(OSError):  # who listens finds out as well, and closes it
            connection.send_record(wire.encode(welcome))
            for answer in stream:
                try:
                    connection.send_record(answer)
                except EOFError:  # the room has ended in the middle of its answer, or more private data enters
                    gone = session.await_ending(limits.GOODBYE_SECONDS) or away(self._worker)
                    if session.finish(gone, stream):
                        self._end((caller, opening.session), session)
                    stream.ending = gone
                    break
                session.read(stream, answer)
                self.counts.gave(size_of(answer))
            if stream.ending is not None:
                connection.end(str(stream.ending))
                listening.join(limits.GOODBYE_SECONDS)  # the caller hangs up first, or what was said may be lost
        connection.hang_up()

    def _send_at_once(self, connection: Connection, answer: Frames) -> bool:
        is_sent = connection.send_record_at_once(answer)
        if is_sent:
            self.counts.gave(size_of(answer))
        return is_sent

    def _session(self, caller: str, opening: Opening) -> Session:
        """Return the session that a caller goes on with, or begins. Raises LimitExceeded, WorkerShut."""
        key = caller, opening.session
        try:
            with self._lock:
                session = self._sessions.get(key)
                if self._closed.is_set() or (session is None and opening.resumes):
                    raise away(self._worker)
                if session is not None:
                    return session
                if key in self._delegates:
                    return self._begin(key, self._delegates[key])
                opening_now = self._opening.get(key)
                if opening_now is None:
                    opened = self._reserve(key)
        except LimitExceeded as refusal:
            self._note_refusal(caller, "connect", refusal.what)
            raise
        if opening_now is None:
            return self._open(key, opened)
        try:
            return opening_now.result()
        except SyftError as error:
            raise error.again() from error

    def _begin(self, key: tuple[str, str], tenancy: Tenancy) -> Session:
        """Begin a session; the lock is held. Raises LimitExceeded."""
        if sum(other.tenancy is tenancy for other in self._sessions.values()) >= limits.SESSIONS_OF_A_ROOM:
            raise LimitExceeded(
                f"{limits.SESSIONS_OF_A_ROOM} workers use this client's room already", where=self._worker
            )
        session = self._sessions[key] = Session(key[0], tenancy, self)
        return session

    def _reserve(self, key: tuple[str, str]) -> Future[Session]:
        """Keep a place for the room of a new client's session; the lock is held. Raises LimitExceeded."""
        clients = [*(tenancy.client for tenancy in self._tenancies), *(client for client, _ in self._opening)]
        if len(clients) >= self._limits.clients:
            raise LimitExceeded(
                f"this node has {self._limits.clients} clients already", where=self._worker, mend="Try again later."
            )
        if clients.count(key[0]) >= self._limits.rooms_of_a_client:
            raise LimitExceeded(
                f"you have {self._limits.rooms_of_a_client} rooms here already",
                where=self._worker,
                mend="Leave those that you do not use: worker.shut().",
            )
        opened = self._opening[key] = Future()
        return opened

    def _open(self, key: tuple[str, str], opened: Future[Session]) -> Session:
        """Open the room for which there is a place; others come and go meanwhile. Raises WorkerShut."""
        try:
            tenancy = Tenancy(key[0], self._engine, self._state, self._dial, self._call_client, self._show, self._died)
        except BaseException as error:  # whoever came again for the same session must not wait in vain
            with self._lock:
                del self._opening[key]
            opened.set_exception(error)
            raise
        with self._lock:
            del self._opening[key]
            self._tenancies.append(tenancy)
            self._deliveries.admit(tenancy)
            session, is_late = self._begin(key, tenancy), self._closed.is_set() or tenancy.room.died
        if is_late and session.finish(tenancy.room.ending):
            self._end(key, session)
        opened.set_result(session)
        self._show()
        return session

    def _show(self) -> None:
        """Have the owner's commands show who is here, if that can be written."""
        try:
            self._state.show(tenancy.shown for tenancy in list(self._tenancies))
        except AuditFailed as error:
            _log.error("syft rooms is behind: %s", error)

    def _note_refusal(self, client: str, what: str, reason: str) -> None:
        """Write down what is refused; where that cannot be written, it is refused all the same."""
        try:
            self._state.audit.append(Entry(datetime.now(UTC), client, what, False, reason), self._closed)
        except AuditFailed as error:
            _log.error("%s: %s: %s, which is not in the audit log: %s", client, what, reason, error)

    def _listen(self, connection: Connection, source: PacketSource, session: Session, id: str, stream: Stream) -> None:
        try:
            while self._take_batch(source, session):
                pass
        except EOFError:
            self._detach(session, id, stream)
        except (SyftError, OSError, MemoryError) as error:
            told = error if isinstance(error, SyftError) else LimitExceeded(f"{error}", where=self._worker)
            if session.finish(told, stream):
                self._end((session.caller, id), session)
            connection.drain()
        else:
            if session.finish(None):
                self._end((session.caller, id), session)
        finally:
            connection.close()

    def _detach(self, session: Session, id: str, stream: Stream) -> None:
        """The connection of ``stream`` is gone: keep the session for the grace period."""
        stream.end()
        session.detach(stream, self._limits.grace_seconds, lambda: self._end((session.caller, id), session))

    def _take_batch(self, source: PacketSource, session: Session) -> bool:
        """Read a batch, and give it to its session; tell whether more will come. Raises as those do."""
        first, *lengths = read_head(source)
        head = source.read(first)
        if sum(lengths) <= limits.PACKET_BYTES:
            return session.accept([head, *map(source.read, lengths)])
        check_tensors(lengths, self._limits.room_bytes)
        with session.forward(head, source, lengths) as frames:
            return session.accept([head, *frames])

    def _end(self, key: tuple[str, str], session: Session) -> None:
        """Forget a session that has ended; a client's own, with its room and all that led there."""
        tenancy = session.tenancy
        with self._lock:
            self._sessions.pop(key, None)
            is_guest = key in self._delegates or tenancy not in self._tenancies
            if not is_guest:
                self._delegates = {k: t for k, t in self._delegates.items() if t is not tenancy}
                guests = {k: s for k, s in self._sessions.items() if s.tenancy is tenancy}
                for guest in guests:
                    self._sessions.pop(guest)
                self._tenancies.remove(tenancy)
                self.counts.left(died=tenancy.room.died, cpu_seconds=tenancy.room.cpu_seconds())
        if is_guest:
            tenancy.routes.lose(key[1], away(self._worker))
            return
        self._deliveries.forget(tenancy)
        tenancy.close()
        self._show()
        for session in guests.values():
            session.finish(away(self._worker))

    def _died(self, tenancy: Tenancy, room: Room) -> None:
        """A room has ended by itself: tell the owner, and all who are in it, since what they send is lost."""
        death, ending = room.death, room.ending  # the tenancy itself may still be in the making
        _log.warning("room %s of %s has ended: %s", tenancy.name, tenancy.client, death and ": ".join(death[:2]))
        with self._lock:
            sessions = {key: session for key, session in self._sessions.items() if session.tenancy is tenancy}
        for key, session in sessions.items():
            session.finish(ending)
            self._end(key, session)

    def _call_client(self, client: str, token: str, frames: Frames) -> None:
        """Send a record down the session of a client that is for calls. Raises WorkerShut."""
        with self._lock:
            session = self._sessions.get((client, token))
        if session is None:
            raise away(self._worker)
        session.answer(frames)

    # ---- what the gate answers itself ----

    def answer(self, session: Session, last: int, message: Any) -> None:
        """Answer one message that is not for the room."""
        work: Future[Frames] = Future()
        try:
            if isinstance(message, (Give, Ask, Inquire, Collect, Withdraw)):
                work = session.tenancy.start(self._answered_in_time, session, last, message)
            else:
                work.set_result(wire.encode(Answered(last, self._answered_at_once(session.tenancy, message))))
        except SyftError as error:
            work.set_exception(error)

        def reply(done: Future[Frames]) -> None:
            if done.cancelled():  # the room is gone, and with it whoever asked
                return
            error = done.exception()
            if error is None:
                session.answer(done.result())
                return
            if not isinstance(error, SyftError):
                _log.error("message %d of %s", last, session.caller, exc_info=error)
                error = SyftError("this node failed at this; its owner's log says why", where=self._worker)
            session.answer(session.tenancy.refusal(error, last))

        work.add_done_callback(reply)

    def _answered_in_time(
        self, session: Session, last: int, message: Give | Ask | Inquire | Collect | Withdraw
    ) -> Frames:
        """Answer what takes time or memory, once its caller has had most answers before. Raises SyftError."""
        session.wait_for_caller()
        if isinstance(message, Give):
            return self._deliveries.give(session.tenancy, message, last)
        if isinstance(message, Ask):
            return self._request(session, last, message)
        return self._asked(session, last, message)

    def _answered_at_once(self, tenancy: Tenancy, message: Expect | Delegate | Introduce) -> Done | Delegated:
        """Raises LimitExceeded, Misuse."""
        if isinstance(message, Expect):
            self._deliveries.expect(tenancy, message)
        elif isinstance(message, Introduce):
            tenancy.routes.introduce(message)
        else:
            token = secrets.token_hex(16)
            with self._lock:
                if sum(delegated is tenancy for delegated in self._delegates.values()) >= limits.DELEGATES:
                    raise LimitExceeded(f"you have {limits.DELEGATES} delegates already", where=self._worker)
                self._delegates[message.to, token] = tenancy
            return Delegated(token)
        return Done()

    def _request(self, session: Session, last: int, message: Ask) -> Frames:
        """Keep the value of an object, and put the client's request before the owner. Raises SyftError."""
        tenancy = session.tenancy
        if not tenancy.entered or session.caller != tenancy.client:
            raise Misuse("nothing private keeps you from this object", where=self._worker, mend="Get it: x.get().")
        tenancy.check_askable()
        tenancy.check_told()
        taken = tenancy.room.ask(Get(message.id))
        if raw_value(taken) is not None and size_of(taken) > limits.MAX_REQUEST_BYTES:
            what = f"a request is for {limits.MAX_REQUEST_BYTES} bytes at most, not {size_of(taken)}"
            too_large = LimitExceeded(what, where=self._worker, mend="Ask for less, such as a mean.")
            taken = failed(last, too_large)  # how large it is may depend on values, as whether it is there may
        if raw_value(taken) is None:
            return tenancy.let_out(b"ask", ToCaller(message.id), taken, last)
        try:
            tensor = tensor_in(b"".join(pack(taken)), self._worker)  # the room said this, the owner says yes to it
        except EOFError as cut_off:
            raise (tenancy.room.ending or away(self._worker)).again() from cut_off
        request = self._state.requests.ask(
            tenancy.client,
            tenancy.name,
            message.id,
            dtype=DTYPE_NAMES[tensor.dtype],
            shape=tuple(tensor.shape),
            policies=tenancy.entered,
            reason=message.reason,
            value=encoded(tensor),
        )
        return wire.encode(Answered(last, _asked([Standing(request)])))

    def _asked(self, session: Session, last: int, message: Inquire | Collect | Withdraw) -> Frames:
        """Answer what a client wants of its own requests, whichever of its rooms they came from. Raises SyftError."""
        tenancy, requests = session.tenancy, self._state.requests
        client = tenancy.client
        if session.caller != client:
            raise NotPermitted(f"requests of {client} are between it and the owner", where=self._worker)
        if isinstance(message, Inquire) and not message.request:
            return wire.encode(Answered(last, _asked(requests.of(client))))
        standing = requests.find_of(client, message.request)
        if isinstance(message, Inquire):
            return wire.encode(Answered(last, _asked([standing])))
        if isinstance(message, Withdraw):
            requests.withdraw(message.request)
            return wire.encode(Answered(last, Done()))
        tenancy.permit_collection(standing)
        return self.approved(message.request, last)

    def approved(self, request: str, last: int) -> Frames:
        """Return the value that the owner let out by hand, as it was when it was asked for."""
        return numbered(read_record(PacketSource(iter([self._state.requests.value(request)]))), last)

    def _receive(
        self, connection: Connection, source: PacketSource, delivery: Delivery, lengths: Sequence[int]
    ) -> Frames:
        """Take a delivery of another node; return the answer. Raises EOFError, OSError; SyftError: after the answer."""
        try:
            return self._deliveries.receive(connection.peer, source, delivery, lengths)
        except SyftError as refusal:  # the rest of the record is not read
            connection.send_record(failed(0, refusal))
            raise


def _read_opening(source: PacketSource) -> tuple[Opening | Delivery, list[int]]:
    """Read what a caller wants, and how long the frames are that come with it. Raises EOFError, SyftError."""
    first, *lengths = read_head(source)
    if first > limits.PACKET_BYTES:
        raise LimitExceeded(f"{first} bytes to say what is wanted")
    head = source.read(first)
    if peek_tag(head) == b"delivery":
        return wire.unpack(head, Delivery), lengths
    if lengths:
        raise MalformedMessage("who opens a session brings no memory")
    return wire.unpack(head, Opening), []


def _asked(standings: Iterable[Standing]) -> Asked:
    """What a client is told of its requests."""
    return Asked(
        tuple((s.request.id, s.request.time.isoformat(), s.request.reason, s.state, s.note) for s in standings)
    )
