"""A closed set of values <-> frames of bytes. Nothing is ever unpickled, evaluated or imported.

A message becomes a list of frames. Frame 0 is MessagePack; each tensor in the message is there as
(frame number, dtype, shape, strides) and its memory is a frame of its own, so that a transport can
stream it without another copy. The values that may stand in a message are: None, bool, int, float,
complex, str, list, ``Ref``, ``Meta``, ``Reference``, dense ``torch.Tensor``, and torch's dtypes,
layouts, memory formats and devices.

Not checked here: whether an id names anything, whether an operator exists, whether a caller may.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import torch

from . import limits
from .errors import LimitExceeded, MalformedMessage, Misuse

Frame = bytes | bytearray | memoryview
M = TypeVar("M", bound=msgspec.Struct)


class Ref:
    """Stands in a message for the object ``id`` at the worker that the message goes to."""

    __slots__ = ("id",)

    def __init__(self, id: int) -> None:
        self.id = id


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a tensor without its values; answers the same questions as a tensor."""

    dtype_name: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    layout_name: str = "strided"

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Meta:
        """Read the metadata of ``tensor``."""
        strided = tensor.layout is torch.strided
        return cls(
            DTYPE_NAMES[tensor.dtype],
            tuple(tensor.shape),
            tensor.stride() if strided else (),
            tensor.storage_offset() if strided else 0,
            LAYOUT_NAMES[tensor.layout],
        )

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.dtype_name]

    @property
    def layout(self) -> torch.layout:
        return LAYOUTS[self.layout_name]

    def stride(self) -> tuple[int, ...]:
        return self.strides

    def storage_offset(self) -> int:
        return self.offset


class Reference(msgspec.Struct, frozen=True, array_like=True):
    """A pointer in transit: the object ``id`` at ``worker``. It carries one ownership of that object."""

    worker: str
    id: int
    meta: Meta


DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
        torch.complex32, torch.complex64, torch.complex128,
    )
}  # fmt: skip
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
LAYOUTS: dict[str, torch.layout] = {
    "strided": torch.strided,
    "sparse_coo": torch.sparse_coo,
    "sparse_csr": torch.sparse_csr,
    "sparse_csc": torch.sparse_csc,
    "sparse_bsr": torch.sparse_bsr,
    "sparse_bsc": torch.sparse_bsc,
}
LAYOUT_NAMES = {layout: name for name, layout in LAYOUTS.items()}
MEMORY_FORMATS: dict[str, torch.memory_format] = {
    "contiguous_format": torch.contiguous_format,
    "preserve_format": torch.preserve_format,
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
}
MEMORY_FORMAT_NAMES = {form: name for name, form in MEMORY_FORMATS.items()}
DEVICES: dict[str, torch.device] = {"cpu": torch.device("cpu")}

# MessagePack extension codes, one for each kind of value that MessagePack lacks.
_REF, _META, _REFERENCE, _TENSOR, _DTYPE, _LAYOUT, _MEMORY_FORMAT, _DEVICE, _COMPLEX = range(1, 10)

_pack = msgspec.msgpack.encode
_unpack_meta = msgspec.msgpack.Decoder(Meta).decode
_unpack_reference = msgspec.msgpack.Decoder(Reference).decode
_unpack_tensor = msgspec.msgpack.Decoder(tuple[int, Meta]).decode
_unpack_complex = msgspec.msgpack.Decoder(tuple[float, float]).decode


def encode(message: msgspec.Struct) -> list[Frame]:
    """Encode ``message``.

    Raises:
        Misuse: it holds a value that is not of the closed set.
        LimitExceeded: an integer or the message itself is too large.
    """
    memories: list[Frame] = []

    def extend(value: object) -> msgspec.msgpack.Ext:
        code, data = _encode_value(value, memories)
        return msgspec.msgpack.Ext(code, data)

    try:
        header = msgspec.msgpack.encode(message, enc_hook=extend)
    except OverflowError as error:
        raise LimitExceeded(
            "an integer of this call does not fit in 64 bits",
            mend="Pass it as a float, or as a tensor.",
        ) from error
    if len(header) > limits.MAX_HEADER_BYTES or len(memories) >= limits.MAX_FRAMES:
        raise LimitExceeded(
            f"a message of {len(header)} bytes and {len(memories)} tensors is too large",
            mend="Send long lists as tensors, and many tensors in several messages.",
        )
    return [header, *memories]


