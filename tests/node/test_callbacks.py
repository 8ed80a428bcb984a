"""What a node may ask of workers in its client's process: only what concerns objects it was pointed to."""

from __future__ import annotations

import threading

import pytest
import torch

import syft as sy
from syft import limits, wire
from syft.errors import LimitExceeded
from syft.messages import (
    Called,
    Clear,
    Describe,
    Done,
    Failure,
    Fetch,
    Get,
    Give,
    List,
    Placed,
    Put,
    Ran,
    Release,
    Retain,
    Retire,
    Run,
    Search,
    Seed,
    Value,
)
from syft.node.callbacks import Callbacks
from syft.node.channel import Channel
from syft.node.records import Answered, Batch
from syft.wire import Meta, Ref, Reference

pytestmark = pytest.mark.in_process

META = Meta("float32", (2,), (1,))


class Replies:
    """In the place of a channel: keeps what is answered."""

    def __init__(self):
        self.answers, self.lost = [], None

    def request(self, message):
        self.answers.append(message.answer)

    def lose(self, error):
        self.lost = error

    def close(self):
        pass


@pytest.fixture
def carol():
    return sy.VirtualWorker(id="carol")


def serve(callbacks, replies):
    """Have all that has come answered, in a thread, as it is."""
    callbacks.close()
    thread = threading.Thread(target=callbacks._serve, args=(replies,))
    thread.start()
    thread.join()


def ask(callbacks, *messages):
    """Return the answer to the last of a batch of calls of the node bob."""
    callbacks.called("carol", wire.encode(Batch(1, True, 0, list(messages))))
    replies = Replies()
    serve(callbacks, replies)
    assert replies.lost is None
    return replies.answers[-1]


def add(id, result):
    return Run("aten::add.Tensor", [Ref(id), 1], {}, (result,))


def test_what_was_pointed_to_and_what_is_made_of_it(carol):
    p = sy.send(torch.tensor([1.0, 2.0]), carol)
    callbacks = Callbacks("bob")
    carol._worker.store.grant("bob", p.id_at_location)
    answer = ask(callbacks, add(p.id_at_location, 7), add(7, 8), Get(8))
    assert isinstance(answer, Value) and answer.value.tolist() == [3, 4]


@pytest.mark.parametrize(
    "messages",
    [
        lambda other: [Get(other)],
        lambda other: [add(other, 7)],
        lambda other: [Run("aten::add_.Tensor", [Ref(other), 1], {}, ())],
        lambda other: [Put(other, torch.zeros(2))],
        lambda other: [Put(7, torch.zeros(2)), add(7, other)],
        lambda other: [Put(7, torch.zeros(2)), Get(7, other)],
        lambda other: [Put(7, torch.zeros(2)), Retire((7,), (other,), "")],
        lambda other: [Put(7, Reference("dave", other, META))],
        lambda other: [Release((other,))],
        lambda other: [Retain(other)],
        lambda other: [Retire((other,), (9,), "")],
        lambda other: [Describe(other, ("#found",), "")],
        lambda other: [Give(other, "bob", 9)],
        lambda other: [Fetch(other)],
        lambda other: [Search(())],
        lambda other: [List()],
        lambda other: [Seed(1)],
        lambda other: [Clear()],
    ],
    ids=lambda messages: ",".join(type(message).__name__ for message in messages(1)),
)
def test_all_else_is_refused_and_changes_nothing(carol, messages):
    secret = torch.tensor([3.0, 4.0])
    p = sy.send(secret, carol)
    callbacks = Callbacks("bob")
    answer = ask(callbacks, *messages(p.id_at_location))
    assert isinstance(answer, Failure) and answer.code == "not-permitted"
    assert torch.equal(carol._objects[p.id_at_location], secret)
    assert torch.equal(p.copy().get(), secret)


def test_what_a_node_lets_go_of_it_may_not_use_again(carol):
    p = sy.send(torch.ones(2), carol)
    callbacks = Callbacks("bob")
    carol._worker.store.grant("bob", p.id_at_location)
    assert isinstance(ask(callbacks, add(p.id_at_location, 7), Release((7,))), Done)
    carol.request(Put(7, torch.zeros(2)))
    answer = ask(callbacks, Get(7))
    assert isinstance(answer, Failure) and answer.code == "not-permitted"


