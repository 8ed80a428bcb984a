"""Who serves a chain goes on with what is deeper, and with that only, while it waits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from syft import limits, wire
from syft.errors import LimitExceeded
from syft.messages import Put, Release
from syft.node.channel import Channel
from syft.node.records import Batch
from syft.node.turns import Turns, here

from .test_channel import Carrier

pytestmark = pytest.mark.in_process


@pytest.fixture
def carrier() -> Carrier:
    return Carrier()


@pytest.fixture
def channel(carrier: Carrier) -> Channel:
    return Channel("bob", carrier, is_timed=False)


@pytest.fixture(autouse=True)
def at_depth_0() -> Iterator[None]:
    yield
    here.depth = here.message = 0


@pytest.mark.parametrize(
    ("steps", "begun"),
    [
        ("a0 a1 a2 begin end begin end begin end begin", "a0 a1 a2 -"),
        ("a2 a0 b2 begin end begin end begin end", "a2 a0 b2"),
        ("a0 begin b0 c1 begin begin", "a0 c1 -"),
        ("a1 begin b0 c1 begin d2 begin end end begin end begin", "a1 - d2 b0 c1"),
        ("a0 b0 c3 d2 begin begin end begin begin end end begin", "a0 c3 d2 - b0"),
    ],
    ids=["in order", "whatever its depth", "deeper ones", "not others", "in order of their coming"],
)
def test_whose_turn_it_is(steps: str, begun: str) -> None:
    turns: Turns[str] = Turns()
    order = []
    for step in steps.split():
        if step == "begin":
            order.append(turns.begin() or "-")
        elif step == "end":
            turns.end()
        else:
            turns.add(int(step[1]), step)
    assert " ".join(order) == begun


def test_what_was_at_work_goes_on_where_it_was() -> None:
    turns: Turns[str] = Turns()
    turns.add(3, "one")
    turns.begin()
    here.message = 7
    turns.add(5, "another")
    turns.begin()
    assert here.depth == 6
    here.message = 8
    turns.end()
    assert (here.depth, here.message) == (4, 7)
    turns.end()
    assert (here.depth, here.message) == (0, 0)


def _sent(carrier: Carrier) -> list[tuple[int, list[type]]]:
    batches = [wire.decode(frames, Batch) for frames in carrier.sent]
    return [(batch.depth, [type(message) for message in batch.messages]) for batch in batches]


def _put(channel: Channel, depth: int, id: int) -> None:
    here.depth = depth
    channel.put_new(Put(id, torch.zeros(2)))


def test_a_batch_is_of_one_depth_and_what_is_let_go_of_is_of_the_least(carrier: Carrier) -> None:
    here.depth = 2
    channel = Channel("bob", carrier, is_timed=False)
    for depth, id in ((2, 10), (2, 11), (4, 12), (4, 13)):
        _put(channel, depth, id)
    channel.release(10)
    channel.flush()
    _put(channel, 0, 14)
    channel.release(12)
    channel.flush()
    assert _sent(carrier) == [(2, [Put, Put]), (4, [Put, Put]), (2, [Release]), (0, [Put, Release])]


def test_each_depth_has_a_window(carrier: Carrier, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WINDOW_MESSAGES", limits.BATCH_MESSAGES)
    waited: list[int] = []
    monkeypatch.setattr(here, "wait", lambda answer: waited.append(here.depth))
    for depth in (1, 3, 1, 3):
        for id in range(limits.BATCH_MESSAGES):
            _put(channel, depth, 1000 * depth + id)
    assert waited == [1, 3]


def test_who_waits_does_so_for_its_own_depth(
    carrier: Carrier, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "WINDOW_MESSAGES", limits.BATCH_MESSAGES)
    waited: list[int] = []
    monkeypatch.setattr(here, "wait", lambda answer: waited.append(here.depth))
    for id in range(2 * limits.BATCH_MESSAGES - 1):
        _put(channel, 0, 1000 + id)
    channel.release(1000)
    channel.flush()  # the window of depth 0 is full
    for id in range(limits.BATCH_MESSAGES - 1):
        _put(channel, 2, 2000 + id)
    channel.release(1001)  # goes at depth 0
    _put(channel, 2, 3000)
    assert waited == []
    _put(channel, 0, 4000)
    assert waited == [0]


def test_a_chain_is_so_long_at_most(channel: Channel) -> None:
    _put(channel, limits.CHAIN_HOPS, 10)
    with pytest.raises(LimitExceeded, match=f"{limits.CHAIN_HOPS} times at most"):
        _put(channel, limits.CHAIN_HOPS + 1, 11)
