"""What crosses between a caller, a gate and a room: records of frames, in a stream of bytes.

A record is a count of frames, their lengths, and the frames. Its first frame is MessagePack, the
others are tensors' memory. ``Opening`` and ``Batch`` go from the caller to the room, ``Welcome`` and
``Answered`` come back.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Annotated, Protocol

import msgspec

from .. import limits, wire
from ..errors import LimitExceeded, MalformedMessage
from ..messages import (
    Answer,
    Ask,
    Collect,
    Delegate,
    Description,
    Expect,
    Give,
    Inquire,
    Introduce,
    Reply,
    Request,
    Tags,
    Withdraw,
)
from ..wire import Frame, Id, Name
from .bulk import ArrivingFrame, Forwarded, memory
from .release import Policies
from .tls import Duplex

#: What a record is made of.
Frames = Sequence[Frame | ArrivingFrame | Forwarded]

#: A piece of a record.
Packet = bytes | memoryview

#: A connection between a gate and a room, in one machine or between two.
Line = socket.socket | Duplex

#: Messages that the gate itself answers; each comes in a batch of its own.
FOR_THE_GATE = (Give, Expect, Delegate, Introduce, Ask, Inquire, Collect, Withdraw, Reply)

#: The number of a batch's first message, which those of the others come after.
First = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_ID - 2 * limits.MOST_BATCH_MESSAGES)]

#: How many hops before a call others were made: it is made in serving one, for which another was made, and so on.
Depth = Annotated[int, msgspec.Meta(ge=0, le=limits.CHAIN_HOPS)]

Batches = Annotated[list[Request], msgspec.Meta(max_length=2 * limits.MOST_BATCH_MESSAGES)]


class Opening(msgspec.Struct, array_like=True, tag="opening"):
    """A caller's first record: which session of its own this is, and how many answers of it have arrived.

    ``resumes``: it has been here before, so that the session has to be known.
    """

    session: Name
    received: Id
    resumes: bool


class Welcome(msgspec.Struct, array_like=True):
    """The gate's first record: how many messages of the session have arrived.

    ``grace``: for how many seconds the session is kept when the connection drops. ``most``: bytes of
    tensors in one batch.
    """

    accepted: Id
    grace: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_GRACE_SECONDS)]
    most: Id


class Batch(msgspec.Struct, array_like=True):
    """Messages in order, the first being the session's ``first``-th.

    ``asks``: the last one wants an answer. ``received``: how many answers have arrived so far. A batch
    without messages says no more than that; if it asks, it is a goodbye. ``delegate``: whose messages they
    are where they are not the client's; the gate says so. ``depth``: at which they are called.
    """

    first: First
    asks: bool
    received: Id
    messages: Batches
    delegate: Name = ""
    depth: Depth = 0

    @property
    def last(self) -> int:
        """The number of the last message."""
        return self.first + len(self.messages) - 1


class RawBatch(msgspec.Struct, array_like=True):
    """A Batch as the gate reads it, which decodes no message.

    ``policies``: of the private data in the room that the batch comes from; those of a client's own have none.
    """

    first: First
    asks: bool
    received: Id
    messages: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=2 * limits.MOST_BATCH_MESSAGES)]
    delegate: Name = ""
    depth: Depth = 0
    policies: Policies = ()


class Answered(msgspec.Struct, array_like=True):
    """The answer to the ``seq``-th message of the session.

    ``policies`` come with what a delegate takes to its own room; a room says which ``delegate`` it answers.
    """

    seq: Id
    answer: Answer
    policies: Policies = ()
    delegate: Name = ""


class RawAnswered(msgspec.Struct, array_like=True):
    """An Answered as the gate reads it."""

    seq: Id
    answer: msgspec.Raw
    policies: Policies = ()
    delegate: Name = ""


class Delivery(msgspec.Struct, array_like=True, tag="delivery"):
    """What one gate hands to another: a ticket, a value with its labels, and the policies that go with it.

    ``attempt`` names this delivery: cut off before its answer came, it is made again under the same name.
    """

    ticket: Name
    attempt: Name
    value: msgspec.Raw
    tags: Tags
    description: Description
    policies: Policies


_COUNT = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")

#: A piece of a frame that goes to a room ahead of its record: 0 where a record has its count, the frame's number,
#: its length, and that of the piece. A frame of no length is one that is not needed.
_PIECE = struct.Struct("<IQQI")
_PIECE_REST = struct.Struct("<QQI")  # without that 0

#: Set in the length of a frame that was forwarded; the rest is its number.
_FORWARDED = 1 << 63


def pack(frames: Frames) -> Iterator[Packet]:
    """Give a record as packets of at most ``limits.PACKET_BYTES``. Raises EOFError: a frame does not arrive whole."""
    head = _head(frames)
    first, *memories = frames
    if len(head) + sum(map(len, frames)) <= limits.PACKET_BYTES:
        yield head + b"".join(part for frame in frames for part in _packets(frame))
        return
    packets = _packets(first)  # more than one where the header is long
    yield head + next(packets, b"")
    yield from packets
    for frame in memories:
        yield from _packets(frame)


def pack_copy(frames: Frames) -> Iterator[Packet]:
    """As :func:`pack`, of frames whose memory may change afterwards."""
    copy, at = memoryview(memory(len(_head(frames)) + size_of(frames))), 0
    for packet in pack(frames):
        part = copy[at : at + len(packet)]
        part[:] = packet
        yield part
        at += len(part)


def _packets(frame: Frame | ArrivingFrame | Forwarded) -> Iterator[Packet]:
    assert not isinstance(frame, Forwarded)  # which go to rooms only
    if isinstance(frame, ArrivingFrame):
        yield from frame.packets()
        return
    view = memoryview(frame).cast("B")
    for start in range(0, len(view), limits.PACKET_BYTES):
        yield view[start : start + limits.PACKET_BYTES]


def header(frames: Frames) -> Frame:
    """Return the first frame of a record, the only one that a gate reads."""
    first = frames[0]
    assert not isinstance(first, ArrivingFrame | Forwarded)
    return first


def send_record(connection: Line, frames: Frames) -> None:
    """Write a record to a line. Raises OSError, EOFError."""
    rest = bytearray(_head(frames))
    for frame in frames:
        if isinstance(frame, Forwarded):
            continue
        if len(frame) <= limits.PACKET_BYTES and not isinstance(frame, ArrivingFrame):
            rest += frame
            continue
        connection.sendall(rest)
        rest = bytearray()
        for packet in frame.packets() if isinstance(frame, ArrivingFrame) else [frame]:
            connection.sendall(packet)
    connection.sendall(rest)


def send_piece(connection: Line, frame: Forwarded, piece: memoryview) -> None:
    """Write the next piece of a frame to a room. Raises OSError."""
    connection.sendall(_PIECE.pack(0, frame.number, len(frame), len(piece)))
    connection.sendall(piece)


def withdraw(connection: Line, frame: Forwarded) -> None:
    """Say to a room that it needs a frame no more, if it has not had its record. Raises OSError."""
    connection.sendall(_PIECE.pack(0, frame.number, 0, 0))


def _head(frames: Frames) -> bytes:
    lengths = (
        _FORWARDED | frame.number if isinstance(frame, Forwarded) and len(frame) else len(frame) for frame in frames
    )
    return _COUNT.pack(len(frames)) + b"".join(map(_LENGTH.pack, lengths))


class Source(Protocol):
    """A stream of bytes to read records from."""

    def read(self, count: int) -> bytearray | mmap.mmap:
        """Return the next ``count`` bytes. Raises EOFError where the stream ends before."""


class PacketSource:
    """The stream that an iterator of packets makes, wherever those were cut."""

    def __init__(self, packets: Iterator[Packet]) -> None:
        self._packets = packets
        self._rest = memoryview(b"")

    @property
    def waiting(self) -> int:
        """How many bytes have come and not been read."""
        return len(self._rest)

    def read(self, count: int) -> bytearray | mmap.mmap:
        read, at = memory(count), 0
        for part in self.parts(count):
            read[at : at + len(part)] = part
            at += len(part)
        return read

    def parts(self, count: int) -> Iterator[memoryview]:
        """Yield the next ``count`` bytes, each part good until the next is asked for. Raises EOFError."""
        while count:
            if not self._rest:
                packet = next(self._packets, None)
                if packet is None:
                    raise EOFError
                self._rest = memoryview(packet)
            part = self._rest[:count]
            count -= len(part)
            self._rest = self._rest[len(part) :]
            yield part


class SocketSource:
    """The stream that comes out of a line.

    Args:
        ahead: how many bytes are read at one time, if they are there; 0: none that nobody has asked for yet, as
            somebody else will read on.
    """

    def __init__(self, connection: Line, *, ahead: int = limits.READ_AHEAD_BYTES) -> None:
        self._connection = connection
        self._buffer = memoryview(bytearray(ahead))
        self._rest = self._buffer[:0]

    def fileno(self) -> int:
        """Return the line's descriptor, to wait for bytes where it :attr:`is_ahead` of none."""
        return self._connection.fileno()

    @property
    def is_ahead(self) -> bool:
        """Whether bytes have been taken from the line that nobody has read yet."""
        return bool(self._rest) or (isinstance(self._connection, Duplex) and self._connection.pending() > 0)

    def read(self, count: int) -> bytearray | mmap.mmap:
        read, at = memory(count), 0
        while at < count:
            if not self._rest and count - at < len(self._buffer):
                self._rest = self._buffer[: self._receive(self._buffer)]
            if self._rest:
                part = self._rest[: count - at]
                read[at : at + len(part)] = part
                at += len(part)
                self._rest = self._rest[len(part) :]
            else:
                with memoryview(read) as view:
                    at += self._receive(view[at:])
        return read

    def _receive(self, view: memoryview) -> int:
        """Wait for bytes; return how many there are. Raises EOFError."""
        got = self._connection.recv_into(view)
        if not got:
            raise EOFError
        return got

    def read_into(self, view: memoryview) -> int:
        """Read the next bytes into a view, as many as there are at one time; return how many. Raises EOFError."""
        if self._rest:
            part, self._rest = self._rest[: len(view)], self._rest[len(view) :]
            view[: len(part)] = part
            return len(part)
        return self._receive(view)


