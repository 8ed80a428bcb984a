"""The gate of a node: network, identity, sessions. It runs no operator for anyone.

A session is one client program's, or a delegate's: a worker elsewhere that runs a chain's operators
for the client. Its batches go on to the room, the room's answers come back, and both are kept until
the other side has them, so that a connection may drop in between and nothing is lost or run twice.
The gate reads of a batch only what kinds of messages are in it, and the one that asks. What may leave
a room is decided in :mod:`syft.node.tenancy`.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

import grpc
import msgspec

from .. import limits, wire
from ..errors import (
    AuditFailed,
    LimitExceeded,
    MalformedMessage,
    Misuse,
    NotPermitted,
    SyftError,
    WorkerNotFound,
    WorkerShut,
)
from ..messages import Ask, Asked, Delegate, Delegated, Done, Expect, Get, Give, Retire, Search
from ..wire import Id, Meta, Name
from . import release as release_of
from .audit import Entry
from .certs import Bundle, name_in, tls_name
from .counts import Counts
from .desk import Desk
from .engines import Engine
from .envelopes import (
    FOR_THE_GATE,
    Answered,
    Batch,
    Delivery,
    Frames,
    Opening,
    PacketSource,
    SealedBatch,
    Welcome,
    header,
    pack,
    peek_tag,
    read_record,
    read_record_into_files,
)
from .link import CALLER_OPTIONS, DELIVER, SESSION
from .release import Move, Movement, Policy, Shape
from .rooms import Room, ending, failed, sealed_value
from .tenancy import Tenancy, with_policies

_log = logging.getLogger(__name__)

#: What a connection sends: records, until None, or the error that ends the session.
Stream = queue.SimpleQueue[Frames | SyftError | None]

#: Messages that go to the room as they are.
_FOR_THE_ROOM = frozenset({
    b"run", b"put", b"get", b"fetch", b"retain", b"release", b"retire", b"describe", b"search", b"list", b"seed",
    b"point", b"clear",
})  # fmt: skip


class Ticket(NamedTuple):
    """Where one delivery goes, and from whom it has to come."""

    sender: str
    tenancy: Tenancy
    id: int


class Session:
    """The batches of one caller into a room, and the answers that have not yet arrived."""

    def __init__(self, caller: str, tenancy: Tenancy, gate: Gate) -> None:
        self.caller, self.tenancy = caller, tenancy
        self._gate = gate
        self._turn = threading.Lock()  # one batch after another, whichever connection it comes by
        self._lock = threading.Lock()
        self._read = threading.Condition(self._lock)
        self.accepted = 0
        self._answers: deque[Frames] = deque()
        self._forgotten = 0  # answers that the caller has received, and that are no longer kept
        self._unread = 0  # bytes of answers that wait for the connection
        self._stream: Stream = queue.SimpleQueue()
        self._grace: threading.Timer | None = None
        self._ending: SyftError | None = None

    def attach(self, received: int) -> Stream:
        """Take over for a new connection, whose caller has ``received`` answers; give its stream of records.

        Raises SyftError: the session has ended.
        """
        with self._lock:
            if self._ending is not None:
                raise self._ending
            if self._grace is not None:
                self._grace.cancel()
            self._stream.put(None)  # the old connection's, if one is left
            self._stream = queue.SimpleQueue()
            self._forget(received)
            self._unread = sum(map(_size, self._answers))
            for frames in self._answers:
                self._stream.put(frames)
            return self._stream

    def detach(self, stream: Stream, seconds: float, end: Callable[[], None]) -> None:
        """The connection of ``stream`` is gone: call ``end`` after the grace period, unless the caller comes back."""

        def expire() -> None:
            if self.finish(_away(self.tenancy.room.worker), stream):
                end()

        with self._lock:
            if stream is self._stream and self._ending is None:
                self._grace = threading.Timer(seconds, expire)
                self._grace.daemon = True
                self._grace.start()

    def finish(self, ending: SyftError | None, stream: Stream | None = None) -> bool:
        """End the session, if ``stream`` is still its stream; tell whether this did it. The caller hears ``ending``."""
        with self._lock:
            if self._ending is not None or (stream is not None and stream is not self._stream):
                return False
            self._ending = ending or _away(self.tenancy.room.worker)
            if self._grace is not None:
                self._grace.cancel()
            self._stream.put(ending)
            self._read.notify_all()
            return True

    def accept(self, frames: Frames) -> bool:
        """Take a batch, unless it was taken before; tell whether more will come. Raises MalformedMessage."""
        batch = wire.unpack(header(frames), SealedBatch)
        with self._lock:
            self._forget(batch.received)
        if not batch.messages:
            return not batch.asks
        last = batch.first + len(batch.messages) - 1
        with self._turn:
            if last > self.accepted:
                if self.accepted and batch.first != self.accepted + 1:
                    raise MalformedMessage("a batch is missing", where=self.tenancy.room.worker)
                self.accepted = last
                self._gate.counts.took(len(batch.messages), _size(frames))
                self._pass_on(batch, frames, last)
        return True

    def _pass_on(self, batch: SealedBatch, frames: Frames, last: int) -> None:
        self.tenancy.enter(batch.policies)
        self.tenancy.bring_in(header(frames))
        tags = [peek_tag(message) for message in batch.messages]
        if _FOR_THE_ROOM.issuperset(tags):
            self._to_room(batch, frames, last, tags[-1])
        elif tags == [b"reply"]:
            self._take_reply(batch, frames, last)
        else:
            message = wire.decode([header(frames)], Batch).messages[-1]
            if len(batch.messages) > 1 or not batch.asks or not isinstance(message, FOR_THE_GATE):
                raise MalformedMessage("a node does not take such a message", where=self.tenancy.room.worker)
            self._gate.answer(self, last, message)

    def _take_reply(self, batch: SealedBatch, frames: Frames, last: int) -> None:
        """Give the room the answer to a call."""
        _, worker, seq, answer = wire.unpack(batch.messages[0], tuple[str, Name, Id, msgspec.Raw])
        self.tenancy.take_reply(worker, [msgspec.msgpack.encode((seq, answer)), *frames[1:]])
        self.answer(wire.encode(Answered(last, Done())))

    def _to_room(self, batch: SealedBatch, frames: Frames, last: int, asked: bytes) -> None:
        """Give a batch to the room, and of its answer to the caller what may leave."""
        tenancy = self.tenancy
        if not batch.asks:
            tenancy.room.send(frames, last, None)
        elif asked == b"get":
            self._get(batch, frames, last)
        else:
            query = wire.unpack(batch.messages[-1], Search).query if asked == b"search" else ()

            def receive(answer: Frames) -> None:
                self._answer_in_time(tenancy.let_out(asked, Shape(), answer, last, query))

            tenancy.room.send(frames, last, receive)

    def _get(self, batch: SealedBatch, frames: Frames, last: int) -> None:
        """As ``_to_room``, for a batch that ends in a Get: what is refused has not been taken."""
        tenancy, message = self.tenancy, wire.unpack(batch.messages[-1], Get)
        is_client = self.caller == tenancy.client
        release = release_of.Get(message.id) if is_client else Move(message.id, self.caller, Movement.OPEN)

        def receive(answer: Frames) -> None:
            answer = tenancy.let_out(b"get", release, answer, last)
            self._answer_in_time(answer if is_client else with_policies(answer, tenancy.entered))

        instead: list[msgspec.Raw] = []
        try:
            decision = tenancy.permit(release)
            if not decision.request:
                tenancy.room.send(frames, last, receive)
                return
            answer = self._gate.approved(decision.request, last)
            if message.take_as is not None:
                instead.append(_retire(message.id, message.take_as))
        except SyftError as error:
            answer = tenancy.refusal(error, last)
        batch.messages[-1:] = instead
        batch.asks = False
        tenancy.room.send([msgspec.msgpack.encode(batch), *frames[1:]], last, None)
        self.answer(answer)

    def answer(self, frames: Frames) -> None:
        """Send an answer, and keep it until the caller has it."""
        with self._lock:
            self._answers.append(frames)
            self._unread += _size(frames)
            self._stream.put(frames)

    def read(self, stream: Stream, frames: Frames) -> None:
        """The connection of ``stream`` has taken an answer."""
        with self._lock:
            if stream is self._stream:
                self._unread -= _size(frames)
                self._read.notify_all()

    def _answer_in_time(self, frames: Frames) -> None:
        """As :meth:`answer`; the room waits for a caller who reads slower than it answers."""
        with self._lock:
            self._read.wait_for(lambda: self._unread <= limits.UNREAD_BYTES or self._ending is not None)
        self.answer(frames)

    def _forget(self, received: int) -> None:
        while self._forgotten < received and self._answers:
            self._answers.popleft()
            self._forgotten += 1


class Gate(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The node's gRPC service: ``Session``, one stream a session, and ``Deliver``, from other nodes."""

    def __init__(self, bundle: Bundle, engine: Engine, desk: Desk) -> None:
        self._worker, self._bundle, self._engine, self._desk = bundle.name, bundle, engine, desk
        self.counts = Counts()
        self._limits = desk.limits
        self._tenancies: list[Tenancy] = []
        self._lock = threading.Lock()
        self._closed = False
        self._sessions: dict[tuple[str, str], Session] = {}
        self._delegates: dict[tuple[str, str], Tenancy] = {}
        self._tickets: dict[str, Ticket] = {}
        self._connections: dict[tuple[str, str], grpc.Channel] = {}  # for deliveries; out of it while one is made
        self._errands = ThreadPoolExecutor(limits.ERRANDS, "errand")

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method == SESSION:
            return grpc.stream_stream_rpc_method_handler(self._serve)
        if details.method == DELIVER:
            return grpc.stream_stream_rpc_method_handler(self._receive)
        return None

    def close(self) -> None:
        """End every room."""
        with self._lock:
            self._closed = True
            sessions, connections = list(self._sessions.values()), list(self._connections.values())
        for session in sessions:
            session.finish(WorkerShut("the owner of this node has stopped it", where=self._worker))
        self._errands.shutdown(wait=False, cancel_futures=True)
        for session in sessions:
            session.tenancy.close()
        for connection in connections:
            connection.close()

    def present(self) -> tuple[int, list[Tenancy]]:
        """Return how many sessions there are, and all clients' rooms."""
        with self._lock:
            return len(self._sessions), list(self._tenancies)

    # ---- sessions ----

    def _serve(self, packets: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        caller = _caller(context)
        source = PacketSource(packets)
        try:
            opening = wire.decode(read_record(source), Opening)
            session = self._session(caller, opening)
            stream = session.attach(opening.received)
        except (EOFError, grpc.RpcError):
            return
        except SyftError as error:
            context.abort(_status(error), str(error))
        threading.Thread(
            target=self._listen,
            args=(source, session, opening.session, stream),
            name=f"session of {caller}",
            daemon=True,
        ).start()
        yield from pack(wire.encode(Welcome(self._worker, session.accepted, self._limits.grace_seconds)))
        while (item := stream.get()) is not None:
            if isinstance(item, SyftError):
                context.abort(_status(item), str(item))
                return
            try:
                yield from pack(item)
            except EOFError:  # the room has ended in the middle of its answer
                gone = ending(self._worker)
                session.finish(gone, stream)
                context.abort(_status(gone), str(gone))
            session.read(stream, item)
            self.counts.gave(_size(item))

    def _session(self, caller: str, opening: Opening) -> Session:
        id = opening.session
        with self._lock:
            session = self._sessions.get((caller, id))
            if self._closed or (session is None and opening.resumes):
                raise _away(self._worker)
            if session is None:
                tenancy = self._delegates.get((caller, id)) or self._open(caller)
                session = self._sessions[caller, id] = Session(caller, tenancy, self)
            return session

    def _open(self, client: str) -> Tenancy:
        """Open a room. Raises LimitExceeded, WorkerShut."""
        if len(self._tenancies) >= self._limits.clients:
            self._note_refusal(client, "connect", "there are too many clients")
            raise LimitExceeded(
                f"this node has {self._limits.clients} clients already", where=self._worker, mend="Try again later."
            )
        tenancy = Tenancy(client, self._engine, self._desk, self._dial, self._call_client, self._show)
        self._tenancies.append(tenancy)
        self._show()
        return tenancy

    def _show(self) -> None:
        """Have the owner's commands show who is here, if that can be written."""
        try:
            self._desk.show(tenancy.shown for tenancy in list(self._tenancies))
        except AuditFailed as error:
            _log.error("syft rooms is behind: %s", error)

    def _note_refusal(self, client: str, what: str, reason: str) -> None:
        """Write down what is refused; where that cannot be written, it is refused all the same."""
        try:
            self._desk.audit.append(Entry(datetime.now(UTC), client, what, False, reason))
        except AuditFailed as error:
            _log.error("%s: %s: %s, which is not in the audit log: %s", client, what, reason, error)

    def _listen(self, source: PacketSource, session: Session, id: str, stream: Stream) -> None:
        def end() -> None:
            self._end((session.caller, id), session)

        try:
            while session.accept(read_record_into_files(source)):
                pass
        except (EOFError, grpc.RpcError):
            stream.put(None)
            session.detach(stream, self._limits.grace_seconds, end)
        except SyftError as error:
            if session.finish(error, stream):
                end()
        else:
            if session.finish(None):
                end()

    def _end(self, key: tuple[str, str], session: Session) -> None:
        """Forget a session that has ended; a client's own, with its room and all that led there."""
        tenancy = session.tenancy
        with self._lock:
            self._sessions.pop(key, None)
            is_guest = key in self._delegates or tenancy not in self._tenancies
        if is_guest:
            tenancy.lose_calls(key[1], _away(self._worker))
            return
        with self._lock:
            self._delegates = {k: t for k, t in self._delegates.items() if t is not tenancy}
            self._tickets = {k: t for k, t in self._tickets.items() if t.tenancy is not tenancy}
            guests = {k: s for k, s in self._sessions.items() if s.tenancy is tenancy}
            for guest in guests:
                self._sessions.pop(guest)
            self._tenancies.remove(tenancy)
            self.counts.left(died=tenancy.room.died, cpu_seconds=tenancy.room.cpu_seconds())
        tenancy.close()
        self._show()
        for session in guests.values():
            session.finish(_away(self._worker))

    def _call_client(self, client: str, token: str, frames: Frames) -> None:
        """Send a record down the session of a client that is for calls. Raises WorkerShut."""
        with self._lock:
            session = self._sessions.get((client, token))
        if session is None:
            raise _away(self._worker)
        session.answer(frames)

    def _dial(self, worker: str, address: str) -> grpc.Channel:
        """Connect to another node, in this node's name, making sure that it is ``worker``."""
        bundle = self._bundle
        credentials = grpc.ssl_channel_credentials(bundle.ca, bundle.key, bundle.cert)
        return grpc.secure_channel(
            address, credentials, [*CALLER_OPTIONS, ("grpc.ssl_target_name_override", tls_name(worker))]
        )

    # ---- what the gate answers itself ----

    def answer(self, session: Session, last: int, message: Any) -> None:
        """Answer one message that is not for the room."""
        if isinstance(message, Give):
            self._errands.submit(self._give, session, last, message)
            return
        if isinstance(message, Ask):
            self._errands.submit(self._request, session, last, message)
            return
        if isinstance(message, Expect):
            with self._lock:
                self._tickets[message.ticket] = Ticket(message.sender, session.tenancy, message.id)
            answer: Any = Done()
        elif isinstance(message, Delegate):
            answer = Delegated(secrets.token_hex(16))
            with self._lock:
                self._delegates[message.to, answer.token] = session.tenancy
        else:
            session.tenancy.introduce(message)
            answer = Done()
        session.answer(wire.encode(Answered(last, answer)))

    def _give(self, session: Session, last: int, message: Give) -> None:
        """Take a copy out of the room, deliver it, and only then take the object itself off the listings."""
        tenancy = session.tenancy
        try:
            release = Move(message.id, message.to, Movement.OPEN)
            tenancy.permit(release)
            taken = _ask(tenancy.room, Get(message.id, None, message.user))
            taken = tenancy.let_out(b"get", release, taken, last)
            value = sealed_value(taken)
            if value is None:
                session.answer(_numbered(taken, last))
                return
            answer = self._deliver(message, taken, value, tenancy.entered)
            if message.take_as is not None and _tag(answer) in (b"placed", b"done"):
                _ask(tenancy.room, Retire((message.id,), (message.take_as,), f"it was moved to {message.to}"))
            session.answer(_numbered(answer, last))
        except SyftError as error:
            session.answer(tenancy.refusal(error, last))

    def _request(self, session: Session, last: int, message: Ask) -> None:
        """Keep the value of an object, and put the client's request before the owner."""
        tenancy = session.tenancy
        try:
            if not tenancy.entered or session.caller != tenancy.client:
                raise Misuse("nothing private keeps you from this object", where=self._worker, mend="Get it: x.get().")
            taken = _ask(tenancy.room, Get(message.id))
            value = sealed_value(taken)
            if value is None:
                session.answer(tenancy.let_out(b"get", release_of.Get(message.id), taken, last))
                return
            meta = _meta_of(value, self._worker)
            request = self._desk.requests.ask(
                tenancy.client,
                tenancy.name,
                message.id,
                dtype=meta.dtype_name,
                shape=meta.shape,
                policies=sorted({policy.name for policy in tenancy.entered}),
                reason=message.reason,
                value=b"".join(pack(taken)),
            )
            session.answer(wire.encode(Answered(last, Asked(request.id))))
        except SyftError as error:
            session.answer(tenancy.refusal(error, last))

    def approved(self, request: str, last: int) -> Frames:
        """Return the value that the owner let out by hand, as it was when it was asked for."""
        return _numbered(read_record(PacketSource(iter([self._desk.requests.value(request)]))), last)

    def _deliver(self, message: Give, frames: Frames, value: msgspec.Raw, policies: frozenset[Policy]) -> Frames:
        """Hand a value, and the policies that go with it, to the gate of ``message.to``; return that gate's answer."""
        frames = [msgspec.msgpack.encode(Delivery(message.ticket, value, tuple(policies))), *frames[1:]]
        self.counts.gave(_size(frames))
        place = message.to, message.address
        with self._lock:
            connection = self._connections.pop(place, None)
        connection = connection or self._dial(*place)
        try:
            answer = read_record(PacketSource(connection.stream_stream(DELIVER)(pack(frames))))
        except (grpc.RpcError, EOFError) as error:
            connection.close()
            raise WorkerNotFound(
                f"{self._worker} cannot reach {message.to} at {message.address}", where=self._worker
            ) from error
        with self._lock:
            if not self._closed and len(self._connections) < limits.CONNECTIONS:
                connection, self._connections[place] = self._connections.get(place), connection
        if connection is not None:
            connection.close()
        return answer

    def _receive(self, packets: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Take a delivery of another node, if it bears a ticket of a client here."""
        sender = _caller(context)
        try:
            frames = read_record_into_files(PacketSource(packets))
            delivery = wire.unpack(header(frames), Delivery)
        except (EOFError, grpc.RpcError):  # it was cut off, and the ticket is still good
            return
        except SyftError as broken:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(broken))
        with self._lock:
            expected = self._tickets.pop(delivery.ticket, None)
        if expected is None or expected.sender != sender:
            self._note_refusal(sender, "ticket", "no client expects this delivery")
            error = NotPermitted("nobody here expects this delivery", where=self._worker, mend="Move the object again.")
            yield from pack(failed(0, error))
            return
        self.counts.took(0, _size(frames))
        tenancy = expected.tenancy
        tenancy.enter(delivery.policies)  # they came with the value, and hold here as they do there
        put = msgspec.msgpack.encode((1, True, 0, [("put", expected.id, delivery.value, (), "", None)]))
        placed = _ask_encoded(tenancy.room, [put, *frames[1:]])
        yield from pack(tenancy.let_out(b"put", Shape(), placed, 1))


def _size(frames: Frames) -> int:
    return sum(map(len, frames))


def _away(worker: str) -> WorkerShut:
    return WorkerShut(
        "your room here has ended: you left, or were away for longer than it is kept, or the node was started anew",
        where=worker,
        mend="Connect again, and send the data again.",
    )


def _status(error: SyftError) -> grpc.StatusCode:
    """How gRPC tells the end of a session; each is final for the caller's link."""
    if isinstance(error, WorkerShut):
        return grpc.StatusCode.NOT_FOUND
    return grpc.StatusCode.RESOURCE_EXHAUSTED if isinstance(error, LimitExceeded) else grpc.StatusCode.INVALID_ARGUMENT


def _caller(context: grpc.ServicerContext) -> str:
    return name_in(context.auth_context()["x509_pem_cert"][0])


def _ask(room: Room, message: Any) -> Frames:
    """Ask a room something on the gate's own account; return the encoded answer."""
    return _ask_encoded(room, wire.encode(Batch(1, True, 0, [message])))


def _ask_encoded(room: Room, frames: Frames) -> Frames:
    answer: Future[Frames] = Future()
    room.send(frames, 1, answer.set_result)
    return answer.result()


def _retire(id: int, take_as: int) -> msgspec.Raw:
    return msgspec.Raw(msgspec.msgpack.encode(Retire((id,), (take_as,), "it was taken home by a get")))


def _meta_of(value: msgspec.Raw, where: str) -> Meta:
    """Read the metadata of an encoded dense tensor. Raises Misuse: it is something else."""
    try:
        return wire.unpack(bytes(wire.unpack(value, msgspec.msgpack.Ext).data), tuple[int, Meta])[1]
    except MalformedMessage as error:
        raise Misuse(
            "only a dense tensor can be asked for", where=where, mend="x.to_dense(); or ask where the tensor itself is."
        ) from error


def _numbered(frames: Frames, last: int) -> Frames:
    """Give an encoded answer another number."""
    _, answer = wire.unpack(header(frames), tuple[int, msgspec.Raw])
    return [msgspec.msgpack.encode((last, answer)), *frames[1:]]


def _tag(frames: Frames) -> bytes:
    _, answer = wire.unpack(header(frames), tuple[int, msgspec.Raw])
    return peek_tag(answer)
