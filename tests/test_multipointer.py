"""One tensor at several workers: values and gradients against the same computation at each, done here."""

import copy

import pytest
import torch
from torch import nn

from syft.errors import Misuse, NotCollocated, ObjectGone
from syft.multipointer import MultiPointerTensor, combine_pointers
from syft.sending import send

from .helpers import held

pytestmark = pytest.mark.nodes


def spread(values, workers, requires_grad=False):
    pointers = [send(value, worker) for value, worker in zip(values, workers, strict=True)]
    return combine_pointers(*pointers).requires_grad_(requires_grad)


@pytest.fixture
def values():
    return [torch.tensor([1.0, 2.0, 3.0]), torch.tensor([-1.0, 0.5, 4.0])]


def same(actual, expected):
    torch.testing.assert_close(list(actual), list(expected), rtol=0, atol=0)


def test_send_to_several_puts_a_copy_at_each(bob, alice):
    p = send(torch.tensor([1.0, 2.0]), bob, alice)
    assert type(p) is MultiPointerTensor
    assert p.locations == [bob, alice]
    for worker in (bob, alice):
        same(held(worker).values(), [torch.tensor([1.0, 2.0])])
    same(p.get(), [torch.tensor([1.0, 2.0])] * 2)
    assert not bob._objects
    assert not alice._objects


def test_get_can_sum(bob, alice, values):
    assert torch.equal(spread(values, (bob, alice)).get(sum_results=True), torch.tensor([0.0, 2.5, 7.0]))


def test_virtual_get_leaves_the_objects(bob, alice, values):
    p = spread(values, (bob, alice))
    same(p.virtual_get(), values)
    assert torch.equal(p.virtual_get(sum_results=True), sum(values))
    same(p.get(), values)


def test_child_names_the_single_pointers(bob, alice, values):
    p, q = (send(value, worker) for value, worker in zip(values, (bob, alice), strict=True))
    whole = combine_pointers(p, q)
    assert list(whole.child) == ["bob", "alice"]
    assert whole.child["bob"] is p
    assert whole.child["alice"] is q


def test_repr_shows_all_children(bob, alice, values):
    whole = spread(values, (bob, alice))
    lines = repr(whole).splitlines()
    assert lines[0] == "(Wrapper)>[MultiPointerTensor]"
    for line, pointer in zip(lines[1:], whole.child.values(), strict=True):
        assert line == f"\t-> [PointerTensor | me:{pointer.id} -> {pointer.location.id}:{pointer.id_at_location}]"


