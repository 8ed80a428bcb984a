"""A closed set of values <-> frames of bytes. Nothing is ever unpickled, evaluated or imported.

A message becomes a list of frames. Frame 0 is MessagePack; each tensor in the message is there as
(frame number, dtype, shape, strides) and its memory is a frame of its own, so that a transport can
stream it without another copy. The values that may stand in a message are: None, bool, int, float,
complex, str, list, ``Ref``, ``Reference``, ``torch.Tensor``, and torch's dtypes,
layouts, memory formats and devices. A sparse tensor (COO) goes as its indices and its values.

Not checked here: whether an id names anything, whether an operator exists, whether a caller may.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from mmap import mmap
from typing import Annotated, Any, TypeVar, get_args

import msgspec
import torch

from . import limits
from .errors import LimitExceeded, MalformedMessage, Misuse, SyftError

Frame = bytes | bytearray | memoryview | mmap
M = TypeVar("M", bound=msgspec.Struct)
T = TypeVar("T")
Id = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_ID)]
Name = Annotated[str, msgspec.Meta(max_length=limits.MAX_NAME_LENGTH)]


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

    def __post_init__(self) -> None:
        """Refuse metadata that no tensor can have."""
        if (
            self.dtype_name not in DTYPES
            or self.layout_name not in LAYOUTS
            or len(self.shape) > limits.MAX_DIMS
            or len(self.strides) != (len(self.shape) if self.layout_name == "strided" else 0)
            or min(self.offset, *self.shape, *self.strides, 0) < 0
            or self._end() > limits.MAX_ELEMENTS
        ):
            raise MalformedMessage("the metadata of a tensor is impossible")

    def _end(self) -> int:
        """Bound the elements and the storage of the tensor from above."""
        reach = sum(max(n - 1, 0) * stride for n, stride in zip(self.shape, self.strides, strict=False))
        return max(math.prod(max(n, 1) for n in self.shape), self.offset + reach, *self.strides, 1)

    @classmethod
    def of(cls, tensor: torch.Tensor) -> Meta:
        """Read the metadata of ``tensor``."""
        strided = tensor.layout is torch.strided
        return cls(
            DTYPE_NAMES[tensor.dtype],
            tuple(tensor.shape),
            tensor.stride() if strided else (),
            int(tensor.storage_offset()) if strided else 0,
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


class Reference:
    """A pointer in transit: the object ``id`` at ``worker``. It carries one ownership of that object."""

    __slots__ = ("id", "meta", "worker")

    def __init__(self, worker: str, id: int, meta: Meta) -> None:
        self.worker, self.id, self.meta = worker, id, meta


DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2,
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
_REF, _REFERENCE, _TENSOR, _SPARSE, _DTYPE, _LAYOUT, _MEMORY_FORMAT, _DEVICE, _COMPLEX = range(1, 10)

_LEAVES = frozenset(
    {
        type(None), bool, int, float, complex, str, Ref, Reference, torch.Tensor,
        torch.dtype, torch.layout, torch.memory_format, torch.device,
    }
)  # fmt: skip

_pack = msgspec.msgpack.encode
_unpack_reference = msgspec.msgpack.Decoder(tuple[Name, Id, Meta]).decode
_unpack_tensor = msgspec.msgpack.Decoder(tuple[int, Meta]).decode
_unpack_sparse = msgspec.msgpack.Decoder(tuple[int, Meta, int, Meta, tuple[int, ...], bool]).decode
_unpack_complex = msgspec.msgpack.Decoder(tuple[float, float]).decode


def encode(message: msgspec.Struct) -> list[Frame]:
    """Encode ``message``; the memory of its tensors is not copied.

    Raises:
        Misuse: it holds a value that is not of the closed set.
        LimitExceeded: an integer or the message itself is too large, or lists are nested too deep.
    """
    memories: list[Frame] = []
    frames: list[Frame] = [encode_part(message, memories), *memories]
    check_sizes(frames)
    return frames


def encode_part(
    message: msgspec.Struct, memories: list[Frame], permit: Callable[[int], None] = lambda size: None
) -> bytes:
    """Encode a message that is to be part of another, whose ``memories`` its own are added to.

    ``permit`` is told, before each tensor is encoded, how many bytes those up to it have. Raises as
    :func:`encode`, and what ``permit`` raises; then nothing is added.
    """
    before, size = len(memories), 0

    def extend(value: object) -> msgspec.msgpack.Ext:
        nonlocal size
        if isinstance(value, Ref):  # the most common by far
            return msgspec.msgpack.Ext(_REF, value.id.to_bytes(8, "big"))
        if isinstance(value, torch.Tensor):
            size += _bytes_to_encode(value)
            permit(size)
        code, data = _encode_value(value, memories)
        return msgspec.msgpack.Ext(code, data)

    try:
        return msgspec.msgpack.encode(message, enc_hook=extend)
    except SyftError:
        del memories[before:]
        raise
    except OverflowError as error:
        raise LimitExceeded(
            "an integer of this call does not fit in 64 bits",
            mend="Pass it as a float, or as a tensor.",
        ) from error
    except RecursionError as error:
        raise LimitExceeded("lists of this call are nested too deep", mend="Send nested lists as tensors.") from error
    except UnicodeEncodeError as error:
        raise Misuse(f"a string of this call is not valid text: {error}") from error


def decode(frames: Sequence[Frame], kind: type[M]) -> M:
    """Decode ``frames`` to a message of ``kind`` (a tagged msgspec struct, or a union of them).

    Raises:
        MalformedMessage: the frames are anything but an encoding of such a message.
        LimitExceeded: they are larger than any message may be.
    """
    if not frames:
        raise MalformedMessage("a message has at least one frame")
    check_sizes(frames)
    header, *memories = frames

    def extension(code: int, data: memoryview) -> object:
        return _decode_value(code, data, memories)

    try:
        message = msgspec.msgpack.decode(header, type=kind, ext_hook=extension)
        check_closed(message)
    except (msgspec.DecodeError, ValueError, TypeError, KeyError, RecursionError) as error:
        if isinstance(error, MalformedMessage):
            raise
        raise MalformedMessage(f"a message could not be decoded: {error}") from error
    return message


def unpack(data: Frame, kind: type[T]) -> T:
    """Decode MessagePack in which values of the closed set are not, or only sealed (``msgspec.Raw``).

    Raises MalformedMessage.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessage(f"a message could not be decoded: {error}") from error


