"""A network of workers that are searched as one."""

from __future__ import annotations

from collections.abc import Iterable

from .errors import Misuse
from .pointer import PointerTensor
from .workers import BaseWorker


class PrivateGridNetwork:
    """Workers that you know, searched together.

    Args:
        workers: the workers.

    Raises:
        Misuse: one of them is none.
    """

    def __init__(self, *workers: BaseWorker) -> None:
        for worker in workers:
            if not isinstance(worker, BaseWorker):
                raise Misuse(
                    f"a network is made of workers, and a {type(worker).__name__} is none",
                    mend="sy.PrivateGridNetwork(bob, alice), or (*workers) of a list",
                )
        self.workers = list(workers)

    def search(self, *query: str | int | Iterable[str | int]) -> dict[str, list[PointerTensor]]:
        """Return pointers to what each worker has that matches every word, by the worker's id.

        Workers that have nothing of the kind are left out. Words are as in ``worker.search``.
        """
        found = {worker.id: worker.search(*query) for worker in self.workers}
        return {id: pointers for id, pointers in found.items() if pointers}

    def __repr__(self) -> str:
        return f"<PrivateGridNetwork {' '.join(worker.id for worker in self.workers)}>"
