"""PointerTensor: a tensor that holds no data and names an object at a worker."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NoReturn, cast

import torch

from .asking import Request
from .crossing import Cross
from .dispatch import Handle, Spent, dispatch, point_alike, read, wrap
from .errors import IdInUse, Misuse, NotCollocated, ObjectGone, printable
from .ids import new_id
from .messages import Describe, Fetch, Give, Placed, Point, Retain, Retire
from .policy import Policy
from .store import Label, check_label
from .wire import Meta, Reference

#: The gradient of any tensor, as torch keeps it.
_GRAD: Any = vars(torch._C.TensorBase)["grad"]


def _in_one_line(text: str) -> str:
    """Return a text of another party as it may be shown."""
    return " ".join(printable(text).split())


class PointerTensor(torch.Tensor):
    """A pointer to a tensor, or to another pointer, at a worker.

    It does what a ``torch.Tensor`` does: every operator of torch runs at the worker, autograd
    records here. Values come home by ``get``, and by what is a get of values under another name:
    ``item``, ``bool``, ``float``, ``tolist``, ``numpy``. Printing shows none.
    """

    _handle: Any
    _id: int | None = None
    _tags: tuple[str, ...] = ()
    _description: str = ""
    _fate: str = ""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    __torch_dispatch__ = classmethod(dispatch)  # type: ignore[assignment]

    @classmethod
    def of(cls, handle: Handle, meta: Any, id: int | None = None) -> PointerTensor:
        """Make a pointer with this handle; ``meta`` is a Meta, or a tensor that has that metadata."""
        pointer = wrap(cls, handle, meta)
        pointer._id = id
        return pointer

    send: ClassVar[Callable[..., torch.Tensor]]
    send_: ClassVar[Callable[..., torch.Tensor]]

    # ---- who and where ----

    @property
    def id(self) -> int:
        """The pointer's own id."""
        if self._id is None:
            self._id = new_id()
        return self._id

    @property
    def location(self) -> Any:
        """The worker that holds the object."""
        handle = self._handle
        return handle.last_location if isinstance(handle, Spent) else handle.location

    @property
    def id_at_location(self) -> int:
        """The object's id there."""
        return cast(int, self._handle.id)

    @property
    def owner(self) -> Any:
        """The worker that holds this pointer; ``me`` for this process."""
        return self._handle.owner

    @property
    def tags(self) -> set[str]:
        """Tags of the object, as this pointer knows them."""
        return set(self._tags)

    @property
    def description(self) -> str:
        """Description of the object, as this pointer knows it."""
        return self._description

    def tag(self, *tags: str) -> PointerTensor:
        """Add tags to the object, by which ``search`` finds it."""
        return self._describe((*self._tags, *(t for t in tags if t not in self._tags)), self._description)

    def describe(self, description: str) -> PointerTensor:
        """Describe the object in words, by which ``search`` finds it."""
        return self._describe(self._tags, description)

    def _describe(self, tags: tuple[str, ...], description: str) -> PointerTensor:
        check_label(Label(tags, description))
        self._handle.location.request(Describe(self._handle.id, tags, description))
        self._tags, self._description = tags, description
        return self

    # ---- coming home ----

    def get(self, *, user: str = "", reason: str = "", requires_grad: bool = False) -> torch.Tensor:
        """Bring the object home; it leaves the worker.

        The gradient comes along. Of a pointer to a pointer, the inner pointer comes home.

        Args:
            user: in whose name, for private data.
            reason: as PySyft takes it; nobody reads it. An owner reads that of :meth:`request`.
            requires_grad: keep the graph: a backward pass through the result goes back to the worker.

        Raises:
            ObjectGone: it was taken before, or deleted.
            GetNotPermitted: the data's owner does not allow it.
        """
        if requires_grad:
            home = self._handle.location
            return cast(torch.Tensor, Cross.apply(self, lambda value: value.bring(user), home.send))
        return get_all([self], user)[0]

    def get_(self, **options: Any) -> torch.Tensor:
        """As :meth:`get`, in place: this very tensor becomes the local one."""
        return become(self, self.get(**options))

    def bring(self, user: str = "") -> torch.Tensor:
        """Bring only the object, without gradient or graph, to the worker that holds this pointer."""
        return self.fetch(user)[0]

    def fetch(self, user: str = "") -> tuple[torch.Tensor, Policy]:
        """As :meth:`bring`, with who may have the value."""
        handle = self._handle
        self._check_not_left()
        spent = Spent(handle, "was taken home by get()")
        fetched = cast(tuple[torch.Tensor, Policy], handle.location.fetch(handle, take=True, user=user))
        self._leave(spent)
        return fetched

    def request(self, reason: str) -> Request:
        """Ask the owner of the object's worker, a node, to let you get it as it is now.

        After a yes, the request's ``get`` gives the value, and so does that of the pointer.

        Raises:
            Misuse: there is no reason; the worker is no node; or nothing private keeps you from getting the object.
            LimitExceeded: the value or the reason is too large, or you have too many requests there.
        """
        if not reason.strip():
            raise Misuse("a request says what the value is for", mend='x.request(reason="the mean, for the paper")')
        return cast(Request, self._handle.location.ask(self._handle.id, reason))

    def remote_get(self, *, user: str = "") -> PointerTensor:
        """Have the worker this points to bring home what its own pointer points to."""
        placed = self._handle.location.request(Fetch(self._handle.id, user))
        point_alike(self, PointerTensor.of(self._handle, self._placed(placed)))
        return self

    # ---- going elsewhere ----

    def move(self, worker: Any, *, user: str = "", requires_grad: bool = False) -> torch.Tensor:
        """Send the object straight from its worker to another one; return a pointer to it there.

        The object keeps its labels, its gradient and, if this pointer owns it, its id; its bytes do
        not come here. A move to where it already is changes nothing; a move to the worker that holds
        this pointer is a get.

        Args:
            worker: where to.
            user: in whose name, for private data.
            requires_grad: keep the graph: a backward pass through the result comes back the same way.
        """
        origin = self._handle.location
        if worker is origin:
            return self
        if worker is self.owner:
            return self.get(user=user, requires_grad=requires_grad)
        if requires_grad:
            crossed = Cross.apply(
                self, lambda value: value._give(worker, user), lambda gradient: gradient._give(origin, user)
            )
            return cast(torch.Tensor, crossed)
        grad = self._own_grad()
        given = None if grad is None else grad.give_copy(worker, user)  # if it may not go, nothing goes
        moved = self._give(worker, user)
        if grad is not None:
            moved.grad = given
            retire([grad], f"was moved to {worker.id}")
        return moved.requires_grad_(self.requires_grad)

    def move_(self, worker: Any, **options: Any) -> torch.Tensor:
        """As :meth:`move`, in place: this very pointer then points there."""
        moved = self.move(worker, **options)
        return self if moved is self else become(self, moved)

    def _give(self, worker: Any, user: str) -> PointerTensor:
        self._check_not_left()
        handle, name = self._handle, worker.known_name
        spent = Spent(handle, f"was moved to {name}")
        # Whoever owns the object may let go of its id later, when an object that came back has it again.
        as_id, take_as = handle.id if handle.owns else new_id(), new_id()
        try:
            placed = handle.location.request(Give(handle.id, name, as_id, take_as, user))
        except IdInUse:
            as_id = new_id()
            placed = handle.location.request(Give(handle.id, name, as_id, take_as, user))
        handle.id, handle.owns = take_as, True
        moved = PointerTensor.of(Handle(as_id, worker, handle.owner), self._placed(placed))
        moved._tags, moved._description = self._tags, self._description
        self._leave(spent)
        return moved

    def give_copy(self, worker: Any, user: str = "") -> PointerTensor:
        """Have the object sent to another worker too, under a new id; return a pointer to it there."""
        handle, id = self._handle, new_id()
        placed = handle.location.request(Give(handle.id, worker.known_name, id, user=user))
        given = PointerTensor.of(Handle(id, worker, handle.owner), self._placed(placed))
        given._tags, given._description = self._tags, self._description
        return given

    def _placed(self, answer: Any) -> Any:
        """Return the metadata of the object at its new place. A node that may not tell it answers Done."""
        if isinstance(answer, Placed):
            return answer.meta
        outline = torch.empty_strided(self.shape, self.stride(), dtype=self.dtype, device="meta")
        return torch.empty_like(outline)  # dense, as what crosses is

    def remote_send(self, worker: Any, *, user: str = "") -> PointerTensor:
        """Have the worker this points to send its object on, and keep a pointer to it there."""
        handle, as_id = self._handle, new_id()
        meta = self._placed(handle.location.request(Give(handle.id, worker.known_name, as_id, user=user)))
        there = Handle(as_id, worker, handle.owner)
        worker.let_use(as_id, handle.location.known_name)
        handle.location.request(Point(handle.id, Reference(worker.known_name, as_id, Meta.of(meta))))
        there.owns = False  # the pointer there has it
        point_alike(self, PointerTensor.of(handle, meta))
        return self

    def copy(self) -> PointerTensor:
        """Return a pointer to a copy of the object, at the same worker, outside the graph."""
        return cast(PointerTensor, self.detach().clone().requires_grad_(self.requires_grad))

    def reference(self, to: str = "") -> Reference:
        """Name the object for the worker ``to``, or for the caller: one more owner of it, who may use it."""
        handle = self._handle
        name = handle.location.known_name
        handle.location.request(Retain(handle.id, to))
        return Reference(name, handle.id, Meta.of(self))

    def _check_not_left(self) -> None:
        if self._fate:
            raise ObjectGone(
                f"there is nothing more to take: the object {self._fate}, and only the autograd graph still uses it",
                where=self._handle.location.id,
            )

    def _leave(self, spent: Spent) -> None:
        """Let go of an object that has left its worker, unless an autograd graph still needs it."""
        if self._use_count() == 1:  # type: ignore[attr-defined]
            self._handle = spent
        else:
            self._fate = spent.fate

    def _own_grad(self) -> Any:
        """The gradient to take along; None if there is none, or it was taken before."""
        grad: Any = self.grad if self.is_leaf or self.retains_grad else None
        is_there = grad is not None and not grad._fate and not isinstance(grad._handle, Spent)
        return grad if is_there else None

    # ---- garbage ----

    @property
    def gc(self) -> bool:
        """Whether the object is freed when its last pointer here goes."""
        return cast(bool, self._handle.owns)

    @gc.setter
    def gc(self, owns: bool) -> None:
        self._handle.owns = owns

    garbage_collection = gc

    @property
    def disable_gc(self) -> PointerTensor:
        """Leave the object at its worker when this pointer goes; returns the pointer."""
        self._handle.owns = False
        return self

    # ---- what torch reads from memory, and pointers must answer themselves ----

    @property
    def data(self) -> torch.Tensor:
        """The same object, outside the graph."""
        return self.detach()

    @data.setter
    def data(self, source: torch.Tensor) -> None:
        if not isinstance(source, PointerTensor):
            raise _not_beside("the data of a pointer is", self)
        point_alike(self, source)

    def _set_grad(self, grad: torch.Tensor | None) -> None:
        if isinstance(grad, torch.Tensor) and place_of(grad) is not self.location:
            raise _not_beside("the gradient of a pointer is a pointer", self)
        _GRAD.__set__(self, grad)

    # Reading, which optimizers do all the time, stays in C.
    grad = property(_GRAD.__get__, _set_grad, _GRAD.__delete__)

    def new_tensor(  # type: ignore[override]
        self, data: Any, *, dtype: torch.dtype | None = None, requires_grad: bool = False, **options: Any
    ) -> torch.Tensor:
        dtype = self.dtype if dtype is None else dtype
        if isinstance(data, PointerTensor):
            made = data.detach().clone().to(dtype)
        else:
            made = beside(self, torch.empty(0).new_tensor(data, dtype=dtype, **options))
        return made.requires_grad_(requires_grad)

    def new(self, *args: Any) -> torch.Tensor:  # type: ignore[override]
        """Older torch's ``new_empty`` or ``new_tensor``, by what it is given; what is not given is zero."""
        if self.layout is not torch.strided:
            return super().new(*args)  # of indices and values
        if len(args) == 1 and not isinstance(args[0], (int, torch.Size)):
            return self.new_tensor(args[0])
        return self.new_zeros(*args or (0,))

    def tolist(self) -> Any:
        return read(self).tolist()

    def numpy(self, *, force: bool = False) -> Any:
        return read(self).numpy(force=force)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        return read(self).__array__(dtype)

    def __format__(self, spec: str) -> str:
        return format(self.item(), spec) if spec else repr(self)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        handle = self._handle
        text = f"(Wrapper)>[PointerTensor | {handle.owner.id}:{self.id} -> {self.location.id}:{handle.id}]"
        if self._tags:
            text += f"\n\tTags: {_in_one_line(' '.join(self._tags))}\n\tShape: {self.shape}"
        if self._description:
            text += f"\n\tDescription: {_in_one_line(self._description):.70}"
        if getattr(self, "_is_param", False):
            text = f"Parameter containing:\n{text}"
        return text

    __str__ = __repr__

    def __copy__(self) -> PointerTensor:
        twin = cast(PointerTensor, self.detach().requires_grad_(self.requires_grad))
        twin.__dict__.update(self.__dict__, _id=None)
        return twin

    def __deepcopy__(self, memo: dict[int, Any]) -> PointerTensor:
        if not self.is_leaf:
            raise Misuse("only pointers that are leaves of the graph can be deep-copied", mend="Use x.detach() first.")
        twin = self.copy()
        twin.__dict__.update({k: v for k, v in self.__dict__.items() if k == "_is_param"})
        memo[id(self)] = twin
        if self.grad is not None:
            twin.grad = copy.deepcopy(self.grad, memo)
        return twin

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise Misuse(
            "a pointer cannot be pickled: it holds no data, and names an object that this process owns",
            mend="Get it first: x.get(), or model.get() before torch.save.",
        )


