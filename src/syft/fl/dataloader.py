"""Batches of a FederatedDataset, each from one worker."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from ..errors import Misuse
from .dataset import BaseDataset, FederatedDataset

Batch = tuple[torch.Tensor, torch.Tensor]


class FederatedDataLoader:
    """Yields batches as pairs of pointers ``(data, targets)``; a batch never mixes workers.

    One worker's batches come after another's. With ``num_iterators`` above 1 that many workers are
    read side by side, and each step yields ``{worker: (data, targets)}``; when one has no more, the
    next takes its place. Every item comes once in an epoch.

    Args:
        federated_dataset: what to read.
        batch_size: items in a batch; a worker's last one may be smaller.
        shuffle: read each worker's items in an order drawn anew for each epoch, by torch's generator.
        num_iterators: workers read side by side.
        drop_last: leave out batches that would be smaller.
        iter_per_worker: read all workers side by side.
        collate_fn: refused; a batch is cut out of the data as it is.

    Raises:
        Misuse: there is a ``collate_fn``, ``batch_size`` is below 1, or ``num_iterators`` is not between 1
            and the number of workers.
    """

    def __init__(
        self,
        federated_dataset: FederatedDataset,
        batch_size: int = 8,
        shuffle: bool = False,
        num_iterators: int = 1,
        drop_last: bool = False,
        iter_per_worker: bool = False,
        *,
        collate_fn: object = None,
    ) -> None:
        if not isinstance(federated_dataset, FederatedDataset):
            raise Misuse(
                f"a FederatedDataLoader reads a FederatedDataset, not a {type(federated_dataset).__name__}",
                mend="sy.FederatedDataLoader(dataset.federate((bob, alice)))",
            )
        if collate_fn is not None:
            raise Misuse(
                "a batch is cut out of the data at its worker, and not collated from items",
                mend="What is to be done to each batch is a transform: sy.BaseDataset(data, targets, transform=...).",
            )
        if batch_size < 1:
            raise Misuse(f"a batch has at least one item, not {batch_size}")
        if not 1 <= num_iterators <= len(federated_dataset.workers):
            raise Misuse(
                f"num_iterators is from 1 to the number of workers, {len(federated_dataset.workers)}, "
                f"not {num_iterators}"
            )
        self.federated_dataset = federated_dataset
        self.batch_size, self.shuffle, self.drop_last = batch_size, shuffle, drop_last
        self.num_iterators, self.iter_per_worker = num_iterators, iter_per_worker

    @property
    def workers(self) -> list[str]:
        """The names of the workers, in order."""
        return self.federated_dataset.workers

    def __iter__(self) -> Iterator[Any]:
        if self.num_iterators == 1 and not self.iter_per_worker:
            for dataset in self.federated_dataset:
                yield from self._batches(dataset)
        else:
            yield from self._side_by_side()

    def __len__(self) -> int:
        """Return the number of steps of an epoch."""
        ends = [0] * self._width()
        for dataset in self.federated_dataset:
            heapq.heapreplace(ends, ends[0] + self._count_batches(len(dataset)))
        return max(ends, default=0)

    def _width(self) -> int:
        return len(self.workers) if self.iter_per_worker else self.num_iterators

    def _count_batches(self, items: int) -> int:
        return items // self.batch_size if self.drop_last else -(-items // self.batch_size)

    def _side_by_side(self) -> Iterator[dict[Any, Batch]]:
        waiting = ((d.location, self._batches(d)) for d in self.federated_dataset if self._count_batches(len(d)))
        reading = list(islice(waiting, self._width()))
        while reading:
            step = {}
            still_reading = []
            for location, batches in reading:
                batch = next(batches, None)
                while batch is None and (successor := next(waiting, None)):
                    location, batches = successor
                    batch = next(batches, None)
                if batch is not None:
                    step[location] = batch
                    still_reading.append((location, batches))
            if step:
                yield step
            reading = still_reading

    def _batches(self, dataset: BaseDataset) -> Iterator[Batch]:
        """Read one worker: an operator each for data and targets of a batch, and one for a shuffled batch's indices."""
        order = _drawn_order(dataset) if self.shuffle else None
        for start in range(0, self._count_batches(len(dataset)) * self.batch_size, self.batch_size):
            stop = min(start + self.batch_size, len(dataset))
            yield dataset.slice(start, stop) if order is None else dataset.select(order[start:stop])


def _drawn_order(dataset: BaseDataset) -> torch.Tensor:
    """Return a random order of the items, where the data is, however long the chain of pointers to it."""
    order = dataset.data.new_empty(len(dataset), dtype=torch.int64)
    return order.copy_(torch.randperm(len(dataset)))
