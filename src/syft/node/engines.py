"""Where the rooms of a node are: beside the gate (:mod:`.forkserver`), or on a Ray cluster (:mod:`.cluster`)."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec

from .records import Line


class Order(msgspec.Struct):
    """An order for one room."""

    worker: str
    memory: int
    cpu_seconds: int
    objects: int
    bytes: int


class Death(NamedTuple):
    """Why a room's process has ended: a key of :data:`syft.node.rooms.ENDINGS`, and what only the owner is told."""

    code: str
    details: str
    cpu_seconds: float = 0.0


class Process(Protocol):
    """A room's process, wherever it runs.

    ``batches`` and ``calls`` are its two lines, each for one thread that reads and one that writes. They
    may still be on their way when the process is given: to ask for them waits, and raises OSError when
    they do not come.
    """

    @property
    def pid(self) -> int:
        """Of the process; 0 if it is not on this machine."""

    @property
    def place(self) -> str:
        """Where it is, for the owner to read."""

    @property
    def batches(self) -> Line: ...

    @property
    def calls(self) -> Line: ...

    def kill(self) -> None:
        """End it at once, whatever it is doing."""

    def hang_up(self) -> None:
        """End both connections, so that whoever waits at them stops waiting. It has been killed."""

    def death(self) -> Death:
        """Tell why it ended; to be asked once, when it has."""

    def close(self) -> None:
        """Free what is left of it here. Nobody uses its connections any more."""


class Engine(Protocol):
    """Opens rooms."""

    end: int  #: a descriptor that can be read when no more rooms can be opened

    def ready(self) -> None:
        """Wait until rooms can be opened. Raises BadConfig: they cannot."""

    def open_room(self, order: Order) -> Process:
        """Give a room without delay. Raises WorkerShut."""

    def close(self) -> None:
        """End every room."""
