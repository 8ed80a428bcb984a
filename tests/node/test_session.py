"""What a session keeps for a caller who is slow, or does not keep to the protocol."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from syft import limits, wire
from syft.errors import LimitExceeded
from syft.node.records import Batch
from syft.node.session import Session

pytestmark = pytest.mark.in_process

ANSWER = [bytes(1000)]


@pytest.fixture
def session():
    tenancy = SimpleNamespace(client="me", room=SimpleNamespace(worker="bob"))
    session = Session("me", tenancy, SimpleNamespace(counts=None))
    yield session
    session.finish(None)


def acknowledge(session, received):
    return session.accept(wire.encode(Batch(0, False, received, [])))


@pytest.mark.parametrize(("bound", "kept"), [("KEPT_BYTES", 10_000), ("KEPT_ANSWERS", 10)])
def test_a_room_waits_for_a_caller_who_reads_and_never_says_so(session, monkeypatch, bound, kept):
    monkeypatch.setattr(limits, bound, kept)
    stream = session.attach(0)
    answered = threading.Semaphore(0)

    def answer():
        for _ in range(30):
            session._answer_in_time(ANSWER)
            answered.release()

    room = threading.Thread(target=answer)
    room.start()
    had = 0
    while answered.acquire(timeout=0.5):
        session.read(stream, stream.get(timeout=10))
        had += 1
    assert 10 <= had <= 11
    acknowledge(session, had)
    for _ in range(8):
        assert answered.acquire(timeout=10)
    acknowledge(session, 30)
    session.finish(None)
    room.join(10)
    assert not room.is_alive()


def test_a_caller_to_whom_the_gate_answers_itself_is_sent_away(session, monkeypatch):
    monkeypatch.setattr(limits, "KEPT_ANSWERS", 10)
    for _ in range(11):
        session.answer(ANSWER)
    with pytest.raises(LimitExceeded, match="10 answers"):
        acknowledge(session, 0)
    assert acknowledge(session, 5)
