"""What a worker holds: objects by id, and what is known of them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from . import limits
from .errors import IdInUse, LimitExceeded, Misuse, ObjectGone, SyftError
from .policy import Policy


class Label(NamedTuple):
    """Words by which an object is found."""

    tags: tuple[str, ...] = ()
    description: str = ""

    @property
    def size(self) -> int:
        """How many characters it has."""
        return sum(map(len, self.tags)) + len(self.description)

    def matches(self, word: str) -> bool:
        """Tell whether ``word`` is one of the tags, or, unless it begins with #, of the description's words."""
        wanted = word.casefold().lstrip("#")
        tags = (tag.casefold().lstrip("#") for tag in self.tags)
        return wanted in tags or (not word.startswith("#") and wanted in _words(self.description))


def _words(text: str) -> set[str]:
    return {word.strip(".,;:!?()[]\"'#").casefold() for word in text.split()}


def check_label(label: Label) -> Label:
    """Return ``label`` if it is within the limits."""
    if not all(isinstance(word, str) for word in (*label.tags, label.description)):
        raise Misuse("tags and descriptions are strings", mend='x.tag("#mnist").describe("digits")')
    if (
        len(label.tags) > limits.MAX_TAGS
        or len(label.description) > limits.MAX_DESCRIPTION_LENGTH
        or any(len(t) > limits.MAX_TAG_LENGTH for t in label.tags)
    ):
        raise LimitExceeded(
            f"at most {limits.MAX_TAGS} tags of {limits.MAX_TAG_LENGTH} characters, "
            f"and a description of {limits.MAX_DESCRIPTION_LENGTH}",
            mend="Keep longer texts in a tensor or a file, and tag with its name.",
        )
    return label


