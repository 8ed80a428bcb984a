"""What callers with a valid certificate cannot take from others, or from the owner."""

from __future__ import annotations

import os
import queue
import signal
from pathlib import Path

import grpc
import pytest
import torch

import syft as sy
from syft import limits
from syft.errors import BadCertificate, LimitExceeded, Misuse, WorkerShut
from syft.messages import Delegate, Introduce
from syft.node.certs import Bundle, tls_name
from syft.node.link import SESSION

from ..chaos.conftest import until

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


def test_calls_that_say_nothing_do_not_keep_others_out(narrow, authority):
    me = Bundle.load(authority / "me")
    credentials = grpc.ssl_channel_credentials(me.ca, me.key, me.cert)
    options = [("grpc.ssl_target_name_override", tls_name("narrow"))]
    said = [queue.SimpleQueue() for _ in range(limits.SESSIONS_OF_A_ROOM * 4 + limits.DELIVERIES)]
    with grpc.secure_channel(narrow.address, credentials, options) as channel:
        calls = [channel.stream_stream(SESSION)(iter(nothing.get, None)) for nothing in said]
        until(lambda: len(list(Path(f"/proc/{narrow.process.pid}/task").iterdir())) > len(said))
        assert connects(narrow, authority)
        for nothing, call in zip(said, calls, strict=True):
            nothing.put(None)
            assert call.code() is not None  # it had ended before


def test_what_a_node_keeps_for_one_client_is_bounded(bob):
    for number in range(limits.DELEGATES):
        bob._channel.request(Introduce(f"worker-{number}", "127.0.0.1:1", "token"))
        bob._channel.request(Delegate("alice"))
    with pytest.raises(LimitExceeded, match="64 workers"):
        bob._channel.request(Introduce("another", "127.0.0.1:1", "token"))
    with pytest.raises(LimitExceeded, match="64 delegates"):
        bob._channel.request(Delegate("alice"))
    assert sy.send(torch.ones(2), bob).sum().item() == 2


def test_where_a_worker_is_is_said_once(bob):
    bob._channel.request(Introduce("alice", "127.0.0.1:1", "token"))
    bob._channel.request(Introduce("alice", "127.0.0.1:2", "another"))
    with pytest.raises(Misuse, match="has been told where 'alice' is"):
        bob._channel.request(Introduce("alice", "", "another"))


def test_a_node_that_cannot_open_rooms_any_more_ends(start):
    node = start("orphaned")
    (forkserver,) = Path(f"/proc/{node.process.pid}/task/{node.process.pid}/children").read_text().split()
    os.kill(int(forkserver), signal.SIGKILL)
    assert node.process.wait(20) == 1
    assert "the process that starts rooms has ended" in node.log.read_text()


def test_the_node_is_whose_it_has_to_be(nodes, authority):
    sy.connect(nodes["bob"].address, certs=authority / "me", id="bob").shut()
    with pytest.raises(BadCertificate, match="is bob's, not alice's"):
        sy.connect(nodes["bob"].address, certs=authority / "me", id="alice")
    with pytest.raises(Misuse, match="not HOST:PORT"):
        sy.connect("127.0.0.1", certs=authority / "me")
