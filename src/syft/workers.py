"""Workers as their callers see them: ``BaseWorker``, and ``VirtualWorker``, which lives in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NoReturn, cast
from weakref import WeakValueDictionary

import torch
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from . import limits
from .annotations import label_of, policy_of, set_label
from .asking import Request as AskedFor
from .dispatch import Handle, run
from .errors import Misuse, SyftError, WorkerNotFound, WorkerShut
from .ids import new_id
from .messages import Clear, Found, Get, List, Placed, Put, Retain, Search, Seed, Value
from .operators import BY_NAME
from .pointer import PointerTensor
from .policy import Policy
from .store import Label
from .transport import Encoded, InProcess, Transport
from .wire import Meta, Reference
from .worker import Worker

_workers: dict[str, BaseWorker] = {}
#: Those that were shut, for as long as somebody holds one.
_shut: WeakValueDictionary[str, BaseWorker] = WeakValueDictionary()


def get_worker(id: str) -> BaseWorker:
    """Return the worker of that name. Raises WorkerNotFound."""
    known = _workers.get(id)
    return _others(id) if known is None else known


def _nobody(id: str) -> NoReturn:
    raise WorkerNotFound(
        f"no worker called {id!r} is known here; known are: {', '.join(sorted(_workers)) or 'none'}",
        mend=f"Make it first: sy.VirtualWorker(id={id!r}).",
    )


#: Gives a worker that is not known yet.
_others: Callable[[str], BaseWorker] = _nobody


def forget_worker(id: str) -> None:
    """Make the name free again."""
    worker = _workers.pop(id, None)
    if worker is not None:
        _shut[id] = worker


def _peer(id: str) -> BaseWorker:
    """Return the worker to which another one is to send. Raises WorkerShut, WorkerNotFound."""
    if id in _shut and id not in _workers:
        raise WorkerShut(f"the worker {id} has been shut", where=id, mend=f"Make it anew: sy.VirtualWorker(id={id!r}).")
    return get_worker(id)


def known_workers() -> list[BaseWorker]:
    """Return every worker known here, in the order in which they were made."""
    return list(_workers.values())


class BaseWorker:
    """A worker that objects are sent to and operators run at; what a pointer's ``location`` is.

    Args:
        id: its name, unique in this process.
        transport: carries requests to it.
    """

    _repr_svg_: ClassVar[Callable[..., str]]  # set in drawing

    def __init__(self, id: str, transport: Transport) -> None:
        self.id = id
        self.request, self._put_new = transport.request, transport.put_new
        self.run = transport.run
        self.release = transport.release
        _workers[id] = self

    @property
    def known_name(self) -> str:
        """The name by which other workers find this one. Raises Misuse: it is another's by now."""
        return self.id

    # ---- objects ----

    def put(
        self, value: torch.Tensor, id: int, label: Label = Label(), policy: Policy = None, *, is_new: bool = False
    ) -> Meta:
        """Store a tensor, or a pointer, there under ``id``; return its metadata there. Raises IdInUse.

        An id that ``is_new``, which nobody has had, is in use nowhere: so a tensor is not waited for.
        """
        users = None if policy is None else tuple(sorted(policy))
        outgoing = value.reference(self.id) if isinstance(value, PointerTensor) else value
        message = Put(id, outgoing, label.tags, label.description, users)
        if is_new and not isinstance(value, PointerTensor):
            return self._put_new(message).meta
        try:
            placed = cast(Placed, self.request(message))
        except SyftError:
            if isinstance(value, PointerTensor):
                value._handle.location.release(value._handle.id)
            raise
        return placed.meta

    def send(self, value: torch.Tensor, id: int | None = None, **options: Any) -> PointerTensor:
        """Store a tensor, or a pointer, there and return a pointer to it, outside the graph."""
        if id is None:
            id, options["is_new"] = new_id(), True
        meta = self.put(value, id, **options)
        return PointerTensor.of(Handle(id, self, local_worker()), meta)

    def get(self, handle: Handle, *, take: bool, user: str = "") -> torch.Tensor:
        """Return the object of ``handle``: a tensor, or a pointer if it is one, with its labels.

        With ``take`` the object leaves; ``handle`` then owns what an autograd graph still needs of it.
        """
        return self.fetch(handle, take=take, user=user)[0]

    def fetch(self, handle: Handle, *, take: bool, user: str = "") -> tuple[torch.Tensor, Policy]:
        """As :meth:`get`, with who may have the value."""
        take_as = new_id() if take else None
        answer = cast(Value, self.request(Get(handle.id, take_as, user)))
        if take_as is not None:
            handle.id, handle.owns = take_as, True
        value = answer.value
        if isinstance(value, Reference):
            value = get_worker(value.worker).adopt(value, handle.owner.id)
            value._tags, value._description = answer.tags, answer.description
        else:
            set_label(value, Label(answer.tags, answer.description))
        return value, None if answer.allowed is None else frozenset(answer.allowed)

    def adopt(self, reference: Reference, owner: str) -> PointerTensor:
        """Make a pointer, held by ``owner``, of a reference to an object here."""
        return PointerTensor.of(Handle(reference.id, self, get_worker(owner)), reference.meta)

    def let_use(self, id: int, worker: str) -> None:
        """Let ``worker`` use an object, of which it has an ownership."""
        self.request(Retain(id, worker))
        self.release(id)

    def ask(self, id: int, reason: str) -> AskedFor:
        """Ask the owner to let the caller get an object; only nodes have one. Raises Misuse."""
        raise Misuse(
            "nobody answers requests here: this worker is no node", where=self.id, mend="Get it: x.get(user=...)."
        )

    # ---- finding ----

    def search(self, *query: str | int | Iterable[str | int]) -> list[PointerTensor]:
        """Return pointers to the objects whose tags or description hold every word of the query.

        A word may be a tag, with or without its #, a word of the description, which has no #, or an
        id. Without any word: all objects that have a tag or a description. The pointers do not own
        the objects. Raises Misuse for what is no word.
        """
        return self._found(Search(_words(query)))

    def _found(self, message: Search | List) -> list[PointerTensor]:
        found = cast(Found, self.request(message))
        pointers = []
        for id, meta, tags, description in found.objects:
            pointer = PointerTensor.of(Handle(id, self, local_worker(), owns=False), meta)
            pointer._tags, pointer._description = tags, description
            pointers.append(pointer)
        return pointers

    def request_search(self, query: str | int | Iterable[str | int], location: BaseWorker) -> list[PointerTensor]:
        """As ``location.search(query)``."""
        return location.search(query)

    def load_data(self, data: Iterable[torch.Tensor]) -> None:
        """Give the worker data of its own, with whatever tags and descriptions the tensors have."""
        for tensor in data:
            self.put(tensor.detach(), new_id(), label_of(tensor), policy_of(tensor), is_new=True)

    def clear_objects(self, return_self: bool = True) -> BaseWorker | None:
        """Forget every object of the worker."""
        self.request(Clear())
        return self if return_self else None

    @property
    def _objects(self) -> dict[int, torch.Tensor]:
        """What you have at the worker, by id: pointers that do not own the objects."""
        return {pointer.id_at_location: pointer for pointer in self._found(List())}

    @property
    def _tensors(self) -> dict[int, torch.Tensor]:
        """As ``_objects``, which are all tensors."""
        return self._objects

    def list_objects(self) -> str:
        """Return ``_objects`` as text."""
        return str(self._objects)

    def list_tensors(self) -> str:
        """Return ``_tensors`` as text."""
        return str(self._tensors)

    def objects_count(self) -> int:
        """Return how many objects the worker holds; a node: for you."""
        return len(self._objects)

    def tensors_count(self) -> int:
        """Return how many tensors, pointers included, the worker holds."""
        return len(self._objects)

    # ---- random numbers ----

    def manual_seed(self, seed: int) -> None:
        """Have the random numbers that operators draw at the worker start anew from ``seed``.

        What you have at a node has a generator of its own there, which ``torch.manual_seed`` does not
        reach. All virtual workers share this process's generator, with one another and with you.
        Raises Misuse: ``seed`` is negative, or above ``limits.MAX_SEED``.
        """
        if not 0 <= seed <= limits.MAX_SEED:
            raise Misuse(f"{seed} is no seed", mend=f"Take a whole number from 0 to {limits.MAX_SEED}.")
        self.request(Seed(seed))

    # ---- other workers ----

    def add_worker(self, worker: BaseWorker) -> BaseWorker:
        """Make ``worker`` known here, which it is from its making; returns self."""
        return self.add_workers([worker])

    def add_workers(self, workers: Iterable[BaseWorker]) -> BaseWorker:
        """Make workers known here, which they are from their making; returns self."""
        for worker in workers:
            _workers[worker.id] = worker
        return self

    def get_worker(self, id: str | BaseWorker, fail_hard: bool = True) -> BaseWorker | str:
        """Return the worker of that name. Raises WorkerNotFound; without ``fail_hard`` the name comes back."""
        return get_worker(id) if isinstance(id, str) and (fail_hard or id in _workers) else id

    @property
    def remote(self) -> Remote:
        """``worker.remote.torch.zeros(2, 3)`` makes a tensor at the worker, with any of :data:`FACTORIES`."""
        return Remote(self)


