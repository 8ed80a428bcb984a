"""What is known of an object at its worker is what it is there."""

from __future__ import annotations

import pytest
import torch

import syft as sy

X = torch.arange(24.0).view(4, 6)
VIEWS = {
    "every other column": X[:, ::2],
    "rows from the second": X[1:],
    "transposed": X.t(),
    "a slice of the transposed": X.t()[1:],
    "expanded": X.expand(2, 4, 6),
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
}


def _memory(tensor: torch.Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset()


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_a_pointer_knows_the_memory_order_of_its_object(view, bob, alice):
    pointer = sy.send(view, bob)
    assert _memory(pointer) == _memory(bob._objects[pointer.id_at_location])
    moved = pointer.transpose(0, 1)[1:].move(alice)
    assert _memory(moved) == _memory(alice._objects[moved.id_at_location])
    assert torch.equal(moved.get(), view.transpose(0, 1)[1:])


def test_it_still_does_when_the_object_went_on_and_came_back(bob, alice):
    pointer = sy.send(X, bob)[:, ::2]
    pointer.remote_send(alice)
    inner = bob._objects[pointer.id_at_location]
    assert _memory(pointer) == _memory(inner) == _memory(alice._objects[inner.id_at_location])
    pointer.remote_get()
    assert _memory(pointer) == _memory(bob._objects[pointer.id_at_location])
    assert torch.equal(pointer.get(), X[:, ::2])


def test_only_workers_are_sent_to():
    with pytest.raises(sy.SyftError, match="nobody"):
        sy.send(X)
    with pytest.raises(sy.SyftError, match="str"):
        sy.send(X, "bob")
