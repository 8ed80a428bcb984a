"""What a worker that serves strangers asks of an operator before it runs.

That the arguments are of the kinds that torch's schema says; that the values are none that torch is
known not to check and to fail on (:mod:`syft.checks`); and that the results have room. The first and
the last are found out once for each kind of call, and remembered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, cast

import torch

from . import limits
from .checks import BOUNDS, BY_SHAPE, BY_VALUE, Call, Check
from .errors import LimitExceeded, MalformedMessage
from .operators import Operator
from .outline import growth
from .store import Store, bytes_of

_Tensor = torch.Tensor
_NUMBERS = (bool, int, float, complex)


class Guard:
    """Checks the operators of one worker, and holds what it has in memory to a quota.

    Args:
        store: of the worker.
        quota: bytes of all objects together.
    """

    def __init__(self, store: Store, quota: int) -> None:
        self._store, self._quota = store, quota
        self._held = store.bytes()  # an upper bound; counted anew when it passes the quota
        self._known: dict[Any, tuple[int | None, tuple[Check, ...]]] = {}

    def permit(self, operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Let an operator run, or not; tell whether its results have to be counted after.

        Raises:
            MalformedMessage: an argument is missing, too many, or of a wrong kind.
            OperatorFailed: torch refuses such arguments; or would fail on their values, without checking them.
            LimitExceeded: there is no room for the results.
        """
        key: Any = (
            operator,
            *[(a.shape, a.dtype, a.layout) if type(a) is _Tensor else _describe(a, operator.sized_by) for a in args],
        )
        if kwargs:
            key += tuple((name, _describe(value, operator.sized_by)) for name, value in kwargs.items())
        known = self._known
        if key not in known:
            self._learn(key, operator, args, kwargs)
        size, checks = known[key]
        if checks:
            _run(checks, operator, args, kwargs)
        if size is None:
            return True
        if size:
            self.hold(size)
        return False

    def hold(self, size: int) -> None:
        """Count ``size`` bytes more. Raises LimitExceeded."""
        self._held += size
        if self._held > self._quota:
            self._held = self._store.bytes()
            if self._held + size > self._quota:
                raise LimitExceeded(
                    f"{size} bytes more do not fit: {self._held} of {self._quota} are in use",
                    where=self._store.where,
                    mend="Let go of pointers that you do not use, or compute in smaller parts.",
                )
            self._held += size

    def hold_results(self, outputs: Any) -> None:
        """Count the memory of what an operator gave. Raises LimitExceeded."""
        flat = outputs if isinstance(outputs, (list, tuple)) else (outputs,)
        self.hold(bytes_of(value for value in flat if isinstance(value, _Tensor)))

    def permit_copy(self, value: torch.Tensor) -> None:
        """Let a value be copied on its way out: a view may be larger than its memory. Raises LimitExceeded."""
        if value.layout is torch.strided and value.nbytes > min(limits.MAX_FRAME_BYTES, self._quota):
            raise LimitExceeded(
                f"a value of {value.nbytes} bytes is too large to be sent", where=self._store.where, mend="Get parts."
            )

    def _learn(self, key: Any, operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        check_arguments(operator, args, kwargs)
        size: int | None = 0
        checks: tuple[Check, ...] = ()
        if not _any_elsewhere((args, *kwargs.values())):
            checks = BY_VALUE.get(operator.name, ())
            _run((*BY_SHAPE.get(operator.name, ()), *checks), operator, args, kwargs)
            size = 0 if operator.takes_no_memory else growth(operator, args, kwargs)
            bound = BOUNDS.get(operator.name)
            if size is None and bound is not None:
                size, checks = 0, (*checks, lambda call: self.hold(bound(call)))
        if len(self._known) >= limits.MAX_OUTLINES:
            self._known.clear()
        self._known[key] = size, checks


def _run(checks: Iterable[Check], operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    call = {**_defaults(operator), **dict(zip(operator.names, args, strict=False)), **kwargs}
    for check in checks:
        check(call)


def _describe(value: Any, sized_by: frozenset[type]) -> Any:
    """Describe an argument by what the size of results depends on."""
    if isinstance(value, _Tensor):
        return type(value), value.shape, value.dtype, value.layout
    kind = type(value)
    if kind is list:
        return tuple(_describe(item, sized_by) for item in value)
    if kind not in _NUMBERS:
        return value
    return (kind, value) if kind in sized_by else kind  # 1, 1.0 and True are equal, and not alike


def _any_elsewhere(values: Any) -> bool:
    """Tell whether there is a pointer among the values: what runs on it takes no memory here."""
    if isinstance(values, (list, tuple)):
        return any(map(_any_elsewhere, values))
    return isinstance(values, _Tensor) and type(values) is not _Tensor


# ---- by schema -------------------------------------------------------------------------------


def check_arguments(operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
    """Hold arguments to the schema: how many, by which names, of which kinds. Raises MalformedMessage.

    Torch checks some of it, and takes a number for a dtype, and a tensor for a number, whose value
    would decide on what is never to depend on values.
    """
    slots = _slots(operator)
    names = {name for name, *_ in slots}
    if len(args) > sum(not by_name_only for _, by_name_only, _, _ in slots):
        raise _malformed(operator, f"takes no {len(args)} arguments")
    for name in kwargs:
        if name not in names:
            raise _malformed(operator, f"has no argument {name:.100}")
    for i, (name, by_name_only, required, fits) in enumerate(slots):
        if not by_name_only and i < len(args):
            if name in kwargs:
                raise _malformed(operator, f"has its argument {name} twice")
            value = args[i]
        elif name in kwargs:
            value = kwargs[name]
        elif required:
            raise _malformed(operator, f"has no value for {name}")
        else:
            continue
        if not fits(value):
            raise _malformed(operator, f"takes no {type(value).__name__} for {name}")


@cache
def _defaults(operator: Operator) -> Call:
    return {argument.name: argument.default_value for argument in operator.schema.arguments}


def _malformed(operator: Operator, problem: str) -> MalformedMessage:
    return MalformedMessage(f"{operator.name} {problem}", mend="See its schema in torch.")


Fits = Callable[[Any], bool]


@cache
def _slots(operator: Operator) -> tuple[tuple[str, bool, bool, Fits], ...]:
    """Give name, by name only, required, and what fits, of each argument."""
    return tuple(
        (
            a.name,
            a.kwarg_only,
            not a.has_default_value(),
            _fitting(str(a.real_type), cast(Any, a).N, i in operator.written),
        )
        for i, a in enumerate(operator.schema.arguments)
    )


@cache
def _fitting(kind: str, length: int | None, written: bool) -> Fits:
    """Return what tells whether a value is of a kind, which is written as torch's schemas do."""
    if kind.startswith("Optional["):
        inner = _fitting(kind.removeprefix("Optional[").removesuffix("]"), length, written)
        return lambda value: value is None or inner(value)
    if kind.startswith("List["):
        item = _fitting(kind.removeprefix("List[").removesuffix("]"), None, True)
        return lambda value: (type(value) is list and all(map(item, value))) or (length is not None and item(value))
    types = _KINDS[kind]
    if kind == "Tensor" and not written:  # a number in the place of a tensor
        return lambda value: isinstance(value, types) or type(value) in _NUMBERS
    return lambda value: isinstance(value, types) and (type(value) is not bool or bool in types)


_KINDS: dict[str, tuple[type, ...]] = {
    "Tensor": (torch.Tensor,),
    "int": (int, bool),
    "float": (float, int),
    "number": _NUMBERS,
    "bool": (bool,),
    "str": (str,),
    "ScalarType": (torch.dtype,),
    "Layout": (torch.layout,),
    "MemoryFormat": (torch.memory_format,),
    "Device": (torch.device,),
    "Generator": (),
}
