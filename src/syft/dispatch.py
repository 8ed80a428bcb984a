"""One operator of torch on pointers -> one ``Run`` at their worker. The hot path is ``dispatch``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from types import FrameType
from typing import Any, NoReturn, Protocol, TypeVar, cast

import torch
from torch._ops import OpOverload

from .errors import Misuse, NotCollocated, ObjectGone, OperatorNotAllowed
from .ids import new_id
from .messages import Request, Run
from .operators import BY_NAME, STRUCTURAL_ARGUMENTS, Operator
from .policy import Policy
from .wire import Ref

P = TypeVar("P", bound=torch.Tensor)


class Location(Protocol):
    """A worker as its callers see it: what a pointer asks of the place it points to."""

    id: str

    def request(self, message: Request) -> Any:
        """Deliver a request; return its answer or raise its error."""

    def run(self, message: Run, args: Sequence[Any], kwargs: dict[str, Any] | None) -> Sequence[Any]:
        """Run an operator; return the metadata of all it gives, None for what it leaves out.

        ``args`` and ``kwargs`` are those of the call, with pointers: their metadata may be enough to
        tell that of the results, without waiting for the worker.
        """

    def get(self, handle: Handle, *, take: bool, user: str = "") -> torch.Tensor:
        """Return the object's value: a tensor, or a pointer if it is one; with ``take`` it leaves."""

    def fetch(self, handle: Handle, *, take: bool, user: str = "") -> tuple[torch.Tensor, Policy]:
        """As ``get``, with who may have the value."""

    def send(self, value: torch.Tensor) -> Any:
        """Store a tensor there and return a pointer to it."""

    def release(self, id: int) -> None:
        """Let go of one ownership of an object; never raises."""


class Handle(Ref):
    """One ownership of the object ``id`` at ``location``, held by ``owner``.

    All aliases of a pointer share it; when the last of them goes, so does the ownership.
    """

    __slots__ = ("location", "owner", "owns")

    def __init__(self, id: int, location: Location, owner: Location, owns: bool = True) -> None:
        self.id, self.location, self.owner, self.owns = id, location, owner, owns

    def __del__(self) -> None:
        if self.owns:
            self.location.release(self.id)


class Spent:
    """In the place of a handle after a get or a move: whatever asks for the location is told why."""

    def __init__(self, handle: Handle, fate: str) -> None:
        self.id, self.last_location, self.owner, self.fate = handle.id, handle.location, handle.owner, fate

    @property
    def location(self) -> NoReturn:
        raise ObjectGone(
            f"this pointer no longer points to anything: its object {self.fate}",
            where=self.last_location.id,
            mend="Use what that call returned, or keep a copy first: x.copy().",
        )


_make_wrapper = torch.Tensor._make_wrapper_subclass
_CPU = torch.device("cpu")


def wrap(cls: type[P], handle: Handle, meta: Any) -> P:
    """Make a pointer with this handle; ``meta`` is a Meta, or a tensor that has that metadata."""
    layout = meta.layout
    if layout is torch.strided:
        pointer = _make_wrapper(cls, meta.shape, meta.stride(), meta.storage_offset(), dtype=meta.dtype, device=_CPU)
    elif layout is torch.sparse_coo:
        pointer = _make_wrapper(cls, meta.shape, dtype=meta.dtype, layout=layout, device=_CPU)
    else:  # torch aborts the process on a wrapper of the compressed layouts
        raise Misuse(f"pointers to {layout} tensors are not supported", mend="Use x.to_dense() or x.to_sparse_coo().")
    pointer._handle = handle  # type: ignore[attr-defined]
    return pointer


_DETACH = torch.ops.aten.detach.default  # a fifth of all operators of a training step

#: Operators met so far that give one fresh tensor or write to their first argument.
_COMMON: dict[OpOverload, Operator] = {}


def dispatch(
    cls: type[Any],
    func: OpOverload,
    types: Sequence[type],
    args: tuple[Any, ...] = (),
    kwargs: dict[str, Any] | None = None,
) -> Any:
    """Run ``func`` where its pointers point: the ``__torch_dispatch__`` of PointerTensor."""
    if func is _DETACH and len(types) == 1:
        return _share(cls, args)
    operator = _COMMON.get(func)
    if operator is None or len(types) != 1 or (operator.in_place and type(args[0]) is not cls):
        return _dispatch_uncommon(cls, func, types, args, kwargs or {})
    first = args[0]._handle if type(args[0]) is cls else _first_pointer(cls, (args, kwargs))._handle
    location = first.location
    try:
        sent = [
            a._handle if type(a) is cls and a._handle.location is location else _sent(cls, a, location) for a in args
        ]
        sent_by_name = _sent_by_name(cls, kwargs, location) if kwargs else {}
    except NotCollocated as apart:
        beside = _Beside(_first_pointer(cls, (args, kwargs)))
        return func(*with_constants_sent(operator.name, args, beside, apart), **kwargs or {})
    if operator.in_place:
        location.run(Run(operator.name, sent, sent_by_name, ()), args, kwargs)
        return args[0]
    handle = Handle(new_id(), location, first.owner)
    outputs = location.run(Run(operator.name, sent, sent_by_name, (handle.id,)), args, kwargs)
    return wrap(cls, handle, outputs[0])


