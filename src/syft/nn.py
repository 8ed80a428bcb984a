"""Modules at workers, in place, and the optimizers that go on training them wherever they are.

Parameters and buffers keep their Python identity and change what they are: local tensors become
pointers and the other way round. All new tensors are made before the first old one is given up, so
that an error half-way leaves the module, its optimizers and the workers as they were.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar, cast
from weakref import WeakSet

import torch
from torch.nn.modules.rnn import RNNBase, RNNCellBase
from torch.nn.utils.rnn import PackedSequence
from torch.optim.optimizer import Optimizer, register_optimizer_step_pre_hook

from .dispatch import read
from .errors import Misuse, NotCollocated
from .pointer import PointerTensor, become, beside, place_of, retire
from .sending import place
from .workers import BaseWorker

M = TypeVar("M", bound=torch.nn.Module)
Carry = Callable[[Any], torch.Tensor]


def send_module(module: M, worker: BaseWorker, *, user: str = "") -> M:
    """Send all parameters and buffers to a worker, in place; returns the module.

    Their gradients, and the state that optimizers keep of them, go along. A module that is at a
    worker already becomes one of chains, as a pointer that is sent does: ``move`` takes it elsewhere.

    Raises:
        Misuse: ``worker`` is not a worker, or a parameter is of a kind that cannot be sent.
        NotCollocated: the module's tensors are in several places.
        SendNotPermitted: a tensor is private and ``user`` is not among its allowed users.
    """
    if not isinstance(worker, BaseWorker):
        raise Misuse(f"a module is sent to a worker, not to a {type(worker).__name__}", mend="model.send(bob)")
    location_of(module)
    _transfer(module, _tensors(module), lambda tensor: place(tensor, worker, user))
    return module


def get_module(module: M, *, user: str = "", reason: str = "") -> M:
    """Bring all parameters and buffers home, in place; returns the module.

    Gradients and the optimizers' state come along. Of a module of chains, the inner pointers come home.

    Raises:
        Misuse: the module is here.
        ObjectGone: one of its tensors was taken before, or deleted.
        GetNotPermitted: the owner of one of its tensors does not allow it.
    """
    away = _away(module, "get")

    def fetch(pointer: PointerTensor) -> torch.Tensor:
        handle = pointer._handle
        return cast(torch.Tensor, handle.location.get(handle, take=False, user=user))

    _transfer(module, away, fetch, "was taken home by get()")
    return module


def move_module(module: M, worker: BaseWorker, *, user: str = "") -> M:
    """Have all parameters and buffers sent from their worker straight to another, in place; returns the module.

    Gradients and the optimizers' state go along. A move to where it already is changes nothing, a
    move to ``me`` is a get.

    Raises:
        Misuse: the module is here.
        ObjectGone, SendNotPermitted: as for :func:`get_module`.
    """
    away = _away(module, "move")
    if all(worker is pointer.owner for pointer in away):
        return get_module(module, user=user)
    away = [pointer for pointer in away if pointer.location is not worker]
    _transfer(module, away, lambda pointer: pointer.give_copy(worker, user), f"was moved to {worker.id}")
    return module


def copy_module(module: M) -> M:
    """Return a copy of the module with tensors of its own, in the same place."""
    return copy.deepcopy(module)


def location_of(module: torch.nn.Module) -> Any:
    """Return the worker where all the module's tensors are; None if they are here, or there are none.

    Raises NotCollocated if they are in several places.
    """
    places = {place_of(tensor) for tensor in _tensors(module)}
    if len(places) > 1:
        names = sorted("here" if where is None else f"at {where.id}" for where in places)
        raise NotCollocated(
            f"the tensors of this module are in several places: {', '.join(names)}",
            mend="Send, move or get each of its parts by itself.",
        )
    return places.pop() if places else None


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    """Return each parameter and buffer once, however often it is tied."""
    return [*module.parameters(), *module.buffers()]


def _away(module: torch.nn.Module, verb: str) -> list[PointerTensor]:
    tensors = _tensors(module)
    away = [tensor for tensor in tensors if isinstance(tensor, PointerTensor)]
    if tensors and not away:
        raise Misuse(f"the module is here: there is nothing to {verb}", mend="Send it first: model.send(bob)")
    return away


# ---- all or nothing ----


@torch.inference_mode(False)  # parameters made in it could never be trained
def _transfer(module: torch.nn.Module, tensors: Iterable[torch.Tensor], carry: Carry, fate: str = "") -> None:
    """Put in the place of each tensor, its gradient and its optimizers' state what ``carry`` makes of them.

    ``carry`` leaves what it is given as it is. With a ``fate``, the objects then leave their workers.
    """
    carried: list[PointerTensor] = []

    def keep(tensor: Any) -> torch.Tensor:
        if isinstance(tensor, PointerTensor):
            carried.append(tensor)
        return carry(tensor)

    changes = [(tensor, _counterpart(tensor, keep)) for tensor in tensors]
    moving = {id(tensor) for tensor, _ in changes}
    states = [
        (optimizer, parameter, _mapped(state, partial(_carry_along, parameter, keep)))
        for optimizer in _known
        for parameter, state in optimizer.state.items()
        if id(parameter) in moving
    ]
    if fate:
        retire(carried, fate)
    for tensor, counterpart in changes:
        become(tensor, counterpart)
    for optimizer, parameter, state in states:
        optimizer.state[parameter] = state
    _assist_layers(module)


def _counterpart(tensor: torch.Tensor, carry: Carry) -> torch.Tensor:
    """Make what ``tensor`` is to become: its value and its gradient carried, all else the same."""
    new = carry(tensor)
    if isinstance(tensor, torch.nn.Parameter):
        new = torch.nn.Parameter(new, tensor.requires_grad)
    else:
        new.requires_grad_(tensor.requires_grad)
    if tensor.is_leaf and tensor.grad is not None:
        new.grad = carry(tensor.grad)
    notes = {name: note for name, note in tensor.__dict__.items() if name not in _OF_POINTERS}
    new.__dict__.update(notes | new.__dict__)
    return new


#: What a pointer keeps in its ``__dict__`` that is true of that pointer only.
_OF_POINTERS = frozenset({"_handle", "_id", "_tags", "_description", "_fate"})


# ---- optimizers ----

#: All that have made a step since this module was imported.
_known: WeakSet[Optimizer] = WeakSet()


def _mapped(state: Any, change: Carry) -> Any:
    """Copy an optimizer's state of one parameter, with ``change`` made to each tensor in it."""
    if isinstance(state, torch.Tensor):
        return change(state)
    if isinstance(state, dict):
        return {name: _mapped(value, change) for name, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_mapped(value, change) for value in state)
    return state


