"""Pictures: what they say, and that nothing in them lies over anything else."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pytest
import torch

import syft as sy
from syft import errors
from syft.annotations import private_tensor, tag
from syft.drawing import Drawing
from syft.pointer import PointerTensor
from syft.store import Label
from syft.transport import InProcess
from syft.worker import Worker
from syft.workers import BaseWorker

SVG = "{http://www.w3.org/2000/svg}"
EDGE = 0.5


@dataclass(frozen=True)
class Rect:
    left: float
    top: float
    right: float
    bottom: float

    def holds(self, x: float, y: float) -> bool:
        return self.left + EDGE < x < self.right - EDGE and self.top + EDGE < y < self.bottom - EDGE

    def meets(self, other: Rect) -> bool:
        return (
            min(self.right, other.right) > max(self.left, other.left) + EDGE
            and min(self.bottom, other.bottom) > max(self.top, other.top) + EDGE
        )


class Seen:
    """A picture as somebody sees it who knows nothing of how it was made."""

    def __init__(self, drawing: Drawing) -> None:
        root = ET.fromstring(drawing.svg)
        self.workers = [rect_of(r) for r in root.findall(f"{SVG}rect")]
        self.cards = [rect_of(r) for r in root.findall(f"{SVG}g/{SVG}rect")]
        self.texts = [text_extent(t) for t in root.iter(f"{SVG}text")]
        self.words = [t.text for t in root.iter(f"{SVG}text")]
        paths = [p for p in root.findall(f"{SVG}path") if p.get("stroke-width")]
        self.arrows = [points_of(p.attrib["d"]) for p in paths]
        self.broken = [bool(p.get("stroke-dasharray")) for p in paths]
        self.page = Rect(*corners(*map(float, root.attrib["viewBox"].split())))

    def ends(self) -> list[tuple[str, str]]:
        """The title of the card on which each arrow starts, and of the one that its tip touches."""
        titles = {card: word for card, (word, _) in zip(self.cards, self._titles(), strict=True)}
        return [(titles[self._touched(a[0])], titles[self._touched(a[-1])]) for a in self.arrows]

    def _titles(self) -> list[tuple[str, Rect]]:
        inside = [
            [(w, t) for w, t in zip(self.words, self.texts, strict=True) if t and t.top > c.top and c.meets(t)]
            for c in self.cards
        ]
        return [min(texts, key=lambda item: item[1].top) for texts in inside]

    def _touched(self, point: tuple[float, float]) -> Rect:
        x, y = point
        (card,) = [c for c in self.cards if min(abs(x - c.left), abs(x - c.right)) < EDGE and c.top < y < c.bottom]
        return card


def corners(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x, y, x + width, y + height


def rect_of(node: ET.Element) -> Rect:
    return Rect(*corners(*(float(node.attrib[k]) for k in ("x", "y", "width", "height"))))


def text_extent(node: ET.Element) -> Rect | None:
    if not node.text:
        return None
    x, y, size = (float(node.attrib[k]) for k in ("x", "y", "font-size"))
    width = 0.6021 * size * len(node.text)  # of DejaVu Sans Mono, and wider than Menlo and Consolas
    left = x - width if node.get("text-anchor") == "end" else x
    return Rect(left, y - 0.76 * size, left + width, y + 0.24 * size)


def points_of(path: str) -> list[tuple[float, float]]:
    """Walk along a path of the commands M, H and C."""
    points: list[tuple[float, float]] = []
    for command, text in re.findall(r"([MHC])([^MHC]*)", path):
        n = [float(word) for word in text.split()]
        if command == "M":
            points.append((n[0], n[1]))
            continue
        x0, y0 = points[-1]
        x1, y1, x2, y2, x3, y3 = n if command == "C" else (x0, y0, n[0], y0, n[0], y0)
        for t in (k / 40 for k in range(1, 41)):
            a, b, c, d = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t * t * (1 - t), t**3
            points.append((a * x0 + b * x1 + c * x2 + d * x3, a * y0 + b * y1 + c * y2 + d * y3))
    return points


def check_nothing_overlaps(drawing: Drawing) -> Seen:
    seen = Seen(drawing)
    for one, other in combinations(seen.workers, 2):
        assert not one.meets(other)
    for one, other in combinations(seen.cards, 2):
        assert not one.meets(other)
    texts = [t for t in seen.texts if t]
    for one, other in combinations(texts, 2):
        assert not one.meets(other)
    for text in texts:
        (worker,) = [w for w in seen.workers if w.meets(text)]
        assert worker.left < text.left
        assert text.right < worker.right
        for card in seen.cards:
            assert not card.meets(text) or (card.left < text.left and text.right < card.right)
    for arrow in seen.arrows:
        ends = [w for w in seen.workers if w.holds(*arrow[0]) or w.holds(*arrow[-1])]
        for point in arrow:
            assert not any(card.holds(*point) for card in seen.cards)
            assert all(w in ends for w in seen.workers if w.holds(*point))
            assert seen.page.holds(*point)
    for one, other in combinations(seen.arrows, 2):
        apart = [abs(a[0] - b[0]) + abs(a[1] - b[1]) for a in (one[0], one[-1]) for b in (other[0], other[-1])]
        assert min(apart) > EDGE
    return seen


def chain(length: int) -> tuple[PointerTensor, list[sy.VirtualWorker]]:
    workers = [sy.VirtualWorker(id=f"worker {n}") for n in range(length)]
    pointer = torch.arange(4)
    for worker in workers:
        pointer = sy.send(pointer, worker)
    return pointer, workers


def short(id: int) -> str:
    return f"…{id % 100_000:05}"


def test_one_pointer(bob):
    x = sy.send(torch.arange(4), bob)
    object_at_bob = short(x.id_at_location)
    drawing = sy.draw(x=x)
    seen = check_nothing_overlaps(drawing)
    assert seen.ends() == [("x", object_at_bob)]
    assert seen.words == ["me", None, "x", "pointer", "bob", "1 object", object_at_bob, "int64 [4]"]
    assert repr(drawing) == f"me\n    x -> bob:{object_at_bob}\nbob\n    {object_at_bob}  int64 [4]"
    (start, tip) = seen.arrows[0][0], seen.arrows[0][-1]
    assert start[0] < tip[0]
    assert start[1] == tip[1], "one pointer is one straight arrow"


def test_a_chain_of_four_workers_reads_from_left_to_right():
    x, workers = chain(4)
    seen = check_nothing_overlaps(sy.draw(x))
    assert [word for word in seen.words if word and word.startswith("worker")] == [w.id for w in reversed(workers)]
    assert [a for a, _ in seen.ends()][1:] == [b for _, b in seen.ends()][:-1]
    assert len(seen.arrows) == 4
    assert all(arrow[0][1] == arrow[-1][1] for arrow in seen.arrows)


def test_sum_of_pointers_to_pointers(bob, alice):
    x = sy.send(sy.send(torch.arange(5), bob), alice)
    y = x + x
    seen = check_nothing_overlaps(sy.draw(x=x, y=y))
    assert len(seen.arrows) == 4
    assert [w for w in seen.words if w == "2 objects"] == ["2 objects"] * 2
    ways = dict(seen.ends())
    assert [ways[ways["x"]], ways[ways["y"]]] == [short(id) for id in bob._objects]


def test_ten_objects(bob):
    pointers = [sy.send(torch.rand(n, 3), bob) for n in range(10)]
    seen = check_nothing_overlaps(sy.draw(bob, seventh=pointers[6]))
    assert len(seen.cards) == 11
    assert seen.ends() == [("seventh", short(pointers[6].id_at_location))]
    assert seen.arrows[0][0][1] == seen.arrows[0][-1][1], "the pointer stands beside what it points to"
    assert len(check_nothing_overlaps(sy.draw(*pointers)).arrows) == 10


def test_five_workers():
    workers = [sy.VirtualWorker(id=name) for name in ("ana", "bo", "cy", "dee", "eli")]
    pointers = {f"at_{w.id}": sy.send(torch.rand(3), w) for w in workers}
    seen = check_nothing_overlaps(sy.draw(**pointers))
    assert len(seen.workers) == 6
    assert sorted(name for name, _ in seen.ends()) == sorted(pointers)


def test_what_is_given_is_reordered_only_where_arrows_would_cross(bob, alice):
    first, second = sy.send(torch.ones(1), bob), sy.send(torch.ones(2), bob)
    at_alice = sy.send(torch.ones(3), alice)
    tangled = check_nothing_overlaps(sy.draw(alice, bob, second=second, at_alice=at_alice, first=first))
    down = sorted(tangled.arrows, key=lambda arrow: arrow[0][1])
    assert down == sorted(tangled.arrows, key=lambda arrow: arrow[-1][1])
    assert [name for name, _ in Seen(sy.draw(alice, bob, a=at_alice, b=first)).ends()] == ["a", "b"]
    assert [name for name, _ in Seen(sy.draw(bob, alice, b=first, a=at_alice)).ends()] == ["b", "a"]


def test_an_arrow_goes_round_the_workers_between(bob, alice):
    far = sy.send(torch.ones(2), bob)
    near = sy.send(far, alice)
    also_far = sy.send(torch.ones(2), bob)
    seen = check_nothing_overlaps(sy.draw(near=near, also_far=also_far))
    assert len(seen.arrows) == 3


def test_circles_and_pointers_of_a_worker_to_itself(bob, alice):
    there = sy.send(sy.send(torch.ones(2), bob), alice)
    and_back = sy.send(sy.send(torch.ones(2), alice), bob)
    to_itself = sy.send(sy.send(torch.ones(2), alice), alice)
    drawing = sy.draw(there=there, and_back=and_back, to_itself=to_itself)
    seen = check_nothing_overlaps(drawing)
    assert len(seen.arrows) == 6
    assert re.findall(r"^\w+", drawing.text, re.MULTILINE) == ["me", "alice", "bob"], "as without the way back"


def test_what_is_given_twice_is_drawn_once(bob):
    x = sy.send(torch.ones(1), bob)
    assert len(Seen(sy.draw(x, bob, bob, x=x)).cards) == 2


@pytest.mark.in_process
@pytest.mark.parametrize("seed", range(40))
def test_nothing_overlaps_in_random_pictures(seed):
    chance = random.Random(seed)
    workers = [sy.VirtualWorker(id=f"w{n}") for n in range(chance.randint(1, 7))]
    pointers = {}
    for n in range(chance.randint(1, 14)):
        pointer = torch.zeros(chance.randint(0, 3), 2)
        for worker in chance.choices(workers, k=chance.choice([1, 1, 2, 2, 3, 4])):
            pointer = sy.send(pointer, worker)
        pointers[f"p{n}"] = pointer
    seen = check_nothing_overlaps(sy.draw(*workers, **pointers))
    assert {name for name, _ in seen.ends()} >= pointers.keys()


def test_what_is_gone_is_marked(bob, alice):
    taken, moved = sy.send(torch.ones(2), bob), sy.send(torch.ones(2), bob)
    home, at_alice = taken.get(), moved.move(alice)
    seen = check_nothing_overlaps(sy.draw(bob, taken=taken, moved=moved, at_alice=at_alice, home=home))
    broken = {start: gone for (start, _), gone in zip(seen.ends(), seen.broken, strict=True)}
    assert broken == {"taken": True, "moved": True, "at_alice": False}
    assert seen.words.count("gone") == 2


def test_an_object_gone_from_the_end_of_a_chain(bob, alice):
    x = sy.send(torch.ones(2), bob)
    pointer_to_x = sy.send(x, alice)
    bob.clear_objects()
    assert Seen(sy.draw(pointer_to_x)).broken == [False, True]


def test_a_shut_worker_holds_nothing(bob):
    x = sy.send(torch.ones(2), bob)
    bob.shut()
    assert Seen(sy.draw(x=x)).broken == [True]


def test_values_are_shown_only_when_asked_for_and_never_those_of_private_tensors(bob):
    plain = sy.send(torch.tensor([1.25, -3.0]), bob)
    secret = private_tensor(torch.tensor([77.0]), allowed_users=["ana"])
    private = sy.send(secret, bob, user="ana")
    large = sy.send(torch.full((9,), 55.0), bob)
    assert "1.25" not in sy.draw(plain, private, large).svg
    words = Seen(sy.draw(plain, private, large, secret, torch.tensor([[1, 2], [3, 4]]), values=True)).words
    assert "[1.25 -3]" in words
    assert "[[1 2] [3 4]]" in words
    assert "private" in words
    assert not any(word and word.startswith(("[77", "[55")) for word in words)


def test_values_of_every_kind_of_tensor(bob):
    kinds = [torch.tensor(2.5), torch.tensor([True]), torch.tensor([1 + 2j]), torch.eye(2).to_sparse(), torch.ones(0)]
    pointers = [sy.send(tensor, bob) for tensor in kinds]
    words = Seen(sy.draw(*pointers, values=True)).words
    assert {"2.5", "[True]", "[(1+2j)]", "[[1 0] [0 1]]", "[]", "float32 scalar", "float32 [0]"} <= set(words)


class Elsewhere(BaseWorker):
    """A worker whose store cannot be looked into, as one in another process."""

    def __init__(self, id: str) -> None:
        worker = Worker(id, sy.get_worker)
        self.shut = worker.shut
        super().__init__(id, InProcess(worker))


def test_of_a_worker_elsewhere_only_what_can_be_found_is_shown(bob):
    far = Elsewhere("far")
    tagged = far.send(torch.ones(2, 3), label=Label(("#open",)))
    untagged, unseen = far.send(torch.ones(4)), far.send(torch.ones(5))
    seen = check_nothing_overlaps(sy.draw(far, untagged=untagged))
    assert seen.words.count("float32 [2, 3]") == 1
    assert "#open" in seen.words
    assert "float32 [4]" in seen.words, "a pointer tells of what it points to"
    assert "float32 [5]" not in seen.words
    assert seen.broken == [False]
    del tagged, unseen


def test_tags_are_shown_and_escaped(bob):
    hostile = ("<script>alert(1)</script>", 'a"&\x00')
    x = sy.send(tag(torch.ones(1), hostile[1], hostile[0]), bob)
    drawing = sy.draw(bob, **{"<b>\ud800": x})
    seen = Seen(drawing)
    assert "<script" not in drawing.svg
    assert "<b>\ufffd" in seen.words
    assert 'a"&\ufffd <script>alert(1)</script>' in seen.words
    drawing.svg.encode()


def test_many_objects_are_counted_and_those_pointed_to_are_shown(bob):
    pointers = [sy.send(torch.zeros(1), bob) for _ in range(100)]
    seen = check_nothing_overlaps(sy.draw(bob, last=pointers[-1]))
    assert len(seen.cards) == 18
    assert "100 objects" in seen.words
    assert "and 84 more" in seen.words
    assert seen.ends() == [("last", short(pointers[-1].id_at_location))]


def test_several_pointers_to_one_object_end_apart(bob):
    x = sy.send(tag(torch.ones(1), "#it"), bob)
    seen = check_nothing_overlaps(sy.draw(x=x, found=bob.search("#it")[0]))
    assert sorted(seen.ends()) == [("found", short(x.id_at_location)), ("x", short(x.id_at_location))]


def test_a_module_is_drawn_by_its_parameters(bob):
    model = torch.nn.Linear(3, 2)
    assert "net.weight  float32 [2, 3]" in sy.draw(net=model).text
    model.weight = torch.nn.Parameter(sy.send(model.weight.data, bob))
    assert f"net.weight -> bob:{short(model.weight.id_at_location)}" in sy.draw(net=model).text


def test_a_pointer_to_several_workers_is_drawn_as_its_single_pointers(bob, alice):
    x = sy.send(torch.ones(2), bob, alice)
    ends = check_nothing_overlaps(sy.draw(x=x)).ends()
    assert ends == [(f"x at {p.location.id}", short(p.id_at_location)) for p in x.child.values()]


def test_several_workers_without_arrows_stand_beside_each_other(bob, alice):
    seen = check_nothing_overlaps(sy.draw(bob, alice))
    assert seen.words == ["bob", "empty", "alice", "empty"]
    assert seen.workers[0].top == seen.workers[1].top


def test_a_worker_shows_itself(bob, alice):
    x = sy.send(sy.send(torch.ones(2), bob), alice)
    assert alice._repr_svg_() == sy.draw(alice).svg
    assert {"alice", "bob"} <= set(Seen(sy.draw(alice)).words)
    assert "me" not in Seen(sy.draw(alice)).words
    del x


def test_nothing_given_is_every_worker(bob, alice):
    assert {"bob", "alice"} <= set(Seen(sy.draw()).words)


def test_drawing_changes_nothing(bob, alice):
    x = sy.send(sy.send(torch.ones(2), bob), alice)
    before = dict(bob._objects), dict(alice._objects)
    drawing = sy.draw(x, bob)
    assert (dict(bob._objects), dict(alice._objects)) == before
    del x, before
    assert not bob._objects, "a picture keeps nothing alive"
    assert "bob" in drawing.text


def test_save(tmp_path: Path, bob):
    drawing = sy.draw(bob)
    assert drawing.save(tmp_path / "bob.svg").read_text(encoding="utf-8") == drawing.svg == drawing._repr_svg_()
    with pytest.raises(errors.Misuse, match="SVG"):
        drawing.save(tmp_path / "bob.png")


def test_what_cannot_be_drawn_is_an_error():
    with pytest.raises(errors.Misuse, match="a str cannot be drawn"):
        sy.draw("bob")
