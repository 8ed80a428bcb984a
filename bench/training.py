"""The training step of the rows: an MLP 784-128-10, a batch of 64, SGD."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

PIXELS, HIDDEN, CLASSES, BATCH, RATE = 784, 128, 10, 64, 0.01

Step = Callable[[torch.Tensor, torch.Tensor], None]


class Training(NamedTuple):
    model: nn.Module
    step: Step
    data: torch.Tensor
    target: torch.Tensor


def training() -> Training:
    """Return a model, its step, and a batch: always the same numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(PIXELS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, CLASSES))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step(data: torch.Tensor, target: torch.Tensor) -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(data), target).backward()
        optimizer.step()

    return Training(model, step, torch.randn(BATCH, PIXELS), torch.randint(CLASSES, (BATCH,)))