def _carry_along(parameter: torch.Tensor, carry: Carry, value: torch.Tensor) -> torch.Tensor:
    return carry(value) if place_of(value) is place_of(parameter) and not _is_count(value) else value


def _is_apart(parameter: torch.Tensor, value: torch.Tensor) -> bool:
    return place_of(value) is not place_of(parameter) and not _is_count(value)


def _is_count(value: torch.Tensor) -> bool:
    """Tell a count of steps, which torch keeps here wherever the parameter is."""
    return value.dim() == 0 and not isinstance(value, PointerTensor)


def _settled(parameter: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return beside(parameter, value) if _is_apart(parameter, value) else value


def _put_state_right(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
    """Before a step: put state that was loaded, or made elsewhere, where its parameter is."""
    _known.add(optimizer)
    for parameter, state in optimizer.state.items():
        if type(parameter) is not PointerTensor:
            for value in state.values():
                if type(value) is not torch.Tensor:
                    break
            else:  # all is here: the step of a model that never went anywhere pays for this loop only
                continue
        if any(_is_apart(parameter, value) for value in _leaves(state)):
            optimizer.state[parameter] = _mapped(state, partial(_settled, parameter))


def _leaves(state: Any) -> Iterator[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, (dict, list, tuple)):
        for value in state.values() if isinstance(state, dict) else state:
            yield from _leaves(value)


register_optimizer_step_pre_hook(_put_state_right)


# ---- layers that make tensors for themselves, here ----

_HOOK = "_syft_forward_hook"


def _assist_layers(module: torch.nn.Module) -> None:
    """While they are away, give layers what they would else make here, beside no pointer."""
    for layer in module.modules():
        hook = next((hook for kinds, hook in _FORWARD_HOOKS if isinstance(layer, kinds)), None)
        if hook is None:
            continue
        handle = layer.__dict__.pop(_HOOK, None)
        if handle is not None:
            handle.remove()
        if any(isinstance(weight, PointerTensor) for weight in layer.parameters()):
            layer.__dict__[_HOOK] = layer.register_forward_pre_hook(hook, with_kwargs=True)


def _say_not_causal(
    layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Keep transformers from comparing their mask with one that they make; the mask holds either way."""
    hint, position = ("is_causal", 3) if isinstance(layer, torch.nn.TransformerEncoder) else ("tgt_is_causal", 6)
    if len(args) <= position and kwargs.get(hint) is None:
        kwargs = kwargs | {hint: False}
    return args, kwargs


def _give_initial_state(
    layer: RNNBase | RNNCellBase, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Have recurrent layers begin with zeros that are beside their input."""
    given = dict(zip(("input", "hx"), args, strict=False)) | kwargs
    input = given.get("input")
    values = input.data if isinstance(input, PackedSequence) else input
    if not isinstance(values, PointerTensor):
        return None
    if isinstance(input, PackedSequence):
        given["input"] = input = input._replace(batch_sizes=read(input.batch_sizes))  # torch reads them here
    if given.get("hx") is None:
        given["hx"] = _zero_state(layer, input, values)
    return (), given


def _zero_state(layer: RNNBase | RNNCellBase, input: Any, values: torch.Tensor) -> Any:
    """Return the state that torch would begin with; (h, c) for LSTMs."""
    if isinstance(layer, RNNCellBase):
        leading, sizes = input.shape[:-1], [layer.hidden_size] * (2 if isinstance(layer, torch.nn.LSTMCell) else 1)
    else:
        if isinstance(input, PackedSequence):
            batch = [int(input.batch_sizes[0])]
        else:
            batch = [] if input.dim() == 2 else [input.shape[0 if layer.batch_first else 1]]
        leading = (layer.num_layers * (2 if layer.bidirectional else 1), *batch)
        sizes = [layer.proj_size or layer.hidden_size]
        if isinstance(layer, torch.nn.LSTM):
            sizes.append(layer.hidden_size)
    states = tuple(values.new_zeros(*leading, size) for size in sizes)
    return states if len(states) == 2 else states[0]


_FORWARD_HOOKS: tuple[tuple[tuple[type[torch.nn.Module], ...], Callable[..., Any]], ...] = (
    ((RNNBase, RNNCellBase), _give_initial_state),
    ((torch.nn.TransformerEncoder, torch.nn.TransformerDecoder), _say_not_causal),
)
