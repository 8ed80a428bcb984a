"""Run PyTorch on data you cannot see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import compat
from .annotations import private_tensor
from .drawing import draw
from .errors import SyftError
from .fl import BaseDataset, FederatedDataLoader, FederatedDataset, Optims, federate
from .grid import PrivateGridNetwork
from .logging_tensor import LoggingTensor
from .multipointer import MultiPointerTensor, combine_pointers
from .pointer import PointerTensor
from .sandbox import create_sandbox, make_hook
from .sending import send_
from .torch_hook import TorchHook
from .verbs import copy, describe, get, move, send, tag
from .workers import VirtualWorker, get_worker

if TYPE_CHECKING:
    from pathlib import Path

    from .node.client import NodeWorker
    from .workers import BaseWorker

    hook: TorchHook | None
    local_worker: BaseWorker

__all__ = [
    "BaseDataset",
    "FederatedDataLoader",
    "FederatedDataset",
    "LoggingTensor",
    "MultiPointerTensor",
    "Optims",
    "PointerTensor",
    "PrivateGridNetwork",
    "SyftError",
    "TorchHook",
    "VirtualWorker",
    "combine_pointers",
    "connect",
    "copy",
    "create_sandbox",
    "describe",
    "draw",
    "federate",
    "get",
    "get_worker",
    "make_hook",
    "move",
    "private_tensor",
    "send",
    "send_",
    "tag",
]

compat.install()


def connect(address: str, certs: str | Path, id: str | None = None) -> NodeWorker:
    """Connect to the node that a data owner serves at ``address``, HOST:PORT, and return it as a worker.

    ``certs`` is the folder of your own bundle, as ``syft certs issue`` made it, and ``id`` the name of the worker
    that has to be there; without it, whoever of your authority answers. Leave with ``worker.shut()``, or write
    ``with sy.connect(...) as bob:``.
    Raises BadCertificate, Misuse, WorkerShut: see :func:`syft.node.client.connect`.
    """
    from .node.client import connect  # what it needs is an extra

    return connect(address, certs, id)


def __getattr__(name: str) -> Any:
    """Look up what changes, or is seldom asked for.

    ``hook``: the last TorchHook, None before the first; ``local_worker``: who holds this process's
    pointers; ``torch``, ``framework``: torch; ``ID_PROVIDER``: gives new ids.
    """
    if name == "hook":
        return TorchHook.current
    if name == "local_worker":
        from .workers import local_worker

        return local_worker()
    if name in ("torch", "framework"):
        import torch

        return torch
    if name == "ID_PROVIDER":
        return compat.IdProvider()
    if name in compat.GONE:
        raise compat.gone(f"sy.{name}", compat.GONE[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