def test_only_virtual_workers_are_called(carol):
    callbacks, replies = Callbacks("bob"), Replies()
    carol._worker.store.grant("bob", 1)
    for worker in ("nobody", "carol"):
        callbacks.called(worker, wire.encode(Batch(1, True, 0, [Put(7, torch.zeros(2))])))
    serve(callbacks, replies)
    assert [answer.code for answer in replies.answers[:1]] == ["worker-not-found"] and replies.lost is None
    assert isinstance(replies.answers[1], Placed)


def test_a_worker_of_the_same_name_has_granted_nothing(carol):
    callbacks = Callbacks("bob")
    sy.get_worker("carol")._worker.store.grant("bob", 7)
    carol.shut()
    anew = sy.VirtualWorker(id="carol")
    anew.request(Put(7, torch.zeros(2)))
    for allowed in (False, True):
        assert isinstance(ask(callbacks, Get(7)), Value if allowed else Failure)
        sy.get_worker("carol")._worker.store.grant("bob", 7)


def test_what_a_node_makes_is_counted_from_call_to_call(carol, monkeypatch):
    monkeypatch.setattr(limits, "ROOM_BYTES", 4000)
    p = sy.send(torch.zeros(100), carol)
    callbacks = Callbacks("bob")
    sy.get_worker("carol")._worker.store.grant("bob", p.id_at_location)
    zeros = [Run("aten::zeros", [[700]], {}, (id,)) for id in (7, 8)]
    assert isinstance(ask(callbacks, zeros[0]), Ran)
    assert ask(callbacks, zeros[1]).code == "limit-exceeded"
    assert isinstance(ask(callbacks, Release((7,)), zeros[1]), Ran)


def test_what_a_node_brings_is_counted_too(carol, monkeypatch):
    monkeypatch.setattr(limits, "ROOM_BYTES", 4000)
    p = sy.send(torch.zeros(100), carol)
    callbacks = Callbacks("bob")
    sy.get_worker("carol")._worker.store.grant("bob", p.id_at_location)
    assert isinstance(ask(callbacks, Put(7, torch.zeros(700))), Placed)
    assert ask(callbacks, Put(8, torch.zeros(700))).code == "limit-exceeded"


def test_errors_are_kept_for_a_node_that_lets_go_of_them_only(carol, monkeypatch):
    monkeypatch.setattr(limits, "ROOM_OBJECTS", 3)
    p = sy.send(torch.zeros(2), carol)
    callbacks, id = Callbacks("bob"), p.id_at_location
    sy.get_worker("carol")._worker.store.grant("bob", id)
    failing = [Run("aten::select.int", [Ref(id), 0, 5], {}, (name,)) for name in (7, 8, 9)]
    assert ask(callbacks, *failing).code == "operator-index-failed"
    assert ask(callbacks, Get(id)).code == "limit-exceeded"
    assert isinstance(ask(callbacks, Release((7,)), Get(id)), Value)


def test_refused_operators_leave_alone_what_they_name(carol):
    callbacks = Callbacks("bob")
    mine, theirs = (sy.send(torch.ones(2), carol) for _ in range(2))
    sy.get_worker("carol")._worker.store.grant("bob", mine.id_at_location)
    refused = ask(callbacks, add(mine.id_at_location, theirs.id_at_location), Get(mine.id_at_location))
    assert isinstance(refused, Value)
    assert theirs.get().tolist() == [1, 1]


@pytest.mark.parametrize(("bound", "most"), [("WAITING_CALLS", 3), ("ANSWER_BYTES", 3000)])
def test_calls_that_wait_are_so_many_at_most(carol, monkeypatch, bound, most):
    monkeypatch.setattr(limits, bound, most)
    callbacks = Callbacks("bob")
    channel = Channel("bob", None, called=callbacks.called, is_timed=False)
    batch = wire.encode(Batch(1, True, 0, [Put(7, torch.zeros(200))]))
    call = [*wire.encode(Answered(0, Called("carol", bytes(batch[0])))), *batch[1:]]
    for _ in range(2):  # when they have been answered there is room for as many again
        for _ in range(3):
            channel.arrived(call)
        with pytest.raises(LimitExceeded, match="at bob"):
            channel.arrived(call)
        serve(callbacks, Replies())


def test_a_large_call_is_taken_where_none_waits(monkeypatch):
    monkeypatch.setattr(limits, "ANSWER_BYTES", 100)
    put = Put(7, torch.zeros(50))
    Callbacks("bob").called("carol", wire.encode(Batch(1, True, 0, [put])))
