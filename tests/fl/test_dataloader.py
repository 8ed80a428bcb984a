import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from syft.errors import Misuse
from syft.fl import BaseDataset, FederatedDataLoader, FederatedDataset, federate
from syft.sending import send

DATA = torch.randn(23, 3, generator=torch.Generator().manual_seed(0))
TARGETS = torch.arange(23)


@pytest.fixture
def federated(bob, alice, charlie):
    """Of 11, 4 and 8 items."""
    parts = TARGETS.split([11, 4, 8])
    return federate(BaseDataset(DATA, TARGETS), (bob, alice, charlie), parts)


def home(batch):
    return tuple(t.get() for t in batch)


@pytest.mark.parametrize("drop_last", [False, True])
def test_batches_are_those_of_a_plain_loader_at_each_worker(federated, drop_last):
    loader = FederatedDataLoader(federated, batch_size=4, drop_last=drop_last)
    plain = [
        (name, batch)
        for name, part in zip(("bob", "alice", "charlie"), TARGETS.split([11, 4, 8]), strict=True)
        for batch in DataLoader(TensorDataset(DATA[part], TARGETS[part]), batch_size=4, drop_last=drop_last)
    ]
    batches = list(loader)
    assert len(loader) == len(batches) == len(plain) == (5 if drop_last else 6)
    for (data, targets), (name, (plain_data, plain_targets)) in zip(batches, plain, strict=True):
        assert data.location.id == targets.location.id == name
        assert torch.equal(data.get(), plain_data)
        assert torch.equal(targets.get(), plain_targets)


def test_default_batch_size_and_workers(federated):
    loader = FederatedDataLoader(federated)
    assert [len(targets) for _, targets in loader] == [8, 3, 4, 8]
    assert loader.workers == ["bob", "alice", "charlie"]


def test_shuffle_gives_every_item_once_with_its_target_in_a_new_order_each_epoch(federated):
    torch.manual_seed(5)
    loader = FederatedDataLoader(federated, batch_size=4, shuffle=True)
    epochs = []
    for _ in range(2):
        batches = [(data.location.id, *home((data, targets))) for data, targets in loader]
        for _, data, targets in batches:
            assert torch.equal(data, DATA[targets])
        assert torch.cat([t for name, _, t in batches if name == "alice"]).sort().values.tolist() == [11, 12, 13, 14]
        epochs.append(torch.cat([t for _, _, t in batches]).tolist())
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(23))
    assert list(range(23)) != epochs[0] != epochs[1]
    torch.manual_seed(5)
    assert torch.cat([targets.get() for _, targets in loader]).tolist() == epochs[0]


def test_iter_per_worker(federated, bob, alice, charlie):
    loader = FederatedDataLoader(federated, batch_size=4, iter_per_worker=True)
    steps = list(loader)
    assert len(loader) == len(steps) == 3
    assert [list(step) for step in steps] == [[bob, alice, charlie], [bob, charlie], [bob]]
    seen = [targets.get() for step in steps for _, targets in step.values()]
    assert torch.cat(seen).sort().values.tolist() == list(range(23))
    assert all(data.location is worker for step in steps for worker, (data, _) in step.items())


def test_num_iterators(federated, bob, alice, charlie):
    loader = FederatedDataLoader(federated, batch_size=4, num_iterators=2)
    steps = list(loader)
    assert [list(step) for step in steps] == [[bob, alice], [bob, charlie], [bob, charlie]]
    assert len(loader) == 3
    seen = [targets.get() for step in steps for _, targets in step.values()]
    assert torch.cat(seen).sort().values.tolist() == list(range(23))


@pytest.mark.parametrize("batch_size", [1, 3, 5, 30])
@pytest.mark.parametrize("num_iterators", [1, 2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.in_process
def test_len_is_the_number_of_steps(federated, batch_size, num_iterators, drop_last):
    loader = FederatedDataLoader(federated, batch_size, num_iterators=num_iterators, drop_last=drop_last)
    assert len(loader) == len(list(loader))


@pytest.mark.parametrize("shuffle", [False, True])
def test_transform_is_applied_to_batches(bob, shuffle):
    dataset = BaseDataset(DATA, TARGETS, transform=lambda x: x * 2).send(bob)
    for data, targets in FederatedDataLoader(FederatedDataset([dataset]), shuffle=shuffle):
        assert torch.equal(data.get(), DATA[targets.get()] * 2)


@pytest.mark.parametrize("shuffle", [False, True])
def test_batches_are_copies_and_are_freed(bob, shuffle):
    federated = FederatedDataset([BaseDataset(DATA, TARGETS).send(bob)])
    for batch in FederatedDataLoader(federated, shuffle=shuffle):
        batch[0].zero_()
        batch[1].zero_()
    assert torch.equal(federated["bob"].data.copy().get(), DATA)
    assert torch.equal(federated["bob"].targets.copy().get(), TARGETS)
    del batch
    assert bob.objects_count() == 2


@pytest.mark.parametrize("shuffle", [False, True])
def test_data_behind_a_chain_of_pointers(bob, alice, shuffle):
    dataset = BaseDataset(*(send(send(t, bob), alice) for t in (DATA, TARGETS)))
    seen = []
    for data, targets in FederatedDataLoader(FederatedDataset([dataset]), shuffle=shuffle):
        assert data.location is alice
        seen.append(targets.get().get())
        assert torch.equal(data.get().get(), DATA[seen[-1]])
    assert torch.cat(seen).sort().values.tolist() == list(range(23))


@pytest.mark.parametrize(("shuffle", "per_batch", "per_epoch"), [(False, 2, 0), (True, 3, 2)])
def test_a_batch_costs_few_messages(bob, monkeypatch, shuffle, per_batch, per_epoch):
    federated = FederatedDataset([BaseDataset(DATA, TARGETS).send(bob)])
    runs = []
    monkeypatch.setattr(bob, "run", lambda message, *call, carry=bob.run: runs.append(message) or carry(message, *call))
    batches = list(FederatedDataLoader(federated, batch_size=6, shuffle=shuffle))
    assert len(runs) == per_batch * len(batches) + per_epoch


def test_refuses(federated):
    for options, words in [
        ({"batch_size": 0}, "at least one item"),
        ({"num_iterators": 0}, "from 1 to the number of workers, 3"),
        ({"num_iterators": 4}, "from 1 to the number of workers, 3"),
    ]:
        with pytest.raises(Misuse, match=words):
            FederatedDataLoader(federated, **options)
    with pytest.raises(Misuse, match="not a TensorDataset"):
        FederatedDataLoader(TensorDataset(DATA))


def test_a_collate_function_is_refused(bob):
    federated = federate(BaseDataset(torch.ones(4, 2), torch.ones(4)), [bob])
    with pytest.raises(Misuse, match="transform"):
        FederatedDataLoader(federated, collate_fn=torch.stack)
