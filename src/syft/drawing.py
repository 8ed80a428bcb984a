"""Pictures of who holds what, and which pointer points where: ``draw`` -> scene -> :mod:`syft.picture`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .annotations import policy_of
from .errors import Misuse
from .multipointer import MultiPointerTensor
from .picture import Box, Item, Layout, svg_of
from .pointer import PointerTensor
from .store import Store
from .workers import BaseWorker, VirtualWorker, known_workers, local_worker


@dataclass(frozen=True, repr=False)
class Drawing:
    """A picture: ``svg`` is the file's text, ``text`` says the same in words. Jupyter shows it by itself."""

    svg: str
    text: str

    def save(self, path: str | Path) -> Path:
        """Write the picture to an SVG file; returns its path. Raises Misuse for other kinds of file."""
        path = Path(path)
        if path.suffix != ".svg":
            raise Misuse(f"pictures are SVG, not {path.suffix or 'files without a suffix'}", mend="save('picture.svg')")
        path.write_text(self.svg, encoding="utf-8")
        return path

    def _repr_svg_(self) -> str:
        return self.svg

    def __repr__(self) -> str:
        return self.text


def draw(*things: Any, values: bool = False, **named: Any) -> Drawing:
    """Draw workers and pointers, and all that can be reached from them.

    A worker is drawn with what it holds: id, dtype and shape, tags; at most 16 objects, those that
    pointers lead to first. A pointer is drawn at its holder, under the name it is given here.

    Args:
        things: workers, pointers, local tensors, modules; nothing at all means every worker known here.
        values: show the values of small tensors too, up to 8 numbers, of workers in this process; never
            those of private tensors.
        named: the same, with the name to show: ``draw(bob, x=x)``.

    Raises:
        Misuse: for anything else.
    """
    scene = _Scene(values)
    given = [("", thing) for thing in things] + list(named.items())
    for name, thing in given or [("", worker) for worker in known_workers()]:
        scene.add(name, thing)
    scene.follow_pointers()
    scene.shorten()
    layout = Layout(list(scene.boxes.values()), local_worker().id)
    text = _in_words([box for column in layout.columns for box in column if box.name])
    return Drawing(svg_of(layout, text), text)


def _repr_svg_(self: BaseWorker) -> str:
    """The worker and what its pointers lead to, for Jupyter."""
    return draw(self).svg


BaseWorker._repr_svg_ = _repr_svg_


# ---- scene: what is to be seen ----

_MOST_OBJECTS = 16
_MOST_VALUES = 8


class _Lead(NamedTuple):
    """Where a pointer points, and what it expects there."""

    worker: BaseWorker
    id: int
    kind: str


@dataclass(eq=False, kw_only=True)
class _Pointer(Item):
    """The card of a pointer."""

    lead: _Lead


