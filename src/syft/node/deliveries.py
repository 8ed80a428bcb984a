"""Objects that go from node to node, each under a ticket that its receiver was told of, and past the client."""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import msgspec

from .. import limits
from ..errors import (
    BadCertificate,
    LimitExceeded,
    MalformedMessage,
    NotPermitted,
    SyftError,
    WorkerNotFound,
    WorkerShut,
)
from ..messages import Expect, Get, Give, Retire
from .connection import Connection, text_of
from .counts import Counts
from .records import (
    Delivery,
    Frames,
    PacketSource,
    check_tensors,
    numbered,
    read_record,
    size_of,
    tag_of,
)
from .release import Movement, ShapeToCaller, ToWorker
from .rooms import failed, raw_value
from .tenancy import Tenancy


@dataclass
class _Ticket:
    """Where one delivery goes, and from whom it has to come; once it has come, by which name, and its answer."""

    sender: str
    tenancy: Tenancy
    id: int
    attempt: str = ""
    answer: Future[Frames | None] = field(default_factory=Future)  # None: it was cut off


class Deliveries:
    """Those of one gate, in both directions.

    Args:
        worker: whose gate it is.
        most: bytes of one delivery here.
        dial: connects to another node, by name and address.
        refused: told whose delivery nobody expects.
    """

    def __init__(
        self,
        worker: str,
        most: int,
        dial: Callable[[str, str], Connection],
        counts: Counts,
        refused: Callable[[str], None],
    ) -> None:
        self._worker, self._most, self._dial, self._counts, self._refused = worker, most, dial, counts, refused
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._tickets: dict[str, _Ticket] = {}
        self._count: Counter[Tenancy] = Counter()  # deliveries on their way into rooms
        self._calls: dict[Tenancy, set[Connection]] = {}  # under way, of each room that is here
        self._connections: dict[tuple[str, str], Connection] = {}  # a connection in use is not among them

    def admit(self, tenancy: Tenancy) -> None:
        """A room is here, until :meth:`forget`: it may give, and be given."""
        with self._lock:
            self._calls[tenancy] = set()

    # ---- away ----

    def give(self, tenancy: Tenancy, message: Give, last: int) -> Frames:
        """Take a copy out of the room, deliver it, and only then take the object itself off the listings.

        Return the receiver's answer, or the room's, as that to the ``last``-th message. Raises SyftError.
        """
        place = message.to, tenancy.routes.address_of(message.to, message.address)
        release = ToWorker(message.id, message.to, Movement.OPEN)
        tenancy.permit(release)
        taken = tenancy.let_out(
            b"give", release, tenancy.room.ask(Get(message.id, user=message.user, to=message.to)), last
        )
        value = raw_value(taken)
        if value is None:
            return numbered(taken, last)
        delivery = Delivery(message.ticket, secrets.token_hex(16), *value, tuple(tenancy.entered))
        answer = self._deliver(tenancy, place, [msgspec.msgpack.encode(delivery), *taken[1:]])
        if message.take_as is not None and tag_of(answer) in (b"placed", b"done"):
            tenancy.room.ask(Retire((message.id,), (message.take_as,), f"it was moved to {message.to}"))
            tenancy.offer_anew([message.id])
        return numbered(answer, last)

    def _deliver(self, tenancy: Tenancy, place: tuple[str, str], frames: Frames) -> Frames:
        """Hand a record to the gate of a node, by name and address, again and again if it is cut off.

        Return that gate's answer.

        Raises WorkerNotFound.
        """
        self._counts.gave(size_of(frames))
        pauses = iter(limits.RECONNECT_PAUSES)
        while True:
            try:
                return self._attempt(tenancy, place, frames)
            except (OSError, EOFError, BadCertificate, LimitExceeded, MalformedMessage, WorkerShut) as error:
                pause = next(pauses, None)
                if pause is None or self._closed.wait(pause) or tenancy not in self._calls:
                    raise WorkerNotFound(
                        f"{self._worker} cannot reach {place[0]} at {place[1]}: {text_of(error)}",
                        where=self._worker,
                    ) from error

    def _attempt(self, tenancy: Tenancy, place: tuple[str, str], frames: Frames) -> Frames:
        """Send a record, and return the answer to it. Raises OSError, EOFError, SyftError."""
        with self._lock:
            connection = self._connections.pop(place, None)
        connection = connection or self._dial(*place)
        try:
            with self._lock:
                if tenancy not in self._calls:
                    raise EOFError("whose object it is has left")
                self._calls[tenancy].add(connection)
            with suppress(BrokenPipeError, ConnectionResetError):  # it is refused, and the answer says why
                connection.send_record(frames)
            answer = read_record(PacketSource(connection), limits.PACKET_BYTES)
            is_refused = tag_of(answer) == b"failure"  # maybe before it was read, and then nothing more is
        except BaseException:
            connection.close()
            raise
        finally:
            with self._lock:
                self._calls.get(tenancy, set()).discard(connection)
        with self._lock:
            if (
                is_refused
                or self._closed.is_set()
                or place in self._connections
                or len(self._connections) >= limits.CONNECTIONS
            ):
                connection.close()
            else:
                self._connections[place] = connection
        return answer

    # ---- here ----

    def expect(self, tenancy: Tenancy, message: Expect) -> None:
        """Take what comes with this ticket; of too many, the oldest is forgotten."""
        with self._lock:
            if tenancy not in self._calls:
                return
            known = [name for name, ticket in self._tickets.items() if ticket.tenancy is tenancy]
            if len(known) >= limits.TICKETS:
                del self._tickets[known[0]]
            self._tickets[message.ticket] = _Ticket(message.sender, tenancy, message.id)

    def forget(self, tenancy: Tenancy) -> None:
        """Expect nothing more for a room that is gone, and hand nothing more away."""
        with self._lock:
            for call in self._calls.pop(tenancy, ()):
                call.hang_up()
            self._tickets = {name: ticket for name, ticket in self._tickets.items() if ticket.tenancy is not tenancy}

    def receive(
        self,
        sender: str,
        source: PacketSource,
        delivery: Delivery,
        lengths: Sequence[int],
    ) -> Frames:
        """Take a delivery of another node, if it bears a ticket of a client here; return the answer.

        Args:
            lengths: of the frames that have yet to be read from ``source``.

        Raises EOFError: it was cut off, and the ticket is still good; LimitExceeded, NotPermitted: what is left
        of it has not been read.
        """
        ticket = self._ticket(sender, delivery)
        with self._under_way(ticket.tenancy):
            with self._lock:
                is_first, ticket.attempt = not ticket.attempt, ticket.attempt or delivery.attempt
            if is_first:
                return self._take(ticket, source, delivery, lengths)
            try:  # it came before, and its answer was cut off
                answer = self._ticket(sender, delivery).answer.result(limits.DELIVERY_SECONDS)
            except TimeoutError as error:
                raise EOFError("the room that it is for has yet to take it") from error
            if answer is None:
                raise EOFError("what came before was cut off")
            return answer

    @contextmanager
    def _under_way(self, tenancy: Tenancy) -> Iterator[None]:
        """Count a delivery into a room while it lasts. Raises LimitExceeded."""
        with self._lock:
            self._count[tenancy] += 1
            is_one_too_many = self._count[tenancy] > limits.DELIVERIES_OF_A_ROOM
        try:
            if is_one_too_many:
                raise LimitExceeded(
                    f"{limits.DELIVERIES_OF_A_ROOM} deliveries are on their way into this room already",
                    where=self._worker,
                    mend="Move it later.",
                )
            yield
        finally:
            with self._lock:
                self._count[tenancy] -= 1
                if not self._count[tenancy]:
                    del self._count[tenancy]

    def _take(
        self,
        ticket: _Ticket,
        source: PacketSource,
        delivery: Delivery,
        lengths: Sequence[int],
    ) -> Frames:
        """Read the first attempt at a delivery, and put it in the room; return the answer. Raises as above."""
        room = ticket.tenancy.room
        with ExitStack() as stack:
            try:
                check_tensors(lengths, self._most)
                # They came with the value, and hold here as they do there, before any of it is in the room.
                ticket.tenancy.enter(delivery.policies)
                memories = stack.enter_context(room.forward(source, lengths))
            except BaseException:  # it was cut off, or is refused: the next attempt is the first again
                with self._lock:
                    before, ticket.attempt, ticket.answer = ticket.answer, "", Future()
                before.set_result(None)
                raise
            self._counts.took(0, size_of(memories))
            message = "put", ticket.id, delivery.value, delivery.tags, delivery.description, None
            put = msgspec.msgpack.encode((1, True, 0, [message]))
            try:
                placed = room.ask_encoded([put, *memories])
                answer = ticket.tenancy.let_out(b"put", ShapeToCaller(), placed, 1)
            except SyftError as error:
                answer = failed(1, error)
        ticket.answer.set_result(answer)
        return answer

    def _ticket(self, sender: str, delivery: Delivery) -> _Ticket:
        """Return the ticket of a delivery. Raises NotPermitted: there is none, or it is another's, or used up."""
        with self._lock:
            ticket = self._tickets.get(delivery.ticket)
        if ticket is None or ticket.sender != sender or ticket.attempt not in ("", delivery.attempt):
            self._refused(sender)
            raise NotPermitted("nobody here expects this delivery", where=self._worker, mend="Move the object again.")
        return ticket

    def close(self) -> None:
        """Hang up."""
        with self._lock:
            self._closed.set()
            for call in (call for calls in self._calls.values() for call in calls):
                call.hang_up()
        for connection in self._connections.values():
            connection.close()
