"""A pointer answers as the tensor it stands for does: each case runs on both and is compared."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_flatten
from torch.utils.checkpoint import checkpoint

from syft.errors import LimitExceeded, Misuse, NotCollocated, SyftError
from syft.nn import send_module
from syft.pointer import PointerTensor
from syft.sending import send
from syft.workers import VirtualWorker

from .helpers import is_empty, seed_all

pytestmark = pytest.mark.nodes

Place = Callable[[torch.Tensor], torch.Tensor]


def matrix() -> torch.Tensor:
    return torch.tensor([[1.5, -2.0, 3.0], [0.5, 4.0, -1.0]])


def home(value: torch.Tensor) -> torch.Tensor:
    """Bring a copy of a tensor's value home, all the way."""
    value = value.detach()
    if isinstance(value, PointerTensor):
        value = value.copy()
    while isinstance(value, PointerTensor):
        value = value.get()
    return value


def described(value: Any) -> Any:
    """Say of a tensor what is known without its values; anything else says it itself."""
    if not isinstance(value, torch.Tensor):
        return value
    strides = [stride for n, stride in zip(value.shape, value.stride(), strict=True) if n > 1]  # others mean nothing
    return tuple(value.shape), value.dtype, value.requires_grad, value.is_leaf, strides


CASES: dict[str, Callable[[Place], Any]] = {}


def case(function: Callable[[Place], Any]) -> Callable[[Place], Any]:
    CASES[function.__name__] = function
    return function


# ---- what is known without values ----


@case
def metadata(p: Place) -> Any:
    x = p(matrix())
    return (
        x.shape, x.dtype, x.size(), x.size(1), x.ndim, x.dim(), x.numel(), x.nelement(), x.stride(), x.layout,
        x.is_leaf, x.requires_grad, x.grad_fn, x.grad, len(x), x.is_contiguous(), x.T.is_contiguous(), x.device,
        x.is_floating_point(), x.is_complex(), x.storage_offset(), x[1].storage_offset(), x.element_size(),
        x.itemsize, x.nbytes, x.is_signed(), x.is_sparse, x.T.shape, x.mT.shape, x.is_conj(), x.is_neg(),
        x.is_inference(), x.output_nr, x.type(), x.is_cuda, x.data.shape, x.retains_grad,
    )  # fmt: skip


@case
def requires_grad(p: Place) -> Any:
    x = p(matrix())
    before = x.requires_grad
    x.requires_grad_()
    y = x * 2
    x.requires_grad = True
    return before, x.requires_grad, x.is_leaf, y.requires_grad, y.is_leaf, y.grad_fn is not None, x.grad


@case
def a_0_dim_tensor(p: Place) -> Any:
    x = p(torch.tensor(2.5))
    with pytest.raises(TypeError):
        len(x)
    return x.shape, x.item(), float(x), int(x), bool(x), x.tolist(), f"{x:.3f}", x + 1, x * matrix().sum()


@case
def values_home(p: Place) -> Any:
    x, i = p(matrix()), p(torch.tensor(3))
    return (
        x.tolist(), x.numpy().tolist(), x[0, 1].item(), i.item(), [10, 20, 30, 40][i],
        complex(p(torch.tensor(1 + 2j))),
        3.0 in x, 9.0 in x, bool(i), int(i), i.__index__(), list(range(i)), x.detach().numpy().dtype.name,
        torch.tensor(x.tolist()), bool((x == x).all()), x.equal(x), torch.equal(x, x + 1), torch.allclose(x, x),
    )  # fmt: skip


@case
def more_values_than_one(p: Place) -> Any:
    told = []
    for ask in (bool, float, int, torch.Tensor.item):
        with pytest.raises((RuntimeError, ValueError)) as caught:
            ask(p(matrix()))
        told.append((type(caught.value), str(caught.value)))
    return told


@case
def formats(p: Place) -> Any:
    return f"{p(torch.tensor(1.25)):.1f}", f"{p(torch.tensor(7)):04d}"


# ---- taking apart ----


@case
def iteration(p: Place) -> Any:
    x = p(matrix())
    first, second = x
    return list(x), [row.sum() for row in x], first + second, list(reversed(list(x))), list(zip(x, x, strict=True))


@case
def slicing(p: Place) -> Any:
    x = p(torch.arange(24.0).reshape(2, 3, 4))
    i, m = p(torch.tensor([1, 0])), p(torch.arange(24).reshape(2, 3, 4) % 3 == 0)
    return (
        x[0], x[-1], x[:, 1], x[..., 2], x[:, None, :, ::2], x[1:, :2, 1:3], x[i], x[:, i], x[i, i], x[m], x[[0, 1]],
        x[:, [0, 2], 1], x[x > 11], x[m.any(-1)], x[0][1][2], x[:, :, -1], x[..., None].shape, x[True], x[None],
    )  # fmt: skip


