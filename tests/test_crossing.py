"""Graphs that cross between workers: split learning, and gradients of gradients."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import nn

from syft import verbs
from syft.errors import ObjectGone
from syft.nn import get_module, move_module, send_module
from syft.workers import VirtualWorker

from .helpers import is_empty

pytestmark = pytest.mark.nodes

F = nn.functional


def the_data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 6, generator=generator), torch.randint(0, 3, (16,), generator=generator)


def the_halves() -> nn.Sequential:
    torch.manual_seed(0)
    lower = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
    return nn.Sequential(lower, nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)))


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for ours, theirs in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def train_here(model: nn.Module, steps: int) -> list[float]:
    x, y = the_data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("lower_at", ["alice", "here"])
@pytest.mark.parametrize("one_optimizer", [True, False])
def test_split_learning(lower_at: str, one_optimizer: bool, alice: VirtualWorker, bob: VirtualWorker) -> None:
    here = the_halves()
    there = copy.deepcopy(here)
    lower, upper = there
    expected = train_here(here, 5)

    send_module(upper, bob)
    x, y = the_data()
    y = verbs.send(y, bob)
    if lower_at == "alice":
        send_module(lower, alice)
        x = verbs.send(x, alice)
    groups = [there.parameters()] if one_optimizer else [lower.parameters(), upper.parameters()]
    optimizers = [torch.optim.Adam(group, lr=0.02) for group in groups]
    losses = []
    for _ in range(5):
        for optimizer in optimizers:
            optimizer.zero_grad()
        activations = lower(x)
        crossed = (
            activations.move(bob, requires_grad=True)
            if lower_at == "alice"
            else verbs.send(activations, bob, requires_grad=True)
        )
        loss = F.cross_entropy(upper(crossed), y)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        losses.append(loss.get().item())
    torch.testing.assert_close(losses, expected, atol=1e-6, rtol=1e-5)

    get_module(there)
    assert_same(there, here)
    del x, y, activations, crossed, loss
    gc.collect()
    assert is_empty(alice, bob)


def test_three_places_and_the_loss_at_home(alice: VirtualWorker, bob: VirtualWorker) -> None:
    here = the_halves()
    there = copy.deepcopy(here)
    lower, upper = there
    x, y = the_data()
    F.cross_entropy(here(x), y).backward()

    send_module(lower, alice)
    send_module(upper, bob)
    output = upper(lower(verbs.send(x, alice)).move(bob, requires_grad=True)).get(requires_grad=True)
    assert type(output) is torch.Tensor
    F.cross_entropy(output, y).backward()
    get_module(there)
    for ours, theirs in zip(there.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)


def test_halves_that_change_places(alice: VirtualWorker, bob: VirtualWorker) -> None:
    here = the_halves()
    there = copy.deepcopy(here)
    train_here(here, 4)
    lower, upper = there
    send_module(lower, alice)
    send_module(upper, bob)
    optimizer = torch.optim.Adam(there.parameters(), lr=0.02)
    at, then = alice, bob
    for _ in range(4):
        x, y = the_data()
        optimizer.zero_grad()
        activations = lower(verbs.send(x, at)).move(then, requires_grad=True)
        F.cross_entropy(upper(activations), verbs.send(y, then)).backward()
        optimizer.step()
        at, then = then, at
        move_module(lower, at)
        move_module(upper, then)
    get_module(there)
    assert_same(there, here)


def test_the_gradient_comes_back_where_the_value_came_from(alice: VirtualWorker, bob: VirtualWorker) -> None:
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    at_bob = verbs.send(x, bob, requires_grad=True)
    at_alice = (at_bob * 2).move(alice, requires_grad=True)
    home = (at_alice * at_alice).get(requires_grad=True)
    home.sum().backward()
    assert type(x.grad) is torch.Tensor
    assert torch.equal(x.grad, 8 * x.detach())

    pointer = verbs.send(torch.tensor([1.0, 2.0]), bob).requires_grad_()
    (pointer * 3).get(requires_grad=True).sum().backward()
    assert pointer.grad.location is bob
    assert pointer.grad.get().tolist() == [3.0, 3.0]


def test_without_requires_grad_the_graph_ends_at_the_crossing(bob: VirtualWorker) -> None:
    x = torch.ones(2, requires_grad=True)
    pointer = verbs.send(x * 1, bob)
    assert pointer.is_leaf
    (pointer * 2).sum().backward()
    assert x.grad is None
    assert pointer.grad.get().tolist() == [2.0, 2.0]


def test_a_value_used_twice_after_it_crossed(alice: VirtualWorker, bob: VirtualWorker) -> None:
    w = verbs.send(torch.tensor([1.0, -2.0]), alice).requires_grad_()
    crossed = (w * w).move(bob, requires_grad=True)
    (crossed.exp() + crossed * 3).sum().backward()
    values = torch.tensor([1.0, -2.0])
    torch.testing.assert_close(w.grad.get(), 2 * values * ((values * values).exp() + 3))


def test_gradients_of_gradients_across_workers(alice: VirtualWorker, bob: VirtualWorker) -> None:
    def penalty(x: torch.Tensor, cross: bool) -> torch.Tensor:
        h = x.sin()
        if cross:
            h = h.move(bob, requires_grad=True)
        out = (h**3).sum()
        if cross:
            out = out.get(requires_grad=True)
        (gradient,) = torch.autograd.grad(out, x, create_graph=True)
        return gradient.square().sum()

    x = torch.tensor([0.3, 1.1], requires_grad=True)
    pointer = verbs.send(x.detach(), alice).requires_grad_()
    expected, value = penalty(x, cross=False), penalty(pointer, cross=True)
    torch.testing.assert_close(value.detach().get(), expected.detach())
    expected.backward()
    value.backward()
    torch.testing.assert_close(pointer.grad.get(), x.grad)


def test_hooks_on_what_crossed(alice: VirtualWorker, bob: VirtualWorker) -> None:
    x = verbs.send(torch.ones(2), alice).requires_grad_()
    crossed = (x * 1).move(bob, requires_grad=True)
    seen = []
    crossed.register_hook(lambda g: seen.append(g.location))
    (crossed * 5).sum().backward()
    assert seen == [bob]
    assert x.grad.get().tolist() == [5.0, 5.0]


def test_a_backward_pass_through_a_worker_that_was_cleared(alice: VirtualWorker, bob: VirtualWorker) -> None:
    x = verbs.send(torch.ones(2), alice).requires_grad_()
    loss = (x * x).move(bob, requires_grad=True).sum()
    alice.clear_objects()

    def gradient() -> torch.Tensor:
        loss.backward()
        return x.grad.get()  # at a node, the error comes with the result at the latest

    with pytest.raises(ObjectGone):
        gradient()