def _not_beside(what: str, pointer: PointerTensor) -> NotCollocated:
    where = pointer.location.id
    return NotCollocated(f"{what} at the same worker, {where}", mend=f"Send or move it there first: x.send({where}).")


#: What torch does to a tensor's memory, with no operator that could run elsewhere.
_OF_MEMORY = (
    "__dlpack__", "__dlpack_device__", "_typed_storage", "apply_", "const_data_ptr", "data_ptr", "map2_", "map_",
    "mutable_data_ptr", "pin_memory", "record_stream", "share_memory_", "storage", "untyped_storage",
)  # fmt: skip


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(self: PointerTensor, *args: Any, **kwargs: Any) -> NoReturn:
        raise Misuse(
            f"a pointer has no memory here, which {name} is about",
            where=self.location.id,
            mend="Get the value first: x.get(), or x.copy().get() to leave it there.",
        )

    return refuse


for _name in _OF_MEMORY:
    setattr(PointerTensor, _name, _refusing(_name))
PointerTensor.__dlpack_c_exchange_api__ = None  # numpy and others: by __dlpack__ only


def get_all(pointers: Sequence[PointerTensor], user: str = "") -> list[torch.Tensor]:
    """Bring several objects home with their gradients, as :meth:`PointerTensor.get`: all, or with an error none."""
    grads = [pointer._own_grad() for pointer in pointers]
    values = iter(bring_all([*pointers, *(grad for grad in grads if grad is not None)], user))
    homes = [next(values).requires_grad_(pointer.requires_grad) for pointer in pointers]
    for home, grad in zip(homes, grads, strict=True):
        home.grad = None if grad is None else next(values)
    return homes