def _sent(cls: type[Any], value: Any, location: Location) -> Any:
    """Put handles in the place of pointers; refuse what is not at ``location``."""
    if type(value) is cls:
        if value._handle.location is not location:
            raise _apart(location.id, f"another at {value._handle.location.id}", f"x.move({location.id})")
        return value._handle
    if isinstance(value, (list, tuple)):
        return [_sent(cls, v, location) for v in value]
    if isinstance(value, torch.Tensor):
        if value.numel() == 1:  # one number is a constant, as a Python number is
            return value.detach()
        raise _apart(location.id, f"a tensor of shape {list(value.shape)} is here", f"x.send({location.id})")
    return value


def _sent_by_name(cls: type[Any], kwargs: dict[str, Any], location: Location) -> dict[str, Any]:
    device = kwargs.get("device")
    if device is not None and device.type != "cpu":
        raise Misuse(f"workers have no device {device}", where=location.id, mend="Leave the device out, or say cpu.")
    return {name: _sent(cls, a, location) for name, a in kwargs.items()}


def _apart(pointer_at: str, other: str, mend: str) -> NotCollocated:
    return NotCollocated(
        f"the operands are not in one place: one is at {pointer_at}, {other}",
        mend=f"Bring them together first, with {mend} or .get(); "
        "new tensors beside a pointer p come from p.new_zeros(...).",
    )


class Place(Protocol):
    """Where operands can be brought together."""

    def send(self, value: torch.Tensor) -> Any:
        """Store a tensor there and return a pointer to it."""


class _Beside:
    """The place of a pointer's data, however many links away."""

    def __init__(self, pointer: torch.Tensor) -> None:
        self._pointer = pointer

    def send(self, value: torch.Tensor) -> torch.Tensor:
        return self._pointer.new_empty(value.shape, dtype=value.dtype).copy_(value)


def with_constants_sent(name: str, args: tuple[Any, ...], place: Place, apart: NotCollocated) -> list[Any]:
    """Send the constants among ``args`` to ``place``; raise ``apart`` if there is none.

    Formulas of autograd and of composite operators make zeros, ones and indices for themselves,
    here. Those are not a user's: they have no owner in Python but ``args``.
    """
    apart.__traceback__ = None  # its frames hold references too
    structural = STRUCTURAL_ARGUMENTS.get(name, ())
    sent: list[Any] = [list(a) if isinstance(a, list) else a for a in args]
    found = False
    for i in range(len(sent)):
        holder, keys = (sent[i], range(len(sent[i]))) if isinstance(sent[i], list) else (sent, range(i, i + 1))
        for key in keys:
            if _is_plain(holder[key]) and _AWAY in holder[key].__dict__:
                holder[key] = holder[key].__dict__[_AWAY]
                found = True
            elif _is_plain(holder[key]) and _is_noise(holder[key]):
                noise, holder[key] = holder[key], place.send(holder[key])
                noise.__dict__[_AWAY] = holder[key]
                found = True
            elif _is_plain(holder[key]) and (
                i in structural or (sys.getrefcount(holder[key]) <= _TEMPORARY and _holds_no_data(holder[key]))
            ):
                holder[key] = place.send(holder[key])
                found = True
    try:
        if not found:
            raise apart
    finally:
        del apart  # or this frame and the error would hold each other, and all operands with them
    return sent


#: References to an argument that only the call itself holds: ``args``, ``sent``, ``getrefcount``, torch's glue.
_TEMPORARY = 4


#: Where noise that was sent keeps its pointer: the backward pass, which has saved the noise, takes that.
_AWAY = "_syft_away"


