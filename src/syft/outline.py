"""Metadata of an operator's results from that of its arguments, without running it on data.

The operator is run on ``meta`` tensors once for each kind of call; after that it is a look-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from . import limits
from .errors import OperatorFailed
from .operators import Operator

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
            outputs = self._known[key] = _infer(operator, args, kwargs or {})
            return outputs


def _key(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            return value.layout, value.shape, value.dtype
        return value.shape, value.stride(), value.storage_offset(), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple(_key(v) for v in value)
    return type(value), value  # 1, 1.0 and True are equal, and not alike


def _infer(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> Outputs | None:
    if operator.gives_value or operator.reveals_shape(args, kwargs):
        return None
    try:
        outputs = operator.call(*map(_on_meta, args), **{k: _on_meta(v) for k, v in kwargs.items()})
    except NotImplementedError:  # it has no meta kernel
        return None
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise OperatorFailed(str(error)) from error
    return tuple(outputs) if isinstance(outputs, (list, tuple)) else () if outputs is None else (outputs,)


def _on_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        if value.layout is not torch.strided:
            raise NotImplementedError("no outline of sparse tensors")
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return [_on_meta(v) for v in value] if isinstance(value, (list, tuple)) else value


def warm() -> None:
    """Have torch import what it runs operators on ``meta`` tensors with: over a second, the first time."""
    torch.empty(1, device="meta") + 1
