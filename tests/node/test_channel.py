"""What a channel sends, and what it takes for an answer."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import syft as sy
from syft import limits, wire
from syft.annotations import id_of, private_tensor
from syft.errors import IdInUse, LimitExceeded, WorkerShut
from syft.messages import Done, Get, Message, Put, Release, Run
from syft.node.channel import Channel
from syft.node.client import NodeWorker
from syft.node.records import Answered, Batch, size_of
from syft.wire import Ref
from syft.workers import BaseWorker, forget_worker

pytestmark = pytest.mark.in_process

MOST = 1 << 20


class Carrier:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, last: int, frames: Any) -> None:
        self.sent.append(frames)

    def acknowledge(self, last: int) -> None: ...
    def close(self) -> None: ...

    def messages(self) -> list[Message]:
        return [message for frames in self.sent for message in wire.decode(frames, Batch).messages]


@pytest.fixture
def carrier() -> Carrier:
    return Carrier()


@pytest.fixture
def channel(carrier: Carrier) -> Channel:
    return Channel("bob", carrier, most=MOST, is_timed=False)


@pytest.mark.parametrize(
    "large",
    [
        torch.zeros(MOST // 4 + 1),
        torch.zeros(1).expand(MOST),
        torch.zeros(1024, 512).t(),
        torch.zeros(MOST // 8 + 1, dtype=torch.complex64).conj(),
        torch.ones(300, 300).to_sparse(),
    ],
    ids=["dense", "expanded", "transposed", "conjugated", "sparse"],
)
def test_what_is_too_large_is_refused_before_it_is_encoded(
    channel: Channel, carrier: Carrier, large: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel.put_new(Put(1, torch.ones(2)))
    monkeypatch.setattr(wire, "_framed", lambda *_: pytest.fail("encoded"))
    with pytest.raises(LimitExceeded, match=f"this worker takes at one time, {MOST}"):
        channel.put_new(Put(2, large))
    monkeypatch.undo()
    channel.flush()
    assert [message.id for message in carrier.messages()] == [1]


def constants(count: int) -> Run:
    return Run("aten::stack", [[Ref(1), *[torch.tensor(1.0)] * count]], {}, (2,))


@pytest.mark.parametrize(
    "messages",
    [
        [constants(30) for _ in range(limits.BATCH_MESSAGES)],
        [*(Put(id, torch.full((3900,), float(id))) for id in range(40)), Put(40, torch.zeros(MOST // 4 - 10))],
    ],
    ids=["frames", "bytes"],
)
def test_what_has_gathered_is_sent_in_batches_that_a_node_takes(
    channel: Channel, carrier: Carrier, messages: list[Message]
) -> None:
    for message in messages:
        channel.put_new(message) if isinstance(message, Put) else channel.run(message, ([torch.ones(())],), {})
        channel.release(7)
    channel.flush()
    assert len(carrier.sent) > 1
    for _, *memories in carrier.sent:
        assert len(memories) < limits.MAX_FRAMES and size_of(memories) <= MOST
    sent = [message for message in carrier.messages() if not isinstance(message, Release)]
    assert list(map(wire.encode, sent)) == list(map(wire.encode, messages))


def test_a_message_of_too_many_tensors_is_refused_and_others_go(channel: Channel, carrier: Carrier) -> None:
    channel.put_new(Put(1, torch.ones(2)))
    with pytest.raises(LimitExceeded, match="many tensors in several messages"):
        channel._post(constants(limits.MAX_FRAMES))
    channel.put_new(Put(2, torch.ones(2)))
    channel.flush()
    assert [message.id for message in carrier.messages()] == [1, 2]


@pytest.mark.parametrize(
    ("make", "values"),
    [(lambda x: copy.deepcopy(x).add_(1), [1, 1]), (lambda x: private_tensor(x, ["me"]), [0, 0])],
    ids=["a copy", "a private one"],
)
def test_what_has_the_id_of_what_is_there_is_sent_under_another(bob: NodeWorker, make: Any, values: list[int]) -> None:
    x = torch.zeros(2)
    assert id_of(x)
    p, q = (sy.send(tensor, bob, user="me") for tensor in [x, make(x)])
    assert p.id_at_location != q.id_at_location
    p.add_(5)
    assert q.get(user="me").tolist() == values


def test_an_id_in_use_is_refused_at_once(bob: NodeWorker) -> None:
    p = sy.send(torch.zeros(2), bob)
    r = p + 1
    for taken in (p, r):
        with pytest.raises(IdInUse):
            bob.send(torch.ones(2), taken.id_at_location)
        with pytest.raises(IdInUse):
            bob.put(torch.ones(2), taken.id_at_location)
    assert r.get().tolist() == [1, 1]


def test_a_new_tensor_is_not_waited_for(channel: Channel) -> None:
    bob = BaseWorker("bobby", channel)  # nobody answers
    p = sy.send(torch.zeros(2), bob)
    bob.load_data([torch.zeros(2)])
    assert p.shape == (2,)
    forget_worker("bobby")


def test_who_has_left_takes_answers_that_were_under_way(carrier: Carrier) -> None:
    """Were they errors the session would end at once, its goodbye unsaid, and the room would be kept for a minute."""
    left = WorkerShut("left")
    channel = Channel("bob", carrier, is_timed=False, wait=lambda answer: channel.lose(left) or answer.result())
    with pytest.raises(WorkerShut):
        channel.request(Get(1))
    (batch,) = (wire.decode(frames, Batch) for frames in carrier.sent)
    channel.arrived(wire.encode(Answered(batch.last, Done())))
