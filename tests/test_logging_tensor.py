"""Operators are told as they run, and give what they give without being told."""

import copy

import pytest
import torch

from syft.errors import Misuse, NotCollocated
from syft.logging_tensor import LoggingTensor
from syft.multipointer import MultiPointerTensor
from syft.sending import send


@pytest.fixture
def lines():
    return []


def test_prints_by_default(capsys):
    x = LoggingTensor().on(torch.tensor([1.0, 2.0]))
    y = x + x
    assert capsys.readouterr().out == "aten::add.Tensor(float32[2], float32[2]) -> float32[2]\n"
    assert torch.equal(y.child, torch.tensor([2.0, 4.0]))


def test_goes_on_through_all_operators(lines):
    x = LoggingTensor(lines.append).on(torch.arange(6).reshape(2, 3))
    parts = (x.float() @ torch.ones(3, 2)).split(1)
    assert isinstance(parts, tuple)
    assert parts[1].tolist() == [[12.0, 12.0]]
    assert [line.partition("(")[0] for line in lines] == ["aten::_to_copy", "aten::mm", "aten::split.Tensor"]
    assert lines[1] == "aten::mm(float32[2, 3], float32[3, 2]) -> float32[2, 2]"
    assert lines[2] == "aten::split.Tensor(float32[2, 2], 1) -> [float32[1, 2], float32[1, 2]]"


def test_on_a_pointer_it_names_the_worker(lines, bob):
    x = LoggingTensor(lines.append).on(send(torch.tensor([1.0, 2.0]), bob))
    y = (x * 3).sum()
    assert lines == [
        "aten::mul.Tensor(float32[2] at bob, 3) -> float32[2] at bob",
        "aten::sum(float32[2] at bob) -> float32[] at bob",
    ]
    assert y.location is bob
    assert y.get().item() == 9.0


def test_on_several_workers(lines, bob, alice):
    x = LoggingTensor(lines.append).on(send(torch.ones(2), bob, alice))
    y = x + 1
    assert lines == ["aten::add.Tensor(float32[2] at bob and alice, 1) -> float32[2] at bob and alice"]
    assert isinstance(y.child, MultiPointerTensor)
    assert [v.tolist() for v in y.get()] == [[2.0, 2.0]] * 2


@pytest.mark.parametrize("remote", [False, True])
def test_gradients_flow_back_and_their_operators_are_told(lines, bob, remote):
    x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    x = send(x, bob) if remote else x
    y = LoggingTensor(lines.append).on(x)
    loss = (y**2).sum()
    forward = len(lines)
    loss.backward()
    assert any("aten::mul.Tensor" in line for line in lines[forward:])
    assert type(x.grad) is type(x.detach())
    assert (x.grad.get() if remote else x.grad).tolist() == [2.0, 4.0, 6.0]


def test_double_backward(lines):
    x = torch.tensor(3.0, requires_grad=True)
    y = LoggingTensor(lines.append).on(x)
    (first,) = torch.autograd.grad(y**3, x, create_graph=True)
    assert first.item() == 27.0
    (second,) = torch.autograd.grad(first, x)
    assert second.item() == 18.0


def test_in_place_operators_change_what_is_watched(lines):
    base = torch.zeros(2, 3)
    x = LoggingTensor(lines.append).on(base)
    assert x.add_(1) is x
    x.t_()
    assert x.shape == (3, 2)
    assert torch.equal(base, torch.ones(3, 2))
    plain = torch.zeros(3, 2)
    assert plain.add_(x) is plain
    assert torch.equal(plain, torch.ones(3, 2))


def test_values_and_copies(lines, bob):
    x = LoggingTensor(lines.append).on(send(torch.tensor([1.0, 2.0]), bob))
    assert x.sum().item() == 3.0
    assert x.tolist() == [1.0, 2.0]
    assert x.numpy().tolist() == [1.0, 2.0]
    twin = copy.deepcopy(x)
    x.zero_()
    assert twin.tolist() == [1.0, 2.0]
    assert repr(x) == f"(Wrapper)>LoggingTensor>{x.child!r}"


def test_constants_that_torch_makes_go_along(lines, bob):
    x = LoggingTensor(lines.append).on(send(torch.arange(9.0).reshape(3, 3), bob))
    expected = torch.cov(torch.arange(9.0).reshape(3, 3), fweights=torch.ones(3, dtype=torch.int64))
    weights = LoggingTensor(lines.append).on(send(torch.ones(3, dtype=torch.int64), bob))
    assert torch.equal(torch.cov(x, fweights=weights).get(), expected)


def test_an_object_lives_on_for_the_graph_after_get(lines, bob):
    x = send(torch.tensor([2.0], requires_grad=True), bob)
    y = LoggingTensor(lines.append).on(x) * 1
    loss = (y**2).sum()
    assert y.get().tolist() == [2.0]
    loss.backward()
    assert x.grad.get().tolist() == [4.0]


def test_a_watched_local_tensor_beside_a_pointer(lines, bob):
    x = LoggingTensor(lines.append).on(torch.randn(3))
    with pytest.raises(NotCollocated, match="at bob"):
        x + send(torch.zeros(3), bob)
    with pytest.raises(Misuse, match="is here"):
        x.get()
    assert lines == []


def test_only_tensors_can_be_watched() -> None:
    with pytest.raises(Misuse, match="a int has no operators"):
        LoggingTensor().on(3)
