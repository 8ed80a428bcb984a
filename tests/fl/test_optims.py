import copy

import pytest
import torch
from torch import nn

from syft.errors import WorkerNotFound
from syft.fl import Optims
from syft.nn import get_module, send_module
from syft.sending import send

KINDS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.9)),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.05),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.05, momentum=0.5),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "LBFGS": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
}


@pytest.fixture
def turns():
    """Whose data, in which order."""
    torch.manual_seed(0)
    data = {"bob": (torch.randn(6, 3), torch.randn(6, 1)), "alice": (torch.randn(6, 3), torch.randn(6, 1))}
    return [(name, *data[name]) for name in ("bob", "alice", "alice", "bob", "bob", "alice")]


def step(model, optimizer, x, y):
    def closure():
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("kind", KINDS)
def test_each_worker_has_an_optimizer_of_its_own_for_the_same_parameters(bob, alice, turns, kind):
    model = nn.Linear(3, 1)
    twin = copy.deepcopy(model)
    optims = Optims([bob, "alice"], KINDS[kind](model.parameters()))
    by_hand = {name: KINDS[kind](twin.parameters()) for name in ("bob", "alice")}
    for name, x, y in turns:
        step(model, optims.get_optim(name), x, y)
        step(twin, by_hand[name], x, y)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)
    assert optims.count() == 2


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "LBFGS"])
def test_training_in_turn_at_the_workers(bob, alice, turns, kind):
    model = nn.Linear(3, 1)
    twin = copy.deepcopy(model)
    optims = Optims(("bob", "alice"), KINDS[kind](model.parameters()))
    by_hand = {name: KINDS[kind](twin.parameters()) for name in ("bob", "alice")}
    for name, x, y in turns:
        worker = {"bob": bob, "alice": alice}[name]
        send_module(model, worker)
        step(model, optims.get_optim(worker), send(x, worker), send(y, worker))
        get_module(model)
        step(twin, by_hand[name], x, y)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_settings_are_copies_and_state_is_fresh():
    model = nn.Linear(3, 1)
    used = KINDS["Adam"]([{"params": [model.weight], "lr": 0.5}, {"params": [model.bias]}])
    step(model, used, torch.ones(1, 3), torch.ones(1, 1))
    one, other = (Optims(("a", "b"), used).get_optim(name) for name in ("a", "b"))
    assert not one.state
    assert [g["lr"] for g in one.param_groups] == [0.5, 0.05]
    one.param_groups[0]["lr"] = 9.0
    assert other.param_groups[0]["lr"] == used.param_groups[0]["lr"] == 0.5
    assert one.param_groups[0]["params"][0] is model.weight


def test_schedulers_of_the_original_do_not_reach_the_others():
    model = nn.Linear(3, 1)
    original = KINDS["SGD"](model.parameters())
    torch.optim.lr_scheduler.StepLR(original, 1)
    before = copy.deepcopy(model)
    twin = Optims(("a",), original).get_optim("a")
    step(model, twin, torch.ones(1, 3), torch.ones(1, 1))
    assert twin.state
    assert not original.state
    assert not torch.equal(model.weight, before.weight)


def test_unknown_worker():
    optims = Optims(("bob",), torch.optim.SGD(nn.Linear(1, 1).parameters(), 0.1))
    with pytest.raises(WorkerNotFound, match=r"'eve'.*bob"):
        optims.get_optim("eve")
