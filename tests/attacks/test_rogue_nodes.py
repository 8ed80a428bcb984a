"""A node that does not keep to the protocol, and its client: what it says is held to what it was given."""

from __future__ import annotations

import gc
import math
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

import syft as sy
from syft import limits, wire
from syft.asking import Request
from syft.errors import LimitExceeded, MalformedMessage, NotPermitted, SyftError
from syft.messages import Get, State, Value
from syft.node.client import NodeWorker
from syft.node.link import Link
from syft.node.records import Welcome, pack
from syft.wire import Meta, Reference

from ..helpers import until

pytestmark = pytest.mark.in_process

META = Meta("float32", (2,), (1,))


@pytest.fixture
def bob(nodes: Any, authority: Path) -> Iterator[NodeWorker]:
    bob = sy.connect(nodes["bob"].address, certs=authority / "me")
    yield bob
    bob.shut()


@pytest.fixture
def alice(nodes: Any, authority: Path) -> Iterator[NodeWorker]:
    alice = sy.connect(nodes["alice"].address, certs=authority / "me")
    yield alice
    alice.shut()


@pytest.mark.parametrize("knows", [False, True], ids=["a stranger", "a delegate"])
@pytest.mark.parametrize("place", ["alice", "carol"])
def test_a_pointer_to_what_it_was_not_pointed_to(
    bob: NodeWorker, alice: NodeWorker, place: str, knows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"alice": alice, "carol": sy.VirtualWorker(id="carol")}[place]
    mine, theirs = (sy.send(torch.ones(2), there) for _ in range(2))
    chain = theirs.send(bob) if knows else sy.send(torch.ones(2), bob)
    honest = bob._channel.request

    def lie(message: Any) -> Any:
        return Value(Reference(place, mine.id_at_location, META)) if isinstance(message, Get) else honest(message)

    monkeypatch.setattr(bob._channel, "request", lie)
    for ask in (chain.copy().get, lambda: chain.copy().move(sy.VirtualWorker(id="dave"))):
        with pytest.raises(NotPermitted, match="nothing"):
            ask()
    gc.collect()
    assert mine.get().tolist() == [1, 1]


def test_a_pointer_to_a_worker_that_is_nowhere(bob: NodeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    x = sy.send(torch.ones(2), bob)
    lie = Value(Reference("\x1b[2Jnobody", 1, META))
    monkeypatch.setattr(bob._channel, "request", lambda message: lie)
    with pytest.raises(NotPermitted, match=r"'\?\[2Jnobody'"):
        x.get()
    monkeypatch.undo()


def test_a_request_shows_what_a_node_says_of_it_and_asks_nothing() -> None:
    class Gone:
        id = "bob"

    said = ("\x1b[2J<id>", "2026-01-01T00:00:00+00:00", "\x1b[2J<why>", State.OPEN, "\x1b[2J<note>")
    request = Request(Gone(), said)
    assert "\x1b" not in repr(request) and "<id>" in repr(request)
    shown = request._repr_html_()
    assert all(f"&lt;{word}&gt;" in shown for word in ("id", "why", "note")) and "open" in shown


class Rogue:
    """In the place of a connection: lets in, and then says ``packets``."""

    peer, is_closed = "bob", False

    def __init__(self, *packets: bytes) -> None:
        self.packets: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        for packet in (*pack(wire.encode(Welcome(0, 60, 1 << 30))), *packets):
            self.packets.put(packet)

    def send(self, packet: bytes) -> None: ...
    def send_at_once(self, packet: bytes) -> bool:
        return True

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.packets.get, None)

    def __next__(self) -> bytes:
        return self.packets.get()

    def hang_up(self) -> None: ...
    def close(self) -> None:
        self.is_closed = True


def test_a_node_is_called_what_its_certificate_says(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "OUTAGE_SECONDS", 0.0)
    rogue = Rogue()
    link = Link("place", lambda: rogue, "session")
    link.listen(lambda frames: None, lambda error: None, lambda: 0)
    for _ in range(8):
        rogue.packets.put(None)  # it is cut off, and so are those that come after
    until(lambda: bool(caplog.messages))
    assert caplog.messages[0].startswith("bob at place does not answer")
    link.close()


def test_a_link_that_nobody_listens_to_can_be_closed() -> None:
    rogue = Rogue()
    Link("place", lambda: rogue, "session").close()
    assert rogue.is_closed


@pytest.mark.parametrize("grace", [-1, math.nan, math.inf, 1e300, limits.MAX_GRACE_SECONDS + 1])
def test_a_grace_period_without_end_is_not_believed(grace: float) -> None:
    with pytest.raises(MalformedMessage):
        wire.decode([msgspec.msgpack.encode((0, grace, 1 << 30))], Welcome)


@pytest.mark.parametrize("expected", [0, 1 << 20])
def test_an_answer_larger_than_what_was_asked_for_is_not_taken(expected: int) -> None:
    head = (2).to_bytes(4, "little") + (10).to_bytes(8, "little") + (limits.MAX_FRAME_BYTES).to_bytes(8, "little")
    lost: queue.SimpleQueue[SyftError] = queue.SimpleQueue()
    link = Link("bob", lambda: Rogue(head), "session")
    link.listen(lambda frames: None, lost.put, lambda: expected)
    assert isinstance(lost.get(timeout=20), LimitExceeded)


def test_a_client_expects_tensors_only_while_it_asks_for_some(bob: NodeWorker) -> None:
    x = sy.send(torch.ones(2), bob)
    assert x.sum().item() == 2 and bob._channel.expects() == 0
    channel, seen = bob._channel, []
    wait = channel._wait

    def watch(future: Any) -> Any:
        seen.append(channel.expects())
        return wait(future)

    channel._wait = watch
    bob.search()
    x.get()
    assert seen == [0, limits.ANSWER_BYTES]
    assert channel.expects() == 0
