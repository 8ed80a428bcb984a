"""What the code of PySyft's tutorials five to seven does, on data that ships with scikit-learn and mlxtend."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.nn import functional as F  # noqa: N812  as the tutorial has it

import syft as sy
from syft.errors import Misuse
from syft.sandbox import DATA_SETS, WORKERS


@pytest.fixture
def sandbox() -> dict[str, Any]:
    names: dict[str, Any] = {}
    sy.create_sandbox(names, verbose=False)
    return names


# ---- 5: a sandbox to search in ----


def test_5_the_sandbox_has_workers_and_data(sandbox: dict[str, Any]) -> None:
    assert [worker.id for worker in sandbox["workers"]] == list(WORKERS)
    assert all(sandbox[name] is sy.get_worker(name) for name in WORKERS)
    assert sandbox["hook"] is sy.hook
    assert sandbox["grid"].workers == sandbox["workers"]
    assert [worker.objects_count() for worker in sandbox["workers"]] == [2 * len(DATA_SETS)] * len(WORKERS)


def test_5_tags_descriptions_and_search(sandbox: dict[str, Any]) -> None:
    bob, alice = sandbox["bob"], sandbox["alice"]
    x = torch.tensor([1, 2, 3, 4, 5]).tag("#fun", "#diabetes").describe("The input datapoints.")
    y = torch.tensor([1, 1, 1, 1, 1]).tag("#fun").describe("The second.")
    x_ptr, y_ptr = x.send(bob), y.send(alice)
    results = bob.search(["#diabetes", "#fun"])
    assert [r.id_at_location for r in results] == [x_ptr.id_at_location]
    assert results[0].description == "The input datapoints."
    assert results[0].tags == {"#fun", "#diabetes"}
    grid = sy.PrivateGridNetwork(*sandbox["workers"])
    assert {id: len(found) for id, found in grid.search("#fun").items()} == {"bob": 1, "alice": 1}
    assert grid.search("#fun")["alice"][0].copy().get().tolist() == y_ptr.copy().get().tolist() == [1] * 5
    assert grid.search("datapoints", "#fun").keys() == {"bob"}


def test_5_every_row_is_at_one_worker_beside_its_target(sandbox: dict[str, Any]) -> None:
    found, targets = (sandbox["grid"].search("#diabetes", kind) for kind in ("#data", "#target"))
    assert list(found) == list(targets) == list(WORKERS)
    loaded = importlib.import_module("sklearn.datasets").load_diabetes()
    rows = torch.tensor(loaded.data).float().tolist()
    pairs = {tuple(row): y for row, y in zip(rows, loaded.target.tolist(), strict=True)}
    seen = {}
    for name in WORKERS:
        rows, ys = found[name][0].copy().get(), targets[name][0].copy().get()
        assert (rows.dtype, rows.shape[1]) == (torch.float32, 10)
        seen |= {tuple(row): y for row, y in zip(rows.tolist(), ys.tolist(), strict=True)}
    assert seen == pairs
    assert sandbox["bob"].search("#diabetes", "baseline")[0].description == loaded.DESCR


def test_5_boston_is_what_the_tutorials_search_for(sandbox: dict[str, Any]) -> None:
    found, targets = (sandbox["grid"].search("#boston", kind) for kind in ("#data", "#target"))
    rows = torch.cat([found[name][0].copy().get() for name in WORKERS])
    prices = torch.cat([targets[name][0].copy().get() for name in WORKERS])
    assert (rows.shape, rows.dtype, prices.shape) == ((506, 13), torch.float32, (506,))
    features, medv = importlib.import_module("mlxtend.data").boston_housing_data()
    expected = {tuple(row): y for row, y in zip(torch.tensor(features).float().tolist(), medv.tolist(), strict=True)}
    assert {tuple(row): round(y, 4) for row, y in zip(rows.tolist(), prices.tolist(), strict=True)} == expected
    assert "removed it for an ethical problem" in found["bob"][0].description
    assert sandbox["grid"].search("#housing", "#data").keys() == found.keys()


def test_5_a_second_sandbox_adds_nothing(sandbox: dict[str, Any]) -> None:
    mine = torch.ones(2).send(sandbox["bob"])
    again: dict[str, Any] = {}
    sy.create_sandbox(again, verbose=False)
    assert again["bob"] is sandbox["bob"]
    assert again["bob"].objects_count() == 2 * len(DATA_SETS) + 1
    assert mine.get().tolist() == [1.0, 1.0]


def test_5_the_sandbox_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    sy.create_sandbox({}, download_data=False)
    assert "bob holds 0 tensors" in capsys.readouterr().out
    sy.create_sandbox({}, verbose=False, download_data=False)
    assert capsys.readouterr().out == ""


def test_5_make_hook_loads_no_data() -> None:
    names: dict[str, Any] = {}
    sy.make_hook(names)
    assert set(names) == {"hook", "workers", "grid", *WORKERS}
    assert names["theo"].objects_count() == 0


@pytest.mark.parametrize("module", ["sklearn.datasets", "mlxtend.data"])
def test_5_without_the_data_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(Misuse, match=r"pip install .*\[sandbox\]"):
        sy.create_sandbox({}, verbose=False)


# ---- 6: a federated CNN ----


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, 1)
        self.conv2 = nn.Conv2d(16, 32, 2, 1)
        self.fc1 = nn.Linear(32, 32)
        self.fc2 = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.conv1(x))
        x = F.max_pool2d(x, 2, 2)
        x = F.relu(self.conv2(x))
        x = F.max_pool2d(x, 2, 2)
        x = x.view(-1, 32)
        x = F.relu(self.fc1(x))
        return F.log_softmax(self.fc2(x), dim=1)


def test_6_a_cnn_learns_digits_it_never_sees(
    hook: sy.TorchHook, bob: sy.VirtualWorker, alice: sy.VirtualWorker
) -> None:
    torch.manual_seed(1)
    loaded = importlib.import_module("sklearn.datasets").load_digits()
    images, labels = torch.tensor(loaded.images).float().unsqueeze(1) / 16, torch.tensor(loaded.target)
    train = torch.utils.data.TensorDataset(images[:1200], labels[:1200])
    federated_train_loader = sy.FederatedDataLoader(train.federate((bob, alice)), batch_size=50, shuffle=True)
    assert len(federated_train_loader) == 24
    device = torch.device("cpu")
    model = Net().to(device)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen = []
    for _ in range(4):
        model.train()
        for data, target in federated_train_loader:
            seen.append(data.location.id)
            model.send(data.location)
            data, target = data.to(device), target.to(device)
            optimizer.zero_grad()
            output = model(data)
            loss = F.nll_loss(output, target)
            loss.backward()
            optimizer.step()
            model.get()
            loss = loss.get()
    assert (seen[:24].count("bob"), seen[:24].count("alice")) == (12, 12)
    model.eval()
    with torch.no_grad():
        correct = model(images[1200:]).argmax(dim=1).eq(labels[1200:]).float().mean().item()
    assert correct > 0.75
    del data, target, output, loss
    assert (bob.objects_count(), alice.objects_count()) == (2, 2)


# ---- 7: a federation of what a search finds ----


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad")  # the tutorial's float(loss)
def test_7_a_federation_of_what_the_grid_finds(sandbox: dict[str, Any]) -> None:
    torch.manual_seed(0)
    grid = sandbox["grid"]
    boston_data = grid.search("#boston", "#data")
    boston_target = grid.search("#boston", "#target")
    n_features = boston_data["alice"][0].shape[1]
    assert n_features == 13
    model = nn.Linear(n_features, 1)
    datasets = []
    for worker in boston_data:
        datasets.append(sy.BaseDataset(boston_data[worker][0], boston_target[worker][0]))  # noqa: PERF401
    dataset = sy.FederatedDataset(datasets)
    assert dataset.workers == list(WORKERS)
    assert len(dataset) == 506
    optimizers = {worker: optim.Adam(params=model.parameters(), lr=1e-2) for worker in dataset.workers}
    train_loader = sy.FederatedDataLoader(dataset, batch_size=32, shuffle=False, drop_last=False)
    assert len(train_loader) == 6 * 3
    epochs = []
    for _ in range(15):
        loss_accum = 0.0
        for data, target in train_loader:
            model.send(data.location)
            optimizer = optimizers[data.location.id]
            optimizer.zero_grad()
            pred = model(data)
            loss = ((pred.view(-1) - target) ** 2).mean()
            loss.backward()
            optimizer.step()
            model.get()
            loss = loss.get()
            loss_accum += float(loss)
        epochs.append(loss_accum / len(train_loader))
    variance = torch.cat([boston_target[name][0].copy().get() for name in WORKERS]).var().item()
    assert epochs[-1] < 1.5 * variance < 2.5 * variance < epochs[0]
