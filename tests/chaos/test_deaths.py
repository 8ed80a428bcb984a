"""Processes that die: rooms, nodes, clients. Nobody else is disturbed, and nothing stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

import syft as sy
from bench.processes import alive
from syft import limits
from syft.errors import SyftError, WorkerShut
from syft.node import forkserver
from syft.node.engines import Order
from syft.node.local import LocalNode

from ..helpers import until
from .conftest import SHORT_GRACE, one_more_room
from .proxy import Proxy

pytestmark = pytest.mark.in_process

_CLIENT = """
import sys, torch, syft as sy
bob = sy.connect(sys.argv[1], certs=sys.argv[2])
x = sy.send(torch.ones(1000), bob)
print(x.sum().item(), flush=True)
sys.stdin.read()
"""

_CLIENT_OF_TWO = """
import sys, torch, syft as sy
one, other = (sy.connect(address, certs=sys.argv[3]) for address in sys.argv[1:3])
p = sy.send(torch.ones(1000), one).send(other)
assert (p + 1).sum().get().get().item() == 2000
again = sy.connect(sys.argv[1], certs=sys.argv[3])
x = sy.send(torch.ones(1000), again)
print("ready", flush=True)
while True:
    x = x * 1
"""


def test_a_room_that_is_killed_is_the_loss_of_one_client(node, authority):
    def connect():
        return sy.connect(node.address, certs=authority / "me")

    bystander, _ = one_more_room(node, connect)
    kept = sy.send(torch.arange(3.0), bystander)
    victim, room = one_more_room(node, connect)
    x = sy.send(torch.ones(3), victim)
    assert x.sum().item() == 3
    os.kill(room, signal.SIGKILL)
    with pytest.raises(WorkerShut, match=r"room here has ended \(killed\): its process was killed(.|\n)*Connect again"):
        (x + 1).get()
    assert kept.sum().item() == 3
    again = connect()
    assert sy.send(torch.ones(3), again).sum().item() == 3
    for worker in (victim, bystander, again):
        worker.shut()


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL])
def test_who_sends_to_a_room_that_has_died_is_told_why_and_so_is_the_owner(node, authority, number):
    victim, room = one_more_room(node, lambda: sy.connect(node.address, certs=authority / "me"))
    x = sy.send(torch.ones(3), victim)
    assert x.sum().item() == 3
    said = len(node.log.read_text())
    os.kill(room, number)
    why = "crashed" if number == signal.SIGSEGV else "killed"
    told = []

    def send():  # nobody waits for an answer to it
        try:
            sy.send(torch.ones(3), victim)
        except WorkerShut as error:
            told.append(str(error))
        return bool(told)

    until(send)
    assert f"your room here has ended ({why}): " in told[0] and told[0].count("Connect again") == 1
    with pytest.raises(WorkerShut, match=why):
        x + 1
    until(lambda: re.search(rf"room \w+ of me has ended: {why}: signal {number}: ", node.log.read_text()[said:]))
    victim.shut()


def test_a_room_that_computes_for_too_long_says_so(authority, tmp_path):
    config = tmp_path / "brief.toml"
    config.write_text("[limits]\nroom_cpu_seconds = 1\n")
    with LocalNode(authority, "brief", config) as brief:
        worker = sy.connect(brief.address, certs=authority / "me")
        x = worker.remote.torch.ones(1000, 1000)
        for _ in range(200):
            y = x @ x
        with pytest.raises(WorkerShut, match=r"has ended \(time\): it computed for longer than it may"):
            y.sum().item()


@pytest.mark.parametrize(("raised", "code"), [(MemoryError(), "memory"), (RuntimeError(), "failed"), (None, "failed")])
def test_why_a_room_ended_is_in_its_exit_code(raised, code, monkeypatch):
    def live(*_: object) -> None:
        if raised is not None:
            raise raised

    monkeypatch.setattr(forkserver.room, "live", live)
    monkeypatch.setattr(forkserver.sys, "excepthook", lambda *_: None)
    monkeypatch.setattr(forkserver.os, "_exit", sys.exit)
    walls = SimpleNamespace(put_up=lambda *_, **__: None)
    with pytest.raises(SystemExit) as ended:
        forkserver.live(Order("bob", 1, 1, 1, 1), walls, None, None, keep=())
    assert forkserver._reason(ended.value.code or 0, is_out_of_time=False)[0] == code


def test_when_all_clients_are_killed_nodes_are_empty(start, hasty, authority, report):
    until(lambda: not hasty.rooms())
    other = start("swift", SHORT_GRACE)
    files, threads = hasty.files(), hasty.threads()
    clients = [
        subprocess.Popen(
            [sys.executable, "-c", _CLIENT_OF_TWO, hasty.address, other.address, str(authority / "me")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    for client in clients:
        assert client.stdout.readline().strip() == "ready"
    # two rooms of each client and one of a node's on its behalf, which is a session, but no room of its own
    assert [(len(n.rooms()), n.metrics()["syft_sessions"]) for n in (hasty, other)] == [(4, 6), (2, 2)]
    for client in clients:
        client.kill()
    took = until(lambda: not hasty.rooms() and not other.rooms())
    for client in clients:
        client.communicate()
    assert took < SHORT_GRACE + 3
    for node in (hasty, other):
        metrics = node.metrics()
        assert metrics["syft_sessions"] == metrics["syft_rooms"] == metrics["syft_clients"] == 0
    until(lambda: hasty.files() <= files + 2)
    assert hasty.threads() <= threads + len(clients) * 3  # gRPC keeps those of sessions
    report.took(f"nodes are empty after all clients were killed, {SHORT_GRACE} s of it grace", took)


def test_a_client_that_ends_leaves_at_once(node, authority):
    before = set(node.rooms())
    client = subprocess.run(
        [sys.executable, "-c", _CLIENT, node.address, str(authority / "me")],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (client.returncode, client.stdout, client.stderr) == (0, "1000.0\n", "")
    until(lambda: set(node.rooms()) <= before, 2)


@pytest.mark.parametrize("victim", ["receiver", "sender"])
def test_a_node_that_is_killed_in_the_middle_of_a_move(start, node, authority, victim, report):
    nodes = {"sender": node, "receiver": node, victim: start(victim, SHORT_GRACE)}
    proxy = Proxy(nodes["receiver"].address)
    bob = sy.connect(nodes["sender"].address, certs=authority / "me")
    alice = sy.connect(proxy.address, certs=authority / "me")  # so that the value goes through the proxy
    kept = sy.send(torch.arange(3.0), alice)
    x = sy.send(torch.ones(8 << 20), bob)
    assert x.sum().item() == 8 << 20 and kept.sum().item() == 3
    family = [nodes[victim].process.pid, nodes[victim].forkserver(), *nodes[victim].rooms()]
    passed, killed = 0, 0.0

    def kill_on_the_way(direction):
        nonlocal passed, killed
        passed += direction == "up"
        if passed == 100:  # of the 500 chunks that it takes at least
            os.kill(nodes[victim].process.pid, signal.SIGKILL)
            killed = time.monotonic()

    proxy.fault = kill_on_the_way
    with pytest.raises(SyftError) as told:
        x.move(alice)
    took = time.monotonic() - killed
    assert killed and took < SHORT_GRACE + 5
    nodes[victim].process.wait()
    until(lambda: not any(map(alive, family)))
    if victim == "receiver":
        assert "cannot reach" in str(told.value)
        assert x.sum().item() == 8 << 20
    else:
        assert isinstance(told.value, WorkerShut)
        assert kept.sum().item() == 3
        assert [*alice._objects] == [kept.id_at_location]
    report.took(f"told that the {victim} of a move was killed", took)
    proxy.close()


def test_a_node_along_a_chain_that_is_killed_is_told_to_whoever_asks(start, node, authority):
    dave_node = start("dave", SHORT_GRACE)
    bob, dave = (sy.connect(n.address, certs=authority / "me") for n in (node, dave_node))
    p = sy.send(torch.ones(3), dave).send(bob)
    assert (p + 1).get().get().tolist() == [2, 2, 2]
    dave_node.process.kill()
    dave_node.process.wait()
    dave_node.process.stdout.close()
    with pytest.raises(WorkerShut, match="is lost"):
        (p + 1).sum().get().get()
    assert sy.send(torch.ones(3), bob).sum().item() == 3
    bob.shut()
    del dave


def test_a_room_that_dies_while_a_chain_comes_back_to_it_far_ahead(node, authority):
    alice, room = one_more_room(node, lambda: sy.connect(node.address, certs=authority / "me"))
    carol = sy.VirtualWorker(id="carol")
    x = sy.send(torch.zeros(2), alice).send(carol).send(alice).send(carol).send(alice)

    def run_ahead(windows):
        for _ in range(windows * limits.WINDOW_MESSAGES):
            x.add_(1)

    run_ahead(3)
    os.kill(room, signal.SIGKILL)
    with pytest.raises(WorkerShut, match="was killed"):
        run_ahead(20)
    alice.shut()


def test_a_node_that_stops_says_so_and_writes_nothing_else(start, authority):
    carol_node = start("carol")
    carol = sy.connect(carol_node.address, certs=authority / "me")
    x = sy.send(torch.ones(3), carol)
    assert x.sum().item() == 3
    assert carol_node.stop() == 0
    with pytest.raises(WorkerShut, match="owner of this node has stopped it"):
        x.sum().item()
    assert carol_node.log.read_text() == ""