def _is_noise(value: torch.Tensor) -> bool:
    """Tell random numbers that torch.distributions has drawn, here: what ``rsample`` made and alone holds."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals is globals():
        frame = frame.f_back
    if frame is None or frame.f_code.co_name != "rsample":
        return False
    if not frame.f_globals["__name__"].startswith("torch.distributions.") or _shares_memory(value):
        return False
    given = frame.f_code.co_varnames[: frame.f_code.co_argcount]
    return any(local is value for name, local in frame.f_locals.items() if name not in given)


def _shares_memory(value: torch.Tensor) -> bool:
    return bool(torch._C._storage_Use_Count(value.untyped_storage()._cdata) > 2)


def _is_plain(value: Any) -> bool:
    return type(value) is torch.Tensor and value.numel() != 1


def _holds_no_data(value: torch.Tensor) -> bool:
    """Tell whether a tensor is what torch makes for itself: zeros, ones, a mask, indices, a range.

    That is the same number all over; or memory of its own with whole numbers, no more than two
    different numbers, or numbers at equal distances.
    """
    if value.is_complex():
        return False
    if value.numel() == 0 or value.min() == value.max():
        return True
    if _shares_memory(value):
        return False
    steps = value.flatten().diff()
    return (
        not value.is_floating_point()
        or bool(((value == value.min()) | (value == value.max())).all())
        or bool((steps == steps[0]).all())
    )


def _first_pointer(cls: type[Any], values: Any) -> Any:
    for value in _flat(values):
        if type(value) is cls:
            return value
    raise AssertionError("an operator was dispatched without a pointer")


def _flat(values: Any) -> Iterable[Any]:
    if isinstance(values, dict):
        values = values.values()
    if isinstance(values, (list, tuple)) or type(values) is type({}.values()):
        for value in values:
            yield from _flat(value)
    else:
        yield values


_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_CUSTOM = torch._C.DispatchKey.CompositeExplicitAutograd  # where torch.library.custom_op puts its Python function


# ---- the uncommon: operators in place, several results, lists, values, changed shapes ----


def _dispatch_uncommon(
    cls: type[Any], func: OpOverload, types: Sequence[type], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    if len(types) != 1 or types[0] is not cls:
        return NotImplemented
    rule = _RULES.get(func)
    if rule is not None:
        result = rule(cls, args)
        if result is not NotImplemented:
            return result
    try:
        operator = BY_NAME[func.name()]
    except OperatorNotAllowed:
        if func.namespace == "prims":
            return func.impl_aten(*args, **kwargs)  # type: ignore[attr-defined]
        key = _COMPOSITE if func.namespace == "aten" else _CUSTOM
        if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key.name):
            return func._op_dk(key, *args, **kwargs)  # made of other operators: those come here in turn
        raise
    if rule is None and (operator.plain or operator.in_place) and func not in _COMMON:
        _COMMON[func] = operator
        return dispatch(cls, func, types, args, kwargs)
    if operator.changes_view:
        return _change_view(cls, operator, args, kwargs)
    first = _first_pointer(cls, (args, kwargs))._handle
    return run(cls, operator, args, kwargs, first.location, first.owner)


def run(
    cls: type[Any],
    operator: Operator,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    location: Location,
    owner: Location,
) -> Any:
    """Run any operator of the table at ``location``, whatever it writes and returns."""
    for index in operator.written:
        for target in _flat(operator.argument(index, args, kwargs)):
            if isinstance(target, torch.Tensor) and type(target) is not cls:
                raise _apart(location.id, "and the tensor to be written is here", f"x.send({location.id})")
    try:
        sent = [_sent(cls, a, location) for a in args]
        sent_by_name = _sent_by_name(cls, kwargs, location)
    except NotCollocated as apart:
        pointer = next((a for a in _flat((args, kwargs)) if type(a) is cls), None)
        place = location if pointer is None else _Beside(pointer)
        args = tuple(with_constants_sent(operator.name, args, place, apart))
        return run(cls, operator, args, kwargs, location, owner)
    handles = [Handle(new_id(), location, owner) for _ in range(_count_results(cls, operator, args, kwargs))]
    message = Run(operator.name, sent, sent_by_name, tuple(handle.id for handle in handles))
    outputs = location.run(message, args, kwargs)
    if operator.gives_value:
        return read(wrap(cls, handles[0], outputs[0])).item()
    if operator.gives_list:
        return [wrap(cls, handle, output) for handle, output in zip(handles, outputs, strict=True)]
    fresh = iter(handles)
    results = []
    for source, output in zip(operator.returned, outputs, strict=True):
        if source is not None:
            result = operator.argument(source, args, kwargs)
            if result.shape != output.shape:
                take_metadata(result, wrap(cls, result._handle, output))
        else:
            handle = next(fresh)
            result = None if output is None else wrap(cls, handle, output)
        results.append(result)
    return results[0] if len(results) == 1 else tuple(results) if results else None


def _count_results(cls: type[Any], operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """How many fresh tensors the operator will give, before it runs."""
    if operator.gives_value:
        return 1
    if not operator.gives_list:
        return operator.returned.count(None)

    try:
        return len(_run_on_outline(operator, args, kwargs, "meta"))
    except NotImplementedError:  # the operator has no meta kernel
        return len(_run_on_outline(operator, args, kwargs, "cpu"))


def _run_on_outline(operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any], device: str) -> Any:
    """Run an operator here on zeros of the shapes of its arguments."""

    def outline(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return torch.zeros(value.shape, dtype=value.dtype, device=device)
        return [outline(v) for v in value] if isinstance(value, (list, tuple)) else value

    return operator.call(*map(outline, args), **{k: outline(v) for k, v in kwargs.items()})


def _change_view(cls: type[Any], operator: Operator, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Change a pointer's shape in place: on a fresh alias, so that whoever shares the handle sees no change."""
    target = args[0]
    old = target._handle
    handle = Handle(new_id(), old.location, old.owner)
    old.location.run(Run("aten::alias", [old], {}, (handle.id,)), (target,), {})
    message = Run(operator.name, [handle, *(_sent(cls, a, old.location) for a in args[1:])], kwargs, ())
    output = old.location.run(message, args, kwargs)[0]
    point_alike(target, wrap(cls, handle, output))
    return target