def _words(query: Iterable[Any]) -> tuple[str, ...]:
    words = [w for q in query for w in (q if isinstance(q, (list, tuple, set, frozenset)) else [q])]
    for word in words:
        if not isinstance(word, (str, int)):
            raise Misuse(f"a {type(word).__name__} is no word to search for", mend='bob.search("#mnist", "digits")')
    return tuple(map(str, words))


class VirtualWorker(BaseWorker):
    """A worker that lives in this process. A known name gives the worker of that name again.

    Args:
        hook: what ``sy.TorchHook(torch)`` gave; taken for the sake of older code, and not needed.
        id: its name.
        data: tensors it starts with.
        is_client_worker, verbose, auto_add: taken for the sake of older code, and without effect.
        log_msgs, message_pending_time: refused, unless off.
        transport: how messages reach it; :class:`~syft.transport.Encoded` puts them through bytes.

    Raises:
        Misuse: there is no name, or it is taken by a worker of another kind; or something is asked
            for that no worker does here.
    """

    default_transport: type[InProcess] | type[Encoded] = InProcess

    def __new__(cls, hook: object = None, id: str = "", *args: Any, **kwargs: Any) -> VirtualWorker:
        known = _workers.get(id)
        if known is None:
            return super().__new__(cls)
        if type(known) is not cls:
            raise Misuse(
                f"the name {id!r} is taken by a {type(known).__name__}",
                mend="Choose another name, or shut that worker first.",
            )
        return known

    def __init__(
        self,
        hook: object = None,
        id: str = "",
        data: Iterable[torch.Tensor] = (),
        is_client_worker: bool = False,
        log_msgs: bool = False,
        verbose: bool = False,
        auto_add: bool = True,
        message_pending_time: float = 0,
        *,
        transport: Callable[[Worker], Transport] | None = None,
    ) -> None:
        if not id or not isinstance(id, str):
            raise Misuse("a worker needs a name", mend="sy.VirtualWorker(id='bob')")
        if log_msgs:
            raise Misuse("workers keep no log of messages", mend="Watch operators: sy.LoggingTensor().on(x.send(bob)).")
        if message_pending_time:
            raise Misuse("messages to a worker in this process take no time", mend="Leave message_pending_time out.")
        if _workers.get(id) is not self:
            self._worker = Worker(id, _peer)
            super().__init__(id, (transport or self.default_transport)(self._worker))
        self.load_data(data)

    @property
    def _objects(self) -> dict[int, torch.Tensor]:
        """What the worker holds, by id: tensors, and pointers to other workers."""
        listed = self._worker.store.listed()
        for id, value in listed.items():
            if isinstance(value, PointerTensor):
                value._id = id
        return listed

    def __getitem__(self, id: int) -> torch.Tensor:
        """Return the object of that id, as ``_objects`` has it. Raises ObjectGone."""
        objects = self._objects
        return objects[id] if id in objects else self._worker.store.find(id)

    def shut(self) -> None:
        """Free all objects; every later request is refused, and the name is free again."""
        self._worker.shut()
        forget_worker(self.id)

    def __repr__(self) -> str:
        return f"<VirtualWorker id:{self.id} #objects:{self.objects_count()}>"


