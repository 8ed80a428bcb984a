"""Large frames on their way through a gate, which go on as they come.

To a room they go in pieces, ahead of the record that they are of, and no part of them is kept. What
comes from a room is kept, to be sent again, until the caller has it.
"""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator

from .. import limits
from ..errors import LimitExceeded


class ArrivingFrame:
    """A frame of which the bytes are still coming in; they can be had from the first, time and again.

    Raises LimitExceeded: there is no memory for it.
    """

    def __init__(self, length: int) -> None:
        self._memory = memoryview(memory(length))
        self._at = 0
        self._lost = False
        self._arrived = threading.Condition()

    def __len__(self) -> int:
        return len(self._memory)

    @property
    def missing(self) -> memoryview:
        """Where the bytes go that have yet to come."""
        return self._memory[self._at :]

    def note(self, count: int) -> None:
        """So many more have come there. Raises EOFError: it has been given up."""
        with self._arrived:
            if self._lost:
                raise EOFError
            self._at += count
            self._arrived.notify_all()

    def finish(self, seconds: float) -> None:
        """Wait until it is whole; after so many seconds no more of it is taken."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._at == len(self) or self._lost, seconds)
        self.lose()

    def lose(self) -> None:
        """No more will come."""
        with self._arrived:
            self._lost = True
            self._arrived.notify_all()

    def packets(self) -> Iterator[memoryview]:
        """Yield its bytes, waiting for those that have yet to come. Raises EOFError: they are lost."""
        at = 0
        while at < len(self):
            with self._arrived:
                self._arrived.wait_for(lambda at=at: self._at > at or self._lost)  # type: ignore[misc]
                if self._at == at:
                    raise EOFError
                packet = self._memory[at : min(self._at, at + limits.PACKET_BYTES)]
            yield packet
            at += len(packet)


class Forwarded:
    """A frame that is at the room already, or on its way there, under a number of the gate's."""

    def __init__(self, number: int, length: int) -> None:
        self.number = number
        self._length = length

    def __len__(self) -> int:
        return self._length


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
