"""What a gate counts while it works, whether anyone looks or not."""

from __future__ import annotations

import threading


class Counts:
    """Totals since the node started; written to from any thread.

    Attributes:
        messages: that were accepted, of all sessions.
        bytes_in, bytes_out: of their batches and answers, and of deliveries between nodes.
        rooms_died: rooms that ended by themselves, of clients that have left.
        cpu_seconds: processor time of the rooms of clients that have left.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.messages = self.bytes_in = self.bytes_out = self.rooms_died = 0
        self.cpu_seconds = 0.0

    def took(self, messages: int, size: int) -> None:
        """A batch has come in, or a delivery of no messages."""
        with self._lock:
            self.messages += messages
            self.bytes_in += size

    def gave(self, size: int) -> None:
        """An answer, or a delivery, has gone out."""
        with self._lock:
            self.bytes_out += size

    def left(self, *, died: bool, cpu_seconds: float) -> None:
        """A client has left its room."""
        with self._lock:
            self.rooms_died += died
            self.cpu_seconds += cpu_seconds
