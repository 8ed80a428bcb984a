"""What a room asks of operators: nothing of what torch's own database asks is refused, and what is held is counted."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import syft as sy
from syft import checks
from syft.errors import LimitExceeded, MalformedMessage, OperatorFailed
from syft.guard import Guard
from syft.operators import BY_NAME, allowed
from syft.store import Store

from .conformance.judge import ENTRIES, check

pytestmark = [pytest.mark.in_process, pytest.mark.filterwarnings("ignore")]

#: Entries of torch's database that reach most of the checks; the whole of it runs at nodes, which have them all.
CHECKED = [
    "_segment_reduce.lengths", "_segment_reduce.offsets", "cdist", "fft.irfft2", "lu_unpack",
    "nn.functional.adaptive_max_pool2d", "nn.functional.avg_pool3d", "nn.functional.batch_norm",
    "nn.functional.ctc_loss", "nn.functional.embedding_bag", "nn.functional.fractional_max_pool2d",
    "nn.functional.group_norm", "nn.functional.layer_norm", "nn.functional.max_unpool2d",
    "nn.functional.multilabel_margin_loss", "nn.functional.nll_loss", "nn.functional.pdist", "unbind",
]  # fmt: skip


@pytest.fixture
def guarded(bob):
    """A worker in process with a guard, as rooms have."""
    bob._worker.guard = Guard(bob._worker.store, 1 << 30)
    return bob


def test_every_check_is_of_an_operator_of_the_table_and_of_its_arguments() -> None:
    for name in (*checks.BY_SHAPE, *checks.BY_VALUE, *checks.BOUNDS):
        assert name in allowed()


@given(st.lists(st.one_of(st.integers(), st.floats(), st.none(), st.text(max_size=3), st.booleans()), max_size=4))
def test_any_arguments_are_let_through_or_refused(args: list[object]) -> None:
    guard = Guard(Store("bob"), 1 << 20)
    for name in ("aten::add.Tensor", "aten::zeros", "aten::cat", "aten::sum.dim_IntList"):
        with suppress(MalformedMessage, OperatorFailed, LimitExceeded):
            guard.permit(BY_NAME[name], args, {})


def test_what_is_held_is_counted_by_storage() -> None:
    store = Store("bob")
    guard = Guard(store, 4000)
    store.put(1, torch.zeros(500))  # 2,000 bytes
    store.put(2, store.objects[1][:1])
    store.put(3, store.objects[1].expand(100, 500))
    assert store.bytes() == 2000
    add = BY_NAME["aten::add.Tensor"]
    for _ in range(10):
        guard.permit(add, [store.objects[1], 1], {})  # each result is let go at once
    with pytest.raises(LimitExceeded, match="2000 of 4000"):
        guard.permit(add, [store.objects[3], 1], {})
    store.release(1)
    assert store.bytes() == 2000  # the views have it still
    store.release(2)
    store.release(3)
    assert store.bytes() == 0


def test_sparse_memory_and_growth_in_place_are_counted() -> None:
    store = Store("bob")
    store.put(1, torch.eye(10).to_sparse())
    assert store.bytes() == 10 * (2 * 8 + 4)
    guard = Guard(store, 1000)
    with pytest.raises(LimitExceeded):
        guard.permit(BY_NAME["aten::resize_"], [torch.zeros(2), [1000]], {})
    with pytest.raises(LimitExceeded):
        guard.permit(BY_NAME["aten::add.out"], [torch.zeros(1000), 1], {"out": torch.zeros(0)})
    guard.permit(BY_NAME["aten::add.out"], [torch.zeros(1000), 1], {"out": torch.zeros(1000)})


def test_outlines_draw_no_random_numbers() -> None:
    guard = Guard(Store("bob"), 1 << 20)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    for name in ("aten::rand_like", "aten::randn_like", "aten::bernoulli", "aten::native_dropout"):
        args = [torch.zeros(3), 0.5, True] if "dropout" in name else [torch.zeros(3)]
        guard.permit(BY_NAME[name], args, {})
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", CHECKED)
def test_what_torch_takes_is_let_through(name, guarded) -> None:
    check(ENTRIES[name], lambda t: sy.send(t, guarded), _bring, guarded.manual_seed)


def _bring(value: torch.Tensor) -> torch.Tensor:
    return value.get() if isinstance(value, sy.PointerTensor) else value
