"""The gate of a node: network, identity, who may have what. It runs no operator for anyone.

A session is one client program's, or a delegate's: a worker elsewhere that runs a chain's operators
for the client. Its batches go on to the room, the room's answers come back, and both are kept until
the other side has them, so that a connection may drop in between and nothing is lost or run twice.
The gate reads of a batch only what kinds of messages are in it.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import msgspec

from .. import limits, wire
from ..errors import LimitExceeded, MalformedMessage, NotPermitted, SyftError, WorkerNotFound, WorkerShut
from ..messages import Delegate, Delegated, Done, Expect, Get, Give, Introduce, Retire
from .certs import Bundle, name_in, tls_name
from .envelopes import (
    FOR_THE_GATE,
    Answered,
    Batch,
    Opening,
    PacketSource,
    SealedBatch,
    Source,
    Welcome,
    pack,
    peek_tag,
    read_record,
)
from .link import CALLER_OPTIONS, DELIVER, SESSION, Link
from .nursery import Nursery, Order
from .rooms import Frames, Room, failed, sealed_value

#: What a connection sends: records, until None, or the error that ends the session.
Stream = queue.SimpleQueue[Frames | SyftError | None]

#: Messages that go to the room as they are.
_FOR_THE_ROOM = frozenset(
    {b"run", b"put", b"get", b"fetch", b"retain", b"release", b"retire", b"describe", b"search", b"clear"}
)


class Ticket(NamedTuple):
    """Where one delivery goes, and from whom it has to come."""

    sender: str
    room: Room
    id: int


class Tenancy:
    """What the gate knows of one client's room besides the room itself."""

    def __init__(self, nursery: Nursery, order: Order, dial: Callable[[str, str], grpc.Channel]) -> None:
        self._dial = dial
        self._peers: dict[str, Introduce] = {}
        self._lines: dict[str, Line] = {}
        self.room = Room(nursery, order, self._call)

    def introduce(self, message: Introduce) -> None:
        """Remember how to reach a worker elsewhere for this room."""
        self._peers[message.worker] = message

    def close(self) -> None:
        """End the room and hang up its calls."""
        self.room.close()
        for line in list(self._lines.values()):
            line.close()

    def _call(self, worker: str, frames: Frames) -> None:
        """Send the room's batch on to a worker elsewhere."""
        if worker not in self._lines:
            self._lines[worker] = Line(self.room, worker, self._open_link)
        self._lines[worker].send(frames)

    def _open_link(self, worker: str, arrived: Callable[[Frames], None], lost: Callable[[SyftError], None]) -> Link:
        peer = self._peers.get(worker)
        if peer is None:
            raise WorkerNotFound(
                f"{self.room.worker} has not been told where {worker!r} is",
                where=self.room.worker,
                mend="A node reaches other nodes only: connect to both, and send the pointer itself.",
            )
        return Link(peer.address, self._dial(peer.worker, peer.address), peer.token, arrived, lost)