def take_metadata(target: torch.Tensor, source: torch.Tensor) -> None:
    """Give ``target`` the shape, dtype and strides of ``source``, a wrapper of the same kind."""
    torch._C.TensorBase.data.__set__(target, source)  # type: ignore[attr-defined]


def point_alike(target: Any, source: Any) -> None:
    """Make ``target`` the same pointer as ``source``, in place."""
    take_metadata(target, source)
    target._handle = source._handle


# ---- rules for single operators: those that need no worker, and those that bring values home ----


def _share(cls: type[Any], args: tuple[Any, ...]) -> Any:
    return wrap(cls, args[0]._handle, args[0])


def _conjugate(cls: type[Any], args: tuple[Any, ...]) -> Any:
    """Pointers know no lazy conjugation: torch, here, could not see that the object is conjugated."""
    return torch.conj_physical(args[0])


def _negate(cls: type[Any], args: tuple[Any, ...]) -> Any:
    return torch.neg(args[0])


def _item(cls: type[Any], args: tuple[Any, ...]) -> Any:
    return read(args[0]).item()


def _has_same_storage_numel(cls: type[Any], args: tuple[Any, ...]) -> Any:
    one, other = args
    storage = torch.Tensor.untyped_storage  # of pointers only the size
    return storage(one).nbytes() // one.itemsize == storage(other).nbytes() // other.itemsize


def _copy(cls: type[Any], args: tuple[Any, ...]) -> Any:
    """``target.copy_(source)`` may cross from here to a worker; the other way only ``get`` goes."""
    target, source = args[:2]
    if type(target) is not cls:
        raise NotCollocated(
            f"a tensor that is here cannot be written with values that are at {source._handle.location.id}",
            mend="Bring them home first, with p.get() or p.copy().get(). What torch makes for itself and writes to, as "
            "in pad_sequence and pad_packed_sequence, is here: on pointers use torch.cat and torch.nn.functional.pad.",
        )
    if type(source) is cls or source.dim() == 0:
        return NotImplemented
    location = target._handle.location
    location.run(Run("aten::copy_", [target._handle, source.detach()], {}, ()), args, {})
    return target


def _no(cls: type[Any], args: tuple[Any, ...]) -> bool:
    """Pointers have no pinned memory, and no form as nested tensors."""
    return False


def _set(cls: type[Any], args: tuple[Any, ...]) -> Any:
    target, source = args
    if type(target) is not cls or type(source) is not cls:
        return NotImplemented
    point_alike(target, source)
    return target


def read(pointer: Any) -> torch.Tensor:
    """Return a copy of a pointer's value, brought home along the whole chain; the object stays."""
    while hasattr(pointer, "_handle"):
        handle = pointer._handle
        pointer = handle.location.get(handle, take=False)
    return cast(torch.Tensor, pointer)


def _alike(cls: type[Any], args: tuple[Any, ...]) -> bool:
    """Asked by ``x.data = y``: no worker need answer."""
    return type(args[0]) is type(args[1])


_aten = torch.ops.aten
_RULES: dict[OpOverload, Callable[[type[Any], tuple[Any, ...]], Any]] = {
    _aten._has_compatible_shallow_copy_type.default: _alike,
    _aten.alias.default: _share,
    _aten.lift_fresh.default: _share,
    _aten._conj.default: _conjugate,
    _aten._neg_view.default: _negate,
    _aten._local_scalar_dense.default: _item,
    _aten._has_same_storage_numel.default: _has_same_storage_numel,
    _aten.copy_.default: _copy,
    _aten.is_pinned.default: _no,
    _aten._nested_tensor_from_mask_left_aligned.default: _no,
    _aten.set_.source_Tensor: _set,
}
