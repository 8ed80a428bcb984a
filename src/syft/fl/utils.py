"""Averages of models, and small helpers of training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import Misuse
from ..nn import get_module, move_module
from ..workers import BaseWorker
from .dataloader import Batch, FederatedDataLoader

M = TypeVar("M", bound=nn.Module)


@torch.no_grad()
def add_model(dst_model: M, src_model: nn.Module) -> M:
    """Add one model's parameters and floating buffers to another's, in place; returns the latter.

    Raises:
        Misuse: the two have not the same tensors, of the same shapes.
        NotCollocated: they are not at one place.
    """
    added = _averaged_tensors(src_model)
    total = _averaged_tensors(dst_model)
    if total.keys() != added.keys():
        raise Misuse(f"the models differ: only one of them has {', '.join(sorted(total.keys() ^ added.keys()))}")
    for name, tensor in total.items():
        if tensor.shape != added[name].shape:
            raise Misuse(f"the models differ: {name} has shapes {list(tensor.shape)} and {list(added[name].shape)}")
    for name, tensor in total.items():
        tensor.add_(added[name])
    return dst_model


@torch.no_grad()
def scale_model(model: M, scale: float) -> M:
    """Multiply a model's parameters and floating buffers by a number, in place; returns the model."""
    for tensor in _averaged_tensors(model).values():
        tensor.mul_(scale)
    return model


def federated_avg(models: Mapping[Any, M], sizes: Mapping[Any, float] | None = None) -> M:
    """Return the average of models that are all here or all at one worker, as a new model there.

    This is FederatedAveraging (McMahan et al. 2017, arXiv:1602.05629). Buffers that are no floating
    numbers, such as counts of batches, are those of the first model. The models stay as they are.

    Args:
        models: by worker, or by any key.
        sizes: by the same keys, how much each counts, such as its number of examples; by default all
            count the same.

    Raises:
        Misuse: there is no model, ``sizes`` has other keys, is below 0 or all 0, or the models differ.
        NotCollocated: they are not at one place.
    """
    if not models:
        raise Misuse("an average is of at least one model")
    sizes = dict.fromkeys(models, 1.0) if sizes is None else sizes
    total = sum(sizes.values())
    if sizes.keys() != models.keys() or min(sizes.values()) < 0 or total <= 0:
        raise Misuse("sizes has one number for each model, none below 0 and not all 0")
    shares = ((model, sizes[key] / total) for key, model in models.items())
    first, share = next(shares)
    average = scale_model(copy.deepcopy(first), share)
    average.zero_grad()
    for model, share in shares:
        add_model(average, scale_model(copy.deepcopy(model), share))
    return average


def aggregate(models: Mapping[Any, M], aggregator: BaseWorker, sizes: Mapping[Any, float] | None = None) -> M:
    """Move models from their workers to an aggregator, average them there, and bring only the average home.

    The models are at the aggregator afterwards; nobody here has seen one. Arguments and errors: as of
    :func:`federated_avg`, and of ``move``.
    """
    for model in models.values():
        move_module(model, aggregator)
    return get_module(federated_avg(models, sizes))


def accuracy(pred_softmax: torch.Tensor, target: torch.Tensor) -> float:
    """Return the share of rows of ``pred_softmax`` (N, classes) whose largest entry is at ``target`` (N).

    Of pointers, one number comes home.
    """
    predicted = pred_softmax.argmax(dim=1)
    return (predicted == target.view(predicted.shape)).sum().item() / len(target)


def create_gaussian_mixture_toy_data(nr_samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw points around (-5, -5), class 0, and as many around (5, 5), class 1, by torch's generator.

    Returns:
        Points (2 * (nr_samples // 2), 2), float32, of unit variance, and their classes, int64; class 0 first.
    """
    half = nr_samples // 2
    classes = torch.arange(2).repeat_interleave(half)
    return torch.randn(2 * half, 2) + (10.0 * classes - 5.0).unsqueeze(1), classes


def extract_batches_per_worker(federated_train_loader: FederatedDataLoader) -> dict[Any, list[Batch]]:
    """Return one epoch's batches by worker."""
    batches: dict[Any, list[Batch]] = {dataset.location: [] for dataset in federated_train_loader.federated_dataset}
    for step in federated_train_loader:
        for data, target in step.values() if isinstance(step, dict) else [step]:
            batches[data.location].append((data, target))
    return batches


def _averaged_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {name: tensor for name, tensor in named.items() if tensor.is_floating_point() or tensor.is_complex()}