class FromGate:
    """What a room reads, from a gate that it trusts: records, and pieces of frames ahead of those."""

    def __init__(self, line: Line) -> None:
        self._source = SocketSource(line)
        self._forwarded: dict[int, tuple[bytearray | mmap.mmap, int]] = {}  # and how much of each is here

    def fileno(self) -> int:
        """As of a :class:`SocketSource`."""
        return self._source.fileno()

    @property
    def is_ahead(self) -> bool:
        """As of a :class:`SocketSource`."""
        return self._source.is_ahead

    def read(self) -> list[Frame] | None:
        """Read the next record; None: it was a piece. Raises EOFError, LimitExceeded."""
        (count,) = _COUNT.unpack(self._source.read(_COUNT.size))
        if not count:
            self._read_piece(*_PIECE_REST.unpack(self._source.read(_PIECE_REST.size)))
            return None
        lengths = _read_lengths(self._source, count)
        return [
            self._forwarded.pop(length ^ _FORWARDED)[0] if length & _FORWARDED else self._source.read(length)
            for length in lengths
        ]

    def _read_piece(self, number: int, length: int, count: int) -> None:
        if not length:
            self._forwarded.pop(number, None)
            return
        whole, at = self._forwarded.get(number) or (memory(length), 0)
        with memoryview(whole) as view:
            end = at + count
            while at < end:
                at += self._source.read_into(view[at:end])
        self._forwarded[number] = whole, end


