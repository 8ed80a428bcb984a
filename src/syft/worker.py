"""A worker: message in, answer out. No I/O, no threads, no torch hooks; testable with frames of bytes.

A worker may hold pointers: objects that live at another worker. An operator on one is sent on by the
pointer itself; the worker needs no code for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, cast

import torch

from . import policy, wire
from .errors import (
    BY_CODE,
    CallSite,
    LimitExceeded,
    MalformedMessage,
    Misuse,
    NotPermitted,
    SendNotPermitted,
    SyftError,
    WorkerShut,
    printable,
    refusal_of,
)
from .messages import (
    Answer,
    Clear,
    Confirm,
    Describe,
    Done,
    Failure,
    Fetch,
    Found,
    Get,
    Give,
    List,
    Placed,
    Point,
    Put,
    Ran,
    Release,
    Request,
    Retain,
    Retire,
    Run,
    Search,
    Seed,
    Value,
)
from .operators import BY_NAME, Operator
from .store import Label, Store, bytes_of
from .wire import Meta, Ref, Reference

# What torch raises when it refuses an operator, IndexError among the LookupErrors.
_REFUSALS = (RuntimeError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, AssertionError)


class Pointer(Protocol):
    """What a worker asks of an object that it holds and that lives elsewhere."""

    def reference(self, to: str = "") -> Reference:
        """Name the object, with one more ownership for whoever receives the name: the worker ``to``, or the caller."""

    def fetch(self, user: str) -> tuple[torch.Tensor, policy.Policy]:
        """Bring the object here, in the name of ``user``, with its policy; the pointer is spent."""


class Peer(Protocol):
    """What a worker asks of another worker."""

    def put(self, value: torch.Tensor, id: int, label: Label = ..., policy: policy.Policy = ...) -> Meta:
        """Store a tensor, or a pointer, there; return its metadata as it is there."""

    def adopt(self, reference: Reference, owner: str) -> torch.Tensor:
        """Make a pointer, held by ``owner``, of a reference to an object at this peer."""

    def let_use(self, id: int, worker: str) -> None:
        """Let ``worker`` use an object at this peer, of which it has an ownership."""


class Guard(Protocol):
    """What a worker that serves strangers asks before it takes or makes something."""

    def permit(self, operator: Operator, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
        """Let an operator run, or raise a SyftError; tell whether its results have to be counted after."""

    def hold(self, size: int) -> None:
        """Count bytes that are to be stored. Raises LimitExceeded."""

    def hold_results(self, outputs: Any) -> None:
        """Count what an operator gave. Raises LimitExceeded."""

    def permit_copy(self, value: torch.Tensor) -> None:
        """Let a value be copied to be sent. Raises LimitExceeded."""


class Worker:
    """Holds objects and runs operators on them.

    Args:
        id: the worker's name.
        peer: finds another worker by name; raises WorkerNotFound.

    Attributes:
        guard: where the worker serves strangers.
    """

    def __init__(self, id: str, peer: Callable[[str], Peer]) -> None:
        self.id = id
        self.store = Store(id)
        self.guard: Guard | None = None
        self.peer = peer
        self._handlers: dict[type[Request], Callable[[Any], Answer]] = {
            Run: self._run,
            Put: self._put,
            Get: self._get,
            Give: self._give,
            Point: self._point,
            Fetch: self._fetch,
            Retire: self._retire,
            Retain: self._retain,
            Confirm: self._confirm,
            Release: self._release,
            Describe: self._describe,
            Search: self._search,
            List: self._list,
            Seed: self._seed,
            Clear: self._clear,
        }

    def handle(self, message: Request) -> Answer:
        """Answer one request. Raises SyftError; then nothing has changed."""
        handler = self._handlers.get(type(message))
        if handler is None:  # Expect, Delegate and Introduce are for the gate of a node
            raise MalformedMessage(f"{type(message).__name__} is not for a worker in process", where=self.id)
        return handler(message)

    def handle_frames(self, frames: Sequence[wire.Frame]) -> list[wire.Frame]:
        """Answer one encoded request with an encoded answer; errors become a Failure."""
        try:
            return wire.encode(encodable(self.handle(wire.decode(frames, cast(Any, Request)))))
        except SyftError as error:
            return wire.encode(failure_of(error))

    def shut(self) -> None:
        """Forget every object and refuse every further request."""
        self.store.clear()
        self._handlers = dict.fromkeys(self._handlers, self._refuse)
        self._handlers[Release] = lambda message: Done()

    def _refuse(self, message: Request) -> Answer:
        raise WorkerShut("this worker has been shut and its objects are gone", where=self.id, mend="Make a new worker.")

    # ---- operators ----

    def _run(self, message: Run) -> Ran:
        operator = BY_NAME[message.operator]
        objects = self.store.objects
        for id in message.results:
            if id in objects:
                self.store.check_free(id)
        is_plain = operator.plain and len(message.results) == 1
        if not is_plain:
            self._check_results(operator, message.results)
        try:
            args = [
                objects[a.id] if isinstance(a, Ref) else self.resolved(a) if isinstance(a, list) else a
                for a in message.args
            ]
        except KeyError as error:
            self.store.find(error.args[0])
            raise
        kwargs = {name: self.resolved(a) for name, a in message.kwargs.items()} if message.kwargs else {}
        private = self._policy_of_arguments(operator, message, args, kwargs) if self.store.has_private else None
        has_to_be_counted = self.guard is not None and self.guard.permit(operator, args, kwargs)
        try:
            outputs = operator.call(*args, **kwargs)
        except SyftError:
            raise
        except _REFUSALS as error:
            raise self._failed(error) from error
        if has_to_be_counted:
            cast(Guard, self.guard).hold_results(outputs)
        if is_plain or operator.in_place:
            if not isinstance(outputs, torch.Tensor):  # numbers in the place of tensors gave a number
                raise MalformedMessage(f"{operator.name} was given no tensor", where=self.id)
            if is_plain:
                objects[message.results[0]] = outputs
            outputs = (outputs,)
        else:
            outputs = self._store_results(operator, outputs, message.results)
        if private is not None:
            self._restrict_results(operator, message, private)
        return Ran(outputs)

    def resolved(self, value: Any) -> Any:
        """Put objects in the place of what stands for them in an argument. Raises ObjectGone."""
        if isinstance(value, Ref):
            return self.store.find(value.id)
        if isinstance(value, list):
            return [self.resolved(v) for v in value]
        return value

    def _check_results(self, operator: Operator, results: tuple[int, ...]) -> None:
        """Refuse wrong names for results before the operator writes anything."""
        if len(set(results)) != len(results):
            raise MalformedMessage("the message names two results alike", where=self.id)
        if not operator.gives_list:
            self._check_count(operator, 1 if operator.gives_value else operator.returned.count(None), len(results))

    def _check_count(self, operator: Operator, given: int, named: int) -> None:
        if given != named:
            raise MalformedMessage(
                f"{operator.name} gives {given} results and the message names {named}", where=self.id
            )

    def _store_results(self, operator: Operator, outputs: Any, results: tuple[int, ...]) -> tuple[Any, ...]:
        """Store what is fresh; return all tensors that the operator gave, as one flat tuple."""
        if operator.gives_value:
            flat: tuple[Any, ...] = (torch.tensor(outputs),)
            fresh = list(flat)
        else:
            flat = tuple(outputs) if isinstance(outputs, (list, tuple)) else () if outputs is None else (outputs,)
            fresh = (
                list(flat)
                if operator.gives_list
                else [t for t, source in zip(flat, operator.returned, strict=True) if source is None]
            )
        self._check_count(operator, len(fresh), len(results))
        for id, tensor in zip(results, fresh, strict=True):
            if tensor is not None:
                self.store.objects[id] = tensor
        return flat

    def _failed(self, error: Exception) -> SyftError:
        if isinstance(error, RecursionError):
            return LimitExceeded(
                "the chain of pointers is too long to follow to its end",
                where=self.id,
                mend="Shorten it: x.get() takes one link off.",
            )
        return refusal_of(error, self.id)

    def _policy_of_arguments(
        self, operator: Operator, message: Run, args: list[Any], kwargs: dict[str, Any]
    ) -> policy.Policy:
        ids = [ref.id for ref in refs([message.args, *message.kwargs.values()])]
        joined = policy.join(map(self.store.policy_of, ids))
        if joined is None:
            return None
        here = [id for id in ids if type(self.store.objects[id]) is torch.Tensor]
        if len(here) < len(ids) and any(self.store.policy_of(id) is not None for id in here):
            raise SendNotPermitted(
                f"{operator.name} would take private data to the worker that a pointer beside it points to",
                where=self.id,
                mend="Bring the data together first, in the name of somebody who may: x.move(worker, user=...).",
            )
        if operator.reveals_shape(args, kwargs):
            raise NotPermitted(
                f"the shape that {operator.name} gives would tell values of private data",
                where=self.id,
                mend="Use a form with a fixed shape, such as torch.where or multiplication by a mask.",
            )
        return joined

    def _restrict_results(self, operator: Operator, message: Run, private: frozenset[str]) -> None:
        for id in message.results:
            self.store.restrict(id, private)
        for id in written_by(operator, message):
            self.store.restrict_memory(id, private)

    # ---- objects ----

    def _put(self, message: Put) -> Placed:
        value = message.value
        self.store.check_free(message.id)
        if isinstance(value, Reference):
            value = self.peer(value.worker).adopt(value, self.id)
        elif type(value) is not torch.Tensor:
            raise MalformedMessage("only a tensor or a pointer can be put", where=self.id)
        allowed = None if message.allowed is None else frozenset(message.allowed)
        label = Label(message.tags, message.description)
        if self.guard is not None:
            self.guard.hold(bytes_of([value]) + label.size)
        self.store.put(message.id, value, label, allowed)
        return Placed(cast(Meta, value))

    def _get(self, message: Get) -> Value:
        value = self.store.find(message.id)
        allowed, label = self.store.policy_of(message.id), self.store.label_of(message.id)
        policy.permit_get(allowed, message.user, self.id)
        if self.guard is not None:
            self.guard.permit_copy(value)
        if message.take_as is not None:
            self.store.check_free(message.take_as)
        outgoing = value if type(value) is torch.Tensor else cast(Pointer, value).reference(message.to)
        if message.take_as is not None:
            self.store.take(message.id, message.take_as, "it was taken home by a get")
        return Value(outgoing, None if allowed is None else tuple(sorted(allowed)), *label)

    def _give(self, message: Give) -> Placed:
        if message.take_as == message.as_id:
            raise MalformedMessage("the message names two objects alike", where=self.id)
        if message.take_as is not None:
            self.store.check_free(message.take_as)
        meta = self._put_at(message.to, message.id, message.as_id, message.user)
        if message.take_as is not None:
            self.store.take(message.id, message.take_as, f"it was moved to {message.to}")
        return Placed(meta)

    def _point(self, message: Point) -> Placed:
        reference = message.value
        if not isinstance(reference, Reference):
            raise MalformedMessage("only a pointer can be put in an object's place", where=self.id)
        self.store.find(message.id)
        pointer = self.peer(reference.worker).adopt(reference, self.id)
        self.store.objects[message.id] = pointer
        return Placed(cast(Meta, pointer))

    def _fetch(self, message: Fetch) -> Placed:
        pointer = self.store.find(message.id)
        if type(pointer) is torch.Tensor:
            raise Misuse(
                "the object is data, not a pointer: there is nothing to fetch",
                where=self.id,
                mend="To bring it home use x.get().",
            )
        if self.guard is not None:
            self.guard.hold(pointer.nbytes)
        value, allowed = cast(Pointer, pointer).fetch(message.user)
        self.store.find(message.id)  # others are served while one waits
        self.store.objects[message.id] = value
        if allowed is not None:
            self.store.restrict(message.id, allowed)
        return Placed(cast(Meta, value))

    def _put_at(self, worker: str, id: int, as_id: int, user: str) -> Meta:
        value, label, allowed = self.store.find(id), self.store.label_of(id), self.store.policy_of(id)
        policy.permit_send(allowed, user, self.id)
        return self.peer(worker).put(value, as_id, label, allowed)

    def _retire(self, message: Retire) -> Done:
        names = (*message.ids, *message.take_as)
        if len(message.ids) != len(message.take_as) or len(set(names)) != len(names):
            raise MalformedMessage("objects are taken each once, each under a name of its own", where=self.id)
        for id, take_as in zip(message.ids, message.take_as, strict=True):
            self.store.find(id)
            self.store.check_free(take_as)
        for id, take_as in zip(message.ids, message.take_as, strict=True):
            self.store.take(id, take_as, message.fate)
        return Done()

    def _retain(self, message: Retain) -> Done:
        self.store.retain(message.id)
        if message.to:
            self.store.grant(message.to, message.id)
        return Done()

    def _confirm(self, message: Confirm) -> Done:
        if message.id not in self.store.grants.get(message.worker, ()):
            raise NotPermitted(f"{message.worker} has nothing to do with object {message.id}", where=self.id)
        return Done()

    def _release(self, message: Release) -> Done:
        for id in message.ids:
            self.store.release(id)
        return Done()

    def _describe(self, message: Describe) -> Done:
        self.store.find(message.id)
        label = Label(message.tags, message.description)
        if self.guard is not None:
            self.guard.hold(label.size)
        self.store.label(message.id, label)
        return Done()

    def _search(self, message: Search) -> Found:
        return _found(self.store.search(message.query))

    def _list(self, message: List) -> Found:
        return _found((id, value, self.store.label_of(id)) for id, value in self.store.listed().items())

    def _seed(self, message: Seed) -> Done:
        torch.default_generator.manual_seed(message.seed)
        return Done()

    def _clear(self, message: Clear) -> Done:
        self.store.clear()
        return Done()


def _found(objects: Iterable[tuple[int, torch.Tensor, Label]]) -> Found:
    return Found(tuple((id, Meta.of(value), label.tags, label.description) for id, value, label in objects))


def written_by(operator: Operator, message: Run) -> list[int]:
    """Name the objects that an operator writes to."""
    written = [operator.argument(i, message.args, message.kwargs) for i in operator.written]
    return [ref.id for ref in refs(written)]


def refs(value: Any) -> list[Ref]:
    """Return what stands for objects in an argument, however deep lists are nested in it."""
    found, rest = [], [value]
    while rest:
        item = rest.pop()
        if isinstance(item, Ref):
            found.append(item)
        elif isinstance(item, list):
            rest.extend(item)
    return found


def encodable(answer: Answer) -> Answer:
    """Put metadata in the place of the tensors that an answer has in process."""
    if isinstance(answer, Ran):
        return Ran(tuple(None if t is None else Meta.of(cast(torch.Tensor, t)) for t in answer.outputs))
    if isinstance(answer, Placed):
        value: Any = answer.meta
        is_pointer = isinstance(value, torch.Tensor) and type(value) is not torch.Tensor
        return Placed(Meta.of(value), cast(Any, value).location.known_name if is_pointer else answer.target)
    return answer


def failure_of(error: SyftError) -> Failure:
    """Report an error."""
    number = error.asked_at if isinstance(error.asked_at, int) else 0
    return Failure(error.code, error.what, error.where, error.mend, number)


def error_of(failure: Failure, asked_at: CallSite | int = 0) -> SyftError:
    """Return the error that a Failure reports."""
    kind = BY_CODE.get(failure.code, SyftError)
    what, where, mend = map(printable, (failure.what, failure.where, failure.mend))
    return kind(what, where=where, mend=mend, asked_at=asked_at)
