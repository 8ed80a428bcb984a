"""A place to try things out: six workers, with data sets spread over them."""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import torch

from .annotations import describe, tag
from .errors import Misuse
from .grid import PrivateGridNetwork
from .torch_hook import TorchHook
from .workers import VirtualWorker

WORKERS = ("bob", "theo", "jason", "alice", "andy", "jon")

#: Data sets, by name -> further tags. Boston ships inside mlxtend, the others inside scikit-learn.
DATA_SETS: dict[str, tuple[str, ...]] = {
    "boston": ("#housing", "#boston_housing"),
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
    scikit-learn and mlxtend.

    Args:
        gbs: where to put the names; usually ``globals()``.
        verbose: say what is done.
        download_data: spread the data sets.

    Raises:
        Misuse: scikit-learn or mlxtend is not installed.
    """
    make_hook(gbs)
    if download_data:
        for name, further in DATA_SETS.items():
            tags = (f"#{name}", *further)
            if not gbs["grid"].search(*tags):
                _spread(_load(name), tags, gbs["workers"])
    if verbose:
        holdings = (f"{worker.id:>6} holds {worker.objects_count()} tensors" for worker in gbs["workers"])
        print("hook, grid, workers:", *holdings, sep="\n")  # noqa: T201  it is asked for


class _DataSet(NamedTuple):
    """As scikit-learn's: ``data`` (rows, features), ``target`` of as many rows, and a text on both."""

    data: Any
    target: Any
    DESCR: str


_ABOUT_BOSTON = """Boston house prices: 506 census tracts of 1970, from the UCI repository.

Target: the median value of a home in 1000 dollars (MEDV). Features: CRIM ZN INDUS CHAS NOX RM AGE DIS RAD TAX PTRATIO
B LSTAT. From Harrison and Rubinfeld, Hedonic prices and the demand for clean air, 1978.

Here for the code of older tutorials only. scikit-learn 1.2 removed it for an ethical problem: B is made from the share
of black people in a tract, on the assumption that segregation raises prices.
"""


def _load(name: str) -> Any:
    try:
        if name == "boston":
            data, target = importlib.import_module("mlxtend.data").boston_housing_data()
            return _DataSet(data, target, _ABOUT_BOSTON)
        return getattr(importlib.import_module("sklearn.datasets"), f"load_{name}")()
    except ImportError as error:
        raise Misuse(
            "the data sets of the sandbox come with scikit-learn and mlxtend, of which one is not installed",
            mend='pip install "syft-pointers[sandbox]", or create_sandbox(globals(), download_data=False)',
        ) from error


def _spread(bunch: Any, tags: tuple[str, ...], workers: list[VirtualWorker]) -> None:
    order = torch.randperm(len(bunch.data), generator=torch.Generator().manual_seed(0))
    for kind, values in (("#data", bunch.data), ("#target", bunch.target)):
        tensor = torch.as_tensor(values)[order]
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        for worker, part in zip(workers, tensor.tensor_split(len(workers)), strict=True):
            worker.load_data([describe(tag(part, *tags, kind), bunch.DESCR)])
