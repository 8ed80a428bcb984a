"""A node that runs a chain's operators for a client, and would have more of these than it was pointed to."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import syft as sy
from syft.errors import (
    MalformedMessage,
    NotPermitted,
    ObjectGone,
    OperatorFailed,
    OperatorIndexFailed,
    SyftError,
    WorkerShut,
)
from syft.ids import new_id
from syft.messages import (
    Ask,
    Clear,
    Confirm,
    Delegate,
    Describe,
    Expect,
    Fetch,
    Get,
    Give,
    Inquire,
    Introduce,
    List,
    Point,
    Put,
    Release,
    Retain,
    Retire,
    Run,
    Search,
    Seed,
)
from syft.node.channel import Channel
from syft.node.client import NodeWorker
from syft.node.connection import Connection
from syft.node.link import Link
from syft.node.local import LocalNode
from syft.wire import Meta, Ref, Reference

pytestmark = pytest.mark.in_process

SECRET = [3.0, 4.0]


@pytest.fixture
def client(fort: LocalNode, authority: Path) -> Iterator[NodeWorker]:
    """Who has made mallory a delegate."""
    client = sy.connect(fort.address, certs=authority / "me")
    yield client
    client.shut()


class Rogue:
    """Mallory's node, as a delegate of a client."""

    def __init__(self, address: str, dial: Callable[[], Connection], client: NodeWorker) -> None:
        token = client._channel.request(Delegate("mallory")).token
        link = Link(address, dial, token)
        self._channel = Channel("fort", link)
        link.listen(self._channel.arrived, self._channel.lose, self._channel.expects)

    def ask(self, message: Any) -> Any:
        return self._channel._ask(message)

    def close(self) -> None:
        self._channel.close()


@pytest.fixture
def rogue(fort: LocalNode, dial: Any, mallory_certificate: Path, client: NodeWorker) -> Iterator[Rogue]:
    rogue = Rogue(fort.address, lambda: dial(mallory_certificate), client)
    yield rogue
    rogue.close()


def add(id: int, result: int) -> Run:
    return Run("aten::add.Tensor", [Ref(id), 1], {}, (result,))


def test_what_it_was_pointed_to_and_what_it_makes_of_it(client: NodeWorker, rogue: Rogue) -> None:
    x = sy.send(torch.tensor([1.0, 2.0]), client)
    client.request(Retain(x.id_at_location, "mallory"))
    rogue.ask(add(x.id_at_location, 7))
    rogue.ask(add(7, 8))
    assert rogue.ask(Get(8)).value.tolist() == [3, 4]
    with pytest.raises(OperatorIndexFailed):
        rogue.ask(Run("aten::select.int", [Ref(8), 0, 5], {}, (9,)))
    with pytest.raises(OperatorIndexFailed):  # what has failed is its own as well
        rogue.ask(Get(9))
    rogue.ask(Release((8,)))
    client._channel._ask(Put(8, torch.tensor(SECRET)))
    client._channel._ask(Put(9, torch.tensor(SECRET)))
    for id in (8, 9):  # the names are the client's now
        with pytest.raises(NotPermitted):
            rogue.ask(Get(id))


def test_names_that_the_client_will_give_are_not_told_by_those_it_gave(client: NodeWorker, rogue: Rogue) -> None:
    """A delegate that has its own under such a name would be written to in the place of the client's."""
    x, secret = (sy.send(torch.tensor(SECRET), client) for _ in range(2))
    client.request(Retain(x.id_at_location, "mallory"))
    near = [x.id_at_location + step for step in range(-20, 21) if step]
    for id in near:
        rogue.ask(Put(id, torch.zeros(2)))
    y = x * 0
    y.add_(secret)
    assert y.id_at_location not in near
    for id in near:
        assert rogue.ask(Get(id)).value.tolist() == [0, 0]


