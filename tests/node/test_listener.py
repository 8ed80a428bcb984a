"""The door of a node."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from syft.node.certs import Bundle
from syft.node.config import Address
from syft.node.connection import Connection, dial
from syft.node.listener import Listener
from syft.node.tls import context

pytestmark = pytest.mark.in_process


def test_the_door_stays_open_where_a_thread_cannot_be_had(authority: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
        with socket.create_connection(place, 20) as refused:
            assert refused.recv(1) == b""
    dial(place, context(bundle, server_side=False), "me").close()
    assert served.wait(20)
    listener.close()