@case
def item_assignment(p: Place) -> Any:
    x = p(torch.arange(12.0).reshape(3, 4))
    x[0] = 5
    x[1, 2] = p(torch.tensor(-1.0))
    x[:, 3] = p(torch.tensor([7.0, 8.0, 9.0]))
    x[x > 8] = 0
    x[p(torch.tensor([2])), p(torch.tensor([0]))] = 33.0
    x[..., 1:3] *= 2
    x[2] += x[0]
    return x


@case
def assignment_of_a_local_value(p: Place) -> Any:
    x = p(matrix())
    x[0] = torch.tensor([7.0, 8.0, 9.0])
    x.copy_(x * 2)
    x[1].copy_(torch.ones(3))
    return x


@case
def deletion_and_attributes(p: Place) -> Any:
    x = p(matrix())
    x.note = "mine"
    del x.note
    return hasattr(x, "note"), x == x, hash(x) == hash(x), x is x


# ---- operators ----


@case
def arithmetic(p: Place) -> Any:
    x, y = p(matrix()), p(matrix().abs() + 1)
    z = p(matrix())
    z += y
    z -= 1
    z *= x
    z /= 2
    return (
        x + y, x - y, x * y, x / y, x // y, x % y, x**2, y**x, -x, +x, abs(x), x @ y.T, 2 + x, 2 - x, 2 * x, 2 / y,
        2**x, 7 // y, 7 % y, x > y, x <= 1, x == y, x != y, z, torch.add(x, y, alpha=3),
    )  # fmt: skip


@case
def integers(p: Place) -> Any:
    x, y = p(torch.tensor([5, -7, 12])), p(torch.tensor([3, 2, -5]))
    return (
        x & y, x | y, x ^ y, ~x, x << 2, x >> 1, x // y, x % y, x / y, 1 & x, x.bool() & y.bool(), ~x.bool(),
        x.gcd(y), x.sum(), x.sum().dtype, x.float().mean(), x.bitwise_and(1), x.argmax(), x.prod(), x.cumsum(0),
        torch.bincount(x.abs()), x.unique(), x.sort(), x.topk(2), torch.histc(x.float(), 4),
    )  # fmt: skip


@case
def promotion(p: Place) -> Any:
    results = []
    for dtype in (torch.bool, torch.uint8, torch.int32, torch.float16, torch.bfloat16, torch.float64, torch.complex64):
        x = p(torch.tensor([1, 0, 1]).to(dtype))
        results += [x + 1, x * 1.5, x + p(torch.tensor([1.0])), x + torch.tensor(2), x * True, x * 2j, x.to(torch.int8)]
        results += [torch.result_type(x, 1.5), torch.promote_types(x.dtype, torch.float32)]
    return results


@case
def complex_numbers(p: Place) -> Any:
    z = p(torch.tensor([1 + 2j, 3 - 4j]))
    w = p(torch.tensor([1 + 2j, 3 - 4j]))
    w.real *= 2
    w.imag[0] = 9
    return (
        z.real, z.imag, z.conj(), z.conj() * z, z.abs(), z.angle(), torch.view_as_real(z), z[None].H, z[None].mH,
        torch.view_as_complex(p(torch.tensor([[1.0, 2.0]]))), z.conj().imag, z.conj().resolve_conj(), z @ z.conj(), w,
        z.conj().clone(), z.conj() + 1, torch.complex(z.real, z.imag), z.conj().real, z * 2j, z[None].adjoint(),
    )  # fmt: skip


@case
def several_results(p: Place) -> Any:
    x = p(matrix())
    values, indices = x.max(dim=1)
    return (
        values, indices, x.min(dim=0), x.sort(descending=True), x.topk(1), torch.unbind(x), x.split(2, dim=1),
        x.chunk(2, dim=1), torch.linalg.svd(x, full_matrices=False).S, torch.linalg.qr(x).R.abs(), torch.var_mean(x),
        torch.aminmax(x), x.kthvalue(1), x.median(0), x.mode(0), torch.frexp(x),
        torch.meshgrid(x[0], x[1], indexing="ij"),
        torch.std_mean(x, 0), x.max(0).values, x.sort()[1], torch.tensor_split(x, 3, 1), x.tensor_split((1,), 1),
        torch.broadcast_tensors(x, x[0]), x.nonzero(as_tuple=True), torch.unique(x > 0, return_counts=True),
    )  # fmt: skip


