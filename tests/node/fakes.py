"""Stand-ins for what a gate has around it: rooms that do nothing, and an owner who wants nothing written down."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

from syft.node.config import Limits
from syft.node.engines import Death, Order


class Process:
    """A room's process that says nothing until it is killed, or has hung up."""

    pid, place = 0, "nowhere"

    def __init__(self, *, lives: bool) -> None:
        (self.batches, *theirs), (self.calls, *also_theirs) = socket.socketpair(), socket.socketpair()
        self._theirs = theirs + also_theirs
        if not lives:
            self.kill()

    def kill(self) -> None:
        for connection in self._theirs:
            connection.close()

    def hang_up(self) -> None: ...

    def death(self) -> Death:
        return Death("killed", "signal 9")

    def close(self) -> None:
        self.batches.close()
        self.calls.close()


class Engine:
    """Opens rooms at once.

    Args:
        lives: whether they are there until they are closed.
    """

    end = -1

    def __init__(self, *, lives: bool = False) -> None:
        self.lives = lives

    def ready(self) -> None: ...

    def open_room(self, order: Order) -> Process:
        return Process(lives=self.lives)

    def close(self) -> None: ...


def state(limits: Limits | None = None) -> Any:
    """Make the state of bob's node, who has no data."""
    return SimpleNamespace(
        owner="bob",
        offers=[],
        limits=limits or Limits(),
        audit=SimpleNamespace(note=lambda *_: None, append=lambda *_: None),
        tells_failures=lambda *_: True,
        address_of=lambda worker, told: told,
        show=lambda *_: None,
        requests=SimpleNamespace(approvals=lambda *_: ()),
    )
