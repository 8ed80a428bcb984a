"""What the code of PySyft's first four tutorials does, with values that follow from the arithmetic."""

from __future__ import annotations

import copy

import pytest
import torch
from syft.federated.floptimizer import Optims
from torch import nn, optim

import syft as sy
from syft.workers import BaseWorker

from ..helpers import held, is_empty, soon

pytestmark = pytest.mark.nodes


@pytest.fixture(autouse=True)
def hooked(hook: sy.TorchHook) -> None:
    torch.manual_seed(0)


# ---- 1: remote tensors and autograd ----


def test_1_remote_tensors(bob: BaseWorker) -> None:
    x, y = torch.tensor([1, 2, 3, 4, 5]), torch.tensor([1, 1, 1, 1, 1])
    x_ptr, y_ptr = x.send(bob), y.send(bob)
    assert [v.tolist() for v in bob._objects.values()] == [[1, 2, 3, 4, 5], [1, 1, 1, 1, 1]]
    assert bob == x_ptr.location
    assert bob._objects[x_ptr.id_at_location].tolist() == [1, 2, 3, 4, 5]
    assert x_ptr.owner == sy.local_worker
    z = x_ptr + y_ptr
    assert isinstance(z, sy.PointerTensor)
    assert len(bob._objects) == 3
    assert z.get().tolist() == [2, 3, 4, 5, 6]
    assert torch.add(x_ptr, y_ptr).get().tolist() == [2, 3, 4, 5, 6]
    assert (x_ptr * 3).get().tolist() == [3, 6, 9, 12, 15]
    assert x_ptr.get().tolist() == [1, 2, 3, 4, 5]
    assert y_ptr.get().tolist() == [1, 1, 1, 1, 1]
    assert bob._objects == {}


def test_1_remote_autograd(bob: BaseWorker) -> None:
    x = torch.tensor([1, 2, 3, 4, 5.0], requires_grad=True).send(bob)
    y = torch.tensor([1, 1, 1, 1, 1.0], requires_grad=True).send(bob)
    assert x.grad is None
    z = (x + y * 2).sum()
    z.backward()
    assert isinstance(x.grad, sy.PointerTensor)
    x, y = x.get(), y.get()
    assert x.requires_grad
    assert x.tolist() == [1, 2, 3, 4, 5]
    assert x.grad.tolist() == [1, 1, 1, 1, 1]
    assert y.grad.tolist() == [2, 2, 2, 2, 2]
    del z
    assert bob._objects == {}


# ---- 2: federated learning, the model goes to the data ----

DATA = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1.0]], requires_grad=True)
TARGET = torch.tensor([[0], [0], [1], [1.0]], requires_grad=True)


def test_2_the_model_goes_round_with_an_optimizer_for_each_worker(bob: BaseWorker, alice: BaseWorker) -> None:
    datasets = [
        (DATA[0:2].send(bob), TARGET[0:2].send(bob)),
        (DATA[2:].send(alice), TARGET[2:].send(alice)),
    ]  # fmt: skip
    model = nn.Linear(2, 1)
    twin = copy.deepcopy(model)
    optims = Optims(["bob", "alice"], optim=optim.Adam(params=model.parameters(), lr=0.1))
    losses = []
    for _ in range(10):
        for data, target in datasets:
            model.send(data.location)
            opt = optims.get_optim(data.location.id)
            opt.zero_grad()
            pred = model(data)
            loss = ((pred - target) ** 2).sum()
            loss.backward()
            opt.step()
            model.get()
            losses.append(loss.get().data.item())
    assert losses == pytest.approx(_trained_here(twin), rel=1e-5)
    torch.testing.assert_close(model.state_dict(), twin.state_dict())
    assert losses[-1] < losses[0]
    del loss, pred
    assert (bob.objects_count(), alice.objects_count()) == (4, 4)  # data and targets, and the gradient of each


def _trained_here(model: nn.Linear) -> list[float]:
    parts = [(DATA[:2].detach(), TARGET[:2].detach()), (DATA[2:].detach(), TARGET[2:].detach())]
    optimizers = [optim.Adam(model.parameters(), lr=0.1) for _ in parts]
    losses = []
    for _ in range(10):
        for (data, target), opt in zip(parts, optimizers, strict=True):
            opt.zero_grad()
            loss = ((model(data) - target) ** 2).sum()
            loss.backward()
            opt.step()
            losses.append(loss.item())
    return losses


