"""LoggingTensor: watch the operators that run on a tensor or a pointer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch._ops import OpOverload

from .dispatch import take_metadata, with_constants_sent
from .errors import Misuse, NotCollocated
from .multipointer import Everywhere, MultiPointerTensor, take_for
from .pointer import PointerTensor, place_of

Log = Callable[[str], object]


class LoggingTensor(torch.Tensor):
    """``sy.LoggingTensor().on(x)`` is ``x``, with a line for each operator that runs on it.

    A line has torch's own name of the operator, and dtype, shape and place of what goes in and comes
    out: no values of tensors. What comes out is watched too, in the backward pass as well.

    Args:
        log: is given each line.
    """

    _watched: torch.Tensor
    _log: Log

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    def __new__(cls, log: Log = print) -> LoggingTensor:
        return _watch(torch.empty(0), log)

    def __init__(self, log: Log = print) -> None:
        super().__init__()

    def on(self, tensor: torch.Tensor) -> LoggingTensor:
        """Watch a local tensor, a pointer or a MultiPointerTensor; gradients flow back to it unwatched."""
        if not isinstance(tensor, torch.Tensor):
            raise Misuse(f"a {type(tensor).__name__} has no operators to watch", mend="sy.LoggingTensor().on(tensor)")
        return cast(LoggingTensor, _On.apply(tensor, self._log)) if tensor.requires_grad else _watch(tensor, self._log)

    @property
    def child(self) -> torch.Tensor:
        """What is watched, outside the graph."""
        return self._watched

    @property
    def location(self) -> Any:
        """The worker that a watched pointer points to; None for a local tensor."""
        return getattr(self._watched, "location", None)

    def get(self, *, user: str = "", reason: str = "") -> Any:
        """Bring home what a watched pointer points to, unwatched. Errors: as :meth:`PointerTensor.get`."""
        if isinstance(self._watched, PointerTensor):
            return take_for(self, [self._watched], user)[0]
        if isinstance(self._watched, MultiPointerTensor):
            return self._watched.get(user=user)
        raise Misuse("what is watched is here: there is nothing to get", mend="Send it first: log.on(x.send(bob)).")

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: OpOverload, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        originals: dict[int, torch.Tensor] = {}
        bare_args, bare_kwargs = _unwatched((args, kwargs or {}), originals)
        try:
            result = func(*bare_args, **bare_kwargs)
        except NotCollocated as apart:
            del bare_args, bare_kwargs  # they hold references to the constants
            places = (_place(t._watched) for t in originals.values() if isinstance(t, cls))
            place = next((place for place in places if place is not None), None)
            if place is None:
                raise
            originals.clear()
            return func(*with_constants_sent(func.name(), args, place, apart), **kwargs or {})
        log = next(t._log for t in originals.values() if isinstance(t, cls))
        given = [_said(a) for a in bare_args] + [f"{name}={_said(a)}" for name, a in bare_kwargs.items()]
        log(f"{func.name()}({', '.join(given)}) -> {_said(result)}")
        return _rewatched(result, originals, log)

    @property
    def data(self) -> torch.Tensor:
        """The same tensor, outside the graph."""
        return self.detach()

    @data.setter  # type: ignore[override]
    def data(self, source: LoggingTensor) -> None:
        take_metadata(self, source)
        self._watched = source._watched

    def tolist(self) -> Any:
        return self._watched.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        return self._watched.numpy(force=force)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return self._watched.__array__(dtype)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"(Wrapper)>LoggingTensor>{self._watched!r}"

    __str__ = __repr__

    def __deepcopy__(self, memo: dict[int, Any]) -> LoggingTensor:
        twin = cast(LoggingTensor, self.detach().clone().requires_grad_(self.requires_grad))
        twin.__dict__.update({k: v for k, v in self.__dict__.items() if k == "_is_param"})
        memo[id(self)] = twin
        return twin


class _On(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, log: Log) -> torch.Tensor:
        return _watch(tensor.detach(), log)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _Off.apply(gradients[0]), None


class _Off(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, watcher: LoggingTensor) -> torch.Tensor:
        ctx.log = watcher._log
        return watcher._watched.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _On.apply(gradients[0], ctx.log)


def _watch(tensor: torch.Tensor, log: Log) -> LoggingTensor:
    watcher: LoggingTensor = torch.Tensor._make_wrapper_subclass(
        LoggingTensor, tensor.shape, tensor.stride(), tensor.storage_offset(), dtype=tensor.dtype, device=tensor.device
    )
    watcher._watched, watcher._log = tensor, log
    return watcher


def _place(watched: torch.Tensor) -> Any:
    return Everywhere(watched.locations) if isinstance(watched, MultiPointerTensor) else place_of(watched)


def _unwatched(value: Any, originals: dict[int, torch.Tensor]) -> Any:
    """Put what is watched in the place of each LoggingTensor; note which operand was which."""
    if isinstance(value, torch.Tensor):
        bare = value._watched if isinstance(value, LoggingTensor) else value
        originals[id(bare)] = value
        return bare
    if isinstance(value, (list, tuple)):
        return [_unwatched(item, originals) for item in value]
    if isinstance(value, dict):
        return {key: _unwatched(item, originals) for key, item in value.items()}
    return value


def _rewatched(value: Any, originals: dict[int, torch.Tensor], log: Log) -> Any:
    """Watch what is new; what was written in place is the operand itself."""
    if isinstance(value, torch.Tensor):
        original = originals.get(id(value))
        if original is None:
            return _watch(value, log)
        if isinstance(original, LoggingTensor) and (original.shape, original.stride()) != (value.shape, value.stride()):
            take_metadata(original, _watch(value, log))
        return original
    if isinstance(value, (list, tuple)):
        return type(value)([_rewatched(item, originals, log) for item in value])
    return value


def _said(value: Any) -> str:
    if isinstance(value, (PointerTensor, MultiPointerTensor)):
        locations = value.locations if isinstance(value, MultiPointerTensor) else [value.location]
        return f"{_kind(value)} at {' and '.join(place.id for place in locations)}"
    if isinstance(value, torch.Tensor):
        return _kind(value)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_said, value))}]"
    return str(value)


def _kind(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