@case
def out_arguments(p: Place) -> Any:
    x = p(matrix())
    out, empty = p(torch.zeros(2, 3)), p(torch.empty(0))
    given = torch.add(x, 1, out=out)
    resized = torch.mul(x, 2, out=empty)
    view = p(torch.zeros(4, 3))
    torch.mul(x, 3, out=view[1:3])
    return given is out, out, resized is empty, empty, empty.shape, view


@case
def keyword_tensors(p: Place) -> Any:
    x = p(matrix())
    return (
        torch.add(input=x, other=x), torch.where(condition=x > 0, input=x, other=p(torch.zeros(()))),
        torch.nn.functional.linear(input=x, weight=p(torch.ones(2, 3)), bias=p(torch.ones(2))),
        x.clamp(min=p(torch.zeros(3)), max=p(torch.ones(3))),
        torch.addmm(input=p(torch.zeros(2, 2)), mat1=x, mat2=x.T, beta=0.5), x.sum(dim=0, keepdim=True),
        x.gather(dim=1, index=p(torch.tensor([[0], [2]]))),
    )  # fmt: skip


@case
def shapes_changed_in_place(p: Place) -> Any:
    x, shared = p(matrix()), p(matrix())
    alias = shared.detach()
    shared.t_()
    x.t_()
    x.unsqueeze_(0)
    x.squeeze_(0)
    x.transpose_(0, 1)
    x.unsqueeze_(-1).squeeze_()
    x.add_(1)
    shared.mul_(2)
    y = p(torch.arange(6.0)).as_strided_((2, 3), (3, 1))
    y.swapdims_(0, 1)
    z = p(torch.arange(6.0))
    z.resize_(2, 2)
    return x, x.shape, shared, alias, alias.shape, y, y.stride(), z, z.shape


@case
def data_and_set(p: Place) -> Any:
    x, y = p(matrix()).requires_grad_(), p(torch.ones(4))
    before = x.data
    x.data.mul_(2)
    x.data = x.data + 1
    same = p(matrix())
    same.set_(y)
    y.add_(1)
    z = p(matrix()).requires_grad_()
    z.data = p(torch.zeros(5))
    z.sum().backward()
    return x, before, x.requires_grad, x.data.requires_grad, same, same.shape, z, z.grad


@case
def views_share_memory(p: Place) -> Any:
    x = p(torch.arange(12.0))
    view, row = x.view(3, 4), x.reshape(3, 4)[1]
    detached, flat = x.detach(), x.view(3, 4).T
    view[0].add_(10)
    row.mul_(2)
    detached[11] = -1
    flat.fill_diagonal_(0)
    clone = x.clone()
    clone.zero_()
    return (
        x,
        view,
        row,
        detached,
        flat,
        clone,
        x.view(torch.int32),
        x.expand(2, 12),
        x.unfold(0, 3, 2),
        x.narrow(0, 1, 3),
    )


@case
def conversions(p: Place) -> Any:
    x = p(matrix())
    return (
        x.to(torch.float64), x.double(), x.int(), x.bool(), x.half(), x.bfloat16(), x.to("cpu"), x.cpu(), x.to(x),
        x.float(),
        x.to(torch.float32) is x, x.to(device="cpu", dtype=torch.int16), x.type(torch.float64), x.type_as(x.int()),
        x.contiguous(),
        x.T.contiguous().stride(), x.to(memory_format=torch.contiguous_format),
        x.clone(memory_format=torch.contiguous_format),
        x.new_zeros(2), x.new_ones(2, dtype=torch.int32), x.new_full((2,), 3.0), x.new_tensor([1.0, 2.0]),
        torch.zeros_like(x),
        torch.full_like(x, 2), torch.ones_like(x, dtype=torch.long), x.cfloat(), x.data, x.char(), x.long().float(),
    )  # fmt: skip


@case
def einsum_and_linear_algebra(p: Place) -> Any:
    x = p(matrix())
    return (
        torch.einsum("ij,kj->ik", x, x), torch.einsum("ij->j", x), torch.tensordot(x, x.T, 1), torch.kron(x, x),
        x.mm(x.T),
        torch.linalg.norm(x), x.norm(dim=1), torch.cdist(x, x), torch.linalg.inv(x @ x.T), torch.linalg.det(x @ x.T),
        torch.cat([x, x]), torch.stack([x, x]), torch.block_diag(x, x), torch.hstack((x, x)), torch.outer(x[0], x[1]),
    )  # fmt: skip


