"""What crosses between a caller, a gate and a room: records of frames, in a stream of bytes.

A record is a count of frames, their lengths, and the frames. Its first frame is MessagePack, the
others are tensors' memory. ``Opening`` and ``Batch`` go from the caller to the room, ``Welcome`` and
``Answers`` come back.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Annotated, Protocol

import msgspec

from .. import limits
from ..errors import LimitExceeded, MalformedMessage
from ..messages import Answer, Ask, Delegate, Expect, Give, Introduce, Request
from ..wire import Frame, Id, Name
from .release import Policy

#: Messages that the gate itself answers; each comes in a batch of its own.
FOR_THE_GATE = (Give, Expect, Delegate, Introduce, Ask)

Batches = Annotated[list[Request], msgspec.Meta(max_length=4 * limits.BATCH_MESSAGES)]


class Opening(msgspec.Struct, array_like=True):
    """A caller's first record: which session of its own this is, and how many answers of it have arrived.

    ``resumes``: it has been here before, so that the session has to be known.
    """

    session: Name
    received: Id
    resumes: bool


class Welcome(msgspec.Struct, array_like=True):
    """The gate's first record: who it is, and how many messages of the session have arrived.

    ``grace``: for how many seconds the session is kept when the connection drops.
    """

    worker: Name
    accepted: Id
    grace: float


class Batch(msgspec.Struct, array_like=True):
    """Messages in order, the first being the session's ``first``-th.

    ``asks``: the last one wants an answer. ``received``: how many answers have arrived so far. A batch
    without messages says no more than that; if it asks, it is a goodbye.
    """

    first: Id
    asks: bool
    received: Id
    messages: Batches


class SealedBatch(msgspec.Struct, array_like=True):
    """A Batch as the gate reads it, which decodes no message.

    ``policies``: of the private data in the room that the batch comes from; those of a client's own have none.
    """

    first: Id
    asks: bool
    received: Id
    messages: Annotated[list[msgspec.Raw], msgspec.Meta(max_length=4 * limits.BATCH_MESSAGES)]
    policies: tuple[Policy, ...] = ()


class Answered(msgspec.Struct, array_like=True):
    """The answer to the ``seq``-th message of the session."""

    seq: Id
    answer: Answer


class SealedAnswered(msgspec.Struct, array_like=True):
    """An Answered as the gate reads it; ``policies`` come with what a delegate takes to its own room."""

    seq: Id
    answer: msgspec.Raw
    policies: tuple[Policy, ...] = ()


_COUNT = struct.Struct("<I")
_LENGTH = struct.Struct("<Q")


def pack(frames: Sequence[Frame]) -> Iterator[bytes]:
    """Give a record as packets of at most ``limits.PACKET_BYTES``."""
    head = _COUNT.pack(len(frames)) + b"".join(_LENGTH.pack(len(frame)) for frame in frames)
    small = sum(map(len, frames))
    if len(head) + small <= limits.PACKET_BYTES:
        yield head + b"".join(frames)
        return
    first, *memories = frames
    yield head + bytes(first)
    for memory in memories:
        view = memoryview(memory).cast("B")
        for start in range(0, len(view), limits.PACKET_BYTES):
            yield bytes(view[start : start + limits.PACKET_BYTES])


def send_record(connection: socket.socket, frames: Sequence[Frame]) -> None:
    """Write a record to a socket. Raises OSError."""
    head = _COUNT.pack(len(frames)) + b"".join(_LENGTH.pack(len(frame)) for frame in frames)
    first, *memories = frames
    connection.sendall(head + bytes(first))
    for memory in memories:
        connection.sendall(memory)


class Source(Protocol):
    """A stream of bytes to read records from."""

    def read(self, count: int) -> bytearray:
        """Return the next ``count`` bytes. Raises EOFError where the stream ends before."""


class PacketSource:
    """The stream that an iterator of packets makes, wherever those were cut."""

    def __init__(self, packets: Iterator[bytes]) -> None:
        self._packets = packets
        self._rest = memoryview(b"")

    def read(self, count: int) -> bytearray:
        read, at = bytearray(count), 0
        while at < count:
            if not self._rest:
                packet = next(self._packets, None)
                if packet is None:
                    raise EOFError
                self._rest = memoryview(packet)
            part = self._rest[: count - at]
            read[at : at + len(part)] = part
            at += len(part)
            self._rest = self._rest[len(part) :]
        return read


class SocketSource:
    """The stream that comes out of a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def read(self, count: int) -> bytearray:
        read = bytearray(count)
        view = memoryview(read)
        while view:
            got = self._connection.recv_into(view)
            if not got:
                raise EOFError
            view = view[got:]
        return read


def read_head(source: Source) -> list[int]:
    """Read how long each frame of the next record is. Raises EOFError, LimitExceeded."""
    (count,) = _COUNT.unpack(source.read(_COUNT.size))
    if not 0 < count <= limits.MAX_FRAMES:
        raise LimitExceeded(f"a record of {count} frames", mend="Send fewer tensors in one message.")
    lengths = [length for (length,) in _LENGTH.iter_unpack(source.read(_LENGTH.size * count))]
    if lengths[0] > limits.MAX_HEADER_BYTES or max(lengths) > limits.MAX_FRAME_BYTES:
        raise LimitExceeded(f"a record with a frame of {max(lengths)} bytes", mend="Send it in parts.")
    return lengths


def read_record(source: Source) -> list[Frame]:
    """Read the next record. Raises EOFError, LimitExceeded."""
    return [source.read(length) for length in read_head(source)]


def peek_tag(message: msgspec.Raw) -> bytes:
    """Return the tag of an encoded message: the string that its array begins with."""
    raw = bytes(memoryview(message)[:34])
    if len(raw) < 2 or raw[0] & 0xF0 != 0x90 or raw[1] & 0xE0 != 0xA0:
        raise MalformedMessage("a message does not begin with its tag")
    return raw[2 : 2 + (raw[1] & 0x1F)]
