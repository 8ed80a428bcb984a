"""What callers with a valid certificate cannot take from others, or from the owner."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import syft as sy
from bench.processes import children
from syft import limits, wire
from syft.errors import BadCertificate, GetNotPermitted, LimitExceeded, Misuse, WorkerShut
from syft.messages import Ask, Delegate, Introduce, Value
from syft.node.audit import AuditLog, Entry
from syft.node.certs import Bundle
from syft.node.config import Limits, parse_address
from syft.node.connection import dial
from syft.node.gate import Gate
from syft.node.records import Answered, Opening, size_of
from syft.node.release import Policy
from syft.node.tls import context

from ..helpers import until
from . import fakes

pytestmark = pytest.mark.in_process


@pytest.fixture
def narrow(start, tmp_path):
    config = tmp_path / "narrow.toml"
    config.write_text("[limits]\nclients = 4\nrooms_of_a_client = 2\n")
    node = start("narrow", config)
    yield node
    node.stop()


def test_one_client_does_not_take_all_rooms(narrow, authority):
    mine = [sy.connect(narrow.address, certs=authority / "me") for _ in range(2)]
    with pytest.raises(WorkerShut, match=r"2 rooms here already(.|\n)*shut"):
        sy.connect(narrow.address, certs=authority / "me")
    mine.pop().shut()
    until(lambda: connects(narrow, authority))
    for worker in mine:
        worker.shut()


def connects(node, authority):
    try:
        sy.connect(node.address, certs=authority / "me").shut()
    except WorkerShut:
        return False
    return True


def test_connections_that_say_nothing_do_not_keep_others_out(narrow, authority):
    place = parse_address(narrow.address)
    tls = context(Bundle.load(authority / "me"), server_side=False)
    strangers = [socket.create_connection(place) for _ in range(limits.ARRIVALS)]
    silent = [dial(place, tls) for _ in range(limits.ARRIVALS)]
    assert connects(narrow, authority)
    plain = [connection.duplex.socket for connection in silent] + strangers
    until(lambda: sum(not has_ended(connection) for connection in plain) <= limits.ARRIVALS)
    for stranger in strangers:
        stranger.close()
    assert len(list(Path(f"/proc/{narrow.process.pid}/task").iterdir())) < 2 * limits.ARRIVALS
    for connection in silent:
        connection.close()


def test_a_gate_keeps_nothing_of_what_goes_to_a_room(narrow, authority):
    def most_memory():
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{narrow.process.pid}/status").read_text())[1]) << 10

    bob = sy.connect(narrow.address, certs=authority / "me")
    before = most_memory()
    assert sy.send(torch.ones(1 << 25), bob).sum().item() == 1 << 25
    assert most_memory() - before < 16 << 20
    bob.shut()


def has_ended(connection):
    """Whether the other side has hung up; one that has not says nothing but that it lives."""
    connection.setblocking(False)
    try:
        while connection.recv(1 << 10):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def test_what_a_node_keeps_for_one_client_is_bounded(bob):
    for number in range(limits.DELEGATES):
        bob._channel.request(Introduce(f"worker-{number}", "", "token"))
        bob._channel.request(Delegate("alice"))
    with pytest.raises(LimitExceeded, match="64 workers"):
        bob._channel.request(Introduce("another", "", "token"))
    with pytest.raises(LimitExceeded, match="64 delegates"):
        bob._channel.request(Delegate("alice"))
    assert sy.send(torch.ones(2), bob).sum().item() == 2


def test_where_a_worker_is_is_said_once(bob):
    bob._channel.request(Introduce("alice", "127.0.0.1:1", "token"))
    bob._channel.request(Introduce("alice", "127.0.0.1:2", "another"))
    with pytest.raises(Misuse, match="has been told where 'alice' is"):
        bob._channel.request(Introduce("alice", "", "another"))


class SlowEngine(fakes.Engine):
    """Opens its first room, or fails to, when it is told to."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__(lives=True)
        self.asked, self.goes_on = threading.Event(), threading.Event()
        self.fails, self.opened = fails, 0

    def open_room(self, order):
        self.opened += 1
        if self.opened == 1:
            self.asked.set()
            assert self.goes_on.wait(20)
            if self.fails:
                raise WorkerShut("no room")
        return super().open_room(order)


@pytest.fixture
def threads():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def gate_of(engine, clients, grace_seconds=60):
    state = fakes.state(Limits(clients=clients, grace_seconds=grace_seconds))
    return Gate("bob", lambda worker, address: None, engine, state)


@pytest.mark.parametrize("named", ["session of carol", ""], ids=["to listen", "at all"])
def test_a_session_for_which_no_thread_can_be_had_does_not_stay(monkeypatch, named):
    gate = gate_of(fakes.Engine(lives=True), clients=1, grace_seconds=1)
    gate._session("carol", Opening("one", 0, False))
    connection = SimpleNamespace(peer="carol", hurry=lambda: None)
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == named or not named:
            raise RuntimeError("can't start new thread")
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            gate._converse(connection, None, Opening("one", 0, False))
        if not named:
            assert gate.present()[0] == 0
    until(lambda: gate.present() == (0, []))
    gate.close()