@case
def functional(p: Place) -> Any:
    x, w = p(torch.arange(32.0).reshape(1, 2, 4, 4) / 10), p(torch.ones(3, 2, 2, 2))
    f = nn.functional
    return (
        f.conv2d(x, w, padding=1), f.max_pool2d(x, 2), f.avg_pool2d(x, 2), f.interpolate(x, scale_factor=2),
        f.softmax(x, -1),
        f.cross_entropy(x.flatten(0, 2), p(torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]))),
        f.one_hot(p(torch.tensor([0, 2]))), f.pad(x, (1, 1)),
        f.layer_norm(x, (4,)), f.scaled_dot_product_attention(x, x, x), f.embedding(p(torch.tensor([1])), x[0, 0]),
        f.gelu(x),
        x.to(memory_format=torch.channels_last).stride(), f.dropout(x, 0.0), f.unfold(x, 2),
        f.nll_loss(x[0, 0], p(torch.tensor([0, 1, 2, 3]))),
    )  # fmt: skip


# ---- autograd ----


@case
def backward(p: Place) -> Any:
    x, w = p(matrix()).requires_grad_(), p(torch.ones(3)).requires_grad_()
    y = (x * w).exp()
    y.retain_grad()
    y.sum().backward()
    (x * 2).sum().backward()
    grad = x.grad.clone()
    x.grad.zero_()
    return x, grad, x.grad, w.grad, y.grad, y.is_leaf, y.retains_grad, (x.grad is None, w.requires_grad)


@case
def double_backward(p: Place) -> Any:
    x = p(matrix()).requires_grad_()
    (first,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    (third,) = torch.autograd.grad(second.sum(), x)
    return first, second, third


@case
def grad_with_arguments(p: Place) -> Any:
    x, unused = p(matrix()).requires_grad_(), p(torch.ones(2)).requires_grad_()
    y = x * x
    with pytest.raises(RuntimeError, match="allow_unused"):
        torch.autograd.grad(y.sum(), unused, retain_graph=True)
    return (
        torch.autograd.grad(y, x, grad_outputs=p(torch.full((2, 3), 2.0)), retain_graph=True),
        torch.autograd.grad(y.sum(), [x, unused], allow_unused=True, retain_graph=True),
        torch.autograd.grad(y.sum(), [x, unused], allow_unused=True, materialize_grads=True, retain_graph=True)[0],
        torch.autograd.grad([y.sum(), (y * 2).sum()], x),
    )


@case
def hooks(p: Place) -> Any:
    x, seen = p(matrix()).requires_grad_(), []
    y = x * 3
    x.register_hook(lambda grad: grad * 2)
    y.register_hook(lambda grad: seen.append(grad.clone(memory_format=torch.contiguous_format)))
    x.register_post_accumulate_grad_hook(lambda tensor: seen.append(tensor.grad))
    removed = x.register_hook(lambda grad: grad * 100)
    removed.remove()
    y.sum().backward()
    return x.grad, seen


@case
def no_gradient(p: Place) -> Any:
    x = p(matrix()).requires_grad_()
    with torch.no_grad():
        a = x * 2
        x.add_(1)
    with torch.inference_mode():
        b = p(matrix()) * 2
        c = b.is_inference()
    with torch.enable_grad():
        d = x * 2
    return a, a.requires_grad, b.clone(), c, d.requires_grad, x.detach().requires_grad, x, x.detach_().is_leaf


@case
def in_place_with_autograd(p: Place) -> Any:
    x, w = p(matrix()).requires_grad_(), p(torch.ones(3)).requires_grad_()
    y = x * 2
    y[0].mul_(w)
    y.view(-1)[4:].mul_(3)
    y[:, 1] = w[0]
    y.T.add_(1)
    (y * y).sum().backward()
    with pytest.raises(RuntimeError, match="leaf"):
        x.add_(1)
    saved = x.exp()
    saved.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        saved.sum().backward()
    return y, x.grad, w.grad, y._version, x._version


@case
def views_with_autograd(p: Place) -> Any:
    x = p(matrix()).requires_grad_()
    base = x.clone()
    view = base[1]
    base.mul_(2)
    rows = base.unbind(0)
    (view.sum() + base.T[0].prod() + rows[0].sum()).backward()
    return x.grad, view._is_view(), view._base is base, view


@case
def functional_transforms(p: Place) -> Any:
    x = p(matrix())

    def f(x: torch.Tensor) -> torch.Tensor:
        return (x.sin() * x).sum()

    def g(row: torch.Tensor) -> torch.Tensor:
        return row * row.sum()

    return (
        torch.func.grad(f)(x), torch.func.vmap(f)(x), torch.func.vmap(torch.func.grad(f))(x),
        torch.func.jacrev(g)(x[0]),
        torch.func.jacfwd(g)(x[0]), torch.func.jvp(f, (x,), (p(torch.ones(2, 3)),)), torch.func.vjp(f, x)[0],
        torch.func.vmap(g, in_dims=1)(x), torch.func.grad_and_value(f)(x),
        torch.func.vmap(lambda a, b: a @ b, in_dims=(0, None))(x, x[0]),
        torch.func.jacrev(torch.func.jacrev(f))(x[1]),

    )  # fmt: skip


@case
def functional_call(p: Place) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    weights = {name: p(tensor.detach()) for name, tensor in model.named_parameters()}
    x = p(matrix())

    def loss(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, weights, (x,)).pow(2).sum()

    return torch.func.grad(loss)(weights, x), torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)


