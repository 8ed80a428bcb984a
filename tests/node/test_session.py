"""What a session keeps for a caller who is slow, or does not keep to the protocol."""

from __future__ import annotations

import itertools
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from types import SimpleNamespace

import pytest

from syft import limits, wire
from syft.errors import LimitExceeded, MalformedMessage, WorkerShut
from syft.messages import Get
from syft.node.counts import Counts
from syft.node.records import Batch
from syft.node.release import Decision
from syft.node.session import Session
from syft.node.tenancy import Tenancy

from ..helpers import until
from . import fakes

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
    stream = session.attach(0, lambda frames: False, lambda: None)
    waiting = iter(stream)
    answered = threading.Semaphore(0)

    def answer():
        for _ in range(30):
            session._answer_in_time(ANSWER)
            answered.release()

    room = threading.Thread(target=answer)
    room.start()
    had = 0
    while answered.acquire(timeout=0.5):
        session.read(stream, next(waiting))
        had += 1
    assert 10 <= had <= 11
    acknowledge(session, had)
    for _ in range(8):
        assert answered.acquire(timeout=10)
    acknowledge(session, 30)
    session.finish(None)
    room.join(10)
    assert not room.is_alive()


def test_a_room_waits_for_a_delegate_for_so_long(session, monkeypatch):
    monkeypatch.setattr(limits, "KEPT_BYTES", 500)
    monkeypatch.setattr(limits, "DELEGATE_SECONDS", 0.1)
    session.caller = "alice"
    session._answer_in_time(ANSWER)
    session._answer_in_time(ANSWER)
    with pytest.raises(LimitExceeded, match="not taken your answers"):
        session.attach(0, lambda frames: False, lambda: None)


def test_a_caller_to_whom_the_gate_answers_itself_is_sent_away(session, monkeypatch):
    monkeypatch.setattr(limits, "KEPT_ANSWERS", 10)
    for _ in range(11):
        session.answer(ANSWER)
    with pytest.raises(LimitExceeded, match="10 answers"):
        acknowledge(session, 0)
    assert acknowledge(session, 5)


def test_what_the_gate_does_in_threads_of_its_own_waits_for_its_caller_as_a_room_does(session, monkeypatch):
    monkeypatch.setattr(limits, "KEPT_BYTES", 10_000)
    for _ in range(11):
        session.answer(ANSWER)
    with ThreadPoolExecutor(1) as task:
        waiting = task.submit(session.wait_for_caller)
        with pytest.raises(TimeoutError):
            waiting.result(0.2)
        acknowledge(session, 5)
        waiting.result(10)


def test_values_let_out_by_hand_are_not_piled_up(session, monkeypatch):
    """A get of one is answered where the session is listened to, which cannot wait."""
    monkeypatch.setattr(limits, "KEPT_BYTES", 10_000)
    session._gate = SimpleNamespace(counts=Counts(), approved=lambda request, last: [bytes(6000)])
    session.tenancy = SimpleNamespace(
        client="me",
        room=SimpleNamespace(worker="bob", send=lambda *_: None),
        bring_in=lambda header: None,
        permit=lambda release: Decision(True, "approved by hand", request="r1"),
        refusal=lambda error, last: [error.code.encode()],
    )
    for number in range(1, 4):
        session.accept(wire.encode(Batch(number, True, 0, [Get(7)])))
    session.accept(wire.encode(Batch(4, True, 3, [Get(7)])))
    said = [*itertools.islice(session._stream, 4)]
    assert [bytes(frames[0]).strip(b"\0").decode() for frames in said] == ["", "", "limit-exceeded", ""]


def test_a_client_names_no_delegate_to_whom_its_answers_would_go(session):
    session._gate = SimpleNamespace(counts=Counts())
    with pytest.raises(MalformedMessage, match="names a delegate"):
        session.accept(wire.encode(Batch(1, True, 0, [Get(7)], "mallory")))


def test_a_session_that_has_ended_takes_nothing(session):
    session.finish(None)
    told = []
    for _ in range(2):
        with pytest.raises(WorkerShut) as ended:
            acknowledge(session, 0)
        told.append(ended.value)
    assert told[0] is not told[1]  # each thread that raises one gives it a traceback of its own


def test_what_waits_to_be_done_is_bounded(monkeypatch):
    monkeypatch.setattr(limits, "TASKS_WAITING", 3)
    tenancy = Tenancy("me", fakes.Engine(), fakes.state(), *[lambda *_: None] * 4)
    goes_on = threading.Event()
    begun = [tenancy.start(goes_on.wait, 20) for _ in range(3)]
    with pytest.raises(LimitExceeded, match="3 moves and requests"):
        tenancy.start(goes_on.wait)
    goes_on.set()
    wait(begun)
    until(lambda: tenancy._places.acquire(blocking=False))
    tenancy.close()
