"""A connection between two parties with certificates: packets both ways, and signs of life.

A packet is its length, in four bytes, and that many bytes. One without any is a sign of life, which
each side gives every few seconds. One whose length has the highest bit set is the last, and says why.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from queue import SimpleQueue
from typing import Generic, TypeVar

from .. import limits
from ..errors import BadCertificate, MalformedMessage, SyftError, WorkerShut, printable
from .certs import name_in
from .config import Address
from .records import Frames, Packet, pack
from .tls import PROTOCOL, Duplex

T = TypeVar("T")

_LENGTH = struct.Struct("<I")
_LAST = 1 << 31


class Connection:
    """Packets both ways. As an iterator it gives those that come, each good until the next is asked for.

    One thread may read while others write.

    Args:
        duplex: a connection whose handshake is done.

    Attributes:
        peer: the name in the other side's certificate.
        duplex: what it goes over.

    Raises:
        BadCertificate: its certificate names nobody.
        MalformedMessage: it speaks another protocol.
    """

    def __init__(self, duplex: Duplex) -> None:
        self.peer = name_in(duplex.certificate)
        if duplex.protocol != PROTOCOL:
            raise MalformedMessage(f"it does not speak {PROTOCOL}", where=self.peer, mend="Both need one version.")
        self.duplex = duplex
        duplex.silence = limits.SILENCE_SECONDS
        self._buffer = memoryview(bytearray(_LENGTH.size + limits.PACKET_BYTES))
        self._read = self._filled = 0  # of the buffer
        _pulse.keep(self)

    def send(self, packet: Packet) -> None:
        """Write a packet; wait until there is room for it. Raises OSError."""
        self.duplex.sendall(_LENGTH.pack(len(packet)), packet)

    def send_at_once(self, packet: Packet) -> bool:
        """Write a short packet if that can be done without waiting; tell whether it was."""
        if len(packet) > limits.AT_ONCE_BYTES:
            return False
        try:
            return self.duplex.send_if_free(_LENGTH.pack(len(packet)) + packet)
        except OSError:  # who waits to write it will be told
            return False

    def send_record(self, frames: Frames) -> None:
        """Write a record. Raises OSError; EOFError: a frame of it does not arrive whole."""
        for packet in pack(frames):
            self.send(packet)

    def send_record_at_once(self, frames: Frames) -> bool:
        """As :meth:`send_at_once`."""
        return sum(map(len, frames)) <= limits.AT_ONCE_BYTES and all(map(self.send_at_once, pack(frames)))

    def end(self, why: str) -> None:
        """Say why no more comes from here. Raises OSError."""
        said = why.encode()[: limits.ENDING_BYTES]
        self.duplex.sendall(_LENGTH.pack(len(said) | _LAST), said)
        self.duplex.finish()

    def drain(self) -> None:
        """Read what still comes, for a moment: one who hangs up on unread bytes takes back what it said last."""
        deadline = time.monotonic() + limits.GOODBYE_SECONDS
        with suppress(OSError):
            while self.duplex.recv_into(self._buffer) and time.monotonic() < deadline:
                pass

    def hurry(self) -> None:
        """From now on give up on a slow reader; see :meth:`Duplex.hurry`."""
        self.duplex.hurry()

    def hang_up(self) -> None:
        """End it, whoever reads or writes; what has come can still be read."""
        self.duplex.hang_up()

    def close(self) -> None:
        """Hang up, and let it go: for who reads, as the last thing."""
        self.duplex.close()

    def disown(self) -> None:
        """Let it go in a child that was forked: what the child wrote would be taken for its parent's."""
        self.duplex.disown()

    def beat(self) -> None:
        """Give a sign of life; or hang up, where it has to be made anew."""
        if self.duplex.is_worn:
            self.hang_up()
        with suppress(OSError):  # who reads here will be told
            self.duplex.send_if_free(_LENGTH.pack(0))

    def __iter__(self) -> Iterator[memoryview]:
        return self

    def __next__(self) -> memoryview:
        """Wait for a packet.

        Raises EOFError: the connection has ended, or is silent; WorkerShut: the other side has said why;
        MalformedMessage.
        """
        while True:
            self._fill(_LENGTH.size)
            (length,) = _LENGTH.unpack_from(self._buffer, self._read)
            is_last, length = length >= _LAST, length % _LAST
            if length > limits.PACKET_BYTES:
                raise MalformedMessage(f"a packet of {length} bytes", where=self.peer)
            self._fill(_LENGTH.size + length)
            packet = self._buffer[self._read + _LENGTH.size : self._read + _LENGTH.size + length]
            self._read += _LENGTH.size + length
            if is_last:
                raise WorkerShut(printable(bytes(packet[: limits.ENDING_BYTES]).decode(errors="replace")))
            if packet:
                return packet

    def _fill(self, count: int) -> None:
        """Have so many bytes in the buffer, from where it is to be read. Raises EOFError."""
        if self._read == self._filled:
            self._read = self._filled = 0
        while self._filled - self._read < count:
            if self._read + count > len(self._buffer):
                rest = self._filled - self._read
                self._buffer[:rest] = self._buffer[self._read : self._filled]
                self._read, self._filled = 0, rest
            try:
                got = self.duplex.recv_into(self._buffer[self._filled :])
            except OSError as error:
                raise EOFError(text_of(error)) from error
            if not got:
                raise EOFError("the connection has ended")
            self._filled += got


