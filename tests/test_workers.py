"""Workers as their users see them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import syft as sy
from syft.errors import Misuse, ObjectGone, WorkerNotFound, WorkerShut
from syft.workers import BaseWorker


@pytest.fixture(autouse=True)
def hooked(hook: sy.TorchHook) -> None:
    pass


def test_a_worker_shows_its_name_and_how_much_it_holds(bob: sy.VirtualWorker) -> None:
    kept = [torch.ones(2).send(bob) for _ in range(3)]
    assert repr(bob) == "<VirtualWorker id:bob #objects:3>"
    assert (bob.objects_count(), bob.tensors_count(), len(bob._objects)) == (3, 3, 3)
    kept.pop()
    assert repr(bob) == "<VirtualWorker id:bob #objects:2>"


def test_a_known_name_gives_the_same_worker(hook: sy.TorchHook, bob: sy.VirtualWorker) -> None:
    p = torch.tensor([1, 2]).send(bob)
    again = sy.VirtualWorker(hook, id="bob", data=(torch.tensor([3]).tag("#three"),))
    assert again is bob
    assert p.get().tolist() == [1, 2]
    assert [q.shape for q in bob.search("#three")] == [(1,)]


def test_a_worker_needs_a_name() -> None:
    with pytest.raises(Misuse, match="needs a name"):
        sy.VirtualWorker()
    with pytest.raises(Misuse, match="needs a name"):
        sy.VirtualWorker(id=5)  # type: ignore[arg-type]


def test_data_at_the_start_and_load_data(hook: sy.TorchHook) -> None:
    x, y = torch.tensor([1.0, 2.0]).tag("#x"), torch.tensor([3.0]).tag("#y").describe("the third")
    carl = sy.VirtualWorker(hook, id="carl", data=(x,))
    carl.load_data([y])
    assert [value.tolist() for value in carl._objects.values()] == [[1.0, 2.0], [3.0]]
    x.zero_()
    assert carl.search("#x")[0].copy().get().tolist() == [1.0, 2.0]
    assert carl.search("third")[0].description == "the third"


def test_search_gives_pointers_by_tag_word_and_id(bob: sy.VirtualWorker) -> None:
    image = torch.ones(2, 2).tag("#mnist", "#image").describe("Digits, written by hand.").send(bob)
    label = torch.ones(2).tag("#mnist", "#label").send(bob)
    plain = torch.ones(3).send(bob)

    def found(*query: str | int | list[str]) -> list[int]:
        results = bob.search(*query)
        assert all(isinstance(p, sy.PointerTensor) and p.location is bob for p in results)
        return [p.id_at_location for p in results]

    both = [image.id_at_location, label.id_at_location]
    assert found("#mnist") == found("mnist") == found(["#mnist"]) == found() == found([]) == both
    assert found("#mnist", "#label") == found(["#mnist", "#label"]) == [label.id_at_location]
    assert found("digits") == found("HAND", "#image") == [image.id_at_location]
    assert found(plain.id_at_location) == [plain.id_at_location]
    assert found("#mnist", "#nothing") == found("nist") == found("#digits") == []
    assert bob.search("#image")[0].tags == {"#mnist", "#image"}
    assert bob.search("#image")[0].description == "Digits, written by hand."


def test_found_pointers_do_not_own(bob: sy.VirtualWorker) -> None:
    p = torch.tensor([1.0, 2.0]).tag("#x").send(bob)
    found = bob.search("#x")[0]
    assert not found.gc
    assert (found + p).get().tolist() == [2.0, 4.0]
    del found
    assert p.copy().get().tolist() == [1.0, 2.0]
    found = bob.search("#x")[0]
    assert found.get().tolist() == [1.0, 2.0]
    with pytest.raises(ObjectGone, match="taken home"):
        p.get()
    assert bob.search("#x") == []


def test_tags_given_to_a_pointer_are_found(bob: sy.VirtualWorker) -> None:
    p = torch.ones(2).send(bob)
    assert p.tag("#late").describe("ones") is p
    assert [q.id_at_location for q in bob.search("#late", "ones")] == [p.id_at_location]


@pytest.mark.nodes
def test_a_seed_has_a_worker_draw_what_is_drawn_here(bob: BaseWorker) -> None:
    x = torch.ones(4).send(bob)
    bob.manual_seed(7)
    drawn = [torch.rand_like(x).get(), nn.functional.dropout(x).get()]
    torch.manual_seed(7)
    torch.testing.assert_close(drawn, [torch.rand(4), nn.functional.dropout(torch.ones(4))])
    for seed in (-1, 2**63):
        with pytest.raises(Misuse, match="no seed"):
            bob.manual_seed(seed)


@pytest.mark.nodes
def test_what_a_worker_has_is_counted_and_named(bob: BaseWorker) -> None:
    p = torch.tensor([1, 2]).send(bob)
    q = p + 1
    listed = bob._objects
    assert list(listed) == [p.id_at_location, q.id_at_location]
    assert [value.tolist() for value in listed.values()] == [[1, 2], [2, 3]]
    assert (bob.objects_count(), bob.tensors_count()) == (2, 2)
    assert all(str(q.id_at_location) in text for text in (bob.list_objects(), bob.list_tensors()))
    del listed  # it owned nothing
    assert p.get().tolist() == [1, 2]
    assert list(bob._objects) == [q.id_at_location]


def test_clear_objects(bob: sy.VirtualWorker) -> None:
    p = torch.ones(2).send(bob)
    assert bob.clear_objects() is bob
    assert bob._objects == {}
    with pytest.raises(ObjectGone, match="cleared"):
        p.get()
    assert bob.clear_objects(return_self=False) is None


def test_workers_know_each_other(bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    assert bob.get_worker("alice") is alice is bob.get_worker(alice) is sy.get_worker("alice")
    assert bob.add_workers([alice]) is bob
    assert bob.add_worker(alice) is bob
    with pytest.raises(WorkerNotFound, match="alice, bob"):
        bob.get_worker("mallory")


def test_a_shut_worker_refuses_and_its_name_is_free(bob: sy.VirtualWorker) -> None:
    p = torch.ones(2).send(bob)
    bob.shut()
    with pytest.raises(WorkerShut, match="bob"):
        p + p
    with pytest.raises(WorkerShut):
        torch.ones(2).send(bob)
    del p  # its release is no error
    assert sy.VirtualWorker(id="bob") is not bob


def test_nothing_moves_to_a_shut_worker(bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    p, model = torch.ones(2).send(alice), nn.Linear(2, 1).send(alice)
    bob.shut()
    for move in (p.move, model.move, p.remote_send):
        with pytest.raises(WorkerShut, match="bob has been shut"):
            move(bob)
    assert p.get().tolist() == [1.0, 1.0]
    assert (model.location, alice.objects_count()) == (alice, 2)
    with pytest.raises(WorkerNotFound, match="'bob'"):
        sy.get_worker("bob")


def test_what_a_worker_has_by_id_and_as_text(bob: sy.VirtualWorker) -> None:
    p = torch.tensor([1, 2]).send(bob)
    assert bob[p.id_at_location].tolist() == [1, 2]
    assert bob.list_objects() == bob.list_tensors() == f"{{{p.id_at_location}: tensor([1, 2])}}"
    with pytest.raises(ObjectGone, match="no object 5"):
        bob[5]
    taken = p.id_at_location
    p.get()
    with pytest.raises(ObjectGone, match="taken home"):
        bob[taken]


def test_request_search(bob: sy.VirtualWorker) -> None:
    p = torch.ones(2).tag("#x").send(bob)
    assert [q.id_at_location for q in sy.local_worker.request_search(["#x"], bob)] == [p.id_at_location]


@pytest.mark.parametrize("query", [None, 1.5, [None], {"#x": 1}])
def test_what_is_no_word_cannot_be_searched_for(bob: sy.VirtualWorker, query: object) -> None:
    with pytest.raises(Misuse, match="no word"):
        bob.search(query)  # type: ignore[arg-type]


def test_get_worker_without_fail_hard_gives_the_name_back(bob: sy.VirtualWorker) -> None:
    assert bob.get_worker("bob", fail_hard=False) is bob
    assert bob.get_worker("nobody", fail_hard=False) == "nobody"


def test_what_older_code_asks_of_a_worker(hook: sy.TorchHook) -> None:
    carl = sy.VirtualWorker(hook, "carl", (), is_client_worker=True, verbose=True, auto_add=False)
    assert sy.get_worker("carl") is carl
    with pytest.raises(Misuse, match="no log"):
        sy.VirtualWorker(hook, "dora", log_msgs=True)
    with pytest.raises(Misuse, match="take no time"):
        sy.VirtualWorker(hook, "dora", message_pending_time=0.1)
    with pytest.raises(WorkerNotFound):
        sy.get_worker("dora")


def test_tags_and_description_come_home(bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    p = torch.tensor([1.0]).tag("#a").describe("one").send(bob)
    bob.search("#a")[0].tag("#b")
    home = p.move(alice).get()
    assert (home.tags, home.description) == ({"#a", "#b"}, "one")
    chain = torch.ones(1).tag("#inner").send(bob).send(alice).tag("#outer")
    inner = chain.get()
    assert (inner.tags, inner.get().tags) == ({"#outer"}, {"#inner"})
    assert (torch.ones(1).send(bob) + 1).get().tags == set()


def test_who_may_get_private_data_has_it_then(bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    p = torch.ones(2).private_tensor(allowed_users=["eve"]).tag("#x").send(bob, user="eve")
    home = p.get(user="eve")
    assert (home.allow("mallory"), home.tags) == (True, {"#x"})
    assert home.send(alice).get().tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("factory", "arguments", "shape"),
    [
        ("tensor", ([1.0, 2.0],), (2,)),
        ("rand", (2, 3), (2, 3)),
        ("randn", ((2, 3),), (2, 3)),
        ("zeros", (2,), (2,)),
        ("ones", (2,), (2,)),
        ("full", ((2,), 7.0), (2,)),
        ("eye", (3,), (3, 3)),
        ("randint", (0, 5, (4,)), (4,)),
        ("arange", (5,), (5,)),
        ("linspace", (0, 1, 4), (4,)),
        ("randperm", (6,), (6,)),
        ("as_tensor", ([1.0, 2.0],), (2,)),
        ("asarray", ([1.0, 2.0],), (2,)),
        ("scalar_tensor", (3.0,), ()),
        ("logspace", (0, 1, 4), (4,)),
        ("normal", (0.0, 1.0, (3,)), (3,)),
        ("hann_window", (4,), (4,)),
        ("kaiser_window", (4,), (4,)),
        ("tril_indices", (3, 3), (2, 6)),
        ("triu_indices", (3, 3), (2, 6)),
    ],
)
def test_factories_make_tensors_at_a_worker(
    bob: sy.VirtualWorker, factory: str, arguments: tuple[object, ...], shape: tuple[int, ...]
) -> None:
    p = getattr(bob.remote.torch, factory)(*arguments)
    assert isinstance(p, sy.PointerTensor)
    assert (p.location, p.shape, list(bob._objects)) == (bob, shape, [p.id_at_location])
    torch.manual_seed(0)
    expected = getattr(torch, factory)(*arguments)
    torch.manual_seed(0)
    assert torch.equal(getattr(bob.remote.torch, factory)(*arguments).get(), expected)
    del p
    assert bob._objects == {}


def test_a_factory_with_gradient(bob: sy.VirtualWorker) -> None:
    p = bob.remote.torch.tensor([1.0, 2.0], requires_grad=True)
    (p * p).sum().backward()
    assert p.grad.get().tolist() == [2.0, 4.0]


def test_what_makes_no_tensor_is_refused(bob: sy.VirtualWorker) -> None:
    for name in ("float32", "nn", "no_such_function", "load", "save", "is_tensor", "compile", "set_num_threads"):
        with pytest.raises(AttributeError, match=f"not '{name}'"):
            getattr(bob.remote.torch, name)
    assert bob._objects == {}


def test_a_network_is_searched_as_one(
    bob: sy.VirtualWorker, alice: sy.VirtualWorker, charlie: sy.VirtualWorker
) -> None:
    kept = [
        torch.tensor([float(i)]).tag("#x", f"#{i}").send(worker)
        for i, worker in enumerate((bob, alice, alice))
    ]  # fmt: skip
    grid = sy.PrivateGridNetwork(bob, alice, charlie)
    assert grid.workers == [bob, alice, charlie]
    found = grid.search("#x")
    assert {id: [p.id_at_location for p in ps] for id, ps in found.items()} == {
        "bob": [kept[0].id_at_location],
        "alice": [kept[1].id_at_location, kept[2].id_at_location],
    }
    assert list(grid.search("#x", "#2")) == ["alice"]
    assert grid.search("#absent") == {}


@pytest.mark.parametrize("workers", [("bob",), ([],), (None,)])
def test_a_network_is_of_workers(workers: tuple[object, ...]) -> None:
    with pytest.raises(Misuse, match=r"is none\nsy.PrivateGridNetwork"):
        sy.PrivateGridNetwork(*workers)  # type: ignore[arg-type]