#: What a delegate would do with an object of its client's, ``other``; it has one of its own, ``own``.
BEYOND: dict[str, Callable[[int, int], Any]] = {
    "get": lambda other, own: Get(other),
    "take": lambda other, own: Get(other, new_id()),
    "compute": lambda other, own: add(other, new_id()),
    "compute with its own": lambda other, own: Run("aten::add.Tensor", [Ref(own), Ref(other)], {}, (new_id(),)),
    "in a list": lambda other, own: Run("aten::cat", [[Ref(own), Ref(other)], 0], {}, (new_id(),)),
    "write": lambda other, own: Run("aten::zero_", [Ref(other)], {}, ()),
    "write by out": lambda other, own: Run("aten::add.out", [Ref(own), 1], {"out": Ref(other)}, ()),
    "overwrite": lambda other, own: Put(other, torch.zeros(2)),
    "overwrite by a result": lambda other, own: add(own, other),
    "overwrite by a name": lambda other, own: Get(own, other),
    "retire": lambda other, own: Retire((other,), (new_id(),), ""),
    "retire in its place": lambda other, own: Retire((own,), (other,), ""),
    "release": lambda other, own: Release((other,)),
    "retain": lambda other, own: Retain(other),
    "point others to it": lambda other, own: Retain(other, "mallory"),
    "ask who may use it": lambda other, own: Confirm(other, "me"),
    "describe": lambda other, own: Describe(other, ("#found",), ""),
    "fetch": lambda other, own: Fetch(other),
    "put in its place": lambda other, own: Point(other, Reference("mallory", own, Meta("float32", (2,), (1,)))),
    "put a pointer of others": lambda other, own: Put(new_id(), Reference("me", other, Meta("float32", (2,), (1,)))),
    "search": lambda other, own: Search(()),
    "list": lambda other, own: List(),
    "seed": lambda other, own: Seed(1),
    "clear": lambda other, own: Clear(),
}


@pytest.mark.parametrize("attempt", BEYOND.values(), ids=BEYOND.keys())
def test_all_else_is_refused_and_changes_nothing(
    client: NodeWorker, rogue: Rogue, attempt: Callable[[int, int], Any]
) -> None:
    other, own = sy.send(torch.tensor(SECRET), client), new_id()
    pointed_to = sy.send(torch.ones(1), client)
    client.request(Retain(pointed_to.id_at_location, "mallory"))
    rogue.ask(Put(own, torch.zeros(2)))
    with pytest.raises(NotPermitted):
        rogue.ask(attempt(other.id_at_location, own))
    assert other.tolist() == SECRET
    assert rogue.ask(Get(own)).value.tolist() == [0, 0]


def run(operator: str, *args: Any, results: int = 1) -> Callable[[Ref], Run]:
    """Make a message that runs an operator on a tensor, which stands first."""
    return lambda ref: Run(operator, [ref, *args], {}, tuple(new_id() for _ in range(results)))


#: Ways to memory behind what the delegate was pointed to: elements 1 and 2 of four, and every other one.
BEHIND: dict[str, tuple[slice, Callable[[Ref], Run], type[SyftError] | None]] = {
    "before it": (slice(1, 3), run("aten::as_strided", [2], [1], 0), NotPermitted),
    "after it": (slice(1, 3), run("aten::as_strided", [2], [1], 2), NotPermitted),
    "between": (slice(0, 4, 2), run("aten::as_strided_copy", [2], [1]), NotPermitted),
    "more of it": (slice(1, 3), run("aten::resize_", [3], results=0), NotPermitted),
    "over what follows": (slice(1, 3), lambda ref: Run("aten::zeros.out", [[3]], {"out": ref}, ()), NotPermitted),
    "over what nobody can tell": (
        slice(1, 3),
        lambda ref: Run("aten::nonzero.out", [ref], {"out": ref}, ()),
        NotPermitted,
    ),
    "over itself": (slice(1, 3), lambda ref: Run("aten::zeros.out", [[2]], {"out": ref}, ()), None),
    "over new memory": (slice(2, 4), lambda ref: Run("aten::zeros.out", [[3]], {"out": ref}, ()), None),
    "itself": (slice(1, 3), run("aten::as_strided", [2, 2], [1, 0]), None),
    "nonsense": (slice(1, 3), run("aten::as_strided", [2, 1], [1], 1), OperatorFailed),
    "less of it": (slice(1, 3), run("aten::resize_", [1], results=0), None),
    "what it makes room for": (slice(2, 4), run("aten::resize_", [3], results=0), None),
}