def test_a_room_that_is_long_in_opening_keeps_its_place_and_nobody_waiting(threads):
    engine = SlowEngine()
    gate = gate_of(engine, clients=2)
    first = threads.submit(gate._session, "carol", Opening("one", 0, False))
    assert engine.asked.wait(20)
    again = threads.submit(gate._session, "carol", Opening("one", 0, False))  # its connection dropped meanwhile
    assert gate._session("dave", Opening("other", 0, False)).caller == "dave"
    with pytest.raises(LimitExceeded, match="2 clients already"):
        gate._session("erin", Opening("third", 0, False))
    engine.goes_on.set()
    assert first.result(20) is again.result(20)
    assert engine.opened == 2
    gate.close()


def test_a_room_that_dies_as_it_opens_leaves_nothing_and_is_told_of():
    gate = gate_of(fakes.Engine(), clients=1)
    for number in range(20):
        session = gate._session("carol", Opening(str(number), 0, False))
        until(lambda: gate.present() == (0, []))
        with pytest.raises(WorkerShut, match=r"your room here has ended \(killed\)"):
            session.attach(0, lambda frames: False, lambda: None)
    assert gate.counts.rooms_died == 20
    gate.close()


def test_a_room_that_cannot_be_opened_leaves_its_place_to_others(threads):
    engine = SlowEngine(fails=True)
    engine.goes_on.set()
    gate = gate_of(engine, clients=1)
    with pytest.raises(WorkerShut, match="no room"):
        gate._session("carol", Opening("one", 0, False))
    assert gate._session("carol", Opening("one", 0, False)).caller == "carol"
    gate.close()


def test_a_room_that_opens_when_its_node_has_stopped_is_closed(threads):
    engine = SlowEngine()
    gate = gate_of(engine, clients=1)
    late = threads.submit(gate._session, "carol", Opening("one", 0, False))
    assert engine.asked.wait(20)
    gate.close()
    engine.goes_on.set()
    with pytest.raises(WorkerShut):
        late.result(20).attach(0, lambda frames: False, lambda: None)
    assert gate.present() == (0, [])


def test_what_several_owners_would_have_to_allow_is_not_asked_of_one():
    gate = gate_of(fakes.Engine(lives=True), clients=1)
    tenancy = gate._session("carol", Opening("one", 0, False)).tenancy
    tenancy.entered = frozenset({Policy("bob", "heart", use=("carol",)), Policy("alice", "lung", use=("carol",))})
    with pytest.raises(GetNotPermitted, match="a yes of each of alice, bob"):
        tenancy.check_askable()
    gate.close()


def test_how_large_a_value_is_that_is_asked_for_is_not_told(monkeypatch):
    gate = gate_of(fakes.Engine(lives=True), clients=1)
    session = gate._session("carol", Opening("one", 0, False))
    session.tenancy.entered = frozenset({Policy("bob", "heart", use=("carol",))})
    value = wire.encode(Answered(1, Value(torch.ones(123))))
    monkeypatch.setattr(limits, "MAX_REQUEST_BYTES", 100)
    monkeypatch.setattr(session.tenancy.room, "ask", lambda message: value)
    answer = wire.decode(gate._request(session, 1, Ask(7, "the paper")), Answered).answer
    assert answer.code == "limit-exceeded" and str(size_of(value)) not in answer.what
    gate.close()


@pytest.mark.parametrize("ends", ["node", "room"])
def test_who_waits_to_have_an_entry_written_holds_up_no_end(threads, tmp_path, monkeypatch, ends):
    monkeypatch.setattr(limits, "AUDIT_BURST", 1)
    monkeypatch.setattr(limits, "AUDIT_RATE", 1e-3)
    gate = gate_of(fakes.Engine(lives=True), clients=1)
    log = gate._state.audit = AuditLog(tmp_path / "audit.jsonl")
    session = gate._session("carol", Opening("one", 0, False))

    def refused():
        if ends == "room":
            session.tenancy.write(Entry(datetime.now(UTC), "carol", "dial", False, "no"))
        else:
            with pytest.raises(LimitExceeded):
                gate._session("carol", Opening("two", 0, False))

    refused()
    again = threads.submit(refused)
    with pytest.raises(TimeoutError):
        again.result(0.1)
    assert len(list(log.read())) == 1
    if ends == "room":
        gate._end(("carol", "one"), session)
    else:
        gate.close()
    again.result(20)
    assert len(list(log.read())) == 2
    gate.close()


def test_a_node_that_cannot_open_rooms_any_more_ends(start):
    node = start("orphaned")
    (forkserver,) = children(node.process.pid)
    os.kill(forkserver, signal.SIGKILL)
    assert node.process.wait(20) == 1
    assert "the process that starts rooms has ended" in node.log.read_text()


def test_the_node_is_whose_it_has_to_be(nodes, authority):
    sy.connect(nodes["bob"].address, certs=authority / "me", id="bob").shut()
    with pytest.raises(BadCertificate, match="is bob's, not alice's"):
        sy.connect(nodes["bob"].address, certs=authority / "me", id="alice")
    with pytest.raises(Misuse, match="not HOST:PORT"):
        sy.connect("127.0.0.1", certs=authority / "me")