@case
def autograd_functional(p: Place) -> Any:
    x = p(matrix())

    def f(x: torch.Tensor) -> torch.Tensor:
        return (x**3).sum()

    ones = p(torch.ones(2, 3))
    return (
        torch.autograd.functional.jacobian(lambda x: x * 2, x), torch.autograd.functional.hessian(f, x),
        torch.autograd.functional.vjp(f, x), torch.autograd.functional.jvp(f, x, ones),
        torch.autograd.functional.hvp(f, x, ones),
    )  # fmt: skip


@case
def checkpointing(p: Place) -> Any:
    results = []
    for use_reentrant in (False, True):
        x = p(matrix()).requires_grad_()
        y = checkpoint(lambda x: (x.exp() * x).tanh(), x, use_reentrant=use_reentrant)
        y.sum().backward()
        results.append((y, x.grad))
    return results


@case
def autocast(p: Place) -> Any:
    x, w = p(matrix()).requires_grad_(), p(torch.ones(3, 4)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = x @ w
        z = y.exp().sum()
    z.backward()
    return y.dtype, y, z.dtype, x.grad, w.grad


@case
def custom_function(p: Place) -> Any:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
            return 2 * ctx.saved_tensors[0] * grad

    x = p(matrix()).requires_grad_()
    y = Double.apply(x)
    y.sum().backward()
    return y, x.grad


@case
def forward_mode(p: Place) -> Any:
    import torch.autograd.forward_ad as fwd

    with fwd.dual_level():
        dual = fwd.make_dual(p(matrix()), p(torch.ones(2, 3)))
        return tuple(fwd.unpack_dual(dual.sin() * dual))


@case
def saved_tensor_hooks(p: Place) -> Any:
    x, packed = p(matrix()).requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: packed.append(t.shape) or t, lambda t: t):
        y = x * x
    y.sum().backward()
    return packed, x.grad


@case
def clipping(p: Place) -> Any:
    x = p(matrix()).requires_grad_()
    (x * x).sum().backward()
    norm = nn.utils.clip_grad_norm_([x], 1.0)
    return norm, x.grad


# ---- Python's own protocols ----


@case
def deep_copies(p: Place) -> Any:
    x = p(matrix()).requires_grad_()
    (x * 2).sum().backward()
    twin = copy.deepcopy(x)
    with torch.no_grad():
        twin.zero_()
    twin.grad.zero_()
    parameter = copy.deepcopy(nn.Parameter(p(matrix()), requires_grad=False))
    both = copy.deepcopy([x, x])
    return x, x.grad, twin, twin.grad, twin.is_leaf, isinstance(parameter, nn.Parameter), (
        parameter.requires_grad, both[0] is both[1], both[0] is x, both,
    )  # fmt: skip


@case
def shallow_copies(p: Place) -> Any:
    x = p(matrix())
    y = copy.copy(x)
    y.add_(1)
    return y, y is x, x


@case
def parameters(p: Place) -> Any:
    w = nn.Parameter(p(matrix()))
    frozen = nn.Parameter(p(matrix()), requires_grad=False)
    module = nn.Linear(3, 2)
    module.weight = w
    (w * 2).sum().backward()
    return isinstance(w, nn.Parameter), w.requires_grad, w.is_leaf, w.grad, frozen.requires_grad, [
        n for n, _ in module.named_parameters()
    ], isinstance(w * 1, nn.Parameter), isinstance(p(matrix()), nn.Parameter), w  # fmt: skip


@case
def mathematics(p: Place) -> Any:
    import math

    x = p(torch.tensor(2.25))
    return math.sqrt(x), math.floor(x), math.ceil(x), max(x, p(torch.tensor(1.0))), sum([x, x])


