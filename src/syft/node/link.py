"""A link: batches to a node's gate and answers back, each exactly once, whatever the connection does."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from .. import limits, wire
from ..errors import LimitExceeded, SyftError, WorkerShut
from ..wire import Frame
from .connection import Connection, Outbox, text_of
from .progress import Traffic
from .records import (
    Batch,
    Frames,
    Opening,
    Packet,
    PacketSource,
    Welcome,
    pack,
    pack_copy,
    read_head,
    read_record,
    size_of,
)

_log = logging.getLogger(__name__)


class Link:
    """One session at a gate, over one connection at a time.

    When the connection drops it is made anew, for as long as the gate keeps the session; batches that
    the gate has not had are sent again, answers that have not arrived come again. Where that takes its
    time the log says so, once, and once more when the connection is back.

    Args:
        address: of the node.
        dial: connects to it.
        session: the session's name, unguessable.

    Attributes:
        traffic: what crosses.
        most: bytes of tensors that the gate takes in one batch.
    """

    def __init__(
        self,
        address: str,
        dial: Callable[[], Connection],
        session: str,
    ) -> None:
        self.address, self.traffic = address, Traffic()
        self._dial, self._session = dial, session
        self._lock = threading.Lock()
        self._unacknowledged: deque[tuple[int, list[Packet]]] = deque()
        self._received = self._unsaid = 0  # answers; bytes of those that the gate does not know to have arrived
        self._grace = self._in_vain = 0
        self._closed = threading.Event()
        self._listener = threading.Thread(target=self._listen, name=f"answers of {address}", daemon=True)
        self._packets: Outbox[Packet] = Outbox(lambda packet: False)  # until there is a connection
        try:
            self._source = self._open_first()
        except (OSError, EOFError, SyftError) as error:
            what = "does not let you in" if isinstance(error, SyftError) else "cannot be reached"
            raise WorkerShut(f"the node at {address} {what}: {text_of(error)}") from error

    def listen(
        self,
        arrived: Callable[[list[Frame]], None],
        lost: Callable[[SyftError], None],
        most: Callable[[], int],
    ) -> None:
        """Hear the gate, once this is called.

        Args:
            arrived: called with each answer, in order, on a thread of the link's own.
            lost: called once when the session is over, with the reason.
            most: bytes of tensors that an answer may have by now; one that has more ends the session.
        """
        self._arrived, self._lost, self._most = arrived, lost, most
        self._listener.start()

    def send(self, last: int, frames: Frames) -> None:
        """Send a batch, whose last message is the session's ``last``-th."""
        with self._lock:
            packets = []
            for packet in pack(frames) if size_of(frames) <= limits.PACKET_BYTES else pack_copy(frames):
                packets.append(packet)
                self._put([packet], self._packets)
            self._unacknowledged.append((last, packets))

    def acknowledge(self, accepted: int) -> None:
        """The gate has had all messages up to the ``accepted``-th."""
        with self._lock:
            self._acknowledge(accepted)

    def close(self) -> None:
        """Say goodbye and hang up, for good."""
        self._closed.set()
        with self._lock:
            self._put(pack(wire.encode(Batch(0, True, self._received, []))), self._packets)
            self._packets.end()
        if self._listener.ident is None:  # nobody listens, who would close it
            self._connection.close()
            return
        if threading.current_thread() is not self._listener:
            self._listener.join(limits.GOODBYE_SECONDS)
        self._connection.hang_up()

    def _put(self, packets: Iterable[Packet], outbox: Outbox[Packet]) -> None:
        for packet in packets:
            self.traffic.to_send += len(packet)
            outbox.put(packet)

    def _send_at_once(self, connection: Connection, packet: Packet) -> bool:
        is_sent = connection.send_at_once(packet)
        if is_sent:
            self.traffic.sent += len(packet)
        return is_sent

    def _open_first(self) -> PacketSource:
        """Open the session; try again a few times, since a connection may drop while it does."""
        for pause in limits.OPENING_PAUSES:
            try:
                return self._open(resumes=False)
            except (OSError, EOFError):
                if self._closed.wait(pause):
                    raise
        return self._open(resumes=False)

    def _open(self, *, resumes: bool) -> PacketSource:
        """Connect, and send again what the gate has not had. Raises OSError, EOFError, SyftError."""
        connection = self._dial()
        packets: Outbox[Packet] = Outbox(partial(self._send_at_once, connection))
        self._put(pack(wire.encode(Opening(self._session, self._received, resumes))), packets)
        writer = threading.Thread(target=self._write, args=(connection, packets), name=f"to {self.address}")
        writer.daemon = True
        writer.start()
        source = PacketSource(self._count_received(connection))
        patience = threading.Timer(limits.CONNECT_SECONDS, connection.hang_up)
        patience.daemon = True
        patience.start()
        try:
            welcome = wire.decode(read_record(source), Welcome)
        except (EOFError, SyftError):
            packets.end()
            connection.close()
            raise
        finally:
            patience.cancel()
        self._worker, self._grace, self.most = connection.peer, welcome.grace, welcome.most
        with self._lock:
            before = len(self._unacknowledged)
            self._acknowledge(welcome.accepted)
            self._in_vain = self._in_vain + 1 if 0 < before == len(self._unacknowledged) else 0
            self._packets.end()
            self._packets, self._connection = packets, connection
            for _, batch in self._unacknowledged:
                self._put(batch, packets)
        return source

    def _write(self, connection: Connection, packets: Outbox[Packet]) -> None:
        try:
            for packet in packets:
                connection.send(packet)
                self.traffic.sent += len(packet)
        except OSError:  # who reads finds out why, and comes back
            connection.hang_up()

    def _count_received(self, packets: Iterable[memoryview]) -> Iterator[memoryview]:
        for packet in packets:
            self.traffic.received += len(packet)
            yield packet

    def _acknowledge(self, accepted: int) -> None:
        while self._unacknowledged and self._unacknowledged[0][0] <= accepted:
            self._unacknowledged.popleft()

    def _listen(self) -> None:
        source = self._source
        try:
            while True:
                try:
                    while True:
                        lengths = read_head(source)
                        if sum(lengths[1:]) > self._most():
                            raise LimitExceeded(
                                f"this node answers with {sum(lengths[1:])} bytes of tensors, which nobody asked for",
                                where=self.address,
                                mend="Get less at one time; or do not trust it.",
                            )
                        self.traffic.to_receive = self.traffic.received + sum(lengths) - source.waiting
                        self._take([source.read(length) for length in lengths])
                except EOFError as dropped:
                    self._connection.close()
                    source = self._come_back(dropped)
        except SyftError as gone:
            self._lost(gone)
        finally:
            with self._lock:
                self._packets.end()
            self._connection.close()

    def _take(self, frames: list[Frame]) -> None:
        self._received += 1
        self._in_vain = 0
        self._unsaid += sum(map(len, frames))
        if self._unsaid >= limits.UNACKNOWLEDGED_BYTES:
            self._unsaid = 0
            with self._lock:
                self._put(pack(wire.encode(Batch(0, False, self._received, []))), self._packets)
        self._arrived(frames)

    def _come_back(self, dropped: Exception) -> PacketSource:
        """As :meth:`_reopen`, and say so where it takes its time. Raises SyftError."""
        where, said = f"{self._worker} at {self.address}", threading.Event()

        def say() -> None:
            said.set()
            _log.warning("%s does not answer; trying again for up to %d s", where, self._grace)

        patience = threading.Timer(limits.OUTAGE_SECONDS, say)
        patience.daemon = True
        patience.start()
        try:
            source = self._reopen(dropped)
        finally:
            patience.cancel()
            patience.join()
        if said.is_set():
            _log.warning("%s is back", where)
        return source

    def _reopen(self, dropped: Exception) -> PacketSource:
        """Try again and again, at longer and longer intervals, for the grace period. Raises SyftError."""
        deadline = time.monotonic() + self._grace
        for attempt in itertools.count(self._in_vain):
            if self._closed.wait(limits.RECONNECT_PAUSES[min(attempt, len(limits.RECONNECT_PAUSES) - 1)]):
                raise WorkerShut("you have left this node", where=self.address, mend="Connect again.")
            if time.monotonic() > deadline or self._in_vain >= limits.RECONNECT_ATTEMPTS:
                break
            try:
                return self._open(resumes=True)
            except (OSError, EOFError) as error:
                dropped = error
        raise WorkerShut(
            f"the connection to this node is lost, and with it what you had there: {text_of(dropped)}",
            where=self.address,
            mend="Connect again, and send the data again.",
        )
