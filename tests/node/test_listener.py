"""The door of a node."""

from __future__ import annotations

import select
import socket
import threading
from pathlib import Path

import pytest

from syft import limits
from syft.node.certs import Bundle
from syft.node.config import Address
from syft.node.connection import Connection, dial
from syft.node.listener import Listener
from syft.node.tls import context

from ..helpers import until

pytestmark = pytest.mark.in_process


def test_who_comes_alone_is_not_sent_away_for_those_who_come_in_crowds(
    authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tls = context(Bundle.load(authority / "me"), server_side=True)
    listener = Listener(Address("127.0.0.1", 0), tls, lambda connection, listener: None)
    monkeypatch.setattr(limits, "ARRIVALS", 4)
    listener.start()
    place = Address("127.0.0.1", listener.port)
    alone = socket.create_connection(place, source_address=("127.0.0.2", 0))
    crowd = [socket.create_connection(place) for _ in range(20)]
    hung_up = select.poll()
    for each in crowd:
        hung_up.register(each, select.POLLIN)
    until(lambda: len(hung_up.poll(0)) == 20 - 3)
    alone.setblocking(False)
    with pytest.raises(BlockingIOError):
        alone.recv(1)
    for each in (alone, *crowd):
        each.close()
    listener.close()


def test_the_door_stays_open_where_a_thread_cannot_be_had(
    authority: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle, served = Bundle.load(authority / "me"), threading.Event()

    def serve(connection: Connection, listener: Listener) -> None:
        served.set()
        connection.close()

    listener = Listener(Address("127.0.0.1", 0), context(bundle, server_side=True), serve)
    listener.start()
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "caller":
            raise RuntimeError("can't start new thread")
        start(thread)

    place = Address("127.0.0.1", listener.port)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            with socket.create_connection(place, 20) as refused:
                assert refused.recv(1) == b""
    dial(place, context(bundle, server_side=False), "me").close()
    assert served.wait(20)
    assert caplog.messages == ["callers cannot be let in: can't start new thread"]
    listener.close()