def check_sizes(frames: Sequence[Frame]) -> None:
    """Raise LimitExceeded for frames that are more, or larger, than any message's may be."""
    header = len(frames[0])
    if (
        len(frames) > limits.MAX_FRAMES
        or header > limits.MAX_HEADER_BYTES
        or any(len(frame) > limits.MAX_FRAME_BYTES for frame in frames)
    ):
        raise LimitExceeded(
            f"a message of {header} bytes and {len(frames) - 1} tensors is too large",
            mend="Send long lists as tensors, and many tensors in several messages.",
        )


def check_closed(message: msgspec.Struct) -> None:
    """Refuse what MessagePack has and the closed set has not: bytes, maps, timestamps. Raises MalformedMessage."""
    for field in _open_fields(type(message)):
        value = getattr(message, field)
        _check_value(list(value.values()) if field == _KEYWORDS else value, limits.MAX_NESTING)


_KEYWORDS = "kwargs"


@cache
def _open_fields(kind: type[msgspec.Struct]) -> tuple[str, ...]:
    """Name the fields of a message whose type leaves open what they hold."""

    def is_open(annotation: Any) -> bool:
        return annotation is Any or any(map(is_open, get_args(annotation)))

    return tuple(field.name for field in msgspec.structs.fields(kind) if is_open(field.type))


def _check_value(value: object, depth: int) -> None:
    if type(value) is list:
        if depth == 0:
            raise MalformedMessage("lists are nested too deep")
        for item in value:
            _check_value(item, depth - 1)
    elif type(value) not in _LEAVES:
        raise MalformedMessage(f"a {type(value).__name__} is not a kind of value that a message may hold")