def read_head(source: Source) -> list[int]:
    """Read how long each frame of the next record is. Raises EOFError, LimitExceeded."""
    (count,) = _COUNT.unpack(source.read(_COUNT.size))
    if not 0 < count <= limits.MAX_FRAMES:
        raise LimitExceeded(f"a record of {count} frames", mend="Send fewer tensors in one message.")
    lengths = _read_lengths(source, count)
    if lengths[0] > limits.MAX_HEADER_BYTES or max(lengths) > limits.MAX_FRAME_BYTES:
        raise LimitExceeded(f"a record with a frame of {max(lengths)} bytes", mend="Send it in parts.")
    if sum(lengths) > limits.MAX_RECORD_BYTES:
        raise LimitExceeded(f"a record of {sum(lengths)} bytes", mend="Send fewer tensors in one message.")
    return lengths


def _read_lengths(source: Source, count: int) -> list[int]:
    """Read how long each of so many frames is. Raises EOFError."""
    return [length for (length,) in _LENGTH.iter_unpack(source.read(_LENGTH.size * count))]


def read_record(source: Source, most: int = limits.MAX_RECORD_BYTES) -> list[Frame]:
    """Read the next record. Raises EOFError; LimitExceeded: its tensors have more than ``most`` bytes."""
    lengths = read_head(source)
    check_tensors(lengths[1:], most)
    return read_frames(source, lengths)


def check_tensors(lengths: Sequence[int], most: int) -> None:
    """Raise LimitExceeded if tensors of these lengths have more than ``most`` bytes."""
    if sum(lengths) > most:
        raise LimitExceeded(f"{sum(lengths)} bytes come at one time, and this node takes {most}", mend="Send parts.")


def read_frames(source: Source, lengths: Sequence[int]) -> list[Frame]:
    """Read frames of these lengths. Raises EOFError; LimitExceeded: there is no memory for them."""
    return [source.read(length) for length in lengths]


def size_of(frames: Frames) -> int:
    """Return the bytes of a record."""
    return sum(map(len, frames))


def numbered(frames: Frames, last: int) -> Frames:
    """Give an encoded answer another number."""
    answer = wire.unpack(header(frames), RawAnswered).answer
    return [msgspec.msgpack.encode((last, answer)), *frames[1:]]


def tag_of(frames: Frames) -> bytes:
    """Return the tag of an encoded answer."""
    answer = wire.unpack(header(frames), RawAnswered).answer
    return peek_tag(answer)


def peek_tag(message: msgspec.Raw | Frame) -> bytes:
    """Return the tag of an encoded message: the string that its array begins with."""
    raw = bytes(memoryview(message)[:34])
    if len(raw) < 2 or raw[0] & 0xF0 != 0x90 or raw[1] & 0xE0 != 0xA0:
        raise MalformedMessage("a message does not begin with its tag")
    return raw[2 : 2 + (raw[1] & 0x1F)]