class Store:
    """Objects of one worker.

    Every object has at least one owner (a handle somewhere); when the last lets go it is freed. An
    object that was taken by a get or a move is hidden: not listed, under a new name that only the
    taker knows, it lives on while an autograd graph of the taker still needs it.

    ``objects`` is read and written directly on the hot path; all else that is known of an object is
    kept beside it, for those few objects that have it. ``grants``: which of them were pointed to for
    other workers, or made by these, by the workers' names.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.objects: dict[int, torch.Tensor] = {}
        self._labels: dict[int, Label] = {}
        self._hidden: set[int] = set()
        self._further_owners: dict[int, int] = {}
        self._policies: dict[int, frozenset[str]] = {}
        self._fates: OrderedDict[int, str] = OrderedDict()
        self._failures: OrderedDict[int, SyftError] = OrderedDict()
        self.grants: dict[str, set[int]] = {}

    def put(self, id: int, value: torch.Tensor, label: Label = Label(), policy: Policy = None) -> None:
        """Store ``value`` with one owner. Raises IdInUse."""
        self.check_free(id)
        self.objects[id] = value
        self._fates.pop(id, None)
        self.label(id, label)
        if policy is not None:
            self._policies[id] = policy

    def check_free(self, id: int) -> None:
        """Raise IdInUse if there is an object of that id, or if owners of one that was taken have yet to let go."""
        if id in self.objects or id in self._further_owners:
            raise IdInUse(f"the id {id} is already in use", where=self.where, mend="Name objects with new ids.")

    def find(self, id: int) -> torch.Tensor:
        """Return the object.

        Raises ObjectGone, saying what became of it if that is known; of a result of an operator that
        failed, that operator's error.
        """
        try:
            return self.objects[id]
        except KeyError:
            failure = self._failures.get(id)
            if failure is not None:
                raise failure.again() from None
            fate = self._fates.get(id, "it was deleted, or never there")
            raise ObjectGone(
                f"there is no object {id}: {fate}", where=self.where, mend="Send the tensor again, or search for it."
            ) from None

    def release(self, id: int) -> None:
        """Take one owner from an object; free it if that was the last. Unknown ids are ignored."""
        owners = self._further_owners.get(id)
        if owners is None:
            self._forget(id)
            if self.grants:
                self._revoke(id)
        elif owners == 1:
            del self._further_owners[id]
        else:
            self._further_owners[id] = owners - 1

    def retain(self, id: int) -> None:
        """Add one owner to an object."""
        self.find(id)
        self._further_owners[id] = self._further_owners.get(id, 0) + 1

    def take(self, id: int, as_id: int, fate: str) -> None:
        """Hide an object under the name ``as_id``; ``fate`` is what its other owners are told. Raises IdInUse."""
        self.check_free(as_id)
        value, policy = self.find(id), self.policy_of(id)
        self._end(id, fate)
        self.objects[as_id] = value
        self._hidden.add(as_id)
        if policy is not None:
            self._policies[as_id] = policy

    def fail(self, id: int, error: SyftError) -> None:
        """Put an error in the place of an object, for whoever uses it, until its owners let go.

        Of too many the oldest goes, and whoever may use it has an object that was never there.
        """
        self._forget(id)
        # Anew, since the frames of a traceback hold all operands.
        self._failures[id] = error.again(limits.MAX_KEPT_TEXT)
        if len(self._failures) > limits.ROOM_OBJECTS:
            oldest, _ = self._failures.popitem(last=False)
            self._further_owners.pop(oldest, None)
            self._revoke(oldest)

    def clear(self) -> None:
        """Forget every object."""
        for id in list(self.objects):
            self._end(id, "the worker was cleared")
        self._further_owners.clear()
        self._failures.clear()
        self.grants.clear()

    def bytes(self) -> int:
        """Return how much memory all objects, and the words that describe them, take together."""
        return bytes_of(list(self.objects.values())) + sum(label.size for label in self._labels.values())

    def __contains__(self, id: int) -> bool:
        """Tell whether something is under that name, be it an error."""
        return id in self.objects or id in self._failures

    def grant(self, worker: str, id: int) -> None:
        """Note that ``worker`` may use an object, until that is no more."""
        self.grants.setdefault(worker, set()).add(id)

    def _revoke(self, id: int) -> None:
        for worker, granted in list(self.grants.items()):
            granted.discard(id)
            if not granted:
                del self.grants[worker]

    def _end(self, id: int, fate: str) -> None:
        self._forget(id)
        self._revoke(id)
        self._fates[id] = fate[: limits.MAX_KEPT_TEXT]
        if len(self._fates) > limits.MAX_FATES:
            self._fates.popitem(last=False)

    def _forget(self, id: int) -> None:
        self.objects.pop(id, None)
        if self._labels or self._hidden or self._policies or self._failures:
            self._labels.pop(id, None)
            self._failures.pop(id, None)
            self._hidden.discard(id)
            self._policies.pop(id, None)

    # ---- labels and listings ----

    def label(self, id: int, label: Label) -> None:
        """Label an object; an empty label removes the old one."""
        if label == Label():
            self._labels.pop(id, None)
        else:
            self._labels[id] = label

    def label_of(self, id: int) -> Label:
        return self._labels.get(id, Label())

    def listed(self) -> dict[int, torch.Tensor]:
        """Return all objects that are not hidden, oldest first."""
        return {id: value for id, value in list(self.objects.items()) if id not in self._hidden}

    def search(self, query: tuple[str, ...]) -> Iterator[tuple[int, torch.Tensor, Label]]:
        """Yield the labelled objects that match every word; a word may also be an object's id."""
        for id, value in self.listed().items():
            label = self.label_of(id)
            if all(word == str(id) or label.matches(word) for word in query) and (query or label != Label()):
                yield id, value, label

    # ---- policies ----

    @property
    def has_private(self) -> bool:
        """Whether any object here is private."""
        return bool(self._policies)

    def policy_of(self, id: int) -> Policy:
        return self._policies.get(id)

    def restrict(self, id: int, policy: frozenset[str]) -> None:
        """Let only those have an object who may have it now and are in ``policy`` as well."""
        if id in self.objects:
            mine = self._policies.get(id)
            self._policies[id] = policy if mine is None else mine & policy

    def restrict_memory(self, id: int, policy: frozenset[str]) -> None:
        """As :meth:`restrict`, for every object that shares the memory of this one: it was written to."""
        self.restrict(id, policy)
        memory = _memory(self.objects[id]) if id in self.objects else set()
        if memory:
            for other, value in list(self.objects.items()):
                if other != id and not memory.isdisjoint(_memory(value)):
                    self.restrict(other, policy)


def _memory(value: torch.Tensor) -> set[int]:
    """Identify the storages of a tensor."""
    return {storage.data_ptr() for storage in _storages(value)} - {0}


def _storages(value: torch.Tensor) -> list[torch.UntypedStorage]:
    """Return the storages of a plain tensor, of which a sparse one has several; a pointer has none."""
    if type(value) is not torch.Tensor:
        return []
    parts = [value]
    if value.layout is torch.sparse_coo:
        parts = [value._indices(), value._values()]
    elif value.layout in (torch.sparse_csr, torch.sparse_bsr):
        parts = [value.crow_indices(), value.col_indices(), value.values()]
    elif value.layout in (torch.sparse_csc, torch.sparse_bsc):
        parts = [value.ccol_indices(), value.row_indices(), value.values()]
    return [part.untyped_storage() for part in parts]


def bytes_of(values: Iterable[torch.Tensor]) -> int:
    """Add up the memory of tensors, each storage once, and whole, however little of it they show."""
    return sum({s.data_ptr(): s.nbytes() for value in values for s in _storages(value)}.values())
