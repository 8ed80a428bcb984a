"""Every object is freed when its last owner lets go: by reference counts alone, at once, and never sooner."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from syft.errors import ObjectGone
from syft.sending import send
from syft.workers import VirtualWorker

from .helpers import is_empty

pytestmark = pytest.mark.nodes


@pytest.fixture(autouse=True)
def without_cyclic_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def counts(worker: VirtualWorker) -> dict[str, int]:
    return {name: len(value) for name, value in vars(worker._worker.store).items() if isinstance(value, (dict, set))}


def test_a_dropped_pointer_frees_its_object(bob: VirtualWorker) -> None:
    x = send(torch.ones(2), bob)
    y = x + 1
    del x
    assert [value.tolist() for value in bob._objects.values()] == [[2.0, 2.0]]
    del y
    assert bob._objects == {}


def test_two_sends_are_two_objects(bob: VirtualWorker) -> None:
    x = torch.ones(2)
    p, q = send(x, bob), send(x, bob)
    del p
    assert q.get().tolist() == [1, 1]


def test_a_dropped_chain_leaves_the_pointer_it_was_made_of(bob: VirtualWorker, alice: VirtualWorker) -> None:
    p = send(torch.ones(2), bob)
    q = send(p, alice)
    del q
    assert alice._objects == {}
    assert (p + 1).get().tolist() == [2, 2]


def test_a_chain_outlives_the_pointer_it_was_made_of(bob: VirtualWorker, alice: VirtualWorker) -> None:
    p = send(torch.ones(2), bob)
    q = send(p, alice)
    del p
    assert (q * 3).get().get().tolist() == [3, 3]
    del q
    assert is_empty(bob, alice)


def test_another_owner_is_told_what_became_of_the_object(bob: VirtualWorker, alice: VirtualWorker) -> None:
    p = send(torch.ones(2), bob)
    q = send(p, alice)
    p.get()
    with pytest.raises(ObjectGone, match="taken home by a get"):
        (q + 1).get()  # at a node, the error comes with the result at the latest


def test_another_owner_cannot_end_what_a_graph_still_needs(bob: VirtualWorker, alice: VirtualWorker) -> None:
    p = send(torch.tensor([2.0]), bob).requires_grad_()
    q = send(p.detach(), alice)
    loss = (p * p).sum()
    p.get()
    del q
    loss.backward()
    assert p.grad.get().tolist() == [4.0]


def test_another_owner_does_not_free_a_namesake(
    bob: VirtualWorker, alice: VirtualWorker, charlie: VirtualWorker
) -> None:
    p = send(torch.ones(2), bob)
    q = send(p, alice)
    p = p.move(charlie).move(bob)
    del q
    assert p.get().tolist() == [1, 1]
    assert is_empty(bob)


def test_get_hides_what_a_graph_still_needs_until_the_graph_goes(bob: VirtualWorker) -> None:
    w = send(torch.tensor([3.0]), bob).requires_grad_()
    loss = (w * w).sum()
    w.get()
    assert [value.tolist() for value in bob._objects.values()] == [9.0]
    with pytest.raises(ObjectGone, match="taken home"):
        w.get()
    loss.backward()
    assert w.grad.tolist() == [6.0]
    del loss, w
    assert is_empty(bob)


def test_the_same_word_gc_off_leaves_the_object(bob: VirtualWorker) -> None:
    p = send(torch.ones(2), bob, garbage_collect_data=False)
    assert p.gc is p.garbage_collection is False
    id = p.id_at_location
    del p
    assert list(bob._objects) == [id]
    (found,) = bob.search(id)
    del found
    assert list(bob._objects) == [id]
    q = bob.search(id)[0]
    q.gc = True
    del q
    assert bob._objects == {}


@pytest.mark.parametrize(
    "failing", ["x.view(7)", "x @ x @ x", "x[[0, 9]]", "x + torch.tensor([1.5, 7.25])", "x.add_(x.new_ones(5))"]
)
def test_a_failed_call_keeps_nothing_alive(bob: VirtualWorker, failing: str) -> None:
    def fail() -> None:
        x = send(torch.ones(2), bob)
        try:
            eval(failing, {"x": x, "torch": torch}).get()  # at a node, the error comes here at the latest
        except (RuntimeError, IndexError):
            return
        raise AssertionError("it did not fail")

    fail()
    assert bob._objects == {}


@pytest.mark.in_process
@pytest.mark.parametrize("links", [1, 2])
def test_many_operators_leave_nothing(bob: VirtualWorker, alice: VirtualWorker, links: int) -> None:
    x = send(torch.ones(2), bob)
    if links == 2:
        x = send(x, alice)
    w = x.copy().requires_grad_()
    start = [counts(worker) for worker in (bob, alice)]
    for _ in range(100_000 // (10 * links * links)):
        y: Any = (x + 1) * 2 - x
        y.add_(1)
        (w * y).sum().backward()
        y.unbind()
        w.grad = None
    del y
    assert [counts(worker) for worker in (bob, alice)] == start


@pytest.mark.in_process
def test_coming_and_going_leaves_nothing_but_bounded_memories(bob: VirtualWorker, alice: VirtualWorker) -> None:
    for number in range(5000):
        x = send(torch.ones(1), bob)
        x.tag(f"#{number}")
        x.move(alice).get()
    for worker in (bob, alice):
        fates = counts(worker).pop("_fates")
        assert fates <= 4096
        assert sum(counts(worker).values()) == fates
