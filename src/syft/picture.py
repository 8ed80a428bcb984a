"""A picture of boxes with cards and arrows between them, as SVG: layout, then drawing. It asks no worker.

Boxes stand in columns, as far to the right as arrows are followed. Where an arrow passes a column of
other boxes it has a lane of its own there, so that arrows never cross a box.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from math import inf


@dataclass(eq=False)
class Item:
    """A card in a worker's box: a tensor, a pointer, something gone, or "and 9 more"."""

    kind: str
    title: str
    lines: list[str] = field(default_factory=list)
    hint: str = ""
    target: Item | None = None
    column: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0

    @property
    def middle(self) -> float:
        return self.y + self.height / 2


@dataclass(eq=False)
class Box:
    """A worker; or, without a name, the lane of an arrow that passes other workers."""

    name: str
    items: list[Item] = field(default_factory=list)
    count: int = 0
    y: float = 0.0
    height: float = 0.0


# ---- layout: what stands where ----

_PAD = 14.0
_HEADER = 38.0
_CARD_PAD = 9.0
_CARD_GAP = 8.0
_BOX_GAP = 22.0
_LANE_HEIGHT = 16.0
_NARROWEST_CARD = 118.0
_GUTTER = 64.0
_LOOP = 34.0
_NAME_SIZE, _TITLE_SIZE, _LINE_SIZE = 14.0, 12.5, 11.0
_LINE_HEIGHT = 16.0
_LONGEST_LINE = 30
_MOST_ABREAST = 4
_SWEEPS = 8

_Path = list[Item]
_Place = tuple[float, float]


class Layout:
    """Places for boxes, cards and arrows: ``columns`` of boxes, and for each arrow the items on its way.

    The box named ``me`` comes before others.
    """

    def __init__(self, boxes: Sequence[Box], me: str) -> None:
        self.columns = _columns(boxes, me)
        self.paths = _lay_lanes(self.columns)
        _untangle(self.columns, self.paths)
        self.lefts: list[float] = []
        self.widths = [max(map(_width_of, column)) for column in self.columns]
        self._place_upright()
        self._place_across()
        self.height = max((box.y + box.height for column in self.columns for box in column), default=0.0)
        self._ports = self._spread_ports()

    def _place_upright(self) -> None:
        """Stack each column, then shift it so that the arrows into it are level on average."""
        for c, column in enumerate(self.columns):
            y = 0.0
            for box, below in zip(column, [*column[1:], Box("")], strict=True):
                y = _stack(box, y) + (_BOX_GAP if box.name or below.name else 0.0)
            if c:
                drops = [b.middle - a.middle for a, b in _hops(self.paths, c - 1)]
                _shift(column, -sum(drops) / len(drops) if drops else self.columns[c - 1][0].y)
        top = min((column[0].y for column in self.columns), default=0.0)
        for column in self.columns:
            _shift(column, -top)

    def _place_across(self) -> None:
        """Place columns from left to right, farther apart where arrows are steep."""
        x = 0.0
        for c, column in enumerate(self.columns):
            self.lefts.append(x)
            for box in column:
                inset = _PAD if box.name else 0.0
                for item in box.items:
                    item.x, item.width = x + inset, self.widths[c] - 2 * inset
            steepest = max((abs(b.middle - a.middle) for a, b in _hops(self.paths, c)), default=0.0)
            x += self.widths[c] + min(max(_GUTTER, 0.4 * steepest), 3 * _GUTTER)
        loops = any(path[0].column == path[-1].column for path in self.paths)
        self.width = self.lefts[-1] + self.widths[-1] + (_LOOP if loops else 0.0) if self.columns else 0.0

    def _spread_ports(self) -> dict[tuple[int, int], _Place]:
        """Spread the ends of arrows along the sides of their cards, in the order of where they lead."""
        ends: dict[tuple[Item, bool], list[tuple[float, int, int]]] = {}
        for number, path in enumerate(self.paths):
            for end, item, beyond in ((0, path[0], path[1]), (-1, path[-1], path[-2])):
                on_right = beyond.column >= item.column
                ends.setdefault((item, on_right), []).append((beyond.middle, number, end))
        ports = {}
        for (item, on_right), arrivals in ends.items():
            for place, (_, number, end) in enumerate(sorted(arrivals), 1):
                y = item.y + item.height * place / (len(arrivals) + 1)
                ports[number, end] = (item.x + item.width if on_right else item.x, y)
        return ports

    def arrow(self, number: int) -> tuple[str, _Place, _Place, int]:
        """Return an arrow's path, its start, its tip, and its direction there: 1 is right, -1 is left."""
        path, start, tip = self.paths[number], self._ports[number, 0], self._ports[number, -1]
        if path[0].column == path[-1].column:
            bend = self.lefts[path[0].column] + self.widths[path[0].column] + _LOOP
            return f"M{_at(start)} C{_at((bend, start[1]))} {_at((bend, tip[1]))} {_at(tip)}", start, tip, -1
        way = 1 if path[0].column < path[-1].column else -1
        heights = [start[1], *(lane.middle for lane in path[1:-1]), tip[1]]
        steps = [f"M{_at(start)}"]
        for (a, b), (from_y, to_y) in zip(pairwise(path), pairwise(heights), strict=True):
            leave, enter = self._edge(a.column, way), self._edge(b.column, -way)
            bend = (leave + enter) / 2
            steps.append(f"H{leave:.1f} C{_at((bend, from_y))} {_at((bend, to_y))} {_at((enter, to_y))}")
        return f"{' '.join(steps)} H{tip[0]:.1f}", start, tip, way

    def _edge(self, column: int, way: int) -> float:
        return self.lefts[column] + (self.widths[column] if way == 1 else 0.0)