@case
def random_numbers(p: Place) -> Any:
    x = p(torch.zeros(3, 3))
    seed_all(1)
    return (
        x.normal_(),
        torch.rand_like(x),
        x.uniform_(0, 1).clone(),
        torch.bernoulli(x),
        x.bernoulli_(0.5),
        torch.randn_like(x),
    )


@pytest.mark.filterwarnings("ignore:.*ComplexHalf", "ignore:Casting complex", "ignore:`torch.jit")
@pytest.mark.parametrize("compare", list(CASES.values()), ids=list(CASES))
def test_as_a_local_tensor(compare: Callable[[Place], Any], bob: VirtualWorker) -> None:
    check(compare, partial(_sent, bob))
    assert bob._objects == {}


@pytest.mark.filterwarnings("ignore:.*ComplexHalf", "ignore:Casting complex", "ignore:`torch.jit")
@pytest.mark.parametrize("compare", list(CASES.values()), ids=list(CASES))
def test_as_a_local_tensor_two_links_deep(
    compare: Callable[[Place], Any], bob: VirtualWorker, alice: VirtualWorker
) -> None:
    check(compare, lambda tensor: _sent(alice, _sent(bob, tensor)))
    assert is_empty(bob, alice)


def check(compare: Callable[[Place], Any], place: Place) -> None:
    """Run a case on local tensors and on those of ``place``, and compare all that it returns."""
    expected, actual = compare(lambda tensor: tensor), compare(place)
    (expected_leaves, expected_tree), (actual_leaves, actual_tree) = tree_flatten(expected), tree_flatten(actual)
    assert actual_tree == expected_tree
    assert list(map(described, actual_leaves)) == list(map(described, expected_leaves))
    for here, there in zip(expected_leaves, actual_leaves, strict=True):
        if isinstance(here, torch.Tensor):
            torch.testing.assert_close(home(there), home(here), equal_nan=True)


def _sent(worker: VirtualWorker, tensor: torch.Tensor) -> torch.Tensor:
    pointer = send(tensor, worker)
    assert type(pointer) is PointerTensor
    return pointer


# ---- where a pointer is not as a tensor ----


def test_printing_shows_no_values(bob: VirtualWorker) -> None:
    x = send(torch.tensor([123456.0]), bob)
    for text in (repr(x), str(x), f"{x}", repr([x]), repr(nn.Parameter(x))):
        assert "123456" not in text
        assert f"-> {bob.id}:{x.id_at_location}]" in text
    assert repr(nn.Parameter(x)).startswith("Parameter containing:\n")


def test_pickling_is_refused(bob: VirtualWorker, tmp_path: Any) -> None:
    x = send(matrix(), bob)
    with pytest.raises(Misuse, match="get"):
        pickle.dumps(x)
    with pytest.raises(Misuse, match="get"):
        torch.save({"weights": x}, tmp_path / "file")


def test_a_pointer_is_a_tensor_of_its_own_class(bob: VirtualWorker) -> None:
    x = send(matrix(), bob)
    assert isinstance(x, torch.Tensor)
    assert type(x * 2) is type(x.detach()) is type(x.T) is type(x[0]) is PointerTensor


def test_torch_words_of_shape_errors(bob: VirtualWorker) -> None:
    words = []
    for device in ("cpu", "meta"):  # a node is not asked for what metadata tells
        with pytest.raises(RuntimeError) as here:
            matrix().to(device) @ matrix().to(device)
        words.append(str(here.value))
    x = send(matrix(), bob)
    with pytest.raises(SyftError) as there:
        x @ x
    assert any(text in str(there.value) for text in words[: 1 + (type(bob) is not VirtualWorker)])
    with pytest.raises(IndexError, match="out of bounds"):
        x[5]


def test_take_is_the_operator_of_torch(bob: VirtualWorker) -> None:
    taken = send(matrix(), bob).take(send(torch.tensor([0, 3]), bob))
    assert torch.equal(taken.get(), matrix().take(torch.tensor([0, 3])))


def test_out_of_operators_with_several_results(bob):
    values = torch.randn(3, 4)
    pointer = send(values, bob)
    largest, where = pointer.new_zeros(0), pointer.new_zeros(0, dtype=torch.int64)
    torch.max(pointer, 1, out=(largest, where))
    assert largest.shape == where.shape == (3,)
    assert torch.equal(largest.get(), values.max(1).values) and torch.equal(where.get(), values.max(1).indices)


def test_a_tensor_that_was_sent_can_grow(bob):
    pointer = send(torch.ones(3), bob).detach()
    pointer.resize_(5)
    assert pointer.tolist() == [1, 1, 1, 0, 0]


