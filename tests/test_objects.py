"""Whose objects are whose: what PySyft 0.2 lost, leaked or let go of too early."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import pytest
import torch

import syft as sy
from syft import limits
from syft.errors import GetNotPermitted, Misuse, NotPermitted, ObjectGone, SendNotPermitted


@pytest.fixture(autouse=True)
def hooked(hook: sy.TorchHook) -> None:
    pass


def values(worker: sy.VirtualWorker) -> list[object]:
    return [value.tolist() for value in worker._objects.values()]


# ---- one object for each send, and no pointer kills another's ----


def test_two_sends_of_one_tensor_are_two_objects(bob: sy.VirtualWorker) -> None:
    x = torch.tensor([1.0, 2.0])
    p, q = x.send(bob), x.send(bob)
    assert p.id_at_location == x.id != q.id_at_location
    p.add_(1)
    assert (q.tolist(), x.tolist()) == ([1.0, 2.0], [1.0, 2.0])
    del p
    assert values(bob) == [[1.0, 2.0]]
    assert q.get().tolist() == [1.0, 2.0]
    assert bob._objects == {}


def test_a_deep_copy_and_a_private_view_are_objects_of_their_own(bob: sy.VirtualWorker) -> None:
    x = torch.tensor([1.0]).tag("#x")
    assert isinstance(x.id, int)
    pointers = [t.send(bob, user="eve") for t in (x, copy.deepcopy(x), x.private_tensor(allowed_users=["eve"]))]
    assert len({p.id_at_location for p in pointers}) == len(bob._objects) == 3


def test_the_same_pointer_sent_twice(bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    p = torch.tensor([1.0]).send(bob)
    one, two = p.send(alice), p.send(alice)
    assert alice.objects_count() == 2
    del one, p
    assert values(bob) == [[1.0]]
    assert two.get().get().tolist() == [1.0]
    assert (bob._objects, alice._objects) == ({}, {})


@pytest.mark.parametrize(
    "derive",
    [
        lambda p: p.clone(),
        lambda p: p.cpu(),
        lambda p: p.float(),
        lambda p: p.to(torch.device("cpu")),
        lambda p: p.contiguous(),
        lambda p: p.detach(),
        lambda p: p.data,
        lambda p: copy.copy(p),
        lambda p: copy.deepcopy(p),
        lambda p: p.copy(),
    ],
    ids=["clone", "cpu", "float", "to", "contiguous", "detach", "data", "copy.copy", "deepcopy", "copy"],
)
def test_what_is_derived_outlives_its_source_and_leaves_nothing(
    bob: sy.VirtualWorker, derive: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    p = torch.tensor([1.0, 2.0]).send(bob)
    q = derive(p)
    del p
    assert (q + 1).get().tolist() == [2.0, 3.0]
    assert values(bob) == [[1.0, 2.0]]
    assert q.copy().get().tolist() == [1.0, 2.0]
    del q
    assert bob._objects == {}


def test_without_garbage_collection_the_object_stays(bob: sy.VirtualWorker) -> None:
    torch.tensor([1.0]).send(bob, garbage_collect_data=False)
    p = torch.tensor([2.0]).send(bob)
    assert p.disable_gc is p
    q = torch.tensor([3.0]).send(bob)
    q.gc = False
    r = torch.tensor([4.0]).send(bob)
    r.garbage_collection = False
    assert not any((p.gc, q.gc, r.garbage_collection))
    del p, q, r
    assert values(bob) == [[1.0], [2.0], [3.0], [4.0]]


# ---- a second get says what happened ----


def test_a_second_get_says_what_happened(bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    p = torch.tensor([1.0]).send(bob)
    p.get()
    for use in (p.get, lambda: p + p, lambda: p.move(alice), lambda: p.send(alice)):
        with pytest.raises(ObjectGone, match=r"taken home by get\(\) \(at bob\)"):
            use()
    q = torch.tensor([1.0]).send(bob)
    found = bob.search(q.id_at_location)[0]
    moved = q.move(alice)
    with pytest.raises(ObjectGone, match="moved to alice"):
        q.get()
    with pytest.raises(ObjectGone, match="moved to alice"):
        found.get()
    assert moved.get().tolist() == [1.0]
    assert (bob._objects, alice._objects) == ({}, {})


def test_a_get_of_what_was_deleted_says_so(bob: sy.VirtualWorker) -> None:
    p = torch.tensor([1.0]).send(bob)
    found = bob.search(p.id_at_location)[0]
    del p
    with pytest.raises(ObjectGone, match="deleted, or never there"):
        found.get()


# ---- nothing grows ----


def sizes(worker: sy.VirtualWorker) -> dict[str, int]:
    return {name: len(part) for name, part in vars(worker._worker.store).items() if hasattr(part, "__len__")}


def test_texts_of_others_are_shown_in_one_line_and_command_no_terminal(bob: sy.VirtualWorker) -> None:
    sent = torch.ones(2).tag("#a", "#\x1b[2Jb\n\tShape: 1").describe("c\r\nd \x07" + "e" * 100).send(bob)
    (found,) = bob.search("#a")
    for pointer in (sent, found):
        _, tags, shape, description = repr(pointer).split("\n")
        assert tags == "\tTags: #a #?[2Jb Shape: 1" and shape == "\tShape: torch.Size([2])"
        assert description.startswith("\tDescription: c? d ?eee") and len(description) < 90


def test_nothing_grows_with_ids_or_tags_ever_used(bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    def cycle(i: int) -> None:
        p = torch.tensor([1.0, 2.0], requires_grad=True).tag(f"#{i}").describe(f"the {i}th").send(bob)
        (p * 2).sum().backward()
        secret = torch.ones(2).private_tensor(allowed_users=[f"user{i}"]).tag(f"#s{i}").send(bob, user=f"user{i}")
        (secret + 1).tag("#more")
        chain = torch.ones(2).send(bob).send(alice)
        chain.add_(chain)
        moved = torch.ones(2).tag(f"#m{i}").send(bob).move(alice)
        torch.ones(2).send(bob).get()
        assert moved.get().tolist() == [1.0, 1.0]

    cycle(0)
    gc.collect()
    after_one = [sizes(worker) for worker in (bob, alice)]
    for i in range(1, 50):
        cycle(i)
    gc.collect()
    for worker, first in zip((bob, alice), after_one, strict=True):
        last = sizes(worker)
        assert last.pop("_fates") <= 50 * first.pop("_fates") <= limits.MAX_FATES
        assert last == dict.fromkeys(first, 0) | {name: n for name, n in first.items() if name == "where"}
    assert len(sy.get_worker("bob").search()) == 0


@pytest.mark.in_process
def test_remembered_ends_are_bounded(bob: sy.VirtualWorker) -> None:
    for _ in range(limits.MAX_FATES + 10):
        torch.ones(1).send(bob).get()
    assert len(bob._worker.store._fates) == limits.MAX_FATES


def test_who_let_go_of_an_object_that_was_found_moved_and_moved_back(
    bob: sy.VirtualWorker, alice: sy.VirtualWorker
) -> None:
    first = torch.ones(2).tag("#x").send(bob)
    (found,) = bob.search("#x")
    back = found.move(alice).move(bob)
    del first
    assert back.get().tolist() == [1.0, 1.0]


# ---- private tensors ----


def test_only_allowed_users_send_and_get(bob: sy.VirtualWorker) -> None:
    x = torch.tensor([1.0, 2.0]).private_tensor(allowed_users=["alice", "carol"])
    assert (x.allow("alice"), x.allow("eve"), torch.ones(1).allow("anyone")) == (True, False, True)
    for user in ({}, {"user": "eve"}):
        with pytest.raises(SendNotPermitted):
            x.send(bob, **user)
    assert bob._objects == {}
    p = x.send(bob, user="alice")
    for user in ({}, {"user": "eve", "reason": "curiosity"}):
        with pytest.raises(GetNotPermitted, match="at bob"):
            p.get(**user)
    assert len(bob._objects) == 1
    assert p.get(user="carol", reason="research").tolist() == [1.0, 2.0]
    assert bob._objects == {}


def test_what_is_computed_from_private_values_is_private(bob: sy.VirtualWorker) -> None:
    p = torch.tensor([1.0, 2.0]).private_tensor(allowed_users=["alice", "carol"]).send(bob, user="alice")
    q = torch.tensor([3.0, 4.0]).private_tensor(allowed_users=["carol", "dan"]).send(bob, user="dan")
    public = torch.zeros(2).send(bob)
    both = (p * q).sum()
    public.copy_(p[:])
    for value in (p + 1, p.clone(), p[0], both, public):
        with pytest.raises(GetNotPermitted):
            value.get()
        with pytest.raises(GetNotPermitted):
            value.tolist()
        with pytest.raises(GetNotPermitted):
            value.get(user="dan" if value is not both else "alice")
    assert both.get(user="carol").item() == 11.0
    assert (p + 1).get(user="alice").tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    "write",
    [
        lambda public, private: public.add_(private),
        lambda public, private: torch.add(private, 1, out=public),
        lambda public, private: torch._foreach_add_([public], [private]),
        lambda public, private: torch._fused_sgd_(
            [public], [private], [], weight_decay=0, momentum=0, lr=1.0, dampening=0,
            nesterov=False, maximize=False, is_first_step=True,
        ),
        lambda public, private: torch.nn.functional.batch_norm(
            private.view(1, 2, 1).expand(1, 2, 3), public, torch.ones(2).send(public.location), training=True
        ),
    ],
    ids=["in place", "out", "list", "fused", "statistics"],
)  # fmt: skip
def test_what_private_values_are_written_to_is_private_and_so_are_its_views(
    write: Callable[..., object], bob: sy.VirtualWorker
) -> None:
    private = torch.tensor([1.0, 2.0]).private_tensor(allowed_users=["alice"]).send(bob, user="alice")
    public = torch.zeros(2).send(bob)
    view, apart = public[:], torch.zeros(2).send(bob)
    write(public, private)
    for value in (public, view):
        with pytest.raises(GetNotPermitted):
            value.get()
    assert apart.get().tolist() == [0.0, 0.0]


def test_private_values_written_to_the_memory_of_a_sparse_tensor(bob: sy.VirtualWorker) -> None:
    private = torch.tensor([1.0, 2.0]).private_tensor(allowed_users=["alice"]).send(bob, user="alice")
    public = torch.eye(2).to_sparse().send(bob)
    public._values().copy_(private)
    with pytest.raises(GetNotPermitted):
        public.get()
    with pytest.raises(NotPermitted, match="shape"):
        private.to_sparse()._values()


def test_private_values_do_not_follow_a_pointer_beside_them(bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    at_bob = torch.zeros(2).send(bob)
    chain = at_bob.send(alice)
    one, two = (torch.ones(n).private_tensor(allowed_users=["eve"]).send(alice, user="eve") for n in (1, 2))
    for operator in (lambda: chain.add_(one), lambda: chain.copy_(two), lambda: chain * one):
        with pytest.raises(SendNotPermitted, match="at alice"):
            operator()
    assert (at_bob.tolist(), len(bob._objects), len(alice._objects)) == ([0.0, 0.0], 1, 3)


def test_private_values_neither_read_nor_moved_nor_told_by_shapes(
    bob: sy.VirtualWorker, alice: sy.VirtualWorker
) -> None:
    p = torch.tensor([1.0, 0.0]).private_tensor(allowed_users=["alice"]).send(bob, user="alice")
    with pytest.raises(GetNotPermitted):
        p[0].item()
    with pytest.raises(GetNotPermitted):
        bool(p[0] > 0)
    with pytest.raises(NotPermitted, match="shape"):
        p.nonzero()
    with pytest.raises(SendNotPermitted):
        p.move(alice)
    assert (len(bob._objects), alice._objects) == (1, {})
    moved = p.move(alice, user="alice")
    with pytest.raises(GetNotPermitted, match="at alice"):
        moved.get()
    assert moved.get(user="alice").tolist() == [1.0, 0.0]


def test_private_values_behind_a_chain(bob: sy.VirtualWorker, alice: sy.VirtualWorker) -> None:
    chain = torch.tensor([1.0]).private_tensor(allowed_users=["carol"]).send(bob, user="carol").send(alice)
    doubled = chain + chain
    with pytest.raises(GetNotPermitted, match="at bob"):
        doubled.get().get()
    with pytest.raises(GetNotPermitted):
        chain.item()
    assert chain.get().get(user="carol").tolist() == [1.0]


def test_a_get_or_move_that_one_of_several_objects_refuses_changes_nothing(
    bob: sy.VirtualWorker, alice: sy.VirtualWorker
) -> None:
    def private() -> torch.Tensor:
        return torch.ones(2).private_tensor(allowed_users=["eve"])

    weight = torch.ones(2, requires_grad=True).send(bob)
    (weight * private().send(bob, user="eve")).sum().backward()
    several = sy.MultiPointerTensor.of([torch.ones(2).send(alice), private().send(bob, user="eve")])
    dataset = sy.BaseDataset(torch.ones(2).send(bob), private().send(bob, user="eve"))
    before = (sorted(bob._objects), sorted(alice._objects))
    for refused in (weight.get, several.get, dataset.get, lambda: weight.move(alice)):
        with pytest.raises(NotPermitted):
            refused()
        assert (sorted(bob._objects), sorted(alice._objects)) == before
    moved = weight.move(alice, user="eve")
    assert values(alice) == [[1.0, 1.0]] * 3
    home = moved.get(user="eve")
    assert (home.tolist(), home.grad.tolist(), home.requires_grad) == ([1.0, 1.0], [1.0, 1.0], True)
    assert [value.tolist() for value in several.get(user="eve")] == [[1.0, 1.0]] * 2
    assert dataset.get(user="eve").location is None
    with pytest.raises(ObjectGone, match="moved to alice"):
        weight.get()
    assert (bob._objects, alice._objects) == ({}, {})


def test_private_values_stay_private_where_a_worker_has_fetched_them(
    bob: sy.VirtualWorker, alice: sy.VirtualWorker, charlie: sy.VirtualWorker
) -> None:
    chain = torch.tensor([1.0]).private_tensor(allowed_users=["carol"]).send(bob, user="carol").send(alice)
    fetched = chain.remote_get(user="carol")
    with pytest.raises(GetNotPermitted, match="at alice"):
        fetched.get()
    with pytest.raises(SendNotPermitted, match="at alice"):
        fetched.move(charlie)
    assert fetched.get(user="carol").tolist() == [1.0]


def test_allowed_users_are_a_list() -> None:
    with pytest.raises(Misuse, match="list of names"):
        torch.ones(1).private_tensor(allowed_users="alice")


# ---- chains ----


@pytest.fixture
def four(
    bob: sy.VirtualWorker, alice: sy.VirtualWorker, charlie: sy.VirtualWorker, dave: sy.VirtualWorker
) -> list[sy.VirtualWorker]:
    return [bob, alice, charlie, dave]


def chained(x: torch.Tensor, workers: list[sy.VirtualWorker]) -> torch.Tensor:
    for worker in workers:
        x = x.send(worker)
    return x


def home(p: torch.Tensor) -> torch.Tensor:
    while isinstance(p, sy.PointerTensor):
        p = p.get()
    return p


def test_four_workers_deep(four: list[sy.VirtualWorker]) -> None:
    p = chained(torch.tensor([1.0, 2.0, 3.0]), four)
    assert [worker.objects_count() for worker in four] == [1, 1, 1, 1]
    y = torch.relu(p * 2 - 3)
    top, at = p.location, []
    while isinstance(inner := next(iter(top._objects.values())), sy.PointerTensor):
        at.append((inner.owner.id, inner.location.id))
        top = inner.location
    assert at == [("dave", "charlie"), ("charlie", "alice"), ("alice", "bob")]
    del inner
    assert home(y).tolist() == [0.0, 1.0, 3.0]
    assert [worker.objects_count() for worker in four] == [1, 1, 1, 1]
    assert home(p).tolist() == [1.0, 2.0, 3.0]
    assert [worker._objects for worker in four] == [{}, {}, {}, {}]


def test_operators_in_place_four_workers_deep(four: list[sy.VirtualWorker]) -> None:
    p = chained(torch.tensor([1.0, 2.0, 3.0]), four)
    before = p.id_at_location
    p += 1
    p.mul_(2)
    p[0] = 0.0
    p[p > 7] = 7.0
    p[1:].sub_(1)
    assert p.id_at_location == before
    assert [worker.objects_count() for worker in four] == [1, 1, 1, 1]
    assert home(p).tolist() == [0.0, 5.0, 6.0]


def test_autograd_four_workers_deep(four: list[sy.VirtualWorker]) -> None:
    p = chained(torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), four)
    loss = (p.exp() @ p).sum()
    loss.backward()
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    (x.exp() @ x).sum().backward()
    assert isinstance(p.grad, sy.PointerTensor)
    assert p.grad.location is four[-1]
    torch.testing.assert_close(torch.tensor(p.grad.tolist()), x.grad)
    del loss
    y = home(p)
    assert y.requires_grad
    torch.testing.assert_close(y.grad, x.grad)
    assert [worker._objects for worker in four] == [{}, {}, {}, {}]


def test_training_four_workers_deep(four: list[sy.VirtualWorker]) -> None:
    torch.manual_seed(0)
    data, target = torch.randn(8, 3), torch.randn(8, 1)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    twin = copy.deepcopy(model)
    for worker in four:
        model.send(worker)

    def train(model: torch.nn.Module, data: torch.Tensor, target: torch.Tensor) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            torch.nn.functional.mse_loss(model(data), target).backward()
            optimizer.step()

    train(model, chained(data, four), chained(target, four))
    train(twin, data, target)
    for _ in four:
        model.get()
    torch.testing.assert_close(model.state_dict(), twin.state_dict())
    gc.collect()
    assert [worker._objects for worker in four] == [{}, {}, {}, {}]