def _columns(boxes: Sequence[Box], me: str) -> list[list[Box]]:
    """Put each worker one column after the last of those that point to it; set the items' columns.

    Arrows that close a circle do not count. ``me`` comes before workers that nobody points to.
    """
    box_of = {item: box for box in boxes for item in box.items}
    onward = {box: [box_of[item.target] for item in box.items if item.target] for box in boxes}
    first = sorted(boxes, key=lambda box: box.name != me)
    depth = {box: int(first[0].name == me != box.name) for box in boxes}
    if not any(onward.values()):
        depth = {box: i % _MOST_ABREAST for i, box in enumerate(first)}
    order = _sources_first(first, onward)
    rank = {box: r for r, box in enumerate(order)}
    for box in order:
        for after in onward[box]:
            if rank[after] > rank[box]:
                depth[after] = max(depth[after], depth[box] + 1)
    columns = [[box for box in boxes if depth[box] == d] for d in sorted(set(depth.values()))]
    for c, column in enumerate(columns):
        for box in column:
            for item in box.items:
                item.column = c
    return columns


def _sources_first(boxes: Sequence[Box], onward: dict[Box, list[Box]]) -> list[Box]:
    """Sort workers so that pointers lead on, except those that close a circle."""
    seen: set[Box] = set()
    done: list[Box] = []

    def visit(box: Box) -> None:
        if box not in seen:
            seen.add(box)
            for after in reversed(onward[box]):
                visit(after)
            done.append(box)

    for box in boxes:
        visit(box)
    return done[::-1]


def _lay_lanes(columns: list[list[Box]]) -> list[_Path]:
    """Return each arrow's way, with a lane through every column between its ends."""
    paths = []
    for item in [item for column in columns for box in column for item in box.items]:
        if item.target is None:
            continue
        way = 1 if item.column < item.target.column else -1
        lanes = [Item("lane", "", column=c) for c in range(item.column + way, item.target.column, way)]
        for lane in lanes:
            columns[lane.column].append(Box("", [lane]))
        paths.append([item, *lanes, item.target])
    return paths


