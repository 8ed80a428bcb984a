"""MultiPointerTensor: one tensor at several workers, each with values of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NoReturn, cast

import torch
from torch._ops import OpOverload

from .dispatch import read, take_metadata, with_constants_sent
from .errors import Misuse, NotCollocated
from .pointer import PointerTensor, bring_all


class MultiPointerTensor(torch.Tensor):
    """Pointers to tensors at several workers, as one tensor: every operator runs at all of them.

    All have one shape, dtype and memory order, as a tensor has; numbers and 0-dim constants go to
    every worker. Autograd records here, and gradients are MultiPointerTensors. For data of different
    sizes at different workers see :mod:`syft.fl`.
    """

    _pointers: tuple[PointerTensor, ...]

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def of(cls, pointers: Sequence[torch.Tensor]) -> MultiPointerTensor:
        """Make one leaf of pointers that nobody else uses; their gradients become its own.

        Raises:
            Misuse: as :func:`combine_pointers`.
        """
        _check(pointers)
        whole = cls._wrap([_bare(p) for p in pointers])
        grads = [p.grad for p in pointers if p.is_leaf and p.grad is not None]
        if len(grads) == len(pointers):
            whole.grad = cls.of(grads)
        whole.requires_grad_(any(p.requires_grad for p in pointers))
        return whole

    @classmethod
    def _wrap(cls, pointers: Sequence[torch.Tensor]) -> MultiPointerTensor:
        first = pointers[0]
        whole: Any = torch.Tensor._make_wrapper_subclass(
            cls, first.shape, first.stride(), first.storage_offset(), dtype=first.dtype, device=first.device
        )
        whole._pointers = tuple(cast(Sequence[PointerTensor], pointers))
        return cast(MultiPointerTensor, whole)

    # ---- who and where ----

    @property
    def child(self) -> dict[str, PointerTensor]:
        """The single pointers, outside the graph, by the name of their worker."""
        return {p.location.id: p for p in self._pointers}

    @property
    def locations(self) -> list[Any]:
        """The workers, in order; ``location`` is the same."""
        return [p.location for p in self._pointers]

    location = locations

    @property
    def owner(self) -> Any:
        """The worker that holds the pointers; ``me`` for this process."""
        return self._pointers[0].owner

    def tag(self, *tags: str) -> MultiPointerTensor:
        """Add tags to every object."""
        for pointer in self._pointers:
            pointer.tag(*tags)
        return self

    def describe(self, description: str) -> MultiPointerTensor:
        """Describe every object in words."""
        for pointer in self._pointers:
            pointer.describe(description)
        return self

    # ---- coming home ----

    def get(
        self, sum_results: bool = False, *, user: str = "", reason: str = "", requires_grad: bool = False
    ) -> list[torch.Tensor] | torch.Tensor:
        """Bring all objects home: a list in the order of the workers, or their sum.

        Gradients come along in the list. ``requires_grad``, ``user``, ``reason`` and errors: as
        :meth:`PointerTensor.get`.
        """
        values: list[torch.Tensor]
        if requires_grad:
            values = [p.get(user=user, requires_grad=True) for p in _Split.apply(self)]
        else:
            grad = None if sum_results or not (self.is_leaf or self.retains_grad) else self.grad
            grads = () if grad is None else cast(MultiPointerTensor, grad)._pointers
            taken = take_for(self, [*self._pointers, *grads], user)
            values = taken[: len(self._pointers)]
            if not sum_results:
                for value in values:
                    value.requires_grad_(self.requires_grad)
            for value, own in zip(values, taken[len(values) :], strict=False):
                value.grad = own
        return torch.stack(values).sum(0) if sum_results else values

    def virtual_get(self, sum_results: bool = False) -> list[torch.Tensor] | torch.Tensor:
        """As :meth:`get`, of copies: the objects stay where they are."""
        values = [read(p) for p in self._pointers]
        return torch.stack(values).sum(0) if sum_results else values

    def copy(self) -> MultiPointerTensor:
        """Return pointers to copies of the objects, at the same workers, outside the graph."""
        return cast(MultiPointerTensor, self.detach().clone().requires_grad_(self.requires_grad))

    def get_(self, **options: Any) -> NoReturn:
        raise _several_values()

    def move(self, worker: Any, **options: Any) -> NoReturn:
        raise Misuse(
            "the objects of a MultiPointerTensor cannot all move to one worker",
            mend="Move single ones: x.child['bob'].move(alice).",
        )

    move_ = move

    # ---- operators ----

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: OpOverload, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if not {cls, PointerTensor}.issuperset(types):
            return NotImplemented
        kwargs = kwargs or {}
        wholes = [t for t in _tensors((args, kwargs)) if isinstance(t, cls)]
        places = wholes[0].locations
        if PointerTensor in types:
            pointer = next(t for t in _tensors((args, kwargs)) if isinstance(t, PointerTensor))
            raise _apart(places, [pointer.location])
        if func is torch.ops.aten.copy_.default and not isinstance(args[0], cls):
            raise _several_values()
        children = {id(whole): whole._at(places) for whole in wholes}
        try:
            results = [func(*_part(args, i, children), **_part(kwargs, i, children)) for i in range(len(places))]
        except NotCollocated as apart:
            return func(*with_constants_sent(func.name(), args, Everywhere(places), apart), **kwargs)
        return _join(results, {id(p): whole for whole in wholes for p in whole._pointers})

    def _at(self, places: list[Any]) -> Sequence[PointerTensor]:
        """The single pointers in the order of ``places``. Raises NotCollocated if they are elsewhere."""
        own = self.locations
        if own == places:
            return self._pointers
        if len(own) != len(places) or any(place not in own for place in places):
            raise _apart(places, own)
        return [self._pointers[own.index(place)] for place in places]

    @property
    def data(self) -> torch.Tensor:
        """The same objects, outside the graph."""
        return self.detach()

    @data.setter  # type: ignore[override]
    def data(self, source: MultiPointerTensor) -> None:
        take_metadata(self, source)
        self._pointers = source._pointers

    # ---- what torch reads from memory ----

    def tolist(self) -> NoReturn:
        raise _several_values()

    def numpy(self, *, force: bool = False) -> NoReturn:
        raise _several_values()

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NoReturn:
        raise _several_values()

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        lines = [f"\t-> {repr(p).removeprefix('(Wrapper)>')}" for p in self._pointers]
        return "\n".join(["(Wrapper)>[MultiPointerTensor]", *lines])

    __str__ = __repr__

    def __deepcopy__(self, memo: dict[int, Any]) -> MultiPointerTensor:
        if not self.is_leaf:
            raise Misuse("only pointers that are leaves of the graph can be deep-copied", mend="Use x.detach() first.")
        twin = self.copy()
        twin.__dict__.update({k: v for k, v in self.__dict__.items() if k == "_is_param"})
        memo[id(self)] = twin
        if self.grad is not None:
            twin.grad = cast(MultiPointerTensor, self.grad).copy()
        return twin

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise Misuse("pointers cannot be pickled: they hold no data", mend="Get the values first: x.get().")


def combine_pointers(*pointers: torch.Tensor) -> MultiPointerTensor:
    """Make one MultiPointerTensor of pointers to different workers.

    Gradients of the result flow back to the pointers, and it keeps its own.

    Raises:
        Misuse: they are not pointers, two are at one worker, or they differ in shape, dtype or
            memory order.
    """
    _check(pointers)
    if not any(p.requires_grad for p in pointers):
        return MultiPointerTensor._wrap(pointers)
    whole: MultiPointerTensor = _Combine.apply(*pointers)
    if whole.requires_grad:  # not so under no_grad
        whole.retain_grad()
    return whole


def take_for(holder: torch.Tensor, pointers: Sequence[PointerTensor], user: str) -> list[torch.Tensor]:
    """Take the objects of pointers that are part of ``holder``: all of them, or with an error none.

    While an autograd graph has ``holder``, the objects live on, hidden, for that graph.
    """
    if holder._use_count() == 1:  # type: ignore[attr-defined]
        return bring_all(pointers, user)
    for pointer in pointers:
        pointer._check_not_left()
    values = bring_all([_bare(pointer, alias=True) for pointer in pointers], user)
    for pointer in pointers:
        pointer._fate = "was taken home by get()"
    return values


def _bare(pointer: Any, alias: bool = False) -> PointerTensor:
    """The pointer outside the graph: itself where it is in none, unless an alias is asked for."""
    if not (alias or pointer.requires_grad):
        return cast(PointerTensor, pointer)
    bare = cast(PointerTensor, pointer.detach())
    bare._tags, bare._description = pointer._tags, pointer._description
    return bare


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *pointers: torch.Tensor) -> torch.Tensor:
        return MultiPointerTensor._wrap([_bare(p) for p in pointers])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _Split.apply(gradients[0])


class _Split(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: MultiPointerTensor) -> tuple[torch.Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.pointers = [p.detach() for p in whole._pointers]
        return tuple(p.detach() for p in whole._pointers)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _Combine.apply(
            *(torch.zeros_like(p) if g is None else g for p, g in zip(ctx.pointers, gradients, strict=True))
        )


class Everywhere:
    """Several workers as one place to send to."""

    def __init__(self, locations: list[Any]) -> None:
        self._locations = locations

    def send(self, value: torch.Tensor) -> MultiPointerTensor:
        return MultiPointerTensor._wrap([location.send(value) for location in self._locations])


def _check(pointers: Sequence[torch.Tensor]) -> None:
    if not pointers or not all(isinstance(p, PointerTensor) for p in pointers):
        raise Misuse(
            f"only pointers can be combined, not {', '.join(type(p).__name__ for p in pointers) or 'nothing'}",
            mend="sy.combine_pointers(x.send(bob), y.send(alice))",
        )
    places = [cast(PointerTensor, p).location.id for p in pointers]
    if len(set(places)) < len(places):
        raise Misuse(
            f"pointers that are combined are at different workers; these are at {', '.join(places)}",
            mend="To join tensors at one worker use torch.stack or torch.cat.",
        )
    _check_alike(pointers)


def _check_alike(pointers: Sequence[torch.Tensor]) -> None:
    if any(p.layout is not torch.strided for p in pointers):
        raise Misuse("sparse tensors cannot be combined", mend="Use x.to_dense() at each worker first.")
    first = pointers[0]
    for other in pointers:
        if (first.shape, first.dtype) != (other.shape, other.dtype):
            raise Misuse(
                "the tensors at the workers differ, and a MultiPointerTensor has one shape and dtype: "
                f"{list(first.shape)} of {first.dtype}, {list(other.shape)} of {other.dtype}",
                mend="Keep them as single pointers; for data of different sizes there is sy.FederatedDataset.",
            )
        if first.stride() != other.stride():
            raise Misuse(
                f"the tensors at the workers differ in memory order: strides {first.stride()} and {other.stride()}",
                mend="Combine x.contiguous() of each.",
            )


def _apart(places: list[Any], others: list[Any]) -> NotCollocated:
    here, there = (", ".join(place.id for place in where) for where in (places, others))
    return NotCollocated(
        f"the operands are not in the same places: one is at {here}, another at {there}",
        mend="Send copies to all of the workers, or use the single pointers in x.child.",
    )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _part(value: Any, index: int, children: dict[int, Sequence[PointerTensor]]) -> Any:
    """Put the pointer to the worker ``index`` in the place of each MultiPointerTensor."""
    if isinstance(value, MultiPointerTensor):
        return children[id(value)][index]
    if isinstance(value, (list, tuple)):
        return [_part(item, index, children) for item in value]
    if isinstance(value, dict):
        return {key: _part(item, index, children) for key, item in value.items()}
    return value


def _join(results: Sequence[Any], known: dict[int, MultiPointerTensor]) -> Any:
    """Make one result of those of all workers; what was written in place is the operand itself."""
    first = results[0]
    if isinstance(first, PointerTensor):
        whole = known.get(id(first))
        if whole is None:
            _check_alike(results)
            return MultiPointerTensor._wrap(results)
        if (whole.shape, whole.stride()) != (first.shape, first.stride()):
            take_metadata(whole, MultiPointerTensor._wrap(whole._pointers))
        return whole
    if isinstance(first, (list, tuple)):
        joined: Iterable[Any] = (_join(each, known) for each in zip(*results, strict=True))
        return list(joined) if isinstance(first, list) else tuple(joined)
    if all(result == first for result in results):
        return first
    raise _several_values()


def _several_values() -> Misuse:
    return Misuse(
        "a MultiPointerTensor has a value at each worker, and one value is asked for",
        mend="Use x.get() or x.virtual_get(), which give a list, or sum_results=True.",
    )


PointerTensor.combine: Callable[..., MultiPointerTensor] = combine_pointers  # type: ignore[attr-defined,misc]
