import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from syft.errors import Misuse, NotCollocated, ObjectGone
from syft.fl import BaseDataset, FederatedDataset, dirichlet_split, federate
from syft.pointer import PointerTensor
from syft.sending import send

DATA = torch.arange(20.0).reshape(10, 2)
TARGETS = torch.arange(10)


@pytest.fixture
def dataset():
    return BaseDataset(DATA.clone(), TARGETS.clone())


def test_items_and_batches(dataset):
    assert len(dataset) == 10
    data, target = dataset[3]
    assert data.tolist() == [6.0, 7.0]
    assert target.item() == 3
    data, targets = dataset[2:4]
    assert data.tolist() == [[4.0, 5.0], [6.0, 7.0]]
    assert targets.tolist() == [2, 3]


def test_transform_is_applied_to_data_only():
    dataset = BaseDataset(DATA, TARGETS, transform=lambda x: x + 100)
    assert dataset[0][0].tolist() == [100.0, 101.0]
    assert dataset[0][1].item() == 0
    dataset.transform(lambda x: -x)
    assert dataset[1][0].tolist() == [-2.0, -3.0]
    with pytest.raises(Misuse, match="function"):
        dataset.transform(3)


def test_send_and_get(dataset, bob):
    away = dataset.send(bob)
    assert away.location is bob
    assert dataset.location is None
    assert bob.objects_count() == 2
    data, target = away[3]
    assert isinstance(data, PointerTensor)
    assert data.get().tolist() == [6.0, 7.0]
    assert target.get().item() == 3
    assert len(away) == 10
    home = away.get()
    assert home is away
    assert torch.equal(home.data, DATA)
    assert torch.equal(home.targets, TARGETS)
    del data, target
    assert bob.objects_count() == 0
    with pytest.raises(Misuse, match="is here"):
        home.get()


def test_of_pointers(bob):
    dataset = BaseDataset(send(DATA, bob), send(TARGETS, bob), transform=lambda x: x * 2)
    assert dataset.location is bob
    assert dataset[1][0].get().tolist() == [4.0, 6.0]
    assert repr(dataset) == "<BaseDataset of 10 items at bob>"


def test_data_and_targets_belong_together(bob, alice):
    with pytest.raises(Misuse, match="first dimension"):
        BaseDataset(DATA, TARGETS[:9])
    with pytest.raises(Misuse, match="first dimension"):
        BaseDataset(DATA, torch.tensor(1))
    with pytest.raises(NotCollocated, match="at bob and at alice"):
        BaseDataset(send(DATA, bob), send(TARGETS, alice))
    with pytest.raises(NotCollocated, match="here and at alice"):
        BaseDataset(DATA, send(TARGETS, alice))


def test_labels_before_and_after_sending(dataset, bob):
    away = dataset.tag("#digits").describe("small numbers").send(bob)
    assert len(bob.search("#digits", "numbers")) == 2
    away.tag("#first").describe("other words")
    assert len(bob.search("#digits", "#first", "words")) == 2


class Squares(Dataset):
    """Not a dataset of tensors: items are made when asked for, targets are numbers."""

    def __init__(self, length=7):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return torch.full((2,), float(index**2)), index


@pytest.mark.parametrize(
    "make", [Squares, lambda: TensorDataset(*federated_squares()), lambda: BaseDataset(*federated_squares())]
)
def test_federate_splits_equally_and_in_order(bob, alice, charlie, make):
    federated = federate(make(), (bob, alice, charlie))
    assert federated.workers == ["bob", "alice", "charlie"]
    assert [len(federated[w]) for w in (bob, alice, charlie)] == [3, 2, 2]
    assert len(federated) == 7
    targets = [federated[w].targets.copy().get().tolist() for w in federated.workers]
    assert targets == [[0, 1, 2], [3, 4], [5, 6]]
    assert federated["alice"].data.copy().get().tolist() == [[9.0, 9.0], [16.0, 16.0]]


def federated_squares():
    items = [Squares()[i] for i in range(7)]
    return torch.stack([d for d, _ in items]), torch.tensor([t for _, t in items])


def test_federate_as_told(bob, alice):
    parts = [torch.tensor([6, 0]), torch.tensor([1, 2, 3, 4, 5])]
    for dataset in (Squares(), BaseDataset(*federated_squares())):
        federated = federate(dataset, (bob, alice), parts)
        assert [d.targets.copy().get().tolist() for d in federated] == [p.tolist() for p in parts]