class _Scene:
    """Workers, what they hold, and what points where."""

    def __init__(self, values: bool) -> None:
        self.boxes: dict[str, Box] = {}
        self._values = values
        self._held: dict[tuple[str, int], Item] = {}
        self._drawn: dict[int, torch.Tensor] = {}

    def add(self, name: str, thing: Any) -> None:
        """Add what the user wants to see."""
        if isinstance(thing, BaseWorker):
            self._add_worker(thing)
        elif isinstance(thing, torch.nn.Module):
            for key, value in (*thing.named_parameters(), *thing.named_buffers()):
                self.add(f"{name}.{key}".lstrip("."), value)
        elif isinstance(thing, MultiPointerTensor):
            for place, pointer in thing.child.items():
                self.add(f"{name} at {place}".strip(), pointer)
        elif isinstance(thing, PointerTensor) and thing.owner is not local_worker():
            self._add_worker(thing.owner)
        elif isinstance(thing, torch.Tensor):
            if id(thing) not in self._drawn:
                self._drawn[id(thing)] = thing
                self._add_worker(local_worker()).items.append(self._local(name, thing))
        else:
            raise Misuse(
                f"a {type(thing).__name__} cannot be drawn",
                mend="Workers, pointers, tensors and modules can: sy.draw(bob, alice, x=x).",
            )

    def _add_worker(self, worker: BaseWorker) -> Box:
        box = self.boxes.get(worker.id)
        if box is None:
            held = self._contents(worker)
            box = self.boxes[worker.id] = Box(worker.id, list(held.values()), len(held))
            self._held.update({(worker.id, id): item for id, item in held.items()})
        return box

    def follow_pointers(self) -> None:
        """Add every worker that a pointer leads to, and lay the pointers."""
        boxes = list(self.boxes.values())
        for box in boxes:
            for item in box.items:
                if not isinstance(item, _Pointer):
                    continue
                worker, id, kind = item.lead
                if worker.id not in self.boxes:
                    boxes.append(self._add_worker(worker))
                if (worker.id, id) not in self._held:  # a worker elsewhere lists only what can be searched for
                    gone = isinstance(worker, VirtualWorker)
                    unlisted = Item("gone" if gone else "tensor", _short(id), ["gone" if gone else kind], str(id))
                    self._held[worker.id, id] = unlisted
                    self.boxes[worker.id].items.append(unlisted)
                item.target = self._held[worker.id, id]

    def shorten(self) -> None:
        """Keep the first objects of each worker, those that are pointed to before others."""
        targets = {item.target for box in self.boxes.values() for item in box.items}
        replaced: dict[Item | None, Item] = {}
        for box in self.boxes.values():
            if len(box.items) > _MOST_OBJECTS:
                ranked = sorted(box.items, key=lambda item: item not in targets)
                kept, rest = set(ranked[:_MOST_OBJECTS]), ranked[_MOST_OBJECTS:]
                more = Item("more", f"and {len(rest)} more")
                replaced.update(dict.fromkeys(rest, more))
                box.items = [*(item for item in box.items if item in kept), more]
        for box in self.boxes.values():
            for item in box.items:
                item.target = replaced.get(item.target, item.target)

    # ---- cards ----

    def _contents(self, worker: BaseWorker) -> dict[int, Item]:
        if isinstance(worker, VirtualWorker):
            store = worker._worker.store
            return {id: self._stored(store, id, value) for id, value in store.listed().items()}
        return {
            pointer.id_at_location: Item(
                "tensor",
                _short(pointer.id_at_location),
                [_kind_of(pointer), *_tag_lines(pointer._tags)],
                str(pointer.id_at_location),
            )
            for pointer in worker.search()
        }

    def _stored(self, store: Store, id: int, value: torch.Tensor) -> Item:
        private = store.policy_of(id) is not None
        lines = [*_tag_lines(store.label_of(id).tags), *(["private"] if private else [])]
        if isinstance(value, PointerTensor):
            return self._pointer(_short(id), value, lines, str(id))
        return Item("tensor", _short(id), [_kind_of(value), *lines, *self._values_of(value, private)], str(id))

    def _local(self, name: str, value: torch.Tensor) -> Item:
        if isinstance(value, PointerTensor):
            return self._pointer(name or _short(value.id), value, [], str(value.id))
        return Item(
            "tensor", name or "tensor", [_kind_of(value), *self._values_of(value, policy_of(value) is not None)]
        )

    def _pointer(self, title: str, value: PointerTensor, lines: list[str], hint: str) -> Item:
        lead = _Lead(value.location, value.id_at_location, _kind_of(value))
        return _Pointer("pointer", title, ["pointer", *lines], hint, lead=lead)

    def _values_of(self, value: torch.Tensor, private: bool) -> list[str]:
        if not self._values or private or value.numel() > _MOST_VALUES:
            return []
        return [_numbers(value.detach().to_dense().tolist())]


def _short(id: int) -> str:
    return f"…{id % 100_000:05}"


def _kind_of(value: torch.Tensor) -> str:
    dtype = str(value.dtype).removeprefix("torch.")
    return f"{dtype} {list(value.shape) or 'scalar'}"


def _tag_lines(tags: Sequence[str]) -> list[str]:
    return [" ".join(tags)] if tags else []


def _numbers(value: Any) -> str:
    if isinstance(value, list):
        return f"[{' '.join(map(_numbers, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _in_words(boxes: Sequence[Box]) -> str:
    names = {item: f"{box.name}:{item.title}" for box in boxes for item in box.items}
    lines = []
    for box in boxes:
        lines.append(box.name if box.items else f"{box.name} (empty)")
        for item in box.items:
            arrow = f" -> {names[item.target]}" if item.target else ""
            about = item.lines[1:] if arrow else item.lines
            lines.append(f"    {item.title}{arrow}{''.join(f'  {line}' for line in about)}")
    return "\n".join(lines)