_local_name = "me"


def local_worker() -> BaseWorker:
    """Return the worker that holds this process's pointers: ``me``, unless another was chosen."""
    return _workers.get(_local_name) or VirtualWorker(id=_local_name)


def become_local_worker(worker: BaseWorker, others: Callable[[str], BaseWorker] = _nobody) -> None:
    """Have ``worker`` hold the pointers that are made from now on, and ``others`` give workers not known yet."""
    global _local_name, _others
    _local_name, _others = worker.id, others


class Remote:
    """A worker's ``remote``."""

    def __init__(self, worker: BaseWorker) -> None:
        self.torch = RemoteTorch(worker)


#: What ``worker.remote.torch`` has: functions of torch that make a tensor of numbers alone.
FACTORIES = frozenset(
    (
        "arange", "as_tensor", "asarray", "bartlett_window", "blackman_window", "empty", "empty_permuted",
        "empty_strided", "eye", "full", "hamming_window", "hann_window", "kaiser_window", "linspace", "logspace",
        "normal", "ones", "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "tril_indices",
        "triu_indices", "zeros",
    )
)  # fmt: skip


class RemoteTorch:
    """``torch`` with its factories, making tensors at a worker."""

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name not in FACTORIES:
            raise AttributeError(f"remote.torch makes tensors, by {', '.join(sorted(FACTORIES))}; not {name!r}")
        factory = getattr(torch, name)

        def make(*args: Any, requires_grad: bool = False, **kwargs: Any) -> PointerTensor:
            with _RunAt(self._worker):
                made = factory(*args, **kwargs)
            if not isinstance(made, PointerTensor):
                raise Misuse(f"torch.{name} makes no tensor", mend="Call it on torch itself, here.")
            made.requires_grad_(requires_grad)
            return made

        return make


class _RunAt(TorchDispatchMode):
    """Runs operators that have no tensor yet, the factories, at a worker."""

    def __init__(self, worker: BaseWorker) -> None:
        super().__init__()
        self._worker = worker

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if PointerTensor in types:
            return func(*args, **kwargs or {})
        if func is torch.ops.aten.lift_fresh.default:
            return self._worker.send(args[0])
        return run(PointerTensor, BY_NAME[func.name()], args, kwargs or {}, self._worker, local_worker())
