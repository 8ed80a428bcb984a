"""``TorchHook``: the words of PySyft 0.2 as methods of torch's own classes.

``WORDS`` is all that is added. Nothing of torch is replaced, and whatever a subclass, an instance or a
model of the user's calls by one of these names comes first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import MethodType, ModuleType
from typing import Any, NoReturn

import torch
from torch import nn
from torch.utils.data import Dataset

from . import compat, verbs
from .annotations import allow, id_of, label_of, private_tensor
from .errors import Misuse
from .fl.dataset import federate
from .ids import seed_ids
from .multipointer import combine_pointers
from .sending import send_
from .workers import BaseWorker, VirtualWorker, become_local_worker, known_workers, local_worker

_NAMES_OF_ATTRIBUTES = ("_parameters", "_buffers", "_modules")
_REGISTRARS = {f.__code__ for f in (nn.Module.register_parameter, nn.Module.register_buffer, nn.Module.add_module)}


class Word:
    """One added name: a method, or with ``is_property`` a value. As it has no setter, an instance's own comes first."""

    def __init__(self, function: Callable[..., Any], is_property: bool = False) -> None:
        self.function, self.is_property = function, is_property
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self if self.is_property else self.function
        return self.function(instance) if self.is_property else MethodType(self.function, instance)


class ModuleWord(Word):
    """As a Word; a model's own parameter, buffer or submodule of the same name comes first too."""

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is not None:
            if sys._getframe(1).f_code in _REGISTRARS:  # torch asks whether the model has such an attribute yet
                raise AttributeError(self.name)
            for names in _NAMES_OF_ATTRIBUTES:
                own = instance.__dict__.get(names, {})
                if self.name in own:
                    return own[self.name]
        return super().__get__(instance, owner)


def _here(tensor: torch.Tensor, *args: Any, **options: Any) -> NoReturn:
    """Of pointers only; a local tensor is here already."""
    raise Misuse(
        "this tensor is here already: it points nowhere, and there is nothing to get or to move",
        mend="To send it to a worker: x.send(bob).",
    )


def _tags(tensor: torch.Tensor) -> set[str]:
    """The tensor's tags."""
    return set(label_of(tensor).tags)


def _description(tensor: torch.Tensor) -> str:
    """The tensor's description."""
    return label_of(tensor).description


def _owner(tensor: torch.Tensor) -> BaseWorker:
    """The worker that holds the tensor: the local one."""
    return local_worker()


def _nowhere(tensor: torch.Tensor) -> None:
    """Where a pointer points; None, as this is no pointer."""


def _gone_from_tensors(name: str) -> Word:
    def ask(tensor: torch.Tensor) -> NoReturn:
        raise compat.gone(f"x.{name}", compat.GONE_METHODS[name])

    return Word(ask, is_property=True)


def _gone_from_modules(name: str) -> ModuleWord:
    def call(module: nn.Module, *args: Any, **options: Any) -> NoReturn:
        raise compat.gone(f"model.{name}", compat.GONE_METHODS[name])

    return ModuleWord(call)  # were it a property, nn.Module would hide its error behind one of its own


WORDS: dict[type, dict[str, Word]] = {
    torch.Tensor: {
        "send": Word(verbs.send),
        "send_": Word(send_),
        "get": Word(_here),
        "get_": Word(_here),
        "move": Word(_here),
        "move_": Word(_here),
        "remote_send": Word(_here),
        "remote_get": Word(_here),
        "copy": Word(verbs.copy),
        "combine": Word(combine_pointers),
        "tag": Word(verbs.tag),
        "describe": Word(verbs.describe),
        "private_tensor": Word(private_tensor),
        "allow": Word(allow),
        "tags": Word(_tags, is_property=True),
        "description": Word(_description, is_property=True),
        "id": Word(id_of, is_property=True),
        "owner": Word(_owner, is_property=True),
        "location": Word(_nowhere, is_property=True),
        "id_at_location": Word(_nowhere, is_property=True),
        **{name: _gone_from_tensors(name) for name in compat.GONE_METHODS},
    },
    nn.Module: {
        "send": ModuleWord(verbs.send),
        "get": ModuleWord(verbs.get),
        "move": ModuleWord(verbs.move),
        "copy": ModuleWord(verbs.copy),
        "location": ModuleWord(verbs.location, is_property=True),
        "owner": ModuleWord(_owner, is_property=True),
        **{name: _gone_from_modules(name) for name in compat.GONE_METHODS},
    },
    Dataset: {
        "federate": Word(federate),
    },
}


def _objects_are_held() -> bool:
    return any(worker.objects_count() for worker in known_workers() if isinstance(worker, VirtualWorker))


class TorchHook:
    """Gives torch's tensors, modules and datasets the words of PySyft 0.2: ``x.send(bob)`` and the rest.

    A second one changes nothing more. All that it adds is there as functions too, ``sy.send(x, bob)``,
    which need no hook.

    Args:
        torch: the module torch.
        local_worker: the worker that is to hold this process's pointers, instead of ``me``.
        is_client, verbose: taken for the sake of older code, and without effect.
        seed: makes the ids that follow the same in every run. Without effect while workers hold
            objects, which may have those ids.
    """

    current: TorchHook | None = None

    def __init__(
        self,
        torch: ModuleType,
        local_worker: BaseWorker | None = None,
        is_client: bool = True,
        verbose: bool = False,
        seed: int | None = None,
    ) -> None:
        if getattr(torch, "__name__", None) != "torch":
            raise Misuse("a TorchHook is made for torch", mend="hook = sy.TorchHook(torch)")
        self.torch = torch
        if seed is not None and not _objects_are_held():
            seed_ids(seed)
        if local_worker is not None:
            become_local_worker(local_worker)
        for kind, words in WORDS.items():
            for name, word in words.items():
                if not hasattr(kind, name):
                    word.__set_name__(kind, name)
                    setattr(kind, name, word)
        TorchHook.current = self

    @property
    def local_worker(self) -> BaseWorker:
        """The worker that holds this process's pointers."""
        return local_worker()
