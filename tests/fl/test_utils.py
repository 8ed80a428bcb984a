import copy

import pytest
import torch
from torch import nn

from syft.errors import Misuse, NotCollocated
from syft.fl import BaseDataset, FederatedDataLoader, federate
from syft.fl.utils import (
    accuracy,
    add_model,
    aggregate,
    create_gaussian_mixture_toy_data,
    extract_batches_per_worker,
    federated_avg,
    scale_model,
)
from syft.nn import location_of, send_module
from syft.sending import send


def linear(weight, bias):
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weight]))
        model.bias.fill_(bias)
    return model


def numbers(model):
    return [*model.weight.detach().flatten().tolist(), model.bias.item()]


@pytest.fixture
def models():
    return {"bob": linear([1.0, 2.0], 4.0), "alice": linear([3.0, -2.0], 0.0)}


def test_average_by_hand(models):
    average = federated_avg(models)
    assert numbers(average) == [2.0, 0.0, 2.0]
    assert numbers(models["bob"]) == [1.0, 2.0, 4.0]
    assert numbers(models["alice"]) == [3.0, -2.0, 0.0]
    assert average.weight.requires_grad


def test_average_weighted_by_sizes(models):
    assert numbers(federated_avg(models, {"bob": 30, "alice": 10})) == [1.5, 1.0, 3.0]


def test_average_of_one(models):
    assert numbers(federated_avg({"bob": models["bob"]})) == [1.0, 2.0, 4.0]


def test_average_at_a_worker(models, bob):
    for model in models.values():
        send_module(model, bob)
    average = federated_avg(models, {"bob": 1, "alice": 3})
    assert location_of(average) is bob
    assert average.weight.detach().copy().get().tolist() == [[2.5, -1.0]]
    assert models["bob"].bias.detach().copy().get().tolist() == [4.0]


def test_buffers_are_averaged_if_they_are_floating():
    one, other = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    one(torch.randn(8, 2))
    average = federated_avg({1: one, 2: other})
    torch.testing.assert_close(average.running_mean, one.running_mean / 2)
    assert average.num_batches_tracked.item() == 1


def test_aggregate_fetches_only_the_average(models, bob, alice, charlie, monkeypatch):
    send_module(models["bob"], bob)
    send_module(models["alice"], alice)
    fetched = []
    for worker in (bob, alice, charlie):
        monkeypatch.setattr(
            worker, "get", lambda *a, fetch=worker.get, who=worker.id, **o: fetched.append(who) or fetch(*a, **o)
        )
    average = aggregate(models, charlie, {"bob": 3, "alice": 1})
    assert numbers(average) == [1.5, 1.0, 3.0]
    assert fetched == ["charlie", "charlie"]  # weight and bias of the average
    assert [location_of(m) for m in models.values()] == [charlie, charlie]
    assert not bob._objects
    assert not alice._objects
    models.clear()
    assert not charlie._objects


def test_add_and_scale_are_in_place(models):
    bob, alice = models["bob"], models["alice"]
    assert add_model(bob, alice) is bob
    assert numbers(bob) == [4.0, 0.0, 4.0]
    assert scale_model(bob, 0.25) is bob
    assert numbers(bob) == [1.0, 0.0, 1.0]
    assert numbers(alice) == [3.0, -2.0, 0.0]


def test_averages_that_make_no_sense(models, bob):
    with pytest.raises(Misuse, match="at least one model"):
        federated_avg({})
    for sizes in ({"bob": 1}, {"bob": -1, "alice": 2}, {"bob": 0, "alice": 0}):
        with pytest.raises(Misuse, match="sizes"):
            federated_avg(models, sizes)
    with pytest.raises(Misuse, match="only one of them has bias"):
        federated_avg({**models, "eve": nn.Linear(2, 1, bias=False)})
    wide = {**models, "eve": linear([1.0, 2.0], 0.0)}
    wide["eve"].bias = nn.Parameter(torch.ones(1, 1))
    with pytest.raises(Misuse, match=r"bias has shapes \[1\] and \[1, 1\]"):
        federated_avg(wide)
    with pytest.raises(Misuse, match=r"weight has shapes \[1, 2\] and \[1, 1\]"):
        add_model(models["bob"], nn.Linear(1, 1))
    assert numbers(models["bob"]) == [1.0, 2.0, 4.0]
    send_module(models["bob"], bob)
    with pytest.raises(NotCollocated):
        federated_avg(models)


def test_accuracy(bob):
    predictions = torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    target = torch.tensor([1, 0, 0, 0])
    assert accuracy(predictions, target) == 0.75
    assert accuracy(send(predictions, bob), send(target.reshape(4, 1), bob)) == 0.75


def test_toy_data():
    torch.manual_seed(0)
    points, classes = create_gaussian_mixture_toy_data(401)
    assert (points.shape, points.dtype) == ((400, 2), torch.float32)
    assert classes.tolist() == [0] * 200 + [1] * 200
    for half, mean in zip(points.chunk(2), (-5, 5), strict=True):
        torch.testing.assert_close(half.mean(0), torch.full((2,), float(mean)), atol=0.3, rtol=0)
        torch.testing.assert_close(half.std(0), torch.ones(2), atol=0.2, rtol=0)


@pytest.mark.parametrize("options", [{}, {"iter_per_worker": True}, {"num_iterators": 2}])
def test_extract_batches_per_worker(bob, alice, options):
    targets = torch.arange(5)
    federated = federate(BaseDataset(targets * 2.0, targets), (bob, alice))
    batches = extract_batches_per_worker(FederatedDataLoader(federated, batch_size=2, **options))
    assert list(batches) == [bob, alice]
    assert [[t.get().tolist() for _, t in batches[w]] for w in (bob, alice)] == [[[0, 1], [2]], [[3, 4]]]


def test_federated_training_is_that_of_the_same_steps_here(bob, alice, charlie):
    """Two rounds of FedAvg over three owners, against the same arithmetic on local models."""
    torch.manual_seed(0)
    data, targets = torch.randn(18, 4), torch.randint(3, (18,))
    start = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    owners = (bob, alice)
    loader = FederatedDataLoader(BaseDataset(data, targets).federate(owners), batch_size=3)

    remote = start
    local = copy.deepcopy(start)
    for _ in range(2):
        models = {w: send_module(copy.deepcopy(remote), w) for w in owners}
        for worker, batches in extract_batches_per_worker(loader).items():
            descend(models[worker], batches)
        remote = aggregate(models, charlie)
        twins = [copy.deepcopy(local) for _ in owners]
        for twin, part in zip(twins, torch.arange(18).chunk(2), strict=True):
            descend(twin, [(data[i], targets[i]) for i in part.split(3)])
        with torch.no_grad():
            for mean, *each in zip(local.parameters(), *(t.parameters() for t in twins), strict=True):
                mean.copy_(sum(each) / len(each))
    for a, b in zip(remote.parameters(), local.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def descend(model, batches):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for x, y in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
