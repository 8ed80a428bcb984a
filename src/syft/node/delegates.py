"""What a worker elsewhere may do with a client's objects: use what it was pointed to, and what it made of that.

A node that runs a chain's operators uses its client's objects at other nodes, and at workers in the
client's own process. It is not the client: each object that it names was pointed to for it, by the
client or by whoever has the object (``Retain``), or is its own work.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch

from .. import limits, outline
from ..errors import LimitExceeded, NotPermitted, SyftError
from ..guard import Guard
from ..messages import Answer, Get, Put, Release, Request, Retain, Retire, Run, Value
from ..operators import BY_NAME, Operator
from ..wire import Reference, is_dense
from ..worker import Worker, refs


def _as_strided(tensor: torch.Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None) -> bool:
    """Tell whether such a view shows nothing that ``tensor`` does not."""
    start = tensor.storage_offset()
    first = start if offset is None else offset
    last = first + sum((length - 1) * step for length, step in zip(size, stride, strict=False))
    is_within = start <= first and last < start + tensor.numel()
    return 0 in size or (is_within and is_dense(tensor))


def _resized(tensor: torch.Tensor, size: Sequence[int]) -> bool:
    """As above, of ``tensor`` with another size; what is new at the end of its memory is zeros."""
    return (is_dense(tensor) and math.prod(size) <= tensor.numel()) or _is_last(tensor)


def _is_last(tensor: torch.Tensor) -> bool:
    """Tell whether nothing is behind a tensor's end, so that what it grows by is new."""
    end = tensor.storage_offset() + tensor.numel()
    return is_dense(tensor) and end * tensor.itemsize == tensor.untyped_storage().nbytes()


def _is_here(value: Any) -> bool:
    """Tell whether this is a tensor with memory; a pointer is for the worker that it points to."""
    return type(value) is torch.Tensor and value.layout is torch.strided


#: Operators that read, or make room for, more of the memory behind a tensor than it shows, and whether they do so.
_REACHING: dict[str, Callable[[Callable[[int], Any]], bool]] = {
    "aten::as_strided": lambda argument: _as_strided(*map(argument, range(4))),
    "aten::as_strided_": lambda argument: _as_strided(*map(argument, range(4))),
    "aten::as_strided_copy": lambda argument: _as_strided(*map(argument, range(4))),
    "aten::as_strided_scatter": lambda argument: _as_strided(*map(argument, (0, 2, 3, 4))),
    "aten::resize_": lambda argument: _resized(argument(0), argument(1)),
    "aten::resize_as_": lambda argument: _resized(argument(0), argument(1).shape),
}


@cache
def _outs(operator: Operator) -> tuple[int, ...]:
    """Return the indices of the arguments ``out=``, which torch gives another size where theirs does not fit."""
    return tuple(i for i in operator.written if operator.schema.arguments[i].is_out)


def _flat(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class Delegate:
    """The worker ``name`` as one that uses objects at ``worker``.

    Args:
        guard: what a room holds operators to; also those of a delegate at a worker that is none.
    """

    def __init__(self, worker: Worker, name: str, guard: Guard) -> None:
        self.name, self.worker = name, worker
        self._store, self._guard = worker.store, guard
        self._failed: set[int] = set()  # what it would have made

    def refusal(self, message: Request) -> SyftError | None:
        """Tell why the message is not for the delegate to send: it is about what is not the delegate's.

        Or too many of its messages have failed, whose errors are kept until it lets go of what they would have made.
        """
        if len(self._failed) >= limits.ROOM_OBJECTS and not isinstance(message, Release):
            return LimitExceeded(f"{len(self._failed)} results of {self.name} have failed", where=self.worker.id)
        named = self._named_by(message)
        if named is not None:
            used, made = named
            is_known = bool(used) or not made or self.name in self._store.grants
            if (
                is_known
                and all(map(self._may_use, used))
                and all(id not in self._store or self._is_its_own(id) for id in made)
            ):
                return None
        here = self.worker.id
        return NotPermitted(
            f"{self.name} may use what it was pointed to at {here}, and what it makes of that, and nothing else",
            where=here,
        )

    def check(self, message: Request) -> None:
        """Hold an operator to what the objects themselves show, and count what is brought. Raises SyftError."""
        if isinstance(message, Put) and isinstance(message.value, torch.Tensor) and self.worker.guard is None:
            self._guard.hold(message.value.nbytes)
        if not isinstance(message, Run):
            return
        operator = BY_NAME[message.operator]
        reaching, outs = _REACHING.get(operator.name), _outs(operator)
        if reaching is None and not outs and self.worker.guard is not None:
            return
        args = self.worker.resolved(message.args)
        kwargs = {name: self.worker.resolved(value) for name, value in message.kwargs.items()}
        self._guard.permit(operator, args, kwargs)

        def argument(index: int) -> Any:
            return operator.argument(index, args, kwargs)

        reaches = reaching is not None and _is_here(argument(0)) and not reaching(argument)
        written = [tensor for index in outs for tensor in _flat(argument(index)) if _is_here(tensor)]
        if reaches or (not all(map(_is_last, written)) and outline.resizes(operator, args, kwargs)):
            raise NotPermitted(
                f"{self.name} was not pointed to all that {operator.name} would reach", where=self.worker.id
            )

    def let_use(self, answer: Answer) -> None:
        """Let the delegate use what a pointer that it gets points to. Raises SyftError."""
        reference = answer.value if isinstance(answer, Value) else None
        if isinstance(reference, Reference) and reference.worker != self.name:
            self.worker.peer(reference.worker).let_use(reference.id, self.name)

    def note(self, message: Request) -> None:
        """The message has been handled: what it made is the delegate's."""
        _, made = self._named_by(message) or ((), ())
        for id in made:
            if id in self._store.objects:
                self._store.grant(self.name, id)
            else:
                self._failed.add(id)
        if isinstance(message, Release):
            self._failed.difference_update(message.ids)

    def _may_use(self, id: int) -> bool:
        """Tell whether an object is the delegate's, or so far gone that all there is to be had is an error."""
        return self._is_its_own(id) or id not in self._store

    def _is_its_own(self, id: int) -> bool:
        return id in self._store.grants.get(self.name, ()) or (id in self._failed and id not in self._store.objects)

    def _named_by(self, message: Request) -> tuple[list[int], tuple[int, ...]] | None:
        """Return the objects that a message uses, and those it makes; None for one that is no delegate's."""
        match message:
            case Run():
                return [ref.id for ref in refs([message.args, *message.kwargs.values()])], message.results
            case Put(value=torch.Tensor()):
                return [], (message.id,)
            case Put(value=Reference() as reference) if reference.worker == self.name:
                return [], (message.id,)
            case Get():
                return [message.id], () if message.take_as is None else (message.take_as,)
            case Retain():
                return [message.id], ()
            case Retire():
                return list(message.ids), message.take_as
            case Release():
                return list(message.ids), ()
        return None