def _hops(paths: Sequence[_Path], column: int) -> Iterator[tuple[Item, Item]]:
    """Yield the left and right ends of what runs between ``column`` and the next one."""
    for path in paths:
        for a, b in pairwise(path):
            left, right = (a, b) if a.column < b.column else (b, a)
            if (left.column, right.column) == (column, column + 1):
                yield left, right


def _untangle(columns: list[list[Box]], paths: Sequence[_Path]) -> None:
    """Reorder workers, and what they hold, where fewer arrows then cross; else leave all as given."""
    best = [[(box, list(box.items)) for box in column] for column in columns]
    fewest = _crossings(columns, paths)
    for sweep in range(_SWEEPS):
        if not fewest:
            break
        rightwards = sweep % 2 == 0
        for c in range(1, len(columns)) if rightwards else range(len(columns) - 2, -1, -1):
            _pull(columns, paths, c, c - 1 if rightwards else c + 1)
        crossings = _crossings(columns, paths)
        if crossings < fewest:
            fewest, best = crossings, [[(box, list(box.items)) for box in column] for column in columns]
    for column, order in zip(columns, best, strict=True):
        column[:] = [box for box, _ in order]
        for box, items in order:
            box.items = items


def _pull(columns: list[list[Box]], paths: Sequence[_Path], column: int, towards: int) -> None:
    """Sort a column by where its arrows end in the column beside it."""
    rank = _ranks(columns[towards])
    pulls: dict[Item, list[int]] = {}
    for ends in _hops(paths, min(column, towards)):
        here, there = ends if column < towards else ends[::-1]
        pulls.setdefault(here, []).append(rank[there])
    mean = {item: sum(ranks) / len(ranks) for item, ranks in pulls.items()}
    for box in columns[column]:
        box.items.sort(key=lambda item: mean.get(item, inf))

    def middle(box: Box) -> float:
        own = [mean[item] for item in box.items if item in mean]
        return sum(own) / len(own) if own else inf

    columns[column].sort(key=middle)


def _crossings(columns: list[list[Box]], paths: Sequence[_Path]) -> int:
    count = 0
    for c in range(len(columns) - 1):
        left, right = _ranks(columns[c]), _ranks(columns[c + 1])
        ends = [(left[a], right[b]) for a, b in _hops(paths, c)]
        count += sum((a - c) * (b - d) < 0 for (a, b), (c, d) in combinations(ends, 2))
    return count


def _ranks(column: Sequence[Box]) -> dict[Item, int]:
    return {item: rank for rank, item in enumerate(item for box in column for item in box.items)}


def _stack(box: Box, y: float) -> float:
    """Place a box and its cards from ``y`` down; return where it ends."""
    box.y = y
    if not box.name:
        box.items[0].y, box.items[0].height, box.height = y, _LANE_HEIGHT, _LANE_HEIGHT
        return y + _LANE_HEIGHT
    y += _HEADER
    for item in box.items:
        item.y = y
        item.height = 2 * _CARD_PAD + _LINE_HEIGHT * (1 + len(item.lines)) - 4
        y += item.height + _CARD_GAP
    box.height = y - box.y + (_PAD - _CARD_GAP if box.items else 0.0)
    return box.y + box.height


def _shift(column: Sequence[Box], by: float) -> None:
    for box in column:
        box.y += by
        for item in box.items:
            item.y += by


def _width_of(box: Box) -> float:
    if not box.name:
        return 0.0
    name = _text_width(_fit(box.name), _NAME_SIZE) + _text_width(_count(box), _LINE_SIZE) + 16
    cards = [
        max(_text_width(_fit(text), size) for text, size in _texts(item)) + 2 * _CARD_PAD + 8 for item in box.items
    ]
    return max([name, _NARROWEST_CARD, *cards]) + 2 * _PAD


def _texts(item: Item) -> Iterator[tuple[str, float]]:
    yield item.title, _TITLE_SIZE
    for line in item.lines:
        yield line, _LINE_SIZE


def _count(box: Box) -> str:
    return f"{box.count} object{'s' * (box.count != 1)}" if box.count else "" if box.items else "empty"


