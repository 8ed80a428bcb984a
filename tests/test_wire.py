"""Values <-> frames: what may cross does, unchanged; whatever else comes is refused and costs nothing."""

from __future__ import annotations

import datetime
import math
from typing import Any, cast

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from syft import limits, wire
from syft.errors import LimitExceeded, MalformedMessage, Misuse
from syft.messages import Get, Put, Request, Run
from syft.wire import DTYPES, LAYOUTS, MEMORY_FORMATS, Meta, Ref, Reference

pytestmark = pytest.mark.in_process


def crossed(value: Any) -> Any:
    frames = [bytes(frame) for frame in wire.encode(Run("aten::add", [value], {"k": value}, ()))]
    message: Run = wire.decode(frames, cast(Any, Request))
    assert type(message.args[0]) is type(message.kwargs["k"])
    return message.args[0]


base = torch.arange(24.0).reshape(2, 3, 4)
TENSORS = {
    "0-dim": torch.tensor(2.5),
    "empty": torch.empty(0),
    "empty, several dims": torch.empty(3, 0, 2),
    "transposed": base.transpose(0, 2),
    "permuted": base.permute(1, 2, 0),
    "expanded": torch.arange(3.0).expand(4, 3),
    "expanded 0-dim": torch.tensor(1.0).expand(2, 2),
    "every other": base[..., ::2],
    "offset": base[1],
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "conjugated": torch.tensor([1 + 2j, 3 - 4j]).conj(),
    "negated": torch.tensor([1 + 2j]).conj().imag,
    "flipped": base.flip(0),
    "one element, odd strides": torch.empty_strided((1, 1), (77, 5)).fill_(3),
    "nan and inf": torch.tensor([math.nan, math.inf, -math.inf, -0.0]),
    "parameter": torch.nn.Parameter(torch.ones(2)),
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_cross(name: str) -> None:
    tensor = TENSORS[name]
    arrived = crossed(tensor)
    torch.testing.assert_close(arrived, tensor.detach(), rtol=0, atol=0, equal_nan=True)
    if tensor.numel() and torch.ops.aten.is_non_overlapping_and_dense(tensor):
        assert arrived.stride() == tensor.stride()
    arrived += 1 if arrived.dtype is not torch.bool else True  # it is memory of its own


@pytest.mark.filterwarnings("ignore:.*ComplexHalf")
@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_crosses(name: str) -> None:
    tensor = torch.randint(0, 255, (2, 16), dtype=torch.uint8).view(torch.uint8)
    tensor = tensor > 127 if name == "bool" else tensor.view(DTYPES[name])
    arrived = crossed(tensor)
    assert arrived.dtype is tensor.dtype
    assert bytes(arrived.view(torch.uint8).flatten().tolist()) == bytes(tensor.view(torch.uint8).flatten().tolist())
    assert crossed(DTYPES[name]) is DTYPES[name]


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_sparse_tensors_cross() -> None:
    for sparse in (
        torch.eye(3).to_sparse(),
        torch.sparse_coo_tensor([[0, 0]], [1.0, 2.0], (4,)),
        torch.eye(3).to_sparse(1),
    ):
        arrived = crossed(sparse)
        assert arrived.is_coalesced() == sparse.is_coalesced()
        torch.testing.assert_close(arrived.to_dense(), sparse.to_dense())


@pytest.mark.filterwarnings("ignore:Sparse invariant")
def test_sparse_indices_are_checked() -> None:
    frames = wire.encode(Put(1, torch.sparse_coo_tensor([[1, 2]], [1.0, 2.0], (4,))))
    frames[1] = torch.tensor([[1, 2**40]]).numpy().tobytes()
    with pytest.raises(MalformedMessage):
        wire.decode(frames, Put)


leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.complex_numbers() | st.text()
torch_leaves = st.sampled_from([*DTYPES.values(), *LAYOUTS.values(), *MEMORY_FORMATS.values(), torch.device("cpu")])
values = st.recursive(leaves | torch_leaves, lambda inner: st.lists(inner, max_size=4), max_leaves=12)


@given(values)
def test_values_cross(value: Any) -> None:
    assert repr(crossed(value)) == repr(value)


def test_references_cross() -> None:
    arrived = wire.decode(
        wire.encode(Put(3, Reference("bob", 7, Meta.of(base.permute(2, 1, 0).contiguous())))), Put
    ).value
    assert (arrived.worker, arrived.id, arrived.meta.shape, arrived.meta.dtype) == ("bob", 7, (4, 3, 2), torch.float32)
    assert crossed(Ref(limits.MAX_ID)).id == limits.MAX_ID


def test_metadata_answers_as_the_tensor() -> None:
    for tensor in (base[1, ::2], torch.eye(2).to_sparse(), torch.empty(0, dtype=torch.bfloat16)):
        meta = Meta.of(tensor)
        assert (meta.shape, meta.dtype, meta.layout) == (tuple(tensor.shape), tensor.dtype, tensor.layout)
        if tensor.layout is torch.strided:
            assert (meta.stride(), meta.storage_offset()) == (tensor.stride(), tensor.storage_offset())


# ---- what does not cross ----


@pytest.mark.parametrize(
    "value", [{}, {"a": 1}, b"bytes", object(), torch.device("meta"), torch.qint8, print, "\ud800"]
)
def test_what_is_not_of_the_closed_set_is_not_sent(value: Any) -> None:
    if isinstance(value, (dict, bytes)):
        frames = wire.encode(Run("aten::add", [value], {}, ()))
        with pytest.raises(MalformedMessage):
            wire.decode(frames, cast(Any, Request))
    else:
        with pytest.raises(Misuse):
            wire.encode(Run("aten::add", [value], {}, ()))


@pytest.mark.parametrize(
    "value", [{}, b"", datetime.datetime.now(datetime.UTC), [[{"a": 1}]], msgspec.msgpack.Ext(77, b"")]
)  # fmt: skip
def test_messagepack_that_is_not_of_the_closed_set_is_refused(value: Any) -> None:
    for message in (
        ["run", "aten::add", [value], {}, []],
        ["run", "aten::add", [], {"k": value}, []],
        ["put", 1, value],
    ):
        with pytest.raises(MalformedMessage):
            wire.decode([msgspec.msgpack.encode(message)], cast(Any, Request))


def test_integers_beyond_64_bits_are_refused() -> None:
    with pytest.raises(LimitExceeded, match="64 bits"):
        wire.encode(Run("aten::add", [2**64], {}, ()))


def test_nesting_is_bounded() -> None:
    deep: Any = 1
    for _ in range(limits.MAX_NESTING + 2):
        deep = [deep]
    with pytest.raises(MalformedMessage, match="nested"):
        crossed(deep)
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(LimitExceeded, match="nested"):
        wire.encode(Run("aten::add", deep, {}, ()))
    with pytest.raises(MalformedMessage):
        wire.decode([b"\x91" * 1_000_000], cast(Any, Request))


def tensor_frames(meta: list[Any], memory: bytes) -> list[bytes]:
    tensor = msgspec.msgpack.Ext(wire._TENSOR, msgspec.msgpack.encode([0, meta]))
    return [msgspec.msgpack.encode(["put", 1, tensor]), memory]


@pytest.mark.parametrize(
    "meta",
    [
        ["float32", [10**12], [1]],
        ["float32", [2**62, 2**62], [2**62, 1]],
        ["float32", [0, 2**63], [1, 1]],
        ["float32", [0, 2**40, 2**40], [1, 1, 1]],
        ["float32", [-1], [1]],
        ["float32", [1], [-1]],
        ["float32", [1], [2**63]],
        ["float32", [1], [1, 1]],
        ["float32", [1], []],
        ["float32", [1] * (limits.MAX_DIMS + 1), [1] * (limits.MAX_DIMS + 1)],
        ["float32", [1], [1], 1],
        ["float32", [1], [1], -1],
        ["float32", [1], [], 0, "sparse_coo"],
        ["float99", [1], [1]],
        ["float32", [2], [1]],
        ["int64", [1], [1]],
        ["uint8", [2, 2], [1, 1]],
        ["uint8", [3, 2], [1, 1]],
        ["uint8", [2, 2], [0, 3]],
    ],
)
def test_impossible_tensors_are_refused(meta: list[Any]) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode(tensor_frames(meta, b"\0\0\0\1"), Put)


def test_a_bool_is_0_or_1() -> None:
    value = wire.decode(tensor_frames(["bool", [4], [1]], b"\x00\x01\x02\xff"), Put).value
    assert value.view(torch.uint8).tolist() == [0, 1, 1, 1]


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = wire.encode(Put(1, base))
    for name, bound in (("MAX_FRAME_BYTES", 95), ("MAX_HEADER_BYTES", 10), ("MAX_FRAMES", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(limits, name, bound)
            with pytest.raises(LimitExceeded):
                wire.encode(Put(1, base))
            with pytest.raises(LimitExceeded):
                wire.decode(frames, Put)
    wire.decode(frames, Put)


VALID = [
    wire.encode(message)
    for message in (
        Run("aten::add.Tensor", [Ref(1), torch.ones(2), [1, 2.0, 1j], torch.int8], {"alpha": 2}, (5,)),
        Put(1, base, ("#a",), "words", ("alice",)),
        Put(1, Reference("bob", 7, Meta.of(base))),
        Put(1, torch.eye(3).to_sparse()),
        Get(1, 2, "user"),
    )
]


@given(st.lists(st.binary(max_size=60), max_size=3))
def test_arbitrary_bytes_are_refused(frames: list[bytes]) -> None:
    refuse_or_decode(frames)


@settings(max_examples=400)
@given(st.sampled_from(VALID), st.data())
def test_mutated_messages_are_refused_or_valid(frames: list[bytes], data: st.DataObject) -> None:
    mutated = [bytearray(frame) for frame in frames]
    for _ in range(data.draw(st.integers(1, 4))):
        frame = data.draw(st.sampled_from(mutated))
        if frame:
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        frame = data.draw(st.sampled_from(mutated))
        del frame[data.draw(st.integers(0, len(frame))) :]
    refuse_or_decode(mutated)


def refuse_or_decode(frames: list[Any]) -> None:
    try:
        message = wire.decode(frames, cast(Any, Request))
    except (MalformedMessage, LimitExceeded):
        return
    wire.encode(message)