def test_a_gradient_that_was_taken_before_is_no_hindrance(bob, alice):
    for carry in (lambda p: p.get(), lambda p: p.move(alice).get()):
        pointer = send(torch.ones(2, requires_grad=True), bob)
        (pointer * 3).sum().backward()
        assert pointer.grad.get().tolist() == [3, 3]
        assert carry(pointer).tolist() == [1, 1]


# ---- what torch does to memory ----

_WALK = """
import inspect, sys, warnings
import torch
import syft as sy
from syft.transport import Encoded, InProcess

warnings.simplefilter("ignore")
sy.VirtualWorker.default_transport = {"encoded": Encoded, "in-process": InProcess}[sys.argv[1]]
bob = sy.VirtualWorker(id="bob")
WAYS = ((), (0,), (0, 1), ([0, 1],), (lambda v: v,), ("ptr",), ("ptr", "ptr"), ("ptr", lambda a, b: a))
LOCAL = {"__class__", "__init_subclass__", "__subclasshook__", "__new__"}
for name in sorted(set(dir(torch.Tensor)) - LOCAL):
    for way in WAYS if callable(getattr(torch.Tensor, name)) else (None,):
        print(name, flush=True)
        p = sy.send(torch.tensor([[42.0, 43.0], [44.0, 45.0]]), bob)
        try:
            value = getattr(p, name)
            if way is not None:
                value = value(*(sy.send(torch.ones(2, 2), bob) if a == "ptr" else a for a in way))
        except Exception as error:
            assert "not allocated" not in str(error), (name, error)
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        assert not any(type(v) is torch.Tensor for v in values), (name, "is here")
print("all")
"""


@pytest.mark.virtual
def test_no_method_of_torch_crashes_or_gives_what_is_here(request: pytest.FixtureRequest) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _WALK, request.node.callspec.params["transport"]],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.stdout.splitlines()[-1:] == ["all"], (run.returncode, run.stdout[-80:], run.stderr[-800:])


@pytest.mark.parametrize(
    "touch",
    ["share_memory_", "storage", "untyped_storage", "data_ptr", "pin_memory", "apply_", "map2_", "__dlpack__"],
)
def test_a_pointer_has_no_memory(touch: str, bob: VirtualWorker) -> None:
    x = send(matrix(), bob)
    with pytest.raises(Misuse, match="has no memory here"):
        getattr(x, touch)()
    assert not x.is_pinned()


def test_a_module_away_shares_no_memory(bob: VirtualWorker) -> None:
    with pytest.raises(Misuse, match="has no memory here"):
        send_module(nn.Linear(2, 2), bob).share_memory()


def test_numpy_gets_no_garbage_by_dlpack(bob: VirtualWorker) -> None:
    with pytest.raises(Misuse, match="has no memory here"):
        np.from_dlpack(send(matrix(), bob))


def test_new_tensors_are_beside_the_pointer(bob: VirtualWorker) -> None:
    x = send(matrix(), bob)
    made = [x.new_tensor([1, 2]), x.new_tensor(x), x.new([1.0, 2.0]), x.new(2, 2), x.new(torch.Size([2])), x.new()]
    assert [m.location for m in made] == [bob] * 6  # type: ignore[attr-defined]
    expected = [torch.tensor([1.0, 2.0]), matrix(), torch.tensor([1.0, 2.0]), torch.zeros(2, 2), torch.zeros(2)]
    assert all(torch.equal(home(m), e) for m, e in zip(made, expected, strict=False))
    assert made[-1].shape == (0,)
    assert x.new_tensor(3, dtype=torch.int64, requires_grad=False).dtype == torch.int64
    assert x.new_tensor([1.0], requires_grad=True).requires_grad


def test_values_do_not_come_home_by_copy(bob: VirtualWorker) -> None:
    here, there = torch.zeros(2, 3), send(matrix(), bob)
    with pytest.raises(NotCollocated, match=r"p\.get\(\)"):
        here.copy_(there)
    with pytest.raises(NotCollocated, match=r"p\.get\(\)"):
        here[:] = there
    assert torch.equal(here, torch.zeros(2, 3))
    there.copy_(here)
    assert torch.equal(home(there), here)


def test_a_gradient_is_where_its_pointer_is(bob: VirtualWorker, alice: VirtualWorker) -> None:
    x = send(matrix(), bob).requires_grad_()
    for elsewhere in (matrix(), send(matrix(), alice)):
        with pytest.raises(NotCollocated, match=r"x\.send\(bob\)"):
            x.grad = elsewhere
        assert x.grad is None
    x.grad = send(matrix(), bob)
    assert torch.equal(home(x.grad), matrix())
    x.sum().backward()
    assert torch.equal(home(x.grad), matrix() + 1)
    del x.grad
    assert x.grad is None


