"""What users note on local tensors before they send them: an id, tags, a description, who may have them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch

from .errors import Misuse
from .ids import new_id
from .policy import Policy
from .store import Label, check_label

T = TypeVar("T", bound=torch.Tensor)

# Notes are kept in the tensor's own __dict__, so that they go when it goes, and as plain tuples, so that
# torch.load takes them without further trust.
_ID, _LABEL, _POLICY = "_syft_id", "_syft_label", "_syft_policy"


def id_of(tensor: torch.Tensor) -> int:
    """Return the tensor's id, which its first pointer's object will have; made when first asked for."""
    own: int = tensor.__dict__.setdefault(_ID, None) or new_id()
    tensor.__dict__[_ID] = own
    return own


def has_id(tensor: torch.Tensor) -> bool:
    """Tell whether somebody has asked for the tensor's id; then what was made of it may have the same."""
    return tensor.__dict__.get(_ID) is not None


def label_of(tensor: torch.Tensor) -> Label:
    """Return the tensor's tags and description."""
    return Label(*tensor.__dict__.get(_LABEL, ()))


def policy_of(tensor: torch.Tensor) -> Policy:
    """Return who may have the tensor's values; None is anyone."""
    users: tuple[str, ...] | None = tensor.__dict__.get(_POLICY)
    return None if users is None else frozenset(users)


def set_label(tensor: torch.Tensor, label: Label) -> None:
    """Give a local tensor the tags and the description that it had elsewhere."""
    if label != Label():
        tensor.__dict__[_LABEL] = tuple(label)


def tag(tensor: T, *tags: str) -> T:
    """Add tags to a local tensor; returns it. Raises Misuse, LimitExceeded."""
    label = label_of(tensor)
    checked = check_label(Label((*label.tags, *(t for t in tags if t not in label.tags)), label.description))
    tensor.__dict__[_LABEL] = tuple(checked)
    return tensor


def describe(tensor: T, description: str) -> T:
    """Describe a local tensor in words; returns it. Raises Misuse, LimitExceeded."""
    tensor.__dict__[_LABEL] = tuple(check_label(label_of(tensor)._replace(description=description)))
    return tensor


def private_tensor(tensor: torch.Tensor, allowed_users: Iterable[str]) -> torch.Tensor:
    """Return the tensor as a private one: wherever it goes, only ``allowed_users`` may send or get it.

    What is computed from it at a worker is private as well. Who gets it has a plain tensor, to do with as
    they like. Raises Misuse for a pointer.
    """
    _check_local(tensor)
    if isinstance(allowed_users, str):
        raise Misuse("allowed_users is a list of names", mend=f"allowed_users=[{allowed_users!r}]")
    private = tensor.view_as(tensor)
    private.__dict__.update({k: v for k, v in tensor.__dict__.items() if k in (_ID, _LABEL)})
    private.__dict__[_POLICY] = tuple(sorted(set(allowed_users)))
    return private


def allow(tensor: torch.Tensor, user: str) -> bool:
    """Tell whether ``user`` may send or get a local tensor's values. Raises Misuse for a pointer."""
    _check_local(tensor)
    policy = policy_of(tensor)
    return policy is None or user in policy


def _check_local(tensor: torch.Tensor) -> None:
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise Misuse(
            f"who may have the values of a {type(tensor).__name__} cannot be said here",
            mend="Make a local tensor private before you send it: x.private_tensor(allowed_users=[...]).send(bob).",
        )