OPERATORS = {
    "arithmetic": lambda x: (x + 1) * x / 2 - x**2,
    "0-dim constant": lambda x: x * torch.tensor(3.0),
    "reduction": lambda x: x.sum(),
    "matrix": lambda x: x.outer(x) @ x,
    "index": lambda x: x[1:],
    "several results": lambda x: x.sort(descending=True).values,
    "list": lambda x: torch.stack(x.unbind()),
    "cat": lambda x: torch.cat([x, x.exp()]),
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "softmax": lambda x: x.softmax(0),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_run_on_all(bob, alice, values, name):
    same(OPERATORS[name](spread(values, (bob, alice))).get(), map(OPERATORS[name], values))


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_are_those_at_each(bob, alice, values, name):
    p = spread(values, (bob, alice), requires_grad=True)
    OPERATORS[name](p).sum().backward()
    assert type(p.grad) is MultiPointerTensor
    locals_ = [value.clone().requires_grad_() for value in values]
    for x in locals_:
        OPERATORS[name](x).sum().backward()
    same(p.grad.get(), [x.grad for x in locals_])


def test_in_place_operators_write_at_each_and_return_the_operand(bob, alice, values):
    p = spread(values, (bob, alice))
    assert p.add_(1) is p
    p[0] = 9
    same(p.get(), [torch.tensor([9.0, 3.0, 4.0]), torch.tensor([9.0, 1.5, 5.0])])


def test_shape_changed_in_place(bob, alice):
    p = send(torch.arange(6.0).reshape(2, 3), bob, alice)
    p.t_()
    assert p.shape == (3, 2)
    same(p.get(), [torch.arange(6.0).reshape(2, 3).t()] * 2)


def test_operands_are_matched_by_worker_whatever_their_order(bob, alice):
    one, ten = torch.ones(1), torch.full((1,), 10.0)
    p = spread([one, ten], (bob, alice))
    q = spread([ten, one], (alice, bob))
    same((p + q).get(), [2 * one, 2 * ten])


def test_operands_in_other_places_are_refused(bob, alice, charlie, values):
    p = spread(values, (bob, alice))
    with pytest.raises(NotCollocated, match="bob, alice, another at bob"):
        p + send(values[0], bob)
    with pytest.raises(NotCollocated, match="bob, alice, another at bob, charlie"):
        p + spread(values, (bob, charlie))
    with pytest.raises(NotCollocated, match="is here"):
        p + torch.tensor([0.3, 0.7, 0.1])
    same(p.get(), values)


def test_combining_what_is_not_one_tensor_is_refused(bob, alice, values):
    p = send(values[0], bob)
    with pytest.raises(Misuse, match="only pointers"):
        combine_pointers(p, values[1])
    with pytest.raises(Misuse, match="different workers"):
        combine_pointers(p, send(values[1], bob))
    with pytest.raises(Misuse, match=r"\[3\].*\[2\]"):
        combine_pointers(p, send(values[1][:2], alice))
    with pytest.raises(Misuse, match=r"float32.*float64"):
        combine_pointers(p, send(values[1].double(), alice))
    with pytest.raises(Misuse, match="memory order"):
        combine_pointers(send(torch.ones(2, 3), bob), send(torch.ones(3, 2).t(), alice))
    with pytest.raises(Misuse, match="nothing"):
        combine_pointers()


def test_results_of_different_shapes_are_refused(bob, alice, values):
    p = spread(values, (bob, alice))
    with pytest.raises(Misuse, match="differ"):
        p[p > 0]


def test_one_value_is_given_only_where_all_agree(bob, alice, values):
    p = spread(values, (bob, alice))
    with pytest.raises(Misuse, match="value at each worker"):
        p.sum().item()
    with pytest.raises(Misuse, match="value at each worker"):
        p.tolist()
    assert (p * 0).sum().item() == 0.0
    assert bool(torch.equal(p, p))


def test_a_local_tensor_cannot_take_several_values(bob, alice, values):
    target = torch.zeros(3)
    with pytest.raises(Misuse, match="value at each worker"):
        target.copy_(spread(values, (bob, alice)))
    assert torch.equal(target, torch.zeros(3))


def test_second_get_and_moves_say_what_is_wrong(bob, alice, values):
    p = spread(values, (bob, alice))
    with pytest.raises(Misuse, match="single ones"):
        p.move(bob)
    p.get()
    with pytest.raises(ObjectGone, match="taken home"):
        p.get()


def test_get_brings_gradients(bob, alice):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    p = send(x, bob, alice)
    assert p.is_leaf
    assert p.requires_grad
    (p**2).sum().backward()
    for value in p.get():
        assert value.requires_grad
        assert torch.equal(value.grad, torch.tensor([2.0, 4.0]))
    assert not bob._objects
    assert not alice._objects


def test_send_carries_the_gradient_to_each(bob, alice):
    x = torch.ones(2, requires_grad=True)
    x.grad = torch.tensor([5.0, 6.0])
    same(send(x, bob, alice).grad.get(), [x.grad, x.grad])


def test_an_object_lives_on_for_the_graph_after_get(bob, alice, values):
    p = spread(values, (bob, alice), requires_grad=True)
    loss = (p**2).sum()
    same([v.detach() for v in p.get()], values)
    assert bob.objects_count() == 1  # the loss; p's object is hidden
    with pytest.raises(ObjectGone, match="autograd graph"):
        p.get()
    loss.backward()
    same(p.grad.get(), [2 * v for v in values])


def test_send_and_get_keep_the_graph_when_asked(bob, alice):
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    total = (send(x, bob, alice, requires_grad=True) * 3).get(sum_results=True, requires_grad=True)
    total.sum().backward()
    assert torch.equal(x.grad, torch.tensor([6.0, 6.0]))


def test_get_of_one_part_keeps_the_graph(bob, alice, values):
    p = spread(values, (bob, alice), requires_grad=True)
    (p * 2).get(requires_grad=True)[1].sum().backward()
    same(p.grad.get(), [torch.zeros(3), torch.full((3,), 2.0)])


def test_gradients_flow_back_through_combine_twice(bob, alice):
    p, q = (send(torch.tensor([2.0], requires_grad=True), worker) for worker in (bob, alice))
    whole = combine_pointers(p, q)
    first = torch.autograd.grad((whole**3).sum(), [p, q], create_graph=True)
    assert [g.location for g in first] == [bob, alice]
    second = torch.autograd.grad((first[0] ** 2).sum(), p)[0]
    assert second.get().item() == 2 * 12 * 12  # d/dx (3 x^2)^2 = 36 x^3


def test_a_combination_and_its_parts_have_gradients(bob, alice):
    p, q = (send(torch.tensor([2.0], requires_grad=True), worker) for worker in (bob, alice))
    whole = combine_pointers(p, q)
    (whole * 5).sum().backward()
    assert p.grad.copy().get().item() == 5.0
    assert q.grad.copy().get().item() == 5.0
    assert [g.item() for g in whole.grad.virtual_get()] == [5.0, 5.0]


def test_copies_are_independent(bob, alice, values):
    p = spread(values, (bob, alice), requires_grad=True)
    twin, deep = p.copy(), copy.deepcopy(p)
    with torch.no_grad():
        p.zero_()
    assert twin.requires_grad
    same([v.detach() for v in twin.get()], values)
    same([v.detach() for v in deep.get()], values)


def test_labels_reach_every_object(bob, alice):
    p = send(torch.ones(2), bob, alice).tag("#x").describe("two ones")
    assert [len(w.search("#x", "ones")) for w in (bob, alice)] == [1, 1]
    p.tag("#y")
    assert [len(w.search("#x", "#y")) for w in (bob, alice)] == [1, 1]
    assert "Tags: #x #y" in repr(p)


def test_objects_are_freed(bob, alice, values):
    p = spread(values, (bob, alice), requires_grad=True)
    (p * p).sum().backward()
    del p
    assert not bob._objects
    assert not alice._objects


@pytest.mark.parametrize("make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.Adam(p, 0.1)])
def test_training_steps_match_local_ones(bob, alice, make):
    torch.manual_seed(0)
    data = [torch.randn(8, 4) for _ in range(2)]
    targets = [torch.randint(3, (8,)) for _ in range(2)]
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    models = [copy.deepcopy(model) for _ in range(2)]
    for twin, x, y in zip(models, data, targets, strict=True):
        train(twin, x, y, make)
    for module in model:
        for name, parameter in list(module.named_parameters()):
            setattr(module, name, nn.Parameter(send(parameter.detach(), bob, alice)))
    train(model, spread(data, (bob, alice)), spread(targets, (bob, alice)), make)
    for name, parameter in model.named_parameters():
        expected = [dict(twin.named_parameters())[name] for twin in models]
        torch.testing.assert_close([v.detach() for v in parameter.get()], [e.detach() for e in expected])


def train(model, x, y, make):
    optimizer = make(model.parameters())
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
