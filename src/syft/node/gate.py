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
from ..errors import MalformedMessage, NotPermitted, SyftError, WorkerNotFound
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
from .link import DELIVER, OPTIONS, SESSION, Link
from .nursery import Nursery, Order
from .rooms import Frames, Room, failed, sealed_value

Stream = queue.SimpleQueue[Frames | None]

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
        self._links: dict[str, Link] = {}
        self.room = Room(nursery, order, self._call)

    def introduce(self, message: Introduce) -> None:
        """Remember how to reach a worker elsewhere for this room."""
        self._peers[message.worker] = message

    def close(self) -> None:
        """End the room and hang up its calls."""
        self.room.close()
        for link in self._links.values():
            link.close()

    def _call(self, worker: str, frames: Frames) -> None:
        """Send the room's batch on to a worker elsewhere."""
        batch = msgspec.msgpack.decode(frames[0], type=SealedBatch)
        last = batch.first + len(batch.messages) - 1
        try:
            self._link(worker).send(last, frames)
        except SyftError as error:
            if batch.asks:
                self.room.answer_call(worker, failed(last, error))

    def _link(self, worker: str) -> Link:
        link = self._links.get(worker)
        if link is None:
            peer = self._peers.get(worker)
            if peer is None:
                raise WorkerNotFound(
                    f"{self.room.worker} has not been told where {worker!r} is",
                    where=self.room.worker,
                    mend="A node reaches other nodes only: connect to both, and send the pointer itself.",
                )

            def arrived(frames: Frames) -> None:
                answered, _ = msgspec.msgpack.decode(frames[0], type=tuple[int, msgspec.Raw])
                self._links[worker].acknowledge(answered)
                self.room.answer_call(worker, frames)

            link = self._links[worker] = Link(
                peer.address, self._dial(peer.worker, peer.address), peer.token, arrived, lambda gone: None
            )
        return link


class Session:
    """The batches of one caller into a room, and the answers that have not yet arrived."""

    def __init__(self, caller: str, tenancy: Tenancy, gate: Gate) -> None:
        self.caller, self.tenancy = caller, tenancy
        self._gate = gate
        self._lock = threading.Lock()
        self.accepted = 0
        self._answers: deque[Frames] = deque()
        self._forgotten = 0  # answers that the caller has received, and that are no longer kept
        self._stream: Stream = queue.SimpleQueue()
        self._grace: threading.Timer | None = None

    def attach(self, received: int) -> Stream:
        """Take over for a new connection, whose caller has ``received`` answers; give its stream of records."""
        with self._lock:
            if self._grace is not None:
                self._grace.cancel()
            self._stream.put(None)  # the old connection's, if one is left
            self._stream = queue.SimpleQueue()
            self._forget(received)
            for frames in self._answers:
                self._stream.put(frames)
            return self._stream

    def detach(self, stream: Stream, end: Callable[[], None]) -> None:
        """The connection of ``stream`` is gone: call ``end`` after the grace period, unless the caller comes back."""
        with self._lock:
            if stream is self._stream:
                self._grace = threading.Timer(limits.GRACE_SECONDS, end)
                self._grace.daemon = True
                self._grace.start()

    def accept(self, frames: Frames) -> None:
        """Take a batch, unless it was taken before. Raises MalformedMessage."""
        batch = msgspec.msgpack.decode(frames[0], type=SealedBatch)
        last = batch.first + len(batch.messages) - 1
        with self._lock:
            self._forget(batch.received)
            if last <= self.accepted:
                return
            if batch.first != self.accepted + 1:
                raise MalformedMessage("a batch is missing", where=self.tenancy.room.worker)
            self.accepted = last
        if all(peek_tag(message) in _FOR_THE_ROOM for message in batch.messages):
            self.tenancy.room.send(frames, last, self.answer if batch.asks else None)
        else:
            message = wire.decode(frames, Batch).messages[-1]
            if len(batch.messages) > 1 or not batch.asks or not isinstance(message, FOR_THE_GATE):
                raise MalformedMessage("a node does not take such a message", where=self.tenancy.room.worker)
            self._gate.answer(self, last, message)

    def answer(self, frames: Frames) -> None:
        """Send an answer, and keep it until the caller has it."""
        with self._lock:
            self._answers.append(frames)
            self._stream.put(frames)

    def _forget(self, received: int) -> None:
        while self._forgotten < received and self._answers:
            self._answers.popleft()
            self._forgotten += 1


class Gate(grpc.GenericRpcHandler):  # type: ignore[misc]
    """The node's gRPC service: ``Session``, one stream a session, and ``Deliver``, from other nodes."""

    def __init__(self, bundle: Bundle, nursery: Nursery) -> None:
        self._worker, self._bundle, self._nursery = bundle.name, bundle, nursery
        self._lock = threading.Lock()
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
        self._errands.shutdown(wait=False, cancel_futures=True)
        for session in list(self._sessions.values()):
            session.tenancy.close()

    # ---- sessions ----

    def _serve(self, packets: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        caller = _caller(context)
        source = PacketSource(packets)
        opening = msgspec.msgpack.decode(read_record(source)[0], type=Opening)
        session = self._session(caller, opening.session)
        stream = session.attach(opening.received)
        threading.Thread(
            target=self._listen,
            args=(source, session, opening.session, stream),
            name=f"session of {caller}",
            daemon=True,
        ).start()
        yield from pack(wire.encode(Welcome(self._worker, session.accepted)))
        while (frames := stream.get()) is not None:
            yield from pack(frames)

    def _session(self, caller: str, id: str) -> Session:
        with self._lock:
            session = self._sessions.get((caller, id))
            if session is None:
                tenancy = self._delegates.get((caller, id))
                if tenancy is None:
                    order = Order(self._worker, limits.ROOM_MEMORY, limits.ROOM_CPU_SECONDS)
                    tenancy = Tenancy(self._nursery, order, self._dial)
                session = self._sessions[caller, id] = Session(caller, tenancy, self)
            return session

    def _listen(self, source: Source, session: Session, id: str, stream: Stream) -> None:
        def end() -> None:
            with self._lock:
                self._sessions.pop((session.caller, id), None)
                is_delegate = (session.caller, id) in self._delegates
            if not is_delegate:
                session.tenancy.close()

        try:
            while True:
                session.accept(read_record(source))
        except (EOFError, grpc.RpcError, SyftError, msgspec.DecodeError):
            stream.put(None)
            session.detach(stream, end)

    def _dial(self, worker: str, address: str) -> grpc.Channel:
        """Connect to another node, in this node's name, making sure that it is ``worker``."""
        bundle = self._bundle
        credentials = grpc.ssl_channel_credentials(bundle.ca, bundle.key, bundle.cert)
        return grpc.secure_channel(
            address, credentials, [*OPTIONS, ("grpc.ssl_target_name_override", tls_name(worker))]
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