# ---- 3: chains and moves, beyond the seed document ----


def test_3_a_chain_comes_home_link_by_link(bob: BaseWorker, alice: BaseWorker) -> None:
    p2p2x = torch.tensor([1, 2, 3, 4, 5]).send(bob).send(alice)
    y = p2p2x + p2p2x
    assert soon(lambda: [v.tolist() for v in held(bob).values()] == [[1, 2, 3, 4, 5], [2, 4, 6, 8, 10]])
    assert [v.location for v in held(alice).values()] == [bob, bob]
    assert y.get().get().tolist() == [2, 4, 6, 8, 10]
    assert soon(lambda: (bob.objects_count(), alice.objects_count()) == (1, 1))
    del p2p2x
    assert is_empty(bob, alice)


def test_3_remote_send_and_remote_get(bob: BaseWorker, alice: BaseWorker) -> None:
    x = torch.tensor([1, 2, 3]).send(bob)
    assert x.remote_send(alice) is x
    assert [v.tolist() for v in held(alice).values()] == [[1, 2, 3]]
    assert [v.location for v in held(bob).values()] == [alice]
    assert x.remote_get() is x
    assert is_empty(alice)
    assert [v.tolist() for v in held(bob).values()] == [[1, 2, 3]]
    assert x.get().tolist() == [1, 2, 3]


# ---- 4: a trusted aggregator averages the models ----


def test_4_only_the_average_is_seen(bob: BaseWorker, alice: BaseWorker, charlie: BaseWorker) -> None:
    secure_worker = charlie
    bobs_data, bobs_target = DATA.detach()[0:2].send(bob), TARGET.detach()[0:2].send(bob)
    alices_data, alices_target = DATA.detach()[2:].send(alice), TARGET.detach()[2:].send(alice)
    model = nn.Linear(2, 1)
    twin = copy.deepcopy(model)

    for _ in range(5):
        bobs_model, alices_model = model.copy().send(bob), model.copy().send(alice)
        bobs_opt = optim.SGD(params=bobs_model.parameters(), lr=0.1)
        alices_opt = optim.SGD(params=alices_model.parameters(), lr=0.1)
        for _ in range(3):
            bobs_opt.zero_grad()
            bobs_loss = ((bobs_model(bobs_data) - bobs_target) ** 2).sum()
            bobs_loss.backward()
            bobs_opt.step()
            assert bobs_loss.get().data.item() >= 0

            alices_opt.zero_grad()
            alices_loss = ((alices_model(alices_data) - alices_target) ** 2).sum()
            alices_loss.backward()
            alices_opt.step()
            assert alices_loss.get().data.item() >= 0
        alices_model.move(secure_worker)
        bobs_model.move(secure_worker)
        assert (alices_model.location, bobs_model.location) == (secure_worker, secure_worker)
        with torch.no_grad():
            model.weight.set_(((alices_model.weight.data + bobs_model.weight.data) / 2).get())
            model.bias.set_(((alices_model.bias.data + bobs_model.bias.data) / 2).get())

    torch.testing.assert_close(model.state_dict(), _averaged_here(twin).state_dict())
    del bobs_model, alices_model, bobs_opt, alices_opt, bobs_loss, alices_loss
    assert (bob.objects_count(), alice.objects_count(), secure_worker.objects_count()) == (2, 2, 0)


def _averaged_here(model: nn.Linear) -> nn.Linear:
    for _ in range(5):
        models = [copy.deepcopy(model) for _ in range(2)]
        for one, rows in zip(models, (slice(0, 2), slice(2, 4)), strict=True):
            opt = optim.SGD(one.parameters(), lr=0.1)
            for _ in range(3):
                opt.zero_grad()
                ((one(DATA.detach()[rows]) - TARGET.detach()[rows]) ** 2).sum().backward()
                opt.step()
        with torch.no_grad():
            model.weight.copy_((models[0].weight + models[1].weight) / 2)
            model.bias.copy_((models[0].bias + models[1].bias) / 2)
    return model