def _encode_value(value: object, memories: list[Frame]) -> tuple[int, bytes]:
    if isinstance(value, Reference):
        return _REFERENCE, _pack((value.worker, value.id, value.meta))
    if isinstance(value, torch.Tensor):
        if value.layout is torch.sparse_coo and type(value) is torch.Tensor:
            indices, values = value._indices(), value._values()
            parts = (*_framed(indices, memories), *_framed(values, memories))
            return _SPARSE, _pack((*parts, tuple(value.shape), value.is_coalesced()))
        return _TENSOR, _pack(_framed(value, memories))
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
        return _tensor_of(*_unpack_tensor(data), memories)
    if code == _SPARSE:
        return _sparse_of(*_unpack_sparse(data), memories)
    if code == _REFERENCE:
        return Reference(*_unpack_reference(data))
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


def _bytes_to_encode(tensor: torch.Tensor) -> int:
    """Return how many bytes of memory a tensor will take in a message, however it is in memory now."""
    is_sparse = tensor.layout is torch.sparse_coo and type(tensor) is torch.Tensor
    parts = (tensor._indices(), tensor._values()) if is_sparse else (tensor,)
    return sum(part.numel() * part.itemsize for part in parts)


def _framed(tensor: torch.Tensor, memories: list[Frame]) -> tuple[int, Meta]:
    """Append a dense tensor's memory to ``memories``; return its place there and the tensor's metadata."""
    meta, memory = _memory_of(tensor)
    memories.append(memory)
    return len(memories) - 1, meta


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
    return meta, flat.view(torch.uint8).numpy().data if flat.numel() else b""


def _tensor_of(index: int, meta: Meta, memories: Sequence[Frame]) -> torch.Tensor:
    """Build the tensor of ``meta`` on its memory, which must be just as long as it needs."""
    if not 0 <= index < len(memories):
        raise MalformedMessage("a tensor names a frame that is not there")
    memory = memories[index]
    numel = math.prod(meta.shape)
    if meta.layout_name != "strided" or meta.offset or len(memory) != numel * meta.dtype.itemsize:
        raise MalformedMessage("the memory of a tensor does not fit its metadata")
    if numel == 0:
        return torch.empty_strided(meta.shape, meta.strides, dtype=meta.dtype)
    if not is_dense(meta):
        raise MalformedMessage("the strides of a tensor do not fit its memory")
    owned = memory if isinstance(memory, (bytearray, mmap)) else bytearray(memory)
    if meta.dtype is torch.bool:  # in which any byte but 0 and 1 is undefined behaviour in torch
        flat = torch.frombuffer(owned, dtype=torch.uint8).ne(0)
    else:
        flat = torch.frombuffer(owned, dtype=meta.dtype)
    return flat if (meta.shape, meta.strides) == ((numel,), (1,)) else flat.as_strided(meta.shape, meta.strides)


def is_dense(tensor: torch.Tensor | Meta) -> bool:
    """Tell whether every element has a place of its own, and there are no gaps from the first to the last."""
    expected = 1
    for stride, n in sorted((stride, n) for n, stride in zip(tensor.shape, tensor.stride(), strict=True) if n > 1):
        if stride != expected:
            return False
        expected *= n
    return True


def _sparse_of(
    indices_at: int,
    indices_meta: Meta,
    values_at: int,
    values_meta: Meta,
    shape: tuple[int, ...],
    is_coalesced: bool,
    memories: Sequence[Frame],
) -> torch.Tensor:
    """Build a sparse tensor; torch checks that its indices are within its shape."""
    Meta(values_meta.dtype_name, shape, (), layout_name="sparse_coo")  # checks the shape
    indices, values = _tensor_of(indices_at, indices_meta, memories), _tensor_of(values_at, values_meta, memories)
    try:
        sparse = torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)
    except RuntimeError as error:
        raise MalformedMessage(f"a sparse tensor is impossible: {error}") from error
    return sparse.coalesce() if is_coalesced else sparse
