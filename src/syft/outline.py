"""Metadata of an operator's results from that of its arguments, without running it on data.

The operator is run on ``meta`` tensors once for each kind of call; after that it is a look-up.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from . import limits
from .errors import refusal_of
from .operators import Operator

_DEVICE, _META = "device", torch.device("meta")

Outputs = tuple[torch.Tensor | None, ...]


class Outlines:
    """What operators gave on ``meta`` tensors, remembered by (operator, metadata and values of arguments)."""

    def __init__(self) -> None:
        self._known: dict[Any, Outputs | None] = {}

    def of(self, operator: Operator, args: Sequence[Any], kwargs: dict[str, Any] | None) -> Outputs | None:
        """Return all that the operator will give, as ``meta`` tensors; None if only running it can tell.

        Raises OperatorFailed, in torch's own words, if the operator refuses such arguments.
        """
        key = (operator.name, *map(_key, args), *(_key(item) for item in (kwargs or {}).items()))
        try:
            return self._known[key]
        except KeyError:
            if len(self._known) >= limits.MAX_OUTLINES:
                self._known.clear()
            outputs = self._known[key] = infer(operator, args, kwargs or {})
            return outputs


def growth(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> int | None:
    """Return how many bytes the operator's results, and what it writes to, will take beyond what its arguments have.

    None if only running it can tell. Raises OperatorFailed as :meth:`Outlines.of`.
    """
    state = torch.get_rng_state()  # some draw random numbers for their outline too
    try:
        args, kwargs = _on_meta(args), {k: _on_meta(v) for k, v in kwargs.items()}
        before = _bytes([args, list(kwargs.values())])
        outputs = infer(operator, args, kwargs)
        return None if outputs is None else max(0, _bytes([args, list(kwargs.values()), outputs]) - before)
    except NotImplementedError:  # of sparse tensors
        return None
    finally:
        torch.set_rng_state(state)


def resizes(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Tell whether what the operator writes to gets another size; so also if only running it can tell.

    Raises OperatorFailed as :meth:`Outlines.of`.
    """
    state = torch.get_rng_state()
    try:
        args, kwargs = _on_meta(args), {k: _on_meta(v) for k, v in kwargs.items()}
        written = [operator.argument(i, args, kwargs) for i in operator.written]
        before = _shapes(written)
        return infer(operator, args, kwargs) is None or _shapes(written) != before
    except NotImplementedError:  # of sparse tensors
        return True
    finally:
        torch.set_rng_state(state)


def _shapes(values: Any) -> Any:
    if isinstance(values, (list, tuple)):
        return [_shapes(value) for value in values]
    return values.shape if isinstance(values, torch.Tensor) else None


def _bytes(values: Any) -> int:
    """Add up the memory of all tensors in nested lists, each storage once."""
    storages: dict[int, int] = {}

    def visit(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            storage = value.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        elif isinstance(value, (list, tuple)):
            for item in value:
                visit(item)

    visit(values)
    return sum(storages.values())


def _key(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            return value.layout, value.shape, value.dtype
        return value.shape, value.stride(), value.storage_offset(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(_key(v) for v in value)
    return type(value), value  # 1, 1.0 and True are equal, and not alike


def infer(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> Outputs | None:
    """As :meth:`Outlines.of`, and remember nothing."""
    if operator.gives_value or operator.reveals_shape(args, kwargs):
        return None
    if _Warming.done is not None:
        _Warming.done.wait()
    there = {_DEVICE: _META} if _DEVICE in operator.names else {}  # for what makes tensors of nothing
    try:
        outputs = operator.call(*map(_on_meta, args), **{k: _on_meta(v) for k, v in kwargs.items()} | there)
    except NotImplementedError:  # it has no meta kernel
        return None
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise refusal_of(error) from error
    return tuple(outputs) if isinstance(outputs, (list, tuple)) else () if outputs is None else (outputs,)


def _on_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.is_meta:
            return value
        if value.layout is not torch.strided:
            raise NotImplementedError("no outline of sparse tensors")
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_META)
    return [_on_meta(v) for v in value] if isinstance(value, (list, tuple)) else value


def warm() -> None:
    """Have torch import what it runs operators on ``meta`` tensors with: over a second, the first time."""
    torch.empty(1, device="meta") + 1


class _Warming:
    """Whether that is done by a thread of its own: Ctrl-C, which is the main thread's, cuts no import in two."""

    done: threading.Event | None = None


def start_warming() -> None:
    """Begin to :func:`warm`, unless that was begun before, and return; who needs it waits for it."""
    if _Warming.done is None:
        _Warming.done = threading.Event()
        threading.Thread(target=_warm, args=(_Warming.done,), name="imports of torch").start()


def _warm(done: threading.Event) -> None:
    try:
        warm()
    finally:
        done.set()
