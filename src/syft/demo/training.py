"""The federation, and what it is measured against.

Each data owner has a worker with its own images, which are private: what is computed from them, a
loss or an updated model, leaves that worker only in the coordinator's name. The coordinator sends the
model to each owner and trains it there; the updates move straight to the aggregator, where they are
averaged, and only the average is fetched.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from ..fl import dirichlet_split
from ..fl.utils import federated_avg
from ..pointer import PointerTensor
from ..verbs import get, move, send
from .data import Digits, load_digits
from .venue import COORDINATOR, OneProcess, Venue

Tick = Callable[[str], None]


class Settings(NamedTuple):
    """What a run is determined by.

    Attributes:
        rounds: how often the owners' models are averaged.
        owners: among how many the training images are split.
        alpha: of the Dirichlet distribution that each owner's mix of digits is drawn from.
        seed: of everything random; the same seed gives the same result.
        epochs: how often, in a round, each owner goes through its images.
        batch_size: images of one step.
        learning_rate: of SGD, with momentum 0.9.
    """

    rounds: int = 20
    owners: int = 5
    alpha: float = 2.0
    seed: int = 0
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 0.02


class Round(NamedTuple):
    """What one round came to.

    Attributes:
        number: from 1.
        loss: mean training loss over all owners' images, averaged at the aggregator.
        federated: accuracy of the averaged model on the test images, 0 to 1, as the next two.
        pooled: accuracy of the model trained on all images in one place, for as many epochs.
        alone: accuracy of each owner's model trained on its own images only, for as many epochs.
        bytes: of all messages of the round's federated part; 0 where they are not counted.
        seconds: that its federated part took.
    """

    number: int
    loss: float
    federated: float
    pooled: float
    alone: tuple[float, ...]
    bytes: int
    seconds: float


class Party:
    """Somebody who has digits and trains models on them: here, or through pointers at a worker."""

    def __init__(self, digits: Digits, settings: Settings) -> None:
        self.digits, self._settings = digits, settings
        self._generator = torch.Generator().manual_seed(settings.seed)

    def train(self, model: nn.Module) -> torch.Tensor:
        """Train a model that is where the digits are, for one round; return its mean loss, there."""
        images, labels = self.digits
        count, settings = len(labels), self._settings
        optimizer = torch.optim.SGD(model.parameters(), settings.learning_rate, momentum=0.9)
        total = labels.new_zeros((), dtype=torch.float32)
        for _ in range(settings.epochs):
            order = torch.randperm(count, generator=self._generator)
            if isinstance(labels, PointerTensor):
                order = send(order, labels.location)
            shuffled = (part.index_select(0, order).split(settings.batch_size) for part in (images, labels))
            for batch, targets in zip(*shuffled, strict=True):
                optimizer.zero_grad()
                loss = cross_entropy(model(batch), targets)
                loss.backward()
                optimizer.step()
                total += loss.detach() * len(targets)
        optimizer.zero_grad()
        return total / (count * settings.epochs)


class Federation:
    """Data owners and the aggregator, at the workers of a venue.

    Attributes:
        refusals: what workers said when a stranger asked for each single update.
    """

    def __init__(self, venue: Venue, settings: Settings) -> None:
        self.venue = venue
        self.refusals: list[str] = []
        self._parties = {
            owner: Party(Digits(*owner.search("#images"), *owner.search("#labels")), settings) for owner in venue.owners
        }

    def round(self, model: nn.Module, tick: Tick) -> tuple[nn.Module, float]:
        """Train copies of ``model`` at all owners; return their average, and their mean loss."""
        trained = {}
        for owner, party in self._parties.items():  # all begin before any is waited for
            tick(f"{owner.id} trains")
            update = send(copy.deepcopy(model), owner)
            trained[owner] = update, party.train(update)
        updates, losses = {}, {}
        for owner, (update, loss) in trained.items():
            self.refusals.append(self.venue.refusal(update))
            updates[owner] = move(update, self.venue.aggregator, user=COORDINATOR)
            losses[owner] = move(loss, self.venue.aggregator, user=COORDINATOR)
            self.refusals.append(self.venue.refusal(update))
        tick("the aggregator averages")
        sizes = {owner: len(party.digits) for owner, party in self._parties.items()}
        average = federated_avg(updates, sizes)
        loss = sum(sizes[owner] * loss for owner, loss in losses.items()) / sum(sizes.values())
        return get(average, user=COORDINATOR), get(loss, user=COORDINATOR).item()

    def shut(self) -> None:
        """End the venue."""
        self.venue.shut()


class Experiment:
    """A federation of owners and, beside it, pooled training and each owner alone, round by round.

    All begin with the same model and train by the same function.

    Attributes:
        shares: the digits of each owner.
        model: what the federation has come to.
        ticks: how often :meth:`rounds` calls its ``tick``.
    """

    def __init__(self, settings: Settings, venue: Callable[[Sequence[Digits]], Venue] = OneProcess) -> None:
        generator = torch.Generator().manual_seed(settings.seed)
        pool, self._test = load_digits(generator)
        split = dirichlet_split(pool.labels, settings.owners, settings.alpha, settings.seed)
        self.shares = [pool.at(indices) for indices in split]
        self.model = make_model(settings.seed)
        self.federation = Federation(venue(self.shares), settings)
        self.ticks = settings.rounds * (2 * settings.owners + 2)
        self._settings = settings
        self._pooled = (Party(pool, settings), copy.deepcopy(self.model))
        self._alone = [(Party(share, settings), copy.deepcopy(self.model)) for share in self.shares]

    def rounds(self, tick: Tick = lambda what: None) -> Iterator[Round]:
        """Run all rounds, yielding each as it ends; ``tick`` is told what comes next."""
        for number in range(1, self._settings.rounds + 1):
            began, bytes_before = time.perf_counter(), self.federation.venue.bytes
            self.model, loss = self.federation.round(self.model, tick)
            seconds = time.perf_counter() - began
            for i, (party, model) in enumerate([self._pooled, *self._alone]):
                tick(f"owner-{i} alone" if i else "pooled training")
                party.train(model)
            yield Round(
                number=number,
                loss=loss,
                federated=self._accuracy(self.model),
                pooled=self._accuracy(self._pooled[1]),
                alone=tuple(self._accuracy(model) for _, model in self._alone),
                bytes=self.federation.venue.bytes - bytes_before,
                seconds=seconds,
            )

    @torch.no_grad()
    def _accuracy(self, model: nn.Module) -> float:
        return float((model(self._test.images).argmax(1) == self._test.labels).float().mean())

    def __enter__(self) -> Experiment:
        return self

    def __exit__(self, *error: object) -> None:
        self.federation.shut()


def make_model(seed: int) -> nn.Module:
    """Make the network: two convolutions and two linear layers, about 110,000 parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
