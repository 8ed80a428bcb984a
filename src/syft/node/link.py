"""A link: batches to a node's gate and answers back, each exactly once, whatever the connection does."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

import grpc
import msgspec

from .. import limits, wire
from ..errors import SyftError, WorkerShut
from ..wire import Frame
from .envelopes import Opening, PacketSource, Welcome, pack, read_record

SESSION = "/syft.Node/Session"
DELIVER = "/syft.Node/Deliver"
OPTIONS = [("grpc.max_receive_message_length", 2 * limits.PACKET_BYTES)]

Frames = list[Frame]


class Link:
    """One session at a gate, over one connection at a time.

    When the connection drops it is made anew, for as long as the gate keeps the session; batches that
    the gate has not had are sent again, answers that have not arrived come again.

    Args:
        address: of the node.
        connection: to it.
        session: the session's name, unguessable.
        arrived: called with each answer, in order, on the link's own thread.
        lost: called once when the session is over, with the reason.
    """

    def __init__(
        self,
        address: str,
        connection: grpc.Channel,
        session: str,
        arrived: Callable[[Frames], None],
        lost: Callable[[WorkerShut], None],
    ) -> None:
        self.address = address
        self._connection, self._session = connection, session
        self._arrived, self._lost = arrived, lost
        self._lock = threading.Lock()
        self._unacknowledged: deque[tuple[int, list[bytes]]] = deque()
        self._received = 0
        self._closed = threading.Event()
        self._packets: SimpleQueue[bytes | None] = SimpleQueue()
        source = self._open()
        threading.Thread(target=self._listen, args=(source,), name=f"answers of {address}", daemon=True).start()

    @property
    def received(self) -> int:
        """How many answers have arrived."""
        return self._received

    def send(self, last: int, frames: Frames) -> None:
        """Send a batch, whose last message is the session's ``last``-th."""
        packets = list(pack(frames))
        with self._lock:
            self._unacknowledged.append((last, packets))
            for packet in packets:
                self._packets.put(packet)

    def close(self) -> None:
        """Hang up, for good."""
        self._closed.set()
        self._packets.put(None)
        self._connection.close()

    def _open(self) -> PacketSource:
        """Connect, and send again what the gate has not had. Raises WorkerShut."""
        packets: SimpleQueue[bytes | None] = SimpleQueue()
        for packet in pack(wire.encode(Opening(self._session, self._received))):
            packets.put(packet)
        source = PacketSource(self._connection.stream_stream(SESSION)(iter(packets.get, None), wait_for_ready=False))
        try:
            welcome = wire.decode(read_record(source), Welcome)
        except (grpc.RpcError, EOFError, SyftError) as error:
            packets.put(None)
            raise WorkerShut(f"the node at {self.address} does not let you in: {_text(error)}") from error
        with self._lock:
            self._acknowledge(welcome.accepted)
            for _, batch in self._unacknowledged:
                for packet in batch:
                    packets.put(packet)
            self._packets.put(None)
            self._packets = packets
        return source

    def acknowledge(self, accepted: int) -> None:
        """The gate has had all messages up to the ``accepted``-th."""
        with self._lock:
            self._acknowledge(accepted)

    def _acknowledge(self, accepted: int) -> None:
        while self._unacknowledged and self._unacknowledged[0][0] <= accepted:
            self._unacknowledged.popleft()

    def _listen(self, source: PacketSource) -> None:
        while True:
            try:
                while True:
                    frames = read_record(source)
                    self._received += 1
                    self._arrived(frames)
            except (EOFError, grpc.RpcError, SyftError, msgspec.DecodeError):
                try:
                    source = self._reopen()
                except WorkerShut as gone:
                    self._lost(gone)
                    return

    def _reopen(self) -> PacketSource:
        """Try again and again, at longer and longer intervals, for the grace period. Raises WorkerShut."""
        error = WorkerShut("you have left this node", where=self.address, mend="Connect again.")
        for pause in limits.RECONNECT_PAUSES:
            if self._closed.wait(pause):
                break
            try:
                return self._open()
            except WorkerShut as refused:
                error = refused
        raise error


def _text(error: Exception) -> str:
    return str(error.details()) if isinstance(error, grpc.Call) else str(error) or type(error).__name__
