"""A TCP proxy on loopback that does to connections what networks do, on command."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Literal

Direction = Literal["up", "down"]
#: Where a chunk of bytes meets the cut: before it is passed on, in its middle, after it.
Place = Literal["before", "within", "after"]
Fault = Callable[[Direction], Place | None]

CHUNK = 1 << 16


def none(direction: Direction) -> None:
    """No fault."""


def at_random(seed: int, **rates: float) -> Fault:
    """Cut at each place of ``up_before``, ``up_after``, ``down_within`` ... at its rate."""
    dice = random.Random(seed)
    table = [(*name.split("_"), rate) for name, rate in rates.items()]

    def fault(direction: Direction) -> Place | None:
        for towards, place, rate in table:
            if towards == direction and dice.random() < rate:
                return place
        return None

    return fault


def one_in(count: int, *places: tuple[Direction, Place]) -> Fault:
    """Cut at each ``count``-th chunk, of each of the directions by itself, at its place."""
    passed = dict.fromkeys(places, 0)

    def fault(direction: Direction) -> Place | None:
        for towards, place in places:
            if towards == direction:
                passed[towards, place] += 1
                if passed[towards, place] % count == 0:
                    return place
        return None

    return fault


class Proxy:
    """Passes connections on to ``target``, HOST:PORT.

    Attributes:
        fault: asked of each chunk.
        pace: bytes a second; None for as fast as it goes.
        opened: connections so far.
    """

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._deaf: set[socket.socket] = set()
        self._closed = threading.Event()
        self.fault: Fault = none
        self.pace: float | None = None
        self.refuses = False
        self.cuts = self.opened = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut all connections."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            self._cut(pair)

    def half_open(self) -> None:
        """Nothing passes any more through the connections there are; neither side is told."""
        with self._lock:
            self._deaf = {end for pair in self._pairs for end in pair}

    def close(self) -> None:
        self._closed.set()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.refuses:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(self._target)
                except OSError:
                    near.close()
                    continue
                pair = near, far
                with self._lock:
                    self._pairs.add(pair)
                    self.opened += 1
                for source, sink, direction in ((near, far, "up"), (far, near, "down")):
                    threading.Thread(target=self._pump, args=(source, sink, direction, pair), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: Direction, pair: tuple) -> None:
        with suppress(OSError):
            while chunk := source.recv(CHUNK):
                if source in self._deaf:
                    continue
                place = self.fault(direction)
                if place == "within":
                    sink.sendall(chunk[: len(chunk) // 2])
                elif place != "before":
                    sink.sendall(chunk)
                if place is not None:
                    self.cuts += 1
                    break
                if self.pace is not None:
                    self._closed.wait(len(chunk) / self.pace)
        if source not in self._deaf:
            self._cut(pair)

    def _cut(self, pair: tuple[socket.socket, socket.socket]) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for end in pair:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