class Line:
    """A room's way to one worker elsewhere. What the room asks is answered, with an error once the way is lost."""

    def __init__(self, room: Room, worker: str, open_link: Callable[..., Link]) -> None:
        self._room, self._worker = room, worker
        self._lock = threading.Lock()
        self._asked: deque[int] = deque()
        self._error: SyftError | None = None
        self._link: Link | None = None
        try:
            self._link = open_link(worker, self._arrived, self._lose)
        except SyftError as error:
            self._error = error

    def send(self, frames: Frames) -> None:
        """Send a batch."""
        batch = msgspec.msgpack.decode(frames[0], type=SealedBatch)
        last = batch.first + len(batch.messages) - 1
        with self._lock:
            error = self._error
            if error is None and batch.asks:
                self._asked.append(last)
        if error is None and self._link is not None:
            self._link.send(last, frames)
        elif error is not None and batch.asks:
            self._room.answer_call(self._worker, failed(last, error))

    def close(self) -> None:
        """Hang up."""
        if self._link is not None:
            self._link.close()

    def _arrived(self, frames: Frames) -> None:
        answered, _ = msgspec.msgpack.decode(frames[0], type=tuple[int, msgspec.Raw])
        with self._lock:
            if not self._asked or self._asked.popleft() != answered:
                raise MalformedMessage("an answer to what was not asked", where=self._worker)
        if self._link is not None:
            self._link.acknowledge(answered)
        self._room.answer_call(self._worker, frames)

    def _lose(self, error: SyftError) -> None:
        with self._lock:
            self._error = error
            asked, self._asked = self._asked, deque()
        for last in asked:
            self._room.answer_call(self._worker, failed(last, error))


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
        batch = msgspec.msgpack.decode(frames[0], type=SealedBatch)
        with self._lock:
            self._forget(batch.received)
        if not batch.messages:
            return not batch.asks
        last = batch.first + len(batch.messages) - 1
        with self._turn:
            if last > self.accepted:
                if batch.first != self.accepted + 1:
                    raise MalformedMessage("a batch is missing", where=self.tenancy.room.worker)
                self.accepted = last
                self._pass_on(batch, frames, last)
        return True

    def _pass_on(self, batch: SealedBatch, frames: Frames, last: int) -> None:
        if all(peek_tag(message) in _FOR_THE_ROOM for message in batch.messages):
            self.tenancy.room.send(frames, last, self._answer_in_time if batch.asks else None)
        else:
            message = wire.decode(frames, Batch).messages[-1]
            if len(batch.messages) > 1 or not batch.asks or not isinstance(message, FOR_THE_GATE):
                raise MalformedMessage("a node does not take such a message", where=self.tenancy.room.worker)
            self._gate.answer(self, last, message)

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
        """As :meth:`answer`; then the room waits for a caller who reads slower than it answers."""
        self.answer(frames)
        with self._lock:
            self._read.wait_for(lambda: self._unread <= limits.UNREAD_BYTES or self._ending is not None)

    def _forget(self, received: int) -> None:
        while self._forgotten < received and self._answers:
            self._answers.popleft()
            self._forgotten += 1


