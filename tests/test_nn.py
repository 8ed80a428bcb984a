"""Modules at workers: in place, all or nothing, and training there is training here."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_, parametrizations
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from syft import verbs
from syft.annotations import private_tensor
from syft.errors import GetNotPermitted, Misuse, NotCollocated, ObjectGone, WorkerShut
from syft.nn import copy_module, get_module, location_of, move_module, send_module
from syft.pointer import PointerTensor
from syft.sending import send_
from syft.workers import BaseWorker

from .helpers import is_empty, seed_all

pytestmark = pytest.mark.nodes

F = nn.functional


def assert_same(one: nn.Module, other: nn.Module) -> None:
    ours, theirs = one.state_dict(), other.state_dict()
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-6, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


class Recurrent(nn.Module):
    """A recurrent layer that gives its outputs only."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, states = self.layer(x)
        return outputs + sum(s.sum() for s in (states if isinstance(states, tuple) else (states,)))


class Packed(nn.Module):
    """A recurrent layer over sequences of different lengths."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs, _ = self.layer(PackedSequence(x, torch.tensor([3, 2, 2, 1])))
        return outputs.data


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.rnn = nn.LSTMCell(4, 5), nn.GRUCell(4, 5), nn.RNNCell(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, c = self.lstm(x)
        return h + c + self.gru(x) + self.rnn(x) + self.rnn(x[0])


class Attention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, **options)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output, weights = self.attention(x, x, x)
        return output + weights.sum()


class Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, x.flip(1))


class Bags(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(10, 4)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.bag(words)


def floats(*shape: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(shape, generator=torch.Generator().manual_seed(1))


def words(*shape: int) -> Callable[[], torch.Tensor]:
    return lambda: torch.randint(0, 10, shape, generator=torch.Generator().manual_seed(1))


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "MLP": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), floats(5, 4)),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3), floats(2, 3, 8)),
    "Conv2d": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)), floats(2, 3, 6, 6)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), floats(2, 2, 4, 4, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2), floats(2, 3, 4, 4)),
    "grouped and padded Conv2d": (
        lambda: nn.Conv2d(4, 4, 3, groups=2, padding="same", padding_mode="reflect"),
        floats(2, 4, 6, 6),
    ),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), floats(6, 4)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3, momentum=None), floats(4, 3, 5, 5)),
    "LayerNorm": (lambda: nn.LayerNorm(4), floats(6, 4)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), floats(6, 4, 3)),
    "InstanceNorm1d": (lambda: nn.InstanceNorm1d(4, affine=True, track_running_stats=True), floats(6, 4, 3)),
    "RMSNorm": (lambda: nn.RMSNorm(4), floats(6, 4)),
    "Embedding": (lambda: nn.Embedding(10, 4, padding_idx=0), words(6)),
    "EmbeddingBag": (Bags, words(3, 4)),
    "LSTM": (lambda: Recurrent(nn.LSTM(4, 5, num_layers=2)), floats(6, 3, 4)),
    "LSTM bidirectional": (lambda: Recurrent(nn.LSTM(4, 5, batch_first=True, bidirectional=True)), floats(3, 6, 4)),
    "LSTM projected": (lambda: Recurrent(nn.LSTM(4, 5, proj_size=2)), floats(6, 3, 4)),
    "LSTM unbatched": (lambda: Recurrent(nn.LSTM(4, 5)), floats(6, 4)),
    "LSTM packed": (lambda: Packed(nn.LSTM(4, 5)), floats(8, 4)),
    "GRU": (lambda: Recurrent(nn.GRU(4, 5, num_layers=2, bidirectional=True)), floats(6, 3, 4)),
    "GRU packed": (lambda: Packed(nn.GRU(4, 5)), floats(8, 4)),
    "RNN": (lambda: Recurrent(nn.RNN(4, 5, batch_first=True)), floats(3, 6, 4)),
    "RNN unbatched relu": (lambda: Recurrent(nn.RNN(4, 5, nonlinearity="relu")), floats(6, 4)),
    "cells": (Cells, floats(3, 4)),
    "MultiheadAttention": (lambda: Attention(batch_first=True), floats(2, 5, 8)),
    "MultiheadAttention, own sizes": (lambda: Attention(kdim=8, vdim=8, add_bias_kv=True), floats(5, 2, 8)),
    "TransformerEncoderLayer": (
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
        floats(2, 5, 8),
    ),
    "TransformerEncoder": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=True), 2, enable_nested_tensor=False
        ),
        floats(2, 5, 8),
    ),
    "TransformerDecoderLayer": (Decoder, floats(2, 5, 8)),
    "PReLU and GELU": (lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 4), nn.GELU()), floats(5, 4)),
    "Bilinear": (lambda: Twice(nn.Bilinear(4, 4, 2)), floats(5, 4)),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(4, 3)), floats(5, 4)),
    "spectral norm": (lambda: parametrizations.spectral_norm(nn.Linear(4, 3)), floats(5, 4)),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(4, 4)), floats(5, 4)),
}


class Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x, x)


def train(
    model: nn.Module, x: torch.Tensor, make_optimizer: Callable[..., torch.optim.Optimizer], steps: int = 3
) -> torch.Tensor:
    optimizer = make_optimizer(model.parameters())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - 0.5).square().mean()
        loss.backward()
        optimizer.step()
    return loss


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", MODULES)
def test_training_there_is_training_here(name: str, bob: BaseWorker) -> None:
    make, data = MODULES[name]
    for make_optimizer in (
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.Adam(p, lr=0.01, eps=1e-3),
    ):
        torch.manual_seed(0)
        here = make()
        there = copy.deepcopy(here)
        expected = train(here, data(), make_optimizer)
        loss = train(send_module(there, bob), verbs.send(data(), bob), make_optimizer)
        torch.testing.assert_close(loss.get().detach(), expected.detach(), atol=1e-6, rtol=1e-5)
        get_module(there)
        assert_same(there, here)
    del loss
    gc.collect()
    assert bob._objects == {}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("name", MODULES)
def test_evaluating_there_is_evaluating_here(name: str, bob: BaseWorker) -> None:
    make, data = MODULES[name]
    torch.manual_seed(0)
    model = make().eval()
    with torch.inference_mode():
        expected = model(data())
    with torch.no_grad():
        result = send_module(copy_module(model), bob)(verbs.send(data(), bob))
    assert isinstance(result, PointerTensor)
    torch.testing.assert_close(result.get(), expected, atol=1e-6, rtol=1e-5)


def test_dropout_with_the_same_seed(bob: BaseWorker) -> None:
    here = nn.Sequential(nn.Linear(4, 50), nn.Dropout(0.5), nn.Linear(50, 2))
    there = send_module(copy_module(here), bob)
    x = floats(5, 4)()
    seed_all(7)
    train(here, x, lambda p: torch.optim.SGD(p, lr=0.1))
    seed_all(7)
    train(there, verbs.send(x, bob), lambda p: torch.optim.SGD(p, lr=0.1))
    assert_same(get_module(there), here)


LOSSES: dict[str, tuple[Callable[..., torch.Tensor], Callable[[], torch.Tensor]]] = {
    "cross_entropy": (F.cross_entropy, lambda: torch.tensor([0, 2, 1, 1])),
    "cross_entropy smooth, ignoring": (
        lambda a, b: F.cross_entropy(a, b, label_smoothing=0.1, ignore_index=2),
        lambda: torch.tensor([0, 2, 1, 1]),
    ),
    "cross_entropy of probabilities": (F.cross_entropy, lambda: floats(4, 3)().softmax(1)),
    "nll_loss": (lambda a, b: F.nll_loss(a.log_softmax(1), b), lambda: torch.tensor([0, 2, 1, 1])),
    "mse_loss": (F.mse_loss, floats(4, 3)),
    "l1_loss": (F.l1_loss, floats(4, 3)),
    "huber_loss": (F.huber_loss, floats(4, 3)),
    "smooth_l1_loss": (F.smooth_l1_loss, floats(4, 3)),
    "bce_with_logits": (F.binary_cross_entropy_with_logits, lambda: floats(4, 3)().gt(0).float()),
    "bce": (lambda a, b: F.binary_cross_entropy(a.sigmoid(), b), lambda: floats(4, 3)().gt(0).float()),
    "kl_div": (lambda a, b: F.kl_div(a.log_softmax(1), b, reduction="batchmean"), lambda: floats(4, 3)().softmax(1)),
    "cosine_embedding_loss": (lambda a, b: F.cosine_embedding_loss(a, b, b.new_ones(4)), floats(4, 3)),
    "gaussian_nll_loss": (lambda a, b: F.gaussian_nll_loss(a, b, b.square() + 1), floats(4, 3)),
    "multi_margin_loss": (F.multi_margin_loss, lambda: torch.tensor([0, 2, 1, 1])),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses(name: str, bob: BaseWorker) -> None:
    loss_of, target = LOSSES[name]
    here = nn.Linear(5, 3)
    there = send_module(copy_module(here), bob)
    x, y = floats(4, 5)(), target()
    loss_of(here(x), y).backward()
    loss = loss_of(there(verbs.send(x, bob)), verbs.send(y, bob))
    loss.backward()
    torch.testing.assert_close(loss.get().detach(), loss_of(here(x), y).detach())
    get_module(there)
    torch.testing.assert_close(there.weight.grad, here.weight.grad)


def test_transformers_with_masks(bob: BaseWorker) -> None:
    here = nn.Transformer(8, 2, 1, 1, 16, batch_first=True, dropout=0.0)
    there = send_module(copy_module(here), bob)
    s, t, mask = floats(2, 5, 8)(), floats(2, 4, 8)(), nn.Transformer.generate_square_subsequent_mask(4)
    result = there(verbs.send(s, bob), verbs.send(t, bob), tgt_mask=verbs.send(mask, bob))
    torch.testing.assert_close(result.detach().get(), here(s, t, tgt_mask=mask).detach(), atol=1e-6, rtol=1e-5)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    result = there(verbs.send(s, bob), verbs.send(t, bob), src_key_padding_mask=verbs.send(padding, bob))
    expected = here(s, t, src_key_padding_mask=padding)
    torch.testing.assert_close(result.detach().get(), expected.detach(), atol=1e-6, rtol=1e-5)
    assert not any(layer._forward_pre_hooks for layer in get_module(there).modules())


# ---- in place ----


def test_parameters_and_buffers_keep_their_identity(bob: BaseWorker, alice: BaseWorker) -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    model[0].bias.requires_grad_(False)
    model[0].weight.note = "mine"
    before = [*model.parameters(), *model.buffers()]
    values = copy.deepcopy(model.state_dict())
    assert location_of(model) is None
    for go, where in ((send_module, bob), (move_module, alice)):
        assert go(model, where) is model
        assert location_of(model) is where
        assert [id(t) for t in (*model.parameters(), *model.buffers())] == [id(t) for t in before]
        assert all(isinstance(p, nn.Parameter) and isinstance(p, PointerTensor) for p in model.parameters())
        assert not any(isinstance(b, nn.Parameter) for b in model.buffers())
        assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]
        assert len(where._objects) == 7
    assert bob._objects == {}
    assert get_module(model) is model
    assert alice._objects == {}
    assert [id(t) for t in (*model.parameters(), *model.buffers())] == [id(t) for t in before]
    assert all(type(p) is nn.Parameter for p in model.parameters())
    assert all(type(b) is torch.Tensor for b in model.buffers())
    assert [p.requires_grad for p in model.parameters()] == [True, False, True, True]
    assert model[0].weight.note == "mine"
    for name, value in model.state_dict().items():
        assert torch.equal(value, values[name])


def test_tied_parameters_stay_tied(bob: BaseWorker) -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Tanh(), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    here = copy_module(model)
    assert here[2].weight is here[0].weight
    send_module(model, bob)
    assert len(bob._objects) == 1
    there = copy_module(model)
    assert there[2].weight is there[0].weight
    assert there[0].weight is not model[0].weight
    train(there, verbs.send(floats(3, 4)(), bob), lambda p: torch.optim.SGD(p, lr=0.1))
    train(here, floats(3, 4)(), lambda p: torch.optim.SGD(p, lr=0.1))
    get_module(there)
    assert there[2].weight is there[0].weight
    assert_same(there, here)


def test_gradients_come_along(bob: BaseWorker, alice: BaseWorker) -> None:
    model = nn.Linear(3, 2)
    model(torch.ones(1, 3)).sum().backward()
    gradient = model.weight.grad.clone()
    send_module(model, bob)
    assert model.weight.grad.location is bob
    assert len(bob._objects) == 4
    move_module(model, alice)
    assert model.weight.grad.location is alice
    assert bob._objects == {}
    get_module(model)
    assert torch.equal(model.weight.grad, gradient)
    assert alice._objects == {}


@pytest.mark.parametrize("set_to_none", [True, False])
def test_zero_grad(set_to_none: bool, bob: BaseWorker) -> None:
    model = send_module(nn.Linear(3, 2), bob)
    model(verbs.send(torch.ones(1, 3), bob)).sum().backward()
    model.zero_grad(set_to_none=set_to_none)
    get_module(model)
    assert model.weight.grad is None if set_to_none else torch.equal(model.weight.grad, torch.zeros(2, 3))


def test_frozen_parameters_of_other_kinds_go_too(bob: BaseWorker) -> None:
    model = nn.Module()
    model.count = nn.Parameter(torch.tensor(3), requires_grad=False)
    model.register_buffer("mask", torch.tensor([True, False]), persistent=False)
    model.register_buffer("nothing", None)
    send_module(model, bob)
    assert (model.count + 1).get() == 4
    get_module(model)
    assert model.count.dtype is torch.int64
    assert model.mask.tolist() == [True, False]


def test_a_module_without_tensors(bob: BaseWorker) -> None:
    model = nn.ReLU()
    assert location_of(send_module(model, bob)) is None
    assert get_module(model) is model


def test_sent_in_inference_mode_it_can_still_be_trained(bob: BaseWorker) -> None:
    model = nn.Linear(2, 2)
    with torch.inference_mode():
        send_module(model, bob)
        get_module(model)
    model(torch.ones(1, 2)).sum().backward()
    assert torch.equal(model.weight.grad, torch.ones(2, 2))


def test_weak_references_go_on(bob: BaseWorker) -> None:
    model = nn.Linear(2, 2)
    reference = weakref.ref(model.weight)
    send_module(model, bob)
    assert reference() is model.weight
    get_module(model)
    assert reference() is model.weight


def test_nothing_of_a_recurrent_layer_stays_behind(bob: BaseWorker, alice: BaseWorker) -> None:
    layer = nn.LSTM(3, 4)
    before = set(layer.__dict__)
    send_module(layer, bob)
    assert len(layer._forward_pre_hooks) == 1
    move_module(layer, alice)
    assert len(layer._forward_pre_hooks) == 1
    get_module(layer)
    assert not layer._forward_pre_hooks
    assert set(layer.__dict__) == before
    outputs, _ = layer(torch.zeros(2, 3))
    assert outputs.shape == (2, 4)


def test_a_recurrent_layer_takes_the_state_it_is_given(bob: BaseWorker) -> None:
    here = nn.GRU(3, 4)
    there = send_module(copy_module(here), bob)
    x, h = floats(5, 2, 3)(), floats(1, 2, 4)()
    expected, _ = here(x, h)
    for outputs, _ in (
        there(verbs.send(x, bob), verbs.send(h, bob)),
        there(verbs.send(x, bob), hx=verbs.send(h, bob)),
        there(input=verbs.send(x, bob), hx=verbs.send(h, bob)),
    ):
        torch.testing.assert_close(outputs.get(), expected, check_layout=False)


def test_a_packed_sequence_that_was_packed_at_the_worker(bob: BaseWorker) -> None:
    here = nn.LSTM(3, 4)
    there = send_module(copy_module(here), bob)
    x, lengths = floats(5, 2, 3)(), torch.tensor([5, 3])
    expected, _ = here(pack_padded_sequence(x, lengths))
    packed = pack_padded_sequence(verbs.send(x, bob), verbs.send(lengths, bob))
    outputs, (h, _) = there(packed)
    torch.testing.assert_close(outputs.data.get(), expected.data)
    assert h.location is bob


# ---- a live graph ----


def test_a_model_comes_home_while_its_loss_lives(bob: BaseWorker) -> None:
    here = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    there = copy_module(here)
    x = floats(3, 4)()
    optimizer = torch.optim.SGD(there.parameters(), lr=0.1)
    for _ in range(3):
        send_module(there, bob)
        optimizer.zero_grad()
        loss = there(verbs.send(x, bob)).square().sum()
        output = there(verbs.send(x, bob))
        loss.backward()
        optimizer.step()
        taken = [p.id_at_location for p in there.parameters()]
        get_module(there)
        assert not set(taken) & bob._objects.keys()
    local = torch.optim.SGD(here.parameters(), lr=0.1)
    for _ in range(3):
        local.zero_grad()
        here(x).square().sum().backward()
        local.step()
    assert_same(there, here)
    del loss, output
    gc.collect()
    assert is_empty(bob)


@pytest.mark.parametrize("journey", ["home", "on", "away"])
def test_a_backward_pass_after_the_model_has_gone(journey: str, bob: BaseWorker, alice: BaseWorker) -> None:
    here = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    there = copy_module(here)
    x = floats(3, 4)()
    here(x).square().sum().backward()
    if journey == "away":
        loss = there(x).square().sum()
        send_module(there, bob)
    else:
        loss = send_module(there, bob)(verbs.send(x, bob)).square().sum()
        move_module(there, alice) if journey == "on" else get_module(there)
    loss.backward()
    assert there[0].weight.grad is not None
    if journey != "home":
        get_module(there)
    for ours, theirs in zip(there.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_a_tensor_of_one_number_gets_its_late_gradient(bob: BaseWorker) -> None:
    model = nn.Module()
    model.scale = nn.Parameter(torch.tensor(3.0))
    loss = model.scale**2
    send_module(model, bob)
    loss.backward()
    assert model.scale.grad.location is bob
    assert model.scale.grad.get() == 6


def test_one_tensor_in_place_while_a_graph_has_saved_it(bob: BaseWorker) -> None:
    x = torch.ones(2, requires_grad=True)
    before = (x * x).sum()
    assert send_(x, bob) is x
    after = (x * x).sum()
    assert x.get_() is x
    assert x.tolist() == [1.0, 1.0]
    before.backward()
    after.backward()
    assert x.grad.tolist() == [4.0, 4.0]


def test_gradient_hooks_go_along(bob: BaseWorker) -> None:
    model = nn.Linear(3, 2)
    seen = []
    handle = model.weight.register_hook(lambda g: g * 2)
    model.weight.register_post_accumulate_grad_hook(lambda p: seen.append(p))
    send_module(model, bob)
    model(verbs.send(torch.ones(1, 3), bob)).sum().backward()
    assert len(seen) == 1
    assert seen[0] is model.weight
    get_module(model)
    assert torch.equal(model.weight.grad, torch.full((2, 3), 2.0))
    model(torch.ones(1, 3)).sum().backward()
    assert torch.equal(model.weight.grad, torch.full((2, 3), 4.0))
    assert len(seen) == 2
    handle.remove()
    model(torch.ones(1, 3)).sum().backward()
    assert torch.equal(model.weight.grad, torch.full((2, 3), 5.0))


def test_hooks_of_modules(bob: BaseWorker) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    seen = []
    model[0].register_forward_hook(lambda m, i, o: seen.append(o))
    model[0].register_full_backward_hook(lambda m, i, o: seen.append(o[0]))
    send_module(model, bob)(verbs.send(torch.ones(1, 3), bob).requires_grad_()).sum().backward()
    assert [type(t) for t in seen] == [PointerTensor] * 2


def test_clipping_the_gradient(bob: BaseWorker) -> None:
    here = nn.Linear(4, 3)
    there = send_module(copy_module(here), bob)
    x = floats(3, 4)()
    here(x).square().sum().backward()
    there(verbs.send(x, bob)).square().sum().backward()
    for options in ({}, {"foreach": True}, {"norm_type": float("inf")}):
        norm = clip_grad_norm_(here.parameters(), 0.1, **options)
        torch.testing.assert_close(clip_grad_norm_(there.parameters(), 0.1, **options).get(), norm)
    nn.utils.clip_grad_value_(here.parameters(), 0.01)
    nn.utils.clip_grad_value_(there.parameters(), 0.01)
    get_module(there)
    torch.testing.assert_close(there.weight.grad, here.weight.grad)


# ---- all or nothing ----


def assert_as_before(model: nn.Module, where: BaseWorker | None, before: list[torch.Tensor]) -> None:
    assert location_of(model) is where
    now = [*model.parameters(), *model.buffers()]
    assert [id(t) for t in now] == [id(t) for t in before]


def test_sending_to_a_shut_worker_changes_nothing(bob: BaseWorker) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    before = [*model.parameters(), *model.buffers()]
    bob.shut()
    with pytest.raises(WorkerShut):
        send_module(model, bob)
    assert_as_before(model, None, before)
    assert model(torch.ones(3, 2)).shape == (3, 2)


def test_a_tensor_that_cannot_be_sent_keeps_all_here(bob: BaseWorker) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(2))
    before = list(model.parameters())
    with pytest.raises(Misuse, match="Run it once here"):
        send_module(model, bob)
    assert_as_before(model, None, before)
    assert bob._objects == {}


def test_an_object_that_is_gone_keeps_all_there(bob: BaseWorker, alice: BaseWorker) -> None:
    model = send_module(nn.Linear(2, 2), bob)
    before = list(model.parameters())
    bob.release(model.bias.id_at_location)
    listed = bob._objects
    for go in (get_module, lambda m: move_module(m, alice)):
        with pytest.raises(ObjectGone):
            go(model)
        assert_as_before(model, bob, before)
        assert bob._objects.keys() == listed.keys() == {model.weight.id_at_location}
        assert alice._objects == {}


def test_moving_to_a_shut_worker_changes_nothing(bob: BaseWorker, alice: BaseWorker) -> None:
    model = send_module(nn.Linear(2, 2), bob)
    before = list(model.parameters())
    alice.shut()
    with pytest.raises((WorkerShut, LookupError)):
        move_module(model, alice)
    assert_as_before(model, bob, before)
    assert model(verbs.send(torch.ones(1, 2), bob)).shape == (1, 2)


def test_a_private_parameter_comes_home_to_its_user_only(bob: BaseWorker) -> None:
    model = nn.Linear(2, 2)
    model.register_buffer("secret", private_tensor(torch.ones(2), ["ann"]))
    send_module(model, bob, user="ann")
    with pytest.raises(GetNotPermitted):
        get_module(model)
    assert location_of(model) is bob
    assert len(bob._objects) == 3
    get_module(model, user="ann")
    assert torch.equal(model.secret, torch.ones(2))
    assert bob._objects == {}


# ---- places ----


def test_a_module_sent_on_is_one_of_chains(bob: BaseWorker, alice: BaseWorker) -> None:
    here = nn.LSTM(3, 4)
    there = copy_module(here)
    send_module(send_module(there, bob), alice)
    assert location_of(there) is alice
    assert all(isinstance(t, PointerTensor) for t in alice._objects.values())
    x = verbs.send(verbs.send(floats(5, 2, 3)(), bob), alice)
    there(x)[0].sum().backward()
    here(floats(5, 2, 3)())[0].sum().backward()
    assert location_of(get_module(there)) is bob
    get_module(there)
    for ours, theirs in zip(there.parameters(), here.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-5)
    del x
    gc.collect()
    assert is_empty(bob, alice)


def test_a_module_in_parts(bob: BaseWorker, alice: BaseWorker) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    send_module(model[0], bob)
    with pytest.raises(NotCollocated, match="at bob, here"):
        location_of(model)
    with pytest.raises(NotCollocated):
        send_module(model, alice)
    send_module(model[1], alice)
    move_module(model, bob)
    assert location_of(model) is bob
    assert alice._objects == {}
    get_module(model)
    assert location_of(model) is None
    assert bob._objects == {}


def test_words_for_what_cannot_be(bob: BaseWorker) -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(Misuse, match="nothing to get"):
        get_module(model)
    with pytest.raises(Misuse, match="nothing to move"):
        move_module(model, bob)
    with pytest.raises(Misuse, match="not to a str"):
        send_module(model, "bob")
    for verb in (verbs.get, lambda x: verbs.move(x, bob)):
        with pytest.raises(Misuse, match="nothing to"):
            verb(torch.ones(2))
    for verb in (verbs.send, verbs.get, verbs.copy, verbs.location):
        with pytest.raises(Misuse, match="a list"):
            verb([1])


def test_the_verbs_do_for_tensors_and_modules_alike(bob: BaseWorker, alice: BaseWorker) -> None:
    for thing in (torch.ones(2), nn.Linear(2, 2)):
        there = verbs.send(thing, bob)
        assert verbs.location(there) is bob
        twin = verbs.copy(there)
        assert verbs.location(twin) is bob
        there = verbs.move(there, alice)
        assert verbs.location(there) is alice
        assert verbs.location(verbs.get(there)) is None
        assert verbs.location(verbs.copy(thing)) is None


def test_state_dicts_cross(bob: BaseWorker) -> None:
    here, there = nn.BatchNorm1d(3), send_module(nn.BatchNorm1d(3), bob)
    here(floats(5, 3)())
    here.weight.data.fill_(2.0)
    there.load_state_dict(here.state_dict())
    assert location_of(there) is bob
    with pytest.raises(RuntimeError, match=r"p\.get\(\)"):
        nn.BatchNorm1d(3).load_state_dict(there.state_dict())
    assert_same(get_module(there), here)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_with_a_padding_mask_in_evaluation(bob: BaseWorker) -> None:
    torch.manual_seed(0)
    here = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).eval()
    there = send_module(copy_module(here), bob)
    x, padding = floats(2, 3, 8)(), torch.tensor([[False, False, True], [False, False, False]])
    with torch.no_grad():
        expected = here(x, src_key_padding_mask=padding)
        actual = there(verbs.send(x, bob), src_key_padding_mask=verbs.send(padding, bob)).get()
    torch.testing.assert_close(actual[~padding], expected[~padding])


@pytest.mark.parametrize("sampled", ["randn_like", "rsample"])
def test_an_autoencoder_with_noise_trains_as_here(sampled: str, bob: BaseWorker) -> None:
    def trained(worker: BaseWorker | None) -> torch.Tensor:
        torch.manual_seed(0)
        encoder, decoder, x = nn.Linear(6, 4), nn.Linear(2, 6), torch.rand(8, 6)
        if worker is not None:
            send_module(encoder, worker), send_module(decoder, worker)
            x = verbs.send(x, worker)
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], 0.01)
        for step in range(4):
            seed_all(step)
            mean, log_variance = encoder(x).chunk(2, 1)
            code = torch.distributions.Normal(mean, (log_variance / 2).exp())
            noisy = code.rsample() if sampled == "rsample" else mean + code.scale * torch.randn_like(code.scale)
            divergence = torch.distributions.kl_divergence(code, torch.distributions.Normal(0.0, 1.0))
            loss = ((decoder(noisy) - x) ** 2).sum() + divergence.sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return (encoder if worker is None else get_module(encoder)).weight.detach()

    torch.testing.assert_close(trained(bob), trained(None))


@pytest.mark.parametrize("pad", ["pad_sequence", "pack_sequence", "pad_packed_sequence"])
def test_what_torch_pads_here_does_not_come_home_unasked(pad: str, bob: BaseWorker) -> None:
    x = verbs.send(floats(3, 2)(), bob)
    packed = PackedSequence(x, torch.tensor([2, 1]))
    with pytest.raises(NotCollocated, match=r"p\.get\(\)"):
        getattr(nn.utils.rnn, pad)(packed if pad == "pad_packed_sequence" else [x, x[:1]])