def decode(frames: Sequence[Frame], kind: type[M]) -> M:
    """Decode ``frames`` to a message of ``kind`` (a tagged msgspec struct, or a union of them).

    Raises:
        MalformedMessage: the frames are anything but an encoding of such a message.
    """
    try:
        header, *memories = frames
        if len(header) > limits.MAX_HEADER_BYTES or len(frames) > limits.MAX_FRAMES:
            raise MalformedMessage("a message is larger than the limits allow")

        def extension(code: int, data: memoryview) -> object:
            return _decode_value(code, data, memories)

        message = msgspec.msgpack.decode(header, type=kind, ext_hook=extension)
    except (msgspec.DecodeError, ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        if isinstance(error, MalformedMessage):
            raise
        raise MalformedMessage(f"a message could not be decoded: {error}") from error
    return message


def _encode_value(value: object, memories: list[Frame]) -> tuple[int, bytes]:
    if isinstance(value, Ref):
        return _REF, value.id.to_bytes(8, "big")
    if isinstance(value, torch.Tensor):
        meta, memory = _memory_of(value)
        memories.append(memory)
        return _TENSOR, _pack((len(memories) - 1, meta))
    if isinstance(value, torch.dtype) and value in DTYPE_NAMES:
        return _DTYPE, DTYPE_NAMES[value].encode()
    if isinstance(value, torch.layout) and value in LAYOUT_NAMES:
        return _LAYOUT, LAYOUT_NAMES[value].encode()
    if isinstance(value, torch.memory_format) and value in MEMORY_FORMAT_NAMES:
        return _MEMORY_FORMAT, MEMORY_FORMAT_NAMES[value].encode()
    if isinstance(value, torch.device) and str(value) in DEVICES:
        return _DEVICE, str(value).encode()
    if isinstance(value, complex):
        return _COMPLEX, _pack((value.real, value.imag))
    raise Misuse(
        f"a {type(value).__name__} ({value!r:.80}) cannot be sent to a worker",
        mend="Tensors, numbers, strings, dtypes, layouts, memory formats and the device cpu can.",
    )


def _decode_value(code: int, data: memoryview, memories: list[Frame]) -> object:
    if code == _REF:
        if len(data) != 8:
            raise MalformedMessage("an id is 8 bytes long")
        return Ref(int.from_bytes(data, "big"))
    if code == _TENSOR:
        index, meta = _unpack_tensor(data)
        if not 0 <= index < len(memories):
            raise MalformedMessage("a tensor names a frame that is not there")
        return _tensor_of(_checked(meta), memories[index])
    if code == _META:
        return _checked(_unpack_meta(data))
    if code == _REFERENCE:
        reference = _unpack_reference(data)
        _checked(reference.meta)
        return reference
    if code == _DTYPE:
        return DTYPES[str(data, "ascii")]
    if code == _LAYOUT:
        return LAYOUTS[str(data, "ascii")]
    if code == _MEMORY_FORMAT:
        return MEMORY_FORMATS[str(data, "ascii")]
    if code == _DEVICE:
        return DEVICES[str(data, "ascii")]
    if code == _COMPLEX:
        return complex(*_unpack_complex(data))
    raise MalformedMessage(f"{code} is not the code of any kind of value")


def _checked(meta: Meta) -> Meta:
    """Refuse metadata that no tensor can have."""
    dims = len(meta.shape)
    strides = meta.strides if meta.layout_name == "strided" else (0,) * dims
    if (
        meta.dtype_name not in DTYPES
        or meta.layout_name not in LAYOUTS
        or dims > limits.MAX_DIMS
        or len(strides) != dims
        or meta.offset < 0
        or any(n < 0 for n in meta.shape)
        or any(n < 0 for n in strides)
    ):
        raise MalformedMessage("the metadata of a tensor is impossible")
    return meta


def _memory_of(tensor: torch.Tensor) -> tuple[Meta, Frame]:
    """Give a dense tensor's metadata and its memory; copies only what is not dense in memory."""
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter) or tensor.layout is not torch.strided:
        raise Misuse(
            f"a {tensor.layout} {type(tensor).__name__} cannot be encoded",
            mend="Send a dense tensor: x.to_dense().",
        )
    if tensor.dtype not in DTYPE_NAMES:
        raise Misuse(f"tensors of {tensor.dtype} cannot be encoded", mend="Convert it first: x.to(torch.float32).")
    dense = tensor.detach().resolve_conj().resolve_neg()
    if not dense.is_contiguous():
        dense = dense.clone()  # keeps the order of the dimensions in memory, drops gaps and overlaps
    meta = Meta(DTYPE_NAMES[dense.dtype], tuple(dense.shape), dense.stride())
    flat = dense.as_strided((dense.numel(),), (1,))
    return meta, memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else b""


def _tensor_of(meta: Meta, memory: Frame) -> torch.Tensor:
    """Build the tensor of ``meta`` on ``memory``, which must be just as long as it needs."""
    numel = 1
    for n in meta.shape:
        numel *= n
    if meta.layout_name != "strided" or meta.offset or len(memory) != numel * meta.dtype.itemsize:
        raise MalformedMessage("the memory of a tensor does not fit its metadata")
    if numel == 0:
        return torch.empty(meta.shape, dtype=meta.dtype)
    if sum((n - 1) * stride for n, stride in zip(meta.shape, meta.strides, strict=True)) != numel - 1:
        raise MalformedMessage("the strides of a tensor do not fit its memory")
    owned = memory if isinstance(memory, bytearray) else bytearray(memory)
    flat = torch.frombuffer(owned, dtype=torch.uint8)
    # Any byte but 0 and 1 in a bool tensor is undefined behaviour in torch.
    flat = flat.ne(0) if meta.dtype is torch.bool else flat.view(meta.dtype)
    return flat.as_strided(meta.shape, meta.strides)