def test_federate_keeps_the_transform(bob, alice, dataset):
    dataset.transform(lambda x: x + 1)
    federated = dataset.federate((bob, alice))
    assert federated["bob"][0][0].get().tolist() == [1.0, 2.0]
    assert federated["bob"].data.copy().get().tolist()[0] == [0.0, 1.0]


def test_federate_refuses_what_leaves_somebody_with_nothing(bob, alice, charlie):
    with pytest.raises(Misuse, match="nothing is left for charlie"):
        federate(Squares(2), (bob, alice, charlie))
    with pytest.raises(Misuse, match="1 parts for 2 workers"):
        federate(Squares(), (bob, alice), [torch.tensor([1])])
    with pytest.raises(Misuse, match="none is named"):
        federate(Squares(), ())
    with pytest.raises(Misuse, match="pairs"):
        federate(TensorDataset(DATA), (bob, alice))
    assert not bob._objects


def test_federation(bob, alice, dataset):
    federated = dataset.federate((bob, alice))
    assert [d.location for d in federated] == [bob, alice]
    assert repr(federated) == "FederatedDataset\n    Distributed across: bob, alice\n    Number of datapoints: 10"
    with pytest.raises(Misuse, match="no dataset of 'eve'"):
        federated["eve"]


def test_a_member_is_taken_out_and_home_only_by_its_federation(bob, alice, dataset):
    federated = dataset.federate((bob, alice))
    with pytest.raises(ValueError, match=r"federated\.get_dataset"):
        federated["bob"].get()
    home = federated.get_dataset("bob")
    assert torch.equal(home.data, DATA[:5])
    assert federated.workers == ["alice"]
    assert len(federated) == 5
    assert not bob._objects


def test_a_member_that_cannot_be_taken_stays(bob, alice, dataset):
    federated = dataset.federate((bob, alice))
    bob.clear_objects()
    with pytest.raises(ObjectGone):
        federated.get_dataset(bob)
    assert federated.workers == ["bob", "alice"]
    with pytest.raises(Misuse, match="part of"):
        federated["bob"].get()


def test_federations_that_make_no_sense(bob, dataset):
    with pytest.raises(Misuse, match="at least one"):
        FederatedDataset([])
    with pytest.raises(Misuse, match="this one is here"):
        FederatedDataset([dataset])
    with pytest.raises(Misuse, match="same worker"):
        FederatedDataset([dataset.send(bob), dataset.send(bob)])


# ---- dirichlet_split ----

LABELS = torch.arange(10).repeat_interleave(100)


@pytest.mark.parametrize("alpha", [1e-6, 0.01, 0.5, 1.0, 100.0])
@pytest.mark.parametrize("owners", [1, 4, 7, 1000])
@pytest.mark.in_process
def test_every_index_is_dealt_once_and_evenly(alpha, owners):
    parts = dirichlet_split(LABELS, owners, alpha, seed=3)
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(1000))
    sizes = [len(p) for p in parts]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_same_seed_same_split():
    one, same, other = (dirichlet_split(LABELS, 4, 0.5, seed=s) for s in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_alpha_says_how_much_owners_differ():
    def share_of_largest_class(alpha):
        parts = dirichlet_split(LABELS, 5, alpha, seed=0)
        return sum((LABELS[p].bincount().max() / len(p)).item() for p in parts) / len(parts)

    assert share_of_largest_class(1e4) < 0.2
    assert share_of_largest_class(0.01) > 0.4  # of 200 items, 100 are all there are of one class
    # per-owner mixtures are close to the whole one for a large alpha
    for part in dirichlet_split(LABELS, 5, 1e6, seed=0):
        assert (LABELS[part].bincount(minlength=10) - 20).abs().max() < 20


def test_dirichlet_split_refuses():
    for labels, owners, alpha, words in [
        (LABELS, 4, 0.0, "above 0"),
        (LABELS, 4, float("nan"), "above 0"),
        (LABELS, 0, 1.0, "0 owners"),
        (LABELS[:3], 4, 1.0, "4 owners"),
        (LABELS.reshape(2, -1), 4, 1.0, "owners"),
    ]:
        with pytest.raises(Misuse, match=words):
            dirichlet_split(labels, owners, alpha)


@pytest.mark.parametrize("as_workers", [lambda bob: bob, lambda bob: ["bob"], lambda bob: [bob, None]])
def test_a_dataset_is_federated_over_workers(bob, as_workers):
    dataset = BaseDataset(torch.ones(4, 2), torch.ones(4))
    with pytest.raises(Misuse, match="list of workers"):
        dataset.federate(as_workers(bob))
    assert bob._objects == {}
