"""What operators can be made to do, as data: each is refused with its code, or ends its own room alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from syft.errors import BY_CODE, LimitExceeded, OperatorFailed
from syft.ids import new_id
from syft.messages import Clear, Describe, Get, Put, Run
from syft.operators import BY_NAME, allowed
from syft.wire import Ref

from .conftest import ROOM_BYTES, Attacker

pytestmark = pytest.mark.in_process

MIN = -(2**63)
HUGE = 1 << 40
nan, one, ones, far = float("nan"), torch.ones(1), torch.ones(3, 4), torch.tensor([1 << 40])
image, places = torch.ones(1, 1, 4, 4), torch.full((1, 1, 2, 2), 1 << 40)


class Attack(NamedTuple):
    """One call; ``code`` of the error, or of one of the errors."""

    operator: str
    args: list[Any]
    kwargs: dict[str, Any]
    code: str

    def __str__(self) -> str:
        return f"{self.operator.removeprefix('aten::')}-{self.code}"


def refused(code: str, operator: str, *args: Any, **kwargs: Any) -> Attack:
    return Attack(f"aten::{operator}", list(args), kwargs, code)


#: Arguments that are not of the kinds of the schema.
MALFORMED = [
    refused("malformed-message", *call[:-1], **call[-1])
    for call in (
        ("zeros", [2], {"dtype": 99}),
        ("zeros", [2], {"dtype": 6}),
        ("view.dtype", ones, 99, {}),
        ("zeros", [2], {"dtype": "float32"}),
        ("zeros", [2], {"layout": 7}),
        ("clone", ones, {"memory_format": 99}),
        ("zeros", [2], {"device": "meta"}),
        ("zeros", [2], {"device": "cuda:0"}),
        ("rand", [2], {"generator": 5}),
        ("zeros", [torch.tensor(3)], {}),
        ("select.int", ones, 0, torch.tensor(1), {}),
        ("normal_", ones, torch.tensor(1.0), {}),
        ("sum.dim_IntList", ones, [0], torch.tensor(True), {}),
        ("sum.dim_IntList", ones, [0], 5, {}),
        ("select.int", ones, 0.0, 1, {}),
        ("div.Tensor_mode", ones, ones, {"rounding_mode": 5}),
        ("cat", ones, {}),
        ("cat", [ones, None], {}),
        ("cat", [ones, 1], {}),
        ("neg", {}),
        ("neg", None, {}),
        ("neg", "x", {}),
        ("neg", ones, ones, {}),
        ("neg", ones, {"no": 1}),
        ("neg", ones, {"__class__": 1}),
        ("neg", ones, {"self": ones}),
        ("add_.Tensor", 1, ones, {}),
        ("add.Tensor", ones, ones, {"alpha": "1"}),
        ("index.Tensor", ones, [[[one]]], {}),
    )
]

#: Names that are no operators of the table.
UNKNOWN = [
    refused("operator-not-allowed", name)
    for name in (
        "from_file", "set_.source_Tensor", "set_.source_Storage_storage_offset", "save", "__class__", "add.__class__",
        "add.Tensor.overloadpacket", "add.Tensor._op", "", ".", "add.", "__init__.__globals__", "range.step",
        "_cummax_helper", "_nnpack_spatial_convolution", "lcm", "eye.out", "record_stream", "manual_seed",
        "quantized_lstm_cell", "_remove_batch_dim", "_sobol_engine_draw", "_reshape_alias", "to_mkldnn", "x" * 200,
    )
] + [
    Attack(name, [], {}, "operator-not-allowed")
    for name in ("os::system", "builtins::eval", "torch", "prims::add", "aten", "::", "load_library::x")
]  # fmt: skip

#: What torch itself does not check, by shape and by value.
UNCHECKED = [
    refused("operator-failed", "div.Tensor_mode",
            torch.tensor([MIN] * 8), torch.tensor([-1] * 8), rounding_mode="trunc"),
    refused("operator-failed", "div.Tensor_mode", torch.tensor([MIN] * 8), -1, rounding_mode="trunc"),
    refused("operator-failed", "as_strided", torch.ones(4), [1 << 20], [1], 0),
    refused("operator-failed", "as_strided", torch.ones(4), [2], [1], 3),
    refused("operator-failed", "as_strided_", torch.ones(4), [5], [1], 0),
    refused("operator-failed", "linalg_eig", torch.full((4, 4), nan)),
    refused("operator-index-failed", "_ctc_loss", torch.zeros(2, 1, 3), torch.tensor([[7]]), [2], [1]),
    refused("operator-index-failed", "_ctc_loss", torch.zeros(2, 1, 3), torch.tensor([[1]]), [2], [9]),
    refused("operator-index-failed", "_ctc_loss.Tensor",
            torch.zeros(2, 1, 3), torch.tensor([[-5]]), one.long() * 2, one.long()),
    refused("operator-index-failed", "nll_loss_backward", one, ones, far.expand(3).clone(), None, 0, -100, one),
    refused("operator-index-failed", "max_pool2d_with_indices_backward",
            torch.ones(1, 1, 2, 2), image, [2, 2], [2, 2], [0, 0], [1, 1], False, places),
    refused("operator-index-failed", "adaptive_max_pool2d_backward", torch.ones(1, 1, 2, 2), image, places),
    refused("operator-index-failed", "max_unpool2d", torch.ones(1, 1, 2, 2), places, [4, 4]),
    refused("operator-index-failed", "embedding_dense_backward", torch.ones(1, 4), far, 3, -1, False),
    refused("operator-index-failed", "embedding", ones, far),
    refused("operator-index-failed", "_embedding_bag", ones, far, torch.tensor([0])),
    refused("operator-index-failed", "_embedding_bag", ones, torch.tensor([0]), torch.tensor([0, 1 << 40])),
    refused("operator-failed", "_embedding_bag", ones, torch.tensor([0]), torch.tensor([], dtype=torch.long)),
    refused("operator-failed", "gather", ones, 0, far.view(1, 1)),
    refused("operator-failed", "scatter.src", ones, 0, far.view(1, 1), ones),
    refused("operator-index-failed", "index_select", ones, 0, far),
    refused("operator-index-failed", "index.Tensor", ones, [far]),
    refused("operator-index-failed", "_index_put_impl_", ones, [far], one, False, True),
    refused("operator-index-failed", "take", ones, far),
    refused("operator-index-failed", "_sparse_coo_tensor_with_dims_and_tensors",
            1, 0, [3], far.view(1, 1), one, layout=torch.sparse_coo),
    refused("operator-failed", "_fft_c2c", torch.ones(4, dtype=torch.complex64), [1 << 40], 0, True),
    refused("operator-failed", "_fft_r2c", torch.ones(4), [-2], 0, True),
    refused("operator-failed", "_adaptive_avg_pool2d_backward", torch.ones(1, 9, 2, 2), image),
    refused("operator-failed", "avg_pool2d_backward",
            torch.ones(9, 9), image, [2, 2], [2, 2], [0, 0], False, True, None),
    refused("operator-failed", "_softmax_backward_data", torch.ones(0), ones, 1, torch.float32),
    refused("operator-failed", "native_batch_norm", ones, one, one, one, one, True, 0.1, 1e-5),
    refused("operator-failed", "grid_sampler_2d_backward", image, image,
            torch.full((1, 4, 4, 2), nan), 0, 2, False, [True] * 2),
    refused("operator-failed", "upsample_nearest2d", image, [6, 6], 1e-310, 1e-310),
    refused("operator-failed", "native_group_norm", ones, None, None, 3, 4, 1, 0, 1e-5),
    refused("operator-failed", "_pdist_backward", torch.ones(0), torch.ones(0, 1), 2.0, torch.ones(0)),
    refused("operator-index-failed", "lu_unpack", torch.ones(2, 2), torch.tensor([9, 9], dtype=torch.int32)),
]  # fmt: skip

#: Results for which there is no room, however they would come about.
TOO_LARGE = [
    refused("limit-exceeded", *call[:-1], **call[-1])
    for call in (
        ("zeros", [HUGE], {}),
        ("empty.memory_format", [HUGE], {}),
        ("randn", [1 << 15, 1 << 15], {}),
        ("arange", HUGE, {}),
        ("arange.start_step", 0.0, 1.0, 1e-12, {}),
        ("repeat", ones, [HUGE, 1], {}),
        ("add.Tensor", torch.ones(1 << 14, 1), torch.ones(1, 1 << 14), {}),
        ("mm", torch.ones(1 << 14, 1), torch.ones(1, 1 << 14), {}),
        ("constant_pad_nd", ones, [0, HUGE], {}),
        ("resize_", ones, [HUGE], {}),
        ("new_zeros", ones, [HUGE], {}),
        ("upsample_nearest2d", image, [1 << 20, 1 << 20], {}),
        ("eye", 1 << 16, {}),
        ("nonzero_static", ones, {"size": HUGE}),
        ("bincount", far, {}),
        ("repeat_interleave.Tensor", far, {}),
        ("repeat_interleave.Tensor", torch.tensor([-MIN - 1, -MIN - 1, 7]), {}),
        ("diag_embed", torch.ones(1 << 16), {}),
        ("add.out", torch.ones(1 << 14, 1), torch.ones(1, 1 << 14), {"out": torch.ones(0)}),
        ("tril_indices", 1 << 20, 1 << 20, {}),
    )
]  # fmt: skip

#: Refused by torch itself, because the number of bytes does not fit in 64 bits.
OVERFLOWING = [
    refused("operator-failed", "zeros", [1 << 62]),
    refused("operator-failed", "zeros", [1 << 31, 1 << 31, 4]),
]


@pytest.fixture(scope="module")
def room(fort: Any, mallory_certificate: Any) -> Any:
    """One room for all attacks that it is to outlive."""
    attacker = Attacker(fort, mallory_certificate)
    attacker.ask(Put(1, torch.tensor([7.0])))
    yield attacker
    attacker.worker.shut()


@pytest.fixture(scope="module")
def bystander() -> None:
    """These attacks end no room, which is seen at once."""


def _results(operator: str) -> int:
    return BY_NAME[operator].returned.count(None) if operator in allowed() else 1


@pytest.mark.parametrize("attack", [*MALFORMED, *UNKNOWN, *UNCHECKED, *TOO_LARGE, *OVERFLOWING], ids=str)
def test_is_refused_and_changes_nothing(room: Attacker, attack: Attack) -> None:
    with pytest.raises(BY_CODE[attack.code]) as caught:
        room.run(attack.operator, attack.args, attack.kwargs, _results(attack.operator))
    assert caught.value.code == attack.code, caught.value
    assert room.ask(Get(1)).value.tolist() == [7.0]


#: What no check sees: the call ends its room, and that alone.
CONTAINED = [
    refused("worker-shut", "linalg_ldl_solve",
            torch.randn(5, 5), torch.tensor([-1, 2, 3, 4, 5], dtype=torch.int32), torch.randn(5, 5)),
]  # fmt: skip


def test_a_result_that_nothing_can_foresee_is_counted_after(room: Attacker) -> None:
    """Picking by a mask and by numbers at once gives what the values say."""
    mask, places = torch.ones(1 << 12, dtype=torch.bool), torch.zeros(1 << 12, 1, dtype=torch.long)
    with pytest.raises(LimitExceeded):
        room.run("aten::index.Tensor", [torch.ones(1 << 12, 1 << 12), [places, mask]])


def test_views_take_no_room_and_their_memory_does(room: Attacker) -> None:
    whole = new_id()
    room.ask(Put(whole, torch.ones(ROOM_BYTES // 8)))  # half of it
    views = [room.run("aten::expand", [Ref(whole), [1 << 20, -1]])[0] for _ in range(20)]
    (part,) = room.run("aten::slice.Tensor", [Ref(whole), 0, 0, 1])
    with pytest.raises(LimitExceeded, match="too large to be sent"):
        room.ask(Get(views[0]))
    with pytest.raises(LimitExceeded):
        room.run("aten::clone", [Ref(views[0])], {"memory_format": torch.contiguous_format})
    room.let_go([whole, *views])
    with pytest.raises(LimitExceeded):  # the part still has the memory of the whole
        room.run("aten::zeros", [[ROOM_BYTES // 8 + 1]])
    room.let_go([part])
    room.let_go(room.run("aten::zeros", [[ROOM_BYTES // 8 + 1]]))


def test_what_failed_keeps_no_operands(room: Attacker) -> None:
    for _ in range(8):
        large, result = room.run("aten::zeros", [[ROOM_BYTES // 8]])[0], new_id()
        with pytest.raises(OperatorFailed):
            room.ask(Run("aten::mm", [Ref(large), Ref(large)], {}, (result,)))
        room.let_go([large])


def test_words_take_room_too(room: Attacker) -> None:
    ids = [room.run("aten::zeros", [[1]])[0] for _ in range(40)]
    ids += room.run("aten::zeros", [[(ROOM_BYTES - (2 << 20)) // 4]])
    words = ("#" + "x" * 255,) * 64, "y" * 65536
    for id in ids[:20]:
        room.ask(Describe(id, *words))
    with pytest.raises(LimitExceeded):
        _repeat(lambda: room.ask(Describe(ids.pop(), *words)), 20)
    room.ask(Clear())
    room.ask(Put(1, torch.tensor([7.0])))


def _repeat(call: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        call()


@pytest.mark.parametrize("attack", CONTAINED, ids=str)
def test_ends_its_own_room_alone(mallory: Attacker, attack: Attack) -> None:
    with pytest.raises(BY_CODE[attack.code]):  # sooner or later
        _repeat(lambda: mallory.run(attack.operator, attack.args, attack.kwargs, _results(attack.operator)), 50)
    mallory.come_back()
    (result,) = mallory.run("aten::add.Tensor", [torch.ones(2), 1])
    assert mallory.ask(Get(result)).value.tolist() == [2.0, 2.0]


#: Ways to read memory that is not one's own. What they give is floats.
READS = {
    "uninitialised": [("empty.memory_format", [[1 << 16]]), ("new_empty", [ones, [1 << 16]]), ("empty_like", [ones])],
    "grown": [("resize_", [torch.zeros(4), [1 << 16]])],
    "strided": [("as_strided", [torch.zeros(4), [4], [1], 0])],
}


@pytest.mark.parametrize("calls", READS.values(), ids=READS.keys())
def test_memory_that_was_let_go_is_not_read_back(mallory: Attacker, calls: list[Any]) -> None:
    """In a room without private data, so that all may be got."""
    for _ in range(20):
        mallory.let_go(mallory.run("aten::full", [[1 << 16], 4177.25]))
        for operator, args in calls:
            name, in_place = f"aten::{operator}", operator.endswith("_")
            if in_place:
                target = new_id()
                mallory.ask(Put(target, args[0]))
                mallory.run(name, [Ref(target), *args[1:]], results=0)
            else:
                (target,) = mallory.run(name, args)
            assert not (mallory.ask(Get(target)).value == 4177.25).any()
            mallory.let_go([target])


EMPTY = {
    "aten::empty.memory_format": [[4]],
    "aten::empty_like": [torch.ones(4)],
    "aten::empty_permuted": [[4], [0]],
    "aten::empty_strided": [[4], [1]],
    "aten::new_empty": [torch.ones(4), [4]],
    "aten::new_empty_strided": [torch.ones(4), [4], [1]],
    "aten::empty_like.out": [torch.ones(4)],
    "aten::empty_permuted.out": [[4], [0]],
    "aten::empty_strided.out": [[4], [1]],
}


def test_what_nobody_has_written_is_zeros() -> None:
    """By every such operator of the table, into ``out=`` too, which may have grown."""
    assert EMPTY.keys() == {name for name in allowed() if "empty" in name}
    for name, args in EMPTY.items():
        out = {"out": torch.full((4,), 4177.25)} if name.endswith(".out") else {}
        assert BY_NAME[name].call(*args, **out).tolist() == [0, 0, 0, 0], name
