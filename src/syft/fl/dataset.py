"""Datasets: here, at one worker, or spread over several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..annotations import describe, tag
from ..errors import Misuse, NotCollocated
from ..pointer import PointerTensor, get_all, place_of
from ..sending import send
from ..workers import BaseWorker

Transform = Callable[[torch.Tensor], torch.Tensor]


class BaseDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Data and targets, item by item along their first dimension: local tensors, or pointers to one worker.

    Args:
        data: N items.
        targets: N targets.
        transform: applied to whatever is indexed, one item or a batch (a batch has one dimension more).

    Raises:
        Misuse: data and targets differ in length.
        NotCollocated: they are in two places.
    """

    def __init__(self, data: torch.Tensor, targets: torch.Tensor, transform: Transform | None = None) -> None:
        if data.dim() == 0 or targets.dim() == 0 or len(data) != len(targets):
            raise Misuse(
                f"each item has one target: data of shape {list(data.shape)} and targets of shape "
                f"{list(targets.shape)} differ in their first dimension"
            )
        places = [place_of(data), place_of(targets)]
        if places[0] is not places[1]:
            names = " and ".join("here" if place is None else f"at {place.id}" for place in places)
            raise NotCollocated(f"data and targets are not in one place, but {names}", mend="Send both to one worker.")
        self.data, self.targets, self._transform = data, targets, transform
        self._federated = False

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: Any) -> tuple[torch.Tensor, torch.Tensor]:
        return self._transformed(self.data[index], self.targets[index])

    def slice(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return copies of the items from ``start`` to before ``stop``, as one batch."""
        length = stop - start
        return self._transformed(
            torch.narrow_copy(self.data, 0, start, length), torch.narrow_copy(self.targets, 0, start, length)
        )

    def select(self, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return copies of the items of these indices, which are where the data is, as one batch."""
        return self._transformed(self.data.index_select(0, indices), self.targets.index_select(0, indices))

    def _transformed(self, data: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return (data if self._transform is None else self._transform(data)), targets

    def transform(self, transform: Transform) -> None:
        """Set what is applied to items and batches."""
        if not callable(transform):
            raise Misuse("a transform is a function from data to data")
        self._transform = transform

    @property
    def location(self) -> Any:
        """The worker where the data is; None if it is here."""
        return place_of(self.data)

    def send(self, worker: BaseWorker, *, user: str = "") -> BaseDataset:
        """Return the dataset at a worker; this one stays as it is. Errors: as of :func:`syft.send`."""
        return BaseDataset(send(self.data, worker, user=user), send(self.targets, worker, user=user), self._transform)

    def get(self, *, user: str = "", reason: str = "") -> BaseDataset:
        """Bring data and targets home, in place; returns the dataset.

        Raises:
            Misuse: it is here, or it is part of a FederatedDataset.
            ObjectGone, GetNotPermitted: as of :meth:`PointerTensor.get`.
        """
        if self._federated:
            raise Misuse(
                "this dataset is part of a FederatedDataset, which would lose it",
                where=self.location.id,
                mend="Take it out: federated.get_dataset(worker).",
            )
        if not isinstance(self.data, PointerTensor) or not isinstance(self.targets, PointerTensor):
            raise Misuse("this dataset is here: there is nothing to get", mend="Send it first: dataset.send(bob)")
        self.data, self.targets = get_all([self.data, self.targets], user)
        return self

    def tag(self, *tags: str) -> BaseDataset:
        """Add tags to data and targets; returns the dataset."""
        for tensor in (self.data, self.targets):
            if isinstance(tensor, PointerTensor):
                tensor.tag(*tags)
            else:
                tag(tensor, *tags)
        return self

    def describe(self, description: str) -> BaseDataset:
        """Describe data and targets in words; returns the dataset."""
        for tensor in (self.data, self.targets):
            if isinstance(tensor, PointerTensor):
                tensor.describe(description)
            else:
                describe(tensor, description)
        return self

    def federate(self, workers: Sequence[BaseWorker], parts: Sequence[torch.Tensor] | None = None) -> FederatedDataset:
        """As the function :func:`federate`; the transform is applied after, at the workers."""
        parts = _parts(len(self), workers, parts)
        return FederatedDataset(
            BaseDataset(self.data[part], self.targets[part], self._transform).send(worker)
            for worker, part in zip(workers, parts, strict=True)
        )

    def __repr__(self) -> str:
        where = "" if self.location is None else f" at {self.location.id}"
        return f"<BaseDataset of {len(self)} items{where}>"


class FederatedDataset(Dataset[Any]):
    """Datasets at several workers, one at each; ``federated[bob]`` or ``federated["bob"]`` is that of bob.

    Raises:
        Misuse: there is none, one is not at a worker, or two are at the same.
    """

    def __init__(self, datasets: Iterable[BaseDataset]) -> None:
        self.datasets: dict[str, BaseDataset] = {}
        for dataset in datasets:
            if dataset.location is None:
                raise Misuse("the datasets of a federation are at workers, and this one is here", mend="d.send(bob)")
            if dataset.location.id in self.datasets:
                raise Misuse(
                    "two datasets of one federation are at the same worker",
                    where=dataset.location.id,
                    mend="Join them there with torch.cat first.",
                )
            self.datasets[dataset.location.id] = dataset
        if not self.datasets:
            raise Misuse("a federation has at least one dataset")
        for dataset in self.datasets.values():
            dataset._federated = True

    @property
    def workers(self) -> list[str]:
        """The names of the workers, in order."""
        return list(self.datasets)

    def __getitem__(self, worker: str | BaseWorker) -> BaseDataset:
        name = worker if isinstance(worker, str) else worker.id
        if name not in self.datasets:
            raise Misuse(f"there is no dataset of {name!r} here; there are those of {', '.join(self.workers)}")
        return self.datasets[name]

    def __iter__(self) -> Iterator[BaseDataset]:
        return iter(self.datasets.values())

    def __len__(self) -> int:
        """Return how many items there are at all workers together."""
        return sum(len(dataset) for dataset in self.datasets.values())

    def get_dataset(self, worker: str | BaseWorker, *, user: str = "", reason: str = "") -> BaseDataset:
        """Take a worker's dataset out of the federation and home. Errors: as of :meth:`BaseDataset.get`."""
        dataset = self[worker]
        dataset._federated = False
        try:
            dataset.get(user=user)
        finally:
            dataset._federated = dataset.location is not None
        self.datasets = {name: other for name, other in self.datasets.items() if other is not dataset}
        return dataset

    def __repr__(self) -> str:
        workers = ", ".join(self.workers)
        return f"FederatedDataset\n    Distributed across: {workers}\n    Number of datapoints: {len(self)}"


def federate(
    dataset: Dataset[Any], workers: Sequence[BaseWorker], parts: Sequence[torch.Tensor] | None = None
) -> FederatedDataset:
    """Split any dataset of (data, target) pairs over workers and send the parts.

    Args:
        dataset: has a length; what its items are is asked for once, here.
        workers: who gets the parts.
        parts: indices for each worker, such as :func:`dirichlet_split` gives; by default equal parts
            in order, of which the first are longer by one item where the numbers do not divide.

    Raises:
        Misuse: there are more workers than items, a part is empty, the parts do not match the
            workers, or items are not pairs.
    """
    if isinstance(dataset, BaseDataset):
        return dataset.federate(workers, parts)
    parts = _parts(len(cast(Any, dataset)), workers, parts)
    return FederatedDataset(_collected(dataset, part).send(worker) for worker, part in zip(workers, parts, strict=True))


def _collected(dataset: Dataset[Any], part: torch.Tensor) -> BaseDataset:
    batch = next(iter(DataLoader(dataset, batch_size=len(part), sampler=part.tolist())))
    if not isinstance(batch, (list, tuple)) or len(batch) != 2 or not all(isinstance(t, torch.Tensor) for t in batch):
        raise Misuse("only datasets whose items are (data, target) pairs of tensors or numbers can be federated")
    return BaseDataset(*batch)


def _parts(length: int, workers: Sequence[BaseWorker], parts: Sequence[torch.Tensor] | None) -> Sequence[torch.Tensor]:
    if isinstance(workers, BaseWorker) or not all(isinstance(worker, BaseWorker) for worker in workers):
        raise Misuse("a dataset is federated over a list of workers", mend="dataset.federate((bob, alice))")
    if not workers:
        raise Misuse("a dataset is federated over workers, and none is named", mend="dataset.federate((bob, alice))")
    if parts is None:
        parts = torch.arange(length).tensor_split(len(workers))
    if len(parts) != len(workers):
        raise Misuse(f"there are {len(parts)} parts for {len(workers)} workers")
    empty = [worker.id for worker, part in zip(workers, parts, strict=True) if len(part) == 0]
    if empty:
        raise Misuse(f"nothing is left for {', '.join(empty)}: {length} items over {len(workers)} workers")
    return parts


def dirichlet_split(labels: torch.Tensor, owners: int, alpha: float, seed: int = 0) -> list[torch.Tensor]:
    """Deal the indices of ``labels`` to owners of equal size whose mixtures of classes differ.

    Each owner's mixture is drawn from a Dirichlet distribution around that of all labels (Hsu, Qi and
    Brown 2019, arXiv:1909.06335): a small ``alpha`` gives each owner few classes, a large one gives
    all the same mixture. A class that has run out is left out of the mixtures of those who follow.

    Args:
        labels: N class numbers.
        owners: how many; their sizes differ by one at most.
        alpha: concentration, above 0.
        seed: same seed, same split.

    Returns:
        For each owner its indices, ascending; every index is in exactly one of them.

    Raises:
        Misuse: alpha is not above 0, labels have more than one dimension, or there are fewer labels
            than owners.
    """
    if not alpha > 0:
        raise Misuse(f"alpha is a number above 0, not {alpha}")
    if labels.dim() != 1 or not 1 <= owners <= len(labels):
        raise Misuse(f"labels of shape {list(labels.shape)} cannot be dealt to {owners} owners")
    random = np.random.default_rng(seed)
    classes, numbers = np.unique(labels.numpy(), return_inverse=True)
    piles = [random.permutation(np.flatnonzero(numbers == c)) for c in range(len(classes))]
    left = np.array([len(pile) for pile in piles])
    prior = left / left.sum()
    dealt: list[torch.Tensor] = []
    for size in (len(part) for part in torch.arange(len(labels)).tensor_split(owners)):
        counts = _draw_counts(random, random.dirichlet(alpha * prior), left, size)
        hand = [pile[rest - count : rest] for pile, rest, count in zip(piles, left, counts, strict=True)]
        left = left - counts
        dealt.append(torch.from_numpy(np.sort(np.concatenate(hand))))
    return dealt


def _draw_counts(random: np.random.Generator, mixture: Any, left: Any, size: int) -> Any:
    """Draw ``size`` items by ``mixture``, and how many that is of each class, with no more of any than is left."""
    counts = np.zeros_like(left)
    while (missing := size - counts.sum()) > 0:
        open_classes = counts < left
        weights = np.where(open_classes, mixture, 0.0)
        if weights.sum() <= 0:  # all that the owner wanted has run out
            weights = (left - counts).astype(float)
        counts = np.minimum(counts + random.multinomial(missing, weights / weights.sum()), left)
    return counts
