"""Stand-ins for what a gate has around it: rooms that do nothing, and an owner who wants nothing written down."""

from __future__ import annotations

import socket
from types import SimpleNamespace
from typing import Any

from syft.node.config import Limits
from syft.node.engines import Order


class Process:
    """A room's process that has hung up."""

    pid, place = 0, "nowhere"

    def __init__(self) -> None:
        (self.batches, theirs), (self.calls, also_theirs) = socket.socketpair(), socket.socketpair()
        theirs.close()
        also_theirs.close()

    def kill(self) -> None: ...
    def hang_up(self) -> None: ...

    def close(self) -> None:
        self.batches.close()
        self.calls.close()


class Engine:
    """Opens rooms at once."""

    end = -1

    def ready(self) -> None: ...

    def open_room(self, order: Order) -> Process:
        return Process()

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