def bring_all(pointers: Sequence[PointerTensor], user: str = "") -> list[torch.Tensor]:
    """Bring several objects home, without gradients or graph: all of them, or with an error none."""
    if len(pointers) == 1:
        return [pointers[0].bring(user)]
    for pointer in pointers:
        pointer._check_not_left()
    handles = [pointer._handle for pointer in pointers]
    values = [handle.location.get(handle, take=False, user=user) for handle in handles]
    retire(pointers, "was taken home by get()")
    return values


def retire(pointers: Sequence[PointerTensor], fate: str) -> None:
    """Take the objects off their workers' listings; they are freed when the last graph lets go of them."""
    spent = [(pointer, Spent(pointer._handle, fate)) for pointer in pointers]
    by_location: dict[Any, dict[int, Any]] = {}
    for pointer in pointers:
        by_location.setdefault(pointer.location, {})[pointer._handle.id] = pointer._handle
    for location, handles in by_location.items():
        take_as = [new_id() for _ in handles]
        location.request(Retire(tuple(handles), tuple(take_as), f"it {fate}"))
        for handle, id in zip(handles.values(), take_as, strict=True):
            handle.id, handle.owns = id, True
    for pointer, told in spent:
        pointer._leave(told)


def become(tensor: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Make the Python object ``tensor`` be what ``other`` is, and the other way round; returns ``tensor``.

    As ``torch.utils.swap_tensors``, which refuses tensors that a live graph has saved or that have
    weak references, as the weights of recurrent layers have. Here the graph keeps the old tensor,
    and passes on the gradient that a later backward pass brings to it.
    """
    tensor.__class__, other.__class__ = other.__class__, tensor.__class__
    tensor.__dict__, other.__dict__ = other.__dict__, tensor.__dict__
    torch._C._swap_tensor_impl(tensor, other)
    # Hooks are noted on the Python object and registered with what it was: register them anew.
    if tensor._backward_hooks is not None:
        tensor._backward_hooks = tensor._backward_hooks
    if tensor._post_accumulate_grad_hooks is not None:
        tensor._post_accumulate_grad_hooks = tensor._post_accumulate_grad_hooks
    if other.is_leaf and other.requires_grad and other._use_count() > 1:  # type: ignore[attr-defined]
        other.grad = None
        other.register_post_accumulate_grad_hook(partial(_pass_on_gradient, tensor))
    return tensor


def _pass_on_gradient(tensor: torch.Tensor, old: torch.Tensor) -> None:
    gradient, old.grad = beside(tensor, cast(torch.Tensor, old.grad)), None
    tensor.grad = gradient if tensor.grad is None else tensor.grad + gradient


def place_of(tensor: torch.Tensor) -> Any:
    """Return the worker where a tensor is; None is here."""
    return tensor.location if isinstance(tensor, PointerTensor) else None


def beside(neighbour: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return ``value`` where ``neighbour`` is: itself if it is there, else a copy, outside the graph."""
    if place_of(value) is place_of(neighbour):
        return value
    if not isinstance(neighbour, PointerTensor):
        return read(value)
    if isinstance(value, PointerTensor):
        return value.give_copy(neighbour.location)
    with torch.no_grad():  # also to the far end of a chain
        return neighbour.new_empty(value.shape, dtype=value.dtype).copy_(value)