class Outbox(Generic[T]):
    """What is to be sent over a connection: at once where nothing is in the way, else by a thread that takes it.

    One thread takes; of those who put one at a time does. Until the first is asked for, all wait.

    Args:
        at_once: sends an item if that can be done without waiting, and tells whether it was.
        ended: called at the end.

    Attributes:
        ending: why there is no more, where that is to be said.
    """

    def __init__(self, at_once: Callable[[T], bool], ended: Callable[[], None] = lambda: None) -> None:
        self.ending: SyftError | None = None
        self._at_once, self._ended = at_once, ended
        self._waiting: SimpleQueue[T | None] = SimpleQueue()
        self._put, self._taken = 1, 0  # the two are equal where whoever takes has sent all, and waits

    def put(self, item: T) -> bool:
        """Send an item, now or later; tell whether it was now."""
        if self._put == self._taken and self._at_once(item):
            return True
        self._put += 1
        self._waiting.put(item)
        return False

    def end(self, why: SyftError | None = None) -> None:
        """Give no more than there is."""
        self.ending = self.ending or why
        self._waiting.put(None)
        self._ended()

    def __iter__(self) -> Iterator[T]:
        """Give what waits, each when the one before has been sent."""
        self._taken += 1
        while (item := self._waiting.get()) is not None:
            yield item
            self._taken += 1


class _Pulse:
    """Gives signs of life on all connections of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._thread: threading.Thread | None = None

    def keep(self, connection: Connection) -> None:
        with self._lock:
            self._connections.add(connection)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._beat, name="signs of life", daemon=True)
                self._thread.start()

    def _beat(self) -> None:
        while True:
            time.sleep(limits.HEARTBEAT_SECONDS)
            with self._lock:
                connections = list(self._connections)
            for connection in connections:
                connection.beat()
            del connections


_pulse = _Pulse()


def _start_anew() -> None:
    """Have neither the connections nor the locks of its parent in a child that was forked."""
    global _pulse
    parents, _pulse = _pulse, _Pulse()
    for connection in list(parents._connections):
        connection.disown()


os.register_at_fork(after_in_child=_start_anew)


def dial(address: Address, tls: ssl.SSLContext, name: str | None = None) -> Connection:
    """Connect to the party at ``address``, which has to be ``name``, if that is given.

    Raises OSError; BadCertificate: it is another; MalformedMessage.
    """
    duplex = Duplex(socket.create_connection(address, limits.CONNECT_SECONDS), tls)
    try:
        duplex.shake_hands()
        connection = Connection(duplex)
    except (OSError, SyftError):
        duplex.close()
        raise
    if name not in (None, connection.peer):
        connection.close()
        raise BadCertificate(
            f"the node at {address} is {connection.peer}'s, not {name}'s", mend="Ask its owner for its address."
        )
    return connection


def text_of(error: Exception) -> str:
    """Say what went wrong with a connection."""
    if isinstance(error, SyftError):
        return error.what
    said = error.strerror if isinstance(error, OSError) else str(error)
    return printable(said or str(error)) or type(error).__name__
