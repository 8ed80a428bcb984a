"""Every optimizer of torch gives the local result, wherever its model is and was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable

import pytest
import torch
from torch import nn, optim

from syft import verbs
from syft.nn import _known
from syft.pointer import PointerTensor
from syft.workers import BaseWorker, VirtualWorker

pytestmark = pytest.mark.nodes

Make = Callable[[Iterable[nn.Parameter]], optim.Optimizer]

OPTIMIZERS: dict[str, Make] = {
    "Adadelta": lambda p: optim.Adadelta(p, lr=0.5),
    "Adafactor": lambda p: optim.Adafactor(p, lr=0.05),
    "Adagrad": lambda p: optim.Adagrad(p, lr=0.1, lr_decay=0.01, initial_accumulator_value=0.1),
    "Adam": lambda p: optim.Adam(p, lr=0.05),
    "Adam amsgrad": lambda p: optim.Adam(p, lr=0.05, amsgrad=True, weight_decay=0.01),
    "Adam foreach": lambda p: optim.Adam(p, lr=0.05, foreach=True),
    "AdamW": lambda p: optim.AdamW(p, lr=0.05),
    "AdamW foreach": lambda p: optim.AdamW(p, lr=0.05, foreach=True),
    "Adamax": lambda p: optim.Adamax(p, lr=0.05),
    "ASGD": lambda p: optim.ASGD(p, lr=0.05, t0=2),
    "LBFGS": lambda p: optim.LBFGS(p, lr=0.5, max_iter=3),
    "LBFGS strong Wolfe": lambda p: optim.LBFGS(p, lr=0.5, max_iter=3, line_search_fn="strong_wolfe"),
    "Muon": lambda p: optim.Muon([q for q in p if q.dim() == 2], lr=0.05),
    "NAdam": lambda p: optim.NAdam(p, lr=0.05),
    "RAdam": lambda p: optim.RAdam(p, lr=0.05),
    "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, centered=True, momentum=0.5),
    "RMSprop foreach": lambda p: optim.RMSprop(p, lr=0.01, foreach=True),
    "Rprop": lambda p: optim.Rprop(p, lr=0.01),
    "SGD": lambda p: optim.SGD(p, lr=0.1),
    "SGD momentum": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.1),
    "SGD Nesterov": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
    "SGD momentum foreach": lambda p: optim.SGD(p, lr=0.1, momentum=0.9, foreach=True),
    "two groups": lambda p: optim.SGD([{"params": [q], "lr": 0.1 * i} for i, q in enumerate(p)], momentum=0.9),
}
#: Where the model makes its steps: away and back, and by a move; None is here.
JOURNEY = ("bob", None, "alice", "bob", "bob", None)


@pytest.fixture
def workers(bob: BaseWorker, alice: BaseWorker) -> dict[str, BaseWorker]:
    return {"bob": bob, "alice": alice}


def the_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))


def the_data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(12, 5, generator=generator)
    return x, x.sum(1, keepdim=True).sin()


def one_step(model: nn.Module, optimizer: optim.Optimizer, worker: BaseWorker | None) -> torch.Tensor:
    x, y = (t if worker is None else verbs.send(t, worker) for t in the_data())

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        return loss

    return optimizer.step(closure)


def go(model: nn.Module, worker: BaseWorker | None) -> None:
    if worker is None:
        verbs.get(model)
    elif verbs.location(model) is None:
        verbs.send(model, worker)
    else:
        verbs.move(model, worker)


def tensors_of(state: object) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        state = list(state.values())
    return [t for value in state for t in tensors_of(value)] if isinstance(state, list) else []


def assert_same(one: object, other: object) -> None:
    ours, theirs = tensors_of(one), tensors_of(other)
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_every_optimizer_of_torch_is_here() -> None:
    tested = {name.split()[0] for name in OPTIMIZERS} | {"SparseAdam"}
    optimizers = {name for name in dir(optim) if isinstance(getattr(optim, name), type)} - {"Optimizer"}
    assert optimizers <= tested


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_model_that_stays_at_a_worker(name: str, workers: dict[str, BaseWorker]) -> None:
    here, there = the_model(), the_model()
    local, remote = OPTIMIZERS[name](here.parameters()), OPTIMIZERS[name](there.parameters())
    verbs.send(there, workers["bob"])
    for _ in range(4):
        expected = one_step(here, local, None)
        loss = one_step(there, remote, workers["bob"])
        torch.testing.assert_close(loss.get().detach(), expected.detach(), atol=1e-6, rtol=1e-5)
    verbs.get(there)
    assert_same(there.state_dict(), here.state_dict())
    assert_same(remote.state_dict()["state"], local.state_dict()["state"])
    assert workers["bob"]._objects == {}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_model_that_changes_worker_between_steps(name: str, workers: dict[str, BaseWorker]) -> None:
    here, there = the_model(), the_model()
    local, remote = OPTIMIZERS[name](here.parameters()), OPTIMIZERS[name](there.parameters())
    for place in JOURNEY:
        worker = workers.get(place or "")
        go(there, worker)
        one_step(here, local, None)
        one_step(there, remote, worker)
    assert_same(there.state_dict(), here.state_dict())
    assert_same(remote.state_dict()["state"], local.state_dict()["state"])
    assert workers["bob"]._objects == {}
    assert workers["alice"]._objects == {}


def test_the_state_is_where_its_parameter_is(workers: dict[str, BaseWorker]) -> None:
    bob, alice = workers.values()
    model = the_model()
    optimizer = optim.Adam(model.parameters())
    one_step(model, optimizer, None)
    for go_there, where in (
        (lambda: verbs.send(model, bob), bob),
        (lambda: verbs.move(model, alice), alice),
    ):
        go_there()
        for state in optimizer.state.values():
            assert state["exp_avg"].location is where
            assert state["exp_avg_sq"].location is where
            assert type(state["step"]) is torch.Tensor
    assert bob._objects == {}
    verbs.get(model)
    assert alice._objects == {}
    assert all(type(t) is torch.Tensor for t in tensors_of(optimizer.state_dict()["state"]))


@pytest.mark.parametrize("first", ["bob", None])
def test_state_that_is_loaded_goes_where_its_parameter_is(first: str | None, workers: dict[str, BaseWorker]) -> None:
    here, there = the_model(), the_model()
    local, remote = optim.Adam(here.parameters()), optim.Adam(there.parameters())
    one_step(here, local, None)
    one_step(here, local, None)
    verbs.send(there, workers["bob"])
    if first is not None:
        one_step(there, remote, workers["bob"])
    there.load_state_dict(here.state_dict())
    remote.load_state_dict(copy.deepcopy(local.state_dict()))
    one_step(there, remote, workers["bob"])
    one_step(here, local, None)
    verbs.get(there)
    assert_same(there.state_dict(), here.state_dict())
    assert_same(remote.state_dict()["state"], local.state_dict()["state"])


def test_state_of_a_chain_is_put_at_its_far_end(workers: dict[str, BaseWorker]) -> None:
    bob, alice = workers.values()
    here, there = the_model(), the_model()
    local, remote = optim.Adagrad(here.parameters()), optim.Adagrad(there.parameters())
    verbs.send(verbs.send(there, bob), alice)
    x, y = (verbs.send(verbs.send(t, bob), alice) for t in the_data())
    nn.functional.mse_loss(there(x), y).backward()
    remote.step()
    one_step(here, local, None)
    verbs.get(verbs.get(there))
    assert_same(there.state_dict(), here.state_dict())
    assert_same(remote.state_dict()["state"], local.state_dict()["state"])


def test_sparse_gradients_with_sparse_adam(workers: dict[str, BaseWorker]) -> None:
    words = torch.tensor([1, 3, 3, 0])
    results = []
    for journey in ((None,) * 6, JOURNEY):
        torch.manual_seed(0)
        model = nn.Embedding(6, 3, sparse=True)
        optimizer = optim.SparseAdam(model.parameters(), lr=0.1)
        at = None
        for place in journey:
            if place != at:
                go(model, workers.get(place or ""))
                at = place
            optimizer.zero_grad()
            model(words if place is None else verbs.send(words, workers[place])).square().sum().backward()
            optimizer.step()
        results.append((model.state_dict(), optimizer.state_dict()["state"]))
    assert_same(results[1][0], results[0][0])
    assert_same(results[1][1], results[0][1])


def test_a_scheduler(workers: dict[str, BaseWorker]) -> None:
    here, there = the_model(), the_model()
    local, remote = (
        optim.SGD(here.parameters(), lr=0.1, momentum=0.9),
        optim.SGD(there.parameters(), lr=0.1, momentum=0.9),
    )
    plans = [optim.lr_scheduler.OneCycleLR(o, max_lr=0.3, total_steps=6) for o in (local, remote)]
    verbs.send(there, workers["bob"])
    for _ in range(4):
        one_step(here, local, None)
        one_step(there, remote, workers["bob"])
        for plan in plans:
            plan.step()
    verbs.get(there)
    assert_same(there.state_dict(), here.state_dict())


def test_optimizers_are_not_kept_alive() -> None:
    model = the_model()
    optimizer = optim.SGD(model.parameters())
    one_step(model, optimizer, None)
    assert optimizer in _known
    before = len(_known)
    del optimizer
    assert len(_known) < before


def test_an_error_half_way_leaves_the_state_as_it_was(workers: dict[str, BaseWorker]) -> None:
    model = the_model()
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    one_step(model, optimizer, None)
    before = copy.deepcopy(optimizer.state_dict())
    mallory = VirtualWorker(id="mallory")
    mallory.shut()
    with pytest.raises(ConnectionError):
        verbs.send(model, mallory)
    assert_same(optimizer.state_dict(), before)
    assert not any(isinstance(t, PointerTensor) for t in tensors_of(optimizer.state_dict()["state"]))
