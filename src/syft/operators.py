"""The operators a worker runs, by table look-up; what is not in ``operators.txt`` does not run.

What an operator writes, returns and makes is read off torch's own schema, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import Any, cast

import torch
from torch._ops import OpOverload

from .errors import OperatorNotAllowed

TABLE = "operators.txt"

#: These give memory that nobody has written yet, with whatever it held before. It is zeroed.
_UNINITIALISED = frozenset({
    "aten::empty.memory_format", "aten::empty_like", "aten::empty_permuted", "aten::empty_strided",
    "aten::new_empty", "aten::new_empty_strided",
    "aten::empty_like.out", "aten::empty_permuted.out", "aten::empty_strided.out",
})  # fmt: skip
_GROWING = frozenset({"aten::resize_", "aten::resize_as_"})
_COPYING = frozenset({"aten::to.dtype"})  # a view by its schema, but only where nothing is to be done

_FLOATS_THAT_SIZE = frozenset({"start", "end", "step", "scale_factors"})

#: Statistics that these write to, though their schema does not say so.
_UNDECLARED_WRITES = dict.fromkeys(
    ("aten::native_batch_norm", "aten::native_batch_norm.out"), ("running_mean", "running_var")
)

#: Sizes that depend on values, though torch does not say so: how many are not zero, or what lengths add up to.
_SIZED_BY_VALUES = frozenset({
    "aten::_indices", "aten::_values", "aten::indices", "aten::values", "aten::col_indices", "aten::row_indices",
    "aten::_pack_padded_sequence",
})  # fmt: skip
_MASKS = (torch.bool, torch.uint8)

#: Arguments, by index, that may be a local tensor: torch's Python functions make them at the caller,
#: and they hold positions, lengths or random numbers, not data.
STRUCTURAL_ARGUMENTS = {
    "aten::_embedding_bag": (2,),
    "aten::_embedding_bag_forward_only": (2,),
    "aten::_pack_padded_sequence": (1,),
    "aten::fractional_max_pool2d": (3,),
    "aten::fractional_max_pool3d": (3,),
}


class Operator:
    """One row of the table, with what its schema says.

    Attributes:
        name: as on the wire, ``aten::add.Tensor``.
        call: runs it on tensors.
        plain: it gives exactly one fresh tensor (the most common case).
        in_place: it writes to its first argument, and only that, and gives it back.
        returned: for each thing it returns, the index of the argument that it is (an operator in
            place, ``out=``), or None where it is fresh.
        written: indices of the arguments it writes to.
        names: of its arguments, in order.
        gives_list: it returns one list of tensors, whose length depends on the arguments.
        gives_value: it returns a Python value, not a tensor.
        changes_view: it changes its first argument's shape in place (``t_``, ``squeeze_``).
        schema: torch's own.
        takes_no_memory: what it gives has the memory of its arguments.
        sized_by: kinds of numbers on whose values the size of what it gives depends.
    """

    __slots__ = (
        "name", "call", "plain", "in_place", "returned", "written", "names", "gives_list", "gives_value",
        "changes_view", "schema", "takes_no_memory", "sized_by", "_shape_depends_on_values",
    )  # fmt: skip

    def __init__(self, name: str, overload: OpOverload) -> None:
        self.schema = schema = overload._schema
        index = {argument.name: i for i, argument in enumerate(schema.arguments)}
        writers = {
            alias: index[argument.name]
            for argument in schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
            for alias in argument.alias_info.before_set
        }
        kinds = [str(returned.type) for returned in schema.returns]
        self.name = name
        self.call = _safe(name, overload)
        self.written = frozenset(
            i
            for i, argument in enumerate(schema.arguments)
            if (argument.alias_info is not None and argument.alias_info.is_write)
            or argument.name in _UNDECLARED_WRITES.get(name, ())
        )
        self.names = tuple(argument.name for argument in schema.arguments)
        self.returned = tuple(
            next((writers[alias] for alias in r.alias_info.before_set), None)
            if r.alias_info is not None and r.alias_info.is_write
            else None
            for r in schema.returns
        )
        self.gives_list = kinds == ["List[Tensor]"]
        self.gives_value = any(kind not in ("Tensor", "Optional[Tensor]", "List[Tensor]") for kind in kinds)
        self.plain = kinds == ["Tensor"] and self.returned == (None,) and not self.written
        self.changes_view = torch.Tag.inplace_view in overload.tags
        self.in_place = kinds == ["Tensor"] and self.returned == (0,) and self.written == {0} and not self.changes_view
        self.takes_no_memory = (overload.is_view and name not in _COPYING) or (self.in_place and name not in _GROWING)
        self.sized_by: frozenset[type] = (
            frozenset() if self.takes_no_memory or torch.Tag.pointwise in overload.tags or "_foreach_" in name
            else frozenset({bool, int, float}) if _FLOATS_THAT_SIZE.intersection(self.names)
            else frozenset({bool, int})
        )  # fmt: skip
        self._shape_depends_on_values = torch.Tag.dynamic_output_shape in overload.tags or name in _SIZED_BY_VALUES

    def reveals_shape(self, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Tell whether the shape of the result depends on values (``nonzero``, ``x[mask]``), given the arguments."""
        if self.name == "aten::index.Tensor":  # by whole numbers, the shape is that of the indices
            indices = self.argument(1, args, kwargs)
            return not isinstance(indices, (list, tuple)) or any(getattr(i, "dtype", None) in _MASKS for i in indices)
        return self._shape_depends_on_values

    def argument(self, index: int, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Pick the argument ``index`` of the schema out of a call; None if it was left out."""
        return args[index] if index < len(args) else kwargs.get(self.names[index])


def _safe(name: str, overload: OpOverload) -> Callable[..., Any]:
    """Return what runs the operator without ever showing uninitialised memory."""

    def zeroed(*args: Any, **kwargs: Any) -> torch.Tensor:
        fresh: torch.Tensor = overload(*args, **kwargs)
        return fresh.zero_()

    def grown(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if tensor.is_meta or type(tensor) is not torch.Tensor:  # a pointer's object grows where it is
            return cast(torch.Tensor, overload(tensor, *args, **kwargs))
        if not tensor.untyped_storage().resizable():  # it is on memory that came off a wire
            tensor.set_(tensor.clone())  # type: ignore[call-overload]
        before = tensor.untyped_storage().nbytes()
        overload(tensor, *args, **kwargs)
        storage = tensor.untyped_storage()
        torch.empty(0, dtype=torch.uint8).set_(storage)[before:].zero_()
        return tensor

    return zeroed if name in _UNINITIALISED else grown if name in _GROWING else overload


@cache
def allowed() -> frozenset[str]:
    """Return the names of all operators of the table."""
    text = resources.files(__package__).joinpath(TABLE).read_text("utf-8")
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return frozenset(line for line in lines if line)


class _ByName(dict[str, Operator]):
    """Operators met so far; a name is resolved only after it is found in the table."""

    def __missing__(self, name: str) -> Operator:
        if name not in allowed():
            raise OperatorNotAllowed(
                f"the operator {name:.200} is not in the table of operators that workers run",
                mend="Get the tensor and run it locally, or ask for the operator to be added to the table.",
            )
        namespace, _, rest = name.partition("::")
        packet, _, variant = rest.partition(".")
        overload = getattr(getattr(getattr(torch.ops, namespace), packet), variant or "default")
        self[name] = operator = Operator(name, overload)
        return operator


BY_NAME = _ByName()
