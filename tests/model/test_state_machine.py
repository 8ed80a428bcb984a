"""Random sends, operators, chains, moves, gets and deletes, against a plain model of what each worker holds.

The model is ordinary tensors and a ledger. After every step each worker must list just the objects of the
ledger, of the right kind, with the right values, labels and numbers of owners, and nothing may be hidden
that nobody holds. ``HYPOTHESIS_PROFILE=long`` runs it for longer.

At nodes one sees less, and later: hidden objects and numbers of owners do not show, errors come with a
result at the latest, and what goes along a chain takes a moment.
"""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from syft import outline
from syft.dispatch import Handle, read
from syft.errors import Misuse, NotCollocated, ObjectGone, OperatorFailed, SyftError, WorkerNotFound
from syft.messages import Retain
from syft.pointer import PointerTensor
from syft.sending import send
from syft.workers import BaseWorker, VirtualWorker, get_worker, local_worker

from ..helpers import soon

NAMES = ("alice", "bob", "charlie", "dave")
TAGS = ("#one", "#two")
Path = tuple[str, ...]


class Node:
    """An object at a worker: data, or a pointer to another node."""

    def __init__(self, place: str, id: int, data: torch.Tensor | None, target: Node | None) -> None:
        self.place, self.id, self.data, self.target = place, id, data, target
        self.owners, self.alive, self.hidden = 1, True, False
        self.tags: tuple[str, ...] = ()

    def path(self) -> Path:
        return tuple(node.place for node in self.links())

    def links(self) -> list[Node]:
        return [self, *(self.target.links() if self.target else ())]

    def end(self) -> Node:
        return self.links()[-1]

    def is_whole(self) -> bool:
        return self.alive and (self.target is None or self.target.is_whole())

    def can_leave(self) -> bool:
        return self.alive and (self.target is None or self.target.alive)

    def value(self) -> torch.Tensor:
        data = self.end().data
        assert data is not None
        return data


class Grip:
    """One ownership, shared by the aliases of a pointer."""

    def __init__(self, node: Node) -> None:
        self.node, self.holders = node, 1


class Held:
    """A pointer in Python, and what the model knows of it."""

    def __init__(self, pointer: Any, grip: Grip) -> None:
        self.pointer, self.grip = pointer, grip
        self.same = weakref.ref(pointer)
        self.tags: tuple[str, ...] = ()
        # As with local tensors, torch has a view keep what it was made of.
        self.base: Held | None = None
        self.views, self.dropped = 0, False

    @property
    def node(self) -> Node:
        return self.grip.node


Operator = Callable[..., Any]
Errors = type[Exception] | tuple[type[Exception], ...]
UNARY: tuple[Operator, ...] = (
    lambda x: -x,
    lambda x: x + 1,
    lambda x: x.sum(),
    lambda x: x.relu(),
    lambda x: x.unsqueeze(-1),
    lambda x: x[..., 0],
    lambda x: x.view(-1),
    lambda x: x.unsqueeze(0),
    lambda x: x.clone(),
    lambda x: x.copy() if isinstance(x, PointerTensor) else x.clone(),
    lambda x: x.to(torch.float64, copy=True),
    lambda x: x.sort(),
    lambda x: x.max(dim=0),
    lambda x: x.unbind(),
    lambda x: x.chunk(2),
    lambda x: torch.cat([x, x]),
    lambda x: x[x > 0],
)
IN_PLACE: tuple[Operator, ...] = (
    lambda x: x.add_(1),
    lambda x: x.neg_(),
    lambda x: x.clamp_(-5, 5),
    lambda x: x.zero_(),
    lambda x: x[..., :1].add_(3),
    lambda x: x.view(-1)[0].fill_(7),
    lambda x: x.__setitem__(..., 2),
)
BINARY: tuple[Operator, ...] = (torch.add, torch.sub, torch.maximum, lambda x, y: torch.stack([x, y]))
BINARY_IN_PLACE: tuple[Operator, ...] = (torch.Tensor.add_, torch.Tensor.copy_, torch.Tensor.sub_)

some = st.integers(0, 99)
workers = st.sampled_from(NAMES)


