"""The verbs, as functions for tensors and modules alike: ``sy.send(x, bob)``, ``sy.send(model, bob)``.

Each hands on to the function or the method of what it is given, with all arguments. A further kind
of thing that can be sent registers itself here.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any, NoReturn

import torch

from . import nn, sending
from .annotations import describe as describe_tensor
from .annotations import tag as tag_tensor
from .errors import Misuse
from .multipointer import MultiPointerTensor
from .pointer import PointerTensor


def _refuse(thing: object, verb: str) -> NoReturn:
    if isinstance(thing, torch.Tensor):
        raise Misuse(f"this tensor is here: there is nothing to {verb}", mend="Send it first: sy.send(x, bob)")
    raise Misuse(f"no {verb} is known for a {type(thing).__name__}", mend="Tensors, pointers and modules have one.")


@singledispatch
def send(thing: Any, *workers: Any, **options: Any) -> Any:
    """Send a tensor, a pointer or a module to a worker: :func:`.sending.send`, :func:`.nn.send_module`.

    A module is at one worker; sent to where it is already, it stays as it is.
    """
    _refuse(thing, "send")


@singledispatch
def get(thing: Any, **options: Any) -> Any:
    """Bring home what a pointer or a module has at a worker: :meth:`.PointerTensor.get`, :func:`.nn.get_module`."""
    _refuse(thing, "get")


@singledispatch
def move(thing: Any, worker: Any, **options: Any) -> Any:
    """Have it sent straight to another worker: :meth:`.PointerTensor.move`, :func:`.nn.move_module`."""
    _refuse(thing, "move")


@singledispatch
def copy(thing: Any) -> Any:
    """Copy a tensor or a module where it is: :meth:`.PointerTensor.copy`, :func:`.nn.copy_module`."""
    _refuse(thing, "copy")


@singledispatch
def tag(thing: Any, *tags: str) -> Any:
    """Add tags to a tensor, by which ``search`` finds it once it is at a worker; returns it."""
    _refuse(thing, "tag")


@singledispatch
def describe(thing: Any, description: str) -> Any:
    """Describe a tensor in words, by which ``search`` finds it once it is at a worker; returns it."""
    _refuse(thing, "describe")


@singledispatch
def location(thing: Any) -> Any:
    """Return the worker where it is, None if it is here: :func:`.nn.location_of`."""
    _refuse(thing, "location")


send.register(torch.Tensor, sending.send)


@send.register
def _(module: torch.nn.Module, *workers: Any, **options: Any) -> torch.nn.Module:
    if len(workers) != 1:
        raise Misuse(
            f"a module is sent to one worker, not to {len(workers)}",
            mend="Send a copy to each: models = [model.copy().send(worker) for worker in workers]",
        )
    (worker,) = workers
    is_there = worker is not None and nn.location_of(module) is worker
    return module if is_there else nn.send_module(module, worker, **options)


get.register(PointerTensor, PointerTensor.get)
get.register(MultiPointerTensor, MultiPointerTensor.get)
get.register(torch.nn.Module, nn.get_module)

move.register(PointerTensor, PointerTensor.move)
move.register(torch.nn.Module, nn.move_module)

copy.register(PointerTensor, PointerTensor.copy)
copy.register(torch.nn.Module, nn.copy_module)

tag.register(torch.Tensor, tag_tensor)
tag.register(PointerTensor, PointerTensor.tag)
tag.register(MultiPointerTensor, MultiPointerTensor.tag)

describe.register(torch.Tensor, describe_tensor)
describe.register(PointerTensor, PointerTensor.describe)
describe.register(MultiPointerTensor, MultiPointerTensor.describe)

location.register(torch.nn.Module, nn.location_of)


@location.register
def _(pointer: PointerTensor) -> Any:
    return pointer.location


@location.register
def _(tensor: torch.Tensor) -> None:
    return None


@copy.register
def _(tensor: torch.Tensor) -> torch.Tensor:
    """A local tensor's copy is outside the graph, as a pointer's is."""
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)