class Gate(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The node's gRPC service: ``Session``, one stream a session, and ``Deliver``, from other nodes."""

    def __init__(self, bundle: Bundle, nursery: Nursery) -> None:
        self._worker, self._bundle, self._nursery = bundle.name, bundle, nursery
        self._lock = threading.Lock()
        self._closed = False
        self._sessions: dict[tuple[str, str], Session] = {}
        self._delegates: dict[tuple[str, str], Tenancy] = {}
        self._tickets: dict[str, Ticket] = {}
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
            sessions = list(self._sessions.values())
        for session in sessions:
            session.finish(WorkerShut("the owner of this node has stopped it", where=self._worker))
        self._errands.shutdown(wait=False, cancel_futures=True)
        for session in sessions:
            session.tenancy.close()

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
        yield from pack(wire.encode(Welcome(self._worker, session.accepted, limits.GRACE_SECONDS)))
        while (item := stream.get()) is not None:
            if isinstance(item, SyftError):
                context.abort(_status(item), str(item))
            else:
                yield from pack(item)
                session.read(stream, item)

    def _session(self, caller: str, opening: Opening) -> Session:
        id = opening.session
        with self._lock:
            session = self._sessions.get((caller, id))
            if self._closed or (session is None and opening.resumes):
                raise _away(self._worker)
            if session is None:
                if len(self._sessions) >= limits.CLIENTS:
                    raise LimitExceeded(
                        f"this node has {limits.CLIENTS} clients already", where=self._worker, mend="Try again later."
                    )
                tenancy = self._delegates.get((caller, id))
                if tenancy is None:
                    order = Order(self._worker, limits.ROOM_MEMORY, limits.ROOM_CPU_SECONDS)
                    tenancy = Tenancy(self._nursery, order, self._dial)
                session = self._sessions[caller, id] = Session(caller, tenancy, self)
            return session

    def _listen(self, source: Source, session: Session, id: str, stream: Stream) -> None:
        def end() -> None:
            self._end((session.caller, id), session)

        try:
            while session.accept(read_record(source)):
                pass
        except (EOFError, grpc.RpcError):
            stream.put(None)
            session.detach(stream, limits.GRACE_SECONDS, end)
        except (SyftError, msgspec.DecodeError) as error:
            told = error if isinstance(error, SyftError) else MalformedMessage(str(error), where=self._worker)
            if session.finish(told, stream):
                end()
        else:
            if session.finish(None):
                end()

    def _end(self, key: tuple[str, str], session: Session) -> None:
        """Forget a session that has ended; a client's own, with its room and all that led there."""
        tenancy = session.tenancy
        with self._lock:
            self._sessions.pop(key, None)
            if key in self._delegates:
                return
            self._delegates = {k: t for k, t in self._delegates.items() if t is not tenancy}
            self._tickets = {k: t for k, t in self._tickets.items() if t.room is not tenancy.room}
            guests = {k: s for k, s in self._sessions.items() if s.tenancy is tenancy}
            for guest in guests:
                self._sessions.pop(guest)
        tenancy.close()
        for session in guests.values():
            session.finish(_away(self._worker))

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
        if isinstance(message, Expect):
            with self._lock:
                self._tickets[message.ticket] = Ticket(message.sender, session.tenancy.room, message.id)
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
        room = session.tenancy.room
        try:
            taken = _ask(room, Get(message.id, None, message.user))
            value = sealed_value(taken)
            if value is None:
                session.answer(_numbered(taken, last))
                return
            answer = self._deliver(message, [b"", *taken[1:]], value)
            if message.take_as is not None and _tag(answer) == b"placed":
                _ask(room, Retire((message.id,), (message.take_as,), f"it was moved to {message.to}"))
            session.answer(_numbered(answer, last))
        except SyftError as error:
            session.answer(failed(last, error))

    def _deliver(self, message: Give, frames: Frames, value: msgspec.Raw) -> Frames:
        """Hand a value to the gate of ``message.to``; return that gate's encoded answer."""
        frames = [msgspec.msgpack.encode((message.ticket, value)), *frames[1:]]
        with self._dial(message.to, message.address) as connection:
            try:
                return read_record(PacketSource(connection.stream_stream(DELIVER)(pack(frames))))
            except (grpc.RpcError, EOFError) as error:
                raise WorkerNotFound(
                    f"{self._worker} cannot reach {message.to} at {message.address}", where=self._worker
                ) from error

    def _receive(self, packets: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Take a delivery of another node, if it bears a ticket of a client here."""
        sender = _caller(context)
        frames = read_record(PacketSource(packets))
        ticket, value = msgspec.msgpack.decode(frames[0], type=tuple[str, msgspec.Raw])
        with self._lock:
            expected = self._tickets.pop(ticket, None)
        if expected is None or expected.sender != sender:
            error = NotPermitted("nobody here expects this delivery", where=self._worker, mend="Move the object again.")
            yield from pack(failed(0, error))
            return
        put = msgspec.msgpack.encode((1, True, 0, [("put", expected.id, value, (), "", None)]))
        yield from pack(_ask_encoded(expected.room, [put, *frames[1:]]))


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


def _numbered(frames: Frames, last: int) -> Frames:
    """Give an encoded answer another number."""
    _, answer = msgspec.msgpack.decode(frames[0], type=tuple[int, msgspec.Raw])
    return [msgspec.msgpack.encode((last, answer)), *frames[1:]]


def _tag(frames: Frames) -> bytes:
    _, answer = msgspec.msgpack.decode(frames[0], type=tuple[int, msgspec.Raw])
    return peek_tag(answer)