@pytest.mark.parametrize(("shown", "attempt", "refused"), BEHIND.values(), ids=BEHIND.keys())
def test_what_is_behind_a_view_is_not_reached(
    client: NodeWorker, rogue: Rogue, shown: slice, attempt: Callable[[Ref], Run], refused: type[SyftError] | None
) -> None:
    whole = sy.send(torch.arange(4.0), client) + 0  # in memory that can grow
    part = whole[shown]
    client.request(Retain(part.id_at_location, "mallory"))
    with nullcontext() if refused is None else pytest.raises(refused):
        rogue.ask(attempt(Ref(part.id_at_location)))
    assert whole[3:].tolist() == [3] or shown.stop == 4


def test_lists_nested_too_deep_are_refused_and_end_nothing(client: NodeWorker, rogue: Rogue) -> None:
    x, nested = sy.send(torch.tensor(SECRET), client), 1
    for _ in range(500):
        nested = [nested]
    with pytest.raises(MalformedMessage, match="nested too deep"):
        rogue.ask(Run("aten::cat", [nested], {}, ()))
    assert x.tolist() == SECRET


#: What is the client's own to ask of a gate.
FOR_THE_CLIENT: dict[str, Callable[[int], Any]] = {
    "give": lambda other: Give(other, "roaming", 5, None, "", "127.0.0.1:1", "x"),
    "expect": lambda other: Expect(secrets.token_hex(16), "roaming", 5),
    "delegate": lambda other: Delegate("roaming"),
    "introduce": lambda other: Introduce("roaming", "127.0.0.1:1", "x"),
    "inquire": lambda other: Inquire(),
    "request": lambda other: Ask(other, "please"),
}


@pytest.mark.parametrize("attempt", FOR_THE_CLIENT.values(), ids=FOR_THE_CLIENT.keys())
def test_what_is_the_clients_to_ask_ends_the_delegates_session(
    client: NodeWorker, rogue: Rogue, attempt: Callable[[int], Any]
) -> None:
    other = sy.send(torch.tensor(SECRET), client)
    client.request(Retain(other.id_at_location, "mallory"))
    with pytest.raises(WorkerShut, match="for the client itself"):
        rogue.ask(attempt(other.id_at_location))
    assert other.tolist() == SECRET


def test_who_was_pointed_to_nothing_may_do_nothing(client: NodeWorker, rogue: Rogue) -> None:
    for message in (Put(new_id(), torch.ones(2)), Run("aten::zeros", [[2]], {}, (new_id(),))):
        with pytest.raises(NotPermitted):
            rogue.ask(message)


def test_what_the_client_takes_home_is_gone_for_the_delegate(client: NodeWorker, rogue: Rogue) -> None:
    x = sy.send(torch.tensor(SECRET), client)
    id = x.id_at_location
    client.request(Retain(id, "mallory"))
    assert x.get().tolist() == SECRET
    with pytest.raises(ObjectGone, match="taken home"):
        rogue.ask(Get(id))


def test_nobody_writes_himself_another_name_into_a_batch(
    client: NodeWorker, rogue: Rogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gate says whose a batch is, whatever stands in it."""
    x = sy.send(torch.tensor(SECRET), client)
    assert x.tolist() == SECRET
    send = rogue._channel._carrier.send

    def as_another(last: int, frames: Any) -> None:
        first, asks, received, messages, _, *rest = msgspec.msgpack.decode(frames[0], type=list[Any])
        send(last, [msgspec.msgpack.encode([first, asks, received, messages, "", *rest]), *frames[1:]])

    monkeypatch.setattr(rogue._channel._carrier, "send", as_another)
    with pytest.raises(SyftError) as refused:
        rogue.ask(Get(x.id_at_location))
    assert isinstance(refused.value, NotPermitted)