def test_the_data_of_a_pointer_is_no_local_tensor(bob: VirtualWorker) -> None:
    x = send(matrix(), bob)
    with pytest.raises(NotCollocated, match=r"x\.send\(bob\)"):
        x.data = torch.ones(4)
    assert x.shape == (2, 3)
    assert torch.equal(home(x), matrix())


def test_there_are_no_meta_tensors_at_workers(bob: VirtualWorker) -> None:
    with pytest.raises(Misuse, match="meta"):
        send(torch.zeros(2, device="meta"), bob)
    with pytest.raises(Misuse, match="meta"):
        send(matrix(), bob).to("meta")


@pytest.mark.in_process
def test_a_chain_too_long_to_follow(bob: VirtualWorker, alice: VirtualWorker) -> None:
    x = send(matrix(), bob)
    for i in range(sys.getrecursionlimit()):
        x = send(x, bob if i % 2 else alice)
    with pytest.raises(LimitExceeded, match="too long"):
        x + x
    del x
    assert bob.objects_count() == alice.objects_count() == 0


# ---- distributions ----

D = torch.distributions
DISTRIBUTIONS: dict[str, Callable[[Place], D.Distribution]] = {
    "normal": lambda p: D.Normal(p(torch.zeros(3)), p(torch.ones(3))),
    "log_normal": lambda p: D.LogNormal(p(torch.zeros(3)), p(torch.ones(3))),
    "uniform": lambda p: D.Uniform(p(torch.zeros(3)), p(torch.ones(3) * 2)),
    "laplace": lambda p: D.Laplace(p(torch.zeros(3)), p(torch.ones(3))),
    "exponential": lambda p: D.Exponential(p(torch.ones(3))),
    "gamma": lambda p: D.Gamma(p(torch.ones(3)), p(torch.ones(3))),
    "beta": lambda p: D.Beta(p(torch.ones(3)), p(torch.ones(3))),
    "dirichlet": lambda p: D.Dirichlet(p(torch.ones(3))),
    "categorical": lambda p: D.Categorical(probs=p(torch.tensor([0.2, 0.3, 0.5]))),
    "bernoulli": lambda p: D.Bernoulli(p(torch.tensor([0.2, 0.3, 0.5]))),
    "poisson": lambda p: D.Poisson(p(torch.ones(3))),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_distributions(name: str, bob: VirtualWorker) -> None:
    def run(place: Place) -> list[torch.Tensor]:
        seed_all(0)
        leaves: list[torch.Tensor] = []

        def parameter(value: torch.Tensor) -> torch.Tensor:
            leaves.append(place(value).requires_grad_())
            return leaves[-1]

        distribution = DISTRIBUTIONS[name](parameter)
        sample = distribution.rsample((2,)) if distribution.has_rsample else distribution.sample((2,))
        density = distribution.log_prob(sample.detach())
        ((sample.sum() if distribution.has_rsample else 0) + density.sum()).backward()
        return [sample, density, *(leaf.grad for leaf in leaves if leaf.grad is not None)]

    expected, actual = run(lambda tensor: tensor), [home(value) for value in run(lambda tensor: send(tensor, bob))]
    torch.testing.assert_close(actual, [value.detach() for value in expected])


def test_the_parameters_of_a_distribution_are_in_one_place(bob: VirtualWorker) -> None:
    mixed = D.Normal(send(torch.zeros(3), bob), torch.tensor([1.0, 2.5, 4.0]), validate_args=False)
    with pytest.raises(NotCollocated):
        mixed.log_prob(send(torch.ones(3), bob))


def test_a_multivariate_normal_has_a_density(bob: VirtualWorker) -> None:
    def place(tensor: torch.Tensor) -> torch.Tensor:
        return send(tensor, bob)

    density = D.MultivariateNormal(place(torch.zeros(3)), place(torch.eye(3))).log_prob(place(torch.ones(3)))
    expected = D.MultivariateNormal(torch.zeros(3), torch.eye(3)).log_prob(torch.ones(3))
    torch.testing.assert_close(home(density), expected)


def test_affine_grid(bob: VirtualWorker) -> None:
    theta = torch.tensor([[[1.0, 0.5, 0.0], [0.0, 2.0, 1.0]]])
    expected, actual = (
        nn.functional.affine_grid(t, [1, 1, 3, 4], align_corners=False) for t in (theta, send(theta, bob))
    )
    assert torch.equal(home(actual), expected)
