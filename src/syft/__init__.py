"""Run PyTorch on data you cannot see."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .annotations import private_tensor
from .errors import SyftError
from .grid import PrivateGridNetwork
from .multipointer import MultiPointerTensor, combine_pointers
from .pointer import PointerTensor
from .sandbox import create_sandbox, make_hook
from .sending import send_
from .torch_hook import TorchHook
from .verbs import copy, describe, get, move, send, tag
from .workers import VirtualWorker, get_worker

if TYPE_CHECKING:
    from .workers import BaseWorker

    hook: TorchHook | None
    local_worker: BaseWorker

__all__ = [
    "MultiPointerTensor",
    "PointerTensor",
    "PrivateGridNetwork",
    "SyftError",
    "TorchHook",
    "VirtualWorker",
    "combine_pointers",
    "copy",
    "create_sandbox",
    "describe",
    "get",
    "get_worker",
    "make_hook",
    "move",
    "private_tensor",
    "send",
    "send_",
    "tag",
]


def __getattr__(name: str) -> Any:
    """``hook``: the last TorchHook, None before the first; ``local_worker``: who holds this process's pointers."""
    if name == "hook":
        return TorchHook.current
    if name == "local_worker":
        from .workers import local_worker

        return local_worker()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