class Workers(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.workers: dict[str, Any] = {name: self.make_worker(name) for name in NAMES}
        self.ledger: dict[tuple[str, int], Node] = {}
        self.held: list[Held] = []
        self.count = 0

    def teardown(self) -> None:
        try:
            while self.held:
                self.delete(0)
                self.every_worker_holds_what_it_should()
            for worker in self.workers.values():
                self.nothing_is_left(worker)
        finally:  # a name that is still known would give the next example this one's worker
            for worker in self.workers.values():
                worker.shut()

    # ---- what differs at nodes ----

    def make_worker(self, name: str) -> BaseWorker:
        return VirtualWorker(id=name)

    def nothing_is_left(self, worker: Any) -> None:
        store = worker._worker.store
        assert not (store.objects or store._labels or store._hidden or store._further_owners or store._policies)

    def look(self, place: str, id: int) -> Any:
        """Return what a worker holds under an id."""
        return self.workers[place]._worker.store.objects[id]

    def fails(self, error: Errors, call: Callable[[], Any], *written: Held) -> None:
        """Check that a call fails, and leaves what it would have written to as it was."""
        try:  # not pytest.raises, whose record of the error would keep the pointers in its frames alive
            call()
        except error:
            return
        raise AssertionError(f"no {error}")

    def fails_where_all_is_not_there(self, error: type[Exception], operator: Operator, operands: list[Held]) -> None:
        """Check that an operator fails: at its worker or, where torch refuses such shapes, before that is asked."""
        pointers = [held.pointer for held in operands]
        try:
            operator(*(torch.zeros(pointer.shape, dtype=pointer.dtype) for pointer in pointers))
        except (RuntimeError, IndexError) as refused:
            self.fails((error, type(refused)), lambda: operator(*pointers), *operands)
        else:
            self.fails(error, lambda: operator(*pointers), *operands)

    def check(self, name: str, worker: Any, mine: dict[int, Node]) -> None:
        """Check that a worker holds just ``mine``."""
        store = worker._worker.store
        assert set(store.objects) == set(mine)
        assert set(worker._objects) == {id for id, node in mine.items() if not node.hidden}
        assert worker.objects_count() == len(worker._objects)
        for id, node in mine.items():
            value: Any = store.objects[id]
            assert store._further_owners.get(id, 0) == node.owners - 1
            if node.target is None:
                assert type(value) is torch.Tensor
                torch.testing.assert_close(value, node.value(), check_stride=True)
            else:
                assert type(value) is PointerTensor
                assert value.owner is worker
                assert (value.location.id, value.id_at_location) == (node.target.place, node.target.id)

    # ---- the model ----

    def pick(self, index: int) -> Held:
        return self.held[index % len(self.held)]

    def hold(self, pointer: torch.Tensor, node: Node, source: Held | None = None) -> Held:
        assert isinstance(pointer, PointerTensor)
        assert (pointer.location.id, pointer.id_at_location) == (node.place, node.id)
        held = Held(pointer, Grip(node))
        held.base = None if pointer._base is None else source
        if held.base:
            held.base.views += 1
        self.held.append(held)
        return held

    def drop(self, held: Held) -> None:
        """Python has let go of ``held``; so do its handle and its base, unless there are views of it."""
        if held in self.held:
            self.held.remove(held)
        held.dropped = True
        if held.views:
            return
        held.grip.holders -= 1
        if not held.grip.holders:
            self.let_go(held.node)
        if held.base:
            held.base.views -= 1
            if held.base.dropped:
                self.drop(held.base)

    def known(self) -> list[Held]:
        """List what Python holds, and what is kept by views of it."""
        known = list(self.held)
        for held in known:  # which grows as it goes
            if held.base and held.base not in known:
                known.append(held.base)
        return known

    def enter(self, node: Node) -> Node:
        assert (node.place, node.id) not in self.ledger
        self.ledger[node.place, node.id] = node
        return node

    def learn(self, pointer: Any, path: Path, value: torch.Tensor) -> Node:
        """Enter the objects that an operator made, one at each link of the chain."""
        place, id = path[0], pointer.id_at_location
        assert pointer.location is self.workers[place]
        target = None
        if len(path) > 1:
            target = self.learn(self.look(place, id), path[1:], value)
        return self.enter(Node(place, id, None if target else value, target))

    def let_go(self, node: Node) -> None:
        node.owners -= 1
        if node.owners == 0 and node.alive:
            self.remove(node)

    def remove(self, node: Node) -> None:
        node.alive = False
        del self.ledger[node.place, node.id]
        if node.target:
            self.let_go(node.target)

    def take_away(self, held: Held) -> None:
        """``held`` was taken from its worker; aliases of it keep what is left, unlisted."""
        node, grip = held.node, held.grip
        if grip.holders > 1 or held.views:
            keeper = next((other for other in self.known() if other.grip is grip and other is not held), held)
            id = cast(PointerTensor, keeper.same()).id_at_location
            left = Node(node.place, id, node.data, node.target)
            left.hidden = True
            if node.target:
                node.target.owners += 1
            grip.node = self.enter(left)
        self.remove(node)
        self.drop(held)

    # ---- sending ----

    @rule(to=workers, shape=st.sampled_from([(2, 3), (2, 2), (3,)]))
    def send_tensor(self, to: str, shape: tuple[int, ...]) -> None:
        self.count += 1
        value = torch.arange(float(torch.Size(shape).numel())).reshape(shape) - self.count
        pointer = send(value, self.workers[to])
        self.hold(pointer, self.enter(Node(to, pointer.id_at_location, value.clone(), None)))

    @precondition(lambda self: self.held)
    @rule(index=some, to=workers)
    def send_pointer(self, index: int, to: str) -> None:
        held = self.pick(index)
        if not held.node.alive:
            return self.fails(ObjectGone, lambda: send(held.pointer, self.workers[to]))
        pointer = send(held.pointer, self.workers[to])
        held.node.owners += 1
        self.hold(pointer, self.enter(Node(to, pointer.id_at_location, None, held.node)))

    @precondition(lambda self: self.held)
    @rule(index=some, to=workers)
    def move(self, index: int, to: str) -> None:
        held = self.pick(index)
        node = held.node
        if to == node.place:
            assert held.pointer.move(self.workers[to]) is held.pointer
            return
        if not node.can_leave():
            return self.fails(ObjectGone, lambda: held.pointer.move(self.workers[to]))
        moved = held.pointer.move(self.workers[to])
        if node.target:
            node.target.owners += 1
        here = Node(to, moved.id_at_location, None if node.target else node.value().clone(), node.target)
        here.tags = node.tags
        spent = held.pointer
        self.take_away(held)
        self.hold(moved, self.enter(here)).tags = held.tags
        self.fails(ObjectGone, lambda: spent.move(self.workers[to]) if to != node.place else spent.get())
        held.pointer = None

    @precondition(lambda self: self.held)
    @rule(index=some, to=workers)
    def remote_send(self, index: int, to: str) -> None:
        held = self.pick(index)
        node = held.node
        if not node.can_leave():
            return self.fails(ObjectGone, lambda: held.pointer.remote_send(self.workers[to]))
        held.pointer.remote_send(self.workers[to])
        link = self.look(node.place, node.id)
        data = None if node.data is None else node.data.clone()
        lent = self.enter(Node(to, link.id_at_location, data, node.target))
        lent.tags = node.tags
        node.data, node.target = None, lent

    @precondition(lambda self: self.held)
    @rule(index=some)
    def remote_get(self, index: int) -> None:
        held = self.pick(index)
        node, target = held.node, held.node.target
        if not node.can_leave() or (target and not target.can_leave()):
            return self.fails(ObjectGone, held.pointer.remote_get)
        if target is None:
            return self.fails(Misuse, held.pointer.remote_get)
        held.pointer.remote_get()
        node.data = None if target.data is None else target.data.clone()
        node.target = target.target
        if node.target:
            node.target.owners += 1
        self.remove(target)

    # ---- coming home ----

    @precondition(lambda self: self.held)
    @rule(index=some)
    def get(self, index: int) -> None:
        held = self.pick(index)
        node, spent = held.node, held.pointer
        if not node.can_leave():
            return self.fails(ObjectGone, spent.get)
        value = spent.get()
        if node.target:
            node.target.owners += 1
            self.hold(value, node.target).tags = node.tags
        else:
            assert type(value) is torch.Tensor
            torch.testing.assert_close(value, node.value())
        self.take_away(held)
        self.fails(ObjectGone, spent.get)
        if not held.views and not held.grip.holders:
            self.fails(ObjectGone, lambda: spent * 2)
        held.pointer = None

    @precondition(lambda self: self.held)
    @rule(index=some)
    def get_while_a_graph_needs_it(self, index: int) -> None:
        held = self.pick(index)
        if not held.node.is_whole() or not held.node.value().is_floating_point():
            return
        x = held.pointer.copy().requires_grad_()
        id, worker = x.id_at_location, x.location
        loss = (x * x).sum()
        value = x.get()
        assert id not in worker._objects
        self.fails(ObjectGone, x.get)
        loss.backward()
        torch.testing.assert_close(read(x.grad), 2 * held.node.value())
        if type(value) is torch.Tensor:
            assert value.requires_grad
            torch.testing.assert_close(value.detach(), held.node.value())

    # ---- operators ----

    def run(self, operator: Operator, operands: list[Held]) -> None:
        nodes, pointers = [held.node for held in operands], [held.pointer for held in operands]
        if not all(node.is_whole() for node in nodes):
            return self.fails_where_all_is_not_there(SyftError, operator, operands)
        paths = {node.path() for node in nodes}
        values = [node.value() for node in nodes]
        if len(paths) > 1:
            # One number is a constant anywhere, and copy_ may cross between a worker and where its pointers point.
            may_cross = operator is torch.Tensor.copy_ and nodes[0].place == nodes[1].place
            if not may_cross and all(value.numel() > 1 for value in values):
                self.fails(NotCollocated, lambda: operator(*pointers), *operands)
            return None
        try:
            expected = operator(*values)
        except (RuntimeError, IndexError) as error:
            return self.fails(type(error), lambda: operator(*pointers), *operands)
        actual = operator(*pointers)
        if isinstance(expected, torch.Tensor):
            expected, actual = [expected], [actual]
        for here, there in zip(expected or (), actual or (), strict=True):
            if there is not pointers[0] and here is not values[0]:
                self.hold(there, self.learn(there, nodes[0].path(), here), operands[0])

    @precondition(lambda self: self.held)
    @rule(index=some, operator=st.sampled_from(UNARY))
    def unary(self, index: int, operator: Operator) -> None:
        self.run(operator, [self.pick(index)])

    @precondition(lambda self: self.held)
    @rule(index=some, operator=st.sampled_from(IN_PLACE))
    def in_place(self, index: int, operator: Operator) -> None:
        held = self.pick(index)
        if not held.node.is_whole():
            return self.fails_where_all_is_not_there(ObjectGone, operator, [held])
        value = held.node.value()
        try:
            operator(value)
        except (RuntimeError, IndexError) as error:
            return self.fails(type(error), lambda: operator(held.pointer), held)
        operator(held.pointer)

    @precondition(lambda self: self.held)
    @rule(index=some, other=some, operator=st.sampled_from(BINARY))
    def binary(self, index: int, other: int, operator: Operator) -> None:
        self.run(operator, [self.pick(index), self.pick(other)])

    @precondition(lambda self: self.held)
    @rule(index=some, other=some, operator=st.sampled_from(BINARY_IN_PLACE))
    def binary_in_place(self, index: int, other: int, operator: Operator) -> None:
        one, another = self.pick(index), self.pick(other)
        if one is not another:  # x.copy_(x) asks nothing of the worker
            self.run(operator, [one, another])

    @precondition(lambda self: self.held)
    @rule(index=some)
    def transpose_in_place(self, index: int) -> None:
        held = self.pick(index)
        node = held.node
        if not node.is_whole() or node.value().dim() != 2:
            return
        held.pointer.t_()
        turned = self.learn(held.pointer, node.path(), node.value().detach().t())
        old, held.grip = held.grip, Grip(turned)
        old.holders -= 1
        if not old.holders:
            self.let_go(node)

    @precondition(lambda self: self.held)
    @rule(index=some)
    def alias(self, index: int) -> None:
        held = self.pick(index)
        alias = Held(held.pointer.detach(), held.grip)
        alias.tags = ()
        held.grip.holders += 1
        self.held.append(alias)

    @precondition(lambda self: self.held)
    @rule(index=some)
    def wrong_shape(self, index: int) -> None:
        held = self.pick(index)
        if held.node.is_whole():
            self.fails(OperatorFailed, lambda: held.pointer.view(7, 11))
            self.fails(OperatorFailed, lambda: held.pointer.add_(held.pointer.new_zeros(5, 7, 11, 13)))

    @rule()
    def unknown_worker(self) -> None:
        self.fails(WorkerNotFound, lambda: get_worker("nobody"))

    # ---- labels, garbage ----

    @precondition(lambda self: self.held)
    @rule(index=some, tag=st.sampled_from(TAGS))
    def label(self, index: int, tag: str) -> None:
        held = self.pick(index)
        if not held.node.alive:
            return self.fails(ObjectGone, lambda: held.pointer.tag(tag), held)
        if held.node.hidden:
            return
        held.pointer.tag(tag)
        held.tags = held.node.tags = (*(t for t in held.tags if t != tag), tag)

    @precondition(lambda self: self.held)
    @rule(index=some)
    def delete(self, index: int) -> None:
        held = self.pick(index)
        self.held.remove(held)
        held.pointer = None
        self.drop(held)

    @precondition(lambda self: self.held)
    @rule(index=some)
    def delete_without_collection(self, index: int) -> None:
        held = self.pick(index)
        node = held.node
        if held.grip.holders > 1 or held.views or held.base or not node.is_whole() or node.hidden or node.owners > 1:
            return
        held.pointer.gc = False
        held.pointer.gc = True
        assert held.pointer.disable_gc is held.pointer
        self.held.remove(held)
        del held
        (found,) = self.workers[node.place].search(node.id)
        assert found.gc is False
        torch.testing.assert_close(read(found), node.value())
        home = found.get()
        if node.target:
            node.target.owners += 1
            self.hold(home, node.target).tags = node.tags
        self.remove(node)

    # ---- what must hold ----

    @invariant()
    def every_worker_holds_what_it_should(self) -> None:
        for name, worker in self.workers.items():
            mine = {id: node for (place, id), node in self.ledger.items() if place == name}
            self.check(name, worker, mine)
            for tag in TAGS:
                found = {pointer.id_at_location for pointer in worker.search(tag)}
                assert found == {id for id, node in mine.items() if tag in node.tags and not node.hidden}
        for held in self.held:
            if held.node.is_whole():
                torch.testing.assert_close(read(held.pointer), held.node.value())
                assert held.pointer.shape == held.node.value().shape


class WorkersAtNodes(Workers):
    """The same, where the workers are nodes."""

    def nothing_is_left(self, worker: BaseWorker) -> None:
        assert soon(lambda: worker._objects == {})

    def look(self, place: str, id: int) -> Any:
        worker = self.workers[place]
        return worker.get(Handle(id, worker, local_worker(), owns=False), take=False)

    def fails(self, error: Errors, call: Callable[[], Any], *written: Held) -> None:
        if error is ObjectGone:  # in its place may be what an operator failed with
            error = SyftError
        elif error is NotCollocated:  # shapes are compared here, before the message leaves
            error = (NotCollocated, OperatorFailed)
        try:
            result = call()
            for tensor in result if isinstance(result, (list, tuple)) else [result]:
                if tensor is not None:
                    read(tensor)
            for held in written:
                read(held.pointer)
        except error:
            pass
        else:
            raise AssertionError(f"no {error}")
        # What failed at a worker has left its error in the place of what it would have written, at each link.
        for node in (node for held in written for node in held.node.links()):
            if node.alive and not self.is_there(node):
                self.remove(node)

    def is_there(self, node: Node) -> bool:
        worker = self.workers[node.place]
        try:
            worker.request(Retain(node.id))
        except SyftError:
            return False
        worker.release(node.id)
        return True

    def check(self, name: str, worker: BaseWorker, mine: dict[int, Node]) -> None:
        listed = {id: node for id, node in mine.items() if not node.hidden}
        assert soon(lambda: set(worker._objects) == set(listed))
        for id, node in mine.items():
            if node.target is None:
                assert soon(lambda id=id, node=node: torch.equal(self.look(name, id), node.value()))
            elif node.target.alive:
                value = self.look(name, id)
                assert (value.location.id, value.id_at_location) == (node.target.place, node.target.id)


PROFILES = {
    "normal": settings(max_examples=60, stateful_step_count=40),
    "long": settings(max_examples=3000, stateful_step_count=80),
    "normal at nodes": settings(max_examples=3, stateful_step_count=20),
    "long at nodes": settings(max_examples=150, stateful_step_count=60),
}


def run(machine: type[Workers], profile: str) -> None:
    outline.warm()  # what torch imports at that moment keeps whoever asks for it in cycles
    gc.disable()  # reference counts alone must free everything
    try:
        run_state_machine_as_test(
            machine,
            settings=settings(
                PROFILES[profile], deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
            ),
        )
    finally:
        gc.enable()


def test_workers_hold_what_they_should() -> None:
    run(Workers, os.environ.get("HYPOTHESIS_PROFILE", "normal"))


@pytest.mark.in_process
def test_nodes_hold_what_they_should(at_node: Callable[[str], BaseWorker]) -> None:
    profile = os.environ.get("HYPOTHESIS_PROFILE", "normal")
    run(type("Nodes", (WorkersAtNodes,), {"make_worker": staticmethod(at_node)}), f"{profile} at nodes")
