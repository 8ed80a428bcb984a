"""Where a federation takes place: its workers, and a stranger who asks there for what is not theirs.

``OneProcess`` has them all in this process, where a name is the caller's word. ``nodes.Nodes`` has each
in a process of its own, which knows its callers by their certificates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import nn

from ..annotations import private_tensor, tag
from ..errors import GetNotPermitted
from ..verbs import get
from ..workers import BaseWorker, VirtualWorker
from .data import Digits
from .traffic import Traffic

AGGREGATOR = "aggregator"

#: In whose name models and losses move to the aggregator, and averages come back.
COORDINATOR = "coordinator"


class Venue(Protocol):
    """What a federation needs to know of where it is.

    Attributes:
        owners: one worker each, at which ``search`` finds #images and #labels.
        aggregator: the worker to which the owners let the coordinator move what is computed from them.
        asking: who the stranger is, and what they do, in words.
        bytes: of all messages so far; 0 where they are not counted.
    """

    asking: str

    @property
    def owners(self) -> Sequence[BaseWorker]: ...

    @property
    def aggregator(self) -> BaseWorker: ...

    @property
    def bytes(self) -> int: ...

    def refusal(self, update: nn.Module) -> str:
        """Ask for a single update as the stranger, and return what its worker says.

        Raises AssertionError if it gives it.
        """

    def evidence(self) -> list[str]:
        """Say, in lines, what has been fetched from whom, and how that is known."""

    def shut(self) -> None:
        """End all workers."""


def owner_names(shares: Sequence[Digits]) -> list[str]:
    """Name the owners of these shares."""
    return [f"owner-{i}" for i in range(1, len(shares) + 1)]


class OneProcess:
    """All workers in this process; the stranger is a caller who names nobody.

    What this shows is that the coordinator needs no single update, and gets none in another name.

    Attributes:
        traffic: what has crossed between the workers and the caller.
    """

    asking = "A caller who names no user asks for a single update:"

    def __init__(self, shares: Sequence[Digits]) -> None:
        self.traffic = Traffic()
        self.aggregator = VirtualWorker(id=AGGREGATOR, transport=self.traffic.to)
        names = owner_names(shares)
        self.owners = [self._owner(n, share) for n, share in zip(names, shares, strict=True)]

    def _owner(self, name: str, share: Digits) -> VirtualWorker:
        private = (private_tensor(tensor, [COORDINATOR]) for tensor in share)
        data = [tag(tensor, word) for tensor, word in zip(private, ("#images", "#labels"), strict=True)]
        return VirtualWorker(id=name, data=data, transport=self.traffic.to)

    @property
    def bytes(self) -> int:
        return self.traffic.bytes

    def refusal(self, update: nn.Module) -> str:
        try:
            get(update)
        except GetNotPermitted as error:
            return str(error)
        raise AssertionError("a worker gave a single update to a caller who has no right to it")

    def evidence(self) -> list[str]:
        fetched = self.traffic.fetched
        from_aggregator = sum(worker == AGGREGATOR for worker, _ in fetched)
        return [
            f"Fetched from the aggregator: {from_aggregator} tensors, all of them averages.",
            f"Fetched from owners: {len(fetched) - from_aggregator}. Refused: {len(self.traffic.refused)}.",
        ]

    def shut(self) -> None:
        for worker in (*self.owners, self.aggregator):
            worker.shut()
