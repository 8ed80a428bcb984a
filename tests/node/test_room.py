"""What a room keeps is bounded, whatever it is asked."""

from __future__ import annotations

import socket

import pytest
import torch

from syft import limits
from syft.messages import Clear, Failure, Get, Put, Retain, Retire, Run
from syft.node.bulk import Forwarded
from syft.node.delegates import Delegate
from syft.node.records import Batch, FromGate, send_piece, send_record, withdraw
from syft.node.room import answer_batch
from syft.wire import Ref
from syft.worker import Worker

pytestmark = pytest.mark.in_process


@pytest.fixture
def room():
    return Worker("bob", None)


def ask(room, *messages, delegate=None):
    """Return the answer to the last of a batch."""
    return answer_batch(room, Batch(1, True, 0, list(messages)), delegate=delegate).answer


def spoil(room, id):
    """Have an object, which alice was pointed to, become an error."""
    failed = Run("aten::add_.Tensor", [Ref(id), Ref(0)], {}, ())
    return ask(room, Put(0, torch.ones(3)), Put(id, torch.ones(2)), Retain(id, "alice"), failed, Get(id))


def test_errors_in_the_place_of_objects_are_bounded_and_so_is_who_may_have_them(room, monkeypatch):
    monkeypatch.setattr(limits, "ROOM_OBJECTS", 5)
    for id in range(1, 20):
        assert spoil(room, id).code == "operator-failed"
    assert room.store.grants == {"alice": {15, 16, 17, 18, 19}}
    assert len(room.store._failures) == 5 and room.store._further_owners.keys() == {15, 16, 17, 18, 19}
    assert ask(room, Get(14)).code == "object-gone"
    alice = Delegate(room, "alice", None)
    assert ask(room, Get(19), delegate=alice).code == "operator-failed"
    assert ask(room, Get(0), delegate=alice).code == "not-permitted"


def test_what_is_kept_of_an_error_or_an_end_is_cut(room, monkeypatch):
    monkeypatch.setattr(limits, "MAX_KEPT_TEXT", 10)
    spoil(room, 1)
    failure = ask(room, Get(1))
    assert len(failure.what) == 10 and failure.asked_at == 1 + 3  # the number of what failed
    ask(room, Put(2, torch.ones(2)), Retire((2,), (3,), "0123456789" * 1000))
    assert "0123456789" in ask(room, Get(2)).what and "90" not in ask(room, Get(2)).what


def test_what_is_cleared_away_is_nobodys(room):
    spoil(room, 1)
    ask(room, Clear(), Put(1, torch.ones(2)))
    assert room.store.grants == {}


def test_as_many_workers_are_pointed_to_objects_as_may_be_delegates(room):
    ask(room, Put(1, torch.ones(2)))
    answers = [ask(room, Retain(1, f"worker-{n}")) for n in range(limits.DELEGATES + 3)]
    refused = [answer.code for answer in answers if isinstance(answer, Failure)]
    assert refused == ["limit-exceeded"] * 3 and len(room.store.grants) == limits.DELEGATES
    assert not isinstance(ask(room, Retain(1, "worker-0")), Failure)
    assert not isinstance(ask(room, Retain(1)), Failure)


def test_frames_come_in_pieces_ahead_of_their_record_and_among_others():
    gate, line = socket.socketpair()
    with gate, line:
        first, other, empty = Forwarded(0, 5), Forwarded(1, 3), Forwarded(2, 0)
        send_piece(gate, first, memoryview(b"ab"))
        send_piece(gate, other, memoryview(b"xyz"))
        send_piece(gate, first, memoryview(b"cde"))
        send_record(gate, [b"a record in between"])
        withdraw(gate, other)
        send_record(gate, [b"head", first, b"small", empty])
        withdraw(gate, first)
        room = FromGate(line)
        records = [record for record in (room.read() for _ in range(7)) if record is not None]
        assert [list(map(bytes, record)) for record in records] == [
            [b"a record in between"],
            [b"head", b"abcde", b"small", b""],
        ]
        assert not room._forwarded
