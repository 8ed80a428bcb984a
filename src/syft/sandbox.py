"""A place to try things out: six workers, with data sets spread over them."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch

from .annotations import describe, tag
from .errors import Misuse
from .grid import PrivateGridNetwork
from .torch_hook import TorchHook
from .workers import VirtualWorker

WORKERS = ("bob", "theo", "jason", "alice", "andy", "jon")

#: Data sets that ship inside scikit-learn: the part of ``load_...`` -> further tags.
DATA_SETS: dict[str, tuple[str, ...]] = {
    "breast_cancer": ("#cancer", "#wisconsin"),
    "diabetes": ("#progression",),
    "digits": ("#images",),
    "iris": ("#flowers",),
    "linnerud": ("#exercise",),
    "wine": ("#chemistry",),
}


def make_hook(gbs: dict[str, Any]) -> None:
    """Put a hook, six workers, their list ``workers`` and their network ``grid`` into ``gbs``."""
    hook = TorchHook(torch)
    workers = [VirtualWorker(hook, id=name) for name in WORKERS]
    gbs |= {"hook": hook, "workers": workers, "grid": PrivateGridNetwork(*workers)}
    gbs |= {worker.id: worker for worker in workers}


def create_sandbox(gbs: dict[str, Any], verbose: bool = True, download_data: bool = True) -> None:
    """Do what :func:`make_hook` does, and spread data sets over the workers.

    Each worker gets an equal part of every data set of :data:`DATA_SETS`, as two tensors of its own:
    float32 of shape (rows, features) tagged ``#data`` and its targets, of shape (rows,) or
    (rows, targets), tagged ``#target``; both with the data set's name as a tag and its text as
    description. What is there already is not spread again. Nothing is downloaded: the data comes with
    scikit-learn.

    Args:
        gbs: where to put the names; usually ``globals()``.
        verbose: say what is done.
        download_data: spread the data sets.

    Raises:
        Misuse: scikit-learn is not installed.
    """
    make_hook(gbs)
    if download_data:
        loaders = _scikit_learn()
        for name, further in DATA_SETS.items():
            tags = (f"#{name}", *further)
            if not gbs["grid"].search(*tags):
                _spread(getattr(loaders, f"load_{name}")(), tags, gbs["workers"])
    if verbose:
        holdings = (f"{worker.id:>6} holds {worker.objects_count()} tensors" for worker in gbs["workers"])
        print("hook, grid, workers:", *holdings, sep="\n")  # noqa: T201  it is asked for


def _scikit_learn() -> ModuleType:
    try:
        return importlib.import_module("sklearn.datasets")
    except ImportError as error:
        raise Misuse(
            "the data sets of the sandbox come with scikit-learn, which is not installed",
            mend='pip install "syft-pointers[sandbox]", or create_sandbox(globals(), download_data=False)',
        ) from error


def _spread(bunch: Any, tags: tuple[str, ...], workers: list[VirtualWorker]) -> None:
    order = torch.randperm(len(bunch.data), generator=torch.Generator().manual_seed(0))
    for kind, values in (("#data", bunch.data), ("#target", bunch.target)):
        tensor = torch.as_tensor(values)[order]
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        for worker, part in zip(workers, tensor.tensor_split(len(workers)), strict=True):
            worker.load_data([describe(tag(part, *tags, kind), bunch.DESCR)])
