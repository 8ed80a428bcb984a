"""Sending tensors and pointers to workers."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.nn.parameter import is_lazy

from .annotations import has_id, id_of, label_of, policy_of
from .crossing import Cross
from .errors import IdInUse, Misuse
from .ids import new_id
from .pointer import PointerTensor, become
from .policy import permit_send
from .workers import BaseWorker


def send(
    tensor: torch.Tensor,
    *workers: BaseWorker,
    user: str = "",
    requires_grad: bool = False,
    garbage_collect_data: bool = True,
    inplace: bool = False,
) -> torch.Tensor:
    """Send a tensor, or a pointer, to a worker and return a pointer to it there.

    Its tags, description, gradient and privacy go with it. Several workers get a copy each, and the
    result is a MultiPointerTensor.

    Args:
        workers: where to.
        user: in whose name, for private tensors.
        requires_grad: keep the graph: a backward pass through the pointer comes back to ``tensor``.
        garbage_collect_data: free the object when its last pointer here goes.
        inplace: this very tensor becomes the pointer, as by :func:`send_`.

    Raises:
        SendNotPermitted: the tensor is private and ``user`` is not among its allowed users.
        Misuse: there is no worker named, or ``tensor`` is of a kind that cannot be sent.
    """
    if not workers or not all(isinstance(worker, BaseWorker) for worker in workers):
        raise Misuse(
            f"a tensor is sent to workers, not to {', '.join(type(w).__name__ for w in workers) or 'nobody'}",
            mend="bob = sy.VirtualWorker(id='bob'); x.send(bob)",
        )
    options: dict[str, Any] = {
        "user": user,
        "requires_grad": requires_grad,
        "garbage_collect_data": garbage_collect_data,
    }
    if inplace:
        return send_(tensor, *workers, **options)
    if len(workers) > 1:
        from .multipointer import MultiPointerTensor, combine_pointers

        pointers = [send(tensor, w, **options) for w in workers]
        return combine_pointers(*pointers) if requires_grad else MultiPointerTensor.of(pointers)
    worker = workers[0]
    if requires_grad:
        return cast(torch.Tensor, Cross.apply(tensor, lambda value: place(value, worker, user), _bring))
    pointer = place(tensor, worker, user)
    if (tensor.is_leaf or tensor.retains_grad) and tensor.grad is not None:
        pointer.grad = send(tensor.grad, worker, user=user)
    if not garbage_collect_data:
        pointer.gc = False
    return pointer.requires_grad_() if tensor.requires_grad else pointer


def send_(tensor: torch.Tensor, *workers: BaseWorker, **options: Any) -> torch.Tensor:
    """As :func:`send`, in place: this very tensor becomes the pointer."""
    return become(tensor, send(tensor, *workers, **options))


def place(tensor: torch.Tensor, worker: BaseWorker, user: str) -> PointerTensor:
    """Send only the value, with its labels and policy, outside the graph. Errors as of :func:`send`."""
    if isinstance(tensor, PointerTensor):
        return worker.send(tensor, new_id() if _was_sent(tensor) else tensor.id)
    if is_lazy(tensor):
        raise Misuse(
            "a lazy module has no parameters yet that could be sent",
            mend="Run it once here, so that it makes them: model(x). Then send it.",
        )
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise Misuse(
            f"a {type(tensor).__name__} cannot be sent to a worker",
            mend="Plain tensors and pointers can: x.as_subclass(torch.Tensor).",
        )
    if tensor.is_meta:
        raise Misuse("a meta tensor has no values to send", mend="Give it values first, on the cpu.")
    policy, label = policy_of(tensor), label_of(tensor)
    permit_send(policy, user, "me")
    value, is_new = tensor.detach(), not has_id(tensor)
    own = None if _was_sent(tensor) else id_of(tensor)
    try:
        pointer = worker.send(value, own, label=label, policy=policy, is_new=is_new)
    except IdInUse:  # a deep copy has the id of its original
        pointer = worker.send(value, label=label, policy=policy)
    pointer._tags, pointer._description = label
    return pointer


def _bring(pointer: torch.Tensor) -> torch.Tensor:
    return pointer.bring() if isinstance(pointer, PointerTensor) else pointer


def _was_sent(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor has become an object before; only the first has its own id, each other a new one."""
    before: bool = tensor.__dict__.get(_SENT, False)
    tensor.__dict__[_SENT] = True
    return before


_SENT = "_syft_sent"

# One verb for tensors and pointers; local tensors have it as a method after TorchHook.
PointerTensor.send = send
PointerTensor.send_ = send_