def _fit(text: str) -> str:
    return text if len(text) <= _LONGEST_LINE else f"{text[: _LONGEST_LINE - 1]}…"


def _text_width(text: str, size: float) -> float:
    """Estimate a text's width: all is set in a monospaced face."""
    cells = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return 0.61 * size * cells


# ---- SVG: on cards of their own colour, so that a page may be light or dark ----

_FACE = "ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace"
_BOX_STYLE = 'fill="#f8fafc" stroke="#b6c2d1"'
_INK, _MUTED = "#0f172a", "#55647a"
_ARROW, _BROKEN = "#d97706", "#8592a6"
_CARDS = {
    "tensor": ('fill="#dbeafe" stroke="#3b82f6"', "#172f5c", "#345285"),
    "pointer": (f'fill="#fff4dc" stroke="{_ARROW}"', "#5a2c04", "#8a4b10"),
    "gone": (f'fill="none" stroke="{_BROKEN}" stroke-dasharray="4 3"', _MUTED, _MUTED),
    "more": ('fill="none"', _MUTED, _MUTED),
}
_MARGIN = 4.0
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def svg_of(layout: Layout, description: str) -> str:
    width, height = layout.width + 2 * _MARGIN, layout.height + 2 * _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="{-_MARGIN:.0f} {-_MARGIN:.0f} {width:.0f} {height:.0f}" role="img" font-family="{_FACE}">',
        f"<desc>{_escape(description)}</desc>",
    ]
    for left, width, column in zip(layout.lefts, layout.widths, layout.columns, strict=True):
        for box in column:
            if box.name:
                parts += _box_svg(box, left, width)
    for number in range(len(layout.paths)):
        parts += _arrow_svg(layout, number)
    return "\n".join([*parts, "</svg>\n"])


def _box_svg(box: Box, left: float, width: float) -> Iterator[str]:
    yield _rect(left, box.y, width, box.height, 12, _BOX_STYLE)
    yield _text(box.name, left + _PAD, box.y + 24, _NAME_SIZE, _INK, 'font-weight="bold"')
    yield _text(_count(box), left + width - _PAD, box.y + 24, _LINE_SIZE, _MUTED, 'text-anchor="end"')
    for item in box.items:
        style, title, rest = _CARDS[item.kind]
        yield f"<g><title>{_escape(item.hint or item.title)}</title>"
        yield _rect(item.x, item.y, item.width, item.height, 7, style)
        x, y = item.x + _CARD_PAD, item.y + _CARD_PAD + 10
        yield _text(item.title, x, y, _TITLE_SIZE, title, "" if item.kind == "more" else 'font-weight="bold"')
        for n, line in enumerate(item.lines, 1):
            yield _text(line, x, y + n * _LINE_HEIGHT, _LINE_SIZE, rest)
        yield "</g>"


def _arrow_svg(layout: Layout, number: int) -> Iterator[str]:
    path, start, (x, y), way = layout.arrow(number)
    broken = layout.paths[number][-1].kind == "gone"
    color, dashes = (_BROKEN, ' stroke-dasharray="5 4"') if broken else (_ARROW, "")
    yield f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.8"{dashes}/>'
    yield f'<circle cx="{start[0]:.1f}" cy="{start[1]:.1f}" r="3.4" fill="{color}"/>'
    back = x - 9 * way
    yield f'<path d="M{x:.1f} {y:.1f} L{back:.1f} {y - 4.5:.1f} V{y + 4.5:.1f} Z" fill="{color}"/>'


def _rect(x: float, y: float, width: float, height: float, radius: int, style: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="{radius}" {style}/>'


def _text(text: str, x: float, y: float, size: float, color: str, style: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" {style}>{_escape(_fit(text))}</text>'


def _at(place: _Place) -> str:
    return f"{place[0]:.1f} {place[1]:.1f}"


def _escape(text: str) -> str:
    return html.escape(_FORBIDDEN.sub("\ufffd", text))
