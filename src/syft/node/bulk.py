"""Large frames on their way through a gate.

To a room they go as files of memory, which it maps. From a room they go on packet by packet, as they
come; the packets are kept, to be sent again, until the caller has them.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterator

from .. import limits
from ..errors import LimitExceeded
from ..wire import Frame


class FrameFile:
    """A frame in a file of memory, which a process of this machine can be given whole."""

    def __init__(self, length: int) -> None:
        self._length, self.descriptor = length, -1
        try:
            self.descriptor = os.memfd_create("frame", os.MFD_CLOEXEC)
        except OSError as error:
            raise LimitExceeded(f"this node cannot take so much at one time: {error.strerror}") from error

    def __len__(self) -> int:
        return self._length

    def append(self, packet: Frame) -> None:
        """Add the next bytes."""
        rest = memoryview(packet)
        while rest:
            rest = rest[os.write(self.descriptor, rest) :]

    def packets(self) -> Iterator[bytes]:
        """Read it again."""
        for start in range(0, self._length, limits.PACKET_BYTES):
            yield os.pread(self.descriptor, limits.PACKET_BYTES, start)

    def __del__(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class ArrivingFrame:
    """A frame of which the bytes are still coming in; they can be had from the first, time and again."""

    def __init__(self, length: int) -> None:
        self._length = self._missing = length
        self._packets: list[bytes] = []
        self._lost = False
        self._arrived = threading.Condition()

    def __len__(self) -> int:
        return self._length

    def append(self, packet: bytes) -> None:
        """Add the next bytes. Raises EOFError: it has been given up."""
        with self._arrived:
            if self._lost:
                raise EOFError
            self._packets.append(packet)
            self._missing -= len(packet)
            self._arrived.notify_all()

    def finish(self, seconds: float) -> None:
        """Wait until it is whole; after so many seconds no more of it is taken."""
        with self._arrived:
            self._arrived.wait_for(lambda: not self._missing or self._lost, seconds)
        self.lose()

    def lose(self) -> None:
        """No more will come."""
        with self._arrived:
            self._lost = True
            self._arrived.notify_all()

    def packets(self) -> Iterator[bytes]:
        """Yield its bytes, waiting for those that have yet to come. Raises EOFError: they are lost."""
        at = 0
        while ready := self._from(at):
            yield from ready
            at += len(ready)

    def _from(self, at: int) -> list[bytes]:
        with self._arrived:
            self._arrived.wait_for(lambda: len(self._packets) > at or not self._missing or self._lost)
            if len(self._packets) == at and self._missing:
                raise EOFError
            return self._packets[at:]


def memory(count: int) -> bytearray | mmap.mmap:
    """Return ``count`` bytes to be written; the more there are, the less it costs to get each. Raises LimitExceeded."""
    if count <= limits.PACKET_BYTES:
        return bytearray(count)
    try:
        mapped = mmap.mmap(-1, count, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise LimitExceeded(f"there is no memory for a frame of {count} bytes", mend="Send it in parts.") from error
    mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped


def mapped(descriptor: int, count: int) -> mmap.mmap:
    """Return the memory of a file, which is closed."""
    try:
        return mmap.mmap(descriptor, count, mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(descriptor)
