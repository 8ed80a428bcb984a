"""One optimizer for each worker."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from torch.optim import Optimizer

from ..errors import WorkerNotFound
from ..workers import BaseWorker


class Optims:
    """An optimizer for each worker that trains the same model in turn, each with a state of its own.

    Args:
        workers: workers or their names.
        optim: the optimizer whose kind, parameters and settings all have; it is not used itself.
    """

    def __init__(self, workers: Iterable[str | BaseWorker], optim: Optimizer) -> None:
        self.optimizers = {_name(worker): _twin(optim) for worker in workers}

    def get_optim(self, worker: str | BaseWorker) -> Optimizer:
        """Return the optimizer of a worker. Raises WorkerNotFound."""
        try:
            return self.optimizers[_name(worker)]
        except KeyError:
            raise WorkerNotFound(
                f"there is no optimizer for {_name(worker)!r} here; there are those for {', '.join(self.optimizers)}"
            ) from None

    def count(self) -> int:
        """Return how many optimizers there are."""
        return len(self.optimizers)


def _name(worker: str | BaseWorker) -> str:
    return worker if isinstance(worker, str) else worker.id


def _twin(optim: Optimizer) -> Optimizer:
    """Return an optimizer of the same parameters and settings, which has taken no step yet."""
    twin: Any = object.__new__(type(optim))
    memo: dict[int, Any] = {id(p): p for group in optim.param_groups for p in group["params"]}
    memo[id(optim)] = twin
    own = {"state", "step"}  # a scheduler puts a step of its own on the optimizer it drives
    settings = {name: value for name, value in vars(optim).items() if name not in own}
    twin.__dict__.update(copy.deepcopy(settings, memo), state=defaultdict(dict))
    return twin  # type: ignore[no-any-return]
